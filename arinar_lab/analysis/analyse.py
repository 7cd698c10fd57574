"""The analysis of a study: everything that follows from its results, computed once. Every
renderer shows this value.

effects       each arm against the baseline, in every metric that claims are made of
factors       main effects and interactions, where the arms are a grid of two axes or more
spreads       where the spread of runs comes from, where axes are seeds
image_shifts  the differences in bits/dim, image by image
fronts        quality against speed, of each regime by itself
agreements    whether the ranking of arms at the first regime lasts at the others
cautions      missing runs, and differences among runs, with the conclusions that they forbid
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

from ..metrics import COLUMNS, DISTANCES, GAP, HEADINGS, INSURED, MATTERS, Column
from ..output.names import join_names
from ..significance.outliers import Run
from .by_image.shifts import ImageShift, image_shifts
from .comparison import CLAIMS, Effect, compare_arms, outlying_runs, summary
from .conditions import (
    commit_of,
    differing_conditions,
    distinct_values,
    incomparable_bounds,
    is_of_one_data_set,
    kinds_of,
    references_differ,
    shared_value,
    units_of,
    unreliable_speeds,
)
from .factors import FactorAnalysis, analyse_factors, factor_lines
from .rankings.pareto import Frontier, frontier_sentences, frontiers
from .rankings.rank_agreement import Agreement, agreements
from .results import ArmResult, Results
from .spread import REDRAW, SOURCES, Spread, analyse_spread

Kind = Literal["runs", "likelihood", "quality", "speed"]
_KINDS: dict[str, Kind] = {
    "val": "likelihood",
    "train": "likelihood",
    "quality": "quality",
    "speed": "speed",
}
"""The first word of a metric's name → its kind."""


LOTTERY = 0.013
"""Coefficient of variation of FID over trainings (The FID Lottery, arXiv 2606.20536): a smaller
gap to a number without seeds shows nothing.
"""


def _kind_of(metric: str) -> Kind:
    return _KINDS.get(metric.partition("/")[0], "runs")


@dataclass(frozen=True)
class Caution:
    """A reason not to conclude what the numbers seem to show.

    Arguments:
        kind: The metrics that it touches; `runs` touches all.
        text: Sentences.
    """

    kind: Kind
    text: str

    def touches(self, metric: str) -> bool:
        return self.kind in ("runs", _kind_of(metric))


@dataclass(frozen=True)
class Analysis:
    """The conclusions from the results of a study.

    Arguments:
        results: The numbers themselves.
        columns: The columns of the table.
        effects: Each arm against the baseline of its regime.
        fronts: Each quality against images/s, of each regime.
        panels: The same of all arms together, for a figure.
        agreements: How each later regime ranks the arms against the first.
        image_shifts: The differences in bits/dim, image by image, where images' were kept.
        outlying: Metric → arm and seed of the runs that lie far from the other seeds of their arm.
        cautions: In the order in which they are shown.
        factors: Main effects and interactions in each metric; none where there is no grid.
        spreads: Where the spread comes from, in each metric; none where no axis is a seed.
    """

    results: Results
    columns: tuple[Column, ...]
    effects: tuple[Effect, ...]
    fronts: tuple[Frontier, ...]
    panels: tuple[Frontier, ...]
    agreements: tuple[Agreement, ...]
    image_shifts: tuple[ImageShift, ...]
    outlying: Mapping[str, Sequence[Run]]
    cautions: tuple[Caution, ...]
    factors: tuple[FactorAnalysis, ...] = ()
    spreads: tuple[Spread, ...] = ()

    @property
    def differences(self) -> list[str]:
        """A line for each effect, with its interval and verdict."""
        return [effect.line for effect in self.effects]

    @property
    def main_effects(self) -> list[str]:
        """A line for each axis and interaction of a grid, in each metric."""
        return factor_lines(self.factors)

    @property
    def sources_of_spread(self) -> list[str]:
        """A line for each source of randomness, in each metric."""
        return list(chain.from_iterable(spread.lines for spread in self.spreads))

    @property
    def deciding(self) -> list[Effect]:
        """The effects that end the growth of a study: in the metric that ranks arms, and in the
        distances of which a difference matters.
        """
        distances = set(DISTANCES) & self.results.matters.keys()
        return [e for e in self.effects if e.metric in {self.results.criterion, *distances}]

    @property
    def undecided(self) -> list[Effect]:
        """Those of them that more seeds may resolve."""
        return [e for e in self.deciding if e.answer == "unresolved" and not e.doubt]

    @property
    def verdicts(self) -> list[str]:
        """For each metric, which arms are better, worse or not resolved."""
        return summary(self.effects)

    @property
    def against_speed(self) -> list[str]:
        """Sentences on quality against speed."""
        return list(chain.from_iterable(map(frontier_sentences, self.fronts)))

    @property
    def ranking(self) -> list[str]:
        """A line for each metric and regime; none in a study without regimes."""
        return list(map(Agreement.text, self.agreements))

    def touching(self, *metrics: str) -> list[str]:
        """The cautions that touch some metrics."""
        return [caution.text for caution in self.cautions if any(map(caution.touches, metrics))]

    def is_baseline(self, arm: str) -> bool:
        """Whether an arm is the baseline, or that of a regime."""
        return arm in self.results.baselines


def analyse(results: Results) -> Analysis:
    """Compute everything that follows from the results of a study."""
    outlying = outlying_runs(results, (*CLAIMS, GAP, INSURED))
    compared = compare_arms(results, (*CLAIMS, GAP), outlying)
    fronts = frontiers(results, compared)
    panels = fronts
    if results.regimes and is_of_one_data_set(results):
        whole = replace(results, regimes=())
        panels = frontiers(whole, compared)

    effects = [effect for effect in compared if effect.metric in CLAIMS]
    return Analysis(
        results,
        tuple(results.columns),
        tuple(effects),
        tuple(fronts),
        tuple(panels),
        tuple(agreements(results)),
        tuple(image_shifts(results, effects, outlying)),
        outlying,
        tuple(cautions(results, outlying)),
        analyse_factors(results),
        analyse_spread(results),
    )


# What stands between the numbers and a conclusion


def cautions(results: Results, outlying: Mapping[str, Sequence[Run]]) -> list[Caution]:
    """Missing runs and differences among runs, with the conclusions that they forbid."""
    return [
        *_missing(results),
        *_damaged(results),
        *_unmeasured(results),
        *_not_finite(results),
        *_few(results),
        *_repeated_looks(results),
        *_loose_likelihoods(results),
        *_unlike(results),
        *_foreign(results),
        *_two_references(results),
        *outlier_cautions(results, outlying),
        *_close_papers(results),
        *_busy(results),
    ]


def _missing(results: Results) -> list[Caution]:
    """Runs that are missing, and arms that are compared with none, or without pairs."""
    missing = results.missing
    texts = []
    if missing:
        texts.append(
            f"Missing: {join_names(results.missing_names)}. Nothing may be concluded about arms"
            " with fewer than two seeds."
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

    return _cautions("runs", texts)


def _damaged(results: Results) -> list[Caution]:
    """Files beside reports that cannot be read: the rows and curves that rest on them are left
    out.
    """
    cautions = []
    for arm in results.arms:
        for path, reason in arm.damaged.items():
            lost = "bits/dim image by image" if path.suffix == ".npz" else "the learning curves"
            cautions.append(Caution("likelihood", f"Left out of {lost}: {reason}."))
    return cautions


def _unmeasured(results: Results) -> list[Caution]:
    """Metrics of which the study says what matters, and that no run has."""
    stated = results.matters if results.matters != MATTERS and results.any_report else {}
    names = [HEADINGS[metric] for metric in stated if not results.values(metric)]
    if not names:
        return []
    text = f"Named in matters, and measured by no run: {', '.join(names)}. Nothing is said of it."
    return [Caution("runs", text)]


def _cautions(kind: Kind, texts: Iterable[str]) -> list[Caution]:
    return [Caution(kind, text) for text in texts]


def _unpaired(results: Results) -> list[str]:
    """Arms that no seed pairs with the baseline."""
    names = []
    for part in results.by_regime:
        seeds = part.baseline_arm.reports.keys()
        for arm in part.arms:
            if seeds and arm.reports and not arm.reports.keys() & seeds:
                names.append(arm.name)
    return names


def _not_finite(results: Results) -> list[Caution]:
    """Values that are NaN or infinite; means leave them out, so an arm looks too good."""
    names: dict[Kind, set[str]] = {}
    for column in COLUMNS.values():
        kind = _kind_of(column.metric)
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
    """Training noise that one seed cannot show."""
    trained_anew = {axis for axis, source in SOURCES.items() if source != REDRAW}
    if not results.any_report or len(results.seeds) > 1 or trained_anew & {*results.axes}:
        return []
    text = "One seed says nothing of training noise: a difference between two arms may be chance."
    return [Caution("runs", text)]


def _repeated_looks(results: Results) -> list[Caution]:
    """Seeds that were added to a fixed number after a look (optional stopping)."""
    if results.most_seeds or len(results.looks) < 2:
        return []
    counts = ", then ".join(map(str, results.looks))
    text = (
        f"Caution: these arms were looked at with {counts} seeds. Each look may call a difference"
        " that is none, so together they do so in more than 5 % of studies (four equal arms,"
        " simulated: 2.7 % at 3 seeds, 5.8 % at 3 then 5, 8.1 % at 3, 5, then 10, 12.4 % one seed"
        " at a time to 10). arinar ablate FILE --until-resolved keeps the 5 %."
    )
    return [Caution("runs", text)]


def _loose_likelihoods(results: Results) -> list[Caution]:
    """Arms whose bits/dim are bounds or estimates, where not all are the same."""
    all_kinds = set[str]()
    inexact = []
    for arm in results.arms:
        kinds = kinds_of(arm)
        all_kinds.update(kinds)
        if any(kind.startswith(("bound", "estimate")) for kind in kinds):
            inexact.append(arm.name)

    are_alike = len(all_kinds) == 1 and not incomparable_bounds(results)
    if not inexact or are_alike:
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
"""Condition that all runs should share → the metrics that it touches, and its keys in a report."""


def _unlike(results: Results) -> list[Caution]:
    """Conditions in which the runs differ though they were not varied: means mix them. Those of a
    regime are compared with each other.
    """
    reports = results.every_report
    differences: dict[Kind, list[str]] = {"runs": differing_conditions(reports)}
    mixed_arms = [arm.name for arm in results.arms if len(units_of(arm)) > 1]
    if mixed_arms:
        differences["likelihood"] = [f"what bits/dim are of (within {join_names(mixed_arms)})"]
    for name, (kind, *keys) in _ALIKE.items():
        if any(len(distinct_values(p.every_report, *keys)) > 1 for p in results.by_regime):
            differences.setdefault(kind, []).append(name)

    cautions = []
    for kind, names in differences.items():
        if not names:
            continue
        text = (
            f"Caution: these runs differ in {', '.join(names)}. Means and differences over them "
            "mix the two."
        )
        if "the code's version" in names:
            commits = shared_value(results, lambda arm, report: commit_of(report))
            text += f" Code at commit {commits}."
        cautions.append(Caution(kind, text))
    return cautions


def _foreign(results: Results) -> list[Caution]:
    """Reports of another training than that of their arm."""
    names = []
    for arm, seed, report in results.runs:
        if report.get("training_signature") not in (None, arm.signature):
            names.append(f"{arm.name} seed {seed}")

    if not names:
        return []
    text = f"Caution: these reports are of another training than the arm's: {join_names(names)}."
    return [Caution("runs", text)]


def _two_references(results: Results) -> list[Caution]:
    """Arms whose published distances cannot be compared with the baseline's."""
    arms: dict[str, list[str]] = {}
    for part in results.by_regime:
        for metric in CLAIMS:
            for arm in part.arms:
                if reason := references_differ(arm, part.baseline_arm, metric):
                    arms.setdefault(f"{HEADINGS[metric]}: {reason}", []).append(arm.name)

    start = "Not concluded, and on no front and in no ranking"
    texts = [f"{start}: {reason}: {join_names(names)}." for reason, names in arms.items()]
    return _cautions("quality", texts)


def outlier_cautions(results: Results, outlying: Mapping[str, Sequence[Run]]) -> list[Caution]:
    """Runs of these arms that lie far from the other seeds of their arm, with their folder."""
    metrics: dict[Run, list[str]] = {}
    for metric in CLAIMS:
        for run in outlying.get(metric, ()):
            metrics.setdefault(run, []).append(metric)

    cautions = []
    for part in results.by_regime:
        for (name, seed), of_run in metrics.items():
            if name in part.by_name:
                cautions.append(_far_off(part.by_name[name], seed, of_run))
    return cautions


def _far_off(arm: ArmResult, seed: int, metrics: list[str]) -> Caution:
    kinds = set(map(_kind_of, metrics))
    headings = ", ".join(map(HEADINGS.__getitem__, metrics))
    text = (
        f"Caution: {arm.name} seed {seed} is far from its arm's other seeds in {headings}: look at"
        f" {arm.folders[seed].run}. It is kept; one such run widens every interval that it is in,"
        " and of the baseline hides every effect."
    )
    return Caution(kinds.pop() if len(kinds) == 1 else "runs", text)


def _close_papers(results: Results) -> list[Caution]:
    """Rows from papers that state no seeds and lie near the baseline."""
    near: dict[Kind, list[str]] = {}
    for paper in results.papers:
        if paper.seeds is not None and paper.seeds > 1:
            continue
        for metric in filter(CLAIMS.__contains__, paper.values):
            gap = _relative_gap(results, metric, paper.values[metric])
            if gap is not None and gap < LOTTERY:
                near.setdefault(_kind_of(metric), []).append(
                    f"{paper.name} in {HEADINGS[metric]} ({100 * gap:.1f} %)"
                )

    cautions = []
    for kind, names in near.items():
        text = (
            f"Caution: near the baseline, and of one training as far as is stated: "
            f"{join_names(names)}. A gap below {100 * LOTTERY:.1f} % may be the luck of a seed:"
            " so far does FID move when a model is trained anew (coefficient of variation, arXiv"
            " 2606.20536)."
        )
        cautions.append(Caution(kind, text))
    return cautions


def _relative_gap(results: Results, metric: str, value: float) -> float | None:
    """|value - baseline's mean| / |baseline's mean|, the smallest over regimes; None where no
    baseline measured the metric.
    """
    gaps = []
    for part in results.by_regime:
        summary_of = part.baseline_arm.summary(metric)
        if summary_of is not None and summary_of.mean != 0:
            gaps.append(abs(value / summary_of.mean - 1))
    return min(gaps, default=None)


def _busy(results: Results) -> list[Caution]:
    """Speeds that were measured on a busy machine."""
    reason = unreliable_speeds(results)
    if not reason:
        return []
    text = (
        f"Caution: {reason}. Such speeds are not all comparable, and their order may be chance: no"
        " front is drawn from them."
    )
    return [Caution("speed", text)]
