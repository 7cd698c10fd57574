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

The cost of images/s is its inverse (milliseconds an image). The cost of any other metric of which
more is better is its negative. The settings that a sweep re-ran are arms, too; its trials have one
seed each, and no attainment.

Speeds that the report calls unreliable make no front: it would be the order of the machine's load,
which all seeds may share.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from ...metrics import BITS, DISTANCES, GAP, SPEED, Column
from ...output.names import join_names
from ...significance.statistics import Interval, hypervolume, interval, pareto_indices
from ..comparison import Effect, compare_arms
from ..conditions import incomparable_bounds, is_comparable, unreliable_speeds
from ..results import Results

Point = tuple[float, float]
"""Cost and loss."""
Points = Mapping[str, Mapping[int, Point]]
"""Arm → seed → point."""
_NAMED = 6  # dominated arms beyond which they are counted


def pareto_front(points: Mapping[str, Point]) -> list[str]:
    """Arms on the front, the cheapest first."""
    arms = list(points)
    front = [arms[i] for i in pareto_indices(list(points.values()))]
    return sorted(front, key=points.__getitem__)


def dominators(points: Mapping[str, Point]) -> dict[str, list[str]]:
    """Arm → those that are at least as good in both and better in one; without
    the arms of the front.
    """
    dominated = {}
    for arm, point in points.items():
        better = [name for name, other in points.items() if _dominates(other, point)]
        if better:
            dominated[arm] = better
    return dominated


def _dominates(a: Point, b: Point) -> bool:
    return a[0] <= b[0] and a[1] <= b[1] and a != b


def fronts(points: Points) -> dict[int, list[str]]:
    """Seed → its own front, of the seeds that all arms have."""
    fronts = {}
    for seed in common_seeds(points):
        fronts[seed] = pareto_front({arm: by_seed[seed] for arm, by_seed in points.items()})
    return fronts


def common_seeds(points: Points) -> list[int]:
    """Seeds that all arms have; no other seed's front is comparable."""
    return sorted(set.intersection(*map(set, points.values()))) if points else []


def attainment(points: Points) -> dict[str, float]:
    """Share of the seeds in which an arm is on the front; empty where fewer than two
    seeds have all arms.
    """
    of_seeds = fronts(points).values()
    if len(of_seeds) < 2:
        return {}
    counts = Counter(chain.from_iterable(of_seeds))
    return {arm: counts[arm] / len(of_seeds) for arm in points}


def attainment_surface(points: Points) -> list[tuple[float, float, float, float]]:
    """(cost, least loss at it or less in the best, in the median and in the worst seed), a
    step at each cost of a point.

    Infinite where a seed has nothing at that cost. The median is the loss attained in at
    least half of the seeds.
    """
    if not common_seeds(points):
        return []

    costs, losses = np.moveaxis(_table(points), -1, 0)
    surface = []
    for cost in np.unique(costs).tolist():
        affordable = np.where(costs <= cost, losses, math.inf)
        least = sorted(affordable.min(1).tolist())
        median = least[math.ceil(len(least) / 2) - 1]
        surface.append((cost, least[0], median, least[-1]))
    return surface


def volume(points: Points) -> Interval | None:
    """Hypervolume of each seed's front on axes scaled from the best to the worst value, and its
    interval over seeds.
    """
    if not common_seeds(points):
        return None
    of_seeds = _scaled(_table(points)).tolist()
    return interval([hypervolume(of_seed, (1.0, 1.0)) for of_seed in of_seeds])


def _table(points: Points) -> np.ndarray:
    """The points as [seeds, arms, 2], of the seeds that all arms have."""
    seeds = common_seeds(points)
    of_arms = [list(map(by_seed.__getitem__, seeds)) for by_seed in points.values()]
    return np.array(of_arms).swapaxes(0, 1)


def _scaled(table: np.ndarray) -> np.ndarray:
    """Points [..., 2] scaled to [0, 1] in both, from the least to the most."""
    points = table.reshape(-1, 2)
    low = points.min(0)
    extent = points.max(0) - low
    return (table - low) / np.where(extent == 0, 1.0, extent)


def knee(points: Mapping[str, Point]) -> str | None:
    """The arm of the front farthest below the chord between its ends; None where none
    is below (Das, 1999).
    """
    front = pareto_front(points)
    if len(front) < 3:
        return None
    scaled = _scaled(np.array(list(map(points.__getitem__, front))))
    # the chord from (0, 1) to (1, 0); distance times √2
    below = 1 - scaled.sum(1)
    lowest = int(below.argmax())
    return front[lowest] if below[lowest] > 1e-12 else None


def best_at(points: Mapping[str, Point], cost: float) -> str | None:
    """The arm of the least loss that costs no more."""
    affordable = [arm for arm, point in points.items() if point[0] <= cost]
    return min(affordable, key=lambda arm: points[arm][1], default=None)


def cheapest_at(points: Mapping[str, Point], loss: float) -> str | None:
    """The cheapest arm whose loss is no more."""
    good = [arm for arm, point in points.items() if point[1] <= loss]
    return min(good, key=lambda arm: points[arm][0], default=None)


# Of a study


@dataclass(frozen=True)
class Frontier:
    """Quality against speed of the arms of a study, or of a sweep.

    Arguments:
        quality, speed: The columns compared.
        points: Arm → seed → (cost, loss), of the arms that have both.
        means: Arm → (cost, loss) of the mean readings, as the table has them.
        missing: The other arms.
        front: Arms on the front of means, the fastest first.
        dominated: Arm → those that are better.
        attained: Arm → share of the seeds; empty where fewer than two have all arms.
        knee: The arm at which the front bends, or None.
        hypervolume: Over seeds; None where no seed has all arms.
        doubt: Why the speeds are unreliable, so that no front is drawn; empty where they are not.
        regime, baseline: Of the arms; empty in a sweep.
        supported: Arms whose quality is concluded to differ from the baseline's.
        bounds: Arms whose quality is a bound, where not all arms have such a bound.
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
    regime: str = ""
    baseline: str = ""
    supported: frozenset[str] = frozenset()
    bounds: tuple[str, ...] = ()

    @property
    def highlighted(self) -> list[str]:
        """Arms that a figure draws in colour: those of the front, or all if there may be none."""
        return list(self.means) if self.doubt else self.front

    @property
    def line(self) -> list[Point]:
        """Points of the front that a figure draws; none where the speeds are unreliable."""
        return [] if self.doubt else list(map(self.means.__getitem__, self.front))

    @property
    def surface(self) -> list[tuple[float, float, float, float]]:
        """Attainment surfaces in the units of the columns: (speed, best, median,
        worst of the seeds).
        """
        surface = []
        for cost, best, median, worst in attainment_surface(self.points):
            step = (
                _back(self.speed, cost),
                _back(self.quality, best),
                _back(self.quality, median),
                _back(self.quality, worst),
            )
            surface.append(step)
        return surface


def frontiers(results: Results, effects: Sequence[Effect]) -> list[Frontier]:
    """Every quality against images/s; in a study with regimes each regime's arms by themselves.

    effects: the comparison of the arms in those qualities.
    """
    fronts = []
    for part in results.by_regime:
        for quality in quality_metrics(part):
            fronts.append(frontier(part, quality, effects=effects))
    return list(filter(None, fronts))


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
    columns = results.columns_by_metric
    quality = quality or next(filter(columns.__contains__, DISTANCES), BITS)
    if quality not in columns or speed not in columns:
        return None

    readings: dict[str, dict[int, tuple[float, float]]] = {}
    for arm in results.arms:
        speeds = arm.values(speed)
        qualities = arm.values(quality) if is_comparable(results, arm, quality) else {}
        common = sorted(speeds.keys() & qualities.keys())
        readings[arm.name] = {seed: (speeds[seed], qualities[seed]) for seed in common}

    doubt = unreliable_speeds(results) if speed.startswith("speed/") else ""
    front = frontier_from_readings(columns[quality], columns[speed], readings, doubt)
    if front is None:
        return None

    effects = compare_arms(results, [quality]) if effects is None else effects
    supported = frozenset(
        effect.arm for effect in effects if effect.metric == quality and effect.supported
    )
    bounds = incomparable_bounds(results) if quality.startswith("val/") else []

    return replace(
        front,
        regime=results.baseline_arm.regime,
        baseline=results.baseline,
        supported=supported,
        bounds=tuple(bounds),
    )


def frontier_from_readings(
    quality: Column,
    speed: Column,
    readings: Mapping[str, Mapping[int, tuple[float, float]]],
    doubt: str = "",
) -> Frontier | None:
    """The frontier of arms by their readings: arm → seed → (speed, quality) as measured; None
    where no arm has any.

    doubt: why the speeds are unreliable.
    """

    def point(reading: tuple[float, float]) -> Point:
        return _cost(speed, reading[0]), _cost(quality, reading[1])

    points = {}
    means = {}
    missing = []
    for arm, by_seed in readings.items():
        if by_seed:
            speeds, qualities = zip(*by_seed.values(), strict=True)
            points[arm] = {seed: point(reading) for seed, reading in by_seed.items()}
            means[arm] = point((statistics.fmean(speeds), statistics.fmean(qualities)))
        else:
            missing.append(arm)

    if not points:
        return None

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
        volume(points),
        doubt,
    )


def _cost(column: Column, value: float) -> float:
    if column.less:
        return value
    return 1000 / value if column.metric == SPEED else -value


_back = _cost  # the function is its own inverse


def quality_metrics(results: Results) -> list[str]:
    """The metrics of quality that are set against speed: bits/dim, or the gap to the truth, and
    the Fréchet distances.
    """
    measured = results.columns_by_metric
    likelihood = GAP if GAP in measured else BITS
    return list(filter(measured.__contains__, (likelihood, *DISTANCES)))


def frontier_sentences(f: Frontier) -> list[str]:
    """The front and its attainment, the dominated arms, the matched values, the hypervolume, and
    the arms without a place.

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

    return [f"{f.regime}: {line}" for line in lines] if f.regime else lines


def _front_line(f: Frontier) -> str:
    unsure = ""
    arms = f.front
    if f.attained:
        arms = [f"{arm} ({100 * f.attained[arm]:.0f} % of seeds)" for arm in f.front]
    else:
        unsure = " Fewer than two seeds have all arms, so nothing is said of how sure it is."
    bend = f" It bends at {f.knee}." if f.knee else ""

    return (
        f"{f.quality.heading} against {f.speed.heading}: the front of means is "
        f"{join_names(arms)}.{bend}{unsure}"
    )


def _dominated_line(f: Frontier) -> list[str]:
    """Arms that are worse in both, and those of them that are on the front of some seed."""
    if not f.dominated:
        return []

    at_times = []
    for arm in f.dominated:
        if share := f.attained.get(arm):
            at_times.append(f"{arm} ({100 * share:.0f} %)")
    but = f" On the front of some seeds none the less: {join_names(at_times)}." if at_times else ""
    worse = f"the other {len(f.dominated)} arms"
    if len(f.dominated) <= _NAMED:
        worse = join_names(f.dominated)

    return [f"Others are at least as good in both readings as {worse}.{but}"]


def _matched(f: Frontier) -> list[str]:
    """The best quality at the baseline's speed, and the fastest arm at its quality, each with
    whether its difference in quality is resolved.
    """
    baseline = f.baseline
    if baseline not in f.means:
        return []

    cost, loss = f.means[baseline]
    speed = _number(f.speed, cost)
    quality = _number(f.quality, loss)
    heading = f.quality.heading

    def unsure(arm: str) -> str:
        if arm in f.supported:
            return ""
        return f" (by the means: its difference in {heading} is not resolved)"

    best = best_at(f.means, cost)
    if best in (None, baseline):
        at_speed = (
            f"No arm as fast as {baseline} ({speed}) has a better mean {heading} ({quality})."
        )
    else:
        value = _number(f.quality, f.means[best][1])
        at_speed = (
            f"At the speed of {baseline} ({speed}) or faster, {best} has the best mean"
            f" {heading}: {value} against {quality}{unsure(best)}."
        )

    fastest = cheapest_at(f.means, loss)
    if fastest in (None, baseline):
        at_quality = (
            f"No arm with the {heading} of {baseline} ({quality}) or better is faster on "
            f"average ({speed})."
        )
    else:
        value = _number(f.speed, f.means[fastest][0])
        at_quality = (
            f"With the {heading} of {baseline} ({quality}) or better, {fastest} is the"
            f" fastest: {value} against {speed}{unsure(fastest)}."
        )

    return [at_speed, at_quality]


def _number(column: Column, cost: float) -> str:
    value = f"{_back(column, cost):,.{column.digits}f}"
    return f"{value} {column.heading}" if column.metric == SPEED else value


def _volume_line(f: Frontier) -> list[str]:
    if f.hypervolume is None or f.hypervolume.n < 2 or len(f.points) < 2:
        return []

    mean = f.hypervolume.mean
    low = max(0.0, mean - f.hypervolume.half)
    high = min(1.0, mean + f.hypervolume.half)
    return [
        f"A seed's front dominates {mean:.3f} [{low:.3f}, {high:.3f}] of the box from the best to"
        f" the worst seen (hypervolume, n = {f.hypervolume.n})."
    ]
