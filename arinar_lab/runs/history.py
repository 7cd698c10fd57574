"""The history of a run folder: its metrics.csv, as it was when the run ended."""

from __future__ import annotations

from pathlib import Path

from ..files.history import read_history
from .folder import RunFolder


def read_metrics(file: Path) -> list[tuple[int, str, float]]:
    """Rows (step, name, value) of a metrics.csv; empty where there is none.

    Raises:
        ConfigError: if it is damaged, or was edited since its run ended.
    """
    if file.is_file():
        RunFolder(file.parent).refuse_edited(file.name)
    return read_history(file)
