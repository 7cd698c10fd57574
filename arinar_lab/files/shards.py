"""Work cut into blocks, each of which is a file: made once, by whoever claims it first, written
whole or not at all.

    folder/train-00000.safetensors    a block, and its SHA-256 in train-00000.safetensors.sha256
    folder/.train-00000.lock          held by who makes it; the system frees it when its holder dies

So the same command resumes, and any number of processes share the work by running it side by side.
What a block holds may depend on its number alone: then one process and several make the same files.
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
from .checksums import file_digest, remove_sealed
from .locks import QUIET_SECONDS, hold_lock

_BLOCK = re.compile(r"\.?\d{8,}-\d{8,}\.")  # a block, its checksum, its draft, its lock
ProgressCallback = Callable[[int, int], None]
"""Is told how many blocks there are, and of how many."""


def make_shards(
    blocks: Sequence[Path], make: Callable[[int], None], told: ProgressCallback
) -> None:
    """Make what is missing of the blocks, beside others who do the same, and come
    back when all are there.

    Arguments:
        blocks: their files; make: makes the one of that number.
    """
    for block in blocks:
        block.parent.mkdir(parents=True, exist_ok=True)
    since, is_said = time.monotonic(), False
    while missing := [i for i, block in enumerate(blocks) if not block.exists()]:
        told(len(blocks) - len(missing), len(blocks))
        if sum([_claimed(blocks, i, make, told) for i in missing]):
            since, is_said = time.monotonic(), False
            continue
        if time.monotonic() - since > QUIET_SECONDS and not is_said:
            say(
                f"waiting for other processes, which make {len(missing)} of {len(blocks)} blocks",
                sys.stderr,
            )
            is_said = True
        time.sleep(0.5)

    told(len(blocks), len(blocks))
    for block in blocks:
        _lock(block).unlink(missing_ok=True)


def _claimed(
    blocks: Sequence[Path], i: int, make: Callable[[int], None], told: ProgressCallback
) -> bool:
    """Make a block if nobody else does; whether it was made."""
    try:
        with FileLock(_lock(blocks[i]), timeout=0):
            if blocks[i].exists():
                return False
            make(i)
    except Timeout:
        return False

    told(sum(block.exists() for block in blocks), len(blocks))
    return True


def assemble(path: Path, write: Callable[[Path], None], folder: Path) -> None:
    """Write the file that the blocks in a folder are for, by one process alone; then
    remove these blocks.

    The folder is removed if nothing else is in it.
    """
    with hold_lock(FileLock(_lock(path)), f"writes {path}"):
        if not path.exists():
            with atomic_draft(path, durable=True) as draft:
                write(draft)

    for file in folder.glob("*"):
        if _BLOCK.match(file.name) and not file.is_dir():
            file.unlink(missing_ok=True)

    with suppress(OSError):
        folder.rmdir()
    _lock(path).unlink(missing_ok=True)


def block_name(span: range) -> str:
    """The name of the file that holds the items of a range."""
    return f"{span.start:08}-{span.stop - 1:08}.safetensors"


def refuse_foreign(folder: Path, path: Path) -> None:
    """Refuse a folder for the blocks of a file that exists and holds anything but blocks.

    Raises:
        ConfigError: naming one of the other files.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(
            f"{folder}: is a file, and the parts of {path} go into a folder of that name; move it"
        )
    foreign = sorted(file.name for file in folder.glob("*") if not _BLOCK.match(file.name))
    if foreign:
        raise ConfigError(
            f"{folder}: holds {foreign[0]!r}, and the parts of {path} go into a folder of that"
            " name; move it, or name another file"
        )


def _lock(block: Path) -> Path:
    return block.with_name(f".{block.stem}.lock")


def damaged_shards(blocks: Sequence[Path]) -> list[Path]:
    """The blocks that differ from their checksums, read whole."""
    return [block for block in blocks if block.exists() and not _whole(block)]


def _whole(block: Path) -> bool:
    file = block.with_name(block.name + ".sha256")
    return file.is_file() and file.read_text(encoding="utf-8").split()[:1] == [file_digest(block)]


def discard(blocks: Sequence[Path]) -> None:
    """Remove blocks and their checksums, to be made anew."""
    for block in blocks:
        remove_sealed(block)


@contextmanager
def helper_processes(workers: int | None, device: str = "cpu") -> Iterator[None]:
    """Run this command `workers` - 1 times more beside this process, on a GPU each
    where there are any.

    Where nobody says how many, there is one process for each GPU if `device` is cuda, else this one
    alone. The others end with it, however that ends, and leave what they have made.
    """
    command = [sys.executable, "-m", "arinar_lab", *sys.argv[1:]]
    asked = workers or (torch.cuda.device_count() if device == "cuda" else 1)
    helps = 0 if HELPER_VARIABLE.read() else asked  # who helps has no helpers
    others = [
        subprocess.Popen(command, env=_environment(i), stdout=subprocess.DEVNULL)
        for i in range(1, helps)
    ]

    try:
        yield
    finally:
        end_processes(others)


def end_processes(processes: Sequence[subprocess.Popen[bytes]], seconds: float = 20) -> None:
    """Ask processes to end, and kill those that have not ended after so many
    seconds, or at a Ctrl-C.
    """
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
    environment = {**os.environ, HELPER_VARIABLE.name: str(os.getpid())}
    if gpus := torch.cuda.device_count():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
        environment["CUDA_VISIBLE_DEVICES"] = visible[i % gpus]
    return environment


@contextmanager
def progress_bar(name: str) -> Iterator[ProgressCallback]:
    """A progress bar of blocks on a terminal, with the time that is left."""
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
