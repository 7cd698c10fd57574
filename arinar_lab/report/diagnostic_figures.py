"""Figures of curves: how training went, and where along a token and an image the bits go.

A curve is the mean over seeds, its band reaches from the lowest to the highest seed. Every row of
panels is a facet: a few arms and the baseline.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..analysis.analyse import Analysis
from ..analysis.results import ArmResult, Results
from ..files.history import read_history
from ..metrics import BITS
from .style import PAGE, Look, facets, looks, paper_pyplot, wrap_label

Curve = tuple[np.ndarray, np.ndarray]
"""x [n], and a row of values for each seed [seeds, n]."""


def learning_curves(analysis: Analysis) -> Any | None:
    """Training loss and held-out bits/dim over the steps."""
    labels = {
        "train/loss": ("step", "training loss, nats/token"),
        BITS: ("step", "held-out bits/dim"),
    }
    curves: dict[tuple[str, str], Curve] = {}
    for arm in analysis.results.arms:
        rows = [read_history(arm.folders[seed].run / "metrics.csv") for seed in arm.reports]
        for metric in labels:
            if curve := _over_seeds(rows, metric):
                curves[arm.name, metric] = curve

    return draw_facets(analysis.results, curves, labels)


def _over_seeds(histories: list[list[tuple[int, str, float]]], metric: str) -> Curve | None:
    """Steps, and a row of values for each seed, at the steps that all seeds have
    that logged the metric.
    """
    by_step = []
    for rows in histories:
        values = {
            step: value for step, name, value in rows if name == metric and math.isfinite(value)
        }
        by_step += [values] if values else []

    if not by_step:
        return None
    steps = sorted(set.intersection(*map(set, by_step)))
    curves = [[of_seed[step] for step in steps] for of_seed in by_step]

    return (np.asarray(steps), np.asarray(curves)) if steps else None


def draw_facets(
    results: Results, curves: dict[tuple[str, str], Curve], labels: dict[str, tuple[str, str]]
) -> Any | None:
    """A row of panels for each facet of the arms, each with the baseline; a legend beside each row.

    Arguments:
        curves: (arm, panel) → its curve. labels: panel → what its axes say; one without
            a curve is left out.
    """
    panels = [panel for panel in labels if any(of_panel == panel for _, of_panel in curves)]
    if not panels:
        return None

    rows = [
        facet
        for facet in facets(results)
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
                            ax, *curves[arm.name, panel], looks(results)[arm.name], names[arm.name]
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


def where_the_bits_go(analysis: Analysis) -> Any | None:
    """Held-out bits/dim by the index of the feature in its token, and by the token's position."""
    labels = {"by_feature": ("feature", "bits/dim"), "by_token": ("token", "bits/dim")}
    curves: dict[tuple[str, str], Curve] = {}
    for arm in analysis.results.arms:
        for panel in labels:
            if curve := _diagnosed(arm, panel):
                curves[arm.name, panel] = curve
    return draw_facets(analysis.results, curves, labels)


def _diagnosed(arm: ArmResult, name: str) -> Curve | None:
    """What the report of each seed holds by feature or by token."""
    rows = [
        row for report in arm.reports.values() if (row := report.get("diagnosis", {}).get(name))
    ]
    rows = [row for row in rows if len(row) == len(rows[0])]
    return (np.arange(len(rows[0])), np.asarray(rows)) if rows else None
