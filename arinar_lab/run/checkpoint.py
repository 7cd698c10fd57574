"""Checkpoints on disk: written whole with a checksum, or not at all.

    checkpoints/step=200.ckpt  step=200.ckpt.sha256     the newest, and its SHA-256 as `sha256sum -c` reads it
    checkpoints/step=100.ckpt  step=100.ckpt.sha256     the one before it, used where the newest is damaged
    checkpoints/final.safetensors  ….sha256             the averaged weights after training

The checksum is written before the file gets its name, so that a named file without one is of an older version; that is
used where it can be read.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from . import disk
from .disk import rename, write
from .folder import RunFolder
from .schema import ConfigError
from .text import say

TRAIN_AGAIN = "delete the run's DONE to train it again from its last checkpoint"


def by_age(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the newest first."""
    return sorted(folder.glob("step=*.ckpt"), key=lambda path: int(path.stem.split("=")[1]), reverse=True)


def digest(path: Path) -> str:
    """SHA-256 of a file, or of all files in a folder (a checkpoint in shards)."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    sums = []
    for file in files:
        with file.open("rb") as content:
            sums.append(hashlib.file_digest(content, "sha256").hexdigest())
    return sums[0] if path.is_file() else hashlib.sha256("".join(sums).encode()).hexdigest()


def seal(draft: Path, path: Path) -> None:
    """Give a draft its name, and a checksum beside it."""
    write(_sum_of(path), f"{digest(draft)}  {path.name}\n")
    rename(draft, path)


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Tensors as safetensors with a checksum beside them, written whole or not at all.

    Raises:
        DiskFull: naming path and space.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.touch()
    usual = draft.stat().st_mode
    with room_for(path):
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, draft)
        draft.chmod(usual)  # safetensors lets nobody else read it
        seal(draft, path)


def _sum_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def altered(path: Path) -> bool:
    """Whether a file is not the one that its checksum is of; older versions wrote none for final weights."""
    file = _sum_of(path)
    return file.is_file() and file.read_text(encoding="utf-8", errors="replace").split()[:1] != [digest(path)]


def refuse_altered(path: Path) -> None:
    """Refuse final weights that are not those that training ended with.

    Raises:
        ConfigError: saying what to do.
    """
    if altered(path):
        raise ConfigError(f"{path}: damaged or edited (its checksum differs); {TRAIN_AGAIN}")


def remove(path: Path) -> None:
    """Remove a checkpoint, or what there is of it, and its checksum."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    _sum_of(path).unlink(missing_ok=True)


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Where the disk is full, say so with path and space, name the checkpoint that is intact, and leave no draft behind.

    Raises:
        DiskFull: naming them.
    """
    older = [p.name for p in by_age(path.parent) if p != path]
    with disk.room_for(path, path.with_suffix(".draft"), f"{older[0]} is intact" if older else ""):
        yield


def newest_checkpoint(folder: RunFolder) -> Path | None:
    """The newest checkpoint that is whole, or None where there is none.

    Raises:
        ConfigError: if there are checkpoints and none is whole.
    """
    paths = by_age(folder.checkpoints)
    for path in paths:
        fault = _fault(path)
        if not fault:
            return path
        say(f"{path}: damaged ({fault}), trying the one before it")
    if paths:
        raise ConfigError(
            f"{paths[0]}: damaged, and no older checkpoint is whole; delete it to train from the beginning"
        )
    return None


def _fault(path: Path) -> str:
    """What is wrong with a checkpoint; empty where it is whole."""
    if _sum_of(path).is_file():
        return "its checksum differs" if altered(path) else ""
    try:
        torch.load(path, map_location="cpu", weights_only=True)
        return ""
    except Exception as error:  # whatever a damaged file raises
        return type(error).__name__
