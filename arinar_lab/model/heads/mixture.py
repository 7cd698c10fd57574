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
        mean, log_std = self.mean[..., :f, :], self.log_std[..., :f, :]
        log_past = _log_normal(past.unsqueeze(-1), mean, log_std).sum(-2)
        log_weight = (self.log_weight + log_past).log_softmax(-1)
        return Mixture1D(self.mean[..., f, :], self.log_std[..., f, :], log_weight)

    def sample(self, noise: Noise) -> Tensor:
        """Ancestral: a component by one uniform number, then a normal number for each feature."""
        pick = _component(self.log_weight, noise)[..., None, None].expand(*self.mean.shape[:-1], 1)
        mean = self.mean.gather(-1, pick).squeeze(-1)
        log_std = self.log_std.gather(-1, pick).squeeze(-1)
        return mean + log_std.exp() * noise.at(Stream.PLACE).normal(self.features, mean.dtype)

    def draw(self, noise: Noise) -> tuple[Tensor, Tensor]:
        return Density.draw(self, noise)

    def weights(self) -> Tensor:
        return self.log_weight.exp()


class WithoutConstant(Mixture):
    """A mixture whose training loss lacks the F/2 · log 2π of -log p, as in ARINAR's release."""

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

    def _standardised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """ε_<f [*, K, f] of x_<f [*, f], and log π_k p_k(x_<f) [*, K]."""
        f = x.shape[-1]
        factor = self.factor[..., :f, :f]
        offset = (x.unsqueeze(-2) - self.mean[..., :f]).unsqueeze(-1)
        epsilon = torch.linalg.solve_triangular(factor, offset, upper=False).squeeze(-1)
        log_std = factor.diagonal(dim1=-2, dim2=-1).log()
        return epsilon, self.log_weight + (NORMAL.log_prob(epsilon) - log_std).sum(-1)

    def log_prob(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        return self._standardised(x)[1].logsumexp(-1)

    def tempered(self, t: float) -> FullMixture:
        return replace(self, factor=self.factor * t)

    def row(self, f: int, past: Tensor) -> Mixture1D:
        epsilon, log_weight = self._standardised(past)
        mean = self.mean[..., f] + (self.factor[..., f, :f] * epsilon).sum(-1)
        return Mixture1D(mean, self.factor[..., f, f].log(), log_weight.log_softmax(-1))

    def sample(self, noise: Noise) -> Tensor:
        """Ancestral: a component by one uniform number, then μ + Lε."""
        k = _component(self.log_weight, noise)
        index = k[..., None, None].expand(*k.shape, 1, self.features)
        mean = self.mean.gather(-2, index).squeeze(-2)
        index = index.unsqueeze(-1).expand(*index.shape, self.features)
        factor = self.factor.gather(-3, index).squeeze(-3)
        epsilon = noise.at(Stream.PLACE).normal(self.features, mean.dtype).unsqueeze(-1)
        return mean + (factor @ epsilon).squeeze(-1)

    def draw(self, noise: Noise) -> tuple[Tensor, Tensor]:
        return Density.draw(self, noise)

    def weights(self) -> Tensor:
        return self.log_weight.exp()


def _component(log_weight: Tensor, noise: Noise) -> Tensor:
    """A component drawn by the weights [*, K]: [*]."""
    cumulative = log_weight.double().softmax(-1).cumsum(-1)
    below = cumulative < noise.at(Stream.CHOICE).uniform(1)
    return below.sum(-1).clamp(max=cumulative.shape[-1] - 1)


def component_usage(weights: Tensor) -> tuple[float, int]:
    """The effective number of components, e^entropy of the mean weights [*, K], and the number of
    dead ones.

    A dead component has a mean weight below a tenth of its share, 0.1/K. Components of one number
    count as one where features have different weights.
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
        components: K, components of the mixture, ≥ 1.
        min_std: Floor of σ in units of the tokens, ≥ 0: σ² = e^(log-variance) + min_std².
        max_std: Ceiling of σ in units of the tokens, above `min_std`: the inverse variances add;
            null is none.
        joint: Whether the features of a group share their component; otherwise each feature has its
            own weights.
        loss_constant: Whether the training loss is all of -log p; otherwise it lacks F/2 · log 2π,
            as released, with equal gradients. false needs `joint: true`.

    Raises:
        ValueError: if a number is outside its range, or the released loss has a mixture not joint.
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

        self.features = features
        self.components = components
        self.joint = joint
        self.bounds = (min_std, max_std)
        self.density = Mixture if loss_constant else WithoutConstant
        weights = 1 if joint else features
        self.parameters_of = DensityParameters(context, (2 * features + weights) * components)

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

    The diagonal of L is positive, L_ff² = e^(log-variance) + min_std²; below it L is the output of
    the linear map.

    Arguments:
        components: K, components of the mixture, ≥ 1.
        min_std: Floor of L_ff, the deviation of a feature given those before it, ≥ 0; see `GMM`.
        max_std: Ceiling of L_ff, above `min_std`; null is none.

    Raises:
        ValueError: if a number is outside its range.
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
        self.features = features
        self.components = components
        self.bounds = (min_std, max_std)
        self.register_buffer("below", torch.tril_indices(features, features, -1), persistent=False)
        self.sizes = [features, features, self.below.shape[1], 1]
        self.parameters_of = DensityParameters(context, components * sum(self.sizes))

    def forward(self, h: Tensor, index: Tensor | int = 0) -> FullMixture:
        parameters = self.parameters_of(h).unflatten(-1, (self.components, -1))
        if parameters.dtype.itemsize < 4:  # no triangular system is solved in half precision
            parameters = parameters.float()
        mean, log_var, below, logits = parameters.split(self.sizes, -1)
        factor = torch.diag_embed((bounded_log_var(log_var, *self.bounds) / 2).exp())
        factor[..., self.below[0], self.below[1]] = below

        return FullMixture(mean, factor, logits.squeeze(-1).log_softmax(-1))


class Gaussian(Head):
    """One Gaussian on each feature with predicted mean and deviation: the mixture of one component.

    Arguments:
        min_std: Floor of σ in units of the tokens, ≥ 0; see `GMM`.
        max_std: Ceiling of σ in units of the tokens, above `min_std`; null is none.

    Raises:
        ValueError: if a number is outside its range.
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
        log_std = bounded_log_var(log_var, *self.bounds) / 2
        return Mixture(mean, log_std, mean.new_zeros(*h.shape[:-1], 1))


class FixedGaussian(Head):
    """One Gaussian whose mean is predicted and whose standard deviation is a constant.

    Arguments:
        std: Standard deviation in units of the tokens, > 0.
        learned: Whether the deviation is a learned constant of each feature that starts at `std`.

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
        log_weight = mean.new_zeros(*mean.shape[:-1], 1)
        return Mixture(mean.unsqueeze(-1), log_std.unsqueeze(-1), log_weight)
