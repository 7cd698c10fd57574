"""Workers of a sweep: take a trial → train → evaluate → tell Optuna, until none may begin;
then re-run the best.

Optuna's storage proposes and remembers, also what the re-runs measured; the run folders hold
everything else. A worker takes a trial and the trial's own lock under one lock of the sweep, so a
running trial whose lock is free (on a server: for a grace) has lost its worker: its parameters go
back into the queue, at most three times. The sampler is made anew for each trial, seeded by how
many there are, so that one worker proposes the same whether or not it was stopped in between.
Machines that share no files each train what their trials need, and count their own hours.

Optuna does not prune studies of several objectives. `early_stopping` is our own rule; it asks the
finished trainings what their bits/dim were at the same step.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import platform
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState

from ..analysis.statistics import pareto_indices
from ..errors import ConfigError, Diverged, StorageUnavailable
from ..evaluation.evaluate import is_timed, measure_speed
from ..files.locks import hold_lock
from ..metrics import BITS
from ..output.text import say
from ..pipeline import run_experiment
from ..quality.measure import evaluate_with_reference
from ..runs.folder import read_json
from ..runs.history import read_metrics
from ..study.optuna_storage import (
    FAULTS,
    AbandonedLocks,
    free_locks,
    is_shared,
    open_storage,
    retry_while_unavailable,
    shared_lock,
    storage_address,
    without_password,
)
from ..study.worker import exit_on_sigterm
from ..training.train import StepCallback, StoppedEarly
from .sweep import EvaluationJob, Sweep, Target

_TRIES = 3
_STARTUP = 4  # trainings that finish before any is stopped
# Optuna's, at telling what has ended
_FINISHED = (ValueError, optuna.exceptions.UpdateFinishedTrialError)
_abandoned_locks = AbandonedLocks()  # of trials on a server, as this process has seen them


def open_search(sweep: Sweep, target: Target) -> optuna.Study:
    """The target's trials, made if they are not there. One process makes them
    before the workers start.

    Raises:
        ConfigError: if they were begun under another file.
    """
    trials_address(sweep)  # refuses an address that is none before a folder is made
    if any((sweep.folder / name).is_file() for name in ("arms.json", "cells.json")):
        raise _name_taken(sweep)
    (sweep.folder / "trials").mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=target.name if target.name == sweep.name else f"{sweep.name} {target.name}",
        storage=open_storage(trials_address(sweep)),
        directions=["maximize" if o.maximize else "minimize" for o in sweep.objectives],
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(_STARTUP)
        if sweep.pruner == "median"
        else optuna.pruners.NopPruner(),
    )
    if "file" in study.user_attrs:
        raise _name_taken(sweep)
    begun = study.user_attrs.get("fingerprint", sweep.fingerprint)
    if begun != sweep.fingerprint:
        kept = (
            f"the study {study.study_name!r} in {without_password(trials_address(sweep))}"
            if is_shared(trials_address(sweep))
            else "that folder"
        )
        raise ConfigError(
            f"{sweep.folder}: was begun with another space, base or objectives; rename the file, "
            f"or delete {kept}"
        )

    if "fingerprint" not in study.user_attrs:
        study.set_user_attr("fingerprint", sweep.fingerprint)

    return study


def _name_taken(sweep: Sweep) -> ConfigError:
    return ConfigError(
        f"{sweep.folder}: holds an ablation of this name; rename the file, or delete what is there"
    )


def trials_address(sweep: Sweep) -> sqlalchemy.URL:
    """The address of the sweep's trials."""
    return storage_address(sweep.storage, sweep.folder / "queue.db")


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count: measured, stopped, or failed with a reason (a lost one has none,
    and is tried again).
    """
    over = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return [t for t in study.get_trials(deepcopy=False, states=over) if not is_replaced(t)]


def is_replaced(trial: FrozenTrial) -> bool:
    """Whether a trial was lost or handed back: its values are another's now."""
    return trial.state == TrialState.FAIL and "reason" not in trial.user_attrs


def _sampler(sweep: Sweep, seed: int) -> optuna.samplers.BaseSampler:
    if sweep.algorithm == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if sweep.algorithm == "nsga2":
        return optuna.samplers.NSGAIISampler(
            seed=seed, population_size=max(4, min(50, sweep.trials // 4))
        )

    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=max(4, min(10, sweep.trials // 4))
    )


def trial_lock(sweep: Sweep, study: optuna.Study, number: int) -> Path:
    """The lock of a trial, held by its worker: a file, or one of that name on a server."""
    return sweep.folder / "trials" / f"{study.study_name}-{number}.lock"


def claim_trial(sweep: Sweep, study: optuna.Study) -> tuple[optuna.Trial, ExitStack] | None:
    """Take the next trial, and its lock; None where none may begin."""
    with shared_lock(trials_address(sweep), f"arinar: {sweep.name}", sweep.folder / ".lock"):
        return_lost(sweep, study)
        states = Counter(t.state for t in study.get_trials(deepcopy=False))
        begun = len(finished_trials(study)) + states[TrialState.RUNNING]
        if not states[TrialState.WAITING] and (
            begun >= sweep.trials or seconds_spent(sweep) >= 3600 * sweep.hours
        ):
            return None

        study.sampler = _sampler(sweep, sum(states.values()))
        trial = study.ask()
        lock = ExitStack()
        file = trial_lock(sweep, study, trial.number)
        lock.enter_context(shared_lock(trials_address(sweep), file.name, file))
        return trial, lock


def return_lost(sweep: Sweep, study: optuna.Study) -> None:
    """Enqueue the parameters of every running trial whose worker is gone; the third
    time it is set aside.
    """
    gone = lost_trials(sweep, study)
    if is_shared(trials_address(sweep)):
        abandoned = _abandoned_locks.among(set(gone))
        gone = {name: trial for name, trial in gone.items() if name in abandoned}

    for trial in gone.values():
        tries = trial.user_attrs.get("tries", 1)
        if tries < _TRIES:
            hand_back(study, trial, {"tries": tries + 1})
        else:
            with contextlib.suppress(*_FINISHED):  # it has come back in time
                study._storage.set_trial_user_attr(
                    trial._trial_id, "reason", f"lost its worker {tries} times"
                )
                study.tell(trial.number, state=TrialState.FAIL)


def lost_trials(sweep: Sweep, study: optuna.Study) -> dict[str, FrozenTrial]:
    """Running trials whose lock nobody holds, by the names of the locks."""
    trials = {trial_lock(sweep, study, trial.number): trial for trial in _running(study)}
    free = free_locks(trials_address(sweep), {file.name: file for file in trials})
    return {file.name: trial for file, trial in trials.items() if file.name in free}


def _running(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def hand_back(
    study: optuna.Study, trial: optuna.Trial | FrozenTrial, attributes: dict[str, Any]
) -> None:
    """Fail a lost trial, and enqueue its parameters again under these attributes."""
    with contextlib.suppress(*_FINISHED):  # another worker may have been quicker
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs=attributes)


def seconds_spent(sweep: Sweep) -> float:
    """Seconds of searching so far, over all commands."""
    return float(read_json(sweep.folder / "budget.json").get("seconds", 0.0))


@contextmanager
def _machine(sweep: Sweep, alone: bool) -> Iterator[None]:
    """Work beside this sweep's other workers on this machine, or alone: then nobody begins, and who
    works is waited for.
    """
    place = sweep.folder / f".{platform.node()}"
    with open(f"{place}.busy", "w", encoding="utf-8") as file:
        with FileLock(f"{place}.turn"):
            fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


def run_trial(sweep: Sweep, target: Target, study: optuna.Study, trial: optuna.Trial) -> None:
    """Train what is not trained, measure, and tell Optuna."""
    try:
        cell = sweep.trial_cell(target, sweep.suggest(trial))
        _note(
            trial, {"folder": str(cell.folder.path), "worker": f"{platform.node()} {os.getpid()}"}
        )
        say(f"{time.strftime('%T')} {study.study_name} {trial.number} {cell.label}")
        if not cell.folder.done and str(cell.folder.path) in _stopped(study):
            raise StoppedEarly("its training was stopped in an earlier trial")
        metrics = measure_job(sweep, target, cell, _watch(sweep, study, trial, cell))
        values = [float(metrics[o.metric]) for o in sweep.objectives]
        if not all(map(math.isfinite, values)):
            raise ValueError(f"not a finite number: {values}")
        retry_while_unavailable(lambda: _remember(sweep, trial, metrics, cell))
        report_trial(study, trial, TrialState.COMPLETE, values)
    except optuna.exceptions.UpdateFinishedTrialError:
        say(
            f"{time.strftime('%T')} {trial.number} was given to another worker while this "
            "one was silent"
        )
    except (StoppedEarly, Diverged) as error:
        saved = {"reason": _line(error), "saved_seconds": getattr(error, "saved", 0.0)}
        report_trial(study, trial, TrialState.PRUNED, said=saved)
    except FAULTS:  # the storage is gone for good: the trial counts as lost
        raise
    except Exception as error:
        report_trial(
            study,
            trial,
            TrialState.FAIL,
            said={"reason": f"{type(error).__name__}: {_line(error)}"},
        )
    except BaseException:  # the user stops: no try is spent on that
        hand_back(study, trial, {"tries": trial.user_attrs.get("tries", 1)})
        raise


def report_trial(
    study: optuna.Study,
    trial: optuna.Trial,
    state: TrialState,
    values: float | list[float] | None = None,
    said: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Tell Optuna, with attributes. Who was silent for too long may have been given up
    already, and is not heard.
    """

    def act() -> None:
        for name, value in said.items():
            trial.set_user_attr(name, value)
        study.tell(trial, values, state, skip_if_finished=True)

    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        retry_while_unavailable(act)


def _remember(
    sweep: Sweep, trial: optuna.Trial, metrics: dict[str, float], cell: EvaluationJob
) -> None:
    """What the report and later trials ask of a measured trial, wherever they are."""
    for metric, ceiling in sweep.constraints.items():
        trial.set_constraint(metric, metrics[metric] - ceiling)
    curve = {
        str(step): value
        for step, name, value in read_metrics(cell.folder.path / "metrics.csv")
        if name == BITS
    }
    _note(trial, {"metrics": metrics, "curve": curve})


def _note(trial: optuna.Trial, said: dict[str, Any]) -> None:
    for name, value in said.items():
        trial.set_user_attr(name, value)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def measure_job(
    sweep: Sweep, target: Target, cell: EvaluationJob, watch: StepCallback | None = None
) -> dict[str, float]:
    """The metrics of a cell, its speed among them where that is an objective."""
    with _machine(sweep, alone=False):
        report = _evaluate(sweep, target, cell, watch)
    if sweep.timed and not is_timed(report, cell.recipe.machine):
        with _machine(sweep, alone=True):
            report = measure_speed(cell.recipe, cell.folder)
    return dict(report["metrics"])


def _evaluate(
    sweep: Sweep, target: Target, cell: EvaluationJob, watch: StepCallback | None = None
) -> dict[str, Any]:
    """The report of a cell; a finished run is not told to MLflow, which would mix its
    tuning with its results.
    """
    if not target.runs:
        return run_experiment([cell.recipe], cell.folder, sweep.name, cell.label, watch=watch)[0]
    with hold_lock(cell.folder.lock, f"works on {cell.folder.path}"):
        return evaluate_with_reference(cell.recipe, cell.folder)


def _stopped(study: optuna.Study) -> set[str]:
    """Run folders whose training was not worth its end."""
    return {
        t.user_attrs["folder"]
        for t in study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    }


def _watch(
    sweep: Sweep, study: optuna.Study, trial: optuna.Trial, cell: EvaluationJob
) -> StepCallback | None:
    """Who stops a training that will not be among the best; None where the file asks for none."""
    rule, steps = sweep.early_stopping, cell.recipe.training.steps

    def median(step: int, bits: float) -> bool:
        retry_while_unavailable(lambda: trial.report(bits, step))
        return step + 1 < steps and retry_while_unavailable(trial.should_prune)

    def worst(step: int, bits: float) -> bool:
        is_judged = rule is not None and rule.after * steps <= step + 1 < steps
        others = retry_while_unavailable(lambda: _at_step(study, step)) if is_judged else []
        return (
            rule is not None
            and len(others) >= _STARTUP
            and bool(bits > np.quantile(others, 1 - rule.worst))
        )

    return median if sweep.pruner == "median" else worst if rule else None


def _at_step(study: optuna.Study, step: int) -> list[float]:
    """val/bits_per_dim of the finished trainings at one step."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    # trials that share a training count once
    curves = {t.user_attrs["folder"]: t.user_attrs["curve"] for t in done}
    return [curve[str(step)] for curve in curves.values() if str(step) in curve]


def run_sweep_worker(sweep: Sweep) -> None:
    """Be one worker: take trials until none may begin and none is under way,
    then re-run the best.
    """
    with exit_on_sigterm():
        _search(sweep)
        rerun(sweep)


def _search(sweep: Sweep) -> None:
    for target in sweep.targets:
        study = open_search(sweep, target)
        while True:
            if (taken := retry_while_unavailable(lambda: claim_trial(sweep, study))) is not None:  # noqa: B023 it is called at once
                trial, lock = taken
                with lock:
                    run_trial(sweep, target, study, trial)
            elif retry_while_unavailable(lambda: _running(study)):  # noqa: B023
                time.sleep(1)
            else:
                break


def feasible_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Measured trials within every ceiling."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [t for t in done if all(excess <= 0 for excess in t.constraints.values())]


def minimised_objectives(sweep: Sweep, trials: list[FrozenTrial]) -> list[list[float]]:
    """Each trial's objectives, as something to minimise."""
    return [[o.cost(v) for o, v in zip(sweep.objectives, t.values, strict=True)] for t in trials]


def best_trials(sweep: Sweep, study: optuna.Study) -> list[FrozenTrial]:
    """The Pareto front (the best trial, where there is one objective), by the first objective."""
    trials = feasible_trials(study)
    points = minimised_objectives(sweep, trials)
    return [trials[i] for i in sorted(pareto_indices(points), key=lambda i: points[i])]


def chosen_settings(sweep: Sweep, study: optuna.Study) -> dict[str, dict[str, Any]]:
    """Name → values of what is re-run: the front's end for each objective, and beside a study's
    arm its shared setting.
    """
    best = best_trials(sweep, study)
    found: dict[str, dict[str, Any]] = {}
    for o, objective in enumerate(sweep.objectives):
        if best:
            end = min(best, key=lambda t: (objective.cost(t.values[o]), t.number))
            if end.params not in found.values():
                found[f"best {objective.metric}"] = dict(end.params)
    return {"shared setting": {}, **found} if sweep.subject == "study" else found


@dataclass(frozen=True)
class Repeat:
    """The re-run of one choice.

    Arguments:
        target, name: what was searched, and the choice made in it.
        cells: by seed; results: the metrics of those that are done, here or on another machine.
    """

    target: Target
    name: str
    cells: dict[int, EvaluationJob]
    results: dict[int, dict[str, float]]

    @property
    def label(self) -> str:
        return next(iter(self.cells.values())).label


def repeats(sweep: Sweep) -> list[Repeat]:
    """Every re-run, in the order of the targets."""
    found = []
    for target in sweep.targets:
        study = open_search(sweep, target)
        told = study.user_attrs
        for name, values in chosen_settings(sweep, study).items():
            cells = sweep.repeats(target, values)
            known = {seed: _metrics(cell) or told.get(cell.key, {}) for seed, cell in cells.items()}
            found.append(
                Repeat(
                    target,
                    name,
                    cells,
                    {seed: metrics for seed, metrics in known.items() if metrics},
                )
            )

    return found


def _metrics(cell: EvaluationJob) -> dict[str, float]:
    return dict(cell.folder.report(cell.recipe)["metrics"]) if cell.done else {}


def tell_repeat(sweep: Sweep, target: Target, cell: EvaluationJob) -> None:
    """Leave what a re-run measured where other machines find it."""
    retry_while_unavailable(
        lambda: open_search(sweep, target).set_user_attr(cell.key, _metrics(cell))
    )


def rerun(sweep: Sweep) -> None:
    """Train and evaluate the best under other seeds. Who holds a cell's lock does it, and
    tells when it is done.
    """
    failed: set[str] = set()
    while waiting := [
        (again.target, cell)
        for again in retry_while_unavailable(lambda: repeats(sweep))
        for seed, cell in again.cells.items()
        if seed not in again.results and cell.key not in failed
    ]:
        for target, cell in waiting:
            mine = shared_lock(
                trials_address(sweep),
                f"arinar: {cell.key}",
                sweep.folder / "trials" / f"{cell.key}.lock",
                wait=False,
            )
            with contextlib.suppress(Timeout, StorageUnavailable), mine:
                if not _repeat(sweep, target, cell):
                    failed.add(cell.key)
                break
        else:
            time.sleep(1)


def _repeat(sweep: Sweep, target: Target, cell: EvaluationJob) -> bool:
    # another machine was quicker
    if retry_while_unavailable(lambda: open_search(sweep, target).user_attrs.get(cell.key)):
        return True

    say(f"{time.strftime('%T')} re-run {cell.folder.path} {cell.label}")
    try:
        with _machine(sweep, alone=False):
            _evaluate(sweep, target, cell)
    except Exception as error:  # the run folder says why; the others go on
        say(f"failed: {_line(error)}")
        return False

    tell_repeat(sweep, target, cell)
    return True
