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

from ..analysis.results import Results
from ..config.recipe import parse_recipe, read_recipe
from ..errors import ConfigError
from ..files.workspace import HERE
from ..metrics import BITS, DISTANCES, GAP, LEVEL, SPEED
from ..report.tables import report_markdown
from ..runs.folder import RunFolder, open_run_folder
from ..runs.history import read_metrics
from ..study.collect import collect
from ..study.plan import Arm, Plan, axis_labels
from ..tracking import server
from ..tracking.connection import PATIENCE, is_off
from ..tracking.server import REPORTED
from ..tracking.tracker import Tracker, note_view, noted_views, report_stamp

_NOTE = 15_000  # characters of an experiment's note; MLflow takes 20,000 of a tag


def send_study(plan: Plan, files: list[Path], patience: float = PATIENCE) -> tuple[str, list[Path]]:
    """Show a study in MLflow as its run folders tell it; returns the dashboard's address
    and the runs not sent.

    Arguments:
        files: the report's; patience: seconds that each cell may wait.
    """
    if is_off():
        return "", []

    results, unsent, labels = collect(plan), [], axis_labels(plan.axes)
    tracker = Tracker(plan.name, patience * len(plan.arms) * len(plan.seeds))

    there = tracker.published()
    for arm in plan.arms:
        factors = plan.factors(arm)
        for seed in plan.seeds:
            folder, recipe = plan.cell(arm, seed)
            if stamp := report_stamp(recipe, folder):
                note_view(recipe, arm.name, folder, plan.name)
                if there.get((arm.name, str(seed), stamp), set()) >= {"arm", *factors}:
                    continue
                if not tracker.publish(recipe, arm.name, folder, read_metrics, factors):
                    unsent.append(folder.path)

        if numbers := _numbers(results, arm):
            tracker.publish_arm(
                arm.recipe, arm.name, numbers, _samples(results, arm), _described(results, arm)
            )

    tracker.publish_study(files, _tags(results, labels))
    return tracker.link("arms"), unsent


def _numbers(results: Results, arm: Arm) -> dict[str, float]:
    """Of each metric the mean over seeds, the half-width of its 95 % interval, and that over
    images; and the seeds' number.
    """
    numbers: dict[str, float] = {}
    for column in results.columns:
        if summary := results.summary(arm, column.metric):
            noise = results.evaluation_noise(arm, column.metric)
            numbers |= {column.metric: summary.mean, "n": float(len(results.reports[arm.name]))}
            numbers |= {f"{column.metric}.half95": summary.half} if summary.n > 1 else {}
            numbers |= {} if noise is None else {f"{column.metric}.half95_images": noise}
    return numbers


def _described(results: Results, arm: Arm) -> str:
    """What an arm's run is, for whoever opens it in the dashboard."""
    seeds = ", ".join(map(str, results.reports[arm.name]))
    baseline = ", the baseline" if arm.name in results.plan.baselines else ""

    return (
        f"**{arm.name}**{baseline} of the study {results.plan.name}. {results.plan.question}\n\n"
        f"Each metric is the mean over seeds {seeds}. `.half95` is the half-width of its 95 %"
        " t-interval over seeds (training noise), `.half95_images` that of one value over images"
        " (evaluation noise). The seeds are the runs below this one; what may be concluded stands"
        " in the experiment's description."
    )


def _samples(results: Results, arm: Arm) -> Path | None:
    """The picture of the arm's first finished seed."""
    cells = (results.plan.cell(arm, seed) for seed in results.reports[arm.name])
    files = (folder.evaluation(recipe) / "samples" / "grid.png" for folder, recipe in cells)
    return next((file for file in files if file.is_file()), None)


def _tags(results: Results, labels: list[str]) -> dict[str, str]:
    """What the dashboard shows of the study: its note, and its views."""
    shown = [c.metric for c in results.columns if c.metric in (BITS, LEVEL, GAP, *DISTANCES, SPEED)]
    note = report_markdown(results)
    if len(note) > _NOTE:
        note = (
            note[:_NOTE].rpartition("\n")[0]
            + "\n\n(The rest stands in table.md, an artifact of the run `report`.)"
        )

    now = {REPORTED: str(time.time()), "mlflow.note.content": note}
    return now | server.experiment_views(results.plan.criterion, shown, labels)


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


def fetch(plan: Plan) -> list[RunFolder]:
    """Bring from MLflow the reports that other machines have published and this one
    lacks; returns their runs.
    """
    tracker, found = Tracker(plan.name), []
    for arm in plan.arms:
        for seed in plan.seeds:
            folder, recipe = plan.cell(arm, seed)
            if not folder.report(recipe) and tracker.fetch(recipe, folder):
                found.append(folder)
    return found
