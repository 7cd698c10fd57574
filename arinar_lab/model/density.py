"""Densities, and how any two of them are tempered, guided and drawn.

    p.tempered(t)           sharpen or flatten: a standard deviation σ becomes σ·t
    p.guided(q, w)          ∝ p^w · q^(1-w): classifier-free guidance of a density by its null q
    p.sample(noise)         a pure function of the noise

A density that can be walked one feature at a time (`FeaturewiseDensity`) is guided feature by
feature: each 1-D conditional p(x_f | x_<f)^w · q(x_f | x_<f)^(1-w) is normalised on a grid and
drawn by its inverse CDF. The grid is the union of each component's own knots, which stays accurate
when widths differ a thousandfold; it reaches as far as guidance moves the mass, and is refined
where that is. The published code draws 1000 candidates instead (`candidates`).

Letters: * batch, F features, K components, M grid points. Unit: nats per event.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Self, TypeVar

import torch
from torch import Tensor

from .noise import Noise

REACH = 12.0  # the grid's half-width, in standard deviations
# half-width, in standard deviations, that is kept where p^w q^(1-w) cannot be normalised
TRUNCATE = 3.3
NEGLIGIBLE = 16.0  # nats below the highest density at which a grid may end
KNOTS = 11  # grid points of one component
# grid points that are put where the mass turns out to be, in each of two rounds
QUANTILES = (24, 48)


class Density:
    """p(x) for x [*, F]. A member writes `log_prob` and `sample`, and what it can of the rest."""

    def log_prob(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """log p(x) in nats, [*, F] → [*]. `noise` serves members whose
        likelihood is an estimate.
        """
        raise NotImplementedError

    def loss(self, x: Tensor, noise: Noise) -> Tensor:
        """What training minimises, [*, F] → [*]: -log p(x), unless the member
        trains on a surrogate.
        """
        return -self.log_prob(x, noise)

    def log_interval(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """log Π_f P(low_f < X_f < high_f | x_<f) in nats, three times [*, F] → [*]: likelihood at
        a finite resolution.
        """
        raise NotImplementedError(f"{type(self).__name__} has no likelihood at a resolution")

    def by_feature(self, x: Tensor) -> Tensor:
        """log p(x_f | what comes before f) in nats at place f, [*, F] → [*, F]: what
        `log_prob` is the sum of.
        """
        raise NotImplementedError(f"{type(self).__name__} is not walked one feature at a time")

    def pit(self, x: Tensor) -> Tensor:
        """P(X_f ≤ x_f | what comes before f) at place f, [*, F] → [*, F]: uniform where
        the density is right.
        """
        raise NotImplementedError(f"{type(self).__name__} is not walked one feature at a time")

    def truncated(self, x: Tensor) -> Tensor:
        """1 where the 1-D conditional of x_f had to be truncated, [*, F] → [*, F]."""
        return torch.zeros_like(x)

    def refined(self) -> Density:
        """The same density, its likelihood computed with twice the steps where it is
        integrated numerically.
        """
        return self

    def tempered(self, t: float) -> Density:
        """The density with every σ multiplied by t (discrete: logits divided by t²)."""
        raise NotImplementedError(f"{type(self).__name__} cannot be tempered")

    def guided(self, null: Density, weight: float, candidates: int = 0) -> Density:
        """∝ p^weight · null^(1-weight); with `candidates` n, resampled from n draws of
        p (arXiv 2503.02883).
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be guided")

    def filtered(self, threshold: float, t: float) -> Density:
        """The same density, whose guidance raises no level that has less than `threshold` once
        it is tempered by t.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no levels that guidance could leave out"
        )

    def with_parallel_groups(self, together: int) -> Density:
        """The same density, drawn with `together` groups of its features at a time, as though
        those were independent.
        """
        raise NotImplementedError(f"{type(self).__name__} is not drawn group by group")

    def sample(self, noise: Noise) -> Tensor:
        """One x [*, F] for each key of the noise [*]."""
        raise NotImplementedError

    def draw(self, noise: Noise) -> tuple[Tensor, Tensor]:
        """`sample`, and how many of its 1-D conditionals had to be truncated: [*, F], [*]."""
        return self.sample(noise), torch.zeros_like(noise.key)

    def given(self, x: Tensor) -> Density:
        """The density whose parameters can be looked at: itself, or its teacher-forced
        blocks given x [*, F].
        """
        return self

    def weights(self) -> Tensor | None:
        """Weights of the components, [*, K]; None where there are none."""
        return None


class Density1D:
    """A one-dimensional density for each element of a batch [*]; points are x [*, M]."""

    def log_prob(self, x: Tensor) -> Tensor:
        """log p at each point in nats, [*, M] → [*, M]."""
        raise NotImplementedError

    def cdf(self, x: Tensor) -> Tensor:
        """P(X ≤ x), [*, M] → [*, M]."""
        raise NotImplementedError

    def knots(self, n: int) -> Tensor:
        """Points (unsorted) between which the density is nearly linear, n for
        each component: [*, M].
        """
        raise NotImplementedError

    def span(self, sigmas: float) -> tuple[Tensor, Tensor]:
        """The interval that holds every component's ±sigmas·σ, or the whole
        support: two tensors [*].
        """
        knots = self.knots(2)
        return knots.amin(-1), knots.amax(-1)

    def tail(self) -> Tensor:
        """σ of the widest Gaussian tail, [*]; 0 where the tails are lighter or
        the support is bounded.
        """
        return torch.zeros_like(self.knots(2)[..., 0])

    def log_interval(self, low: Tensor, high: Tensor) -> Tensor:
        """log P(low < X < high), [*, M] → [*, M]."""
        tiny = torch.finfo(torch.float64).tiny
        mass = self.cdf(high.double()) - self.cdf(low.double())
        return mass.clamp(min=tiny).log()

    def stack_with(self, other: Density1D) -> Density1D | None:
        """This row and another as one, [2, *], whose log_prob takes points [*, M]; None for
        members that have no such.
        """
        return None

    def tempered(self, t: float) -> Density1D:
        """The row with every σ multiplied by t; where a member has no σ of its own, drawn
        together about its median.
        """
        half = torch.full_like(self.knots(2)[..., 0], 0.5, dtype=torch.float64)
        return Rescaled1D(self, Grid.of(self).icdf(half).unsqueeze(-1), t)

    def sample(self, noise: Noise) -> Tensor:
        """One x [*] for each key of the noise [*]: by the inverse CDF on a grid, unless the
        member knows better.
        """
        return Grid.of(self).icdf(noise.uniform(1).squeeze(-1))

    def weights(self) -> Tensor | None:
        """Weights of the components, [*, K]; None where there are none."""
        return None


@dataclass(frozen=True)
class Rescaled1D(Density1D):
    """The row of c + t (X - c): every distance from the centre c is multiplied by t.

    Arguments:
        row: of X; centre: c [*, 1]; factor: t > 0.
    """

    row: Density1D
    centre: Tensor
    factor: float

    def _back(self, x: Tensor) -> Tensor:
        return self.centre + (x - self.centre) / self.factor

    def log_prob(self, x: Tensor) -> Tensor:
        return self.row.log_prob(self._back(x)) - math.log(self.factor)

    def cdf(self, x: Tensor) -> Tensor:
        return self.row.cdf(self._back(x))

    def log_interval(self, low: Tensor, high: Tensor) -> Tensor:
        return self.row.log_interval(self._back(low.double()), self._back(high.double()))

    def knots(self, n: int) -> Tensor:
        return self.centre + self.factor * (self.row.knots(n) - self.centre)

    def span(self, sigmas: float) -> tuple[Tensor, Tensor]:
        low, high = (
            self.centre + self.factor * (end.unsqueeze(-1) - self.centre)
            for end in self.row.span(sigmas)
        )
        return low.squeeze(-1), high.squeeze(-1)

    def tail(self) -> Tensor:
        return self.factor * self.row.tail()


class FeaturewiseDensity(Density):
    """A density that can be walked one feature at a time. A member writes `row`,
    `features` and `tempered`.
    """

    @property
    def features(self) -> int:
        """F."""
        raise NotImplementedError

    def tempered(self, t: float) -> FeaturewiseDensity:
        raise NotImplementedError(f"{type(self).__name__} cannot be tempered")

    def row(self, f: int, past: Tensor) -> Density1D:
        """p(x_f | x_<f) given past [*, f]."""
        raise NotImplementedError

    def log_prob(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        return self.by_feature(x).sum(-1)

    def log_interval(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        each = [
            self.row(f, x[..., :f]).log_interval(low[..., f : f + 1], high[..., f : f + 1])
            for f in range(self.features)
        ]
        return torch.cat(each, -1).sum(-1)

    def by_feature(self, x: Tensor) -> Tensor:
        each = [self.row(f, x[..., :f]).log_prob(x[..., f : f + 1]) for f in range(self.features)]
        return torch.cat(each, -1)

    def pit(self, x: Tensor) -> Tensor:
        return torch.cat(
            [self.row(f, x[..., :f]).cdf(x[..., f : f + 1]) for f in range(self.features)], -1
        )

    def guided(self, null: Density, weight: float, candidates: int = 0) -> Density:
        if not isinstance(null, FeaturewiseDensity):
            raise TypeError(
                f"the null of a {type(self).__name__} must be a FeaturewiseDensity, not "
                f"{type(null).__name__}"
            )

        if weight == 1:
            return self

        return (
            Resampled(self, null, weight, candidates) if candidates else Guided(self, null, weight)
        )

    def repeat(self, n: int) -> Self:
        """The same density n times along a new first axis: batch [*] → [n, *]."""
        return each_tensor(self, lambda value: value.expand(n, *value.shape))

    def quantile(self, f: int, past: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The x_f [*] with P(X_f ≤ x_f | x_<f) = u [*], and 1 where its density had
        to be truncated [*].
        """
        row = self.row(f, past)
        return (
            (row.icdf(u), row.truncated)
            if isinstance(row, Grid)
            else _invert.get()(row, row, 1.0, u)
        )

    def sample(self, noise: Noise) -> Tensor:
        return self.draw(noise)[0]

    def draw(self, noise: Noise) -> tuple[Tensor, Tensor]:
        """Each feature in turn, by the inverse CDF of its row."""
        u = noise.uniform(self.features)
        x = u.new_zeros((*noise.key.shape, 0))
        truncated = torch.zeros_like(noise.key)
        for f in range(self.features):
            drawn, cut = self.quantile(f, x, u[..., f])
            x = torch.cat([x.to(drawn.dtype), drawn.unsqueeze(-1)], -1)
            truncated = truncated + cut
        return x, truncated


def invert(p: Density1D, q: Density1D, weight: float, u: Tensor) -> tuple[Tensor, Tensor]:
    """The x [*] at which the CDF of p^w · q^(1-w) is u [*], and 1 where that
    product was truncated [*].
    """
    grid = Grid.product(p, q, weight)
    return grid.icdf(u), grid.truncated


_invert: ContextVar[Callable[[Density1D, Density1D, float, Tensor], tuple[Tensor, Tensor]]] = (
    ContextVar("invert", default=invert)
)


@contextmanager
def compiled_quantiles() -> Iterator[None]:
    """Within, features are drawn by one compiled function: about twice as fast, and
    other only by rounding.

    Compiling takes half a minute of the first two batches that differ in shape. Where a row cannot
    be compiled, or only in parts, the rest is computed as without.
    """
    token = _invert.set(_compiled())
    try:
        yield
    finally:
        _invert.reset(token)


@cache
def _compiled() -> Callable[[Density1D, Density1D, float, Tensor], tuple[Tensor, Tensor]]:
    return torch.compile(invert)


_T = TypeVar("_T")


def each_tensor(value: _T, change: Callable[[Tensor], Tensor]) -> _T:
    """A dataclass of tensors, and of such dataclasses, with every tensor changed; all
    else is left as it is.
    """
    parts = {field.name: getattr(value, field.name) for field in fields(value)}  # type: ignore[arg-type]
    changed = {
        name: change(part) if isinstance(part, Tensor) else each_tensor(part, change)
        for name, part in parts.items()
        if isinstance(part, (Tensor, Density1D, Density))
    }
    return replace(value, **changed)  # type: ignore[type-var]


@dataclass(frozen=True)
class Factorised(FeaturewiseDensity):
    """Independent features, p(x) = Π_f p_f(x_f). A head on one feature writes a
    `Density1D` and returns this.

    Arguments:
        every: the rows of all features in one, with batch [*, F]: a dataclass whose
            tensors are all [*, F, n].
    """

    every: Density1D

    @property
    def features(self) -> int:
        values = (getattr(self.every, field.name) for field in fields(self.every))  # type: ignore[arg-type]
        return next(value.shape[-2] for value in values if isinstance(value, Tensor))

    def log_prob(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        return self.every.log_prob(x.unsqueeze(-1)).squeeze(-1).sum(-1)

    def log_interval(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return self.every.log_interval(low.unsqueeze(-1), high.unsqueeze(-1)).squeeze(-1).sum(-1)

    def tempered(self, t: float) -> FeaturewiseDensity:
        return replace(self, every=self.every.tempered(t))

    def row(self, f: int, past: Tensor) -> Density1D:
        return each_tensor(self.every, lambda value: value[..., f, :])

    def sample(self, noise: Noise) -> Tensor:
        """All features at once, each with noise of its own."""
        return self.every.sample(
            noise.at(
                torch.arange(self.features, device=noise.key.device).expand(*noise.key.shape, -1)
            )
        )

    def draw(self, noise: Noise) -> tuple[Tensor, Tensor]:
        return Density.draw(self, noise)

    def weights(self) -> Tensor | None:
        return self.every.weights()


@dataclass(frozen=True)
class Guided(FeaturewiseDensity):
    """Π_f p(x_f | x_<f)^w · q(x_f | x_<f)^(1-w) / Z_f(x_<f), each factor normalised on a grid.

    Arguments:
        p, q: the conditional density and its null.
        weight: w ≥ 0; 1 gives p, 0 gives q.
    """

    p: FeaturewiseDensity
    q: FeaturewiseDensity
    weight: float

    @property
    def features(self) -> int:
        return self.p.features

    def tempered(self, t: float) -> Guided:
        return replace(self, p=self.p.tempered(t), q=self.q.tempered(t))

    def row(self, f: int, past: Tensor) -> Grid:
        return Grid.product(self.p.row(f, past), self.q.row(f, past), self.weight)

    def quantile(self, f: int, past: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        return _invert.get()(self.p.row(f, past), self.q.row(f, past), self.weight, u)

    def truncated(self, x: Tensor) -> Tensor:
        return torch.stack([self.row(f, x[..., :f]).truncated for f in range(self.features)], -1)


@dataclass(frozen=True)
class Resampled(Density):
    """Guidance as published: draw n candidates from p, keep one with weight ∝ (p/q)^(w-1).

    Under a temperature the candidates come from p.tempered(t), and the weights from p and q as they
    are (arXiv 2503.02883, released code). Its density has no closed form: `log_prob` is refused.

    Arguments:
        p, q: the conditional density and its null; weight: w; candidates: n;
            temperature: of the candidates.
    """

    p: FeaturewiseDensity
    q: FeaturewiseDensity
    weight: float
    candidates: int
    temperature: float = 1.0

    def tempered(self, t: float) -> Resampled:
        return replace(self, temperature=self.temperature * t)

    def sample(self, noise: Noise) -> Tensor:
        keys = noise.at(
            torch.arange(self.candidates, device=noise.key.device)[(None,) * noise.key.dim()]
        )
        p, q = self.p.repeat(self.candidates), self.q.repeat(self.candidates)
        draws = p.tempered(self.temperature).sample(Noise(keys.key.movedim(-1, 0)))  # [n, *, F]
        log_ratio = p.log_prob(draws) - q.log_prob(draws)
        cumulative = ((self.weight - 1) * log_ratio.double()).softmax(0).cumsum(0)  # [n, *]
        pick = (
            (cumulative < noise.at(self.candidates).uniform(1).squeeze(-1))
            .sum(0)
            .clamp(max=self.candidates - 1)
        )

        return draws.gather(0, pick[None, ..., None].expand(1, *draws.shape[1:])).squeeze(0)


@dataclass(frozen=True)
class Product:
    """p^w · q^(1-w), not normalised.

    Arguments:
        p, q: rows with batch [*]; weight: w.
        both: p and q as one row with batch [2, *], where they can be had in one:
            half the operations.
    """

    p: Density1D
    q: Density1D
    weight: float
    both: Density1D | None

    def log_prob(self, x: Tensor) -> Tensor:
        if self.weight == 1:
            return self.p.log_prob(x)
        log_p, log_q = (
            (self.p.log_prob(x), self.q.log_prob(x)) if self.both is None else self.both.log_prob(x)
        )
        return torch.add(self.weight * log_p, log_q, alpha=1 - self.weight)


@dataclass(frozen=True)
class Grid(Density1D):
    """A 1-D density ∝ p^w · q^(1-w) known at sorted points; outside them it is zero.

    Arguments:
        points: [*, M], ascending.
        density: normalised, at the points, [*, M].
        cumulative: the CDF at the points, [*, M].
        log_z: log of the normaliser, [*, 1].
        source: of which rows, and with which weight.
        truncated: 1 where the product could not be normalised and was cut, [*].
    """

    points: Tensor
    density: Tensor
    cumulative: Tensor
    log_z: Tensor
    source: Product
    truncated: Tensor

    @classmethod
    def of(cls, row: Density1D) -> Grid:
        """The density of one row."""
        return cls.product(row, row, 1.0)

    @classmethod
    def product(cls, p: Density1D, q: Density1D, weight: float) -> Grid:
        """The union of both rows' knots, more points where the mass turns out to be, and
        Simpson's rule between them.

        With w > 1 a null narrower than √((w-1)/w) times the conditional cannot be divided by: the
        product grows without end. There, and where the mass runs off the grid, it is cut at ±3.3 σ
        of the conditional, and counted.
        """
        source = Product(p, q, weight, None if weight == 1 else p.stack_with(q))
        points = torch.cat([p.knots(KNOTS), *([] if q is p else [q.knots(KNOTS)])], -1)
        if weight > 1:
            points = torch.cat([points, _beyond(p, q, weight)], -1)
        points = points.sort(-1).values
        log_p, truncated = (
            source.log_prob(points),
            torch.zeros_like(points[..., 0], dtype=torch.long),
        )
        if weight > 1:
            runs_off = torch.maximum(log_p[..., 0], log_p[..., -1]) > log_p.amax(-1) - NEGLIGIBLE
            cut = runs_off | (
                (q.tail() > 0) & (q.tail() < math.sqrt((weight - 1) / weight) * p.tail())
            )
            low, high = (end.unsqueeze(-1) for end in p.span(TRUNCATE))
            truncated = cut.long()

            # asking whether any is cut would make a GPU wait, and split a compiled graph
            if points.is_cuda or torch.compiler.is_compiling() or cut.any():
                points = torch.where(
                    cut.unsqueeze(-1), torch.maximum(torch.minimum(points, high), low), points
                )
                log_p = source.log_prob(points)

        for n in QUANTILES:
            more, order = _quantiles(points, log_p, n)
            points = torch.cat([points, more], -1).gather(-1, order)
            log_p = torch.cat([log_p, source.log_prob(more)], -1).gather(-1, order)

        middle = (points[..., 1:] + points[..., :-1]) / 2
        density = _simpson(points, log_p, source.log_prob(middle))

        return cls(_interleave(points, middle), *density, source, truncated)

    def log_prob(self, x: Tensor) -> Tensor:
        inside = (x >= self.points[..., :1]) & (x <= self.points[..., -1:])
        return torch.where(inside, self.source.log_prob(x) - self.log_z, -math.inf)

    def cdf(self, x: Tensor) -> Tensor:
        x = x.to(self.points.dtype).contiguous()
        i, step, left, slope, scale = self._cell(torch.searchsorted(self.points, x))
        t = (x - self.points.gather(-1, i)).clamp(min=torch.zeros_like(step), max=step)
        return (self.cumulative.gather(-1, i) + scale * (left * t + slope * t * t / 2)).clamp(0, 1)

    def icdf(self, u: Tensor) -> Tensor:
        """The x [*] with P(X ≤ x) = u [*]."""
        return self._inverse(u.unsqueeze(-1).contiguous()).squeeze(-1)

    def _inverse(self, u: Tensor) -> Tensor:
        """Roots of the quadratic that the CDF is taken for between two points, [*, n] → [*, n]."""
        i, step, left, slope, scale = self._cell(torch.searchsorted(self.cumulative, u))
        rest = (u - self.cumulative.gather(-1, i)).clamp(min=0) / scale.clamp(min=_TINY)
        root = (left * left + 2 * slope * rest).clamp(min=0).sqrt()
        return self.points.gather(-1, i) + torch.minimum(
            2 * rest / (left + root).clamp(min=_TINY), step
        )

    def _cell(self, right: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Of the cell that ends at index `right`: its left index, its width, the density there, its
        slope, and what makes the area under that line the cell's mass."""
        i = right.clamp(1, self.points.shape[-1] - 1) - 1
        step = self.points.gather(-1, i + 1) - self.points.gather(-1, i)
        left, end = self.density.gather(-1, i), self.density.gather(-1, i + 1)
        mass = self.cumulative.gather(-1, i + 1) - self.cumulative.gather(-1, i)
        # equal points of a narrow spike
        slope = torch.where(step > 0, (end - left) / step.clamp(min=_TINY), 0.0)
        return i, step, left, slope, mass / ((left + end) / 2 * step).clamp(min=_TINY)

    def knots(self, n: int) -> Tensor:
        return self.points


_TINY, _LEAST = torch.finfo(torch.float64).tiny, torch.finfo(torch.float32).tiny


def _interleave(ends: Tensor, middles: Tensor) -> Tensor:
    """[*, M] and [*, M - 1] in turn: [*, 2M - 1]."""
    return torch.cat([torch.stack([ends[..., :-1], middles], -1).flatten(-2), ends[..., -1:]], -1)


def _quantiles(points: Tensor, log_p: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """n points [*, n] at evenly spaced quantiles of log_p at the points [*, M], taken as uniform
    between two of them; and the order [*, M + n] that sorts the points and these, since in which
    cell each lies is known."""
    density = (log_p - log_p.amax(-1, keepdim=True)).exp()
    step = points.diff()
    upto = ((density[..., 1:] + density[..., :-1]) * step).cumsum(-1)
    u = upto[..., -1:] * ((torch.arange(n, device=points.device) + 0.5) / n).to(points.dtype)
    i = torch.searchsorted(upto, u).clamp(max=step.shape[-1] - 1)
    end, left, right = upto.gather(-1, i), points.gather(-1, i), points.gather(-1, i + 1)
    mass = torch.nn.functional.pad(upto, (1, 0)).diff().gather(-1, i)
    more = torch.maximum(
        left, right - (right - left) * ((end - u) / mass.clamp(min=_LEAST)).clamp(0, 1)
    )
    place = torch.arange(points.shape[-1] + n, device=points.device)
    new = torch.zeros_like(place).expand(*points.shape[:-1], -1).scatter(-1, i + 1 + place[:n], 1)
    rank = new.cumsum(-1)

    return more, torch.where(new == 1, points.shape[-1] - 1 + rank, place - rank)


def _simpson(points: Tensor, log_p: Tensor, log_middle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised density, CDF and log-normaliser by Simpson's rule, at the points and the middles
    between them in turn.
    """
    top = torch.maximum(log_p.amax(-1, keepdim=True), log_middle.amax(-1, keepdim=True))
    ends, middle = (log_p - top).exp(), (log_middle - top).exp()
    left, right, step = ends[..., :-1], ends[..., 1:], points.diff()
    whole = step / 6 * (left + 4 * middle + right)
    half = (step / 24 * (5 * left + 8 * middle - right)).clamp(
        min=torch.zeros_like(whole), max=whole
    )

    return _normalised(
        _interleave(ends, middle), torch.stack([half, whole - half], -1).flatten(-2), top
    )


def _normalised(density: Tensor, mass: Tensor, top: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    cumulative = mass.double().cumsum(-1)
    # no width is left where a spike is narrower than the numbers
    total = cumulative[..., -1:].clamp(min=_TINY)
    return density / total, torch.nn.functional.pad(cumulative / total, (1, 0)), top + total.log()


def _beyond(p: Density1D, q: Density1D, weight: float) -> Tensor:
    """Points on both sides as far as guidance moves the mass: equal widths move a mean by
    (w-1) times its distance.
    """
    ends = [torch.stack(row.span(0.0), -1) for row in (p, q)]
    distance = torch.cat(ends, -1).amax(-1) - torch.cat(ends, -1).amin(-1)
    low, high = p.span(REACH)
    further = (weight - 1) * distance.unsqueeze(-1) * torch.linspace(0, 1, KNOTS).to(low)
    return torch.cat([low.unsqueeze(-1) - further, high.unsqueeze(-1) + further], -1)


def normal_knots(n: int, reach: float = REACH) -> Tensor:
    """n points on ±reach, dense in the middle, on which a standard normal is nearly linear."""
    s = torch.linspace(-1, 1, n, dtype=torch.float64)
    return reach * torch.sinh(3 * s) / math.sinh(3)
