"""Shards of a large job. A shard is one file; the process that locks it first writes it atomically.

    folder/train-00000.safetensors    a shard, and its SHA-256 in train-00000.safetensors.sha256
    folder/.train-00000.lock          held by its maker; the system frees it when its holder dies

So the same command resumes, and any number of processes share the work by running it at once.
The content of a shard depends on its number alone, so one process and several make the same files.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from ..errors import ConfigError
from ..output.text import say
from ..variables import HELPER_VARIABLE
from .atomic import atomic_draft
from .checksums import damage, remove_sealed
from .locks import QUIET_SECONDS, hold_lock

_SHARD = re.compile(r"\.?\d{8,}-\d{8,}\.")  # a shard, its checksum, its draft, its lock
ProgressCallback = Callable[[int, int], None]
"""Called with (finished shards, all shards)."""


def make_shards(
    shards: Sequence[Path], make: Callable[[int], None], progress: ProgressCallback
) -> None:
    """Make the missing shards, shared with other processes, and return when all exist.

    Arguments:
        shards: Their files.
        make: Makes the shard of a number.
        progress: Called whenever a shard is finished.
    """
    for folder in {shard.parent for shard in shards}:
        folder.mkdir(parents=True, exist_ok=True)

    waiting_since = time.monotonic()
    is_reported = False
    while missing := _missing(shards):
        progress(len(shards) - len(missing), len(shards))
        count = sum([_make_unclaimed(shards, i, make, progress) for i in missing])
        if count:
            waiting_since = time.monotonic()
            is_reported = False
            continue
        if time.monotonic() - waiting_since > QUIET_SECONDS and not is_reported:
            say(
                f"waiting for other processes, which make {len(missing)} of {len(shards)} blocks",
                sys.stderr,
            )
            is_reported = True
        time.sleep(0.5)

    progress(len(shards), len(shards))
    for shard in shards:
        _lock(shard).unlink(missing_ok=True)


def _missing(shards: Sequence[Path]) -> list[int]:
    """List the numbers of the shards that do not exist."""
    return [i for i, shard in enumerate(shards) if not shard.exists()]


def _make_unclaimed(
    shards: Sequence[Path], i: int, make: Callable[[int], None], progress: ProgressCallback
) -> bool:
    """Make a shard unless another process makes or has made it; return whether it was made."""
    try:
        with FileLock(_lock(shards[i]), timeout=0):
            if shards[i].exists():
                return False
            make(i)
    except Timeout:
        return False

    progress(len(shards) - len(_missing(shards)), len(shards))
    return True


def assemble(path: Path, write: Callable[[Path], None], folder: Path) -> None:
    """Write the file that a folder's shards are for, in one process, and remove the shards.

    The folder is removed if it is then empty.
    """
    with hold_lock(FileLock(_lock(path)), f"writes {path}"):
        if not path.exists():
            with atomic_draft(path, durable=True) as draft:
                write(draft)

    for file in folder.glob("*"):
        if _SHARD.match(file.name) and not file.is_dir():
            file.unlink(missing_ok=True)

    with suppress(OSError):
        folder.rmdir()
    _lock(path).unlink(missing_ok=True)


def block_name(span: range) -> str:
    """Return the name of the shard that holds the items of a range."""
    return f"{span.start:08}-{span.stop - 1:08}.safetensors"


def refuse_foreign(folder: Path, path: Path) -> None:
    """Refuse a folder for the shards of a file that holds anything but shards.

    Raises:
        ConfigError: naming one of the foreign files.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(
            f"{folder}: is a file, and the parts of {path} go into a folder of that name; move it"
        )

    foreign = [file.name for file in folder.glob("*") if not _SHARD.match(file.name)]
    if foreign:
        raise ConfigError(
            f"{folder}: holds {min(foreign)!r}, and the parts of {path} go into a folder of that"
            " name; move it, or name another file"
        )


def _lock(shard: Path) -> Path:
    return shard.with_name(f".{shard.stem}.lock")


def damaged_shards(shards: Sequence[Path]) -> list[Path]:
    """List the shards that exist and differ from their checksums; reads all of them."""
    return [shard for shard in shards if shard.exists() and damage(shard)]


def discard(shards: Sequence[Path]) -> None:
    """Remove shards and their checksums, so that they are made again."""
    for shard in shards:
        remove_sealed(shard)


@contextmanager
def helper_processes(workers: int | None, device: str = "cpu") -> Iterator[None]:
    """Run this command in `workers` - 1 more processes, each on a GPU of its own where possible.

    The default is one process for each GPU if `device` is cuda, else this process alone. The
    helpers end with this process, however it ends; their finished shards stay.
    """
    command = [sys.executable, "-m", "arinar_lab", *sys.argv[1:]]
    count = workers or (torch.cuda.device_count() if device == "cuda" else 1)
    helpers: list[subprocess.Popen[bytes]] = []
    if not HELPER_VARIABLE.read():  # a helper has no helpers
        for i in range(1, count):
            process = subprocess.Popen(command, env=_environment(i), stdout=subprocess.DEVNULL)
            helpers.append(process)

    try:
        yield
    finally:
        end_processes(helpers)


def end_processes(processes: Sequence[subprocess.Popen[bytes]], seconds: float = 20) -> None:
    """Terminate processes, and kill those that still run after `seconds`, or at a Ctrl-C."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.send_signal(signal.SIGTERM)

    limit = time.monotonic() + seconds
    try:
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, limit - time.monotonic()))
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()


def _environment(i: int) -> dict[str, str]:
    """Return the environment of the i-th process, which sees one GPU where there are any."""
    environment = {**os.environ, HELPER_VARIABLE.name: str(os.getpid())}
    gpus = torch.cuda.device_count()
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus))))
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[i % gpus]
    return environment


@contextmanager
def progress_bar(name: str) -> Iterator[ProgressCallback]:
    """Show a progress bar of shards on a terminal, with the remaining time."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from ..output.terminal import Terminal, description_column

    columns = (
        description_column(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Terminal(), disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
