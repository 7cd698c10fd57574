"""What makes a training step smaller or faster, and drawing faster, and leaves their
numbers as they are.

    recompute    a block keeps its input alone, and is computed again on the way back
                 (arXiv 1604.06174): a third more computation, and of the memory that grows with
                 batch and depth one input a block is left
    compile      a block's forward in a training step, and a guided feature's inverse CDF while
                 images are drawn, are compiled; numbers differ by rounding

In training both stand before a block's `forward`, so that names of weights stay, and hooks (of
shards) see every call.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..config.sections import Machine
from ..model.density import compiled_quantiles
from .sharding import SHARDED_BLOCKS


def transform_blocks(
    model: nn.Module, machine: Machine, device: torch.device, told: Callable[[str], None]
) -> None:
    """Recompute or compile a model's blocks in training steps, as the machine section says.

    Arguments:
        device: which it will train on; told: is told where nothing can be compiled.
    """
    compiled = machine.compile and _compiles(device, "training", told)
    for module in model.modules():
        if isinstance(module, SHARDED_BLOCKS) and (compiled or machine.recompute):
            setattr(module, "forward", _economical(module.forward, compiled, machine.recompute))  # noqa: B010


def undo_transforms(model: nn.Module) -> None:
    """Give a model's blocks their own forward again."""
    for module in model.modules():
        if isinstance(module, SHARDED_BLOCKS):
            vars(module).pop("forward", None)


def _economical(plain: Callable[..., Any], compiled: bool, recompute: bool) -> Callable[..., Any]:
    """A block's forward, and the economical one for where gradients are taken: caches of a
    walk have many lengths.
    """
    trained = torch.compile(plain) if compiled else plain

    def forward(*words: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*words, **named)
        return (
            checkpoint(trained, *words, use_reentrant=False, **named)
            if recompute
            else trained(*words, **named)
        )

    return forward


def compiled_draws(machine: Machine, device: torch.device) -> AbstractContextManager[None]:
    """Where images are drawn: with features' inverse CDFs compiled, if the machine section says
    so and it can be done.
    """
    compiled = machine.compile and _compiles(device, "drawing", rank_zero_warn)
    return compiled_quantiles() if compiled else nullcontext()


def _compiles(device: torch.device, what: str, told: Callable[[str], None]) -> bool:
    """Whether something can be compiled for a device; where not, `told` is told once why, and
    that `what` goes on.
    """
    if reason := _obstacle(device):
        told(
            f"machine.compile: nothing can be compiled for {device.type} here ({reason}); {what} "
            "goes on without"
        )
    return not reason


@cache
def _obstacle(device: torch.device) -> str:
    """Why nothing can be compiled for a device, found out by doing it; empty where it can."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
        return ""
    except Exception as error:  # whatever a compiler that is not there raises
        return (
            str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        )
