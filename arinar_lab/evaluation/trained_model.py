"""A trained run for Python: samples under other samplers, and conditional densities.

    run = open_run(recipe, folder)
    run.with_sampler(guidance=3, temperature=0.9).samples(labels=range(10), seeds=range(10))
    run.conditionals(item=0, token=5)

The weights are loaded once; a sampler is a value, so one model serves many samplers at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config.build import Experiment, check_sampler
from ..config.schema import parse_dataclass, to_plain
from ..config.sections import Recipe
from ..errors import ConfigError
from ..model.sampler import Sampler
from ..runs.folder import RunFolder
from .conditionals import conditionals
from .evaluate import generate_images, load_trained


@dataclass(frozen=True)
class TrainedModel:
    """A trained model with a sampler.

    Arguments:
        recipe: Recipe of the run, with the sampler.
        experiment: Data, codec and model.
    """

    recipe: Recipe
    experiment: Experiment

    def with_sampler(self, **settings: Any) -> TrainedModel:
        """Return the model with another sampler: `run.with_sampler(guidance=3, temperature=0.9)`.

        Raises:
            ConfigError: if a setting does not exist, is out of range, or does not fit the model.
        """
        changed = to_plain(self.recipe.sampler) | settings
        sampler = parse_dataclass(Sampler, changed, "sampler")
        check_sampler(sampler, self.experiment.model)
        return replace(self, recipe=replace(self.recipe, sampler=sampler))

    def samples(self, labels: Iterable[int], seeds: Iterable[int]) -> tuple[Tensor, Tensor]:
        """Generate images [n, …] of labels and seeds; count the truncated conditionals [n]."""
        y = torch.tensor([*labels])
        return generate_images(self.recipe, self.experiment, y, torch.tensor([*seeds]))

    def conditionals(self, item: int, token: int) -> dict[str, np.ndarray]:
        """Compute the densities of one token of a held-out item, see `conditionals.conditionals`.

        Raises:
            IndexError: if there is no such item, or no such token.
        """
        return conditionals(self.recipe, self.experiment, range(item, item + 1), token)


def open_run(recipe: Recipe, folder: RunFolder) -> TrainedModel:
    """A finished run, its weights loaded; its data are read when they are first needed.

    Raises:
        ConfigError: if it is not finished, or the weights are missing, damaged or do not fit.
    """
    experiment = load_trained(recipe, folder)
    return TrainedModel(recipe, experiment)


def sampler_variants(
    run: TrainedModel, **choices: Iterable[Any]
) -> tuple[dict[str, TrainedModel], list[str]]:
    """Return the run under each value of some settings, one at a time, and the reasons of refusals.

    `sampler_variants(run, temperature=[0.8, 1], guidance=[2])` is
    `{"temperature 0.8": …, "temperature 1": …, "guidance 2": …}, []`.
    """
    variants = {}
    refusals = []
    for name, values in choices.items():
        for value in values:
            try:
                variants[f"{name} {value}"] = run.with_sampler(**{name: value})
            except ConfigError as error:
                refusals.append(str(error))

    return variants, refusals


def conditionals_of_runs(
    runs: Mapping[str, TrainedModel],
    item: int,
    token: int,
    guidance: float = 1.0,
    temperature: float = 1.0,
) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Compute each run's densities of a token: as learned and, where possible, guided and tempered.

    Runs with another codec than the first are left out.

    Returns:
        name → `as learned`, `guided, tempered` → `conditionals`: what
            `notebook_figures.conditionals_figure` draws.
    """
    densities: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for name, run in runs.items():
        if run.recipe.codec != next(iter(runs.values())).recipe.codec:
            continue
        learned = run.with_sampler(guidance=1.0, temperature=1.0)
        densities[name] = {"as learned": learned.conditionals(item, token)}
        with suppress(ConfigError):
            guided = run.with_sampler(guidance=guidance, temperature=temperature)
            title = f"guidance {guidance:g}, temperature {temperature:g}"
            densities[name][title] = guided.conditionals(item, token)

    return densities
