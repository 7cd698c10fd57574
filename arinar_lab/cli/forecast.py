"""What a study costs, and what it can resolve, said before it is run.

    cost    of each training, by a few timed steps

    σ    spread of a metric over the runs of one arm; of a distance that of its logarithm
    d    Cohen's d that n seeds resolve in 80 % of studies, at 5 % over all arms
    √(1 + n/m) σ d    the difference that it resolves, of two means that are not paired, where
                      the baseline has m seeds

σ comes from finished runs of the same trainings, else from runs of a shipped recipe.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from ..config.sections import Recipe
from ..metrics import BITS, COLUMNS, DISTANCE, DISTANCES
from ..runs.folder import RunFolder
from ..significance.looks import level_at, schedule
from ..significance.statistics import ALPHA, MAX_SEEDS, detectable_size, more_seeds
from ..study.cost import Cost, probe_or_reason
from ..study.plan import Arm, Plan

_TIMING_SECONDS = 20  # after which the mean of the timed arms stands for the remaining ones


@dataclass(frozen=True)
class RunSpread:
    """The spread of a metric over runs of one arm.

    Arguments:
        deviation: Standard deviation of a run; of a distance that of its logarithm.
        mean: The mean of the runs.
        source: What it was measured on.
    """

    deviation: float
    mean: float
    source: str


SHIPPED = {
    ("pixels", "causal", 96, 400, 3e-3): {BITS: (0.065, 2.18), DISTANCE: (0.4, 9.4)},
    ("vae", "causal", 48, 800, 3e-3): {BITS: (0.0070, 1.30), DISTANCE: (0.080, 1.50)},
}
"""Codec, outer model, batch, steps and learning rate of a shipped recipe of digits → metric →
spread and mean of its runs, over 5 seeds (pixels) and 20 (latents) of a GMM head with K = 4.
"""


def resolution_lines(plan: Plan) -> list[str]:
    """A line for the metric that ranks arms, and for each distance of which a difference matters:
    the difference that the study's seeds can resolve.
    """
    most = plan.growth.at_most if plan.growth else len(plan.seeds)
    trainings = {arm.recipe.training_signature for arm in plan.arms}
    if _compared(plan) < 2 or most < 2 or len(trainings) < 2:
        return []  # arms of one training are compared in pairs, whose spread is another

    lines = []
    for metric in dict.fromkeys([plan.criterion, *filter(plan.matters.__contains__, DISTANCES)]):
        if metric not in (plan.criterion, plan.arms[0].distance):
            continue  # what a recipe measures beyond is not known before
        spread = run_spread(plan, metric)
        text = f"what {most} seeds can resolve is unknown until some runs are finished."
        if spread is not None:
            text = _resolved(plan, metric, spread)
        lines.append(f"{COLUMNS[metric].heading}: {text}")
    return lines


def _compared(plan: Plan) -> int:
    """The number of arms that are compared with one another."""
    return len(plan.arms) // max(1, len(plan.regimes))


def _resolved(plan: Plan, metric: str, spread: RunSpread) -> str:
    """What the seeds of a study resolve, and how many a difference that matters needs."""
    arms = _compared(plan)
    pool = arms if plan.pooled else 2
    alpha = ALPHA / (arms - 1)
    levels = {len(plan.seeds): alpha}
    if plan.growth:
        looks = schedule(plan.growth.first, plan.growth.at_most)
        ends = looks[:1] if len(looks) == 1 else (looks[0], looks[-1])
        levels = {n: level_at(looks[: looks.index(n) + 1], looks[-1], alpha) for n in ends}

    parts = []
    for n, level in levels.items():
        size = detectable_size(n, pool, level, paired=False)
        deviation = spread.deviation * math.sqrt(1 + n / max(n, plan.baseline_seeds))
        parts.append(f"{n} seeds resolve {_difference(metric, size * deviation)}")

    text = f"{', '.join(parts)} in 80 % of studies (by the spread of {spread.source})."
    needed = _needed(plan, metric, spread, alpha) if spread.deviation > 0 else 0
    if needed > max(levels):
        count = f"about {needed}" if needed <= MAX_SEEDS else f"more than {MAX_SEEDS}"
        text += f" What matters, {plan.matters[metric]:g}, would need {count}."
    return text


def _difference(metric: str, difference: float) -> str:
    """A difference on the scale of the test in words."""
    if metric in DISTANCES:
        return f"a ratio of {math.exp(difference):.2f}"
    return f"a difference of {difference:.{COLUMNS[metric].digits}f}"


def _needed(plan: Plan, metric: str, spread: RunSpread, alpha: float) -> int:
    """The seeds that resolve the difference that matters; 0 where none is stated."""
    margin = plan.matters.get(metric, 0.0)
    if not margin:
        return 0
    if metric in DISTANCES:
        margin = math.log1p(margin / spread.mean)
    size = margin / (math.sqrt(2) * spread.deviation)
    pool = _compared(plan) if plan.pooled else 2
    return 2 + more_seeds(size, 2, pool, alpha, paired=False)


def run_spread(plan: Plan, metric: str) -> RunSpread | None:
    """The spread of a metric over runs: of the study's trainings that are finished, else of the
    shipped recipe that its baseline is; None where neither is known.
    """
    baseline = next(arm for arm in plan.arms if arm.name == plan.baseline)
    return _of_finished_runs(plan, metric) or _of_shipped(baseline.recipe, metric)


def _of_finished_runs(plan: Plan, metric: str) -> RunSpread | None:
    """The spread within arms, pooled, of all seeds on this disk; None where no arm has two."""
    square = 0.0
    df = 0
    values: list[float] = []
    for arm in plan.arms:
        of_arm = _finished_values(plan, arm, metric)
        if len(of_arm) > 1:
            scaled = list(map(math.log, of_arm)) if metric in DISTANCES else of_arm
            square += statistics.variance(scaled) * (len(of_arm) - 1)
            df += len(of_arm) - 1
            values += of_arm

    if not df:
        return None
    source = f"{len(values)} finished runs"
    return RunSpread(math.sqrt(square / df), statistics.fmean(values), source)


def _finished_values(plan: Plan, arm: Arm, metric: str) -> list[float]:
    """A metric of every finished seed of an arm; none where a distance is not above 0."""
    folder, recipe = plan.cell(arm, plan.seeds[0])
    values = []
    for path in sorted(folder.path.parent.glob("seed_*")):
        report = RunFolder(path).report(recipe)
        value = report.get("metrics", {}).get(metric, math.nan)
        if math.isfinite(value):
            values.append(value)
    is_logarithmic = metric in DISTANCES and min(values, default=1.0) <= 0
    return [] if is_logarithmic else values


def _of_shipped(recipe: Recipe, metric: str) -> RunSpread | None:
    """The spread of the shipped recipe that trains as this one does; None where none does."""
    training = recipe.training
    codec, outer = _kind(recipe.codec), _kind(recipe.outer)
    key = (codec, outer, training.batch, training.steps, training.lr)
    if _kind(recipe.data) != "digits" or key not in SHIPPED:
        return None
    deviation, mean = SHIPPED[key][metric]
    source = f"a shipped recipe: digits, {codec}, {outer}, {training.steps} × {training.batch}"
    return RunSpread(deviation, mean, source)


def _kind(part: Any) -> str:
    """The kind of a part of a recipe."""
    return str(part.kind)


# Costs


def timed_costs(recipes: Iterable[Recipe], console: Console) -> dict[str, Cost | str]:
    """Training signature → cost of a run, or why it is unknown, of as many recipes as can be
    timed in a short while.
    """
    costs: dict[str, Cost | str] = {}
    begun = time.monotonic()
    with console.status("timing a few steps of each arm"):
        for recipe in recipes:
            signature = recipe.training_signature
            if signature not in costs and time.monotonic() - begun < _TIMING_SECONDS:
                costs[signature] = probe_or_reason(recipe)

    return costs


def print_unknown(costs: Mapping[str, Cost | str], console: Console) -> None:
    """Print why costs are unknown. costs: name → the cost, or why it is unknown."""
    for name, cost in costs.items():
        if isinstance(cost, str):
            console.print(f"The cost of {name} is unknown: {cost}", soft_wrap=True)
