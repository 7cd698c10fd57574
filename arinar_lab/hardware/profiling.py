"""What a device can do at most: the rate of its matrix products, measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Literal

import torch

from ..model.packed_linear import Packable, packed_weights

MatmulDtype = Literal["float32", "bfloat16"]


def peak_flops(
    device: torch.device, precision: MatmulDtype, size: int = 2048, repeats: int = 20
) -> float:
    """FLOP/s of the quickest of some products of two square matrices, one of them
    packed where that can be.
    """
    numbers = getattr(torch, precision)
    a, weights = (
        torch.randn(size, size, device=device, dtype=numbers),
        Packable(size, size, bias=False, device=device),
    )
    half = nullcontext() if precision == "float32" else torch.autocast(device.type, numbers)
    with torch.no_grad(), half, packed_weights(weights):
        return (
            2
            * size**3
            / min(
                seconds_to_run(work, device)
                for work in (lambda: a @ a, lambda: weights(a))
                for _ in range(repeats)
            )
        )


def synchronised_time(device: torch.device) -> float:
    """Seconds, once the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_to_run(work: Callable[[], object], device: torch.device) -> float:
    begun = synchronised_time(device)
    work()
    return synchronised_time(device) - begun
