"""What reports say of the conditions of their numbers, and why speeds say little."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..metrics import SPEED
from ..study.plan import Arm
from .results import Results
from .text import join_names

Report = dict[str, Any]
_UNEVEN = 1.3  # times as fast, beyond which speeds of one thing were not taken alike


def finished_runs(results: Results) -> Iterator[tuple[Arm, int, Report]]:
    """Every finished run: arm, seed, report."""
    for arm in results.plan.arms:
        for seed, report in results.reports[arm.name].items():
            yield arm, seed, report


def report_value(report: Report, *keys: str) -> Any:
    """report[key][key]…, None where the report lacks it."""
    found: Any = report
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def unreliable(reports: Sequence[Report], speeds: Mapping[str, Sequence[float]]) -> str:
    """Why speeds say little: others computed beside them, or they differ from seed to seed, or
    between days, as if so.

    Arguments:
        speeds: arm → of each seed, in images/s.
    """
    found = [
        (report_value(r, "speed", "load_average"), report_value(r, "environment", "cpus"))
        for r in reports
    ]
    loads = [load for load, cpus in found if load is not None and cpus and load > 1.25 * cpus]
    rates = [rate for r in reports if (rate := report_value(r, "speed", "gflops"))]

    said = []
    if loads:
        said.append(
            f"other programs were at work while {len(loads)} of {len(found)} speeds were taken"
            f" (load average up to {max(loads):.1f} on {found[0][1]} CPUs)"
        )

    if uneven := [
        name for name, seen in speeds.items() if len(seen) > 1 and max(seen) > _UNEVEN * min(seen)
    ]:
        said.append(
            f"the speeds of one arm differ from seed to seed by more than {_UNEVEN - 1:.0%} "
            f"({join_names(uneven)})"
        )

    if rates and max(rates) > _UNEVEN * min(rates):
        said.append(
            "the machine itself was not as fast at all times (its matrix product"
            f" {min(rates):,.0f} to {max(rates):,.0f} GFLOP/s when speeds were taken)"
        )

    return "; ".join(said)


def unreliable_speeds(results: Results) -> str:
    """The same of a study; empty where nothing speaks against its speeds."""
    speeds = {arm.name: list(results.values(arm, SPEED).values()) for arm in results.plan.arms}
    return unreliable([report for *_, report in finished_runs(results)], speeds)
