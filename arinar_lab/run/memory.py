"""Batches on a device whose memory may be too small for them: the message names a batch that fits, found by trying."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

Found = TypeVar("Found")


class OutOfMemory(RuntimeError):
    """A batch does not fit the device."""


def in_batches(i: Tensor, batch: int, found: Callable[[Tensor], Found], key: str) -> Iterator[Found]:
    """What is found of the items of indices i [n], `batch` at a time.

    Arguments:
        key: the option that says how many at a time.

    Raises:
        OutOfMemory: naming how many fit, where `batch` do not.
    """
    for part in i.split(batch):
        try:
            yield found(part)
        except torch.OutOfMemoryError:
            n = _fitting(part, found)
            said = f"{n} at a time fit: {key}={n}" if n else "not even one does"
            raise OutOfMemory(f"{key}: {len(part)} at a time do not fit the device's memory; {said}") from None


def _fitting(i: Tensor, found: Callable[[Tensor], object]) -> int:
    """How many of the items fit at a time: the largest half of a half … that does; 0 where not even one does."""
    n = len(i) // 2
    while n:
        torch.cuda.empty_cache()
        try:
            found(i[:n])
            return n
        except torch.OutOfMemoryError:
            n //= 2
    return 0
