"""The published FractalMAR checkpoints (arXiv 2502.17437) in our names.

    fractalmar_names(model)      published key → our key, complete in both directions, for a
                                 model built by the preset

The released code keeps a level's parts under `generator`, and what is below it under
`next_fractal`; our levels are the pair at the top, and `Nested` after `Nested` in it.
"""

from __future__ import annotations

from ..arinar import Arinar
from ..heads.colour import ColourAR
from ..heads.nested import Nested
from ..outer import MaskedStack
from .pairs import transformer_blocks, weight_and_bias

_COLOURS = "rgb"


def _level(outer: MaskedStack, theirs: str, ours: str) -> dict[str, str]:
    """The masked model of a level: all but the map of its condition rows."""
    return {
        f"{theirs}.mask_token": f"{ours}.mask.weight",
        f"{theirs}.pos_embed_learned": f"{ours}.positions.weight",
        **weight_and_bias(f"{theirs}.patch_emb", f"{ours}.token_of"),
        **weight_and_bias(f"{theirs}.patch_emb_ln", f"{ours}.input_norm"),
        **weight_and_bias(f"{theirs}.norm", f"{ours}.norm"),
        **transformer_blocks(outer.blocks, f"{theirs}.blocks", f"{ours}.blocks"),
    }


def _colour(head: ColourAR, theirs: str, ours: str) -> dict[str, str]:
    names = {
        **weight_and_bias(f"{theirs}.cond_proj", f"{ours}.trunk.start_of"),
        **weight_and_bias(f"{theirs}.ln", f"{ours}.trunk.input_norm"),
        **weight_and_bias(f"{theirs}.norm", f"{ours}.trunk.norm"),
        **transformer_blocks(head.trunk.blocks, f"{theirs}.blocks", f"{ours}.trunk.blocks"),
    }
    for f, colour in enumerate(_COLOURS):
        names[f"{theirs}.{colour}_codebook.weight"] = f"{ours}.trunk.codebooks.{f}.weight"
        names[f"{theirs}.{colour}_mlm.bias"] = f"{ours}.trunk.codebooks.{f}.bias"

    return names


def fractalmar_names(model: Arinar) -> dict[str, str]:
    """Published key → our key for every trained parameter.

    Raises:
        ValueError: if the model is not built like FractalMAR.
    """
    names = {
        "fake_latent": "labels.nothing.weight",
        "class_emb.weight": "labels.classes.weight",
        **weight_and_bias("generator.cond_emb", "outer.row_of"),
    }
    outer, inner, theirs, ours = model.outer, model.inner, "", ""
    while isinstance(outer, MaskedStack):
        names |= _level(outer, f"{theirs}generator", f"{ours}outer")
        theirs, ours = f"{theirs}next_fractal.", f"{ours}inner."
        if isinstance(inner, ColourAR):
            return names | _colour(inner, theirs[:-1], ours[:-1])
        if not isinstance(inner, Nested):
            break
        names |= weight_and_bias(f"{theirs}generator.cond_emb", f"{ours}row_of")
        if inner.guide is not None:
            names |= weight_and_bias(f"{theirs}generator.pix_proj", f"{ours}guide_of")
            names |= _colour(inner.guide, f"{theirs}generator.guiding_pixel_loss", f"{ours}guide")
        outer, inner = inner.outer, inner.inner

    raise ValueError(
        f"{ours or 'outer'}: no published checkpoint has a {type(inner).__name__} like this"
    )
