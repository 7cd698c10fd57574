"""How to read a study's table: what its numbers are, under which protocol they were taken, and what is missing.

All of it is said from the recipes and the reports themselves, whatever version of the code wrote them. Where the runs differ
in something, the most common value is stated and the others are named with the arms or runs that have them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .comparison import PROTOCOL, compare_all, mixed
from .plan import Arm, Plan, listed, short
from .results import COLUMNS, DISTANCE, ERROR, HEADINGS, LEVEL, SPEED, Results

Report = dict[str, Any]
CLAIM = 5  # seeds
_UNEVEN = 1.3  # times as fast, beyond which speeds of one thing were not taken alike


def against(plan: Plan) -> str:
    """What arms are compared with, in words."""
    return plan.baseline if len(plan.baselines) == 1 else "the baseline of its budget"


def runs(results: Results) -> Iterator[tuple[Arm, int, Report]]:
    """Every finished run: arm, seed, report."""
    for arm in results.plan.arms:
        for seed, report in results.reports[arm.name].items():
            yield arm, seed, report


def at(report: Report, *keys: str) -> Any:
    """report[key][key]…, None where an older report lacks it."""
    found: Any = report
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def stated(results: Results, of: Callable[[Arm, Report], Any]) -> str:
    """What all runs have; else what most have, and the others with who has them. Empty where none says it."""
    found: dict[str, list[tuple[str, int]]] = {}
    for arm, seed, report in runs(results):
        value = of(arm, report)
        if value not in (None, ""):
            text = f"{value:,}" if type(value) is int else short(value)
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
    return listed(names)


def span(values: list[Any], form: str) -> str:
    """Smallest to largest of the numbers, or the one that all are; empty where there are none."""
    numbers = [value for value in values if isinstance(value, int | float)]
    ends = list(dict.fromkeys(form.format(end) for end in (min(numbers), max(numbers)))) if numbers else []
    return " to ".join(ends)


def timed(results: Results) -> str:
    """How the speeds were taken, as the runs say."""

    def of(name: str) -> str:
        return stated(results, lambda arm, report: at(report, "speed", name))

    return (
        f"batch {of('batch')} and batch 1, median of {of('repeats')} after a warm-up, {of('threads')} thread(s) of"
        f" {of('device')}, {of('precision')}"
    )


def load(results: Results) -> str:
    """How busy the machine was when the speeds were taken: the load of the last minute, our own thread included."""
    load = span([at(report, "speed", "load_average") for *_, report in runs(results)], "{:.1f}")
    return f", load average {load}" if load else ""


def kind_of(report: Report) -> str:
    """What bits/dim are: exact, a bound or an estimate, with the outer's steps; of pixels, or of latents."""
    kind, steps, unit = (at(report, "likelihood", key) for key in ("kind", "steps", "unit"))
    if kind in (None, "none"):
        return kind or ""
    text = f"{kind}, {steps} steps" if steps else kind
    return text if unit in (None, "pixel") else f"{text}, {unit}"


def missing(results: Results) -> list[str]:
    """What is not there, what therefore may not be concluded, and what is not alike among the runs."""
    plan, said = results.plan, []
    absent = [(arm, seed) for arm in plan.arms for seed in plan.seeds if seed not in results.reports[arm.name]]
    if absent:
        names = listed(f"{arm.name} seed {seed}" for arm, seed in absent)
        said.append(f"Missing: {names}. Nothing may be concluded about arms with fewer than two seeds.")
    for arm, seed in absent:
        folder, recipe = plan.cell(arm, seed)
        report = folder.evaluation(recipe) / "report.json"
        if folder.failure:
            said.append(f"Failed: {arm.name} seed {seed}: {folder.failure}")
        elif report.is_file():
            said.append(f"Unreadable: {report}; remove it, and arinar ablate evaluates that run anew")
    if any(results.reports[arm.name] for arm, _ in absent):
        said.append("Where seeds are missing because they failed, what is left of an arm looks better than it is.")
    if absent and not results.reports[plan.baseline]:
        said.append(f"The baseline {plan.baseline} has no finished run: no arm can be compared with it.")
    said += _alone(results) + _not_finite(results)
    if any(results.reports.values()) and len(plan.seeds) == 1:
        said.append("One seed says nothing of training noise: a difference between two arms may be chance.")
    if any(results.reports.values()) and not any(report.get("noise") for *_, report in runs(results)):
        said.append("Evaluation noise (over images) was not measured by the version that made these runs.")
    kinds = {arm.name: {kind_of(r) for r in results.reports[arm.name].values()} - {""} for arm in plan.arms}
    inexact = [
        name for name, said_kinds in kinds.items() if any(k.startswith(("bound", "estimate")) for k in said_kinds)
    ]
    if inexact and len(set().union(*kinds.values())) > 1:
        said.append(
            f"Not every likelihood is exact: of {listed(inexact)} it is a bound or an estimate. A bound that reads worse"
            " than an exact value does not show a worse density."
        )
    return said + _unlike(results) + _busy(results)


def _alone(results: Results) -> list[str]:
    """Arms that no difference can be taken of, for want of a common seed."""
    apart = [
        arm.name
        for part in results.by_budget
        if (theirs := part.reports[part.plan.baseline])
        for arm in part.plan.arms
        if (ours := part.reports[arm.name]) and not ours.keys() & theirs.keys()
    ]
    return [f"Not compared, for want of a seed in common with the baseline: {listed(apart)}."] if apart else []


def _not_finite(results: Results) -> list[str]:
    """Readings that are NaN or infinite: no mean has them, and without them an arm looks better than it is."""
    bad = {
        f"{column.heading} of {arm.name} seed {', '.join(map(str, seeds))}"
        for column in COLUMNS
        for arm in results.plan.arms
        if (seeds := results.not_finite(arm, column.metric))
    }
    said = (
        f"Not finite, and in no mean: {'; '.join(sorted(bad))}. What is left of these arms looks better than they are."
    )
    return [said] if bad else []


def _unlike(results: Results) -> list[str]:
    """In what the runs differ though nothing was to be varied: such means are never taken in silence."""
    reports = [report for *_, report in runs(results)]
    differ = mixed(reports)
    several = [arm.name for arm in results.plan.arms if len(_units_of(results, arm)) > 1]
    differ += [f"what bits/dim are of (within {listed(several)})"] if several else []
    for name, keys in {"the speed's device": ("speed", "device"), "the speed's threads": ("speed", "threads"),
                       "the speed's batch": ("speed", "batch"), "the speed's precision": ("speed", "precision"),
                       "the speed's repeats": ("speed", "repeats"),
                       "the number of held-out items": ("likelihood", "images"),
                       "the draws for a likelihood": ("likelihood", "draws"),
                       "the resolution of a likelihood": ("likelihood", "resolution"),
                       "the precision of a likelihood": ("likelihood", "precision"),
                       "the number of generated images": ("quality", "images"),
                       "the images compared with": ("quality", "reference"),
                       "the subsets of KID": ("quality", "kid_subset"),
                       "the precision of images": ("quality", "precision")}.items():  # fmt: skip
        differ += [name] if len({at(report, *keys) for report in reports} - {None}) > 1 else []
    said = f"Caution: these runs differ in {', '.join(differ)}. Means and differences over them mix the two."
    if "the code's version" in differ:
        said += f" Code at commit {stated(results, lambda arm, report: commit(report))}."
    strangers = [
        f"{arm.name} seed {seed}" for arm, seed, report in runs(results)
        if at(report, "training_signature") not in (None, arm.recipe.training_signature)
    ]  # fmt: skip
    foreign = f"Caution: these reports are of another training than the arm's: {listed(strangers)}."
    return [*([said] if differ else []), *([foreign] if strangers else [])]


def _busy(results: Results) -> list[str]:
    """Speeds that were taken while others computed, too, or that differ from seed to seed, or between days, as if so."""
    found = [(at(r, "speed", "load_average"), at(r, "environment", "cpus")) for *_, r in runs(results)]
    loads = [load for load, cpus in found if load is not None and cpus and load > 1.25 * cpus]
    speeds = {arm.name: list(results.values(arm, SPEED).values()) for arm in results.plan.arms}
    uneven = [name for name, seen in speeds.items() if len(seen) > 1 and max(seen) > _UNEVEN * min(seen)]
    rates = [rate for *_, r in runs(results) if (rate := at(r, "speed", "gflops"))]
    said = []
    if loads:
        said.append(
            f"other programs were at work while {len(loads)} of {len(found)} speeds were taken (load average up to"
            f" {max(loads):.1f} on {found[0][1]} CPUs)"
        )
    if uneven:
        said.append(f"the speeds of one arm differ from seed to seed by more than {_UNEVEN - 1:.0%} ({listed(uneven)})")
    if rates and max(rates) > _UNEVEN * min(rates):
        said.append(
            f"the machine itself was not as fast at all times (its matrix product {min(rates):,.0f} to {max(rates):,.0f}"
            " GFLOP/s when speeds were taken)"
        )
    doubt = "Such speeds are not all comparable, and their order, and a place on a front, may be chance."
    return [f"Caution: {'; '.join(said)}. {doubt}"] if said else []


def commit(report: Report) -> str:
    """The code that made a run."""
    name = at(report, "git", "commit")
    return f"{name[:10]}{' with changes' if at(report, 'git', 'dirty') else ''}" if name else ""


def notes(results: Results) -> list[str]:
    """How to read the table, and what is missing."""
    return [*reading(results), *missing(results)]


def reading(results: Results) -> list[str]:
    """What the table's numbers are."""
    report = results.any_report
    if not report:
        return ["No cell is finished."]
    lines = [
        "± is the 95 % t-interval of the mean over seeds (training noise); n is"
        f" {len(results.plan.seeds)} where all are done."
        + (f" A claim should rest on {CLAIM} seeds." if max(map(len, results.reports.values())) < CLAIM else "")
    ]
    if any(report.get("noise") for *_, report in runs(results)):
        lines.append("In brackets: the 95 % interval of one value over images (evaluation noise).")
    if _tested(results):
        lines.append(
            f"Bold is better and italic worse than {against(results.plan)}, at 5 % after Holm's correction. Tested are"
            f" {_tested(results)}; what is neither is not resolved. {PROTOCOL}"
        )
    lines += _readings(results) + _distances(report)
    if results.plan.budgets:
        lines.append(
            "Each arm is compared with the baseline at its own budget. Of a ranking's agreement, p is how often two orders that"
            " have nothing to do with each other agree as well or as badly; a small one says that they are related, not that"
            " they are the same."
        )
    lines += [paper.note for paper in results.plan.papers]
    if any("speed" in report for *_, report in runs(results)):
        lines.append(f"Speed: {timed(results)}, no run of ours beside it{load(results)}.")
    return lines


def _tested(results: Results) -> str:
    """The headings of the metrics in which some arm could be compared with the baseline."""
    return ", ".join(dict.fromkeys(HEADINGS.get(effect.metric, effect.metric) for effect in compare_all(results)))


def _readings(results: Results) -> list[str]:
    """What the readings of likelihood are."""
    lines = []
    if any(results.values(arm, LEVEL) for arm in results.plan.arms):
        lines.append(
            "Bits/dim is of the uniformly dequantised pixels: exact as a density, a bound for the integers. 49 % of digit"
            " pixels are level 0, and this reading rewards components that are spent on filling that level's box evenly."
            " Bits/dim at Δ asks only for the probability of the grey level itself (its centre ± Δ/2). Read both."
        )
    if any(column.metric == "quality/truncated_share" for column in results.columns):
        lines.append(
            "Truncated: share of the guided conditionals of one feature that could not be normalised and were cut."
        )
    without = [arm.name for arm in results.plan.arms if arm.likelihood == "none"]
    if without:
        lines.append(f"No likelihood (n/a): {listed(without)}. Arms are ranked by {HEADINGS[results.plan.criterion]}.")
    if any(results.values(arm, ERROR) for arm in results.plan.arms):
        lines.append(
            "An estimate of bits/dim comes from integrating an equation; its error is how far the mean moves when the"
            " steps are doubled."
        )
    return [*lines, *_units(results)]


def _units_of(results: Results, arm: Arm) -> set[str]:
    """What an arm's bits/dim are of, as its runs say."""
    return {at(report, "likelihood", "unit") for report in results.reports[arm.name].values()} - {None}


def _units(results: Results) -> list[str]:
    """Whose density bits/dim are, where it is not that of pixels."""
    arms: dict[str, list[str]] = {}
    for arm in results.plan.arms:
        for unit in _units_of(results, arm):
            arms.setdefault(unit, []).append(arm.name)
    if len(arms) < 2:
        return [f"Bits/dim is of the raw {unit}s, not of pixels." for unit in arms if unit != "pixel"]
    told = "; ".join(f"of {unit}s: {listed(names)}" for unit, names in arms.items())
    return [f"Bits/dim of different data cannot be compared, and are not ({told})."]


def _distances(report: Report) -> list[str]:
    """What the distances are, and their floor."""
    return published(report) + _of_digits(report)


def published(report: Report) -> list[str]:
    """The published protocol, where the runs were measured by it."""
    if not (measured := report.get("fidelity")):
        return []
    n, there = measured.get("floor_images", 0), measured["reference"].get("images")
    against = f"{measured['reference']['file']}{f' ({there:,} images)' if there else ''}"
    floor = f" Floor: {n:,} held-out images, encoded and decoded by the codec, against the same." if n else ""
    return [
        f"By the published protocol: features of {measured['extractor']}, {measured['images']:,} generated images against"
        f" {against}; label i modulo the classes and seed i for image i.{floor}"
    ]


def _of_digits(report: Report) -> list[str]:
    floor, quality = report["metrics"].get(f"{DISTANCE}_floor"), report.get("quality", {})
    if floor is None or not quality:
        return []
    few = quality.get("floor_images", 0)
    fewer = few < quality.get("images", 0)
    biased = "; so few images are farther off by their number alone, and an arm may be nearer" if fewer else ""
    return [
        "FD, KID, precision and recall: features of a digits classifier, not Inception, so no FID."
        f" {quality['images']:,} generated against {quality['reference']:,} training images, KID on subsets of"
        f" {quality['kid_subset']}. For scale, FD of {few:,} held-out images against the same is"
        f" {floor:.2f}{biased}."
    ]
