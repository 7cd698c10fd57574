"""A check in every step that training is finite, which does not synchronise the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class FiniteCheck:
    """Watches numbers of every step on their device; only `fault` synchronises.

    Attributes:
        last: Numbers of the first step in which one is not finite, else of the latest step.
        count: Number of finite steps before it.
    """

    def __init__(self) -> None:
        self.last: Tensor | None = None
        self.count: Tensor | int = 0

    def see(self, *numbers: Tensor) -> None:
        """Add the numbers of a step."""
        current = torch.stack(numbers)
        if self.last is not None:
            current = torch.where(self.last.isfinite().all(), current, self.last)
        self.last = current
        self.count = self.count + current.isfinite().all()

    def fault(self) -> tuple[list[float], int] | None:
        """Return the first step's numbers of which one is not finite, and the steps before it."""
        numbers = [] if self.last is None else self.last.tolist()
        if all(map(math.isfinite, numbers)):
            return None
        return numbers, int(self.count)
