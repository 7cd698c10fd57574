"""Figures of what a study found: its metrics against what was varied, quality against speed, and
what generation costs.

Two error bars are kept apart everywhere: a thin one with caps is the 95 % interval of the mean over
seeds (training noise), a broad pale one the 95 % interval of a value over images (evaluation
noise). Small dots are single seeds. An interval that leaves the axes ends there in an arrow.

Figures are as wide as a paper's column; with more than `MANY_ARMS` arms, as both columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from ..analysis.analyse import Analysis
from ..analysis.pareto import Frontier
from ..analysis.rank_agreement import mean_by_arm
from ..analysis.results import ArmResult, Results
from ..analysis.statistics import Interval
from ..metrics import BITS, DISTANCE, DISTANCES, FEW, GAP, HEADINGS, LEVEL, METRICS, SPEED
from .style import (
    BLACK,
    BLUE,
    COLUMN,
    FACET,
    GREY,
    PAGE,
    PALE,
    SERIES,
    SKY,
    VERMILION,
    Look,
    looks,
    paper_pyplot,
    readable_log,
    wrap_label,
)

# arms beyond which a figure takes both columns, and marks do not tell all of them apart
MANY_ARMS = FACET + 1
_PARTS = {
    "outer": (BLUE, "", "outer"),
    "inner": (SKY, "////", "inner trunk"),
    "head": (VERMILION, "....", "head"),
    "codec": (GREY, "xxxx", "codec"),
}


@dataclass(frozen=True)
class IntervalBar:
    """An interval as drawn: at (x, y), half as wide and as high as that, in a colour."""

    at: tuple[float, float]
    half: tuple[float, float]
    colour: str


def panels_of(results: Results) -> list[list[str]]:
    """The metrics that are drawn, in panels of one unit each, as far as somebody has them."""
    distances = ((DISTANCE, FEW), *((m,) for m in DISTANCES if m != DISTANCE))
    asked = ((BITS, LEVEL), (GAP,), *distances)
    measured = {m for panel in asked for m in panel if any(arm.values(m) for arm in results.arms)}
    panels = [[m for m in panel if m in measured] for panel in asked]
    return [panel for panel in panels if panel]


def axis_label(metric: str) -> str:
    """A metric as an axis says it, with the direction that is better."""
    better = {True: " (less is better)", False: " (more is better)", None: ""}
    less = METRICS[metric].less if metric in METRICS else None
    return HEADINGS.get(metric, metric) + better[less]


def against_factor(analysis: Analysis) -> Any | None:
    """Each metric against the varied factor: along a scale where it is one
    number, else arm by arm.
    """
    results = analysis.results
    panels = panels_of(results)
    if not panels:
        return None
    scale = _scale(results)
    return _along(results, panels, scale) if scale else _arm_by_arm(results, panels)


def _scale(results: Results) -> list[float]:
    """The arms' values where one numeric axis of at least two values is varied, else nothing."""
    values = [
        arm.factors[0] for arm in results.arms if len(arm.factors) == 1 and not results.budgets
    ]
    are_numbers = all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )

    return (
        [float(v) for v in values] if are_numbers and len(values) == len(results.arms) > 1 else []
    )


def _along(results: Results, panels: list[list[str]], scale: list[float]) -> Any:
    with paper_pyplot() as plt:
        figure, axes = plt.subplots(
            len(panels), 1, figsize=(COLUMN, 2.2 * len(panels)), squeeze=False
        )
        positive = min(scale) > 0 and max(scale) / min(scale) > 4
        for ax, metrics in zip(axes[:, 0], panels, strict=True):
            drawn: list[IntervalBar] = []
            for i, metric in enumerate(metrics):
                # beside each other, not one on the other
                shift = 0.05 * (i - (len(metrics) - 1) / 2)
                places = [
                    x * (1 + shift) if positive else x + shift * np.ptp(scale) / 2 for x in scale
                ]
                drawn += _series(ax, results, metric, places, SERIES[i])

            floor = _floor(ax.axhline, results, metrics)
            _in_view(
                ax.set_ylim, ax.get_ylim, floor + [v for m in metrics for v in _all(results, m)]
            )
            if positive:
                ax.set_xscale("log", base=2)
            ax.set_xticks(scale, [f"{value:g}" for value in scale])
            ax.minorticks_off()
            ax.set(xlabel=results.axes[0], ylabel=axis_label(metrics[0]))
            _arrows(ax, drawn)
            _legend(ax, metrics, floor)

    return figure


def _series(
    ax: Any, results: Results, metric: str, places: Sequence[float], look: Look
) -> list[IntervalBar]:
    """One metric of every arm at its place on the x axis; returns its intervals."""
    drawn = [
        (x, arm, s)
        for x, arm in zip(places, results.arms, strict=True)
        if (s := arm.summary(metric))
    ]

    if not drawn:
        return []

    x, mean = [x for x, _, _ in drawn], [s.mean for _, _, s in drawn]
    images = [arm.evaluation_noise(metric) or 0.0 for _, arm, _ in drawn]
    ax.errorbar(
        x, mean, images, fmt="none", ecolor=look.colour, elinewidth=5, capsize=0, alpha=0.35
    )
    ax.errorbar(
        x,
        mean,
        [_half(s) for _, _, s in drawn],
        **look.of_line,
        elinewidth=0.9,
        label=HEADINGS[metric],
    )
    for place, arm, _ in drawn:
        values = list(arm.values(metric).values())
        ax.plot(
            [place] * len(values), values, look.marker, color=look.colour, alpha=0.4, markersize=2
        )

    return [IntervalBar((place, s.mean), (0.0, _half(s)), look.colour) for place, _, s in drawn]


def _arm_by_arm(results: Results, panels: list[list[str]]) -> Any:
    """Arms from top to bottom, a panel for each unit; the baseline's mean as a line beside the
    arms compared with it.
    """
    arms, wide = results.arms, len(results.arms) > MANY_ARMS
    names = [wrap_label(arm.name, 34 if wide else 22, 1 if wide else 2) for arm in arms]
    names = [
        f"{name} (baseline)" if arm.name in results.baselines else name
        for name, arm in zip(names, arms, strict=True)
    ]
    height = max(1.6, 0.5 + (0.2 if wide else 0.24) * len(arms))
    shape = (1, len(panels)) if wide else (len(panels), 1)
    size = (PAGE, height) if wide else (COLUMN, height * len(panels))

    with paper_pyplot() as plt:
        figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, sharey=wide)
        for ax, metrics in zip(axes.flat, panels, strict=True):
            drawn: list[IntervalBar] = []
            for i, metric in enumerate(metrics):
                shift = 0.26 * (i - (len(metrics) - 1) / 2)
                for row, arm in enumerate(arms):
                    label = HEADINGS[metric] if row == 0 else None
                    drawn += _dot(ax, arm, metric, row + shift, SERIES[i], label)
                for part in results.by_budget:
                    if baseline := part.baseline_arm.summary(metric):
                        of = [row for row, arm in enumerate(arms) if arm in part.arms]
                        ends = min(of) - 0.5, max(of) + 0.5
                        ax.plot(
                            [baseline.mean] * 2,
                            ends,
                            color=SERIES[i].colour,
                            linestyle=":",
                            linewidth=0.8,
                        )
            floor = _floor(ax.axvline, results, metrics)
            _in_view(
                ax.set_xlim, ax.get_xlim, floor + [v for m in metrics for v in _all(results, m)]
            )
            ax.set_xlabel(axis_label(metrics[0]))
            ax.set_ylim(len(arms) - 0.5, -0.5)
            ax.set_yticks(range(len(arms)), names)
            _arrows(ax, drawn)
            _legend(ax, metrics, floor)

    return figure


def _dot(
    ax: Any, arm: ArmResult, metric: str, y: float, look: Look, label: str | None
) -> list[IntervalBar]:
    """One metric of one arm, in its row; returns its interval."""
    summary = arm.summary(metric)
    if summary is None:
        ax.errorbar([], [], fmt=look.marker, color=look.colour, label=label)
        return []

    images = arm.evaluation_noise(metric) or 0.0
    ax.errorbar(
        summary.mean,
        y,
        xerr=images,
        fmt="none",
        ecolor=look.colour,
        elinewidth=4,
        capsize=0,
        alpha=0.35,
    )
    ax.errorbar(
        summary.mean,
        y,
        xerr=_half(summary),
        fmt=look.marker,
        color=look.colour,
        elinewidth=0.9,
        label=label,
    )
    values = list(arm.values(metric).values())
    ax.plot(values, [y] * len(values), look.marker, color=look.colour, alpha=0.4, markersize=2)

    return [IntervalBar((summary.mean, y), (_half(summary), 0.0), look.colour)]


def _half(summary: Interval) -> float:
    """The half-width that is drawn: none where one value says nothing of it."""
    return 0.0 if math.isinf(summary.half) else summary.half


def _all(results: Results, metric: str) -> list[float]:
    return [value for arm in results.arms for value in arm.values(metric).values()]


def _in_view(set_limits: Any, limits: Any, values: list[float]) -> None:
    """Intervals of two seeds reach far beyond what was measured; where they would flatten the
    points, they leave the axes.
    """
    low, high = min(values), max(values)
    bottom, top = limits()
    if high > low:
        set_limits(max(bottom, low - (high - low)), min(top, high + (high - low)))


def _arrows(ax: Any, bars: Sequence[IntervalBar]) -> None:
    """An arrow at the edge of the axes for each end of an interval that lies
    beyond; the limits are set.
    """
    limits = sorted(ax.get_xlim()), sorted(ax.get_ylim())
    for bar in bars:
        for axis, (marks, (low, high)) in enumerate(zip(("<>", "v^"), limits, strict=True)):
            ends = bar.at[axis] - bar.half[axis], bar.at[axis] + bar.half[axis]
            for mark, edge, beyond in zip(
                marks, (low, high), (ends[0] < low, ends[1] > high), strict=True
            ):
                if beyond:
                    place = (edge, bar.at[1]) if axis == 0 else (bar.at[0], edge)
                    ax.plot(*place, mark, color=bar.colour, markersize=3, clip_on=False, zorder=4)


def _legend(ax: Any, metrics: list[str], floor: list[float]) -> None:
    """Above the panel, where there is more in it than one metric."""
    handles, labels = ax.get_legend_handles_labels()
    if len(metrics) > 1 or floor:
        ax.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)


def _floor(line: Any, results: Results, metrics: Sequence[str]) -> list[float]:
    """Draw what held-out images reach against the training images, in the metric that is of as
    many images; returns it.
    """
    for metric in metrics:
        floors = [floor for arm in results.arms if (floor := arm.floor(metric))]
        if floors and floors[0][1] is None:
            look = SERIES[metrics.index(metric)]
            line(
                floors[0][0],
                color=look.colour,
                linestyle="--",
                linewidth=0.9,
                label="held-out images",
            )
            return [floors[0][0]]

    return []


_NAMED = 40  # arms beyond which only those on the front are named


def against_speed(analysis: Analysis) -> Any | None:
    """Quality against images/s, a panel for each quality: dominated arms in grey, the front
    drawn through the others.

    Of unreliable speeds the arms alone are drawn, none in grey, and the title says so.
    """
    results = analysis.results
    panels = analysis.panels
    if not panels:
        return None
    several, best = len(results.arms) > MANY_ARMS, {name for f in panels for name in f.highlighted}
    named = [
        (i, arm)
        for i, arm in enumerate(results.arms)
        if any(arm.name in f.means for f in panels)
        and (len(results.arms) <= _NAMED or arm.name in best)
    ]
    with paper_pyplot() as plt:
        shape = (1, len(panels)) if several else (len(panels), 1)
        size = (
            (PAGE, max(2.9, 0.2 + 0.15 * len(named)))
            if several
            else (COLUMN, 2.2 * len(panels) + 0.15 * len(named))
        )

        figure, axes = plt.subplots(*shape, figsize=size, squeeze=False)
        for ax, one in zip(axes.flat, panels, strict=True):
            _front(ax, results, one, several)
        if panels[0].doubt:
            figure.suptitle("unreliable speeds: no front")
        handles = [
            plt.Line2D(
                [],
                [],
                linestyle="none",
                **_point(results, i, arm.name in best, several),
                label=f"{i + 1}  {wrap_label(arm.name, 40, 1)}"
                if several
                else wrap_label(arm.name, 44, 1),
            )
            for i, arm in named
        ]
        figure.legend(
            handles=handles,
            loc="outside right upper" if several else "outside lower center",
            handlelength=1,
        )

    return figure


def _point(results: Results, i: int, front: bool, several: bool) -> dict[str, Any]:
    """How the i-th arm is marked: of many arms by a dot that has its number beside it, of
    few as in every figure.
    """
    look = (
        Look(SERIES[i % len(SERIES)].colour, "o", "-")
        if several
        else looks(results)[results.arms[i].name]
    )
    return {"marker": look.marker, "color": look.colour if front else PALE}


def _front(ax: Any, results: Results, front: Frontier, several: bool) -> None:
    """A panel: every arm with its intervals, and the front of means."""
    quality, means, best = front.quality.metric, {}, front.highlighted
    drawn: list[IntervalBar] = []
    for i, arm in enumerate(results.arms):
        speed, value = arm.summary(SPEED), arm.summary(quality)
        if arm.name not in front.means or speed is None or value is None:
            continue

        means[i] = speed.mean, value.mean
        style, z = _point(results, i, arm.name in best, several), 3 if arm.name in best else 2
        ax.errorbar(
            *means[i],
            _half(value),
            _half(speed),
            fmt=style["marker"],
            elinewidth=0.7,
            zorder=z,
            color=style["color"],
        )
        drawn.append(IntervalBar(means[i], (_half(speed), _half(value)), style["color"]))

    _scaled(ax.set_xscale, ax.xaxis, ax.set_xlim, ax.get_xlim, [x for x, _ in means.values()])
    _scaled(ax.set_yscale, ax.yaxis, ax.set_ylim, ax.get_ylim, [y for _, y in means.values()])
    if several:
        coloured = {i for i, arm in enumerate(results.arms) if arm.name in best}
        _number(ax, means if len(means) <= _NAMED else {i: means[i] for i in coloured}, coloured)

    if not front.doubt:
        line = sorted(point for i, point in means.items() if results.arms[i].name in front.front)
        ax.plot(*zip(*line, strict=True), color=BLACK, linewidth=0.8, linestyle="--", zorder=1)

    ax.set(xlabel=axis_label(SPEED), ylabel=axis_label(quality))
    _arrows(ax, drawn)


def _scaled(set_scale: Any, axis: Any, set_limits: Any, limits: Any, values: list[float]) -> None:
    """A logarithmic axis where the largest is more than five times the smallest;
    intervals may leave it.
    """
    low, high = min(values), max(values)
    if low > 0 and high > 5 * low:
        set_scale("log")
        set_limits(low / 1.6, high * 1.6)
        readable_log(axis)
    else:
        _in_view(set_limits, limits, values)


def _number(ax: Any, points: dict[int, tuple[float, float]], front: set[int]) -> None:
    """Write each point's number beside it, at the one of eight places that is farthest from what
    stands there already.
    """
    at = {i: ax.transData.transform(point) * 72 / ax.figure.dpi for i, point in points.items()}
    taken = list(at.values())
    for i, place in at.items():
        beside = [
            np.asarray(d)
            for d in ((7, 6), (7, -6), (-7, 6), (-7, -6), (0, 9), (0, -9), (9, 0), (-9, 0))
        ]
        offset = max(beside, key=lambda d: min(float(np.hypot(*(place + d - t))) for t in taken))
        taken.append(place + offset)
        ax.annotate(
            str(i + 1),
            points[i],
            offset,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7,
            color=BLACK if i in front else "#555555",
            zorder=4,
        )


def cost_breakdown(analysis: Analysis) -> Any | None:
    """Milliseconds of each part for one generated image, in a batch: the mean over seeds."""
    rows = {arm.name: split for arm in analysis.results.arms if (split := _milliseconds(arm))}
    if not rows:
        return None

    shown = [
        part
        for part in _PARTS
        if any(split[part] > 0.005 * sum(split.values()) for split in rows.values())
    ]
    with paper_pyplot() as plt:
        figure, ax = plt.subplots(figsize=(COLUMN, 0.8 + 0.24 * len(rows)))
        left = np.zeros(len(rows))
        for part in shown:
            colour, hatch, label = _PARTS[part]
            width = np.asarray([split.get(part, 0.0) for split in rows.values()])
            ax.barh(
                range(len(rows)),
                width,
                left=left,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                label=label,
                height=0.7,
                linewidth=0.5,
            )
            left += width

        ax.set_yticks(range(len(rows)), [wrap_label(name, 24) for name in rows])
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.set_xlabel("ms for an image (less is better)")
        figure.legend(loc="outside upper center", ncols=4, handlelength=1.4, columnspacing=1)

    return figure


def _milliseconds(arm: ArmResult) -> dict[str, float]:
    """Part → milliseconds for an image, the mean over the seeds that measured it."""
    splits = [
        (parts, 1000 / report["metrics"][SPEED])
        for report in arm.reports.values()
        if (parts := report.get("speed", {}).get("seconds_by_part"))
    ]
    shares = [{part: total * s[part] / sum(s.values()) for part in _PARTS} for s, total in splits]

    return (
        {part: float(np.mean([share[part] for share in shares])) for part in _PARTS}
        if shares
        else {}
    )


def ranks_by_budget(analysis: Analysis) -> Any | None:
    """Each arm's rank against the budget, a panel for each metric; lines that cross are
    arms that change places.
    """
    results = analysis.results
    metrics = list(dict.fromkeys(agreement.metric for agreement in analysis.agreements))
    if not metrics:
        return None
    with paper_pyplot() as plt:
        arms = {arm.design for arm in results.arms}
        narrow = len(metrics) * len(results.budgets) <= 9
        size = (COLUMN if narrow else PAGE, 1.0 + (0.36 if narrow else 0.22) * len(arms))
        figure, axes = plt.subplots(1, len(metrics), figsize=size, squeeze=False)
        for ax, metric in zip(axes[0], metrics, strict=True):
            _ranks(ax, results, metric)
        axes[0][0].set_ylabel("rank (1 is best)")
        where = "outside lower center" if narrow else "outside right upper"
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc=where, ncols=2 if narrow else 1)

    return figure


def _ranks(ax: Any, results: Results, metric: str) -> None:
    by_budget = [mean_by_arm(results, metric, budget) for budget in results.budgets]
    arms = [name for name in by_budget[0] if all(name in found for found in by_budget)]
    ranks = np.array(
        [rankdata([found[name] for name in arms]) for found in by_budget]
    )  # less is better in all of these
    at = range(len(by_budget))

    for i, name in enumerate(arms):
        look, mark = SERIES[i % len(SERIES)], "osD^vP*X"[i % 8]  # 24 pairs of a look and a marker
        ax.plot(
            at,
            ranks[:, i],
            marker=mark,
            linestyle=look.line,
            color=look.colour,
            clip_on=False,
            label=wrap_label(name, 24, 1),
        )

    ax.set_xticks(at, results.budgets, rotation=30, ha="right", rotation_mode="anchor")
    ax.set_xlim(-0.2, len(by_budget) - 0.8)
    ax.set_yticks(range(1, len(arms) + 1))
    ax.invert_yaxis()
    ax.set_title(HEADINGS[metric])
