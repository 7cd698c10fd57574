"""Run folders and MLflow brought together: what is missing there is sent, what is missing here is fetched.

Sending twice adds nothing. Fetching is for workers that share no file system: a cell's report, configuration and samples
come from the artifacts of the run with its training signature, seed and evaluation signature; its weights stay where
they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..run.config import parse, read_recipe
from ..run.folder import RunFolder, find
from ..run.schema import ConfigError
from ..run.tracking import PATIENCE, Tracker, off, remember, views
from ..run.train import read_metrics
from .plan import Plan
from .results import collect


def send_study(plan: Plan, files: list[Path], patience: float = PATIENCE) -> tuple[str, list[Path]]:
    """Show a study in MLflow as its run folders tell it; returns the dashboard's address and the runs not sent.

    Arguments:
        files: the report's; patience: seconds that each cell may wait.
    """
    if off():
        return "", []
    results, unsent = collect(plan), []
    tracker = Tracker(plan.name, patience * len(plan.arms) * len(plan.seeds))
    for arm in plan.arms:
        for seed in plan.seeds:
            folder, recipe = plan.cell(arm, seed)
            if folder.report(recipe):
                remember(recipe, arm.name, folder, plan.name)
                if not tracker.publish(recipe, arm.name, folder, read_metrics):
                    unsent.append(folder.path)
        means = {
            column.metric: summary.mean
            for column in results.columns
            if (summary := results.summary(arm, column.metric))
        }
        if means:
            tracker.publish_arm(arm.recipe, arm.name, means)
    tracker.publish_study(files)
    return tracker.link(), unsent


def send_runs(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Send single runs, each to the experiments that it was made for; returns those that were sent and those not.

    Raises:
        ConfigError: if one is no run folder.
    """
    sent: list[Path] = []
    unsent: list[Path] = []
    trackers: dict[str, Tracker] = {}
    for folder in [find(path) for path in paths]:
        whole = True
        for experiment, arm, recipe in views(parse(read_recipe(folder.path / "config.yaml")), folder):
            tracker = trackers.setdefault(experiment, Tracker(experiment, float("inf")))
            whole &= tracker.publish(recipe, arm, folder, read_metrics)
        (sent if whole else unsent).append(folder.path)
    return sent, unsent


def all_runs(root: Path = Path("runs")) -> list[Path]:
    """Every run folder that MLflow should show.

    Raises:
        ConfigError: if there is none.
    """
    found = sorted(
        path.parent for path in root.glob("*/seed_*/tracking.json") if (path.parent / "config.yaml").is_file()
    )
    if not found:
        raise ConfigError(f"sync: {root} holds no runs")
    return found


def fetch(plan: Plan) -> list[RunFolder]:
    """Bring from MLflow the reports that other machines have published and this one lacks; returns their runs."""
    tracker, found = Tracker(plan.name), []
    for arm in plan.arms:
        for seed in plan.seeds:
            folder, recipe = plan.cell(arm, seed)
            if not folder.report(recipe) and tracker.fetch(recipe, folder):
                found.append(folder)
    return found
