"""The look of every figure of a report: sizes of a two-column paper, and colours that survive
greyscale and colour blindness.

Colours are Okabe and Ito's (https://jfly.uni-koeln.de/color/), without the yellow, which white
paper swallows. A colour never stands alone: an arm has a marker and a line style of its own, too,
and the same ones in every figure. One panel shows at most `FACET` arms beside the baseline; more
arms take more panels, each with the baseline in it.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..analysis.results import ArmResult, Results
from ..analysis.text import breakable_name

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
    "lines.markersize": 4,
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
    marker: str
    line: Any

    @property
    def of_line(self) -> dict[str, Any]:
        return {"color": self.colour, "linestyle": self.line, "marker": self.marker}


SERIES = (
    Look(BLUE, "o", "-"),
    Look(VERMILION, "s", "--"),
    Look(GREEN, "^", "-."),
    Look(PURPLE, "v", ":"),
    Look(ORANGE, "P", (0, (5, 1))),
    Look(SKY, "X", (0, (3, 1, 1, 1))),
)
"""Told apart in colour, in grey, and by their markers."""


@contextmanager
def paper_pyplot() -> Iterator[Any]:
    """matplotlib's pyplot, without a screen, under the rules of a paper's figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with matplotlib.rc_context(_RULES):
        yield plt


def facets(results: Results) -> list[list[ArmResult]]:
    """The arms in groups of at most `FACET`, evenly filled, in each the baseline first."""
    baseline = results.baseline_arm
    arms = [arm for arm in results.arms if arm.name != baseline.name]
    count = max(1, math.ceil(len(arms) / FACET))
    size = math.ceil(len(arms) / count)
    return [[baseline, *arms[i * size : (i + 1) * size]] for i in range(count)]


def looks(results: Results) -> dict[str, Look]:
    """Arm → its look; the baseline is black. Within a facet no two are alike."""
    looks = {results.baseline: Look(BLACK, "D", "-")}
    for facet in facets(results):
        looks |= {arm.name: look for arm, look in zip(facet[1:], SERIES, strict=False)}
    return looks


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
