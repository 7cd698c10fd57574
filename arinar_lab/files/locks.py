"""Locks that say what they wait for. The system frees a lock when its holder dies."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import BaseFileLock, Timeout

from ..output.text import say

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
