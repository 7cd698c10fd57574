"""Where a batch does not fit into the memory: which one would.

What was asked for is tried again with fewer images, half as many each time, until it goes through
once. So the number that is named was measured, beside the weights and whatever else takes room.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch

from ..errors import OutOfMemory


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory is full: of a GPU, of Python, or
    of torch on the CPU.
    """
    return isinstance(
        error, torch.OutOfMemoryError | MemoryError
    ) or "can't allocate memory" in str(error)


def halves(batch: int) -> Iterator[int]:
    """batch / 2, batch / 4 … 1."""
    while batch := batch // 2:
        yield batch


def largest_that_fits(attempt: Callable[[int], object], batches: Iterable[int]) -> int:
    """The first of some batches that an attempt gets through; 0 if none."""
    for batch in batches:
        torch.cuda.empty_cache()
        try:
            attempt(batch)
            return batch
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)

    return 0


@contextmanager
def oom_guard(key: str, batch: int, attempt: Callable[[int], object]) -> Iterator[None]:
    """Where the memory is too small for what is done inside, raise what would fit.

    Arguments:
        key: of the batch; batch: images at a time; attempt: does the same with so many images.

    Raises:
        OutOfMemory: naming both.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # which hold what did not fit
        found = largest_that_fits(attempt, halves(batch))
        said = f"{found} would: say {key}={found}" if found else "nor does a single one"
        raise OutOfMemory(
            f"{key}: {batch} images at a time do not fit into the memory; {said}"
        ) from None
