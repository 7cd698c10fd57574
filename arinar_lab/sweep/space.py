"""A search space: the dimensions that a sweep file names, and the settings at its corners.

training.lr: {log: [1.0e-4, 1.0e-2]}                       a number of a range: float, log, int
inner.head.components: {categorical: [1, 4]}               a choice among values, or among
                                                           names: {small: {…}, …}
sampler.steps: {int: [2, 16], when: {outer: masked}}       active only where another choice is made
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
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


def read_parameters(spec: Any) -> tuple[Parameter, ...]:
    """The parameters, each after those that its conditions name."""
    if not isinstance(spec, dict) or not spec:
        raise ConfigError(
            "search: missing; name at least one key, as in training.lr: {log: [1.0e-4, 1.0e-2]}"
        )

    waiting = {str(path): _parameter(str(path), one) for path, one in spec.items()}
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


def _parameter(path: str, spec: Any) -> Parameter:
    key = f"search.{path}"
    if path.split(".")[0] in ("seed", "evaluation", "machine", "data"):
        raise ConfigError(
            f"{key}: decides what is measured, not what is designed; it cannot be searched"
        )

    shapes = [s for s in _SHAPES if isinstance(spec, dict) and s in spec]
    if len(shapes) != 1:
        raise ConfigError(
            f"{key}: {spec!r} is not one of {', '.join(_SHAPES)}, as in {{float: [0, 1]}}"
        )
    if extra := sorted(set(map(str, spec)) - {shapes[0], "when"}):
        raise ConfigError(
            f"{key}.{extra[0]}: unknown key; takes {shapes[0]}, "
            f"when{did_you_mean(extra[0], ['when'])}"
        )

    when = spec.get("when", {})
    if not isinstance(when, dict):
        raise ConfigError(f"{key}.when: {when!r} is not a mapping of searched keys to values")
    conditions = {str(p): tuple(v) if isinstance(v, list) else (v,) for p, v in when.items()}
    if shapes[0] == "categorical":
        choices = _choices(key, spec["categorical"])
        return Parameter(path, CategoricalDistribution(tuple(choices)), choices, conditions)

    return Parameter(path, _range(key, shapes[0], spec[shapes[0]]), {}, conditions)


def _choices(key: str, spec: Any) -> dict[Any, Any]:
    if isinstance(spec, dict) and spec:
        return {str(name): value for name, value in spec.items()}
    if not isinstance(spec, list) or not spec:
        raise ConfigError(f"{key}.categorical: {spec!r} is not a list of values")
    if odd := [v for v in spec if isinstance(v, dict | list)]:
        raise ConfigError(
            f"{key}.categorical: {odd[0]!r} needs a name; write categorical: {{name: value, …}}"
        )
    if len(set(spec)) < len(spec):
        raise ConfigError(f"{key}.categorical: {spec!r} holds a value twice")
    return {value: value for value in spec}


def _range(key: str, shape: str, spec: Any) -> BaseDistribution:
    number = int if shape == "int" else int | float
    fine = isinstance(spec, list) and len(spec) == 2
    if not fine or not all(
        isinstance(v, number) and not isinstance(v, bool) and math.isfinite(v) for v in spec
    ):
        raise ConfigError(
            f"{key}.{shape}: {spec!r} is not [low, "
            f"high]{', whole numbers' if shape == 'int' else ''}"
        )

    low, high = spec
    if not low < high:
        raise ConfigError(f"{key}.{shape}: low, {low}, is not below high, {high}")
    if shape == "log" and low <= 0:
        raise ConfigError(f"{key}.log: low, {low}, is not above 0")

    return (
        IntDistribution(low, high)
        if shape == "int"
        else FloatDistribution(low, high, log=shape == "log")
    )


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
