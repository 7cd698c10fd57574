"""Published KL autoencoders: their layouts, and their files in two formats as a `KLAutoencoder`.

    read_kl(path)            a folder of the diffusers library (config.json,
                             diffusion_pytorch_model.safetensors), or a checkpoint of the released
                             code (`kl16.ckpt`; also as safetensors), whose names are ours
    diffusers_names(model)   diffusers' key → our key, complete in both directions

A checkpoint may hold its tensors under `model` or `state_dict`; losses and discriminators in it are
ignored.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..weight_files import read_safetensors, read_torch
from .kl_autoencoder import GROUPS, AutoencoderShape, KLAutoencoder


@dataclass(frozen=True)
class Layout:
    """A published autoencoder.

    Arguments:
        shape: Architecture.
        scale: Factor of its latents.
    """

    shape: AutoencoderShape
    scale: float


_FIVE = (128, 128, 256, 256, 512)
LAYOUTS: dict[str, Layout] = {
    # MAR's, arXiv 2406.11838
    "kl16": Layout(AutoencoderShape(16, _FIVE, encoder_attention=frozenset({4})), 0.2325),
    # Stable Diffusion's, arXiv 2112.10752
    "sd": Layout(AutoencoderShape(4, (128, 256, 512, 512)), 0.18215),
    # VA-VAE, arXiv 2501.01423
    "f16d32": Layout(AutoencoderShape(32, _FIVE, encoder_attention=frozenset({4})), 1.0),
}

_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
_DIFFUSERS = "diffusion_pytorch_model.safetensors"
_NAMES = [
    (r"encoder\.down\.(\d+)\.", r"encoder.down_blocks.\1."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"\.block\.(\d+)\.", r".resnets.\1."),
    (r"\.attn\.(\d+)\.", r".attentions.\1."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.downsample\.", ".downsamplers.0."),
    (r"\.upsample\.", ".upsamplers.0."),
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.([qkv])\.", r"\1.to_\2."),
    (r"(attentions\.\d+)\.proj_out\.", r"\1.to_out.0."),
]
_FORMER = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Names of attention's maps in older files of diffusers → today's."""


def diffusers_names(model: KLAutoencoder) -> dict[str, str]:
    """The diffusers library's key → our key for every parameter.

    Level 0 of diffusers' decoder is that of the latents.
    """
    last = len(model.shape.widths) - 1

    def up_block(match: re.Match[str]) -> str:
        return f"decoder.up_blocks.{last - int(match[1])}."

    def published(name: str) -> str:
        name = re.sub(r"decoder\.up\.(\d+)\.", up_block, name)
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        return name

    return {published(name): name for name in model.state_dict()}


def diffusers_shape(config: Mapping[str, Any]) -> AutoencoderShape:
    """The shape that a config.json of diffusers describes.

    Raises:
        ValueError: if it is not that of a `KLAutoencoder`.
    """
    supported = {
        "_class_name": "AutoencoderKL",
        "in_channels": 3,
        "out_channels": 3,
        "norm_num_groups": GROUPS,
        "act_fn": "silu",
        "mid_block_add_attention": True,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
        "shift_factor": None,
        "latents_mean": None,
        "latents_std": None,
    }
    refused: list[str] = []
    for key, value in supported.items():
        if config.get(key, value) != value:
            refused.append(f"{key} {config[key]!r}")
    if refused:
        raise ValueError(f"config.json says {', '.join(refused)}, which this autoencoder is not")

    try:
        return AutoencoderShape(
            int(config["latent_channels"]),
            tuple(map(int, config["block_out_channels"])),
            int(config["layers_per_block"]),
            _attention_levels(config["down_block_types"]),
            _attention_levels(config["up_block_types"][::-1]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"config.json describes no AutoencoderKL ({type(error).__name__}: {error})"
        ) from None


def _attention_levels(block_types: list[str]) -> frozenset[int]:
    return frozenset(i for i, kind in enumerate(block_types) if kind.startswith("Attn"))


def read_kl(path: Path) -> KLAutoencoder:
    """The autoencoder of a diffusers folder or a released checkpoint, on the CPU, in float32.

    Raises:
        ValueError: in one line, if the file is missing, damaged, holds code, or does not fit.
    """
    if path.is_dir():
        return _read_diffusers(path)

    content = read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]

    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, no weights by name")
    state: dict[str, Tensor] = {}
    for key, value in content.items():
        if str(key).startswith(_PARTS) and isinstance(value, Tensor):
            state[key] = value
    try:
        return _filled(_empty(AutoencoderShape.of(state)), state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read_diffusers(folder: Path) -> KLAutoencoder:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder}: has no readable config.json, as a diffusers folder has ({error})"
        ) from None

    published = read_safetensors(folder / _DIFFUSERS)
    try:
        model = _empty(diffusers_shape(config))
        return _filled(model, _our_state(published, model))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def _our_state(published: Mapping[str, Tensor], model: KLAutoencoder) -> dict[str, Tensor]:
    """The tensors of a diffusers file by our keys."""
    names = diffusers_names(model)
    parameters = model.state_dict()
    state: dict[str, Tensor] = {}
    for key, value in published.items():
        for former, present in _FORMER.items():
            key = key.replace(former, present)
        name = names.get(key, key)
        if value.dim() == 2 and name in parameters and parameters[name].dim() == 4:
            value = value[..., None, None]  # a matrix of attention where we have a 1×1 convolution
        state[name] = value

    return state


def _empty(shape: AutoencoderShape) -> KLAutoencoder:
    """An autoencoder without values, which would be drawn from the global generator."""
    with torch.device("meta"):
        return KLAutoencoder(shape)


def _filled(model: KLAutoencoder, state: Mapping[str, Tensor]) -> KLAutoencoder:
    try:
        model.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    except RuntimeError as error:
        raise ValueError(f"does not fit: {' '.join(str(error).split())[:200]}") from None
    return model


def random_kl(shape: AutoencoderShape) -> KLAutoencoder:
    """An autoencoder of constant random weights. The global generator keeps its state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return KLAutoencoder(shape)


def weights_fingerprint(model: KLAutoencoder) -> Tensor:
    """64 bits of the SHA-256 of names and weights, which tell one autoencoder from another."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return torch.tensor(int.from_bytes(digest.digest()[:8], "big", signed=True))
