"""A sweep from its file to its report: search → re-run of the best → speed → tables and figures.

This process only watches while the workers search, and counts the time that they take. When they
have re-run the best it measures their speed, alone, and writes the report. Interrupted and run
again it goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import optuna
from optuna.trial import TrialState
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
        command: the words that start one worker of this sweep; workers: processes side by side.
    """
    studies = [open_search(plan, target) for target in plan.targets]
    total = plan.trials * len(studies)
    done = sum(len(finished_trials(study)) for study in studies)
    console.print(f"{plan.name}: {plan.question}")
    for line in plan.unreached:
        console.print(line)
    console.print(
        f"{done} of {total} trials are finished, {seconds_spent(plan) / 60:.1f} of "
        f"{60 * plan.hours:g} minutes spent."
    )
    if not is_complete(plan):
        threads = plan.recipe(plan.targets[0], {}).machine.threads
        if not run_workers(
            plan.folder,
            command,
            workers,
            threads,
            lambda p: _follow(plan, studies, p, console),
            console,
        ):
            console.print("Stopped. The same command goes on where it stopped.")
            return 130

    for again in retry_while_unavailable(lambda: repeats(plan)):
        for cell in again.cells.values():
            if cell.done:
                measure_speed(cell.recipe, cell.folder)
                tell_repeat(plan, again.target, cell)

    return report_sweep(plan, console)


def is_complete(sweep: Sweep) -> bool:
    """Whether no trial may begin or is under way, and the best are re-run."""
    over = seconds_spent(sweep) >= 3600 * sweep.hours
    for target in sweep.targets:
        study = open_search(sweep, target)
        under_way = study.get_trials(
            deepcopy=False, states=(TrialState.WAITING, TrialState.RUNNING)
        )
        if under_way or (len(finished_trials(study)) < sweep.trials and not over):
            return False

    return all(again.cells.keys() == again.results.keys() for again in repeats(sweep))


def _follow(
    plan: Sweep, studies: list[optuna.Study], crew: Sequence[Worker], console: Console
) -> None:
    """Print each trial as it ends, and count the time of the search, until
    every worker has ended.
    """
    before, begun = seconds_spent(plan), time.monotonic()
    told = {(s.study_name, t.number) for s in studies for t in finished_trials(s)}

    columns = [description_column(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task(plan.name, total=plan.trials * len(studies), completed=len(told))
        while True:
            ended = all_ended(crew)
            if len(told) < plan.trials * len(studies):
                write_json(
                    plan.folder / "budget.json",
                    {"seconds": round(before + time.monotonic() - begun, 1)},
                )
            for study in studies:
                for trial in retry_while_unavailable(lambda: finished_trials(study)):  # noqa: B023 it is called at once
                    if (study.study_name, trial.number) not in told:
                        told.add((study.study_name, trial.number))
                        bars.advance(bar)
                        bars.console.print(trial_line(plan, study, trial), soft_wrap=True)
            if ended:
                return
            time.sleep(1)
