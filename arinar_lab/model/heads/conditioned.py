"""The network of diffusion, flow and energy heads: an MLP conditioned on z, and on a time,
by adaptive LayerNorm.

    y = time(t) + condition(z)
    h = input(x);   h += gate(y) · mlp(norm(h)·(1 + scale(y)) + shift(y)), for each block
    out = output(norm(h)·(1 + scale(y)) + shift(y))

Letters: * batch, I inputs, O outputs, E width of z, W width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..layers import Linear, ZeroLinear, layer, modulate

_FREQUENCIES, _PERIOD = 128, 10_000.0


def embed_time(t: Tensor, dtype: torch.dtype) -> Tensor:
    """Cosines and sines of t [*] at 128 frequencies from 1 down to 1/10,000: [*, 256]."""
    precise = torch.promote_types(dtype, torch.float32)
    steps = torch.arange(_FREQUENCIES, dtype=precise, device=t.device)
    angle = t.to(precise).unsqueeze(-1) * torch.exp(-math.log(_PERIOD) * steps / _FREQUENCIES)
    return torch.cat([angle.cos(), angle.sin()], -1).to(dtype)


def _time_network(width: int) -> nn.Sequential:
    return nn.Sequential(Linear(2 * _FREQUENCIES, width), nn.SiLU(), Linear(width, width))


class ConditionedBlock(nn.Module):
    """Residual block x += gate · mlp(norm(x)·(1 + scale) + shift); shift, scale and gate are a
    linear map of SiLU(y).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = layer(width, True)
        self.mlp = nn.Sequential(Linear(width, width), nn.SiLU(), Linear(width, width))
        self.adapt = nn.Sequential(nn.SiLU(), ZeroLinear(width, 3 * width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x, y [*, W] → [*, W]."""
        shift, scale, gate = self.adapt(y).chunk(3, -1)
        return torch.addcmul(x, gate, self.mlp(modulate(self.norm(x), 1 + scale, shift)))


class ConditionedMLP(nn.Module):
    """Residual MLP conditioned on z and, if `timed`, on a time (network of MAR, arXiv 2406.11838).

    Arguments:
        context: E.
        inputs: I.
        outputs: O.
        width: W.
        depth: Blocks.
        timed: Whether it takes a time; a generator does not.
    """

    def __init__(
        self, context: int, inputs: int, outputs: int, width: int, depth: int, timed: bool = True
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.time = _time_network(width) if timed else None
        self.condition = Linear(context, width)
        self.input = Linear(inputs, width)
        self.blocks = nn.ModuleList(ConditionedBlock(width) for _ in range(depth))
        self.norm = layer(width, False)
        self.adapt = nn.Sequential(nn.SiLU(), ZeroLinear(width, 2 * width))
        self.output = ZeroLinear(width, outputs)

    def forward(self, x: Tensor, z: Tensor, t: Tensor | None = None) -> Tensor:
        """x [*, I], z [*, E] and times t [*] → [*, O]."""
        y = self.condition(z)
        if self.time is not None and t is not None:
            y = y + self.time(embed_time(t, x.dtype))
        h = self.input(x)
        for block in self.blocks:
            h = block(h, y)
        shift, scale = self.adapt(y).chunk(2, -1)
        return self.output(modulate(self.norm(h), 1 + scale, shift))
