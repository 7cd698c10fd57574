"""Times of single steps of a generation, by our walk and by the published algorithm.

The time of a step changes slowly from step to step, so a few evenly spaced steps give the sum of
all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..model.arinar import Arinar
from ..model.bilevel import Observer, token_noise
from ..model.noise import Noise
from ..model.packed_linear import packed_weights
from ..model.sampler import Sampler, masked_counts
from . import released_arinar

CANDIDATES = 1000  # of the published guidance


class StepMeasurements(NamedTuple):
    """Measurements of some steps of a walk.

    Attributes:
        before: Measurement of all before the first step.
        steps: Number of a step → its measurement.
    """

    before: float
    steps: dict[int, float]


def spaced_steps(steps: int, samples: int | None) -> list[int]:
    """Numbers of `samples` steps, evenly from the first to the last; None takes all."""
    if samples is None or samples >= steps:
        return list(range(steps))
    return np.linspace(0, steps - 1, max(2, samples)).round().astype(int).tolist()


def sum_over_steps(measured: StepMeasurements, steps: int) -> float:
    """The sum of all steps, interpolated linearly, and of all before them."""
    values = np.interp(range(steps), list(measured.steps), list(measured.steps.values()))
    return measured.before + float(values.sum())


class LastStepDone(Exception):
    """Raised when the last measured step is done."""


class StepClock(Observer):
    """Reads a clock after each of some steps of a generation, and ends it after the last.

    Arguments:
        steps: Numbers of the steps, in order.
        clock: Returns a growing number, such as seconds.
    """

    def __init__(self, steps: Sequence[int], clock: Callable[[], float]) -> None:
        self.waiting = list(steps)
        self.clock = clock
        self.since = clock()
        self.before = 0.0
        self.readings: dict[int, float] = {}

    def read(self) -> float:
        """The difference from the last reading of the clock."""
        now = self.clock()
        difference = now - self.since
        self.since = now
        return difference

    def after_draw(self, *_: Any) -> None:
        self.readings[self.waiting.pop(0)] = self.read()
        if not self.waiting:
            raise LastStepDone


def package_step_seconds(
    model: Arinar, sampler: Sampler, batch: int, steps: Sequence[int], clock: Callable[[], float]
) -> StepMeasurements:
    """Generate a batch up to the last of some steps, and measure each of them by the clock.

    Weights are packed before the first step.
    """
    y, noise = _labels_and_noise(model, batch)
    watch = StepClock(steps, clock)
    with suppress(LastStepDone), packed_weights(model):
        watch.before = watch.read()
        model.generate(y, noise, sampler, observe=watch, only=steps)
    return StepMeasurements(watch.before, watch.readings)


def _labels_and_noise(model: Arinar, batch: int) -> tuple[Tensor, Noise]:
    seeds = torch.arange(batch, device=next(model.parameters()).device)
    return seeds % len(model.labels.classes()), Noise.of(seeds, "sample")


@torch.no_grad()
def released_step_seconds(
    model: Arinar, sampler: Sampler, batch: int, steps: Sequence[int], clock: Callable[[], float]
) -> StepMeasurements:
    """The same for the published algorithm with its 1000 candidates."""
    y, noise = _labels_and_noise(model, batch)
    outer = released_arinar.parts(model).outer
    c = model.labels(y)
    if sampler.guidance != 1:
        c = torch.cat([c, model.labels.null(batch)])
    branches = len(c) // batch
    x = c.new_zeros(len(c), outer.tokens, outer.features)
    turn = outer.order(noise).argsort(-1)
    generator = torch.Generator(c.device)
    released = replace(sampler, candidates=CANDIDATES)
    counts = [outer.tokens, *masked_counts(outer.tokens, outer.check_steps(sampler.steps))]

    measured: dict[int, float] = {}
    for step in steps:
        before, after = counts[step : step + 2]
        masked = turn >= outer.tokens - before
        where = masked & (turn < outer.tokens - after)
        progress = 1 - max(after, 1) / outer.tokens

        begun = clock()
        z = released_arinar.released_condition(model, x, c, masked.repeat(branches, 1))
        z = z[where.repeat(branches, 1)]
        keys = Noise(token_noise(noise, turn).key[where])
        released_arinar.draw_token(model, z, keys, released, progress, generator)
        measured[step] = clock() - begun

    return StepMeasurements(0.0, measured)
