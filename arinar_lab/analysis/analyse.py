"""The analysis of a study: everything that follows from its results, computed once. Every
renderer shows this value.

effects       each arm against the baseline, in every metric that claims are made of
fronts        quality against speed, of each budget by itself
agreements    whether the ranking of arms at the first budget lasts at the others
cautions      what is missing, what may therefore not be concluded, and what is not
              alike among the runs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..metrics import COLUMNS, GAP, HEADINGS, Column
from .comparison import CLAIMS, Effect, compare_arms, outlying_runs, summary
from .conditions import (
    commit_of,
    differing_conditions,
    incomparable_bounds,
    kinds_of,
    references_differ,
    report_value,
    shared_value,
    units_of,
    unreliable_speeds,
)
from .outliers import Run
from .pareto import Frontier, frontier, frontier_sentences, frontiers, quality_metrics
from .rank_agreement import Agreement, agreements
from .results import ArmResult, Results
from .text import join_names

Kind = Literal["runs", "likelihood", "quality", "speed"]
_KINDS: dict[str, Kind] = {
    "val": "likelihood",
    "train": "likelihood",
    "quality": "quality",
    "speed": "speed",
}
"""What a metric is of, by the first word of its name."""


@dataclass(frozen=True)
class Caution:
    """A reason not to conclude what the numbers seem to show.

    Arguments:
        kind: the metrics that it touches; `runs` touches all. text: sentences.
    """

    kind: Kind
    text: str

    def touches(self, metric: str) -> bool:
        return self.kind in ("runs", _KINDS.get(metric.partition("/")[0]))


@dataclass(frozen=True)
class Analysis:
    """What follows from the results of a study.

    Arguments:
        results: the numbers themselves. columns: of the table.
        effects: each arm against the baseline of its budget.
        fronts: each quality against images/s, of each budget. panels: the same of all arms
            together, for a figure.
        agreements: how each later budget ranks the arms against the first.
        outlying: metric → arm and seed of the runs that lie far from the other seeds of their arm.
        cautions: in the order in which they are shown.
    """

    results: Results
    columns: tuple[Column, ...]
    effects: tuple[Effect, ...]
    fronts: tuple[Frontier, ...]
    panels: tuple[Frontier, ...]
    agreements: tuple[Agreement, ...]
    outlying: Mapping[str, Sequence[Run]]
    cautions: tuple[Caution, ...]

    @property
    def differences(self) -> list[str]:
        """A line for each effect, with its interval and verdict."""
        return [effect.line for effect in self.effects]

    @property
    def verdicts(self) -> list[str]:
        """For each metric, which arms are better, worse or not resolved."""
        return summary(self.effects)

    @property
    def against_speed(self) -> list[str]:
        """Sentences on quality against speed."""
        return [sentence for front in self.fronts for sentence in frontier_sentences(front)]

    @property
    def ranking(self) -> list[str]:
        """A line for each metric and budget; none in a study without budgets."""
        return [agreement.text() for agreement in self.agreements]

    def touching(self, *metrics: str) -> list[str]:
        """The cautions that touch some metrics."""
        return [
            caution.text
            for caution in self.cautions
            if any(caution.touches(metric) for metric in metrics)
        ]

    def is_baseline(self, arm: str) -> bool:
        """Whether an arm is the baseline, or that of a budget."""
        return arm in self.results.baselines


def analyse(results: Results) -> Analysis:
    """Compute everything that follows from the results of a study."""
    outlying = outlying_runs(results, (*CLAIMS, GAP))
    compared = compare_arms(results, (*CLAIMS, GAP), outlying)
    fronts = frontiers(results, compared)
    panels = fronts
    if results.budgets:
        together = [
            frontier(results, quality, effects=compared) for quality in quality_metrics(results)
        ]
        panels = [front for front in together if front]

    return Analysis(
        results,
        tuple(results.columns),
        tuple(effect for effect in compared if effect.metric in CLAIMS),
        tuple(fronts),
        tuple(panels),
        tuple(agreements(results)),
        outlying,
        tuple(cautions(results, outlying)),
    )


# What stands between the numbers and a conclusion


def cautions(results: Results, outlying: Mapping[str, Sequence[Run]]) -> list[Caution]:
    """What is missing, what therefore may not be concluded, and what is not
    alike among the runs.
    """
    return [
        *_missing(results),
        *_not_finite(results),
        *_few(results),
        *_loose_likelihoods(results),
        *_unlike(results),
        *_two_references(results),
        *outlier_cautions(results, outlying),
        *_busy(results),
    ]


def _missing(results: Results) -> list[Caution]:
    """Runs that are missing, and arms that are compared with none, or without pairs."""
    missing = results.missing
    texts = []
    if missing:
        names = join_names(f"{arm.name} seed {seed}" for arm, seed in missing)
        texts.append(
            f"Missing: {names}. Nothing may be concluded about arms with fewer than two seeds."
        )

    for arm, seed in missing:
        if seed in arm.failures:
            texts.append(f"Failed: {arm.name} seed {seed}: {arm.failures[seed]}")
        elif seed in arm.unreadable:
            file = arm.unreadable[seed]
            texts.append(
                f"Unreadable: {file}; remove it, and arinar ablate evaluates that run anew"
            )

    if any(arm.reports for arm, _ in missing):
        texts.append(
            "Where seeds are missing because they failed, what is left of an arm looks "
            "better than it is."
        )

    if missing and not results.baseline_arm.reports:
        texts.append(
            f"The baseline {results.baseline} has no finished run: no arm can be compared with it."
        )

    if unpaired := _unpaired(results):
        texts.append(
            "Compared without pairs, which resolves less, for want of a seed in common with the"
            f" baseline: {join_names(unpaired)}."
        )

    return [Caution("runs", text) for text in texts]


def _unpaired(results: Results) -> list[str]:
    """Arms that no seed pairs with the baseline."""
    names = []
    for part in results.by_budget:
        seeds = part.baseline_arm.reports.keys()
        for arm in part.arms:
            if seeds and arm.reports and not arm.reports.keys() & seeds:
                names.append(arm.name)
    return names


def _not_finite(results: Results) -> list[Caution]:
    """Values that are NaN or infinite: no mean has them, and without them an arm
    looks better than it is.
    """
    names: dict[Kind, set[str]] = {}
    for column in COLUMNS:
        kind = _KINDS.get(column.metric.partition("/")[0], "runs")
        for arm in results.arms:
            if seeds := arm.not_finite(column.metric):
                name = f"{column.heading} of {arm.name} seed {', '.join(map(str, seeds))}"
                names.setdefault(kind, set()).add(name)

    consequence = "What is left of these arms looks better than they are."
    return [
        Caution(kind, f"Not finite, and in no mean: {'; '.join(sorted(of_kind))}. {consequence}")
        for kind, of_kind in names.items()
    ]


def _few(results: Results) -> list[Caution]:
    """Noise that cannot be told."""
    reports = [report for *_, report in results.runs]
    texts = []
    if reports and len(results.seeds) == 1:
        texts.append(
            "One seed says nothing of training noise: a difference between two arms may be chance."
        )

    return [Caution("runs", text) for text in texts]


def _loose_likelihoods(results: Results) -> list[Caution]:
    """Arms whose bits/dim are bounds or estimates, where not all are the same."""
    kinds = {arm.name: set(kinds_of(arm)) for arm in results.arms}
    inexact = []
    for name, of_arm in kinds.items():
        if any(kind.startswith(("bound", "estimate")) for kind in of_arm):
            inexact.append(name)

    alike = len(set().union(*kinds.values())) == 1 and not incomparable_bounds(results)
    if not inexact or alike:
        return []
    text = (
        f"Not every likelihood is exact: of {join_names(inexact)} it is a bound or an estimate. A"
        " looser bound does not show a worse model, so only bounds of one kind and number of steps"
        " are told apart."
    )
    return [Caution("likelihood", text)]


_ALIKE: dict[str, tuple[Kind, str, str]] = {
    "the speed's device": ("speed", "speed", "device"),
    "the speed's threads": ("speed", "speed", "threads"),
    "the speed's batch": ("speed", "speed", "batch"),
    "the speed's precision": ("speed", "speed", "precision"),
    "the speed's repeats": ("speed", "speed", "repeats"),
    "the number of held-out items": ("likelihood", "likelihood", "images"),
    "the draws for a likelihood": ("likelihood", "likelihood", "draws"),
    "the resolution of a likelihood": ("likelihood", "likelihood", "resolution"),
    "the precision of a likelihood": ("likelihood", "likelihood", "precision"),
    "the number of generated images": ("quality", "quality", "images"),
    "the images compared with": ("quality", "quality", "reference"),
    "the precision of images": ("quality", "quality", "precision"),
}
"""What all runs should share: the metrics that it touches, and where a report states it."""


def _unlike(results: Results) -> list[Caution]:
    """In what the runs differ though it was not varied: means over them mix the two."""
    reports = [report for *_, report in results.runs]
    differ: dict[Kind, list[str]] = {"runs": differing_conditions(reports)}
    if several := [arm.name for arm in results.arms if len(units_of(arm)) > 1]:
        differ["likelihood"] = [f"what bits/dim are of (within {join_names(several)})"]
    for name, (kind, *keys) in _ALIKE.items():
        if len({report_value(report, *keys) for report in reports} - {None}) > 1:
            differ.setdefault(kind, []).append(name)

    cautions = []
    for kind, names in differ.items():
        text = (
            f"Caution: these runs differ in {', '.join(names)}. Means and differences over them "
            "mix the two."
        )
        if "the code's version" in names:
            text += (
                f" Code at commit {shared_value(results, lambda arm, report: commit_of(report))}."
            )
        cautions += [Caution(kind, text)] if names else []

    foreign = []
    for arm, seed, report in results.runs:
        if report.get("training_signature") not in (None, arm.signature):
            foreign.append(f"{arm.name} seed {seed}")
    if foreign:
        text = (
            f"Caution: these reports are of another training than the arm's: {join_names(foreign)}."
        )
        cautions.append(Caution("runs", text))
    return cautions


def _two_references(results: Results) -> list[Caution]:
    """Arms whose published distances cannot be compared with the baseline's."""
    arms: dict[str, list[str]] = {}
    for part in results.by_budget:
        for metric in CLAIMS:
            for arm in part.arms:
                if reason := references_differ(arm, part.baseline_arm, metric):
                    arms.setdefault(f"{HEADINGS[metric]}: {reason}", []).append(arm.name)

    return [
        Caution(
            "quality",
            f"Not concluded, and on no front and in no ranking: {reason}: {join_names(names)}.",
        )
        for reason, names in arms.items()
    ]


def outlier_cautions(results: Results, outlying: Mapping[str, Sequence[Run]]) -> list[Caution]:
    """Runs of these arms that lie far from the other seeds of their arm, with their folder."""
    cautions = []
    for part in results.by_budget:
        arms = {arm.name: arm for arm in part.arms}
        metrics: dict[Run, list[str]] = {}
        for metric in CLAIMS:
            for run in outlying.get(metric, ()):
                metrics.setdefault(run, []).append(metric)
        for (name, seed), of_run in metrics.items():
            if name in arms:
                cautions.append(_far_off(arms[name], seed, of_run))

    return cautions


def _far_off(arm: ArmResult, seed: int, metrics: list[str]) -> Caution:
    kinds = {_KINDS[metric.partition("/")[0]] for metric in metrics}
    headings = ", ".join(HEADINGS[metric] for metric in metrics)
    text = (
        f"Caution: {arm.name} seed {seed} is far from its arm's other seeds in {headings}: look at"
        f" {arm.folders[seed].run}. It is kept; one such run widens every interval that it is in,"
        " and of the baseline hides every effect."
    )
    return Caution(kinds.pop() if len(kinds) == 1 else "runs", text)


def _busy(results: Results) -> list[Caution]:
    reason = unreliable_speeds(results)
    consequence = (
        "Such speeds are not all comparable, and their order may be chance: no front is "
        "drawn from them."
    )
    return [Caution("speed", f"Caution: {reason}. {consequence}")] if reason else []
