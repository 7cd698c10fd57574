"""A number as floating-point symbols: sign and exponent, then a few bits of mantissa at a time.

    x/c  →  s_0 (a tail, or sign and exponent), s_1, s_2, … (mantissa)    c: a power of two, from
                                                                          the data
    p(x) = Π_l p(s_l | s_<l, h) / width of the interval that the symbols denote

The first symbol gives the powers of two that bound |x|; the least of them bounds one interval
around 0, as subnormal numbers do. Each later symbol cuts the interval into 2^bits equal parts.
Beyond the largest power two exponential tails of scale c leave no number impossible. The density is
so a histogram of many bins, learned as a tree: one small softmax for each symbol. Guidance and
temperature need all leaves of the histogram.

Letters: * batch, E width of the context, F features, S_0 first symbols, R parts of a cut, W
hidden width, M points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as f

from ..density import Density, Density1D, Factorised, Resampled
from ..inner.head import Head
from ..layers import DensityParameters, LearnedVectors, require_at_least
from ..noise import Noise
from .bins import Histogram, Histogram1D


class SymbolLogits(nn.Module):
    """Logits of one mantissa symbol from the context and the symbols before it.

    logits = linear(gelu(u + Σ_j v_j[s_j])): u of the context, a learned vector for each symbol.
    """

    def __init__(self, before: list[int], width: int, parts: int) -> None:
        super().__init__()
        self.symbols = nn.ModuleList(LearnedVectors(n, width) for n in before)
        self.logits_of = DensityParameters(width, parts)

    def forward(self, u: Tensor, before: Tensor) -> Tensor:
        """u [*, 1, W] and symbols [*, M, l] → normalised log-probabilities [*, M, R]."""
        for j, vectors in enumerate(self.symbols):
            u = u + vectors()[before[..., j]]
        return self.logits_of(f.gelu(u)).log_softmax(-1)


@dataclass(frozen=True)
class Byte1D(Density1D):
    """The tree of one feature; only leaves of the queried points are computed.

    Arguments:
        log_first: Normalised log-probabilities of the first symbol (tail, ascending intervals,
            tail), [*, S_0].
        hidden: Input of the cuts, [*, W].
        edges: Edges of the first symbol's intervals, ascending, [*, S_0 - 1].
        cuts: Networks of the mantissa symbols, in order.
        parts: R.
    """

    log_first: Tensor
    hidden: Tensor
    edges: Tensor
    cuts: nn.ModuleList
    parts: int

    @property
    def leaves(self) -> int:
        """Bins between the tails."""
        return (self.edges.shape[-1] - 1) * self.parts ** len(self.cuts)

    def _walk(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-mass of the leaf of each point, mass below it, and the point's place in it: x - left
        edge and width (0 in a tail), [2, *, M].
        """
        edges = self.edges.to(x.dtype).contiguous()
        last = edges.shape[-1] - 1
        symbol = torch.searchsorted(edges, x.contiguous(), right=True)
        log_mass, below = _pick(self.log_first.unsqueeze(-2), symbol)
        left = edges.gather(-1, (symbol - 1).clamp(0, last))
        width = edges.gather(-1, symbol.clamp(0, last)) - left
        tail = (symbol == 0) | (symbol > last)
        path = (symbol - 1).clamp(0, last - 1).unsqueeze(-1)

        for cut in self.cuts:
            width = width / self.parts
            part = ((x - left) / torch.where(tail, 1.0, width)).floor()
            part = part.clamp(0, self.parts - 1).long()
            log_part, before = _pick(cut(self.hidden.unsqueeze(-2), path), part)
            below = torch.where(tail, below, below + log_mass.double().exp() * before)
            log_mass = torch.where(tail, log_mass, log_mass + log_part)
            left = torch.where(tail, left, left + part * width)
            path = torch.cat([path, part.unsqueeze(-1)], -1)

        return log_mass, below, torch.stack([x - left, torch.where(tail, 0.0, width)])

    def _decay(self) -> Tensor:
        return (self.edges[..., -1:] - self.edges[..., :1]) / 2

    def log_prob(self, x: Tensor) -> Tensor:
        log_mass, _, (place, width) = self._walk(x)
        outside = place.abs() / self._decay() + self._decay().log()
        inside = torch.where(width == 0, 1.0, width).log()
        return log_mass - torch.where(width == 0, outside, inside)

    def cdf(self, x: Tensor) -> Tensor:
        log_mass, below, (place, width) = self._walk(x)
        far = (-place.abs() / self._decay()).exp()
        outside = torch.where(place < 0, far, 1 - far)
        inside = place / torch.where(width == 0, 1.0, width)
        return below + log_mass.double().exp() * torch.where(width == 0, outside, inside)

    def sample(self, noise: Noise) -> Tensor:
        """Symbol after symbol, then a place in the leaf."""
        u = noise.uniform(len(self.cuts) + 2)
        last, decay = self.edges.shape[-1] - 1, self._decay().squeeze(-1)
        symbol = _draw(self.log_first, u[..., 0])
        left = self.edges.gather(-1, (symbol - 1).clamp(0, last).unsqueeze(-1)).squeeze(-1)
        width = self.edges.gather(-1, symbol.clamp(0, last).unsqueeze(-1)).squeeze(-1) - left
        path = (symbol - 1).clamp(0, last - 1)[..., None, None]
        place = u[..., -1]
        x = left

        for level, cut in enumerate(self.cuts):
            part = _draw(cut(self.hidden.unsqueeze(-2), path).squeeze(-2), u[..., level + 1])
            path = torch.cat([path, part[..., None, None]], -1)
            width = width / self.parts
            x = x + part * width

        beyond = -decay * place.log()
        x = torch.where(symbol > last, left + beyond, x + place * width)
        x = torch.where(symbol == 0, left - beyond, x)

        return x.to(self.log_first.dtype)

    def knots(self, n: int) -> Tensor:
        return Histogram1D(self.log_first, self._leaf_edges(), self.leaves / 2).knots(n)

    def _leaf_edges(self) -> Tensor:
        share = torch.arange(self.leaves // (self.edges.shape[-1] - 1)).to(self.edges) * (
            1 / self.parts ** len(self.cuts)
        )
        cells = self.edges[..., :-1, None] + self.edges.diff().unsqueeze(-1) * share
        return torch.cat([cells.flatten(-2), self.edges[..., -1:]], -1)

    def table(self) -> tuple[Tensor, Tensor]:
        """All leaves and both tails: log of their masses [*, leaves + 2], and their edges."""
        log_mass = self.log_first[..., 1:-1]
        path = torch.arange(log_mass.shape[-1], device=log_mass.device).unsqueeze(-1)
        for cut in self.cuts:
            every = path.expand(*log_mass.shape, path.shape[-1])
            log_mass = (log_mass.unsqueeze(-1) + cut(self.hidden.unsqueeze(-2), every)).flatten(-2)
            part = torch.arange(self.parts, device=path.device).repeat(len(path)).unsqueeze(-1)
            path = torch.cat([path.repeat_interleave(self.parts, 0), part], -1)

        return torch.cat(
            [self.log_first[..., :1], log_mass, self.log_first[..., -1:]], -1
        ), self._leaf_edges()


def _pick(log_p: Tensor, symbol: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of a symbol [*, M] under log_p [*, M, n], and the mass below it."""
    log_p = log_p.expand(*symbol.shape, -1)
    below = f.pad(log_p.double().exp().cumsum(-1), (1, 0)).gather(-1, symbol.unsqueeze(-1))
    return log_p.gather(-1, symbol.unsqueeze(-1)).squeeze(-1), below.squeeze(-1)


def _draw(log_p: Tensor, u: Tensor) -> Tensor:
    """A symbol [*] by one uniform number [*] and log-probabilities [*, n]."""
    cumulative = log_p.double().softmax(-1).cumsum(-1)
    return (cumulative < u.unsqueeze(-1)).sum(-1).clamp(max=log_p.shape[-1] - 1)


@dataclass(frozen=True)
class Leaves(Histogram):
    """The tree as a histogram of its leaves. Temperature raises the density to the power 1/t²."""

    def tempered(self, t: float) -> Leaves:
        span = self.edges[..., -1:] - self.edges[..., :1]
        tails = self.decay * span / (self.edges.shape[-1] - 1)
        log_width = torch.cat([tails, self.edges.diff(), tails], -1).log()
        log_mass = (self.log_mass - log_width) / t**2 + log_width
        return replace(self, log_mass=log_mass.log_softmax(-1))


@dataclass(frozen=True)
class Bytes(Factorised):
    """Independent numbers as symbols; guided and tempered exactly, over all their leaves."""

    every: Byte1D

    def leaves(self) -> Leaves:
        return Leaves(*self.every.table(), self.every.leaves / 2)

    def tempered(self, t: float) -> Leaves:
        return self.leaves().tempered(t)

    def guided(self, null: Density, weight: float, candidates: int = 0) -> Density:
        if not isinstance(null, Bytes | Leaves):
            raise TypeError(f"the null of Bytes must be Bytes, not {type(null).__name__}")
        if weight == 1:
            return self
        if candidates:
            return Resampled(self, null, weight, candidates)
        return self.leaves().guided(null.leaves() if isinstance(null, Bytes) else null, weight)


class Byte(Head):
    """A number as the symbols of a small floating-point format: sign and exponent, then
    mantissa symbols in turn.

    Arguments:
        exponents: Powers of two that the first symbol distinguishes, ≥ 1, downwards from the least
            one that bounds the training data.
        symbols: Symbols of the mantissa, ≥ 0.
        bits: Bits of each mantissa symbol, ≥ 1: the mantissa has symbols · bits bits.
        width: W, width of the network that reads the symbols, ≥ 1.

    The tree has (2 · exponents + 1) · 2^(symbols · bits) leaves, all of which guided or tempered
    sampling computes. Spikes are limited by the width of a leaf,
    c · 2^(-exponents - symbols · bits) near 0.

    Raises:
        ValueError: if a number is too small, or the tree would have more than 2^16 leaves.
    """

    scale: Tensor
    powers: Tensor

    def __init__(
        self,
        context: int,
        features: int,
        groups: int = 1,
        /,
        *,
        exponents: int = 6,
        symbols: int = 2,
        bits: int = 3,
        width: int = 32,
    ) -> None:
        super().__init__()
        require_at_least(1, exponents=exponents, bits=bits, width=width)
        require_at_least(0, symbols=symbols)
        if (2 * exponents + 1) << (symbols * bits) > 1 << 16:
            raise ValueError(f"bits: {symbols} symbols of {bits} make more than 65536 leaves")
        self.features = features
        self.parts = 1 << bits
        first = 2 * exponents + 1
        self.logits_of = DensityParameters(context, features * (first + 2))
        self.hidden_of = DensityParameters(context, features * width)
        self.cuts = nn.ModuleList(
            SymbolLogits([first] + [self.parts] * j, width, self.parts) for j in range(symbols)
        )
        powers = 2.0 ** torch.arange(-exponents, 1)

        self.register_buffer("powers", torch.cat([-powers.flip(0), powers]), persistent=False)
        self.register_buffer("scale", torch.ones(groups, features, 1))

    def fit(self, x: Tensor) -> None:
        """Set c of each feature to the least power of two that bounds x [n, groups, F]."""
        self.scale.copy_(2 ** x.abs().amax(0).clamp(min=1e-6).log2().ceil().unsqueeze(-1))

    def forward(self, h: Tensor, index: Tensor | int = 0) -> Bytes:
        log_first = self.logits_of(h).unflatten(-1, (self.features, -1)).log_softmax(-1)
        hidden = self.hidden_of(h).unflatten(-1, (self.features, -1))
        edges = (self.scale[index] * self.powers).expand(*log_first.shape[:-1], -1)
        return Bytes(Byte1D(log_first, hidden, edges, self.cuts, self.parts))
