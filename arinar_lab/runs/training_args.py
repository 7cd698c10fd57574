"""The settings that a published checkpoint was trained with, as its own `args` name them.

Shapes tell most of a model. `args` tell what shapes do not: attention heads, by the name of the
model; the image size, the autoencoder's stride and the patch size; the steps of a diffusion. A
recipe that contradicts them is refused. Settings of training alone (dropout, masking, learning
rate) change nothing that a checkpoint computes, and are not read.
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
"""Width and attention heads of each level of the published models, by the name
that `args.model` has.
"""


def check_arguments(arguments: object, recipe: Recipe) -> list[str]:
    """The recipe's keys of attention heads that the arguments confirm; none where they
    name no published model.

    Raises:
        ConfigError: if a setting of the recipe contradicts the arguments, naming both.
    """
    values = vars(arguments) if isinstance(arguments, argparse.Namespace) else arguments
    if not isinstance(values, dict):
        return []
    plain = flatten(to_plain(recipe))

    for name, key, own in _counterparts(plain):
        value = values.get(name)
        if isinstance(value, int | float | str) and str(value) != str(own):
            advice = (
                f"; add {key}={value}, or name another preset"
                if key in plain
                else "; no recipe of ours has that"
            )
            raise ConfigError(
                f"was trained with {name}={value}, and the recipe has {key}={own}{advice}"
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
    """(argument, key of the recipe or a word for it, its value there) for what both have."""
    pairs: list[tuple[str, str, Any]] = []
    if plain.get("codec.kind") in ("kl", "latents"):
        pairs += [("patch_size", "latents in a token", 1)]
    if plain.get("codec.kind") == "kl":
        pairs += [
            ("vae_stride", "stride of codec.layout", LAYOUTS[plain["codec.layout"]].shape.stride)
        ]

    if plain.get("codec.kind") in ("kl", "pixels"):
        pairs += [("img_size", "data.size", plain["data.size"])]
    if plain.get("inner.kind") == "diffusion":
        pairs += [("num_sampling_steps", "inner.sampling_steps", plain["inner.sampling_steps"])]

    return pairs


def _heads(name: str, plain: dict[str, Any]) -> dict[str, int]:
    """The heads of each level by the recipe's key, where the recipe has the widths of
    the model of that name.
    """
    levels, inner = ["outer"], "inner"
    while plain.get(f"{inner}.kind") == "nested":
        levels, inner = [*levels, f"{inner}.outer"], f"{inner}.inner"
    if plain.get(f"{inner}.kind") == "colour":
        levels = [*levels, inner]

    published = _MODELS.get(name, [])
    if [plain.get(f"{level}.width") for level in levels] != [width for width, _ in published]:
        return {}
    return {f"{level}.heads": heads for level, (_, heads) in zip(levels, published, strict=True)}
