"""How far a sweep is: its trials, as Optuna's storage holds them, and the re-runs of the best.

    done       measured, or stopped early
    running    its worker lives
    waiting    handed back, or not proposed yet
    failed     with its reason
    lost       its worker is gone: the next one tries its values again

The re-runs are shown once the search has ended, which decides what is re-run.
"""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from ..study.optuna_storage import retry_while_unavailable
from ..study.status import RunStatus, print_statuses, progress, run_status
from .sweep import Sweep, Target
from .trials import is_replaced, lost_trials, open_search, repeats, seconds_spent

_STATES = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "done",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
    TrialState.FAIL: "failed",
}


def print_sweep_status(sweep: Sweep, watch: bool, machine: bool) -> int:
    """Print the status of a sweep, see `print_statuses`."""

    def read() -> list[RunStatus]:
        return retry_while_unavailable(lambda: sweep_statuses(sweep))

    return print_statuses(sweep.name, read, watch, machine)


def sweep_statuses(sweep: Sweep) -> list[RunStatus]:
    """The status of each trial, and of each re-run once the search has ended."""
    statuses: list[RunStatus] = []
    for target in sweep.targets:
        statuses += _trial_statuses(sweep, target)

    if {"running", "waiting", "lost"}.intersection(status.state for status in statuses):
        return statuses
    return statuses + _rerun_statuses(sweep)


def _trial_statuses(sweep: Sweep, target: Target) -> list[RunStatus]:
    study = open_search(sweep, target)
    seed = sweep.recipe(target, {}).seed
    lost = lost_trials(sweep, study).values()
    lost_numbers = {trial.number for trial in lost}

    statuses = []
    for trial in study.get_trials(deepcopy=False):
        if not is_replaced(trial):
            statuses.append(_trial_status(study, trial, seed, trial.number in lost_numbers))

    if seconds_spent(sweep) < 3600 * sweep.hours:
        waiting = RunStatus(f"{study.study_name} trial", seed, "", "waiting")
        statuses += [waiting] * (sweep.trials - len(statuses))
    return statuses


def _trial_status(study: optuna.Study, trial: FrozenTrial, seed: int, is_lost: bool) -> RunStatus:
    attributes = trial.user_attrs
    name = f"{study.study_name} trial {trial.number}"
    folder = attributes.get("folder", "")
    state = "lost" if is_lost else _STATES[trial.state]

    if state in ("running", "lost"):
        since = f"{trial.datetime_start:%F %T}" if trial.datetime_start else ""
        worker = attributes.get("worker", "")
        step = progress(Path(folder))
        return RunStatus(name, seed, folder, state, where=worker, since=since, **step)

    reason = attributes.get("reason", "") if state == "failed" else ""
    return RunStatus(name, seed, folder, state, reason=reason)


def _rerun_statuses(sweep: Sweep) -> list[RunStatus]:
    statuses = []
    for repeat in repeats(sweep):
        name = f"{repeat.target.name} re-run of {repeat.name}"
        for seed, job in repeat.cells.items():
            folder = str(job.folder.path)
            evaluations = [job.recipe.evaluation_signature]
            cell = {"arm": name, "seed": seed, "folder": folder, "evaluations": evaluations}
            if seed in repeat.results:
                statuses.append(RunStatus(name, seed, folder, "done"))
            else:
                statuses.append(run_status(cell))

    return statuses
