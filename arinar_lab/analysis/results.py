"""Results of a study: of every arm its settings, and one report.json for each finished seed.

Results hold numbers, labels and paths. They know no plan, no recipe and no run folder:
`study/collect.py` makes them of a study, `cli/compare.py` of the runs that a user names. What
follows from them is in `analyse.py`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..metrics import BITS, COLUMNS, DISTANCE, DISTANCES, FEW, Column
from .paper_rows import PaperRow
from .statistics import Interval, interval

Report = dict[str, Any]
"""The content of a report.json."""
_TRUNCATED = "quality/truncated_share"


@dataclass(frozen=True)
class Folders:
    """Where the files of one run are: those of its training, and those of the
    evaluation that is reported.
    """

    run: Path
    evaluation: Path


@dataclass(frozen=True)
class ArmResult:
    """The runs of one arm.

    Arguments:
        name: of the arm, with its budget.
        settings: its recipe as plain data, every default written out.
        reports: seed → report, of the finished runs.
        folders: seed → where its files are, of all runs.
        likelihood: exact, bound, estimate, surrogate or none.
        inexact: the kinds of its parts whose likelihood is not exact, as in `masked+diffusion`.
        factors: its value of each axis of the study.
        accelerators: options of its sampler that trade exactness for speed, as far as they are on.
        matched: the setting that was solved for equal cost, as in `outer.width=72`.
        budget: the label of its budget, as in `steps×4`; empty in a study without budgets.
        signature: of its training.
        failures: seed → why the run failed.
        unreadable: seed → the report.json that cannot be read.
    """

    name: str
    settings: dict[str, Any]
    reports: dict[int, Report]
    folders: dict[int, Folders] = field(default_factory=dict)
    likelihood: str = "exact"
    inexact: str = ""
    factors: tuple[Any, ...] = ()
    accelerators: dict[str, float | str] = field(default_factory=dict)
    matched: str = ""
    budget: str = ""
    signature: str = ""
    failures: dict[int, str] = field(default_factory=dict)
    unreadable: dict[int, Path] = field(default_factory=dict)

    @property
    def design(self) -> str:
        """Its name without its budget."""
        return self.name.removesuffix(f" @ {self.budget}")

    def values(self, metric: str) -> dict[int, float]:
        """Seed → value, of the seeds that measured it as a finite number."""
        values = {}
        for seed, report in self.reports.items():
            value = report["metrics"].get(metric, math.nan)
            if math.isfinite(value):
                values[seed] = value
        return values

    def not_finite(self, metric: str) -> list[int]:
        """Seeds whose value is NaN or infinite."""
        seeds = []
        for seed, report in self.reports.items():
            if not math.isfinite(report["metrics"].get(metric, 0.0)):
                seeds.append(seed)
        return seeds

    def summary(self, metric: str) -> Interval | None:
        """Mean over seeds and its 95 % interval; None where no seed measured the metric."""
        values = list(self.values(metric).values())
        return interval(values) if values else None

    def floor(self, metric: str) -> tuple[float, int | None] | None:
        """What held-out images reach in a metric, and how many they are where the arm's
        images are not as many.

        A distance falls as images are added, so a floor is that of its own number. None where
        it was not measured.
        """
        name = f"{DISTANCE if metric == FEW else metric}_floor"
        floors = list(self.values(name).values())
        if not floors or (metric == FEW and not self.values(FEW)):
            return None

        report = self.reports[next(iter(self.values(name)))]
        measured = report.get("quality" if name.startswith(DISTANCE) else "fidelity", {})
        held_out = measured.get("floor_images", 0)
        unequal = metric in DISTANCES and held_out > 0 and held_out != measured.get("images", 0)

        return statistics.fmean(floors), held_out if unequal else None

    def evaluation_noise(self, metric: str) -> float | None:
        """Half-width of a value's 95 % interval over images, root mean square over seeds;
        None where not measured.
        """
        halves = [report.get("noise", {}).get(metric, math.nan) for report in self.reports.values()]
        squares = [half**2 for half in halves if math.isfinite(half)]
        return math.sqrt(statistics.fmean(squares)) if squares else None


@dataclass(frozen=True)
class Results:
    """The results of a study, or of runs that are compared like one.

    Arguments:
        name: of the study; question: that it answers; folder: of its files.
        arms: in the order of the table; baseline: an arm's name; seeds: that every arm should have.
        axes: the keys that were varied on a grid; varied: all keys in which the
            recipes of the arms differ.
        budgets: labels of the budgets at which every arm stands, the smallest first.
        papers: rows from papers; references: bits/dim of outside estimators by name.
    """

    name: str
    arms: tuple[ArmResult, ...]
    baseline: str
    seeds: tuple[int, ...]
    question: str = ""
    folder: Path = Path()
    axes: tuple[str, ...] = ()
    varied: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ()
    papers: tuple[PaperRow, ...] = ()
    references: Mapping[str, float] = field(default_factory=dict)

    @property
    def reports(self) -> dict[str, dict[int, Report]]:
        """Arm's name → seed → report."""
        return {arm.name: arm.reports for arm in self.arms}

    @property
    def any_report(self) -> Report:
        """The first report; empty where no run is finished."""
        return next((report for *_, report in self.runs), {})

    @property
    def runs(self) -> Iterator[tuple[ArmResult, int, Report]]:
        """Every finished run: arm, seed, report."""
        for arm in self.arms:
            for seed, report in arm.reports.items():
                yield arm, seed, report

    @property
    def missing(self) -> list[tuple[ArmResult, int]]:
        """Arm and seed of every run that has no report."""
        return [(arm, seed) for arm in self.arms for seed in self.seeds if seed not in arm.reports]

    @property
    def columns(self) -> list[Column]:
        """Columns of the table that hold something; `truncated` only where
        something was truncated.
        """
        in_papers = {metric for row in self.papers for metric in row.values}
        truncated = any(any(arm.values(_TRUNCATED).values()) for arm in self.arms)

        columns = []
        for column in COLUMNS:
            measured = any(arm.values(column.metric) for arm in self.arms)
            if (measured or column.metric in in_papers) and (
                truncated or column.metric != _TRUNCATED
            ):
                columns.append(column)
        return columns

    @property
    def baseline_arm(self) -> ArmResult:
        """The arm that the others are compared with."""
        return next(arm for arm in self.arms if arm.name == self.baseline)

    @property
    def baselines(self) -> tuple[str, ...]:
        """The name of the baseline, or of that of each budget."""
        return tuple(part.baseline for part in self.by_budget)

    @property
    def by_budget(self) -> list[Results]:
        """The arms of each budget by themselves, since those are compared; all arms in a
        study without budgets.
        """
        return [self.at(budget) for budget in self.budgets] or [self]

    def at(self, budget: str) -> Results:
        """The arms of one budget, and the baseline among them."""
        arms = tuple(arm for arm in self.arms if arm.budget == budget)
        return replace(
            self, arms=arms, baseline=f"{self.baseline_arm.design} @ {budget}", budgets=()
        )

    @property
    def criterion(self) -> str:
        """The metric by which arms are ranked: bits/dim, or a Fréchet distance where an
        arm has no likelihood.
        """
        return DISTANCE if any(arm.likelihood == "none" for arm in self.arms) else BITS
