"""Laws of a one-dimensional density, measured: for the tests and for authors of a head.

    ∫ p = 1      F(x) = ∫ p up to x      samples ~ p      guided = p^w · q^(1-w) / Z
    gradients arrive

`check(maker)` measures them on a small head with random weights. They are laws of 1-D conditionals;
a density without them (diffusion, flow, energy) has none of these integrals.

Letters: * batch, F features, M points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .density import Density, Density1D, FeaturewiseDensity, Grid
from .inner.head import Head, HeadFactory
from .layers import initialise
from .noise import Noise

_CONTEXT, _FEATURES, _DRAWS = 8, 2, 1000
_CRITICAL = 0.0615  # Kolmogorov–Smirnov distance of so many draws at the 0.1 % level


@dataclass(frozen=True)
class Law:
    """One law and a head's distance from it.

    Arguments:
        name: The measured quantity.
        measured: Distance from the law; 0 where it holds to the last digit.
        limit: Largest allowed distance.
    """

    name: str
    measured: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.measured <= self.limit


def check(maker: HeadFactory, seed: int = 0) -> list[Law]:
    """Measure the laws on a small head with random weights, in double precision.

    Arguments:
        maker: Called as maker(context width, features), for example `MyHead` or
            `partial(MyHead, components=8)`.
        seed: Seed of the weights.

    Raises:
        ValueError: if its density is not walked one feature at a time.
    """
    head = random_head(maker, seed)
    p = head(normal_numbers(5, _CONTEXT, seed=0))
    q = head(normal_numbers(5, _CONTEXT, seed=1))
    if not isinstance(p, FeaturewiseDensity):
        raise ValueError(
            f"{type(head).__name__}: its density is not walked one feature at a time, and "
            "these laws are"
        )

    x = normal_numbers(5, _FEATURES, seed=5)
    p.log_prob(x).sum().backward()
    without_gradient = sum(map(_has_no_gradient, head.parameters()))

    with torch.no_grad():
        totals, distances = zip(*map(integral, p.rows(x)), strict=True)
        p_many = head(normal_numbers(1, _CONTEXT, seed=0).expand(_DRAWS, -1))
        q_many = head(normal_numbers(1, _CONTEXT, seed=1).expand(_DRAWS, -1))

        mass_error = (torch.stack(totals) - 1).abs().max().item()
        cdf_error = torch.stack(distances).max().item()
        product_error = guided_error(p, q, 2.0, x)
        ks_plain = ks_distance(p_many, _DRAWS)
        ks_tempered = ks_distance(p_many.tempered(0.5), _DRAWS)
        ks_guided = ks_distance(p_many.guided(q_many, 2.0), _DRAWS)

    return [
        Law("largest |∫ p - 1|", mass_error, 1e-4),
        Law("largest |F(x) - ∫ p up to x|", cdf_error, 2e-3),
        Law(f"distance of {_DRAWS:,} samples from p (Kolmogorov–Smirnov)", ks_plain, _CRITICAL),
        Law("the same at temperature 0.5", ks_tempered, _CRITICAL),
        Law("the same under guidance of weight 2", ks_guided, _CRITICAL),
        Law("largest |log guided - log p² / q Z|, nats", product_error, 0.02),
        Law("parameters without a gradient", without_gradient, 0),
    ]


def _has_no_gradient(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())


def random_head(maker: HeadFactory, seed: int = 0) -> Head:
    """A small head with random parameters and fitted buffers."""
    head = maker(_CONTEXT, _FEATURES)
    initialise(head, seed)
    head.fit(normal_numbers(500, 1, _FEATURES, seed=1, dtype=torch.float32))
    randomise(head.double(), seed=seed)
    return head.eval()


def randomise(module: nn.Module, scale: float = 0.3, seed: int = 0) -> nn.Module:
    """Move every trained parameter away from its initial value, which may be zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p.add_(scale * torch.randn(p.shape, generator=generator).to(p))
    return module


def normal_numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rows_of(density: Density, past: Tensor) -> list[Density1D]:
    """Every 1-D conditional of a density, given past [*, F]."""
    assert isinstance(density, FeaturewiseDensity)
    return list(density.rows(past))


def integral(row: Density1D, points: int = 2001) -> tuple[Tensor, Tensor]:
    """∫ p over the row's knots, and the largest |cdf(x) - ∫ p up to x|: two tensors [*]."""
    knots = row.knots(9).double()
    low, high = knots.amin(-1, keepdim=True), knots.amax(-1, keepdim=True)
    even = low + (high - low) * torch.linspace(0, 1, points, dtype=torch.float64)
    x = torch.cat([even, row.knots(4001).double()], -1).sort(-1).values
    middle, step = (x[..., 1:] + x[..., :-1]) / 2, x.diff()
    mass = (row.log_prob(middle).exp() * step).cumsum(-1)
    return mass[..., -1], (mass - row.cdf(x[..., 1:])).abs().amax(-1)


def ks_from_uniform(u: Tensor) -> float:
    """Kolmogorov–Smirnov distance of numbers [n] in [0, 1] from uniform."""
    u = u.sort().values
    n = torch.arange(len(u) + 1, dtype=u.dtype) / len(u)
    return max((n[1:] - u).max().item(), (u - n[:-1]).max().item())


def ks_distance(density: Density, draws: int = 2000) -> float:
    """Largest Kolmogorov–Smirnov distance of samples from the density's conditionals.

    The density has [draws] equal elements. By the probability integral transform F(x_f | x_<f) is
    uniform.
    """
    assert isinstance(density, FeaturewiseDensity)
    x = density.sample(Noise.of(torch.arange(draws), "ks"))
    uniform = density.pit(x).detach()
    return max(map(ks_from_uniform, uniform.unbind(-1)))


def guided_error(
    p: FeaturewiseDensity, q: FeaturewiseDensity, weight: float, past: Tensor
) -> float:
    """Largest |log guided - log (p^w q^(1-w) / Z)| in nats, over rows and points where the product
    is not negligible.

    Z is the trapezoidal sum over thousands of points of the guided row; of a truncated product,
    over the points that remain.
    """
    guided = p.guided(q, weight)
    assert isinstance(guided, FeaturewiseDensity)

    worst = 0.0
    for row, row_p, row_q in zip(guided.rows(past), p.rows(past), q.rows(past), strict=True):
        knots = row.knots(1).double()
        low, high = knots.amin(-1, keepdim=True), knots.amax(-1, keepdim=True)
        even = low + (high - low) * torch.linspace(0, 1, 2001, dtype=torch.float64)
        x = torch.cat([row_p.knots(501), row_q.knots(501), knots, even], -1).double()
        x = x.sort(-1).values
        x = x.clamp(low, high) if isinstance(row, Grid) else x

        log_product = weight * row_p.log_prob(x) + (1 - weight) * row_q.log_prob(x)
        top = log_product.amax(-1, keepdim=True)
        density = (log_product - top).exp()
        z = ((density[..., 1:] + density[..., :-1]) / 2 * x.diff()).sum(-1, keepdim=True)
        expected = log_product - top - z.log()
        likely = expected > expected.amax(-1, keepdim=True) - 10
        worst = max(worst, (row.log_prob(x) - expected)[likely].abs().max().item())

    return worst
