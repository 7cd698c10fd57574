"""The outer autoregressive model: from the tokens known so far to a condition z for the next ones.

    forward(x, c, noise)              training: z for the positions that are
                                      predicted, given true tokens
    walk(c, null, visit, noise, …)    generation: calls visit(z, z_null, where,
                                      progress) → tokens, step by step
    conditions(x, c, noise, steps)    the z of a walk that is answered with the true tokens:
                                      what likelihood needs

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
    # autocast's is narrower
    return x.scatter(1, where.unsqueeze(-1).expand(-1, -1, x.shape[-1]), value.to(x.dtype))


class Outer(nn.Module):
    """The type of every outer model. The constructor takes the number N of tokens and D of
    features by position.

    Attributes:
        width: E, of the condition.
        context: of z, which is E unless the model says otherwise.
        prefix: C, rows of the condition c [B, C, E].
        likelihood: `exact` for a fixed order, `bound` for a random one.
        steps: steps of a walk where the sampler names none.
        can: accelerators of a `Sampler` that its walk takes, beside the interval of guidance.
        mask_group: images of a batch that share a masked share; 0 is all.
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
        """Tokens x [B, N, D], condition c [B, C, E] → z [B, m, E] and the
        positions it is for, [B, m].

        A ratio that `mask_ratio` drew for a larger batch goes before the one of this batch.
        """
        raise NotImplementedError

    def mask_ratio(self, noise: Noise, group: int = 0) -> float | None:
        """The masked share of the tokens, where one is drawn for all images of a batch: from the
        noise of the first, [1].

        Where groups of images have shares of their own, that of one group.
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
        """Generate tokens [B, N, D], step by step; `null` is the null condition, or None
        where nothing is guided.

        Arguments:
            only: numbers of the steps that are visited; the tokens of the others are zero. A
                benchmark computes a few of them: a masked walk then passes over the others, a
                causal one still computes their conditions.

        Raises:
            ValueError: if the sampler's steps do not fit the number of tokens.
        """
        raise NotImplementedError

    def conditions(
        self, x: Tensor, c: Tensor, noise: Noise, steps: int | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """(z, where) of each step of the walk, answered with the true tokens x [B, N, D]."""
        seen: list[tuple[Tensor, Tensor]] = []

        def visit(z: Tensor, null: Tensor | None, where: Tensor, progress: float) -> Tensor:
            seen.append((z, where))
            return take(x, where)

        self.walk(c, None, visit, noise, Sampler(steps=steps))
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
        positions: how a row's place is told: a `learned` vector, a `sine` vector,
            or `rotary` attention.
        block: see `Block`.

    Raises:
        ValueError: if depth or prefix < 1, heads does not divide width, or rotary
            heads are of odd size.
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
        self.width, self.prefix, self.steps, self.features = width, prefix, tokens, features
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
        """All at once: teacher forcing is one causal pass."""
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
        batch, order = c.shape[0], self._order(c.shape[0], noise)
        y, repeat = (c, 1) if null is None else (torch.cat([c, null]), 2)
        orders = order.repeat(repeat, 1)
        caches, done = self.blocks.caches(y.shape[0], self.prefix + self.steps - 1, self.prefix), 0

        tokens: list[Tensor] = []
        for n in range(self.steps):
            rows = y.shape[1]
            y, at = self._placed(y, orders, done)
            y, caches = self.blocks(y, causal=True, caches=caches, at=at if self.rotary else None)
            z, done, progress = self.norm(y[:, -1:]), done + rows, (n + 1) / self.steps
            where, z_null = order[:, n : n + 1], z[batch:] if repeat == 2 else None
            visited = only is None or n in only
            x = (
                visit(z[:batch], z_null, where, progress)
                if visited
                else z.new_zeros(batch, 1, self.features)
            )
            tokens.append(x)
            if (n + 2) / self.steps > sampler.guided_to:  # the null branch is needed no more
                repeat, orders, caches = 1, order, first_sequences(caches, batch)
            y = self.token_of(x.repeat(repeat, 1, 1))

        drawn = torch.cat(tokens, 1)
        return put(torch.empty_like(drawn), order, drawn)

    def _order(self, batch: int, noise: Noise) -> Tensor:
        """The token of each step, [B, N]."""
        return torch.arange(self.steps, device=noise.key.device).expand(batch, -1)

    def _placed(self, y: Tensor, order: Tensor, done: int) -> tuple[Tensor, Tensor]:
        """Rows `done` … of the sequence, y [B, T, E], with what tells their places; and the
        places, [T] or [B, T].
        """
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
    """One causal network over a random order, told which token comes next (σ-GPT, arXiv 2404.09562;
    RandAR, 2412.01827).

    The sequence is [c, x_σ(0) … x_σ(N-2)]; the output at row C - 1 + n is the condition of token
    σ(n). A row is told two places: where its own token stands, as in `CausalAR`, and by a learned
    vector of its own, the target σ(n). The order σ is an image's own and uniform, so the likelihood
    is a bound: the expectation of log p(x | σ) is below log p(x).

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
        end, start = done + y.shape[1], self.prefix
        at = torch.cat(
            [torch.arange(start, device=y.device).expand(y.shape[0], -1), start + order], 1
        )[:, done:end]
        targets = f.pad(self.targets()[order], (0, 0, start - 1, 0))[:, done:end]
        return y + self.positions()[at] + targets, at


class NullOffset(NamedTuple):
    """What the null branch adds to z, [B, m, E], at the positions of the order from `start` on."""

    start: int
    added: Tensor

    def covers(self, known: int, until: int) -> bool:
        return self.start <= known and until <= self.start + self.added.shape[1]

    def at(self, known: int, until: int) -> Tensor:
        return self.added[:, known - self.start : until - self.start]


class TokenCache(NamedTuple):
    """What a token cache keeps: keys and values of encoder and decoder, their rows in
    the order of the walk.

    The caches are written into by the next step. batch: sequences that the last step computed;
    known: tokens that it knew; age: steps since all rows were computed.
    """

    encoder: Caches
    decoder: Caches
    batch: int
    known: int = 0
    age: int = 0

    def serves(self, batch: int, refresh: int) -> bool:
        """Whether the next step, of `batch` sequences, may leave rows as they are."""
        return batch <= self.batch and 0 < self.age < refresh

    @property
    def room(self) -> int:
        """Sequences that the caches have room for."""
        return 0 if self.encoder[0] is None else self.encoder[0].k.shape[0]


def first_sequences(caches: Caches, batch: int) -> Caches:
    """Caches of the first `batch` sequences."""
    return [
        c
        and c._replace(
            k=c.k[:batch], v=c.v[:batch], before=tuple((k[:batch], v[:batch]) for k, v in c.before)
        )
        for c in caches
    ]


def rewound(caches: Caches, batch: int, begin: int, filled: int = 0) -> Caches:
    """Caches of the first `batch` sequences, whose rows from `begin` on are written next."""
    return [c and c._replace(length=begin, filled=filled) for c in first_sequences(caches, batch)]


class MaskedOuter(Outer):
    """Tokens are predicted at masked positions, in any order, given those that are known.

    Generation follows a cosine schedule, or another (`masked_counts`), over a random order; the
    tokens of one step are drawn together, independently given z, so likelihood is a bound and is
    stated with its steps. A member writes `_condition`.

    Arguments:
        tokens, features: N, D.
        mask_min, mask_std: the masked share is drawn from a normal(1, mask_std)
            truncated to [mask_min, 1].
        steps: of a walk, 1 … N; None is N.

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
        self.tokens, self.features = tokens, features
        self.mask_min, self.mask_std = mask_min, mask_std
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
        batch, both = c.shape[0], c if null is None else torch.cat([c, null])
        order = self.order(noise)
        x = c.new_zeros(batch, self.tokens, self.features)
        masked = masked_counts(self.tokens, self.check_steps(sampler.steps), sampler.mask_schedule)
        ends = [0, *(self.tokens - left for left in masked)]

        gap: NullOffset | None = None
        memory: TokenCache | None = None
        for s, left in enumerate(masked):
            if only is not None and s not in only:
                continue

            known, until = ends[s], ends[s + 1]
            # the release counts at least one token as unknown
            progress = 1 - max(left, 1) / self.tokens
            guided = null is not None and sampler.guides(progress)
            fresh = guided and not (gap and gap.covers(known, until))
            repeat, end = (
                (2, ends[min(s + sampler.null_refresh, len(masked))]) if fresh else (1, until)
            )
            now = x.repeat(repeat, 1, 1), both if fresh else c, order.repeat(repeat, 1), known, end
            z, memory = self._remembered(*now, memory, sampler.token_refresh)

            if fresh and sampler.null_refresh > 1:
                gap = NullOffset(known, z[batch:] - z[:batch])
            z, z_null = z[:batch, : until - known], z[batch:, : until - known] if fresh else None
            if guided and gap and z_null is None:
                z_null = z + gap.at(known, until)
            where = order[:, known:until]
            x = put(x, where, visit(z, z_null, where, progress))

        return x

    def _remembered(
        self,
        x: Tensor,
        c: Tensor,
        order: Tensor,
        known: int,
        end: int,
        memory: TokenCache | None,
        refresh: int,
    ) -> tuple[Tensor, TokenCache | None]:
        """z [B, m, context] of the tokens `known` … `end` of an order [B, N], and what
        the next step may use.
        """
        return self._condition(x, c, order[:, :known], order[:, known:end]), None

    def order(self, noise: Noise) -> Tensor:
        """A random order of the tokens for each of the noise [B]: [B, N]."""
        return noise.at(Stream.ORDER).permutation(self.tokens)

    def mask_ratios(self, noise: Noise, draw: int = 0) -> Tensor:
        """A draw of the truncated normal for each of the noise [B], by its inverse CDF:
        [B]. Draws are numbered.
        """
        low = torch.special.ndtr(
            torch.tensor((self.mask_min - 1) / self.mask_std, dtype=torch.float64)
        ).item()
        u = low + (0.5 - low) * noise.at(Stream.MASKED_SHARE).uniform(draw + 1)[..., draw]
        return (1 + self.mask_std * torch.special.ndtri(u)).clamp(max=1.0)

    def _condition(self, x: Tensor, c: Tensor, known: Tensor, where: Tensor) -> Tensor:
        """z [B, m, context] at `where` [B, m], given the tokens at `known` [B, n]."""
        raise NotImplementedError

    def check_steps(self, steps: int | None) -> int:
        steps = self.steps if steps is None else steps
        if not 1 <= steps <= self.tokens:
            raise ValueError(
                f"steps: {steps} does not fit; between 1 and the {self.tokens} tokens of an image"
            )
        return steps


class MaskedAR(MaskedOuter):
    """Bidirectional encoder and decoder over randomly masked tokens (MAR,
    arXiv 2406.11838, section 3.4).

    The encoder sees the C condition rows and the known tokens; the decoder sees all positions, a
    mask vector at the unknown ones. In training one ratio of the tokens is masked a batch, or a
    group of its images.

    Arguments:
        width: E; encoder_depth, decoder_depth: blocks; heads: must divide width.
        prefix: C ≥ 1, condition rows (64 as published).
        mask_min, mask_std, steps: see `MaskedOuter`.
        mask_group: images of a batch that share a masked ratio; 0 is the whole batch. The published
            models have 64, since each process draws a ratio for its 64 images. Beside a frozen
            outer model it is 0.
        positions: how a token's place is told to encoder and decoder: `learned` vectors,
            `sine` vectors, or `rotary` attention. Only the learned have a third set,
            added to z, as published.
        block: see `Block`.

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
        self.mask_group = mask_group
        require_at_least(
            1, width=width, encoder_depth=encoder_depth, decoder_depth=decoder_depth, prefix=prefix
        )
        self.width, self.prefix = width, prefix
        self.token_of = Linear(features, width)
        self.encoder_positions = positions_of(positions, prefix + tokens, width)
        self.decoder_positions = positions_of(positions, prefix + tokens, width)
        self.output_positions = positions_of(
            "learned" if positions == "learned" else "rotary", tokens, width
        )
        self.mask = LearnedVectors(1, width)
        norm = block.get("norm", layer)
        self.input_norm, self.encoder_norm, self.decoder_norm = (
            norm(width, True) for _ in range(3)
        )
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

    def _condition(self, x: Tensor, c: Tensor, known: Tensor, where: Tensor) -> Tensor:
        """z [B, m, E] at `where` [B, m], given the tokens at `known` [B, n]."""
        start, places = self.prefix, torch.arange(self.prefix + self.tokens, device=x.device)
        at = torch.cat([places[:start].expand(x.shape[0], -1), start + known], 1)
        y = torch.cat([c, self.token_of(take(x, known))], 1) + self.encoder_positions()[at]
        y, _ = self.encoder(self.input_norm(y), at=at if self.rotary else None)
        y = self.embed(self.encoder_norm(y))
        everywhere = self.mask().expand(x.shape[0], self.tokens, -1)
        y = (
            torch.cat([y[:, :start], put(everywhere, known, y[:, start:])], 1)
            + self.decoder_positions()
        )
        y, _ = self.decoder(y, at=places if self.rotary else None, where=start + where)

        return self.decoder_norm(y) + self.output_positions()[where]

    def _remembered(
        self,
        x: Tensor,
        c: Tensor,
        order: Tensor,
        known: int,
        end: int,
        memory: TokenCache | None,
        refresh: int,
    ) -> tuple[Tensor, TokenCache | None]:
        """As `_condition`; with a token cache, only at tokens that became known
        since, and at those of z.
        """
        if refresh == 1:
            return super()._remembered(x, c, order, known, end, memory, refresh)
        (batch, tokens), start = order.shape, self.prefix
        if memory is None or memory.room < batch:
            room = batch, start + tokens
            memory = TokenCache(self.encoder.caches(*room), self.decoder.caches(*room), batch)
        partly = memory.serves(batch, refresh)
        first, middle, after = (start + memory.known if partly else 0), start + known, start + end
        last = after if partly else start + tokens
        at = torch.cat([torch.arange(start, device=x.device).expand(batch, -1), start + order], 1)

        y = (
            torch.cat([c, self.token_of(take(x, order[:, :known]))], 1)
            + self.encoder_positions()[at[:, :middle]]
        )
        y, places = self.input_norm(y[:, first:]), at[:, first:middle] if self.rotary else None
        y, _ = self.encoder(y, caches=rewound(memory.encoder, batch, first), at=places)
        y = torch.cat(
            [self.embed(self.encoder_norm(y)), self.mask().expand(batch, last - middle, -1)], 1
        )
        y, places = (
            y + self.decoder_positions()[at[:, first:last]],
            at[:, first:last] if self.rotary else None,
        )
        asked = torch.arange(middle - first, after - first, device=x.device).expand(batch, -1)
        y, _ = self.decoder(
            y, caches=rewound(memory.decoder, batch, first, start + tokens), at=places, where=asked
        )
        z = self.decoder_norm(y) + self.output_positions()[order[:, known:end]]
        return z, memory._replace(batch=batch, known=known, age=memory.age + 1 if partly else 1)


class MaskedStack(MaskedOuter):
    """One stack of blocks over condition rows and all positions, a mask vector at the unknown ones
    (FractalMAR, arXiv 2502.17437, released code).

    In training every image has a masked share of its own. A walk of m positions is asked of each
    image: those of its masked set in a random order, again from the start where they are fewer; so
    the mean over them is an unbiased estimate of the mean over the masked set.

    Arguments:
        width: E; depth: blocks; heads: must divide width.
        prefix: C ≥ 1, condition rows.
        embed: whether the condition rows pass through a linear map first.
        neighbours: whether z is not only a position's own output, but those of its neighbours
            too, zero outside the image: left, below, right, above, own, [5 E]. Tokens must be a
            square in raster order.
        mask_min, mask_std, steps: see `MaskedOuter`.
        positions: how a row's place is told: a `learned` vector, a `sine` vector,
            or `rotary` attention.
        block: see `Block`.

    Raises:
        ValueError: if a number is outside its range, or the neighbours of tokens that are no
            square are asked for.
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
        self.width, self.prefix, self.neighbours = width, prefix, neighbours
        self.token_of, self.mask = Linear(features, width), LearnedVectors(1, width)
        self.row_of = Linear(width, width) if embed else nn.Identity()
        self.positions = positions_of(positions, prefix + tokens, width)
        norm = block.get("norm", layer)
        self.input_norm, self.norm = norm(width, True), norm(width, True)
        self.blocks = Blocks(Block(width, heads, **block) for _ in range(depth))
        self.rotary = is_rotary(positions, width, heads)

    @property
    def context(self) -> int:
        return (5 if self.neighbours else 1) * self.width

    def forward(
        self, x: Tensor, c: Tensor, noise: Noise, ratio: float | None = None
    ) -> tuple[Tensor, Tensor]:
        count = (
            (self.tokens * self.mask_ratios(noise))
            .ceil()
            .long()
            .clamp(1, self.tokens)
            .unsqueeze(-1)
        )
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

    def _condition(self, x: Tensor, c: Tensor, known: Tensor, where: Tensor) -> Tensor:
        masked = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device).scatter(1, known, False)
        return take(self.everywhere(x, c, masked), where)


OUTERS: dict[str, type[Outer]] = {
    "causal": CausalAR,
    "random_causal": RandomCausalAR,
    "masked": MaskedAR,
    "masked_stack": MaskedStack,
}
OuterFactory = Callable[[int, int], Outer]
"""Called as `maker(tokens N, features D)`."""
