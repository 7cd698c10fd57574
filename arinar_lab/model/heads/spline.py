"""A monotone rational-quadratic spline that carries a normal to any 1-D density (arXiv 1906.04032).

    u = (x - shift)/scale,  y = f(u)          p(x) = N(y; 0, 1) · f'(u)/scale,   P(X ≤ x) = Φ(y)

On [-B, B] f is a ratio of quadratics in each of S bins; outside it is the identity, so that the
tails are Gaussian. Its inverse is the root of a quadratic: density, CDF and sample are exact.

Letters: * batch, E width of the context, F features, S bins, B the bound, M points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as f

from ..density import REACH, Density1D, Factorised, normal_knots
from ..inner.head import Head
from ..layers import DensityParameters, require_at_least
from ..noise import Noise
from .shapes import NORMAL, bounded_log_var, check_bounds, log_interval


@dataclass(frozen=True)
class Spline1D(Density1D):
    """A spline flow of one feature.

    Arguments:
        shift: [*, 1].
        log_scale: [*, 1].
        u: Knots of f, ascending, [*, S + 1].
        y: Values of f at the knots, [*, S + 1]; u and y agree at both ends.
        slope: f' at the knots, 1 at both ends, [*, S + 1].
        log_base: log σ of the base, [*, 1]; 0 unless tempered.
    """

    shift: Tensor
    log_scale: Tensor
    u: Tensor
    y: Tensor
    slope: Tensor
    log_base: Tensor

    def _bin(self, knots: Tensor, at: Tensor) -> tuple[Tensor, ...]:
        """u, width, y, height, left slope and right slope of the bins that hold `at` [*, M]."""
        knots = knots.detach().to(at.dtype).contiguous()
        i = torch.searchsorted(knots, at.detach().contiguous()) - 1
        i = i.clamp(0, self.u.shape[-1] - 2)

        tables = (self.u, self.u.diff(), self.y, self.y.diff(), self.slope, self.slope[..., 1:])
        return tuple(table.to(at.dtype).gather(-1, i) for table in tables)

    def _outside(self, u: Tensor) -> Tensor:
        return (u <= self.u[..., :1]) | (u >= self.u[..., -1:])

    def forth(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y = f(u) in deviations of the base, and log dy/dx (equations 4 and 5), each [*, M]."""
        at = (x - self.shift) * (-self.log_scale).exp()
        u, width, y, height, left, right = self._bin(self.u, at)
        t, mean = ((at - u) / width).clamp(0, 1), height / width
        below = mean + (left + right - 2 * mean) * t * (1 - t)
        inside = y + height * (mean * t**2 + left * t * (1 - t)) / below
        top = right * t**2 + 2 * mean * t * (1 - t) + left * (1 - t) ** 2
        log_slope = 2 * mean.log() + top.log() - 2 * below.log()
        outside = self._outside(at)
        value = torch.where(outside, at, inside) * (-self.log_base).exp()

        return value, torch.where(outside, 0.0, log_slope) - self.log_scale - self.log_base

    def back(self, y: Tensor) -> Tensor:
        """The x [*, M] that f carries to y [*, M] deviations of the base (equations 6 to 8)."""
        at = y * self.log_base.exp()
        u, width, y, height, left, right = self._bin(self.y, at)
        up, mean = at - y, height / width
        bend = left + right - 2 * mean
        a, b, c = height * (mean - left) + up * bend, height * left - up * bend, -mean * up
        t = 2 * c / (-b - (b**2 - 4 * a * c).clamp(min=0).sqrt())
        return self.shift + self.log_scale.exp() * torch.where(self._outside(at), at, u + t * width)

    def log_prob(self, x: Tensor) -> Tensor:
        y, log_slope = self.forth(x)
        return NORMAL.log_prob(y) + log_slope

    def cdf(self, x: Tensor) -> Tensor:
        return torch.special.ndtr(self.forth(x)[0])

    def log_interval(self, low: Tensor, high: Tensor) -> Tensor:
        return log_interval(
            NORMAL.log_cdf, self.forth(low.double())[0], self.forth(high.double())[0]
        )

    def tempered(self, t: float) -> Spline1D:
        return replace(self, log_base=self.log_base + math.log(t))

    def sample(self, noise: Noise) -> Tensor:
        return self.back(noise.normal(1, self.shift.dtype)).squeeze(-1)

    def knots(self, n: int) -> Tensor:
        """The images of a normal's knots, and each bin cut into equal parts, since the density can
        bend at its ends.
        """
        normal = self.back(normal_knots(n).to(self.shift).expand(*self.shift.shape[:-1], -1))
        parts = torch.linspace(0, 1, 4 + n // 8).to(self.u)
        bins = (self.u[..., :-1, None] + self.u.diff().unsqueeze(-1) * parts).flatten(-2)
        return torch.cat([normal, self.shift + self.log_scale.exp() * bins], -1)

    def span(self, sigmas: float = REACH) -> tuple[Tensor, Tensor]:
        ends = self.shift.new_tensor([-sigmas, sigmas]).expand(*self.shift.shape[:-1], 2)
        low, high = self.back(ends.contiguous()).unbind(-1)
        return low, high

    def tail(self) -> Tensor:
        return (self.log_scale + self.log_base).exp().squeeze(-1)


class Spline(Head):
    """Rational-quadratic spline flow of a standard normal on each feature
    (arXiv 1906.04032, section 3).

    A temperature t draws the base from N(0, t²): a straight spline multiplies every deviation by t,
    a curved one bends it, so that samples stay where the density is high.

    Arguments:
        bins: S, bins of the spline, ≥ 1.
        bound: B, half-width of the spline in deviations from the centre, > 0.
        min_std: Floor of `scale`, the deviation of the tails, in units of the tokens, ≥ 0.
        max_std: Ceiling of `scale` in units of the tokens, above `min_std`; null is none.
        min_bin: Least width and height of a bin as a share of 2B, in (0, 1/S); slopes at the knots
            lie in (min_bin, 1/min_bin). The narrowest spike is about min_bin · scale wide.

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
        bins: int = 8,
        bound: float = 4.0,
        min_std: float = 1e-3,
        max_std: float | None = None,
        min_bin: float = 1e-2,
    ) -> None:
        super().__init__()
        require_at_least(1, bins=bins)
        check_bounds("std", min_std, max_std)
        if not bound > 0:
            raise ValueError(f"bound: {bound} is not above 0")
        if not 0 < min_bin < 1 / bins:
            raise ValueError(
                f"min_bin: {min_bin} is outside (0, 1/bins); the least shares would fill the whole"
            )

        self.bins = bins
        self.bound = bound
        self.bounds = (min_std, max_std)
        self.min_bin = min_bin
        self.features = features
        self.sizes = [1, 1, bins, bins, bins - 1]
        self.parameters_of = DensityParameters(context, features * sum(self.sizes))

    def _ends(self, logits: Tensor) -> Tensor:
        """Knots from -B to B, from the logits of their distances, [*, S] → [*, S + 1]."""
        shares = self.min_bin + (1 - self.min_bin * self.bins) * logits.softmax(-1)
        inner = self.bound * (2 * shares[..., :-1].cumsum(-1) - 1)
        return f.pad(f.pad(inner, (1, 0), value=-self.bound), (0, 1), value=self.bound)

    def forward(self, h: Tensor, index: Tensor | int = 0) -> Factorised:
        parameters = self.parameters_of(h).unflatten(-1, (self.features, -1))
        shift, log_var, widths, heights, slopes = parameters.split(self.sizes, -1)
        steepest = -math.log(self.min_bin)
        slope = (steepest * torch.tanh(slopes / steepest)).exp()  # 1 at logits of 0
        slope = f.pad(slope, (1, 1), value=1.0)
        log_scale = bounded_log_var(log_var, *self.bounds) / 2
        u = self._ends(widths)
        y = self._ends(heights)

        return Factorised(Spline1D(shift, log_scale, u, y, slope, torch.zeros_like(shift)))
