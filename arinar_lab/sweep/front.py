"""Quality against speed in a sweep: the re-run settings as arms, and the trials.

A re-run setting has several seeds. It therefore has an attainment, a hypervolume with its interval
and a place by its means, as an arm of an ablation has (`analysis/pareto.py`). A trial has one seed,
by which it was chosen, and no measure of uncertainty. Both together show how much of the search's
front was luck.
"""

from __future__ import annotations

from dataclasses import replace

from ..analysis.conditions import unreliable
from ..analysis.pareto import Frontier, frontier_from_readings, frontier_sentences
from ..metrics import COLUMNS, SPEED, Column
from .sweep import Sweep
from .sweep_file import Objective
from .trials import feasible_trials, open_search, repeats

Readings = dict[str, dict[int, tuple[float, float]]]
"""Name → seed → (speed, quality) as measured."""


def frontier_columns(sweep: Sweep) -> tuple[Column, Column]:
    """Quality, the first objective, and speed: the second one, else images/s."""
    quality, speed, *_ = (*sweep.objectives, Objective(SPEED, "maximize"))
    return _column(quality), _column(speed)


def _column(objective: Objective) -> Column:
    columns = {column.metric: column for column in COLUMNS}
    column = columns.get(objective.metric, Column(objective.metric, objective.metric))
    return replace(column, less=not objective.maximize)


def sweep_conclusions(sweep: Sweep) -> list[str]:
    """Sentences on quality against speed; none where no re-run has both readings."""
    quality, speed = frontier_columns(sweep)
    reruns = rerun_frontier(sweep, quality, speed)
    trials = trial_frontier(sweep, quality, speed)
    doubt = speed_doubt(sweep)

    frontier = frontier_from_readings(quality, speed, reruns, doubt)
    joint = frontier_from_readings(quality, speed, reruns | trials)
    if frontier is None or joint is None:
        return []

    sentences = frontier_sentences(frontier)
    sentences[0] = f"Re-runs: {sentences[0]}"
    if trials and not doubt:
        sentences.append(_joint_sentence(joint, trials))
    return sentences


def speed_doubt(sweep: Sweep) -> str:
    """Why the measured speeds of the re-runs are unreliable; empty where they are not, or where no
    clock measures speed.
    """
    _, speed = frontier_columns(sweep)
    if not speed.metric.startswith("speed/"):
        return ""

    reports = []
    speeds = {}
    for again in repeats(sweep):
        reports += [job.folder.report(job.recipe) for job in again.cells.values()]
        measured = [metrics[SPEED] for metrics in again.results.values() if SPEED in metrics]
        speeds[_name(sweep, again.target.name, again.name)] = measured

    return unreliable(list(filter(None, reports)), speeds)


def _joint_sentence(joint: Frontier, trials: Readings) -> str:
    """Where the re-runs stand among the trials."""
    reruns = [name for name in joint.front if name not in trials]
    bend = f" It bends at {joint.knee}." if joint.knee else ""
    return (
        f"Trials and the means of re-runs together: {len(joint.front)} of {len(joint.means)} on"
        f" the front, re-runs among them: {', '.join(reruns) or 'none'}.{bend} A trial has one"
        " seed, by which it was chosen."
    )


def rerun_frontier(sweep: Sweep, quality: Column, speed: Column) -> Readings:
    """Readings of every re-run setting, of the seeds that have both."""
    readings: Readings = {}
    for again in repeats(sweep):
        by_seed = readings.setdefault(_name(sweep, again.target.name, again.name), {})
        for seed, metrics in again.results.items():
            if speed.metric in metrics and quality.metric in metrics:
                by_seed[seed] = metrics[speed.metric], metrics[quality.metric]

    return readings


def trial_frontier(sweep: Sweep, quality: Column, speed: Column) -> Readings:
    """Readings of every measured trial within the ceilings that has both, as of seed 0."""
    readings: Readings = {}
    for target in sweep.targets:
        for trial in feasible_trials(open_search(sweep, target)):
            metrics = trial.user_attrs["metrics"]
            if speed.metric in metrics and quality.metric in metrics:
                name = _name(sweep, target.name, f"trial {trial.number}")
                readings[name] = {0: (metrics[speed.metric], metrics[quality.metric])}

    return readings


def _name(sweep: Sweep, target: str, name: str) -> str:
    return f"{target}, {name}" if sweep.has_several_targets else name
