"""Training one run in its folder: started, resumed or, when it is done, left alone.

The same command resumes: the newest readable checkpoint is loaded with its averaged weights,
optimiser, data order and random state, and on one device the run ends bit for bit as if it
had not been stopped.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import platform
import random
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from ..config.build import Experiment, build, prepare_experiment
from ..config.sections import Recipe
from ..data.image_datasets import damaged_names
from ..data.latent_cache import LatentCacheSource
from ..data.loader import ResumableLoader
from ..errors import ConfigError, OutOfMemory
from ..files.atomic import append_text, sync_to_disk, write_atomically
from ..files.checksums import remove_sealed, save_tensors, seal
from ..hardware.device import accelerator, configure_cpu, device_of
from ..hardware.precision import warn_of_emulation
from ..model.weight_files import read_safetensors
from ..output.text import say
from ..runs.checkpoints import (
    TRAIN_AGAIN,
    checkpoint_guard,
    intact_checkpoint,
    newest_checkpoint,
    newest_first,
    refuse_altered,
)
from ..runs.folder import RunFolder, git_state, write_json
from .batch_advice import OutOfMemoryAdvisor
from .block_transforms import transform_blocks
from .datamodule import DataModule
from .distributed import (
    check_sharding,
    check_share,
    ignore_launchers,
    is_alone,
    is_follower,
    launcher,
    restored_process,
    strategy,
)
from .ema import EMA
from .module import LOG_EVERY, ArinarModule
from .sharding import full_tensor
from .throughput import Throughput
from .warm_start import cache_frozen_outer, load_initial_weights

for _name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
    logging.getLogger(_name).setLevel(logging.WARNING)
warnings.filterwarnings(
    "ignore", ".*does not have many workers.*|.*treespec.*|.*isinstance.*LeafSpec.*"
)
warnings.filterwarnings(
    "ignore",
    ".*smaller than the logging interval.*|.*Checkpoint directory.*exists and is not "
    "empty.*|.*on_before_batch_transfer.*",
)


StepCallback = Callable[[int, float], bool]
"""Is told a step (from 0) and its val/bits_per_dim, and answers whether
training shall stop there.
"""


class MetricSink(Protocol):
    """Where metrics are sent as they are logged: a `Tracker`, for one."""

    def log(self, values: dict[str, float], step: int = 0) -> None:
        """Send metrics of a step."""
        ...


class StoppedEarly(Exception):
    """Whoever watched a training has stopped it. saved: the seconds that the
    rest would have taken.
    """

    saved = 0.0


class RunLogger(Logger):
    """Metrics into the run folder's metrics.csv, and on to MLflow, whose
    faults never stop a run.
    """

    def __init__(
        self, folder: RunFolder, tracker: MetricSink | None, watch: StepCallback | None = None
    ) -> None:
        super().__init__()
        self.file, self.tracker, self.watch = folder.path / "metrics.csv", tracker, watch
        self.latest: dict[str, float] = {}

    name, version = "arinar", ""

    def rewind(self, step: int) -> None:
        """Forget what was logged after that many steps: a resumed run logs it again. (Rows
        count steps from 0.)
        """
        lines = (
            self.file.read_text(encoding="utf-8", errors="replace").splitlines()[1:]
            if self.file.is_file()
            else []
        )
        kept = [line for line in lines if _step_of(line) < step]
        write_atomically(self.file, "".join(f"{line}\r\n" for line in ["step,name,value", *kept]))

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The configuration is in the run folder."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        values = {name: float(value) for name, value in metrics.items() if name != "epoch"}
        append_text(self.file, _csv((step, name, value) for name, value in values.items()))
        self.latest |= values
        if self.tracker:
            self.tracker.log(values, step or 0)
        if (
            self.watch
            and "val/bits_per_dim" in values
            and self.watch(step or 0, values["val/bits_per_dim"])
        ):
            raise StoppedEarly(f"stopped after {(step or 0) + 1} steps")


def _step_of(line: str) -> float:
    """The step of a line of metrics.csv; infinity where a power cut has left something else."""
    step = line.partition(",")[0]
    return int(step) if step.isdecimal() else math.inf


def _csv(rows: Iterable[tuple[Any, ...]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


class LossBar(RichProgressBar):
    """A progress bar with the loss that was logged last: that of the step at hand
    would be waited for.
    """

    def get_metrics(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
        latest = cast(RunLogger, trainer.logger).latest
        return {
            **super().get_metrics(trainer, module),
            **{k: v for k, v in latest.items() if k == "train/loss"},
        }


class Resume(Callback):
    """Saves with each checkpoint what Lightning does not: the random state
    and the seconds spent.
    """

    def __init__(self) -> None:
        self.spent, self.begun = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.spent + time.perf_counter() - self.begun

    def state_dict(self) -> dict[str, Any]:
        kind, keys, *rest = cast(tuple[Any, ...], np.random.get_state())
        state = {
            "torch": torch.get_rng_state(),
            "python": random.getstate(),
            "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
            "seconds": self.seconds,
        }

        return (
            {**state, "cuda": torch.cuda.get_rng_state_all()}
            if torch.cuda.is_available()
            else state
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        torch.set_rng_state(state["torch"].cpu())
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
        kind, keys, *rest = state["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
        self.spent = state["seconds"]


class Saver(Callback):
    """Saves a checkpoint every so many steps, and when a signal ends the training,
    always between two steps.

    There everything of the last step is logged and validated, the averaged weights are in their
    place, and no batch is half done; Lightning's own callback saves earlier, and a run that was
    killed there loses rows. A file is written whole or not at all, with its checksum
    (`runs/checkpoints.py`); the one before it stays, older ones go. After the last step there
    is nothing to resume.
    """

    def __init__(self, folder: RunFolder, every: int) -> None:
        self.folder, self.every, self.last = folder.checkpoints, every, 0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        step = trainer.global_step
        if step % self.every == 0 and step not in (0, self.last):
            begun, loader = (
                trainer.fit_loop.epoch_loop.batch_progress,
                cast(ResumableLoader, trainer.train_dataloader),
            )
            for count in (-1, 1):  # the batch at hand counts as not begun
                begun.total.ready, begun.current.ready = (
                    begun.total.ready + count,
                    begun.current.ready + count,
                )
                loader.done += count
                if count == -1:
                    self._save(trainer)

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        between = not trainer.validating and trainer.global_step < trainer.max_steps
        if isinstance(exception, SIGTERMException) and between:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        self.last = trainer.global_step
        path = self.folder / f"step={self.last}.ckpt"
        draft = path.with_suffix(".draft")
        # A loop that resumes where a validation has just ended skips it, and counts a step by
        # that (lightning 2.6)
        extra = int(self.last % cast(int, trainer.val_check_batch) == 0)
        trainer.fit_loop.epoch_loop._batches_that_stepped -= extra

        with checkpoint_guard(path):
            trainer.save_checkpoint(draft)
            trainer.fit_loop.epoch_loop._batches_that_stepped += extra
            if trainer.is_global_zero:
                if (metrics := self.folder.parent / "metrics.csv").is_file():
                    sync_to_disk(metrics)  # a run that resumes from here needs the rows before it
                seal(draft, path)
                for other in newest_first(self.folder)[2:]:
                    remove_sealed(other)

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last = state["last"]


class StopSignals(Callback):
    """Ends training after the step at hand when SIGTERM, SIGHUP or SIGINT arrives; `Saver`
    saves a checkpoint then.

    A second SIGINT ends at once. Lightning's own handler is replaced: it knows SIGTERM alone,
    and makes processes that train together communicate in the middle of a step. Here they
    agree after each step.
    """

    def __init__(self) -> None:
        self.received = signal.SIGTERM
        self.has_received = False

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Handle the signals that are not ignored (by nohup, say); Lightning puts
        the old handlers back.
        """
        if threading.current_thread() is not threading.main_thread():
            return

        def stop(number: int, _: object) -> None:
            self.received = signal.Signals(number)
            self.has_received = True
            if number == signal.SIGINT:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            if trainer.world_size == 1:
                self._end(trainer)

        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, stop)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(
            self.has_received, all=False
        ):
            self._end(trainer)

    def _end(self, trainer: pl.Trainer) -> None:
        trainer._signal_connector.received_sigterm = True


class Progress(Callback):
    """Writes progress.json at most every half second."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.last = folder, 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.is_global_zero and time.monotonic() - self.last > 0.5:
            self.last = time.monotonic()
            self.folder.progress("train", trainer.global_step, int(trainer.max_steps))


def check_machine(recipe: Recipe) -> None:
    """Refuse, before anything is written, what this machine cannot do.

    Raises:
        ConfigError: if the accelerator is not there, the batch cannot be shared out, or
            the weights cannot be.
    """
    accelerator(recipe.machine)
    check_share(recipe)
    check_sharding(recipe)


def train(
    recipe: Recipe,
    folder: RunFolder,
    tracker: MetricSink | None = None,
    bar: bool = False,
    watch: StepCallback | None = None,
    checked: Experiment | None = None,
) -> Experiment | None:
    """Train a recipe in its folder until DONE. Does nothing where it is done.

    Arguments:
        checked: what the recipe has built on `meta`, if `pipeline.check` was here: its data and
            codec are used again.

    Returns:
        data, codec and the trained model, just as loading the folder gives them. None where the
        folder has to be loaded: it was done before, several processes trained it, or its weights
        are of double precision.

    Raises:
        Stopped: if `watch` says so; the run can be resumed.
        ConfigError: if the recipe cannot be built, or no checkpoint is readable.
        Diverged: if the loss is no longer finite.
        OutOfMemory: if a batch does not fit, naming one that would.
    """
    if folder.done:
        return None

    configure_cpu(recipe.machine)
    if checked is None:
        check_machine(recipe)
    if is_alone(recipe.machine):
        ignore_launchers()
    experiment = build(recipe, checked=checked)
    if checked is None:
        prepare_experiment(experiment)
    checkpoint = newest_checkpoint(folder)
    taken = load_initial_weights(recipe, experiment)
    folder.path.mkdir(parents=True, exist_ok=True)  # torchrun starts all at once
    if not is_follower(recipe.machine):
        folder.write_config(recipe)
        if isinstance(experiment.source, LatentCacheSource):
            write_json(
                folder.path / "cache.json", experiment.source.about
            )  # drawing asks for no more, see `evaluate.load_trained`
        (folder.path / "FAILED").unlink(missing_ok=True)

    pl.seed_everything(recipe.seed, verbose=False)
    transform_blocks(
        experiment.model,
        recipe.machine,
        device_of(recipe.machine),
        lambda line: _tell(recipe, folder, line),
    )
    module = ArinarModule(experiment, recipe.training, recipe.seed, recipe.machine.accumulate)
    module.fit_to(
        experiment.source.train[0], codec=not any(name.startswith("codec.") for name in taken)
    )
    if recipe.freeze == "outer":
        module.freeze_outer(lambda device: cache_frozen_outer(recipe, experiment, device))
    resume, logger = Resume(), RunLogger(folder, tracker, watch)
    if not is_follower(recipe.machine):
        logger.rewind(int(checkpoint.stem.split("=")[1]) if checkpoint else 0)
    room = OutOfMemoryAdvisor(recipe, experiment.source)
    stop = StopSignals()
    trainer = _trainer(recipe, folder, logger, [resume, room, stop], bar)
    begin = f"resumed from {checkpoint.name}" if checkpoint else "started"

    if taken:
        folder.log(f"{len(taken)} tensors from {recipe.init_from}, freeze: {recipe.freeze}")
    folder.log(
        f"{begin} at commit {git_state().get('commit', 'unknown')}, process {os.getpid()} on "
        f"{platform.node()}"
    )
    data = DataModule(
        experiment.source,
        recipe.training.batch,
        recipe.seed,
        recipe.machine.workers,
        recipe.machine.validation_batch,
    )
    try:
        with restored_process(folder):
            weights = _fit(trainer, module, data, checkpoint, room, stop)
    except StoppedEarly as stopped:
        done = max(1, trainer.global_step)
        stopped.saved = resume.seconds * (recipe.training.steps - done) / done
        folder.log(f"{stopped}, {stopped.saved:.0f} s saved")
        raise
    finally:
        if names := damaged_names(experiment.source):
            folder.log(
                f"{len(names)} damaged images, others of their classes stood in: "
                f"{', '.join(names[:20])}"
            )

    if trainer.is_global_zero:
        _finish(folder, weights, resume.seconds, trainer.global_step)
        folder.log(f"done, {trainer.global_step} steps in {resume.seconds:.1f} s")

    if not is_alone(recipe.machine) or recipe.training.precision == "64-true":
        return None
    module.release()

    return experiment


def _fit(
    trainer: pl.Trainer,
    module: ArinarModule,
    data: DataModule,
    checkpoint: Path | None,
    room: OutOfMemoryAdvisor,
    stop: StopSignals,
) -> dict[str, Tensor]:
    """Train to the end; the averaged weights, whole.

    Raises:
        OutOfMemory: if a batch does not fit, naming one that would.
        KeyboardInterrupt, SystemExit: if a signal ended it, with the status 128 + its number.
    """
    try:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        return {name: full_tensor(value) for name, value in module.state_dict().items()}
    except SIGTERMException:
        if stop.received == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + stop.received) from None
    except SystemExit as leave:
        if leave.code == 1:  # what Lightning makes of a second Ctrl-C
            raise KeyboardInterrupt from None
        raise
    except Exception:
        if room.said:
            raise OutOfMemory(room.said) from None
        raise


def _tell(recipe: Recipe, folder: RunFolder, line: str) -> None:
    """Say it here and in log.txt, once for all processes."""
    if not is_follower(recipe.machine):
        say(line)
        folder.log(line)


def _trainer(
    recipe: Recipe, folder: RunFolder, logger: Logger, more: list[Callback], bar: bool
) -> pl.Trainer:
    t, m = recipe.training, recipe.machine
    if t.precision == "bf16-mixed":
        warn_of_emulation(device_of(m), "bfloat16")
    saver, throughput = Saver(folder, t.checkpoint_every), Throughput(recipe, LOG_EVERY)
    callbacks: list[Callback] = [
        EMA(t.ema, t.ema_from_initial),
        *more,
        Progress(folder),
        saver,
        throughput,
    ]

    return pl.Trainer(
        accelerator=accelerator(m),
        devices=m.devices,
        num_nodes=m.num_nodes,
        strategy=strategy(recipe),
        precision=t.precision,
        use_distributed_sampler=False,
        plugins=launcher(m),
        max_steps=t.steps,
        max_epochs=-1,
        val_check_interval=min(t.validate_every, t.steps),
        check_val_every_n_epoch=None,
        log_every_n_steps=LOG_EVERY,
        num_sanity_val_steps=0,
        logger=logger,
        callbacks=[*callbacks, LossBar()] if bar else callbacks,
        enable_progress_bar=bar,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder.path,
    )


def _finish(folder: RunFolder, weights: dict[str, Tensor], seconds: float, steps: int) -> None:
    """Save the averaged weights, and mark the run done."""
    save_tensors(folder.weights, weights, intact_checkpoint(folder.weights))
    folder.mark_done(
        {"steps": steps, "seconds": round(seconds, 1), "finished": time.strftime("%FT%T%z")}
    )


def load_weights(path: Path, experiment: Experiment) -> None:
    """Load trained weights into a codec and a model that were built for them.

    Raises:
        ConfigError: in one line, if the file is missing, damaged or does not fit.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: missing; the run has not finished training")

    refuse_altered(path)
    try:
        weights = read_safetensors(path)
        for name, module in (("codec.", experiment.codec), ("model.", experiment.model)):
            module.load_state_dict(
                {k.removeprefix(name): v for k, v in weights.items() if k.startswith(name)}
            )
    except ValueError as error:
        raise ConfigError(f"{error}; {TRAIN_AGAIN}") from None
    except RuntimeError as error:
        raise ConfigError(
            f"{path}: does not fit the run's config.yaml: {' '.join(str(error).split())[:200]}"
        ) from None
