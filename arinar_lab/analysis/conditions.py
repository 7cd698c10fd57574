"""The conditions under which numbers were taken, as the reports state them, and what they
leave to be concluded.

Two arms may differ because their runs differ otherwise than by design: in their data, in the
reference of a distance, in how loose a bound is, in the code, the device, or the way of measuring.
This module reads that from their reports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..metrics import DISTANCE, DISTANCES, SPEED
from .results import ArmResult, Report, Results
from .text import join_names, short_value

LOOSER_BOUND = "a bound that reads worse shows nothing"
_UNEVEN = 1.3  # times as fast, beyond which speeds of one thing were not taken alike


# What reports state


def report_value(report: Report, *keys: str) -> Any:
    """report[key][key]…, None where the report lacks it."""
    value: Any = report
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def shared_value(results: Results, of: Callable[[ArmResult, Report], Any]) -> str:
    """The value that all runs state; else the most common one, and the others with who has them.
    Empty where none does.
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
    """Runs by name: an arm where all its finished seeds are meant, else single seeds."""
    names = []
    for arm in dict.fromkeys(arm for arm, _ in runs):
        seeds = [seed for name, seed in runs if name == arm]
        complete = len(seeds) == len(results.reports[arm])
        names.append(arm if complete else f"{arm} seed {', '.join(map(str, seeds))}")
    return join_names(names)


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


def kinds_of(arm: ArmResult) -> list[str]:
    """What the runs of an arm call their bits/dim, each name once."""
    kinds = dict.fromkeys(likelihood_kind(report) for report in arm.reports.values())
    return [kind for kind in kinds if kind]


def units_of(arm: ArmResult) -> set[str]:
    """What the bits/dim of an arm are of, as its runs state it."""
    return {report_value(report, "likelihood", "unit") for report in arm.reports.values()} - {None}


def commit_of(report: Report) -> str:
    """The code that made a run."""
    name = report_value(report, "git", "commit")
    return (
        f"{name[:10]}{' with changes' if report_value(report, 'git', 'dirty') else ''}"
        if name
        else ""
    )


# What may be compared


def is_comparable(results: Results, arm: ArmResult, metric: str) -> bool:
    """Whether an arm's numbers are of the same data as the baseline's, and a distance
    to the same reference.
    """
    baseline = results.baseline_arm
    return same_data(arm, baseline, metric) and not references_differ(arm, baseline, metric)


def same_data(arm: ArmResult, baseline: ArmResult, metric: str) -> bool:
    """Whether two arms' bits/dim are of the same data: those of latents are not those of pixels."""
    reports = [*arm.reports.values(), *baseline.reports.values()]
    units = {report_value(report, "likelihood", "unit") for report in reports}
    return not metric.startswith(("val/", "train/")) or len(units) < 2


def references_differ(arm: ArmResult, baseline: ArmResult, metric: str) -> str:
    """Whether a published distance of two arms is to two references, or in the features of two
    networks; else empty.
    """
    if metric not in DISTANCES or metric == DISTANCE:
        return ""
    reports = [*arm.reports.values(), *baseline.reports.values()]
    measured = [
        report["fidelity"]
        for report in reports
        if "fidelity" in report and metric in report["metrics"]
    ]

    networks = {fidelity.get("extractor") for fidelity in measured}
    files = {
        (fidelity["reference"].get("file"), fidelity["reference"].get("images"))
        for fidelity in measured
    }
    checksums = {fidelity.get("reference_sha256") for fidelity in measured}

    if len(networks) > 1:
        return f"distances are of two networks ({' and '.join(sorted(map(str, networks)))})"
    if len(files if None in checksums else checksums) > 1:
        return (
            "distances are to two references "
            f"({' and '.join(sorted({str(file) for file, _ in files}))})"
        )
    return ""


def bound_label(arm: ArmResult) -> set[str]:
    """What makes an arm's likelihood a bound, with its steps, as in `masked, 8 steps`; an empty
    name of what is none.
    """
    names = set()
    for report in arm.reports.values():
        steps = report_value(report, "likelihood", "steps")
        name = f"{arm.inexact or 'bound'}{f', {steps} steps' if steps else ''}"
        names.add(name if report_value(report, "likelihood", "kind") == "bound" else "")
    return names


def incomparable_bounds(results: Results) -> list[str]:
    """Arms whose likelihood is a bound, where not all arms' are one kind of bound at
    one number of steps.
    """
    kinds = {arm.name: bound_label(arm) for arm in results.arms if arm.reports}
    if len(set().union(*kinds.values())) < 2:
        return []
    return [name for name, of_arm in kinds.items() if of_arm != {""}]


def doubt(arm: ArmResult, baseline: ArmResult, metric: str, difference: float) -> str:
    """Why a difference may not be one of the models; empty where it can only be that."""
    if not metric.startswith("val/"):
        return references_differ(arm, baseline, metric)
    of_arm, of_baseline = bound_label(arm), bound_label(baseline)
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
_MEASURED = {
    "val": ("likelihood", ("images", "draws", "unit", "resolution", "precision")),
    "quality": ("quality", ("images", "reference", "precision")),
    "speed": ("speed", ("device", "threads", "batch", "repeats", "precision")),
}
"""Where a report states what a metric is of, and in which words."""


def condition_caution(
    arm: ArmResult, baseline: ArmResult, metric: str, outliers: Sequence[tuple[str, int]] = ()
) -> str:
    """How the runs that a comparison rests on differ, where they should not;
    empty where they do not.

    outliers: the runs that lie far from their arm's other seeds; those of the two arms are named.
    """
    sentences = []
    if differences := _differences(arm, baseline, metric):
        sentences.append(f"the runs differ in {'; '.join(differences)}")
    for each in (arm, baseline):
        if seeds := each.not_finite(metric):
            sentences.append(
                f"{each.name} seed {', '.join(map(str, seeds))} is not finite and left out"
            )
        if seeds := sorted(seed for name, seed in outliers if name == each.name):
            sentences.append(
                f"{each.name} seed {', '.join(map(str, seeds))} is far from its arm's other seeds"
            )

    return "; ".join(sentences)


def _differences(arm: ArmResult, baseline: ArmResult, metric: str) -> list[str]:
    """In what the runs of two arms differ: code, device, versions, evaluation."""
    reports = [*arm.reports.values(), *baseline.reports.values()]
    family = metric.split("/")[0]
    differ = {name: name for name in differing_conditions(reports)}

    kinds = [", ".join(_likelihoods(each)) for each in (arm, baseline)]
    if family == "val" and kinds[0] != kinds[1]:
        differ["kind"] = f"likelihoods ({' against '.join(kinds)})"

    for name in _SETTINGS.get(family, ()):
        values = [report_value(each.settings, "evaluation", name) for each in (arm, baseline)]
        if values[0] != values[1]:
            differ[name.removeprefix("speed_")] = (
                f"evaluation.{name} ({values[0]} against {values[1]})"
            )

    section, words = _MEASURED.get(family, ("", ()))
    for word in words:
        measured = {
            str(report[section][word]) for report in reports if word in report.get(section, {})
        }
        if len(measured) > 1:
            differ.setdefault(word, f"{section}.{word} ({', '.join(sorted(measured))})")
    return list(differ.values())


def _likelihoods(arm: ArmResult) -> list[str]:
    """What the reports of an arm call their likelihood: exact, bound, estimate."""
    return sorted(
        {report.get("likelihood", {}).get("kind", "unknown") for report in arm.reports.values()}
    )


def differing_conditions(reports: Sequence[Report]) -> list[str]:
    """In which of code, device and versions some runs differ; a report that does not
    state one is not counted.
    """
    stated: dict[str, set[Any]] = {"the code's version": set()}
    for report in reports:
        stated["the code's version"].add(
            (report_value(report, "git", "commit"), report_value(report, "git", "dirty"))
        )
    for name in ("device", "torch", "lightning"):
        stated[name] = {report_value(report, "environment", name) for report in reports} - {None}
    return [name for name, values in stated.items() if len(values) > 1]


# Speeds


def unreliable(reports: Sequence[Report], speeds: Mapping[str, Sequence[float]]) -> str:
    """Why speeds say little: others computed beside them, or they differ from seed to seed, or
    between days, as if so.

    Arguments:
        speeds: arm → of each seed, in images/s.
    """
    loads = [
        (report_value(report, "speed", "load_average"), report_value(report, "environment", "cpus"))
        for report in reports
    ]
    busy = [load for load, cpus in loads if load is not None and cpus and load > 1.25 * cpus]
    throughputs = [
        value for report in reports if (value := report_value(report, "speed", "gflops"))
    ]
    uneven = [
        arm
        for arm, values in speeds.items()
        if len(values) > 1 and max(values) > _UNEVEN * min(values)
    ]

    reasons = []
    if busy:
        reasons.append(
            f"other programs were at work while {len(busy)} of {len(loads)} speeds were taken"
            f" (load average up to {max(busy):.1f} on {loads[0][1]} CPUs)"
        )
    if uneven:
        reasons.append(
            f"the speeds of one arm differ from seed to seed by more than {_UNEVEN - 1:.0%} "
            f"({join_names(uneven)})"
        )
    if throughputs and max(throughputs) > _UNEVEN * min(throughputs):
        reasons.append(
            "the machine itself was not as fast at all times (its matrix product"
            f" {min(throughputs):,.0f} to {max(throughputs):,.0f} GFLOP/s when speeds were taken)"
        )
    return "; ".join(reasons)


def unreliable_speeds(results: Results) -> str:
    """The same of a study; empty where nothing speaks against its speeds."""
    speeds = {arm.name: list(arm.values(SPEED).values()) for arm in results.arms}
    return unreliable([report for *_, report in results.runs], speeds)
