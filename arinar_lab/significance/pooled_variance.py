"""The spread of differences to the baseline over seeds, pooled over all arms that agree on it.

    d[arm, seed] = y[arm, seed] - y[baseline, seed]         effects of a seed on both cancel
    s² = Σ_arm Σ_seed (d - mean of the arm)² / Σ_arm (seeds - 1)
    df = 4 (seeds - 1) (k - 1) / (k + 2)                    k arms, the baseline with
                                                            them, and no cell missing
    s²[arm] = max(s², own)                                  own: of the arm's seeds alone,
                                                            with seeds - 1 of df
    df[arm]^-½ = w df^-½ + (1 - w) (seeds - 1)^-½           w = s² / s²[arm], the part
                                                            of it that is shared

Three seeds of one pair have 2 degrees of freedom: Holm over three arms then asks for |t| > 7.6.
Four arms together have 4 and are asked for 4.0. The baseline is in every difference, so they are no
(k - 1)(seeds - 1); df is that of a χ² of the same variance (Satterthwaite, 1946, Biometrics
Bulletin 2). The residuals of arm and seed would have all of those, and would not do: a baseline
that strays three times as far as 14 arms over three seeds has its share in every difference and a
fifteenth in the residuals, a test seldom notices, and 20 of 100 studies of equal arms call
something resolved (with differences: 3.5).

Arms that are not paired pool the variance of single runs, the baseline's among them.

Whether the arms agree is tested: Cochran's C, the largest variance over the sum of all, against its
own distribution drawn in the same layout. While it is rejected at 3 %, the arm with the largest is
left out, and judged by its own seeds alone.

A few seeds estimate a spread poorly, so arms that differ by a factor of three may still agree.
Pooling alone would call something resolved in 10.1 % of studies of four equal arms of three seeds
of which one strays three times as far as the others, in 11.6 % where it strays seven times as far,
and in 16 % of studies of 15 arms whose baseline strays three times as far. Therefore an arm whose
own seeds stray farther than the pool is judged by them, and the excess over the pool has their
degrees of freedom alone. The shares fall to 4.9, 6.6 and 5.7 %, and from 4.7 to 2.5 % where all
arms are equal. Power falls from 37 to 20 % there, for a difference of two standard deviations.
The noise is normal; skewed noise has more false calls (`arm_tests.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import numpy as np

from .statistics import PooledSD, larger_spread

BySeed = Mapping[str, Mapping[int, float]]
"""Arm → seed → value of a run, or difference to the baseline."""
Pattern = tuple[tuple[int, ...], ...]
"""The seeds of each arm."""
# level of its test; a lower one leaves a wild arm in the pool, a higher one takes the tame for wild
HOMOGENEITY_LEVEL = 0.03
SIMULATIONS = 4000


def spreads(values: BySeed, paired: bool = True, pooled: bool = True) -> dict[str, PooledSD]:
    """The spread of each arm of two seeds and more: that of all arms which agree, or its own
    where that is larger; its own alone where nothing is pooled.

    paired: whether the values are differences to one baseline, else they are of single runs.
    """
    repeated = _repeated(values)
    alone = 2 if paired else 1
    spreads = {}
    for arm, variance in zip(repeated, _variances(repeated), strict=True):
        spreads[arm] = PooledSD(math.sqrt(variance), len(repeated[arm]) - 1, alone, paired=paired)

    agreeing = homogeneous_arms(values, paired) if pooled else []
    if len(agreeing) > 1:
        common = pool_spread({arm: values[arm] for arm in agreeing}, paired)
        for arm in agreeing:
            spreads[arm] = larger_spread(spreads[arm], common)
    return spreads


def pool_spread(values: BySeed, paired: bool = True) -> PooledSD:
    """The spread of a value, pooled over arms of two seeds or more each."""
    variance = _squares(values).sum() / _free_values(values).sum()
    df = _freedom(_pattern(values), paired)
    return PooledSD(math.sqrt(variance), df, len(values) + paired, paired=paired)


def homogeneous_arms(values: BySeed, paired: bool = True) -> list[str]:
    """Arms of two seeds and more, without those that vary more than chance explains."""
    arms = _repeated(values)
    while len(arms) > 1 and homogeneity(arms, paired) < HOMOGENEITY_LEVEL:
        wildest = list(arms)[int(np.argmax(_variances(arms)))]
        del arms[wildest]
    return list(arms)


def homogeneity(values: BySeed, paired: bool = True) -> float:
    """p-value of equal spreads: the share of simulations in which one arm stands out as much."""
    variances = _variances(values)
    null = _null(_pattern(values), paired)

    # arms without any variance agree
    statistic = variances.max() / variances.sum() if variances.any() else 0.0
    return float((1 + np.sum(null >= statistic)) / (1 + len(null)))


def _repeated(values: BySeed) -> dict[str, Mapping[int, float]]:
    """The arms of two seeds and more."""
    return {arm: by_seed for arm, by_seed in values.items() if len(by_seed) > 1}


def _pattern(values: BySeed) -> Pattern:
    return tuple(map(tuple, map(sorted, values.values())))


def _free_values(values: BySeed) -> np.ndarray:
    """Seeds of each arm, less one."""
    return np.array(list(map(len, values.values()))) - 1


def _squares(values: BySeed) -> np.ndarray:
    """Σ_seed (d - mean)² of each arm."""
    return np.array([_sum_of_squares(list(of_arm.values())) for of_arm in values.values()])


def _sum_of_squares(values: list[float]) -> float:
    """Σ (value - mean)²; deviations of the size of rounding errors count as zero."""
    array = np.array(values)
    deviations = array - array.mean()
    rounding = np.abs(deviations) < 1e-12 * np.abs(array).max()
    return float((np.where(rounding, 0.0, deviations) ** 2).sum())


def _variances(values: BySeed) -> np.ndarray:
    return _squares(values) / _free_values(values)


@cache
def _makers(pattern: Pattern, paired: bool) -> list[np.ndarray]:
    """For each arm the matrix that makes its d - mean of all cells [seeds of the arm, cells]; of
    pairs the baseline's cells come first.
    """
    seeds = sorted(set().union(*pattern))
    starts = len(seeds) + np.cumsum([0, *map(len, pattern)])
    makers = []
    for row, start in zip(pattern, starts, strict=False):
        d = np.zeros((len(row), starts[-1]))
        if paired:
            d[range(len(row)), np.searchsorted(seeds, row)] = -1
        d[range(len(row)), range(start, start + len(row))] = 1
        makers.append(d - d.mean(0))

    return makers


@cache
def _freedom(pattern: Pattern, paired: bool) -> float:
    """df of the pooled sum of squares e'Me of independent errors e of one
    spread: (tr M)² / tr M².
    """
    whole = sum(maker.T @ maker for maker in _makers(pattern, paired))
    return float(np.trace(whole) ** 2 / np.sum(whole**2))


@cache
def _null(pattern: Pattern, paired: bool) -> np.ndarray:
    """Cochran's C in simulated layouts of equal spreads, [SIMULATIONS]; always the same values."""
    makers = _makers(pattern, paired)
    errors = np.random.default_rng(0).standard_normal((makers[0].shape[1], SIMULATIONS))
    variances = np.stack([((maker @ errors) ** 2).sum(0) / (len(maker) - 1) for maker in makers])
    return variances.max(0) / variances.sum(0)
