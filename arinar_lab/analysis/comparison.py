"""Arms against the baseline: the difference in every metric, and one of four answers.

    test            of means, or seed by seed, in logarithms for distances:
                    `significance/arm_tests.py`
    p               two-sided, and Holm-corrected over the arms of one metric, or, where a study
                    asks for it, of all metrics of which a difference matters
    looks           of a study that grows: p is corrected for them, too (`significance/looks.py`)
    interval        of the test: it excludes zero exactly where p is below 5 % after correction
    equivalent      both one-sided tests find the difference within what matters, at 5 % after
                    the same correction
    better, worse   resolved, and the difference may be larger than what matters
    unresolved      all else
    concluded       only the models can make the difference: no bound, no other reference
                    of a distance
    more seeds      would resolve the observed effect in 80 % of studies, at 5 % over the
                    arms not resolved yet

Runs of other code, another device or another way of measuring are compared all the same,
and the line says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ..metrics import BITS, COLUMNS, DISTANCES, LEVEL, RESOLUTION, Column
from ..output.names import join_names
from ..significance.arm_tests import ArmTest, against_baseline
from ..significance.looks import level_at
from ..significance.outliers import Run, outliers
from ..significance.statistics import (
    ALPHA,
    MAX_SEEDS,
    PooledSD,
    cohens_d,
    holm,
    holm_factors,
    seeds_to_add,
    size_interval,
)
from .conditions import condition_caution, doubt, is_comparable, same_data
from .results import ArmResult, Results

CLAIMS = (BITS, LEVEL, RESOLUTION, *DISTANCES)
Answer = Literal["better", "worse", "equivalent", "unresolved"]
MARKS: dict[Answer, str] = {"better": "▲", "worse": "▼", "equivalent": "≈", "unresolved": "?"}
_NAMED = 8  # arms beyond which they are counted


@dataclass(frozen=True)
class Effect:
    """The effect of one arm on one metric, against the baseline.

    Arguments:
        arm, baseline: Their names.
        metric: The metric's name.
        test: The difference on the scale of its test.
        interval: Ends of the interval of the difference, in the metric's unit, corrected as
            `adjusted` is.
        adjusted: p after the corrections for arms and for looks; 1 where one seed resolves nothing.
        margin: The difference that matters; None where none is stated.
        equivalence: p of the difference being within the margin, after the same corrections.
        unresolved: Number of comparisons in its family of tests that are not resolved.
        doubt: Why a resolved difference would not be concluded, as two bounds may differ by how
            loose they are; else empty.
        caution: How the runs of the two differ otherwise than by design; empty where they do not.
    """

    arm: str
    baseline: str
    metric: str
    test: ArmTest
    interval: tuple[float, float]
    adjusted: float
    margin: float | None
    equivalence: float
    unresolved: int
    doubt: str = ""
    caution: str = ""

    @property
    def column(self) -> Column:
        """The column of its metric."""
        return COLUMNS[self.metric]

    @property
    def n(self) -> int:
        """The number of pairs of seeds, or of runs of the arm with fewer."""
        return self.test.n

    @property
    def p(self) -> float:
        """Two-sided p without correction; 1 where one seed resolves nothing."""
        return 1.0 if self.test.p is None else self.test.p

    @property
    def spread(self) -> PooledSD | None:
        """The spread of the difference under one seed; None for one seed."""
        return self.test.spread

    @property
    def difference(self) -> float:
        """The difference in the metric's unit."""
        return self.test.in_unit(self.test.mean)

    @property
    def resolved(self) -> bool:
        """Whether the adjusted p is below 5 %."""
        return self.adjusted < ALPHA

    @property
    def answer(self) -> Answer:
        """What the runs say of the arm in this metric."""
        if self.margin is not None and self.equivalence < ALPHA and not self.doubt:
            return "equivalent"
        if not self.resolved or self.doubt:
            return "unresolved"
        return "better" if (self.difference < 0) == bool(self.column.less) else "worse"

    @property
    def mark(self) -> str:
        """▲ better, ▼ worse, ≈ equivalent, ? unresolved."""
        return MARKS[self.answer]

    @property
    def supported(self) -> bool:
        """Whether it is concluded that one of the two arms is better."""
        return self.answer in ("better", "worse")

    @property
    def seeds(self) -> str:
        """`n = 3`; `unpaired, n = 2 and 3`."""
        if self.test.counts is None:
            return f"paired, n = {self.n}"
        count, baseline_count = self.test.counts
        return f"n = {count}" if count == baseline_count else f"n = {count} and {baseline_count}"

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
        """Cohen's d of the difference; nan for one seed."""
        return cohens_d(self.test.mean, self.spread) if self.spread else math.nan

    @cached_property
    def size_interval(self) -> tuple[float, float]:
        """Its 95 % interval."""
        if self.spread is None:
            return math.nan, math.nan
        return size_interval(self.size, self.n, self.spread.df)

    @property
    def size_text(self) -> str:
        """`-1.2 [-2.6, 0.2]`: Cohen's d with its 95 % interval."""
        low, high = self.size_interval
        return f"{_one_digit(self.size)} [{_one_digit(low)}, {_one_digit(high)}]"

    @property
    def half(self) -> float:
        """Half the width of the interval."""
        low, high = self.interval
        return (high - low) / 2

    @property
    def difference_text(self) -> str:
        """`-0.036 ± 0.041`; `-0.42 [-0.71, -0.10]` where the interval is not symmetric."""
        digits = self.column.digits
        text = f"{self.difference:+.{digits}f}"
        low, high = self.interval
        if not math.isfinite(self.half):
            return text
        if self.test.center is None:
            return f"{text} ± {self.half:.{digits}f}"
        return f"{text} [{low:+.{digits}f}, {high:+.{digits}f}]"

    @cached_property
    def more_seeds(self) -> tuple[int, int] | None:
        """The least and the most seeds to add that would resolve it, MAX_SEEDS + 1 for more than
        MAX_SEEDS; None where it is resolved, or has one seed.
        """
        if self.resolved or self.spread is None:
            return None
        return seeds_to_add(self.size, self.n, self.spread, ALPHA / self.unresolved)

    @property
    def verdict(self) -> str:
        """The answer in words; of an unresolved one the seeds that would resolve it."""
        if self.n < 2:
            return "one seed resolves nothing"
        if self.size == 0 and self.test.error == 0:
            return "the same in every seed"
        if self.answer == "equivalent":
            return f"equivalent (within ±{self.margin:g})"
        if self.supported:
            return self.answer

        if self.resolved:
            is_better = (self.difference < 0) == bool(self.column.less)
            return f"reads {'better' if is_better else 'worse'}: not concluded, for {self.doubt}"
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
        """`spread of 4 arms`, `df = 4.0`, `p = 0.35 adjusted`, `d = 0.9 [-0.4, 2.2]`."""
        if self.spread is None:
            return []

        details = []
        if self.spread.arms > 2:
            details.append(f"spread of {self.spread_of}")
        p = p_value_text(self.adjusted)
        details.append(f"df = {self.spread.df:.1f}")
        details.append(f"adjusted p {p}" if p.startswith("<") else f"adjusted p = {p}")
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
    """Every arm against the baseline (of its regime), for the metrics that were measured, in
    the order of the table.

    outlying: the runs that lie far from their arm's other seeds by metric; computed if it is None.
    """
    measured = list(filter(metrics.__contains__, results.columns_by_metric))
    outlying = outlying_runs(results, measured) if outlying is None else outlying
    effects = []
    for part in results.by_regime:
        of_part: list[Effect] = []
        for family in _families(results, measured):
            of_part += _effects(part, family, outlying)
        effects += sorted(of_part, key=lambda effect: measured.index(effect.metric))
    return effects


def _families(results: Results, metrics: Sequence[str]) -> list[list[str]]:
    """The metrics over whose tests p is corrected together."""
    if results.family == "metric":
        return [[metric] for metric in metrics]
    joint = [metric for metric in metrics if metric in results.matters]
    return [joint, *([metric] for metric in metrics if metric not in joint)]


def _effects(
    results: Results, family: Sequence[str], outlying: Mapping[str, Sequence[Run]]
) -> list[Effect]:
    """Every arm in every metric of a family."""
    baseline = results.baseline_arm
    tests: dict[tuple[str, str], ArmTest] = {}
    for metric in family:
        for name, test in _tests(results, metric, baseline).items():
            tests[metric, name] = test

    ps = {key: test.p for key, test in tests.items() if test.p is not None}
    equivalences = {}
    for metric, name in ps:
        if (margin := results.matters.get(metric)) is not None:
            equivalences[metric, name] = tests[metric, name].equivalence(margin)

    looking = look_factor(results, len(ps))
    factors = {}
    for key, factor in zip(ps, holm_factors(list(ps.values())), strict=True):
        factors[key] = factor * looking
    unresolved = sum(factors[key] * p >= ALPHA for key, p in ps.items())
    equivalent = _adjusted(equivalences)

    effects = []
    for key, test in tests.items():
        metric, name = key
        arm = results.by_name[name]
        factor = factors.get(key, 1.0)
        effect = Effect(
            name,
            baseline.name,
            metric,
            test,
            test.bounds(ALPHA / factor),
            min(1.0, factor * ps.get(key, 1.0)),
            results.matters.get(metric),
            min(1.0, looking * equivalent.get(key, 1.0)),
            unresolved,
            doubt(arm, baseline, metric, test.mean),
            condition_caution(arm, baseline, metric, outlying[metric]),
        )
        effects.append(effect)
    return effects


def look_factor(results: Results, arms: int) -> float:
    """By how much p is multiplied for the looks at a growing study; 1 for one look."""
    if not results.most_seeds or not arms:
        return 1.0
    alpha = ALPHA / arms
    return alpha / level_at(results.looks, results.most_seeds, alpha)


def outlying_runs(results: Results, metrics: Sequence[str] = CLAIMS) -> dict[str, list[Run]]:
    """Metric → arm and seed of the runs that lie far from the other seeds of their
    arm (`significance/outliers.py`).
    """
    runs: dict[str, list[Run]] = {}
    for metric in metrics:
        runs[metric] = []
        for part in results.by_regime:
            values = {}
            for arm in part.arms:
                if is_comparable(part, arm, metric):
                    values[arm.name] = arm.values(metric)
            runs[metric] += outliers(values)
    return runs


# Tests


def _tests(results: Results, metric: str, baseline: ArmResult) -> dict[str, ArmTest]:
    """Every other arm of the same data against a baseline, in the order of the arms."""
    values = {}
    for arm in results.arms:
        if arm.name == baseline.name or same_data(arm, baseline, metric):
            values[arm.name] = arm.values(metric)

    same_training = {
        arm.name for arm in results.arms if arm.signature and arm.signature == baseline.signature
    }
    return against_baseline(
        values,
        baseline.name,
        logarithmic=metric in DISTANCES,
        pooled=results.pooled,
        same_training=same_training,
    )


def _adjusted(ps: Mapping[Any, float]) -> dict[Any, float]:
    """The same keys → Holm's p."""
    return dict(zip(ps, holm(list(ps.values())), strict=True))


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
                doubts[pair] = doubt(arm, baseline, metric, test.mean)

    return {pair for pair, p in _adjusted(ps).items() if p < ALPHA and not doubts[pair]}


# In a few words


def summary(effects: Sequence[Effect]) -> list[str]:
    """For each metric, the arms that are better, worse and equivalent, and those that are
    not resolved.
    """
    by_metric: dict[str, list[Effect]] = {}
    for effect in effects:
        by_metric.setdefault(effect.metric, []).append(effect)

    lines = []
    for metric in sorted(by_metric, key=list(COLUMNS).index):
        arms: dict[str, list[str]] = {"better": [], "worse": [], "equivalent": []}
        unresolved: list[str] = []
        for effect in by_metric[metric]:
            if effect.answer != "unresolved":
                arms[effect.answer].append(effect.arm)
            elif effect.resolved:
                arms.setdefault(f"not concluded, for {effect.doubt}", []).append(effect.arm)
            else:
                unresolved.append(effect.arm)
        arms["not resolved"] = unresolved
        parts = [f"{key}: {_counted(names)}" for key, names in arms.items() if names]
        lines.append(f"{COLUMNS[metric].heading}, against the baseline: {'; '.join(parts)}.")
    return lines


def _counted(names: list[str]) -> str:
    """The names, or their number where they are many."""
    return join_names(names) if len(names) <= _NAMED else f"{len(names)} arms"
