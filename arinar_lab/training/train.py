"""Training of one run in its folder.

The same command starts and resumes it: the newest readable checkpoint is loaded with its averaged
weights, optimiser, data order and random state. On one device a resumed run ends bit for bit as an
uninterrupted one. A finished run is left as it is.
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
    step_of,
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
"""Called with a step (from 0) and its val/bits_per_dim; returns whether training stops there."""


class MetricSink(Protocol):
    """A receiver of metrics as they are logged, such as a `Tracker`."""

    def log(self, values: dict[str, float], step: int = 0) -> None:
        """Send metrics of a step."""
        ...


class StoppedEarly(Exception):
    """Raised when the step callback ends a training. saved: seconds that other steps would take."""

    saved = 0.0


class RunLogger(Logger):
    """Writes metrics to the run folder's metrics.csv and sends them to a tracker."""

    name = "arinar"
    version = ""

    def __init__(
        self, folder: RunFolder, tracker: MetricSink | None, watch: StepCallback | None = None
    ) -> None:
        super().__init__()
        self.file = folder.path / "metrics.csv"
        self.tracker = tracker
        self.watch = watch
        self.latest: dict[str, float] = {}

    def rewind(self, step: int) -> None:
        """Remove the rows from that step on (from 0), which a resumed run logs again."""
        lines: list[str] = []
        if self.file.is_file():
            lines = self.file.read_text(encoding="utf-8", errors="replace").splitlines()[1:]
        earlier = [line for line in lines if _step_of(line) < step]

        write_atomically(self.file, "\r\n".join(["step,name,value", *earlier, ""]))

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The configuration is in the run folder."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        values = {name: float(value) for name, value in metrics.items() if name != "epoch"}
        append_text(self.file, _csv((step, *item) for item in values.items()))
        self.latest |= values

        step = step or 0
        if self.tracker:
            self.tracker.log(values, step)
        bits = values.get("val/bits_per_dim")
        if self.watch and bits is not None and self.watch(step, bits):
            raise StoppedEarly(f"stopped after {step + 1} steps")


def _step_of(line: str) -> float:
    """Return the step of a line of metrics.csv, or infinity for a line that a power cut left."""
    step = line.partition(",")[0]
    return int(step) if step.isdecimal() else math.inf


def _csv(rows: Iterable[tuple[Any, ...]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


class LossBar(RichProgressBar):
    """A progress bar with the last logged loss, since reading the newest would synchronise."""

    def get_metrics(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
        metrics: dict[str, Any] = {**super().get_metrics(trainer, module)}
        latest = cast(RunLogger, trainer.logger).latest
        if "train/loss" in latest:
            metrics["train/loss"] = latest["train/loss"]
        return metrics


class Resume(Callback):
    """Saves with each checkpoint what Lightning does not: random state and seconds spent."""

    def __init__(self) -> None:
        self.spent = 0.0
        self.begun = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.spent + time.perf_counter() - self.begun

    def state_dict(self) -> dict[str, Any]:
        kind, keys, *position = cast(tuple[Any, ...], np.random.get_state())
        state: dict[str, Any] = {
            "torch": torch.get_rng_state(),
            "python": random.getstate(),
            "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *position],
            "seconds": self.seconds,
        }

        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state_all()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        torch.set_rng_state(state["torch"].cpu())
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
        kind, keys, *position = state["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *position))
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
        self.spent = state["seconds"]


class Saver(Callback):
    """Saves a checkpoint every `every` steps, and when a signal ends the training.

    It saves between two steps: the last one is logged and validated, the averaged weights are in
    place, and no batch is half done. (Lightning's own callback saves earlier, and a run that is
    killed there loses rows.) A file is written atomically with its checksum
    (`runs/checkpoints.py`); the two newest are kept. The last step saves none.
    """

    def __init__(self, folder: RunFolder, every: int) -> None:
        self.folder = folder.checkpoints
        self.every = every
        self.last = 0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        step = trainer.global_step
        if step % self.every == 0 and step not in (0, self.last):
            self._count_batch(trainer, -1)  # the current batch counts as not begun
            self._save(trainer)
            self._count_batch(trainer, 1)

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        between = not trainer.validating and trainer.global_step < trainer.max_steps
        if isinstance(exception, SIGTERMException) and between:
            self._save(trainer)

    def _count_batch(self, trainer: pl.Trainer, number: int) -> None:
        """Add to the batches that have begun, as loop and loader count them."""
        progress = trainer.fit_loop.epoch_loop.batch_progress
        progress.total.ready += number
        progress.current.ready += number
        cast(ResumableLoader, trainer.train_dataloader).done += number

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
                metrics = self.folder.parent / "metrics.csv"
                if metrics.is_file():
                    sync_to_disk(metrics)  # a run that resumes from here needs the rows before it
                seal(draft, path)
                for checkpoint in newest_first(self.folder)[2:]:
                    remove_sealed(checkpoint)

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last = state["last"]


class StopSignals(Callback):
    """Ends training after the current step at SIGTERM, SIGHUP or SIGINT; `Saver` then saves.

    A second SIGINT ends at once. Lightning's own handler is replaced: it handles SIGTERM alone,
    and makes processes that train together communicate in the middle of a step. Here they
    agree after each step.
    """

    def __init__(self) -> None:
        self.received = signal.SIGTERM
        self.has_received = False

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Handle the signals that are not ignored (by nohup, say); Lightning restores handlers."""
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
        self.folder = folder
        self.last = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.is_global_zero and time.monotonic() - self.last > 0.5:
            self.last = time.monotonic()
            self.folder.progress("train", trainer.global_step, int(trainer.max_steps))


def check_machine(recipe: Recipe) -> None:
    """Refuse a recipe that this machine cannot train, before anything is written.

    Raises:
        ConfigError: if the accelerator is missing, or the batch or the weights cannot be shared
            by the processes.
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
    """Train a recipe in its folder until DONE. A finished run is left as it is.

    Arguments:
        recipe: The run's recipe.
        folder: Its folder, which may hold checkpoints.
        tracker: Receives metrics as they are logged.
        bar: Whether a progress bar is shown.
        watch: Called after each validation; ends the training where it returns true.
        checked: The experiment that `pipeline.check_recipe` built on `meta`, whose data and codec
            are used.

    Returns:
        data, codec and the trained model, as loading the folder gives them. None where the
        folder has to be loaded: it was done before, several processes trained it, or its weights
        are of double precision.

    Raises:
        StoppedEarly: if `watch` returns true; the run can be resumed.
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
        _prepare_folder(recipe, folder, experiment)

    module = _build_module(recipe, folder, experiment, taken)
    logger = RunLogger(folder, tracker, watch)
    if not is_follower(recipe.machine):
        logger.rewind(step_of(checkpoint) if checkpoint else 0)
    resume = Resume()
    advisor = OutOfMemoryAdvisor(recipe, experiment.source)
    stop = StopSignals()
    trainer = _trainer(recipe, folder, logger, [resume, advisor, stop], bar)

    if taken:
        folder.log(f"{len(taken)} tensors from {recipe.init_from}, freeze: {recipe.freeze}")
    _log_start(folder, checkpoint)
    data = DataModule(
        experiment.source,
        recipe.training.batch,
        recipe.data_seed,
        recipe.machine.workers,
        recipe.machine.validation_batch,
    )
    try:
        with restored_process(folder):
            weights = _fit(trainer, module, data, checkpoint, advisor, stop)
    except StoppedEarly as stopped:
        done = max(1, trainer.global_step)
        stopped.saved = resume.seconds * (recipe.training.steps - done) / done
        folder.log(f"{stopped}, {stopped.saved:.0f} s saved")
        raise
    finally:
        _log_damaged(folder, experiment)

    if trainer.is_global_zero:
        _finish(folder, weights, resume.seconds, trainer.global_step)
        folder.log(f"done, {trainer.global_step} steps in {resume.seconds:.1f} s")

    if not is_alone(recipe.machine) or recipe.training.precision == "64-true":
        return None
    module.release()

    return experiment


def _prepare_folder(recipe: Recipe, folder: RunFolder, experiment: Experiment) -> None:
    """Write the recipe into a run folder, and remove the mark of an earlier failure."""
    folder.write_config(recipe)
    source = experiment.source.whole
    if isinstance(source, LatentCacheSource):
        # images can be drawn from it when the cache is gone, see `evaluate.load_trained`
        write_json(folder.path / "cache.json", source.about)
    (folder.path / "FAILED").unlink(missing_ok=True)


def _build_module(
    recipe: Recipe, folder: RunFolder, experiment: Experiment, taken: list[str]
) -> ArinarModule:
    """Build the LightningModule, seeded; `taken` names tensors that come from another run."""
    pl.seed_everything(recipe.noise_seed, verbose=False)
    transform_blocks(
        experiment.model,
        recipe.machine,
        device_of(recipe.machine),
        lambda line: _report_line(recipe, folder, line),
    )
    module = ArinarModule(
        experiment,
        recipe.training,
        recipe.noise_seed,
        recipe.machine.accumulate,
        recipe.data_seed,
    )

    is_codec_taken = any(name.startswith("codec.") for name in taken)
    module.fit_to(experiment.source.train[0], codec=not is_codec_taken)
    if recipe.freeze == "outer":
        module.freeze_outer(lambda device: cache_frozen_outer(recipe, experiment, device))
    return module


def _log_start(folder: RunFolder, checkpoint: Path | None) -> None:
    """Note in log.txt how, by what code and where the training starts."""
    start = f"resumed from {checkpoint.name}" if checkpoint else "started"
    commit = git_state().get("commit", "unknown")
    folder.log(f"{start} at commit {commit}, process {os.getpid()} on {platform.node()}")


def _log_damaged(folder: RunFolder, experiment: Experiment) -> None:
    """Note in log.txt the names of damaged images, where any were read."""
    names = damaged_names(experiment.source)
    if names:
        folder.log(
            f"{len(names)} damaged images, others of their classes stood in: "
            f"{', '.join(names[:20])}"
        )


def _fit(
    trainer: pl.Trainer,
    module: ArinarModule,
    data: DataModule,
    checkpoint: Path | None,
    advisor: OutOfMemoryAdvisor,
    stop: StopSignals,
) -> dict[str, Tensor]:
    """Train to the end and return the averaged weights, gathered from all processes.

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
        if advisor.message:
            raise OutOfMemory(advisor.message) from None
        raise


def _report_line(recipe: Recipe, folder: RunFolder, line: str) -> None:
    """Print a line and append it to log.txt, once for all processes."""
    if not is_follower(recipe.machine):
        say(line)
        folder.log(line)


def _trainer(
    recipe: Recipe, folder: RunFolder, logger: Logger, early: list[Callback], bar: bool
) -> pl.Trainer:
    """Build Lightning's trainer, with `early` callbacks before those that save."""
    t = recipe.training
    m = recipe.machine
    if t.precision == "bf16-mixed":
        warn_of_emulation(device_of(m), "bfloat16")
    callbacks: list[Callback] = [
        EMA(t.ema, t.ema_from_initial),
        *early,
        Progress(folder),
        Saver(folder, t.checkpoint_every),
        Throughput(recipe, LOG_EVERY),
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
        experiment.codec.load_state_dict(_part_of(weights, "codec."))
        experiment.model.load_state_dict(_part_of(weights, "model."))
    except ValueError as error:
        raise ConfigError(f"{error}; {TRAIN_AGAIN}") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{path}: does not fit the run's config.yaml: {reason}") from None


def _part_of(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Select the weights whose names have a prefix, and remove it."""
    names = [name for name in weights if name.startswith(prefix)]
    return {name.removeprefix(prefix): weights[name] for name in names}
