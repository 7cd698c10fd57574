"""Run folders and MLflow brought together: what is missing there is sent, what is
missing here is fetched.

Sending twice adds nothing. Fetching is for workers that share no file system: a cell's report,
configuration and samples come from the artifacts of the run with its training signature, seed and
evaluation signature; its weights stay where they are.
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

_NOTE = 15_000  # characters of an experiment's note; MLflow takes 20,000 of a tag


def send_study(
    plan: Plan, analysis: Analysis, files: list[Path], patience: float = PATIENCE
) -> tuple[str, list[Path]]:
    """Show a study in MLflow as its run folders tell it; returns the dashboard's address
    and the runs not sent.

    Arguments:
        files: the report's; patience: seconds that each run may wait.
    """
    if is_off():
        return "", []

    results = analysis.results
    unsent: list[Path] = []
    tracker = Tracker(plan.name, patience * len(plan.arms) * len(plan.seeds))

    published = tracker.published()
    for arm, result in zip(plan.arms, results.arms, strict=True):
        factors = plan.factors(arm)
        for seed in plan.seeds:
            folder, recipe = plan.cell(arm, seed)
            if stamp := report_stamp(recipe, folder):
                note_view(recipe, arm.name, folder, plan.name)
                if published.get((arm.name, str(seed), stamp), set()) >= {"arm", *factors}:
                    continue
                if not tracker.publish(
                    recipe, arm.name, folder, read_metrics, factors, result.reports.get(seed)
                ):
                    unsent.append(folder.path)

        if numbers := _numbers(analysis, result):
            tracker.publish_arm(
                arm.recipe, arm.name, numbers, _samples(result), _described(analysis, result)
            )

    tracker.publish_study(files, _tags(analysis, axis_labels(plan.axes)))
    return tracker.link("arms"), unsent


def _numbers(analysis: Analysis, arm: ArmResult) -> dict[str, float]:
    """Of each metric the mean over seeds, the half-width of its 95 % interval, and that over
    images; and the seeds' number.
    """
    numbers: dict[str, float] = {}
    for column in analysis.columns:
        if summary := arm.summary(column.metric):
            noise = arm.evaluation_noise(column.metric)
            numbers |= {column.metric: summary.mean, "n": float(len(arm.reports))}
            numbers |= {f"{column.metric}.half95": summary.half} if summary.n > 1 else {}
            numbers |= {} if noise is None else {f"{column.metric}.half95_images": noise}
    return numbers


def _described(analysis: Analysis, arm: ArmResult) -> str:
    """What an arm's run is, for whoever opens it in the dashboard."""
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
    """The picture of the arm's first finished seed."""
    files = [arm.folders[seed].evaluation / "samples" / "grid.png" for seed in arm.reports]
    return next((file for file in files if file.is_file()), None)


def _tags(analysis: Analysis, labels: list[str]) -> dict[str, str]:
    """What the dashboard shows of the study: its note, and its views."""
    shown = [
        c.metric for c in analysis.columns if c.metric in (BITS, LEVEL, GAP, *DISTANCES, SPEED)
    ]
    note = report_markdown(analysis)
    if len(note) > _NOTE:
        note = (
            note[:_NOTE].rpartition("\n")[0]
            + "\n\n(The rest stands in table.md, an artifact of the run `report`.)"
        )

    tags = {REPORTED: str(time.time()), "mlflow.note.content": note}
    return tags | server.experiment_views(analysis.results.criterion, shown, labels)


def send_runs(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Send single runs, each to the experiments that it was made for; returns those that
    were sent and those not.

    Raises:
        ConfigError: if one is no run folder.
    """
    sent: list[Path] = []
    unsent: list[Path] = []
    trackers: dict[str, Tracker] = {}
    for folder in [open_run_folder(path) for path in paths]:
        whole = True
        for experiment, arm, recipe in noted_views(
            parse_recipe(read_recipe(folder.path / "config.yaml")), folder
        ):
            tracker = trackers.setdefault(experiment, Tracker(experiment, float("inf")))
            whole &= tracker.publish(recipe, arm, folder, read_metrics)
        (sent if whole else unsent).append(folder.path)

    return sent, unsent


def all_runs(root: Path = HERE.runs) -> list[Path]:
    """Every run folder that MLflow should show.

    Raises:
        ConfigError: if there is none.
    """
    found = sorted(
        path.parent
        for path in root.glob("*/seed_*/tracking.json")
        if (path.parent / "config.yaml").is_file()
    )
    if not found:
        raise ConfigError(f"sync: {root} holds no runs")
    return found


def fetch(plan: Plan, results: Results) -> list[RunFolder]:
    """Bring from MLflow the reports that other machines have published and these results
    lack; returns their runs.
    """
    tracker = Tracker(plan.name)
    missing = {(arm.name, seed) for arm, seed in results.missing}

    fetched = []
    for arm in plan.arms:
        for seed in plan.seeds:
            if (arm.name, seed) in missing:
                folder, recipe = plan.cell(arm, seed)
                if tracker.fetch(recipe, folder):
                    fetched.append(folder)

    return fetched
