"""Arms against the baseline: the difference of every reading, paired by seed, and what may
be concluded from it.

    difference      mean over the seeds that both have, with its 95 % t-interval; of arms without a
                    common seed: Welch's
    spread          of all arms that agree on it, or of the difference's own seeds where they stray
                    more: `pooled_variance.py`
    p               two-sided, and Holm's over the arms of one reading; several readings
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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..config.schema import Component
from ..metrics import BITS, DISTANCE, DISTANCES, LEVEL, RESOLUTION, Column
from ..study.plan import Arm
from .outliers import outliers
from .pooled_variance import spreads
from .results import Results
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

_NAMED = 8  # arms beyond which they are counted
LOOSER_BOUND = "a bound that reads worse shows nothing"
CLAIMS = (BITS, LEVEL, RESOLUTION, *DISTANCES)

TEST_PROTOCOL = (
    "Differences are paired by seed; ± is their 95 % t-interval, each for itself. How far a"
    " difference strays from seed to seed is told by the pairs of all arms that agree on it"
    " (Cochran's test) where the line says of how many arms the spread is; a difference that"
    " strays farther than those together is judged by its own seeds, with degrees of freedom"
    " between theirs and its own. Arms without a common seed are compared by Welch's test. p is"
    " Holm's over the arms of one reading; each reading is a family of its own. d is Cohen's, of"
    " the paired differences, with its 95 % interval. Seeds to add are for a power of 0.8 at the"
    " effect as seen, over the 80 % interval of the spread."
)


@dataclass(frozen=True)
class Effect:
    """What one arm does to one reading, against the baseline.

    Arguments:
        difference: mean and 95 % interval, paired by seed (not corrected for the number of
            arms); n is of the pairs.
        p: two-sided; adjusted: Holm's, over the arms of that metric. Both 1 where one
            seed resolves nothing.
        spread: of the difference under one seed; None for one seed.
        resolved: whether the adjusted p is below 5 %.
        rivals: arms of that metric, this one with them, that are not resolved.
        doubt: why nothing is concluded even where it is resolved, as two bounds may differ by how
            loose they are; else empty.
        unpaired: runs of the arm and of the baseline, where they have no seed in common; n is
            the smaller one then.
        caution: how the runs of the two differ otherwise than by design; empty where they do not.
    """

    arm: str
    metric: str
    difference: Interval
    p: float
    adjusted: float
    spread: PooledSD | None
    resolved: bool
    unresolved_count: int
    doubt: str = ""
    caution: str = ""
    unpaired: tuple[int, int] | None = None

    @property
    def supported(self) -> bool:
        """Whether one of the two is better in truth, as far as may be told."""
        return self.resolved and not self.doubt

    @property
    def seeds(self) -> str:
        """`n = 3`; `no seed in common, n = 2 and 3`."""
        if self.unpaired is None:
            return f"n = {self.difference.n}"
        return "no seed in common, n = {} and {}".format(*self.unpaired)

    @property
    def spread_of(self) -> str:
        """Whose spread it is: `4 arms`, `the pair, above that of 4 arms`, `the pair`; empty where
        one seed tells none.
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

    @property
    def size_interval(self) -> tuple[float, float]:
        """Its 95 % interval."""
        return (
            size_interval(self.size, self.difference.n, self.spread.df)
            if self.spread
            else (math.nan, math.nan)
        )

    @property
    def more_seeds(self) -> tuple[int, int] | None:
        """The least and the most that would resolve it, MOST + 1 for more than MOST; None where it
        is resolved, or one seed tells nothing."""
        if self.resolved or self.spread is None:
            return None
        return seeds_to_add(
            self.size, self.difference.n, self.spread, ALPHA / self.unresolved_count
        )


def compare_arms(results: Results, metrics: Sequence[str] = CLAIMS) -> list[Effect]:
    """Every arm against the baseline, for the metrics that were measured, in
    the order of the table.
    """
    return [
        effect
        for c in results.columns
        if c.metric in metrics
        for effect in _of_metric(results, c.metric)
    ]


def compare_all(results: Results) -> list[Effect]:
    """The same of a study with budgets: every arm against the baseline at its own budget."""
    return [effect for part in results.by_budget for effect in compare_arms(part)]


@dataclass(frozen=True)
class _Test:
    """A difference before the correction for their number; p is None where
    one seed tells nothing.
    """

    difference: Interval
    spread: PooledSD | None
    p: float | None
    unpaired: tuple[int, int] | None = None


def _of_metric(results: Results, metric: str) -> list[Effect]:
    tests = _tests(results, metric, results.baseline)
    ps = {name: test.p for name, test in tests.items() if test.p is not None}
    adjusted = dict(zip(ps, holm(list(ps.values())), strict=True))
    rivals, odd = sum(p >= ALPHA for p in adjusted.values()), outlying_runs(results, metric)

    effects = []
    for arm in (arm for arm in results.plan.arms if arm.name in tests):
        test, p = tests[arm.name], adjusted.get(arm.name, 1.0)
        doubt = _doubt(results, arm, results.baseline, metric, test.difference.mean)
        said = condition_caution(results, arm, metric, odd)
        effects.append(
            Effect(
                arm.name,
                metric,
                test.difference,
                ps.get(arm.name, 1.0),
                p,
                test.spread,
                p < ALPHA,
                rivals,
                doubt,
                said,
                test.unpaired,
            )
        )
    return effects


def _tests(results: Results, metric: str, baseline: Arm) -> dict[str, _Test]:
    """Every other arm of the same data against a baseline: by seed where they share one,
    else by Welch's test.
    """
    base = results.values(baseline, metric)
    others = {
        arm.name: results.values(arm, metric)
        for arm in results.plan.arms
        if arm != baseline and _same_data(results, arm, baseline, metric)
    }
    pairs: dict[str, dict[int, float]] = {}
    for name, values in others.items():
        if common := sorted(values.keys() & base.keys()):
            pairs[name] = {seed: _less(values[seed], base[seed]) for seed in common}

    spreads_of, tests = _spread_by_arm(pairs), {}
    for name, values in others.items():
        if name in pairs:
            tests[name] = _paired(list(pairs[name].values()), spreads_of.get(name))
        elif values and base:
            tests[name] = _unpaired(list(values.values()), list(base.values()))

    return tests


def _paired(pair: list[float], spread: PooledSD | None) -> _Test:
    if spread is None:
        return _Test(interval(pair), None, None)
    size = cohens_d(statistics.fmean(pair), spread)
    return _Test(difference(pair, spread), spread, p_value(size, len(pair), spread.df))


def _unpaired(values: list[float], base: list[float]) -> _Test:
    mean, counts = statistics.fmean(values) - statistics.fmean(base), (len(values), len(base))
    if min(counts) < 2:
        return _Test(Interval(mean, math.inf, 1), None, None, counts)

    spread = welch(values, base)
    n = min(counts)

    return _Test(
        interval_around(mean, n, spread),
        spread,
        p_value(cohens_d(mean, spread), n, spread.df),
        counts,
    )


def resolved_pairs(results: Results, metric: str) -> set[frozenset[str]]:
    """The pairs of arms that differ, whichever of all they are: by the tests of every report,
    Holm's over all pairs.

    Either arm of a pair may be the baseline of its test, and pools other differences then;
    the larger p counts.
    """
    arms = {arm.name: arm for arm in results.plan.arms}
    ps: dict[frozenset[str], float] = {}
    doubts: dict[frozenset[str], str] = {}
    for baseline in results.plan.arms:
        for name, test in _tests(results, metric, baseline).items():
            if test.p is not None:
                pair = frozenset((name, baseline.name))
                ps[pair] = max(test.p, ps.get(pair, 0.0))
                doubts[pair] = _doubt(results, arms[name], baseline, metric, test.difference.mean)

    adjusted = zip(ps, holm(list(ps.values())), strict=True)
    return {pair for pair, p in adjusted if p < ALPHA and not doubts[pair]}


# What may make a difference beside the models


def _doubt(results: Results, arm: Arm, baseline: Arm, metric: str, difference: float) -> str:
    """Why a difference says nothing of the models; empty where it may be theirs."""
    if not metric.startswith("val/"):
        return references_differ(results, arm, baseline, metric)
    ours, theirs = bound_label(results, arm), bound_label(results, baseline)
    if ours == theirs and len(ours) < 2:
        return ""

    if len(ours) > 1 or len(theirs) > 1 or all(ours | theirs):
        named = sorted(ours | theirs)
        return (
            "bounds differ by how loose they are, too "
            f"({' against '.join(name or 'exact' for name in named)})"
        )

    loose = "" not in ours
    return LOOSER_BOUND if (difference > 0) == loose else ""


def incomparable_bounds(results: Results) -> list[str]:
    """Arms whose likelihood is a bound, where not all arms' are one kind of bound at
    one number of steps.
    """
    of = {
        arm.name: bound_label(results, arm)
        for arm in results.plan.arms
        if results.reports[arm.name]
    }
    alike = len(set().union(*of.values())) < 2
    return [] if alike else [name for name, kinds in of.items() if kinds != {""}]


def bound_label(results: Results, arm: Arm) -> set[str]:
    """What makes an arm's likelihood a bound, with its steps, as in `masked, 8 steps`; an empty
    name of what is none.
    """
    names = set()
    for report in results.reports[arm.name].values():
        likelihood = report.get("likelihood", {})
        steps = f", {likelihood['steps']} steps" if likelihood.get("steps") else ""
        kinds = "+".join(_loose(arm.recipe.outer) + _loose(arm.recipe.inner)) or "bound"
        names.add(f"{kinds}{steps}" if likelihood.get("kind") == "bound" else "")
    return names


def _loose(part: Any) -> list[str]:
    """The kinds of a part, and of the parts within it, whose likelihood is no exact one."""
    if not isinstance(part, Component):
        return []
    own = [part.kind] if getattr(part.factory, "likelihood", "exact") != "exact" else []
    return own + [kind for value in part.arguments.values() for kind in _loose(value)]


def references_differ(results: Results, arm: Arm, baseline: Arm, metric: str) -> str:
    """Whether a published distance of two arms was taken against two references, or in the
    features of two networks.
    """
    if metric not in DISTANCES or metric == DISTANCE:
        return ""

    measured = [
        report["fidelity"]
        for each in (arm, baseline)
        for report in results.reports[each.name].values()
        if "fidelity" in report and metric in report["metrics"]
    ]
    networks = {one.get("extractor") for one in measured}
    files = {(one["reference"].get("file"), one["reference"].get("images")) for one in measured}
    sums = {one.get("reference_sha256") for one in measured}

    if len(networks) > 1:
        return f"distances are of two networks ({' and '.join(sorted(map(str, networks)))})"
    if len(files if None in sums else sums) > 1:
        return (
            "distances are to two references "
            f"({' and '.join(sorted({str(file) for file, _ in files}))})"
        )

    return ""


def _spread_by_arm(pairs: dict[str, dict[int, float]]) -> dict[str, PooledSD]:
    """The spread of each arm; arms that are one model under this reading tell it once."""
    first: dict[str, str] = {}
    for arm, pair in pairs.items():
        first[arm] = next((other for other in first if pairs[other] == pair), arm)
    told = spreads({arm: pair for arm, pair in pairs.items() if first[arm] == arm})
    return {arm: told[first[arm]] for arm in pairs if first[arm] in told}


def is_comparable(results: Results, arm: Arm, metric: str) -> bool:
    """Whether an arm's numbers are of the same thing as the baseline's: the same data, and the same
    reference of a distance.
    """
    same = _same_data(results, arm, results.baseline, metric)
    return same and not references_differ(results, arm, results.baseline, metric)


def _same_data(results: Results, arm: Arm, baseline: Arm, metric: str) -> bool:
    """Whether two arms' bits/dim are of the same data: those of latents are not those of pixels."""
    units = {
        r.get("likelihood", {}).get("unit")
        for a in (arm, baseline)
        for r in results.reports[a.name].values()
    }
    return not metric.startswith(("val/", "train/")) or len(units) < 2


def outlying_runs(results: Results, metric: str) -> list[tuple[str, int]]:
    """Arm and seed of the runs that lie far from the other seeds of their arm (`outliers.py`)."""
    arms = [arm for arm in results.plan.arms if is_comparable(results, arm, metric)]
    return outliers({arm.name: results.values(arm, metric) for arm in arms})


def _less(a: float, b: float) -> float:
    """a - b; 0 where rounding alone sets them apart."""
    return 0.0 if math.isclose(a, b, rel_tol=1e-12) else a - b


def effect_lines(results: Results, arms: Sequence[str] = ()) -> list[str]:
    """One line for each arm and reading: the difference to the baseline, and
    whether it is resolved.

    arms: those that are shown, all of them without; the tests are over all arms of
    the results either way.
    """
    columns = {column.metric: column for column in results.columns}
    shown = [effect for effect in compare_arms(results) if not arms or effect.arm in arms]
    return [_line(effect, columns[effect.metric], results.plan.baseline) for effect in shown]


def _line(effect: Effect, column: Column, baseline: str) -> str:
    """`bits/dim: a against b: -0.036 ± 0.041 (n = 3, …): not resolved; about 12 more
    seeds would resolve it`.
    """
    d, digits = effect.difference, column.digits
    number = f"{d.mean:+.{digits}f}" + (f" ± {d.half:.{digits}f}" if d.n > 1 else "")
    said = [effect.seeds]

    if effect.spread:
        size, low, high = (
            f"{round(end, 1) + 0:.1f}" for end in (effect.size, *effect.size_interval)
        )
        said += [f"spread of {effect.spread_of}"] if effect.spread.arms > 2 else []
        said += [f"df = {effect.spread.df:.1f}", f"Holm {p_text(effect.adjusted)}"]
        said += [f"d = {size} [{low}, {high}]"] if math.isfinite(effect.size) else []

    line = (
        f"{column.heading}: {effect.arm} against {baseline}: {number} ({', '.join(said)}): "
        f"{verdict(effect, column)}"
    )

    return line + (f". Caution: {effect.caution}" if effect.caution else "")


def p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def verdict(effect: Effect, column: Column) -> str:
    """`better`, `worse`, or `not resolved` and what would resolve it."""
    if effect.difference.n < 2:
        return "one seed resolves nothing"

    if effect.resolved:
        reads = "better" if (effect.difference.mean < 0) == bool(column.less) else "worse"
        return f"reads {reads}: not concluded, for {effect.doubt}" if effect.doubt else reads

    if effect.size == 0 and effect.difference.half == 0:
        return "the same in every seed"
    if effect.doubt:
        return f"not resolved, nor could it be concluded, for {effect.doubt}"

    return f"not resolved; {_to_add(*effect.more_seeds)}" if effect.more_seeds else "not resolved"


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


def summary(found: Sequence[Effect], columns: Sequence[Column]) -> list[str]:
    """For each metric, which arms are better and worse than the baseline, and of which
    nothing is resolved.
    """
    said = []
    for column in columns:
        of_metric = [effect for effect in found if effect.metric == column.metric]
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
            settled = (
                verdict(effect, column)
                if effect.supported
                else f"not concluded, for {effect.doubt}"
            )
            named[settled if effect.resolved else "not resolved"].append(effect.arm)

        parts = [
            f"{key}: {join_names(arms) if len(arms) <= _NAMED else f'{len(arms)} arms'}"
            for key, arms in named.items()
            if arms
        ]
        said += [f"{column.heading}, against the baseline: {'; '.join(parts)}."] if parts else []

    return said


# Runs that differ otherwise than by design

_SETTINGS = {
    "val": ("draws", "resolution"),
    "quality": ("images", "seed"),
    "speed": ("speed_batch", "speed_repeats"),
}
_MEASURED = {
    "val": ("likelihood", ("images", "draws", "unit", "resolution", "precision")),
    "quality": ("quality", ("images", "reference", "precision")),
    "speed": ("speed", ("device", "threads", "batch", "repeats", "precision")),
}
"""Where a report says what it is of, and in which words."""


def condition_caution(
    results: Results, arm: Arm, metric: str, odd: Sequence[tuple[str, int]] = ()
) -> str:
    """How the runs that a comparison rests on differ, where they should not: code, device,
    versions, evaluation.

    odd: the runs that lie far from their arm's other seeds; those of the two arms are named.
    """
    runs = [*results.reports[arm.name].values(), *results.reports[results.plan.baseline].values()]
    differ = {name: name for name in differing_conditions(runs)}

    kinds = [_kinds(results, each) for each in (arm, results.baseline)]
    if metric.startswith("val/") and kinds[0] != kinds[1]:
        differ["kind"] = f"likelihoods ({', '.join(kinds[0])} against {', '.join(kinds[1])})"
    ours, theirs = arm.recipe.evaluation, results.baseline.recipe.evaluation
    kind = metric.split("/")[0]
    for name in _SETTINGS.get(kind, ()):
        if getattr(ours, name) != getattr(theirs, name):
            word = name.removeprefix("speed_")
            differ[word] = (
                f"evaluation.{name} ({getattr(ours, name)} against {getattr(theirs, name)})"
            )

    section, words = _MEASURED.get(kind, ("", ()))
    for word in words:
        told = {str(r[section][word]) for r in runs if word in r.get(section, {})}
        if len(told) > 1:
            differ.setdefault(word, f"{section}.{word} ({', '.join(sorted(told))})")

    said = [f"the runs differ in {'; '.join(differ.values())}"] if differ else []
    for one in (arm, results.baseline):
        if seeds := results.not_finite(one, metric):
            said.append(f"{one.name} seed {', '.join(map(str, seeds))} is not finite and left out")
        if seeds := sorted(seed for name, seed in odd if name == one.name):
            said.append(
                f"{one.name} seed {', '.join(map(str, seeds))} is far from its arm's other seeds"
            )

    return "; ".join(said)


def _kinds(results: Results, arm: Arm) -> list[str]:
    """What an arm's likelihood is said to be: exact, bound, estimate."""
    return sorted(
        {r.get("likelihood", {}).get("kind", "unknown") for r in results.reports[arm.name].values()}
    )


def differing_conditions(reports: Sequence[dict[str, Any]]) -> list[str]:
    """What runs should share and do not: the code's version, device, torch …; what a report does
    not say is not counted.
    """
    told: dict[str, set[Any]] = {
        "the code's version": {
            tuple(r.get("git", {}).get(key) for key in ("commit", "dirty")) for r in reports
        }
    }
    for name in ("device", "torch", "lightning"):
        told[name] = {r["environment"][name] for r in reports if name in r.get("environment", {})}
    return [name for name, values in told.items() if len(values) > 1]
