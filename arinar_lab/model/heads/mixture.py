"""Mixtures of Gaussians: the head of ARINAR on one feature, of GIVT on a whole token.

    p(x) = Σ_k π_k Π_f N(x_f; μ_fk, σ_fk²)

Letters: * batch, E width of the context, F features, K components, M points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..density import REACH, Density, Row, Rows, normal_knots
from ..head import Head
from ..layers import Linear
from ..noise import Noise

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def _log_normal(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    return -0.5 * ((x - mean) * (-log_std).exp()) ** 2 - log_std - _HALF_LOG_2PI


@dataclass(frozen=True)
class Mixture(Rows):
    """A mixture of Gaussians, diagonal over F features that share their component.

    Arguments:
        mean: [*, F, K].
        log_std: [*, F, K].
        log_weight: normalised, [*, K].
    """

    mean: Tensor
    log_std: Tensor
    log_weight: Tensor

    @property
    def features(self) -> int:
        return self.mean.shape[-2]

    def log_prob(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        each = _log_normal(x.unsqueeze(-1), self.mean, self.log_std).sum(-2)
        return (self.log_weight + each).logsumexp(-1)

    def tempered(self, t: float) -> Mixture:
        return replace(self, log_std=self.log_std + math.log(t))

    def row(self, f: int, past: Tensor) -> MixtureRow:
        seen = _log_normal(past.unsqueeze(-1), self.mean[..., :f, :], self.log_std[..., :f, :]).sum(-2)
        return MixtureRow(self.mean[..., f, :], self.log_std[..., f, :], (self.log_weight + seen).log_softmax(-1))

    def sample(self, noise: Noise) -> Tensor:
        """Ancestral: a component by one uniform number, then a normal number for each feature."""
        cumulative = self.log_weight.double().softmax(-1).cumsum(-1)
        k = (cumulative < noise.at(0).uniform(1)).sum(-1).clamp(max=cumulative.shape[-1] - 1)
        pick = k[..., None, None].expand(*self.mean.shape[:-1], 1)
        mean, log_std = (value.gather(-1, pick).squeeze(-1) for value in (self.mean, self.log_std))
        return mean + log_std.exp() * noise.at(1).normal(self.features, mean.dtype)

    def draw(self, noise: Noise) -> tuple[Tensor, Tensor]:
        return Density.draw(self, noise)


class WithoutConstant(Mixture):
    """A mixture whose training loss lacks the F/2 · log 2π of -log p, as ARINAR's release reports it."""

    def loss(self, x: Tensor, noise: Noise) -> Tensor:
        return super().loss(x, noise) - self.features * _HALF_LOG_2PI


@dataclass(frozen=True)
class MixtureRow(Row):
    """One feature of a mixture: mean, log_std and log_weight are [*, K]."""

    mean: Tensor
    log_std: Tensor
    log_weight: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        each = _log_normal(x.unsqueeze(-1), self.mean.unsqueeze(-2), self.log_std.unsqueeze(-2))
        return (self.log_weight.unsqueeze(-2) + each).logsumexp(-1)

    def _standard(self, x: Tensor) -> Tensor:
        return (x.unsqueeze(-1) - self.mean.unsqueeze(-2)) * (-self.log_std.unsqueeze(-2)).exp()

    def cdf(self, x: Tensor) -> Tensor:
        return (self.log_weight.unsqueeze(-2).exp() * torch.special.ndtr(self._standard(x))).sum(-1)

    def log_interval(self, low: Tensor, high: Tensor) -> Tensor:
        """log Σ π_k (Φ(b) - Φ(a)), each difference taken in the lower tail, where it does not cancel."""
        a, b = self._standard(low.double()), self._standard(high.double())
        a, b = torch.where(a > 0, -b, a), torch.where(a > 0, -a, b)
        log_a, log_b = torch.special.log_ndtr(a), torch.special.log_ndtr(b)
        tiny = torch.finfo(torch.float64).tiny
        each = log_b + (-torch.expm1((log_a - log_b).clamp(max=0))).clamp(min=tiny).log()
        return (self.log_weight.double().unsqueeze(-2) + each).logsumexp(-1)

    def knots(self, n: int) -> Tensor:
        base = normal_knots(n).to(self.mean)
        return (self.mean.unsqueeze(-1) + self.log_std.exp().unsqueeze(-1) * base).flatten(-2)

    def span(self, sigmas: float = REACH) -> tuple[Tensor, Tensor]:
        half = sigmas * self.log_std.exp()
        return (self.mean - half).amin(-1), (self.mean + half).amax(-1)

    def tail(self) -> Tensor:
        return self.log_std.exp().amax(-1)


class GMM(Head):
    """Mixture of K Gaussians (ARINAR, arXiv 2503.02883, section 3.2; on a whole token GIVT, arXiv 2312.02116).

    One linear map of the context is read as means, log-variances and mixture logits, in the published order.

    Arguments:
        components: K ≥ 1.
        min_std: floor of σ, added in quadrature: σ² = e^(log-variance) + min_std².
        loss_constant: whether the training loss is -log p, or lacks its F/2 · log 2π as released. No gradient differs.

    Raises:
        ValueError: if K < 1 or min_std < 0.
    """

    def __init__(
        self, context: int, features: int, groups: int = 1, /, *, components: int = 4, min_std: float = 1e-3,
        loss_constant: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if components < 1:
            raise ValueError(f"components: {components} is too few; a mixture needs at least 1")
        if min_std < 0:
            raise ValueError(f"min_std: {min_std} is negative; a standard deviation is 0 or more")
        self.features, self.components, self.min_std = features, components, min_std
        self.density = Mixture if loss_constant else WithoutConstant
        self.parameters_of = Linear(context, (2 * features + 1) * components)

    def forward(self, h: Tensor, index: Tensor | int = 0) -> Mixture:
        size = self.features * self.components
        mean, log_var, logits = self.parameters_of(h).split([size, size, self.components], -1)
        if self.min_std > 0:
            log_var = torch.logaddexp(log_var, log_var.new_tensor(2 * math.log(self.min_std)))
        shape = (*h.shape[:-1], self.features, self.components)
        return self.density(mean.reshape(shape), log_var.reshape(shape) / 2, logits.log_softmax(-1))


class FixedGaussian(Head):
    """One Gaussian whose mean is predicted and whose standard deviation is a constant.

    Arguments:
        std: the constant, > 0, in units of the tokens.
        learned: whether std is only the initial value of one learned constant per feature.

    Raises:
        ValueError: if std ≤ 0.
    """

    def __init__(
        self, context: int, features: int, groups: int = 1, /, *, std: float = 0.1, learned: bool = False
    ) -> None:
        super().__init__()
        if std <= 0:
            raise ValueError(f"std: {std} is not above 0")
        self.std = std
        self.mean_of = Linear(context, features)
        self.log_std = nn.Parameter(torch.empty(groups, features), requires_grad=learned)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.log_std, math.log(self.std))

    def forward(self, h: Tensor, index: Tensor | int = 0) -> Mixture:
        mean = self.mean_of(h)
        log_std = self.log_std[index].expand_as(mean)
        return Mixture(mean.unsqueeze(-1), log_std.unsqueeze(-1), mean.new_zeros(*mean.shape[:-1], 1))
