"""Atomic writes to a disk that may be full or lose power, with a full disk reported in one line.

Systems report "No space left on device" with neither path nor space, or less: numpy counts items,
SQLite has errors of its own.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from ..errors import ConfigError, DiskFull

SHARED_MEMORY = Path("/dev/shm")  # where Linux keeps memory that processes share
MAX_NAME_BYTES = 200  # of a file's name: systems take 255, and drafts add a prefix and a suffix

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ROOM = 100.0  # megabytes: a place that has more is not the one that is full
# messages of safetensors and torch, and of numpy
_MESSAGE = re.compile(r"No space left|File too large|^\d+ requested and \d+ written")


def is_disk_full(error: BaseException) -> bool:
    """Whether an error is that of a full disk."""
    if isinstance(error, DiskFull) or getattr(error, "errno", None) in _FULL:
        return True
    is_of_files = isinstance(error, OSError | SafetensorError | RuntimeError)
    return is_of_files and _MESSAGE.search(str(error)) is not None


def free_megabytes(path: Path) -> float:
    """Return the free megabytes of a folder, or of the folder of a present or future file."""
    place = path.absolute()
    while not place.is_dir():
        place = place.parent
    return shutil.disk_usage(place).free / 1e6


@contextmanager
def disk_full_guard(path: Path, draft: Path | None = None, kept: str = "") -> Iterator[None]:
    """Report a full disk with the path and its space, and leave no draft behind after any error.

    Arguments:
        path: The file that is written.
        draft: The file that is written first and then renamed to `path`.
        kept: A sentence about what stays intact, for the message.

    Raises:
        DiskFull: naming path and space; the former file is intact.
    """
    try:
        yield
    except BaseException as error:
        written = draft.stat().st_size / 1e6 if draft and draft.is_file() else 0.0
        _remove(draft)
        is_named = isinstance(error, DiskFull) and not draft
        if not is_disk_full(error) or is_named:
            raise

        place = path if draft else _fullest(path, error)
        store = "shared memory" if place == SHARED_MEMORY else "the disk"
        space = f"{free_megabytes(place):.1f} MB are free"
        if written:
            space = f"{written:.1f} MB were written, and {space} without them"
        intact = f"; {kept}" if kept else ""
        raise DiskFull(
            f"{place}: {store} is full: {space}{intact}. Make room, and the same command goes on"
        ) from error


def _fullest(path: Path, error: BaseException) -> Path:
    """Return the file that an error names, else the fullest of `path`, shared memory and temp."""
    named = getattr(error, "filename", None)
    if named:
        return Path(os.fsdecode(named))
    if getattr(error, "errno", None) == errno.EDQUOT or free_megabytes(path) < _ROOM:
        return path

    places = [path]
    for place in (SHARED_MEMORY, Path(tempfile.gettempdir())):
        if place.is_dir() and free_megabytes(place) < _ROOM:
            places.append(place)
    return min(places, key=free_megabytes)


def _remove(draft: Path | None) -> None:
    if draft and draft.is_dir():
        shutil.rmtree(draft)
    elif draft:
        draft.unlink(missing_ok=True)


@contextmanager
def atomic_draft(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a draft to write, of the same suffix and in the same folder; it gets the name
    `path` once it is written.

    Arguments:
        durable: whether a power cut may not undo it, which takes milliseconds.

    Raises:
        DiskFull: naming path and space; then, as after any other error, what was
            at `path` is intact.
    """
    begin = os.fsencode(path.name)[:200].decode(errors="ignore")
    draft = path.with_name(f".{begin}.{os.getpid()}{path.suffix}")
    with disk_full_guard(path, draft):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        rename(draft, path) if durable else draft.replace(path)


def check_output(path: Path, option: str = "--out") -> None:
    """Refuse a path at which neither a file nor a folder can be made. Nothing is left behind.

    Raises:
        ConfigError: naming the option, the path and the reason.
    """
    size = len(os.fsencode(path.name))
    if size > MAX_NAME_BYTES:
        raise ConfigError(
            f"{option}: '{path.name[:40]}…' is too long: {size} bytes, and a name may have "
            f"{MAX_NAME_BYTES}"
        )

    for place in (path, *path.parents):
        if place.is_symlink() and not place.exists():
            raise ConfigError(f"{option}: {str(place)!r} is a link that leads nowhere")

    folder = path.absolute().parent if path.is_file() else path
    while not folder.exists():
        folder = folder.absolute().parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"{option}: nothing can be written into {str(folder)!r}: {error.strerror}"
        ) from None


def sync_to_disk(path: Path) -> None:
    """Sync a file, or all files of a folder, to the disk, so that a power cut loses nothing."""
    for file in files_of(path):
        with file.open("rb") as content:
            os.fsync(content.fileno())


def files_of(path: Path) -> list[Path]:
    """List a file, or all files of a folder and its sub-folders, sorted."""
    return sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else [path]


def rename(draft: Path, path: Path) -> None:
    """Rename a draft once it is on the disk: a power cut leaves the old file or the new one."""
    sync_to_disk(draft)
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems refuse it for folders
            os.fsync(folder)
    finally:
        os.close(folder)


def write_atomically(path: Path, text: str, durable: bool = True) -> None:
    """Write a text file atomically.

    Arguments:
        path: The file.
        text: Its content.
        durable: Whether it is synced against power cuts, which takes milliseconds.

    Raises:
        DiskFull: naming path and space.
    """
    with atomic_draft(path, durable) as draft:
        # a file's name may be no UTF-8
        draft.write_text(text, encoding="utf-8", errors="surrogateescape")


def append_text(path: Path, text: str) -> None:
    """Add to a text file.

    Raises:
        DiskFull: naming path and space.
    """
    with (
        disk_full_guard(path),
        path.open("a", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        file.write(text)
