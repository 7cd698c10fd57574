"""ARINAR: a bi-level autoregressive image model (arXiv 2503.02883). Read this first.

    c = labels(y)                         what image is wanted
    z = outer(tokens known so far, c)     a condition for the next tokens
    p(token | z) = inner(z)               a density, itself autoregressive over the token's features

    train      x [B, N, D] ─outer→ z [B, m, E], where [B, m] ─inner→ density ─loss(x[where])→
               [B, m] ─mean→ scalar
    likelihood Σ over the steps of the sampler's own walk, answered with the true tokens
    generate   outer.walk: … z ─inner, guided, tempered→ density ─draw→ x[where] …

Letters: B images, N tokens an image, m of them at a time, D features a token, E width of
z, C prefix rows of c.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from . import bilevel
from .density import Density
from .inner.head import Head, HeadFactory, Likelihood
from .layers import LearnedVectors, initialise
from .noise import Noise, Stream
from .outer import Outer, OuterFactory, take
from .packed_linear import on_packed_weights
from .sampler import Sampler


class LabelEmbedding(nn.Module):
    """Class labels y [B] become the condition c [B, C, E]; a learned null stands for no label.

    Arguments:
        classes: number of classes; width: E; rows: C, all alike, as published.
        drop: probability that training hides a label, so that the null is learned.

    Raises:
        ValueError: if drop is outside [0, 1).
    """

    def __init__(self, classes: int, width: int, rows: int, /, *, drop: float = 0.1) -> None:
        super().__init__()
        if not 0 <= drop < 1:
            raise ValueError(f"drop: {drop} is outside [0, 1)")
        self.rows, self.drop = rows, drop
        self.classes, self.nothing = LearnedVectors(classes, width), LearnedVectors(1, width)

    def forward(self, y: Tensor, noise: Noise | None = None) -> Tensor:
        """c [B, C, E]; with noise (in training) some labels are hidden."""
        c = self.classes()[y]
        if noise is not None:
            hidden = noise.uniform(1) < self.drop
            c = torch.where(hidden, self.nothing(), c)
        return c.unsqueeze(1).expand(-1, self.rows, -1)

    def null(self, batch: int) -> Tensor:
        """The null condition [B, C, E]."""
        return self.nothing().expand(batch, self.rows, -1)


class Arinar(nn.Module):
    """An outer and an inner model, trained, evaluated and sampled as one.

    Arguments:
        tokens, features, classes: N, D and the number of classes.
        outer: maker of the outer model, called as outer(N, D).
        inner: maker of the inner model, called as inner(E, D): any head.
        drop: share of labels hidden in training.
        seed: of the initial weights.
    """

    def __init__(
        self,
        tokens: int,
        features: int,
        classes: int,
        outer: OuterFactory,
        inner: HeadFactory,
        drop: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.outer: Outer = outer(tokens, features)
            self.inner: Head = inner(self.outer.context, features)
            self.labels = LabelEmbedding(classes, self.outer.width, self.outer.prefix, drop=drop)
            initialise(self, seed)

    @property
    def likelihood(self) -> Likelihood:
        """What `log_prob` is: the weaker of what outer and inner give."""
        return bilevel.weaker_likelihood(self.outer.likelihood, self.inner.likelihood)

    def mask_ratio(self, noise: Noise, group: int = 0) -> float | None:
        """What `loss` draws once for a batch, from the noise [1] of its first image: the masked
        share; None for no such.

        Where the outer model has a `mask_group`, that of one group of its images.
        """
        return self.outer.mask_ratio(noise.at(Stream.ORDER), group)

    def loss(self, x: Tensor, y: Tensor, noise: Noise, ratio: float | None = None) -> Tensor:
        """Mean training loss of the predicted tokens in nats a token.
        x [B, N, D], y [B], noise [B].

        Of a part of a batch it is told the `mask_ratio` of the whole.
        """
        z, where = self.conditions(x, y, noise, ratio)
        return self.inner_loss(z, take(x, where), where, noise)

    def conditions(
        self, x: Tensor, y: Tensor, noise: Noise, ratio: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """z [B, m, E] of the tokens that training predicts, and their places where [B, m].

        Arguments: of `loss`.
        """
        c = self.labels(y, noise.at(Stream.LABELS))
        return self.outer(x, c, noise.at(Stream.ORDER), ratio)

    def inner_loss(self, z: Tensor, tokens: Tensor, where: Tensor, noise: Noise) -> Tensor:
        """Mean training loss of tokens [B, m, D] at where [B, m] given z [B, m, E], in
        nats a token; noise [B].
        """
        return self.inner(z).loss(tokens, bilevel.token_noise(noise, where)).mean()

    def log_prob(
        self, x: Tensor, y: Tensor, noise: Noise, steps: int | None = None, refined: bool = False
    ) -> Tensor:
        """log p(x | y) in nats an image, [B]: exact, or a bound over the orders of `steps`
        steps (see `likelihood`).

        With `refined` an estimate is made with twice the steps of its integration.
        """

        def term(z: Tensor, where: Tensor) -> Tensor:
            density = self.inner(z).refined() if refined else self.inner(z)
            return density.log_prob(take(x, where), bilevel.token_noise(noise, where))

        return bilevel.sum_over_walk(self.outer, x, self.labels(y), noise, steps, term)

    def log_interval(
        self,
        x: Tensor,
        y: Tensor,
        low: Tensor,
        high: Tensor,
        noise: Noise,
        steps: int | None = None,
    ) -> Tensor:
        """log Π P(low < X < high | what precedes, as in x) in nats an image, [B]; low and
        high [B, N, D] like x.
        """

        def term(z: Tensor, where: Tensor) -> Tensor:
            return self.inner(z).log_interval(take(x, where), take(low, where), take(high, where))

        return bilevel.sum_over_walk(self.outer, x, self.labels(y), noise, steps, term)

    def by_place(
        self,
        x: Tensor,
        y: Tensor,
        noise: Noise,
        steps: int | None,
        term: Callable[[Density, Tensor], Tensor],
    ) -> Tensor:
        """term(density, tokens [B, m, D]) → [B, m, D] of each step of the walk, put at the
        tokens' places: [B, N, D].
        """
        return bilevel.scatter_over_walk(
            self.outer, x, self.labels(y), noise, steps, lambda z, t, where: term(self.inner(z), t)
        )

    @torch.no_grad()
    @on_packed_weights
    def generate(
        self,
        y: Tensor,
        noise: Noise,
        sampler: Sampler,
        prefix: tuple[Tensor, float] | None = None,
        observe: bilevel.Observer = bilevel.UNOBSERVED,
        only: Collection[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Tokens [B, N, D] for labels y [B] from the images' noise [B], and truncated
        conditionals of each image [B].

        Arguments:
            prefix, observe, only: see `bilevel.generate_tokens`.
        """

        def density(z: Tensor, z_null: Tensor | None, where: Tensor, progress: float) -> Density:
            return sampler.apply(
                self.inner(z), None if z_null is None else self.inner(z_null), progress
            )

        null = self.labels.null(y.shape[0]) if sampler.guidance != 1 else None
        return bilevel.generate_tokens(
            self.outer, self.labels(y), null, noise, sampler, density, prefix, observe, only
        )
