"""A sweep from its file to its report: search → re-run of the best → speed → tables and figures.

This process watches the workers while they search, and counts their time. Once they have re-run the
best settings it measures the speed of those, alone, and writes the report. The same command resumes
an interrupted sweep.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from ..evaluation.evaluate import measure_speed
from ..output.terminal import description_column
from ..runs.folder import write_json
from ..study.optuna_storage import retry_while_unavailable
from ..study.processes import Worker, all_ended, run_workers
from ..sweep.report import report_sweep, trial_line
from ..sweep.sweep import Sweep
from ..sweep.trials import finished_trials, open_search, repeats, seconds_spent, tell_repeat


def run_sweep(plan: Sweep, command: list[str], workers: int, console: Console) -> int:
    """Search, re-run and report; returns the exit status: 0, 1 where something failed, 130 where
    the user stopped it.

    Arguments:
        command: The words that start one worker of this sweep.
        workers: The number of processes that search at the same time.
    """
    studies = [open_search(plan, target) for target in plan.targets]
    total = plan.trials * len(studies)
    done = sum(map(len, map(finished_trials, studies)))
    console.print(f"{plan.name}: {plan.question}")
    for line in plan.unreached:
        console.print(line)
    console.print(
        f"{done} of {total} trials are finished, {seconds_spent(plan) / 60:.1f} of "
        f"{60 * plan.hours:g} minutes spent."
    )

    def watch(crew: Sequence[Worker]) -> None:
        _follow(plan, studies, crew, console)

    if not is_complete(plan):
        threads = plan.recipe(plan.targets[0], {}).machine.threads
        if not run_workers(plan.folder, command, workers, threads, watch, console):
            console.print("Stopped. The same command goes on where it stopped.")
            return 130

    for repeat in retry_while_unavailable(lambda: repeats(plan)):
        for cell in repeat.cells.values():
            if cell.done:
                measure_speed(cell.recipe, cell.folder)
                tell_repeat(plan, repeat.target, cell)

    return report_sweep(plan, console)


def is_complete(sweep: Sweep) -> bool:
    """Whether no trial may begin or is under way, and the best are re-run."""
    is_over = seconds_spent(sweep) >= 3600 * sweep.hours
    open_states = (TrialState.WAITING, TrialState.RUNNING)
    for target in sweep.targets:
        study = open_search(sweep, target)
        under_way = study.get_trials(deepcopy=False, states=open_states)
        if under_way or (len(finished_trials(study)) < sweep.trials and not is_over):
            return False

    return not any(repeat.missing for repeat in repeats(sweep))


def _follow(
    plan: Sweep, studies: list[optuna.Study], crew: Sequence[Worker], console: Console
) -> None:
    """Print each trial as it ends, and count the seconds of the search, until all workers end."""
    spent = seconds_spent(plan)
    begun = time.monotonic()
    total = plan.trials * len(studies)
    printed = set(_ended(studies))

    columns = [description_column(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task(plan.name, total=total, completed=len(printed))
        while True:
            all_workers_ended = all_ended(crew)
            if len(printed) < total:
                seconds = round(spent + time.monotonic() - begun, 1)
                write_json(plan.folder / "budget.json", {"seconds": seconds})
            for key, (study, trial) in retry_while_unavailable(lambda: _ended(studies)).items():
                if key not in printed:
                    printed.add(key)
                    bars.advance(bar)
                    bars.console.print(trial_line(plan, study, trial), soft_wrap=True)
            if all_workers_ended:
                return
            time.sleep(1)


def _ended(
    studies: list[optuna.Study],
) -> dict[tuple[str, int], tuple[optuna.Study, FrozenTrial]]:
    """Every finished trial with its study, by the study's name and the trial's number."""
    trials = {}
    for study in studies:
        for trial in finished_trials(study):
            trials[study.study_name, trial.number] = (study, trial)
    return trials
