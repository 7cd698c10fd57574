"""Mixtures of any symmetric shape on one feature: normal, logistic, Student's t. A new shape is a
`Shape`.

    p(x) = Σ_k π_k S((x - μ_k)/σ_k) / σ_k          S: a density of scale 1, symmetric about 0

A shape has log S(s), the logarithm of its CDF, and a draw. This module and `density.py` do the
rest for all shapes: interval probabilities that do not cancel, grids, guidance, temperature.

Letters: * batch, E width of the context, F features, K components, M points, s = (x - μ)/σ,
ν degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as f

from ..density import REACH, Density1D, Factorised
from ..inner.head import Head
from ..layers import DensityParameters, require_at_least
from ..noise import Noise, Stream

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_BEND = 1.2  # scale within which knots are even; further out their distances grow


@dataclass(frozen=True)
class Shape:
    """A density S of scale 1, symmetric about 0. Its functions keep the shape of a tensor.

    Arguments:
        log_prob: s → log S(s).
        log_cdf: s → log P(S ≤ s), accurate in the lower tail.
        draw: Two uniform numbers u [*, 2] → s [*].
        std: Standard deviation.
        reach: |s| beyond which the mass is negligible.
        tail: σ of its Gaussian tail; 0 for tails of another kind.
    """

    log_prob: Callable[[Tensor], Tensor]
    log_cdf: Callable[[Tensor], Tensor]
    draw: Callable[[Tensor], Tensor]
    std: float
    reach: float
    tail: float = 0.0

    def log_prob_plus(self, s: Tensor, front: Tensor) -> Tensor:
        """log S(s) + front."""
        return self.log_prob(s) + front

    def knots(self, n: int) -> Tensor:
        """At least n points on ±reach, with 0, dense in the middle; long tails have more points."""
        bend = math.asinh(self.reach / _BEND)
        points = torch.linspace(-1, 1, 2 * max(int(n * bend / 6), 1) + 1, dtype=torch.float64)
        return _BEND * torch.sinh(bend * points)


class Normal(Shape):
    """The standard normal, whose log-density and a summand are one operation."""

    def log_prob_plus(self, s: Tensor, front: Tensor) -> Tensor:
        return torch.addcmul(front - _HALF_LOG_2PI, s, s, value=-0.5)


NORMAL = Normal(
    log_prob=lambda s: -0.5 * s**2 - _HALF_LOG_2PI,
    log_cdf=torch.special.log_ndtr,
    draw=lambda u: torch.special.ndtri(u[..., 0]),
    std=1.0,
    reach=REACH,
    tail=1.0,
)
LOGISTIC = Shape(
    log_prob=lambda s: f.logsigmoid(s) + f.logsigmoid(-s),
    log_cdf=f.logsigmoid,
    draw=lambda u: torch.logit(u[..., 0]),
    std=math.pi / math.sqrt(3),
    reach=40.0,
)


def _beta_series(a: float, b: float, largest: float) -> Callable[[Tensor], Tensor]:
    """x → I_x(a, b), the regularised incomplete beta function, for 0 ≤ x ≤ largest < 1.

    I_x(a, b) = x^a (1-x)^b / (a B(a, b)) · Σ_n Π_{j<n} (a+b+j)/(a+1+j) · x^n, all of whose terms
    are positive (NIST Digital Library of Mathematical Functions, 8.17.22 with 15.8.1).
    """
    log_front = math.lgamma(a + b) - math.lgamma(a + 1) - math.lgamma(b)
    factors, total = [1.0], 1.0
    while (term := factors[-1] * largest ** (len(factors) - 1)) > 1e-17 * total:
        total += term
        j = len(factors) - 1
        factors.append(factors[-1] * (a + b + j) / (a + 1 + j))

    def value(x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for factor in reversed(factors):
            total = total * x + factor
        return (a * x.log() + b * (-x).log1p() + log_front).exp() * total

    return value


def student_shape(freedom: float) -> Shape:
    """Student's t, S(s) ∝ (1 + s²/ν)^(-(ν+1)/2); its draw is that of Bailey (1994)."""
    log_gammas = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    constant = log_gammas - 0.5 * math.log(freedom * math.pi)
    # s² up to which 1 - P(|S| < |s|) does not cancel; beyond it the series of P(|S| > |s|) is short
    middle = min(freedom, 4.0)
    outer = _beta_series(freedom / 2, 0.5, freedom / (freedom + middle))
    inner = _beta_series(0.5, freedom / 2, middle / (freedom + middle))

    def log_cdf(s: Tensor) -> Tensor:
        # P(|S| > |s|) = I_y(ν/2, 1/2) = 1 - I_{1-y}(1/2, ν/2) with y = ν/(ν + s²)
        far = s**2 > middle
        share = torch.where(far, freedom, s**2) / (freedom + s**2)
        beyond = torch.where(far, outer(share), 1 - inner(share))
        return torch.where(s < 0, (beyond / 2).log(), torch.log1p(-beyond / 2))

    def draw(u: Tensor) -> Tensor:
        radius = (freedom * torch.expm1(-2 / freedom * u[..., 0].log())).sqrt()
        return radius * torch.cos(2 * math.pi * u[..., 1])

    return Shape(
        log_prob=lambda s: constant - (freedom + 1) / 2 * torch.log1p(s**2 / freedom),
        log_cdf=log_cdf,
        draw=draw,
        std=math.sqrt(freedom / (freedom - 2)),
        # 1e-9 of the mass is beyond
        reach=max(REACH, math.sqrt(freedom) * math.exp((constant + 20.7) / freedom)),
    )


def log_sum(each: Tensor) -> Tensor:
    """log Σ e^each over the last axis but one.

    Terms are raised to 80 below the largest: processors are slow with the subnormal exponentials of
    smaller ones.
    """
    top = each.detach().amax(-2, keepdim=True).clamp(min=torch.finfo(each.dtype).min)
    return (each - top).clamp(min=-80.0).exp().sum(-2).log() + top.squeeze(-2)


def log_interval(log_cdf: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """log P(low < S < high) of a symmetric S, a difference in the lower tail, without
    cancellation.
    """
    a, b = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)
    log_a, log_b = log_cdf(a), log_cdf(b)
    tiny = torch.finfo(torch.float64).tiny
    return log_b + (-torch.expm1((log_a - log_b).clamp(max=0))).clamp(min=tiny).log()


@dataclass(frozen=True)
class Mixture1D(Density1D):
    """A mixture on one feature.

    Arguments:
        mean: μ of each component, [*, K].
        log_std: log σ of each component, [*, K]; σ is the scale, of a normal the deviation.
        log_weight: Normalised log-weights, [*, K].
        shape: S.
    """

    mean: Tensor
    log_std: Tensor
    log_weight: Tensor
    shape: Shape = NORMAL

    def _standard(self, x: Tensor) -> Tensor:
        """s of each component at points x [*, M]: [*, K, M], so that sums over components
        run along whole rows.
        """
        return (x.unsqueeze(-2) - self.mean.unsqueeze(-1)) * (-self.log_std).exp().unsqueeze(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        front = (self.log_weight - self.log_std).unsqueeze(-1)
        return log_sum(self.shape.log_prob_plus(self._standard(x), front))

    def cdf(self, x: Tensor) -> Tensor:
        return (self.log_weight.unsqueeze(-1) + self.shape.log_cdf(self._standard(x))).exp().sum(-2)

    def log_interval(self, low: Tensor, high: Tensor) -> Tensor:
        a = self._standard(low.double())
        b = self._standard(high.double())
        log_masses = log_interval(self.shape.log_cdf, a, b)
        return (self.log_weight.double().unsqueeze(-1) + log_masses).logsumexp(-2)

    def stack_with(self, other: Density1D) -> Mixture1D | None:
        if (
            not isinstance(other, Mixture1D)
            or other.shape is not self.shape
            or other.mean.shape != self.mean.shape
        ):
            return None

        mean = torch.stack([self.mean, other.mean])
        log_std = torch.stack([self.log_std, other.log_std])
        log_weight = torch.stack([self.log_weight, other.log_weight])

        return Mixture1D(mean, log_std, log_weight, self.shape)

    def tempered(self, t: float) -> Mixture1D:
        return replace(self, log_std=self.log_std + math.log(t))

    def sample(self, noise: Noise) -> Tensor:
        """Ancestral: a component by one uniform number, a place in it by two more."""
        cumulative = self.log_weight.double().softmax(-1).cumsum(-1)
        below = cumulative < noise.at(Stream.CHOICE).uniform(1)
        k = below.sum(-1, keepdim=True).clamp(max=cumulative.shape[-1] - 1)
        mean = self.mean.gather(-1, k).squeeze(-1)
        log_std = self.log_std.gather(-1, k).squeeze(-1)
        s = self.shape.draw(noise.at(Stream.PLACE).uniform(2))
        return mean + log_std.exp() * s.to(mean.dtype)

    def knots(self, n: int) -> Tensor:
        base = self.shape.knots(n).to(self.mean)
        return (self.mean.unsqueeze(-1) + self.log_std.exp().unsqueeze(-1) * base).flatten(-2)

    def span(self, sigmas: float = REACH) -> tuple[Tensor, Tensor]:
        half = sigmas * self.shape.std * self.log_std.exp()
        return (self.mean - half).amin(-1), (self.mean + half).amax(-1)

    def tail(self) -> Tensor:
        return self.shape.tail * self.log_std.exp().amax(-1)

    def weights(self) -> Tensor:
        return self.log_weight.exp()


def bounded_log_var(log_var: Tensor, low: float, high: float | None) -> Tensor:
    """log σ² under smooth bounds of σ: 1/σ² gains 1/high², then σ² gains low²."""
    if high is not None:
        log_var = -torch.logaddexp(-log_var, log_var.new_tensor(-2 * math.log(high)))
    return torch.logaddexp(log_var, log_var.new_tensor(2 * math.log(low))) if low > 0 else log_var


def check_bounds(name: str, low: float, high: float | None) -> None:
    """Refuse bounds of a scale, `min_<name>` and `max_<name>`, that no scale satisfies.

    Raises:
        ValueError: if low < 0 or high ≤ low.
    """
    if low < 0:
        raise ValueError(f"min_{name}: {low} is negative; a scale is 0 or more")
    if high is not None and high <= low:
        raise ValueError(f"max_{name}: {high} is not above min_{name} = {low}")


class MixtureHead(Head):
    """Mixture of K components of one shape on each of F independent features.

    A subclass sets `shape`; one linear map of the context is read as means, log-scales and logits.

    Arguments:
        components: K, components of the mixture, ≥ 1.
        min_scale: Smooth floor of σ in units of the tokens, ≥ 0; no spike is narrower.
        max_scale: Smooth ceiling of σ in units of the tokens, above `min_scale`; null is none.

    Raises:
        ValueError: if a number is outside its range.
    """

    shape: ClassVar[Shape] = NORMAL

    def __init__(
        self,
        context: int,
        features: int,
        groups: int = 1,
        /,
        *,
        components: int = 4,
        min_scale: float = 1e-3,
        max_scale: float | None = None,
    ) -> None:
        super().__init__()
        require_at_least(1, components=components)
        check_bounds("scale", min_scale, max_scale)
        self.sizes = (3, features, components)
        self.bounds = (min_scale, max_scale)
        self.parameters_of = DensityParameters(context, math.prod(self.sizes))

    def forward(self, h: Tensor, index: Tensor | int = 0) -> Factorised:
        mean, log_scale, logits = self.parameters_of(h).unflatten(-1, self.sizes).unbind(-3)
        log_scale = bounded_log_var(2 * log_scale, *self.bounds) / 2
        return Factorised(Mixture1D(mean, log_scale, logits.log_softmax(-1), self.shape))


class Logistic(MixtureHead):
    """Mixture of K logistics, P(x ≤ a) = Σ_k π_k / (1 + e^(-(a - μ_k)/σ_k)) (PixelCNN++,
    arXiv 1701.05517, section 2.1).

    Arguments:
        components: see `MixtureHead`.
        min_scale: see `MixtureHead`.
        max_scale: see `MixtureHead`.

    Raises:
        ValueError: if a number is outside its range.
    """

    shape = LOGISTIC


class StudentT(MixtureHead):
    """Mixture of K Student t densities: tails of power ν + 1, which no outlier makes expensive.

    ν is a constant, so that a conditional and its null have tails of the same power: p^w q^(1-w)
    has it too and can always be normalised. Where it stays high beyond all but 1e-9 of both, it is
    cut and counted like any other.

    Arguments:
        freedom: Degrees of freedom ν, in (2, 100]: above 2 the variance is finite, at 30 the shape
            is nearly normal.
        components: see `MixtureHead`.
        min_scale: see `MixtureHead`.
        max_scale: see `MixtureHead`.

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
        freedom: float = 4.0,
        components: int = 4,
        min_scale: float = 1e-3,
        max_scale: float | None = None,
    ) -> None:
        if not 2 < freedom <= 100:
            raise ValueError(
                f"freedom: {freedom} is outside (2, 100]; below it has no variance, above "
                "it is a normal"
            )

        super().__init__(
            context,
            features,
            groups,
            components=components,
            min_scale=min_scale,
            max_scale=max_scale,
        )
        self.shape = student_shape(freedom)  # type: ignore[misc]
