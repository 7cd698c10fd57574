"""What may be concluded from a few seeds: means with t-intervals, and differences paired by seed.

    mean ± t(0.975, n-1) · s / √n          95 % interval of the mean over n seeds (training noise)

Seeds are repeats under common random numbers: two arms of one seed share their data order, masks, dequantisation and,
wherever they have the same part, their initial weights. A difference is therefore taken seed by seed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import t as student


@dataclass(frozen=True)
class Interval:
    """A mean and the half-width of its 95 % interval (infinite for one value)."""

    mean: float
    half: float
    n: int

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes zero."""
        return abs(self.mean) > self.half

    def text(self, digits: int = 3) -> str:
        """`2.120 ± 0.013`; `2.120` alone where one value says nothing of its spread, or there is none."""
        mean = f"{self.mean:,.{digits}f}"
        return f"{mean} ± {self.half:.{digits}f}" if self.n > 1 and self.half > 0 else mean


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % t-interval of independent values.

    Raises:
        ValueError: if there are none.
    """
    n = len(values)
    if n == 0:
        raise ValueError("an interval needs at least one value")
    if n == 1:
        return Interval(values[0], math.inf, 1)
    half = float(student.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return Interval(statistics.fmean(values), half, n)


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Interval | None:
    """Interval of the difference to a baseline, over the seeds that both have; None where they share none."""
    common = sorted(values.keys() & baseline.keys())
    return interval([values[seed] - baseline[seed] for seed in common]) if common else None


def pareto(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points that no other is at least as good as in everything and better in something; less is better."""

    def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))

    return [i for i, p in enumerate(points) if not any(dominates(q, p) for q in points)]


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Volume of what is worse than a point and better than the reference; less is better in every dimension.

    Slices the last dimension at the points: within a slice the volume is that of the points below it, in one dimension
    less. Exact; about n^(d-1) steps for d dimensions, d > 1.
    """
    inside = [p for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(p[0] for p in inside)
    inside.sort(key=lambda p: p[-1])
    ends = [*(p[-1] for p in inside[1:]), reference[-1]]
    return sum(
        (end - p[-1]) * hypervolume([q[:-1] for q in inside[: i + 1]], reference[:-1])
        for i, (p, end) in enumerate(zip(inside, ends, strict=True))
        if end > p[-1]
    )
