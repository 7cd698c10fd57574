"""Figures of curves: how training went, and where along a token and an image the bits go.

A curve is the mean over seeds, its band reaches from the lowest to the highest seed. Every row of
panels is a facet: a few arms and the baseline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..analysis.analyse import Analysis
from ..analysis.conditions import report_values
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
        files = [arm.folders[seed].run / "metrics.csv" for seed in arm.reports]
        histories = [read_history(file) for file in files if file not in arm.damaged]
        for metric in labels:
            if curve := _over_seeds(histories, metric):
                curves[arm.name, metric] = curve

    return draw_facets(analysis.results, curves, labels)


def _over_seeds(histories: list[list[tuple[int, str, float]]], metric: str) -> Curve | None:
    """Steps, and a row of values for each seed, at the steps that all seeds have
    that logged the metric.
    """
    by_seed: list[dict[int, float]] = []
    for history in histories:
        values = {}
        for step, name, value in history:
            if name == metric and math.isfinite(value):
                values[step] = value
        by_seed.append(values)
    by_seed = list(filter(None, by_seed))
    if not by_seed:
        return None

    steps = sorted(set.intersection(*map(set, by_seed)))
    curves = [list(map(values.__getitem__, steps)) for values in by_seed]

    return (np.asarray(steps), np.asarray(curves)) if steps else None


def draw_facets(
    results: Results, curves: dict[tuple[str, str], Curve], labels: dict[str, tuple[str, str]]
) -> Any | None:
    """A row of panels for each facet of the arms, each with the baseline; a legend beside each row.

    Arguments:
        curves: (arm, panel) → its curve.
        labels: Panel → labels of its axes; one without a curve is left out.
    """
    if not curves:
        return None

    drawn_arms, drawn_panels = map(set, zip(*curves, strict=True))
    panels = list(filter(drawn_panels.__contains__, labels))
    rows = []
    for facet in facets(results):
        if not drawn_arms.isdisjoint(arm.name for arm in facet):
            rows.append(facet)
    size = (PAGE, 0.5 + max(1.75, *map(_legend_height, rows)) * len(rows))
    look_of = looks(results)

    with paper_pyplot() as plt:
        figure, axes = plt.subplots(
            len(rows), len(panels), figsize=size, squeeze=False, sharex="col"
        )
        for row, facet in zip(axes, rows, strict=True):
            for ax, panel in zip(row, panels, strict=True):
                drawn = []
                for arm in facet:
                    if (arm.name, panel) in curves:
                        curve = curves[arm.name, panel]
                        _banded(ax, *curve, look_of[arm.name], _legend_label(arm.name))
                        drawn.append(curve)
                _without_the_start(ax, drawn)
                ax.set_ylabel(labels[panel][1])
            _row_legend(row)
        for ax, panel in zip(axes[-1], panels, strict=True):
            ax.set_xlabel(labels[panel][0])

    return figure


def _legend_label(name: str) -> str:
    return wrap_label(name, 22)


def _legend_height(facet: Sequence[ArmResult]) -> float:
    """Inches of the legend of a row."""
    return sum(0.05 + 0.12 * len(_legend_label(arm.name).splitlines()) for arm in facet)


def _row_legend(row: Sequence[Any]) -> None:
    """One legend for a row of panels, beside the last one."""
    handles = {}
    for ax in row:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles[label] = handle
    row[-1].legend(handles.values(), handles.keys(), loc="upper left", bbox_to_anchor=(1.01, 1.05))


def _banded(ax: Any, x: np.ndarray, rows: np.ndarray, look: Look, label: str) -> None:
    mark_every = 1 if len(x) <= 20 else len(x) // 6
    ax.plot(
        x,
        rows.mean(0),
        color=look.colour,
        linestyle=look.line,
        label=label,
        marker=look.marker,
        markevery=mark_every,
        markersize=3,
    )
    if len(rows) > 1:
        ax.fill_between(x, rows.min(0), rows.max(0), color=look.colour, alpha=0.15, linewidth=0)


def _without_the_start(ax: Any, curves: list[Curve]) -> None:
    """Where the first tenth of a long curve would flatten the rest, it leaves the axes."""
    late = [rows[:, len(x) // 10 :].ravel() for x, rows in curves if len(x) > 20]
    if late:
        values = np.concatenate(late)
        low = values.min()
        margin = 0.05 * np.ptp(values)
        if margin > 0:
            ax.set_ylim(low - margin, values.max() + margin)


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
    """Bits/dim of each seed by feature or by token; seeds of another length are left out."""
    rows = list(filter(None, report_values(arm.reports.values(), "diagnosis", name)))
    rows = [row for row in rows if len(row) == len(rows[0])]
    return (np.arange(len(rows[0])), np.asarray(rows)) if rows else None
