"""Whether training is still finite, asked without a wait in every step."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class FiniteCheck:
    """Watches numbers of every step on their device, and nobody waits for it until it is asked.

    Attributes:
        last: those of the first step in which one was not finite, else of the
            latest; None before any.
        count: how many steps were finite before it.
    """

    def __init__(self) -> None:
        self.last: Tensor | None = None
        self.count: Tensor | int = 0

    def see(self, *numbers: Tensor) -> None:
        now = torch.stack(numbers)
        self.last = (
            now if self.last is None else torch.where(self.last.isfinite().all(), now, self.last)
        )
        self.count = self.count + self.last.isfinite().all()

    def fault(self) -> tuple[list[float], int] | None:
        """The numbers of the first step in which one was not finite, and its place;
        waits for the device.
        """
        if self.last is None or all(map(math.isfinite, last := self.last.tolist())):
            return None
        return last, int(self.count)
