"""Values and names in sentences and tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def join_names(names: Iterable[str]) -> str:
    """Names in a row; with semicolons between where one of them has a comma in it."""
    names = list(names)
    return ("; " if any("," in name for name in names) else ", ").join(names)


def breakable_name(name: str) -> str:
    """A name that can be broken behind each comma."""
    return ", ".join(part.strip() for part in name.split(","))


def short_value(value: Any) -> str:
    """A value as part of an arm's name."""
    if isinstance(value, dict):
        rest = [f"{k}={short_value(v)}" for k, v in value.items() if k != "kind"]
        return " ".join([str(value.get("kind", "")), *rest]).strip()
    if isinstance(value, list):
        return "+".join(map(short_value, value))
    return str(value)
