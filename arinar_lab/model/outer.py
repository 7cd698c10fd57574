"""The outer autoregressive model: from the tokens known so far to a condition z for the next ones.

    forward(x, c, noise)              training: z of the predicted positions, given true tokens
    walk(c, null, visit, noise, …)    generation: visit(z, z_null, where, progress) → tokens in
                                      each step
    conditions(x, c, noise, steps)    likelihood: each z of a walk whose visit returns true tokens

Letters: B images, N tokens, m of them at a time, D features a token, E width, C prefix
rows of the condition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Annotated, NamedTuple, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as f

from .inner.head import Likelihood
from .layers import (
    Block,
    BlockOptions,
    Blocks,
    Caches,
    LearnedVectors,
    Linear,
    Positions,
    is_rotary,
    layer,
    positions_of,
    require_at_least,
)
from .noise import Noise, Stream
from .sampler import PLAIN, Sampler, masked_counts

Visit = Callable[[Tensor, Tensor | None, Tensor, float], Tensor]
"""visit(z [B, m, E], z_null or None, where [B, m], progress) → tokens [B, m, D]."""


def take(x: Tensor, where: Tensor) -> Tensor:
    """Rows of x [B, N, D] at where [B, m]: [B, m, D]."""
    return x.gather(1, where.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def put(x: Tensor, where: Tensor, value: Tensor) -> Tensor:
    """x [B, N, D] with value [B, m, D] at where [B, m]."""
    value = value.to(x.dtype)  # autocast's is narrower
    return x.scatter(1, where.unsqueeze(-1).expand(-1, -1, x.shape[-1]), value)


class Outer(nn.Module):
    """The type of every outer model. The constructor takes N and D by position.

    Attributes:
        width: E, width of the condition.
        context: Width of z, E unless a member overrides it.
        prefix: C, rows of the condition c [B, C, E].
        likelihood: `exact` for a fixed order, `bound` for a random one.
        steps: Steps of a walk where the sampler sets none.
        capabilities: Accelerators of a `Sampler` that the walk takes; every walk takes the interval
            of guidance.
        mask_group: Images of a batch that share a masked ratio; 0 is the whole batch.
    """

    likelihood: Likelihood
    width: int
    prefix: int
    steps: int
    capabilities: frozenset[str] = frozenset()
    mask_group: int = 0

    @property
    def context(self) -> int:
        return self.width

    def forward(
        self, x: Tensor, c: Tensor, noise: Noise, ratio: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """Tokens x [B, N, D] and condition c [B, C, E] → z [B, m, E] and its positions [B, m].

        `ratio` replaces the masked ratio that this batch would draw: that of a larger batch.
        """
        raise NotImplementedError

    def mask_ratio(self, noise: Noise, group: int = 0) -> float | None:
        """The masked ratio of a batch, drawn from the noise [1] of its first image; None where no
        ratio is shared.

        Where groups of images draw their own ratios, that of group number `group`.
        """
        return None

    def walk(
        self,
        c: Tensor,
        null: Tensor | None,
        visit: Visit,
        noise: Noise,
        sampler: Sampler = PLAIN,
        only: Collection[int] | None = None,
    ) -> Tensor:
        """Generate tokens [B, N, D], step by step.

        Arguments:
            c: Condition, [B, C, E].
            null: Null condition, [B, C, E], or None without guidance.
            visit: Draws the tokens of a step.
            only: Steps that are visited, for benchmarks; the tokens of other steps are zero. A
                masked walk skips those, a causal one still computes their conditions.

        Raises:
            ValueError: if the sampler's steps do not fit the number of tokens.
        """
        raise NotImplementedError

    def conditions(
        self, x: Tensor, c: Tensor, noise: Noise, steps: int | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """(z, where) of each step of a walk whose visit returns the true tokens of x [B, N, D]."""
        conditions: list[tuple[Tensor, Tensor]] = []

        def visit(z: Tensor, null: Tensor | None, where: Tensor, progress: float) -> Tensor:
            conditions.append((z, where))
            return take(x, where)

        self.walk(c, None, visit, noise, Sampler(steps=steps))
        return conditions

    def check_steps(self, steps: int | None) -> int:
        """Steps of a walk; None is the model's own number.

        Raises:
            ValueError: if it does not fit the number of tokens.
        """
        raise NotImplementedError


class CausalAR(Outer):
    """Raster order, one token a step, key/value cache. Its likelihood is exact.

    The sequence is [c, x_0 … x_{N-2}]; the output at row C - 1 + n is the condition of token n.

    Arguments:
        width: E, width of the condition and the blocks, ≥ 1.
        depth: Blocks, ≥ 1.
        heads: Attention heads, a divisor of `width`.
        prefix: C, condition rows in front of the tokens, ≥ 1.
        positions: Encoding of a row's place: a `learned` vector, a `sine` vector, or `rotary`
            attention, whose heads have an even size.
        block: Options of the blocks, see `Block`.

    Raises:
        ValueError: if a number is outside its range.
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
        require_at_least(1, width=width, depth=depth, prefix=prefix)
        self.width = width
        self.prefix = prefix
        self.steps = tokens
        self.features = features

        self.token_of = Linear(features, width)
        self.positions = positions_of(positions, prefix + tokens - 1, width)
        self.blocks = Blocks(Block(width, heads, **block) for _ in range(depth))
        self.norm = block.get("norm", layer)(width, True)
        self.rotary = is_rotary(positions, width, heads)

    def forward(
        self, x: Tensor, c: Tensor, noise: Noise, ratio: float | None = None
    ) -> tuple[Tensor, Tensor]:
        order = self._order(x.shape[0], noise)
        y, at = self._placed(torch.cat([c, self.token_of(take(x, order[:, :-1]))], 1), order, 0)
        y, _ = self.blocks(y, causal=True, at=at if self.rotary else None)
        return self.norm(y)[:, self.prefix - 1 :], order

    def conditions(
        self, x: Tensor, c: Tensor, noise: Noise, steps: int | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """One causal pass computes the conditions of all steps."""
        self.check_steps(steps)
        return [self(x, c, noise)]

    def walk(
        self,
        c: Tensor,
        null: Tensor | None,
        visit: Visit,
        noise: Noise,
        sampler: Sampler = PLAIN,
        only: Collection[int] | None = None,
    ) -> Tensor:
        self.check_steps(sampler.steps)
        batch = c.shape[0]
        branches = 1 if null is None else 2
        y = c if null is None else torch.cat([c, null])
        order = self._order(batch, noise)
        orders = order.repeat(branches, 1)
        caches = self.blocks.caches(y.shape[0], self.prefix + self.steps - 1, self.prefix)
        done = 0

        tokens: list[Tensor] = []
        for n in range(self.steps):
            rows = y.shape[1]
            y, at = self._placed(y, orders, done)
            y, caches = self.blocks(y, causal=True, caches=caches, at=at if self.rotary else None)
            done += rows
            z = self.norm(y[:, -1:])

            if only is None or n in only:
                z_null = z[batch:] if branches == 2 else None
                x = visit(z[:batch], z_null, order[:, n : n + 1], (n + 1) / self.steps)
            else:
                x = z.new_zeros(batch, 1, self.features)
            tokens.append(x)

            if (n + 2) / self.steps > sampler.guided_to:  # no later step is guided
                branches = 1
                orders = order
                caches = first_sequences(caches, batch)
            y = self.token_of(x.repeat(branches, 1, 1))

        drawn = torch.cat(tokens, 1)
        return put(torch.empty_like(drawn), order, drawn)

    def _order(self, batch: int, noise: Noise) -> Tensor:
        """The token that each step draws, [B, N]."""
        return torch.arange(self.steps, device=noise.key.device).expand(batch, -1)

    def _placed(self, y: Tensor, order: Tensor, done: int) -> tuple[Tensor, Tensor]:
        """Rows y [B, T, E] from `done` on, with their positions added; and places [T] or [B, T]."""
        end = done + y.shape[1]
        return y + self.positions()[done:end], torch.arange(done, end, device=y.device)

    def check_steps(self, steps: int | None) -> int:
        if steps not in (None, self.steps):
            raise ValueError(
                f"steps: {steps} does not fit; a causal model takes one step a token, "
                f"{self.steps} here"
            )
        return self.steps


class RandomCausalAR(CausalAR):
    """One causal network over a random order. Each row knows its target, the token that it predicts
    (σ-GPT, arXiv 2404.09562; RandAR, 2412.01827).

    The sequence is [c, x_σ(0) … x_σ(N-2)]; the output at row C - 1 + n is the condition of token
    σ(n). A row carries two places: that of its own token, as in `CausalAR`, and that of its target
    σ(n), a learned vector. Each image draws its own uniform order σ, so the likelihood is a bound:
    the expectation of log p(x | σ) is below log p(x).

    Arguments:
        width: see `CausalAR`.
        depth: see `CausalAR`.
        heads: see `CausalAR`.
        prefix: see `CausalAR`.
        positions: see `CausalAR`.
        block: Options of the blocks, see `Block`.

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
        depth: int = 3,
        heads: int = 4,
        prefix: int = 1,
        positions: Positions = "learned",
        **block: Unpack[BlockOptions],
    ) -> None:
        super().__init__(
            tokens,
            features,
            width=width,
            depth=depth,
            heads=heads,
            prefix=prefix,
            positions=positions,
            **block,
        )

        # any token may precede another
        self.positions = positions_of(positions, prefix + tokens, width)
        self.targets = LearnedVectors(tokens, width)

    def _order(self, batch: int, noise: Noise) -> Tensor:
        return noise.at(Stream.ORDER).permutation(self.steps)

    def _placed(self, y: Tensor, order: Tensor, done: int) -> tuple[Tensor, Tensor]:
        start = self.prefix
        rows = slice(done, done + y.shape[1])
        places = torch.arange(start, device=y.device).expand(y.shape[0], -1)
        at = torch.cat([places, start + order], 1)[:, rows]
        targets = f.pad(self.targets()[order], (0, 0, start - 1, 0))[:, rows]
        return y + self.positions()[at] + targets, at


class NullOffset(NamedTuple):
    """The null branch's z minus the conditional one, [B, m, E], from place `start` of the order."""

    start: int
    added: Tensor

    def covers(self, first: int, until: int) -> bool:
        return self.start <= first and until <= self.start + self.added.shape[1]

    def at(self, first: int, until: int) -> Tensor:
        return self.added[:, first - self.start : until - self.start]


class TokenCache(NamedTuple):
    """Keys and values of encoder and decoder, their rows in the order of the walk.

    The next step writes into the caches.

    Attributes:
        batch: Sequences that the last step computed.
        known_count: Tokens that were known to it.
        age: Steps since all rows were computed.
    """

    encoder: Caches
    decoder: Caches
    batch: int
    known_count: int = 0
    age: int = 0

    def serves(self, batch: int, refresh: int) -> bool:
        """Whether the next step, of `batch` sequences, may leave rows as they are."""
        return batch <= self.batch and 0 < self.age < refresh

    @property
    def room(self) -> int:
        """Sequences that fit the caches."""
        return 0 if self.encoder[0] is None else self.encoder[0].k.shape[0]


def first_sequences(caches: Caches, batch: int) -> Caches:
    """Caches of the first `batch` sequences."""
    return [cache and cache.first_sequences(batch) for cache in caches]


def rewound(caches: Caches, batch: int, begin: int, filled: int = 0) -> Caches:
    """Caches of the first `batch` sequences, whose rows from `begin` on are written next."""
    return [c and c._replace(length=begin, filled=filled) for c in first_sequences(caches, batch)]


class MaskedOuter(Outer):
    """An outer model that predicts masked tokens, in any order, from the known ones.

    Generation follows a schedule (`masked_counts`) over a random order. It draws the tokens of one
    step together, independently given z, so likelihood is a bound that depends on the number of
    steps. A member writes `_condition`.

    Arguments:
        mask_min: Least masked ratio, in [0, 1): training draws the ratio from a
            normal(1, mask_std) truncated to [mask_min, 1].
        mask_std: Standard deviation of the masked ratio before truncation, > 0.
        steps: Steps of a walk, 1 … N; null is N.

    Raises:
        ValueError: if a number is outside its range.
    """

    likelihood: Likelihood = "bound"
    capabilities = frozenset({"mask_schedule", "null_refresh"})

    def __init__(
        self, tokens: int, features: int, /, *, mask_min: float, mask_std: float, steps: int | None
    ) -> None:
        super().__init__()
        if not 0 <= mask_min < 1:
            raise ValueError(f"mask_min: {mask_min} is outside [0, 1)")
        if mask_std <= 0:
            raise ValueError(f"mask_std: {mask_std} is not above 0")

        self.tokens = tokens
        self.features = features
        self.mask_min = mask_min
        self.mask_std = mask_std
        self.steps = tokens
        self.steps = self.check_steps(steps)

    def walk(
        self,
        c: Tensor,
        null: Tensor | None,
        visit: Visit,
        noise: Noise,
        sampler: Sampler = PLAIN,
        only: Collection[int] | None = None,
    ) -> Tensor:
        batch = c.shape[0]
        both = c if null is None else torch.cat([c, null])
        order = self.order(noise)
        x = c.new_zeros(batch, self.tokens, self.features)
        masked = masked_counts(self.tokens, self.check_steps(sampler.steps), sampler.mask_schedule)
        ends = [0, *(self.tokens - left for left in masked)]

        gap: NullOffset | None = None
        cache: TokenCache | None = None
        for s, left in enumerate(masked):
            if only is not None and s not in only:
                continue

            start, end = ends[s : s + 2]
            # the release counts at least one token as unknown
            progress = 1 - max(left, 1) / self.tokens
            is_guided = null is not None and sampler.guides(progress)

            if not is_guided or (gap and gap.covers(start, end)):
                z, cache = self._cached_condition(
                    x, c, order, start, end, cache, sampler.token_refresh
                )
                z_null = z + gap.at(start, end) if is_guided and gap else None
            else:
                last = ends[min(s + sampler.null_refresh, len(masked))]
                z, cache = self._cached_condition(
                    x.repeat(2, 1, 1),
                    both,
                    order.repeat(2, 1),
                    start,
                    last,
                    cache,
                    sampler.token_refresh,
                )
                if sampler.null_refresh > 1:
                    gap = NullOffset(start, z[batch:] - z[:batch])
                z, z_null = z[:batch, : end - start], z[batch:, : end - start]

            where = order[:, start:end]
            x = put(x, where, visit(z, z_null, where, progress))

        return x

    def _cached_condition(
        self,
        x: Tensor,
        c: Tensor,
        order: Tensor,
        start: int,
        end: int,
        cache: TokenCache | None,
        refresh: int,
    ) -> tuple[Tensor, TokenCache | None]:
        """z [B, m, context] of the tokens `start` … `end` of an order [B, N], and the cache."""
        return self._condition(x, c, order[:, :start], order[:, start:end]), None

    def order(self, noise: Noise) -> Tensor:
        """A random order of the tokens for each noise [B]: [B, N]."""
        return noise.at(Stream.ORDER).permutation(self.tokens)

    def mask_ratios(self, noise: Noise, draw: int = 0) -> Tensor:
        """Draw number `draw` of the truncated normal for each noise [B], by inverse CDF: [B]."""
        least = torch.tensor((self.mask_min - 1) / self.mask_std, dtype=torch.float64)
        low = torch.special.ndtr(least).item()
        u = low + (0.5 - low) * noise.at(Stream.MASKED_SHARE).uniform(draw + 1)[..., draw]
        return (1 + self.mask_std * torch.special.ndtri(u)).clamp(max=1.0)

    def _condition(self, x: Tensor, c: Tensor, known_at: Tensor, where: Tensor) -> Tensor:
        """z [B, m, context] at `where` [B, m], given the tokens at `known_at` [B, n]."""
        raise NotImplementedError

    def check_steps(self, steps: int | None) -> int:
        steps = self.steps if steps is None else steps
        if not 1 <= steps <= self.tokens:
            raise ValueError(
                f"steps: {steps} does not fit; between 1 and the {self.tokens} tokens of an image"
            )
        return steps


class MaskedAR(MaskedOuter):
    """Bidirectional encoder and decoder over randomly masked tokens (MAR, arXiv 2406.11838,
    section 3.4).

    The encoder reads the C condition rows and the known tokens; the decoder reads all positions,
    with a mask vector at the unknown ones. Training masks one ratio of the tokens in a whole batch,
    or in each group of its images.

    Arguments:
        width: E, width of the condition and the blocks, ≥ 1.
        encoder_depth: Blocks of the encoder, ≥ 1.
        decoder_depth: Blocks of the decoder, ≥ 1.
        heads: Attention heads, a divisor of `width`.
        prefix: C, condition rows, ≥ 1 (64 as published).
        mask_min: see `MaskedOuter`.
        mask_std: see `MaskedOuter`.
        mask_group: Images of a batch that share a masked ratio, ≥ 0; 0 is the whole batch. It is 64
            in the published models, whose processes each draw a ratio for 64 images, and 0 with a
            frozen outer model.
        steps: see `MaskedOuter`.
        positions: Encoding of a token's place in encoder and decoder: `learned` vectors, `sine`
            vectors, or `rotary` attention. `learned` adds a third set of vectors to z, as
            published.
        block: Options of the blocks, see `Block`.

    Raises:
        ValueError: if a number is outside its range.
    """

    capabilities = MaskedOuter.capabilities | {"token_refresh"}

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
        mask_group: Annotated[int, "later"] = 0,
        steps: int | None = None,
        positions: Positions = "learned",
        **block: Unpack[BlockOptions],
    ) -> None:
        super().__init__(tokens, features, mask_min=mask_min, mask_std=mask_std, steps=steps)
        require_at_least(0, mask_group=mask_group)
        require_at_least(1, width=width, prefix=prefix)
        require_at_least(1, encoder_depth=encoder_depth, decoder_depth=decoder_depth)
        self.width = width
        self.prefix = prefix
        self.mask_group = mask_group

        self.token_of = Linear(features, width)
        self.encoder_positions = positions_of(positions, prefix + tokens, width)
        self.decoder_positions = positions_of(positions, prefix + tokens, width)
        output_kind: Positions = "learned" if positions == "learned" else "rotary"
        self.output_positions = positions_of(output_kind, tokens, width)
        self.mask = LearnedVectors(1, width)

        norm = block.get("norm", layer)
        self.input_norm = norm(width, True)
        self.encoder_norm = norm(width, True)
        self.decoder_norm = norm(width, True)
        self.encoder = Blocks(Block(width, heads, **block) for _ in range(encoder_depth))
        self.embed = Linear(width, width)
        self.decoder = Blocks(Block(width, heads, **block) for _ in range(decoder_depth))
        self.rotary = is_rotary(positions, width, heads)

    def forward(
        self, x: Tensor, c: Tensor, noise: Noise, ratio: float | None = None
    ) -> tuple[Tensor, Tensor]:
        masked = math.ceil(self.tokens * (self.mask_ratio(noise) if ratio is None else ratio))
        order = self.order(noise)
        return self._condition(x, c, order[:, masked:], order[:, :masked]), order[:, :masked]

    def mask_ratio(self, noise: Noise, group: int = 0) -> float:
        return self.mask_ratios(noise, group)[0].item()

    def _condition(self, x: Tensor, c: Tensor, known_at: Tensor, where: Tensor) -> Tensor:
        """z [B, m, E] at `where` [B, m], given the tokens at `known_at` [B, n]."""
        start = self.prefix
        places = torch.arange(start + self.tokens, device=x.device)
        at = torch.cat([places[:start].expand(x.shape[0], -1), start + known_at], 1)
        y = torch.cat([c, self.token_of(take(x, known_at))], 1) + self.encoder_positions()[at]
        y, _ = self.encoder(self.input_norm(y), at=at if self.rotary else None)
        y = self.embed(self.encoder_norm(y))

        masks = self.mask().expand(x.shape[0], self.tokens, -1)
        y = torch.cat([y[:, :start], put(masks, known_at, y[:, start:])], 1)
        y = y + self.decoder_positions()
        y, _ = self.decoder(y, at=places if self.rotary else None, where=start + where)

        return self.decoder_norm(y) + self.output_positions()[where]

    def _cached_condition(
        self,
        x: Tensor,
        c: Tensor,
        order: Tensor,
        start: int,
        end: int,
        cache: TokenCache | None,
        refresh: int,
    ) -> tuple[Tensor, TokenCache | None]:
        """With a token cache that is young enough, only rows of tokens that became known since the
        last step, and rows of z, are computed.
        """
        if refresh == 1:
            return super()._cached_condition(x, c, order, start, end, cache, refresh)

        batch, tokens = order.shape
        prefix = self.prefix
        if cache is None or cache.room < batch:
            room = (batch, prefix + tokens)
            cache = TokenCache(self.encoder.caches(*room), self.decoder.caches(*room), batch)

        # rows of the sequence: computed from `first` to `last`, unknown from `middle`, of z until
        # `behind`
        is_partial = cache.serves(batch, refresh)
        middle = prefix + start
        behind = prefix + end
        first = prefix + cache.known_count if is_partial else 0
        last = behind if is_partial else prefix + tokens
        at = torch.cat([torch.arange(prefix, device=x.device).expand(batch, -1), prefix + order], 1)

        y = torch.cat([c, self.token_of(take(x, order[:, :start]))], 1)
        y = self.input_norm((y + self.encoder_positions()[at[:, :middle]])[:, first:])
        places = at[:, first:middle] if self.rotary else None
        y, _ = self.encoder(y, caches=rewound(cache.encoder, batch, first), at=places)

        masks = self.mask().expand(batch, last - middle, -1)
        y = torch.cat([self.embed(self.encoder_norm(y)), masks], 1)
        y = y + self.decoder_positions()[at[:, first:last]]
        places = at[:, first:last] if self.rotary else None
        where = torch.arange(middle - first, behind - first, device=x.device).expand(batch, -1)
        caches = rewound(cache.decoder, batch, first, prefix + tokens)
        y, _ = self.decoder(y, caches=caches, at=places, where=where)

        z = self.decoder_norm(y) + self.output_positions()[order[:, start:end]]
        age = cache.age + 1 if is_partial else 1
        return z, cache._replace(batch=batch, known_count=start, age=age)


class MaskedStack(MaskedOuter):
    """One stack of blocks over condition rows and all positions, with a mask vector at the unknown
    ones (FractalMAR, arXiv 2502.17437, released code).

    In training every image draws its own masked ratio, and m positions are predicted in each: those
    of its masked set in a random order, repeated where it has fewer. The mean over them is an
    unbiased estimate of the mean over the masked set.

    Arguments:
        width: E, width of the condition and the blocks, ≥ 1.
        depth: Blocks, ≥ 1.
        heads: Attention heads, a divisor of `width`.
        prefix: C, condition rows, ≥ 1.
        embed: Whether the condition rows first pass through a linear map.
        neighbours: Whether z joins the outputs of a position and its neighbours, left, below,
            right, above, own: [5 E], zero outside the image. Tokens are then a square in raster
            order.
        mask_min: see `MaskedOuter`.
        mask_std: see `MaskedOuter`.
        steps: see `MaskedOuter`.
        positions: Encoding of a row's place: a `learned` vector, a `sine` vector, or `rotary`
            attention.
        block: Options of the blocks, see `Block`.

    Raises:
        ValueError: if a number is outside its range, or tokens with neighbours are no square.
    """

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
        embed: bool = False,
        neighbours: bool = False,
        mask_min: float = 0.0,
        mask_std: float = 0.25,
        steps: int | None = None,
        positions: Positions = "learned",
        **block: Unpack[BlockOptions],
    ) -> None:
        super().__init__(tokens, features, mask_min=mask_min, mask_std=mask_std, steps=steps)
        require_at_least(1, width=width, depth=depth, prefix=prefix)
        self.side = math.isqrt(tokens)
        if neighbours and self.side**2 != tokens:
            raise ValueError(f"neighbours: true does not fit; {tokens} tokens are no square")
        self.width = width
        self.prefix = prefix
        self.neighbours = neighbours

        self.token_of = Linear(features, width)
        self.mask = LearnedVectors(1, width)
        self.row_of = Linear(width, width) if embed else nn.Identity()
        self.positions = positions_of(positions, prefix + tokens, width)
        norm = block.get("norm", layer)
        self.input_norm = norm(width, True)
        self.norm = norm(width, True)
        self.blocks = Blocks(Block(width, heads, **block) for _ in range(depth))
        self.rotary = is_rotary(positions, width, heads)

    @property
    def context(self) -> int:
        return (5 if self.neighbours else 1) * self.width

    def forward(
        self, x: Tensor, c: Tensor, noise: Noise, ratio: float | None = None
    ) -> tuple[Tensor, Tensor]:
        count = (self.tokens * self.mask_ratios(noise)).ceil().long()
        count = count.clamp(1, self.tokens).unsqueeze(-1)
        order = self.order(noise)
        place = torch.arange(self.tokens, device=x.device).expand_as(order)
        masked = torch.zeros_like(order, dtype=torch.bool).scatter(1, order, place < count)
        where = order.gather(1, place[:, : int(count.max())] % count)

        return take(self.everywhere(x, c, masked), where), where

    def everywhere(self, x: Tensor, c: Tensor, masked: Tensor) -> Tensor:
        """z [B, N, context] at every position, given the tokens that are not `masked` [B, N]."""
        tokens = torch.where(masked.unsqueeze(-1), self.mask(), self.token_of(x))
        y = self.input_norm(torch.cat([self.row_of(c), tokens], 1) + self.positions())
        at = torch.arange(y.shape[1], device=y.device) if self.rotary else None
        y, _ = self.blocks(y, at=at)
        y = self.norm(y)[:, self.prefix :]
        return self._with_neighbours(y) if self.neighbours else y

    def _with_neighbours(self, y: Tensor) -> Tensor:
        """[B, N, E] → [B, N, 5 E]."""
        y = nn.functional.pad(y.unflatten(1, (self.side, self.side)), (0, 0, 1, 1, 1, 1))
        here, before, after = slice(1, -1), slice(None, -2), slice(2, None)
        places = [(here, before), (after, here), (here, after), (before, here), (here, here)]
        return torch.cat([y[:, row, column] for row, column in places], -1).flatten(1, 2)

    def _condition(self, x: Tensor, c: Tensor, known_at: Tensor, where: Tensor) -> Tensor:
        masked = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device).scatter(
            1, known_at, False
        )
        return take(self.everywhere(x, c, masked), where)


OUTERS: dict[str, type[Outer]] = {
    "causal": CausalAR,
    "random_causal": RandomCausalAR,
    "masked": MaskedAR,
    "masked_stack": MaskedStack,
}
OuterFactory = Callable[[int, int], Outer]
"""Called as `maker(tokens N, features D)`."""
