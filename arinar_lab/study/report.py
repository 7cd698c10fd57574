"""The report of a study, written into its folder:

    table.md  table.tex  table.csv      the table; as CSV one row a run
    methods.md                          how the numbers came about, for a paper
    <figure>.png  <figure>.pdf          see `figures.py`
    report.html                         all of it as one page that opens from disk

Every number carries its interval over seeds, and that over images where it was measured; what a paired test does not
resolve is called not resolved. A study that is not finished is reported, too, and what is missing is named.
"""

from __future__ import annotations

from pathlib import Path

from ..run.disk import room_for, write
from .figures import FIGURES
from .latex import latex
from .page import page
from .protocol import methods
from .results import Results
from .tables import csv_of, markdown


def write_report(results: Results) -> list[Path]:
    """Write the report into the study's folder; returns the paths of its files, the page first."""
    folder = results.plan.folder / "report"
    with room_for(folder):
        return _written(results, folder)


def _written(results: Results, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {figure.name: paths for figure in FIGURES if (paths := figure.write(results, folder))}
    texts = {
        "report.html": page(results, {name: paths[0] for name, paths in drawn.items()}),
        "table.md": markdown(results),
        "table.tex": latex(results),
        "table.csv": csv_of(results),
        "methods.md": methods(results),
    }
    for name, text in texts.items():
        write(folder / name, text)
    return [*(folder / name for name in texts), *(path for paths in drawn.values() for path in paths)]
