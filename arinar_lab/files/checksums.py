"""Files with their SHA-256 in a second file, as `sha256sum -c` reads it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from . import atomic
from .atomic import files_of, rename, write_atomically


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files in a folder (a checkpoint in shards)."""
    sums = []
    for file in files_of(path):
        with file.open("rb") as content:
            sums.append(hashlib.file_digest(content, "sha256").hexdigest())
    return sums[0] if path.is_file() else hashlib.sha256("".join(sums).encode()).hexdigest()


def seal(draft: Path, path: Path) -> None:
    """Write the checksum of a draft, then rename the draft to `path`."""
    write_atomically(_sum_of(path), f"{file_digest(draft)}  {path.name}\n")
    rename(draft, path)


def save_tensors(path: Path, tensors: dict[str, Tensor], kept: str = "") -> None:
    """Write tensors and their checksum atomically, as safetensors.

    Arguments:
        path: The file.
        tensors: The tensors by name.
        kept: A sentence about what stays intact, for the message of a full disk.

    Raises:
        DiskFull: naming path and space.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.touch()
    mode = draft.stat().st_mode

    with atomic.disk_full_guard(path, draft, kept):
        on_host = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(on_host, draft)
        draft.chmod(mode)  # safetensors makes the file unreadable for other users
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
    """Remove a checkpoint, as far as it exists, and its checksum."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    _sum_of(path).unlink(missing_ok=True)
