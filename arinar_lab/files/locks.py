"""Locks that say what they wait for. The system frees a lock when its holder dies."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from ..output.text import say

SPEED_LOCK = "arinar-speed-of-all.lock"  # in the folder for temporary files
QUIET_SECONDS = 3.0  # that a lock is waited for without a word


@contextmanager
def hold_lock(lock: BaseFileLock, purpose: str) -> Iterator[None]:
    """Hold a lock, and say so where another process makes this one wait.

    Arguments:
        purpose: what the other process does, as in "measures speed".
    """
    try:
        lock.acquire(timeout=QUIET_SECONDS)
    except Timeout:
        say(
            f"waiting for another process, which {purpose} ({lock.lock_file} is locked)", sys.stderr
        )
        lock.acquire()

    try:
        yield
    finally:
        lock.release()


def is_lock_free(lock: BaseFileLock) -> bool:
    """Whether no process holds a lock."""
    try:
        with lock.acquire(timeout=0):
            return True
    except Timeout:
        return False


def speed_lock() -> AbstractContextManager[None]:
    """Lock the machine for a measurement of speed, of all its users: one measures at a time."""
    path = Path(tempfile.gettempdir()) / SPEED_LOCK
    return hold_lock(FileLock(path, mode=0o666), "measures speed")
