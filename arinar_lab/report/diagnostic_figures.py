"""Figures of curves: how training went, and where along a token and an image the bits go.

A curve is the mean over seeds, its band reaches from the lowest to the highest seed. Every row of
panels is a facet: a few arms and the baseline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..analysis.results import Results
from ..metrics import BITS
from ..study.plan import Arm, Plan
from .style import PAGE, Look, facets, looks, paper_pyplot, wrap_label

Curve = tuple[np.ndarray, np.ndarray]
"""x [n], and a row of values for each seed [seeds, n]."""


def history(results: Results, arm: Arm, metric: str) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Seed → steps and values of a metric, from the metrics.csv of the finished runs."""
    from ..runs.history import read_metrics

    found = {}
    for seed in results.reports[arm.name]:
        file = results.plan.cell(arm, seed)[0].path / "metrics.csv"
        rows = {
            step: value
            for step, name, value in read_metrics(file)
            if name == metric and math.isfinite(value)
        }
        if rows:
            found[seed] = (
                np.asarray(sorted(rows)),
                np.asarray([rows[step] for step in sorted(rows)]),
            )
    return found


def learning_curves(results: Results) -> Any | None:
    """Training loss and held-out bits/dim over the steps."""
    metrics = ("train/loss", BITS)
    curves = {
        (a.name, m): curve
        for a in results.plan.arms
        for m in metrics
        if (curve := _over_seeds(results, a, m))
    }
    shown = [metric for metric in metrics if any(m == metric for _, m in curves)]
    labels = {
        "train/loss": ("step", "training loss, nats/token"),
        BITS: ("step", "held-out bits/dim"),
    }

    return draw_facets(results.plan, curves, shown, labels) if shown else None


def _over_seeds(results: Results, arm: Arm, metric: str) -> Curve | None:
    """Steps, and a row of values for each seed, at the steps that all its seeds have."""
    runs = history(results, arm, metric)
    if not runs:
        return None
    steps = np.asarray(
        sorted(set.intersection(*(set(steps.tolist()) for steps, _ in runs.values())))
    )
    rows = [values[np.isin(at, steps)] for at, values in runs.values()]
    return (steps, np.stack(rows)) if len(steps) else None


def draw_facets(
    plan: Plan,
    curves: dict[tuple[str, str], Curve],
    panels: Sequence[str],
    labels: dict[str, tuple[str, str]],
) -> Any:
    """A row of panels for each facet of the arms, each with the baseline; a
    legend beside each row.
    """
    rows = [
        facet
        for facet in facets(plan)
        if any((arm.name, p) in curves for arm in facet for p in panels)
    ]
    names = {arm.name: wrap_label(arm.name, 22) for facet in rows for arm in facet}
    # inches
    legend = max(
        sum(0.05 + 0.12 * len(names[arm.name].splitlines()) for arm in facet) for facet in rows
    )
    size = (PAGE, 0.5 + max(1.75, legend) * len(rows))

    with paper_pyplot() as plt:
        figure, axes = plt.subplots(
            len(rows), len(panels), figsize=size, squeeze=False, sharex="col"
        )
        for row, facet in zip(axes, rows, strict=True):
            for ax, panel in zip(row, panels, strict=True):
                for arm in facet:
                    if (arm.name, panel) in curves:
                        _banded(
                            ax, *curves[arm.name, panel], looks(plan)[arm.name], names[arm.name]
                        )
                ax.set_ylabel(labels[panel][1])
                _without_the_start(
                    ax, [curves[a.name, panel] for a in facet if (a.name, panel) in curves]
                )

            handles = {
                label: h
                for ax in row
                for h, label in zip(*ax.get_legend_handles_labels(), strict=True)
            }
            row[-1].legend(
                handles.values(), handles.keys(), loc="upper left", bbox_to_anchor=(1.01, 1.05)
            )

        for ax, panel in zip(axes[-1], panels, strict=True):
            ax.set_xlabel(labels[panel][0])

    return figure


def _banded(ax: Any, x: np.ndarray, rows: np.ndarray, look: Look, label: str) -> None:
    few = len(x) <= 20
    ax.plot(
        x,
        rows.mean(0),
        color=look.colour,
        linestyle=look.line,
        label=label,
        marker=look.marker,
        markevery=1 if few else max(1, len(x) // 6),
        markersize=3,
    )
    if len(rows) > 1:
        ax.fill_between(x, rows.min(0), rows.max(0), color=look.colour, alpha=0.15, linewidth=0)


def _without_the_start(ax: Any, curves: list[Curve]) -> None:
    """Where the first tenth of a long curve would flatten the rest, it leaves the axes."""
    late = [rows[:, len(x) // 10 :] for x, rows in curves if len(x) > 20]
    if late:
        low, high = min(part.min() for part in late), max(part.max() for part in late)
        ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low)) if high > low else None


def where_the_bits_go(results: Results) -> Any | None:
    """Held-out bits/dim by the index of the feature in its token, and by the token's position."""
    panels = {"by_feature": ("feature", "bits/dim"), "by_token": ("token", "bits/dim")}
    curves = {
        (a.name, p): curve
        for a in results.plan.arms
        for p in panels
        if (curve := _diagnosed(results, a, p))
    }
    shown = [panel for panel in panels if any(p == panel for _, p in curves)]

    return draw_facets(results.plan, curves, shown, panels) if shown else None


def _diagnosed(results: Results, arm: Arm, name: str) -> Curve | None:
    """What each seed's report says by feature or by token."""
    rows = [
        row
        for report in results.reports[arm.name].values()
        if (row := report.get("diagnosis", {}).get(name))
    ]
    rows = [row for row in rows if len(row) == len(rows[0])]
    return (np.arange(len(rows[0])), np.asarray(rows)) if rows else None
