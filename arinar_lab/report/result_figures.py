"""Figures of a study's results: its metrics against the varied factor, quality against speed, and
the cost of generation.

Two error bars are kept apart everywhere: a thin one with caps is the 95 % interval of the mean over
seeds (training noise), a broad pale one the 95 % interval of a value over images (evaluation
noise). Small dots are single seeds. An interval that leaves the axes ends there in an arrow, beside
which stands the value of its end. Arms have their colours and markers (`style.looks`). Distances
have a logarithmic axis where they span more than a factor of ten.

Figures are as wide as a paper's column; with more than `MANY_ARMS` arms, as both columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
from scipy.stats import rankdata

from ..analysis.analyse import Analysis
from ..analysis.conditions import floor_images
from ..analysis.rankings.pareto import Frontier
from ..analysis.rankings.rank_agreement import mean_by_arm
from ..analysis.results import ArmResult, Results
from ..metrics import BITS, DISTANCES, FEW, GAP, HEADINGS, LEVEL, METRICS, SPEED
from ..significance.statistics import Interval
from .style import (
    BLACK,
    COLUMN,
    FACET,
    GREY,
    PAGE,
    Box,
    IntervalBar,
    Look,
    boxes_at,
    looks,
    mark_off_scale,
    paper_pyplot,
    readable_log,
    text_box,
    wrap_label,
)

# arms beyond which a figure takes both columns, and marks do not tell all of them apart
MANY_ARMS = FACET + 1
_PARTS = {
    "outer": ("#4D4D4D", "", "outer"),
    "inner": (GREY, "////", "inner trunk"),
    "head": ("#BDBDBD", "....", "head"),
    "codec": ("#E3E3E3", "xxxx", "codec"),
}
_LINES = ("-", "--")  # of the metrics of a panel


def panels_of(results: Results) -> list[list[str]]:
    """The metrics that are drawn, in panels of one unit each, as far as a run has them.

    Distances of different numbers of images have panels of their own: a floor is of one number.
    """
    distances: list[tuple[str, ...]] = []
    for metric in DISTANCES:
        distances += [(metric,), (metric + FEW,)]
    panels = []
    for metrics in ((BITS, LEVEL), (GAP,), *distances):
        measured = list(filter(results.values, metrics))
        if measured:
            panels.append(measured)
    return panels


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
    if results.regimes or len(results.arms) < 2:
        return []

    scale = []
    for arm in results.arms:
        if len(arm.factors) != 1 or not _is_number(arm.factors[0]):
            return []
        scale.append(float(arm.factors[0]))
    return scale


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _along(results: Results, panels: list[list[str]], scale: list[float]) -> Any:
    """Metrics along a numeric axis, logarithmic where it spans more than a factor of four."""
    is_log = min(scale) > 0 and max(scale) / min(scale) > 4
    look_of = looks(results)
    with paper_pyplot() as plt:
        size = (COLUMN, 2.2 * len(panels))
        figure, axes = plt.subplots(len(panels), 1, figsize=size, squeeze=False)
        drawn: list[list[IntervalBar]] = []
        for ax, metrics in zip(axes[:, 0], panels, strict=True):
            bars: list[IntervalBar] = []
            for i, metric in enumerate(metrics):
                # metrics stand side by side, not on top of each other
                shift = 0.05 * (i - (len(metrics) - 1) / 2)
                places = np.array(scale)
                places = places * (1 + shift) if is_log else places + shift * np.ptp(scale) / 2
                means = []
                for place, arm in zip(places, results.arms, strict=True):
                    new = _dot(ax, arm, metric, place, look_of[arm.name], i, is_upright=True)
                    bars += new
                    means += [bar.at for bar in new]
                if means:
                    line = {"color": GREY, "linestyle": _LINES[i], "linewidth": 0.9, "zorder": 1}
                    ax.plot(*zip(*means, strict=True), **line)

            floor = _floor(ax, results, metrics, is_upright=True)
            values = floor + _all_values(results, metrics)
            _scaled(ax.set_yscale, ax.yaxis, ax.set_ylim, ax.get_ylim, values, _log_from(metrics))
            if is_log:
                ax.set_xscale("log", base=2)
            ax.set_xticks(scale, list(map("{:g}".format, scale)))
            ax.minorticks_off()
            ax.set(xlabel=results.axes[0], ylabel=axis_label(metrics[0]))
            _legend(ax, metrics, is_upright=True)
            drawn.append(bars)

        _mark_off_scale(figure, axes[:, 0], drawn)

    return figure


def _arm_by_arm(results: Results, panels: list[list[str]]) -> Any:
    """Arms from top to bottom, a panel for each unit; the baseline's mean as a line beside the
    arms compared with it.
    """
    arms = results.arms
    look_of = looks(results)
    is_wide = len(arms) > MANY_ARMS
    names = []
    for arm in arms:
        name = wrap_label(arm.name, 34 if is_wide else 22, 1 if is_wide else 2)
        names.append(f"{name} (baseline)" if arm.name in results.baselines else name)
    height = max(1.6, 0.5 + (0.2 if is_wide else 0.24) * len(arms))
    shape = (1, len(panels)) if is_wide else (len(panels), 1)
    size = (PAGE, height) if is_wide else (COLUMN, height * len(panels))

    with paper_pyplot() as plt:
        figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, sharey=is_wide)
        drawn: list[list[IntervalBar]] = []
        for ax, metrics in zip(axes.flat, panels, strict=True):
            bars: list[IntervalBar] = []
            for i, metric in enumerate(metrics):
                shift = 0.26 * (i - (len(metrics) - 1) / 2)
                for row, arm in enumerate(arms):
                    bars += _dot(ax, arm, metric, row + shift, look_of[arm.name], i)
                _baseline_lines(ax, results, metric, (BLACK, GREY)[i])
            floor = _floor(ax, results, metrics)
            values = floor + _all_values(results, metrics)
            _scaled(ax.set_xscale, ax.xaxis, ax.set_xlim, ax.get_xlim, values, _log_from(metrics))
            label = axis_label(metrics[0])
            ax.set_xlabel("\n(".join(label.rsplit(" (", 1)) if is_wide else label)
            ax.set_ylim(len(arms) - 0.5, -0.5)
            ax.set_yticks(range(len(arms)), names)
            _legend(ax, metrics)
            drawn.append(bars)

        _mark_off_scale(figure, axes.flat, drawn)

    return figure


def _log_from(metrics: Sequence[str]) -> float:
    """The ratio of largest to smallest beyond which the metrics' axis is logarithmic."""
    return 10 if metrics[0].removesuffix(FEW) in DISTANCES else math.inf


def _mark_off_scale(figure: Any, axes: Any, drawn: Sequence[Sequence[IntervalBar]]) -> None:
    """Mark the intervals that leave their axes, when all else is drawn."""
    figure.draw_without_rendering()  # makes the layout
    for ax, bars in zip(axes, drawn, strict=True):
        mark_off_scale(ax, bars)


def _baseline_lines(ax: Any, results: Results, metric: str, colour: str) -> None:
    """The mean of each regime's baseline, along the rows of its arms."""
    for part in results.by_regime:
        summary = part.baseline_arm.summary(metric)
        if summary is not None:
            rows = [row for row, arm in enumerate(results.arms) if arm.name in part.by_name]
            ends = (min(rows) - 0.5, max(rows) + 0.5)
            ax.plot([summary.mean] * 2, ends, color=colour, linestyle=":", linewidth=0.8)


def _dot(
    ax: Any,
    arm: ArmResult,
    metric: str,
    place: float,
    look: Look,
    i: int,
    is_upright: bool = False,
) -> list[IntervalBar]:
    """One metric of one arm, at its place on the other axis; returns its interval.

    The panel's first metric (i = 0) has the arm's marker, the second a dash.
    """
    summary = arm.summary(metric)
    if summary is None:
        return []

    mean = summary.mean
    half = _half(summary)
    at = (place, mean) if is_upright else (mean, place)
    error = "yerr" if is_upright else "xerr"
    colour = look.colour
    images = arm.evaluation_noise(metric) or 0.0
    broad = {"fmt": "none", "ecolor": colour, "elinewidth": 5, "capsize": 0, "alpha": 0.3}
    ax.errorbar(*at, **{error: images}, **broad)
    mark = {"marker": look.marker} if i == 0 else _dash(is_upright)
    ax.errorbar(*at, **{error: half}, fmt="none", ecolor=colour, elinewidth=0.9)
    ax.plot(*at, color=colour, linestyle="none", **mark)
    values = list(arm.values(metric).values())
    places = [place] * len(values)
    seeds = (places, values) if is_upright else (values, places)
    ax.plot(*seeds, "o", color=colour, alpha=0.4, markersize=2)

    return [IntervalBar(at, (0.0, half) if is_upright else (half, 0.0), colour)]


def _dash(is_upright: bool) -> dict[str, Any]:
    """The marker of a panel's second metric: a dash across its interval."""
    return {"marker": "_" if is_upright else "|", "markersize": 7, "markeredgewidth": 1.6}


def _half(summary: Interval) -> float:
    """The half-width as drawn: none where one value leaves it unknown."""
    return 0.0 if math.isinf(summary.half) else summary.half


def _all_values(results: Results, metrics: Sequence[str]) -> list[float]:
    return list(chain.from_iterable(map(results.values, metrics)))


def _in_view(set_limits: Any, limits: Any, values: Sequence[float]) -> None:
    """Limit the axes where wide intervals, as of two seeds, would flatten the points."""
    low = min(values)
    high = max(values)
    bottom, top = limits()
    if high > low:
        set_limits(max(bottom, low - (high - low)), min(top, high + (high - low)))


def _legend(ax: Any, metrics: list[str], is_upright: bool = False) -> None:
    """Above the panel, where there is more in it than one metric; in grey, since colours are
    those of arms.
    """
    from matplotlib.lines import Line2D

    if len(metrics) < 2:
        return

    handles = []
    for i, metric in enumerate(metrics):
        mark: dict[str, Any] = {"marker": "o"} if i == 0 else _dash(is_upright)
        line = _LINES[i] if is_upright else "none"
        look: dict[str, Any] = {"color": GREY, "linestyle": line, "label": HEADINGS[metric]}
        handles.append(Line2D([], [], **look, **mark))
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)


def _floor(
    ax: Any, results: Results, metrics: Sequence[str], is_upright: bool = False
) -> list[float]:
    """Draw the value of held-out images in the metric that is of as many images, with its name at
    the line's end; returns it.
    """
    for metric in metrics:
        floors = filter(None, (arm.floor(metric) for arm in results.arms))
        value, unequal_count = next(floors, (0.0, 0))
        if unequal_count is not None:
            continue

        label = floor_images(results.arms)
        look = {"color": GREY, "linestyle": (0, (6, 2)), "linewidth": 0.9, "zorder": 1}
        text = {"color": "#555555", "fontsize": 7, "textcoords": "offset points"}
        if is_upright:
            ax.axhline(value, **look, label=label)
            at = {"xy": (1, value), "xycoords": ax.get_yaxis_transform(), "xytext": (3, 0)}
            ax.annotate(label.replace(" ", "\n"), **at, **text, ha="left", va="center")
        else:
            ax.axvline(value, **look, label=label)
            at = {"xy": (value, 1), "xycoords": ax.get_xaxis_transform(), "xytext": (0, 2)}
            ax.annotate(label, **at, **text, ha="center", va="bottom")
        return [value]

    return []


_NAMED = 40  # arms beyond which only those on the front are named


def against_speed(analysis: Analysis) -> Any | None:
    """Quality against images/s, a panel for each quality: dominated arms hollow, the front
    drawn through the others.

    Of unreliable speeds the arms alone are drawn, none hollow, and the title says so.
    """
    results = analysis.results
    panels = analysis.panels
    if not panels:
        return None

    is_wide = len(results.arms) > MANY_ARMS
    is_numbered = is_wide or bool(results.regimes)  # a design looks the same in every regime
    highlighted = set(chain.from_iterable(panel.highlighted for panel in panels))
    drawn = set(chain.from_iterable(panel.means for panel in panels))
    named = drawn & highlighted if len(results.arms) > _NAMED else drawn
    shape = (1, len(panels)) if is_wide else (len(panels), 1)
    size = (COLUMN, 2.2 * len(panels) + 0.15 * len(named))
    if is_wide:
        size = (PAGE, max(2.9, 0.2 + 0.15 * len(named)))

    look_of = looks(results)
    with paper_pyplot() as plt:
        figure, axes = plt.subplots(*shape, figsize=size, squeeze=False)
        bars = [_front(ax, results, panel) for ax, panel in zip(axes.flat, panels, strict=True)]
        if panels[0].doubt:
            figure.suptitle("unreliable speeds: no front")
        handles = []
        for i, arm in enumerate(results.arms):
            if arm.name in named:
                look = look_of[arm.name].of_point(is_hollow=arm.name not in highlighted)
                label = wrap_label(arm.name, 40, 1)
                label = f"{i + 1}  {label}" if is_numbered else label
                handles.append(plt.Line2D([], [], linestyle="none", **look, label=label))
        place = "outside right upper" if is_wide else "outside lower center"
        figure.legend(handles=handles, loc=place, handlelength=1)

        figure.draw_without_rendering()  # makes the layout, in whose inches texts are placed
        for ax, panel, of_panel in zip(axes.flat, panels, bars, strict=True):
            numbers = _number(ax, results, panel) if is_numbered else []
            mark_off_scale(ax, of_panel, numbers)

    return figure


def _front(ax: Any, results: Results, front: Frontier) -> list[IntervalBar]:
    """A panel: every arm with its intervals, and the front of means; returns the intervals."""
    look_of = looks(results)
    bars: dict[str, IntervalBar] = {}
    for arm in results.arms:
        speed = arm.summary(SPEED)
        value = arm.summary(front.quality.metric)
        if arm.name not in front.means or speed is None or value is None:
            continue

        is_highlighted = arm.name in front.highlighted
        look = look_of[arm.name]
        bar = IntervalBar((speed.mean, value.mean), (_half(speed), _half(value)), look.colour)
        style = {"linestyle": "none", "elinewidth": 0.9 if is_highlighted else 0.5}
        point = look.of_point(is_hollow=not is_highlighted)
        z = 3 if is_highlighted else 2
        ax.errorbar(*bar.at, bar.half[1], bar.half[0], **style, **point, zorder=z)
        bars[arm.name] = bar

    speeds, values = zip(*(bar.at for bar in bars.values()), strict=True)
    _scaled(ax.set_xscale, ax.xaxis, ax.set_xlim, ax.get_xlim, speeds, 5)
    _scaled(ax.set_yscale, ax.yaxis, ax.set_ylim, ax.get_ylim, values, 5)
    if not front.doubt:
        line = sorted(bars[name].at for name in bars if name in front.front)
        ax.plot(*zip(*line, strict=True), color=GREY, linewidth=0.8, linestyle="--", zorder=1)

    ax.set(xlabel=axis_label(SPEED), ylabel=axis_label(front.quality.metric))
    return list(bars.values())


def _scaled(
    set_scale: Any,
    axis: Any,
    set_limits: Any,
    limits: Any,
    values: Sequence[float],
    most: float,
) -> None:
    """A logarithmic axis where the largest is more than `most` times the smallest;
    intervals may leave it.
    """
    low = min(values)
    high = max(values)
    if low > 0 and high > most * low:
        set_scale("log")
        set_limits(low / 1.6, high * 1.6)
        readable_log(axis)
    else:
        _in_view(set_limits, limits, values)


_BESIDE = np.array([(7, 6), (7, -6), (-7, 6), (-7, -6), (0, 9), (0, -9), (9, 0), (-9, 0)])
"""Places of a number beside its point, in typographic points."""


def _number(ax: Any, results: Results, front: Frontier) -> list[Box]:
    """Write each point's number beside it, at the one of eight places that is farthest from all
    points and earlier numbers; returns the boxes of the numbers.

    Of more than `_NAMED` points only those on the front are numbered.
    """
    points: dict[int, tuple[float, float]] = {}
    for i, arm in enumerate(results.arms):
        speed = arm.summary(SPEED)
        value = arm.summary(front.quality.metric)
        if arm.name in front.means and speed is not None and value is not None:
            points[i] = (speed.mean, value.mean)

    highlighted = {i for i in points if results.arms[i].name in front.highlighted}
    taken = [box.centre for box in boxes_at(ax, list(points.values()))]
    boxes = []
    for (i, point), place in zip(points.items(), list(taken), strict=True):
        if len(points) > _NAMED and i not in highlighted:
            continue
        gaps = (place + _BESIDE)[:, None] - np.array(taken)
        distances = np.hypot(gaps[..., 0], gaps[..., 1]).min(1)
        offset = _BESIDE[int(np.argmax(distances))]
        taken.append(place + offset)
        boxes.append(text_box(place + offset, str(i + 1)))
        look = {"ha": "center", "va": "center", "fontsize": 7, "zorder": 4}
        look["color"] = BLACK if i in highlighted else "#555555"
        number = ax.annotate(str(i + 1), point, offset, textcoords="offset points", **look)
        number.set_in_layout(False)
    return boxes


def cost_breakdown(analysis: Analysis) -> Any | None:
    """Milliseconds of each part for one generated image, in a batch: the mean over seeds."""
    names = []
    splits = []
    for arm in analysis.results.arms:
        if split := _milliseconds(arm):
            names.append(wrap_label(arm.name, 24))
            splits.append(list(split.values()))
    if not splits:
        return None

    milliseconds = np.asarray(splits)
    shares = milliseconds / milliseconds.sum(1, keepdims=True)
    rows = range(len(names))
    with paper_pyplot() as plt:
        figure, ax = plt.subplots(figsize=(COLUMN, 0.8 + 0.24 * len(names)))
        left = np.zeros(len(names))
        for part, width, share in zip(_PARTS.values(), milliseconds.T, shares.T, strict=True):
            if share.max() <= 0.005:
                continue
            colour, hatch, label = part
            look = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
            ax.barh(rows, width, left=left, **look, label=label, height=0.7)
            left += width

        ax.set_yticks(rows, names)
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.set_xlabel("ms for an image (less is better)")
        figure.legend(loc="outside upper center", ncols=4, handlelength=1.4, columnspacing=1)

    return figure


def _milliseconds(arm: ArmResult) -> dict[str, float]:
    """Part → milliseconds for an image, the mean over the seeds that measured it."""
    splits = []
    for report in arm.reports.values():
        if seconds := report.get("speed", {}).get("seconds_by_part"):
            milliseconds = 1000 / report["metrics"][SPEED]
            parts = np.array(list(map(seconds.__getitem__, _PARTS)))
            splits.append(milliseconds * parts / sum(seconds.values()))

    return dict(zip(_PARTS, np.mean(splits, 0).tolist(), strict=True)) if splits else {}


def ranks_by_regime(analysis: Analysis) -> Any | None:
    """Each arm's rank against the regime, a panel for each metric; lines that cross are
    arms that change places.
    """
    results = analysis.results
    titles = {agreement.metric: agreement.heading for agreement in analysis.agreements}
    metrics = list(titles)
    if not metrics:
        return None
    with paper_pyplot() as plt:
        arms = {arm.design for arm in results.arms}
        narrow = len(metrics) * len(results.regimes) <= 9
        size = (COLUMN if narrow else PAGE, 1.0 + (0.36 if narrow else 0.22) * len(arms))
        figure, axes = plt.subplots(1, len(metrics), figsize=size, squeeze=False)
        for ax, metric in zip(axes[0], metrics, strict=True):
            _ranks(ax, results, metric)
            ax.set_title(titles[metric])
        axes[0][0].set_ylabel("rank (1 is best)")
        where = "outside lower center" if narrow else "outside right upper"
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc=where, ncols=2 if narrow else 1)

    return figure


def _ranks(ax: Any, results: Results, metric: str) -> None:
    measured = {regime: mean_by_arm(results, metric, regime) for regime in results.regimes}
    regimes, by_regime = zip(*filter(itemgetter(1), measured.items()), strict=True)
    common = set.intersection(*map(set, by_regime))
    arms = list(filter(common.__contains__, by_regime[0]))
    ranks = [rankdata(list(map(means.__getitem__, arms))) for means in by_regime]
    places = np.array(ranks)  # less is better in all of these metrics
    at = range(len(by_regime))

    look_of = looks(results)
    designs = {arm.design: look_of[arm.name] for arm in results.arms}
    for i, name in enumerate(arms):
        look = designs[name].of_line
        ax.plot(at, places[:, i], **look, clip_on=False, label=wrap_label(name, 24, 1))

    ax.set_xticks(at, regimes, rotation=30, ha="right", rotation_mode="anchor")
    ax.set_xlim(-0.2, len(by_regime) - 0.8)
    ax.set_yticks(range(1, len(arms) + 1))
    ax.invert_yaxis()
