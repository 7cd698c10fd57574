"""Discrete heads: a softmax over bins as a density, comparable with continuous heads.

    p(x) = p(bin) / width of the bin          inside the range of the training data
    p(x) = p(tail) · exp(-distance/s) / s     outside it, s = the mean bin width by default

Without the two tails a held-out value beyond the training range would have probability zero.

Letters: * batch, E width of the context, F features, S = bins + 2 symbols (tail,
bins, tail), M points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..density import Density, Density1D, FeaturewiseDensity, Resampled
from ..inner.head import Head
from ..layers import DensityParameters
from ..noise import Noise, Stream

_NARROWEST = 1e-4  # the least width of a bin, as a share of the range


@dataclass(frozen=True)
class Histogram(FeaturewiseDensity):
    """Independent histograms with exponential tails.

    Arguments:
        log_mass: Normalised log-probabilities of the symbols, [*, F, S].
        edges: Edges of the bins, ascending, [*, F, S - 1].
        decay: s, scale of the exponential tails, in mean bin widths.
        unlikely: Symbols that guidance does not raise, [*, F, S]; None for none.
    """

    log_mass: Tensor
    edges: Tensor
    decay: float = 1.0
    unlikely: Tensor | None = None

    @property
    def features(self) -> int:
        return self.log_mass.shape[-2]

    def tempered(self, t: float) -> Histogram:
        return replace(self, log_mass=(self.log_mass / t**2).log_softmax(-1))

    def filtered(self, threshold: float, t: float) -> Histogram:
        return replace(self, unlikely=self.tempered(t).log_mass.exp() < threshold)

    def guided(self, null: Density, weight: float, candidates: int = 0) -> Density:
        """In closed form: with common edges the product of two histograms is a histogram.

        At unlikely symbols the null is raised to p · max null / max p (FractalMAR's release). A
        weight above 1 then raises none of them, relative to the likeliest symbol of p.
        """
        if not isinstance(null, Histogram):
            raise TypeError(
                f"the null of a Histogram must be a Histogram, not {type(null).__name__}"
            )
        if candidates and weight != 1:
            return Resampled(self, null, weight, candidates)

        null_mass = null.log_mass
        if self.unlikely is not None:
            peaks = null_mass.amax(-1, keepdim=True) - self.log_mass.amax(-1, keepdim=True)
            raised = torch.maximum(null_mass, self.log_mass + peaks)
            null_mass = torch.where(self.unlikely, raised, null_mass)
        product = weight * self.log_mass + (1 - weight) * null_mass

        return replace(self, log_mass=product.log_softmax(-1))

    def row(self, f: int, past: Tensor) -> Histogram1D:
        return Histogram1D(self.log_mass[..., f, :], self.edges[..., f, :], self.decay)

    def sample(self, noise: Noise) -> Tensor:
        """A symbol by one uniform number, a place in it by another."""
        which = noise.at(Stream.CHOICE).uniform(self.features)
        place = noise.at(Stream.PLACE).uniform(self.features)
        cumulative = self.log_mass.double().softmax(-1).cumsum(-1)
        symbol = (cumulative < which.unsqueeze(-1)).sum(-1).clamp(max=cumulative.shape[-1] - 1)
        edges, last = self.edges.double(), self.edges.shape[-1] - 1
        left = edges.gather(-1, (symbol - 1).clamp(0, last).unsqueeze(-1)).squeeze(-1)
        right = edges.gather(-1, symbol.clamp(0, last).unsqueeze(-1)).squeeze(-1)
        beyond = self.decay * (edges[..., -1] - edges[..., 0]) / last * place.log()  # negative
        x = torch.lerp(left, right, place)
        x = torch.where(symbol > last, left - beyond, x)
        x = torch.where(symbol == 0, right + beyond, x)

        return x.to(self.log_mass.dtype)

    def draw(self, noise: Noise) -> tuple[Tensor, Tensor]:
        return Density.draw(self, noise)


@dataclass(frozen=True)
class Histogram1D(Density1D):
    """One feature of a histogram: log_mass [*, S], edges [*, S - 1]; see `Histogram`."""

    log_mass: Tensor
    edges: Tensor
    decay: float = 1.0

    def _tail_scale(self) -> Tensor:
        span = self.edges[..., -1:] - self.edges[..., :1]
        return self.decay * span / (self.edges.shape[-1] - 1)

    def _place(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The symbol of each point, and the ends of its bin (for a tail: the edge twice)."""
        edges = self.edges.to(x.dtype).contiguous()
        last = edges.shape[-1] - 1
        symbol = torch.searchsorted(edges, x.contiguous(), right=True)
        left = edges.gather(-1, (symbol - 1).clamp(0, last))
        right = edges.gather(-1, symbol.clamp(0, last))
        return symbol, left, right

    def log_prob(self, x: Tensor) -> Tensor:
        symbol, left, right = self._place(x)
        scale = self._tail_scale()
        outside = (left - x).abs() / scale + scale.log()
        inside = (right - left).clamp(min=torch.finfo(left.dtype).tiny).log()
        return self.log_mass.gather(-1, symbol) - torch.where(left == right, outside, inside)

    def cdf(self, x: Tensor) -> Tensor:
        symbol, left, right = self._place(x)
        mass = self.log_mass.double().exp()
        below = torch.nn.functional.pad(mass.cumsum(-1), (1, 0)).gather(-1, symbol)
        share = (x - left) / (right - left).clamp(min=torch.finfo(left.dtype).tiny)
        decay = (-(x - left).abs() / self._tail_scale()).exp()
        share = torch.where(symbol == self.edges.shape[-1], 1 - decay, share)
        share = torch.where(symbol == 0, decay, share)

        return below + mass.gather(-1, symbol) * share

    def knots(self, n: int) -> Tensor:
        """Both sides of every edge, and points down each tail."""
        down = self._tail_scale() * torch.linspace(0, 30, n).to(self.edges)
        edges = self.edges.double()  # in double precision, so that the two sides of an edge differ
        gap = 1e-9 * (edges[..., -1:] - edges[..., :1])
        lower = edges[..., :1] - gap - down
        upper = edges[..., -1:] + gap + down
        return torch.cat([lower, edges - gap, edges + gap, upper], -1)


class Discrete(Head):
    """Softmax over bins of each feature; its likelihood is the density log p(bin) - log width.

    Arguments:
        bins: Bins of each feature, ≥ 2.
        edges: Edges of the bins: `uniform` over the range of the training data, or at their
            `quantile`s.

    Raises:
        ValueError: if bins < 2 or edges is neither of the two.
    """

    capabilities = Head.capabilities | {"filter_threshold"}
    edges: Tensor

    def __init__(
        self,
        context: int,
        features: int,
        groups: int = 1,
        /,
        *,
        bins: int = 64,
        edges: Literal["uniform", "quantile"] = "uniform",
    ) -> None:
        super().__init__()
        if bins < 2:
            raise ValueError(f"bins: {bins} is too few; a histogram needs at least 2")
        if edges not in ("uniform", "quantile"):
            raise ValueError(f"edges: {edges!r} is not one of uniform, quantile")
        self.features, self.bins, self.spacing = features, bins, edges
        self.logits_of = DensityParameters(context, features * (bins + 2))
        self.register_buffer("edges", torch.linspace(-1, 1, bins + 1).repeat(groups, features, 1))

    def fit(self, x: Tensor) -> None:
        """Set the edges over the range of x [n, groups, F], widened by one mean gap."""
        values = x.double().sort(0).values.movedim(0, -1)  # [groups, F, n]
        low, high = values[..., :1], values[..., -1:]
        gap = (high - low).clamp(min=1e-6) / values.shape[-1]
        low, high = low - gap, high + gap
        share = torch.linspace(0, 1, self.bins + 1, dtype=torch.float64)

        if self.spacing == "uniform":
            edges = low + (high - low) * share
        else:
            edges = torch.quantile(values, share, dim=-1).movedim(0, -1)
            edges[..., :1], edges[..., -1:] = low, high
            steps = edges.diff(dim=-1).clamp(min=_NARROWEST * (high - low))
            shares = steps.cumsum(-1) / steps.sum(-1, keepdim=True)
            edges = low + (high - low) * torch.nn.functional.pad(shares, (1, 0))

        self.edges.copy_(edges)

    def forward(self, h: Tensor, index: Tensor | int = 0) -> Histogram:
        logits = self.logits_of(h).unflatten(-1, (self.features, self.bins + 2))
        return Histogram(logits.log_softmax(-1), self.edges[index].expand(*logits.shape[:-1], -1))
