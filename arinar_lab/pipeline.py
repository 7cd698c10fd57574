"""One run from its recipe to its reports: check → train → evaluate → tell MLflow. Finished steps
are not repeated.

The model is built at most twice: without values for the check, and once for the run. Evaluation,
quality and speed use the trained model in memory.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from .config.build import Experiment, build, check_resolution, prepare_experiment
from .config.sections import Recipe
from .evaluation.evaluate import on_device
from .files.atomic import disk_full_guard
from .files.locks import hold_lock
from .quality.measure import NamedReference, evaluate_with_reference, named_reference
from .runs.folder import RunFolder
from .runs.history import read_metrics
from .tracking.tracker import Tracker, note_view
from .training.distributed import is_follower
from .training.train import StepCallback, StoppedEarly, check_machine, train
from .training.warm_start import matching_weights


@dataclass(frozen=True)
class Checked:
    """The results of a recipe's check, which the run uses again.

    Arguments:
        experiment: Data and codec, and a model without values.
        reference: The reference that the recipe names.
    """

    experiment: Experiment
    reference: NamedReference | None


def check_recipe(recipe: Recipe) -> Checked:
    """Refuse a recipe that cannot be built, trained here or evaluated, before anything is written.

    Raises:
        ConfigError: naming the key.
    """
    check_machine(recipe)
    experiment = build(recipe, "meta")
    check_resolution(recipe, experiment)
    matching_weights(recipe, experiment)
    prepare_experiment(experiment)
    return Checked(experiment, named_reference(recipe))


def train_and_evaluate(
    recipes: Sequence[Recipe],
    folder: RunFolder,
    experiment: str,
    arm: str,
    factors: Mapping[str, Any] = MappingProxyType({}),
    bar: bool = False,
    watch: StepCallback | None = None,
    checked: Checked | None = None,
) -> tuple[list[dict[str, Any]], Experiment | None]:
    """Train once and evaluate under each recipe (they differ in sampler and evaluation alone).

    The run folder is locked meanwhile. A failure is written to its FAILED and log.txt, told to
    MLflow, and raised. A follower (see `training/distributed.py`) trains, and returns nothing.

    Arguments:
        experiment: MLflow's experiment.
        arm: The name of the run's arm in it.
        factors: The values that distinguish the arm.
        bar: Whether to show a progress bar.
        watch: The callback that may stop the training, which is no failure.
        checked: The results of `check_recipe` of the only recipe.

    Returns:
        the reports, and the trained model; None where the folder has to be loaded, as where
            it was trained before.
    """
    meta = None if checked is None else checked.experiment
    if is_follower(recipes[0].machine):
        train(recipes[0], folder, checked=meta)
        return [], None

    folder = folder.claim_name(recipes[0])
    with hold_lock(folder.lock, f"works on {folder.path}"):
        return perform_locked(recipes, folder, experiment, arm, factors, bar, watch, checked)


def perform_locked(
    recipes: Sequence[Recipe],
    folder: RunFolder,
    experiment: str,
    arm: str,
    factors: Mapping[str, Any] = MappingProxyType({}),
    bar: bool = False,
    watch: StepCallback | None = None,
    checked: Checked | None = None,
) -> tuple[list[dict[str, Any]], Experiment | None]:
    """Do what `train_and_evaluate` does, for a caller that holds the lock of the run folder."""
    meta = None if checked is None else checked.experiment
    reference = None if checked is None else checked.reference
    tracker = Tracker(experiment)
    note_view(recipes[0], arm, folder, experiment)
    tracker.start(recipes[0], arm, factors)
    try:
        with disk_full_guard(folder.path):
            trained = train(recipes[0], folder, tracker, bar, watch, meta)
            if trained is not None:
                # optimiser, averages and gradients would count as memory of the evaluation
                gc.collect()
                on_device(trained, recipes[0].machine)
            reports = [
                evaluate_with_reference(recipe, folder, trained, reference) for recipe in recipes
            ]
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

    return reports, trained
