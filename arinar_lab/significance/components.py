"""Variance components: how much of the spread of runs comes from each source of randomness.

    y       = mean + Σ effect of each source + Σ interactions    every level of a source with every
              level of the others, one value each; all effects are random
    E MS(S) = Σ σ²(T) · Π levels of the sources outside T, over all T that contain S
    σ²(S)   = Σ ±MS(T) / Π levels of the sources outside S, over all T that contain S, + where T has
              an even number of further sources (analysis of variance, the method of moments)
    interval  modified large samples of sums and differences of mean squares (Ting, Burdick,
              Graybill, Jeyaratnam and Lu, 1990, J. Stat. Comput. Simul. 35; Burdick and Graybill,
              1992, Confidence Intervals on Variance Components). Of one mean square it is exact, of
              a difference of two its lower end is zero just where F is not significant
    total     Σ σ², the same way

In 1,000 simulated designs of each of 3, 4 and 8 levels of three sources the intervals contain the
true variance in 93 to 97 % where sources vary, in up to 99 % where they do not. Satterthwaite's
interval (1946, Biometrics Bulletin 2) of the total holds 87.5 to 92 % where one source prevails.

The interaction of all sources holds whatever no source explains, too. An estimate below zero is
kept, for a zero in its place would be biased; the ends of an interval are at least zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
from scipy.stats import chi2
from scipy.stats import f as f_distribution

from .statistics import ALPHA


@dataclass(frozen=True)
class VarianceComponent:
    """A variance of a source, of an interaction, or of all together.

    Arguments:
        sources: The sources; several are an interaction.
        variance: Its estimate, in squared units of the values; may be below zero.
        low, high: Its 95 % interval.
    """

    sources: tuple[str, ...]
    variance: float
    low: float
    high: float

    @property
    def deviations(self) -> tuple[float, float, float]:
        """Standard deviation and the ends of its interval; 0 for a variance below zero."""
        return math.sqrt(max(0.0, self.variance)), math.sqrt(self.low), math.sqrt(self.high)


@dataclass(frozen=True)
class Components:
    """The components of a crossed design.

    Arguments:
        mean: The mean of all values.
        parts: Sources first, then interactions.
        total: The variance of a value when every source is drawn anew.
    """

    mean: float
    parts: tuple[VarianceComponent, ...]
    total: VarianceComponent

    @property
    def variation(self) -> tuple[float, float, float]:
        """Coefficient of variation, total standard deviation over |mean|, and its interval; NaN
        where the mean is zero.
        """
        scale = abs(self.mean) or math.nan
        deviation, low, high = self.total.deviations
        return deviation / scale, low / scale, high / scale


def variance_components(values: np.ndarray, sources: Sequence[str]) -> Components:
    """The components of a fully crossed design.

    Arguments:
        values: One value for each combination of levels; an axis for each source, in order.
        sources: The name of each source.

    Raises:
        ValueError: if a source has fewer than two levels, or a value is not finite.
    """
    if values.ndim != len(sources) or min(values.shape, default=0) < 2:
        raise ValueError(
            f"sources: {len(sources)} of them with {list(values.shape)} levels; each needs two"
        )
    if not np.isfinite(values).all():
        raise ValueError("values: not all of them are finite numbers")

    squares, df = _mean_squares(values)
    terms = list(squares)
    parts = []
    total = dict.fromkeys(terms, 0.0)
    for term in terms:
        outside = math.prod(n for i, n in enumerate(values.shape) if i not in term)
        weights = {}
        for other in terms:
            if set(term) <= set(other):
                weights[other] = (-1) ** (len(other) - len(term)) / outside
                total[other] += weights[other]

        weighted = [(weight, squares[other], df[other]) for other, weight in weights.items()]
        names = tuple(sources[i] for i in term)
        variance = sum(weight * square for weight, square, _ in weighted)
        parts.append(VarianceComponent(names, variance, *combination_interval(weighted)))

    whole = [(weight, squares[term], df[term]) for term, weight in total.items()]
    variance = sum(weight * square for weight, square, _ in whole)
    together = VarianceComponent(tuple(sources), variance, *combination_interval(whole))
    return Components(float(values.mean()), tuple(parts), together)


Weighted = tuple[float, float, int]
"""Weight, mean square and degrees of freedom."""


def _mean_squares(
    values: np.ndarray,
) -> tuple[dict[tuple[int, ...], float], dict[tuple[int, ...], int]]:
    """Mean square and degrees of freedom of each source and interaction, by its axes."""
    axes = range(values.ndim)
    squares = {}
    df = {}
    for size in range(1, values.ndim + 1):
        for term in combinations(axes, size):
            effect = values
            for axis in axes:
                mean = effect.mean(axis, keepdims=True)
                effect = effect - mean if axis in term else mean
            degrees = math.prod(values.shape[axis] - 1 for axis in term)
            repeats = values.size // effect.size
            squares[term] = float(repeats * (effect**2).sum() / degrees)
            df[term] = degrees
    return squares, df


def combination_interval(
    weighted: Sequence[Weighted], alpha: float = ALPHA / 2
) -> tuple[float, float]:
    """The interval of Σ weight · mean square by modified large samples; its ends are at least 0.

    Arguments:
        weighted: Weight (of either sign), mean square and degrees of freedom of each.
        alpha: The level of each end.
    """
    added = [(weight * square, df) for weight, square, df in weighted if weight > 0]
    taken = [(-weight * square, df) for weight, square, df in weighted if weight < 0]
    estimate = sum(part for part, _ in added) - sum(part for part, _ in taken)

    low = estimate - math.sqrt(max(0.0, _width(added, taken, alpha, below=True)))
    high = estimate + math.sqrt(max(0.0, _width(taken, added, alpha, below=False)))
    return max(0.0, low), max(0.0, high)


Parts = Sequence[tuple[float, int]]
"""Weighted mean squares with their degrees of freedom."""


def _width(pulled: Parts, pushed: Parts, alpha: float, below: bool) -> float:
    """The squared distance of one end: `pulled` are large there by chance, `pushed` small."""
    width = 0.0
    for part, df in pulled:
        width += (_above(df, alpha) * part) ** 2
    for part, df in pushed:
        width += (_below(df, alpha) * part) ** 2

    for part, df in pulled:
        for other, other_df in pushed:
            if below:
                ratio = _f_quantile(1 - alpha, df, other_df)
                own, its = _above(df, alpha), _below(other_df, alpha)
            else:
                ratio = _f_quantile(alpha, other_df, df)
                own, its = _below(other_df, alpha), _above(df, alpha)
            cross = ((ratio - 1) ** 2 - (own * ratio) ** 2 - its**2) / ratio
            width += cross * part * other

    for (part, df), (other, other_df) in combinations(pulled, 2):
        both = (_above(df + other_df, alpha) * (df + other_df)) ** 2 / (df * other_df)
        own = _above(df, alpha) ** 2 * df / other_df
        its = _above(other_df, alpha) ** 2 * other_df / df
        width += (both - own - its) / (len(pulled) - 1) * part * other
    return width


@cache
def _f_quantile(share: float, df: int, other_df: int) -> float:
    return float(f_distribution.ppf(share, df, other_df))


@cache
def _above(df: int, alpha: float) -> float:
    """1 - 1/F(alpha; df, ∞): the share that is taken from a mean square that is large by chance."""
    return 1 - df / float(chi2.isf(alpha, df))


@cache
def _below(df: int, alpha: float) -> float:
    """1/F(1 - alpha; df, ∞) - 1: the share that is added to one that is small by chance."""
    return df / float(chi2.ppf(alpha, df)) - 1


def redraw_ratio(trainings: Sequence[np.ndarray], redrawn: float) -> float:
    """How much farther a score moves when a model is trained anew than when samples are drawn anew.

    SD over trainings (root mean square over redraws) / SD over redraws (root mean square over
    trainings), as in The FID Lottery (arXiv 2606.20536), which has 3.2 for FID on ImageNet.

    Arguments:
        trainings: For each redraw the scores of the trainings, an axis for each of their sources.
        redrawn: The variance of a score over redraws of one training's samples.

    Returns:
        Infinite where redraws move nothing, NaN where trainings do not either.
    """
    variances = []
    for scores in trainings:
        names = list(map(str, range(scores.ndim)))
        variances.append(max(0.0, variance_components(scores, names).total.variance))
    retrained = sum(variances) / len(variances)
    if redrawn == 0:
        return math.inf if retrained > 0 else math.nan
    return math.sqrt(retrained / redrawn)
