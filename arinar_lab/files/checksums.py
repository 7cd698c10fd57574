"""Files with a SHA-256 beside them, as `sha256sum -c` reads it: written whole, looked at
again, removed together.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from . import atomic
from .atomic import rename, write_atomically


def file_digest(path: Path) -> str:
    """SHA-256 of a file, or of all files in a folder (a checkpoint in shards)."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    sums = []
    for file in files:
        with file.open("rb") as content:
            sums.append(hashlib.file_digest(content, "sha256").hexdigest())
    return sums[0] if path.is_file() else hashlib.sha256("".join(sums).encode()).hexdigest()


def seal(draft: Path, path: Path) -> None:
    """Give a draft its name, and a checksum beside it."""
    write_atomically(_sum_of(path), f"{file_digest(draft)}  {path.name}\n")
    rename(draft, path)


def save_tensors(path: Path, tensors: dict[str, Tensor], kept: str = "") -> None:
    """Tensors as safetensors with a checksum beside them, written whole or not at all.

    Arguments:
        kept: what is intact where the disk is full, if that is not to be seen.

    Raises:
        DiskFull: naming path and space.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.touch()
    usual = draft.stat().st_mode
    with atomic.disk_full_guard(path, draft, kept):
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, draft
        )
        draft.chmod(usual)  # safetensors lets nobody else read it
        seal(draft, path)


def _sum_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def damage(path: Path) -> str:
    """Compare a file with the checksum beside it. The result says what is wrong; it is
    empty where nothing is.
    """
    file = _sum_of(path)
    if not file.is_file():
        return "its checksum is missing"

    noted = file.read_text(encoding="utf-8", errors="replace").split()[:1]
    return "" if noted == [file_digest(path)] else "its checksum differs"


def remove_sealed(path: Path) -> None:
    """Remove a checkpoint, or what there is of it, and its checksum."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    _sum_of(path).unlink(missing_ok=True)
