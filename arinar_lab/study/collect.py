"""Reading what the run folders of a study hold, once for all that compare and show it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..analysis.results import Results
from ..errors import ConfigError
from ..metrics import SPEED
from ..runs.folder import read_json
from .plan import Plan


def _refuse_words(report: dict[str, Any], path: Path) -> None:
    for section in ("metrics", "noise", "likelihood", "quality", "speed", "environment", "git"):
        if not isinstance(report.get(section, {}), dict):
            raise ConfigError(
                f"{path}: {section}: not a mapping of names to values; remove the file to "
                "evaluate anew"
            )

    for section in ("metrics", "noise"):
        for name, value in report.get(section, {}).items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ConfigError(
                    f"{path}: {section}.{name}: {value!r} is not a number; remove the file to "
                    "evaluate anew"
                )

    if report["metrics"].get(SPEED, 1) <= 0:
        raise ConfigError(f"{path}: metrics.{SPEED}: not above 0; remove the file to evaluate anew")


def collect(plan: Plan) -> Results:
    """Read what the run folders hold; unfinished cells are absent.

    Raises:
        ConfigError: if a report holds a metric that is no number.
    """
    reports: dict[str, dict[int, dict[str, Any]]] = {}
    for arm in plan.arms:
        cells = {seed: plan.cell(arm, seed) for seed in plan.seeds}
        found = {seed: folder.report(recipe) for seed, (folder, recipe) in cells.items()}
        reports[arm.name] = {seed: report for seed, report in found.items() if report}
        for seed, report in reports[arm.name].items():
            _refuse_words(report, cells[seed][0].evaluation(cells[seed][1]) / "report.json")
    return Results(plan, reports, read_json(plan.folder / "references.json"))
