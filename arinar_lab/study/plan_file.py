"""An ablation file, as it is written and checked.

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

`StudyFile` says what each key means. What the command line may change of it: see `override.py`.
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
        cost: what is made equal: the parameters, or the GFLOPs of one generated image.
        by: the key that is solved for, a whole number of every arm; its values are multiples of
            the `heads` beside it.
        to: the arm whose cost is the target; the baseline by default.
        tolerance: share of the target by which a cost may differ, above 0.

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
        base: the recipe that is varied, a path beside this file.
        question: what the study answers, in one sentence.
        axes: key of the recipe → a list of one value or more; each combination of
            the values is an arm.
        arms: name → what this arm changes of the recipe, key by key; null changes nothing.
        vary: key of the recipe → a list of one value or more; each value is an arm, which is the
            baseline but for that key. Without a baseline the base recipe joins the arms, as `base`;
            a value that the baseline has makes no arm.
        match: gives each arm the width at which it costs what one of them does; by default
            widths stay as they are.
        budget: key of the recipe → two or more different multiples above 0; each arm stands at each
            combination of them, and is compared with the baseline at the same budget.
        baseline: the arm that the others are compared with; by default the first, and `base` where
            something is varied.
        seeds: repeats of each arm, different whole numbers from 0 to 2^32 - 1; no part
            of an arm's signature.
        references: rows that are not ours: true for density estimators of scikit-learn, or a list
            of `scikit-learn` and rows from papers.
        storage: address of the queue, which is never printed, see `optuna_storage.py`; a
            local file by default.

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
        """Whether scikit-learn's estimators stand beside the arms."""
        return (
            "scikit-learn" in self.references
            if isinstance(self.references, list)
            else self.references
        )


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
