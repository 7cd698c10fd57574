"""A noise-driven generator of a whole token, trained with the energy score (arXiv 2505.07812).

    x = g(ε, z),  ε ~ N(0, 1)                                 one pass of the network draws a token
    loss = E|g(ε) - x|^β - ½ E|g(ε) - g(ε')|^β,  0 < β < 2    strictly proper: least where
                                                              g draws from p(x | z)

The second term keeps the draws apart; without it they would all be the median of x. The generator
has no density.

Letters: * batch, E width of the context, F features, I numbers of noise a token, R draws
a token in training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..density import Density
from ..inner.head import Head, Likelihood
from ..layers import require_at_least
from ..noise import Noise
from .conditioned import ConditionedMLP

_TINY = 1e-12  # least squared distance: the power β/2 has no gradient at 0


@dataclass(frozen=True)
class GeneratorDensity(Density):
    """The samples of a generator, guided and tempered; it has no density.

    Guidance extrapolates the context, z∅ + w(z - z∅); a temperature multiplies ε.

    Arguments:
        network: (ε [*, I], z [*, E]) → x [*, F].
        z: Contexts, [*, E].
        beta: β.
        draws: R.
        temperature: Factor of ε.
    """

    network: ConditionedMLP
    z: Tensor
    beta: float
    draws: int
    temperature: float = 1.0

    def tempered(self, t: float) -> GeneratorDensity:
        return replace(self, temperature=self.temperature * t)

    def guided(self, null: Density, weight: float, candidates: int = 0) -> GeneratorDensity:
        if not isinstance(null, GeneratorDensity):
            raise TypeError(
                f"the null of a generator must be a generator, not {type(null).__name__}"
            )
        if candidates:
            raise ValueError(
                "candidates: a generator cannot be guided by drawing candidates; use 0"
            )

        return self if weight == 1 else replace(self, z=torch.lerp(null.z, self.z, weight))

    def log_prob(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        raise NotImplementedError(
            "a generator trained with the energy score has no likelihood; compare its samples"
        )

    def loss(self, x: Tensor, noise: Noise) -> Tensor:
        """Unbiased estimate of the energy score by R draws: [*, F] → [*]."""
        noise = noise.at(torch.arange(self.draws, device=x.device)[(None,) * noise.key.dim()])
        drawn = self.network(noise.normal(self.network.inputs, self.z.dtype), self.z.unsqueeze(-2))
        drawn = drawn.to(x.dtype)  # [*, R, F], not in half precision: distances are small
        to_x = self._distance(drawn, x.unsqueeze(-2)).mean(-1)
        i, j = torch.triu_indices(self.draws, self.draws, 1, device=x.device)
        return to_x - 0.5 * self._distance(drawn[..., i, :], drawn[..., j, :]).mean(-1)

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        """|a - b|^β over the last axis."""
        return (a - b).square().sum(-1).clamp(min=_TINY) ** (self.beta / 2)

    def sample(self, noise: Noise) -> Tensor:
        epsilon = noise.normal(self.network.inputs, self.z.dtype)
        return self.network(self.temperature * epsilon, self.z)


class Energy(Head):
    """Generator trained with the energy score (arXiv 2505.07812).

    Arguments:
        width: Width of the network, ≥ 1.
        depth: Blocks of the network, ≥ 1.
        noise: I, noise numbers of each token, ≥ 1.
        beta: β, power of the distance in the energy score, in (0, 2).
        draws: R, draws of each token in training, ≥ 2.

    Raises:
        ValueError: if a number is outside its range.
    """

    likelihood: Likelihood = "none"
    capabilities = frozenset({"temper", "guide"})

    def __init__(
        self,
        context: int,
        features: int,
        groups: int = 1,
        /,
        *,
        width: int = 64,
        depth: int = 3,
        noise: int = 64,
        beta: float = 1.0,
        draws: int = 2,
    ) -> None:
        super().__init__()
        require_at_least(1, width=width, depth=depth, noise=noise)
        require_at_least(2, draws=draws)
        if not 0 < beta < 2:
            raise ValueError(
                f"beta: {beta} is outside (0, 2), where the energy score is strictly proper"
            )

        self.beta, self.draws = beta, draws
        self.network = ConditionedMLP(context, noise, features, width, depth, timed=False)

    def forward(self, h: Tensor, index: Tensor | int = 0) -> GeneratorDensity:
        return GeneratorDensity(self.network, h, self.beta, self.draws)
