"""A checked sweep: what is searched, by what it is judged, and when it ends.

`sweep_file.py` describes its file. A trial's values are overrides of a recipe, so trials that
differ only in the sampler share one training.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

from optuna.trial import Trial

from ..config.build import build, produces
from ..config.files import merge, read_recipe, unflatten
from ..config.schema import to_plain
from ..config.sections import Recipe, parse_recipe
from ..data.validation import Validation
from ..errors import ConfigError, located
from ..files.workspace import HERE
from ..metrics import BITS
from ..output.names import short_value
from ..runs.folder import RunFolder, open_run_folder, slug
from ..study.override import unused_overrides, value_at
from ..study.plan import Arm, Plan, read_plan
from ..training.warm_start import matching_weights
from .space import Parameter, corners, read_parameters
from .sweep_file import EarlyStopping, Objective, SweepFile, read_file

TUNING_SEED = 2**31
"""Offset of evaluation.seed while a finished run's sampler is tuned, so that no image that tunes
is reported.
"""
_APART = 10**6  # between the images of two repeats of one run's evaluation


@dataclass(frozen=True)
class Target:
    """What is searched for a best setting: a recipe, a finished run, or an arm of a study.

    Arguments:
        name: The name of the target and of its Optuna study.
        content: The recipe as plain data.
        runs: Seed → finished run; empty where the search trains.
    """

    name: str
    content: dict[str, Any]
    runs: dict[int, RunFolder]


@dataclass(frozen=True)
class EvaluationJob:
    """One evaluation of one run: of a trial, or of a re-run."""

    folder: RunFolder
    recipe: Recipe
    label: str

    @property
    def key(self) -> str:
        """The job's name on a server."""
        recipe = self.recipe
        return f"{recipe.training_signature}-{recipe.seed}-{recipe.evaluation_signature}"

    @property
    def done(self) -> bool:
        """Whether the run is trained and this evaluation reported."""
        return self.folder.done and bool(self.folder.report(self.recipe))


@dataclass(frozen=True)
class Sweep:
    """A checked sweep; the fields are the file's keys, see `SweepFile`.

    Arguments:
        subject: The key that names what is searched: base, run or study.
        validation: The validation part that judges trials; None where nothing is trained.
        targets: What is searched, as recipes.
        unreached: Lines that name the overrides which some choices ignore.
    """

    name: str
    question: str
    subject: str
    targets: tuple[Target, ...]
    parameters: tuple[Parameter, ...]
    objectives: tuple[Objective, ...]
    constraints: dict[str, float]
    algorithm: str
    pruner: str
    early_stopping: EarlyStopping | None
    trials: int
    hours: float
    seeds: tuple[int, ...]
    reruns: int
    validation: Validation | None
    storage: str = field(default="", repr=False)
    unreached: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return HERE.studies / self.name

    @property
    def has_several_targets(self) -> bool:
        return len(self.targets) > 1

    @property
    def metrics(self) -> list[str]:
        """The metrics that judge trials: the objectives, then those with a ceiling."""
        return [*self.objective_metrics, *self.constraints]

    @property
    def objective_metrics(self) -> list[str]:
        return [objective.metric for objective in self.objectives]

    @property
    def timed(self) -> bool:
        """Whether a metric that judges trials is measured while nothing else uses the machine."""
        metrics = set(self.metrics) - {"cost/parameters"}
        return any(metric.startswith(("speed/", "cost/")) for metric in metrics)

    @property
    def fingerprint(self) -> str:
        """A hash of everything that the trials of one search must share."""
        targets = [(target.name, target.content) for target in self.targets]
        stopping = astuple(self.early_stopping) if self.early_stopping else None
        rules = [self.constraints, self.algorithm, self.pruner, stopping]
        content = [self.subject, targets, repr(self.parameters), repr(self.objectives), rules]
        if self.validation is not None:
            content.append(astuple(self.validation))
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]

    def costs(self, values: Iterable[float]) -> list[float]:
        """Values of the objectives as something to minimise; the same maps costs to values."""
        return [o.cost(value) for o, value in zip(self.objectives, values, strict=True)]

    def objectives_text(self, values: Iterable[float]) -> str:
        """Values of the objectives as text, each with its metric."""
        pairs = zip(self.objectives, values, strict=True)
        return ", ".join(f"{objective.metric} {value:.4g}" for objective, value in pairs)

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """A value, or the name of a choice, for every parameter that is active."""
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.active(values):
                values[parameter.path] = parameter.suggest(trial)
        return values

    def recipe(self, target: Target, values: Mapping[str, Any]) -> Recipe:
        """The target's recipe under these values; broad keys (`outer`) before those within
        them (`outer.width`).

        Raises:
            ConfigError: naming the key.
        """
        content = target.content
        for p in sorted(self.parameters, key=lambda p: p.path.count(".")):
            if p.path in values:
                value = p.choices[values[p.path]] if p.choices else values[p.path]
                content = merge(content, unflatten({p.path: value}))
        return parse_recipe(content)

    def trial_recipe(self, target: Target, values: Mapping[str, Any]) -> Recipe:
        """The recipe of a trial. Where it trains, the validation part replaces the held-out images,
        so its signature is not that of a re-run.
        """
        recipe = self.recipe(target, values)
        if self.validation is None:
            return recipe
        return replace(recipe, validation=self.validation)

    def trial_cell(self, target: Target, values: Mapping[str, Any]) -> EvaluationJob:
        """The training and evaluation of a trial. A finished run is tuned on images that its
        report never uses.
        """
        recipe = self.trial_recipe(target, values)
        label = self.label(values)
        if target.runs:
            seed = (recipe.evaluation.seed + TUNING_SEED) % 2**32
            return EvaluationJob(target.runs[recipe.seed], _reseeded(recipe, seed), label)

        trained = {path: values[path] for path in values if not path.startswith("sampler.")}
        name = (self.label(trained) or self.name)[:80]
        return EvaluationJob(RunFolder.of(recipe, name), recipe, label)

    def repeats(self, target: Target, values: Mapping[str, Any]) -> dict[int, EvaluationJob]:
        """Seed → a repeat of a setting: a training under another seed, or other images of a
        finished run.
        """
        recipe = self.recipe(target, values)
        label = self.label(values)
        jobs = {}
        if self.subject == "run":
            (folder,) = target.runs.values()
            for seed in self.seeds:
                images = (recipe.evaluation.seed + seed * _APART) % 2**32
                jobs[seed] = EvaluationJob(folder, _reseeded(recipe, images), label)
            return jobs

        for seed in target.runs or self.seeds:
            repeat = replace(recipe, seed=seed)
            folder = target.runs.get(seed) or RunFolder.of(repeat, label[:80])
            jobs[seed] = EvaluationJob(folder, repeat, label)
        return jobs

    def label(self, values: Mapping[str, Any]) -> str:
        """The values as text, by the last words of their keys where those differ."""
        counts = Counter(parameter.last_word for parameter in self.parameters)
        names = {}
        for parameter in self.parameters:
            word = parameter.last_word
            names[parameter.path] = parameter.path if counts[word] > 1 else word

        texts = []
        for path, value in values.items():
            text = f"{value:.4g}" if isinstance(value, float) else short_value(value)
            texts.append(f"{names[path]}={text}")
        return ",".join(texts)


def _reseeded(recipe: Recipe, seed: int) -> Recipe:
    """The recipe with another seed of its evaluation."""
    return replace(recipe, evaluation=replace(recipe.evaluation, seed=seed))


def read_sweep(path: Path, overrides: dict[str, Any] | None = None) -> Sweep:
    """Read and check a sweep file; the corners of its space are built once.

    Arguments:
        overrides: of the recipe that is varied, or of the sweep's own keys.

    Raises:
        ConfigError: with the first fault, in one line.
    """
    file, changes, name = read_file(path, overrides)
    with located(path):
        targets, seeds = _targets(path, file, changes, name)
        sweep = Sweep(
            name=name,
            question=file.question,
            subject=file.subject[0],
            targets=targets,
            parameters=read_parameters(file.search),
            objectives=file.objectives,
            constraints=file.constraints,
            algorithm=file.algorithm,
            pruner=file.pruner,
            early_stopping=file.early_stopping,
            trials=file.trials,
            hours=file.hours,
            seeds=seeds,
            reruns=file.reruns,
            validation=file.split,
            storage=file.storage,
        )
        lines = _unreached(sweep, changes)

        for target in sweep.targets:
            _check_space(sweep, target)

    return replace(sweep, unreached=lines)


def _unreached(sweep: Sweep, changes: dict[str, Any]) -> tuple[str, ...]:
    """Lines that name the overrides which some choices ignore.

    Raises:
        ConfigError: if every choice of a key that is always searched ignores one.
    """
    lines = []
    for p in sweep.parameters:
        variants = {f"{p.path}={name}": {p.path: value} for name, value in p.choices.items()}
        for key, names in unused_overrides(sweep.targets[0].content, changes, variants).items():
            if names and len(names) == len(variants) and not p.when:
                raise ConfigError(
                    f"{key}: would reach no trial, since each choice of {p.path} sets it or has no"
                    f" such key; give other choices: 'search.{p.path}={{categorical: …}}'"
                )
            if names:
                value = short_value(value_at(changes, key))
                lines.append(f"{key}={value} does not reach {', '.join(names)}")

    return tuple(lines)


def _targets(
    path: Path, file: SweepFile, changes: dict[str, Any], name: str
) -> tuple[tuple[Target, ...], tuple[int, ...]]:
    """The targets that the file names, and the seeds of the re-run."""
    subject, place = file.subject
    source = path.parent / place
    if subject == "study":
        plan = read_plan(source, changes)
        return tuple(_arm_target(plan, arm) for arm in plan.arms), plan.seeds

    if subject == "run":
        folder = open_run_folder(source if source.exists() else Path(place))
        if not folder.done:
            raise ConfigError(
                f"run: {folder.path} has not finished training; train it to its end first"
            )
        data = merge(read_recipe(folder.path / "config.yaml"), changes)
        return (Target(name, data, {parse_recipe(data).seed: folder}),), file.repeats

    data = merge(read_recipe(source), changes)
    seed = data.get("seed", 0)
    if seed in file.repeats:
        raise ConfigError(
            f"seeds: {seed} is the search's own seed, whose numbers were chosen for being good"
        )
    if data.get("validation") is not None:
        raise ConfigError(
            f"base: {place} sets validation, which the sweep's own key does for trials; "
            "remove it from the recipe"
        )
    return (Target(name, data, {}),), file.repeats


def _arm_target(plan: Plan, arm: Arm) -> Target:
    runs = {}
    for seed in plan.seeds:
        folder, _ = plan.cell(arm, seed)
        if not folder.done:
            raise ConfigError(
                f"study: {arm.name} has not finished ({folder.path}); run arinar ablate first"
            )
        runs[seed] = folder

    content = to_plain(arm.recipe)
    if content["validation"] is None:  # a key that came later: sweeps that have begun resume
        del content["validation"]
    return Target(slug(arm.name), content, runs)


def _check_space(sweep: Sweep, target: Target) -> None:
    """Build the corners of the space, one parameter at a time around the first of all values."""
    keys = dict.fromkeys(sweep.metrics, "objectives") | dict.fromkeys(
        sweep.constraints, "constraints"
    )
    if sweep.pruner == "median" or sweep.early_stopping:
        keys.setdefault(BITS, "early_stopping")

    signatures: set[tuple[str, str]] = set()
    for values in corners(sweep.parameters):
        recipe = sweep.trial_recipe(target, values)
        signature = (recipe.training_signature, recipe.evaluation_signature)
        if signature in signatures:
            continue

        signatures.add(signature)
        experiment = build(recipe, "meta")
        matching_weights(recipe, experiment)
        for metric, key in keys.items():
            if not produces(recipe, experiment, metric):
                raise ConfigError(
                    f"{key}: no run produces {metric} with {sweep.label(values) or target.name}"
                )
