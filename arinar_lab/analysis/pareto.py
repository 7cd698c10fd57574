"""Quality against speed over arms and seeds: which arms are worth having.

Every arm is a point (cost, loss) under each seed, less is better in both.

    front           arms that no other arm's means are at least as good as in
                    both, and better in one
    attained        share of the seeds in whose own front an arm stands: how far the front of
                    means may be trusted
    surface         least loss that is to be had at a cost or less, in the best, the median and the
                    worst of the seeds: the empirical attainment surfaces (Fonseca and Fleming,
                    1996; López-Ibáñez, Paquete and Stützle, 2010)
    hypervolume     share of the box from the best to the worst seen that a seed's front
                    dominates; interval over seeds
    knee            of the front of means, the arm farthest below the chord between its ends, both
                    axes scaled to [0, 1]

A rate costs its inverse (images/s: milliseconds an image), any other reading of which more is
better its negative. The settings that a sweep re-ran are arms, too; its trials have one seed
each, and no attainment.

Speeds that the report calls unreliable make no front: it would be the order of the machine's load,
which all seeds may share.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..metrics import BITS, DISTANCES, GAP, SPEED, Column
from .comparison import Effect, compare_arms
from .conditions import incomparable_bounds, is_comparable, unreliable_speeds
from .results import Results
from .statistics import Interval, hypervolume, interval, pareto_indices
from .text import join_names

Point = tuple[float, float]
"""Cost and loss."""
Points = Mapping[str, Mapping[int, Point]]
"""Arm → seed → point."""
_NAMED = 6  # dominated arms beyond which they are counted


def pareto_front(points: Mapping[str, Point]) -> list[str]:
    """Arms on the front, the cheapest first."""
    arms = list(points)
    return sorted((arms[i] for i in pareto_indices(list(points.values()))), key=points.__getitem__)


def dominators(points: Mapping[str, Point]) -> dict[str, list[str]]:
    """Arm → those that are at least as good in both and better in one; without
    the arms of the front.
    """
    found = {
        arm: [o for o, q in points.items() if q[0] <= p[0] and q[1] <= p[1] and q != p]
        for arm, p in points.items()
    }
    return {arm: others for arm, others in found.items() if others}


def fronts(points: Points) -> dict[int, list[str]]:
    """Seed → its own front, of the seeds that all arms have."""
    return {
        seed: pareto_front({arm: by_seed[seed] for arm, by_seed in points.items()})
        for seed in common_seeds(points)
    }


def common_seeds(points: Points) -> list[int]:
    """Seeds that all arms have; no other seed's front is comparable."""
    return (
        sorted(set.intersection(*(set(by_seed) for by_seed in points.values()))) if points else []
    )


def attainment(points: Points) -> dict[str, float]:
    """Share of the seeds in which an arm is on the front; empty where fewer than two
    seeds have all arms.
    """
    found = list(fronts(points).values())
    return (
        {arm: statistics.fmean(arm in f for f in found) for arm in points} if len(found) > 1 else {}
    )


def attainment_surface(points: Points) -> list[tuple[float, float, float, float]]:
    """(cost, least loss at it or less in the best, in the median and in the worst seed), a
    step at each cost seen.

    Infinite where a seed has nothing at that cost. The median is the loss attained in at
    least half of the seeds.
    """
    seeds, rows = common_seeds(points), []
    for cost in sorted({by_seed[seed][0] for by_seed in points.values() for seed in seeds}):
        least = sorted(
            min((p[seed][1] for p in points.values() if p[seed][0] <= cost), default=math.inf)
            for seed in seeds
        )
        rows.append((cost, least[0], least[math.ceil(len(least) / 2) - 1], least[-1]))
    return rows


def volume(points: Points) -> Interval | None:
    """Hypervolume of each seed's front on axes scaled from the best to the worst seen, and its
    interval over seeds.
    """
    seeds = common_seeds(points)
    seen = [by_seed[seed] for by_seed in points.values() for seed in seeds]
    if not seen:
        return None
    scale = _scale(seen)
    return interval(
        [hypervolume([scale(p[seed]) for p in points.values()], (1.0, 1.0)) for seed in seeds]
    )


def _scale(seen: Sequence[Point]) -> Callable[[Point], Point]:
    """Of points onto [0, 1] in both, from the least seen to the most."""
    (low_x, low_y), (high_x, high_y) = (
        tuple(end(p[i] for p in seen) for i in (0, 1)) for end in (min, max)
    )
    return lambda p: (
        (p[0] - low_x) / (high_x - low_x or 1.0),
        (p[1] - low_y) / (high_y - low_y or 1.0),
    )


def knee(points: Mapping[str, Point]) -> str | None:
    """The arm of the front farthest below the chord between its ends; None where none
    is below (Das, 1999).
    """
    ends = pareto_front(points)
    if len(ends) < 3:
        return None
    scale = _scale([points[arm] for arm in ends])
    # the chord from (0, 1) to (1, 0); distance times √2
    below = {arm: 1 - sum(scale(points[arm])) for arm in ends}
    best = max(below, key=below.__getitem__)
    return best if below[best] > 1e-12 else None


def best_at(points: Mapping[str, Point], cost: float) -> str | None:
    """The arm of the least loss that costs no more."""
    return min(
        (arm for arm, p in points.items() if p[0] <= cost),
        key=lambda arm: points[arm][1],
        default=None,
    )


def cheapest_at(points: Mapping[str, Point], loss: float) -> str | None:
    """The cheapest arm whose loss is no more."""
    return min(
        (arm for arm, p in points.items() if p[1] <= loss),
        key=lambda arm: points[arm][0],
        default=None,
    )


# Of a study


@dataclass(frozen=True)
class Frontier:
    """What a study, or a sweep, says of quality against speed.

    Arguments:
        quality, speed: the columns compared.
        points: arm → seed → (cost, loss), of the arms that have both; means: of the readings,
            as the table has them.
        missing: the other arms.
        front: arms on the front of means, the fastest first; dominated:
            arm → those that are better.
        attained: arm → share of the seeds; empty where fewer than two have all arms.
            knee: an arm, or None.
        hypervolume: None where no seed has all arms.
        doubt: why the speeds are unreliable, so that no front may be drawn;
            empty where they are not.
        budget, baseline: of the arms; empty in a sweep.
        supported: arms whose quality differs from the baseline's for sure.
        bounds: arms whose quality is a bound, where those of other arms are not such a bound.
    """

    quality: Column
    speed: Column
    points: dict[str, dict[int, Point]]
    means: dict[str, Point]
    missing: list[str]
    front: list[str]
    dominated: dict[str, list[str]]
    attained: dict[str, float]
    knee: str | None
    hypervolume: Interval | None
    doubt: str = ""
    budget: str = ""
    baseline: str = ""
    supported: frozenset[str] = frozenset()
    bounds: tuple[str, ...] = ()

    @property
    def highlighted(self) -> list[str]:
        """Arms that a figure draws in colour: those of the front, or all
        where none may be drawn.
        """
        return list(self.means) if self.doubt else self.front

    @property
    def line(self) -> list[Point]:
        """Points of the front that a figure draws; none where the speeds are unreliable."""
        return [] if self.doubt else [self.means[arm] for arm in self.front]

    @property
    def surface(self) -> list[tuple[float, float, float, float]]:
        """Attainment surfaces in the units of the columns: (speed, best, median,
        worst of the seeds).
        """
        return [
            (
                _back(self.speed, cost),
                _back(self.quality, best),
                _back(self.quality, median),
                _back(self.quality, worst),
            )
            for cost, best, median, worst in attainment_surface(self.points)
        ]


def frontiers(results: Results, effects: Sequence[Effect]) -> list[Frontier]:
    """Every quality against images/s; in a study with budgets each budget's arms by themselves.

    effects: the comparison of the arms in those qualities.
    """
    fronts = []
    for part in results.by_budget:
        for quality in quality_metrics(part):
            front = frontier(part, quality, effects=effects)
            fronts += [front] if front else []
    return fronts


def frontier(
    results: Results,
    quality: str | None = None,
    speed: str = SPEED,
    effects: Sequence[Effect] | None = None,
) -> Frontier | None:
    """Quality against speed: by the Fréchet distance where there is one, else bits/dim; None
    where no arm has both.

    effects: the comparison of the arms, computed if it is None.
    """
    columns = {column.metric: column for column in results.columns}
    quality = quality or next((metric for metric in DISTANCES if metric in columns), BITS)
    if quality not in columns or speed not in columns:
        return None

    measured: dict[str, dict[int, tuple[float, float]]] = {}
    for arm in results.arms:
        costs = arm.values(speed)
        losses = arm.values(quality) if is_comparable(results, arm, quality) else {}
        common = sorted(costs.keys() & losses.keys())
        measured[arm.name] = {seed: (costs[seed], losses[seed]) for seed in common}

    doubt = unreliable_speeds(results) if speed.startswith("speed/") else ""
    front = frontier_from_readings(columns[quality], columns[speed], measured, doubt)
    if front is None:
        return None

    effects = compare_arms(results, [quality]) if effects is None else effects
    supported = frozenset(
        effect.arm for effect in effects if effect.metric == quality and effect.supported
    )
    bounds = incomparable_bounds(results) if quality.startswith("val/") else []
    budget = results.baseline_arm.budget
    return replace(
        front, budget=budget, baseline=results.baseline, supported=supported, bounds=tuple(bounds)
    )


def frontier_from_readings(
    quality: Column,
    speed: Column,
    readings: Mapping[str, Mapping[int, tuple[float, float]]],
    doubt: str = "",
) -> Frontier | None:
    """Where arms stand by their readings: arm → seed → (speed, quality) as measured; None
    where no arm has any.

    doubt: why the speeds are unreliable.
    """
    points, means = {}, {}
    for arm, by_seed in readings.items():
        if by_seed:
            points[arm] = {
                seed: (_cost(speed, x), _cost(quality, y)) for seed, (x, y) in by_seed.items()
            }
            x, y = (statistics.fmean(ends) for ends in zip(*by_seed.values(), strict=True))
            means[arm] = _cost(speed, x), _cost(quality, y)

    if not points:
        return None
    missing = [arm for arm in readings if arm not in points]
    volumes = volume(points)

    return Frontier(
        quality,
        speed,
        points,
        means,
        missing,
        pareto_front(means),
        dominators(means),
        attainment(points),
        knee(means),
        volumes,
        doubt,
    )


def _cost(column: Column, value: float) -> float:
    if column.less:
        return value
    return 1000 / value if column.metric == SPEED else -value


def _back(column: Column, cost: float) -> float:
    if column.less:
        return cost
    return 1000 / cost if column.metric == SPEED else -cost


def quality_metrics(results: Results) -> list[str]:
    """The metrics of quality that are set against speed: bits/dim, or the gap to the truth, and
    the Fréchet distances.
    """
    there = {c.metric for c in results.columns}
    return [metric for metric in (GAP if GAP in there else BITS, *DISTANCES) if metric in there]


def frontier_sentences(f: Frontier) -> list[str]:
    """The front and how sure it is, who is dominated, the matched values, the hypervolume, and
    who has no place there.

    Of unreliable speeds, why there is no front.
    """
    if f.doubt:
        lines = [f"{f.quality.heading} against {f.speed.heading}: no front, for {f.doubt}."]
    else:
        lines = [_front_line(f), *_dominated_line(f), *_matched(f), *_volume_line(f)]
        if f.missing:
            lines.append(
                "Without a place there, for want of one of the two readings, or because it is of"
                f" other data: {join_names(f.missing)}."
            )
        if f.bounds:
            lines.append(
                f"Of {join_names(f.bounds)} bits/dim is a bound, and how loose is unknown: no "
                "place by it is concluded."
            )

    return [f"{f.budget}: {line}" for line in lines] if f.budget else lines


def _front_line(f: Frontier) -> str:
    arms = [
        f"{arm} ({100 * f.attained[arm]:.0f} % of seeds)" if f.attained else arm for arm in f.front
    ]
    bend = f" It bends at {f.knee}." if f.knee else ""
    unsure = (
        ""
        if f.attained
        else " Fewer than two seeds have all arms, so nothing is said of how sure it is."
    )

    return (
        f"{f.quality.heading} against {f.speed.heading}: the front of means is "
        f"{join_names(arms)}.{bend}{unsure}"
    )


def _dominated_line(f: Frontier) -> list[str]:
    """Arms that are worse in both, and which of them stand on the front of some seed after all."""
    if not f.dominated:
        return []

    at_times = [
        f"{arm} ({100 * f.attained[arm]:.0f} %)" for arm in f.dominated if f.attained.get(arm)
    ]
    but = f" On the front of some seeds none the less: {join_names(at_times)}." if at_times else ""
    worse = (
        join_names(f.dominated)
        if len(f.dominated) <= _NAMED
        else f"the other {len(f.dominated)} arms"
    )

    return [f"Others are at least as good in both readings as {worse}.{but}"]


def _matched(f: Frontier) -> list[str]:
    """The best quality at the baseline's speed, and the fastest at its quality; whose quality
    differs is resolved or not.
    """
    baseline = f.baseline
    if baseline not in f.means:
        return []
    cost, loss = f.means[baseline]
    best, fast = best_at(f.means, cost), cheapest_at(f.means, loss)
    speed, quality = _number(f.speed, cost), _number(f.quality, loss)

    def sure(arm: str | None) -> str:
        return (
            ""
            if arm in f.supported
            else f" (by the means: its difference in {f.quality.heading} is not resolved)"
        )

    return [
        f"No arm as fast as {baseline} ({speed}) has a better mean {f.quality.heading} ({quality})."
        if best in (None, baseline)
        else (
            f"At the speed of {baseline} ({speed}) or faster, {best} has the best mean"
            f" {f.quality.heading}: {_number(f.quality, f.means[best][1])} against"
            f" {quality}{sure(best)}."
        ),
        f"No arm with the {f.quality.heading} of {baseline} ({quality}) or better is faster on "
        f"average ({speed})."
        if fast in (None, baseline)
        else (
            f"With the {f.quality.heading} of {baseline} ({quality}) or better, {fast} is the"
            f" fastest: {_number(f.speed, f.means[fast][0])} against {speed}{sure(fast)}."
        ),
    ]


def _number(column: Column, cost: float) -> str:
    value = f"{_back(column, cost):,.{column.digits}f}"
    return f"{value} {column.heading}" if column.metric == SPEED else value


def _volume_line(f: Frontier) -> list[str]:
    if f.hypervolume is None or (n := f.hypervolume.n) < 2 or len(f.points) < 2:
        return []

    mean, half = f.hypervolume.mean, f.hypervolume.half
    return [
        (
            f"A seed's front dominates {mean:.3f} [{max(0.0, mean - half):.3f},"
            f" {min(1.0, mean + half):.3f}] of the box from the best to the worst seen"
            f" (hypervolume, n = {n})."
        )
    ]
