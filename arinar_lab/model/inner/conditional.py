"""Densities that a model gives for contexts, guided and tempered part by part: what `Chain` and
`NestedDensity` have in common.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor

from ..density import Density
from .head import Head

_Model = TypeVar("_Model", bound=Head)


@dataclass(frozen=True)
class Conditional(Density, Generic[_Model]):
    """A model's density at contexts z, and its guided, tempered and refined versions:
    those of every part are.

    One call serves condition and null together.

    Arguments:
        model: whose density it is.
        z: contexts [*, E].
        index: which of the model's groups z stands for, broadcast against *.
        null: contexts of the null density [*, E], or None.
        weight, candidates: of guidance; temperature.
        refine: how often the parts are `refined`.
        threshold: what the parts are `filtered` by, or None.
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

        return (
            self
            if weight == 1
            else replace(self, null=null.z, weight=weight, candidates=candidates)
        )

    def _contexts(self) -> Tensor:
        """z, and the null's below it: [M, E] or [2M, E]."""
        both = [self.z] if self.null is None else [self.z, self.null]
        return torch.cat([z.reshape(-1, z.shape[-1]) for z in both])

    def _part(self, p: Density, null: Density | None) -> Density:
        """The density of a part: filtered and guided by its null, refined, then tempered."""
        if null is not None and self.threshold is not None:
            p = p.filtered(*self.threshold)
        if null is not None:
            p = p.guided(null, self.weight, self.candidates)
        for _ in range(self.refine):
            p = p.refined()
        return p if self.temperature == 1 else p.tempered(self.temperature)
