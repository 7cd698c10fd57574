"""One run from its recipe to its reports: train → evaluate → tell MLflow. What is done
already is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from .config.recipe import Recipe
from .files.atomic import disk_full_guard
from .files.locks import hold_lock
from .quality.measure import evaluate_with_reference
from .runs.folder import RunFolder
from .runs.history import read_metrics
from .tracking.tracker import Tracker, note_view
from .training.distributed import is_follower
from .training.train import StepCallback, StoppedEarly, train


def run_experiment(
    recipes: Sequence[Recipe],
    folder: RunFolder,
    experiment: str,
    arm: str,
    factors: Mapping[str, Any] = MappingProxyType({}),
    bar: bool = False,
    watch: StepCallback | None = None,
) -> list[dict[str, Any]]:
    """Train once and evaluate under each recipe (they differ in sampler and evaluation alone);
    returns the reports.

    A process that only helps to train (see `training/distributed.py`) does that, and returns
    nothing. The run folder is locked meanwhile. A failure is written to its FAILED and log.txt,
    told to MLflow, and raised.

    Arguments:
        experiment: MLflow's experiment; arm: the name of the run's arm in it; factors: what
            tells that from others.
        bar: whether to show a progress bar; watch: who may stop the training, which is no failure.
    """
    if is_follower(recipes[0].machine):
        train(recipes[0], folder)
        return []

    folder = folder.claim_name(recipes[0])
    with hold_lock(folder.lock, f"works on {folder.path}"):
        tracker = Tracker(experiment)
        note_view(recipes[0], arm, folder, experiment)
        tracker.start(recipes[0], arm, factors)
        try:
            with disk_full_guard(folder.path):
                train(recipes[0], folder, tracker, bar, watch)
                reports = [evaluate_with_reference(recipe, folder) for recipe in recipes]
        except BaseException as error:
            failed = isinstance(error, Exception) and not isinstance(error, StoppedEarly)
            tracker.finish("FAILED" if failed else "KILLED")
            if isinstance(error, Exception) and failed:
                folder.fail(error)
                # one line of it is shown
                error.add_note(f"its traceback is in {folder.path / 'log.txt'}")
            raise

        (folder.path / "FAILED").unlink(missing_ok=True)
        tracker.publish(recipes[0], arm, folder, read_metrics, factors)

        return reports
