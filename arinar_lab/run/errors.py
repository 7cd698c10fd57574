"""What is raised for bad input, and the hint at a name that was probably meant. It imports nothing of weight."""

from __future__ import annotations

import difflib
from typing import Any


class ConfigError(ValueError):
    """A fault in what the user wrote, told in one line."""


def nearest(name: Any, valid: list[str]) -> str:
    """A hint at the valid name that was probably meant, or nothing."""
    close = difflib.get_close_matches(str(name), valid, 1, 0.5)
    return f"; did you mean {close[0]}?" if close else ""
