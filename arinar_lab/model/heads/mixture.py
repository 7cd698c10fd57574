"""Mixtures of Gaussians: the head of ARINAR on one feature, of GIVT on a whole token.

    p(x) = Σ_k π_k Π_f N(x_f; μ_fk, σ_fk²)          diagonal, the features share their component
    p(x) = Π_f Σ_k π_fk N(x_f; μ_fk, σ_fk²)         diagonal, each feature has its own
    p(x) = Σ_k π_k N(x; μ_k, L_k L_kᵀ)              full covariance

Letters: * batch, E width of the context, F features, K components, M points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..density import Density, Factorised, FeaturewiseDensity
from ..inner.head import Head
from ..layers import DensityParameters, require_at_least
from ..noise import Noise, Stream
from .shapes import NORMAL, Mixture1D, bounded_log_var, check_bounds

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def _log_normal(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    return NORMAL.log_prob((x - mean) * (-log_std).exp()) - log_std


@dataclass(frozen=True)
class Mixture(FeaturewiseDensity):
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

    def row(self, f: int, past: Tensor) -> Mixture1D:
        seen = _log_normal(past.unsqueeze(-1), self.mean[..., :f, :], self.log_std[..., :f, :]).sum(
            -2
        )
        return Mixture1D(
            self.mean[..., f, :], self.log_std[..., f, :], (self.log_weight + seen).log_softmax(-1)
        )

    def sample(self, noise: Noise) -> Tensor:
        """Ancestral: a component by one uniform number, then a normal number for each feature."""
        pick = _component(self.log_weight, noise)[..., None, None].expand(*self.mean.shape[:-1], 1)
        mean, log_std = (value.gather(-1, pick).squeeze(-1) for value in (self.mean, self.log_std))
        return mean + log_std.exp() * noise.at(Stream.PLACE).normal(self.features, mean.dtype)

    def draw(self, noise: Noise) -> tuple[Tensor, Tensor]:
        return Density.draw(self, noise)

    def weights(self) -> Tensor:
        return self.log_weight.exp()


class WithoutConstant(Mixture):
    """A mixture whose training loss lacks the F/2 · log 2π of -log p, as
    ARINAR's release reports it.
    """

    def loss(self, x: Tensor, noise: Noise) -> Tensor:
        return super().loss(x, noise) - self.features * _HALF_LOG_2PI


@dataclass(frozen=True)
class FullMixture(FeaturewiseDensity):
    """A mixture of Gaussians with full covariance Σ_k = L_k L_kᵀ over the F features of a token.

    With x = μ + Lε the conditional of one feature is a 1-D mixture: given x_<f, forward
    substitution gives ε_<f, and component k has mean μ_f + Σ_{g<f} L_fg ε_g, deviation L_ff, and a
    weight ∝ π_k p_k(x_<f).

    Arguments:
        mean: [*, K, F].
        factor: L, lower triangular with a positive diagonal, [*, K, F, F].
        log_weight: normalised, [*, K].
    """

    mean: Tensor
    factor: Tensor
    log_weight: Tensor

    @property
    def features(self) -> int:
        return self.mean.shape[-1]

    def _seen(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """ε_<f [*, K, f] of x_<f [*, f], and log π_k p_k(x_<f) [*, K]."""
        seen = x.shape[-1]
        factor = self.factor[..., :seen, :seen]
        offset = x.unsqueeze(-2) - self.mean[..., :seen]
        epsilon = torch.linalg.solve_triangular(factor, offset.unsqueeze(-1), upper=False).squeeze(
            -1
        )
        log_std = factor.diagonal(dim1=-2, dim2=-1).log()
        return epsilon, self.log_weight + (NORMAL.log_prob(epsilon) - log_std).sum(-1)

    def log_prob(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        return self._seen(x)[1].logsumexp(-1)

    def tempered(self, t: float) -> FullMixture:
        return replace(self, factor=self.factor * t)

    def row(self, f: int, past: Tensor) -> Mixture1D:
        epsilon, log_weight = self._seen(past)
        mean = self.mean[..., f] + (self.factor[..., f, :f] * epsilon).sum(-1)
        return Mixture1D(mean, self.factor[..., f, f].log(), log_weight.log_softmax(-1))

    def sample(self, noise: Noise) -> Tensor:
        """Ancestral: a component by one uniform number, then μ + Lε."""
        k = _component(self.log_weight, noise)
        mean = self.mean.gather(-2, k[..., None, None].expand(*k.shape, 1, self.features)).squeeze(
            -2
        )
        which = k[..., None, None, None].expand(*k.shape, 1, self.features, self.features)
        epsilon = noise.at(Stream.PLACE).normal(self.features, mean.dtype).unsqueeze(-1)
        return mean + (self.factor.gather(-3, which).squeeze(-3) @ epsilon).squeeze(-1)

    def draw(self, noise: Noise) -> tuple[Tensor, Tensor]:
        return Density.draw(self, noise)

    def weights(self) -> Tensor:
        return self.log_weight.exp()


def _component(log_weight: Tensor, noise: Noise) -> Tensor:
    """A component drawn by the weights [*, K]: [*]."""
    cumulative = log_weight.double().softmax(-1).cumsum(-1)
    return (
        (cumulative < noise.at(Stream.CHOICE).uniform(1))
        .sum(-1)
        .clamp(max=cumulative.shape[-1] - 1)
    )


def component_usage(weights: Tensor) -> tuple[float, int]:
    """Of weights [*, K]: the effective number of components used, e^entropy of the mean
    weights; how many are dead.

    A component is dead whose mean weight is below a tenth of its share, 0.1/K. Over features with
    weights of their own, components of one number count as one.
    """
    mean = weights.double().flatten(0, -2).mean(0)
    entropy = torch.special.entr(mean).sum()
    return float(entropy.exp()), int((mean < 0.1 / len(mean)).sum())


class GMM(Head):
    """Mixture of K Gaussians (ARINAR, arXiv 2503.02883, section 3.2; on a whole token
    GIVT, arXiv 2312.02116).

    One linear map of the context is read as means, log-variances and mixture logits, in
    the published order.

    Arguments:
        components: K ≥ 1.
        min_std: floor of σ, added in quadrature: σ² = e^(log-variance) + min_std².
        max_std: ceiling of σ, kept as smoothly (the inverse variances add), or None.
        joint: whether the features of a group share their component, or each
            has weights of its own.
        loss_constant: whether the training loss is -log p, or lacks its F/2 · log 2π as released.
            No gradient differs.

    Raises:
        ValueError: if K < 1, min_std < 0 or max_std ≤ min_std, or the released loss is asked of
            a mixture not joint.
    """

    def __init__(
        self,
        context: int,
        features: int,
        groups: int = 1,
        /,
        *,
        components: int = 4,
        min_std: float = 1e-3,
        max_std: float | None = None,
        joint: bool = True,
        loss_constant: bool = True,
    ) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"components: {components} is too few; a mixture needs at least 1")
        check_bounds("std", min_std, max_std)
        if not joint and not loss_constant:
            raise ValueError("loss_constant: false needs joint: true, as released")
        self.features, self.components, self.joint, self.bounds = (
            features,
            components,
            joint,
            (min_std, max_std),
        )
        self.density = Mixture if loss_constant else WithoutConstant
        self.parameters_of = DensityParameters(
            context, (2 * features + (1 if joint else features)) * components
        )

    def forward(self, h: Tensor, index: Tensor | int = 0) -> FeaturewiseDensity:
        size = self.features * self.components
        mean, log_var, logits = self.parameters_of(h).tensor_split((size, 2 * size), -1)
        log_std = bounded_log_var(log_var, *self.bounds) / 2
        shape = (*h.shape[:-1], self.features, self.components)
        mean, log_std = mean.reshape(shape), log_std.reshape(shape)
        if self.joint:
            return self.density(mean, log_std, logits.log_softmax(-1))
        return Factorised(Mixture1D(mean, log_std, logits.reshape(shape).log_softmax(-1)))


class FullGMM(Head):
    """Mixture of K Gaussians with full covariance over a token (GIVT, arXiv 2312.02116), by
    its Cholesky factors.

    The diagonal of L is positive, L_ff² = e^(log-variance) + min_std²; below it L is whatever
    the linear map says.

    Arguments:
        components: K ≥ 1.
        min_std, max_std: bounds of L_ff, the deviation of a feature given those
            before it; see `GMM`.

    Raises:
        ValueError: if K < 1, min_std < 0 or max_std ≤ min_std.
    """

    below: Tensor

    def __init__(
        self,
        context: int,
        features: int,
        groups: int = 1,
        /,
        *,
        components: int = 4,
        min_std: float = 1e-3,
        max_std: float | None = None,
    ) -> None:
        super().__init__()
        require_at_least(1, components=components)
        check_bounds("std", min_std, max_std)
        self.features, self.components, self.bounds = features, components, (min_std, max_std)
        self.register_buffer("below", torch.tril_indices(features, features, -1), persistent=False)
        self.parameters_of = DensityParameters(
            context, components * (2 * features + self.below.shape[1] + 1)
        )

    def forward(self, h: Tensor, index: Tensor | int = 0) -> FullMixture:
        each = self.parameters_of(h).unflatten(-1, (self.components, -1))
        each = (
            each.float() if each.dtype.itemsize < 4 else each
        )  # a triangular system is solved in single precision at least
        mean, log_var, below, logits = each.split(
            [self.features, self.features, self.below.shape[1], 1], -1
        )
        factor = torch.diag_embed((bounded_log_var(log_var, *self.bounds) / 2).exp())
        factor[..., self.below[0], self.below[1]] = below

        return FullMixture(mean, factor, logits.squeeze(-1).log_softmax(-1))


class Gaussian(Head):
    """One Gaussian on each feature, mean and deviation predicted: the mixture of one component.

    Arguments:
        min_std, max_std: bounds of σ, in units of the tokens; see `GMM`.

    Raises:
        ValueError: if min_std < 0 or max_std ≤ min_std.
    """

    def __init__(
        self,
        context: int,
        features: int,
        groups: int = 1,
        /,
        *,
        min_std: float = 1e-3,
        max_std: float | None = None,
    ) -> None:
        super().__init__()
        check_bounds("std", min_std, max_std)
        self.bounds = (min_std, max_std)
        self.parameters_of = DensityParameters(context, 2 * features)

    def forward(self, h: Tensor, index: Tensor | int = 0) -> Mixture:
        mean, log_var = self.parameters_of(h).unsqueeze(-1).chunk(2, -2)
        return Mixture(
            mean, bounded_log_var(log_var, *self.bounds) / 2, mean.new_zeros(*h.shape[:-1], 1)
        )


class FixedGaussian(Head):
    """One Gaussian whose mean is predicted and whose standard deviation is a constant.

    Arguments:
        std: the constant, > 0, in units of the tokens.
        learned: whether std is only the initial value of one learned constant per feature.

    Raises:
        ValueError: if std ≤ 0.
    """

    def __init__(
        self,
        context: int,
        features: int,
        groups: int = 1,
        /,
        *,
        std: float = 0.1,
        learned: bool = False,
    ) -> None:
        super().__init__()
        if std <= 0:
            raise ValueError(f"std: {std} is not above 0")
        self.std = std
        self.mean_of = DensityParameters(context, features)
        self.log_std = nn.Parameter(torch.empty(groups, features), requires_grad=learned)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.log_std, math.log(self.std))

    def forward(self, h: Tensor, index: Tensor | int = 0) -> Mixture:
        mean = self.mean_of(h)
        log_std = self.log_std[index].expand_as(mean)
        return Mixture(
            mean.unsqueeze(-1), log_std.unsqueeze(-1), mean.new_zeros(*mean.shape[:-1], 1)
        )
