"""The settings that a published checkpoint was trained with, as its own `args` name them.

Most of a model follows from the shapes of its weights. `args` hold the other settings: attention
heads, by the name of the model; image size, stride of the autoencoder and patch size; steps of a
diffusion. A recipe that contradicts them is refused. Settings of training alone (dropout, masking,
learning rate) change no output of a checkpoint, and are not read.
"""

from __future__ import annotations

import argparse
from typing import Any

from ..config.schema import flatten, to_plain
from ..config.sections import Recipe
from ..errors import ConfigError
from ..model.codecs.kl_checkpoints import LAYOUTS

_MODELS = {
    "mar_base": [(768, 12)],
    "mar_large": [(1024, 16)],
    "mar_huge": [(1280, 16)],
    "fractalmar_in64": [(1024, 16), (512, 8), (128, 4)],
    "fractalmar_base_in256": [(768, 12), (384, 6), (192, 3), (64, 4)],
    "fractalmar_large_in256": [(1024, 16), (512, 8), (256, 4), (64, 4)],
    "fractalmar_huge_in256": [(1280, 16), (640, 8), (320, 4), (64, 4)],
}
"""`args.model` of a published model → width and attention heads of each level."""


def check_arguments(arguments: object, recipe: Recipe) -> list[str]:
    """Return the recipe's keys of attention heads that the arguments of a published model confirm.

    Raises:
        ConfigError: if a setting of the recipe contradicts the arguments, naming both.
    """
    values = vars(arguments) if isinstance(arguments, argparse.Namespace) else arguments
    if not isinstance(values, dict):
        return []

    plain = flatten(to_plain(recipe))
    for name, key, setting in _counterparts(plain):
        value = values.get(name)
        if isinstance(value, int | float | str) and str(value) != str(setting):
            advice = "no recipe of ours has that"
            if key in plain:
                advice = f"add {key}={value}, or name another preset"
            raise ConfigError(
                f"was trained with {name}={value}, and the recipe has {key}={setting}; {advice}"
            )

    heads = _heads(str(values.get("model")), plain)
    for key, number in heads.items():
        if plain[key] != number:
            raise ConfigError(
                f"was trained as {values['model']}, which has {number} attention heads where the"
                f" recipe has {key}={plain[key]}; add {key}={number}"
            )
    return list(heads)


def _counterparts(plain: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """List (argument, key of the recipe or a description, its value) of settings that both have."""
    codec = plain.get("codec.kind")
    settings: list[tuple[str, str, Any]] = []
    if codec in ("kl", "latents"):
        settings.append(("patch_size", "latents in a token", 1))
    if codec == "kl":
        stride = LAYOUTS[plain["codec.layout"]].shape.stride
        settings.append(("vae_stride", "stride of codec.layout", stride))
    if codec in ("kl", "pixels"):
        settings.append(("img_size", "data.size", plain["data.size"]))
    if plain.get("inner.kind") == "diffusion":
        steps = plain["inner.sampling_steps"]
        settings.append(("num_sampling_steps", "inner.sampling_steps", steps))

    return settings


def _heads(name: str, plain: dict[str, Any]) -> dict[str, int]:
    """Return the published heads of each level by key, if the recipe has the published widths."""
    levels = ["outer"]
    inner = "inner"
    while plain.get(f"{inner}.kind") == "nested":
        levels.append(f"{inner}.outer")
        inner = f"{inner}.inner"
    if plain.get(f"{inner}.kind") == "colour":
        levels.append(inner)

    published = _MODELS.get(name, [])
    if len(levels) != len(published):
        return {}
    heads = {}
    for level, (width, number) in zip(levels, published, strict=True):
        if plain.get(f"{level}.width") != width:
            return {}
        heads[f"{level}.heads"] = number
    return heads
