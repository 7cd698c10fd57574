"""The outer autoregressive model: from the tokens known so far to a condition z for the next ones.

    forward(x, c, noise)              training: z for the positions that are predicted, given true tokens
    walk(c, null, visit, noise, …)    generation: calls visit(z, z_null, where, progress) → tokens, step by step
    conditions(x, c, noise, steps)    the z of a walk that is answered with the true tokens: what likelihood needs

Letters: B images, N tokens, m of them at a time, D features a token, E width, C prefix rows of the condition.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as f

from .guidance import kept
from .head import Likelihood
from .layers import (
    Block,
    BlockOptions,
    Blocks,
    Linear,
    Positions,
    Vectors,
    at_least,
    is_rotary,
    layer,
    positions_of,
)
from .noise import Noise

Visit = Callable[[Tensor, Tensor | None, Tensor, float], Tensor]
"""visit(z [B, m, E], z_null or None, where [B, m], progress) → tokens [B, m, D]."""


def take(x: Tensor, where: Tensor) -> Tensor:
    """Rows of x [B, N, D] at where [B, m]: [B, m, D]."""
    return x.gather(1, where.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def put(x: Tensor, where: Tensor, value: Tensor) -> Tensor:
    """x [B, N, D] with value [B, m, D] at where [B, m]."""
    return x.scatter(1, where.unsqueeze(-1).expand(-1, -1, x.shape[-1]), value)


class Outer(nn.Module):
    """The type of every outer model. The constructor takes the number N of tokens and D of features by position.

    Attributes:
        width: E, of z and of the condition.
        prefix: C, rows of the condition c [B, C, E].
        likelihood: `exact` for a fixed order, `bound` for a random one.
        steps: steps of a walk where the sampler names none.
    """

    likelihood: Likelihood
    width: int
    prefix: int
    steps: int

    def forward(self, x: Tensor, c: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Tokens x [B, N, D], condition c [B, C, E] → z [B, m, E] and the positions it is for, [B, m]."""
        raise NotImplementedError

    def walk(self, c: Tensor, null: Tensor | None, visit: Visit, noise: Noise, steps: int | None = None) -> Tensor:
        """Generate tokens [B, N, D], step by step; `null` is the null condition, or None where nothing is guided.

        Raises:
            ValueError: if `steps` does not fit the number of tokens.
        """
        raise NotImplementedError

    def conditions(self, x: Tensor, c: Tensor, noise: Noise, steps: int | None = None) -> list[tuple[Tensor, Tensor]]:
        """(z, where) of each step of the walk, answered with the true tokens x [B, N, D]."""
        seen: list[tuple[Tensor, Tensor]] = []

        def visit(z: Tensor, null: Tensor | None, where: Tensor, progress: float) -> Tensor:
            seen.append((z, where))
            return take(x, where)

        self.walk(c, None, visit, noise, steps)
        return seen

    def check_steps(self, steps: int | None) -> int:
        """The number of steps of a walk, the model's own for None.

        Raises:
            ValueError: if it does not fit the number of tokens.
        """
        raise NotImplementedError


class CausalAR(Outer):
    """Raster order, one token a step, key/value cache. Its likelihood is exact.

    The sequence is [c, x_0 … x_{N-2}]; the output at row C - 1 + n is the condition of token n.

    Arguments:
        width: E; depth: blocks; heads: must divide width.
        prefix: C ≥ 1.
        positions: how a row's place is told: a `learned` vector, a `sine` vector, or `rotary` attention.
        block: see `Block`.

    Raises:
        ValueError: if depth or prefix < 1, heads does not divide width, or rotary heads are of odd size.
    """

    likelihood: Likelihood = "exact"

    def __init__(
        self,
        tokens: int,
        features: int,
        /,
        *,
        width: int = 64,
        depth: int = 3,
        heads: int = 4,
        prefix: int = 1,
        positions: Positions = "learned",
        **block: Unpack[BlockOptions],
    ) -> None:
        super().__init__()
        at_least(1, width=width, depth=depth, prefix=prefix)
        self.width, self.prefix, self.steps, self.features = width, prefix, tokens, features
        self.token_of = Linear(features, width)
        self.positions = positions_of(positions, prefix + tokens - 1, width)
        self.blocks = Blocks(Block(width, heads, **block) for _ in range(depth))
        self.norm = block.get("norm", layer)(width, True)
        self.rotary = is_rotary(positions, width, heads)

    def forward(self, x: Tensor, c: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        order = self._order(x.shape[0], noise)
        y, at = self._placed(torch.cat([c, self.token_of(take(x, order[:, :-1]))], 1), order, 0)
        y, _ = self.blocks(y, causal=True, at=at if self.rotary else None)
        return self.norm(y)[:, self.prefix - 1 :], order

    def conditions(self, x: Tensor, c: Tensor, noise: Noise, steps: int | None = None) -> list[tuple[Tensor, Tensor]]:
        """All at once: teacher forcing is one causal pass."""
        self.check_steps(steps)
        return [self(x, c, noise)]

    def walk(self, c: Tensor, null: Tensor | None, visit: Visit, noise: Noise, steps: int | None = None) -> Tensor:
        self.check_steps(steps)
        batch, order = c.shape[0], self._order(c.shape[0], noise)
        y, repeat = (c, 1) if null is None else (torch.cat([c, null]), 2)
        orders = order.repeat(repeat, 1)
        caches, done = self.blocks.caches(y.shape[0], self.prefix + self.steps - 1), 0
        tokens: list[Tensor] = []
        for n in range(self.steps):
            rows = y.shape[1]
            y, at = self._placed(y, orders, done)
            y, caches = self.blocks(y, causal=True, caches=caches, at=at if self.rotary else None)
            z, done = self.norm(y[:, -1:]), done + rows
            x = visit(z[:batch], None if null is None else z[batch:], order[:, n : n + 1], (n + 1) / self.steps)
            tokens.append(x)
            y = self.token_of(x.repeat(repeat, 1, 1))
        drawn = torch.cat(tokens, 1)
        return put(torch.empty_like(drawn), order, drawn)

    def _order(self, batch: int, noise: Noise) -> Tensor:
        """The token of each step, [B, N]."""
        return torch.arange(self.steps, device=noise.key.device).expand(batch, -1)

    def _placed(self, y: Tensor, order: Tensor, done: int) -> tuple[Tensor, Tensor]:
        """Rows `done` … of the sequence, y [B, T, E], with what tells their places; and the places, [T] or [B, T]."""
        end = done + y.shape[1]
        return y + self.positions()[done:end], torch.arange(done, end, device=y.device)

    def check_steps(self, steps: int | None) -> int:
        if steps not in (None, self.steps):
            raise ValueError(f"steps: {steps} does not fit; a causal model takes one step a token, {self.steps} here")
        return self.steps


class RandomCausalAR(CausalAR):
    """One causal network over a random order, told which token comes next (σ-GPT, arXiv 2404.09562; RandAR, 2412.01827).

    The sequence is [c, x_σ(0) … x_σ(N-2)]; the output at row C - 1 + n is the condition of token σ(n). A row is told two
    places: where its own token stands, as in `CausalAR`, and by a learned vector of its own, the target σ(n). The order σ
    is an image's own and uniform, so the likelihood is a bound: the expectation of log p(x | σ) is below log p(x).

    Arguments and errors: of `CausalAR`.
    """

    likelihood: Likelihood = "bound"

    def __init__(
        self,
        tokens: int,
        features: int,
        /,
        *,
        width: int = 64,
        depth: int = 3,
        heads: int = 4,
        prefix: int = 1,
        positions: Positions = "learned",
        **block: Unpack[BlockOptions],
    ) -> None:
        super().__init__(
            tokens, features, width=width, depth=depth, heads=heads, prefix=prefix, positions=positions, **block
        )
        self.positions = positions_of(positions, prefix + tokens, width)  # any token may precede another
        self.targets = Vectors(tokens, width)

    def _order(self, batch: int, noise: Noise) -> Tensor:
        return noise.at(0).permutation(self.steps)

    def _placed(self, y: Tensor, order: Tensor, done: int) -> tuple[Tensor, Tensor]:
        end, start = done + y.shape[1], self.prefix
        at = torch.cat([torch.arange(start, device=y.device).expand(y.shape[0], -1), start + order], 1)[:, done:end]
        targets = f.pad(self.targets()[order], (0, 0, start - 1, 0))[:, done:end]
        return y + self.positions()[at] + targets, at


class MaskedAR(Outer):
    """Bidirectional encoder and decoder over randomly masked tokens (MAR, arXiv 2406.11838, section 3.4).

    The encoder sees the C condition rows and the known tokens; the decoder sees all positions, a mask vector at the
    unknown ones. In training one ratio of the tokens is masked a batch, drawn from a normal(1, mask_std) truncated to
    [mask_min, 1]. Generation follows a cosine schedule over a random order; the tokens of one step are drawn together,
    independently given z, so likelihood is a bound and is stated with its steps.

    Arguments:
        width: E; encoder_depth, decoder_depth: blocks; heads: must divide width.
        prefix: C ≥ 1, condition rows (64 as published).
        mask_min, mask_std: of the masked share.
        steps: of a walk, 1 … N; None is N.
        positions: how a token's place is told to encoder and decoder: `learned` vectors, `sine` vectors, or `rotary`
            attention. Only the learned have a third set, added to z, as published.
        block: see `Block`.

    Raises:
        ValueError: if a number is outside its range.
    """

    likelihood: Likelihood = "bound"

    def __init__(
        self,
        tokens: int,
        features: int,
        /,
        *,
        width: int = 64,
        encoder_depth: int = 2,
        decoder_depth: int = 2,
        heads: int = 4,
        prefix: int = 4,
        mask_min: float = 0.7,
        mask_std: float = 0.25,
        steps: int | None = None,
        positions: Positions = "learned",
        **block: Unpack[BlockOptions],
    ) -> None:
        super().__init__()
        at_least(1, width=width, encoder_depth=encoder_depth, decoder_depth=decoder_depth, prefix=prefix)
        if not 0 <= mask_min < 1:
            raise ValueError(f"mask_min: {mask_min} is outside [0, 1)")
        if mask_std <= 0:
            raise ValueError(f"mask_std: {mask_std} is not above 0")
        self.width, self.prefix, self.tokens = width, prefix, tokens
        self.mask_min, self.mask_std = mask_min, mask_std
        self.steps = tokens
        self.steps = self.check_steps(steps)
        self.token_of = Linear(features, width)
        self.encoder_positions = positions_of(positions, prefix + tokens, width)
        self.decoder_positions = positions_of(positions, prefix + tokens, width)
        self.output_positions = positions_of("learned" if positions == "learned" else "rotary", tokens, width)
        self.mask = Vectors(1, width)
        norm = block.get("norm", layer)
        self.input_norm, self.encoder_norm, self.decoder_norm = (norm(width, True) for _ in range(3))
        self.encoder = Blocks(Block(width, heads, **block) for _ in range(encoder_depth))
        self.embed = Linear(width, width)
        self.decoder = Blocks(Block(width, heads, **block) for _ in range(decoder_depth))
        self.rotary = is_rotary(positions, width, heads)

    def forward(self, x: Tensor, c: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        masked = math.ceil(self.tokens * self._mask_ratio(noise))
        order = noise.at(0).permutation(self.tokens)
        return self._condition(x, c, order[:, masked:], order[:, :masked]), order[:, :masked]

    def walk(self, c: Tensor, null: Tensor | None, visit: Visit, noise: Noise, steps: int | None = None) -> Tensor:
        batch, both = c.shape[0], c if null is None else torch.cat([c, null])
        order = noise.at(0).permutation(self.tokens)
        x = c.new_zeros(batch, self.tokens, self.token_of.in_features)
        known = 0
        for left in kept(self.tokens, self.check_steps(steps)):
            where = order[:, known : self.tokens - left]
            repeat = both.shape[0] // batch
            z = self._condition(
                x.repeat(repeat, 1, 1), both, order[:, :known].repeat(repeat, 1), where.repeat(repeat, 1)
            )
            progress = 1 - max(left, 1) / self.tokens  # the release counts at least one token as unknown
            x = put(x, where, visit(z[:batch], None if null is None else z[batch:], where, progress))
            known = self.tokens - left
        return x

    def _mask_ratio(self, noise: Noise) -> float:
        """One draw of the truncated normal a batch, by its inverse CDF, from the noise of the first image."""
        low = torch.special.ndtr(torch.tensor((self.mask_min - 1) / self.mask_std, dtype=torch.float64)).item()
        u = noise.key.new_tensor(0, dtype=torch.float64) + low + (0.5 - low) * noise.at(2).uniform(1).reshape(-1)[0]
        return min(1.0, 1 + self.mask_std * torch.special.ndtri(u).item())

    def _condition(self, x: Tensor, c: Tensor, known: Tensor, where: Tensor) -> Tensor:
        """z [B, m, E] at `where` [B, m], given the tokens at `known` [B, n]."""
        start, places = self.prefix, torch.arange(self.prefix + self.tokens, device=x.device)
        at = torch.cat([places[:start].expand(x.shape[0], -1), start + known], 1)
        y = torch.cat([c, self.token_of(take(x, known))], 1) + self.encoder_positions()[at]
        y, _ = self.encoder(self.input_norm(y), at=at if self.rotary else None)
        y = self.embed(self.encoder_norm(y))
        everywhere = self.mask().expand(x.shape[0], self.tokens, -1)
        y = torch.cat([y[:, :start], put(everywhere, known, y[:, start:])], 1) + self.decoder_positions()
        y, _ = self.decoder(y, at=places if self.rotary else None)
        return take(self.decoder_norm(y)[:, start:] + self.output_positions(), where)

    def check_steps(self, steps: int | None) -> int:
        steps = self.steps if steps is None else steps
        if not 1 <= steps <= self.tokens:
            raise ValueError(f"steps: {steps} does not fit; between 1 and the {self.tokens} tokens of an image")
        return steps


OUTERS: dict[str, type[Outer]] = {"causal": CausalAR, "masked": MaskedAR, "random_causal": RandomCausalAR}
OuterMaker = Callable[[int, int], Outer]
"""Called as `maker(tokens N, features D)`."""
