"""How fast a preset is: beside the floor that this machine sets, and beside the
published algorithm.

    peak       FLOP/s of the largest matrix product that this machine was seen to do
    seconds    of a batch: some steps of the walk are timed, those between are
               interpolated (`walk.py`)
    FLOPs      needed, that is executed by our walk: matrix products and attention,
               by torch's own counter
    share      FLOPs / seconds / peak
    ratio      seconds of another way over ours, repeats taking turns: of the published algorithm
               written plainly (`released_arinar.py`, with its 1000 candidates; ours guides
               exactly), or of float32 where ours is bfloat16
    at most    that ratio, were ours at the peak: what the other way leaves to
               be won on this machine

Time does not depend on the values of weights, so they are random. Tokens are not decoded.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ..config.build import build
from ..config.files import merge, preset_path, read_recipe
from ..config.sections import Recipe, parse_recipe
from ..evaluation.evaluate import PeakMemory
from ..hardware.precision import autocast_to
from ..hardware.profiling import MatmulDtype, flop_counter, synchronised_time
from ..model.arinar import Arinar
from ..model.layers import ZeroLinear
from ..model.outer import MaskedOuter
from ..model.sampler import Sampler
from . import released_arinar
from .walk import package_step_seconds, released_step_seconds, spaced_steps, sum_over_steps

PUBLISHED = "published algorithm"


@dataclass(frozen=True)
class Case:
    """One setting that is timed.

    Arguments:
        preset: name of a shipped recipe, or a recipe's file.
        batch: images at a time.
        guidance, steps: of the sampler; None is the preset's.
        precision: of matrix products, by autocast.
        compiled: whether features' inverse CDFs are.
    """

    preset: str
    batch: int
    guidance: float | None = None
    steps: int | None = None
    precision: MatmulDtype = "float32"
    compiled: bool = False

    def recipe(self) -> Recipe:
        """The preset under this sampler. Guidance is exact: the candidates are the
        published algorithm's.

        Raises:
            ConfigError: if there is no such preset, or it cannot be sampled so.
        """
        asked = {"guidance": self.guidance, "steps": self.steps, "candidates": 0}
        sampler = {name: value for name, value in asked.items() if value is not None}
        return parse_recipe(merge(read_recipe(preset_path(self.preset)), {"sampler": sampler}))


@dataclass(frozen=True)
class BenchmarkOptions:
    """Where and how thoroughly.

    Arguments:
        samples: steps of a walk that are timed; None times all.
        repeats: of each walk.
    """

    device: torch.device
    samples: int | None = 4
    repeats: int = 3


@dataclass(frozen=True)
class Result:
    """What was measured of one setting.

    Arguments:
        what: was timed: generation, or a part of it; preset, batch, guidance, steps,
            precision, compiled: of what.
        seconds: of each repeat; others: of the other way, taking turns, or empty;
            other: which that is.
        flops: needed; memory: bytes at the highest, weights included, 0 where not measured.
        timed: steps that were timed.
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
        """Images (or whatever the batch is of) a second."""
        return self.batch / self.median

    def share(self, peak: float) -> float:
        """Of a peak in FLOP/s."""
        return self.flops / self.median / peak

    @property
    def ratios(self) -> list[float]:
        """Of each repeat, how many times longer the other way takes."""
        return (
            [theirs / mine for theirs, mine in zip(self.others, self.seconds, strict=True)]
            if self.others
            else []
        )

    def at_most(self, peak: float) -> float:
        """How many times longer the other way takes than the FLOPs needed do
        at a peak in FLOP/s.
        """
        return statistics.median(self.others) * peak / self.flops


def benchmark_model(recipe: Recipe, device: torch.device) -> Arinar:
    """The model of a recipe, in evaluation mode; layers that start at zero are drawn, so
    that z has an effect.
    """
    model = build(recipe).model
    for module in model.modules():
        if isinstance(module, ZeroLinear):
            torch.nn.init.normal_(module.weight, std=0.02)
    return model.to(device).eval()


def is_published(model: Arinar) -> bool:
    """Whether the published algorithm can run it."""
    try:
        released_arinar.parts(model)
    except ValueError:
        return False
    return True


def has_independent_steps(model: Arinar, sampler: Sampler) -> bool:
    """Whether a step of the walk costs what it costs without those before it: nothing is carried
    from one to the next.
    """
    return (
        isinstance(model.outer, MaskedOuter)
        and not {"token_refresh", "null_refresh"} & sampler.accelerators.keys()
    )


def generation(case: Case, model: Arinar, how: BenchmarkOptions) -> Result:
    """Time a batch of a case, beside the published algorithm where that is the model's."""
    sampler, outer, device = case.recipe().sampler, model.outer, how.device
    steps, sampled = outer.check_steps(sampler.steps), has_independent_steps(model, sampler)
    chosen = spaced_steps(steps, how.samples if sampled else None)

    def mine(precision: MatmulDtype = case.precision) -> float:
        with autocast_to(precision, device):
            return sum_over_steps(
                package_step_seconds(
                    model, sampler, case.batch, chosen, lambda: synchronised_time(device)
                ),
                steps,
            )

    def theirs() -> float:
        return sum_over_steps(
            released_step_seconds(
                model,
                sampler,
                case.batch,
                spaced_steps(steps, how.samples),
                lambda: synchronised_time(device),
            ),
            steps,
        )

    other: Callable[[], float] | None = theirs if is_published(model) else None
    name = PUBLISHED if other else ""
    if case.precision != "float32":
        other, name = (lambda: mine("float32")), "float32"
    flops = case.batch * flops_per_image(model, sampler, chosen, steps)
    memory = peak_bytes(model, sampler, case.batch)
    seconds, others = time_alternately(mine, other, how.repeats if sampled else 1)
    return Result(
        "generation",
        case.preset,
        case.batch,
        sampler.guidance,
        steps,
        seconds,
        others,
        name,
        flops,
        memory,
        len(chosen),
        case.precision,
    )


def time_alternately(
    mine: Callable[[], float], other: Callable[[], float] | None, repeats: int
) -> tuple[list[float], list[float]]:
    """Seconds of both, repeat by repeat; who begins changes."""
    seconds: list[float] = []
    others: list[float] = []
    for repeat in range(repeats):
        turns = [(mine, seconds), (other, others)]
        for work, kept in turns if repeat % 2 == 0 else turns[::-1]:
            if work is not None:
                kept.append(work())

    return seconds, others


def flops_per_image(model: Arinar, sampler: Sampler, chosen: list[int], steps: int) -> float:
    """Floating-point operations of one image."""
    with flop_counter() as counter:
        return sum_over_steps(
            package_step_seconds(
                model, sampler, 1, chosen, lambda: float(counter.get_total_flops())
            ),
            steps,
        )


def last_two(step: int) -> range:
    """A step and the one before it, which leaves its z in memory; step 0 has none before it."""
    return range(max(0, step - 1), step + 1)


def peak_bytes(model: Arinar, sampler: Sampler, batch: int) -> int:
    """Bytes at the highest point of a walk, weights included: up to its last step; of a masked one
    whose caches are made in the first, in that."""
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
