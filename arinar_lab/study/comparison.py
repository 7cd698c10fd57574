"""Arms against the baseline: the difference of every reading, paired by seed, and what may be concluded from it.

    difference      mean over the seeds that both have, with its 95 % t-interval
    spread          of all arms that agree on it, or of the difference's own seeds where those stray farther (`pooling.py`)
    p               two-sided, and Holm's over the arms of one reading; several readings are several families
    resolved        Holm's p is below 5 %. An interval that excludes zero is not enough where many arms are compared
    concluded       and no bound makes the difference by itself: bits/dim bounded from above may be less in truth
    more seeds      that would resolve the effect as it is seen, in 80 % of studies, at 5 % over the arms not resolved yet

Runs of other code, another device or another way of measuring are compared all the same, and the line says so.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .plan import Arm, listed
from .pooling import spreads
from .results import BITS, DISTANCES, LEVEL, RESOLUTION, Column, Results
from .stats import ALPHA, MOST, Interval, Spread, cohen, difference, holm, interval, more_seeds, p_value, size_interval

_NAMED = 8  # arms beyond which they are counted
UNPROVEN = "not concluded, for a bound that reads worse shows nothing"
CLAIMS = (BITS, LEVEL, RESOLUTION, *DISTANCES)

PROTOCOL = (
    "Differences are paired by seed; ± is their 95 % t-interval, each for itself. How far a difference strays from seed to"
    " seed is told by the pairs of all arms that agree on it (Cochran's test) where the line says of how many arms the spread"
    " is; a difference that strays farther than those together is judged by its own seeds, with degrees of freedom between"
    " theirs and its own. p is Holm's over the arms of one reading; each reading is a family of its own. d is Cohen's, of the"
    " paired differences, with its 95 % interval. Seeds to add are for a power of 0.8 at the effect and the spread as seen."
)


@dataclass(frozen=True)
class Effect:
    """What one arm does to one reading, against the baseline.

    Arguments:
        difference: mean and 95 % interval, paired by seed (not corrected for the number of arms); n is of the pairs.
        p: two-sided; adjusted: Holm's, over the arms of that metric. Both 1 where one seed resolves nothing.
        spread: of the difference under one seed; None for one seed.
        resolved: whether the adjusted p is below 5 %.
        rivals: arms of that metric, this one with them, that are not resolved.
        unproven: whether one of the two is a bound and reads worse, so that the truth may be the other way round.
        caution: how the runs of the two differ otherwise than by design; empty where they do not.
    """

    arm: str
    metric: str
    difference: Interval
    p: float
    adjusted: float
    spread: Spread | None
    resolved: bool
    rivals: int
    unproven: bool = False
    caution: str = ""

    @property
    def concluded(self) -> bool:
        """Whether one of the two is better in truth, as far as may be told."""
        return self.resolved and not self.unproven

    @property
    def spread_of(self) -> str:
        """Whose spread it is: `4 arms`, `the pair, above that of 4 arms`, `the pair`; empty where one seed tells none."""
        if self.spread is None or self.spread.arms == 2:
            return "the pair" if self.spread else ""
        return f"{'the pair, above that of ' if self.spread.shared < 1 else ''}{self.spread.arms} arms"

    @property
    def size(self) -> float:
        """Cohen's d of the paired differences; nan for one seed."""
        return cohen(self.difference.mean, self.spread) if self.spread else math.nan

    @property
    def size_interval(self) -> tuple[float, float]:
        """Its 95 % interval."""
        return size_interval(self.size, self.difference.n, self.spread.df) if self.spread else (math.nan, math.nan)

    @property
    def more_seeds(self) -> int | None:
        """That would resolve it, MOST + 1 for more than MOST; None where it is resolved, or one seed tells nothing."""
        if self.resolved or self.spread is None:
            return None
        return more_seeds(self.size, self.difference.n, self.spread.arms, ALPHA / self.rivals)


def compare(results: Results, metrics: Sequence[str] = CLAIMS) -> list[Effect]:
    """Every arm against the baseline, for the metrics that were measured, in the order of the table."""
    return [effect for c in results.columns if c.metric in metrics for effect in _of_metric(results, c.metric)]


def compare_all(results: Results) -> list[Effect]:
    """The same of a study with budgets: every arm against the baseline at its own budget."""
    return [effect for part in results.by_budget for effect in compare(part)]


def _of_metric(results: Results, metric: str) -> list[Effect]:
    base = results.values(results.baseline, metric)
    pairs: dict[str, dict[int, float]] = {}
    for arm in (arm for arm in results.plan.arms if arm != results.baseline):
        values = results.values(arm, metric) if commensurable(results, arm, metric) else {}
        if common := sorted(values.keys() & base.keys()):
            pairs[arm.name] = {seed: _less(values[seed], base[seed]) for seed in common}
    told = _told(pairs)
    ps = {arm: _p_value(pairs[arm], of) for arm, of in told.items()}
    adjusted = dict(zip(ps, holm(list(ps.values())), strict=True))
    rivals, found = sum(p >= ALPHA for p in adjusted.values()), []
    for arm in (arm for arm in results.plan.arms if arm.name in pairs):
        name, said, pair = arm.name, caution(results, arm, metric), list(pairs[arm.name].values())
        spread, p = told.get(name), adjusted.get(name, 1.0)
        seen = difference(pair, spread) if spread else interval(pair)
        doubt = _unproven(results, arm, metric, seen.mean)
        found.append(Effect(name, metric, seen, ps.get(name, 1.0), p, spread, p < ALPHA, rivals, doubt, said))
    return found


def _unproven(results: Results, arm: Arm, metric: str, difference: float) -> bool:
    """Whether a bound reads worse than what is none."""
    bounds = ["bound" in _kinds(results, each) for each in (arm, results.baseline)]
    return metric.startswith("val/") and bounds[0] != bounds[1] and (difference > 0) == bounds[0]


def _told(pairs: dict[str, dict[int, float]]) -> dict[str, Spread]:
    """The spread of each arm; arms that are one model under this reading tell it once."""
    first: dict[str, str] = {}
    for arm, pair in pairs.items():
        first[arm] = next((other for other in first if pairs[other] == pair), arm)
    told = spreads({arm: pair for arm, pair in pairs.items() if first[arm] == arm})
    return {arm: told[first[arm]] for arm in pairs if first[arm] in told}


def commensurable(results: Results, arm: Arm, metric: str) -> bool:
    """Whether an arm's bits/dim are of the same data as the baseline's: those of latents are not those of pixels."""
    units = {
        r.get("likelihood", {}).get("unit") for a in (arm, results.baseline) for r in results.reports[a.name].values()
    }
    return not metric.startswith(("val/", "train/")) or len(units) < 2


def _p_value(pair: dict[int, float], of: Spread) -> float:
    return p_value(cohen(statistics.fmean(pair.values()), of), len(pair), of.df)


def _less(a: float, b: float) -> float:
    """a - b; 0 where rounding alone sets them apart."""
    return 0.0 if math.isclose(a, b, rel_tol=1e-12) else a - b


def effects(results: Results) -> list[str]:
    """One line for each arm and reading: the difference to the baseline, and whether it is resolved."""
    columns = {column.metric: column for column in results.columns}
    return [_line(effect, columns[effect.metric], results.plan.baseline) for effect in compare(results)]


def _line(effect: Effect, column: Column, baseline: str) -> str:
    """`bits/dim: a against b: -0.036 ± 0.041 (n = 3, …): not resolved; about 12 more seeds would resolve it`."""
    d, digits = effect.difference, column.digits
    number = f"{d.mean:+.{digits}f}" + (f" ± {d.half:.{digits}f}" if d.n > 1 else "")
    said = [f"n = {d.n}"]
    if effect.spread:
        size, low, high = (f"{round(end, 1) + 0:.1f}" for end in (effect.size, *effect.size_interval))
        said += [f"spread of {effect.spread_of}"] if effect.spread.arms > 2 else []
        said += [f"df = {effect.spread.df:.1f}", f"Holm {p_text(effect.adjusted)}"]
        said += [f"d = {size} [{low}, {high}]"] if math.isfinite(effect.size) else []
    line = f"{column.heading}: {effect.arm} against {baseline}: {number} ({', '.join(said)}): {verdict(effect, column)}"
    return line + (f". Caution: {effect.caution}" if effect.caution else "")


def p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def verdict(effect: Effect, column: Column) -> str:
    """`better`, `worse`, or `not resolved` and what would resolve it."""
    if effect.difference.n < 2:
        return "one seed resolves nothing"
    if effect.resolved:
        reads = "better" if (effect.difference.mean < 0) == bool(column.less) else "worse"
        return f"reads {reads}, as a bound may: not concluded" if effect.unproven else reads
    if effect.size == 0 and effect.difference.half == 0:
        return "the same in every seed"
    if effect.more_seeds is not None and effect.more_seeds > MOST:
        return f"not resolved; more than {MOST} more seeds would be needed"
    seeds = "one more seed" if effect.more_seeds == 1 else f"about {effect.more_seeds} more seeds"
    return f"not resolved; {seeds} would resolve an effect of this size"


def summary(found: Sequence[Effect], columns: Sequence[Column]) -> list[str]:
    """For each metric, which arms are better and worse than the baseline, and of which nothing is resolved."""
    said = []
    for column in columns:
        named: dict[str, list[str]] = {"better": [], "worse": [], UNPROVEN: [], "not resolved": []}
        for effect in (effect for effect in found if effect.metric == column.metric):
            settled = verdict(effect, column) if effect.concluded else UNPROVEN
            named[settled if effect.resolved else "not resolved"].append(effect.arm)
        parts = [
            f"{key}: {listed(arms) if len(arms) <= _NAMED else f'{len(arms)} arms'}"
            for key, arms in named.items()
            if arms
        ]
        said += [f"{column.heading}, against the baseline: {'; '.join(parts)}."] if parts else []
    return said


# Runs that differ otherwise than by design

_SETTINGS = {
    "val": ("draws", "resolution"),
    "quality": ("images", "kid_subset", "seed"),
    "speed": ("speed_batch", "speed_repeats"),
}
_MEASURED = {
    "val": ("likelihood", ("images", "draws", "unit", "resolution", "precision")),
    "quality": ("quality", ("images", "reference", "kid_subset", "precision")),
    "speed": ("speed", ("device", "threads", "batch", "repeats", "precision")),
}
"""Where a report says what it is of, and in which words."""


def caution(results: Results, arm: Arm, metric: str) -> str:
    """How the runs that a comparison rests on differ, where they should not: code, device, versions, evaluation."""
    runs = [*results.reports[arm.name].values(), *results.reports[results.plan.baseline].values()]
    differ = {name: name for name in mixed(runs)}
    kinds = [_kinds(results, each) for each in (arm, results.baseline)]
    if metric.startswith("val/") and kinds[0] != kinds[1]:
        differ["kind"] = f"likelihoods ({', '.join(kinds[0])} against {', '.join(kinds[1])})"
    ours, theirs = arm.recipe.evaluation, results.baseline.recipe.evaluation
    kind = metric.split("/")[0]
    for name in _SETTINGS.get(kind, ()):
        if getattr(ours, name) != getattr(theirs, name):
            word = name.removeprefix("speed_")
            differ[word] = f"evaluation.{name} ({getattr(ours, name)} against {getattr(theirs, name)})"
    section, words = _MEASURED.get(kind, ("", ()))
    for word in words:
        told = {str(r[section][word]) for r in runs if word in r.get(section, {})}
        if len(told) > 1:
            differ.setdefault(word, f"{section}.{word} ({', '.join(sorted(told))})")
    said = [f"the runs differ in {'; '.join(differ.values())}"] if differ else []
    for one in (arm, results.baseline):
        if seeds := results.not_finite(one, metric):
            said.append(f"{one.name} seed {', '.join(map(str, seeds))} is not finite and left out")
    return "; ".join(said)


def _kinds(results: Results, arm: Arm) -> list[str]:
    """What an arm's likelihood is said to be: exact, bound, estimate."""
    return sorted({r.get("likelihood", {}).get("kind", "unknown") for r in results.reports[arm.name].values()})


def mixed(reports: Sequence[dict[str, Any]]) -> list[str]:
    """What runs should share and do not: the code's version, device, torch …; what a report does not say is not counted."""
    told: dict[str, set[Any]] = {
        "the code's version": {tuple(r.get("git", {}).get(key) for key in ("commit", "dirty")) for r in reports}
    }
    for name in ("device", "torch", "lightning"):
        told[name] = {r["environment"][name] for r in reports if name in r.get("environment", {})}
    return [name for name, values in told.items() if len(values) > 1]
