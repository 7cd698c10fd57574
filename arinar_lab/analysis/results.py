"""Results of a study: of every arm its settings, and one report.json for each finished seed.

Results hold numbers, labels and paths; they know no plan, no recipe and no run folder.
`study/collect.py` makes them of a study, `cli/compare.py` of the runs that a user names, and
`analyse.py` draws the conclusions.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..metrics import (
    COLUMNS,
    DISTANCE,
    DISTANCES,
    FEW,
    MATTERS,
    METRICS,
    TRUNCATED,
    Column,
    ranking_metric,
)
from ..significance.statistics import Interval, interval

if TYPE_CHECKING:
    from .paper_rows import PaperRow

Report = dict[str, Any]
"""The content of a report.json."""


@dataclass(frozen=True)
class Folders:
    """The folders of one run: that of its training, and that of its reported evaluation."""

    run: Path
    evaluation: Path


@dataclass(frozen=True)
class ArmResult:
    """The runs of one arm.

    Arguments:
        name: The arm's name, with its regime.
        settings: The recipe as plain data, every default written out.
        reports: Seed → report, of the finished runs.
        folders: Seed → folders of its files, of all runs.
        likelihood: exact, bound, estimate, surrogate or none.
        distance: The metric that ranks it where an arm has no likelihood.
        inexact: The kinds of its parts whose likelihood is not exact, as in `masked+diffusion`.
        factors: The arm's value of each axis of the study.
        accelerators: Options of the sampler that trade exactness for speed, if they are on.
        matched: The setting that was solved for equal cost, as in `outer.width=72`.
        regime: The label of its regime, as in `steps×4`; empty in a study without regimes.
        signature: The signature of its training.
        failures: Seed → error of the failed run.
        unreadable: Seed → the report.json that cannot be read.
        damaged: Other file of a finished run → why it cannot be read; what rests on it lacks it.
        image_bits: Seed → bits/dim of each held-out image, [n]; of runs that kept them.
    """

    name: str
    settings: dict[str, Any]
    reports: dict[int, Report]
    folders: dict[int, Folders] = field(default_factory=dict)
    likelihood: str = "exact"
    distance: str = DISTANCE
    inexact: str = ""
    factors: tuple[Any, ...] = ()
    accelerators: dict[str, float | str] = field(default_factory=dict)
    matched: str = ""
    regime: str = ""
    signature: str = ""
    failures: dict[int, str] = field(default_factory=dict)
    unreadable: dict[int, Path] = field(default_factory=dict)
    damaged: Mapping[Path, str] = field(default_factory=dict)
    image_bits: Mapping[int, np.ndarray] = field(default_factory=dict, compare=False)

    @property
    def design(self) -> str:
        """Its name without its regime."""
        return self.name.removesuffix(f" @ {self.regime}")

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
        """The value that held-out images reach in a metric, the mean over seeds, and their
        number if the arm's images are not as many; None where it was not measured.

        A distance falls as images are added, so a floor holds for its own number of images.
        """
        floors = self.values(f"{metric.removesuffix(FEW)}_floor")
        if not floors or not self.values(metric):
            return None

        report = self.reports[next(iter(floors))]
        measured = report.get("quality" if METRICS[metric].classifier else "fidelity", {})
        held_out = measured.get("floor_images", 0)
        unequal = metric in DISTANCES and held_out > 0 and held_out != measured.get("images", 0)

        return statistics.fmean(floors.values()), held_out if unequal else None

    def evaluation_noise(self, metric: str) -> float | None:
        """Half-width of a value's 95 % interval over images, root mean square over seeds;
        None where not measured.
        """
        squares = []
        for report in self.reports.values():
            half = report.get("noise", {}).get(metric, math.nan)
            if math.isfinite(half):
                squares.append(half**2)
        return math.sqrt(statistics.fmean(squares)) if squares else None


@dataclass(frozen=True)
class Results:
    """The results of a study, or of runs that are compared like one.

    Arguments:
        name: The study's name.
        arms: The arms, in the order of the table.
        baseline: The name of the arm that the others are compared with.
        seeds: The seeds that every arm should have.
        baseline_seeds: The seeds of the baseline; `seeds`, or more.
        question: The question that the study answers.
        folder: The folder of its files.
        axes: The keys that were varied on a grid.
        varied: All keys in which the recipes of the arms differ.
        regimes: Labels of the regimes at which every arm stands, the smallest first.
        papers: Rows from papers.
        references: Name → bits/dim of an outside estimator.
        matters: Metric → the difference that matters; smaller ones may be called equivalent.
        pooled: Whether the tests pool spreads over arms.
        family: Whether p is corrected over the arms in one metric, or over the arms in all metrics
            of `matters` together.
        looks: Seeds at each look so far; empty for the only look at a fixed number.
        most_seeds: The most seeds of a study that grows until it is resolved; 0 for a fixed number.
    """

    name: str
    arms: tuple[ArmResult, ...]
    baseline: str
    seeds: tuple[int, ...]
    baseline_seeds: tuple[int, ...] = ()
    question: str = ""
    folder: Path = Path()
    axes: tuple[str, ...] = ()
    varied: tuple[str, ...] = ()
    regimes: tuple[str, ...] = ()
    papers: tuple[PaperRow, ...] = ()
    references: Mapping[str, float] = field(default_factory=dict)
    matters: Mapping[str, float] = field(default_factory=lambda: MATTERS)
    pooled: bool = True
    family: Literal["metric", "matters"] = "metric"
    looks: tuple[int, ...] = ()
    most_seeds: int = 0

    @cached_property
    def by_name(self) -> dict[str, ArmResult]:
        """Arm's name → arm."""
        return {arm.name: arm for arm in self.arms}

    @property
    def reports(self) -> dict[str, dict[int, Report]]:
        """Arm's name → seed → report."""
        return {arm.name: arm.reports for arm in self.arms}

    @property
    def runs(self) -> Iterator[tuple[ArmResult, int, Report]]:
        """Every finished run: arm, seed, report."""
        for arm in self.arms:
            for seed, report in arm.reports.items():
                yield arm, seed, report

    @property
    def every_report(self) -> list[Report]:
        """The report of every finished run."""
        return [report for *_, report in self.runs]

    @property
    def any_report(self) -> Report:
        """The first report; empty where no run is finished."""
        return next(iter(self.every_report), {})

    def seeds_of(self, arm: ArmResult) -> tuple[int, ...]:
        """The seeds that an arm should have."""
        is_baseline = arm.name in self.baselines
        return (self.baseline_seeds or self.seeds) if is_baseline else self.seeds

    @property
    def planned(self) -> int:
        """The number of runs that the study should have."""
        return sum(len(self.seeds_of(arm)) for arm in self.arms)

    @property
    def missing(self) -> list[tuple[ArmResult, int]]:
        """Arm and seed of every run that has no report."""
        missing = []
        for arm in self.arms:
            for seed in self.seeds_of(arm):
                if seed not in arm.reports:
                    missing.append((arm, seed))
        return missing

    @property
    def missing_names(self) -> list[str]:
        """`components=4 seed 2`, for every run that has no report."""
        return [f"{arm.name} seed {seed}" for arm, seed in self.missing]

    @property
    def without_likelihood(self) -> list[str]:
        """Names of the arms that have no likelihood."""
        return [arm.name for arm in self.arms if arm.likelihood == "none"]

    def values(self, metric: str) -> list[float]:
        """The finite values of all runs."""
        values: list[float] = []
        for arm in self.arms:
            values += arm.values(metric).values()
        return values

    @property
    def columns(self) -> list[Column]:
        """Columns of the table that hold a number; that of truncation only where a run has some."""
        in_papers = set[str]().union(*(row.values for row in self.papers))
        columns = []
        for column in COLUMNS.values():
            values = self.values(column.metric)
            if column.metric == TRUNCATED and not any(values):
                continue
            if values or column.metric in in_papers:
                columns.append(column)
        return columns

    @property
    def columns_by_metric(self) -> dict[str, Column]:
        """Metric → its column of the table."""
        return {column.metric: column for column in self.columns}

    @property
    def baseline_arm(self) -> ArmResult:
        """The arm that the others are compared with."""
        return self.by_name[self.baseline]

    @property
    def baselines(self) -> tuple[str, ...]:
        """The name of the baseline, or of that of each regime."""
        return tuple(part.baseline for part in self.by_regime)

    @property
    def by_regime(self) -> list[Results]:
        """The results in each regime, within which arms are compared; else all results."""
        return list(map(self.at, self.regimes)) or [self]

    def at(self, regime: str) -> Results:
        """The arms of one regime, and the baseline among them."""
        arms = tuple(arm for arm in self.arms if arm.regime == regime)
        baseline = f"{self.baseline_arm.design} @ {regime}"
        return replace(self, arms=arms, baseline=baseline, regimes=())

    @property
    def criterion(self) -> str:
        """The metric that ranks arms: bits/dim, or a distance where an arm has no likelihood."""
        return ranking_metric((arm.likelihood for arm in self.arms), self.arms[0].distance)
