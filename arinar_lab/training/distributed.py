"""Several processes that train one run, by Lightning and torch.distributed.

    ddp      every process holds the whole model; gradients are averaged
    fsdp2    every process holds a slice of every weight, gradient and average (`sharding.py`)
    auto     ddp where there is more than one process

`training.batch` is the global batch: of W processes the r-th takes every W-th image of it, from the
r-th on. Randomness is keyed by the image, so one process and several train on the same numbers and
differ by the order of sums alone. The first process starts the others as copies of its own command;
they train, write nothing, and end. Or torchrun or Slurm's srun starts them all, which their
environment variables say. A run of one process ignores those variables.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from ..config.build import build
from ..config.sections import Machine, Recipe
from ..errors import ConfigError
from ..runs.folder import RunFolder
from ..variables import RUN_VARIABLE

_OF_LAUNCHERS = (
    "RANK",
    "LOCAL_RANK",
    "NODE_RANK",
    "GROUP_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_NTASKS",
)
_SET_BY_LIGHTNING = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def is_alone(machine: Machine) -> bool:
    """Whether one process trains the run."""
    return machine.devices * machine.num_nodes == 1


def ignore_launchers() -> None:
    """Remove the rank that torchrun or Slurm has set for this process.

    An interactive allocation or a stray variable would otherwise make one process wait for
    more, or write nothing.
    """
    for name in _OF_LAUNCHERS:
        os.environ.pop(name, None)
    # Lightning reads the variables when it is imported
    LightningEnvironment().set_global_rank(0)


def launcher(machine: Machine) -> ClusterEnvironment:
    """Detect what has started the processes of a run: torchrun, srun, or the first process."""
    if not is_alone(machine) and TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if not is_alone(machine) and SLURMEnvironment.detect():
        return SLURMEnvironment(auto_requeue=False)  # it would save in the middle of a step
    return LightningEnvironment()


def is_follower(machine: Machine) -> bool:
    """Whether another process leads the run that this one helps to train."""
    if is_alone(machine):
        return False
    started_by = launcher(machine)
    if isinstance(started_by, LightningEnvironment):
        return started_by.node_rank() > 0 or started_by.local_rank() > 0
    return started_by.global_rank() > 0


def check_share(recipe: Recipe) -> None:
    """Refuse an uneven share of the batch, and numbers of processes that torchrun did not start.

    Raises:
        ConfigError: naming it.
    """
    m = recipe.machine
    batch = recipe.training.batch
    world = m.devices * m.num_nodes
    if batch % world:
        raise ConfigError(
            f"training.batch: {batch} images cannot be shared by {world} processes evenly"
        )
    if batch // world % m.accumulate:
        raise ConfigError(
            f"machine.accumulate: {m.accumulate} parts of {batch // world} images cannot be equal"
        )

    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    total = int(os.environ.get("WORLD_SIZE", 1))
    if "TORCHELASTIC_RUN_ID" in os.environ and (local, total) != (m.devices, world):
        raise ConfigError(
            f"machine.devices: torchrun has started {local} processes here; say"
            f" machine.devices={local} machine.num_nodes={total // local}"
        )

    try:
        launcher(m).validate_settings(m.devices, m.num_nodes)
    except (RuntimeError, ValueError) as error:  # of Slurm
        raise ConfigError(f"machine.devices: {' '.join(str(error).split())}") from None


def check_sharding(recipe: Recipe) -> None:
    """Refuse what fsdp2 cannot train.

    Raises:
        ConfigError: naming it.
    """
    if recipe.machine.strategy != "fsdp2":
        return
    if recipe.training.precision not in ("32-true", "bf16-mixed"):
        raise ConfigError(
            f"training.precision: {recipe.training.precision} is not for fsdp2; use "
            "32-true or bf16-mixed"
        )

    if recipe.freeze == "outer":
        raise ConfigError(
            "freeze: outer trains a small inner model alone, which needs no fsdp2; use "
            "machine.strategy=ddp"
        )

    for name, p in build(recipe, "meta").model.named_parameters():
        if p.dim() == 0:
            raise ConfigError(
                f"machine.strategy: fsdp2 cannot cut {name}, a single number (of dyt); use ddp"
            )


def strategy(recipe: Recipe) -> Strategy | str:
    """Choose Lightning's strategy. Buffers are constants and are never broadcast."""
    m = recipe.machine
    if m.strategy == "fsdp2":  # a checkpoint is one file, as of any other strategy
        return ModelParallelStrategy(m.devices * m.num_nodes, 1, save_distributed_checkpoint=False)
    if m.strategy == "ddp" or m.devices * m.num_nodes > 1:
        return DDPStrategy(forward_sync_buffers=False)
    return "auto"


@contextmanager
def restored_process(folder: RunFolder) -> Iterator[None]:
    """Leave the process as it was: the same one evaluates alone, and trains other runs, when
    the others have ended.
    """
    before = {name: os.environ.get(name) for name in (*_SET_BY_LIGHTNING, RUN_VARIABLE.name)}
    os.environ[RUN_VARIABLE.name] = str(folder.path)

    try:
        yield
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
