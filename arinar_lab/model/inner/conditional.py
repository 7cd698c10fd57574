"""A model's density at given contexts, guided and tempered part by part: the base of `Chain` and
`NestedDensity`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from ..density import Density

_Model = TypeVar("_Model", bound=nn.Module)


@dataclass(frozen=True)
class Conditional(Density, Generic[_Model]):
    """A model's density at contexts z. Its parts are guided, tempered and refined one by one.

    One call of the model computes condition and null together.

    Arguments:
        model: Head that makes the density.
        z: Contexts, [*, E].
        index: Group of the model that z stands for, broadcast against *.
        null: Contexts of the null density, [*, E], or None.
        weight: Weight w of guidance.
        candidates: Draws of published guidance; 0 guides exactly.
        temperature: Factor of standard deviations.
        refine: Times that each part is `refined`.
        threshold: Arguments of `filtered` for each part, or None.
    """

    model: _Model
    z: Tensor
    index: Tensor | int = 0
    null: Tensor | None = None
    weight: float = 1.0
    candidates: int = 0
    temperature: float = 1.0
    refine: int = 0
    threshold: tuple[float, float] | None = None

    def refined(self) -> Self:
        return replace(self, refine=self.refine + 1)

    def filtered(self, threshold: float, t: float) -> Self:
        return replace(self, threshold=(threshold, t))

    def tempered(self, t: float) -> Self:
        return replace(self, temperature=self.temperature * t)

    def guided(self, null: Density, weight: float, candidates: int = 0) -> Self:
        if (
            not isinstance(null, type(self))
            or null.model is not self.model
            or self.null is not None
        ):
            raise TypeError(f"a {type(self).__name__} is guided once, by one of the same model")
        if weight == 1:
            return self
        return replace(self, null=null.z, weight=weight, candidates=candidates)

    def _contexts(self) -> Tensor:
        """z, and the contexts of the null below it: [M, E] or [2M, E]."""
        z = self.z.reshape(-1, self.z.shape[-1])
        return z if self.null is None else torch.cat([z, self.null.reshape(z.shape)])

    def _part(self, p: Density, null: Density | None) -> Density:
        """The density of a part: filtered and guided by its null, refined, then tempered."""
        if null is not None and self.threshold is not None:
            p = p.filtered(*self.threshold)
        if null is not None:
            p = p.guided(null, self.weight, self.candidates)
        for _ in range(self.refine):
            p = p.refined()
        return p if self.temperature == 1 else p.tempered(self.temperature)
