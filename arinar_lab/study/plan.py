"""A study's plan: arms, seeds, and the jobs that bring them about. Its file is
described in `plan_file.py`.

An arm is a recipe. Arms that differ only in how they are sampled or measured share their training:
a `Job` is one run folder (arm × seed) with every evaluation that is asked of it.

Under a `budget` each arm stands at multiples of what it may spend, to see whether the ranking of
arms lasts. A multiple is of the arm's own value of the key (the base's, where the arm does not
change it). The first combination is the budget that the others are ranked against. Nothing else is
scaled: neither warm-up nor learning rate.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..analysis.paper_rows import PaperRow
from ..analysis.text import join_names, short_value
from ..config.build import build
from ..config.files import merge, read_recipe, unflatten
from ..config.schema import flatten, to_plain
from ..config.sections import Recipe, parse_recipe
from ..config.yaml_reader import is_yaml_for, read_value
from ..errors import ConfigError, did_you_mean, located
from ..files.workspace import HERE, Workspace
from ..model.inner.head import Likelihood
from ..runs.folder import RunFolder
from ..training.warm_start import matching_weights
from .override import shell_word, unused_overrides, value_at
from .plan_file import Match, StudyFile, read_study

Budget = dict[str, float]
"""Key → multiple of its value."""
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

    def claim_name(self) -> Job:
        """Return the job with the folder that its training has by now, made; see
        `RunFolder.claim_name`.
        """
        return replace(self, folder=self.folder.claim_name(self.recipes[0]))

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
        storage: address of a server; empty where workers share files. It is no part of the
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


def _grid(axes: dict[str, list[Any]]) -> dict[str, Change]:
    """Every combination of the axes' values: name → (changes, values)."""
    labels = axis_labels(axes)
    arms: dict[str, Change] = {}
    for values in itertools.product(*axes.values()):
        name = ",".join(
            f"{label}={short_value(value)}" for label, value in zip(labels, values, strict=True)
        )
        if name in arms:
            raise ConfigError(f"axes: the arm {name} stands there twice")
        arms[name] = (dict(zip(axes, values, strict=True)), values)

    return arms


def axis_labels(axes: Iterable[str]) -> list[str]:
    """The last word of each key, or all of it where that would not tell two apart."""
    keys = list(axes)
    last = [key.split(".")[-1] for key in keys]
    return [key if last.count(name) > 1 else name for key, name in zip(keys, last, strict=True)]


def _chosen(file: StudyFile) -> dict[str, Change]:
    """Every arm that the file asks for, by axes, by name and by one factor at a time."""
    chosen = _grid(file.axes) if file.axes else {}
    for name, change in (file.arms or {}).items():
        if name in chosen:
            raise ConfigError(f"arms: {name} is an arm of the axes already")
        chosen[name] = (change or {}, ())
    return chosen | _around(file, chosen)


def _around(file: StudyFile, chosen: dict[str, Change]) -> dict[str, Change]:
    """The baseline and every arm that differs from it in one factor; none
    where nothing is varied.
    """
    if not file.vary:
        return {}
    baseline = matching_arm(BASE_ARM if file.baseline is None else file.baseline, chosen)
    if not isinstance(baseline, str) or (baseline != BASE_ARM and baseline not in chosen):
        raise ConfigError(
            f"baseline: {baseline!r} is no arm to vary; one of {join_names([BASE_ARM, *chosen])}"
        )

    centre = chosen.get(baseline, ({}, ()))[0]
    arms: dict[str, Change] = {} if baseline in chosen else {BASE_ARM: ({}, ())}
    for label, (key, values) in zip(axis_labels(file.vary), file.vary.items(), strict=True):
        for value in values:
            name = f"{label}={short_value(value)}"
            if name in chosen or name in arms:
                raise ConfigError(f"vary: the arm {name} stands there twice")
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
    file, changes, name = read_study(path, overrides)
    base = merge(read_recipe(path.parent / file.base), changes)
    with located(path):
        chosen = _chosen(file)
        if not chosen:
            raise ConfigError("axes: missing; a study varies something, by axes, arms or vary")
        lines = _unreached(file, base, changes, chosen)
        first = {
            arm: _arm(arm, base, change, values, file.seeds[0], workspace)
            for arm, (change, values) in chosen.items()
        }
        baseline = _baseline(file, first, bool(overrides) and "baseline" not in (overrides or {}))
        arms, budgets = _as_asked(file, first, baseline), _budgets(file)
        _refuse_twins(arms)

    return Plan(
        name=name,
        question=file.question,
        axes=tuple(file.axes or ()),
        arms=tuple(arms.values()),
        baseline=f"{baseline} @ {next(iter(budgets))}" if budgets else baseline,
        seeds=file.seeds,
        references=file.has_estimators,
        storage=file.storage,
        papers=file.papers,
        budgets=tuple(budgets),
        unreached=lines,
        workspace=workspace,
    )


def _baseline(file: StudyFile, arms: dict[str, Arm], is_overridden: bool) -> str:
    """The arm that the others are compared with. is_overridden: whether overrides
    may have taken it away.
    """
    default = BASE_ARM if file.vary else next(iter(arms))
    baseline = matching_arm(default if file.baseline is None else file.baseline, arms)
    if isinstance(baseline, str) and baseline in arms:
        return baseline
    hint = did_you_mean(baseline, list(arms))
    if is_overridden:
        hint = (
            f"; with these overrides name another, as in {shell_word('baseline', next(iter(arms)))}"
        )

    raise ConfigError(f"baseline: {baseline!r} is no arm; one of {join_names(arms)}{hint}")


def _as_asked(file: StudyFile, arms: dict[str, Arm], baseline: str) -> dict[str, Arm]:
    """The arms without those that change nothing, at equal cost, and at every budget, where
    the file asks for that.
    """
    if file.vary:
        varied = set(arms) - set(_chosen(replace(file, vary=None)))
        arms = _without_twins_of(arms[baseline], arms, varied)

    if file.match:
        arms = _matched(arms, file.match, baseline)
    if file.budget:
        arms = _at_budgets(arms, _budgets(file))
    for paper in file.papers:
        if paper.name in arms:
            raise ConfigError(
                f"references: {paper.name!r} is an arm, too; a row that is not ours needs "
                "another name"
            )

    return arms


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
    file: StudyFile, base: dict[str, Any], changes: dict[str, Any], chosen: dict[str, Change]
) -> tuple[str, ...]:
    """Lines that tell which overrides do not reach which arms.

    Raises:
        ConfigError: if one reaches none, or is a list of what `budget` multiplies.
    """
    missed = unused_overrides(base, changes, {name: change for name, (change, _) in chosen.items()})
    for key, names in missed.items():
        value = value_at(changes, key)
        if len(names) == len(chosen):
            arm = next(iter(file.arms or {}), None)
            axis = next((axis for axis in file.axes or {} if key.startswith(f"{axis}.")), None)
            way = "override a key below it"
            if axis is not None:
                way = f"give {axis} other values: 'axes.{axis}=[…]'"
            elif arm is not None:
                way = f"write {shell_word(f'arms.{arm}.{key}', value)}"
            raise ConfigError(
                f"{key}: would reach no arm, since each sets it or has no such key; {way}"
            )

        if isinstance(value, list) and key in (file.budget or {}):
            raise ConfigError(
                f"{key}: {value} are no multiples; write {shell_word(f'budget.{key}', [1, 4])}"
            )

    return tuple(
        f"{key}={short_value(value_at(changes, key))} does not reach {join_names(names)}: set "
        "there, or no such key"
        for key, names in missed.items()
        if names
    )


def _without_twins_of(baseline: Arm, arms: dict[str, Arm], varied: set[str]) -> dict[str, Arm]:
    """The arms, less those of `varied` whose one change leaves the baseline as it is."""
    same = {name for name in varied if to_plain(arms[name].recipe) == to_plain(baseline.recipe)}
    return {name: arm for name, arm in arms.items() if name not in same - {baseline.name}}


def _matched(arms: dict[str, Arm], match: Match, baseline: str) -> dict[str, Arm]:
    """The arms, each but one with the width at which it costs what that one does."""
    from .cost import matched_cost, solve

    model = baseline if match.to is None else match.to
    if model not in arms:
        raise ConfigError(f"match.to: {model!r} is no arm; one of {', '.join(arms)}")
    target = matched_cost(match, arms[model].recipe)

    solved = dict(arms)
    for name, arm in arms.items():
        if name == model:
            continue
        with located(f"arm {name}"):
            recipe, value = solve(match, arm.recipe, target)
        parameters = build(recipe, "meta").parameters
        solved[name] = replace(
            arm, recipe=recipe, parameters=parameters, matched=f"{match.by}={value}"
        )
    return solved


def _budgets(file: StudyFile) -> dict[str, Budget]:
    """Every combination of the multiples, by its label, as in `steps×4,width×2`;
    none without a `budget`.
    """
    if not file.budget:
        return {}

    labels = axis_labels(file.budget)
    budgets: dict[str, Budget] = {}
    for multiples in itertools.product(*file.budget.values()):
        name = ",".join(
            f"{label}×{value:g}" for label, value in zip(labels, multiples, strict=True)
        )
        budgets[name] = dict(zip(file.budget, multiples, strict=True))

    return budgets


def _at_budgets(arms: dict[str, Arm], budgets: dict[str, Budget]) -> dict[str, Arm]:
    """Every arm at every budget."""
    spent: dict[str, Arm] = {}
    for label, budget in budgets.items():
        for arm in arms.values():
            name = f"{arm.name} @ {label}"
            with located(f"arm {name}"):
                content = scaled(arm.recipe, budget)
            one = _arm(name, content, {}, arm.values, arm.recipe.seed, arm.recipe.workspace)
            spent[name] = replace(one, matched=arm.matched, budget=label)

    return spent


def scaled(recipe: Recipe, budget: Budget) -> dict[str, Any]:
    """The recipe at a budget, as plain data.

    Raises:
        ConfigError: if a key is no number of this recipe, or a whole number would be broken.
    """
    plain = to_plain(recipe)
    values = flatten(plain)

    changes: dict[str, Any] = {}
    for key, multiple in budget.items():
        value = values.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ConfigError(f"budget.{key}: not the key of a number that this arm has")
        spent = value * multiple
        if isinstance(value, int) and spent != round(spent):
            raise ConfigError(
                f"budget.{key}: {multiple:g} × {value} is {spent:g}, which is no whole number"
            )
        changes[key] = round(spent) if isinstance(value, int) else spent

    return merge(plain, unflatten(changes))


def _arm(
    name: str,
    base: dict[str, Any],
    change: dict[str, Any],
    values: tuple[Any, ...],
    seed: int,
    workspace: Workspace,
) -> Arm:
    with located(f"arm {name}"):
        recipe = parse_recipe(merge(merge(base, unflatten(change)), {"seed": seed}), workspace)
        experiment = build(recipe, "meta")
        matching_weights(recipe, experiment)

    likelihood = experiment.model.likelihood
    if likelihood == "none" and not experiment.source.levels:
        raise ConfigError(
            f"arm {name}: has no likelihood, and this data no Fréchet distance to compare it by"
        )

    return Arm(name, values, recipe, experiment.parameters, likelihood)


def _refuse_twins(arms: dict[str, Arm]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for name, arm in arms.items():
        signature = (arm.recipe.training_signature, arm.recipe.evaluation_signature)
        if signature in seen:
            raise ConfigError(
                f"arms {seen[signature]} and {name} are the same; give each a difference"
            )
        seen[signature] = name
