"""Runs that lie far from the other seeds of their arm: named, and never removed.

    t = (value - mean of the arm's other seeds) / (s · √(n / (n - 1)))    n seeds of the arm, this
                                                                          one among them

s is the spread of single runs around their arm's mean, pooled over all arms of the metric without
the run in question: an externally studentised residual (Cook and Weisberg, 1982, Residuals and
Influence in Regression). An arm whose other seeds stray farther than the pool is judged by them, as
in `pooled_variance.py`. A run is named where its two-sided p, times the number of runs, is below
1 %; then it is left out, and the rest is looked at again.

In studies of equal arms and normal seeds 1 % at most have a false alarm, by metric, also where arms
share what a seed does to them. Where one of four arms strays three times as far it is 8 % (three
seeds) and 4 % (five). Of broken runs of the baseline, 10 standard deviations off, it names 63 %
(four arms, three seeds) and 87 % (five). Simulated.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from statistics import fmean

from .statistics import PooledSD, cohens_d, larger_spread, p_value

FALSE_ALARMS = 0.01  # share of the studies, by metric
MIN_SEEDS = 3  # seeds of an arm: of two it cannot be told which is the odd one

Run = tuple[str, int]
"""Arm and seed."""


def outliers(values: Mapping[str, Mapping[int, float]]) -> list[Run]:
    """The runs among arm → seed → value that lie far off, the farthest first."""
    remaining = _distinct(values)
    named: list[Run] = []
    while chances := _chances(remaining):
        farthest = min(chances, key=chances.__getitem__)
        if chances[farthest] * len(chances) >= FALSE_ALARMS:
            break
        named.append(farthest)
        arm, seed = farthest
        del remaining[arm][seed]

    return named


def _distinct(values: Mapping[str, Mapping[int, float]]) -> dict[str, dict[int, float]]:
    """Arms of two seeds and more; those that are one model under this metric count once."""
    distinct: dict[str, dict[int, float]] = {}
    for arm, by_seed in values.items():
        if len(by_seed) > 1 and by_seed not in distinct.values():
            distinct[arm] = dict(by_seed)
    return distinct


def _chances(values: Mapping[str, Mapping[int, float]]) -> dict[Run, float]:
    """Two-sided p of each run of an arm of `MIN_SEEDS` seeds and more, against the
    other seeds of its arm.
    """
    squares = {arm: _squares(by_seed.values()) for arm, by_seed in values.items()}
    total = sum(squares.values())
    df = sum(map(len, values.values())) - len(values) - 1  # less the run in question

    chances = {}
    for arm, by_seed in values.items():
        if len(by_seed) < MIN_SEEDS:
            continue
        for seed, value in by_seed.items():
            peers = [by_seed[peer] for peer in by_seed if peer != seed]
            peer_squares = _squares(peers)
            pooled = math.sqrt(max(0.0, total - squares[arm] + peer_squares) / df)
            alone = PooledSD(math.sqrt(peer_squares / (len(peers) - 1)), len(peers) - 1)
            spread = larger_spread(alone, PooledSD(pooled, df, len(values)))
            chances[arm, seed] = _p(value, peers, spread)

    return chances


def _p(value: float, peers: list[float], spread: PooledSD) -> float:
    mean = fmean(peers)
    if math.isclose(value, mean, rel_tol=1e-12):
        return 1.0
    return p_value(cohens_d(value - mean, spread) / math.sqrt(1 + 1 / len(peers)), 1, spread.df)


def _squares(values: Collection[float]) -> float:
    """Σ (value - mean)²."""
    mean = fmean(values)
    return sum((value - mean) ** 2 for value in values)
