"""An ablation file and its checks.

    question: How many Gaussians does the inner head need?
    base: ../digits.yaml
    axes: {inner.head.components: [1, 2, 4, 8]}   a full grid over one or more keys
    arms: {name: {key: value, …}, …}              and / or arms by name
    vary: {outer.norm: [rms, dyt]}                and / or one factor at a time: the baseline
                                                  with each single change
    match: {cost: parameters, by: outer.width}
    baseline: components=4
    seeds: [0, 1, 2]                              or {first: 3, until: resolved, at_most: 12}
    matters: {bits/dim: 0.02, fd_digits: 1}
    pool: arms
    budget: {training.steps: [1, 4]}              or regimes: {name: {key: value, …}, …}
    references: true
    storage: postgresql+psycopg://…

`StudyFile` describes each key, `override.py` what the command line may change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..analysis.comparison import CLAIMS
from ..analysis.paper_rows import PaperRow
from ..config.sections import check_seeds
from ..config.yaml_reader import read_yaml
from ..errors import ConfigError, did_you_mean
from ..files.workspace import HERE
from ..metrics import HEADINGS, MATTERS
from .override import Request, read_request

Reference = Literal["scikit-learn"] | PaperRow


@dataclass(frozen=True)
class Match:
    """Arms of equal cost, by one width.

    Arguments:
        cost: The cost that is made equal: trained parameters, or GFLOPs of one generated image.
        by: The key that is solved for, a whole number of every arm; its values are
            multiples of the key heads in the same section.
        to: The arm whose cost is the target; the baseline by default.
        tolerance: The share of the target, above 0, by which a cost may differ from it.

    Raises:
        ValueError: if the tolerance is not above 0.
    """

    cost: Literal["parameters", "gflops"] = "parameters"
    by: str = "outer.width"
    to: str | None = None
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise ValueError(f"tolerance: {self.tolerance} is not above 0")


@dataclass(frozen=True)
class GrowingSeeds:
    """Seeds of a study that grows until it is resolved: 0, 1, 2, … in looks of half as many again.

    Arguments:
        first: The number of seeds at the first look, 2 or more.
        until: What ends the growth. `resolved`: each arm's answer is better, worse or equivalent,
            in the metric that ranks arms, and in the distances that `matters` names.
        at_most: The most seeds, not fewer than `first`. It stays as it is once a look is recorded.

    Raises:
        ValueError: naming the key whose value is out of its range.
    """

    first: int = 3
    until: Literal["resolved"] = "resolved"
    at_most: int = 12

    def __post_init__(self) -> None:
        if self.first < 2:
            raise ValueError(f"first: {self.first} is below 2, and one seed resolves nothing")
        if self.at_most < self.first:
            raise ValueError(f"at_most: {self.at_most} is below the {self.first} seeds of first")


@dataclass(frozen=True)
class StudyFile:
    """An ablation: the recipe that is varied, its arms, and how often each is run.

    Arguments:
        base: The recipe that is varied, a path relative to this file.
        question: The question that the study answers, in one sentence.
        axes: Keys of the recipe → lists of one or more values; each combination of the values is
            an arm.
        arms: Names of arms → their changes of the recipe, key by key; null changes nothing.
        vary: Keys of the recipe → lists of one or more values; each value is an arm that differs
            from the baseline in this key alone. Without a baseline the base recipe is the arm
            `base`; a value that the baseline has makes no arm.
        match: The width that gives every arm the cost of one of them; no width changes by default.
        budget: Keys of the recipe → lists of two or more different multiples above 0; each arm runs
            at each combination of them, and is compared with the baseline at the same budget.
        regimes: Names of two or more regimes → their changes of the recipe; each arm runs in each,
            is compared with the baseline of the same regime, and the rankings are compared. null
            changes nothing. It excludes `budget`.
        baseline: The arm that the others are compared with; by default the first arm, with vary
            the arm `base`.
        seeds: The seeds of each arm, different whole numbers from 0 to 2^32 - 1; or how many
            there are at first and at most, of a study that grows until it is resolved.
        baseline_seeds: How many seeds the baseline has, not fewer than the other arms; their number
            by default. Each arm is compared with it, so that with n arms √(n - 1) times the seeds
            resolve most of a given number of runs (Dunnett, 1955).
        matters: Names of metrics → the difference, above 0, that matters. An arm within it may be
            called equivalent. A name is a heading of the table, a metric's key, or that key's last
            word. The default is 0.02 bits/dim and 0.5 of FD digits or FD fashion; {} calls nothing
            equivalent.
        pool: What the tests estimate spreads from: all arms that agree on it, or each arm alone.
        family: What p is corrected over: the arms in each metric, or the arms in all metrics of
            `matters` together, so that 5 % of studies without an effect call any of these.
        references: Further rows of the table: true for density estimators of scikit-learn, or a
            list of `scikit-learn` and rows from papers.
        storage: The address of the queue of runs, never printed; a local file by default.

    Raises:
        ValueError: naming the key whose value is out of its range.
    """

    base: str
    question: str = ""
    axes: dict[str, list[Any]] | None = None
    arms: dict[str, dict[str, Any] | None] | None = None
    vary: dict[str, list[Any]] | None = None
    match: Match | None = None
    budget: dict[str, list[float]] | None = None
    regimes: dict[str, dict[str, Any] | None] | None = None
    baseline: Any = None
    seeds: tuple[int, ...] | GrowingSeeds = (0, 1, 2)
    baseline_seeds: int = 0
    matters: dict[str, float] | None = None
    pool: Literal["arms", "none"] = "arms"
    family: Literal["metric", "matters"] = "metric"
    references: bool | list[Reference] = False
    storage: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        for name, factors in {"axes": self.axes, "vary": self.vary}.items():
            for key, values in (factors or {}).items():
                if not values:
                    raise ValueError(f"{name}.{key}: [] is not a list of one value or more")

        self._check_budget()
        check_seeds(self.first_seeds)
        if self.baseline_seeds and self.baseline_seeds < len(self.first_seeds):
            raise ValueError(
                f"baseline_seeds: {self.baseline_seeds} is below the {len(self.first_seeds)} seeds "
                "of every arm"
            )
        _ = self.margins
        for name, count in Counter(paper.name for paper in self.papers).items():
            if count > 1:
                raise ValueError(f"references: {name} stands there twice")

    def _check_budget(self) -> None:
        if self.regimes is not None and self.budget is not None:
            raise ValueError("regimes: stands beside budget; a study has one of them")
        if self.regimes is not None and self.has_estimators:
            raise ValueError(
                "references: scikit-learn's estimators are of one data set; leave them out beside "
                "regimes"
            )
        if self.regimes is not None and len(self.regimes) < 2:
            raise ValueError(
                f"regimes: {list(self.regimes)} names fewer than two, and a ranking is compared "
                "between regimes"
            )
        if self.budget == {}:
            raise ValueError("budget: {} names no key to multiply, as in {training.steps: [1, 4]}")
        for key, multiples in (self.budget or {}).items():
            if len(multiples) < 2 or len(set(multiples)) < len(multiples) or min(multiples) <= 0:
                raise ValueError(
                    f"budget.{key}: {multiples} is not a list of two or more different "
                    "multiples above 0"
                )

    @property
    def growth(self) -> GrowingSeeds | None:
        """How the seeds grow; None where their number is fixed."""
        return self.seeds if isinstance(self.seeds, GrowingSeeds) else None

    @property
    def first_seeds(self) -> tuple[int, ...]:
        """The seeds of the first look."""
        if isinstance(self.seeds, GrowingSeeds):
            return tuple(range(self.seeds.first))
        return self.seeds

    @property
    def margins(self) -> Mapping[str, float]:
        """Metric → the difference that matters.

        Raises:
            ValueError: naming the entry that is no metric, stands there twice, or is not above 0.
        """
        if self.matters is None:
            return MATTERS

        margins: dict[str, float] = {}
        for name, margin in self.matters.items():
            metric = metric_named(name)
            if not margin > 0:
                raise ValueError(f"matters.{name}: {margin:g} is not above 0")
            if metric in margins:
                raise ValueError(f"matters.{name}: {HEADINGS[metric]} stands there twice")
            margins[metric] = margin
        return margins

    @property
    def papers(self) -> tuple[PaperRow, ...]:
        """The rows from papers."""
        rows = self.references if isinstance(self.references, list) else []
        return tuple(row for row in rows if isinstance(row, PaperRow))

    @property
    def has_estimators(self) -> bool:
        """Whether the table has rows of scikit-learn's estimators."""
        if isinstance(self.references, list):
            return "scikit-learn" in self.references
        return self.references


def metric_named(name: str) -> str:
    """The tested metric of a heading (`FD digits`), a key, or the last word of a key.

    Raises:
        ValueError: if there is none, with the nearest name.
    """
    metrics: dict[str, str] = {}
    for metric in CLAIMS:
        for word in (metric.rpartition("/")[2], metric, HEADINGS[metric]):
            metrics[word] = metric
    if name not in metrics:
        headings = ", ".join(map(HEADINGS.__getitem__, CLAIMS))
        hint = did_you_mean(name, list(metrics))
        raise ValueError(f"matters.{name}: no metric that is tested; one of {headings}{hint}")
    return metrics[name]


def read_study(
    path: Path, overrides: dict[str, Any] | None = None, studies: Path = HERE.studies
) -> Request[StudyFile]:
    """A study's file under overrides. studies: the folder of all studies.

    Raises:
        ConfigError: with the first fault, in one line.
    """
    content = read_yaml(path)
    if "search" in content:
        raise ConfigError(f"{path}: is a sweep, since it has search; run it by arinar sweep {path}")
    request = read_request(path, content, overrides, StudyFile, "a study", studies)
    if "seed" in request.changes:
        raise ConfigError(
            f"seed: {request.changes['seed']!r} is of one run; a study repeats its arms, as in "
            "seeds=[0,1,2]"
        )

    return request
