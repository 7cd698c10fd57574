"""What makes a training step smaller or faster and leaves its numbers as they are.

    recompute    a block keeps its input alone, and is computed again on the way back (arXiv 1604.06174): a third more
                 computation, and of the memory that grows with batch and depth one input a block is left
    compile      a block's forward is compiled; numbers differ by rounding

Both stand before a block's `forward`, so that names of weights stay, and hooks (of shards) see every call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .config import Machine
from .sharded import BLOCKS


def economise(model: nn.Module, machine: Machine, device: torch.device, told: Callable[[str], None]) -> None:
    """Recompute or compile a model's blocks in training steps, as the machine section says.

    Arguments:
        device: which it will train on; told: is told where nothing can be compiled.
    """
    compiled = machine.compile and _compiles(device, told)
    for module in model.modules():
        if isinstance(module, BLOCKS) and (compiled or machine.recompute):
            setattr(module, "forward", _economical(module.forward, compiled, machine.recompute))  # noqa: B010


def _economical(plain: Callable[..., Any], compiled: bool, recompute: bool) -> Callable[..., Any]:
    """A block's forward, and the economical one for where gradients are taken: caches of a walk have many lengths."""
    trained = torch.compile(plain) if compiled else plain

    def forward(*words: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*words, **named)
        return checkpoint(trained, *words, use_reentrant=False, **named) if recompute else trained(*words, **named)

    return forward


def _compiles(device: torch.device, told: Callable[[str], None]) -> bool:
    """Whether something can be compiled for a device, found out by doing it."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
        return True
    except Exception as error:  # whatever a compiler that is not there raises
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        told(f"machine.compile: nothing can be compiled for {device.type} here ({reason}); training goes on without")
        return False
