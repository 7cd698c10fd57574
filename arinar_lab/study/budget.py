"""Budgets: every arm again at multiples of what it may spend, to see whether the
ranking of arms lasts.

    budget: {training.steps: [1, 4], outer.width: [1, 2]}      every combination, here four budgets

A multiple is of the arm's own value of the key (the base's, where the arm does not change it). The
first combination is the budget that the others are ranked against. Nothing else is scaled: neither
warm-up nor learning rate.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

from ..config.recipe import Recipe, merge, unflatten
from ..config.schema import flatten, to_plain
from ..errors import ConfigError

Budget = dict[str, float]
"""Key → multiple of its value."""


def read_budgets(spec: Any) -> dict[str, Budget]:
    """Every combination of the multiples, by its label, as in `steps×4,width×2`;
    none without a `budget`.

    Raises:
        ConfigError: if it is no mapping of keys to lists of different numbers above zero.
    """
    if spec is None:
        return {}
    if not isinstance(spec, dict) or not spec:
        raise ConfigError(
            f"budget: {spec!r} is not a mapping of keys to multiples, as in "
            "{training.steps: [1, 4]}"
        )

    for key, multiples in spec.items():
        numbers = isinstance(multiples, list) and all(_is_multiple(value) for value in multiples)
        if not numbers or len(multiples) < 2 or len(set(multiples)) < len(multiples):
            raise ConfigError(
                f"budget.{key}: {multiples!r} is not a list of two or more different "
                "multiples above 0"
            )

    last = [str(key).split(".")[-1] for key in spec]
    labels = [
        str(key) if last.count(name) > 1 else name for key, name in zip(spec, last, strict=True)
    ]

    return {
        ",".join(f"{label}×{value:g}" for label, value in zip(labels, values, strict=True)): dict(
            zip(map(str, spec), values, strict=True)
        )
        for values in itertools.product(*spec.values())
    }


def _is_multiple(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def scaled(recipe: Recipe, budget: Budget) -> dict[str, Any]:
    """The recipe at a budget, as plain data.

    Raises:
        ConfigError: if a key is no number of this recipe, or a whole number would be broken.
    """
    plain = to_plain(recipe)
    values, changes = flatten(plain), {}
    for key, multiple in budget.items():
        value = values.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ConfigError(f"budget.{key}: not the key of a number that this arm has")
        spent = value * multiple
        if isinstance(value, int) and spent != round(spent):
            raise ConfigError(
                f"budget.{key}: {multiple:g} × {value} is {spent:g}, which is no whole number"
            )
        changes[key] = round(spent) if isinstance(value, int) else spent

    return merge(plain, unflatten(changes))
