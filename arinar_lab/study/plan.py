"""An ablation file becomes a plan: arms, seeds, and the jobs that bring them about.

    question: How many Gaussians does the inner head need?
    base: ../digits.yaml                          the recipe that is varied (a path beside this file)
    axes: {inner.head.components: [1, 2, 4, 8]}   a full grid over one or more keys
    arms: {name: {key: value, …}, …}              and / or arms by name
    baseline: components=4                        the arm that the others are compared with
    seeds: [0, 1, 2]                              repeats; no part of an arm's signature
    references: true                              density estimators of scikit-learn in the table, marked as not ours

An arm is a recipe. Arms that differ only in how they are sampled or measured share their training: a `Job` is one run
folder (arm × seed) with every evaluation that is asked of it.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..model.head import Likelihood
from ..run.config import Recipe, build, merge, nest, parse, read_recipe, read_yaml
from ..run.folder import RunFolder, slug
from ..run.schema import ConfigError, flatten, nearest
from ..run.transfer import inherited

_KEYS = ("question", "base", "axes", "arms", "baseline", "seeds", "references")


@dataclass(frozen=True)
class Arm:
    """One design of the study.

    Arguments:
        name: what differs from the other arms.
        values: of each axis, in the axes' order; empty for arms by name.
        recipe: with the study's first seed.
        parameters: trained parameters.
        likelihood: what its bits/dim are; `none` where it has none.
    """

    name: str
    values: tuple[Any, ...]
    recipe: Recipe
    parameters: int
    likelihood: Likelihood = "exact"


@dataclass(frozen=True)
class Job:
    """One run folder and the recipes whose evaluations it holds (they differ in sampler and evaluation alone)."""

    folder: RunFolder
    arm: str
    recipes: tuple[Recipe, ...]

    @property
    def key(self) -> str:
        return f"{self.recipes[0].training_signature}/seed_{self.recipes[0].seed}"

    @property
    def done(self) -> bool:
        """Whether it is trained and every evaluation reported."""
        return self.folder.done and all(self.folder.report(recipe) for recipe in self.recipes)


@dataclass(frozen=True)
class Plan:
    """A checked study.

    Arguments:
        name: of the study, and of its folder; question: that it answers.
        axes: the varied keys; arms; baseline: an arm's name; seeds.
        references: whether scikit-learn's estimators stand beside the arms.
    """

    name: str
    question: str
    axes: tuple[str, ...]
    arms: tuple[Arm, ...]
    baseline: str
    seeds: tuple[int, ...]
    references: bool = False
    roots: tuple[Path, Path] = field(default=(Path("studies"), Path("runs")))

    @property
    def folder(self) -> Path:
        return self.roots[0] / self.name

    def cell(self, arm: Arm, seed: int) -> tuple[RunFolder, Recipe]:
        """The run folder and the recipe of one arm under one seed."""
        recipe = replace(arm.recipe, seed=seed)
        return RunFolder.of(recipe, arm.name, self.roots[1]), recipe

    @property
    def criterion(self) -> str:
        """The metric by which arms are ranked: bits/dim, or a Fréchet distance where an arm has no likelihood."""
        without = any(arm.likelihood == "none" for arm in self.arms)
        return "quality/fd_digits" if without else "val/bits_per_dim"

    @property
    def jobs(self) -> list[Job]:
        """All runs, seed by seed, so that an interrupted study has every arm at equal numbers of seeds."""
        jobs: dict[str, Job] = {}
        for seed, arm in itertools.product(self.seeds, self.arms):
            folder, recipe = self.cell(arm, seed)
            job = Job(folder, arm.name, (recipe,))
            there = jobs.get(job.key)
            jobs[job.key] = replace(there, recipes=(*there.recipes, recipe)) if there else job
        return list(jobs.values())


def short(value: Any) -> str:
    """A value as part of an arm's name."""
    if isinstance(value, dict):
        rest = [f"{k}={short(v)}" for k, v in value.items() if k != "kind"]
        return " ".join([str(value.get("kind", "")), *rest]).strip()
    if isinstance(value, list):
        return "+".join(map(short, value))
    return str(value)


def _grid(path: Path, axes: dict[str, list[Any]]) -> dict[str, tuple[dict[str, Any], tuple[Any, ...]]]:
    """Every combination of the axes' values: name → (changes, values)."""
    last = [key.split(".")[-1] for key in axes]
    labels = [key if last.count(name) > 1 else name for key, name in zip(axes, last, strict=True)]
    arms: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {}
    for values in itertools.product(*axes.values()):
        name = ",".join(f"{label}={short(value)}" for label, value in zip(labels, values, strict=True))
        if name in arms:
            raise ConfigError(f"{path}: axes: the arm {name} stands there twice")
        arms[name] = (dict(zip(axes, values, strict=True)), values)
    return arms


def read_plan(path: Path, overrides: dict[str, Any] | None = None) -> Plan:
    """Read and check a study file; every arm is built once. `overrides` change the base recipe or the study's own keys.

    Raises:
        ConfigError: with the first fault, in one line.
    """
    content, changes = read_yaml(path), dict(overrides or {})
    own = {key: changes.pop(key) for key in _KEYS if key in changes}
    content = {**content, **own}
    if "seed" in changes:
        raise ConfigError(f"seed: {changes['seed']!r} is of one run; a study repeats its arms, as in seeds=[0,1,2]")
    for key in content:
        if key not in _KEYS:
            raise ConfigError(
                f"{path}: {key}: unknown key; a study takes {', '.join(_KEYS)}{nearest(key, list(_KEYS))}"
            )
    if not isinstance(content.get("base"), str):
        raise ConfigError(f"{path}: base: missing; name the recipe that is varied, as in base: ../digits.yaml")
    base = merge(read_recipe(path.parent / content["base"]), changes)
    chosen = _grid(path, _axes(path, content)) if content.get("axes") else {}
    named = content.get("arms") or {}
    if not isinstance(named, dict) or not all(isinstance(arm, dict | None) for arm in named.values()):
        raise ConfigError(f"{path}: arms: {named!r} is not a mapping of names to changes")
    if twice := sorted(set(map(str, named)) & set(chosen)):
        raise ConfigError(f"{path}: arms: {twice[0]} is an arm of the axes already")
    chosen |= {str(name): (arm or {}, ()) for name, arm in named.items()}
    if not chosen:
        raise ConfigError(f"{path}: axes: missing; a study varies something, by axes or by arms")
    seeds = content.get("seeds", [0, 1, 2])
    if (
        not isinstance(seeds, list)
        or not seeds
        or not all(type(s) is int and 0 <= s < 2**32 for s in seeds)
        or len(set(seeds)) < len(seeds)
    ):
        raise ConfigError(f"{path}: seeds: {seeds!r} is not a list of different whole numbers")
    arms = tuple(_arm(path, name, base, change, values, seeds[0]) for name, (change, values) in chosen.items())
    _refuse_twins(path, arms)
    baseline = content.get("baseline", arms[0].name)
    if not isinstance(baseline, str) or baseline not in chosen:
        raise ConfigError(
            f"{path}: baseline: {baseline!r} is no arm; one of {', '.join(chosen)}{nearest(baseline, list(chosen))}"
        )
    axes = tuple(content.get("axes") or ())
    references = content.get("references", False)
    if not isinstance(references, bool):
        raise ConfigError(f"{path}: references: {references!r} is not true or false")
    return Plan(
        study_name(path.stem, {**changes, **own}),
        str(content.get("question", "")),
        axes,
        arms,
        baseline,
        tuple(seeds),
        references,
    )


def _axes(path: Path, content: dict[str, Any]) -> dict[str, list[Any]]:
    axes = content["axes"]
    if not isinstance(axes, dict):
        raise ConfigError(f"{path}: axes: {axes!r} is not a mapping of keys to lists of values")
    for key, values in axes.items():
        if not isinstance(key, str):
            raise ConfigError(f"{path}: axes: {key!r} is not the name of a key")
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{path}: axes.{key}: {values!r} is not a list of values")
    return axes


def _arm(
    path: Path, name: str, base: dict[str, Any], change: dict[str, Any], values: tuple[Any, ...], seed: int
) -> Arm:
    try:
        recipe = parse(merge(merge(base, nest(change)), {"seed": seed}))
        experiment = build(recipe, "meta")
        inherited(recipe, experiment)
    except ConfigError as error:
        raise ConfigError(f"{path}: arm {name}: {error}") from None
    likelihood = experiment.model.likelihood
    if likelihood == "none" and not experiment.source.levels:
        raise ConfigError(f"{path}: arm {name}: has no likelihood, and this data no Fréchet distance to compare it by")
    return Arm(name, values, recipe, sum(p.numel() for p in experiment.model.parameters()), likelihood)


def _refuse_twins(path: Path, arms: tuple[Arm, ...]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for arm in arms:
        signature = (arm.recipe.training_signature, arm.recipe.evaluation_signature)
        if signature in seen:
            raise ConfigError(f"{path}: arms {seen[signature]} and {arm.name} are the same; give each a difference")
        seen[signature] = arm.name


def study_name(stem: str, changes: dict[str, Any]) -> str:
    """The study's name: its file's, and what was overridden (as a hash, where that would be too long for a folder)."""
    suffix = "".join(f"-{key}={short(value)}" for key, value in sorted(flatten(changes).items()))
    name = slug(stem + suffix)
    return name if len(name) <= 120 else f"{stem}-{hashlib.sha256(suffix.encode()).hexdigest()[:8]}"
