"""The cost of an arm before training: parameters, FLOPs and hours; and arms of equal cost.

    parameters    trained ones
    GFLOPs        10^9 floating-point operations of matrix products and attention, by torch's own
                  counter: of one generated image under the recipe's sampler, and of one training
                  step (forward and backward, a whole batch)
    seconds       of a run, and of the measurement of its speed, from a few timed steps of training
                  and one generated batch, here and now

A comparison of two designs at one width compares two budgets, too. `Match` therefore gives each arm
the width w at which cost(w) is the target. The cost rises with w, so bisection among the multiples
of the number of heads finds w.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..config.build import Experiment, build, prepare_experiment
from ..config.files import merge, unflatten
from ..config.schema import flatten, to_plain
from ..config.sections import Recipe, parse_recipe
from ..errors import ConfigError, did_you_mean
from ..evaluation.evaluate import count_flops, generate_images
from ..hardware.device import configure_cpu
from ..hardware.profiling import flops_of
from ..model.noise import Noise, Stream
from ..training.module import ArinarModule

if TYPE_CHECKING:
    from .plan_file import Match


MAX_MULTIPLE = 2**16  # of the multiples that are tried


@dataclass(frozen=True)
class Cost:
    """The cost of one run of an arm.

    Arguments:
        parameters: The number of trained parameters.
        image: GFLOPs of one generated image.
        step: GFLOPs of one training step.
        seconds: The time of the run on this machine, with its evaluation.
        speed_seconds: The time in which its speed is measured, with no other run beside it.
        evaluation_seconds: The part of `seconds` that follows training.
    """

    parameters: int
    image: float
    step: float
    seconds: float
    speed_seconds: float = 0.0
    evaluation_seconds: float = 0.0


def probe(recipe: Recipe, steps: int = 4) -> Cost:
    """The cost of a run, from a few steps of training and one generated batch.

    Raises:
        ConfigError: if the data is not there.
    """
    configure_cpu(recipe.machine)
    experiment = build(recipe)
    source = experiment.source
    module = ArinarModule(experiment, recipe.training, recipe.seed)
    prepare_experiment(experiment)
    module.fit_to(source.train[0])
    step_flops = flops_of(lambda: _step(recipe, experiment, 0))

    begun = time.perf_counter()
    for step in range(1, steps + 1):
        _step(recipe, experiment, step)
    step_seconds = (time.perf_counter() - begun) / steps

    begun = time.perf_counter()
    indices = torch.arange(32)
    generate_images(recipe, experiment, indices % source.classes, indices)
    image_seconds = (time.perf_counter() - begun) / len(indices) if source.levels else 0.0

    training = 1.3 * recipe.training.steps * step_seconds
    evaluation = recipe.evaluation.images * image_seconds + 5
    image_flops = count_flops(recipe, experiment) / 1e9
    # a batch of one takes about as long as one of 32; one repeat more warms up
    timed_images = recipe.evaluation.speed_batch + len(indices)
    speed_seconds = (recipe.evaluation.speed_repeats + 1) * timed_images * image_seconds
    return Cost(
        experiment.parameters,
        image_flops,
        step_flops / 1e9,
        training + evaluation,
        speed_seconds,
        evaluation,
    )


def probe_or_reason(recipe: Recipe) -> Cost | str:
    """The cost of a run, or why it is unknown. An arm that fails here fails alone when it runs, and
    its own folder holds the reason.

    Raises:
        ConfigError: if the data is not there.
    """
    try:
        return probe(recipe)
    except ConfigError:
        raise
    except Exception as error:  # out of memory, say
        return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _step(recipe: Recipe, experiment: Experiment, step: int) -> None:
    """One training step of the first images, forward and backward."""
    index, source = torch.arange(recipe.training.batch), experiment.source
    noise = Noise.of(index).at(step)
    x, _ = experiment.codec.encode(source.train[0][index], noise.at(Stream.CODEC))
    experiment.model.loss(x, source.train[1][index], noise.at(Stream.MODEL)).backward()


def matched_cost(match: Match, recipe: Recipe) -> float:
    """Parameters, or floating-point operations of one image."""
    if match.cost == "parameters":
        return build(recipe, "meta").parameters
    return count_flops(recipe, build(recipe))


def solve(match: Match, recipe: Recipe, target: float) -> tuple[Recipe, int]:
    """The recipe at the width whose cost is nearest to the target, and that width.

    Raises:
        ConfigError: if there is no such key, or no width costs the target within the tolerance.
    """
    unit = _unit(match, recipe)

    def at(multiple: int) -> Recipe:
        content = merge(to_plain(recipe), unflatten({match.by: multiple * unit}))
        return parse_recipe(content, recipe.workspace)

    start = max(1, int(flatten(to_plain(recipe))[match.by]) // unit)
    multiple = nearest_multiple(lambda multiple: matched_cost(match, at(multiple)), target, start)
    cost = matched_cost(match, at(multiple))

    if abs(cost - target) > match.tolerance * target:
        kind = "parameters" if match.cost == "parameters" else "floating-point operations an image"
        raise ConfigError(
            f"match: no {match.by} has {target:,.0f} {kind} within {match.tolerance:.1%};"
            f" {multiple * unit} comes nearest with {cost:,.0f}"
        )
    return at(multiple), multiple * unit


def _unit(match: Match, recipe: Recipe) -> int:
    """The unit of the solved value: the number of heads in the same section."""
    values = flatten(to_plain(recipe))
    if type(values.get(match.by)) is not int:
        whole = [key for key, value in values.items() if type(value) is int]
        raise ConfigError(
            f"match.by: {match.by!r} is no whole number of this arm{did_you_mean(match.by, whole)}"
        )
    return int(values.get(f"{match.by.rpartition('.')[0]}.heads", 1))


def nearest_multiple(cost: Callable[[int], float], target: float, start: int = 1) -> int:
    """The whole number n ≥ 1 whose cost, which rises with n about as n², is nearest to the target.

    An evaluation of the cost is slow. Each guess is therefore n · √(target / cost), kept between
    the largest n whose cost is too low and the smallest whose cost is too high.
    """
    low = 0
    high = MAX_MULTIPLE
    n = start
    costs: dict[int, float] = {}
    while high - low > 1:
        costs[n] = cost(n)
        if costs[n] <= target:
            low = n
        else:
            high = n
        n = min(max(round(n * math.sqrt(target / costs[n])), low + 1), high - 1)

    return min(costs, key=lambda n: abs(costs[n] - target))


def format_count(value: Any, digits: int = 3) -> str:
    """A number with a few significant digits, as text."""
    return f"{value:,.{digits}g}" if value < 1000 else f"{value:,.0f}"
