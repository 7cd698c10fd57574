"""Linear maps in the layout that a CPU multiplies by, while a model draws.

A matrix product first copies the weights into blocks that fit the processor's caches. Where the
same weights serve hundreds of products of few rows, that copy is a large part of the time; so it is
made once for a whole generation. oneDNN, which torch brings, does both. Where it has AVX-512 it
applies GELU to each block of the result while that is still in the cache; where it has not, its
GELU costs more than torch's own does afterwards (128 rows of 768 → 3072: 6.3 and 4.7 ms).

Under autocast to bfloat16 the copy is of bfloat16. On other devices, for other numbers and
where gradients are wanted nothing changes. While packed, the weights take memory twice (half as
much again in bfloat16).
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
    """A linear map that multiplies by its weights as they are, or `packed_weights`."""

    packed: Tensor | None = None

    def forward(self, x: Tensor, bias: Tensor | None = None, gelu: nn.GELU | None = None) -> Tensor:
        """x [*, inputs] → [*, outputs], with a bias in place of its own if one is
        given, and GELU behind it.
        """
        bias = self.bias if bias is None else bias
        if (
            self.packed is None
            or torch.is_grad_enabled()
            or self.packed.dtype != (numbers := _numbers())
        ):
            y = f.linear(x, self.weight, bias)
            return y if gelu is None else gelu(y)

        name, kind = "none", ""
        if gelu is not None and fuses_gelu():
            name, kind, gelu = "gelu", gelu.approximate, None
        bias = None if bias is None else bias.to(numbers)
        y = torch.ops.mkldnn._linear_pointwise(x.to(numbers), self.packed, bias, name, [], kind)

        return y if gelu is None else gelu(y)


@contextmanager
def packed_weights(model: nn.Module) -> Iterator[None]:
    """Within, the linear maps of `model` multiply by packed weights, which must
    not change meanwhile.
    """
    maps = (
        [m for m in model.modules() if isinstance(m, Packable) and _fits(m)] if _available() else []
    )
    for m in maps:
        m.packed = torch.ops.mkldnn._reorder_linear_weight(m.weight.detach().to(_numbers()))
    try:
        yield
    finally:
        for m in maps:
            m.packed = None


def has_native_matmul(device: torch.device, numbers: torch.dtype) -> bool:
    """Whether a device computes products of such numbers by instructions of its own.

    A CPU without them takes over a hundred times as long for bfloat16 as for float32.
    """
    if device.type != "cpu" or numbers != torch.bfloat16:
        return True
    told = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return told is not None and bool(told())


@cache
def fuses_gelu() -> bool:
    """Whether GELU is quicker as a part of the product than behind it."""
    return "AVX512" in torch.backends.cpu.get_cpu_capability()


def on_packed_weights(
    method: Callable[Concatenate[_Model, _P], _T],
) -> Callable[Concatenate[_Model, _P], _T]:
    """A method of a model, run while the model is `packed_weights`."""

    @wraps(method)
    def run(self: _Model, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with packed_weights(self):
            return method(self, *args, **kwargs)

    return run


def _available() -> bool:
    ops = torch.ops.mkldnn
    return (
        _numbers() in (torch.float32, torch.bfloat16)
        and has_native_matmul(torch.device("cpu"), _numbers())
        and torch.backends.mkldnn.is_available()
        and all(hasattr(ops, name) for name in ("_linear_pointwise", "_reorder_linear_weight"))
    )


def _numbers() -> torch.dtype:
    """What linear maps of float32 weights multiply in on the CPU, here and now."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


def _fits(m: Packable) -> bool:
    """Whether a map has weights of its own (a sharded one has not) that are worth packing,
    and are not packed yet.
    """
    w = m.weight.data
    plain = type(w) is Tensor and w.device.type == "cpu" and w.dtype == torch.float32
    return plain and m.packed is None and w.numel() >= SMALLEST
