"""A study's plan: arms, seeds and jobs. `plan_file.py` describes its file.

An arm is a recipe. Arms that differ only in how they are sampled or measured share their training:
a `Job` is one run folder (arm × seed) with every evaluation of it.

In regimes each arm runs several times, to show whether the ranking of arms lasts: on other data or
another resolution (`regimes`), or at multiples of its cost (`budget`). A multiple scales the arm's
own value of the key (the base's, where the arm does not change it), and nothing else: neither
warm-up nor learning rate. The first regime is the one that the others are ranked against.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..analysis.paper_rows import PaperRow
from ..config.build import build, produces
from ..config.files import merge, read_recipe, unflatten
from ..config.schema import flatten, to_plain
from ..config.sections import Recipe, parse_recipe
from ..config.yaml_reader import is_yaml_for, read_value
from ..errors import ConfigError, did_you_mean, located
from ..files.workspace import HERE, Workspace
from ..metrics import DISTANCE, HEADINGS, MATTERS, distance_of, ranking_metric
from ..model.inner.head import Likelihood
from ..output.names import join_names, short_value
from ..runs.folder import RunFolder, read_sealed
from ..training.warm_start import matching_weights
from .override import shell_word, unused_overrides, value_at
from .plan_file import GrowingSeeds, Match, StudyFile, read_study

Multiples = dict[str, float]
"""Key → multiple of its value."""
Regime = Callable[[Recipe], dict[str, Any]]
"""A recipe as it is in a regime, as plain data."""
Change = tuple[dict[str, Any], tuple[Any, ...]]
"""An arm's changes of the base, and its value of each axis."""
LOOKS = "looks.json"  # in the study's folder
BASE_ARM = "base"  # the arm that changes nothing, where one factor at a time is varied around it


@dataclass(frozen=True)
class Arm:
    """One design of the study.

    Arguments:
        name: The name, which holds what differs from the other arms.
        values: The value of each axis, in the axes' order; empty for arms by name.
        recipe: The recipe with the study's first seed.
        parameters: The number of trained parameters.
        likelihood: The kind of its bits/dim; `none` where it has none.
        distance: The metric that ranks it where an arm has no bits/dim.
        matched: The key and the value that were solved for equal cost, as in `outer.width=72`;
            empty without `match`.
        regime: The label of its regime, as in `steps×4`; empty without regimes.
    """

    name: str
    values: tuple[Any, ...]
    recipe: Recipe
    parameters: int
    likelihood: Likelihood = "exact"
    distance: str = DISTANCE
    matched: str = ""
    regime: str = ""

    @property
    def design(self) -> str:
        """Its name without its regime."""
        return self.name.removesuffix(f" @ {self.regime}")


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
        """The job's name on a server."""
        return f"{self.recipes[0].training_signature}/seed_{self.recipes[0].seed}"

    def claim_name(self) -> Job:
        """Return the job with the folder of its training, created; see `RunFolder.claim_name`."""
        return replace(self, folder=self.folder.claim_name(self.recipes[0]))

    @property
    def done(self) -> bool:
        """Whether it is trained and every evaluation reported."""
        return self.folder.done and self.reported

    @property
    def reported(self) -> bool:
        """Whether every evaluation is reported, here or by a machine that keeps the weights."""
        return all(map(self.folder.report, self.recipes))


@dataclass(frozen=True)
class Plan:
    """A checked study.

    Arguments:
        name: The name of the study, and of its folder.
        question: The question that it answers.
        axes: The varied keys.
        arms: The arms, in the order of the table.
        baseline: The name of the arm that the others are compared with.
        seeds: The seeds of every arm, of a growing study those that it has by now.
        baseline_seeds: The number of seeds of the baseline where that is larger.
        growth: How the study grows until it is resolved; None where its seeds are fixed.
        matters: Metric → the difference that matters.
        pooled: Whether the tests pool spreads over arms.
        family: What p is corrected over; see `Results`.
        references: Whether the table has rows of scikit-learn's estimators.
        papers: Table rows from papers.
        regimes: Labels of the regimes in which every arm runs, the smallest budget first.
        storage: The address of a server; empty where workers share files. It is no part of the
            name, and never printed.
        cautions: Lines about what is in vain: overrides that some arms ignore, and a difference
            that matters in a metric that no arm measures.
        workspace: The place of the study's folder and the runs.
    """

    name: str
    question: str
    axes: tuple[str, ...]
    arms: tuple[Arm, ...]
    baseline: str
    seeds: tuple[int, ...]
    baseline_seeds: int = 0
    growth: GrowingSeeds | None = None
    matters: Mapping[str, float] = field(default_factory=lambda: MATTERS)
    pooled: bool = True
    family: Literal["metric", "matters"] = "metric"
    references: bool = False
    storage: str = field(default="", repr=False)
    papers: tuple[PaperRow, ...] = ()
    regimes: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    workspace: Workspace = HERE

    @property
    def folder(self) -> Path:
        return self.workspace.studies / self.name

    @property
    def arms_signature(self) -> str:
        """A hash of the trainings and evaluations that are compared."""
        signatures = []
        for arm in self.arms:
            signatures.append(f"{arm.recipe.training_signature}/{arm.recipe.evaluation_signature}")
        return hashlib.sha256("\n".join(sorted(signatures)).encode()).hexdigest()[:16]

    def cell(self, arm: Arm, seed: int) -> tuple[RunFolder, Recipe]:
        """The run folder and the recipe of one arm under one seed."""
        recipe = arm.recipe.with_seed(seed)
        return RunFolder.of(recipe, arm.name), recipe

    def seeds_of(self, arm: Arm) -> tuple[int, ...]:
        """The seeds of an arm: those of the study, and more of the baseline, in each regime."""
        baseline = next(other for other in self.arms if other.name == self.baseline)
        return self.all_seeds if arm.design == baseline.design else self.seeds

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds of the baseline, among which are those of every arm."""
        return extended_seeds(self.seeds, self.baseline_seeds)

    @property
    def cells(self) -> list[tuple[Arm, int]]:
        """Every arm under each of its seeds, seed by seed."""
        pairs = itertools.product(self.all_seeds, self.arms)
        return [(arm, seed) for seed, arm in pairs if seed in self.seeds_of(arm)]

    def factors(self, arm: Arm) -> dict[str, Any]:
        """An arm's value of each axis and its regime, by short names."""
        values = dict(zip(axis_labels(self.axes), arm.values, strict=False))
        return values | ({"regime": arm.regime} if arm.regime else {})

    @property
    def criterion(self) -> str:
        """The metric that ranks arms: bits/dim, or a distance where an arm has no likelihood."""
        return self.criterion_of(self.arms[0])

    def criterion_of(self, arm: Arm) -> str:
        """The same of an arm's own data: of other data a distance is in other features."""
        return ranking_metric((each.likelihood for each in self.arms), arm.distance)

    @property
    def jobs(self) -> list[Job]:
        """All runs, seed by seed, so that an interrupted study has every arm at
        equal numbers of seeds.
        """
        jobs: dict[str, Job] = {}
        for arm, seed in self.cells:
            folder, recipe = self.cell(arm, seed)
            job = Job(folder, arm.name, (recipe,))
            if job.key in jobs:
                job = jobs[job.key]
                job = replace(job, recipes=(*job.recipes, recipe))
            jobs[job.key] = job
        return list(jobs.values())


def extended_seeds(seeds: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The same seeds, and the next unused ones up to a number of them."""
    unused = (seed for seed in itertools.count() if seed not in seeds)
    return (*seeds, *itertools.islice(unused, max(0, count - len(seeds))))


def _grid(axes: dict[str, list[Any]]) -> dict[str, Change]:
    """Every combination of the axes' values: name → (changes, values)."""
    arms: dict[str, Change] = {}
    for values in itertools.product(*axes.values()):
        name = _combination(axes, "=", map(short_value, values))
        if name in arms:
            raise ConfigError(f"axes: the arm {name} stands there twice")
        arms[name] = (dict(zip(axes, values, strict=True)), values)

    return arms


def _combination(keys: Iterable[str], sign: str, texts: Iterable[str]) -> str:
    """The name of one combination of values, as in `steps×4,width×2`."""
    pairs = zip(axis_labels(keys), texts, strict=True)
    return ",".join(f"{label}{sign}{text}" for label, text in pairs)


def axis_labels(axes: Iterable[str]) -> list[str]:
    """The last word of each key; the whole key where several share that word."""
    keys = list(axes)
    words = [key.split(".")[-1] for key in keys]
    return [key if words.count(word) > 1 else word for key, word in zip(keys, words, strict=True)]


def _chosen(file: StudyFile) -> dict[str, Change]:
    """Every arm of the file, by axes, by name and by one factor at a time."""
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
    """Read and check a study file; every arm is built once.

    Arguments:
        overrides: Changes of the base recipe, or of the study's own keys.
        workspace: The place of the files that its recipes name, its runs and its folder.

    Raises:
        ConfigError: with the first fault, in one line.
    """
    file, changes, name = read_study(path, overrides, workspace.studies)
    base = merge(read_recipe(path.parent / file.base), changes)
    with located(path):
        chosen = _chosen(file)
        if not chosen:
            raise ConfigError("axes: missing; a study varies something, by axes, arms or vary")

        lines = _unreached(file, base, changes, chosen)
        designs = {}
        for arm, (change, values) in chosen.items():
            designs[arm] = _arm(arm, base, change, values, file.first_seeds[0], workspace)
        is_overridden = bool(overrides) and "baseline" not in (overrides or {})
        baseline = _baseline(file, designs, is_overridden)
        arms = _final_arms(file, designs, baseline)
        regimes = tuple(_regimes(file))
        _refuse_twins(arms)
        _refuse_equal_runs(arms, file)

    plan = Plan(
        name=name,
        question=file.question,
        axes=tuple(file.axes or ()),
        arms=tuple(arms.values()),
        baseline=f"{baseline} @ {regimes[0]}" if regimes else baseline,
        seeds=file.first_seeds,
        baseline_seeds=file.baseline_seeds,
        growth=file.growth,
        matters=file.margins,
        pooled=file.pool == "arms",
        family=file.family,
        references=file.has_estimators,
        storage=file.storage,
        papers=file.papers,
        regimes=regimes,
        cautions=(*lines, *_unmeasured(file, arms.values())),
        workspace=workspace,
    )
    with located(path):
        return _as_grown(plan)


def _as_grown(plan: Plan) -> Plan:
    """The plan with the seeds that its growth has reached, as its folder records them.

    A study that was begun with --until-resolved grows by every command that reads its file.

    Raises:
        ConfigError: if its file has moved the limits of the growth since a look, or the record
            was edited.
    """
    record = read_sealed(plan.folder / LOOKS).get("growth", {})
    if record.get("arms") != plan.arms_signature:
        return plan

    growth = GrowingSeeds(first=record["first"], at_most=record["at_most"])
    if plan.growth is None and record["seeds"][: growth.first] != list(plan.seeds):
        return plan
    if plan.growth not in (None, growth):
        refuse_moved_limit(plan, growth)
        return plan
    return replace(plan, growth=growth, seeds=tuple(record["seeds"]))


def refuse_moved_limit(plan: Plan, growth: GrowingSeeds) -> None:
    """Refuse to change a growth of which the study has recorded a look.

    Raises:
        ConfigError: with the growth that it has.
    """
    looks = read_sealed(plan.folder / LOOKS).get("looks", [])
    if any(look["arms"] == plan.arms_signature for look in looks):
        raise ConfigError(
            f"seeds: a look at this study is recorded, by first: {growth.first}, "
            f"at_most: {growth.at_most}; a limit that moves after a look makes the levels wrong. "
            "Write these two"
        )


def _baseline(file: StudyFile, arms: dict[str, Arm], is_overridden: bool) -> str:
    """The arm that the others are compared with. is_overridden: whether overrides may have
    removed it.
    """
    default = BASE_ARM if file.vary else next(iter(arms))
    baseline = matching_arm(default if file.baseline is None else file.baseline, arms)
    if isinstance(baseline, str) and baseline in arms:
        return baseline

    hint = did_you_mean(baseline, list(arms))
    if is_overridden:
        word = shell_word("baseline", next(iter(arms)))
        hint = f"; with these overrides name another, as in {word}"
    raise ConfigError(f"baseline: {baseline!r} is no arm; one of {join_names(arms)}{hint}")


def _final_arms(file: StudyFile, arms: dict[str, Arm], baseline: str) -> dict[str, Arm]:
    """The arms without those that change nothing, at equal cost and in every regime of the file."""
    if file.vary:
        varied = set(arms) - set(_chosen(replace(file, vary=None)))
        arms = _without_twins_of(arms[baseline], arms, varied)

    if file.match:
        arms = _matched(arms, file.match, baseline)
    if regimes := _regimes(file):
        arms = _in_regimes(arms, regimes)
    for paper in file.papers:
        if paper.name in arms:
            raise ConfigError(
                f"references: {paper.name!r} is an arm, too; a row that is not ours needs "
                "another name"
            )

    return arms


def matching_arm(name: Any, arms: Iterable[str]) -> Any:
    """The arm that a value names: `1` is the arm "1", and `lr=1e-3` the arm `lr=0.001`; the value
    itself where no arm, or more than one, matches.
    """
    names = list(arms)
    if name in names:
        return name

    matches = [arm for arm in names if _is_named(arm, name)]
    return matches[0] if len(matches) == 1 else name


def _is_named(arm: str, name: Any) -> bool:
    return is_yaml_for(arm, name) or (isinstance(name, str) and _reads(arm) == _reads(name))


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
    """Lines that name the overrides which some arms ignore.

    Raises:
        ConfigError: if one reaches no arm, or is a list of what `budget` multiplies.
    """
    variants = {name: change for name, (change, _) in chosen.items()}
    if file.regimes:
        pairs = itertools.product(file.regimes.items(), variants.items())
        variants = {f"{a} @ {b}": {**change, **(more or {})} for (b, more), (a, change) in pairs}
    lines = []
    for key, names in unused_overrides(base, changes, variants).items():
        value = value_at(changes, key)
        if len(names) == len(variants):
            raise ConfigError(
                f"{key}: would reach no arm, since each sets it or has no such key; "
                f"{_way_to_reach(file, key, value)}"
            )
        if isinstance(value, list) and key in (file.budget or {}):
            raise ConfigError(
                f"{key}: {value} are no multiples; write {shell_word(f'budget.{key}', [1, 4])}"
            )

        if names:
            lines.append(
                f"{key}={short_value(value)} does not reach {join_names(names)}: set there, or no "
                "such key"
            )

    return tuple(lines)


def _unmeasured(file: StudyFile, arms: Iterable[Arm]) -> list[str]:
    """A line for each metric of `matters` that no arm measures."""
    lines = []
    for metric in file.margins if file.matters else ():
        if not any(produces(arm.recipe, build(arm.recipe, "meta"), metric) for arm in arms):
            lines.append(
                f"matters.{HEADINGS[metric]}: no arm of this study measures it, so nothing is said"
                " of it"
            )
    return lines


def _way_to_reach(file: StudyFile, key: str, value: Any) -> str:
    """The advice for an override that reaches no arm."""
    for axis in file.axes or {}:
        if key.startswith(f"{axis}."):
            return f"give {axis} other values: 'axes.{axis}=[…]'"
    for arm in file.arms or {}:
        return f"write {shell_word(f'arms.{arm}.{key}', value)}"
    return "override a key below it"


def _without_twins_of(baseline: Arm, arms: dict[str, Arm], varied: set[str]) -> dict[str, Arm]:
    """The arms, less those of `varied` whose one change leaves the baseline as it is."""
    recipe = to_plain(baseline.recipe)
    distinct = {}
    for name, arm in arms.items():
        is_twin = name in varied and name != baseline.name and to_plain(arm.recipe) == recipe
        if not is_twin:
            distinct[name] = arm
    return distinct


def _matched(arms: dict[str, Arm], match: Match, baseline: str) -> dict[str, Arm]:
    """The arms, each at the width that gives it the cost of one of them."""
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
        matched = f"{match.by}={value}"
        solved[name] = replace(arm, recipe=recipe, parameters=parameters, matched=matched)
    return solved


def _regimes(file: StudyFile) -> dict[str, Regime]:
    """Every regime of the file, by its label: the changes of `regimes`, or every combination of the
    multiples of `budget`, as in `steps×4,width×2`; none without either.
    """
    regimes: dict[str, Regime] = {}
    for label, change in (file.regimes or {}).items():
        with located(f"regimes.{label}"):
            _refuse_seed(change or {})
            if file.match and file.match.by in (change or {}):
                raise ConfigError(f"{file.match.by}: match solves for it; leave it out")
        regimes[label] = partial(changed, change=unflatten(change or {}))
    if not file.budget:
        return regimes

    for multiples in itertools.product(*file.budget.values()):
        label = _combination(file.budget, "×", map("{:g}".format, multiples))
        budget = dict(zip(file.budget, multiples, strict=True))
        regimes[label] = partial(scaled, budget=budget)

    return regimes


def _in_regimes(arms: dict[str, Arm], regimes: dict[str, Regime]) -> dict[str, Arm]:
    """Every arm in every regime."""
    designs: dict[str, Arm] = {}
    for label, regime in regimes.items():
        for arm in arms.values():
            name = f"{arm.name} @ {label}"
            with located(f"arm {name}"):
                content = regime(arm.recipe)
            design = _arm(name, content, {}, arm.values, arm.recipe.seed, arm.recipe.workspace)
            designs[name] = replace(design, matched=arm.matched, regime=label)

    return designs


def changed(recipe: Recipe, change: dict[str, Any]) -> dict[str, Any]:
    """The recipe under a change, as plain data."""
    return merge(to_plain(recipe), change)


def scaled(recipe: Recipe, budget: Multiples) -> dict[str, Any]:
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
        product = value * multiple
        if isinstance(value, int) and product != round(product):
            raise ConfigError(
                f"budget.{key}: {multiple:g} × {value} is {product:g}, which is no whole number"
            )
        changes[key] = round(product) if isinstance(value, int) else product

    return merge(plain, unflatten(changes))


def _refuse_seed(change: Mapping[str, Any]) -> None:
    for key in change:
        if key.split(".")[0] == "seed":
            raise ConfigError(
                f"{key}: a study repeats every arm by its seeds, as in seeds: [0, 1, 2]; to vary"
                " a part of the randomness write fixed_seeds.init, .data or .noise"
            )


def _arm(
    name: str,
    base: dict[str, Any],
    change: dict[str, Any],
    values: tuple[Any, ...],
    seed: int,
    workspace: Workspace,
) -> Arm:
    _refuse_seed(change)
    with located(f"arm {name}"):
        recipe = parse_recipe(merge(merge(base, unflatten(change)), {"seed": seed}), workspace)
        experiment = build(recipe, "meta")
        matching_weights(recipe, experiment)

    likelihood = experiment.model.likelihood
    if likelihood == "none" and not experiment.source.levels:
        raise ConfigError(
            f"arm {name}: has no likelihood, and this data no Fréchet distance to compare it by"
        )

    distance = distance_of(experiment.source.classifier)
    return Arm(name, values, recipe, experiment.parameters, likelihood, distance)


def _refuse_equal_runs(arms: dict[str, Arm], file: StudyFile) -> None:
    """Refuse several seeds of an arm whose whole randomness is fixed: all its runs would be equal.

    An arm that starts from other weights under each seed may have them.
    """
    if len(file.first_seeds) == 1 and not file.growth:
        return
    for name, arm in arms.items():
        starts_alike = "{seed}" not in (arm.recipe.init_from or "")
        if starts_alike and not arm.recipe.fixed_seeds.free_parts:
            raise ConfigError(
                f"seeds: arm {name} fixes init, data and noise (fixed_seeds), so all its runs"
                " would be equal; use seeds: [0]"
            )


def _refuse_twins(arms: dict[str, Arm]) -> None:
    """Refuse two arms of the same training and evaluation."""
    names: dict[tuple[str, str], str] = {}
    for name, arm in arms.items():
        signature = (arm.recipe.training_signature, arm.recipe.evaluation_signature)
        if signature in names:
            raise ConfigError(
                f"arms {names[signature]} and {name} are the same; give each a difference"
            )
        names[signature] = name
