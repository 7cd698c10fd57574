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


def abridged(name: str, letters: int) -> str:
    """A name of at most so many letters, without its middle: arms differ mostly at their end."""
    if len(name) <= letters:
        return name
    end = (letters - 1) * 2 // 3
    return f"{name[: letters - 1 - end]}…{name[len(name) - end :]}"


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
