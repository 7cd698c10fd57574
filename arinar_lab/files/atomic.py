"""Files on a disk that may be full, and that may lose power: written whole or not at
all, and said in a line.

Systems say "No space left on device" with neither path nor space, or less: numpy counts items,
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
MAX_NAME_BYTES = 200  # bytes of a name: systems take 255, and more is put before and behind it

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ROOM = 100.0  # megabytes: a place that has more is not the one that is full
# safetensors' and torch's, numpy's
_SAID = re.compile(r"No space left|File too large|^\d+ requested and \d+ written")


def is_disk_full(error: BaseException) -> bool:
    """Whether an error is that of a full disk."""
    told = (
        isinstance(error, OSError | SafetensorError | RuntimeError)
        and _SAID.search(str(error)) is not None
    )
    return isinstance(error, DiskFull) or getattr(error, "errno", None) in _FULL or told


def free_megabytes(path: Path) -> float:
    """Megabytes that are free in a folder, or where a file lies or shall lie."""
    return (
        shutil.disk_usage(
            next(place for place in (path.absolute(), *path.absolute().parents) if place.is_dir())
        ).free
        / 1e6
    )


@contextmanager
def disk_full_guard(path: Path, draft: Path | None = None, kept: str = "") -> Iterator[None]:
    """Where the disk is full, say so with the path and the space; whatever goes wrong,
    leave no draft behind.

    Arguments:
        draft: what is written and then named `path`; kept: what is intact, if
            that is not to be seen.

    Raises:
        DiskFull: naming path and space; what was there before is intact.
    """
    try:
        yield
    except BaseException as error:
        written = draft.stat().st_size / 1e6 if draft and draft.is_file() else 0.0
        _remove(draft)
        # that names a file already
        if not is_disk_full(error) or (isinstance(error, DiskFull) and not draft):
            raise
        place = path if draft else _fullest(path, error)
        share = (
            f"{written:.1f} MB were written, and {free_megabytes(place):.1f} MB are free "
            "without them"
            if written
            else ""
        )
        intact = f"; {kept}" if kept else ""
        what = "shared memory" if place == SHARED_MEMORY else "the disk"
        raise DiskFull(
            f"{place}: {what} is full:"
            f" {share or f'{free_megabytes(place):.1f} MB are free'}{intact}. Make room, and the"
            " same command goes on"
        ) from error


def _fullest(path: Path, error: BaseException) -> Path:
    """Which place an error without a file's name is about: `path`, shared memory or temporary
    files, by what is free.
    """
    named = getattr(error, "filename", None)
    if named:
        return Path(os.fsdecode(named))
    if getattr(error, "errno", None) == errno.EDQUOT or free_megabytes(path) < _ROOM:
        return path

    others = [
        place
        for place in (SHARED_MEMORY, Path(tempfile.gettempdir()))
        if place.is_dir() and free_megabytes(place) < _ROOM
    ]

    return min([path, *others], key=free_megabytes)


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

    broken = [place for place in (path, *path.parents) if place.is_symlink() and not place.exists()]
    if broken:
        raise ConfigError(f"{option}: {str(broken[0])!r} is a link that leads nowhere")

    ancestors = [place for place in (path, *path.absolute().parents) if place.exists()]
    folder = path.absolute().parent if path.is_file() else ancestors[0]
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"{option}: nothing can be written into {str(folder)!r}: {error.strerror}"
        ) from None


def sync_to_disk(path: Path) -> None:
    """Make the system put a file, or all files of a folder, on the disk; a power cut
    loses nothing of it then.
    """
    for file in [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]:
        with file.open("rb") as content:
            os.fsync(content.fileno())


def rename(draft: Path, path: Path) -> None:
    """Give a draft its name, once it is on the disk: after a power cut there is the old file
    or the new one, whole.
    """
    sync_to_disk(draft)
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems refuse it for folders
            os.fsync(folder)
    finally:
        os.close(folder)


def write_atomically(path: Path, text: str, durable: bool = True) -> None:
    """Write a text file whole or not at all.

    Arguments:
        durable: whether a power cut may not undo it, which takes milliseconds.

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
