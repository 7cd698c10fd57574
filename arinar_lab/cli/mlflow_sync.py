"""Synchronisation of run folders and MLflow: each side gets the runs that it lacks.

Sending twice adds nothing. Fetching is for workers that share no file system: a cell's report,
configuration and samples come from the artifacts of the run with its training signature, seed and
evaluation signature. Its weights stay on the other machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from ..analysis.analyse import Analysis
from ..analysis.results import ArmResult, Results
from ..config.files import read_recipe
from ..config.sections import parse_recipe
from ..errors import ConfigError
from ..files.workspace import HERE
from ..metrics import BITS, DISTANCES, GAP, LEVEL, SPEED
from ..report.statements import EVALUATION_NOISE, TRAINING_NOISE
from ..report.tables import report_markdown
from ..runs.folder import RunFolder, open_run_folder
from ..runs.history import read_metrics
from ..study.plan import Plan, axis_labels
from ..tracking import server
from ..tracking.connection import PATIENCE, is_off
from ..tracking.server import REPORTED
from ..tracking.tracker import Tracker, note_view, noted_views, report_stamp

_SHOWN = {BITS, LEVEL, GAP, *DISTANCES, SPEED}
_NOTE = 15_000  # characters of an experiment's note; MLflow takes 20,000 of a tag


def send_study(
    plan: Plan, analysis: Analysis, files: list[Path], patience: float = PATIENCE
) -> tuple[str, list[Path]]:
    """Send a study's runs, arms and report to MLflow; returns the dashboard's address and the runs
    that were not sent.

    Arguments:
        files: The files of the report.
        patience: Seconds that each run may wait.
    """
    if is_off():
        return "", []

    results = analysis.results
    unsent: list[Path] = []
    tracker = Tracker(plan.name, patience * len(plan.cells))
    published = tracker.published()
    for arm, result in zip(plan.arms, results.arms, strict=True):
        factors = plan.factors(arm)
        for seed in plan.seeds_of(arm):
            folder, recipe = plan.cell(arm, seed)
            stamp = report_stamp(recipe, folder)
            if not stamp:
                continue
            note_view(recipe, arm.name, folder, plan.name)
            if published.get((arm.name, str(seed), stamp), set()) >= {"arm", *factors}:
                continue
            report = result.reports.get(seed)
            if not tracker.publish(recipe, arm.name, folder, read_metrics, factors, report):
                unsent.append(folder.path)

        numbers = _numbers(analysis, result)
        if numbers:
            text = _described(analysis, result)
            tracker.publish_arm(arm.recipe, arm.name, numbers, _samples(result), text)

    tracker.publish_study(files, _tags(analysis, axis_labels(plan.axes)))
    return tracker.link("arms"), unsent


def _numbers(analysis: Analysis, arm: ArmResult) -> dict[str, float]:
    """The number of seeds, and each metric's mean over seeds with the half-widths of its 95 %
    intervals over seeds and over images.
    """
    numbers: dict[str, float] = {}
    for column in analysis.columns:
        metric = column.metric
        summary = arm.summary(metric)
        if summary is None:
            continue

        numbers[metric] = summary.mean
        numbers["n"] = float(len(arm.reports))
        if summary.n > 1:
            numbers[f"{metric}.half95"] = summary.half
        noise = arm.evaluation_noise(metric)
        if noise is not None:
            numbers[f"{metric}.half95_images"] = noise
    return numbers


def _described(analysis: Analysis, arm: ArmResult) -> str:
    """The description of an arm's run in the dashboard."""
    results = analysis.results
    seeds = ", ".join(map(str, arm.reports))
    baseline = ", the baseline" if analysis.is_baseline(arm.name) else ""

    return (
        f"**{arm.name}**{baseline} of the study {results.name}. {results.question}\n\n"
        f"Each metric is the mean over seeds {seeds}. `.half95` is the half-width of the"
        f" {TRAINING_NOISE}, `.half95_images` that of the {EVALUATION_NOISE}. The seeds are the"
        " runs below this one; what may be concluded stands in the experiment's description."
    )


def _samples(arm: ArmResult) -> Path | None:
    """The picture of the arm's first finished seed; None where no seed has one."""
    for seed in arm.reports:
        file = arm.folders[seed].evaluation / "samples" / "grid.png"
        if file.is_file():
            return file
    return None


def _tags(analysis: Analysis, labels: list[str]) -> dict[str, str]:
    """The study's note and views in the dashboard."""
    note = report_markdown(analysis)
    if len(note) > _NOTE:
        start = note[:_NOTE].rpartition("\n")[0]
        note = f"{start}\n\n(The rest stands in table.md, an artifact of the run `report`.)"
    metrics = [column.metric for column in analysis.columns if column.metric in _SHOWN]
    tags = {REPORTED: str(time.time()), "mlflow.note.content": note}
    return tags | server.experiment_views(analysis.results.criterion, metrics, labels)


def send_runs(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Send single runs, each to its experiments; returns the sent runs and the others.

    Raises:
        ConfigError: if one is no run folder.
    """
    sent: list[Path] = []
    unsent: list[Path] = []
    trackers: dict[str, Tracker] = {}
    for folder in list(map(open_run_folder, paths)):
        is_sent = True
        own_recipe = parse_recipe(read_recipe(folder.path / "config.yaml"))
        for experiment, arm, recipe in noted_views(own_recipe, folder):
            tracker = trackers.setdefault(experiment, Tracker(experiment, float("inf")))
            is_sent &= tracker.publish(recipe, arm, folder, read_metrics)
        if is_sent:
            sent.append(folder.path)
        else:
            unsent.append(folder.path)

    return sent, unsent


def all_runs(root: Path = HERE.runs) -> list[Path]:
    """Every run folder that MLflow should show.

    Raises:
        ConfigError: if there is none.
    """
    noted = [file.parent for file in root.glob("*/seed_*/tracking.json")]
    runs = [path for path in sorted(noted) if (path / "config.yaml").is_file()]
    if not runs:
        raise ConfigError(f"sync: {root} holds no runs")
    return runs


def fetch(plan: Plan, results: Results) -> list[RunFolder]:
    """Fetch from MLflow the reports that these results lack; returns their runs."""
    tracker = Tracker(plan.name)
    arms = {arm.name: arm for arm in plan.arms}
    fetched = []
    for arm, seed in results.missing:
        folder, recipe = plan.cell(arms[arm.name], seed)
        if tracker.fetch(recipe, folder):
            fetched.append(folder)

    return fetched
