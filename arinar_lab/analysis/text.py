"""Values and names in sentences and tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def join_names(names: Iterable[str]) -> str:
    """Names in a row; with semicolons between where one of them has a comma in it."""
    names = list(names)
    separator = "; " if "," in "".join(names) else ", "
    return separator.join(names)


def breakable_name(name: str) -> str:
    """A name that can be broken behind each comma."""
    return ", ".join(map(str.strip, name.split(",")))


def short_value(value: Any) -> str:
    """A value as part of an arm's name."""
    if isinstance(value, list):
        return "+".join(map(short_value, value))
    if not isinstance(value, dict):
        return str(value)

    settings = dict(value)
    words = [str(settings.pop("kind", ""))]
    for key, setting in settings.items():
        words.append(f"{key}={short_value(setting)}")
    return " ".join(words).strip()
