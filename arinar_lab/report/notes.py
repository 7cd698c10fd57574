"""How to read a study's table: what its numbers are, under which protocol they were taken,
and what is missing.

All of it is said from the recipes and the reports themselves, whatever version of the code wrote
them. Where the runs differ in something, the most common value is stated and the others are named
with the arms or runs that have them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..analysis.comparison import (
    CLAIMS,
    TEST_PROTOCOL,
    compare_all,
    differing_conditions,
    incomparable_bounds,
    outlying_runs,
    references_differ,
)
from ..analysis.conditions import Report, finished_runs, report_value, unreliable_speeds
from ..analysis.results import Results
from ..analysis.text import join_names, short_value
from ..metrics import COLUMNS, DISTANCE, ERROR, FEW, HEADINGS, LEVEL
from ..study.plan import Arm, Plan

Kind = Literal["runs", "likelihood", "quality", "speed"]
_KINDS: dict[str, Kind] = {
    "val": "likelihood",
    "train": "likelihood",
    "quality": "quality",
    "speed": "speed",
}
"""What a metric is of, by the first word of its name."""
MIN_SEEDS_OF_CLAIM = 5  # seeds


@dataclass(frozen=True)
class Caution:
    """What stands between numbers and a conclusion.

    Arguments:
        kind: the metrics that it touches; `runs` touches all. text: sentences.
    """

    kind: Kind
    text: str

    def touches(self, metric: str) -> bool:
        return self.kind in ("runs", _KINDS.get(metric.partition("/")[0]))


def baseline_text(plan: Plan) -> str:
    """What arms are compared with, in words."""
    return plan.baseline if len(plan.baselines) == 1 else "the baseline of its budget"


def shared_value(results: Results, of: Callable[[Arm, Report], Any]) -> str:
    """What all runs have; else what most have, and the others with who has them.
    Empty where none says it.
    """
    found: dict[str, list[tuple[str, int]]] = {}
    for arm, seed, report in finished_runs(results):
        value = of(arm, report)
        if value not in (None, ""):
            text = f"{value:,}" if type(value) is int else short_value(value)
            found.setdefault(text, []).append((arm.name, seed))

    common, *others = sorted(found, key=lambda value: -len(found[value])) or [""]
    rest = "; ".join(f"{value} in {_who(results, found[value])}" for value in others)

    return f"{common} (but {rest})" if rest else common


def _who(results: Results, cells: list[tuple[str, int]]) -> str:
    """Runs by name: an arm where all its finished seeds are meant, else single seeds."""
    names = []
    for name in dict.fromkeys(name for name, _ in cells):
        seeds = [seed for one, seed in cells if one == name]
        whole = len(seeds) == len(results.reports[name])
        names.append(name if whole else f"{name} seed {', '.join(map(str, seeds))}")
    return join_names(names)


def value_range(values: list[Any], form: str) -> str:
    """Smallest to largest of the numbers, or the one that all are; empty where there are none."""
    numbers = [value for value in values if isinstance(value, int | float)]
    ends = (
        list(dict.fromkeys(form.format(end) for end in (min(numbers), max(numbers))))
        if numbers
        else []
    )
    return " to ".join(ends)


def timing_note(results: Results) -> str:
    """How the speeds were taken, as the runs say."""

    def of(name: str) -> str:
        return shared_value(results, lambda arm, report: report_value(report, "speed", name))

    return (
        f"batch {of('batch')} and batch 1, median of {of('repeats')} after a warm-up,"
        f" {of('threads')} thread(s) of {of('device')}, {of('precision')}"
    )


def load_note(results: Results) -> str:
    """How busy the machine was when the speeds were taken: the load of the last minute, our
    own thread included.
    """
    load = value_range(
        [report_value(report, "speed", "load_average") for *_, report in finished_runs(results)],
        "{:.1f}",
    )
    return f", load average {load}" if load else ""


def likelihood_kind(report: Report) -> str:
    """What bits/dim are: exact, a bound or an estimate, with the outer's steps; of
    pixels, or of latents.
    """
    kind, steps, unit = (
        report_value(report, "likelihood", key) for key in ("kind", "steps", "unit")
    )
    if kind in (None, "none"):
        return kind or ""
    text = f"{kind}, {steps} steps" if steps else kind
    return text if unit in (None, "pixel") else f"{text}, {unit}"


def caution_lines(results: Results) -> list[str]:
    """What is not there, what therefore may not be concluded, and what is not
    alike among the runs.
    """
    return [caution.text for caution in cautions(results)]


def cautions_for(results: Results, *metrics: str) -> list[str]:
    """The cautions that touch some metrics."""
    return [
        caution.text
        for caution in cautions(results)
        if any(caution.touches(metric) for metric in metrics)
    ]


def cautions(results: Results) -> list[Caution]:
    """The same as `caution_lines`, each with what it touches."""
    likelihoods = [Caution("likelihood", text) for text in _loose_likelihoods(results)]
    return [
        *(Caution("runs", text) for text in _absent(results)),
        *_not_finite(results),
        *(Caution("runs", text) for text in _few(results)),
        *likelihoods,
        *_unlike(results),
        *(Caution("quality", text) for text in _two_references(results)),
        *_far_off(results),
        *_busy(results),
    ]


def _absent(results: Results) -> list[str]:
    """Runs that are missing, and arms that are compared with none, or without pairs."""
    plan, said = results.plan, []
    absent = [
        (arm, seed)
        for arm in plan.arms
        for seed in plan.seeds
        if seed not in results.reports[arm.name]
    ]
    if absent:
        names = join_names(f"{arm.name} seed {seed}" for arm, seed in absent)
        said.append(
            f"Missing: {names}. Nothing may be concluded about arms with fewer than two seeds."
        )

    for arm, seed in absent:
        folder, recipe = plan.cell(arm, seed)
        report = folder.evaluation(recipe) / "report.json"
        if folder.failure:
            said.append(f"Failed: {arm.name} seed {seed}: {folder.failure}")
        elif report.is_file():
            said.append(
                f"Unreadable: {report}; remove it, and arinar ablate evaluates that run anew"
            )

    if any(results.reports[arm.name] for arm, _ in absent):
        said.append(
            "Where seeds are missing because they failed, what is left of an arm looks "
            "better than it is."
        )

    if absent and not results.reports[plan.baseline]:
        said.append(
            f"The baseline {plan.baseline} has no finished run: no arm can be compared with it."
        )

    return said + _alone(results)


def _few(results: Results) -> list[str]:
    """Noise that cannot be told."""
    said = []
    if any(results.reports.values()) and len(results.plan.seeds) == 1:
        said.append(
            "One seed says nothing of training noise: a difference between two arms may be chance."
        )
    return said


def _loose_likelihoods(results: Results) -> list[str]:
    """Arms whose bits/dim are bounds or estimates, where not all are the same."""
    kinds = {
        arm.name: {likelihood_kind(r) for r in results.reports[arm.name].values()} - {""}
        for arm in results.plan.arms
    }
    inexact = [
        name for name, of in kinds.items() if any(k.startswith(("bound", "estimate")) for k in of)
    ]
    if not inexact or (len(set().union(*kinds.values())) == 1 and not incomparable_bounds(results)):
        return []

    return [
        (
            f"Not every likelihood is exact: of {join_names(inexact)} it is a bound or an"
            " estimate. A looser bound does not show a worse model, so only bounds of one kind and"
            " number of steps are told apart."
        )
    ]


def _alone(results: Results) -> list[str]:
    """Arms that no seed pairs with the baseline."""
    apart = [
        arm.name
        for part in results.by_budget
        if (theirs := part.reports[part.plan.baseline])
        for arm in part.plan.arms
        if (ours := part.reports[arm.name]) and not ours.keys() & theirs.keys()
    ]
    said = (
        "Compared without pairs, which resolves less, for want of a seed in common with the "
        f"baseline: {join_names(apart)}."
    )

    return [said] if apart else []


def _not_finite(results: Results) -> list[Caution]:
    """Readings that are NaN or infinite: no mean has them, and without them an arm
    looks better than it is.
    """
    bad: dict[Kind, set[str]] = {}
    for column in COLUMNS:
        for arm in results.plan.arms:
            if seeds := results.not_finite(arm, column.metric):
                name = f"{column.heading} of {arm.name} seed {', '.join(map(str, seeds))}"
                bad.setdefault(_KINDS.get(column.metric.partition("/")[0], "runs"), set()).add(name)

    return [
        Caution(
            kind,
            f"Not finite, and in no mean: {'; '.join(sorted(names))}. What is left of these arms "
            "looks better than they are.",
        )
        for kind, names in bad.items()
    ]


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
"""What all runs should share: the metrics that it touches, and where a report says it."""


def _unlike(results: Results) -> list[Caution]:
    """In what the runs differ though nothing was to be varied: such means are
    never taken in silence.
    """
    reports = [report for *_, report in finished_runs(results)]
    differ: dict[Kind, list[str]] = {"runs": differing_conditions(reports)}
    if several := [arm.name for arm in results.plan.arms if len(_units_of(results, arm)) > 1]:
        differ["likelihood"] = [f"what bits/dim are of (within {join_names(several)})"]
    for name, (kind, *keys) in _ALIKE.items():
        if len({report_value(report, *keys) for report in reports} - {None}) > 1:
            differ.setdefault(kind, []).append(name)

    found = []
    for kind, names in differ.items():
        said = (
            f"Caution: these runs differ in {', '.join(names)}. Means and differences over them "
            "mix the two."
        )
        if "the code's version" in names:
            said += (
                f" Code at commit {shared_value(results, lambda arm, report: commit_of(report))}."
            )
        found += [Caution(kind, said)] if names else []
    strangers = [
        f"{arm.name} seed {seed}"
        for arm, seed, report in finished_runs(results)
        if report_value(report, "training_signature") not in (None, arm.recipe.training_signature)
    ]
    foreign = (
        f"Caution: these reports are of another training than the arm's: {join_names(strangers)}."
    )
    return [*found, *([Caution("runs", foreign)] if strangers else [])]


def _two_references(results: Results) -> list[str]:
    """Arms whose published distances cannot be set against the baseline's."""
    doubts: dict[str, list[str]] = {}
    for part in results.by_budget:
        for metric in CLAIMS:
            for arm in part.plan.arms:
                if doubt := references_differ(part, arm, part.baseline, metric):
                    doubts.setdefault(f"{HEADINGS[metric]}: {doubt}", []).append(arm.name)

    return [
        f"Not concluded, and on no front and in no ranking: {doubt}: {join_names(arms)}."
        for doubt, arms in doubts.items()
    ]


def outlier_lines(results: Results, folder: Callable[[Arm, int], Path | None]) -> list[Caution]:
    """Runs that lie far from the other seeds of their arm, with their folder; those without a
    folder are left out.
    """
    headings: dict[tuple[str, int], list[str]] = {}
    for metric in CLAIMS:
        for run in outlying_runs(results, metric):
            headings.setdefault(run, []).append(metric)

    arms, found = {arm.name: arm for arm in results.plan.arms}, []
    for (name, seed), metrics in headings.items():
        if path := folder(arms[name], seed):
            kinds = {_KINDS[metric.partition("/")[0]] for metric in metrics}
            text = (
                f"Caution: {name} seed {seed} is far from its arm's other seeds in"
                f" {', '.join(HEADINGS[metric] for metric in metrics)}: look at {path}. It is"
                " kept; one such run widens every interval that it is in, and of the baseline"
                " hides every effect."
            )
            found.append(Caution(kinds.pop() if len(kinds) == 1 else "runs", text))

    return found


def _far_off(results: Results) -> list[Caution]:
    return [
        caution
        for part in results.by_budget
        for caution in outlier_lines(part, lambda arm, seed: results.plan.cell(arm, seed)[0].path)
    ]


def _busy(results: Results) -> list[Caution]:
    doubt = (
        "Such speeds are not all comparable, and their order may be chance: no front is "
        "drawn from them."
    )
    said = unreliable_speeds(results)
    return [Caution("speed", f"Caution: {said}. {doubt}")] if said else []


def commit_of(report: Report) -> str:
    """The code that made a run."""
    name = report_value(report, "git", "commit")
    return (
        f"{name[:10]}{' with changes' if report_value(report, 'git', 'dirty') else ''}"
        if name
        else ""
    )


def notes(results: Results) -> list[str]:
    """How to read the table, and what is missing."""
    return [*reading_notes(results), *caution_lines(results)]


def reading_notes(results: Results) -> list[str]:
    """What the table's numbers are."""
    report = results.any_report
    if not report:
        return ["No cell is finished."]

    lines = [
        "± is the 95 % t-interval of the mean over seeds (training noise); n is"
        f" {len(results.plan.seeds)} where all are done."
        + (
            f" A claim should rest on {MIN_SEEDS_OF_CLAIM} seeds."
            if max(map(len, results.reports.values())) < MIN_SEEDS_OF_CLAIM
            else ""
        )
    ]
    if any(report.get("noise") for *_, report in finished_runs(results)):
        lines.append("In brackets: the 95 % interval of one value over images (evaluation noise).")
    if _tested(results):
        lines.append(
            f"Bold is better and italic worse than {baseline_text(results.plan)}, at 5 % after"
            f" Holm's correction. Tested are {_tested(results)}; what is neither is not resolved."
            f" {TEST_PROTOCOL}"
        )

    lines += _readings(results) + _distances(report)
    if results.plan.budgets:
        lines.append(
            "Each arm is compared with the baseline at its own budget. Of a ranking's agreement, p"
            " is how often two orders that have nothing to do with each other agree as well or as"
            " badly; a small one says that they are related, not that they are the same."
        )

    lines += [paper.note for paper in results.plan.papers]
    if any("speed" in report for *_, report in finished_runs(results)):
        lines.append(
            f"Speed: {timing_note(results)}, no run of ours beside it{load_note(results)}."
        )

    return lines


def _tested(results: Results) -> str:
    """The headings of the metrics in which some arm could be compared with the baseline."""
    return ", ".join(
        dict.fromkeys(HEADINGS.get(effect.metric, effect.metric) for effect in compare_all(results))
    )


def _readings(results: Results) -> list[str]:
    """What the readings of likelihood are."""
    lines = []
    if any(results.values(arm, LEVEL) for arm in results.plan.arms):
        lines.append(
            "Bits/dim is of the uniformly dequantised pixels: exact as a density, a bound for the"
            " integers. 49 % of digit pixels are level 0, and this reading rewards components that"
            " are spent on filling that level's box evenly. Bits/dim at Δ asks only for the"
            " probability of the grey level itself (its centre ± Δ/2). Read both."
        )

    if any(column.metric == "quality/truncated_share" for column in results.columns):
        lines.append(
            "Truncated: share of the guided conditionals of one feature that could not be "
            "normalised and were cut."
        )

    without = [arm.name for arm in results.plan.arms if arm.likelihood == "none"]
    if without:
        lines.append(
            f"No likelihood (n/a): {join_names(without)}. Arms are ranked by "
            f"{HEADINGS[results.plan.criterion]}."
        )

    if any(results.values(arm, ERROR) for arm in results.plan.arms):
        lines.append(
            "An estimate of bits/dim comes from integrating an equation; its error is how far the"
            " mean moves when the steps are doubled."
        )

    return [*lines, *_units(results)]


def _units_of(results: Results, arm: Arm) -> set[str]:
    """What an arm's bits/dim are of, as its runs say."""
    return {
        report_value(report, "likelihood", "unit") for report in results.reports[arm.name].values()
    } - {None}


def _units(results: Results) -> list[str]:
    """Whose density bits/dim are, where it is not that of pixels."""
    arms: dict[str, list[str]] = {}
    for arm in results.plan.arms:
        for unit in _units_of(results, arm):
            arms.setdefault(unit, []).append(arm.name)

    if len(arms) < 2:
        return [
            f"Bits/dim is of the raw {unit}s, not of pixels." for unit in arms if unit != "pixel"
        ]

    told = "; ".join(f"of {unit}s: {join_names(names)}" for unit, names in arms.items())
    return [f"Bits/dim of different data cannot be compared, and are not ({told})."]


def _distances(report: Report) -> list[str]:
    """What the distances are, and their floor."""
    return protocol_note(report) + _of_digits(report)


def protocol_note(report: Report) -> list[str]:
    """The published protocol, where the runs were measured by it."""
    if not (measured := report.get("fidelity")):
        return []

    n, there = measured.get("floor_images", 0), measured["reference"].get("images")
    against = f"{measured['reference']['file']}{f' ({there:,} images)' if there else ''}"
    floor = (
        f" Floor: {n:,} held-out images, encoded and decoded by the codec, against the same."
        if n
        else ""
    )

    return [
        (
            f"By the published protocol: features of {measured['extractor']},"
            f" {measured['images']:,} generated images against {against}; label i modulo the"
            f" classes and seed i for image i.{floor}"
        )
    ]


def _of_digits(report: Report) -> list[str]:
    floor, quality = report["metrics"].get(f"{DISTANCE}_floor"), report.get("quality", {})
    if floor is None or not quality:
        return []

    few = quality.get("floor_images", 0)
    said = [
        (
            "FD, KID, precision and recall: features of a digits classifier, not Inception, so no"
            f" FID. {quality['images']:,} generated against {quality['reference']:,} training"
            " images, KID over all images."
        ),
        f" For scale, FD of {few:,} held-out images against the same is {floor:.2f}",
    ]
    if few < quality.get("images", 0):
        said.append(
            "; so few images are farther off by their number alone, and an arm may be nearer"
        )
        if FEW in report["metrics"]:
            said.append(f" ({HEADINGS[FEW]} is of {few:,} generated images, to set against it)")

    return ["".join([*said, "."])]
