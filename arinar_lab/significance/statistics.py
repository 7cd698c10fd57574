"""Statistics of a few seeds: means with t-intervals, spreads, powers and corrections.

    mean ± t(0.975, n-1) · s / √n          95 % interval of the mean over n seeds (training noise)
    t = mean difference / (s_d / √n)       of a difference of n pairs, or as of n pairs; s_d from
                                           its own values, or pooled over arms
    d = mean difference / s_d              Cohen's d of a difference; √n d has a noncentral t
                                           distribution
    p(i) · (m - i)                         Holm: the i-th smallest of m p-values, from i = 0; at 5 %
                                           no more than 5 % of studies in which nothing differs call
                                           anything resolved, however the tests depend

Seeds are repeats under common random numbers: two arms of one seed share their data order, masks,
dequantisation and, wherever they have the same part, their initial weights. Where that moves all
arms alike, differences are taken seed by seed (`arm_tests.py`).
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter, lt

import numpy as np
from scipy.optimize import brentq
from scipy.stats import chi2, nct
from scipy.stats import t as student

ALPHA = 0.05
POWER = 0.8
MAX_SEEDS = 100  # more seeds than anybody adds; MAX_SEEDS + 1 stands for more than that


@dataclass(frozen=True)
class Interval:
    """A mean and the half-width of its 95 % interval (infinite for one value)."""

    mean: float
    half: float
    n: int

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes zero."""
        return abs(self.mean) > self.half

    def text(self, digits: int = 3) -> str:
        """`2.120 ± 0.013`; `2.120` alone where the spread is unknown or zero."""
        mean = f"{self.mean:,.{digits}f}"
        return f"{mean} ± {self.half:.{digits}f}" if self.n > 1 and self.half > 0 else mean


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % t-interval of independent values.

    Raises:
        ValueError: if there are none.
    """
    n = len(values)
    if n == 0:
        raise ValueError("an interval needs at least one value")
    if n == 1:
        return Interval(values[0], math.inf, 1)
    half = float(student.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return Interval(statistics.fmean(values), half, n)


@dataclass(frozen=True)
class PooledSD:
    """The spread of the difference of two arms over seeds.

    Arguments:
        deviation: Standard deviation of the difference under one seed.
        df: Degrees of freedom of the deviation.
        arms: Number of arms that it was estimated from, with the baseline; 2 for a single pair.
        shared: The part of the variance that is pooled; the remainder is the pair's own.
        paired: Whether differences are taken seed by seed.
    """

    deviation: float
    df: float
    arms: int = 2
    shared: float = 1.0
    paired: bool = True


def degrees_of_freedom(arms: int, seeds: int, shared: float = 1.0, paired: bool = True) -> float:
    """Degrees of freedom of the pooled spread of differences to one baseline
    (`significance/pooled_variance.py`).
    """
    common = 4 * (seeds - 1) * (arms - 1) / (arms + 2) if paired else arms * (seeds - 1)
    return combined_df(shared, common, seeds - 1)


def combined_df(shared: float, common: float, own: float) -> float:
    """Degrees of freedom of a variance of which a share has `common`, and the remainder `own`.

    The relative error of a variance is √(2 / df). Those of the two parts are added as they are, not
    as squares, for the same seeds are in both.
    """
    return (shared / math.sqrt(common) + (1 - shared) / math.sqrt(own)) ** -2


def larger_spread(own: PooledSD, common: PooledSD) -> PooledSD:
    """The common spread, or an arm's own where that is larger."""
    if own.deviation <= common.deviation:
        return common
    shared = (common.deviation / own.deviation) ** 2
    df = combined_df(shared, common.df, own.df)
    return PooledSD(own.deviation, df, common.arms, shared, common.paired)


def unpaired_spread(
    arm: PooledSD, seeds: int, baseline: PooledSD, baseline_seeds: int, common_df: float
) -> PooledSD:
    """Spread of the difference of two independent means, as of n pairs, n the smaller number.

        s² = n (s_arm² / seeds + s_baseline² / baseline_seeds)

    The part of both variances that is pooled has `common_df`, what their own seeds add has theirs
    (`combined_df`).
    """
    n = min(seeds, baseline_seeds)
    error = arm.deviation**2 / seeds
    baseline_error = baseline.deviation**2 / baseline_seeds
    square = error + baseline_error
    arms = max(arm.arms, baseline.arms)
    own_df = n - 1
    if square == 0:
        return PooledSD(0.0, own_df, arms, paired=False)

    pooled = 0.0
    for spread, part in ((arm, error), (baseline, baseline_error)):
        pooled += spread.shared * part if spread.arms > 1 else 0.0
    shared = pooled / square
    df = combined_df(shared, common_df, own_df)
    return PooledSD(math.sqrt(n * square), df, max(2, arms), shared, paired=False)


def difference(differences: Sequence[float], of: PooledSD) -> Interval:
    """Mean and 95 % interval of paired differences, by their own spread or a pooled one."""
    return interval_around(statistics.fmean(differences), len(differences), of)


def interval_around(mean: float, n: int, of: PooledSD) -> Interval:
    """95 % interval of the mean of n differences of a known spread."""
    half = float(student.ppf(1 - ALPHA / 2, of.df)) * of.deviation / math.sqrt(n)
    return Interval(mean, half, n)


def welch(values: Sequence[float], baseline: Sequence[float]) -> PooledSD:
    """Spread of the difference of two independent means, as of n pairs, n the
    smaller number of the two.

    Its interval and p at that n are those of Welch's test (Welch, 1947, Biometrika 34); each set
    has two values or more.
    """
    n = min(len(values), len(baseline))
    error = statistics.variance(values) / len(values)
    baseline_error = statistics.variance(baseline) / len(baseline)
    square = error + baseline_error
    if square == 0:
        return PooledSD(0.0, n - 1)

    unreliability = error**2 / (len(values) - 1) + baseline_error**2 / (len(baseline) - 1)
    return PooledSD(math.sqrt(n * square), square**2 / unreliability)


def cohens_d(mean: float, of: PooledSD) -> float:
    """Cohen's d of a paired difference, mean / deviation; infinite where all seeds agree, and
    0 where they agree on 0.
    """
    if of.deviation > 1e-12 * abs(mean):
        return mean / of.deviation
    return math.copysign(math.inf, mean) if mean else 0.0


def p_value(size: float, n: int, df: float) -> float:
    """Two-sided p of a paired difference of n seeds, from its Cohen's d."""
    return float(2 * student.sf(abs(size) * math.sqrt(n), df))


def size_interval(size: float, n: int, df: float) -> tuple[float, float]:
    """95 % interval of Cohen's d.

    Its ends are the values under which 2.5 % of studies have a t as large, or as small. The t of a
    study is noncentral t with shift √n d (Cumming and Finch, 2001, Educational and
    Psychological Measurement 61). Above |t| = 100 the spread alone matters, whose square is χ²: d
    lies as much above or below as the deviation does.
    """
    t = size * math.sqrt(n)
    if math.isinf(t):
        return size, size
    if t < 0:
        low, high = size_interval(-size, n, df)
        return -high, -low
    if t > 100:
        low = size * math.sqrt(chi2.ppf(0.025, df) / df)
        high = size * math.sqrt(chi2.ppf(0.975, df) / df)
        return low, high

    # a larger shift makes this t rarer than 2.5 %, and below -2 no t > 0 is as rare
    above = t * math.sqrt(chi2.ppf(0.99, df) / df) + 3

    def shift(share: float) -> float:
        return float(brentq(lambda shift: nct.cdf(t, df, shift) - share, -2, above))

    return shift(0.975) / math.sqrt(n), shift(0.025) / math.sqrt(n)


def power(size: float, n: int, df: float, alpha: float = ALPHA) -> float:
    """Chance that n seeds resolve a true Cohen's d of `size` at a level alpha."""
    critical = student.ppf(1 - alpha / 2, df)
    shift = abs(size) * math.sqrt(n)
    # scipy returns NaN where the shift is far above the critical value
    above = np.nan_to_num(nct.sf(critical, df, shift), nan=1.0)
    below = np.nan_to_num(nct.cdf(-critical, df, shift), nan=0.0)
    return float(above + below)


def detectable_size(n: int, arms: int = 2, alpha: float = ALPHA, paired: bool = True) -> float:
    """The Cohen's d that n ≥ 2 seeds resolve in 80 % of studies; see `more_seeds`.

    Raises:
        ValueError: for fewer than two seeds, which resolve nothing.
    """
    if n < 2:
        raise ValueError(f"n: {n} seeds resolve nothing")
    df = degrees_of_freedom(arms, n, 0.5, paired)

    def excess(size: float) -> float:
        return power(size, n, df, alpha) - POWER

    most = 1.0
    while excess(most) < 0:
        most *= 2
    return float(brentq(excess, 0.0, most))


def more_seeds(
    size: float, n: int, arms: int = 2, alpha: float = ALPHA, paired: bool = True
) -> int:
    """Number of seeds beyond n that resolve a Cohen's d of `size` in 80 % of studies;
    MAX_SEEDS + 1 if MAX_SEEDS are too few.

    The spread is assumed to come from as many arms, and half of it to be shared, as either the
    pool's or the arm's own may be the larger. The result is a guess: the size that a few seeds show
    is uncertain, and too large where it was chosen for being large.
    """

    def enough(more: int) -> bool:
        df = degrees_of_freedom(arms, n + more, 0.5, paired)
        return power(size, n + more, df, alpha) >= POWER

    return bisect.bisect_left(range(1, MAX_SEEDS + 1), True, key=enough) + 1


def seeds_to_add(size: float, n: int, of: PooledSD, alpha: float = ALPHA) -> tuple[int, int]:
    """The least and the most of `more_seeds` over the 80 % interval of the spread, at the
    observed effect.

    With df degrees of freedom the true variance is the observed one times df / χ². A few seeds
    estimate it so poorly that one number would promise too much.
    """

    def seeds_at(share: float) -> int:
        factor = math.sqrt(chi2.ppf(share, of.df) / of.df)
        return more_seeds(size * factor, n, of.arms, alpha, of.paired)

    return seeds_at(0.9), seeds_at(0.1)


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p-values of a family, in its order (Holm, 1979, Scand. J. of Statistics 6)."""
    factors = holm_factors(ps)
    return [min(1.0, factor * p) for factor, p in zip(factors, ps, strict=True)]


def holm_factors(ps: Sequence[float]) -> list[float]:
    """The adjusted p-value of each over its own, before the cut at 1.

    A value is resolved at 5 % exactly where its interval at 1 - 5 % / factor excludes zero.
    """
    factors = [1.0] * len(ps)
    worst = 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        worst = max(worst, (len(ps) - rank) * ps[i])
        factors[i] = worst / ps[i] if ps[i] > 0 else len(ps) - rank
    return factors


def pareto_indices(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points that no other dominates; less is better in every dimension.

    A point dominates another if it is at least as good in everything and better in something.
    """
    table = np.asarray(points)
    front = []
    for i, point in enumerate(table):
        dominating = (table <= point).all(1) & (table < point).any(1)
        if not dominating.any():
            front.append(i)
    return front


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Volume of all that is worse than a point and better than the reference; less is better in
    every dimension.

    Slices the last dimension at the points: within a slice the volume is that of the points below
    it, in one dimension less. Exact; about n^(d-1) steps for d dimensions, d > 1.
    """
    inside = [point for point in points if all(map(lt, point, reference))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(map(itemgetter(0), inside))

    inside.sort(key=itemgetter(-1))
    volume = 0.0
    below = []
    for point, upper in pairwise([*inside, reference]):
        below.append(point[:-1])
        thickness = upper[-1] - point[-1]
        if thickness > 0:
            volume += thickness * hypervolume(below, reference[:-1])
    return volume
