"""Figures of what a study found: its metrics against what was varied, quality against speed, and what generation costs.

Two error bars are kept apart everywhere: a thin one with caps is the 95 % interval of the mean over seeds (training noise), a
broad pale one the 95 % interval of a value over images (evaluation noise). Small dots are single seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .frontier import Frontier, frontier, qualities
from .plan import Arm, Plan
from .results import BITS, COLUMNS, DISTANCES, GAP, HEADINGS, LEVEL, SPEED, Results
from .stats import Interval
from .style import BLACK, BLUE, GREY, PAGE, PALE, SERIES, SKY, VERMILION, Look, paper, wrapped

_LESS = {column.metric: column.less for column in COLUMNS}
_PARTS = {
    "outer": (BLUE, "", "outer"), "inner": (SKY, "////", "inner trunk"), "head": (VERMILION, "....", "head"),
    "codec": (GREY, "xxxx", "codec"),
}  # fmt: skip


def panels_of(results: Results) -> list[list[str]]:
    """The metrics that are drawn, in panels of one unit each, as far as somebody has them."""
    there = {m for m in (BITS, LEVEL, GAP, *DISTANCES) if any(results.values(arm, m) for arm in results.plan.arms)}
    panels = [[m for m in panel if m in there] for panel in ((BITS, LEVEL), (GAP,), *((m,) for m in DISTANCES))]
    return [panel for panel in panels if panel]


def label_of(metric: str) -> str:
    """A metric as an axis says it, with the direction that is better."""
    better = {True: " (less is better)", False: " (more is better)", None: ""}
    return HEADINGS.get(metric, metric) + better[_LESS.get(metric)]


def against_factor(results: Results) -> Any | None:
    """Each metric against the varied factor: along a scale where it is one number, else arm by arm."""
    panels = panels_of(results)
    if not panels:
        return None
    scale = _scale(results.plan)
    return _along(results, panels, scale) if scale else _arm_by_arm(results, panels)


def _scale(plan: Plan) -> list[float]:
    """The arms' values where one numeric axis of at least two values is varied, else nothing."""
    values = [arm.values[0] for arm in plan.arms if len(arm.values) == 1 and not plan.budgets]
    number = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    return [float(v) for v in values] if number and len(values) == len(plan.arms) > 1 else []


def _along(results: Results, panels: list[list[str]], scale: list[float]) -> Any:
    with paper() as plt:
        figure, axes = plt.subplots(1, len(panels), figsize=(PAGE, 2.5), squeeze=False)
        positive = min(scale) > 0 and max(scale) / min(scale) > 4
        for ax, metrics in zip(axes[0], panels, strict=True):
            for i, metric in enumerate(metrics):
                shift = 0.05 * (i - (len(metrics) - 1) / 2)  # beside each other, not one on the other
                places = [x * (1 + shift) if positive else x + shift * np.ptp(scale) / 2 for x in scale]
                _series(ax, results, metric, places, SERIES[i])
            floor = _floor(ax.axhline, results, metrics[0])
            _in_view(ax.set_ylim, ax.get_ylim, floor + [v for m in metrics for v in _all(results, m)])
            if positive:
                ax.set_xscale("log", base=2)
            ax.set_xticks(scale, [f"{value:g}" for value in scale])
            ax.minorticks_off()
            ax.set(xlabel=results.plan.axes[0], ylabel=label_of(metrics[0]))
            _legend(ax, metrics, floor)
    return figure


def _series(ax: Any, results: Results, metric: str, places: Sequence[float], look: Look) -> None:
    """One metric of every arm at its place on the x axis."""
    there = [
        (x, arm, s) for x, arm in zip(places, results.plan.arms, strict=True) if (s := results.summary(arm, metric))
    ]
    if not there:
        return
    x, mean = [x for x, _, _ in there], [s.mean for _, _, s in there]
    images = [results.evaluation_noise(arm, metric) or 0.0 for _, arm, _ in there]
    ax.errorbar(x, mean, images, fmt="none", ecolor=look.colour, elinewidth=5, capsize=0, alpha=0.35)
    ax.errorbar(x, mean, [_half(s) for _, _, s in there], **look.of_line, elinewidth=0.9, label=HEADINGS[metric])
    for place, arm, _ in there:
        values = list(results.values(arm, metric).values())
        ax.plot([place] * len(values), values, look.marker, color=look.colour, alpha=0.4, markersize=2)


def _arm_by_arm(results: Results, panels: list[list[str]]) -> Any:
    """Arms from top to bottom, a panel for each unit; the baseline's mean as a line."""
    arms, height = results.plan.arms, 0.5 + 0.2 * len(results.plan.arms)
    with paper() as plt:
        figure, axes = plt.subplots(1, len(panels), figsize=(PAGE, max(1.6, height)), squeeze=False, sharey=True)
        for ax, metrics in zip(axes[0], panels, strict=True):
            for i, metric in enumerate(metrics):
                shift = 0.26 * (i - (len(metrics) - 1) / 2)
                for row, arm in enumerate(arms):
                    _dot(ax, results, arm, metric, row + shift, SERIES[i], HEADINGS[metric] if row == 0 else None)
                if baseline := results.summary(results.baseline, metric):
                    ax.axvline(baseline.mean, color=SERIES[i].colour, linestyle=":", linewidth=0.8)
            floor = _floor(ax.axvline, results, metrics[0])
            _in_view(ax.set_xlim, ax.get_xlim, floor + [v for m in metrics for v in _all(results, m)])
            ax.set_xlabel(label_of(metrics[0]))
            ax.set_ylim(len(arms) - 0.5, -0.5)
            _legend(ax, metrics, floor)
        names = [wrapped(arm.name, 34, 1) + (" (baseline)" if arm == results.baseline else "") for arm in arms]
        axes[0][0].set_yticks(range(len(arms)), names)
    return figure


def _dot(ax: Any, results: Results, arm: Arm, metric: str, y: float, look: Look, label: str | None) -> None:
    """One metric of one arm, in its row."""
    summary = results.summary(arm, metric)
    if summary is None:
        ax.errorbar([], [], fmt=look.marker, color=look.colour, label=label)
        return
    images = results.evaluation_noise(arm, metric) or 0.0
    ax.errorbar(summary.mean, y, xerr=images, fmt="none", ecolor=look.colour, elinewidth=4, capsize=0, alpha=0.35)
    ax.errorbar(summary.mean, y, xerr=_half(summary), fmt=look.marker, color=look.colour, elinewidth=0.9, label=label)
    values = list(results.values(arm, metric).values())
    ax.plot(values, [y] * len(values), look.marker, color=look.colour, alpha=0.4, markersize=2)


def _half(summary: Interval) -> float:
    """The half-width that is drawn: none where one value says nothing of it."""
    return 0.0 if math.isinf(summary.half) else summary.half


def _all(results: Results, metric: str) -> list[float]:
    return [value for arm in results.plan.arms for value in results.values(arm, metric).values()]


def _in_view(set_limits: Any, limits: Any, values: list[float]) -> None:
    """Intervals of two seeds reach far beyond what was measured; where they would flatten the points, they leave the axes."""
    low, high = min(values), max(values)
    bottom, top = limits()
    if high > low:
        set_limits(max(bottom, low - (high - low)), min(top, high + (high - low)))


def _legend(ax: Any, metrics: list[str], floor: list[float]) -> None:
    """Above the panel, where there is more in it than one metric."""
    handles, labels = ax.get_legend_handles_labels()
    if len(metrics) > 1 or floor:
        ax.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(labels))


def _floor(line: Any, results: Results, metric: str) -> list[float]:
    """Draw what held-out images reach against the training images, where the metric has such a floor; returns it."""
    floor = results.any_report["metrics"].get(f"{metric}_floor")
    if floor is None:
        return []
    line(floor, color=GREY, linestyle="--", linewidth=0.9, label="held-out images")
    return [floor]


_NAMED = 40  # arms beyond which only those on the front are named


def against_speed(results: Results) -> Any | None:
    """Quality against images/s, a panel for each quality: dominated arms in grey, the front drawn through the others."""
    found = [f for metric in qualities(results) if (f := frontier(results, metric))]
    if not found:
        return None
    several, best = len(results.plan.arms) > 8, {name for f in found for name in f.front}
    named = [
        (i, arm) for i, arm in enumerate(results.plan.arms)
        if any(arm.name in f.means for f in found) and (len(results.plan.arms) <= _NAMED or arm.name in best)
    ]  # fmt: skip
    with paper() as plt:
        figure, axes = plt.subplots(1, len(found), figsize=(PAGE, max(2.9, 0.2 + 0.15 * len(named))), squeeze=False)
        for ax, one in zip(axes[0], found, strict=True):
            _front(ax, results, one, several)
        handles = [
            plt.Line2D([], [], linestyle="none", **_point(i, arm.name in best, several),
                       label=f"{i + 1}  {wrapped(arm.name, 26, 1)}" if several else wrapped(arm.name, 28, 1))
            for i, arm in named
        ]  # fmt: skip
        figure.legend(handles=handles, loc="outside right upper", handlelength=1)
    return figure


def _point(i: int, front: bool, several: bool) -> dict[str, Any]:
    """How the i-th arm is marked: of many arms by a dot that has its number beside it, of few by a shape."""
    colour = SERIES[i % len(SERIES)].colour if front else PALE
    return {"marker": "o" if several else "osD^vP*X"[i % 8], "color": colour}


def _front(ax: Any, results: Results, found: Frontier, several: bool) -> None:
    """A panel: every arm with its intervals, and the front of means."""
    quality, means = found.quality.metric, {}
    for i, arm in enumerate(results.plan.arms):
        speed, value = results.summary(arm, SPEED), results.summary(arm, quality)
        if arm.name not in found.means or speed is None or value is None:
            continue
        means[i] = speed.mean, value.mean
        style, z = _point(i, arm.name in found.front, several), 3 if arm.name in found.front else 2
        ax.errorbar(*means[i], _half(value), _half(speed), fmt=style["marker"], elinewidth=0.7, zorder=z,
                    color=style["color"])  # fmt: skip
    _scaled(ax.set_xscale, ax.xaxis, ax.set_xlim, ax.get_xlim, [x for x, _ in means.values()])
    _scaled(ax.set_yscale, ax.yaxis, ax.set_ylim, ax.get_ylim, [y for _, y in means.values()])
    if several:
        front = {i for i, arm in enumerate(results.plan.arms) if arm.name in found.front}
        _number(ax, means if len(means) <= _NAMED else {i: means[i] for i in front}, front)
    line = sorted(point for i, point in means.items() if results.plan.arms[i].name in found.front)
    ax.plot(*zip(*line, strict=True), color=BLACK, linewidth=0.8, linestyle="--", zorder=1)
    ax.set(xlabel=label_of(SPEED), ylabel=label_of(quality))


def _scaled(set_scale: Any, axis: Any, set_limits: Any, limits: Any, values: list[float]) -> None:
    """A logarithmic axis where the largest is more than five times the smallest; intervals may leave it."""
    low, high = min(values), max(values)
    if low > 0 and high > 5 * low:
        from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

        set_scale("log")
        set_limits(low / 1.6, high * 1.6)
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    else:
        _in_view(set_limits, limits, values)


def _number(ax: Any, points: dict[int, tuple[float, float]], front: set[int]) -> None:
    """Write each point's number beside it, at the one of eight places that is farthest from what stands there already."""
    at = {i: ax.transData.transform(point) * 72 / ax.figure.dpi for i, point in points.items()}
    taken = list(at.values())
    for i, place in at.items():
        beside = [np.asarray(d) for d in ((7, 6), (7, -6), (-7, 6), (-7, -6), (0, 9), (0, -9), (9, 0), (-9, 0))]
        offset = max(beside, key=lambda d: min(float(np.hypot(*(place + d - t))) for t in taken))
        taken.append(place + offset)
        ax.annotate(str(i + 1), points[i], offset, textcoords="offset points", ha="center", va="center", fontsize=7,
                    color=BLACK if i in front else "#555555", zorder=4)  # fmt: skip


def cost_breakdown(results: Results) -> Any | None:
    """Milliseconds of each part for one generated image, in a batch: the mean over seeds."""
    rows = {arm.name: split for arm in results.plan.arms if (split := _milliseconds(results, arm))}
    if not rows:
        return None
    with paper() as plt:
        figure, ax = plt.subplots(figsize=(PAGE, 0.8 + 0.2 * len(rows)))
        left = np.zeros(len(rows))
        for part, (colour, hatch, label) in _PARTS.items():
            width = np.asarray([split.get(part, 0.0) for split in rows.values()])
            ax.barh(range(len(rows)), width, left=left, color=colour, hatch=hatch, edgecolor="white", label=label,
                    height=0.7, linewidth=0.5)  # fmt: skip
            left += width
        ax.set_yticks(range(len(rows)), [wrapped(name, 34, 1) for name in rows])
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.set_xlabel("milliseconds for an image (less is better)")
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
    return figure


def _milliseconds(results: Results, arm: Arm) -> dict[str, float]:
    """Part → milliseconds for an image, the mean over the seeds that measured it."""
    speeds = [report.get("speed", {}) for report in results.reports[arm.name].values()]
    splits = [(speed["seconds_by_part"], speed["batch"]) for speed in speeds if "seconds_by_part" in speed]
    return {part: float(np.mean([1000 * s[part] / batch for s, batch in splits])) for part in _PARTS} if splits else {}
