"""Throughput and memory of a training, logged with its metrics.

    throughput/images_per_second     of all processes, since it was logged last, without validation
                                     and checkpoints
    throughput/mfu                   the model's FLOP/s over the peak FLOP/s of the devices' matrix
                                     products, measured once: model-FLOPs utilisation
                                     (arXiv 2204.02311, appendix B)
    throughput/peak_memory_gb        10^9 bytes: allocated on a GPU, else resident;
                                     of the first process

The model's FLOPs are three times those of a forward pass, of matrix products and attention. They
are counted once, for one image before the first step, without those that `recompute` adds. Time is
read where the metrics are read anyway, so no step synchronises for it. The three differ between two
runs of the same numbers, since they are times.
"""

from __future__ import annotations

import resource
import sys
import time
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from ..config.sections import Recipe
from ..hardware.precision import MATMUL_DTYPES, matmul_flops
from ..hardware.profiling import flops_of, synchronised_time
from ..model.noise import Noise
from .module import ArinarModule

PREFIX = "throughput/"


class Throughput(Callback):
    """Logs throughput every `every` steps, from the second step on: the first one warms up.

    Arguments:
        recipe: The run's recipe.
        every: Steps between two measurements.

    Attributes:
        flops: Floating-point operations of one image's training step.
        begun: Time at which the interval begins, moved by each pause; 0 before the first.
        since: Step at which the interval begins.
        paused: Time at which a validation or a checkpoint began; None while training.
        peak: FLOP/s of all devices' matrix products; None before it is measured.
    """

    def __init__(self, recipe: Recipe, every: int) -> None:
        self.recipe = recipe
        self.every = every
        self.flops = 0.0
        self.begun = 0.0
        self.since = 0
        self.paused: float | None = None
        self.peak: float | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, *_: Any
    ) -> None:
        if self.begun == 0:
            self.flops = flops_of_an_image(cast(ArinarModule, module), batch)
        if self.paused is not None:
            self.begun += time.perf_counter() - self.paused
            self.paused = None

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if self.begun == 0:
            self._begin(module.device, step)
        elif step % self.every == 0:
            for name, value in self._metrics(module.device, step).items():
                module.log(PREFIX + name, value, rank_zero_only=True)
            self._begin(module.device, step)

    def _begin(self, device: torch.device, step: int) -> None:
        self.begun = synchronised_time(device)
        self.since = step

    def _metrics(self, device: torch.device, step: int) -> dict[str, float]:
        """Measure throughput and memory since the interval began."""
        seconds = synchronised_time(device) - self.begun
        images = (step - self.since) * self.recipe.training.batch / seconds
        metrics = {"images_per_second": images, "peak_memory_gb": allocated_bytes(device) / 1e9}

        m = self.recipe.machine
        dtype = MATMUL_DTYPES.get(self.recipe.training.precision)
        if dtype and self.flops:
            self.peak = self.peak or m.devices * m.num_nodes * matmul_flops(device, dtype)
            metrics["mfu"] = images * self.flops / self.peak
        return metrics

    def on_validation_start(self, *_: Any) -> None:
        self._pause()

    def on_save_checkpoint(self, *_: Any) -> None:
        self._pause()

    def _pause(self) -> None:
        """Leave the time until the next step out of the throughput."""
        if self.begun and self.paused is None:
            self.paused = time.perf_counter()


def allocated_bytes(device: torch.device) -> int:
    """Return the highest memory of this process, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@torch.no_grad()
def flops_of_an_image(module: ArinarModule, batch: tuple[Tensor, ...]) -> float:
    """Count the model's FLOPs for one image, forward and backward, at the mean masked share."""
    image = tuple(part[:1] for part in next(module.parts_of(batch)))
    shares = [module.model.mask_ratio(Noise.of(torch.tensor([i]), "flops")) for i in range(16)]
    share = None if shares[0] is None else sum(filter(None, shares)) / len(shares)

    with torch.random.fork_rng():  # dropout draws from it
        return 3 * flops_of(lambda: module.loss_of(image, share))
