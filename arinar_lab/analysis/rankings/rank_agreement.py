"""Does the ranking last? The arms of a study ranked in its first regime, and in each other one
(see `study/plan.py`).

    Kendall's τ     (pairs of arms in the same order - pairs in the opposite order) / all pairs
    Spearman's ρ    the correlation of the ranks
    p               how often two orders that have nothing to do with each other agree as well or as
                    badly: over all orders of the arms, or 9,999 random ones

Arms are ranked by their means over seeds. Two arms that are not told apart in one regime swap by
chance at the next, so a pair that changes its order counts as *reversed* only where its
difference is concluded at both: by the tests of every report, with Holm's correction over all
pairs in a regime, and never where two bounds or two references make it. Source: Kendall, Rank
Correlation Methods, 1948.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from scipy.stats import kendalltau, permutation_test, rankdata, spearmanr

from ...metrics import BITS, DISTANCES, GAP, HEADINGS, LEVEL, METRICS
from ..comparison import resolved_pairs
from ..conditions import is_comparable
from ..results import Results

RANKED = (BITS, LEVEL, GAP, *DISTANCES)
Pair = tuple[str, str]


@dataclass(frozen=True)
class Agreement:
    """The ranks of the arms by one metric in two regimes.

    Arguments:
        metric: The metric that ranks in the first.
        other_metric: That of the other: of other data a distance is in other features.
        small, large: The regimes.
        arms: The arms that have the metric in both.
        tau, tau_p: Kendall's τ (b, for ties) and its p; NaN for fewer than three arms.
        rho, rho_p: Spearman's ρ and its p; NaN for fewer than three arms.
        swapped: Pairs in another order.
        reversed: Those of the swapped pairs that are concluded in both regimes.
    """

    metric: str
    other_metric: str
    small: str
    large: str
    arms: tuple[str, ...]
    tau: float
    tau_p: float
    rho: float
    rho_p: float
    swapped: tuple[Pair, ...]
    reversed: tuple[Pair, ...]

    @property
    def change(self) -> str:
        """How many pairs of arms change their order, in words."""
        pairs = math.comb(len(self.arms), 2)
        verb = "changes" if len(self.swapped) == 1 else "change"
        return f"{len(self.swapped)} of {pairs} pairs {verb} order"

    @property
    def heading(self) -> str:
        """The metric, or the two metrics, in words."""
        return " and ".join(dict.fromkeys([HEADINGS[self.metric], HEADINGS[self.other_metric]]))

    def text(self) -> str:
        """The finding, in a line."""
        count = len(self.arms)
        start = f"{self.heading}: {count} arms at {self.small} against {self.large}"
        if count < 3:
            return f"{start}: too few for a correlation of ranks"
        names = ", ".join(map(" and ".join, self.reversed))

        return (
            f"{start}: Kendall's τ = {self.tau:+.2f} (p = {self.tau_p:.2g}), Spearman's ρ ="
            f" {self.rho:+.2f} (p = {self.rho_p:.2g}); {self.change} (concluded in both regimes, by"
            f" Holm over all pairs: {names or 'none'})"
        )


def agreements(results: Results) -> list[Agreement]:
    """One for each metric by which arms are ranked and each regime after the first;
    none without regimes.
    """
    if not results.regimes:
        return []
    agreements = []
    first = results.by_regime[0]
    for metric in dict.fromkeys(_metric_in(first, metric) for metric in RANKED):
        for large in results.regimes[1:]:
            agreements.append(_agreement(results, metric, results.regimes[0], large))
    return list(filter(None, agreements))


def mean_by_arm(results: Results, metric: str, regime: str) -> dict[str, float]:
    """Arm, without its regime → mean over seeds."""
    part = results.at(regime)
    own_metric = _metric_in(part, metric)
    means: dict[str, float] = {}
    for arm in part.arms:
        if is_comparable(part, arm, own_metric):
            summary = arm.summary(own_metric)
            means |= {arm.design: summary.mean} if summary else {}
    return means


def _metric_in(part: Results, metric: str) -> str:
    """The metric of the arms of a regime: a distance in the features that know their images."""
    return part.arms[0].distance if METRICS[metric].classifier else metric


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
    other = _metric_in(results.at(large), metric)
    return Agreement(
        metric, other, small, large, arms, *tau, *rho, tuple(swapped), tuple(reversed_)
    )


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


def _concluded(results: Results, metric: str, regime: str) -> set[frozenset[str]]:
    """The pairs of arms that differ in a regime, by their names without it."""
    part = results.at(regime)
    pairs = set()
    for a, b in resolved_pairs(part, _metric_in(part, metric)):
        pairs.add(frozenset((part.by_name[a].design, part.by_name[b].design)))
    return pairs
