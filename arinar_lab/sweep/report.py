"""The report of a sweep: what the re-runs say, what the search saw, and what mattered in it.

The best of n trials looks better than it is, for it was chosen by the very numbers that it is shown
with. So only the re-run's means are reported as results: other seeds, or other images. The front is
shown as what the search saw.

    hypervolume(n)      of the first n trials, against the worst value of each
                        objective in the whole search
    importance          PED-ANOVA: how much a parameter decides whether a trial is among the best
                        (on the Pareto front)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..analysis.statistics import Interval, hypervolume, interval
from ..files.atomic import atomic_draft, write_atomically
from ..metrics import BITS, DISTANCE, METRICS, SPEED
from ..output.terminal import failure_line
from ..output.text import csv_text, markdown_line, markdown_list, markdown_table
from ..runs.folder import write_json
from . import front
from .sweep import Sweep
from .trials import (
    best_trials,
    feasible_trials,
    finished_trials,
    minimised_objectives,
    open_search,
    repeats,
)


def report_sweep(sweep: Sweep, console: Console) -> int:
    """Write and print the report of what there is; returns 1 where a trial failed or
    a re-run is missing.
    """
    paths = write_sweep_report(sweep)
    headings, body = rerun_rows(sweep)
    table = Table(
        *headings, title=sweep.question or sweep.name, title_justify="left", box=SIMPLE_HEAD
    )

    for row in body:
        table.add_row(*row)
    console.print(table)
    for line in sweep_notes(sweep):
        console.print(line, soft_wrap=True)
    console.print()
    for path in paths:
        console.print(str(path), soft_wrap=True)
    failures = [
        (s, t)
        for s in searches(sweep).values()
        for t in finished_trials(s)
        if t.state == TrialState.FAIL
    ]
    for study, trial in failures:
        console.print(trial_line(sweep, study, trial), soft_wrap=True)
    missing = [
        cell
        for again in repeats(sweep)
        for seed, cell in again.cells.items()
        if seed not in again.results
    ]
    for cell in missing:
        console.print(f"not run: {cell.folder.path} ({cell.label})", soft_wrap=True)

    return 1 if failures or missing or not body else 0


def searches(sweep: Sweep) -> dict[str, optuna.Study]:
    return {target.name: open_search(sweep, target) for target in sweep.targets}


def metrics_shown(sweep: Sweep) -> list[str]:
    """The objectives and ceilings, and what no table of ours leaves out."""
    return list(
        dict.fromkeys(
            [o.metric for o in sweep.objectives] + list(sweep.constraints) + [BITS, DISTANCE, SPEED]
        )
    )


def rerun_means(sweep: Sweep) -> dict[tuple[str, str], dict[str, Interval]]:
    """(target, choice) → metric → mean and interval over the re-run."""
    found: dict[tuple[str, str], dict[str, Interval]] = {}
    for again in repeats(sweep):
        results = list(again.results.values())
        shown = [
            m for m in metrics_shown(sweep) if results and all(m in metrics for metrics in results)
        ]
        found[again.target.name, again.name] = {
            m: interval([metrics[m] for metrics in results]) for m in shown
        }

    return found


def rerun_rows(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row for each setting that was re-run: means over the re-run, never
    what the search saw.
    """
    found, shown = rerun_means(sweep), metrics_shown(sweep)
    shown = [metric for metric in shown if any(metric in values for values in found.values())]

    body = []
    for again in repeats(sweep):
        values = found[again.target.name, again.name]
        texts = [values[m].text(METRICS[m].digits) if m in values else "" for m in shown]
        arm = [again.target.name] if len(sweep.targets) > 1 else []
        body.append(
            [*arm, again.name, again.label, f"{len(again.results)} of {len(again.cells)}", *texts]
        )

    return [
        *(["arm"] if len(sweep.targets) > 1 else []),
        "re-run",
        "setting",
        "repeats",
        *shown,
    ], body


def sweep_notes(sweep: Sweep) -> list[str]:
    """How to read the report."""
    studies = searches(sweep)
    trials = [t for study in studies.values() for t in finished_trials(study)]
    pruned = [t for t in trials if t.state == TrialState.PRUNED]
    repeated = {
        "base": f"trainings of seeds {', '.join(map(str, sweep.seeds))}, none of them the search's",
        "run": (
            "other images than the search's, of one training: the intervals say nothing of "
            "training noise"
        ),
        "study": (
            f"seeds {', '.join(map(str, sweep.seeds))} of the study, on other images than "
            "the search's"
        ),
    }[sweep.subject]
    lines = [
        f"The table's numbers are of re-runs ({repeated}); ± is the 95 % t-interval of their mean.",
        (
            f"{len(trials)} trials: {sum(t.state == TrialState.COMPLETE for t in trials)}"
            f" measured, {len(pruned)} stopped early,"
            f" {sum(t.state == TrialState.FAIL for t in trials)} failed. Stopping saved"
            f" {sum(t.user_attrs.get('saved_seconds', 0.0) for t in pruned) / 3600:.3f}"
            " hours of training."
        ),
    ]
    sizes = [f"{name} {len(best_trials(sweep, study))}" for name, study in studies.items()]
    lines.append(
        f"Points on the front: {', '.join(sizes)}. What the search saw of them is too good: it "
        "chose them by it."
    )
    for name, study in studies.items():
        growth, worst = volumes(sweep, ended_trials(feasible_trials(study)))
        if growth:
            corner = ", ".join(
                f"{o.metric} {w:.4g}" for o, w in zip(sweep.objectives, worst, strict=True)
            )
            lines.append(
                f"Hypervolume of {name}: {growth[-1]:.4g}, against the worst seen ({corner})."
            )

    if sweep.constraints:
        ceilings = ", ".join(
            f"{metric} ≤ {ceiling:g}" for metric, ceiling in sweep.constraints.items()
        )
        lines.append(
            f"Within the ceilings ({ceilings}): "
            f"{sum(len(feasible_trials(s)) for s in studies.values())} trials."
        )

    return lines + front.sweep_conclusions(sweep)


def volumes(sweep: Sweep, trials: list[FrozenTrial]) -> tuple[list[float], list[float]]:
    """Hypervolume after each of the trials, and the reference point: the worst value of each
    objective among them.
    """
    points = minimised_objectives(sweep, trials)
    reference = [max(column) for column in zip(*points, strict=True)]
    worst = [o.cost(c) for o, c in zip(sweep.objectives, reference, strict=True)] if points else []
    return [hypervolume(points[: i + 1], reference) for i in range(len(points))], worst


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
    ]
    lines += markdown_list(sweep_notes(sweep))
    doubt = front.speed_doubt(sweep)

    for name, study in searches(sweep).items():
        of = f" ({name})" if len(sweep.targets) > 1 else ""
        rows = [
            [str(t.number), sweep.label(t.params), *(f"{v:.4g}" for v in t.values)]
            for t in best_trials(sweep, study)
        ]
        lines += [
            "",
            f"## The front that the search saw{markdown_line(of)}",
            "",
            "One seed each, chosen by these numbers: no result."
            + (f" Unreliable speeds: {doubt}." if doubt else ""),
            "",
        ]
        lines += markdown_table(["trial", "setting", *(o.metric for o in sweep.objectives)], rows)
        shares = [[path, f"{share:.2f}"] for path, share in importances(study).items()]
        lines += [
            "",
            f"## Importances{markdown_line(of)}",
            "",
            *(markdown_table(["parameter", "share"], shares) if shares else ["Too few trials."]),
        ]

    return "\n".join([*lines, ""])


def trials_csv(sweep: Sweep) -> str:
    """One row a trial: state, parameters, and every metric."""
    trials = [(name, t) for name, study in searches(sweep).items() for t in finished_trials(study)]
    metrics = sorted({m for _, t in trials for m in t.user_attrs.get("metrics", {})})
    paths = [p.path for p in sweep.parameters]
    rows = [["search", "trial", "state", *paths, *metrics, "saved_seconds", "reason"]]

    for name, t in trials:
        measured, said = t.user_attrs.get("metrics", {}), t.user_attrs
        cells = [*(t.params.get(p, "") for p in paths), *(measured.get(m, "") for m in metrics)]
        rows.append(
            [
                name,
                t.number,
                t.state.name,
                *cells,
                said.get("saved_seconds", ""),
                said.get("reason", ""),
            ]
        )

    return csv_text(rows)


def best_settings(sweep: Sweep) -> dict[str, Any]:
    """Target → choice → its setting and the re-run's means: what a table of arms at
    their own best reads.
    """
    found: dict[str, Any] = {}
    summary = rerun_means(sweep)
    for again in repeats(sweep):
        values, cell = summary[again.target.name, again.name], next(iter(again.cells.values()))
        means = {
            m: {"mean": i.mean, "half": i.half if i.n > 1 else None, "n": i.n}
            for m, i in values.items()
        }
        sampler = vars(cell.recipe.sampler)
        setting = {"setting": again.label, "sampler": sampler, "re-run": means}
        found.setdefault(again.target.name, {})[again.name] = setting

    return found


def write_sweep_report(sweep: Sweep) -> list[Path]:
    """Write the tables, the figures and best.json; returns their paths."""
    folder = sweep.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "table.md", sweep_markdown(sweep))
    write_atomically(folder / "table.csv", trials_csv(sweep))
    write_json(sweep.folder / "best.json", best_settings(sweep))
    paths = [folder / "table.md", folder / "table.csv", sweep.folder / "best.json"]
    if any(feasible_trials(study) for study in searches(sweep).values()):
        for name, draw in (
            ("pareto", _pareto),
            ("hypervolume", _hypervolume),
            ("importances", _importances),
        ):
            _figure(sweep, draw, folder / f"{name}.png")
            paths.append(folder / f"{name}.png")

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
    """All trials, the front, and the re-run's means with their intervals; by trial number where
    there is one objective.
    """
    several = len(sweep.objectives) > 1
    doubt = front.speed_doubt(sweep) if several else ""
    for i, (name, study) in enumerate(searches(sweep).items()):
        points, best = feasible_trials(study), best_trials(sweep, study)
        if not points:
            continue

        at = lambda t: (t.values[1] if several else t.number, t.values[0])  # noqa: E731
        ax.plot(
            *zip(*map(at, points), strict=True),
            "o",
            color=f"C{i}",
            alpha=0.3,
            markersize=4,
            label=f"{name}: trials",
        )
        line, label = (
            ("o", "unreliable speeds: no front")
            if doubt
            else ("o-", "the front that the search saw")
        )
        ax.plot(
            *zip(*sorted(map(at, best)), strict=True),
            line,
            color=f"C{i}",
            linewidth=1,
            markersize=5,
            label=label,
        )

    if several:
        _reruns(ax, sweep)
    ax.set_xlabel(_axis(sweep, 1) if several else "trial")
    ax.set_ylabel(_axis(sweep, 0))
    ax.legend(fontsize=7)


def _reruns(ax: Any, sweep: Sweep) -> None:
    """The means of the re-runs; intervals of few seeds may leave the axes, which
    keep the points in view.
    """
    first, second = (o.metric for o in sweep.objectives[:2])
    ends = [
        (v[second], v[first]) for v in rerun_means(sweep).values() if first in v and second in v
    ]
    ax.plot([x.mean for x, _ in ends], [y.mean for _, y in ends], "D", color="black", markersize=5)
    view = ax.axis()
    for n, (x, y) in enumerate(ends):
        spread = [i.half if i.n > 1 else 0.0 for i in (y, x)]
        label = "re-run, mean ± 95 %" if n == 0 else None
        ax.errorbar(
            x.mean, y.mean, *spread, fmt="D", color="black", markersize=5, capsize=3, label=label
        )

    ax.axis(view)


def _axis(sweep: Sweep, i: int) -> str:
    objective = sweep.objectives[i]
    return f"{objective.metric} ({'more' if objective.maximize else 'less'} is better)"


def _hypervolume(ax: Any, sweep: Sweep) -> None:
    for i, (name, study) in enumerate(searches(sweep).items()):
        trials = ended_trials(feasible_trials(study))
        begun = min(
            (t.datetime_start for t in study.get_trials(deepcopy=False) if t.datetime_start),
            default=None,
        )
        minutes = [
            (t.datetime_complete - begun).total_seconds() / 60
            for t in trials
            if t.datetime_complete and begun
        ]
        ax.step(
            minutes,
            volumes(sweep, trials)[0],
            "o-",
            where="post",
            markersize=3,
            color=f"C{i}",
            label=name,
        )

    ax.set_xlabel("minutes since the first trial began")
    ax.set_ylabel("hypervolume")
    ax.legend(fontsize=7)


def _importances(ax: Any, sweep: Sweep) -> None:
    found = {name: importances(study) for name, study in searches(sweep).items()}
    paths = list(
        reversed(list(dict.fromkeys(path for shares in found.values() for path in shares)))
    )
    height = 0.8 / len(found)

    for i, (name, shares) in enumerate(found.items()):
        at = [y + i * height for y in range(len(paths))]
        ax.barh(at, [shares.get(path, 0.0) for path in paths], height, color=f"C{i}", label=name)

    ax.set_yticks([y + height * (len(found) - 1) / 2 for y in range(len(paths))], paths)
    ax.set_xlabel("importance (PED-ANOVA)" if paths else "too few trials to tell")
    if paths:
        ax.legend(fontsize=7)


def trial_line(sweep: Sweep, study: optuna.Study, trial: FrozenTrial) -> Text:
    """A finished trial in a line."""
    name = (
        f"{study.study_name} {trial.number}" if len(sweep.targets) > 1 else f"trial {trial.number}"
    )
    label = f"{name}: {sweep.label(trial.params)}"
    if trial.state == TrialState.COMPLETE:
        said = [f"{o.metric} {v:.4g}" for o, v in zip(sweep.objectives, trial.values, strict=True)]
        return Text(f"{label}: {', '.join(said)}")

    reason = f"{label}: {trial.user_attrs['reason']}"
    return Text(f"stopped {reason}") if trial.state == TrialState.PRUNED else failure_line(reason)
