"""A whole bi-level model as a head: p(token | z) = Π p(sub-token | sub-tokens before it, z)
(arXiv 2502.17437).

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
        outer: Outer model over the n sub-tokens of D/n features.
        inner: Inner model of a sub-token, any head.
        tokens: n, sub-tokens of a token, ≥ 1, a divisor of D.
        channels: Channels of a token that is a square image (channels, then rows, then columns),
            ≥ 1: sub-tokens are square patches in raster order. null splits the D features in their
            order.
        rows: Rows of equal width in z, ≥ 1, each mapped to the same number of prefix rows; a
            divisor of E and of the prefix rows without the guiding pixel's.
        guide: Model of the guiding pixel, a `colour`, which takes one prefix row and needs
            `channels`; null is none.
        guide_weight: Weight of the guiding pixel's loss; as published the number of pixels, since
            each level's loss is a mean.

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

        self.tokens = tokens
        self.channels = channels
        self.rows = rows
        self.guide_weight = guide_weight
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
        self.capabilities = self.inner.capabilities - {"together"}
        if guide is not None:  # the guiding pixel is no feature
            self.capabilities -= {"pit"}

    def _add_guide(self, guide: HeadFactory, context: int) -> None:
        if not self.channels:
            raise ValueError("guide: needs channels, to know what a colour is")
        head = guide(context, self.channels)
        if not isinstance(head, ColourAR):
            raise ValueError("guide: must be of kind colour, whose values have a probability")
        self.guide = head
        self.guide_of = Linear(self.channels, self.outer.width)

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
        x = x.unflatten(-1, (self.channels, self.patch, self.patch))
        x = x.unflatten(1, (self.side, self.side))
        return x.permute(0, 3, 1, 4, 2, 5).flatten(1)

    def condition(self, z: Tensor, guide: Tensor | None) -> Tensor:
        """z [M, E] and the guiding pixel [M, channels] → prefix rows [M, C, width of the outer]."""
        rows = self.row_of(z.unflatten(-1, (self.rows, -1)))
        rows = rows.reshape(z.shape[0], -1, self.outer.width)
        return rows if guide is None else torch.cat([self.guide_of(guide).unsqueeze(1), rows], 1)

    def mean_colour(self, x: Tensor) -> Tensor | None:
        """The guiding pixel of tokens [M, D], not rounded: [M, channels]; None without a guide."""
        if self.guide is None or self.channels is None:
            return None
        return x.unflatten(-1, (self.channels, -1)).mean(-1)


def _sides(features: int, tokens: int, channels: int) -> tuple[int, int]:
    """Patches on a side of the token, and pixels on a side of a patch."""
    side = math.isqrt(tokens)
    patch = math.isqrt(features // max(channels, 1) // tokens)
    if channels < 1 or side**2 != tokens or patch**2 * tokens * channels != features:
        raise ValueError(
            f"channels: {features} features are no image of {channels} channels in {tokens} "
            "square patches"
        )
    return side, patch


@dataclass(frozen=True)
class NestedDensity(Conditional[Nested]):
    """The density of a Nested: sub-token after sub-token.

    With a random order the likelihood is that of the noise's order; without noise, as in
    `log_interval`, that of one constant order.
    """

    def log_prob(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        def term(p: Density, part_of: Callable[[Tensor], Tensor], noise: Noise) -> Tensor:
            return p.log_prob(part_of(x), noise)

        return self._sum_over_walk(x, noise, term)

    def log_interval(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        def term(p: Density, part_of: Callable[[Tensor], Tensor], noise: Noise) -> Tensor:
            return p.log_interval(part_of(x), part_of(low), part_of(high))

        return self._sum_over_walk(x, None, term)

    def by_feature(self, x: Tensor) -> Tensor:
        return self._scatter_over_walk(x, lambda p, tokens: p.by_feature(tokens))

    def pit(self, x: Tensor) -> Tensor:
        return self._scatter_over_walk(x, lambda p, tokens: p.pit(tokens))

    def truncated(self, x: Tensor) -> Tensor:
        return self._scatter_over_walk(x, lambda p, tokens: p.truncated(tokens))

    def loss(self, x: Tensor, noise: Noise) -> Tensor:
        """n times the mean loss of the sub-tokens that the outer predicts, in nats a token.

        With a masked outer this is one term of the mean over orders, weighted by the distribution
        of the masked ratio: an unbiased bound of -log p where all counts are equally likely
        (arXiv 2110.02037), otherwise a surrogate.
        """
        if self.null is not None or self.temperature != 1:
            raise ValueError("a guided or tempered density has no training loss")

        model = self.model
        z = self._contexts()
        flat = x.reshape(-1, x.shape[-1])
        noise = self._flat(noise)
        tokens = model.split(flat)
        guide = model.mean_colour(flat)

        z_next, where = model.outer(tokens, model.condition(z, guide), noise.at(Stream.ORDER))
        density = self._density(z_next, None, where)
        losses = density.loss(take(tokens, where), bilevel.token_noise(noise, where))
        loss = model.tokens * losses.mean(-1)

        if guide is not None:
            loss = loss + model.guide_weight * self._guide(z).loss(guide, noise.at(Stream.GUIDE))

        return loss.reshape(x.shape[:-1])

    def sample(self, noise: Noise) -> Tensor:
        return self.draw(noise)[0]

    def draw(self, noise: Noise) -> tuple[Tensor, Tensor]:
        """The guiding pixel, then the walk over the sub-tokens."""
        model = self.model
        z = self._contexts()
        flat_noise = self._flat(noise)
        branches = z.shape[0] // flat_noise.key.shape[0]

        guide = None
        truncated = torch.zeros_like(flat_noise.key)
        if model.guide is not None:
            guide, truncated = self._guide(z).draw(flat_noise.at(Stream.GUIDE))
            guide = guide.to(z.dtype).repeat(branches, 1)
        c, *null = model.condition(z, guide).chunk(branches)

        def density(z: Tensor, z_null: Tensor | None, where: Tensor, progress: float) -> Density:
            return self._density(z, z_null, where)

        c_null = null[0] if null else None
        x, cut = bilevel.generate_tokens(model.outer, c, c_null, flat_noise, PLAIN, density)

        shape = noise.key.shape
        return model.join(x).reshape(*shape, -1), (truncated + cut).reshape(shape)

    def _flat(self, noise: Noise | None) -> Noise:
        """The noise as [M]; None becomes the key 0."""
        key = self.z.new_zeros((), dtype=torch.long) if noise is None else noise.key
        return Noise(key.expand(self.z.shape[:-1]).reshape(-1))

    def _density(self, z: Tensor, z_null: Tensor | None, where: Tensor) -> Density:
        """The density of the sub-tokens at where [M, m], given the outer's z [M, m, E']."""
        index = torch.as_tensor(self.index, device=where.device).expand(self.z.shape[:-1])
        index = index.reshape(-1, 1) * self.model.tokens + where
        p_null = None if z_null is None else self.model.inner(z_null, index)
        return self._part(self.model.inner(z, index), p_null)

    def _guide(self, z: Tensor) -> WeightedChain:
        """The density of the guiding pixel, from the contexts [M, E] or [2M, E]."""
        assert self.model.guide is not None
        z, *null = z.chunk(1 if self.null is None else 2)
        p_null = self.model.guide(null[0]) if null else None
        density = self._part(self.model.guide(z), p_null)
        assert isinstance(density, WeightedChain)
        return density

    def _scatter_over_walk(self, x: Tensor, term: Callable[[Density, Tensor], Tensor]) -> Tensor:
        """term(density, sub-tokens) of the walk of `log_interval`, at the features' places:
        [*, D] → [*, D].
        """
        model = self.model
        if model.guide is not None:
            raise NotImplementedError(
                "a nested model with a guiding pixel is not walked one feature at a time"
            )

        z = self._contexts()
        flat = x.reshape(-1, x.shape[-1])
        rows = flat.shape[0]
        branches = z.shape[0] // rows

        def branch_term(z: Tensor, tokens: Tensor, where: Tensor) -> Tensor:
            z, *null = z.chunk(branches)
            density = self._density(z, null[0] if null else None, where[:rows])
            return term(density, tokens[:rows]).repeat(branches, 1, 1)

        tokens = model.split(flat).repeat(branches, 1, 1)
        noise = self._flat(None).repeat(branches)
        c = model.condition(z, None)
        values = bilevel.scatter_over_walk(model.outer, tokens, c, noise, None, branch_term)

        return model.join(values[:rows]).reshape(x.shape)

    def _sum_over_walk(
        self,
        x: Tensor,
        noise: Noise | None,
        term: Callable[[Density, Callable[[Tensor], Tensor], Noise], Tensor],
    ) -> Tensor:
        """Σ of term(density, part_of, noise) over a walk, and log P of the guiding pixel: [*].

        part_of(x) are the sub-tokens of x [*, D] that a step predicts.
        """
        model = self.model
        z = self._contexts()
        flat = x.reshape(-1, x.shape[-1])
        flat_noise = self._flat(noise)
        rows = flat.shape[0]
        branches = z.shape[0] // rows

        guide = model.mean_colour(flat)
        total = flat.new_zeros(rows)
        if guide is not None and model.guide is not None:
            guide = model.guide.nearest(guide).to(flat.dtype)
            total = total + self._guide(z).log_mass(guide)
            guide = guide.repeat(branches, 1)

        def branch_term(z: Tensor, where: Tensor) -> Tensor:
            z, *null = z.chunk(branches)
            where = where[:rows]

            def part_of(y: Tensor) -> Tensor:
                return take(model.split(y.reshape(-1, y.shape[-1])), where)

            density = self._density(z, null[0] if null else None, where)
            terms = term(density, part_of, bilevel.token_noise(flat_noise, where))
            return terms.repeat(branches, 1)

        tokens = model.split(flat).repeat(branches, 1, 1)
        c = model.condition(z, guide)
        noise = flat_noise.repeat(branches)
        sums = bilevel.sum_over_walk(model.outer, tokens, c, noise, None, branch_term)

        return (total + sums[:rows]).reshape(x.shape[:-1])
