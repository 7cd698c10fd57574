"""ARINAR: a bi-level autoregressive image model (arXiv 2503.02883). Read this first.

    c = labels(y)                         the condition of an image
    z = outer(tokens known so far, c)     the condition of the next tokens
    p(token | z) = inner(z)               a density, itself autoregressive over the token's features

    train      x [B, N, D] ─outer→ z [B, m, E], where [B, m] ─inner→ density ─loss(x[where])→
               [B, m] ─mean→ scalar
    likelihood Σ over the steps of a walk that takes the true tokens
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
        classes: Number of classes.
        width: E.
        rows: C, all alike, as published.
        drop: Probability that training replaces a label by the null, in [0, 1).

    Raises:
        ValueError: if drop is outside [0, 1).
    """

    def __init__(self, classes: int, width: int, rows: int, /, *, drop: float = 0.1) -> None:
        super().__init__()
        if not 0 <= drop < 1:
            raise ValueError(f"drop: {drop} is outside [0, 1)")
        self.rows = rows
        self.drop = drop
        self.classes = LearnedVectors(classes, width)
        self.nothing = LearnedVectors(1, width)

    def forward(self, y: Tensor, noise: Noise | None = None) -> Tensor:
        """c [B, C, E]; noise, in training, replaces some labels by the null."""
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
        tokens: N.
        features: D.
        classes: Number of classes.
        outer: Maker of the outer model, called as outer(N, D).
        inner: Maker of the inner model, any head, called as inner(E, D).
        drop: Share of labels that training replaces by the null, in [0, 1).
        seed: Seed of the initial weights.
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
        """The kind of `log_prob`: the weaker of those of outer and inner model."""
        return bilevel.weaker_likelihood(self.outer.likelihood, self.inner.likelihood)

    def mask_ratio(self, noise: Noise, group: int = 0) -> float | None:
        """The masked ratio that `loss` draws for a batch, from the noise [1] of its first image.

        None where images share no ratio; with a `mask_group`, the ratio of group number `group`.
        """
        return self.outer.mask_ratio(noise.at(Stream.ORDER), group)

    def loss(self, x: Tensor, y: Tensor, noise: Noise, ratio: float | None = None) -> Tensor:
        """Mean training loss of the predicted tokens of x [B, N, D], in nats a token; y, noise [B].

        For a part of a batch, `ratio` is the `mask_ratio` of the whole batch.
        """
        z, where = self.conditions(x, y, noise, ratio)
        return self.inner_loss(z, take(x, where), where, noise)

    def conditions(
        self, x: Tensor, y: Tensor, noise: Noise, ratio: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """z [B, m, E] of the tokens that training predicts, and their places [B, m]; see `loss`."""
        c = self.labels(y, noise.at(Stream.LABELS))
        return self.outer(x, c, noise.at(Stream.ORDER), ratio)

    def inner_loss(self, z: Tensor, tokens: Tensor, where: Tensor, noise: Noise) -> Tensor:
        """Mean training loss, in nats a token, of tokens [B, m, D] at where [B, m]; z [B, m, E]."""
        return self.inner(z).loss(tokens, bilevel.token_noise(noise, where)).mean()

    def log_prob(
        self, x: Tensor, y: Tensor, noise: Noise, steps: int | None = None, refined: bool = False
    ) -> Tensor:
        """log p(x | y) in nats an image, [B]: exact, or a bound or estimate (see `likelihood`).

        Arguments:
            steps: Steps of the walk that a bound belongs to; None is the outer model's own number.
            refined: Whether a numerical integration takes twice its steps.
        """

        def term(z: Tensor, where: Tensor) -> Tensor:
            density = self.inner(z)
            if refined:
                density = density.refined()
            return density.log_prob(take(x, where), bilevel.token_noise(noise, where))

        return bilevel.sum_over_walk(self.outer, x, self.labels(y), noise, steps, term)

    def log_prob_terms(self, x: Tensor, y: Tensor, noise: Noise, steps: int | None) -> Tensor:
        """The terms of `log_prob`, in one walk: log p of each feature given those before it,
        [B, N, D]; of each token, [B, N, 1], where the inner model has no density of a feature, or
        orders features at random.
        """
        by_feature = "pit" in self.inner.capabilities and self.inner.likelihood == "exact"

        def term(z: Tensor, tokens: Tensor, where: Tensor) -> Tensor:
            density = self.inner(z)
            if by_feature:
                return density.by_feature(tokens)
            return density.log_prob(tokens, bilevel.token_noise(noise, where)).unsqueeze(-1)

        return bilevel.scatter_over_walk(self.outer, x, self.labels(y), noise, steps, term)

    def log_interval(
        self,
        x: Tensor,
        y: Tensor,
        low: Tensor,
        high: Tensor,
        noise: Noise,
        steps: int | None = None,
    ) -> Tensor:
        """log Π P(low < X < high | features before) in nats an image, [B]; low, high [B, N, D]."""

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
        """term(density, tokens) of each step of a walk, at the tokens' places: [B, N, D]."""

        def inner_term(z: Tensor, tokens: Tensor, where: Tensor) -> Tensor:
            return term(self.inner(z), tokens)

        return bilevel.scatter_over_walk(self.outer, x, self.labels(y), noise, steps, inner_term)

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
        """Tokens [B, N, D] for labels y and noise [B]; truncated conditionals of each image [B].

        Arguments:
            prefix: see `bilevel.generate_tokens`.
            observe: see `bilevel.generate_tokens`.
            only: see `bilevel.generate_tokens`.
        """

        def density(z: Tensor, z_null: Tensor | None, where: Tensor, progress: float) -> Density:
            p_null = None if z_null is None else self.inner(z_null)
            return sampler.apply(self.inner(z), p_null, progress)

        null = self.labels.null(y.shape[0]) if sampler.guidance != 1 else None
        return bilevel.generate_tokens(
            self.outer, self.labels(y), null, noise, sampler, density, prefix, observe, only
        )
