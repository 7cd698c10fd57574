"""The look of every figure: sizes of a two-column paper, and one palette by arm.

An arm has one colour, one marker and one line style, in every figure and notebook (`looks`). The
order of the study's designs decides them; the baseline is black. Colours are Okabe and Ito's
(https://jfly.uni-koeln.de/color/), without the yellow, which white paper swallows. Series that are
no arms are drawn in greys. Triangles are no marker: ▲ and ▼ are answers. One panel shows at most
`FACET` arms beside the baseline; more arms take more panels, each with the baseline in it.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..analysis.results import ArmResult, Results
from ..output.names import breakable_name

COLUMN = 3.3  # inches: width of one column
PAGE = 6.9  # inches: width of both columns
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY, PALE = "#0072B2", "#D55E00", "#CC79A7", "#8C8C8C", "#BDBDBD"
FACET = 6  # arms of a panel at most, besides the baseline
_RULES: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "figure.titlesize": 8,
    "lines.linewidth": 1.2,
    "lines.markersize": 5,
    "lines.markeredgewidth": 0.7,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
    "errorbar.capsize": 2,
    "pdf.fonttype": 42,
    "hatch.linewidth": 0.5,
    "text.parse_math": False,  # a `$` in a name is a letter
}


@dataclass(frozen=True)
class Look:
    """The look of an arm: colour, marker, line style."""

    colour: str
    marker: Any
    line: Any

    @property
    def of_line(self) -> dict[str, Any]:
        """Arguments of `Axes.plot` for a line."""
        return {"color": self.colour, "linestyle": self.line, "marker": self.marker}

    def of_point(self, is_hollow: bool = False) -> dict[str, Any]:
        """Arguments of `Axes.plot` for a point, which is hollow where its arm is dominated."""
        inside = "white" if is_hollow else self.colour
        return {"color": self.colour, "marker": self.marker, "markerfacecolor": inside}


BASELINE = Look(BLACK, "D", "-")
_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
_LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
_MARKERS = ("o", "s", "X", "*", "P", "p", (4, 1, 0))


def look_at(place: int) -> Look:
    """The look of the design at a place of the study, not counting the baseline.

    Six colours and seven markers go round by themselves: the first 42 looks all differ, and of six
    in a row no two share a colour or a marker.
    """
    colour = place % len(_COLOURS)
    return Look(_COLOURS[colour], _MARKERS[place % len(_MARKERS)], _LINES[colour])


@contextmanager
def paper_pyplot() -> Iterator[Any]:
    """matplotlib's pyplot, without a screen, under the rules of a paper's figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with matplotlib.rc_context(_RULES):
        yield plt


def facets(results: Results) -> list[list[ArmResult]]:
    """The arms of each regime in groups of at most `FACET`, evenly filled, in each the baseline
    first.
    """
    groups = []
    for part in results.by_regime:
        baseline = part.baseline_arm
        arms = [arm for arm in part.arms if arm.name != baseline.name]
        count = max(1, math.ceil(len(arms) / FACET))
        size = math.ceil(len(arms) / count)
        groups += [[baseline, *arms[i * size : (i + 1) * size]] for i in range(count)]
    return groups


def looks(results: Results) -> dict[str, Look]:
    """Arm → its look, the same in every regime. Within a facet no two are alike."""
    designs = dict.fromkeys(arm.design for arm in results.arms)
    baseline = results.baseline_arm.design
    compared = [design for design in designs if design != baseline]
    by_design = {baseline: BASELINE}
    for place, design in enumerate(compared):
        by_design[design] = look_at(place)
    return {arm.name: by_design[arm.design] for arm in results.arms}


def readable_log(axis: Any) -> None:
    """Ticks of a logarithmic axis as plain numbers: 1, 2 and 5 of each decade, or a few evenly
    where it spans little.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 5 * low else MaxNLocator(5))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def wrap_label(name: str, width: int, lines: int = 2) -> str:
    """A name on at most so many lines of a label."""
    return "\n".join(textwrap.wrap(breakable_name(name), width, max_lines=lines, placeholder=" …"))


# Intervals that leave the axes


@dataclass(frozen=True)
class IntervalBar:
    """An interval as drawn: its centre (x, y), its half-widths in x and y, its colour."""

    at: tuple[float, float]
    half: tuple[float, float]
    colour: str


@dataclass(frozen=True)
class Box:
    """A rectangle on the figure, in points of 1/72 inch: its centre, and half its sides."""

    centre: np.ndarray
    half: np.ndarray

    def overlaps(self, other: Box) -> bool:
        """Whether the two share an area."""
        return bool((np.abs(self.centre - other.centre) < self.half + other.half).all())


def boxes_at(ax: Any, points: Sequence[tuple[float, float]]) -> list[Box]:
    """The boxes of markers at points of the axes, once the layout is made."""
    if not points:
        return []
    return [Box(place, np.array([4.0, 4.0])) for place in _in_points(ax, points)]


def text_box(centre: np.ndarray, text: str) -> Box:
    """The box of a line of text of 7 points, a little wide."""
    return Box(centre, np.array([2.3 * len(text), 4.5]))


def mark_off_scale(ax: Any, bars: Sequence[IntervalBar], taken: Sequence[Box] = ()) -> None:
    """Draw an arrow at the edge for each end of an interval beyond the axes, and its value.

    A value stands beside its arrow, a little farther in where another text, arrow or point is in
    the way, and is left out where there is no room. The limits are set, and the layout is made.

    Arguments:
        taken: Boxes of texts that are there already.
    """
    ends = []
    for bar in bars:
        ends += _ends_beyond(ax, bar)
    boxes = [*taken, *boxes_at(ax, [bar.at for bar in bars])]
    for end in ends:
        boxes.append(_arrow(ax, end))

    lines = _lines(ax, bars)
    for end in ends:
        written = _write_value(ax, end, [*boxes, *lines]) or _write_value(ax, end, boxes)
        if written:
            boxes.append(written)


@dataclass(frozen=True)
class _End:
    """An end of an interval beyond the axes: its value, where its line meets the edge, the
    direction into the axes, its colour.
    """

    value: float
    edge: tuple[float, float]
    inward: np.ndarray
    colour: str


def _ends_beyond(ax: Any, bar: IntervalBar) -> list[_End]:
    left, right = sorted(ax.get_xlim())
    bottom, top = sorted(ax.get_ylim())
    (x, y), (half_width, half_height) = bar.at, bar.half
    upward = -1 if ax.yaxis_inverted() else 1
    ends = []
    if x - half_width < left:
        ends.append(_End(x - half_width, (left, y), np.array([1, 0]), bar.colour))
    if x + half_width > right:
        ends.append(_End(x + half_width, (right, y), np.array([-1, 0]), bar.colour))
    if y - half_height < bottom:
        ends.append(_End(y - half_height, (x, bottom), np.array([0, upward]), bar.colour))
    if y + half_height > top:
        ends.append(_End(y + half_height, (x, top), np.array([0, -upward]), bar.colour))
    return ends


def _arrow(ax: Any, end: _End) -> Box:
    """Draw an open arrow out of the axes; returns its box."""
    look = {"arrowstyle": "->", "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
    arrow = ax.annotate(
        "",
        end.edge,
        9 * end.inward,
        textcoords="offset points",
        arrowprops={**look, "color": end.colour, "mutation_scale": 7},
        annotation_clip=False,
        zorder=4,
    )
    arrow.set_in_layout(False)
    half = np.where(end.inward == 0, 3.0, 4.5)
    return Box(_in_points(ax, [end.edge])[0] + 4.5 * end.inward, half)


def _write_value(ax: Any, end: _End, taken: Sequence[Box]) -> Box | None:
    """Write a value beside its arrow; returns its box, or None where there is no room."""
    from matplotlib.patheffects import withStroke

    text = f"{end.value:.3g}".replace("-", "−")
    start = _in_points(ax, [end.edge])[0]
    low, high = ax.get_window_extent().get_points() * 72 / ax.figure.dpi
    half = text_box(start, text).half
    across = (half + 3.5) * (end.inward == 0)
    for step in range(6):
        for side in (1, -1):
            offset = end.inward * (half + 2 + 4 * step) + side * across
            box = Box(start + offset, half)
            is_inside = (box.centre - half >= low).all() and (box.centre + half <= high).all()
            if is_inside and not any(map(box.overlaps, taken)):
                look = {"ha": "center", "va": "center", "fontsize": 7, "color": end.colour}
                written = ax.annotate(
                    text, end.edge, offset, textcoords="offset points", zorder=5, **look
                )
                written.set_path_effects([withStroke(linewidth=2, foreground="white")])
                written.set_in_layout(False)
                return box
    return None


def _lines(ax: Any, bars: Sequence[IntervalBar]) -> list[Box]:
    """The boxes of the lines of intervals, as far as they are in the axes."""
    low, high = np.array([ax.get_xlim(), ax.get_ylim()]).T
    low, high = np.minimum(low, high), np.maximum(low, high)
    boxes = []
    for bar in bars:
        for axis in (0, 1):
            half = np.array(bar.half) * (np.arange(2) == axis)
            ends = np.clip([bar.at - half, bar.at + half], low, high)
            start, stop = _in_points(ax, ends)
            boxes.append(Box((start + stop) / 2, np.abs(stop - start) / 2 + 0.5))
    return boxes


def _in_points(ax: Any, places: Any) -> np.ndarray:
    """Places of the axes [n, 2] on the figure, in points of 1/72 inch."""
    return np.asarray(ax.transData.transform(places) * 72 / ax.figure.dpi)
