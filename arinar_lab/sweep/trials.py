"""Workers of a sweep: take a trial → train → evaluate → tell Optuna, until none may begin;
then re-run the best.

Optuna's storage proposes trials and holds their results and those of the re-runs; the run folders
hold everything else. A worker takes a trial and the trial's own lock under one lock of the sweep. A
running trial whose lock is free (on a server: for a grace) has therefore lost its worker, and its
parameters return to the queue, at most three times. Each trial has a new sampler, whose seed is the
number of trials, so a worker that was stopped proposes the same as one that was not. Machines that
share no files each train what their trials need, and count their own hours.

Optuna does not prune studies of several objectives. The rule `early_stopping` is therefore this
package's own: it compares a training with the bits/dim of the finished ones at the same step.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import platform
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState

from ..errors import ConfigError, Diverged, StorageUnavailable
from ..evaluation.evaluate import is_timed, measure_speed
from ..files.locks import hold_lock
from ..metrics import BITS
from ..output.text import say
from ..pipeline import train_and_evaluate
from ..quality.measure import evaluate_with_reference
from ..runs.folder import read_json
from ..runs.history import read_metrics
from ..significance.statistics import Interval, interval, pareto_indices
from ..study.optuna_storage import (
    FAULTS,
    AbandonedLocks,
    free_locks,
    is_absent,
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
    """Open the target's trials, and create them where they are missing. One process creates them
    before the workers start.

    Raises:
        ConfigError: if they were begun under another file.
    """
    address = trials_address(sweep)  # refuses a malformed address before a folder is made
    if any((sweep.folder / name).is_file() for name in ("arms.json", "cells.json")):
        raise _name_taken(sweep)

    (sweep.folder / "trials").mkdir(parents=True, exist_ok=True)
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if sweep.pruner == "median":
        pruner = optuna.pruners.MedianPruner(_STARTUP)
    study = optuna.create_study(
        study_name=target.name if target.name == sweep.name else f"{sweep.name} {target.name}",
        storage=open_storage(address),
        directions=[objective.direction for objective in sweep.objectives],
        load_if_exists=True,
        pruner=pruner,
    )

    if "file" in study.user_attrs:
        raise _name_taken(sweep)
    if "fingerprint" not in study.user_attrs:
        study.set_user_attr("fingerprint", sweep.fingerprint)
    elif study.user_attrs["fingerprint"] != sweep.fingerprint:
        remains = "that folder"
        if is_shared(address):
            remains = f"the study {study.study_name!r} in {without_password(address)}"
        raise ConfigError(
            f"{sweep.folder}: was begun with another space, base, objectives or validation part; "
            f"rename the file, or delete {remains}"
        )

    return study


def _name_taken(sweep: Sweep) -> ConfigError:
    return ConfigError(
        f"{sweep.folder}: holds an ablation of this name; rename the file, or delete what is there"
    )


def trials_address(sweep: Sweep) -> sqlalchemy.URL:
    """The address of the sweep's trials."""
    return storage_address(sweep.storage, sweep.folder / "queue.db")


def refuse_unstarted(sweep: Sweep) -> None:
    """Refuse a sweep whose trials are to stand in a file that is not there.

    Raises:
        ConfigError: naming the command that starts it.
    """
    if is_absent(trials_address(sweep)):
        raise ConfigError(
            f"{sweep.folder}: nothing of this sweep has begun; run it first by arinar sweep"
        )


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count: measured, stopped, or failed with a reason (a lost one has none,
    and is tried again).
    """
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return [t for t in study.get_trials(deepcopy=False, states=states) if not is_replaced(t)]


def is_replaced(trial: FrozenTrial) -> bool:
    """Whether a trial was lost or handed back: its values are another's now."""
    return trial.state == TrialState.FAIL and "reason" not in trial.user_attrs


def _sampler(sweep: Sweep, seed: int) -> optuna.samplers.BaseSampler:
    quarter = sweep.trials // 4
    if sweep.algorithm == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if sweep.algorithm == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, min(50, quarter)))
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(4, min(10, quarter)))


def trial_lock(sweep: Sweep, study: optuna.Study, number: int) -> Path:
    """The lock of a trial, held by its worker: a file, or one of that name on a server."""
    return sweep.folder / "trials" / f"{study.study_name}-{number}.lock"


def claim_trial(sweep: Sweep, study: optuna.Study) -> tuple[optuna.Trial, ExitStack] | None:
    """Take the next trial, and its lock; None where none may begin."""
    address = trials_address(sweep)
    with shared_lock(address, f"arinar: {sweep.name}", sweep.folder / ".lock"):
        return_lost(sweep, study)
        states = Counter(t.state for t in study.get_trials(deepcopy=False))
        begun = len(finished_trials(study)) + states[TrialState.RUNNING]
        is_over = begun >= sweep.trials or seconds_spent(sweep) >= 3600 * sweep.hours
        if is_over and not states[TrialState.WAITING]:
            return None

        study.sampler = _sampler(sweep, states.total())
        trial = study.ask()
        lock = ExitStack()
        file = trial_lock(sweep, study, trial.number)
        lock.enter_context(shared_lock(address, file.name, file))
        return trial, lock


def return_lost(sweep: Sweep, study: optuna.Study) -> None:
    """Enqueue the parameters of every running trial whose worker is gone. The third loss ends the
    trial.
    """
    lost = lost_trials(sweep, study)
    names = set(lost)
    if is_shared(trials_address(sweep)):
        names = _abandoned_locks.among(names)

    for name, trial in lost.items():
        tries = trial.user_attrs.get("tries", 1)
        if name not in names:
            continue
        if tries < _TRIES:
            hand_back(study, trial, {"tries": tries + 1})
            continue
        with contextlib.suppress(*_FINISHED):  # it has come back in time
            study._storage.set_trial_user_attr(
                trial._trial_id, "reason", f"lost its worker {tries} times"
            )
            study.tell(trial.number, state=TrialState.FAIL)


def lost_trials(sweep: Sweep, study: optuna.Study) -> dict[str, FrozenTrial]:
    """Running trials whose lock nobody holds, by the names of the locks."""
    trials: dict[str, FrozenTrial] = {}
    files: dict[str, Path] = {}
    for trial in _running(study):
        file = trial_lock(sweep, study, trial.number)
        trials[file.name] = trial
        files[file.name] = file

    free = free_locks(trials_address(sweep), files)
    return {name: trial for name, trial in trials.items() if name in free}


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
    """Share this machine with the sweep's other workers, or have it alone: then no worker begins,
    and those at work end first.
    """
    place = sweep.folder / f".{platform.node()}"
    with open(f"{place}.busy", "w", encoding="utf-8") as file:
        with FileLock(f"{place}.turn"):
            fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


def run_trial(sweep: Sweep, target: Target, study: optuna.Study, trial: optuna.Trial) -> None:
    """Train and measure a trial, and tell Optuna how it ended."""
    try:
        cell = sweep.trial_cell(target, sweep.suggest(trial))
        trial.set_user_attr("folder", str(cell.folder.path))
        trial.set_user_attr("worker", f"{platform.node()} {os.getpid()}")
        say(f"{time.strftime('%T')} {study.study_name} {trial.number} {cell.label}")
        if not cell.folder.done and str(cell.folder.path) in _stopped(study):
            raise StoppedEarly("its training was stopped in an earlier trial")

        metrics = measure_job(sweep, target, cell, _watch(sweep, study, trial, cell))
        values = [float(metrics[metric]) for metric in sweep.objective_metrics]
        if not all(map(math.isfinite, values)):
            raise ValueError(f"not a finite number: {values}")

        retry_while_unavailable(lambda: _remember(sweep, trial, metrics, cell))
        _tell(study, trial, TrialState.COMPLETE, values)
    except optuna.exceptions.UpdateFinishedTrialError:
        say(
            f"{time.strftime('%T')} {trial.number} was given to another worker while this "
            "one was silent"
        )
    except (StoppedEarly, Diverged) as error:
        saved_seconds = getattr(error, "saved", 0.0)
        reason = _line(error)
        _tell(study, trial, TrialState.PRUNED, reason=reason, saved_seconds=saved_seconds)
    except FAULTS:  # the storage is gone for good: the trial counts as lost
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {_line(error)}"
        _tell(study, trial, TrialState.FAIL, reason=reason)
    except BaseException:  # the user stops: no try is spent on that
        hand_back(study, trial, {"tries": trial.user_attrs.get("tries", 1)})
        raise


def _tell(
    study: optuna.Study,
    trial: optuna.Trial,
    state: TrialState,
    values: list[float] | None = None,
    **attributes: Any,
) -> None:
    """Tell Optuna how a trial ended. Where another worker has ended it already, nothing changes."""

    def act() -> None:
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        study.tell(trial, values, state, skip_if_finished=True)

    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        retry_while_unavailable(act)


def _remember(
    sweep: Sweep, trial: optuna.Trial, metrics: dict[str, float], cell: EvaluationJob
) -> None:
    """Store what the report and later trials read of a measured trial, on any machine."""
    for metric, ceiling in sweep.constraints.items():
        trial.set_constraint(metric, metrics[metric] - ceiling)

    history = read_metrics(cell.folder.path / "metrics.csv")
    curve = {str(step): value for step, name, value in history if name == BITS}
    trial.set_user_attr("metrics", metrics)
    trial.set_user_attr("curve", curve)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def measure_job(
    sweep: Sweep, target: Target, cell: EvaluationJob, watch: StepCallback | None = None
) -> dict[str, float]:
    """The metrics of a job, with its speed where that judges trials."""
    with _machine(sweep, alone=False):
        report = _evaluate(sweep, target, cell, watch)
    if sweep.timed and not is_timed(report, cell.recipe.machine):
        with _machine(sweep, alone=True):
            report = measure_speed(cell.recipe, cell.folder)
    return dict(report["metrics"])


def _evaluate(
    sweep: Sweep, target: Target, cell: EvaluationJob, watch: StepCallback | None = None
) -> dict[str, Any]:
    """The report of a job. MLflow gets none of a finished run, whose results it would mix with
    their tuning.
    """
    if not target.runs:
        (report,), _ = train_and_evaluate(
            [cell.recipe], cell.folder, sweep.name, cell.label, watch=watch
        )
        return report
    with hold_lock(cell.folder.lock, f"works on {cell.folder.path}"):
        return evaluate_with_reference(cell.recipe, cell.folder)


def _stopped(study: optuna.Study) -> set[str]:
    """Run folders whose training was stopped early."""
    pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    return {trial.user_attrs["folder"] for trial in pruned}


def _watch(
    sweep: Sweep, study: optuna.Study, trial: optuna.Trial, cell: EvaluationJob
) -> StepCallback | None:
    """The callback that stops a training which falls behind; None where the file sets no rule."""
    rule = sweep.early_stopping
    steps = cell.recipe.training.steps

    def median(step: int, bits: float) -> bool:
        retry_while_unavailable(lambda: trial.report(bits, step))
        return step + 1 < steps and retry_while_unavailable(trial.should_prune)

    def worst(step: int, bits: float) -> bool:
        if rule is None or not rule.after * steps <= step + 1 < steps:
            return False
        finished = retry_while_unavailable(lambda: _at_step(study, step))
        if len(finished) < _STARTUP:
            return False
        return bool(bits > np.quantile(finished, 1 - rule.worst))

    if sweep.pruner == "median":
        return median
    return worst if rule else None


def _at_step(study: optuna.Study, step: int) -> list[float]:
    """val/bits_per_dim of the finished trainings at one step."""
    # trials that share a training count once
    curves: dict[str, dict[str, float]] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        curves[trial.user_attrs["folder"]] = trial.user_attrs["curve"]
    return [curve[str(step)] for curve in curves.values() if str(step) in curve]


def run_sweep_worker(sweep: Sweep) -> None:
    """Run one worker: take trials until none may begin and none is under way, then re-run the
    best.
    """
    with exit_on_sigterm():
        for target in sweep.targets:
            _search(sweep, target)
        rerun(sweep)


def _search(sweep: Sweep, target: Target) -> None:
    study = open_search(sweep, target)
    while True:
        claim = retry_while_unavailable(lambda: claim_trial(sweep, study))
        if claim is not None:
            trial, lock = claim
            with lock:
                run_trial(sweep, target, study, trial)
        elif retry_while_unavailable(lambda: _running(study)):
            time.sleep(1)
        else:
            return


def feasible_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Measured trials within every ceiling."""
    measured = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return list(filter(_is_feasible, measured))


def _is_feasible(trial: FrozenTrial) -> bool:
    return all(excess <= 0 for excess in trial.constraints.values())


def minimised_objectives(sweep: Sweep, trials: list[FrozenTrial]) -> list[list[float]]:
    """Each trial's objectives, as something to minimise."""
    return [sweep.costs(trial.values) for trial in trials]


def best_trials(sweep: Sweep, study: optuna.Study) -> list[FrozenTrial]:
    """The Pareto front (the best trial, where there is one objective), by the first objective."""
    trials = feasible_trials(study)
    points = minimised_objectives(sweep, trials)
    return [trials[i] for i in sorted(pareto_indices(points), key=lambda i: points[i])]


def split_front(
    sweep: Sweep, study: optuna.Study
) -> tuple[dict[str, FrozenTrial], list[FrozenTrial]]:
    """The trials of the front that are re-run, by name, and those that are left out, both in the
    order of the front. At most `sweep.reruns` are re-run: the ends, then an even choice between.
    """
    front: dict[str, FrozenTrial] = {}  # a setting that was proposed twice counts once
    for trial in best_trials(sweep, study):
        front.setdefault(repr(sorted(trial.params.items())), trial)

    names: dict[int, str] = {}
    for i, objective in enumerate(sweep.objectives if front else ()):
        end = min(front.values(), key=lambda trial: (sweep.costs(trial.values)[i], trial.number))
        if len(names) < sweep.reruns:
            names.setdefault(end.number, f"best {objective.metric}")

    between = [trial.number for trial in front.values() if trial.number not in names]
    count = min(sweep.reruns - len(names), len(between))
    for k in range(count):
        number = between[(2 * k + 1) * len(between) // (2 * count)]
        names[number] = f"front trial {number}"

    rerun = {names[t.number]: t for t in front.values() if t.number in names}
    left_out = [t for t in front.values() if t.number not in names]
    return rerun, left_out


def chosen_settings(sweep: Sweep, study: optuna.Study) -> dict[str, dict[str, Any]]:
    """Name → values of what is re-run: the front (see `split_front`), and the shared setting of a
    study's arm.
    """
    front, _ = split_front(sweep, study)
    settings = {name: dict(trial.params) for name, trial in front.items()}
    return {"shared setting": {}, **settings} if sweep.subject == "study" else settings


@dataclass(frozen=True)
class Repeat:
    """The re-run of one choice.

    Arguments:
        target: What was searched.
        name: The choice made in it.
        cells: Seed → job.
        results: Seed → metrics of the jobs that are done, here or on another machine.
    """

    target: Target
    name: str
    cells: dict[int, EvaluationJob]
    results: dict[int, dict[str, float]]

    @property
    def label(self) -> str:
        return next(iter(self.cells.values())).label

    @property
    def missing(self) -> list[EvaluationJob]:
        """The jobs without a result."""
        return [job for seed, job in self.cells.items() if seed not in self.results]

    def means(self, metrics: Iterable[str]) -> dict[str, Interval]:
        """Metric → mean and interval over the seeds, of the metrics that all results have."""
        means = {}
        for metric in metrics:
            values = [result[metric] for result in self.results.values() if metric in result]
            if values and len(values) == len(self.results):
                means[metric] = interval(values)
        return means


def repeats(sweep: Sweep) -> list[Repeat]:
    """Every re-run, in the order of the targets."""
    reruns = []
    for target in sweep.targets:
        study = open_search(sweep, target)
        reported = study.user_attrs
        for name, values in chosen_settings(sweep, study).items():
            jobs = sweep.repeats(target, values)
            results = {}
            for seed, job in jobs.items():
                metrics = _metrics(job) or reported.get(job.key)
                if metrics:
                    results[seed] = metrics
            reruns.append(Repeat(target, name, jobs, results))

    return reruns


def _metrics(cell: EvaluationJob) -> dict[str, float]:
    return dict(cell.folder.report(cell.recipe)["metrics"]) if cell.done else {}


def tell_repeat(sweep: Sweep, target: Target, cell: EvaluationJob) -> None:
    """Store the results of a re-run where other machines read them."""
    retry_while_unavailable(
        lambda: open_search(sweep, target).set_user_attr(cell.key, _metrics(cell))
    )


def rerun(sweep: Sweep) -> None:
    """Train and evaluate the front under other seeds, on all training images, each by the worker
    that locks it first.
    """
    address = trials_address(sweep)
    failed: set[str] = set()

    while waiting := _waiting(sweep, failed):
        for target, job in waiting:
            file = sweep.folder / "trials" / f"{job.key}.lock"
            lock = shared_lock(address, f"arinar: {job.key}", file, wait=False)
            with contextlib.suppress(Timeout, StorageUnavailable), lock:
                if not _repeat(sweep, target, job):
                    failed.add(job.key)
                break
        else:
            time.sleep(1)


def _waiting(sweep: Sweep, failed: set[str]) -> list[tuple[Target, EvaluationJob]]:
    """Jobs of the re-runs that have no result and have not failed in this worker."""
    waiting = []
    for repeat in retry_while_unavailable(lambda: repeats(sweep)):
        for job in repeat.missing:
            if job.key not in failed:
                waiting.append((repeat.target, job))
    return waiting


def _repeat(sweep: Sweep, target: Target, cell: EvaluationJob) -> bool:
    """Train and evaluate one job of a re-run; returns False where it failed."""
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
