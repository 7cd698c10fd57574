"""Published keys and ours of what every published model is built of."""

from __future__ import annotations

from ..layers import Blocks

_BOTH = ("weight", "bias")


def weight_and_bias(published: str, ours: str) -> dict[str, str]:
    """A module with weight and bias."""
    return {f"{published}.{name}": f"{ours}.{name}" for name in _BOTH}


def transformer_blocks(blocks: Blocks, published: str, ours: str) -> dict[str, str]:
    """A stack of the Vision Transformer's blocks, as the timm library names them."""
    parts = {
        "norm1": "norm1",
        "attn.qkv": "attention.qkv",
        "attn.proj": "attention.project",
        "norm2": "norm2",
        "mlp.fc1": "feed_forward.0",
        "mlp.fc2": "feed_forward.2",
    }
    names: dict[str, str] = {}
    for i in range(len(blocks)):
        for theirs, our in parts.items():
            names |= weight_and_bias(f"{published}.{i}.{theirs}", f"{ours}.{i}.{our}")

    return names
