"""Rows from papers beside ours: numbers that somebody else measured, with the protocol
under which they did.

    references:
      - {name: GIVT, bits/dim: 3.1, protocol: 50k images, steps: 500 epochs,
         hardware: 16 TPUv4, source: arXiv 2312.02116}
      - scikit-learn    (the same as `references: true`: density estimators on our own data)

Metrics are named as ours, by name (`val/bits_per_dim`) or by the table's heading (`bits/dim`). Such
a row is marked as not ours, its protocol stands in the notes, and it is no part of any interval,
test, figure or ranking.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, did_you_mean

ESTIMATORS_KEY = "scikit-learn"
_SAID = ("protocol", "steps", "hardware", "source")
_NEEDED = ("name", "protocol", "source")


@dataclass(frozen=True)
class PaperRow:
    """A row of a table that is not ours.

    Arguments:
        name: of the model; values: our metric's name → theirs.
        protocol: how they measured; source: where they say so.
        steps, hardware: of their training; empty where they are not told.
    """

    name: str
    values: dict[str, float]
    protocol: str
    source: str
    steps: str = ""
    hardware: str = ""

    @property
    def note(self) -> str:
        """What stands behind the row, in a line."""
        training = (
            f"trained for {self.steps or 'unstated steps'} on "
            f"{self.hardware or 'unstated hardware'}"
        )
        return f"{self.name} (not ours; {self.source}): {self.protocol}; {training}."


def read_references(spec: Any) -> tuple[bool, tuple[PaperRow, ...]]:
    """Whether scikit-learn's estimators are asked for, and the rows from papers.

    Raises:
        ConfigError: if `references` is neither true, false nor a list of such rows.
    """
    if isinstance(spec, bool):
        return spec, ()
    if not isinstance(spec, list):
        raise ConfigError(f"references: {spec!r} is not true or false, nor a list of rows")

    rows = tuple(
        _row(row, f"references.{i}") for i, row in enumerate(spec) if row != ESTIMATORS_KEY
    )
    names = [row.name for row in rows]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"references: {twice[0]} stands there twice")

    return ESTIMATORS_KEY in spec, rows


def _row(row: Any, path: str) -> PaperRow:
    from ..metrics import COLUMNS  # which reads plans

    if not isinstance(row, dict):
        raise ConfigError(
            f"{path}: {row!r} is no row; write {{name: …, bits/dim: …, protocol: …, source: …}}"
        )
    if strange := [key for key in row if not isinstance(key, str)]:
        raise ConfigError(f"{path}: {strange[0]!r} is not a name")
    if missing := [key for key in _NEEDED if not row.get(key)]:
        typed = next(
            (
                key
                for key in row
                if key not in (*_SAID, "name") and missing[0] in did_you_mean(key, [missing[0]])
            ),
            "",
        )
        if typed:
            raise ConfigError(f"{path}.{typed}: unknown{did_you_mean(typed, [missing[0]])}")
        raise ConfigError(
            f"{path}.{missing[0]}: missing; a number that is not ours says {', '.join(_NEEDED)}"
        )
    ours = {name: column.metric for column in COLUMNS for name in (column.metric, column.heading)}
    values: dict[str, float] = {}
    for key, value in row.items():
        if key in (*_SAID, "name"):
            continue
        if key not in ours:
            headings = [column.heading for column in COLUMNS]
            raise ConfigError(
                f"{path}.{key}: no metric of ours; one of "
                f"{', '.join(headings)}{did_you_mean(key, list(ours))}"
            )
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not math.isfinite(value)
        ):
            raise ConfigError(f"{path}.{key}: {value!r} is not a number")
        values[ours[key]] = float(value)
    if not values:
        raise ConfigError(f"{path}: {row['name']} has no number of a metric of ours")
    return PaperRow(
        str(row["name"]),
        values,
        **{key: str(row[key]) for key in _SAID if row.get(key) is not None},
    )
