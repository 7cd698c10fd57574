"""Where the time of generation goes: seconds of each part of a generated batch.

    outer     the walk over the tokens, less what it visits
    inner     the trunk over a token's features; of a nested model all of it
    head      densities made, guided, tempered and drawn from
    codec     tokens decoded to images

The device is synchronised at the bounds of each part, so their sum is a little more than a
batch takes unwatched.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..config.recipe import Experiment, Recipe
from ..hardware.precision import autocast_to
from ..model.heads.nested import Nested
from ..model.noise import Noise
from ..model.packed_linear import packed_weights
from ..training.block_transforms import compiled_draws
from .dtypes import generation_dtype

PHASES = ("outer", "inner", "head", "codec")


class PhaseTimer:
    """Seconds by name, each less those of the names measured inside it.

    Arguments:
        device: which is synchronised whenever a part begins or ends.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.running: list[str] = []
        self.since = 0.0

    def start(self, name: str) -> None:
        self._charge()
        self.running.append(name)

    def stop(self) -> None:
        self._charge()
        self.running.pop()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.start(name)
        yield
        self.stop()

    def _charge(self) -> None:
        """Give the time since the last bound to the part that runs."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self.running:
            self.seconds[self.running[-1]] += now - self.since
        self.since = now


@torch.no_grad()
def seconds_by_phase(recipe: Recipe, experiment: Experiment, repeats: int) -> dict[str, float]:
    """Median seconds of each part over repeats of one batch, as `measure_speed`
    generates it. Warm up before.
    """
    device = experiment.device
    with (
        autocast_to(generation_dtype(recipe, experiment), device),
        packed_weights(experiment.model),
        compiled_draws(recipe.machine, device),
    ):
        clocks = [_generate(recipe, experiment) for _ in range(repeats)]
    return {name: statistics.median(clock.seconds[name] for clock in clocks) for name in PHASES}


def _generate(recipe: Recipe, experiment: Experiment) -> PhaseTimer:
    """One batch, with a clock: the walk of `bilevel.generate_tokens`, its visits timed, and the
    trunk's calls inside them.
    """
    model, device, batch = experiment.model, experiment.device, recipe.evaluation.speed_batch
    clock, noise = PhaseTimer(device), Noise.of(torch.arange(batch, device=device), "sample")
    inner = "inner" if isinstance(model.inner, Nested) else "head"

    def visit(z: Tensor, z_null: Tensor | None, where: Tensor, progress: float) -> Tensor:
        with clock.part(inner):
            null = None if z_null is None else model.inner(z_null)
            x, _ = recipe.sampler.apply(model.inner(z), null, progress).draw(noise.at(1).at(where))
            return x.to(z.dtype)

    with clock.part("outer"), _timed(getattr(model.inner, "trunk", None), clock):
        c = model.labels((torch.arange(batch) % experiment.source.classes).to(device))
        null = model.labels.null(batch) if recipe.sampler.guidance != 1 else None
        x = model.outer.walk(c, null, visit, noise, recipe.sampler)
    with clock.part("codec"):
        experiment.codec.decode(x).cpu()
    return clock


@contextmanager
def _timed(trunk: torch.nn.Module | None, clock: PhaseTimer) -> Iterator[None]:
    """Charge the calls of the trunk to `inner`."""
    if trunk is None:
        yield
        return

    def end(*_: Any) -> None:
        clock.stop()

    hooks = [
        trunk.register_forward_pre_hook(lambda *_: clock.start("inner")),
        trunk.register_forward_hook(end),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
