"""A search space: the dimensions that a sweep file names, and the settings at its corners.

training.lr: {log: [1.0e-4, 1.0e-2]}                       a number of a range: float, log, int
inner.head.components: {categorical: [1, 4]}               a choice among values, or among
                                                           names: {small: {…}, …}
sampler.steps: {int: [2, 16], when: {outer: masked}}       active only where another choice is made
"""

from __future__ import annotations

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
_MEASURING = ("seed", "fixed_seeds", "evaluation", "machine", "data", "validation")
Numbers = tuple[float, float]
Whole = tuple[int, int]


@dataclass(frozen=True)
class Dimension:
    """The range or the choices of one searched key: exactly one of float, log, int, categorical.

    Arguments:
        float: The range [low, high] of a number, on a linear scale.
        log: The range [low, high] of a number, on a logarithmic scale; low is above 0.
        int: The range [low, high] of a whole number, both ends included.
        categorical: A list of one or more different values, or a mapping of names to values.
        when: Other searched keys → the choice or choices under which this key is searched.

    Raises:
        ValueError: if not exactly one of the four is set, or its range is empty.
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
        """The range or the choices, as Optuna holds them."""
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
        path: The recipe's key.
        distribution: The range or the choices, as Optuna holds them.
        choices: Name → value of a categorical parameter; empty for a number.
        when: Path of another parameter → its values under which this one is active.
    """

    path: str
    distribution: BaseDistribution
    choices: dict[Any, Any]
    when: dict[str, tuple[Any, ...]]

    @property
    def last_word(self) -> str:
        """The last word of the recipe's key."""
        return self.path.split(".")[-1]

    def active(self, values: Mapping[str, Any]) -> bool:
        """Whether the parameter is searched, by the values of those before it."""
        for path, allowed in self.when.items():
            if path not in values or values[path] not in allowed:
                return False
        return True

    def suggest(self, trial: Trial) -> Any:
        """A value of the trial for this parameter."""
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
        if isinstance(d, FloatDistribution | IntDistribution):
            return [d.low, d.high]
        return list(self.choices)


def read_parameters(search: Mapping[str, Dimension]) -> tuple[Parameter, ...]:
    """The parameters, each after those that its conditions name."""
    declared = {path: _parameter(path, dimension) for path, dimension in search.items()}
    waiting: dict[str, Parameter] = {}
    for path, parameter in declared.items():
        waiting[path] = replace(parameter, when=_conditions(parameter, declared))

    ordered: dict[str, Parameter] = {}
    while ready := {path: p for path, p in waiting.items() if p.when.keys() <= ordered.keys()}:
        ordered |= ready
        waiting = {path: p for path, p in waiting.items() if path not in ready}

    if waiting:
        path = min(waiting)
        raise ConfigError(
            f"search.{path}.when: waits for itself, by way of {', '.join(waiting[path].when)}"
        )

    return tuple(ordered.values())


def _parameter(path: str, dimension: Dimension) -> Parameter:
    if path.split(".")[0] in _MEASURING:
        raise ConfigError(
            f"search.{path}: decides what is measured, not what is designed; it cannot be searched"
        )

    conditions: dict[str, tuple[Any, ...]] = {}
    for key, value in dimension.when.items():
        conditions[key] = tuple(value) if isinstance(value, list) else (value,)
    return Parameter(path, dimension.distribution, dimension.choices, conditions)


def _conditions(
    parameter: Parameter, parameters: Mapping[str, Parameter]
) -> dict[str, tuple[Any, ...]]:
    """The parameter's conditions, checked, by the names of the choices: 1 names the choice "1".

    Raises:
        ConfigError: naming a condition on what is not searched, or is none of its choices.
    """
    conditions = {}
    for path, values in parameter.when.items():
        key = f"search.{parameter.path}.when.{path}"
        if path not in parameters:
            raise ConfigError(f"{key}: is not searched{did_you_mean(path, list(parameters))}")
        if not values:
            raise ConfigError(f"{key}: names no value")

        choices = parameters[path].choices
        conditions[path] = tuple(_choice(value, choices) for value in values)
        for choice in conditions[path]:
            if isinstance(choice, dict | list) or choice not in choices:
                names = ", ".join(map(str, choices)) or "a number, which is no choice"
                raise ConfigError(
                    f"{key}: {choice!r} is none of its choices ({names});"
                    f" search.{parameter.path}=null leaves {parameter.path} out"
                )

    return conditions


def _choice(value: Any, choices: Mapping[Any, Any]) -> Any:
    """The one name among the choices that YAML reads as the value; else the value itself."""
    names = [name for name in choices if isinstance(name, str) and is_yaml_for(name, value)]
    return names[0] if len(names) == 1 else value


def corners(parameters: tuple[Parameter, ...]) -> list[dict[str, Any]]:
    """Settings that show each extreme of each parameter; the other parameters take their first
    value that its conditions allow.
    """
    by_path = {parameter.path: parameter for parameter in parameters}
    settings = []
    for parameter in parameters:
        for extreme in parameter.extremes:
            fixed = _required(parameter, by_path) | {parameter.path: extreme}
            settings.append(_setting(parameters, fixed))

    return settings


def _setting(parameters: tuple[Parameter, ...], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Fixed values, and the first value of every other active parameter."""
    values: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.active(values):
            values[parameter.path] = fixed.get(parameter.path, parameter.extremes[0])
    return values


def _required(parameter: Parameter, by_path: dict[str, Parameter]) -> dict[str, Any]:
    """The choices under which a parameter is active."""
    values: dict[str, Any] = {}
    for path, allowed in parameter.when.items():
        values |= _required(by_path[path], by_path) | {path: allowed[0]}
    return values
