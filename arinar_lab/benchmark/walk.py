"""Some steps of a generated batch, measured one by one: of our walk and of the published algorithm.

An image takes seconds and its steps change slowly, so that a few of them, spread evenly, tell
what all take together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..model.arinar import Arinar
from ..model.noise import Noise
from ..model.outer import MaskedOuter
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


class StepProbe:
    """One batch of `Arinar.generate` of which only some steps are computed and measured; the
    rest is passed over.

    Only a masked walk can pass over the conditions of a step; a causal one carries
    each on to the next.

    Arguments:
        steps: those that are measured. clock: a reading that grows, such as seconds.
    """

    def __init__(self, model: Arinar, steps: Sequence[int], clock: Callable[[], float]) -> None:
        self.outer: Any = model.outer
        self.chosen, self.last, self.clock = set(steps), max(steps), clock
        self.step, self.since = 0, clock()
        self.before, self.found = 0.0, dict[int, float]()

    def visit(self, asked: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The visit that the walk makes in place of the one it was asked for."""

        def answer(z: Tensor, z_null: Tensor | None, where: Tensor, progress: float) -> Tensor:
            chosen = self.step in self.chosen
            x = (
                asked(z, z_null, where, progress)
                if chosen
                else z.new_zeros(*where.shape, self.outer.features)
            )

            now = self.clock()
            if chosen:
                self.found[self.step] = now - self.since
            if self.step == self.last:
                raise LastStepDone
            self.step, self.since = self.step + 1, now

            return x

        return answer

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, the model's walk is this one."""
        outer, own = self.outer, {"walk": self._begun(self.outer.walk)}
        if isinstance(outer, MaskedOuter):
            own["_condition"] = self._conditions(outer._condition)
        vars(outer).update(own)
        try:
            yield
        except LastStepDone:
            pass
        finally:
            for name in own:
                del vars(outer)[name]

    def _begun(self, walk: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def begin(
            c: Tensor, null: Tensor | None, visit: Callable[..., Tensor], *rest: Any
        ) -> Tensor:
            now = self.clock()
            self.before, self.since = now - self.since, now
            return walk(c, null, self.visit(visit), *rest)

        return begin

    def _conditions(self, computed: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def condition(x: Tensor, c: Tensor, known: Tensor, where: Tensor) -> Tensor:
            if self.step in self.chosen:
                return computed(x, c, known, where)
            return x.new_zeros(*where.shape, self.outer.context)

        return condition


def package_step_seconds(
    model: Arinar, sampler: Sampler, batch: int, steps: Sequence[int], clock: Callable[[], float]
) -> StepMeasurements:
    """Generate a batch as far as those steps go; by how much the clock went on in each of them."""
    y, noise = _asked(model, batch)
    watch = StepProbe(model, steps, clock)
    with watch.watching():
        model.generate(y, noise, sampler)
    return StepMeasurements(watch.before, watch.found)


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
    x, order = (
        c.new_zeros(len(c), outer.tokens, outer.features),
        noise.at(0).permutation(outer.tokens),
    )
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
        keys = Noise(noise.at(1).at(order.argsort(-1)).key[where])
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
