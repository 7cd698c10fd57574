"""A sweep from its file to its report: search → re-run of the best → speed → tables and figures.

This process watches the workers while they search, and counts their time. Once they have re-run the
best settings it measures the speed of those, alone, and writes the report. The same command resumes
an interrupted sweep.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from ..config.sections import Recipe
from ..evaluation.evaluate import measure_speed
from ..output.terminal import description_column
from ..runs.folder import write_json
from ..study.cost import Cost, format_count
from ..study.optuna_storage import is_absent, is_shared, retry_while_unavailable
from ..study.processes import Worker, all_ended, run_workers
from ..sweep.report import report_sweep, trial_line
from ..sweep.sweep import Sweep
from ..sweep.trials import (
    finished_trials,
    open_search,
    repeats,
    seconds_spent,
    tell_repeat,
    trials_address,
)
from .forecast import print_unknown, timed_costs


def run_sweep(plan: Sweep, command: list[str], workers: int, console: Console) -> int:
    """Search, re-run and report; returns the exit status: 0, 1 where something failed, 130 where
    the user stopped it.

    Arguments:
        command: The words that start one worker of this sweep.
        workers: The number of processes that search at the same time.
    """
    studies = [open_search(plan, target) for target in plan.targets]
    _print_begin(plan, sum(map(len, map(finished_trials, studies))), console)

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


def _print_begin(sweep: Sweep, done: int, console: Console) -> None:
    """Print what is asked, and how much of it is done."""
    console.print(f"{sweep.name}: {sweep.question}")
    for line in sweep.unreached:
        console.print(line)
    console.print(
        f"{done} of {sweep.trials * len(sweep.targets)} trials are finished,"
        f" {seconds_spent(sweep) / 60:.1f} of {60 * sweep.hours:g} minutes spent."
    )


def print_forecast(sweep: Sweep, workers: int, console: Console) -> int:
    """Print trials, re-runs and the hours that they take on this machine; nothing is written.

    Trials are drawn at random, as no algorithm has results to go by; a few steps of each training
    among them are timed. Trials on a server are not asked for, and count as not begun.
    """
    address = trials_address(sweep)
    has_begun = not (is_shared(address) or is_absent(address))
    studies = [open_search(sweep, target) for target in sweep.targets] if has_begun else []
    done = sum(map(len, map(finished_trials, studies)))
    total = sweep.trials * len(sweep.targets)
    recipes = _random_recipes(sweep)
    costs = timed_costs(recipes, console)

    trainings = len({recipe.training_signature for recipe in recipes})
    trained = "no training" if sweep.subject != "base" else f"about {trainings} trainings"
    search, rerun = _hours(sweep, costs, trainings, (total - done) / total, workers)
    settings = _most_reruns(sweep)
    seeds = len(sweep.seeds)
    _print_begin(sweep, done, console)
    print_unknown(costs, console)
    console.print(
        f"{total - done} trials by {workers} workers, {trained}: about {format_count(search)} hours"
        f" on this machine; none begins after {sweep.hours:g}."
    )
    console.print(
        f"Then at most {settings * seeds} re-runs, {settings} by {seeds} seeds: about"
        f" {format_count(rerun)} hours."
    )
    return 0


def _random_recipes(sweep: Sweep) -> list[Recipe]:
    """The recipe of every trial of a search at random."""
    recipes = []
    for target in sweep.targets:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))  # in memory
        for _ in range(sweep.trials):
            recipes.append(sweep.trial_recipe(target, sweep.suggest(study.ask())))
    return recipes


def _hours(
    sweep: Sweep,
    costs: Mapping[str, Cost | str],
    trainings: int,
    remaining: float,
    workers: int,
) -> tuple[float, float]:
    """Hours of the search, without its limit, and of the re-runs; nan where no cost is known.

    Arguments:
        costs: Training signature → cost.
        trainings: The number of different trainings among all trials.
        remaining: The share of the trials that are not finished.
    """
    timed = [cost for cost in costs.values() if isinstance(cost, Cost)]
    if not timed:
        return math.nan, math.nan

    evaluation = statistics.fmean(cost.evaluation_seconds for cost in timed)
    training = statistics.fmean(cost.seconds for cost in timed) - evaluation
    speed = statistics.fmean(cost.speed_seconds for cost in timed)
    is_trained = sweep.subject == "base"
    trials = sweep.trials * len(sweep.targets)
    reruns = _most_reruns(sweep) * len(sweep.seeds)

    search = (is_trained * trainings * training + trials * evaluation) / workers
    search += trials * speed if sweep.timed else 0.0  # alone on the machine
    retrained = is_trained * min(reruns, trainings * len(sweep.seeds))
    rerun = (retrained * training + reruns * evaluation) / workers + reruns * speed
    return remaining * search / 3600, rerun / 3600


def _most_reruns(sweep: Sweep) -> int:
    """The number of settings that are re-run at most; see `trials.chosen_settings`."""
    of_front = min(sweep.reruns, sweep.trials) if len(sweep.objectives) > 1 else 1
    shared = sweep.subject == "study"
    return (of_front + shared) * len(sweep.targets)


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
