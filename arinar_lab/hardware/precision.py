"""The dtypes in which a trained model is evaluated: `evaluation.precision`.

float32     everything
bfloat16    matrix products of the outer model and the trunk, by autocast; densities stay float32
auto        likelihood in float32; images in bfloat16 where the model is wide and this device
            multiplies much faster in it, which is measured; else in float32
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from lightning.pytorch.utilities import rank_zero_warn

from ..model.packed_linear import has_native_matmul
from .profiling import MatmulDtype, peak_flops

MIN_SPEEDUP = 1.5  # times as fast
MATMUL_DTYPES: dict[str, MatmulDtype] = {
    "32-true": "float32",
    "bf16-mixed": "bfloat16",
    "16-mixed": "bfloat16",
}
"""Lightning's precision → the dtype of matrix products, or one that is as fast."""


def autocast_to(precision: MatmulDtype, device: torch.device) -> AbstractContextManager[object]:
    """Compute matrix products inside in a dtype; warn where the device only emulates it."""
    if precision == "float32":
        return nullcontext()
    warn_of_emulation(device, precision)
    return torch.autocast(device.type, getattr(torch, precision))


def warn_of_emulation(device: torch.device, precision: MatmulDtype) -> None:
    """Warn, once, that a device has no instructions for products in a dtype."""
    if not has_native_matmul(device, getattr(torch, precision)):
        rank_zero_warn(
            f"this processor has no instructions for {precision}: its products take over a "
            "hundred times as long"
        )


@cache
def faster_dtype(device: torch.device) -> MatmulDtype:
    """Return bfloat16 where large products are `MIN_SPEEDUP` times as fast in it, else float32."""
    if not has_native_matmul(device, torch.bfloat16):
        return "float32"
    speedup = matmul_flops(device, "bfloat16") / matmul_flops(device, "float32")
    return "bfloat16" if speedup > MIN_SPEEDUP else "float32"


def matmul_flops(device: torch.device, precision: MatmulDtype) -> float:
    """Measure FLOP/s of a device's matrix products briefly; torch's random state is restored."""
    size, repeats = (4096, 10) if device.type == "cuda" else (512, 5)
    with torch.random.fork_rng():
        return peak_flops(device, precision, size, repeats)
