"""The time of generation by phase: seconds of each part of a generated batch.

    outer     the walk over the tokens, without the phases inside it
    inner     the trunk over a token's features; of a nested model all of it
    head      building, guiding, tempering and drawing from densities
    codec     decoding tokens to images

The device is synchronised at the bounds of each phase, so their sum is a little more than the time
of a batch that is not timed.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..config.build import Experiment
from ..config.sections import Recipe
from ..hardware.precision import autocast_to
from ..hardware.profiling import synchronised_time
from ..model.bilevel import Observer
from ..model.heads.nested import Nested
from ..model.noise import Noise
from ..model.packed_linear import packed_weights
from ..training.block_transforms import compiled_draws
from .dtypes import generation_dtype

PHASES = ("outer", "inner", "head", "codec")


class PhaseTimer:
    """Seconds of each phase, without the phases inside it.

    Arguments:
        device: Device that is synchronised whenever a phase begins or ends.
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
        """Add the time since the last bound to the current phase."""
        now = synchronised_time(self.device)
        if self.running:
            self.seconds[self.running[-1]] += now - self.since
        self.since = now


@torch.no_grad()
def seconds_by_phase(recipe: Recipe, experiment: Experiment, repeats: int) -> dict[str, float]:
    """Measure median seconds of each phase over repeats of one batch. Warm up before."""
    device = experiment.device
    with (
        autocast_to(generation_dtype(recipe, experiment), device),
        packed_weights(experiment.model),
        compiled_draws(recipe.machine, device),
    ):
        clocks = [_generate(recipe, experiment) for _ in range(repeats)]

    medians = {}
    for name in PHASES:
        medians[name] = statistics.median([clock.seconds[name] for clock in clocks])
    return medians


class DrawClock(Observer):
    """Charges the draws of a generation to one phase of a clock."""

    def __init__(self, clock: PhaseTimer, part: str) -> None:
        self.clock = clock
        self.part = part

    def before_draw(self) -> None:
        self.clock.start(self.part)

    def after_draw(self, *_: Any) -> None:
        self.clock.stop()


def _generate(recipe: Recipe, experiment: Experiment) -> PhaseTimer:
    """Time one batch: its draws, and the calls of the trunk inside them."""
    model = experiment.model
    device = experiment.device
    batch = recipe.evaluation.speed_batch
    y = (torch.arange(batch) % experiment.source.classes).to(device)
    noise = Noise.of(torch.arange(batch, device=device), "sample")
    clock = PhaseTimer(device)
    draws = DrawClock(clock, "inner" if isinstance(model.inner, Nested) else "head")

    with clock.part("outer"), _timed(getattr(model.inner, "trunk", None), clock):
        x, _ = model.generate(y, noise, recipe.sampler, observe=draws)
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
