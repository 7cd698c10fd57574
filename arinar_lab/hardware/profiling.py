"""Peak FLOP/s of a device, measured, and FLOPs of a computation, counted."""

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
    """Measure FLOP/s of the fastest product of two square matrices, plain or packed."""
    dtype = getattr(torch, precision)
    a = torch.randn(size, size, device=device, dtype=dtype)
    weights = Packable(size, size, bias=False, device=device)
    autocast = nullcontext() if precision == "float32" else torch.autocast(device.type, dtype)
    products: list[Callable[[], object]] = [lambda: a @ a] * repeats + [
        lambda: weights(a)
    ] * repeats

    with torch.no_grad(), autocast, packed_weights(weights):
        seconds = min(seconds_to_run(product, device) for product in products)
    return 2 * size**3 / seconds


def synchronised_time(device: torch.device) -> float:
    """Return the time in seconds once the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_to_run(work: Callable[[], object], device: torch.device) -> float:
    """Measure the seconds of some work on a device."""
    begun = synchronised_time(device)
    work()
    return synchronised_time(device) - begun


def flop_counter() -> FlopCounterMode:
    """Build torch's counter of matrix products and attention, extended to packed weights."""
    packed_product = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    mapping = {} if packed_product is None else {packed_product: _flops_of_packed_product}
    return FlopCounterMode(display=False, custom_mapping=mapping)


def _flops_of_packed_product(x: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    """Operations of x [*, inputs] times weight [outputs, inputs]."""
    return 2 * math.prod(x) * weight[0]


def flops_of(work: Callable[[], object]) -> float:
    """Count the floating-point operations of some work by `flop_counter`."""
    with flop_counter() as counter:
        work()
    return float(counter.get_total_flops())
