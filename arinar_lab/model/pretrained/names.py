"""The published checkpoints in our names.

    parameter_names(model)         published key → our key, complete in both directions, for a model
                                   built by a preset
    translate_state(state, model)  a published state dict → ours

The published models: ARINAR (arXiv 2503.02883) and MAR (arXiv 2406.11838) share their outer model.
The presets set the options in which their code differs (`softmax_scale`, `gelu`, `k_bias`,
`temperature_divides`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..arinar import Arinar
from ..heads.diffusion import Diffusion
from ..heads.mixture import GMM
from ..inner.feature_ar import FeatureAR
from ..inner.head import Head
from ..inner.trunks import Transformer
from ..layers import LearnedVectors
from ..outer import MaskedAR, MaskedStack
from .fractal_names import fractalmar_names
from .pairs import transformer_blocks, weight_and_bias


def _outer(outer: MaskedAR) -> dict[str, str]:
    names = {
        "fake_latent": "labels.nothing.weight",
        "class_emb.weight": "labels.classes.weight",
        "mask_token": "outer.mask.weight",
        "encoder_pos_embed_learned": "outer.encoder_positions.weight",
        "decoder_pos_embed_learned": "outer.decoder_positions.weight",
        "diffusion_pos_embed_learned": "outer.output_positions.weight",
    }
    parts = {
        "z_proj": "token_of",
        "z_proj_ln": "input_norm",
        "encoder_norm": "encoder_norm",
        "decoder_embed": "embed",
        "decoder_norm": "decoder_norm",
    }
    for published, our in parts.items():
        names |= weight_and_bias(published, f"outer.{our}")

    names |= transformer_blocks(outer.encoder, "encoder_blocks", "outer.encoder")
    return names | transformer_blocks(outer.decoder, "decoder_blocks", "outer.decoder")


def _feature_ar(trunk: Transformer) -> dict[str, str]:
    names = {
        "arhead.start_token": "inner.trunk.start.weight",
        "arhead.pos_embedding": "inner.trunk.positions.weight",
        **weight_and_bias("arhead.input_proj", "inner.trunk.group_of"),
        **weight_and_bias("arhead.cond_proj", "inner.trunk.start_of"),
        **weight_and_bias("arhead.head_nm.ada_lin.1", "inner.trunk.adapt.1"),
        **weight_and_bias("arhead.head", "inner.head.parameters_of"),
    }
    for i in range(len(trunk.blocks)):
        published = f"arhead.blocks.{i}"
        our = f"inner.trunk.blocks.{i}"
        names |= {
            f"{published}.attn.mat_qkv.weight": f"{our}.attention.qkv.weight",
            f"{published}.attn.q_bias": f"{our}.attention.q_bias",
            f"{published}.attn.v_bias": f"{our}.attention.v_bias",
            **weight_and_bias(f"{published}.attn.proj", f"{our}.attention.project"),
            **weight_and_bias(f"{published}.ffn.fc1", f"{our}.feed_forward.0"),
            **weight_and_bias(f"{published}.ffn.fc2", f"{our}.feed_forward.2"),
            **weight_and_bias(f"{published}.ada_lin.1", f"{our}.adapt.1"),
        }

    return names


def mar_head_names(depth: int) -> dict[str, str]:
    """MAR's diffusion head of `depth` blocks: published key → key of `Diffusion`."""
    parts = {
        "time_embed.mlp.0": "time.0",
        "time_embed.mlp.2": "time.2",
        "cond_embed": "condition",
        "input_proj": "input",
        "final_layer.linear": "output",
        "final_layer.adaLN_modulation.1": "adapt.1",
    }
    for i in range(depth):
        parts[f"res_blocks.{i}.in_ln"] = f"blocks.{i}.norm"
        parts[f"res_blocks.{i}.mlp.0"] = f"blocks.{i}.mlp.0"
        parts[f"res_blocks.{i}.mlp.2"] = f"blocks.{i}.mlp.2"
        parts[f"res_blocks.{i}.adaLN_modulation.1"] = f"blocks.{i}.adapt.1"

    names: dict[str, str] = {}
    for published, our in parts.items():
        names |= weight_and_bias(f"diffloss.net.{published}", f"network.{our}")

    return names


def _inner(inner: Head) -> dict[str, str]:
    if (
        isinstance(inner, FeatureAR)
        and isinstance(inner.head, GMM)
        and isinstance(inner.trunk, Transformer)
    ):
        if inner.group > 1 and inner.head.components > 1:
            raise ValueError(
                f"inner.group: {inner.group}, and the published code orders the means of a group "
                "otherwise; use 1"
            )
        return _feature_ar(inner.trunk)

    if isinstance(inner, Diffusion):
        names = mar_head_names(len(inner.network.blocks))
        return {published: f"inner.{our}" for published, our in names.items()}

    raise ValueError(f"inner: no published checkpoint has a {type(inner).__name__} like this")


def parameter_names(model: Arinar) -> dict[str, str]:
    """Published key → our key for every trained parameter.

    Raises:
        ValueError: if no published model is built like this one.
    """
    if isinstance(model.outer, MaskedStack):
        return fractalmar_names(model)
    if not isinstance(model.outer, MaskedAR):
        raise ValueError(f"outer: no published checkpoint has a {type(model.outer).__name__}")
    if not isinstance(model.outer.encoder_positions, LearnedVectors):
        raise ValueError("outer.positions: the published checkpoints have learned ones")
    return _outer(model.outer) | _inner(model.inner)


def translate_state(state: Mapping[str, Tensor], model: Arinar) -> dict[str, Tensor]:
    """A published state dict as ours: tensors in the shapes of our parameters, and our buffers.

    Axes of length one do not count: the published positions are [1, n, W], ours [n, W]. Buffers of
    constant zeros (`zero_k_bias`) have no counterpart.

    Raises:
        ValueError: with the first keys that are missing, left over, of another shape or not finite,
            or the first of our parameters without a published key.
    """
    names = parameter_names(model)
    _check_keys(state, names, model)

    result = model.state_dict()
    wrong: list[str] = []
    for key, our in names.items():
        shape = result[our].shape
        if state[key].squeeze().shape != result[our].squeeze().shape:
            wrong.append(f"{key} {tuple(state[key].shape)} for {tuple(shape)}")
        else:
            result[our] = state[key].reshape(shape).to(torch.float32)

    if wrong:
        raise ValueError(f"the checkpoint does not fit the preset: {_first(wrong)}")
    return result


def _check_keys(state: Mapping[str, Tensor], names: dict[str, str], model: Arinar) -> None:
    """Refuse a published state dict whose keys are not those of `names`.

    Raises:
        ValueError: with the first of them.
    """
    strange = [key for key, value in state.items() if not _is_dense(value)]
    if strange:
        raise ValueError(
            f"the checkpoint holds what are no arrays of finite real numbers: {_first(strange)}"
        )

    parameters = model.state_dict()
    zeros = {key for key in state if key.endswith("zero_k_bias") and not state[key].any()}
    expected = names.keys() | zeros
    faults = {
        "lacks": [key for key in names if key not in state],
        "has, and the preset does not know,": [key for key in state if key not in expected],
        "has, and this model leaves out,": [
            key for key, our in names.items() if our not in parameters
        ],
        "has nothing for this model's": [
            name for name, _ in model.named_parameters() if name not in names.values()
        ],
    }
    for fault, keys in faults.items():
        if keys:
            raise ValueError(f"the checkpoint {fault} {_first(keys)}")


def _is_dense(value: object) -> bool:
    """Whether a value is a plain tensor of finite numbers."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_complex():
        return False
    return bool(value.isfinite().all())


def _first(items: list[str]) -> str:
    """The first three of some items, and the number of the others."""
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return f"{', '.join(map(str, items[:3]))}{more}"
