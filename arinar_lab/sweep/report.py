"""The report of a sweep: what the re-runs say, what the search saw, and what mattered in it.

The best of n trials looks better than it is, because it was chosen by the numbers that are shown.
The report therefore gives only the means of the re-run as results: other seeds, or other images.
The front shows what the search saw.

    hypervolume(n)      of the first n trials, against the worst value of each objective in the
                        whole search
    importance          PED-ANOVA: how much a parameter decides whether a trial is among the best
                        (on the Pareto front)
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..analysis.conditions import unreliable
from ..analysis.rankings.pareto import Frontier, frontier_from_readings, frontier_sentences
from ..files.atomic import atomic_draft, write_atomically
from ..metrics import BITS, CLASSIFIER_DISTANCES, COLUMNS, METRICS, SPEED, Column
from ..output.terminal import failure_line
from ..output.text import csv_text, markdown_line, markdown_list, markdown_table
from ..runs.folder import write_json
from ..significance.statistics import Interval, hypervolume
from .sweep import Sweep
from .sweep_file import Objective
from .trials import (
    best_trials,
    feasible_trials,
    finished_trials,
    minimised_objectives,
    open_search,
    repeats,
    split_front,
)


def report_sweep(sweep: Sweep, console: Console) -> int:
    """Write and print the report so far; returns 1 where a trial failed or a re-run is missing."""
    paths = write_sweep_report(sweep)
    headings, body = rerun_rows(sweep)
    title = sweep.question or sweep.name
    table = Table(*headings, title=title, title_justify="left", box=SIMPLE_HEAD)
    for row in body:
        table.add_row(*row)

    console.print(table)
    for line in sweep_notes(sweep):
        console.print(line, soft_wrap=True)
    console.print()
    for path in paths:
        console.print(str(path), soft_wrap=True)

    faults = _fault_lines(sweep)
    for fault in faults:
        console.print(fault, soft_wrap=True)
    return 1 if faults or not body else 0


def _fault_lines(sweep: Sweep) -> list[Text | str]:
    """A line for each trial that failed, and for each re-run that is missing."""
    lines: list[Text | str] = []
    for study in searches(sweep).values():
        for trial in finished_trials(study):
            if trial.state == TrialState.FAIL:
                lines.append(trial_line(sweep, study, trial))

    for repeat in repeats(sweep):
        for job in repeat.missing:
            lines.append(f"not run: {job.folder.path} ({job.label})")

    return lines


def searches(sweep: Sweep) -> dict[str, optuna.Study]:
    """Name of a target → its trials."""
    return {target.name: open_search(sweep, target) for target in sweep.targets}


def metrics_shown(sweep: Sweep) -> list[str]:
    """The metrics that judge trials, then bits/dim, distance and speed."""
    return list(dict.fromkeys([*sweep.metrics, BITS, *CLASSIFIER_DISTANCES.values(), SPEED]))


def rerun_means(sweep: Sweep) -> dict[tuple[str, str], dict[str, Interval]]:
    """(target, choice) → metric → mean and interval over the re-run."""
    metrics = metrics_shown(sweep)
    return {(repeat.target.name, repeat.name): repeat.means(metrics) for repeat in repeats(sweep)}


def rerun_rows(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row for each re-run setting: means over the re-run alone."""
    metrics = metrics_shown(sweep)
    reruns = repeats(sweep)
    means = [repeat.means(metrics) for repeat in reruns]
    measured = set().union(*means)
    shown = [metric for metric in metrics if metric in measured]

    body = []
    for repeat, values in zip(reruns, means, strict=True):
        count = f"{len(repeat.results)} of {len(repeat.cells)}"
        texts = [values[m].text(METRICS[m].digits) if m in values else "" for m in shown]
        arm = [repeat.target.name] if sweep.has_several_targets else []
        body.append([*arm, repeat.name, repeat.label, count, *texts])

    arm_heading = ["arm"] if sweep.has_several_targets else []
    return [*arm_heading, "re-run", "setting", "repeats", *shown], body


def sweep_notes(sweep: Sweep) -> list[str]:
    """How to read the report."""
    studies = searches(sweep)
    lines = [_rerun_note(sweep), _count_note(studies), _front_note(sweep, studies)]
    if sweep.validation is not None:
        lines.append(f"A validation part judged the trials: {sweep.validation}.")
    lines += _left_out_notes(sweep, studies)
    for name, study in studies.items():
        growth, worst = volumes(sweep, ended_trials(feasible_trials(study)))
        if growth:
            corner = sweep.objectives_text(worst)
            lines.append(
                f"Hypervolume of {name}: {growth[-1]:.4g}, against the worst seen ({corner})."
            )

    if sweep.constraints:
        limits = [f"{metric} ≤ {ceiling:g}" for metric, ceiling in sweep.constraints.items()]
        count = sum(map(len, map(feasible_trials, studies.values())))
        lines.append(f"Within the ceilings ({', '.join(limits)}): {count} trials.")

    return lines + sweep_conclusions(sweep)


def _rerun_note(sweep: Sweep) -> str:
    """What the numbers of the table are measured on."""
    seeds = ", ".join(map(str, sweep.seeds))
    repeated = {
        "base": (
            f"trainings of seeds {seeds}, none of them the search's, on all training images, and "
            "are measured on held-out images that no trial has seen"
        ),
        "run": (
            "other images than the search's, of one training: the intervals say nothing of "
            "training noise"
        ),
        "study": f"seeds {seeds} of the study, on other images than the search's",
    }
    return (
        f"The table's numbers are of re-runs ({repeated[sweep.subject]}); ± is the 95 % t-interval "
        "of their mean."
    )


def _count_note(studies: dict[str, optuna.Study]) -> str:
    """How many trials ended in which way, and the hours that stopping saved."""
    states: Counter[TrialState] = Counter()
    saved = 0.0
    for study in studies.values():
        for trial in finished_trials(study):
            states[trial.state] += 1
            saved += trial.user_attrs.get("saved_seconds", 0.0)

    return (
        f"{states.total()} trials: {states[TrialState.COMPLETE]} measured, "
        f"{states[TrialState.PRUNED]} stopped early, {states[TrialState.FAIL]} failed. "
        f"Stopping saved {saved / 3600:.3f} hours of training."
    )


def _front_note(sweep: Sweep, studies: dict[str, optuna.Study]) -> str:
    """How many points each front has."""
    sizes = [f"{name} {len(best_trials(sweep, study))}" for name, study in studies.items()]
    return (
        f"Points on the front: {', '.join(sizes)}. What the search saw of them is too good: it "
        "chose them by it."
    )


def _left_out_notes(sweep: Sweep, studies: dict[str, optuna.Study]) -> list[str]:
    """A line for each front of which some trials are not re-run."""
    lines = []
    for name, study in studies.items():
        _, left_out = split_front(sweep, study)
        if left_out:
            numbers = ", ".join(str(trial.number) for trial in left_out)
            lines.append(
                f"Not re-run of the front of {name}, since reruns is {sweep.reruns}: "
                f"trials {numbers}."
            )

    return lines


def volumes(sweep: Sweep, trials: list[FrozenTrial]) -> tuple[list[float], list[float]]:
    """Hypervolume after each trial, and the reference point: the worst value of each objective."""
    points = minimised_objectives(sweep, trials)
    reference = list(map(max, zip(*points, strict=True)))
    growth = [hypervolume(points[: i + 1], reference) for i in range(len(points))]
    worst = sweep.costs(reference) if points else []  # the cost of a cost is the value
    return growth, worst


def importances(study: optuna.Study) -> dict[str, float]:
    """PED-ANOVA's importances, the largest first; empty where there are too few trials to say."""
    try:
        return optuna.importance.get_param_importances(study)
    except (ValueError, RuntimeError):
        return {}


def ended_trials(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    return sorted(trials, key=lambda t: (str(t.datetime_complete), t.number))


def sweep_markdown(sweep: Sweep) -> str:
    """The report as Markdown."""
    headings, body = rerun_rows(sweep)
    lines = [
        f"# {markdown_line(sweep.name)}",
        "",
        markdown_line(sweep.question),
        "",
        "## The best, re-run",
        "",
        *markdown_table(headings, body),
        "",
        *markdown_list(sweep_notes(sweep)),
    ]
    doubt = speed_doubt(sweep)
    warning = f" Unreliable speeds: {doubt}." if doubt else ""
    part = ", on a validation part" if sweep.validation else ""
    for name, study in searches(sweep).items():
        arm = markdown_line(f" ({name})") if sweep.has_several_targets else ""
        lines += [
            "",
            f"## The front that the search saw{arm}",
            "",
            f"One seed each{part}, chosen by these numbers: no result.{warning}",
            "",
            *_front_table(sweep, study),
            "",
            f"## Importances{arm}",
            "",
            *_importance_table(study),
        ]

    return "\n".join([*lines, ""])


def _front_table(sweep: Sweep, study: optuna.Study) -> list[str]:
    """The trials on the front, as lines of Markdown."""
    rows = []
    for trial in best_trials(sweep, study):
        values = map("{:.4g}".format, trial.values)
        rows.append([str(trial.number), sweep.label(trial.params), *values])

    return markdown_table(["trial", "setting", *sweep.objective_metrics], rows)


def _importance_table(study: optuna.Study) -> list[str]:
    """The importances of the parameters, as lines of Markdown."""
    shares = [[path, f"{share:.2f}"] for path, share in importances(study).items()]
    return markdown_table(["parameter", "share"], shares) if shares else ["Too few trials."]


def trials_csv(sweep: Sweep) -> str:
    """One row a trial: state, parameters, and every metric."""
    records = []
    metrics: set[str] = set()
    for name, study in searches(sweep).items():
        for trial in finished_trials(study):
            measured = trial.user_attrs.get("metrics", {})
            place = {"search": name, "trial": trial.number, "state": trial.state.name}
            records.append({**trial.user_attrs, **measured, **trial.params, **place})
            metrics.update(measured)

    paths = [parameter.path for parameter in sweep.parameters]
    columns = ["search", "trial", "state", *paths, *sorted(metrics), "saved_seconds", "reason"]
    rows = [columns]
    for record in records:
        rows.append([record.get(column, "") for column in columns])
    return csv_text(rows)


def best_settings(sweep: Sweep) -> dict[str, Any]:
    """Target → choice → its setting and the re-run's means; a table of arms at their own best
    reads them.
    """
    settings: dict[str, Any] = {}
    metrics = metrics_shown(sweep)
    for repeat in repeats(sweep):
        means = {metric: _plain(mean) for metric, mean in repeat.means(metrics).items()}
        job = next(iter(repeat.cells.values()))
        setting = {"setting": job.label, "sampler": vars(job.recipe.sampler), "re-run": means}
        settings.setdefault(repeat.target.name, {})[repeat.name] = setting

    return settings


def _plain(mean: Interval) -> dict[str, Any]:
    """An interval as JSON holds it, where an infinite half-width is null."""
    return {"mean": mean.mean, "half": mean.half if mean.n > 1 else None, "n": mean.n}


def write_sweep_report(sweep: Sweep) -> list[Path]:
    """Write the tables, the figures and best.json; returns their paths."""
    folder = sweep.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "table.md", sweep_markdown(sweep))
    write_atomically(folder / "table.csv", trials_csv(sweep))
    write_json(sweep.folder / "best.json", best_settings(sweep))

    paths = [folder / "table.md", folder / "table.csv", sweep.folder / "best.json"]
    if any(map(feasible_trials, searches(sweep).values())):
        figures = {"pareto": _pareto, "hypervolume": _hypervolume, "importances": _importances}
        for name, draw in figures.items():
            path = folder / f"{name}.png"
            _figure(sweep, draw, path)
            paths.append(path)

    return paths


def _figure(sweep: Sweep, draw: Any, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(5.4, 4), layout="constrained")
    draw(ax, sweep)
    ax.grid(alpha=0.25)
    ax.set_title(sweep.question or sweep.name, fontsize=10, wrap=True, parse_math=False)
    with atomic_draft(path) as draft:
        figure.savefig(draft, dpi=160)
    plt.close(figure)


def _pareto(ax: Any, sweep: Sweep) -> None:
    """Draw all trials, the front, and the means of the re-runs with their intervals; by trial
    number where there is one objective.
    """
    several = len(sweep.objectives) > 1
    doubt = speed_doubt(sweep) if several else ""
    line, label = "o-", "the front that the search saw"
    if doubt:
        line, label = "o", "unreliable speeds: no front"

    def point(trial: FrozenTrial) -> tuple[float, float]:
        return trial.values[1] if several else trial.number, trial.values[0]

    for i, (name, study) in enumerate(searches(sweep).items()):
        trials = feasible_trials(study)
        if not trials:
            continue
        style: dict[str, Any] = {"color": f"C{i}"}
        cloud = zip(*map(point, trials), strict=True)
        best = zip(*sorted(map(point, best_trials(sweep, study))), strict=True)
        ax.plot(*cloud, "o", alpha=0.3, markersize=4, label=f"{name}: trials", **style)
        ax.plot(*best, line, linewidth=1, markersize=5, label=label, **style)

    if several:
        _reruns(ax, sweep)
    ax.set_xlabel(_axis(sweep, 1) if several else "trial")
    ax.set_ylabel(_axis(sweep, 0))
    ax.legend(fontsize=7)


def _reruns(ax: Any, sweep: Sweep) -> None:
    """Draw the means of the re-runs. The axes keep the points in view; intervals of few seeds may
    leave them.
    """
    vertical, horizontal = sweep.objective_metrics[:2]
    means = []
    for values in rerun_means(sweep).values():
        if vertical in values and horizontal in values:
            means.append((values[horizontal], values[vertical]))

    style: dict[str, Any] = {"color": "black", "markersize": 5}
    for x, y in means:
        ax.plot(x.mean, y.mean, "D", **style)
    view = ax.axis()

    label: str | None = "re-run, mean ± 95 %"
    for x, y in means:
        spread = _finite_half(y), _finite_half(x)
        ax.errorbar(x.mean, y.mean, *spread, fmt="D", capsize=3, label=label, **style)
        label = None
    ax.axis(view)


def _finite_half(mean: Interval) -> float:
    """Half-width of an interval; 0 where one value has none."""
    return mean.half if mean.n > 1 else 0.0


def _axis(sweep: Sweep, i: int) -> str:
    objective = sweep.objectives[i]
    return f"{objective.metric} ({'more' if objective.maximize else 'less'} is better)"


def _hypervolume(ax: Any, sweep: Sweep) -> None:
    style: dict[str, Any] = {"where": "post", "markersize": 3}
    for i, (name, study) in enumerate(searches(sweep).items()):
        trials = ended_trials(feasible_trials(study))
        growth, _ = volumes(sweep, trials)
        ax.step(_minutes(study, trials), growth, "o-", color=f"C{i}", label=name, **style)

    ax.set_xlabel("minutes since the first trial began")
    ax.set_ylabel("hypervolume")
    ax.legend(fontsize=7)


def _minutes(study: optuna.Study, trials: list[FrozenTrial]) -> list[float]:
    """Minutes from the start of the study's first trial to the end of each trial."""
    starts = filter(None, map(attrgetter("datetime_start"), study.get_trials(deepcopy=False)))
    first = min(starts, default=None)
    ends = map(attrgetter("datetime_complete"), trials)
    return [(end - first).total_seconds() / 60 for end in ends]


def _importances(ax: Any, sweep: Sweep) -> None:
    shares = {name: importances(study) for name, study in searches(sweep).items()}
    paths = list(dict.fromkeys(itertools.chain.from_iterable(shares.values())))[::-1]
    height = 0.8 / len(shares)
    rows = np.arange(len(paths))

    for i, (name, by_path) in enumerate(shares.items()):
        widths = [by_path.get(path, 0.0) for path in paths]
        ax.barh(rows + i * height, widths, height, color=f"C{i}", label=name)

    ax.set_yticks(rows + height * (len(shares) - 1) / 2, paths)
    ax.set_xlabel("importance (PED-ANOVA)" if paths else "too few trials to tell")
    if paths:
        ax.legend(fontsize=7)


def trial_line(sweep: Sweep, study: optuna.Study, trial: FrozenTrial) -> Text:
    """A finished trial in a line."""
    search = study.study_name if sweep.has_several_targets else "trial"
    label = f"{search} {trial.number}: {sweep.label(trial.params)}"
    if trial.state == TrialState.COMPLETE:
        return Text(f"{label}: {sweep.objectives_text(trial.values)}")

    reason = f"{label}: {trial.user_attrs['reason']}"
    return Text(f"stopped {reason}") if trial.state == TrialState.PRUNED else failure_line(reason)


Readings = dict[str, dict[int, tuple[float, float]]]
"""Name → seed → (speed, quality) as measured."""


def frontier_columns(sweep: Sweep) -> tuple[Column, Column]:
    """Quality, the first objective, and speed: the second one, else images/s."""
    quality, speed, *_ = (*sweep.objectives, Objective(SPEED, "maximize"))
    return _column(quality), _column(speed)


def _column(objective: Objective) -> Column:
    column = COLUMNS.get(objective.metric, Column(objective.metric, objective.metric))
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
        sentences.append(_joint_sentence(sweep, joint, trials))
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
    for repeat in repeats(sweep):
        reports += [job.folder.report(job.recipe) for job in repeat.cells.values()]
        measured = [metrics[SPEED] for metrics in repeat.results.values() if SPEED in metrics]
        speeds[_name(sweep, repeat.target.name, repeat.name)] = measured

    return unreliable(list(filter(None, reports)), speeds)


def _joint_sentence(sweep: Sweep, joint: Frontier, trials: Readings) -> str:
    """Where the re-runs stand among the trials."""
    reruns = [name for name in joint.front if name not in trials]
    bend = f" It bends at {joint.knee}." if joint.knee else ""
    part = " and validation images" if sweep.validation else ""
    return (
        f"Trials and the means of re-runs together: {len(joint.front)} of {len(joint.means)} on"
        f" the front, re-runs among them: {', '.join(reruns) or 'none'}.{bend} A trial has one"
        f" seed{part}, by which it was chosen."
    )


def rerun_frontier(sweep: Sweep, quality: Column, speed: Column) -> Readings:
    """Readings of every re-run setting, of the seeds that have both."""
    readings: Readings = {}
    for repeat in repeats(sweep):
        by_seed = readings.setdefault(_name(sweep, repeat.target.name, repeat.name), {})
        for seed, metrics in repeat.results.items():
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
