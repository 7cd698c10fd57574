"""Start from another run: its weights and, with its outer model frozen, its conditions.

init_from: RUN     a run folder (or a converted checkpoint); every tensor that has its place here is
                   taken over. `{seed}` in it is this run's seed
freeze: outer      outer model, labels and codec stay as they came, and z is computed once
                   and kept. Only a new inner model learns: minutes a head, and arms differ
                   in their heads alone
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..config.build import Experiment
from ..config.files import read_recipe
from ..config.schema import flatten, to_plain
from ..config.sections import Recipe, parse_recipe
from ..data.loader import BatchDataset, ResumableLoader
from ..errors import ConfigError, located
from ..model.noise import Noise, Stream
from ..model.outer import take
from ..model.weight_files import read_safetensors
from ..runs.checkpoints import refuse_altered
from ..runs.folder import RunFolder, open_run_folder

_NOT_COMPARED = (
    "outer.steps",
    "outer.dropout",
    "outer.dropout_hidden",
    "outer.mask_group",
    "codec.weights",
)
# the last is a place; the weights tell by themselves
PASSES = 8  # over the training data, each with its own dequantisation, masks and dropped labels
MAX_CACHE_BYTES = 2 * 10**9  # bytes that kept conditions may take


def initial_run(recipe: Recipe) -> RunFolder | None:
    """The run that a recipe starts from.

    Raises:
        ConfigError: if it is no finished run.
    """
    if recipe.init_from is None:
        return None

    path = recipe.workspace.path(recipe.init_from.replace("{seed}", str(recipe.seed)))
    with located("init_from"):
        folder = open_run_folder(path)
    if not folder.weights.is_file():
        raise ConfigError(
            f"init_from: {folder.path} has not finished training; train it to its end first"
        )

    return folder


def matching_weights(recipe: Recipe, experiment: Experiment) -> dict[str, Tensor]:
    """What the recipe takes over from the run it starts from, by name; empty
    where it starts afresh.

    With `freeze: outer` that is codec, labels and outer model, all of them, and
    nothing of the inner model.

    Raises:
        ConfigError: if it is no finished run, or (naming the first keys) does not fit.
    """
    folder = initial_run(recipe)
    if folder is None:
        return {}

    with located("init_from", ValueError):
        refuse_altered(folder.weights)
        theirs = read_safetensors(folder.weights)

    ours = _modules(experiment).state_dict()
    frozen = [name for name in ours if not name.startswith("model.inner.")]
    fits = {
        name: value
        for name, value in theirs.items()
        if name in ours and value.shape == ours[name].shape
    }

    differing = _differences(recipe, folder)
    # statistics of another codec are no use here
    if any(key.startswith("codec.") for key in differing):
        fits = {name: value for name, value in fits.items() if not name.startswith("codec.")}
    if recipe.freeze == "outer":
        for key, (here, there) in differing.items():
            raise ConfigError(
                f"freeze: outer keeps {folder.path} as it is, where {key} is {there}; "
                f"here it is {here}"
            )

        missing = [name for name in frozen if name not in fits]
        if missing:
            names = ", ".join(missing[:3])
            raise ConfigError(
                f"init_from: {folder.path} does not fit this outer model and codec: {names}"
            )

        fits = {name: fits[name] for name in frozen}

    if not fits:
        raise ConfigError(f"init_from: nothing of {folder.path} has its place in this recipe")
    return fits


def _differences(recipe: Recipe, folder: RunFolder) -> dict[str, tuple[Any, Any]]:
    """Keys of codec and outer model that differ, with their values here and there; but
    for `_NOT_COMPARED`.
    """
    ours, theirs = (
        flatten({name: whole[name] for name in ("codec", "outer")})
        for whole in (
            to_plain(recipe),
            to_plain(parse_recipe(read_recipe(folder.path / "config.yaml"))),
        )
    )
    keys = [key for key in {**ours, **theirs} if key not in _NOT_COMPARED]

    return {
        key: (ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)
    }


def load_initial_weights(recipe: Recipe, experiment: Experiment) -> list[str]:
    """Copy into the experiment what is `matching_weights`; returns the names of the tensors."""
    tensors = matching_weights(recipe, experiment)
    try:
        _modules(experiment).load_state_dict(tensors, strict=False)
    except RuntimeError as error:  # another autoencoder than theirs
        raise ConfigError(f"init_from: {' '.join(str(error).split())[:200]}") from None
    return list(tensors)


def _modules(experiment: Experiment) -> torch.nn.Module:
    return torch.nn.ModuleDict({"codec": experiment.codec, "model": experiment.model})


@dataclass(frozen=True)
class FrozenOuterCache:
    """What a frozen outer model says about the batches of the first steps, which
    are then used in turn.

    Arguments:
        batches: of each step: z [B, m, E], the tokens there [B, m, D], where [B, m], the
            images' indices [B].
    """

    batches: list[tuple[Tensor, Tensor, Tensor, Tensor]]

    def at(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.batches[step % len(self.batches)]


@torch.no_grad()
def cache_frozen_outer(
    recipe: Recipe, experiment: Experiment, device: torch.device
) -> FrozenOuterCache | None:
    """Compute z for `PASSES` passes over the training data; None where it would take more than
    `MAX_CACHE_BYTES` bytes.
    """
    model, codec, t = experiment.model.eval(), experiment.codec, recipe.training
    loader = ResumableLoader(
        BatchDataset(experiment.source.train, experiment.source.flip), t.batch, recipe.seed
    )

    steps = min(t.steps, PASSES * len(loader))
    a_step = 4 * t.batch * codec.tokens * (model.outer.context + codec.features)
    if steps * a_step > MAX_CACHE_BYTES:
        return None
    batches: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    while len(batches) < steps:
        for image, y, index in loader:
            image, y, index = image.to(device), y.to(device), index.to(device)
            noise = (
                Noise.of(torch.full_like(index, recipe.seed), "train").at(len(batches)).at(index)
            )
            x, _ = codec.encode(image, noise.at(Stream.CODEC))
            z, where = model.conditions(x, y, noise.at(Stream.MODEL))
            batches.append((z, take(x, where), where, index))
            if len(batches) == steps:
                break

    model.train()
    return FrozenOuterCache(batches)
