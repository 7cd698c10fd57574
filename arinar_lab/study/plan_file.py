"""An ablation file and its checks.

    question: How many Gaussians does the inner head need?
    base: ../digits.yaml
    axes: {inner.head.components: [1, 2, 4, 8]}   a full grid over one or more keys
    arms: {name: {key: value, …}, …}              and / or arms by name
    vary: {outer.norm: [rms, dyt]}                and / or one factor at a time: the baseline
                                                  with each single change
    match: {cost: parameters, by: outer.width}
    baseline: components=4
    seeds: [0, 1, 2]
    budget: {training.steps: [1, 4]}
    references: true
    storage: postgresql+psycopg://…

`StudyFile` describes each key, `override.py` what the command line may change.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..analysis.paper_rows import PaperRow
from ..config.sections import check_seeds
from ..config.yaml_reader import read_yaml
from ..errors import ConfigError
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
        baseline: The arm that the others are compared with; by default the first arm, with vary
            the arm `base`.
        seeds: The seeds of each arm, different whole numbers from 0 to 2^32 - 1.
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
    baseline: Any = None
    seeds: tuple[int, ...] = (0, 1, 2)
    references: bool | list[Reference] = False
    storage: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        for name, factors in {"axes": self.axes, "vary": self.vary}.items():
            for key, values in (factors or {}).items():
                if not values:
                    raise ValueError(f"{name}.{key}: [] is not a list of one value or more")

        self._check_budget()
        check_seeds(self.seeds)
        for name, count in Counter(paper.name for paper in self.papers).items():
            if count > 1:
                raise ValueError(f"references: {name} stands there twice")

    def _check_budget(self) -> None:
        if self.budget == {}:
            raise ValueError("budget: {} names no key to multiply, as in {training.steps: [1, 4]}")
        for key, multiples in (self.budget or {}).items():
            if len(multiples) < 2 or len(set(multiples)) < len(multiples) or min(multiples) <= 0:
                raise ValueError(
                    f"budget.{key}: {multiples} is not a list of two or more different "
                    "multiples above 0"
                )

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


def read_study(path: Path, overrides: dict[str, Any] | None = None) -> Request[StudyFile]:
    """A study's file under overrides.

    Raises:
        ConfigError: with the first fault, in one line.
    """
    content = read_yaml(path)
    if "search" in content:
        raise ConfigError(f"{path}: is a sweep, since it has search; run it by arinar sweep {path}")
    request = read_request(path, content, overrides, StudyFile, "a study")
    if "seed" in request.changes:
        raise ConfigError(
            f"seed: {request.changes['seed']!r} is of one run; a study repeats its arms, as in "
            "seeds=[0,1,2]"
        )

    return request
