"""How far differences to the baseline stray from seed to seed, told by all arms that agree on it.

    d[arm, seed] = y[arm, seed] - y[baseline, seed]         what a seed does to both has gone
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
something resolved (here: 4).

Whether the arms agree is tested: Cochran's C, the largest variance over the sum of all, against its
own distribution drawn in the same layout. While it is rejected at 3 %, the arm with the largest is
left out, and judged by its own seeds alone.

A few seeds tell little of a spread, so arms agree that differ by a factor of three, and pooling
alone would call something resolved in 7.4 % of studies of equal arms of which one strays three
times as far as three others, and in 11.0 % of those in which it strays seven times as far.
Therefore an arm whose own seeds stray farther than the pool is judged by them, and what is beyond
the pool is known with their degrees of freedom alone. That is 4.4 % and 5.9 %; 2.7 % where all arms
are equal; and at most 6.0 % in every layout simulated: 3 to 8 arms, 3 or 5 seeds, one or several of
them 2 to 50 times as wild as the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import numpy as np

from .statistics import PooledSD, combined_df

Pairs = Mapping[str, Mapping[int, float]]
"""Arm → seed → difference to the baseline."""
Pattern = tuple[tuple[int, ...], ...]
"""The seeds of each arm."""
# level of its test; a lower one leaves a wild arm in the pool, a higher one takes the tame for wild
HOMOGENEITY_LEVEL = 0.03
SIMULATIONS = 4000


def spreads(pairs: Pairs) -> dict[str, PooledSD]:
    """Of each difference of two seeds and more: that of all arms which agree, or its own
    where that is larger.
    """
    several = {arm: d for arm, d in pairs.items() if len(d) > 1}
    variances = dict(zip(several, _variances(several), strict=True))
    own = {arm: PooledSD(math.sqrt(variances[arm]), len(d) - 1) for arm, d in several.items()}
    together = homogeneous_arms(pairs)
    if len(together) < 2:
        return own
    common = pool_spread({arm: pairs[arm] for arm in together})
    return own | {arm: larger_spread(own[arm], common) for arm in together}


def larger_spread(own: PooledSD, common: PooledSD) -> PooledSD:
    """The common spread, or an arm's own where that is larger."""
    if own.deviation <= common.deviation:
        return common
    shared = (common.deviation / own.deviation) ** 2
    return PooledSD(own.deviation, combined_df(shared, common.df, own.df), common.arms, shared)


def pool_spread(pairs: Pairs) -> PooledSD:
    """Spread of a difference, from all that are given, of two seeds or more each."""
    squares, df = _squares(pairs), _freedom(_pattern(pairs))
    return PooledSD(
        math.sqrt(squares.sum() / sum(len(d) - 1 for d in pairs.values())), df, len(pairs) + 1
    )


def homogeneous_arms(pairs: Pairs) -> list[str]:
    """Arms of two seeds and more, but for those whose difference strays farther than
    chance would have it.
    """
    arms = {arm: d for arm, d in pairs.items() if len(d) > 1}
    while len(arms) > 1 and homogeneity(arms) < HOMOGENEITY_LEVEL:
        wildest = list(arms)[int(np.argmax(_variances(arms)))]
        arms = {arm: d for arm, d in arms.items() if arm != wildest}
    return list(arms)


def homogeneity(pairs: Pairs) -> float:
    """p-value of equal spreads: the share of layouts of equal spreads in which one stands
    out as much as here.
    """
    variances, null = _variances(pairs), _null(_pattern(pairs))
    # nothing strays at all: they agree
    seen = variances.max() / variances.sum() if variances.any() else 0.0
    return float((1 + np.sum(null >= seen)) / (1 + len(null)))


def _pattern(pairs: Pairs) -> Pattern:
    return tuple(tuple(sorted(d)) for d in pairs.values())


def _squares(pairs: Pairs) -> np.ndarray:
    """Σ_seed (d - mean)² of each arm; what rounding alone leaves is nothing."""
    squares = []
    for d in (np.array(list(d.values())) for d in pairs.values()):
        left = d - d.mean()
        squares.append(
            float((np.where(np.abs(left) < 1e-12 * np.abs(d).max(), 0.0, left) ** 2).sum())
        )
    return np.array(squares)


def _variances(pairs: Pairs) -> np.ndarray:
    return _squares(pairs) / np.array([len(d) - 1 for d in pairs.values()])


@cache
def _makers(pattern: Pattern) -> list[np.ndarray]:
    """For each arm the matrix that makes its d - mean of all cells [seeds of the arm, cells]; the
    baseline's come first.
    """
    seeds = sorted({seed for row in pattern for seed in row})
    own = len(seeds) + np.cumsum([0, *map(len, pattern)])
    makers = []
    for row, start in zip(pattern, own, strict=False):
        d = np.zeros((len(row), own[-1]))
        d[range(len(row)), [seeds.index(seed) for seed in row]] = -1
        d[range(len(row)), range(start, start + len(row))] = 1
        makers.append(d - d.mean(0))

    return makers


@cache
def _freedom(pattern: Pattern) -> float:
    """df of the pooled sum of squares e'Me of independent errors e of one
    spread: (tr M)² / tr M².
    """
    whole = sum(maker.T @ maker for maker in _makers(pattern))
    return float(np.trace(whole) ** 2 / np.sum(whole**2))


@cache
def _null(pattern: Pattern) -> np.ndarray:
    """Cochran's C in layouts of equal spreads, [DRAWS]; the same whenever it is asked for."""
    makers = _makers(pattern)
    errors = np.random.default_rng(0).standard_normal((makers[0].shape[1], SIMULATIONS))
    variances = np.stack([((maker @ errors) ** 2).sum(0) / (len(maker) - 1) for maker in makers])
    return variances.max(0) / variances.sum(0)
