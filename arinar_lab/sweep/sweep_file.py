"""A sweep file becomes a checked `Sweep`: what is searched, by what it is judged, and when it ends.

    question: What does speed cost in quality?
    base: ../experiments/digits.yaml               the recipe that is varied; or,
                                                   without any training:
    run: ../runs/digits-…/seed_0                   the sampler of a finished run, or
    study: ../experiments/ablations/gmm_k.yaml     of every arm of a finished study, each on its own
    search:                                        key of the recipe → where to look
      training.lr: {log: [1.0e-4, 1.0e-2]}         float, log (a float on a logarithmic
                                                   scale), int: [low, high]
      inner.head.components: {categorical: [1, 4]} a choice among values, or among names:
                                                   {small: {…}, large: {…}}
      outer: {categorical: {causal: {kind: causal}, masked: {kind: masked}}}
      sampler.steps: {int: [2, 16], when: {outer: masked}}      only where another choice is made
    objectives: [{metric: quality/fd_digits, direction: minimize}, …]      one or several
    constraints: {cost/peak_memory_gb: 1}          metric → ceiling
    sampler: tpe                                   tpe, nsga2, random
    pruner: none                                   median: Optuna's, where val/bits_per_dim
                                                   is the one objective
    early_stopping: {after: 0.5, worst: 0.25}      our rule, for several objectives too: Optuna
                                                   does not prune those. A training whose
                                                   val/bits_per_dim after that share of its steps
                                                   is in the worst quarter of the finished ones at
                                                   that step is stopped
    trials: 40                                     for each arm where a study is given
    hours: 0.2                                     no trial begins later (counted over all
                                                   commands, re-runs not)
    seeds: [1, 2, 3]                               of the re-run of the best, none of them
                                                   the search's own seed
    storage: postgresql+psycopg://…                where the trials are kept,
                                                   study/optuna_storage.py; a local file by default

A trial's values are overrides of a recipe, so trials that differ only in the
sampler share one training.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from optuna.trial import Trial

from ..analysis.text import short_value
from ..config.recipe import Experiment, Recipe, build, merge, parse_recipe, read_recipe, unflatten
from ..config.schema import to_plain
from ..errors import ConfigError, did_you_mean
from ..files.workspace import HERE
from ..metrics import BITS, METRICS
from ..runs.folder import RunFolder, open_run_folder, slug
from ..study.override import Request, read_request, unused_overrides, value_at
from ..study.plan import Plan, queue_address, read_plan, study_name
from ..training.warm_start import matching_weights
from .space import Parameter, corners, read_parameters

_KEYS = (
    "question",
    "base",
    "run",
    "study",
    "search",
    "objectives",
    "constraints",
    "sampler",
    "pruner",
    "early_stopping",
    "trials",
    "hours",
    "seeds",
    "storage",
)
_SUBJECTS = ("base", "run", "study")
TUNING_SEED = 2**31
"""Added to evaluation.seed while a finished run's sampler is tuned: no image that tunes is
one that is reported.
"""
_APART = 10**6  # between the images of two repeats of one run's evaluation


@dataclass(frozen=True)
class Objective:
    """A metric of the report, and whether more of it is better."""

    metric: str
    maximize: bool

    def cost(self, value: float) -> float:
        """The value as something to minimise."""
        return -value if self.maximize else value


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
    """A checked sweep; the fields are the file's keys (see above).

    Arguments:
        subject: base, run or study: what the file names; targets: it as recipes.
        early_stopping: share of the steps, and the share of finished trainings that is
            called the worst; or None.
        unreached: lines that tell which overrides some choices do not have.
    """

    name: str
    question: str
    subject: str
    targets: tuple[Target, ...]
    parameters: tuple[Parameter, ...]
    objectives: tuple[Objective, ...]
    constraints: dict[str, float]
    sampler: str
    pruner: str
    early_stopping: tuple[float, float] | None
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
        rules = [self.constraints, self.sampler, self.pruner, self.early_stopping]
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
    content, changes, named_by = sweep_requested(path, overrides)
    try:
        return _read(path, content, changes, study_name(path.stem, named_by))
    except ConfigError as error:
        raise ConfigError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def sweep_requested(path: Path, overrides: dict[str, Any] | None) -> Request:
    """A sweep's file under overrides.

    Raises:
        ConfigError: if it cannot be read, or an override would be in vain.
    """
    return read_request(path, overrides, _KEYS)


def _read(path: Path, content: dict[str, Any], changes: dict[str, Any], name: str) -> Sweep:
    if "search" not in content and {"axes", "vary", "arms"} & content.keys():
        raise ConfigError(f"is a study, since it has no search; run it by arinar ablate {path}")

    for key in content:
        if key not in _KEYS:
            raise ConfigError(
                f"{key}: unknown key; a sweep takes "
                f"{', '.join(_KEYS)}{did_you_mean(key, list(_KEYS))}"
            )

    subject = [key for key in _SUBJECTS if key in content]
    if len(subject) != 1 or not isinstance(content[subject[0]], str):
        raise ConfigError(
            "base: name what is searched, by one of base (a recipe), run (a folder) and "
            "study (a file)"
        )

    targets, seeds = _targets(path, subject[0], content, changes, name)
    sweep = Sweep(
        name,
        str(content.get("question", "")),
        subject[0],
        targets,
        read_parameters(content.get("search")),
        _objectives(content.get("objectives")),
        _constraints(content.get("constraints", {})),
        _one_of("sampler", content.get("sampler", "tpe"), "tpe", "nsga2", "random"),
        _one_of("pruner", content.get("pruner", "none"), "none", "median"),
        _early(content.get("early_stopping")),
        int(_above_zero("trials", content.get("trials", 40), int)),
        _above_zero("hours", content.get("hours", 1.0), float),
        seeds,
        queue_address(content.get("storage", "")),
    )
    _check_stopping(sweep)
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
    path: Path, subject: str, content: dict[str, Any], changes: dict[str, Any], name: str
) -> tuple[tuple[Target, ...], tuple[int, ...]]:
    """What the file names, and the seeds of the re-run."""
    where = path.parent / content[subject]
    if subject == "study":
        if "seeds" in content:
            raise ConfigError(
                f"seeds: {content['seeds']!r} is given, and a study's arms are repeated "
                "over its own seeds"
            )
        plan = read_plan(where, changes)
        return tuple(_arm(plan, i) for i in range(len(plan.arms))), plan.seeds

    seeds = _seeds(content.get("seeds", [1, 2, 3]))
    if subject == "run":
        folder = open_run_folder(where if where.exists() else Path(content[subject]))
        if not folder.done:
            raise ConfigError(
                f"run: {folder.path} has not finished training; train it to its end first"
            )
        data = merge(read_recipe(folder.path / "config.yaml"), changes)
        return (Target(name, data, {parse_recipe(data).seed: folder}),), seeds

    data = merge(read_recipe(where), changes)
    if data.get("seed", 0) in seeds:
        raise ConfigError(
            f"seeds: {data.get('seed', 0)} is the search's own seed, whose numbers were chosen "
            "for being good"
        )

    return (Target(name, data, {}),), seeds


def _arm(plan: Plan, i: int) -> Target:
    runs = {seed: plan.cell(plan.arms[i], seed)[0] for seed in plan.seeds}
    for folder in runs.values():
        if not folder.done:
            raise ConfigError(
                f"study: {plan.arms[i].name} has not finished ({folder.path}); run arinar "
                "ablate first"
            )
    return Target(slug(plan.arms[i].name), to_plain(plan.arms[i].recipe), runs)


def _seeds(seeds: Any) -> tuple[int, ...]:
    fine = (
        isinstance(seeds, list) and seeds and all(type(s) is int and 0 <= s < 2**32 for s in seeds)
    )
    if not fine or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds: {seeds!r} is not a list of different whole numbers")
    return tuple(seeds)


def _one_of(key: str, value: Any, *options: str) -> str:
    if value not in options:
        raise ConfigError(
            f"{key}: {value!r} is not one of "
            f"{', '.join(options)}{did_you_mean(value, list(options))}"
        )
    return str(value)


def _above_zero(key: str, value: Any, kind: type) -> float:
    fine = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if not fine or not 0 < value < float("inf"):
        raise ConfigError(
            f"{key}: {value!r} is not a {'whole number' if kind is int else 'number'} above 0"
        )
    return float(value)


def _early(spec: Any) -> tuple[float, float] | None:
    if spec is None:
        return None
    if not isinstance(spec, dict) or set(spec) != {"after", "worst"}:
        raise ConfigError(
            f"early_stopping: {spec!r} is not {{after: share of the steps, worst: share "
            "of the trainings}"
        )

    for key, value in spec.items():
        if not isinstance(value, int | float) or not 0 < value < 1:
            raise ConfigError(f"early_stopping.{key}: {value!r} is not between 0 and 1")

    return float(spec["after"]), float(spec["worst"])


def _metric(key: str, metric: Any) -> str:
    names = [name for name, known in METRICS.items() if not known.published]
    if metric not in names:
        raise ConfigError(
            f"{key}: no run produces "
            f"{metric!r}{did_you_mean(metric, names) or '; as in quality/fd_digits'}"
        )
    return str(metric)


def _objectives(spec: Any) -> tuple[Objective, ...]:
    if not isinstance(spec, list) or not spec or not all(isinstance(o, dict) for o in spec):
        raise ConfigError(
            f"objectives: {spec!r} is not a list as in [{{metric: quality/fd_digits, "
            "direction: minimize}]"
        )

    found = []
    for i, one in enumerate(spec):
        if extra := sorted(set(map(str, one)) - {"metric", "direction"}):
            raise ConfigError(
                f"objectives.{i}.{extra[0]}: unknown key; an objective takes metric, direction"
            )
        metric = _metric(f"objectives.{i}.metric", one.get("metric"))
        direction = _one_of(
            f"objectives.{i}.direction", one.get("direction"), "minimize", "maximize"
        )
        found.append(Objective(metric, direction == "maximize"))

    if len({o.metric for o in found}) < len(found):
        raise ConfigError("objectives: a metric stands there twice")
    return tuple(found)


def _constraints(spec: Any) -> dict[str, float]:
    if not isinstance(spec, dict):
        raise ConfigError(f"constraints: {spec!r} is not a mapping of metrics to ceilings")

    for metric, ceiling in spec.items():
        _metric("constraints", metric)
        if (
            isinstance(ceiling, bool)
            or not isinstance(ceiling, int | float)
            or not math.isfinite(ceiling)
        ):
            raise ConfigError(f"constraints.{metric}: {ceiling!r} is not a number")

    return {metric: float(ceiling) for metric, ceiling in spec.items()}


def _check_stopping(sweep: Sweep) -> None:
    only_bits = [(o.metric, o.maximize) for o in sweep.objectives] == [(BITS, False)]
    if sweep.pruner == "median" and not only_bits:
        raise ConfigError(
            f"pruner: median needs {BITS} as the one objective (Optuna prunes no others); use "
            "early_stopping"
        )

    if sweep.pruner == "median" and sweep.early_stopping:
        raise ConfigError("early_stopping: is given beside pruner: median; choose one")
    if sweep.subject != "base" and (sweep.early_stopping or sweep.pruner != "none"):
        raise ConfigError("early_stopping: nothing is trained here that could be stopped")

    for p in sweep.parameters:
        if sweep.subject != "base" and p.path.split(".")[0] != "sampler":
            raise ConfigError(
                f"search.{p.path}: the weights are trained already; only keys of sampler "
                "can be searched"
            )


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
