"""How a model is sampled: temperature, guidance, steps, and their schedules.

weight(progress) = w                        constant
                 = 1 + (w - 1) · progress   linear, as published; progress is the share of tokens known after the step
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .density import Density


@dataclass(frozen=True)
class Sampler:
    """A setting of the sampler; nothing in it needs training.

    Arguments:
        temperature: multiplies standard deviations, > 0.
        temperature_divides: whether it divides them instead, as in ARINAR's release.
        guidance: weight w of the conditional density, ≥ 0; 1 is no guidance and costs nothing.
        schedule: of the weight over an image.
        steps: in how many steps a masked outer model draws an image; None is one token a step.
        candidates: draws of published guidance; 0 guides exactly, by inverse CDF.

    Raises:
        ValueError: if a number is outside its range.
    """

    temperature: float = 1.0
    temperature_divides: bool = False
    guidance: float = 1.0
    schedule: Literal["constant", "linear"] = "linear"
    steps: int | None = None
    candidates: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature: {self.temperature} is not above 0")
        if not self.guidance >= 0:
            raise ValueError(f"guidance: {self.guidance} is negative; 1 is no guidance")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps: {self.steps} is too few; at least 1")
        if self.candidates < 0:
            raise ValueError(f"candidates: {self.candidates} is negative; 0 guides by inverse CDF")

    def weight(self, progress: float) -> float:
        """The guidance weight of a step after which `progress` of the tokens are known."""
        return self.guidance if self.schedule == "constant" else 1 + (self.guidance - 1) * progress

    def apply(self, density: Density, null: Density | None, progress: float) -> Density:
        """The density a step draws from: guided, then tempered."""
        if null is not None:
            density = density.guided(null, self.weight(progress), self.candidates)
        if self.temperature == 1:
            return density
        return density.tempered(1 / self.temperature if self.temperature_divides else self.temperature)


def kept(tokens: int, steps: int) -> list[int]:
    """How many tokens stay masked after each step of the cosine schedule (MaskGIT, arXiv 2202.04200; MAR).

    floor(N·cos(π/2·(s+1)/S)), at least 1 and at least one less than before; after the last step nothing is masked.
    """
    plan, before = [], tokens
    for s in range(steps - 1):
        before = max(1, min(before - 1, math.floor(tokens * math.cos(math.pi / 2 * (s + 1) / steps))))
        plan.append(before)
    return [*plan, 0]
