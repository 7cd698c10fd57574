"""Reads tests/data: small checkpoints in the published format, what the published code computes
with them, and the names and shapes of the large ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parent / "data"
MASKED_WIDTHS = [
    "outer.width=32",
    "outer.heads=2",
    "outer.encoder_depth=1",
    "outer.decoder_depth=2",
    "outer.prefix=8",
    "outer.steps=16",
]
ARINAR_WIDTHS = [*MASKED_WIDTHS, "inner.width=32", "inner.head.components=3"]
PIXEL = (
    "{kind: colour, width: 16, depth: 1, heads: 2, rows: 5, normalise: imagenet, first_weight: 5.0}"
)
FRACTAL_WIDTHS = [
    "codec.patch=4",
    "outer.width=32",
    "outer.depth=2",
    "outer.heads=2",
    "outer.steps=16",
    "inner.outer.width=24",
    "inner.outer.depth=1",
    "inner.outer.heads=2",
    "inner.guide.width=16",
    "inner.guide.depth=1",
    "inner.guide.heads=2",
    "inner.guide_weight=16.0",
    f"inner.inner={PIXEL}",
]


def read_checkpoint(file: str) -> dict[str, Any]:
    """What a small checkpoint holds: state dicts by name, and the arguments of its training."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(DATA / file, weights_only=True)


def read_tensors(file: str) -> dict[str, Tensor]:
    """The arrays of an npz by name."""
    return {name: torch.from_numpy(array) for name, array in np.load(DATA / file).items()}


def read_shapes(name: str, kind: str | None = None) -> dict[str, tuple[int, ...]]:
    """Key → shape of a published state dict, of one kind only: `param` or `buffer`."""
    shapes = {}
    for line in (DATA / f"{name}_state_dict.txt").read_text().splitlines():
        key, shape, _, kind_of_key = line.split("\t")
        if kind in (None, kind_of_key):
            shapes[key] = tuple(int(n) for n in shape.strip("()").split(",") if n.strip())
    return shapes
