"""Published keys and ours of the parts that all published models share."""

from __future__ import annotations

from ..layers import Blocks


def weight_and_bias(published: str, our: str) -> dict[str, str]:
    """A module with weight and bias."""
    return {f"{published}.weight": f"{our}.weight", f"{published}.bias": f"{our}.bias"}


def transformer_blocks(blocks: Blocks, published: str, our: str) -> dict[str, str]:
    """A stack of the Vision Transformer's blocks, published in the timm library's names."""
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
        for published_part, our_part in parts.items():
            names |= weight_and_bias(f"{published}.{i}.{published_part}", f"{our}.{i}.{our_part}")

    return names
