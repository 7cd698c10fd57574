"""How far a sweep is: its trials, as Optuna's storage tells them, and the re-runs of the best.

    done       measured, or stopped early
    running    its worker lives
    waiting    handed back, or not proposed yet
    failed     with its reason
    lost       its worker is gone: the next one tries its values again

Which re-runs there will be is known when the search is over, and they are shown from then on.
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
    return print_statuses(
        sweep.name, lambda: retry_while_unavailable(lambda: sweep_statuses(sweep)), watch, machine
    )


def sweep_statuses(sweep: Sweep) -> list[RunStatus]:
    """What is known of each trial, and of each re-run."""
    cells = [cell for target in sweep.targets for cell in _trials(sweep, target)]
    if any(cell.state in ("running", "waiting", "lost") for cell in cells):
        return cells
    return cells + _repeats(sweep)


def _trials(sweep: Sweep, target: Target) -> list[RunStatus]:
    study, seed = open_search(sweep, target), sweep.recipe(target, {}).seed
    gone = {trial.number for trial in lost_trials(sweep, study).values()}
    trials = [trial for trial in study.get_trials(deepcopy=False) if not is_replaced(trial)]
    cells = [_cell(study, trial, seed, trial.number in gone) for trial in trials]
    over = seconds_spent(sweep) >= 3600 * sweep.hours
    unasked = 0 if over else sweep.trials - len(cells)
    return cells + [RunStatus(f"{study.study_name} trial", seed, "", "waiting")] * unasked


def _cell(study: optuna.Study, trial: FrozenTrial, seed: int, gone: bool) -> RunStatus:
    told, state = trial.user_attrs, "lost" if gone else _STATES[trial.state]
    folder = told.get("folder", "")
    base = {"arm": f"{study.study_name} trial {trial.number}", "folder": folder, "state": state}

    if state in ("running", "lost"):
        since = f"{trial.datetime_start:%F %T}" if trial.datetime_start else ""
        return RunStatus(
            **base, seed=seed, where=told.get("worker", ""), since=since, **progress(Path(folder))
        )

    return RunStatus(**base, seed=seed, reason=told.get("reason", "") if state == "failed" else "")


def _repeats(sweep: Sweep) -> list[RunStatus]:
    cells = []
    for again in repeats(sweep):
        for seed, cell in again.cells.items():
            arm, folder = f"{again.target.name} re-run of {again.name}", str(cell.folder.path)
            asked = {
                "arm": arm,
                "seed": seed,
                "folder": folder,
                "evaluations": [cell.recipe.evaluation_signature],
            }
            cells.append(
                RunStatus(arm, seed, folder, "done") if seed in again.results else run_status(asked)
            )

    return cells
