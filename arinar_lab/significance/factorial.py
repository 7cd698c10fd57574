"""Analysis of variance of a full grid of arms: an F-test of each axis and each interaction, and
the mean of each level against that of the baseline's level.

    y = axes × axes × … (+ seed) + error    least squares, by statsmodels
    F       = MS(term) / MS(error), sums of squares of type II: each term given all others that do
              not contain it, so cells may have unequal numbers of runs (Langsrud, 2003, Statistics
              and Computing 13)
    df      of the error, of the variance of a sum of unequal parts (Brown and Forsythe, 1974,
            Biometrics 30): (Σ SS)² / Σ (SS² / df) over cells; all of them where cells vary alike
    seed    is a block where seeds move all cells alike (`arm_tests.py`): then only the seeds that
              all cells have count; else runs are repeats
    level   mean of its cells' means, each cell counting once, against that of the baseline's level
    error   of that difference: from MS(error), or from the runs of those cells alone where that is
            larger, for one wild cell would otherwise make tame ones look sure

A grid asks each axis of all its runs: with four levels of another axis a level has four times the
seeds that one arm has. In grids of 4 × 4 arms of three seeds without any effect 2.5 % call an axis
resolved, 4.0 % where one arm strays three times as far as the others and 7.0 % where it strays
seven times as far; with all df of the error 2.8, 6.8 and 13.5 %.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import f as f_distribution

from .arm_tests import ArmTest, logarithms, seeds_move_all
from .pooled_variance import BySeed, homogeneous_arms
from .statistics import PooledSD, larger_spread

Levels = Mapping[str, Sequence[str]]
"""Arm → its level of each axis."""


@dataclass(frozen=True)
class TermTest:
    """The F-test of an axis, or of an interaction of several.

    Arguments:
        axes: Indices of the axes.
        statistic: F.
        df: Degrees of freedom of the term and of the error.
        p: The chance of an F as large where the term has no effect.
    """

    axes: tuple[int, ...]
    statistic: float
    df: tuple[int, float]
    p: float


@dataclass(frozen=True)
class Factorial:
    """The analysis of one metric over a grid.

    Arguments:
        terms: Axes first, then interactions.
        levels: Axis and level → its mean against that of the baseline's level.
        blocked: Whether seeds are a block.
        uneven: Arms that vary more from seed to seed than the others do.
    """

    terms: tuple[TermTest, ...]
    levels: Mapping[tuple[int, str], ArmTest]
    blocked: bool
    uneven: tuple[str, ...]


def factorial(
    values: BySeed,
    levels: Levels,
    baseline: str,
    *,
    logarithmic: bool = False,
    same_training: bool = False,
) -> Factorial | None:
    """Analyse a grid in which every arm has a run; None where nothing varies, or seeds are too few
    to estimate an error.

    Arguments:
        values: Arm → seed → value.
        levels: Arm → its level of each axis; each combination is one arm.
        baseline: An arm of the grid; its levels are those that others are compared with.
        logarithmic: Whether logarithms are analysed; values that are not above 0 are analysed as
            they are.
        same_training: Whether all arms are samples of the same weights; then seeds are a block.
    """
    logarithmic = logarithmic and min(min(of_arm.values()) for of_arm in values.values()) > 0
    raw_values = values
    if logarithmic:
        values = logarithms(values)

    uneven = {arm: None for arm in values if len(values[arm]) > 1}
    for arm in homogeneous_arms(values, paired=False):
        del uneven[arm]

    common = set.intersection(*map(set, values.values()))
    blocked = same_training or seeds_move_all(values, baseline)
    if blocked and len(common) > 1:
        values = _at_seeds(values, common)
    elif same_training or sum(map(len, values.values())) == len(values):
        return None
    blocked = blocked and len(common) > 1

    terms, mean_square = _terms(values, levels, blocked)
    scale = max(abs(statistics.fmean(of_arm.values())) for of_arm in values.values())
    if not mean_square > (1e-12 * scale) ** 2:
        return None

    df = terms[0].df[1]
    tests = {}
    for axis, base in enumerate(levels[baseline]):
        center = _level_mean(raw_values, levels, axis, base) if logarithmic else None
        for level in dict.fromkeys(of_arm[axis] for of_arm in levels.values()):
            if level != base:
                pair = _Pair(values, levels, axis, level, base)
                tests[axis, level] = pair.test(mean_square, df, blocked, center)
    return Factorial(tuple(terms), tests, blocked, tuple(uneven))


def _at_seeds(values: BySeed, seeds: set[int]) -> dict[str, Mapping[int, float]]:
    """The values of some seeds."""
    chosen: dict[str, Mapping[int, float]] = {}
    for arm, of_arm in values.items():
        chosen[arm] = {seed: value for seed, value in of_arm.items() if seed in seeds}
    return chosen


def _level_mean(values: BySeed, levels: Levels, axis: int, level: str) -> float:
    """The mean of the means of the arms of one level."""
    arms = [arm for arm in values if levels[arm][axis] == level]
    return statistics.fmean(statistics.fmean(values[arm].values()) for arm in arms)


def _terms(values: BySeed, levels: Levels, blocked: bool) -> tuple[list[TermTest], float]:
    """The test of each term, and the mean square of the error."""
    # takes over a second to import, and few studies have two axes
    import pandas as pd
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    axes = [f"axis{i}" for i in range(len(next(iter(levels.values()))))]
    rows = []
    for arm, of_arm in values.items():
        for seed, value in of_arm.items():
            rows.append([value, arm, f"seed {seed}", *levels[arm]])
    runs = pd.DataFrame(rows, columns=["value", "arm", "seed", *axes])

    formula = "value ~ " + " * ".join(f"C({axis}, Sum)" for axis in axes)
    model = ols(formula + (" + C(seed)" if blocked else ""), runs).fit()
    table = anova_lm(model, typ=2)
    cells = (model.resid**2).groupby(runs["arm"])
    error_df = _error_df(model.df_resid, cells.sum().to_numpy(), cells.size().to_numpy())

    terms = []
    for name, row in table.iterrows():
        indices = tuple(i for i, axis in enumerate(axes) if f"C({axis}, Sum)" in name)
        if indices:
            df = (round(row["df"]), error_df)
            p = float(f_distribution.sf(row["F"], *df))
            terms.append(TermTest(indices, float(row["F"]), df, p))
    return terms, float(model.mse_resid)


def _error_df(df: float, squares: np.ndarray, runs: np.ndarray) -> float:
    """The degrees of freedom of a mean square of cells that may vary unequally.

    Arguments:
        df: All degrees of freedom of the error.
        squares: The sum of squares of each cell.
        runs: The number of runs of each cell.
    """
    of_cell = df * (runs - 1) / (runs - 1).sum()
    repeated = runs > 1
    unreliability = (squares[repeated] ** 2 / of_cell[repeated]).sum()
    return float(squares.sum() ** 2 / unreliability) if unreliability > 0 else df


@dataclass(frozen=True)
class _Pair:
    """A level of an axis and the baseline's, with the runs of both."""

    values: BySeed
    levels: Levels
    axis: int
    level: str
    base: str

    def test(self, mean_square: float, df: float, blocked: bool, center: float | None) -> ArmTest:
        """The difference of the two means, as of n pairs, n the smaller number of runs."""
        weights = self._weights()
        mean = 0.0
        share = 0.0  # of the error's variance in that of the difference
        counts = {1: 0, -1: 0}
        for arm, weight in weights.items():
            runs = len(self.values[arm])
            mean += weight * statistics.fmean(self.values[arm].values())
            share += weight**2 / runs
            counts[1 if weight > 0 else -1] += runs

        n = min(counts.values())
        common = PooledSD(math.sqrt(n * mean_square * share), df, len(self.values), paired=blocked)
        own = self._paired_spread(weights, n) if blocked else self._own_spread(weights, n)
        spread = common if own is None else larger_spread(own, common)
        return ArmTest(mean, n, spread, None if blocked else (counts[1], counts[-1]), center)

    def _weights(self) -> dict[str, float]:
        """Arm → its weight in the difference of the two means."""
        weights: dict[str, float] = {}
        for sign, level in ((1, self.level), (-1, self.base)):
            arms = [arm for arm in self.values if self.levels[arm][self.axis] == level]
            weights |= dict.fromkeys(arms, sign / len(arms))
        return weights

    def _own_spread(self, weights: Mapping[str, float], n: int) -> PooledSD | None:
        """The spread by the runs of the two levels alone (Satterthwaite, 1946, Biometrics
        Bulletin 2); None where an arm has a single run.
        """
        square = 0.0
        unreliability = 0.0
        for arm, weight in weights.items():
            runs = list(self.values[arm].values())
            if len(runs) < 2:
                return None
            part = weight**2 * statistics.variance(runs) / len(runs)
            square += part
            unreliability += part**2 / (len(runs) - 1)

        if square == 0:
            return None
        return PooledSD(math.sqrt(n * square), square**2 / unreliability, paired=False)

    def _paired_spread(self, weights: Mapping[str, float], n: int) -> PooledSD:
        """The spread by the difference under each seed."""
        seeds = sorted(next(iter(self.values.values())))
        columns = []
        for arm in weights:
            columns.append(list(map(self.values[arm].__getitem__, seeds)))
        by_seed = np.array(list(weights.values())) @ np.array(columns)
        variance = float(by_seed.var(ddof=1)) / len(seeds)
        return PooledSD(math.sqrt(n * variance), len(seeds) - 1)
