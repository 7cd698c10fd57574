"""Where the spread of runs comes from, in a study whose axes are seeds of parts of a training.

    fixed_seeds.init, .data, .noise     sources of randomness, as axes
    evaluation.seed                     other samples of the same weights: the source `redraw`
    seeds of the study                  a source, too, of the parts that no axis and no recipe fixes

Every level of a source must stand with every level of the others. Other axes make groups, each
with components of its own (`significance/components.py`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from ..metrics import COLUMNS, DISTANCES
from ..output.names import join_names, short_value
from ..significance.components import (
    Components,
    VarianceComponent,
    redraw_ratio,
    variance_components,
)
from ..significance.statistics import ALPHA
from .comparison import CLAIMS
from .results import ArmResult, Results

REDRAW = "redraw"
SOURCES = {
    "fixed_seeds.init": "init",
    "fixed_seeds.data": "data",
    "fixed_seeds.noise": "noise",
    "evaluation.seed": REDRAW,
}
"""Axis → the source of randomness that its levels draw anew."""
_BLOCKS = 10  # of images, whose jackknife is the evaluation noise of a distance


@dataclass(frozen=True)
class Spread:
    """The components of one metric, of the arms that share all other axes.

    Arguments:
        metric: The metric's name.
        group: The values of the other axes, and the regime; empty where there are none.
        components: None where they were not computed.
        ratio: Standard deviation over trainings over that over redraws of samples; NaN where
            redraws were not measured.
        reason: Why nothing was computed; else empty.
    """

    metric: str
    group: str = ""
    components: Components | None = None
    ratio: float = math.nan
    reason: str = ""

    @property
    def heading(self) -> str:
        """`bits/dim`, `bits/dim of gmm`."""
        of_group = f" of {self.group}" if self.group else ""
        return f"{COLUMNS[self.metric].heading}{of_group}"

    @property
    def lines(self) -> list[str]:
        """A line for the whole spread, one for each source and interaction, one for the ratio."""
        if self.components is None:
            return [f"{self.heading}: where the spread comes from is not computed: {self.reason}"]

        total = self.components.total
        share, low, high = (100 * value for value in self.components.variation)
        text = f"{self.heading}: a run has a {_deviation_text(total)}"
        if math.isfinite(share):
            text += (
                f", {share:.2g} % [{low:.2g}, {high:.2g}] of the mean (coefficient of variation)"
            )
        lines = [text]
        for part in self.components.parts:
            lines.append(f"{self.heading}: {_part_text(part, total)}")
        if math.isfinite(self.ratio):
            lines.append(
                f"{self.heading}: retraining moves it {self.ratio:.2g} times as far as drawing"
                " samples anew"
            )
        return lines


def _deviation_text(component: VarianceComponent) -> str:
    """`standard deviation of 0.012 [0.008, 0.024]`."""
    deviation, low, high = component.deviations
    return f"standard deviation of {deviation:.2g} [{low:.2g}, {high:.2g}]"


def _part_text(part: VarianceComponent, total: VarianceComponent) -> str:
    """`init × data: standard deviation of 0.009 [0.002, 0.03], 61 % of the variance`."""
    name = " × ".join(part.sources)
    is_last = part.sources == total.sources and len(part.sources) > 1
    ending = " and all else" if is_last else ""
    text = f"{name}{ending}: {_deviation_text(part)}"
    if total.variance <= 0:
        return text
    share = 100 * max(0.0, part.variance / total.variance)
    share_text = "below 1 %" if 0 < share < 0.5 else f"{share:.0f} %"
    return f"{text}, {share_text} of the variance"


def analyse_spread(results: Results, metrics: Sequence[str] = CLAIMS) -> tuple[Spread, ...]:
    """The components of each measured metric; none where no axis is a seed of several levels, or
    no run is finished.
    """
    spreads = []
    for part in results.by_regime:
        arms = [arm for arm in part.arms if arm.factors and len(arm.factors) == len(part.axes)]
        varied = _varied(part, arms)
        if not any(part.axes[i] in SOURCES for i in varied):
            continue

        for metric in filter(part.columns_by_metric.__contains__, metrics):
            for group, members in _groups(part, arms, varied).items():
                if any(arm.values(metric) for arm in members):
                    spreads.append(_spread(part, metric, group, members, varied))
    return tuple(spreads)


def _varied(results: Results, arms: Sequence[ArmResult]) -> list[int]:
    """The axes of two levels or more."""
    varied = []
    for i in range(len(results.axes)):
        if len({short_value(arm.factors[i]) for arm in arms}) > 1:
            varied.append(i)
    return varied


def _groups(
    results: Results, arms: Sequence[ArmResult], varied: Sequence[int]
) -> dict[str, list[ArmResult]]:
    """Values of the axes that are no seeds → arms."""
    groups: dict[str, list[ArmResult]] = {}
    for arm in arms:
        words = [short_value(arm.factors[i]) for i in varied if results.axes[i] not in SOURCES]
        name = join_names(words)
        at_regime = f"{name} at {arm.regime}" if name else arm.regime
        groups.setdefault(at_regime if arm.regime else name, []).append(arm)
    return groups


def _spread(
    results: Results,
    metric: str,
    group: str,
    arms: Sequence[ArmResult],
    varied: Sequence[int],
) -> Spread:
    axes = [i for i in varied if results.axes[i] in SOURCES]
    for i in axes:
        if None in {arm.factors[i] for arm in arms}:
            return Spread(
                metric, group, reason=f"a null of {results.axes[i]} is no seed of its own"
            )

    names = [SOURCES[results.axes[i]] for i in axes]
    levels: list[list[int]] = []
    for i in axes:
        levels.append(sorted({arm.factors[i] for arm in arms}))
    if len(results.seeds) > 1:
        names.append(_source_of_seeds(arms[0]))
        levels.append(list(results.seeds))

    values = np.full(list(map(len, levels)), math.nan)
    for arm in arms:
        place = tuple(levels[k].index(arm.factors[i]) for k, i in enumerate(axes))
        measured = arm.values(metric)
        of_seeds = [measured.get(seed, math.nan) for seed in results.seeds]
        values[place] = of_seeds if len(of_seeds) > 1 else of_seeds[0]

    if missing := int(np.isnan(values).sum()):
        reason = f"without this number: {missing} of {values.size} runs"
        return Spread(metric, group, reason=reason)
    ratio = _ratio(values, names, arms, metric)
    return Spread(metric, group, variance_components(values, names), ratio)


def _source_of_seeds(arm: ArmResult) -> str:
    """What the seeds of the study draw anew: the parts that have no seed of their own."""
    fixed = arm.settings.get("fixed_seeds", {})
    free = [name for name in ("init", "data", "noise") if fixed.get(name) is None]
    return "training" if len(free) == 3 else " with ".join(free) or "seed"


def _ratio(
    values: np.ndarray, names: Sequence[str], arms: Sequence[ArmResult], metric: str
) -> float:
    """Standard deviation over trainings over that over redraws: of the axis `redraw`, else of the
    evaluation noise of a distance; NaN where there is neither.
    """
    if REDRAW in names:
        if len(names) == 1:
            return math.nan
        by_redraw = np.moveaxis(values, names.index(REDRAW), -1)
        redrawn = float(by_redraw.var(-1, ddof=1).mean())
        return redraw_ratio([by_redraw[..., k] for k in range(by_redraw.shape[-1])], redrawn)

    halves = [arm.evaluation_noise(metric) for arm in arms]
    if metric not in DISTANCES or None in halves:
        return math.nan
    squares = [half**2 for half in halves if half is not None]
    redrawn = statistics.fmean(squares) / stdtrit(_BLOCKS - 1, 1 - ALPHA / 2) ** 2
    return redraw_ratio([values], redrawn)
