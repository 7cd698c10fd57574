"""What a one-dimensional density must satisfy, as numbers: for the tests, and for whoever writes
a head of their own.

    ∫ p = 1      F(x) = ∫ p up to x      samples ~ p      guided = p^w · q^(1-w) / Z
    gradients arrive

`check(maker)` measures all of them on a small head with random weights. They are laws of one
feature at a time: a density of a whole token that is not walked so (diffusion, flow, energy) has
none of these integrals.

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
_CRITICAL = 0.0615  # of a Kolmogorov–Smirnov distance of so many draws, at 0.1 %


@dataclass(frozen=True)
class Law:
    """One law and how far the head is from it.

    Arguments:
        name: what is measured; measured: 0 where the law holds to the last digit;
            limit: what is allowed.
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
        maker: called as maker(context width, features), as in `MyHead` or
            `partial(MyHead, components=8)`.

    Raises:
        ValueError: if its density is not walked one feature at a time.
    """
    head = random_head(maker, seed)
    p, q = (head(normal_numbers(5, _CONTEXT, seed=s)) for s in (0, 1))
    if not isinstance(p, FeaturewiseDensity):
        raise ValueError(
            f"{type(head).__name__}: its density is not walked one feature at a time, and "
            "these laws are"
        )

    x = normal_numbers(5, _FEATURES, seed=5)
    p.log_prob(x).sum().backward()
    silent = sum(
        part.grad is None or not part.grad.any() for part in head.parameters() if part.requires_grad
    )
    with torch.no_grad():
        totals, distances = zip(*(integral(row) for row in rows_of(p, x)), strict=True)
        many, null = (head(normal_numbers(1, _CONTEXT, seed=s).expand(_DRAWS, -1)) for s in (0, 1))

        return [
            Law("largest |∫ p - 1|", max((total - 1).abs().max().item() for total in totals), 1e-4),
            Law(
                "largest |F(x) - ∫ p up to x|",
                max(distance.max().item() for distance in distances),
                2e-3,
            ),
            Law(
                f"distance of {_DRAWS:,} samples from p (Kolmogorov–Smirnov)",
                ks_distance(many, _DRAWS),
                _CRITICAL,
            ),
            Law("the same at temperature 0.5", ks_distance(many.tempered(0.5), _DRAWS), _CRITICAL),
            Law(
                "the same under guidance of weight 2",
                ks_distance(many.guided(null, 2.0), _DRAWS),
                _CRITICAL,
            ),
            Law("largest |log guided - log p² / q Z|, nats", guided_error(p, q, 2.0, x), 0.02),
            Law("parameters without a gradient", silent, 0),
        ]


def random_head(maker: HeadFactory, seed: int = 0) -> Head:
    """A small head whose every parameter and buffer has been set."""
    head = maker(_CONTEXT, _FEATURES)
    initialise(head, seed)
    head.fit(normal_numbers(500, 1, _FEATURES, seed=1, dtype=torch.float32))
    randomise(head.double(), seed=seed)
    return head.eval()


def randomise(module: nn.Module, scale: float = 0.3, seed: int = 0) -> nn.Module:
    """Move every trained parameter, so that nothing rests at an initial zero."""
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
    """Every 1-D conditional that a density of rows has, given past [*, F]."""
    assert isinstance(density, FeaturewiseDensity)
    return [density.row(f, past[..., :f]) for f in range(density.features)]


def integral(row: Density1D, points: int = 2001) -> tuple[Tensor, Tensor]:
    """∫ p over all the row's knots, and the largest difference of ∫ p up to x and
    cdf(x): two tensors [*].
    """
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
    """Kolmogorov–Smirnov distance of samples from the density's own conditionals, the
    largest over features.

    The density's batch shape is [draws], all alike. By the probability integral transform
    F(x_f | x_<f) is uniform.
    """
    x = density.sample(Noise.of(torch.arange(draws), "ks"))
    uniform = [row.cdf(x[:, f : f + 1]) for f, row in enumerate(rows_of(density, x))]
    return max(ks_from_uniform(u.flatten().detach()) for u in uniform)


def guided_error(
    p: FeaturewiseDensity, q: FeaturewiseDensity, weight: float, past: Tensor
) -> float:
    """Largest |log guided - log (p^w q^(1-w) / Z)| over rows and points where the product is not
    negligible, in nats.

    Z is the trapezoidal sum over thousands of points, everywhere the guided row has any; where the
    product had to be truncated, over what was kept.
    """
    worst, guided = 0.0, p.guided(q, weight)
    assert isinstance(guided, FeaturewiseDensity)
    for f in range(p.features):
        row, of_p, of_q = (each.row(f, past[..., :f]) for each in (guided, p, q))
        own = row.knots(1).double()
        low, high = own.amin(-1, keepdim=True), own.amax(-1, keepdim=True)
        even = low + (high - low) * torch.linspace(0, 1, 2001, dtype=torch.float64)
        x = torch.cat([of_p.knots(501), of_q.knots(501), own, even], -1).double().sort(-1).values
        x = x.clamp(low, high) if isinstance(row, Grid) else x
        log_product = weight * of_p.log_prob(x) + (1 - weight) * of_q.log_prob(x)
        top = log_product.amax(-1, keepdim=True)
        density = (log_product - top).exp()
        z = ((density[..., 1:] + density[..., :-1]) / 2 * x.diff()).sum(-1, keepdim=True)
        expected = log_product - top - z.log()
        seen = expected > expected.amax(-1, keepdim=True) - 10
        worst = max(worst, (row.log_prob(x) - expected)[seen].abs().max().item())

    return worst
