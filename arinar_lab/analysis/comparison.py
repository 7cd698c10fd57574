"""Arms against the baseline: the difference in every metric, paired by seed, and what may
be concluded from it.

    difference      mean over the seeds that both have, with its 95 % t-interval; of arms without a
                    common seed: Welch's
    spread          of all arms that agree on it, or of the difference's own seeds where they stray
                    more: `pooled_variance.py`
    p               two-sided, and Holm's over the arms of one metric; several metrics
                    are several families
    resolved        Holm's p is below 5 %. An interval that excludes zero is not enough where
                    many arms are compared
    concluded       and nothing but the models can make the difference: no bound, no other
                    reference of a distance
    more seeds      that would resolve the effect as it is seen, in 80 % of studies, at 5 % over the
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
_COLUMNS = {column.metric: column for column in COLUMNS}
_NAMED = 8  # arms beyond which they are counted


@dataclass(frozen=True)
class Effect:
    """The effect of one arm on one metric, against the baseline.

    Arguments:
        arm, baseline: their names. metric: its name.
        difference: mean and 95 % interval, paired by seed (not corrected for the number of
            arms); n is of the pairs.
        p: two-sided; adjusted: Holm's, over the arms of that metric. Both 1 where one
            seed resolves nothing.
        spread: of the difference under one seed; None for one seed.
        resolved: whether the adjusted p is below 5 %.
        unresolved: how many arms of that metric are not resolved.
        doubt: why nothing is concluded even where it is resolved, as two bounds may differ by how
            loose they are; else empty.
        caution: how the runs of the two differ otherwise than by design; empty where they do not.
        unpaired: runs of the arm and of the baseline, where they have no seed in common; n is
            the smaller one then.
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
        return _COLUMNS[self.metric]

    @property
    def supported(self) -> bool:
        """Whether one of the two arms is better, as far as can be told."""
        return self.resolved and not self.doubt

    @property
    def seeds(self) -> str:
        """`n = 3`; `no seed in common, n = 2 and 3`."""
        if self.unpaired is None:
            return f"n = {self.difference.n}"
        return "no seed in common, n = {} and {}".format(*self.unpaired)

    @property
    def spread_of(self) -> str:
        """Whose spread it is: `4 arms`, `the pair, above that of 4 arms`,
        `the pair`; empty for one seed.
        """
        if self.spread is None or self.spread.arms == 2:
            return "the pair" if self.spread else ""
        return (
            f"{'the pair, above that of ' if self.spread.shared < 1 else ''}{self.spread.arms} arms"
        )

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
        size, low, high = (
            f"{round(value, 1) + 0:.1f}" for value in (self.size, *self.size_interval)
        )
        return f"{size} [{low}, {high}]"

    @property
    def difference_text(self) -> str:
        """`-0.036 ± 0.041`."""
        digits = self.column.digits
        half = f" ± {self.difference.half:.{digits}f}" if self.difference.n > 1 else ""
        return f"{self.difference.mean:+.{digits}f}{half}"

    @cached_property
    def more_seeds(self) -> tuple[int, int] | None:
        """The least and the most that would resolve it, MOST + 1 for more than MOST; None where it
        is resolved, or has one seed."""
        if self.resolved or self.spread is None:
            return None
        return seeds_to_add(self.size, self.difference.n, self.spread, ALPHA / self.unresolved)

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `not resolved` and what would resolve it."""
        if self.difference.n < 2:
            return "one seed resolves nothing"

        if self.resolved:
            reads = "better" if (self.difference.mean < 0) == bool(self.column.less) else "worse"
            return f"reads {reads}: not concluded, for {self.doubt}" if self.doubt else reads

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
        details = [self.seeds]
        if self.spread:
            p = p_value_text(self.adjusted)
            p = p if p.startswith("<") else f"= {p}"
            details += [f"spread of {self.spread_of}"] if self.spread.arms > 2 else []
            details += [f"df = {self.spread.df:.1f}", f"Holm p {p}"]
            details += [f"d = {self.size_text}"] if math.isfinite(self.size) else []

        pair = f"{self.column.heading}: {self.arm} against {self.baseline}"
        line = f"{pair}: {self.difference_text} ({', '.join(details)}): {self.verdict}"
        return line + (f". Caution: {self.caution}" if self.caution else "")


def p_value_text(p: float) -> str:
    """`< 0.001`, `0.042`, `0.35`."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def _to_add(fewest: int, most: int) -> str:
    """How many more seeds would do, as a range."""
    if fewest > MAX_SEEDS:
        return f"more than {MAX_SEEDS} more seeds would be needed"

    if fewest == most:
        seeds = "one more seed" if most == 1 else f"about {most} more seeds"
    else:
        seeds = (
            f"about {fewest} to "
            f"{most if most <= MAX_SEEDS else f'more than {MAX_SEEDS}'} more seeds"
        )

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
    measured = [column.metric for column in results.columns if column.metric in metrics]
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
    adjusted = dict(zip(ps, holm(list(ps.values())), strict=True))
    unresolved = sum(p >= ALPHA for p in adjusted.values())

    effects = []
    for arm in results.arms:
        if arm.name not in tests:
            continue
        test = tests[arm.name]
        p = adjusted.get(arm.name, 1.0)
        effect = Effect(
            arm.name,
            baseline.name,
            metric,
            test.difference,
            ps.get(arm.name, 1.0),
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
            arms = [arm for arm in part.arms if is_comparable(part, arm, metric)]
            runs[metric] += outliers({arm.name: arm.values(metric) for arm in arms})
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
    """Every other arm of the same data against a baseline: by seed where they share one,
    else by Welch's test.
    """
    of_baseline = baseline.values(metric)
    of_arms = {}
    pairs: dict[str, dict[int, float]] = {}
    for arm in results.arms:
        if arm.name == baseline.name or not same_data(arm, baseline, metric):
            continue
        values = of_arms[arm.name] = arm.values(metric)
        if common := sorted(values.keys() & of_baseline.keys()):
            pairs[arm.name] = {seed: _less(values[seed], of_baseline[seed]) for seed in common}

    spread_of = _spreads(pairs)
    tests = {}
    for name, values in of_arms.items():
        if name in pairs:
            tests[name] = _paired(list(pairs[name].values()), spread_of.get(name))
        elif values and of_baseline:
            tests[name] = _unpaired(list(values.values()), list(of_baseline.values()))
    return tests


def _spreads(pairs: dict[str, dict[int, float]]) -> dict[str, PooledSD]:
    """The spread of each arm's differences; arms that are one model under
    this metric count once.
    """
    first: dict[str, str] = {}
    for arm, pair in pairs.items():
        first[arm] = next((other for other in first if pairs[other] == pair), arm)
    distinct = spreads({arm: pair for arm, pair in pairs.items() if first[arm] == arm})
    return {arm: distinct[first[arm]] for arm in pairs if first[arm] in distinct}


def _paired(pair: list[float], spread: PooledSD | None) -> _Test:
    if spread is None:
        return _Test(interval(pair), None, None)
    size = cohens_d(statistics.fmean(pair), spread)
    return _Test(difference(pair, spread), spread, p_value(size, len(pair), spread.df))


def _unpaired(values: list[float], of_baseline: list[float]) -> _Test:
    mean = statistics.fmean(values) - statistics.fmean(of_baseline)
    counts = (len(values), len(of_baseline))

    n = min(counts)
    if n < 2:
        return _Test(Interval(mean, math.inf, 1), None, None, counts)
    spread = welch(values, of_baseline)

    return _Test(
        interval_around(mean, n, spread),
        spread,
        p_value(cohens_d(mean, spread), n, spread.df),
        counts,
    )


def _less(a: float, b: float) -> float:
    """a - b; 0 where rounding alone sets them apart."""
    return 0.0 if math.isclose(a, b, rel_tol=1e-12) else a - b


def resolved_pairs(results: Results, metric: str) -> set[frozenset[str]]:
    """The pairs of arms that differ, whichever of all they are: by the tests of every report,
    Holm's over all pairs.

    Either arm of a pair may be the baseline of its test, and pools other differences then;
    the larger p counts.
    """
    arms = {arm.name: arm for arm in results.arms}
    ps: dict[frozenset[str], float] = {}
    doubts: dict[frozenset[str], str] = {}
    for baseline in results.arms:
        for name, test in _tests(results, metric, baseline).items():
            if test.p is not None:
                pair = frozenset((name, baseline.name))
                ps[pair] = max(test.p, ps.get(pair, 0.0))
                doubts[pair] = doubt(arms[name], baseline, metric, test.difference.mean)

    adjusted = zip(ps, holm(list(ps.values())), strict=True)
    return {pair for pair, p in adjusted if p < ALPHA and not doubts[pair]}


# In a few words


def summary(effects: Sequence[Effect]) -> list[str]:
    """For each metric, which arms are better and worse than the baseline, and of which
    nothing is resolved.
    """
    lines = []
    for metric in sorted({effect.metric for effect in effects}, key=list(_COLUMNS).index):
        of_metric = [effect for effect in effects if effect.metric == metric]
        doubts = dict.fromkeys(
            effect.doubt for effect in of_metric if effect.resolved and effect.doubt
        )
        keys = [
            "better",
            "worse",
            *(f"not concluded, for {doubt}" for doubt in doubts),
            "not resolved",
        ]

        named: dict[str, list[str]] = {key: [] for key in keys}
        for effect in of_metric:
            settled = effect.verdict if effect.supported else f"not concluded, for {effect.doubt}"
            named[settled if effect.resolved else "not resolved"].append(effect.arm)

        parts = []
        for key, arms in named.items():
            if arms:
                parts.append(
                    f"{key}: {join_names(arms) if len(arms) <= _NAMED else f'{len(arms)} arms'}"
                )
        lines.append(f"{_COLUMNS[metric].heading}, against the baseline: {'; '.join(parts)}.")
    return lines
