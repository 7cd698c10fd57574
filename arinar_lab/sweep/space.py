"""A search space: the dimensions that a sweep file names, and the settings at its corners.

training.lr: {log: [1.0e-4, 1.0e-2]}                       a number of a range: float, log, int
inner.head.components: {categorical: [1, 4]}               a choice among values, or among
                                                           names: {small: {…}, …}
sampler.steps: {int: [2, 16], when: {outer: masked}}       active only where another choice is made
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from ..config.yaml_reader import is_yaml_for
from ..errors import ConfigError, did_you_mean

_SHAPES = ("float", "log", "int", "categorical")
_MEASURING = ("seed", "evaluation", "machine", "data")
Numbers = tuple[float, float]
Whole = tuple[int, int]


@dataclass(frozen=True)
class Dimension:
    """Where to look for the best value of one key: a range of numbers or a choice, one of the four.

    Arguments:
        float: [low, high].
        log: [low, high] on a logarithmic scale, low above 0.
        int: [low, high], whole numbers.
        categorical: a list of different values, or names and values, as in {small: {…},
            large: {…}}; one or more.
        when: another searched key → the choice, or list of choices, with which this key is
            searched; always by default.

    Raises:
        ValueError: if not one of the four is given, or it is empty.
    """

    float: Numbers | None = None
    log: Numbers | None = None
    int: Whole | None = None
    categorical: list[Any] | dict[str, Any] | None = None
    when: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shapes = [shape for shape in _SHAPES if getattr(self, shape) is not None]
        if len(shapes) != 1:
            second = f"{shapes[1]}: is given beside {shapes[0]}" if shapes else "float: missing"
            raise ValueError(
                f"{second}; write one of {', '.join(_SHAPES)}, as in {{float: [0, 1]}}"
            )

        if self.categorical is not None:
            self._check_choices()
            return

        low, high = getattr(self, shapes[0])
        if not low < high:
            raise ValueError(f"{shapes[0]}: low, {low:g}, is not below high, {high:g}")
        if self.log and low <= 0:
            raise ValueError(f"log: low, {low:g}, is not above 0")

    def _check_choices(self) -> None:
        values = self.categorical
        if not values:
            raise ValueError(f"categorical: {values} is not a list of one value or more")
        if isinstance(values, dict):
            return

        for value in values:
            if isinstance(value, dict | list):
                raise ValueError(
                    f"categorical: {value!r} needs a name; write categorical: {{name: value, …}}"
                )

        if len(set(values)) < len(values):
            raise ValueError(f"categorical: {values!r} holds a value twice")

    @property
    def choices(self) -> dict[Any, Any]:
        """Name → value of each choice; none for a number."""
        values = self.categorical or {}
        return values if isinstance(values, dict) else dict(zip(values, values, strict=True))

    @property
    def distribution(self) -> BaseDistribution:
        """Where Optuna looks."""
        if self.categorical:
            return CategoricalDistribution(tuple(self.choices))
        if self.int:
            return IntDistribution(*self.int)
        low, high = self.log or self.float or (0, 1)
        return FloatDistribution(low, high, log=self.log is not None)


@dataclass(frozen=True)
class Parameter:
    """One dimension of the search space.

    Arguments:
        path: the recipe's key; distribution: where Optuna looks.
        choices: name → value of a categorical parameter; empty for a number.
        when: path of another parameter → its values under which this one is active.
    """

    path: str
    distribution: BaseDistribution
    choices: dict[Any, Any]
    when: dict[str, tuple[Any, ...]]

    def active(self, values: Mapping[str, Any]) -> bool:
        return all(
            path in values and values[path] in allowed for path, allowed in self.when.items()
        )

    def suggest(self, trial: Trial) -> Any:
        d = self.distribution
        if isinstance(d, FloatDistribution):
            return trial.suggest_float(self.path, d.low, d.high, log=d.log)
        if isinstance(d, IntDistribution):
            return trial.suggest_int(self.path, d.low, d.high)
        return trial.suggest_categorical(self.path, list(self.choices))

    @property
    def extremes(self) -> list[Any]:
        """Every choice, or the lowest and the highest number."""
        d = self.distribution
        return (
            [d.low, d.high]
            if isinstance(d, FloatDistribution | IntDistribution)
            else list(self.choices)
        )


def read_parameters(search: Mapping[str, Dimension]) -> tuple[Parameter, ...]:
    """The parameters, each after those that its conditions name."""
    waiting = {path: _parameter(path, dimension) for path, dimension in search.items()}
    waiting = {path: replace(p, when=_by_name(p.when, waiting)) for path, p in waiting.items()}
    for p in waiting.values():
        for other, allowed in p.when.items():
            _check_condition(p.path, other, allowed, waiting)

    found: dict[str, Parameter] = {}
    while ready := [
        p for p in waiting.values() if p.path not in found and set(p.when) <= set(found)
    ]:
        found |= {p.path: p for p in ready}

    if cycle := sorted(set(waiting) - set(found)):
        raise ConfigError(
            f"search.{cycle[0]}.when: waits for itself, by way of "
            f"{', '.join(waiting[cycle[0]].when)}"
        )

    return tuple(found.values())


def _by_name(
    when: dict[str, tuple[Any, ...]], known: dict[str, Parameter]
) -> dict[str, tuple[Any, ...]]:
    """Conditions with the names that choices have: 1 names the choice "1"."""
    named: dict[str, tuple[Any, ...]] = {}
    for path, values in when.items():
        names = known[path].choices if path in known else {}
        same = {
            str(v): [n for n in names if isinstance(n, str) and is_yaml_for(n, v)] for v in values
        }
        named[path] = tuple(same[str(v)][0] if len(same[str(v)]) == 1 else v for v in values)

    return named


def _parameter(path: str, dimension: Dimension) -> Parameter:
    if path.split(".")[0] in _MEASURING:
        raise ConfigError(
            f"search.{path}: decides what is measured, not what is designed; it cannot be searched"
        )
    conditions = {
        key: tuple(v) if isinstance(v, list) else (v,) for key, v in dimension.when.items()
    }
    return Parameter(path, dimension.distribution, dimension.choices, conditions)


def _check_condition(
    path: str, other: str, allowed: tuple[Any, ...], known: dict[str, Parameter]
) -> None:
    if other not in known:
        raise ConfigError(
            f"search.{path}.when.{other}: is not searched{did_you_mean(other, list(known))}"
        )

    choices = known[other].choices
    if not allowed:
        raise ConfigError(f"search.{path}.when.{other}: names no value")
    if absent := [
        value for value in allowed if isinstance(value, dict | list) or value not in choices
    ]:
        there = ", ".join(map(str, choices)) or "a number, which is no choice"
        raise ConfigError(
            f"search.{path}.when.{other}: {absent[0]!r} is none of its choices ({there});"
            f" search.{path}=null leaves {path} out"
        )


def corners(parameters: tuple[Parameter, ...]) -> list[dict[str, Any]]:
    """Settings that show each extreme of each parameter, the others at their first value where its
    conditions leave it.
    """
    found = []
    by_path = {p.path: p for p in parameters}
    for p, extreme in itertools.chain.from_iterable(
        [(p, e) for e in p.extremes] for p in parameters
    ):
        fixed = _required(p, by_path) | {p.path: extreme}
        values: dict[str, Any] = {}
        for other in parameters:
            if other.active(values):
                values[other.path] = fixed.get(other.path, other.extremes[0])
        found.append(values)

    return found


def _required(p: Parameter, by_path: dict[str, Parameter]) -> dict[str, Any]:
    """The choices under which a parameter is active."""
    found: dict[str, Any] = {}
    for path, allowed in p.when.items():
        found |= _required(by_path[path], by_path) | {path: allowed[0]}
    return found
