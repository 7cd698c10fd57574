"""Weights cut into shards, one for every process: FSDP2, torch's `fully_shard` (arXiv 2304.11277).

    every block     gathered for its call, forwards and backwards, and freed after it
    other weights   gathered while the model's loss or likelihood is computed

A parameter is a `DTensor` then: a process holds one slice along the first axis, and so it does of
gradient, optimiser state and average. The numbers are those of one process that holds all weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from ..model.heads.conditioned import ConditionedBlock
from ..model.layers import Block

SHARDED_BLOCKS = (Block, ConditionedBlock)
GATHERED_METHODS = ("loss", "log_prob")  # of the model; they gather weights outside blocks


def shard_model(model: nn.Module, mesh: DeviceMesh) -> None:
    """Cut a model's weights over the processes of a mesh, in place."""
    for module in list(model.modules()):
        if isinstance(module, SHARDED_BLOCKS):
            fully_shard(module, mesh=mesh)
    # between two calls every weight is a shard
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for name in GATHERED_METHODS:
        register_fsdp_forward_method(model, name)


@torch.no_grad()
def local_slice(value: Tensor) -> Tensor:
    """Return this process's slice of a tensor, or all of an unsharded one, without a copy."""
    return value.to_local().detach() if isinstance(value, DTensor) else value.detach()


def full_tensor(value: Tensor) -> Tensor:
    """Gather a whole tensor. Every process must call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def gather_slices(slices: Tensor, like: Tensor) -> Tensor:
    """Gather the whole tensor whose slices are laid out as `like`. Every process must call it."""
    if not isinstance(like, DTensor):
        return slices

    whole = DTensor.from_local(
        slices,
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )

    return whole.full_tensor().cpu()


def shard_of(value: Tensor, like: Tensor) -> Tensor:
    """Return this process's slice of a whole tensor that every process holds."""
    if not isinstance(like, DTensor):
        return value
    sharded = distribute_tensor(
        value.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )
    return sharded.to_local()
