"""Advice on the batch where one does not fit into the memory.

The computation is tried again with half as many images each time, until it succeeds. So the advised
number is measured next to the weights and all else that takes memory.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch

from ..errors import OutOfMemory


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error reports full memory: of a GPU, of Python, or of torch on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error)


def halves(batch: int) -> Iterator[int]:
    """batch / 2, batch / 4 … 1."""
    while batch := batch // 2:
        yield batch


def largest_that_fits(attempt: Callable[[int], object], batches: Iterable[int]) -> int:
    """Return the first of some batches for which an attempt succeeds; 0 if none."""
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
    """Where the memory is too small inside, measure and raise the batch that would fit.

    Arguments:
        key: Key of the batch, for the message.
        batch: Images at a time.
        attempt: Repeats the computation with a number of images.

    Raises:
        OutOfMemory: naming the key and the number that fits.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise

        traceback.clear_frames(error.__traceback__)  # they hold the tensors that did not fit
        largest = largest_that_fits(attempt, halves(batch))
        advice = f"{largest} would: say {key}={largest}" if largest else "nor does a single one"
        raise OutOfMemory(
            f"{key}: {batch} images at a time do not fit into the memory; {advice}"
        ) from None
