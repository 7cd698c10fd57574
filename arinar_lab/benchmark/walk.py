"""Some steps of a generated batch, measured one by one: of our walk and of the published algorithm.

An image takes seconds and its steps change slowly, so that a few of them, spread evenly, tell
what all take together.
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
    """What was measured of some steps of a walk, and of what comes before the
    first, once for all.
    """

    before: float
    steps: dict[int, float]


def spaced_steps(steps: int, samples: int | None) -> list[int]:
    """So many of the steps, evenly from the first to the last; all of them for None."""
    if samples is None or samples >= steps:
        return list(range(steps))
    return np.linspace(0, steps - 1, max(2, samples)).round().astype(int).tolist()


def sum_over_steps(seen: StepMeasurements, steps: int) -> float:
    """The sum over all steps of what was measured of some, linear in between, and
    of what comes before.
    """
    return seen.before + float(
        np.interp(range(steps), list(seen.steps), list(seen.steps.values())).sum()
    )


class LastStepDone(Exception):
    """The last step that was asked for is done."""


class StepClock(Observer):
    """Reads a clock after each of some steps of a generation, and ends it after the last of them.

    Arguments:
        steps: numbers of the steps, in order. clock: a reading that grows, such as seconds.
    """

    def __init__(self, steps: Sequence[int], clock: Callable[[], float]) -> None:
        self.waiting, self.clock, self.since = list(steps), clock, clock()
        self.before = 0.0
        self.readings: dict[int, float] = {}

    def read(self) -> float:
        """By how much the clock has gone on since it was read last."""
        now = self.clock()
        passed, self.since = now - self.since, now
        return passed

    def after_draw(self, *_: Any) -> None:
        self.readings[self.waiting.pop(0)] = self.read()
        if not self.waiting:
            raise LastStepDone


def package_step_seconds(
    model: Arinar, sampler: Sampler, batch: int, steps: Sequence[int], clock: Callable[[], float]
) -> StepMeasurements:
    """Generate a batch as far as those steps go; by how much the clock went on in each of them.

    Weights are packed before the first step, once for all; the generation itself finds them packed.
    """
    y, noise = _asked(model, batch)
    watch = StepClock(steps, clock)
    with suppress(LastStepDone), packed_weights(model):
        watch.before = watch.read()
        model.generate(y, noise, sampler, observe=watch, only=steps)
    return StepMeasurements(watch.before, watch.readings)


def _asked(model: Arinar, batch: int) -> tuple[Tensor, Noise]:
    seeds = torch.arange(batch, device=next(model.parameters()).device)
    return seeds % len(model.labels.classes()), Noise.of(seeds, "sample")


@torch.no_grad()
def released_step_seconds(
    model: Arinar, sampler: Sampler, batch: int, steps: Sequence[int], clock: Callable[[], float]
) -> StepMeasurements:
    """The same of the published algorithm, with its 1000 candidates (see `plain.generate`)."""
    y, noise = _asked(model, batch)
    outer, guided = released_arinar.parts(model).outer, sampler.guidance != 1
    c = torch.cat([model.labels(y), *([model.labels.null(batch)] if guided else [])])
    x, order = c.new_zeros(len(c), outer.tokens, outer.features), outer.order(noise)
    generator, released = torch.Generator(c.device), replace(sampler, candidates=CANDIDATES)
    ends = [
        0,
        *(
            outer.tokens - left
            for left in masked_counts(outer.tokens, outer.check_steps(sampler.steps))
        ),
    ]

    found: dict[int, float] = {}
    for step in steps:
        known, now = (
            torch.zeros_like(order).scatter(1, order[:, :end], 1) for end in ends[step : step + 2]
        )
        masked, where = (known == 0), (now > known)
        begun = clock()
        z = released_arinar.released_condition(model, x, c, masked.repeat(len(c) // batch, 1))[
            where.repeat(len(c) // batch, 1)
        ]
        keys = Noise(token_noise(noise, order.argsort(-1)).key[where])
        released_arinar.draw_token(
            model,
            z,
            keys,
            released,
            1 - max(outer.tokens - ends[step + 1], 1) / outer.tokens,
            generator,
        )
        found[step] = clock() - begun

    return StepMeasurements(0.0, found)
