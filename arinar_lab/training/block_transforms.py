"""Transforms of blocks that save memory or time and keep the numbers of training and drawing.

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
    model: nn.Module, machine: Machine, device: torch.device, report: Callable[[str], None]
) -> None:
    """Recompute or compile a model's blocks in training steps, as the machine section says.

    Arguments:
        model: The model, changed in place.
        machine: The recipe's machine section.
        device: Device that the model trains on.
        report: Called with a line where nothing can be compiled.
    """
    compiled = machine.compile and _compiles(device, "training", report)
    if not compiled and not machine.recompute:
        return
    for module in model.modules():
        if isinstance(module, SHARDED_BLOCKS):
            vars(module)["forward"] = _economical(module.forward, compiled, machine.recompute)


def undo_transforms(model: nn.Module) -> None:
    """Give a model's blocks their own forward again."""
    for module in model.modules():
        if isinstance(module, SHARDED_BLOCKS):
            vars(module).pop("forward", None)


def _economical(plain: Callable[..., Any], compiled: bool, recompute: bool) -> Callable[..., Any]:
    """Return a block's forward that saves memory or time wherever gradients are taken.

    Without gradients it is the plain one, since the caches of a walk have many lengths.
    """
    trained = torch.compile(plain) if compiled else plain

    def forward(*arguments: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*arguments, **options)
        if recompute:
            return checkpoint(trained, *arguments, use_reentrant=False, **options)
        return trained(*arguments, **options)

    return forward


def compiled_draws(machine: Machine, device: torch.device) -> AbstractContextManager[None]:
    """Compile features' inverse CDFs inside, where the machine section asks for it and it works."""
    compiled = machine.compile and _compiles(device, "drawing", rank_zero_warn)
    return compiled_quantiles() if compiled else nullcontext()


def _compiles(device: torch.device, activity: str, report: Callable[[str], None]) -> bool:
    """Whether code can be compiled for a device; where not, report the reason."""
    reason = _obstacle(device)
    if reason:
        report(
            f"machine.compile: nothing can be compiled for {device.type} here ({reason}); "
            f"{activity} goes on without"
        )
    return not reason


@cache
def _obstacle(device: torch.device) -> str:
    """Try to compile for a device, and return the reason of a failure; empty where it works."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
        return ""
    except Exception as error:  # a missing compiler may raise anything
        message = str(error).strip() or type(error).__name__
        return message.splitlines()[0][:120]
