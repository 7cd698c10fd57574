"""Checkpoints on disk, written atomically with a checksum.

    checkpoints/step=200.ckpt  step=200.ckpt.sha256     the newest, and its SHA-256 as
                                                        `sha256sum -c` reads it
    checkpoints/step=100.ckpt  step=100.ckpt.sha256     the one before it, used where
                                                        the newest is damaged
    checkpoints/final.safetensors  ….sha256             the averaged weights after training

The checksum is written before the file gets its name: a file that lacks it, or differs
from it, is damaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConfigError
from ..files import atomic
from ..files.checksums import damage
from ..output.text import say
from .folder import RunFolder

TRAIN_AGAIN = "delete the run's DONE to train it again from its last checkpoint"


def newest_first(folder: Path) -> list[Path]:
    """List the checkpoints of a folder, the newest first."""
    return sorted(folder.glob("step=*.ckpt"), key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """Read the step of a checkpoint from its name."""
    return int(checkpoint.stem.split("=")[1])


def refuse_altered(path: Path) -> None:
    """Refuse final weights that are not those that training ended with.

    Raises:
        ConfigError: saying what to do.
    """
    if fault := damage(path):
        raise ConfigError(f"{path}: damaged or edited ({fault}); {TRAIN_AGAIN}")


@contextmanager
def checkpoint_guard(path: Path) -> Iterator[None]:
    """Report a full disk with path, space and the intact checkpoint, and leave no draft behind.

    Raises:
        DiskFull: naming them.
    """
    with atomic.disk_full_guard(path, path.with_suffix(".draft"), intact_checkpoint(path)):
        yield


def intact_checkpoint(path: Path) -> str:
    """Name the newest checkpoint other than a file that cannot be written; empty without one."""
    for checkpoint in newest_first(path.parent):
        if checkpoint != path:
            return f"{checkpoint.name} is intact"
    return ""


def newest_checkpoint(folder: RunFolder) -> Path | None:
    """Find the newest checkpoint that is intact, or None where there are no checkpoints.

    Raises:
        ConfigError: if there are checkpoints and none is intact.
    """
    paths = newest_first(folder.checkpoints)
    for path in paths:
        fault = damage(path)
        if not fault:
            return path
        say(f"{path}: damaged ({fault}), trying the one before it")

    if paths:
        raise ConfigError(
            f"{paths[0]}: damaged, and no older checkpoint is whole; delete it to train "
            "from the beginning"
        )

    return None
