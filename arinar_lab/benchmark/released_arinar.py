"""ARINAR as released, written plainly: the oracle of the fast paths, and the other side of the
benchmark (arXiv 2503.02883).

It takes the weights of an `Arinar` and does what the released code does with them, and as often:

    outer       a mask over all positions; every block, and what is behind them, at every position
    inner       gains computed from z for each feature anew; keys and values joined to those
                before by concatenation
    guidance    1000 candidates of the conditional mixture (`Sampler.candidates`),
                one of them resampled
    training    the inner model at all positions, masked or not; the loss of those that are not
                is multiplied by zero

Where a sampler has no candidates, tokens are drawn from our noise by our inverse CDF instead, so
that they can be compared with those of `Arinar.generate` one by one. No forward of the outer model,
the trunk or their blocks is run.

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
        ValueError: with the first that is another.
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
    """Tokens [B, N, D] for labels y [B] from the images' noise [B]; the orders are those
    of `Arinar.generate`.
    """
    outer = parts(model).outer
    null = [model.labels.null(len(y))] if sampler.guidance != 1 else []
    c = torch.cat([model.labels(y), *null])
    turn = outer.order(noise).argsort(-1)
    keys = token_noise(noise, torch.arange(outer.tokens, device=y.device).expand_as(turn))
    generator = torch.Generator(y.device).manual_seed(int(noise.key[0]))
    x, masked = (
        c.new_zeros(len(y), outer.tokens, outer.features),
        torch.ones_like(turn, dtype=torch.bool),
    )

    for left in masked_counts(outer.tokens, outer.check_steps(sampler.steps)):
        branches = len(c) // len(y)
        z = released_condition(model, x.repeat(branches, 1, 1), c, masked.repeat(branches, 1))
        where = masked & (turn < outer.tokens - left)
        progress = 1 - max(left, 1) / outer.tokens
        x[where] = draw_token(
            model,
            z[where.repeat(branches, 1)],
            Noise(keys.key[where]),
            sampler,
            progress,
            generator,
        )
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
    each = teacher_forced_loss(model, z.flatten(0, 1), x.flatten(0, 1))
    return (each * mask.flatten()).sum() / mask.sum()


def released_condition(model: Arinar, x: Tensor, c: Tensor, masked: Tensor) -> Tensor:
    """z [B, N, E] at every position, given c [B, C, E] and the tokens of x [B, N, D] that are
    not `masked` [B, N].
    """
    outer = parts(model).outer
    y = torch.cat([c, _linear(outer.token_of, x)], 1) + outer.encoder_positions()
    seen = torch.cat([masked.new_ones(c.shape[:2]), ~masked], 1)
    y = outer.input_norm(y)[seen].reshape(len(x), -1, outer.width)

    for block in outer.encoder:
        y = _block(_a(Block, block), y)
    y = _linear(outer.embed, outer.encoder_norm(y))
    everywhere = outer.mask().to(y.dtype).expand(*seen.shape, -1).clone()
    everywhere[seen] = y.flatten(0, 1)
    y = everywhere + outer.decoder_positions()

    for block in outer.decoder:
        y = _block(_a(Block, block), y)

    return outer.decoder_norm(y)[:, outer.prefix :] + outer.output_positions()


def _linear(m: nn.Module, x: Tensor) -> Tensor:
    """The map as torch computes it, whatever else the module can."""
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
    bias = (
        torch.cat([a.q_bias, torch.zeros_like(a.q_bias), a.v_bias])
        if a.qkv.bias is None
        else a.qkv.bias
    )
    q, k, v = (
        f.linear(x, a.qkv.weight, bias)
        .unflatten(-1, (3, a.heads, a.size))
        .permute(2, 0, 3, 1, 4)
        .unbind(0)
    )
    q, k = a.q_norm(q), a.k_norm(k)

    if past is not None:
        k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
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
    """Tokens [M, D] feature by feature, for contexts z [R, E] of which the second half are
    the null's if R = 2M.

    Arguments:
        keys: the tokens' noise [M], read where the sampler has no candidates; generator: of
            all draws where it has.
        progress: share of tokens known after the step.
    """
    _, inner, trunk, head = parts(model)
    tokens = keys.key.shape[0]
    past: list[Past | None] = [None] * len(trunk.blocks)
    y, x = _start(trunk, z), z.new_zeros(tokens, 0)

    for g in range(inner.features):
        y = y + trunk.positions()[g]
        for i, block in enumerate(trunk.blocks):
            y, past[i] = _inner_block(_a(Block, block), y, z, past=past[i])
        p, *q = (_a(Mixture, head(h)) for h in _outputs(trunk, y, z).squeeze(1).split(tokens))
        value = _feature(p, q[0] if q else None, sampler, progress, keys.at(g), generator).to(
            x.dtype
        )
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
    mean, std = (value.squeeze(-2).gather(-1, k) for value in (p.mean, p.log_std.exp()))
    return mean + t * std * torch.randn(
        k.shape, generator=generator, dtype=mean.dtype, device=mean.device
    )


def _log_prob(p: Mixture, x: Tensor) -> Tensor:
    """log p of n values of each density, [M, n] → [M, n]."""
    s = (x.unsqueeze(-1) - p.mean) * (-p.log_std).exp()
    return (p.log_weight.unsqueeze(-2) - p.log_std - s**2 / 2).logsumexp(-1)


def teacher_forced_loss(model: Arinar, z: Tensor, x: Tensor) -> Tensor:
    """The loss of true tokens x [M, D] at contexts z [M, E], all features at once: [M]."""
    _, _, trunk, head = parts(model)
    y = (
        torch.cat([_start(trunk, z), _linear(trunk.group_of, x[:, :-1].unsqueeze(-1))], 1)
        + trunk.positions()
    )
    for block in trunk.blocks:
        y, _ = _inner_block(_a(Block, block), y, z, causal=True)
    density = head(_outputs(trunk, y, z))

    return density.loss(x.unsqueeze(-1), Noise(torch.zeros_like(x, dtype=torch.long))).sum(-1)
