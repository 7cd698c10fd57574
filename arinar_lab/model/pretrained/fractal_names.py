"""The published FractalMAR checkpoints (arXiv 2502.17437) in our names.

    fractalmar_names(model)      published key → our key, complete in both directions, for a
                                 model built by the preset

The released code keeps a level's parts under `generator` and the next level under `next_fractal`;
our levels are the pair at the top and one `Nested` inside another.
"""

from __future__ import annotations

from ..arinar import Arinar
from ..heads.colour import ColourAR
from ..heads.nested import Nested
from ..outer import MaskedStack
from .pairs import transformer_blocks, weight_and_bias

_COLOURS = "rgb"


def _level(outer: MaskedStack, published: str, our: str) -> dict[str, str]:
    """The masked model of a level without the map of its condition rows."""
    return {
        f"{published}.mask_token": f"{our}.mask.weight",
        f"{published}.pos_embed_learned": f"{our}.positions.weight",
        **weight_and_bias(f"{published}.patch_emb", f"{our}.token_of"),
        **weight_and_bias(f"{published}.patch_emb_ln", f"{our}.input_norm"),
        **weight_and_bias(f"{published}.norm", f"{our}.norm"),
        **transformer_blocks(outer.blocks, f"{published}.blocks", f"{our}.blocks"),
    }


def _colour(head: ColourAR, published: str, our: str) -> dict[str, str]:
    names = {
        **weight_and_bias(f"{published}.cond_proj", f"{our}.trunk.start_of"),
        **weight_and_bias(f"{published}.ln", f"{our}.trunk.input_norm"),
        **weight_and_bias(f"{published}.norm", f"{our}.trunk.norm"),
        **transformer_blocks(head.trunk.blocks, f"{published}.blocks", f"{our}.trunk.blocks"),
    }
    for f, colour in enumerate(_COLOURS):
        names[f"{published}.{colour}_codebook.weight"] = f"{our}.trunk.codebooks.{f}.weight"
        names[f"{published}.{colour}_mlm.bias"] = f"{our}.trunk.codebooks.{f}.bias"

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
    outer = model.outer
    inner = model.inner
    published = ""
    our = ""
    while isinstance(outer, MaskedStack):
        names |= _level(outer, f"{published}generator", f"{our}outer")
        published += "next_fractal."
        our += "inner."
        if isinstance(inner, ColourAR):
            return names | _colour(inner, published[:-1], our[:-1])
        if not isinstance(inner, Nested):
            break

        names |= weight_and_bias(f"{published}generator.cond_emb", f"{our}row_of")
        if inner.guide is not None:
            names |= weight_and_bias(f"{published}generator.pix_proj", f"{our}guide_of")
            names |= _colour(inner.guide, f"{published}generator.guiding_pixel_loss", f"{our}guide")
        outer = inner.outer
        inner = inner.inner

    raise ValueError(
        f"{our or 'outer'}: no published checkpoint has a {type(inner).__name__} like this"
    )
