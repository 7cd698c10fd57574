"""A trained run that can be asked: for samples under another sampler, and for what it
believes about a token.

    run = open_run(recipe, folder)
    run.under(guidance=3, temperature=0.9).samples(labels=range(10), seeds=range(10))
    run.conditionals(item=0, token=5)

The weights are loaded once; a sampler is a value, so the same model can stand under many at a time.
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
from ..config.sections import Recipe
from ..errors import ConfigError
from ..model.sampler import Sampler
from ..runs.folder import RunFolder
from .conditionals import conditionals
from .evaluate import generate_images, load_trained


@dataclass(frozen=True)
class TrainedModel:
    """A trained model and the sampler it is under.

    Arguments:
        recipe: whose sampler counts; experiment: data, codec and model.
    """

    recipe: Recipe
    experiment: Experiment

    def with_sampler(self, **settings: Any) -> TrainedModel:
        """The same model under another sampler, as in
        `run.with_sampler(guidance=3, temperature=0.9)`.

        Raises:
            ConfigError: if there is no such setting, it is out of range, or the model cannot do it.
        """
        try:
            sampler: Sampler = replace(self.recipe.sampler, **settings)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"sampler.{error}") from None
        check_sampler(sampler, self.experiment.model)
        return replace(self, recipe=replace(self.recipe, sampler=sampler))

    def samples(self, labels: Iterable[int], seeds: Iterable[int]) -> tuple[Tensor, Tensor]:
        """Images [n, …] of these labels and seeds, and how many conditionals of each had
        to be truncated, [n].
        """
        return generate_images(
            self.recipe, self.experiment, torch.tensor([*labels]), torch.tensor([*seeds])
        )

    def conditionals(self, item: int, token: int) -> dict[str, np.ndarray]:
        """The densities of each feature of one token of a held-out item, see
        `conditionals.conditionals`.

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
    """The run under each value of some settings, one at a time, and why others are refused.

    `sampler_variants(run, temperature=[0.8, 1], guidance=[2])` is
    `{"temperature 0.8": …, "temperature 1": …, "guidance 2": …}, []`.
    """
    found, refused = {}, []
    for name, values in choices.items():
        for value in values:
            try:
                found[f"{name} {value}"] = run.with_sampler(**{name: value})
            except ConfigError as error:
                refused.append(str(error))

    return found, refused


def conditionals_of_runs(
    runs: Mapping[str, TrainedModel],
    item: int,
    token: int,
    guidance: float = 1.0,
    temperature: float = 1.0,
) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """What each run believes about a token of a held-out item: as learned and, where it can,
    guided and tempered.

    Runs that do not see the same tokens as the first are left out.

    Returns:
        name → `as learned`, `guided, tempered` → `conditionals`: what
            `notebook_figures.conditionals_figure` draws.
    """
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    alike = [
        name
        for name, run in runs.items()
        if run.recipe.codec == next(iter(runs.values())).recipe.codec
    ]
    for name in alike:
        found[name] = {
            "as learned": runs[name]
            .with_sampler(guidance=1.0, temperature=1.0)
            .conditionals(item, token)
        }
        with suppress(ConfigError):
            steered = runs[name].with_sampler(guidance=guidance, temperature=temperature)
            found[name][f"guidance {guidance:g}, temperature {temperature:g}"] = (
                steered.conditionals(item, token)
            )

    return found
