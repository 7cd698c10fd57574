"""The history of a run folder: its metrics.csv, unchanged since the run ended."""

from __future__ import annotations

from pathlib import Path

from ..files.history import read_history
from .folder import RunFolder


def read_metrics(file: Path) -> list[tuple[int, str, float]]:
    """Read the rows (step, name, value) of a metrics.csv; without the file there are none.

    Raises:
        ConfigError: if it is damaged, or was edited since its run ended.
    """
    if file.is_file():
        RunFolder(file.parent).refuse_edited(file.name)
    return read_history(file)
