"""The errors that the command line reports in one line, and the hint at a name
that was probably meant.
"""

from __future__ import annotations

import difflib
from typing import Any


class ConfigError(ValueError):
    """A fault in what the user wrote, told in one line."""


def did_you_mean(name: Any, valid: list[str]) -> str:
    """A hint at the valid name that was probably meant, or nothing."""
    close = difflib.get_close_matches(str(name), valid, 1, 0.5)
    return f"; did you mean {close[0]}?" if close else ""


class RunFailed(Exception):
    """A run failed, and the message says why and what to do, in one line."""
