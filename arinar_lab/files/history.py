"""The history of a run, metrics.csv: rows of step,name,value, one for each step and metric."""

from __future__ import annotations

import csv
from pathlib import Path

from ..errors import ConfigError


def read_history(file: Path) -> list[tuple[int, str, float]]:
    """Read the rows (step, name, value) of a metrics.csv; without the file there are none.

    Raises:
        ConfigError: if it is damaged.
    """
    if not file.is_file():
        return []

    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = [row for row in csv.DictReader(lines) if row["value"]]
        return [(int(row["step"]), row["name"], float(row["value"])) for row in rows]
    except (ValueError, KeyError, csv.Error) as error:
        raise ConfigError(
            f"{file}: damaged ({error}); delete it: its curves are lost, the run's results are not"
        ) from None
