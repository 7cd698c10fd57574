"""Start from another run: its weights and, with its outer model frozen, its conditions.

init_from: RUN     a run folder (or a converted checkpoint). Every tensor that has the name and
                   shape of one here is copied. `{seed}` in it is this run's seed
freeze: outer      outer model, labels and codec keep the copied weights, and z is computed once
                   and cached. Only a new inner model learns: minutes a head, and arms differ
                   in their heads alone
"""

from __future__ import annotations

import itertools
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
from ..model.noise import Stream, training_noise
from ..model.outer import take
from ..model.weight_files import read_safetensors
from ..runs.checkpoints import refuse_altered
from ..runs.folder import RunFolder, open_run_folder

_NOT_COMPARED = {
    "outer.steps",
    "outer.dropout",
    "outer.dropout_hidden",
    "outer.mask_group",
    "codec.weights",  # a path; the weights themselves are compared
}
PASSES = 8  # over the training data, each with its own dequantisation, masks and dropped labels
MAX_CACHE_BYTES = 2 * 10**9  # of cached conditions


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
    """Return the tensors of the initial run that fit this recipe, by name.

    With `freeze: outer` these are all tensors of codec, labels and outer model, and none of the
    inner model. Without `init_from` there are none.

    Raises:
        ConfigError: if it is no finished run, or does not fit, naming the first keys.
    """
    folder = initial_run(recipe)
    if folder is None:
        return {}

    with located("init_from", ValueError):
        refuse_altered(folder.weights)
        initial = read_safetensors(folder.weights)

    state = _modules(experiment).state_dict()
    differences = _differences(recipe, folder)
    is_other_codec = any(key.startswith("codec.") for key in differences)
    names = [
        name
        for name, value in initial.items()
        if name in state and value.shape == state[name].shape
    ]
    if is_other_codec:  # its statistics do not fit these tokens
        names = [name for name in names if not name.startswith("codec.")]
    if recipe.freeze == "outer":
        frozen = [name for name in state if not name.startswith("model.inner.")]
        _check_frozen(folder, differences, [name for name in frozen if name not in names])
        names = frozen

    if not names:
        raise ConfigError(f"init_from: nothing of {folder.path} has its place in this recipe")
    return {name: initial[name] for name in names}


def _check_frozen(
    folder: RunFolder, differences: dict[str, tuple[Any, Any]], missing: list[str]
) -> None:
    """Refuse to freeze an outer model that differs, or lacks tensors.

    Raises:
        ConfigError: naming the first key that differs, or the first tensors that are missing.
    """
    for key, (value, initial) in differences.items():
        raise ConfigError(
            f"freeze: outer keeps {folder.path} as it is, where {key} is {initial}; "
            f"here it is {value}"
        )

    if missing:
        names = ", ".join(missing[:3])
        raise ConfigError(
            f"init_from: {folder.path} does not fit this outer model and codec: {names}"
        )


def _differences(recipe: Recipe, folder: RunFolder) -> dict[str, tuple[Any, Any]]:
    """Return the compared keys of codec and outer model whose values differ: here, initially."""
    values = _compared_keys(recipe)
    initial = _compared_keys(parse_recipe(read_recipe(folder.path / "config.yaml")))

    differences = {}
    for key in {**values, **initial}:
        pair = (values.get(key), initial.get(key))
        if pair[0] != pair[1]:
            differences[key] = pair
    return differences


def _compared_keys(recipe: Recipe) -> dict[str, Any]:
    """Return codec and outer model by dotted key, without `_NOT_COMPARED`."""
    plain = to_plain(recipe)
    values = flatten({"codec": plain["codec"], "outer": plain["outer"]})
    return {key: value for key, value in values.items() if key not in _NOT_COMPARED}


def load_initial_weights(recipe: Recipe, experiment: Experiment) -> list[str]:
    """Copy `matching_weights` into the experiment, and return their names."""
    tensors = matching_weights(recipe, experiment)
    try:
        _modules(experiment).load_state_dict(tensors, strict=False)
    except RuntimeError as error:  # of another autoencoder
        raise ConfigError(f"init_from: {' '.join(str(error).split())[:200]}") from None
    return list(tensors)


def _modules(experiment: Experiment) -> torch.nn.Module:
    return torch.nn.ModuleDict({"codec": experiment.codec, "model": experiment.model})


@dataclass(frozen=True)
class FrozenOuterCache:
    """Conditions of a frozen outer model for the batches of the first steps, used in turn.

    Arguments:
        batches: For each step: z [B, m, E], their tokens [B, m, D], the tokens' places [B, m]
            and the images' indices [B].
    """

    batches: list[tuple[Tensor, Tensor, Tensor, Tensor]]

    def at(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.batches[step % len(self.batches)]


@torch.no_grad()
def cache_frozen_outer(
    recipe: Recipe, experiment: Experiment, device: torch.device
) -> FrozenOuterCache | None:
    """Compute z for `PASSES` passes over the data; None if it exceeds `MAX_CACHE_BYTES`."""
    t = recipe.training
    codec = experiment.codec
    model = experiment.model.eval()
    data = BatchDataset(experiment.source.train, experiment.source.flip)
    loader = ResumableLoader(data, t.batch, recipe.data_seed)

    steps = min(t.steps, PASSES * len(loader))
    step_bytes = 4 * t.batch * codec.tokens * (model.outer.context + codec.features)
    if steps * step_bytes > MAX_CACHE_BYTES:
        return None

    epochs = itertools.chain.from_iterable(itertools.repeat(loader))  # each pass has another order
    batches: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for step, batch in enumerate(itertools.islice(epochs, steps)):
        image, y, index = (part.to(device) for part in batch)
        noise = training_noise(recipe.noise_seed, step, index)
        data_noise = training_noise(recipe.data_seed, step, index)

        x, _ = codec.encode(image, data_noise.at(Stream.CODEC))
        z, where = model.conditions(x, y, noise.at(Stream.MODEL))
        batches.append((z, take(x, where), where, index))

    model.train()
    return FrozenOuterCache(batches)
