"""Scales of the published models' initial weights, where they differ from `model/layers.py`.

    Vectors: positions, classes, masks, codebooks                           normal, 0.02
    ARINAR's inner transformer: its linear maps                             normal, 0.02
        behind attention, and the last of feed-forward, of L blocks         0.02 / √(2L)
        read from z: scales and shifts                                      0.02 · 0.5
        read from z: gates                                                  0.02 · 1e-5
        the density's parameters                                            0.02 · 0.02
    MAR's diffusion head: the maps of the time                              normal, 0.02

All other linear maps start Xavier-uniform and every bias at zero, as in the published models. The
release truncates ARINAR's normal numbers at ±2, a hundred deviations away.
"""

from __future__ import annotations

import zlib

import torch
from torch import nn

from ..arinar import Arinar
from ..heads.diffusion import Diffusion
from ..inner.feature_ar import FeatureAR
from ..inner.trunks import Transformer
from ..layers import LearnedVectors

_STD, _GAINS, _GATES, _HEAD = 0.02, 0.5, 1e-5, 0.02


def published_stds(model: Arinar) -> dict[str, float]:
    """Standard deviations of the parameters that the published models draw from a normal."""
    stds: dict[str, float] = {}
    for name, part in model.named_modules():
        if isinstance(part, LearnedVectors):
            stds[f"{name}.weight"] = _STD

    inner = model.inner
    if isinstance(inner, FeatureAR) and isinstance(inner.trunk, Transformer):
        last = (".attention.project", ".feed_forward.2")
        depth = len(inner.trunk.blocks)
        for name, part in inner.named_modules():
            if not isinstance(part, nn.Linear):
                continue
            std = _STD * (2 * depth) ** -0.5 if name.endswith(last) else _STD
            std *= _GAINS if name.endswith("adapt.1") else 1.0
            std *= _HEAD if name.startswith("head.") else 1.0
            stds[f"inner.{name}.weight"] = std
    elif isinstance(inner, Diffusion):
        stds["inner.network.time.0.weight"] = _STD
        stds["inner.network.time.2.weight"] = _STD

    return stds


@torch.no_grad()
def initialise_as_published(model: Arinar, seed: int) -> None:
    """Draw the parameters of `published_stds`, each from a generator of the seed and its name.

    On the device `meta` nothing is drawn.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        return

    parameters = dict(model.named_parameters())
    for name, std in published_stds(model).items():
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
        parameters[name].copy_(std * torch.randn(parameters[name].shape, generator=generator))

    if isinstance(model.inner, FeatureAR) and isinstance(model.inner.trunk, Transformer):
        for name, weight in model.inner.trunk.blocks.named_parameters():
            # the gates of attention and of feed-forward come first
            if name.endswith("adapt.1.weight"):
                weight[: len(weight) // 3] *= _GATES / _GAINS
