"""An ablation file becomes a plan: arms, seeds, and the jobs that bring them about.

    question: How many Gaussians does the inner head need?
    base: ../digits.yaml                          the recipe that is varied (a
                                                  path beside this file)
    axes: {inner.head.components: [1, 2, 4, 8]}   a full grid over one or more keys
    arms: {name: {key: value, …}, …}              and / or arms by name
    vary: {outer.norm: [rms, dyt]}                and / or one factor at a time: the baseline
                                                  with each single change
    match: {cost: parameters, by: outer.width}    every arm is given the width at which it costs
                                                  what the baseline does
    baseline: components=4                        the arm that the others are compared with
    seeds: [0, 1, 2]                              repeats; no part of an arm's signature
    budget: {training.steps: [1, 4]}              every arm at each of these multiples, to see
                                                  whether the ranking lasts
    references: true                              density estimators of scikit-learn in the table,
                                                  marked as not ours; or a list of rows from papers,
                                                  see `analysis/paper_rows.py`
    storage: postgresql+psycopg://…               where the queue is kept, see optuna_storage.py; a
                                                  local file by default

`vary` changes the arm that `baseline` names; without one it adds the base recipe as it is, as the
arm `base`. A value that the baseline has already is the baseline. `match` also takes `to:` (another
arm) and `tolerance:`, see `cost.py`. Under a `budget` each arm is compared with the baseline at its
own budget, see `budget.py`.

What the command line may change of it: see `override.py`.

An arm is a recipe. Arms that differ only in how they are sampled or measured share their training:
a `Job` is one run folder (arm × seed) with every evaluation that is asked of it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..analysis.paper_rows import PaperRow, read_references
from ..analysis.text import join_names, short_value
from ..config.recipe import Recipe, build, merge, parse_recipe, read_recipe, unflatten
from ..config.schema import flatten, parse_dataclass, to_plain
from ..config.yaml_reader import is_yaml_for, read_value, to_flow_yaml
from ..errors import ConfigError, did_you_mean
from ..files.workspace import HERE, Workspace
from ..model.inner.head import Likelihood
from ..runs.folder import RunFolder, slug
from ..training.warm_start import matching_weights
from .budget import Budget, read_budgets, scaled
from .override import Request, listed_values, read_request, shell_word, unused_overrides, value_at

_KEYS = (
    "question",
    "base",
    "axes",
    "arms",
    "vary",
    "match",
    "budget",
    "baseline",
    "seeds",
    "references",
    "storage",
)
Change = tuple[dict[str, Any], tuple[Any, ...]]
"""What an arm changes of the base, and its value of each axis."""
BASE_ARM = "base"  # the arm that changes nothing, where one factor at a time is varied around it


@dataclass(frozen=True)
class Arm:
    """One design of the study.

    Arguments:
        name: what differs from the other arms.
        values: of each axis, in the axes' order; empty for arms by name.
        recipe: with the study's first seed.
        parameters: trained parameters.
        likelihood: what its bits/dim are; `none` where it has none.
        matched: the key and the value that were solved for equal cost, as in `outer.width=72`;
            empty without `match`.
        budget: the label of the budget that it is given, as in `steps×4`; empty without `budget`.
    """

    name: str
    values: tuple[Any, ...]
    recipe: Recipe
    parameters: int
    likelihood: Likelihood = "exact"
    matched: str = ""
    budget: str = ""

    @property
    def design(self) -> str:
        """Its name without its budget."""
        return self.name.removesuffix(f" @ {self.budget}")


@dataclass(frozen=True)
class Job:
    """One run folder and the recipes whose evaluations it holds (they differ in sampler
    and evaluation alone).
    """

    folder: RunFolder
    arm: str
    recipes: tuple[Recipe, ...]

    @property
    def key(self) -> str:
        return f"{self.recipes[0].training_signature}/seed_{self.recipes[0].seed}"

    @property
    def done(self) -> bool:
        """Whether it is trained and every evaluation reported."""
        return self.folder.done and self.reported

    @property
    def reported(self) -> bool:
        """Whether every evaluation is reported, be it by another machine that keeps the weights."""
        return all(self.folder.report(recipe) for recipe in self.recipes)


@dataclass(frozen=True)
class Plan:
    """A checked study.

    Arguments:
        name: of the study, and of its folder; question: that it answers.
        axes: the varied keys; arms; baseline: an arm's name; seeds.
        references: whether scikit-learn's estimators stand beside the arms; papers:
            rows that are not ours.
        budgets: labels of the budgets at which every arm stands, the smallest first;
            none without `budget`.
        storage: address of the queue; empty for a local file. It is no part of the
            name, and never printed.
        unreached: lines that tell which overrides some arms do not have.
        workspace: where its folder lies, and the runs.
    """

    name: str
    question: str
    axes: tuple[str, ...]
    arms: tuple[Arm, ...]
    baseline: str
    seeds: tuple[int, ...]
    references: bool = False
    storage: str = field(default="", repr=False)
    papers: tuple[PaperRow, ...] = ()
    budgets: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()
    workspace: Workspace = HERE

    @property
    def folder(self) -> Path:
        return self.workspace.studies / self.name

    def cell(self, arm: Arm, seed: int) -> tuple[RunFolder, Recipe]:
        """The run folder and the recipe of one arm under one seed."""
        recipe = arm.recipe.with_seed(seed)
        return RunFolder.of(recipe, arm.name), recipe

    def at(self, budget: str) -> Plan:
        """The arms of one budget, and the baseline among them."""
        arms = tuple(arm for arm in self.arms if arm.budget == budget)
        design = next(arm.design for arm in self.arms if arm.name == self.baseline)
        return replace(self, arms=arms, baseline=f"{design} @ {budget}", budgets=())

    @property
    def baselines(self) -> tuple[str, ...]:
        """The baseline, or that of each budget."""
        return tuple(self.at(budget).baseline for budget in self.budgets) or (self.baseline,)

    def factors(self, arm: Arm) -> dict[str, Any]:
        """What tells an arm from the others, by short names."""
        values = dict(zip(axis_labels(self.axes), arm.values, strict=False))
        return values | ({"budget": arm.budget} if arm.budget else {})

    @property
    def criterion(self) -> str:
        """The metric by which arms are ranked: bits/dim, or a Fréchet distance where an
        arm has no likelihood.
        """
        without = any(arm.likelihood == "none" for arm in self.arms)
        return "quality/fd_digits" if without else "val/bits_per_dim"

    @property
    def jobs(self) -> list[Job]:
        """All runs, seed by seed, so that an interrupted study has every arm at
        equal numbers of seeds.
        """
        jobs: dict[str, Job] = {}
        for seed, arm in itertools.product(self.seeds, self.arms):
            folder, recipe = self.cell(arm, seed)
            job = Job(folder, arm.name, (recipe,))
            there = jobs.get(job.key)
            jobs[job.key] = replace(there, recipes=(*there.recipes, recipe)) if there else job
        return list(jobs.values())


def _grid(path: Path, axes: dict[str, list[Any]]) -> dict[str, Change]:
    """Every combination of the axes' values: name → (changes, values)."""
    labels = axis_labels(axes)
    arms: dict[str, Change] = {}
    for values in itertools.product(*axes.values()):
        name = ",".join(
            f"{label}={short_value(value)}" for label, value in zip(labels, values, strict=True)
        )
        if name in arms:
            raise ConfigError(f"{path}: axes: the arm {name} stands there twice")
        arms[name] = (dict(zip(axes, values, strict=True)), values)

    return arms


def axis_labels(axes: Iterable[str]) -> list[str]:
    """The last word of each key, or all of it where that would not tell two apart."""
    keys = list(axes)
    last = [key.split(".")[-1] for key in keys]
    return [key if last.count(name) > 1 else name for key, name in zip(keys, last, strict=True)]


def _chosen(path: Path, content: dict[str, Any]) -> dict[str, Change]:
    """Every arm that the file asks for, by axes, by name and by one factor at a time."""
    chosen = _grid(path, _axes(path, content, "axes")) if content.get("axes") else {}
    named = content.get("arms") or {}
    if not isinstance(named, dict) or not all(
        isinstance(arm, dict | None) for arm in named.values()
    ):
        raise ConfigError(f"{path}: arms: {named!r} is not a mapping of names to changes")
    if twice := sorted(set(map(str, named)) & set(chosen)):
        raise ConfigError(f"{path}: arms: {twice[0]} is an arm of the axes already")
    chosen |= {str(name): (arm or {}, ()) for name, arm in named.items()}
    if content.get("vary"):
        baseline = matching_arm(content.get("baseline", BASE_ARM), chosen)
        chosen |= _around(path, _axes(path, content, "vary"), baseline, chosen)

    return chosen


def _around(
    path: Path, vary: dict[str, list[Any]], baseline: Any, chosen: dict[str, Change]
) -> dict[str, Change]:
    """The baseline and every arm that differs from it in one factor."""
    if not isinstance(baseline, str) or (baseline != BASE_ARM and baseline not in chosen):
        raise ConfigError(
            f"{path}: baseline: {baseline!r} is no arm to vary; one of "
            f"{join_names([BASE_ARM, *chosen])}"
        )

    centre = chosen.get(baseline, ({}, ()))[0]
    arms: dict[str, Change] = {} if baseline in chosen else {BASE_ARM: ({}, ())}
    for label, (key, values) in zip(axis_labels(vary), vary.items(), strict=True):
        for value in values:
            name = f"{label}={short_value(value)}"
            if name in chosen or name in arms:
                raise ConfigError(f"{path}: vary: the arm {name} stands there twice")
            arms[name] = ({**centre, key: value}, ())

    return arms


def read_plan(
    path: Path, overrides: dict[str, Any] | None = None, workspace: Workspace = HERE
) -> Plan:
    """Read and check a study file; every arm is built once. `overrides` change the base recipe or
    the study's own keys.

    What its recipes name, its runs and its folder lie in the workspace.

    Raises:
        ConfigError: with the first fault, in one line.
    """
    request = study_requested(path, overrides)
    content, changes, _ = request
    if "search" in content:
        raise ConfigError(f"{path}: is a sweep, since it has search; run it by arinar sweep {path}")
    if "seed" in changes:
        raise ConfigError(
            f"seed: {changes['seed']!r} is of one run; a study repeats its arms, as in "
            "seeds=[0,1,2]"
        )

    for key in content:
        if key not in _KEYS:
            raise ConfigError(
                f"{path}: {key}: unknown key; a study takes "
                f"{', '.join(_KEYS)}{did_you_mean(key, list(_KEYS))}"
            )

    if not isinstance(content.get("base"), str):
        raise ConfigError(
            f"{path}: base: missing; name the recipe that is varied, as in base: ../digits.yaml"
        )

    base = merge(read_recipe(path.parent / content["base"]), changes)
    chosen = _chosen(path, content)
    if not chosen:
        raise ConfigError(f"{path}: axes: missing; a study varies something, by axes, arms or vary")
    lines = _unreached(path, content, base, changes, chosen)
    seeds = _seeds(path, content)
    try:
        budgets = read_budgets(content.get("budget"))
        references, papers = read_references(content.get("references", False))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None

    found = {
        name: _arm(path, name, base, change, values, seeds[0], workspace)
        for name, (change, values) in chosen.items()
    }
    default = BASE_ARM if content.get("vary") else next(iter(found))

    baseline = matching_arm(content.get("baseline", default), found)
    if not isinstance(baseline, str) or baseline not in found:
        hint = did_you_mean(baseline, list(found))
        if overrides and "baseline" not in overrides:
            hint = (
                "; with these overrides name another, as in "
                f"{shell_word('baseline', next(iter(found)))}"
            )
        raise ConfigError(
            f"{path}: baseline: {baseline!r} is no arm; one of {join_names(found)}{hint}"
        )

    if content.get("vary"):
        found = _without_twins_of(
            found[baseline], found, set(chosen) - set(_chosen(path, {**content, "vary": None}))
        )

    if content.get("match") is not None:
        found = _matched(path, found, content["match"], baseline)
    if budgets:
        found = _at_budgets(path, found, budgets)
        baseline = f"{baseline} @ {next(iter(budgets))}"

    arms = tuple(found.values())
    _refuse_twins(path, arms)
    if both := [paper.name for paper in papers if paper.name in {arm.name for arm in arms}]:
        raise ConfigError(
            f"{path}: references: {both[0]!r} is an arm, too; a row that is not ours needs "
            "another name"
        )

    axes = tuple(content.get("axes") or ())
    return Plan(
        study_name(path.stem, request.named_by),
        str(content.get("question", "")),
        axes,
        arms,
        baseline,
        seeds,
        references,
        queue_address(content.get("storage", "")),
        papers,
        tuple(budgets),
        unreached=lines,
        workspace=workspace,
    )


def study_requested(path: Path, overrides: dict[str, Any] | None) -> Request:
    """A study's file under overrides.

    Raises:
        ConfigError: if it cannot be read, or an override would be in vain.
    """
    return read_request(path, overrides, _KEYS)


def matching_arm(name: Any, arms: Iterable[str]) -> Any:
    """The arm that a value names: `1` is the arm "1", and `lr=1e-3` the arm `lr=0.001`; the value
    itself where none is.
    """
    names = list(arms)
    if name in names:
        return name

    same = [
        arm
        for arm in names
        if is_yaml_for(arm, name) or (isinstance(name, str) and _reads(arm) == _reads(name))
    ]

    return same[0] if len(same) == 1 else name


def _reads(name: str) -> list[tuple[str, Any]]:
    """An arm's name as keys and values."""
    pairs = []
    for part in name.split(","):
        label, _, text = part.strip().rpartition("=")
        try:
            pairs.append((label, read_value(text)))
        except ConfigError:
            pairs.append((label, text))
    return pairs


def _unreached(
    path: Path,
    content: dict[str, Any],
    base: dict[str, Any],
    changes: dict[str, Any],
    chosen: dict[str, Change],
) -> tuple[str, ...]:
    """Lines that tell which overrides do not reach which arms.

    Raises:
        ConfigError: if one reaches none, or is a list of what `budget` multiplies.
    """
    missed = unused_overrides(base, changes, {name: change for name, (change, _) in chosen.items()})
    for key, names in missed.items():
        value = value_at(changes, key)
        if len(names) == len(chosen):
            arm, axes = next(iter(content.get("arms") or {}), None), content.get("axes") or {}
            axis = next((axis for axis in axes if key.startswith(f"{axis}.")), None)
            way = "override a key below it"
            if axis is not None:
                way = f"give {axis} other values: 'axes.{axis}=[…]'"
            elif arm is not None:
                way = f"write {shell_word(f'arms.{arm}.{key}', value)}"
            raise ConfigError(
                f"{path}: {key}: would reach no arm, since each sets it or has no such key; {way}"
            )

        if isinstance(value, list) and key in (content.get("budget") or {}):
            raise ConfigError(
                f"{path}: {key}: {value} are no multiples; write "
                f"{shell_word(f'budget.{key}', [1, 4])}"
            )

    return tuple(
        f"{key}={short_value(value_at(changes, key))} does not reach {join_names(names)}: set "
        "there, or no such key"
        for key, names in missed.items()
        if names
    )


def queue_address(given: Any) -> str:
    """`storage:` of a file, empty where it says nothing; never printed.

    Raises:
        ConfigError: if it is no text.
    """
    if not isinstance(given, str):
        raise ConfigError("storage: not an address, as in postgresql+psycopg://user@host/database")
    return given


def _seeds(path: Path, content: dict[str, Any]) -> tuple[int, ...]:
    seeds = content.get("seeds", [0, 1, 2])
    seeds = listed_values("seeds", seeds) or seeds
    whole = isinstance(seeds, list) and all(type(s) is int and 0 <= s < 2**32 for s in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"{path}: seeds: {to_flow_yaml(seeds)} is not a list of different whole numbers, as "
            "in [0, 1, 2]"
        )

    return tuple(seeds)


def _axes(path: Path, content: dict[str, Any], name: str) -> dict[str, list[Any]]:
    axes = content[name]
    if not isinstance(axes, dict):
        raise ConfigError(f"{path}: {name}: {axes!r} is not a mapping of keys to lists of values")

    for key, values in axes.items():
        if not isinstance(key, str):
            raise ConfigError(f"{path}: {name}: {key!r} is not the name of a key")
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{path}: {name}.{key}: {values!r} is not a list of values")

    return axes


def _without_twins_of(baseline: Arm, arms: dict[str, Arm], varied: set[str]) -> dict[str, Arm]:
    """The arms, less those of `varied` whose one change leaves the baseline as it is."""
    same = {name for name in varied if to_plain(arms[name].recipe) == to_plain(baseline.recipe)}
    return {name: arm for name, arm in arms.items() if name not in same - {baseline.name}}


def _matched(path: Path, arms: dict[str, Arm], spec: Any, baseline: str) -> dict[str, Arm]:
    """The arms, each but one with the width at which it costs what that one does."""
    from .cost import Match

    try:
        if not isinstance(spec, dict):
            raise ConfigError(
                f"match: {spec!r} is not a mapping, as in {{cost: parameters, by: outer.width}}"
            )
        match: Match = parse_dataclass(Match, {"to": baseline, **spec}, "match")
        if match.to not in arms:
            raise ConfigError(f"match.to: {match.to!r} is no arm; one of {', '.join(arms)}")
        target = match.cost_of(arms[match.to].recipe)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    solved = dict(arms)
    for name, arm in arms.items():
        if name != match.to:
            try:
                recipe, value = match.solve(arm.recipe, target)
            except ConfigError as error:
                raise ConfigError(f"{path}: arm {name}: {error}") from None
            parameters = build(recipe, "meta").parameters
            solved[name] = replace(
                arm, recipe=recipe, parameters=parameters, matched=f"{match.by}={value}"
            )
    return solved


def _at_budgets(path: Path, arms: dict[str, Arm], budgets: dict[str, Budget]) -> dict[str, Arm]:
    """Every arm at every budget."""
    found: dict[str, Arm] = {}
    for label, budget in budgets.items():
        for arm in arms.values():
            name = f"{arm.name} @ {label}"
            try:
                content = scaled(arm.recipe, budget)
            except ConfigError as error:
                raise ConfigError(f"{path}: arm {name}: {error}") from None
            spent = _arm(path, name, content, {}, arm.values, arm.recipe.seed, arm.recipe.workspace)
            found[name] = replace(spent, matched=arm.matched, budget=label)

    return found


def _arm(
    path: Path,
    name: str,
    base: dict[str, Any],
    change: dict[str, Any],
    values: tuple[Any, ...],
    seed: int,
    workspace: Workspace,
) -> Arm:
    try:
        recipe = parse_recipe(merge(merge(base, unflatten(change)), {"seed": seed}), workspace)
        experiment = build(recipe, "meta")
        matching_weights(recipe, experiment)
    except ConfigError as error:
        raise ConfigError(f"{path}: arm {name}: {error}") from None

    likelihood = experiment.model.likelihood
    if likelihood == "none" and not experiment.source.levels:
        raise ConfigError(
            f"{path}: arm {name}: has no likelihood, and this data no Fréchet distance to "
            "compare it by"
        )

    return Arm(name, values, recipe, experiment.parameters, likelihood)


def _refuse_twins(path: Path, arms: tuple[Arm, ...]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for arm in arms:
        signature = (arm.recipe.training_signature, arm.recipe.evaluation_signature)
        if signature in seen:
            raise ConfigError(
                f"{path}: arms {seen[signature]} and {arm.name} are the same; "
                "give each a difference"
            )
        seen[signature] = arm.name


def study_name(stem: str, changes: dict[str, Any]) -> str:
    """The study's name: its file's, and what was overridden; different
    overrides never share a name.

    A hash stands for what is too long for a folder, and behind what the name does not tell exactly.
    """
    values = sorted(flatten(changes).items())
    suffix = "".join(f"-{key}={short_value(value)}" for key, value in values)
    full = stem + suffix
    name = slug(full)
    is_exact = name == full and all(_is_exact(value) for _, value in values)
    if is_exact and len(name) <= 120:
        return name

    if len(name) > 120:
        name = slug(stem)[:80]
    hashed = stem + json.dumps(values, default=str)
    digest = hashlib.sha256(os.fsencode(hashed)).hexdigest()[:8]

    return f"{name or 'study'}-{digest}"


def _is_exact(value: Any) -> bool:
    """Whether a value in a name is no other value's, too, as `1+2` is of [1, 2] and of a text."""
    if isinstance(value, list):
        return all(not isinstance(item, list | dict) and _is_exact(item) for item in value)
    if isinstance(value, str):
        odd = "+" in value or value in ("None", "True", "False") or slug(value) != value
        return not odd and not _is_other(value)
    return True


def _is_other(text: str) -> bool:
    """Whether a text without quotes would be no text, as 1 is."""
    try:
        return not isinstance(read_value(text), str)
    except ConfigError:
        return True
