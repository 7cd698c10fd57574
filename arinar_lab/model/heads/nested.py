"""A whole bi-level model as a head: p(token | z) = Π p(sub-token | sub-tokens before it,
z) (arXiv 2502.17437).

    token [*, D] ─split→ n sub-tokens [*, n, D/n] ─outer(known sub-tokens, rows of z)→ z'
                 ─inner→ density ─Σ→ [*]

The fractal model nests twice, from patches to smaller patches to pixels. There the mean colour of a
patch, the guiding pixel g, is drawn first and stands in front: p(x) ≥ p(g(x)) · p(x | g(x)), with g
rounded to its 8 bits.

Letters: * batch (M when flat), D features, n sub-tokens, m of them at a time, E width of z, C
prefix rows of the outer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import bilevel
from ..density import Density
from ..inner.conditional import Conditional
from ..inner.head import Head, HeadFactory
from ..layers import Linear, require_at_least
from ..noise import Noise, Stream
from ..outer import OuterFactory, take
from ..sampler import PLAIN
from .colour import ColourAR, WeightedChain


class Nested(Head):
    """An outer and an inner model on the parts of one token.

    Arguments:
        outer: maker of the outer model over sub-tokens, called as outer(n, D/n).
        inner: maker of the inner model, called as inner(width of the outer's z, D/n,
            groups · n): any head.
        tokens: n ≥ 1.
        channels: None splits the D features in their order. A number says that a token is a square
            image of so many channels (channels, then rows, then columns), and its sub-tokens are
            square patches in raster order.
        rows: z consists of so many rows of equal width; one linear map makes prefix rows of each.
            Must divide E and C.
        guide: maker of the model of the guiding pixel, a `colour`; it needs channels and
            takes one of the C rows.
        guide_weight: of its training loss. As published, each level's loss is a mean, so
            the number of pixels.

    Raises:
        ValueError: if a number does not fit the token.
    """

    def __init__(
        self,
        context: int,
        features: int,
        groups: int = 1,
        /,
        *,
        outer: OuterFactory,
        inner: HeadFactory,
        tokens: int = 2,
        channels: int | None = None,
        rows: int = 1,
        guide: HeadFactory | None = None,
        guide_weight: float = 1.0,
    ) -> None:
        super().__init__()
        require_at_least(1, tokens=tokens, rows=rows)
        if features % tokens:
            raise ValueError(f"tokens: {tokens} does not divide the {features} features of a token")
        self.tokens, self.channels, self.rows, self.guide_weight = (
            tokens,
            channels,
            rows,
            guide_weight,
        )
        self.side, self.patch = _sides(features, tokens, channels) if channels else (0, 0)
        self.outer = outer(tokens, features // tokens)
        self.inner = inner(self.outer.context, features // tokens, groups * tokens)

        free = self.outer.prefix - (guide is not None)
        if context % rows or free < 1 or free % rows:
            raise ValueError(
                f"rows: {rows} does not divide the width {context} of z and the {free} "
                "rows of the outer"
            )

        self.row_of = Linear(context // rows, free // rows * self.outer.width)
        self.guide: ColourAR | None = None
        if guide is not None:
            self._add_guide(guide, context)
        self.likelihood = bilevel.weaker_likelihood(
            self.inner.likelihood, self.outer.likelihood, "bound" if guide else "exact"
        )
        self.integers = self.inner.integers
        # the guiding pixel is no feature
        self.capabilities = self.inner.capabilities - {"together"} - ({"pit"} if guide else set())

    def _add_guide(self, guide: HeadFactory, context: int) -> None:
        if not self.channels:
            raise ValueError("guide: needs channels, to know what a colour is")
        made = guide(context, self.channels)
        if not isinstance(made, ColourAR):
            raise ValueError("guide: must be of kind colour, whose values have a probability")
        self.guide, self.guide_of = made, Linear(self.channels, self.outer.width)

    def forward(self, h: Tensor, index: Tensor | int = 0) -> NestedDensity:
        return NestedDensity(self, h, index)

    def fit(self, x: Tensor) -> None:
        """Fit the inner model on the sub-tokens: x [n, groups, D]."""
        self.inner.fit(self.split(x.flatten(0, 1)).unflatten(0, x.shape[:2]).flatten(1, 2))

    @property
    def needs_fit(self) -> bool:
        return self.inner.needs_fit

    def split(self, x: Tensor) -> Tensor:
        """Tokens [M, D] → sub-tokens [M, n, D/n]."""
        if not self.channels:
            return x.unflatten(-1, (self.tokens, -1))
        x = x.unflatten(-1, (self.channels, self.side, self.patch, self.side, self.patch))
        return x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def join(self, x: Tensor) -> Tensor:
        """Sub-tokens [M, n, D/n] → tokens [M, D]."""
        if not self.channels:
            return x.flatten(1)
        x = x.unflatten(-1, (self.channels, self.patch, self.patch)).unflatten(
            1, (self.side, self.side)
        )
        return x.permute(0, 3, 1, 4, 2, 5).flatten(1)

    def condition(self, z: Tensor, guide: Tensor | None) -> Tensor:
        """z [M, E] and the guiding pixel [M, channels] → prefix rows [M, C, width of the outer]."""
        rows = self.row_of(z.unflatten(-1, (self.rows, -1))).reshape(
            z.shape[0], -1, self.outer.width
        )
        return rows if guide is None else torch.cat([self.guide_of(guide).unsqueeze(1), rows], 1)

    def mean_colour(self, x: Tensor) -> Tensor | None:
        """The guiding pixel of tokens [M, D], not rounded: [M, channels]; None without a guide."""
        return (
            x.unflatten(-1, (self.channels, -1)).mean(-1) if self.guide and self.channels else None
        )


def _sides(features: int, tokens: int, channels: int) -> tuple[int, int]:
    """How many patches a side of the token has, and how many pixels a side of a patch."""
    side, pixels = math.isqrt(tokens), features // max(channels, 1) // tokens
    patch = math.isqrt(pixels)
    if channels < 1 or side**2 != tokens or patch**2 * tokens * channels != features:
        raise ValueError(
            f"channels: {features} features are no image of {channels} channels in {tokens} "
            "square patches"
        )
    return side, patch


@dataclass(frozen=True)
class NestedDensity(Conditional[Nested]):
    """The density of a Nested: sub-token after sub-token.

    With a random order the likelihood is that of the order that `noise` gives; without noise, as in
    `log_interval`, of one order that never changes.
    """

    def log_prob(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        return self._answered(
            x, noise, lambda p, where, tokens, own: p.log_prob(take(tokens(x), where), own)
        )

    def log_interval(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        def term(
            p: Density, where: Tensor, tokens: Callable[[Tensor], Tensor], own: Noise
        ) -> Tensor:
            return p.log_interval(*(take(tokens(end), where) for end in (x, low, high)))

        return self._answered(x, None, term)

    def by_feature(self, x: Tensor) -> Tensor:
        return self._placed(x, lambda p, t: p.by_feature(t))

    def pit(self, x: Tensor) -> Tensor:
        return self._placed(x, lambda p, t: p.pit(t))

    def truncated(self, x: Tensor) -> Tensor:
        return self._placed(x, lambda p, t: p.truncated(t))

    def loss(self, x: Tensor, noise: Noise) -> Tensor:
        """n times the mean loss of the sub-tokens that the outer predicts, in nats a token.

        With a masked outer this is one term of the mean over orders, reweighted by how the masked
        share is drawn: an unbiased bound of -log p where all counts are equally likely
        (arXiv 2110.02037), otherwise a surrogate.
        """
        if self.null is not None or self.temperature != 1:
            raise ValueError("a guided or tempered density has no training loss")

        model, z, flat, noise = (
            self.model,
            self._contexts(),
            x.reshape(-1, x.shape[-1]),
            self._flat(noise),
        )
        tokens, guide = model.split(flat), model.mean_colour(flat)
        z_next, where = model.outer(tokens, model.condition(z, guide), noise.at(Stream.ORDER))
        loss = self._density(z_next, None, where).loss(
            take(tokens, where), bilevel.token_noise(noise, where)
        )
        loss = model.tokens * loss.mean(-1)

        if guide is not None:
            loss = loss + model.guide_weight * self._guide(z).loss(guide, noise.at(Stream.GUIDE))

        return loss.reshape(x.shape[:-1])

    def sample(self, noise: Noise) -> Tensor:
        return self.draw(noise)[0]

    def draw(self, noise: Noise) -> tuple[Tensor, Tensor]:
        """The guiding pixel, then the walk over the sub-tokens."""
        model, z, own, guide = self.model, self._contexts(), self._flat(noise), None
        branches = z.shape[0] // own.key.shape[0]
        truncated = torch.zeros_like(own.key)
        if model.guide is not None:
            guide, truncated = self._guide(z).draw(own.at(Stream.GUIDE))
            guide = guide.to(z.dtype).repeat(branches, 1)
        c, *null = model.condition(z, guide).chunk(branches)

        def density(z: Tensor, z_null: Tensor | None, where: Tensor, progress: float) -> Density:
            return self._density(z, z_null, where)

        x, cut = bilevel.generate_tokens(
            model.outer, c, null[0] if null else None, own, PLAIN, density
        )
        shape = noise.key.shape
        return model.join(x).reshape(*shape, -1), (truncated + cut).reshape(shape)

    def _flat(self, noise: Noise | None) -> Noise:
        """The noise as [M]; none is that of the key 0."""
        key = self.z.new_zeros((), dtype=torch.long) if noise is None else noise.key
        return Noise(key.expand(self.z.shape[:-1]).reshape(-1))

    def _density(self, z: Tensor, z_null: Tensor | None, where: Tensor) -> Density:
        """Of the sub-tokens at where [M, m], given the outer's z [M, m, E']."""
        index = (
            torch.as_tensor(self.index, device=where.device)
            .expand(self.z.shape[:-1])
            .reshape(-1, 1)
        )
        index = index * self.model.tokens + where

        return self._part(
            self.model.inner(z, index), None if z_null is None else self.model.inner(z_null, index)
        )

    def _guide(self, z: Tensor) -> WeightedChain:
        """Of the guiding pixel, from the contexts [M, E] or [2M, E]."""
        assert self.model.guide is not None
        parts = z.chunk(1 if self.null is None else 2)
        density = self._part(
            self.model.guide(parts[0]), None if self.null is None else self.model.guide(parts[1])
        )
        assert isinstance(density, WeightedChain)
        return density

    def _placed(self, x: Tensor, term: Callable[[Density, Tensor], Tensor]) -> Tensor:
        """term(density, sub-tokens) of the walk that `log_interval` takes, at the features'
        places: [*, D] → [*, D].
        """
        model, z, flat = self.model, self._contexts(), x.reshape(-1, x.shape[-1])
        if model.guide is not None:
            raise NotImplementedError(
                "a nested model with a guiding pixel is not walked one feature at a time"
            )
        rows, branches = flat.shape[0], z.shape[0] // flat.shape[0]

        def each(z: Tensor, t: Tensor, where: Tensor) -> Tensor:
            (z, *null), where = z.chunk(branches), where[:rows]
            return term(self._density(z, null[0] if null else None, where), t[:rows]).repeat(
                branches, 1, 1
            )

        known, own = model.split(flat).repeat(branches, 1, 1), self._flat(None).repeat(branches)
        result = bilevel.scatter_over_walk(
            model.outer, known, model.condition(z, None), own, None, each
        )
        return model.join(result[:rows]).reshape(x.shape)

    def _answered(
        self,
        x: Tensor,
        noise: Noise | None,
        term: Callable[[Density, Tensor, Callable[[Tensor], Tensor], Noise], Tensor],
    ) -> Tensor:
        """Σ of term(density, where, how a token is split, noise) over the walk, and log P of
        the guiding pixel: [*].
        """
        model, z, flat, own = (
            self.model,
            self._contexts(),
            x.reshape(-1, x.shape[-1]),
            self._flat(noise),
        )
        branches, guide = z.shape[0] // flat.shape[0], model.mean_colour(flat)
        total = flat.new_zeros(flat.shape[0])
        if guide is not None and model.guide is not None:
            guide = model.guide.nearest(guide).to(flat.dtype)
            total = total + self._guide(z).log_mass(guide)
            guide = guide.repeat(branches, 1)

        def split(y: Tensor) -> Tensor:
            return model.split(y.reshape(-1, y.shape[-1]))

        def each(z: Tensor, where: Tensor) -> Tensor:
            (z, *null), where = z.chunk(branches), where[: flat.shape[0]]
            density = self._density(z, null[0] if null else None, where)
            terms = term(density, where, split, bilevel.token_noise(own, where))
            return terms if not null else terms.repeat(branches, 1)

        c, known = model.condition(z, guide), split(x).repeat(branches, 1, 1)
        walked = bilevel.sum_over_walk(model.outer, known, c, own.repeat(branches), None, each)
        return (total + walked[: flat.shape[0]]).reshape(x.shape[:-1])
