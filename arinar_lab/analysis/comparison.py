"""Arms against the baseline: the difference in every metric, paired by seed, and the conclusion.

    difference      mean over the seeds that both have, with its 95 % t-interval; of arms without a
                    common seed: Welch's
    spread          pooled over all arms that pass a homogeneity test, or of the difference's own
                    seeds where that is larger: `pooled_variance.py`
    p               two-sided, and Holm-corrected over the arms of one metric; several metrics
                    are several families
    resolved        Holm's p is below 5 %. An interval that excludes zero is not enough where
                    many arms are compared
    concluded       resolved, and only the models can make the difference: no bound, no other
                    reference of a distance
    more seeds      would resolve the observed effect in 80 % of studies, at 5 % over the
                    arms not resolved yet

Runs of other code, another device or another way of measuring are compared all the same,
and the line says so.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..metrics import BITS, COLUMNS, DISTANCES, LEVEL, RESOLUTION, Column
from .conditions import condition_caution, doubt, is_comparable, same_data
from .outliers import Run, outliers
from .pooled_variance import spreads
from .results import ArmResult, Results
from .statistics import (
    ALPHA,
    MAX_SEEDS,
    Interval,
    PooledSD,
    cohens_d,
    difference,
    holm,
    interval,
    interval_around,
    p_value,
    seeds_to_add,
    size_interval,
    welch,
)
from .text import join_names

CLAIMS = (BITS, LEVEL, RESOLUTION, *DISTANCES)
_NAMED = 8  # arms beyond which they are counted


@dataclass(frozen=True)
class Effect:
    """The effect of one arm on one metric, against the baseline.

    Arguments:
        arm, baseline: Their names.
        metric: The metric's name.
        difference: Mean and 95 % interval, paired by seed, not corrected for the number of
            arms; n counts the pairs.
        p: Two-sided p; 1 where one seed resolves nothing.
        adjusted: Holm's p, over the arms of that metric; 1 where one seed resolves nothing.
        spread: The spread of the difference under one seed; None for one seed.
        resolved: Whether the adjusted p is below 5 %.
        unresolved: Number of arms of that metric that are not resolved.
        doubt: Why a resolved difference would not be concluded, as two bounds may differ by how
            loose they are; else empty.
        caution: How the runs of the two differ otherwise than by design; empty where they do not.
        unpaired: Runs of the arm and of the baseline, where they have no seed in common; n is
            the smaller number then.
    """

    arm: str
    baseline: str
    metric: str
    difference: Interval
    p: float
    adjusted: float
    spread: PooledSD | None
    resolved: bool
    unresolved: int
    doubt: str = ""
    caution: str = ""
    unpaired: tuple[int, int] | None = None

    @property
    def column(self) -> Column:
        """The column of its metric."""
        return COLUMNS[self.metric]

    @property
    def supported(self) -> bool:
        """Whether it is concluded that one of the two arms is better."""
        return self.resolved and not self.doubt

    @property
    def seeds(self) -> str:
        """`n = 3`; `no seed in common, n = 2 and 3`."""
        if self.unpaired is None:
            return f"n = {self.difference.n}"
        return "no seed in common, n = {} and {}".format(*self.unpaired)

    @property
    def spread_of(self) -> str:
        """`4 arms`, `the pair, above that of 4 arms`, or `the pair`; empty for one seed."""
        if self.spread is None:
            return ""
        if self.spread.arms == 2:
            return "the pair"
        arms = f"{self.spread.arms} arms"
        return f"the pair, above that of {arms}" if self.spread.shared < 1 else arms

    @property
    def size(self) -> float:
        """Cohen's d of the paired differences; nan for one seed."""
        return cohens_d(self.difference.mean, self.spread) if self.spread else math.nan

    @cached_property
    def size_interval(self) -> tuple[float, float]:
        """Its 95 % interval."""
        if self.spread is None:
            return math.nan, math.nan
        return size_interval(self.size, self.difference.n, self.spread.df)

    @property
    def size_text(self) -> str:
        """`-1.2 [-2.6, 0.2]`: Cohen's d with its 95 % interval."""
        low, high = self.size_interval
        return f"{_one_digit(self.size)} [{_one_digit(low)}, {_one_digit(high)}]"

    @property
    def difference_text(self) -> str:
        """`-0.036 ± 0.041`."""
        digits = self.column.digits
        half = f" ± {self.difference.half:.{digits}f}" if self.difference.n > 1 else ""
        return f"{self.difference.mean:+.{digits}f}{half}"

    @cached_property
    def more_seeds(self) -> tuple[int, int] | None:
        """The least and the most seeds to add that would resolve it, MAX_SEEDS + 1 for more than
        MAX_SEEDS; None where it is resolved, or has one seed.
        """
        if self.resolved or self.spread is None:
            return None
        return seeds_to_add(self.size, self.difference.n, self.spread, ALPHA / self.unresolved)

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `not resolved` and the seeds that would resolve it."""
        if self.difference.n < 2:
            return "one seed resolves nothing"

        if self.resolved:
            is_better = (self.difference.mean < 0) == bool(self.column.less)
            verdict = "better" if is_better else "worse"
            return f"reads {verdict}: not concluded, for {self.doubt}" if self.doubt else verdict

        if self.size == 0 and self.difference.half == 0:
            return "the same in every seed"
        if self.doubt:
            return f"not resolved, nor could it be concluded, for {self.doubt}"

        return f"not resolved; {_to_add(*self.more_seeds)}" if self.more_seeds else "not resolved"

    @property
    def line(self) -> str:
        """`bits/dim: a against b: -0.036 ± 0.041 (n = 3, …): not resolved; about 12 more
        seeds would resolve it`.
        """
        pair = f"{self.column.heading}: {self.arm} against {self.baseline}"
        details = ", ".join([self.seeds, *self._test_details()])
        caution = f". Caution: {self.caution}" if self.caution else ""
        return f"{pair}: {self.difference_text} ({details}): {self.verdict}{caution}"

    def _test_details(self) -> list[str]:
        """`spread of 4 arms`, `df = 4.0`, `Holm p = 0.35`, `d = 0.9 [-0.4, 2.2]`."""
        if self.spread is None:
            return []

        details = []
        if self.spread.arms > 2:
            details.append(f"spread of {self.spread_of}")
        p = p_value_text(self.adjusted)
        details.append(f"df = {self.spread.df:.1f}")
        details.append(f"Holm p {p}" if p.startswith("<") else f"Holm p = {p}")
        if math.isfinite(self.size):
            details.append(f"d = {self.size_text}")
        return details


def p_value_text(p: float) -> str:
    """`< 0.001`, `0.042`, `0.35`."""
    if p < 0.001:
        return "< 0.001"
    return f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def _one_digit(value: float) -> str:
    """One digit behind the point, and no `-0.0`."""
    return f"{round(value, 1) + 0:.1f}"


def _to_add(fewest: int, most: int) -> str:
    """The number of seeds to add, as a range."""
    if fewest > MAX_SEEDS:
        return f"more than {MAX_SEEDS} more seeds would be needed"

    if fewest == most:
        seeds = "one more seed" if most == 1 else f"about {most} more seeds"
    elif most <= MAX_SEEDS:
        seeds = f"about {fewest} to {most} more seeds"
    else:
        seeds = f"about {fewest} to more than {MAX_SEEDS} more seeds"

    return f"{seeds} would resolve an effect of this size"


def compare_arms(
    results: Results,
    metrics: Sequence[str] = CLAIMS,
    outlying: Mapping[str, Sequence[Run]] | None = None,
) -> list[Effect]:
    """Every arm against the baseline (of its budget), for the metrics that were measured, in
    the order of the table.

    outlying: the runs that lie far from their arm's other seeds by metric; computed if it is None.
    """
    measured = list(filter(metrics.__contains__, results.columns_by_metric))
    outlying = outlying_runs(results, measured) if outlying is None else outlying
    effects = []
    for part in results.by_budget:
        for metric in measured:
            effects += _effects(part, metric, outlying[metric])
    return effects


def _effects(results: Results, metric: str, outlying: Sequence[Run]) -> list[Effect]:
    baseline = results.baseline_arm
    tests = _tests(results, metric, baseline)
    ps = {name: test.p for name, test in tests.items() if test.p is not None}
    adjusted = _adjusted(ps)
    unresolved = sum(p >= ALPHA for p in adjusted.values())

    effects = []
    for name, test in tests.items():
        arm = results.by_name[name]
        p = adjusted.get(name, 1.0)
        effect = Effect(
            name,
            baseline.name,
            metric,
            test.difference,
            ps.get(name, 1.0),
            p,
            test.spread,
            p < ALPHA,
            unresolved,
            doubt(arm, baseline, metric, test.difference.mean),
            condition_caution(arm, baseline, metric, outlying),
            test.unpaired,
        )
        effects.append(effect)
    return effects


def outlying_runs(results: Results, metrics: Sequence[str] = CLAIMS) -> dict[str, list[Run]]:
    """Metric → arm and seed of the runs that lie far from the other seeds of their
    arm (`outliers.py`).
    """
    runs: dict[str, list[Run]] = {}
    for metric in metrics:
        runs[metric] = []
        for part in results.by_budget:
            values = {}
            for arm in part.arms:
                if is_comparable(part, arm, metric):
                    values[arm.name] = arm.values(metric)
            runs[metric] += outliers(values)
    return runs


# Tests


@dataclass(frozen=True)
class _Test:
    """A difference before the correction for their number; p is None where there is one seed."""

    difference: Interval
    spread: PooledSD | None
    p: float | None
    unpaired: tuple[int, int] | None = None


def _tests(results: Results, metric: str, baseline: ArmResult) -> dict[str, _Test]:
    """Every other arm of the same data against a baseline, in the order of the arms: by seed
    where they share one, else by Welch's test.
    """
    baseline_values = baseline.values(metric)
    values = {}
    pairs: dict[str, dict[int, float]] = {}
    for arm in results.arms:
        if arm.name == baseline.name or not same_data(arm, baseline, metric):
            continue
        values[arm.name] = arm.values(metric)
        if pair := _paired_differences(values[arm.name], baseline_values):
            pairs[arm.name] = pair

    spread_of = _spreads(pairs)
    tests = {}
    for name, of_arm in values.items():
        if name in pairs:
            tests[name] = _paired(list(pairs[name].values()), spread_of.get(name))
        elif of_arm and baseline_values:
            tests[name] = _unpaired(list(of_arm.values()), list(baseline_values.values()))
    return tests


def _paired_differences(
    values: Mapping[int, float], baseline_values: Mapping[int, float]
) -> dict[int, float]:
    """Seed → value - baseline's; 0 where rounding alone sets them apart."""
    differences = {}
    for seed in sorted(values.keys() & baseline_values.keys()):
        a = values[seed]
        b = baseline_values[seed]
        differences[seed] = 0.0 if math.isclose(a, b, rel_tol=1e-12) else a - b
    return differences


def _adjusted(ps: Mapping[Any, float]) -> dict[Any, float]:
    """The same keys → Holm's p."""
    return dict(zip(ps, holm(list(ps.values())), strict=True))


def _spreads(pairs: dict[str, dict[int, float]]) -> dict[str, PooledSD]:
    """The spread of each arm's differences; arms that are one model under
    this metric count once.
    """
    distinct: dict[str, dict[int, float]] = {}
    twin_of: dict[str, str] = {}
    for arm, pair in pairs.items():
        twin_of[arm] = next((name for name in distinct if distinct[name] == pair), arm)
        distinct.setdefault(twin_of[arm], pair)

    spread_of = spreads(distinct)
    return {arm: spread_of[twin] for arm, twin in twin_of.items() if twin in spread_of}


def _paired(pair: list[float], spread: PooledSD | None) -> _Test:
    if spread is None:
        return _Test(interval(pair), None, None)
    size = cohens_d(statistics.fmean(pair), spread)
    return _Test(difference(pair, spread), spread, p_value(size, len(pair), spread.df))


def _unpaired(values: list[float], baseline_values: list[float]) -> _Test:
    mean = statistics.fmean(values) - statistics.fmean(baseline_values)
    counts = (len(values), len(baseline_values))
    n = min(counts)
    if n < 2:
        return _Test(Interval(mean, math.inf, 1), None, None, counts)

    spread = welch(values, baseline_values)
    p = p_value(cohens_d(mean, spread), n, spread.df)
    return _Test(interval_around(mean, n, spread), spread, p, counts)


def resolved_pairs(results: Results, metric: str) -> set[frozenset[str]]:
    """The pairs among all arms that are concluded to differ, Holm-corrected over all pairs.

    Either arm of a pair may be the baseline of its test, and pools other differences then;
    the larger p counts.
    """
    ps: dict[frozenset[str], float] = {}
    doubts: dict[frozenset[str], str] = {}
    for baseline in results.arms:
        for name, test in _tests(results, metric, baseline).items():
            if test.p is not None:
                pair = frozenset((name, baseline.name))
                arm = results.by_name[name]
                ps[pair] = max(test.p, ps.get(pair, 0.0))
                doubts[pair] = doubt(arm, baseline, metric, test.difference.mean)

    return {pair for pair, p in _adjusted(ps).items() if p < ALPHA and not doubts[pair]}


# In a few words


def summary(effects: Sequence[Effect]) -> list[str]:
    """For each metric, the arms that are better and worse than the baseline, and those that are
    not resolved.
    """
    by_metric: dict[str, list[Effect]] = {}
    for effect in effects:
        by_metric.setdefault(effect.metric, []).append(effect)

    lines = []
    for metric in sorted(by_metric, key=list(COLUMNS).index):
        arms: dict[str, list[str]] = {"better": [], "worse": []}
        unresolved: list[str] = []
        for effect in by_metric[metric]:
            names = arms.setdefault(_conclusion(effect), []) if effect.resolved else unresolved
            names.append(effect.arm)
        arms["not resolved"] = unresolved
        parts = [f"{key}: {_counted(names)}" for key, names in arms.items() if names]
        lines.append(f"{COLUMNS[metric].heading}, against the baseline: {'; '.join(parts)}.")
    return lines


def _conclusion(effect: Effect) -> str:
    return effect.verdict if effect.supported else f"not concluded, for {effect.doubt}"


def _counted(names: list[str]) -> str:
    """The names, or their number where they are many."""
    return join_names(names) if len(names) <= _NAMED else f"{len(names)} arms"
