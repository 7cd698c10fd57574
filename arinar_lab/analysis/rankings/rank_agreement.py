"""Does the ranking last? The arms of a study ranked at its first budget, and at each other one
(see `study/plan.py`).

    Kendall's τ     (pairs of arms in the same order - pairs in the opposite order) / all pairs
    Spearman's ρ    the correlation of the ranks
    p               how often two orders that have nothing to do with each other agree as well or as
                    badly: over all orders of the arms, or 9,999 random ones

Arms are ranked by their means over seeds. Two arms that are not told apart at one budget swap by
chance at the next, so a pair that changes its order counts as *reversed* only where its
difference is concluded at both: by the tests of every report, with Holm's correction over all
pairs at a budget, and never where two bounds or two references make it. Source: Kendall, Rank
Correlation Methods, 1948.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from scipy.stats import kendalltau, permutation_test, rankdata, spearmanr

from ...metrics import BITS, DISTANCES, GAP, HEADINGS, LEVEL
from ..comparison import resolved_pairs
from ..conditions import is_comparable
from ..results import Results

RANKED = (BITS, LEVEL, GAP, *DISTANCES)
Pair = tuple[str, str]


@dataclass(frozen=True)
class Agreement:
    """The ranks of the arms by one metric at two budgets.

    Arguments:
        metric: The metric that ranks.
        small, large: The budgets.
        arms: The arms that have the metric at both.
        tau, tau_p: Kendall's τ (b, for ties) and its p; NaN for fewer than three arms.
        rho, rho_p: Spearman's ρ and its p; NaN for fewer than three arms.
        swapped: Pairs in another order.
        reversed: Those of the swapped pairs that are concluded at both budgets.
    """

    metric: str
    small: str
    large: str
    arms: tuple[str, ...]
    tau: float
    tau_p: float
    rho: float
    rho_p: float
    swapped: tuple[Pair, ...]
    reversed: tuple[Pair, ...]

    def text(self) -> str:
        """The finding, in a line."""
        count = len(self.arms)
        pairs = count * (count - 1) // 2
        start = f"{HEADINGS[self.metric]}: {count} arms at {self.small} against {self.large}"
        if count < 3:
            return f"{start}: too few for a correlation of ranks"
        names = ", ".join(map(" and ".join, self.reversed))
        verb = "changes" if len(self.swapped) == 1 else "change"
        change = f"{len(self.swapped)} of {pairs} pairs {verb} order"

        return (
            f"{start}: Kendall's τ = {self.tau:+.2f} (p = {self.tau_p:.2g}), Spearman's ρ ="
            f" {self.rho:+.2f} (p = {self.rho_p:.2g}); {change} (concluded at both budgets, by"
            f" Holm over all pairs: {names or 'none'})"
        )


def agreements(results: Results) -> list[Agreement]:
    """One for each metric by which arms are ranked and each budget after the first;
    none without budgets.
    """
    agreements = []
    for metric in RANKED:
        for large in results.budgets[1:]:
            agreements.append(_agreement(results, metric, results.budgets[0], large))
    return list(filter(None, agreements))


def mean_by_arm(results: Results, metric: str, budget: str) -> dict[str, float]:
    """Arm, without its budget → mean over seeds."""
    means: dict[str, float] = {}
    for arm in results.arms:
        if arm.budget == budget and is_comparable(results, arm, metric):
            summary = arm.summary(metric)
            means |= {arm.design: summary.mean} if summary else {}
    return means


def _agreement(results: Results, metric: str, small: str, large: str) -> Agreement | None:
    before = mean_by_arm(results, metric, small)
    after = mean_by_arm(results, metric, large)
    arms = tuple(filter(after.__contains__, before))
    if len(arms) < 2:
        return None

    swapped = []
    for a, b in itertools.combinations(arms, 2):
        if (before[a] - before[b]) * (after[a] - after[b]) < 0:
            swapped.append((a, b))
    reversed_: list[Pair] = []
    if swapped:
        concluded = _concluded(results, metric, small) & _concluded(results, metric, large)
        reversed_ = [pair for pair in swapped if frozenset(pair) in concluded]

    tau = rho = (math.nan, math.nan)
    if len(arms) > 2:
        tau, rho = _correlations([before[arm] for arm in arms], [after[arm] for arm in arms])
    return Agreement(metric, small, large, arms, *tau, *rho, tuple(swapped), tuple(reversed_))


def _correlations(
    x: list[float], y: list[float]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Kendall's τ and Spearman's ρ, each with its p."""
    tau = kendalltau(x, y)
    rho = spearmanr(x, y).statistic
    ranks = rankdata(y) - (len(y) + 1) / 2

    def covariance(a: Any, axis: int) -> Any:
        # ρ but for a factor that no order changes
        return (rankdata(a, axis=axis) * ranks).sum(axis)

    permuted = permutation_test(
        (x,), covariance, permutation_type="pairings", vectorized=True, rng=0
    )
    return (float(tau.statistic), float(tau.pvalue)), (float(rho), float(permuted.pvalue))


def _concluded(results: Results, metric: str, budget: str) -> set[frozenset[str]]:
    """The pairs of arms that differ at a budget, by their names without it."""
    part = results.at(budget)
    pairs = set()
    for a, b in resolved_pairs(part, metric):
        pairs.add(frozenset((part.by_name[a].design, part.by_name[b].design)))
    return pairs
