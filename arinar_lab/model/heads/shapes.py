"""Mixtures of any symmetric shape on one feature: normal, logistic, Student's t; a
new one is a `Shape`.

    p(x) = Σ_k π_k S((x - μ_k)/σ_k) / σ_k          S: a density of scale 1, symmetric about 0

A shape is told by log S(s), the logarithm of its CDF, and how it is drawn. Everything else
(interval probabilities that do not cancel, grids, guidance, temperature) is written once, here
and in `density.py`.

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
_BEND = 1.2  # scale within which knots lie evenly; further out they lie ever wider apart


@dataclass(frozen=True)
class Shape:
    """A density S of scale 1, symmetric about 0. Its functions take and return
    tensors of one shape.

    Arguments:
        log_prob: s → log S(s).
        log_cdf: s → log P(S ≤ s), accurate in the lower tail.
        draw: two uniform numbers u [*, 2] → s [*].
        std: standard deviation.
        reach: |s| beyond which there is next to nothing.
        tail: σ of its Gaussian tail; 0 where the tails are of another kind.
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
        """At least n points on ±reach, 0 among them, dense in the middle and more of them
        where the tails are long.
        """
        bend = math.asinh(self.reach / _BEND)
        points = torch.linspace(-1, 1, 2 * max(int(n * bend / 6), 1) + 1, dtype=torch.float64)
        return _BEND * torch.sinh(bend * points)


class Normal(Shape):
    """The density whose logarithm is a square and a constant: one operation with
    what is added to it.
    """

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
    """x → I_x(a, b), the regularised incomplete beta function for 0 ≤ x ≤ largest < 1,
    to double precision.

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
    """Student's t with ν degrees of freedom: S(s) ∝ (1 + s²/ν)^(-(ν+1)/2);
    drawn by Bailey (1994).
    """
    constant = (
        math.lgamma((freedom + 1) / 2)
        - math.lgamma(freedom / 2)
        - 0.5 * math.log(freedom * math.pi)
    )
    middle = min(
        freedom, 4.0
    )  # s² up to which 1 - P(|S| < |s|) does not cancel, and beyond which P(|S| > |s|) is quick
    outer = _beta_series(freedom / 2, 0.5, freedom / (freedom + middle))
    inner = _beta_series(0.5, freedom / 2, middle / (freedom + middle))

    def log_cdf(s: Tensor) -> Tensor:
        # P(|S| > |s|) = I_y(ν/2, 1/2) = 1 - I_{1-y}(1/2, ν/2) with y = ν/(ν + s²)
        far = s**2 > middle
        share = torch.where(far, freedom, s**2) / (freedom + s**2)
        beyond = torch.where(far, outer(share), 1 - inner(share))
        return torch.where(s < 0, (beyond / 2).log(), torch.log1p(-beyond / 2))

    def draw(u: Tensor) -> Tensor:
        return (freedom * torch.expm1(-2 / freedom * u[..., 0].log())).sqrt() * torch.cos(
            2 * math.pi * u[..., 1]
        )

    return Shape(
        log_prob=lambda s: constant - (freedom + 1) / 2 * torch.log1p(s**2 / freedom),
        log_cdf=log_cdf,
        draw=draw,
        std=math.sqrt(freedom / (freedom - 2)),
        # 1e-9 of the mass is beyond
        reach=max(REACH, math.sqrt(freedom) * math.exp((constant + 20.7) / freedom)),
    )


def log_sum(each: Tensor) -> Tensor:
    """log Σ e^each over the last axis but one. What is 80 below the largest is taken for that: its
    exponential would be no normal number, which processors are slow with."""
    top = each.detach().amax(-2, keepdim=True).clamp(min=torch.finfo(each.dtype).min)
    return (each - top).clamp(min=-80.0).exp().sum(-2).log() + top.squeeze(-2)


def log_interval(log_cdf: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """log P(low < S < high) of a symmetric S, the difference taken in the lower tail,
    where it does not cancel.
    """
    a, b = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)
    log_a, log_b = log_cdf(a), log_cdf(b)
    tiny = torch.finfo(torch.float64).tiny
    return log_b + (-torch.expm1((log_a - log_b).clamp(max=0))).clamp(min=tiny).log()


@dataclass(frozen=True)
class Mixture1D(Density1D):
    """A mixture on one feature.

    Arguments:
        mean, log_std: μ and log σ of each component, [*, K]. σ is the scale: the standard
            deviation of a normal.
        log_weight: normalised, [*, K].
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
        a, b = self._standard(low.double()), self._standard(high.double())
        return (
            self.log_weight.double().unsqueeze(-1) + log_interval(self.shape.log_cdf, a, b)
        ).logsumexp(-2)

    def stack_with(self, other: Density1D) -> Mixture1D | None:
        if (
            not isinstance(other, Mixture1D)
            or other.shape is not self.shape
            or other.mean.shape != self.mean.shape
        ):
            return None

        pairs = (
            (self.mean, other.mean),
            (self.log_std, other.log_std),
            (self.log_weight, other.log_weight),
        )
        mean, log_std, log_weight = (torch.stack(pair) for pair in pairs)

        return Mixture1D(mean, log_std, log_weight, self.shape)

    def tempered(self, t: float) -> Mixture1D:
        return replace(self, log_std=self.log_std + math.log(t))

    def sample(self, noise: Noise) -> Tensor:
        """Ancestral: a component by one uniform number, a place in it by two more."""
        cumulative = self.log_weight.double().softmax(-1).cumsum(-1)
        below = cumulative < noise.at(Stream.CHOICE).uniform(1)
        k = below.sum(-1, keepdim=True).clamp(max=cumulative.shape[-1] - 1)
        mean, log_std = (value.gather(-1, k).squeeze(-1) for value in (self.mean, self.log_std))
        return mean + log_std.exp() * self.shape.draw(noise.at(Stream.PLACE).uniform(2)).to(
            mean.dtype
        )

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
    """log σ² kept smoothly between bounds of σ: 1/σ² gains 1/high², then σ² gains low²."""
    if high is not None:
        log_var = -torch.logaddexp(-log_var, log_var.new_tensor(-2 * math.log(high)))
    return torch.logaddexp(log_var, log_var.new_tensor(2 * math.log(low))) if low > 0 else log_var


def check_bounds(name: str, low: float, high: float | None) -> None:
    """Refuse bounds of a scale, `min_<name>` and `max_<name>`, that leave nothing between them.

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
        components: K ≥ 1.
        min_scale, max_scale: bounds of σ, in units of the tokens, kept smoothly; no spike is
            narrower than the first.

    Raises:
        ValueError: if K < 1, min_scale < 0 or max_scale ≤ min_scale.
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
        self.sizes, self.bounds = (3, features, components), (min_scale, max_scale)
        self.parameters_of = DensityParameters(context, math.prod(self.sizes))

    def forward(self, h: Tensor, index: Tensor | int = 0) -> Factorised:
        mean, log_scale, logits = self.parameters_of(h).unflatten(-1, self.sizes).unbind(-3)
        log_scale = bounded_log_var(2 * log_scale, *self.bounds) / 2
        return Factorised(Mixture1D(mean, log_scale, logits.log_softmax(-1), self.shape))


class Logistic(MixtureHead):
    """Mixture of K logistics, P(x ≤ a) = Σ_k π_k / (1 + e^(-(a - μ_k)/σ_k)) (PixelCNN++,
    arXiv 1701.05517, section 2.1).

    Arguments and errors: of `MixtureHead`.
    """

    shape = LOGISTIC


class StudentT(MixtureHead):
    """Mixture of K Student t densities: tails of power ν + 1, which no outlier makes expensive.

    ν is a constant, so that a conditional and its null have tails of one power: p^w q^(1-w) has it
    too, and can always be normalised. Where it stays high beyond all but 1e-9 of both, it is cut
    and counted like any other.

    Arguments:
        freedom: ν in (2, 100]: above 2 there is a variance; at 30 it is nearly normal.
        components, min_scale, max_scale: of `MixtureHead`.

    Raises:
        ValueError: if ν is outside its range, and as `MixtureHead`.
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
