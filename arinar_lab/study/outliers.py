"""Runs that lie far from the other seeds of their arm: named, and never removed.

    t = (value - mean of the arm's other seeds) / (s · √(n / (n - 1)))       n seeds of the arm, this one with them

s is the spread of single runs around their arm's mean, pooled over all arms of the metric without the run in question: an
externally studentised residual (Cook and Weisberg, 1982, Residuals and Influence in Regression). An arm whose other seeds
stray farther than the pool is judged by them, as in `pooling.py`. A run is named where its two-sided p, times the number
of runs, is below 1 %; then it is left out, and the rest is looked at again.

In studies of equal arms and normal seeds 1 % at most have a false alarm, by metric, also where arms share what a seed does
to them. Where one of four arms strays three times as far it is 8 % (three seeds), and 5 % (five). Of broken runs of the
baseline, 10 standard deviations off, it names 65 % (four arms, three seeds) and 87 % (five). Simulated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean, variance

from .pooling import at_least
from .stats import Spread, cohen, p_value

FALSE_ALARMS = 0.01  # share of the studies, by metric
LEAST = 3  # seeds of an arm: of two it cannot be told which is the odd one

Run = tuple[str, int]
"""Arm and seed."""


def outliers(values: Mapping[str, Mapping[int, float]]) -> list[Run]:
    """The runs among arm → seed → value that lie far off, the farthest first."""
    left = _distinct(values)
    named: list[Run] = []
    while runs := [(arm, seed) for arm, by_seed in left.items() if len(by_seed) >= LEAST for seed in by_seed]:
        chances = {run: _chance(left, *run) for run in runs}
        farthest = min(runs, key=chances.__getitem__)
        if chances[farthest] * len(runs) >= FALSE_ALARMS:
            break
        named.append(farthest)
        arm, seed = farthest
        left[arm] = {other: value for other, value in left[arm].items() if other != seed}
    return named


def _distinct(values: Mapping[str, Mapping[int, float]]) -> dict[str, dict[int, float]]:
    """Arms of two seeds and more; those that are one model under this metric count once."""
    distinct: dict[str, dict[int, float]] = {}
    for arm, by_seed in values.items():
        if len(by_seed) > 1 and by_seed not in distinct.values():
            distinct[arm] = dict(by_seed)
    return distinct


def _chance(values: Mapping[str, Mapping[int, float]], arm: str, seed: int) -> float:
    """Two-sided p of one run against the other seeds of its arm."""
    peers = [value for other, value in values[arm].items() if other != seed]
    groups = [peers, *(list(by_seed.values()) for name, by_seed in values.items() if name != arm)]
    df = sum(len(group) - 1 for group in groups)
    pooled = math.sqrt(sum(variance(group) * (len(group) - 1) for group in groups) / df)
    spread = at_least(Spread(math.sqrt(variance(peers)), len(peers) - 1), Spread(pooled, df, len(groups)))

    off, mean = values[arm][seed] - fmean(peers), fmean(peers)
    if math.isclose(off + mean, mean, rel_tol=1e-12):
        return 1.0
    return p_value(cohen(off, spread) / math.sqrt(1 + 1 / len(peers)), 1, spread.df)
