"""Walks of a pair of an outer and an inner model. `Arinar` is such a pair on an image, `Nested` on
one token.

    sum_over_walk        Σ over the steps of a term of the true tokens: likelihood
    scatter_over_walk    the terms at the places of their tokens
    generate_tokens      each step drawn from its density

Letters: B images (or tokens), N tokens (or sub-tokens), m of them at a time, D features, C
prefix rows, E width of z.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from .density import Density
from .inner.head import Likelihood
from .noise import Noise, Stream
from .outer import Outer, put, take
from .sampler import Sampler

_ORDER = ("none", "surrogate", "estimate", "bound", "exact")


def weaker_likelihood(*likelihoods: Likelihood) -> Likelihood:
    """The kind of a pair's likelihood, from those of its parts."""
    return min(likelihoods, key=_ORDER.index)


def token_noise(noise: Noise, where: Tensor) -> Noise:
    """The noise [B, m] of tokens at where [B, m], from the noise [B] of their images."""
    return noise.at(Stream.TOKENS).at(where)


def sum_over_walk(
    outer: Outer,
    x: Tensor,
    c: Tensor,
    noise: Noise,
    steps: int | None,
    term: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Σ of term(z [B, m, E], where [B, m]) → [B, m] over a walk of the true x [B, N, D]: [B]."""
    terms = [term(z, where).sum(-1) for z, where in outer.conditions(x, c, noise, steps)]
    return torch.stack(terms).sum(0)


def scatter_over_walk(
    outer: Outer,
    x: Tensor,
    c: Tensor,
    noise: Noise,
    steps: int | None,
    term: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """term(z [B, m, E], tokens [B, m, D], where [B, m]) → [B, m, d] of each step of such a walk, at
    the tokens' places: [B, N, d]; d is the term's own.
    """
    terms = []
    for z, where in outer.conditions(x, c, noise, steps):
        terms.append((where, term(z, take(x, where), where)))

    result = x.new_zeros(*x.shape[:2], terms[0][1].shape[-1])
    for where, values in terms:
        result = put(result, where, values)
    return result


class Observer:
    """The observer of a generation, called before and after every draw of a step."""

    def before_draw(self) -> None:
        """Called when the outer model has computed z of a step."""

    def after_draw(self, z: Tensor, where: Tensor, drawn_from: Density, x: Tensor) -> None:
        """Called when x [B, m, D] at where [B, m] is drawn from the density of z [B, m, E]."""


UNOBSERVED = Observer()


def generate_tokens(
    outer: Outer,
    c: Tensor,
    null: Tensor | None,
    noise: Noise,
    sampler: Sampler,
    density: Callable[[Tensor, Tensor | None, Tensor, float], Density],
    prefix: tuple[Tensor, float] | None = None,
    observe: Observer = UNOBSERVED,
    only: Collection[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Tokens [B, N, D] drawn from density(z, z_null, where, progress), and truncated conditionals
    of each image [B].

    Arguments:
        prefix: (x [B, N, D], share). The first steps take their tokens from x, until `share` of
            all tokens is known.
        observe: Observer of the steps.
        only: Steps that are computed, see `Outer.walk`.
    """
    truncated = torch.zeros_like(noise.key)
    done = 0

    def visit(z: Tensor, z_null: Tensor | None, where: Tensor, progress: float) -> Tensor:
        nonlocal truncated, done
        done += where.shape[1]
        if prefix is not None and done <= prefix[1] * prefix[0].shape[1] + 1e-9:
            return take(prefix[0], where)

        observe.before_draw()
        drawn_from = density(z, z_null, where, progress)
        x, cut = drawn_from.draw(token_noise(noise, where))
        x = x.to(z.dtype)
        observe.after_draw(z, where, drawn_from, x)

        truncated = truncated + cut.sum(-1)
        return x

    return outer.walk(c, null, visit, noise, sampler, only), truncated
