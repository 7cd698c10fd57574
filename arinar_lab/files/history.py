"""The history of a run, metrics.csv: a row for each step and metric, as step,name,value."""

from __future__ import annotations

import csv
from pathlib import Path

from ..errors import ConfigError


def read_history(file: Path) -> list[tuple[int, str, float]]:
    """Rows (step, name, value) of a metrics.csv; empty where there is none.

    Raises:
        ConfigError: if it is damaged.
    """
    if not file.is_file():
        return []

    try:
        with file.open(newline="", encoding="utf-8") as lines:
            return [
                (int(r["step"]), r["name"], float(r["value"]))
                for r in csv.DictReader(lines)
                if r["value"]
            ]
    except (ValueError, KeyError, csv.Error) as error:
        raise ConfigError(
            f"{file}: damaged ({error}); delete it: its curves are lost, the run's results are not"
        ) from None
