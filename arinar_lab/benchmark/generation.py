"""The speed of a preset, compared with the peak of this machine and with the published algorithm.

    peak       FLOP/s of the fastest matrix product measured on this machine
    seconds    time of a batch: some steps of the walk are timed, steps between are interpolated
               (`walk.py`)
    FLOPs      matrix products and attention of our walk, by torch's own counter
    share      FLOPs / seconds / peak
    ratio      seconds of the other way over ours, in alternate repeats. The other way is the
               published algorithm written plainly (`released_arinar.py`, with its 1000 candidates;
               ours guides exactly), or float32 where ours is bfloat16
    at most    that ratio if ours reached the peak: the largest possible gain on this machine

Time does not depend on the values of weights, so they are random. Tokens are not decoded.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from operator import truediv
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..config.build import build
from ..config.files import merge, preset_path, read_recipe
from ..config.sections import Recipe, parse_recipe
from ..evaluation.evaluate import PeakMemory
from ..hardware.precision import autocast_to
from ..hardware.profiling import MatmulDtype, flop_counter, synchronised_time
from ..model.arinar import Arinar
from ..model.bilevel import Observer, token_noise
from ..model.layers import ZeroLinear
from ..model.noise import Noise
from ..model.outer import MaskedOuter
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


PUBLISHED = "published algorithm"


@dataclass(frozen=True)
class Case:
    """One setting that is timed.

    Arguments:
        preset: Name of a shipped recipe, or a recipe's file.
        batch: Images at a time.
        guidance: Guidance of the sampler; None is the preset's.
        steps: Steps of the sampler; None is the preset's.
        precision: Precision of matrix products, by autocast.
        compiled: Whether the features' inverse CDFs are compiled.
    """

    preset: str
    batch: int
    guidance: float | None = None
    steps: int | None = None
    precision: MatmulDtype = "float32"
    compiled: bool = False

    def recipe(self) -> Recipe:
        """The preset under this sampler, with exact guidance.

        Raises:
            ConfigError: if no such preset exists, or it has no such sampler.
        """
        sampler: dict[str, float] = {"candidates": 0}
        if self.guidance is not None:
            sampler["guidance"] = self.guidance
        if self.steps is not None:
            sampler["steps"] = self.steps
        return parse_recipe(merge(read_recipe(preset_path(self.preset)), {"sampler": sampler}))


@dataclass(frozen=True)
class BenchmarkOptions:
    """Device and thoroughness of a benchmark.

    Arguments:
        device: Device of the models.
        samples: Steps of a walk that are timed; None times all.
        repeats: Repeats of each walk.
    """

    device: torch.device
    samples: int | None = 4
    repeats: int = 3


@dataclass(frozen=True)
class Result:
    """The measurement of one setting.

    Arguments:
        what: Generation, or a part of it.
        preset: see `Case`.
        batch: see `Case`; tokens of an inner loop.
        guidance: Guidance of the sampler.
        steps: Steps of the walk.
        seconds: Seconds of each repeat.
        others: Seconds of each repeat of the other way, or empty.
        other: Name of the other way.
        flops: FLOPs of the batch.
        memory: Peak bytes with weights; 0 where not measured.
        timed: Steps that were timed.
        precision: see `Case`.
        compiled: see `Case`.
    """

    what: str
    preset: str
    batch: int
    guidance: float
    steps: int
    seconds: list[float]
    others: list[float] = field(default_factory=list)
    other: str = ""
    flops: float = 0.0
    memory: int = 0
    timed: int = 1
    precision: MatmulDtype = "float32"
    compiled: bool = False

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """Images or tokens a second."""
        return self.batch / self.median

    def share(self, peak: float) -> float:
        """Share of a peak in FLOP/s."""
        return self.flops / self.median / peak

    @property
    def ratios(self) -> list[float]:
        """Seconds of the other way over ours, of each repeat; empty without another way."""
        return list(map(truediv, self.others, self.seconds))

    def at_most(self, peak: float) -> float:
        """Seconds of the other way over the time of the FLOPs at a peak in FLOP/s."""
        return statistics.median(self.others) * peak / self.flops


def benchmark_model(recipe: Recipe, device: torch.device) -> Arinar:
    """The model of a recipe in evaluation mode; layers that start at zero get random weights."""
    model = build(recipe).model
    for module in model.modules():
        if isinstance(module, ZeroLinear):
            torch.nn.init.normal_(module.weight, std=0.02)
    return model.to(device).eval()


def is_published(model: Arinar) -> bool:
    """Whether the published algorithm can run the model."""
    try:
        released_arinar.parts(model)
    except ValueError:
        return False
    return True


def has_independent_steps(model: Arinar, sampler: Sampler) -> bool:
    """Whether a step of the walk carries nothing to the next, so that it can be timed alone."""
    has_caches = {"token_refresh", "null_refresh"} & sampler.accelerators.keys()
    return isinstance(model.outer, MaskedOuter) and not has_caches


def generation(case: Case, model: Arinar, how: BenchmarkOptions) -> Result:
    """Time a batch of a case, and of the published algorithm if that can run the model."""
    sampler = case.recipe().sampler
    steps = model.outer.check_steps(sampler.steps)
    is_sampled = has_independent_steps(model, sampler)
    chosen = spaced_steps(steps, how.samples if is_sampled else None)
    clock = partial(synchronised_time, how.device)

    def package_seconds(precision: MatmulDtype = case.precision) -> float:
        with autocast_to(precision, how.device):
            measured = package_step_seconds(model, sampler, case.batch, chosen, clock)
        return sum_over_steps(measured, steps)

    def released_seconds() -> float:
        spaced = spaced_steps(steps, how.samples)
        measured = released_step_seconds(model, sampler, case.batch, spaced, clock)
        return sum_over_steps(measured, steps)

    other: Callable[[], float] | None = None
    name = ""
    if case.precision != "float32":
        other = partial(package_seconds, "float32")
        name = "float32"
    elif is_published(model):
        other = released_seconds
        name = PUBLISHED

    flops = case.batch * flops_per_image(model, sampler, chosen, steps)
    memory = peak_bytes(model, sampler, case.batch)
    repeats = how.repeats if is_sampled else 1
    seconds, other_seconds = time_alternately(package_seconds, other, repeats)

    return Result(
        "generation",
        case.preset,
        case.batch,
        sampler.guidance,
        steps,
        seconds,
        other_seconds,
        name,
        flops,
        memory,
        len(chosen),
        case.precision,
    )


def time_alternately(
    first: Callable[[], float], second: Callable[[], float] | None, repeats: int
) -> tuple[list[float], list[float]]:
    """Seconds of both, repeat by repeat; they begin in turn."""
    first_seconds: list[float] = []
    second_seconds: list[float] = []
    turns = [(first, first_seconds), (second, second_seconds)]
    for _ in range(repeats):
        for measure, seconds in turns:
            if measure is not None:
                seconds.append(measure())
        turns.reverse()

    return first_seconds, second_seconds


def flops_per_image(model: Arinar, sampler: Sampler, chosen: list[int], steps: int) -> float:
    """Floating-point operations of one image."""
    with flop_counter() as counter:

        def clock() -> float:
            return float(counter.get_total_flops())

        return sum_over_steps(package_step_seconds(model, sampler, 1, chosen, clock), steps)


def last_two(step: int) -> range:
    """A step and the one before it, if any, whose z is still in memory."""
    return range(max(0, step - 1), step + 1)


def peak_bytes(model: Arinar, sampler: Sampler, batch: int) -> int:
    """Peak bytes of a walk with its weights, in its last steps, or in the first step of a masked
    walk with caches, which makes them.
    """
    device = next(model.parameters()).device
    cached = isinstance(model.outer, MaskedOuter) and not has_independent_steps(model, sampler)
    step = 0 if cached else model.outer.check_steps(sampler.steps) - 1

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        package_step_seconds(model, sampler, batch, last_two(step), lambda: 0.0)
        return torch.cuda.max_memory_allocated(device)

    with PeakMemory() as memory:
        package_step_seconds(model, sampler, batch, last_two(step), lambda: 0.0)

    return memory.peak + sum(t.nbytes for t in model.state_dict().values())
