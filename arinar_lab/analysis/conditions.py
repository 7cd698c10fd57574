"""The conditions under which numbers were measured, and the conclusions that they permit.

The runs of two arms may differ otherwise than by design: in their data, in the reference of a
distance, in how loose a bound is, in the code, the device, or the way of measuring. This module
reads that from their reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..metrics import DISTANCES, METRICS, SPEED
from ..output.names import join_names, short_value

if TYPE_CHECKING:
    from .results import ArmResult, Report, Results

LOOSER_BOUND = "a bound that reads worse shows nothing"
NO_DISTANCES = (
    "Distances: none, since no features of such images ship; arinar evaluate --quality measures FID"
)
_UNEVEN = 1.3  # ratio of two speeds of one thing, above which they were not measured alike


# Values in reports


def report_value(report: Report, *keys: str) -> Any:
    """report[key][key]…, None where the report lacks it."""
    value: Any = report
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def report_values(reports: Iterable[Report], *keys: str) -> list[Any]:
    """The same of each report."""
    return [report_value(report, *keys) for report in reports]


def distinct_values(reports: Iterable[Report], *keys: str) -> set[Any]:
    """The values that the reports state, without None."""
    return set(report_values(reports, *keys)) - {None}


def shared_value(results: Results, of: Callable[[ArmResult, Report], Any]) -> str:
    """The value that all runs state; else the most common one, with the exceptions and their runs.
    Empty where no run states one.
    """
    runs: dict[str, list[tuple[str, int]]] = {}
    for arm, seed, report in results.runs:
        value = of(arm, report)
        if value not in (None, ""):
            text = f"{value:,}" if type(value) is int else short_value(value)
            runs.setdefault(text, []).append((arm.name, seed))

    if not runs:
        return ""
    common, *exceptions = sorted(runs, key=lambda value: -len(runs[value]))
    if not exceptions:
        return common
    named = "; ".join(f"{value} in {_named(results, runs[value])}" for value in exceptions)
    return f"{common} (but {named})"


def _named(results: Results, runs: list[tuple[str, int]]) -> str:
    """Runs by name: an arm if all its finished seeds are meant, else single seeds."""
    seeds: dict[str, list[int]] = {}
    for arm, seed in runs:
        seeds.setdefault(arm, []).append(seed)

    names = []
    for arm, of_arm in seeds.items():
        is_complete = len(of_arm) == len(results.by_name[arm].reports)
        names.append(arm if is_complete else f"{arm} seed {', '.join(map(str, of_arm))}")
    return join_names(names)


def likelihood_kind(report: Report) -> str:
    """The kind of bits/dim: exact, a bound or an estimate, with the outer's steps; of
    pixels, or of latents.
    """
    kind = report_value(report, "likelihood", "kind")
    steps = report_value(report, "likelihood", "steps")
    unit = report_value(report, "likelihood", "unit")
    if kind in (None, "none"):
        return kind or ""

    text = f"{kind}, {steps} steps" if steps else kind
    return text if unit in (None, "pixel") else f"{text}, {unit}"


def kinds_of(arm: ArmResult) -> list[str]:
    """The kinds of bits/dim of an arm's runs, each once."""
    kinds = dict.fromkeys(map(likelihood_kind, arm.reports.values()))
    return list(filter(None, kinds))


def is_of_one_data_set(results: Results) -> bool:
    """Whether all arms are of the same data."""
    return len({short_value(arm.settings.get("data")) for arm in results.arms}) < 2


def floor_images(arms: Iterable[ArmResult]) -> str:
    """The images whose distance is the floor, in words: those of the part that generated images
    are not compared with.
    """
    reports = chain.from_iterable(arm.reports.values() for arm in arms)
    is_of_training = distinct_values(reports, "quality", "part") == {"held-out"}
    return "training images" if is_of_training else "held-out images"


def units_of(arm: ArmResult) -> set[str]:
    """The units of an arm's bits/dim, as its runs state them."""
    return distinct_values(arm.reports.values(), "likelihood", "unit")


def lacks_distances(report: Report) -> bool:
    """Whether a report is of images, and has no distance of generated ones."""
    is_of_images = report_value(report, "likelihood", "held_out") is not None
    return is_of_images and not any(name.startswith("quality/") for name in report["metrics"])


def commit_of(report: Report) -> str:
    """The version of the code of a run."""
    name = report_value(report, "git", "commit")
    if not name:
        return ""
    changes = " with changes" if report_value(report, "git", "dirty") else ""
    return f"{name[:10]}{changes}"


# Comparability


def is_comparable(results: Results, arm: ArmResult, metric: str) -> bool:
    """Whether an arm's numbers are of the same data as the baseline's, and a distance
    to the same reference.
    """
    baseline = results.baseline_arm
    return same_data(arm, baseline, metric) and not references_differ(arm, baseline, metric)


def same_data(arm: ArmResult, baseline: ArmResult, metric: str) -> bool:
    """Whether two arms' bits/dim are of the same data: those of latents are not those of pixels,
    those of a validation part are not those of held-out images, and those of other held-out images
    are others. A report that does not state its images does not count.
    """
    if not metric.startswith(("val/", "train/")):
        return True
    reports = list(_reports_of(arm, baseline))
    units = set(report_values(reports, "likelihood", "unit"))
    parts = set(report_values(reports, "likelihood", "part"))
    images = distinct_values(reports, "likelihood", "held_out")
    return len(units) < 2 and len(parts) < 2 and len(images) < 2


def references_differ(arm: ArmResult, baseline: ArmResult, metric: str) -> str:
    """Why a published distance of two arms is not the same quantity: two references, or features
    of two networks; empty where it is.
    """
    if metric not in DISTANCES or METRICS[metric].classifier:
        return ""

    networks = set()
    files = set()
    checksums = set()
    for report in _reports_of(arm, baseline):
        if "fidelity" in report and metric in report["metrics"]:
            fidelity = report["fidelity"]
            reference = fidelity["reference"]
            networks.add(str(fidelity.get("extractor")))
            files.add((str(reference.get("file")), reference.get("images")))
            checksums.add(fidelity.get("reference_sha256"))

    if len(networks) > 1:
        return f"distances are of two networks ({' and '.join(sorted(networks))})"
    if len(files if None in checksums else checksums) > 1:
        names = {file for file, _ in files}
        return f"distances are to two references ({' and '.join(sorted(names))})"
    return ""


def _reports_of(arm: ArmResult, baseline: ArmResult) -> list[Report]:
    return [*arm.reports.values(), *baseline.reports.values()]


def bound_label(arm: ArmResult) -> set[str]:
    """The kinds of bound of an arm's likelihood, with their steps, as in `masked, 8 steps`; an
    empty name stands for no bound.
    """
    names = set()
    for report in arm.reports.values():
        steps = report_value(report, "likelihood", "steps")
        name = f"{arm.inexact or 'bound'}{f', {steps} steps' if steps else ''}"
        names.add(name if report_value(report, "likelihood", "kind") == "bound" else "")
    return names


def incomparable_bounds(results: Results) -> list[str]:
    """Arms whose likelihood is a bound, unless all arms have one kind of bound at one number
    of steps.
    """
    all_labels = set[str]()
    bounds = []
    for arm in results.arms:
        labels = bound_label(arm)
        all_labels |= labels
        if labels - {""}:
            bounds.append(arm.name)
    return bounds if len(all_labels) > 1 else []


def doubt(arm: ArmResult, baseline: ArmResult, metric: str, difference: float) -> str:
    """Why a difference may have another cause than the models; empty where it has none."""
    if not metric.startswith("val/"):
        return references_differ(arm, baseline, metric)
    of_arm = bound_label(arm)
    of_baseline = bound_label(baseline)
    if of_arm == of_baseline and len(of_arm) < 2:
        return ""

    names = of_arm | of_baseline
    if len(of_arm) > 1 or len(of_baseline) > 1 or all(names):
        named = " against ".join(name or "exact" for name in sorted(names))
        return f"bounds differ by how loose they are, too ({named})"

    is_looser = "" not in of_arm
    return LOOSER_BOUND if (difference > 0) == is_looser else ""


# Runs that differ otherwise than by design

_SETTINGS = {
    "val": ("draws", "resolution"),
    "quality": ("images", "seed"),
    "speed": ("speed_batch", "speed_repeats"),
}
"""Settings of the evaluation that a family of metrics depends on."""
_MEASURED = {
    "val": ("likelihood", ("images", "draws", "unit", "resolution", "precision")),
    "quality": ("quality", ("images", "reference", "precision")),
    "speed": ("speed", ("device", "threads", "batch", "repeats", "precision")),
}
"""The section of a report, and its keys, that state the conditions of a family of metrics."""


def condition_caution(
    arm: ArmResult, baseline: ArmResult, metric: str, outliers: Sequence[tuple[str, int]] = ()
) -> str:
    """Differences between the runs of a comparison that should not be; empty where there are none.

    outliers: the runs that lie far from their arm's other seeds; those of the two arms are named.
    """
    seeds: dict[str, list[int]] = {}
    for name, seed in outliers:
        seeds.setdefault(name, []).append(seed)

    sentences = []
    if differences := _differences(arm, baseline, metric):
        sentences.append(f"the runs differ in {'; '.join(differences)}")
    for each in (arm, baseline):
        if not_finite := each.not_finite(metric):
            named = f"{each.name} seed {', '.join(map(str, not_finite))}"
            sentences.append(f"{named} is not finite and left out")
        if outlying := sorted(seeds.get(each.name, ())):
            named = f"{each.name} seed {', '.join(map(str, outlying))}"
            sentences.append(f"{named} is far from its arm's other seeds")

    return "; ".join(sentences)


def _differences(arm: ArmResult, baseline: ArmResult, metric: str) -> list[str]:
    """The conditions in which the runs of two arms differ: code, device, versions, evaluation."""
    reports = _reports_of(arm, baseline)
    family = metric.split("/")[0]
    conditions = differing_conditions(reports)
    differences = dict(zip(conditions, conditions, strict=True))

    kinds = ", ".join(_kinds_in_words(arm))
    baseline_kinds = ", ".join(_kinds_in_words(baseline))
    if family == "val" and kinds != baseline_kinds:
        differences["kind"] = f"likelihoods ({kinds} against {baseline_kinds})"

    for name in _SETTINGS.get(family, ()):
        setting = report_value(arm.settings, "evaluation", name)
        baseline_setting = report_value(baseline.settings, "evaluation", name)
        if setting != baseline_setting:
            text = f"evaluation.{name} ({setting} against {baseline_setting})"
            differences[name.removeprefix("speed_")] = text

    section, keys = _MEASURED.get(family, ("", ()))
    for key in keys:
        values = _values_in_words(reports, section, key)
        if len(values) > 1:
            differences.setdefault(key, f"{section}.{key} ({', '.join(values)})")
    return list(differences.values())


def _kinds_in_words(arm: ArmResult) -> list[str]:
    """The kinds of likelihood in the reports of an arm: exact, bound, estimate, unknown."""
    kinds = set()
    for report in arm.reports.values():
        kinds.add(report.get("likelihood", {}).get("kind", "unknown"))
    return sorted(kinds)


def _values_in_words(reports: Sequence[Report], section: str, key: str) -> list[str]:
    """The values of report[section][key] as text, of the reports that have the key."""
    values = set()
    for report in reports:
        if key in report.get(section, {}):
            values.add(str(report[section][key]))
    return sorted(values)


def differing_conditions(reports: Sequence[Report]) -> list[str]:
    """The conditions among code, device and versions in which some runs differ; a report that
    does not state one does not count.
    """
    commits = report_values(reports, "git", "commit")
    dirty = report_values(reports, "git", "dirty")
    differing = ["the code's version"] if len(set(zip(commits, dirty, strict=True))) > 1 else []
    for name in ("device", "torch", "lightning"):
        if len(distinct_values(reports, "environment", name)) > 1:
            differing.append(name)
    return differing


# Speeds


def unreliable(reports: Sequence[Report], speeds: Mapping[str, Sequence[float]]) -> str:
    """Why speeds are unreliable: a busy machine, or speeds that differ between seeds or days as
    those of a busy machine do. Empty where they are not.

    Arguments:
        speeds: Arm → images/s of each seed.
    """
    loads = report_values(reports, "speed", "load_average")
    cpus = report_values(reports, "environment", "cpus")
    busy = []
    for load, count in zip(loads, cpus, strict=True):
        if load is not None and count and load > 1.25 * count:
            busy.append(load)
    uneven = [arm for arm, of_arm in speeds.items() if _is_uneven(of_arm)]
    throughputs = list(filter(None, report_values(reports, "speed", "gflops")))

    reasons = []
    if busy:
        reasons.append(
            f"other programs were at work while {len(busy)} of {len(loads)} speeds were taken"
            f" (load average up to {max(busy):.1f} on {cpus[0]} CPUs)"
        )
    if uneven:
        reasons.append(
            f"the speeds of one arm differ from seed to seed by more than {_UNEVEN - 1:.0%} "
            f"({join_names(uneven)})"
        )
    if _is_uneven(throughputs):
        reasons.append(
            "the machine itself was not as fast at all times (its matrix product"
            f" {min(throughputs):,.0f} to {max(throughputs):,.0f} GFLOP/s when speeds were taken)"
        )
    return "; ".join(reasons)


def _is_uneven(speeds: Sequence[float]) -> bool:
    return len(speeds) > 1 and max(speeds) > _UNEVEN * min(speeds)


def unreliable_speeds(results: Results) -> str:
    """Why the speeds of a study are unreliable; empty where they are not."""
    speeds = {arm.name: list(arm.values(SPEED).values()) for arm in results.arms}
    return unreliable(results.every_report, speeds)
