"""The command `arinar`. Verbs come first, then a file, then overrides as key=value; dashes are for options of the process.

Everything heavy is imported inside the verb that needs it, so that --help answers at once. Bad input is one line on
standard error and exit status 2, before anything is computed or written.
"""

from __future__ import annotations

import os
import sys

from .parent import end_with
from .words import parser


def main(words: list[str] | None = None) -> None:
    """Run the command line and leave with its exit status."""
    whole = parser()
    arguments, rest = whole.parse_known_args(words)  # overrides may follow an option, too
    if rest and (not hasattr(arguments, "overrides") or any(word.startswith("-") for word in rest)):
        whole.prog += f" {next(word for word in words or sys.argv[1:] if word[:1] != '-')}"
        whole.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        if "ARINAR_HELPS" in os.environ:  # see run/blocks.py
            end_with(int(os.environ["ARINAR_HELPS"]))
        status = arguments.verb(arguments)
    except KeyboardInterrupt:
        print("Stopped. The same command goes on where it stopped.", file=sys.stderr)
        status = 130
    except SystemExit as error:
        if type(error).__name__ != "SIGTERMException":  # Lightning's, once a checkpoint is saved
            raise
        print("Stopped by SIGTERM. The same command goes on where it stopped.", file=sys.stderr)
        status = 143
    except Exception as error:
        told = _told(error)
        if told is None:
            raise
        print(f"arinar: {told[0]}", file=sys.stderr)
        status = told[1]
    sys.exit(status or 0)


def _told(error: Exception) -> tuple[str, int] | None:
    """What is said of an error in one line, and the exit status: 2 for bad input, 1 for a run that failed; None for a bug."""
    from arinar_lab.run.schema import ConfigError

    if isinstance(error, ConfigError):
        return str(error), 2
    if isinstance(error, (PermissionError, NotADirectoryError, IsADirectoryError)) and error.filename:
        return f"{error.filename}: {error.strerror}", 2
    failed = type(error).__name__ in ("Diverged", "Damaged", "OutOfMemory", "DiskFull", "Unusable")
    return (str(error), 1) if failed else None
