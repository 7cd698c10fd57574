"""Results of a study, read from its run folders once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ..analysis.results import ArmResult, Folders, Report, Results
from ..config.schema import Component, flatten, to_plain
from ..config.sections import Recipe
from ..errors import ConfigError
from ..metrics import SPEED
from ..runs.folder import RunFolder, read_json, read_sealed, say_damaged
from .plan import LOOKS, Arm, Plan


def collect(plan: Plan) -> Results:
    """Read the report of every finished run of a study.

    Raises:
        ConfigError: if a report holds a metric that is no number, or a DONE is damaged.
    """
    reports: dict[str, dict[int, Report]] = {}
    for arm in plan.arms:
        reports[arm.name] = {}
        for seed in plan.seeds_of(arm):
            folder, recipe = plan.cell(arm, seed)
            if report := folder.report(recipe):
                refuse_malformed(report, folder.evaluation(recipe) / "report.json")
                reports[arm.name][seed] = report

    return results_of(plan, reports, read_json(plan.folder / "references.json"))


def results_of(
    plan: Plan,
    reports: Mapping[str, dict[int, Report]],
    references: Mapping[str, float] = MappingProxyType({}),
) -> Results:
    """Results of a study from its reports: arm → seed → report."""
    arms = tuple(_arm_result(plan, arm, reports[arm.name]) for arm in plan.arms)
    varied = varied_keys([arm.settings for arm in arms])

    return Results(
        name=plan.name,
        arms=arms,
        baseline=plan.baseline,
        seeds=plan.seeds,
        baseline_seeds=plan.all_seeds,
        question=plan.question,
        folder=plan.folder,
        axes=plan.axes,
        varied=varied,
        regimes=plan.regimes,
        papers=plan.papers,
        references=references,
        matters=plan.matters,
        pooled=plan.pooled,
        family=plan.family,
        looks=looks_so_far(plan),
        most_seeds=plan.growth.at_most if plan.growth else 0,
    )


def looks_so_far(plan: Plan) -> tuple[int, ...]:
    """The numbers of seeds at which these arms were looked at, with the present one; empty for
    the only look of a fixed number.

    A look counts whichever study recorded it, if all its seeds are among those of this one.
    """
    counts = {len(plan.seeds)}
    for file in plan.workspace.studies.glob(f"*/{LOOKS}"):
        for look in read_sealed(file).get("looks", []):
            if look["arms"] == plan.arms_signature and set(look["seeds"]) < set(plan.seeds):
                counts.add(len(look["seeds"]))

    return tuple(sorted(counts)) if plan.growth or len(counts) > 1 else ()


def _arm_result(plan: Plan, arm: Arm, reports: dict[int, Report]) -> ArmResult:
    folders = {}
    failures = {}
    unreadable = {}
    damaged: dict[Path, str] = {}
    image_bits: dict[int, np.ndarray] = {}
    for seed in plan.seeds_of(arm):
        folder, recipe = plan.cell(arm, seed)
        folders[seed] = Folders(folder.path, folder.evaluation(recipe))
        file = folder.evaluation(recipe) / "report.json"
        if seed in reports:
            bits, faults = read_beside(folder, recipe, reports[seed])
            if bits is not None:
                image_bits[seed] = bits
            damaged |= faults
        if seed not in reports and folder.failure:
            failures[seed] = folder.failure
        elif seed not in reports and file.is_file():
            unreadable[seed] = file

    return ArmResult(
        name=arm.name,
        settings=to_plain(arm.recipe),
        reports=reports,
        folders=folders,
        likelihood=arm.likelihood,
        distance=arm.distance,
        inexact=inexact_parts(arm.recipe),
        factors=arm.values,
        accelerators=arm.recipe.sampler.accelerators,
        matched=arm.matched,
        regime=arm.regime,
        signature=arm.recipe.training_signature,
        failures=failures,
        unreadable=unreadable,
        damaged=damaged,
        image_bits=image_bits,
    )


def read_beside(
    folder: RunFolder, recipe: Recipe, report: Report
) -> tuple[np.ndarray | None, dict[Path, str]]:
    """Bits/dim of images [n] beside a report, None where there are none; and the files beside it
    that are damaged or missing, with the reason, which is printed, too.
    """
    bits = None
    faults: dict[Path, str] = {}
    try:
        bits = folder.image_bits(recipe, report).get("bits")
    except ConfigError as error:
        faults[folder.evaluation(recipe) / "bits.npz"] = str(error)
    try:
        folder.refuse_edited("metrics.csv")
    except ConfigError as error:
        faults[folder.path / "metrics.csv"] = str(error)

    for path, reason in faults.items():
        say_damaged(reason, path.stat().st_mtime_ns if path.is_file() else 0)
    return bits, faults


def inexact_parts(recipe: Recipe) -> str:
    """The kinds of a recipe's parts whose likelihood is not exact, as in `masked+diffusion`."""
    return "+".join(_inexact(recipe.outer) + _inexact(recipe.inner))


def _inexact(part: Any) -> list[str]:
    """The kinds of a part, and of the parts within it, whose likelihood is not exact."""
    if not isinstance(part, Component):
        return []

    is_exact = getattr(part.factory, "likelihood", "exact") == "exact"
    kinds = [] if is_exact else [part.kind]
    for value in part.arguments.values():
        kinds += _inexact(value)
    return kinds


def refuse_malformed(report: Report, path: Path) -> None:
    """Refuse a report whose sections are no mappings, or whose metrics are no numbers.

    Raises:
        ConfigError: naming the entry.
    """
    for section in ("metrics", "noise", "likelihood", "quality", "speed", "environment", "git"):
        if not isinstance(report.get(section, {}), dict):
            raise ConfigError(
                f"{path}: {section}: not a mapping of names to values; remove the file to "
                "evaluate anew"
            )

    for section in ("metrics", "noise"):
        for name, value in report.get(section, {}).items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ConfigError(
                    f"{path}: {section}.{name}: {value!r} is not a number; remove the file to "
                    "evaluate anew"
                )

    if report["metrics"].get(SPEED, 1) <= 0:
        raise ConfigError(f"{path}: metrics.{SPEED}: not above 0; remove the file to evaluate anew")


def varied_keys(settings: list[dict[str, Any]]) -> tuple[str, ...]:
    """The keys in which recipes differ; below a part that differs in kind, those that
    differ within one kind.
    """
    recipes = list(map(flatten, settings))
    keys = sorted(set().union(*recipes) - {"seed"})
    different = [key for key in keys if _differ(recipes, key)]

    varied = []
    for key in different:
        kinds = [kind for kind in different if _is_kind_above(kind, key)]
        if _differs_itself(key, kinds, recipes):
            varied.append(key)
    return tuple(varied)


def _differ(recipes: list[dict[str, Any]], key: str) -> bool:
    return len({repr(recipe.get(key)) for recipe in recipes}) > 1


def _is_kind_above(kind: str, key: str) -> bool:
    """Whether a key is the kind of a part that holds another key."""
    part = kind.removesuffix("kind")
    return kind.endswith(".kind") and key != kind and key.startswith(part)


def _differs_itself(key: str, kinds: list[str], recipes: list[dict[str, Any]]) -> bool:
    """Whether a key differs by itself, not because a part above it is of another kind."""
    if key.endswith(".kind") and _differ([recipe for recipe in recipes if key in recipe], key):
        return True

    groups: dict[str, list[dict[str, Any]]] = {}
    for recipe in recipes:
        groups.setdefault(repr(list(map(recipe.get, kinds))), []).append(recipe)
    return any(_differ(group, key) for group in groups.values())
