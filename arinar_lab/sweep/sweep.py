"""A checked sweep: what is searched, by what it is judged, and when it ends. Its file is
described in `sweep_file.py`.

A trial's values are overrides of a recipe, so trials that differ only in the
sampler share one training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from optuna.trial import Trial

from ..analysis.text import short_value
from ..config.build import Experiment, build
from ..config.files import merge, read_recipe, unflatten
from ..config.schema import to_plain
from ..config.sections import Recipe, parse_recipe
from ..errors import ConfigError, located
from ..files.workspace import HERE
from ..metrics import BITS
from ..runs.folder import RunFolder, open_run_folder, slug
from ..study.override import unused_overrides, value_at
from ..study.plan import Plan, read_plan
from ..training.warm_start import matching_weights
from .space import Parameter, corners, read_parameters
from .sweep_file import EarlyStopping, Objective, SweepFile, read_file

TUNING_SEED = 2**31
"""Added to evaluation.seed while a finished run's sampler is tuned: no image that tunes is
one that is reported.
"""
_APART = 10**6  # between the images of two repeats of one run's evaluation


@dataclass(frozen=True)
class Target:
    """What is searched for a best setting: a recipe, a finished run, or an arm of a study.

    Arguments:
        name: of it, and of its Optuna study; content: the recipe as plain data.
        runs: seed → finished run; empty where the search trains.
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
        recipe = self.recipe
        return f"{recipe.training_signature}-{recipe.seed}-{recipe.evaluation_signature}"

    @property
    def done(self) -> bool:
        return self.folder.done and bool(self.folder.report(self.recipe))


@dataclass(frozen=True)
class Sweep:
    """A checked sweep; the fields are the file's keys, see `SweepFile`.

    Arguments:
        subject: base, run or study: what the file names; targets: it as recipes.
        unreached: lines that tell which overrides some choices do not have.
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
    storage: str = field(default="", repr=False)
    unreached: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return HERE.studies / self.name

    @property
    def timed(self) -> bool:
        """Whether a trial is judged by what only the pass alone on the machine measures."""
        metrics = [o.metric for o in self.objectives] + list(self.constraints)
        return any(m.startswith(("speed/", "cost/")) and m != "cost/parameters" for m in metrics)

    @property
    def fingerprint(self) -> str:
        """Of everything that trials of one search must share."""
        targets = [(target.name, target.content) for target in self.targets]
        stopping = astuple(self.early_stopping) if self.early_stopping else None
        rules = [self.constraints, self.algorithm, self.pruner, stopping]
        said = [self.subject, targets, repr(self.parameters), repr(self.objectives), rules]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:8]

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

    def trial_cell(self, target: Target, values: Mapping[str, Any]) -> EvaluationJob:
        """What a trial trains and evaluates. A finished run is tuned on images that
        its report never sees.
        """
        recipe = self.recipe(target, values)
        if target.runs:
            seed = (recipe.evaluation.seed + TUNING_SEED) % 2**32
            recipe = replace(recipe, evaluation=replace(recipe.evaluation, seed=seed))
            return EvaluationJob(target.runs[recipe.seed], recipe, self.label(values))

        training = {
            path: value for path, value in values.items() if not path.startswith("sampler.")
        }

        return EvaluationJob(
            RunFolder.of(recipe, (self.label(training) or self.name)[:80]),
            recipe,
            self.label(values),
        )

    def repeats(self, target: Target, values: Mapping[str, Any]) -> dict[int, EvaluationJob]:
        """Seed → what is reported of a setting: trainings of other seeds, or other
        images of a finished run.
        """
        recipe, label = self.recipe(target, values), self.label(values)
        if self.subject == "run":
            (folder,), e = target.runs.values(), recipe.evaluation
            others = {
                seed: replace(e, seed=(e.seed + seed * _APART) % 2**32) for seed in self.seeds
            }
            return {
                seed: EvaluationJob(folder, replace(recipe, evaluation=e), label)
                for seed, e in others.items()
            }

        recipes = {seed: replace(recipe, seed=seed) for seed in target.runs or self.seeds}
        return {
            seed: EvaluationJob(target.runs.get(seed) or RunFolder.of(r, label[:80]), r, label)
            for seed, r in recipes.items()
        }

    def label(self, values: Mapping[str, Any]) -> str:
        """The values as text, by the last words of their keys where those differ."""
        last = [p.path.split(".")[-1] for p in self.parameters]
        names = {
            p.path: p.path if last.count(n) > 1 else n
            for p, n in zip(self.parameters, last, strict=True)
        }
        texts = {
            path: f"{value:.4g}" if isinstance(value, float) else short_value(value)
            for path, value in values.items()
        }

        return ",".join(f"{names[path]}={text}" for path, text in texts.items())


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
            storage=file.storage,
        )
        lines = _unreached(sweep, changes)

        for target in sweep.targets:
            _check_space(sweep, target)

    return replace(sweep, unreached=lines)


def _unreached(sweep: Sweep, changes: dict[str, Any]) -> tuple[str, ...]:
    """Lines that tell which overrides do not reach which choices.

    Raises:
        ConfigError: if every choice of a key that is always searched is in the way of one.
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
                lines.append(
                    f"{key}={short_value(value_at(changes, key))} does not reach {', '.join(names)}"
                )

    return tuple(lines)


def _targets(
    path: Path, file: SweepFile, changes: dict[str, Any], name: str
) -> tuple[tuple[Target, ...], tuple[int, ...]]:
    """What the file names, and the seeds of the re-run."""
    subject, place = file.subject
    where = path.parent / place
    if subject == "study":
        plan = read_plan(where, changes)
        return tuple(_arm(plan, i) for i in range(len(plan.arms))), plan.seeds
    if subject == "run":
        folder = open_run_folder(where if where.exists() else Path(place))
        if not folder.done:
            raise ConfigError(
                f"run: {folder.path} has not finished training; train it to its end first"
            )
        data = merge(read_recipe(folder.path / "config.yaml"), changes)
        return (Target(name, data, {parse_recipe(data).seed: folder}),), file.repeats

    data = merge(read_recipe(where), changes)
    if data.get("seed", 0) in file.repeats:
        raise ConfigError(
            f"seeds: {data.get('seed', 0)} is the search's own seed, whose numbers were chosen "
            "for being good"
        )
    return (Target(name, data, {}),), file.repeats


def _arm(plan: Plan, i: int) -> Target:
    runs = {seed: plan.cell(plan.arms[i], seed)[0] for seed in plan.seeds}
    for folder in runs.values():
        if not folder.done:
            raise ConfigError(
                f"study: {plan.arms[i].name} has not finished ({folder.path}); run arinar "
                "ablate first"
            )
    return Target(slug(plan.arms[i].name), to_plain(plan.arms[i].recipe), runs)


def _check_space(sweep: Sweep, target: Target) -> None:
    """Build the corners of the space, one parameter at a time around the first of all values."""
    wanted = {o.metric: "objectives" for o in sweep.objectives} | dict.fromkeys(
        sweep.constraints, "constraints"
    )
    if sweep.pruner == "median" or sweep.early_stopping:
        wanted.setdefault(BITS, "early_stopping")
    seen: set[tuple[str, str]] = set()
    for values in corners(sweep.parameters):
        recipe = sweep.recipe(target, values)
        signature = (recipe.training_signature, recipe.evaluation_signature)
        if signature in seen:
            continue
        seen.add(signature)
        experiment = build(recipe, "meta")
        matching_weights(recipe, experiment)
        for metric, key in wanted.items():
            if not produces(recipe, experiment, metric):
                raise ConfigError(
                    f"{key}: no run produces {metric} with {sweep.label(values) or target.name}"
                )


def produces(recipe: Recipe, experiment: Experiment, metric: str) -> bool:
    """Whether evaluation reports a metric of this experiment, which may be on the device `meta`."""
    source, model = experiment.source, experiment.model
    if metric.startswith("quality/"):
        return source.digits
    if metric.startswith("val/gap"):
        return (
            model.likelihood != "none"
            and source.log_prob(source.held_out[0][:1], source.held_out[1][:1]) is not None
        )

    if metric == "val/bits_per_dim_error":
        return model.inner.likelihood == "estimate"
    if metric.startswith("val/bits_per_dim_at_"):
        delta = recipe.evaluation.resolution
        level = delta is None and experiment.codec.box(source.held_out[0][:1]) is not None
        return "pit" in model.inner.capabilities and (
            level if metric.endswith("_level") else delta is not None
        )

    if metric.startswith("components/"):
        return _mixes(experiment)
    return not metric.startswith(("val/", "train/")) or model.likelihood != "none"


def _mixes(experiment: Experiment) -> bool:
    """Whether the inner model's densities are mixtures, of which the weights of
    components are told.
    """
    model, d = experiment.model, experiment.codec.features
    z = torch.zeros(1, model.outer.context, device=experiment.device)
    density = model.inner(z).given(torch.zeros(1, d, device=experiment.device))
    return density.weights() is not None
