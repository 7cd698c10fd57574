"""Files on a disk that may be full, and that may lose power: written whole or not at all, and said in a line.

Systems say "No space left on device" with neither path nor space, or less: numpy counts items, SQLite has errors of its own.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SAID = re.compile(r"No space left|File too large|^\d+ requested and \d+ written")  # safetensors', numpy's


class DiskFull(OSError):
    """The disk is full: which file, how much is free, what is intact, and what to do."""


def is_full(error: BaseException) -> bool:
    """Whether an error is that of a full disk."""
    told = isinstance(error, OSError | SafetensorError) and _SAID.search(str(error)) is not None
    return isinstance(error, DiskFull) or getattr(error, "errno", None) in _FULL or told


def free(path: Path) -> float:
    """Megabytes that are free where a file lies, or shall lie."""
    return shutil.disk_usage(next(place for place in path.absolute().parents if place.is_dir())).free / 1e6


@contextmanager
def room_for(path: Path, draft: Path | None = None, kept: str = "") -> Iterator[None]:
    """Where the disk is full, say so with the path and the space; whatever goes wrong, leave no draft behind.

    Arguments:
        draft: what is written and then named `path`; kept: what is intact, if that is not to be seen.

    Raises:
        DiskFull: naming path and space; what was there before is intact.
    """
    try:
        yield
    except BaseException as error:
        written = draft.stat().st_size / 1e6 if draft and draft.is_file() else 0.0
        _remove(draft)
        if not is_full(error) or (isinstance(error, DiskFull) and not draft):  # that names a file already
            raise
        share = f"{written:.1f} MB were written, and {free(path):.1f} MB are free without them" if written else ""
        intact = f"; {kept}" if kept else ""
        raise DiskFull(
            f"{path}: the disk is full: {share or f'{free(path):.1f} MB are free'}{intact}."
            " Make room, and the same command goes on"
        ) from error


def _remove(draft: Path | None) -> None:
    if draft and draft.is_dir():
        shutil.rmtree(draft)
    elif draft:
        draft.unlink(missing_ok=True)


def force(path: Path) -> None:
    """Make the system put a file, or all files of a folder, on the disk; a power cut loses nothing of it then."""
    for file in [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]:
        with file.open("rb") as content:
            os.fsync(content.fileno())


def rename(draft: Path, path: Path) -> None:
    """Give a draft its name, once it is on the disk: after a power cut there is the old file or the new one, whole."""
    force(draft)
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems refuse it for folders
            os.fsync(folder)
    finally:
        os.close(folder)


def write(path: Path, text: str, durable: bool = True) -> None:
    """Write a text file whole or not at all.

    Arguments:
        durable: whether a power cut may not undo it, which takes milliseconds.

    Raises:
        DiskFull: naming path and space.
    """
    draft = path.with_name(f".{path.name[:200]}.{os.getpid()}")
    with room_for(path, draft):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text)
        rename(draft, path) if durable else draft.replace(path)


def append(path: Path, text: str) -> None:
    """Add to a text file.

    Raises:
        DiskFull: naming path and space.
    """
    with room_for(path), path.open("a", newline="") as file:
        file.write(text)
