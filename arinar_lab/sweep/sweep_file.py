"""A sweep file and its checks.

    question: What does speed cost in quality?
    base: ../experiments/digits.yaml           or, without any training, of a finished run or study:
    run: ../runs/digits-…/seed_0
    study: ../experiments/ablations/gmm_k.yaml
    search:                                    key of the recipe → where to look
      training.lr: {log: [1.0e-4, 1.0e-2]}
      inner.head.components: {categorical: [1, 4]}
      outer: {categorical: {causal: {kind: causal}, masked: {kind: masked}}}
      sampler.steps: {int: [2, 16], when: {outer: masked}}
    objectives: [{metric: quality/fd_digits, direction: minimize}, …]
    constraints: {cost/peak_memory_gb: 1}
    algorithm: tpe
    pruner: none
    early_stopping: {after: 0.5, worst: 0.25}
    validation: {share: 0.2, seed: 0}
    trials: 40
    hours: 0.2
    seeds: [1, 2, 3]
    reruns: 8
    storage: postgresql+psycopg://…

`SweepFile` describes each key, `Dimension` in `space.py` the entries of `search`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..config.sections import check_seeds
from ..config.yaml_reader import read_yaml
from ..data.validation import Validation
from ..errors import ConfigError, did_you_mean
from ..metrics import BITS, METRICS
from ..model.layers import require_at_least
from ..study.override import Request, read_request
from .space import Dimension


@dataclass(frozen=True)
class Objective:
    """A metric by which trials are judged.

    Arguments:
        metric: The name of the metric in a run's report, as in quality/fd_digits.
        direction: The direction in which the metric gets better.

    Raises:
        ValueError: if no run produces the metric.
    """

    metric: str
    direction: Literal["minimize", "maximize"]

    def __post_init__(self) -> None:
        _check_metric("metric", self.metric)

    def __repr__(self) -> str:
        """The text that fingerprints of sweeps hold, which resume."""
        return f"Objective(metric={self.metric!r}, maximize={self.maximize})"

    @property
    def maximize(self) -> bool:
        """Whether more of it is better."""
        return self.direction == "maximize"

    def cost(self, value: float) -> float:
        """The value as something to minimise."""
        return -value if self.maximize else value


@dataclass(frozen=True)
class EarlyStopping:
    """The rule that stops trainings which fall behind. It allows several objectives, for which
    Optuna prunes nothing.

    Arguments:
        after: The share of its steps, between 0 and 1, after which a training is judged.
        worst: The share of the finished trainings, between 0 and 1. A training is stopped when its
            val/bits_per_dim is within this worst share of theirs at the same step.

    Raises:
        ValueError: naming a share that is not between 0 and 1.
    """

    after: float
    worst: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < 1:
                raise ValueError(f"{name}: {value:g} is not between 0 and 1")


@dataclass(frozen=True)
class SweepFile:
    """A sweep: what is searched, by what it is judged, and when it ends.

    Arguments:
        search: The searched keys of the recipe, one or more, each with its range or choices.
        objectives: The metrics that judge the trials, one or more.
        base: The recipe that is varied, a path relative to this file. Exactly one of base, run
            and study is set.
        run: The folder of a finished run whose sampler is searched; nothing is trained.
        study: The file of a finished study; the sampler of each arm is searched separately.
        question: The question that the sweep answers, in one sentence.
        constraints: Metrics → the highest value that each may have; no constraint by default.
        algorithm: The algorithm of Optuna that proposes the trials.
        pruner: The pruner of Optuna; median needs val/bits_per_dim as the only objective.
        early_stopping: The rule that stops trainings which fall behind; no rule by default.
        trials: The number of proposals, at least 1; with study, for each arm.
        hours: The hours, above 0, after which no trial begins; all commands count, re-runs do not.
        validation: The part of the training images that judges trials, so that none sees the
            held-out images of the report; only with base, where it has its defaults if left out.
        seeds: The seeds of the re-run of the best settings, different whole numbers from 0 to
            2^32 - 1, without the seed of the search; 1, 2, 3 by default, the seeds of study if set.
        reruns: The highest number of settings that are re-run, at least 1; with study, for each
            arm. Of a larger front these are its ends, then settings spread evenly between them.
        storage: The address of the database of trials, never printed; a local file by default.

    Raises:
        ValueError: naming the key whose value is out of its range, or conflicts with another key.
    """

    search: dict[str, Dimension]
    objectives: tuple[Objective, ...]
    base: str | None = None
    run: str | None = None
    study: str | None = None
    question: str = ""
    constraints: dict[str, float] = field(default_factory=dict)
    algorithm: Literal["tpe", "nsga2", "random"] = "tpe"
    pruner: Literal["none", "median"] = "none"
    early_stopping: EarlyStopping | None = None
    validation: Validation | None = None
    trials: int = 40
    hours: float = 1.0
    seeds: tuple[int, ...] | None = None
    reruns: int = 8
    storage: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if len(self._subjects) != 1:
            raise ValueError(
                "base: name what is searched, by one of base (a recipe), run (a folder) "
                "and study (a file)"
            )
        if not self.search:
            raise ValueError(
                "search: missing; name at least one key, as in training.lr: {log: [1.0e-4, 1.0e-2]}"
            )
        if not self.objectives:
            raise ValueError(
                "objectives: [] names no metric, as in [{metric: quality/fd_digits, "
                "direction: minimize}]"
            )
        if len({objective.metric for objective in self.objectives}) < len(self.objectives):
            raise ValueError("objectives: a metric stands there twice")
        for metric in self.constraints:
            _check_metric("constraints", metric)

        require_at_least(1, trials=self.trials, reruns=self.reruns)
        if not self.hours > 0:
            raise ValueError(f"hours: {self.hours:g} is not above 0")
        if self.seeds is not None and self.study is not None:
            raise ValueError(
                f"seeds: {list(self.seeds)} is given, and a study's arms are repeated "
                "over its own seeds"
            )
        check_seeds(self.repeats)
        self._check_stopping()

    def _check_stopping(self) -> None:
        """Refuse to stop what is not trained, or in two ways, and to set data of it aside."""
        only_bits = self.objectives == (Objective(BITS, "minimize"),)
        if self.pruner == "median" and not only_bits:
            raise ValueError(
                f"pruner: median needs {BITS} as the one objective (Optuna prunes no others); use "
                "early_stopping"
            )

        if self.pruner == "median" and self.early_stopping:
            raise ValueError("early_stopping: is given beside pruner: median; choose one")
        if self.base is not None:
            return
        if self.early_stopping or self.pruner != "none":
            raise ValueError("early_stopping: nothing is trained here that could be stopped")
        if self.validation:
            raise ValueError(
                "validation: nothing is trained here; a sampler is tuned on generated images that "
                "are not reported"
            )

        for path in self.search:
            if path.split(".")[0] != "sampler":
                raise ValueError(
                    f"search.{path}: the weights are trained already; only keys of "
                    "sampler can be searched"
                )

    @property
    def _subjects(self) -> dict[str, str]:
        named = {"base": self.base, "run": self.run, "study": self.study}
        return {key: path for key, path in named.items() if path is not None}

    @property
    def subject(self) -> tuple[str, str]:
        """What is searched: base, run or study, and the path."""
        return next(iter(self._subjects.items()))

    @property
    def split(self) -> Validation | None:
        """The validation part that judges trials; None where nothing is trained."""
        return None if self.base is None else self.validation or Validation()

    @property
    def repeats(self) -> tuple[int, ...]:
        """Seeds of the re-run."""
        return (1, 2, 3) if self.seeds is None else self.seeds


def _check_metric(key: str, metric: str) -> None:
    names = [name for name in METRICS if not METRICS[name].published]
    if metric not in names:
        hint = did_you_mean(metric, names) or "; as in quality/fd_digits"
        raise ValueError(f"{key}: no run produces {metric!r}{hint}")


def read_file(path: Path, overrides: Mapping[str, Any] | None = None) -> Request[SweepFile]:
    """A sweep's file under overrides.

    Raises:
        ConfigError: with the first fault, in one line.
    """
    content = read_yaml(path)
    if "search" not in content and {"axes", "vary", "arms"} & content.keys():
        raise ConfigError(
            f"{path}: is a study, since it has no search; run it by arinar ablate {path}"
        )
    former = (content.get("sampler"), (overrides or {}).get("sampler"))
    if any(isinstance(value, str) for value in former):
        raise ConfigError(
            f"{path}: sampler: is called algorithm now, as in algorithm: tpe; rename the key"
        )

    return read_request(path, content, overrides, SweepFile, "a sweep")
