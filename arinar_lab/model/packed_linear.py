"""Linear maps with weights in the CPU's own layout, for generation.

A matrix product first copies the weights into blocks that fit the processor's caches. In hundreds
of products of few rows that copy takes a large part of the time, so a generation copies once.
oneDNN, a part of torch, does both. With AVX-512 it applies GELU to each block of the result in the
cache; without, its GELU is slower than torch's own (128 rows of 768 → 3072: 6.3 and 4.7 ms).

Under autocast to bfloat16 the copy is in bfloat16. Other devices, other dtypes and computations
with gradients use the weights as they are. The copy takes the weights' memory again (half of it in
bfloat16).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as f

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Model = TypeVar("_Model", bound=nn.Module)

SMALLEST = 128 * 128  # weights of a matrix below which a call costs more than the layout saves


class Packable(nn.Linear):
    """A linear map that can multiply by packed weights, see `packed_weights`."""

    packed: Tensor | None = None

    def forward(self, x: Tensor, bias: Tensor | None = None, gelu: nn.GELU | None = None) -> Tensor:
        """x [*, inputs] → [*, outputs], with `bias` in place of its own, and `gelu` behind it."""
        bias = self.bias if bias is None else bias
        if self.packed is None or torch.is_grad_enabled() or self.packed.dtype != _cpu_dtype():
            y = f.linear(x, self.weight, bias)
            return y if gelu is None else gelu(y)

        name, kind = "none", ""
        if gelu is not None and fuses_gelu():
            name, kind = "gelu", gelu.approximate
            gelu = None
        x = x.to(self.packed.dtype)
        bias = None if bias is None else bias.to(self.packed.dtype)
        y = torch.ops.mkldnn._linear_pointwise(x, self.packed, bias, name, [], kind)

        return y if gelu is None else gelu(y)


@contextmanager
def packed_weights(model: nn.Module) -> Iterator[None]:
    """A context in which the linear maps of `model` multiply by packed weights.

    The weights must not change inside it.
    """
    packed: list[Packable] = []
    if _available():
        packed += [m for m in model.modules() if isinstance(m, Packable) and _fits(m)]

    for m in packed:
        m.packed = torch.ops.mkldnn._reorder_linear_weight(m.weight.detach().to(_cpu_dtype()))
    try:
        yield
    finally:
        for m in packed:
            m.packed = None


def has_native_matmul(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a device has instructions for products of a dtype.

    A CPU without them takes over a hundred times as long for bfloat16 as for float32.
    """
    if device.type != "cpu" or dtype != torch.bfloat16:
        return True
    is_supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return is_supported is not None and bool(is_supported())


@cache
def fuses_gelu() -> bool:
    """Whether GELU inside the product is faster than behind it."""
    return "AVX512" in torch.backends.cpu.get_cpu_capability()


def on_packed_weights(
    method: Callable[Concatenate[_Model, _P], _T],
) -> Callable[Concatenate[_Model, _P], _T]:
    """A method of a model, run inside `packed_weights` of the model."""

    @wraps(method)
    def run(self: _Model, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with packed_weights(self):
            return method(self, *args, **kwargs)

    return run


def _available() -> bool:
    dtype = _cpu_dtype()
    ops = torch.ops.mkldnn
    return (
        dtype in (torch.float32, torch.bfloat16)
        and has_native_matmul(torch.device("cpu"), dtype)
        and torch.backends.mkldnn.is_available()
        and hasattr(ops, "_linear_pointwise")
        and hasattr(ops, "_reorder_linear_weight")
    )


def _cpu_dtype() -> torch.dtype:
    """The dtype of products with float32 weights on the CPU, under the present autocast."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


def _fits(m: Packable) -> bool:
    """Whether a map has whole (not sharded), large, unpacked float32 weights on the CPU."""
    w = m.weight.data
    is_plain = type(w) is Tensor and w.device.type == "cpu" and w.dtype == torch.float32
    return is_plain and m.packed is None and w.numel() >= SMALLEST
