"""Quality against speed in a sweep: the settings that were re-run as arms, and
the trials beside them.

A re-run setting has several seeds, and so an attainment, a hypervolume with its interval and a
place by its means, as an arm of an ablation (`analysis/pareto.py`). A trial has one seed, by which
it was chosen: it says where to look, and nothing of how sure that is. Both together tell how much
of the front that the search saw was luck.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    quality, *others = sweep.objectives
    return _column(quality), _column(others[0] if others else Objective(SPEED, "maximize"))


def _column(objective: Objective) -> Column:
    known = (column for column in COLUMNS if column.metric == objective.metric)
    column = next(known, Column(objective.metric, objective.metric))
    return replace(column, less=not objective.maximize)


def sweep_conclusions(sweep: Sweep) -> list[str]:
    """What a sweep says of quality against speed, in sentences; nothing
    where no re-run has both.
    """
    quality, speed = frontier_columns(sweep)
    again, seen = rerun_frontier(sweep, quality, speed), trial_frontier(sweep, quality, speed)
    why = speed_doubt(sweep)

    found, both = (
        frontier_from_readings(quality, speed, again, why),
        frontier_from_readings(quality, speed, again | seen),
    )
    if found is None or both is None:
        return []
    first, *rest = frontier_sentences(found)

    return [f"Re-runs: {first}", *rest, *([] if why else _beside_trials(both, seen))]


def speed_doubt(sweep: Sweep) -> str:
    """Why the speeds that the re-runs measured are unreliable; empty where they are not, or speed
    is told by no clock.
    """
    _, speed = frontier_columns(sweep)
    if not speed.metric.startswith("speed/"):
        return ""

    again = repeats(sweep)
    reports = [
        report
        for one in again
        for cell in one.cells.values()
        if (report := cell.folder.report(cell.recipe))
    ]
    speeds = {
        _name(sweep, one.target.name, one.name): [
            m[SPEED] for m in one.results.values() if SPEED in m
        ]
        for one in again
    }

    return unreliable(reports, speeds)


def _beside_trials(both: Frontier, seen: Readings) -> list[str]:
    """How the re-runs stand among the trials."""
    if not seen:
        return []

    kept = [name for name in both.front if name not in seen]
    bend = f" It bends at {both.knee}." if both.knee else ""

    return [
        (
            f"Trials and the means of re-runs together: {len(both.front)} of {len(both.means)} on"
            f" the front, re-runs among them: {', '.join(kept) or 'none'}.{bend} A trial has one"
            " seed, by which it was chosen."
        )
    ]


def rerun_frontier(sweep: Sweep, quality: Column, speed: Column) -> Readings:
    """Of every setting that was re-run; without seeds where it lacks one of the two readings."""
    return {
        _name(sweep, again.target.name, again.name): _readings(
            again.results.items(), quality, speed
        )
        for again in repeats(sweep)
    }


def trial_frontier(sweep: Sweep, quality: Column, speed: Column) -> Readings:
    """Of every measured trial within the ceilings that has both readings."""
    found: Readings = {}
    for target in sweep.targets:
        for trial in feasible_trials(open_search(sweep, target)):
            metrics = trial.user_attrs["metrics"]
            if both := _readings([(0, metrics)], quality, speed):
                found[_name(sweep, target.name, f"trial {trial.number}")] = both
    return found


def _name(sweep: Sweep, target: str, name: str) -> str:
    return f"{target}, {name}" if len(sweep.targets) > 1 else name


def _readings(
    measured: Iterable[tuple[int, Mapping[str, float]]], quality: Column, speed: Column
) -> dict[int, tuple[float, float]]:
    """Seed → both readings, of those that have both."""
    return {
        seed: (metrics[speed.metric], metrics[quality.metric])
        for seed, metrics in measured
        if speed.metric in metrics and quality.metric in metrics
    }
