"""What may be concluded from a few seeds: means with t-intervals, and differences paired by seed.

    mean ± t(0.975, n-1) · s / √n          95 % interval of the mean over n seeds (training noise)
    t = mean difference / (s_d / √n)       of a difference paired by seed; s_d from its own n
                                           values, or pooled over arms
    d = mean difference / s_d              Cohen's d of paired differences; √n d has a
                                           noncentral t distribution
    p(i) · (m - i)                         Holm: the i-th smallest of m p-values, from i = 0; at 5 %
                                           no more than 5 % of studies in which nothing differs call
                                           anything resolved, however the tests depend

Seeds are repeats under common random numbers: two arms of one seed share their data order, masks,
dequantisation and, wherever they have the same part, their initial weights. A difference is
therefore taken seed by seed.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import chi2, nct
from scipy.stats import t as student

ALPHA = 0.05
POWER = 0.8
MAX_SEEDS = 100  # more seeds than anybody adds; MOST + 1 stands for more than that


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
        """`2.120 ± 0.013`; `2.120` alone where one value says nothing of its
        spread, or there is none.
        """
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
    """How far the difference of two arms strays from seed to seed.

    Arguments:
        deviation: standard deviation of the difference under one seed.
        df: degrees of freedom of that.
        arms: whose values told it, the baseline's with them; 2 where it is of the two arms alone.
        shared: the part of its square that those have in common; the rest is the difference's own.
    """

    deviation: float
    df: float
    arms: int = 2
    shared: float = 1.0


def degrees_of_freedom(arms: int, seeds: int, shared: float = 1.0) -> float:
    """Degrees of freedom of the spread that differences of arms to one baseline tell together, see
    `pooled_variance.py`.
    """
    return combined_df(shared, 4 * (seeds - 1) * (arms - 1) / (arms + 2), seeds - 1)


def combined_df(shared: float, common: float, own: float) -> float:
    """Degrees of freedom of a variance of which a part is known with `common` of them and
    the rest with `own`.

    The relative error of a variance is √(2 / df). Those of the two parts are added as they are, not
    as squares, for the same seeds are in both.
    """
    return (shared / math.sqrt(common) + (1 - shared) / math.sqrt(own)) ** -2


def difference(differences: Sequence[float], of: PooledSD) -> Interval:
    """Mean and 95 % interval of paired differences whose spread is known from
    them or from more arms.
    """
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
    errors = [statistics.variance(part) / len(part) for part in (values, baseline)]
    if not (square := sum(errors)):
        return PooledSD(0.0, n - 1)
    parts = zip(errors, (values, baseline), strict=True)
    df = square**2 / sum(error**2 / (len(part) - 1) for error, part in parts)
    return PooledSD(math.sqrt(n * square), df)


def cohens_d(mean: float, of: PooledSD) -> float:
    """Cohen's d of a paired difference, mean / deviation; infinite where all seeds say the
    same, 0 where that is 0.
    """
    if of.deviation > 1e-12 * abs(mean):
        return mean / of.deviation
    return math.copysign(math.inf, mean) if mean else 0.0


def p_value(size: float, n: int, df: float) -> float:
    """Two-sided p of a paired difference of n seeds, from its Cohen's d."""
    return float(2 * student.sf(abs(size) * math.sqrt(n), df))


def size_interval(size: float, n: int, df: float) -> tuple[float, float]:
    """95 % interval of Cohen's d: the values under which a t as large, or as small, is seen
    in 2.5 % of studies.

    The t of a study is noncentral t with shift √n d (Cumming and Finch, 2001, Educational and
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
        return size * math.sqrt(chi2.ppf(0.025, df) / df), size * math.sqrt(
            chi2.ppf(0.975, df) / df
        )

    # more is rarer than 2.5 %, and below -2 no t > 0 is as rare
    above = t * math.sqrt(chi2.ppf(0.99, df) / df) + 3

    def shift(share: float) -> float:
        return float(brentq(lambda shift: nct.cdf(t, df, shift) - share, -2, above))

    return shift(0.975) / math.sqrt(n), shift(0.025) / math.sqrt(n)


def power(size: float, n: int, df: float, alpha: float = ALPHA) -> float:
    """Chance that n seeds resolve a true Cohen's d of `size` at a level alpha."""
    critical, shift = student.ppf(1 - alpha / 2, df), abs(size) * math.sqrt(n)
    above, below = nct.sf(critical, df, shift), nct.cdf(-critical, df, shift)
    return float(
        np.nan_to_num(above, nan=1.0) + np.nan_to_num(below, nan=0.0)
    )  # scipy gives up where shift is far above


def more_seeds(size: float, n: int, arms: int = 2, alpha: float = ALPHA) -> int:
    """How many more seeds than n resolve a Cohen's d of `size` in 80 % of studies; MOST + 1
    where MOST are too few.

    The spread is taken to be told by as many arms, and half of it to be shared: now the pool's is
    the larger, now the arm's own. A guess: the size that a few seeds show is itself uncertain, and
    where it was chosen for being large, too large.
    """

    def enough(more: int) -> bool:
        return power(size, n + more, degrees_of_freedom(arms, n + more, shared=0.5), alpha) >= POWER

    return bisect.bisect_left(range(1, MAX_SEEDS + 1), True, key=enough) + 1


def seeds_to_add(size: float, n: int, of: PooledSD, alpha: float = ALPHA) -> tuple[int, int]:
    """The least and the most of `more_seeds` over the 80 % interval of the spread, at the
    effect as it is seen.

    With df degrees of freedom the true square is the seen one times df / χ². A few seeds tell so
    little of it that one number would promise too much.
    """
    factors = (math.sqrt(chi2.ppf(share, of.df) / of.df) for share in (0.9, 0.1))
    fewest, most = (more_seeds(size * factor, n, of.arms, alpha) for factor in factors)
    return fewest, most


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p-values of a family (Holm, 1979, Scandinavian Journal of Statistics
    6), in the order given.
    """
    adjusted, worst = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        worst = max(worst, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = worst
    return adjusted


def pareto_indices(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points that no other is at least as good as in everything and better in
    something; less is better.
    """

    def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and any(
            x < y for x, y in zip(a, b, strict=True)
        )

    return [i for i, p in enumerate(points) if not any(dominates(q, p) for q in points)]


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Volume of what is worse than a point and better than the reference; less is
    better in every dimension.

    Slices the last dimension at the points: within a slice the volume is that of the points below
    it, in one dimension less. Exact; about n^(d-1) steps for d dimensions, d > 1.
    """
    inside = [p for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(p[0] for p in inside)

    inside.sort(key=lambda p: p[-1])
    ends = [*(p[-1] for p in inside[1:]), reference[-1]]

    return sum(
        (end - p[-1]) * hypervolume([q[:-1] for q in inside[: i + 1]], reference[:-1])
        for i, (p, end) in enumerate(zip(inside, ends, strict=True))
        if end > p[-1]
    )
