"""The command `arinar`. Verbs come first, then a file, then overrides as key=value; dashes are for
options of the process.

Everything heavy is imported inside the verb that needs it, so that --help answers at once. Bad
input is one line on standard error and exit status 2, before anything is computed or written.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..errors import ArinarError
from ..output.text import accept_any_letter, one_line, say
from ..variables import HELPER_VARIABLE
from .parser import parser
from .processes import end_with_parent

_ENDING = (signal.SIGTERM, signal.SIGHUP)
_STATUSES = (128 + signal.SIGTERM, 128 + signal.SIGHUP)


def main(words: list[str] | None = None) -> None:
    """Run the command line and leave with its exit status."""
    accept_any_letter()
    arguments = _parse(sys.argv[1:] if words is None else words)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with _ending_in_order():
        status = _status(arguments)
    sys.exit(status)


def _parse(words: list[str]) -> argparse.Namespace:
    """The arguments of a command line; a malformed one ends the process."""
    whole = parser()
    if "\0" in "".join(words):  # of a caller in Python; a shell passes none
        whole.error("a word holds a NUL")

    arguments, remainder = whole.parse_known_args(words)
    if not remainder:
        return arguments

    # overrides may follow an option, too
    options = [word for word in remainder if word.startswith("-")]
    if options or not hasattr(arguments, "overrides"):
        verb = next(word for word in words if not word.startswith("-"))
        whole.prog += f" {verb}"
        whole.error(f"unrecognized arguments: {' '.join(remainder)}")
    arguments.overrides = [*arguments.overrides, *remainder]
    return arguments


def _status(arguments: argparse.Namespace) -> int:
    """Run a verb, and print a line where it ends early; returns the exit status."""
    try:
        helped_process = HELPER_VARIABLE.read()
        if helped_process:
            end_with_parent(int(helped_process))
        status: int = arguments.verb(arguments) or 0
    except KeyboardInterrupt:
        say("Stopped. The same command goes on where it stopped.", file=sys.stderr)
        status = 130
    except SystemExit as leave:
        if leave.code not in _STATUSES:
            raise
        status = int(leave.code)
        name = signal.Signals(status - 128).name
        with suppress(OSError):  # the terminal that hung up
            say(f"Stopped by {name}. The same command goes on where it stopped.", file=sys.stderr)
    except BrokenPipeError:
        # whoever read the output has closed it, as in `arinar status FILE | head`
        # for the interpreter's last flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except Exception as error:
        outcome = _message_and_status(error)
        if outcome is None:
            raise
        sys.unraisablehook = lambda _: None  # what torch's half-made loaders say as they go
        message, status = outcome
        say(f"arinar: {one_line(message)}", file=sys.stderr)

    return status


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """Leave by an exception on SIGTERM and SIGHUP, once: another one while the process
    ends changes nothing.
    """

    def leave(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + number)

    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _ENDING} if is_main else {}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_REFUSED_PATH = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENXIO,
)
"""What the system says of a path that the user has named. A missing file is not among them: that
may be a bug of ours.
"""


def _message_and_status(error: Exception) -> tuple[str, int] | None:
    """The line that reports an error, and the exit status: 2 for bad input, 1 for a run that
    failed; None for a bug.
    """
    if isinstance(error, ArinarError):
        return str(error), error.exit_status
    if isinstance(error, OSError) and error.filename and error.errno in _REFUSED_PATH:
        return f"{os.fsdecode(error.filename)}: {error.strerror}", 2
    notes = getattr(error, "__notes__", [])  # of a run that failed, see pipeline.py
    return (f"{type(error).__name__}: {error}; {notes[-1]}", 1) if notes else None
