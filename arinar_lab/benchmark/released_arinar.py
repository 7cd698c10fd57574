"""ARINAR as released (arXiv 2503.02883), written plainly: a test's reference for the fast code, and
the other way of the benchmark.

It computes with the weights of an `Arinar` what the released code computes, as often as that does:

    outer       a mask over all positions; blocks and everything behind them at every position
    inner       gains from z for every feature; keys and values concatenated with earlier ones
    guidance    1000 candidates of the conditional mixture (`Sampler.candidates`), one resampled
    training    the inner model at all positions; the loss of known ones is multiplied by zero

Without candidates, tokens come from our noise by our inverse CDF, so that each can be compared with
that of `Arinar.generate`. No forward of the outer model, the trunk or their blocks runs.

Letters: B images, N tokens, m of them at a time, D features a token, C prefix rows, E width;
R rows of the inner model, M = B·m tokens of one step, so R = 2M with guidance; H heads, S
head size, K components.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as f

from ..model.arinar import Arinar
from ..model.bilevel import token_noise
from ..model.heads.mixture import GMM, Mixture
from ..model.inner.feature_ar import FeatureAR
from ..model.inner.trunks import Transformer
from ..model.layers import Attention, Block
from ..model.noise import Noise, Stream
from ..model.outer import MaskedAR
from ..model.sampler import Sampler, masked_counts

_Part = TypeVar("_Part")


class Parts(NamedTuple):
    """The parts of an `Arinar` that has the released architecture."""

    outer: MaskedAR
    inner: FeatureAR
    trunk: Transformer
    head: GMM


def parts(model: Arinar) -> Parts:
    """The parts of a model, if they are those of the release.

    Raises:
        ValueError: with the first other part.
    """
    outer, inner = _a(MaskedAR, model.outer), _a(FeatureAR, model.inner)
    if outer.rotary or inner.group != 1 or inner.order != "identity":
        raise ValueError(
            "the release has no rotary attention, and takes features one by one in the "
            "order of their index"
        )
    return Parts(outer, inner, _a(Transformer, inner.trunk), _a(GMM, inner.head))


def _a(kind: type[_Part], part: object) -> _Part:
    if not isinstance(part, kind):
        raise ValueError(
            f"the release has a {kind.__name__} where this model has a {type(part).__name__}"
        )
    return part


@torch.no_grad()
def generate_released(model: Arinar, y: Tensor, noise: Noise, sampler: Sampler) -> Tensor:
    """Tokens [B, N, D] for labels y and noise [B], in the orders of `Arinar.generate`."""
    outer = parts(model).outer
    c = model.labels(y)
    if sampler.guidance != 1:
        c = torch.cat([c, model.labels.null(len(y))])
    branches = len(c) // len(y)
    turn = outer.order(noise).argsort(-1)
    keys = token_noise(noise, torch.arange(outer.tokens, device=y.device).expand_as(turn))
    generator = torch.Generator(y.device).manual_seed(int(noise.key[0]))
    x = c.new_zeros(len(y), outer.tokens, outer.features)
    masked = torch.ones_like(turn, dtype=torch.bool)

    for left in masked_counts(outer.tokens, outer.check_steps(sampler.steps)):
        z = released_condition(model, x.repeat(branches, 1, 1), c, masked.repeat(branches, 1))
        where = masked & (turn < outer.tokens - left)
        z = z[where.repeat(branches, 1)]
        progress = 1 - max(left, 1) / outer.tokens
        x[where] = draw_token(model, z, Noise(keys.key[where]), sampler, progress, generator)
        masked = masked & ~where

    return x


def loss(model: Arinar, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
    """The loss of `Arinar.loss`, the inner model run at all positions: x [B, N, D], y [B],
    noise [B] → nats a token.
    """
    outer = parts(model).outer
    order = noise.at(Stream.ORDER)
    masked = outer.mask_ratios(order)[0].mul(outer.tokens).ceil()
    turn = outer.order(order).argsort(-1)
    mask = turn < masked
    z = released_condition(model, x, model.labels(y, noise.at(Stream.LABELS)), mask)
    losses = teacher_forced_loss(model, z.flatten(0, 1), x.flatten(0, 1))
    return (losses * mask.flatten()).sum() / mask.sum()


def released_condition(model: Arinar, x: Tensor, c: Tensor, masked: Tensor) -> Tensor:
    """z [B, N, E] at every position, given c [B, C, E] and the tokens of x [B, N, D] that are
    not `masked` [B, N].
    """
    outer = parts(model).outer
    y = torch.cat([c, _linear(outer.token_of, x)], 1) + outer.encoder_positions()
    visible = torch.cat([masked.new_ones(c.shape[:2]), ~masked], 1)
    y = outer.input_norm(y)[visible].reshape(len(x), -1, outer.width)

    for block in outer.encoder:
        y = _block(_a(Block, block), y)
    y = _linear(outer.embed, outer.encoder_norm(y))
    everywhere = outer.mask().to(y.dtype).expand(*visible.shape, -1).clone()
    everywhere[visible] = y.flatten(0, 1)
    y = everywhere + outer.decoder_positions()

    for block in outer.decoder:
        y = _block(_a(Block, block), y)

    return outer.decoder_norm(y)[:, outer.prefix :] + outer.output_positions()


def _linear(m: nn.Module, x: Tensor) -> Tensor:
    """The map by torch's own function, without our packed weights."""
    linear = _a(nn.Linear, m)
    return f.linear(x, linear.weight, linear.bias)


def _gains(adapt: nn.Module | None, z: Tensor) -> Tensor:
    silu, linear = _a(nn.Sequential, adapt)
    return _linear(linear, silu(z)).unsqueeze(1)


def _feed_forward(block: Block, x: Tensor) -> Tensor:
    first, gelu, second, dropout = block.feed_forward
    y = f.gelu(_linear(first, x), approximate=_a(nn.GELU, gelu).approximate)
    if block.feed_forward.drops_hidden:
        y = f.dropout(y, _a(nn.Dropout, dropout).p, dropout.training)
    return f.dropout(_linear(second, y), _a(nn.Dropout, dropout).p, dropout.training)


def _block(block: Block, x: Tensor) -> Tensor:
    x = x + _attend(block.attention, block.norm1(x))[0]
    return x + _feed_forward(block, block.norm2(x))


Past = tuple[Tensor, Tensor]
"""Keys and values of the rows so far, each [R, H, T, S]."""


def _attend(
    a: Attention, x: Tensor, causal: bool = False, past: Past | None = None
) -> tuple[Tensor, Past]:
    """x [R, T, W] → [R, T, W], and the keys and values with those before."""
    bias = a.qkv.bias
    if bias is None:
        bias = torch.cat([a.q_bias, torch.zeros_like(a.q_bias), a.v_bias])
    qkv = f.linear(x, a.qkv.weight, bias).unflatten(-1, (3, a.heads, a.size))
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    q = a.q_norm(q)
    k = a.k_norm(k)

    if past is not None:
        k = torch.cat([past[0], k], 2)
        v = torch.cat([past[1], v], 2)
    drop = a.dropout if a.training else 0.0
    y = f.scaled_dot_product_attention(q, k, v, dropout_p=drop, is_causal=causal, scale=a.scale)

    return f.dropout(_linear(a.project, y.transpose(1, 2).flatten(2)), drop), (k, v)


def _inner_block(
    block: Block, x: Tensor, z: Tensor, causal: bool = False, past: Past | None = None
) -> tuple[Tensor, Past]:
    """x [R, T, W] under the gains of z [R, E]."""
    gate1, gate2, scale1, scale2, shift1, shift2 = _gains(block.adapt, z).chunk(6, -1)
    y, past = _attend(block.attention, block.norm1(x) * (1 + scale1) + shift1, causal, past)
    x = x + gate1 * y
    return x + gate2 * _feed_forward(block, block.norm2(x) * (1 + scale2) + shift2), past


def _outputs(trunk: Transformer, y: Tensor, z: Tensor) -> Tensor:
    scale, shift = _gains(trunk.adapt, z).chunk(2, -1)
    return trunk.norm(y) * (1 + scale) + shift


def _start(trunk: Transformer, z: Tensor) -> Tensor:
    return (_linear(trunk.start_of, z) + trunk.start()).unsqueeze(1)


def draw_token(
    model: Arinar,
    z: Tensor,
    keys: Noise,
    sampler: Sampler,
    progress: float,
    generator: torch.Generator,
) -> Tensor:
    """Tokens [M, D] feature by feature, for contexts z [R, E]; if R = 2M, the null's are below.

    Arguments:
        keys: Noise of the tokens, [M], for a sampler without candidates.
        progress: Share of tokens known after the step.
        generator: Generator of all draws for a sampler with candidates.
    """
    _, inner, trunk, head = parts(model)
    tokens = keys.key.shape[0]
    past: list[Past | None] = [None] * len(trunk.blocks)
    y, x = _start(trunk, z), z.new_zeros(tokens, 0)

    for g in range(inner.features):
        y = y + trunk.positions()[g]
        for i, block in enumerate(trunk.blocks):
            y, past[i] = _inner_block(_a(Block, block), y, z, past=past[i])
        h, *h_null = _outputs(trunk, y, z).squeeze(1).split(tokens)
        p = _a(Mixture, head(h))
        q = _a(Mixture, head(h_null[0])) if h_null else None
        value = _feature(p, q, sampler, progress, keys.at(g), generator).to(x.dtype)
        x = torch.cat([x, value], -1)
        y = _linear(trunk.group_of, value.repeat(len(z) // tokens, 1)).unsqueeze(1)

    return x


def _feature(
    p: Mixture,
    q: Mixture | None,
    sampler: Sampler,
    progress: float,
    noise: Noise,
    generator: torch.Generator,
) -> Tensor:
    """One feature of each token, [M, 1]: as released, or (without candidates) from our noise."""
    if sampler.candidates == 0:
        return sampler.apply(p, q, progress).sample(noise)

    t = 1 / sampler.temperature if sampler.temperature_divides else sampler.temperature
    weight = sampler.weight(progress)
    if q is None or weight == 1:
        return _draws(p, 1, t, generator)
    x = _draws(p, sampler.candidates, t, generator)
    ratio = (weight - 1) * (_log_prob(p, x) - _log_prob(q, x))

    return x.gather(-1, ratio.softmax(-1).multinomial(1, generator=generator))


def _draws(p: Mixture, n: int, t: float, generator: torch.Generator) -> Tensor:
    """n values of each density, σ times t: [M, n]."""
    k = p.log_weight.exp().multinomial(n, replacement=True, generator=generator)
    mean = p.mean.squeeze(-2).gather(-1, k)
    std = p.log_std.exp().squeeze(-2).gather(-1, k)
    normal = torch.randn(k.shape, generator=generator, dtype=mean.dtype, device=mean.device)
    return mean + t * std * normal


def _log_prob(p: Mixture, x: Tensor) -> Tensor:
    """log p of n values of each density, [M, n] → [M, n]."""
    s = (x.unsqueeze(-1) - p.mean) * (-p.log_std).exp()
    return (p.log_weight.unsqueeze(-2) - p.log_std - s**2 / 2).logsumexp(-1)


def teacher_forced_loss(model: Arinar, z: Tensor, x: Tensor) -> Tensor:
    """The loss of true tokens x [M, D] at contexts z [M, E], all features at once: [M]."""
    _, _, trunk, head = parts(model)
    groups = _linear(trunk.group_of, x[:, :-1].unsqueeze(-1))
    y = torch.cat([_start(trunk, z), groups], 1) + trunk.positions()
    for block in trunk.blocks:
        y, _ = _inner_block(_a(Block, block), y, z, causal=True)
    density = head(_outputs(trunk, y, z))

    return density.loss(x.unsqueeze(-1), Noise(torch.zeros_like(x, dtype=torch.long))).sum(-1)
