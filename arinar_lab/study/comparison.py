"""Arms against the baseline: the difference of every reading, paired by seed, and what may be concluded from it."""

from __future__ import annotations

from .results import BITS, DISTANCE, LEVEL, Column, Results
from .stats import Interval, paired


def effects(results: Results) -> list[str]:
    """One line for each arm and reading: the difference to the baseline, paired by seed, and whether it is resolved."""
    lines = []
    for column in [c for c in results.columns if c.metric in (BITS, LEVEL, DISTANCE)]:
        for arm in results.plan.arms:
            baseline = results.values(results.baseline, column.metric)
            difference = None if arm == results.baseline else paired(results.values(arm, column.metric), baseline)
            if difference is None:
                continue
            verdict = _verdict(difference, column)
            number = f"{difference.mean:+.{column.digits}f}" + (
                f" ± {difference.half:.{column.digits}f}" if difference.n > 1 else ""
            )
            lines.append(
                f"{column.heading}: {arm.name} against {results.plan.baseline}: {number} (n = {difference.n}): {verdict}"
            )
    return lines


def _verdict(difference: Interval, column: Column) -> str:
    if difference.n < 2:
        return "one seed resolves nothing"
    if not difference.resolved:
        return "not resolved"
    return "better" if (difference.mean < 0) == bool(column.less) else "worse"
