"""The sampler of a model: temperature, guidance, steps, their schedules, and accelerators.

weight(progress) = w                        constant
                 = 1 + (w - 1) · progress   linear, as published; progress is the share of tokens
                                            known after the step

Accelerators approximate generation and are off by default. Likelihood never uses them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from .density import Density

MaskSchedule = Literal["cosine", "linear", "square", "cubic"]
_LEFT: dict[MaskSchedule, Callable[[int, int, int], float]] = {
    "cosine": lambda tokens, s, steps: tokens * math.cos(math.pi / 2 * s / steps),
    "linear": lambda tokens, s, steps: tokens * (steps - s) / steps,
    "square": lambda tokens, s, steps: tokens * (steps**2 - s**2) / steps**2,
    "cubic": lambda tokens, s, steps: tokens * (steps**3 - s**3) / steps**3,
}


ACCELERATORS = (
    "mask_schedule",
    "guided_from",
    "guided_to",
    "together",
    "token_refresh",
    "null_refresh",
    "filter_threshold",
)
# marks a field that is no part of a signature at its default: it came after the first runs
LATER_FIELD = {"later": True}


@dataclass(frozen=True)
class Sampler:
    """The setting of the sampler, which needs no training.

    Arguments:
        temperature: Factor of every standard deviation, > 0; 1 changes nothing.
        temperature_divides: Whether the temperature divides standard deviations instead of
            multiplying them, as in ARINAR's release.
        guidance: Weight w of the conditional density, ≥ 0; 1 is no guidance and costs nothing.
        schedule: Schedule of the weight over an image: `constant`, or `linear` from 1 up to w.
        steps: Steps in which a masked outer model draws an image, from 1 to its tokens; null is the
            model's own number.
        candidates: Draws of the published guidance for each feature, ≥ 0; 0 guides exactly, by
            inverse CDF.
        mask_schedule: Schedule of the tokens that a masked outer model leaves masked, see
            `masked_counts`.
        guided_from: Progress (share of tokens known after the step) at which guidance begins, in
            [0, 1) and below `guided_to`; the weight is 1 outside (arXiv 2404.07724). A masked outer
            model computes no null branch there.
        guided_to: Progress at which guidance ends, in (0, 1]. Neither a masked nor a causal outer
            model computes the null branch beyond it.
        together: Groups of features that a `feature_ar` draws from one context as if they were
            independent, ≥ 1; 1 is exact.
        token_refresh: Steps from one computation of all rows of a `masked` outer model to the next,
            ≥ 1; 1 is exact. Steps in between compute the tokens that became known and the ones to
            be drawn, which attend to older keys and values of the rest (arXiv 2503.12450,
            2506.12035).
        null_refresh: Steps from one computation of the null branch of a masked outer model to the
            next, ≥ 1; 1 is exact. Steps in between add the last difference of the branches to the
            conditional z (arXiv 2503.12450).
        filter_threshold: Probability, in [0, 1), below which guidance does not raise a level; it
            counts under the temperature (FractalMAR's release). 0 filters nothing.

    Raises:
        ValueError: if a number is outside its range.
    """

    temperature: float = 1.0
    temperature_divides: bool = False
    guidance: float = 1.0
    schedule: Literal["constant", "linear"] = "linear"
    steps: int | None = None
    candidates: int = 0
    mask_schedule: MaskSchedule = field(default="cosine", metadata=LATER_FIELD)
    guided_from: float = field(default=0.0, metadata=LATER_FIELD)
    guided_to: float = field(default=1.0, metadata=LATER_FIELD)
    together: int = field(default=1, metadata=LATER_FIELD)
    token_refresh: int = field(default=1, metadata=LATER_FIELD)
    null_refresh: int = field(default=1, metadata=LATER_FIELD)
    filter_threshold: float = field(default=0.0, metadata=LATER_FIELD)

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature: {self.temperature} is not above 0")
        if not self.guidance >= 0:
            raise ValueError(f"guidance: {self.guidance} is negative; 1 is no guidance")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps: {self.steps} is too few; at least 1")
        if self.candidates < 0:
            raise ValueError(f"candidates: {self.candidates} is negative; 0 guides by inverse CDF")
        if not 0 <= self.guided_from < self.guided_to <= 1:
            raise ValueError(
                f"guided_from: {self.guided_from} … {self.guided_to} is no interval within 0 … 1"
            )

        if not 0 <= self.filter_threshold < 1:
            raise ValueError(
                f"filter_threshold: {self.filter_threshold} is no probability below 1; 0 "
                "filters nothing"
            )

        if self.filter_threshold and self.candidates:
            raise ValueError(
                f"filter_threshold: {self.filter_threshold} filters no candidates; use "
                "candidates: 0"
            )

        for name in ("together", "token_refresh", "null_refresh"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name}: {getattr(self, name)} is too few; at least 1, which is exact"
                )

    @property
    def accelerators(self) -> dict[str, float | str]:
        """Return the ACCELERATORS that are not at their default, with their values."""
        values = {name: getattr(self, name) for name in ACCELERATORS}
        return {name: value for name, value in values.items() if value != getattr(Sampler, name)}

    def guides(self, progress: float) -> bool:
        """Whether the interval of guidance holds a step after which `progress` is known."""
        return self.guided_from <= progress <= self.guided_to

    def weight(self, progress: float) -> float:
        """The guidance weight of a step after which `progress` of the tokens are known."""
        if not self.guides(progress):
            return 1.0
        return self.guidance if self.schedule == "constant" else 1 + (self.guidance - 1) * progress

    def apply(self, density: Density, null: Density | None, progress: float) -> Density:
        """The density a step draws from: guided, then tempered."""
        if self.together > 1:
            density = density.with_parallel_groups(self.together)
        t = 1 / self.temperature if self.temperature_divides else self.temperature
        if null is not None and self.filter_threshold:
            density = density.filtered(self.filter_threshold, t)
        if null is not None:
            density = density.guided(null, self.weight(progress), self.candidates)
        return density if t == 1 else density.tempered(t)


PLAIN = Sampler()
"""The density as learned, in the outer model's own number of steps."""


def masked_counts(tokens: int, steps: int, schedule: MaskSchedule = "cosine") -> list[int]:
    """Tokens that stay masked after each of S steps (MaskGIT, arXiv 2202.04200; MAR: cosine).

    ⌊N·γ((s+1)/S)⌋, at least 1 and at least one less than before; after the last step nothing is
    masked. γ(r) is cos(πr/2), 1 - r, 1 - r² or 1 - r³: `linear` draws equally many tokens in each
    step, the others more and more towards the end.
    """
    counts: list[int] = []
    masked = tokens
    for s in range(steps - 1):
        scheduled = math.floor(_LEFT[schedule](tokens, s + 1, steps))
        masked = max(1, min(masked - 1, scheduled))
        counts.append(masked)

    return [*counts, 0]
