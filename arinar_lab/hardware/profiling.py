"""FLOP/s that a device reaches at most, measured; FLOPs that a computation needs, counted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

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


def flop_counter() -> FlopCounterMode:
    """Torch's counter of matrix products and attention; products by packed weights count, too."""
    packed_product = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    mapping = {} if packed_product is None else {packed_product: _flops_of_packed_product}
    return FlopCounterMode(display=False, custom_mapping=mapping)


def _flops_of_packed_product(x: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    """Operations of x [*, inputs] times weight [outputs, inputs]."""
    return 2 * math.prod(x) * weight[0]


def flops_of(work: Callable[[], object]) -> float:
    """Floating-point operations of some work, by `flop_counter`."""
    with flop_counter() as counter:
        work()
    return float(counter.get_total_flops())
