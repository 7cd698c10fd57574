"""The report of a study: its tables and figures, written into its folder.

Every number carries its interval over seeds; a difference whose interval holds zero is called not resolved.
"""

from __future__ import annotations

from pathlib import Path

from ..run.figures import draw_beliefs
from ..run.folder import write
from . import ranking
from .figures import draw
from .results import Results
from .tables import csv_of, markdown


def write_report(results: Results) -> list[Path]:
    """Write table.md, table.csv and figure.png into the study's folder; returns their paths."""
    folder = results.plan.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "table.md", markdown(results))
    write(folder / "table.csv", csv_of(results))
    paths = [folder / "table.md", folder / "table.csv"]
    if results.any_report:
        draw(results, folder / "figure.png")
        paths.append(folder / "figure.png")
    if ranking.agreements(results):
        ranking.draw(results, folder / "ranks.png")
        paths.append(folder / "ranks.png")
    if beliefs := _beliefs(results):
        draw_beliefs(beliefs, folder / "beliefs.png")
        paths.append(folder / "beliefs.png")
    return paths


def _beliefs(results: Results) -> dict[str, Path]:
    """Arm → what it believes under the first finished seed, of the arms that see the same tokens as the baseline."""
    found: dict[str, Path] = {}
    for arm in results.plan.arms:
        same = arm.recipe.codec == results.baseline.recipe.codec
        cells = (results.plan.cell(arm, seed) for seed in results.reports[arm.name] if same)
        files = (folder.evaluation(recipe) / "beliefs.npz" for folder, recipe in cells)
        if file := next((file for file in files if file.is_file()), None):
            found[arm.name] = file
    return found
