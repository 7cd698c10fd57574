"""The published checkpoints in our names.

    names(model)             published key → our key, complete in both directions, for a
                             model built by a preset
    translate(state, model)  a published state dict → ours

The published models: ARINAR (arXiv 2503.02883) and MAR (arXiv 2406.11838) share their outer model.
What their code computes beyond the names is an option of our parts (`softmax_scale`, `gelu`,
`k_bias`, `temperature_divides`), set by the presets.
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
    for theirs, our in {
        "z_proj": "token_of",
        "z_proj_ln": "input_norm",
        "encoder_norm": "encoder_norm",
        "decoder_embed": "embed",
        "decoder_norm": "decoder_norm",
    }.items():
        names |= weight_and_bias(theirs, f"outer.{our}")

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
        theirs, ours = f"arhead.blocks.{i}", f"inner.trunk.blocks.{i}"
        names |= {
            f"{theirs}.attn.mat_qkv.weight": f"{ours}.attention.qkv.weight",
            f"{theirs}.attn.q_bias": f"{ours}.attention.q_bias",
            f"{theirs}.attn.v_bias": f"{ours}.attention.v_bias",
            **weight_and_bias(f"{theirs}.attn.proj", f"{ours}.attention.project"),
            **weight_and_bias(f"{theirs}.ffn.fc1", f"{ours}.feed_forward.0"),
            **weight_and_bias(f"{theirs}.ffn.fc2", f"{ours}.feed_forward.2"),
            **weight_and_bias(f"{theirs}.ada_lin.1", f"{ours}.adapt.1"),
        }

    return names


def mar_head_names(depth: int) -> dict[str, str]:
    """MAR's diffusion head of `depth` blocks: published key → key of `Diffusion`."""
    theirs, ours = "diffloss.net", "network"
    parts = {
        "time_embed.mlp.0": "time.0",
        "time_embed.mlp.2": "time.2",
        "cond_embed": "condition",
        "input_proj": "input",
        "final_layer.linear": "output",
        "final_layer.adaLN_modulation.1": "adapt.1",
    }
    for i in range(depth):
        for part, our in {
            "in_ln": "norm",
            "mlp.0": "mlp.0",
            "mlp.2": "mlp.2",
            "adaLN_modulation.1": "adapt.1",
        }.items():
            parts[f"res_blocks.{i}.{part}"] = f"blocks.{i}.{our}"

    return {
        k: v
        for part, our in parts.items()
        for k, v in weight_and_bias(f"{theirs}.{part}", f"{ours}.{our}").items()
    }


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
        return {
            theirs: f"inner.{ours}"
            for theirs, ours in mar_head_names(len(inner.network.blocks)).items()
        }

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
    """A published state dict as ours, every tensor in the shape of our parameter; our
    buffers keep their values.

    Axes of length one do not count: the published positions are [1, n, W], ours [n, W]. Buffers of
    constant zeros (`zero_k_bias`) have no counterpart.

    Raises:
        ValueError: naming the first keys that are missing, left over, of another shape or not
            finite; or parameters of ours that no published key stands for.
    """
    strange = [key for key, value in state.items() if not _is_dense(value)]
    if strange:
        raise ValueError(
            f"the checkpoint holds what are no arrays of finite real numbers: {_first(strange)}"
        )

    known, ours = parameter_names(model), model.state_dict()
    zeros = {key for key in state if key.endswith("zero_k_bias") and not state[key].any()}

    missing = [key for key in known if key not in state]
    extra = [key for key in state if key not in known and key not in zeros]
    absent = [key for key, our in known.items() if our not in ours]
    alone = [name for name, _ in model.named_parameters() if name not in known.values()]
    for what, keys in (
        ("lacks", missing),
        ("has, and the preset does not know,", extra),
        ("has, and this model leaves out,", absent),
        ("has nothing for this model's", alone),
    ):
        if keys:
            raise ValueError(f"the checkpoint {what} {_first(keys)}")

    wrong = [key for key, our in known.items() if _squeezed(state[key]) != _squeezed(ours[our])]
    if wrong:
        told = ", ".join(
            f"{key} {tuple(state[key].shape)} for {tuple(ours[known[key]].shape)}"
            for key in wrong[:3]
        )
        raise ValueError(f"the checkpoint does not fit the preset: {told}{_more(wrong)}")

    return {
        **ours,
        **{
            our: state[key].reshape(ours[our].shape).to(torch.float32) for key, our in known.items()
        },
    }


def _squeezed(x: Tensor) -> tuple[int, ...]:
    return tuple(n for n in x.shape if n > 1)


def _is_dense(value: object) -> bool:
    """Whether a value is a plain tensor of finite numbers."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_complex():
        return False
    return bool(value.isfinite().all())


def _first(keys: list[str]) -> str:
    return f"{', '.join(map(str, keys[:3]))}{_more(keys)}"


def _more(keys: list[str]) -> str:
    return f" and {len(keys) - 3} more" if len(keys) > 3 else ""
