"""DINOv2's vision transformer (arXiv 2304.07193), whose features FD-DINOv2 takes (2306.04675).

    image ─patches of 14×14, linear→ tokens; a class token before them; + positions
          ─ blocks ─ norm → the class token [B, W]
    block    x + γ₁ attention(norm(x)), then x + γ₂ mlp(norm(x));   heads of 64 features, exact GELU

torch-fidelity has this extractor, but downloads the network's code and runs it. Here it is built
from the published file of weights alone, read weights-only; the preprocessing of images (224×224 as
TensorFlow 1 resizes, ImageNet's mean and deviation) is torch-fidelity's. Parameters have the
published names.

Letters: B images, W width (1024 of ViT-L/14, which FD-DINOv2 takes), T tokens.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import torch_fidelity
from torch import Tensor, nn
from torch.nn import functional
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

from ..model.weight_files import read_torch

PATCH, HEAD, LARGE = 14, 64, 1024


class ScaledBlock(nn.Module):
    """Attention and a perceptron, each normalised before and scaled by γ: [B, T, W] → [B, T, W]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}
        )

        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}
        )
        self.ls1 = nn.ParameterDict({"gamma": torch.ones(width)})
        self.ls2 = nn.ParameterDict({"gamma": torch.ones(width)})

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.attn["qkv"](self.norm1(x)).unflatten(-1, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2)
        x = x + self.ls1["gamma"] * self.attn["proj"](mixed)

        hidden = functional.gelu(self.mlp["fc1"](self.norm2(x)))
        return x + self.ls2["gamma"] * self.mlp["fc2"](hidden)


class VisionTransformer(nn.Module):
    """Images [B, 3, H, H], normalised, → the class token's features [B, W]. H is a multiple of 14.

    Arguments:
        width: W.
        depth: Number of blocks.
        side: Side of the trained grid of positions (37: images of 518×518).
    """

    def __init__(self, width: int, depth: int, side: int) -> None:
        super().__init__()
        self.width = width
        self.side = side
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side**2, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, PATCH)})
        self.blocks = nn.ModuleList(ScaledBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def positions(self, side: int) -> Tensor:
        """Interpolate positions [1, 1 + side², W] as released: by a factor, not to a size."""
        if side == self.side:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (self.side, self.side))
        factor = (side + 0.1) / self.side
        resized = functional.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], resized.flatten(2).transpose(1, 2)], 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        positions = self.positions(x.shape[-1] // PATCH)
        x = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1) + positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


def read_dinov2(path: Path) -> VisionTransformer:
    """Read the network from a published file of weights, whose shapes determine it.

    Raises:
        ValueError: in one line, if the file is missing, damaged, holds code, or is none
            of a DINOv2 with patches of 14×14 and a plain perceptron (that is ViT-S, -B or
            -L, without registers).
    """
    content = read_torch(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, no weights by name")

    state = {str(name): value for name, value in content.items()}
    state.pop("mask_token", None)  # of training alone
    try:
        positions, width = state["pos_embed"].shape[1:]
        depth = 1 + max(map(int, re.findall(r"^blocks\.(\d+)\.", "\n".join(state), re.MULTILINE)))
    except (KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: holds no DINOv2 ({error})") from None

    model = VisionTransformer(width, depth, int((positions - 1) ** 0.5))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"{path}: holds no such DINOv2 ({reason})") from None

    return model


class DINOv2(FeatureExtractorDinoV2):
    """torch-fidelity's extractor with the network from a local file."""

    def __init__(
        self,
        name: str,
        features_list: list[str],
        feature_extractor_weights_path: Any,
        **ignored: Any,
    ) -> None:
        FeatureExtractorBase.__init__(self, name, features_list)
        self.feature_extractor_internal_dtype = torch.float32
        self.model = read_dinov2(Path(feature_extractor_weights_path))
        self.requires_grad_(False).eval()


torch_fidelity.register_feature_extractor("dinov2", DINOv2)
