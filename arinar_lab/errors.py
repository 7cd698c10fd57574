"""Errors that the command line reports in one line. This module imports only
the standard library.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class ArinarError(Exception):
    """An error that is reported in one line; the process then ends with `exit_status`."""

    exit_status = 1


class ConfigError(ArinarError, ValueError):
    """The user's input is at fault.

    Arguments:
        message: what is wrong and what to do; key: what it is about, which is printed first.
    """

    exit_status = 2

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key

    def __str__(self) -> str:
        message = super().__str__()
        return f"{self.key}: {message}" if self.key else message


class DiskFull(ArinarError, OSError):
    """The disk is full: which file, how much is free, what is intact, and what to do."""


class OutOfMemory(ArinarError, RuntimeError):
    """A batch does not fit into the memory; the message names the key and a value that would."""


class Diverged(ArinarError, RuntimeError):
    """The loss is no longer finite."""


class Damaged(ArinarError, RuntimeError):
    """More images are damaged than the recipe allows, or one cannot be read as 8 bits.

    A process of a DataLoader hands its error over as a traceback; the message is
    the last line of it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.strip().rpartition("Damaged: ")[2])


class StorageUnavailable(ConfigError):
    """A storage does not answer: a command that starts refuses it, and a worker waits for it."""


class StorageUnusable(ArinarError):
    """Waiting does not mend a storage: it is deleted, damaged, read-only or closed to this user."""


Faults = type[Exception] | tuple[type[Exception], ...]


@contextmanager
def prefixed(key: str) -> Iterator[None]:
    """Put a key before the key of a fault that is raised inside: `path: no such file` in
    `data` is at `data.path`.

    A part of a model raises a plain ValueError whose text begins with the name of its argument. A
    ConfigError whose key stands under this one already passes unchanged.

    Raises:
        ConfigError: in place of any ValueError.
    """
    try:
        yield
    except ValueError as error:
        if isinstance(error, ConfigError) and (not key or f"{error.key}.".startswith(f"{key}.")):
            raise
        name, message = _key_and_message(error)
        raise ConfigError(message, key=".".join(filter(None, (key, name)))) from None


def _key_and_message(error: ValueError) -> tuple[str, str]:
    """Return the key that an error names, empty where it names none, and its message."""
    if isinstance(error, ConfigError):
        return error.key, str(error.args[0])
    key, colon, message = str(error).partition(": ")
    return (key, message) if colon else ("", str(error))


@contextmanager
def located(place: object, faults: Faults = ConfigError) -> Iterator[None]:
    """Put a file, an arm or a word before a fault that is raised inside, as in
    `study.yaml: seeds: missing`.

    A ConfigError that begins with it already passes unchanged.

    Arguments:
        faults: the types of errors that are reported so.

    Raises:
        ConfigError: in place of these.
    """
    try:
        yield
    except faults as error:
        if isinstance(error, ConfigError) and str(error).startswith(f"{place}: "):
            raise
        raise ConfigError(str(error), key=str(place)) from None


def did_you_mean(name: Any, valid: list[str]) -> str:
    """Return a hint at the valid name that was probably meant, or nothing."""
    close = difflib.get_close_matches(str(name), valid, 1, 0.5)
    return f"; did you mean {close[0]}?" if close else ""
