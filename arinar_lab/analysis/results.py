"""What the finished cells of a study say: one value of each metric for every arm and seed, and its
interval over seeds.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from typing import Any

from ..metrics import COLUMNS, DISTANCE, DISTANCES, FEW, Column
from ..study.plan import Arm, Plan
from .statistics import Interval, interval


@dataclass(frozen=True)
class Results:
    """What the finished cells of a study say.

    Arguments:
        plan: the study.
        reports: arm name → seed → report.json.
        references: bits/dim of outside estimators by name.
    """

    plan: Plan
    reports: dict[str, dict[int, dict[str, Any]]]
    references: dict[str, float]

    def values(self, arm: Arm, metric: str) -> dict[int, float]:
        """Seed → value, of the seeds that have it; what is not finite has no mean, and is
        left to `not_finite`.
        """
        measured = {
            s: report["metrics"].get(metric, math.nan)
            for s, report in self.reports[arm.name].items()
        }
        return {seed: value for seed, value in measured.items() if math.isfinite(value)}

    def not_finite(self, arm: Arm, metric: str) -> list[int]:
        """Seeds whose value is NaN or infinite."""
        reports = self.reports[arm.name].items()
        return [
            seed
            for seed, r in reports
            if metric in r["metrics"] and not math.isfinite(r["metrics"][metric])
        ]

    def summary(self, arm: Arm, metric: str) -> Interval | None:
        values = list(self.values(arm, metric).values())
        return interval(values) if values else None

    def floor(self, arm: Arm, metric: str) -> tuple[float, int | None] | None:
        """What held-out images reach in a metric, mean over seeds, and their number where the arm's
        images are not as many.

        A distance falls as images are added, so a floor is that of its own number. None where
        it was not measured.
        """
        name = f"{DISTANCE if metric == FEW else metric}_floor"
        reports = [
            r
            for r in self.reports[arm.name].values()
            if math.isfinite(r["metrics"].get(name, math.nan))
        ]
        if not reports or (metric == FEW and not self.values(arm, FEW)):
            return None
        about = reports[0].get("quality" if name.startswith(DISTANCE) else "fidelity", {})
        few, many = about.get("floor_images", 0), about.get("images", 0)
        unlike = metric in DISTANCES and few > 0 and few != many

        return statistics.fmean(r["metrics"][name] for r in reports), few if unlike else None

    def evaluation_noise(self, arm: Arm, metric: str) -> float | None:
        """Half-width of a value's 95 % interval over images, root mean square over the seeds;
        None where not measured.
        """
        noises = [
            r["noise"][metric]
            for r in self.reports[arm.name].values()
            if metric in r.get("noise", {})
        ]
        halves = [half for half in noises if math.isfinite(half)]
        return math.sqrt(statistics.fmean(half**2 for half in halves)) if halves else None

    @property
    def columns(self) -> list[Column]:
        """Columns that hold something; `truncated` only where something was."""
        theirs = {metric for row in self.plan.papers for metric in row.values}
        found = [
            c
            for c in COLUMNS
            if c.metric in theirs or any(self.values(arm, c.metric) for arm in self.plan.arms)
        ]
        truncated = any(
            any(self.values(arm, "quality/truncated_share").values()) for arm in self.plan.arms
        )

        return [c for c in found if truncated or c.metric != "quality/truncated_share"]

    @property
    def by_budget(self) -> list[Results]:
        """What is compared with what: the arms of each budget by themselves; all of them in a
        study without budgets.
        """
        return [replace(self, plan=self.plan.at(budget)) for budget in self.plan.budgets] or [self]

    @property
    def baseline(self) -> Arm:
        return next(arm for arm in self.plan.arms if arm.name == self.plan.baseline)

    @property
    def any_report(self) -> dict[str, Any]:
        return next((r for by_seed in self.reports.values() for r in by_seed.values()), {})
