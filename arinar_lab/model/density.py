"""Densities: how they are tempered, guided and drawn.

    p.tempered(t)           sharpen or flatten: a standard deviation σ becomes σ·t
    p.guided(q, w)          ∝ p^w · q^(1-w): classifier-free guidance of a density by its null q
    p.sample(noise)         a pure function of the noise

A density with 1-D conditionals (`FeaturewiseDensity`) is guided feature by feature: each
p(x_f | x_<f)^w · q(x_f | x_<f)^(1-w) is normalised on a grid and drawn by its inverse CDF. The grid
joins the knots of all components, which stays accurate when widths differ a thousandfold; it
reaches as far as guidance moves the mass, and is refined there. The published code draws 1000
candidates instead (`candidates`).

Letters: * batch, F features, K components, M grid points. Unit: nats per event.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from .noise import Noise

REACH = 12.0  # the grid's half-width, in standard deviations
# half-width, in standard deviations, of what remains where p^w q^(1-w) cannot be normalised
TRUNCATE = 3.3
NEGLIGIBLE = 16.0  # nats below the highest density at which a grid may end
KNOTS = 11  # grid points of one component
QUANTILES = (24, 48)  # grid points that each of two rounds adds at the quantiles


class Density:
    """p(x) for x [*, F]. A member writes `log_prob` and `sample`, and other methods as it can."""

    def log_prob(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """log p(x) in nats, [*, F] → [*]; members with an estimated likelihood use the noise."""
        raise NotImplementedError

    def loss(self, x: Tensor, noise: Noise) -> Tensor:
        """The training loss, [*, F] → [*]: -log p(x), or a member's surrogate."""
        return -self.log_prob(x, noise)

    def log_interval(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """log Π_f P(low_f < X_f < high_f | x_<f) in nats, three times [*, F] → [*]: likelihood at a
        finite resolution.
        """
        raise NotImplementedError(f"{type(self).__name__} has no likelihood at a resolution")

    def by_feature(self, x: Tensor) -> Tensor:
        """log p(x_f | features before f) in nats at place f, [*, F] → [*, F]."""
        raise NotImplementedError(f"{type(self).__name__} is not walked one feature at a time")

    def pit(self, x: Tensor) -> Tensor:
        """P(X_f ≤ x_f | features before f) at place f, [*, F] → [*, F]."""
        raise NotImplementedError(f"{type(self).__name__} is not walked one feature at a time")

    def truncated(self, x: Tensor) -> Tensor:
        """1 where the 1-D conditional of x_f is truncated, [*, F] → [*, F]."""
        return torch.zeros_like(x)

    def refined(self) -> Density:
        """The same density; a likelihood that is integrated numerically takes twice the steps."""
        return self

    def tempered(self, t: float) -> Density:
        """The density with every σ multiplied by t (discrete: logits divided by t²)."""
        raise NotImplementedError(f"{type(self).__name__} cannot be tempered")

    def guided(self, null: Density, weight: float, candidates: int = 0) -> Density:
        """∝ p^weight · null^(1-weight); with n `candidates`, resampled from n draws of p
        (arXiv 2503.02883).
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be guided")

    def filtered(self, threshold: float, t: float) -> Density:
        """The same density; guidance raises no level with a probability below `threshold`, tempered
        by t.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no levels that guidance could leave out"
        )

    def with_parallel_groups(self, together: int) -> Density:
        """The same density, drawn `together` groups at a time as if they were independent."""
        raise NotImplementedError(f"{type(self).__name__} is not drawn group by group")

    def sample(self, noise: Noise) -> Tensor:
        """One x [*, F] for each key of the noise [*]."""
        raise NotImplementedError

    def draw(self, noise: Noise) -> tuple[Tensor, Tensor]:
        """`sample`, and the number of its truncated 1-D conditionals: [*, F], [*]."""
        return self.sample(noise), torch.zeros_like(noise.key)

    def given(self, x: Tensor) -> Density:
        """The density that has parameters: itself, or its teacher-forced blocks given x [*, F]."""
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
        """Unsorted points between which the density is nearly linear, n a component: [*, M]."""
        raise NotImplementedError

    def span(self, sigmas: float) -> tuple[Tensor, Tensor]:
        """The interval of every component's ±sigmas·σ, or the whole support: two tensors [*]."""
        knots = self.knots(2)
        return knots.amin(-1), knots.amax(-1)

    def tail(self) -> Tensor:
        """σ of the widest Gaussian tail, [*]; 0 with lighter tails or a bounded support."""
        return torch.zeros_like(self.knots(2)[..., 0])

    def log_interval(self, low: Tensor, high: Tensor) -> Tensor:
        """log P(low < X < high), [*, M] → [*, M]."""
        tiny = torch.finfo(torch.float64).tiny
        mass = self.cdf(high.double()) - self.cdf(low.double())
        return mass.clamp(min=tiny).log()

    def stack_with(self, other: Density1D) -> Density1D | None:
        """This row and another as one, [2, *], whose log_prob takes points [*, M], or None."""
        return None

    def tempered(self, t: float) -> Density1D:
        """The row with every σ multiplied by t; without σ, its distances from the median are."""
        half = torch.full_like(self.knots(2)[..., 0], 0.5, dtype=torch.float64)
        return Rescaled1D(self, Grid.of(self).icdf(half).unsqueeze(-1), t)

    def sample(self, noise: Noise) -> Tensor:
        """One x [*] for each key of the noise [*], by the inverse CDF on a grid."""
        return Grid.of(self).icdf(noise.uniform(1).squeeze(-1))

    def weights(self) -> Tensor | None:
        """Weights of the components, [*, K]; None where there are none."""
        return None


@dataclass(frozen=True)
class Rescaled1D(Density1D):
    """The row of c + t (X - c): every distance from the centre c is multiplied by t.

    Arguments:
        row: Row of X.
        centre: c, [*, 1].
        factor: t > 0.
    """

    row: Density1D
    centre: Tensor
    factor: float

    def _back(self, x: Tensor) -> Tensor:
        return self.centre + (x - self.centre) / self.factor

    def _forth(self, x: Tensor) -> Tensor:
        return self.centre + self.factor * (x - self.centre)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.row.log_prob(self._back(x)) - math.log(self.factor)

    def cdf(self, x: Tensor) -> Tensor:
        return self.row.cdf(self._back(x))

    def log_interval(self, low: Tensor, high: Tensor) -> Tensor:
        return self.row.log_interval(self._back(low.double()), self._back(high.double()))

    def knots(self, n: int) -> Tensor:
        return self._forth(self.row.knots(n))

    def span(self, sigmas: float) -> tuple[Tensor, Tensor]:
        low, high = self.row.span(sigmas)
        low = self._forth(low.unsqueeze(-1))
        high = self._forth(high.unsqueeze(-1))
        return low.squeeze(-1), high.squeeze(-1)

    def tail(self) -> Tensor:
        return self.factor * self.row.tail()


class FeaturewiseDensity(Density):
    """A density with 1-D conditionals. A member writes `row`, `features` and `tempered`."""

    @property
    def features(self) -> int:
        """F."""
        raise NotImplementedError

    def tempered(self, t: float) -> FeaturewiseDensity:
        raise NotImplementedError(f"{type(self).__name__} cannot be tempered")

    def row(self, f: int, past: Tensor) -> Density1D:
        """p(x_f | x_<f) given past [*, f]."""
        raise NotImplementedError

    def rows(self, x: Tensor) -> Iterator[Density1D]:
        """p(x_f | x_<f) of each feature in turn, given x [*, F]."""
        for f in range(self.features):
            yield self.row(f, x[..., :f])

    def log_prob(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        return self.by_feature(x).sum(-1)

    def log_interval(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        terms: list[Tensor] = []
        for f, row in enumerate(self.rows(x)):
            terms.append(row.log_interval(low[..., f : f + 1], high[..., f : f + 1]))
        return torch.cat(terms, -1).sum(-1)

    def by_feature(self, x: Tensor) -> Tensor:
        terms = [row.log_prob(x[..., f : f + 1]) for f, row in enumerate(self.rows(x))]
        return torch.cat(terms, -1)

    def pit(self, x: Tensor) -> Tensor:
        terms = [row.cdf(x[..., f : f + 1]) for f, row in enumerate(self.rows(x))]
        return torch.cat(terms, -1)

    def guided(self, null: Density, weight: float, candidates: int = 0) -> Density:
        if not isinstance(null, FeaturewiseDensity):
            raise TypeError(
                f"the null of a {type(self).__name__} must be a FeaturewiseDensity, not "
                f"{type(null).__name__}"
            )

        if weight == 1:
            return self
        if candidates:
            return Resampled(self, null, weight, candidates)
        return Guided(self, null, weight)

    def repeat(self, n: int) -> Self:
        """The same density n times along a new first axis: batch [*] → [n, *]."""
        return each_tensor(self, lambda value: value.expand(n, *value.shape))

    def quantile(self, f: int, past: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The x_f [*] with P(X_f ≤ x_f | x_<f) = u [*], and 1 where that is truncated [*]."""
        row = self.row(f, past)
        if isinstance(row, Grid):
            return row.icdf(u), row.truncated
        return _invert.get()(row, row, 1.0, u)

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
    """The x [*] at which the CDF of p^w · q^(1-w) is u [*], and 1 where it is truncated [*]."""
    grid = Grid.product(p, q, weight)
    return grid.icdf(u), grid.truncated


_invert: ContextVar[Callable[[Density1D, Density1D, float, Tensor], tuple[Tensor, Tensor]]] = (
    ContextVar("invert", default=invert)
)


@contextmanager
def compiled_quantiles() -> Iterator[None]:
    """A context in which a compiled function draws features, about twice as fast.

    Its numbers differ by rounding. Compiling takes half a minute in each of the first two batches
    of different shape. A row, or a part of it, that cannot be compiled is computed as without.
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
    """A dataclass of tensors, and of densities with tensors, with every tensor changed."""
    changed: dict[str, Any] = {}
    for name, part in _parts(value).items():
        if isinstance(part, Tensor):
            changed[name] = change(part)
        elif isinstance(part, Density1D | Density):
            changed[name] = each_tensor(part, change)

    return replace(value, **changed)  # type: ignore[type-var]


def _parts(value: Any) -> dict[str, Any]:
    """The fields of a dataclass by name."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


@dataclass(frozen=True)
class Factorised(FeaturewiseDensity):
    """Independent features, p(x) = Π_f p_f(x_f). A head on one feature returns its row in this.

    Arguments:
        every: Row of all features, with batch [*, F]: a dataclass of tensors [*, F, n].
    """

    every: Density1D

    @property
    def features(self) -> int:
        tensors = (part for part in _parts(self.every).values() if isinstance(part, Tensor))
        return next(tensors).shape[-2]

    def log_prob(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        return self.every.log_prob(x.unsqueeze(-1)).squeeze(-1).sum(-1)

    def log_interval(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return self.every.log_interval(low.unsqueeze(-1), high.unsqueeze(-1)).squeeze(-1).sum(-1)

    def tempered(self, t: float) -> FeaturewiseDensity:
        return replace(self, every=self.every.tempered(t))

    def row(self, f: int, past: Tensor) -> Density1D:
        return each_tensor(self.every, lambda value: value[..., f, :])

    def sample(self, noise: Noise) -> Tensor:
        """All features at once, each with its own noise."""
        places = torch.arange(self.features, device=noise.key.device)
        return self.every.sample(noise.at(places.expand(*noise.key.shape, -1)))

    def draw(self, noise: Noise) -> tuple[Tensor, Tensor]:
        return Density.draw(self, noise)

    def weights(self) -> Tensor | None:
        return self.every.weights()


@dataclass(frozen=True)
class Guided(FeaturewiseDensity):
    """Π_f p(x_f | x_<f)^w · q(x_f | x_<f)^(1-w) / Z_f(x_<f), each factor normalised on a grid.

    Arguments:
        p: Conditional density.
        q: Null density.
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

    def rows(self, x: Tensor) -> Iterator[Grid]:
        for p, q in zip(self.p.rows(x), self.q.rows(x), strict=True):
            yield Grid.product(p, q, self.weight)

    def quantile(self, f: int, past: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        return _invert.get()(self.p.row(f, past), self.q.row(f, past), self.weight, u)

    def truncated(self, x: Tensor) -> Tensor:
        return torch.stack([row.truncated for row in self.rows(x)], -1)


@dataclass(frozen=True)
class Resampled(Density):
    """Guidance as published: draw n candidates from p, keep one with weight ∝ (p/q)^(w-1).

    A temperature applies to the candidates, drawn from p.tempered(t), but not to the weights
    (arXiv 2503.02883, released code). The density has no closed form and so no `log_prob`.

    Arguments:
        p: Conditional density.
        q: Null density.
        weight: w.
        candidates: n.
        temperature: t, of the candidates.
    """

    p: FeaturewiseDensity
    q: FeaturewiseDensity
    weight: float
    candidates: int
    temperature: float = 1.0

    def tempered(self, t: float) -> Resampled:
        return replace(self, temperature=self.temperature * t)

    def sample(self, noise: Noise) -> Tensor:
        numbers = torch.arange(self.candidates, device=noise.key.device)
        keys = noise.at(numbers[(None,) * noise.key.dim()])
        p = self.p.repeat(self.candidates)
        q = self.q.repeat(self.candidates)
        draws = p.tempered(self.temperature).sample(Noise(keys.key.movedim(-1, 0)))  # [n, *, F]

        log_ratio = p.log_prob(draws) - q.log_prob(draws)
        cumulative = ((self.weight - 1) * log_ratio.double()).softmax(0).cumsum(0)  # [n, *]
        u = noise.at(self.candidates).uniform(1).squeeze(-1)
        pick = (cumulative < u).sum(0).clamp(max=self.candidates - 1)

        return draws.gather(0, pick[None, ..., None].expand(1, *draws.shape[1:])).squeeze(0)


@dataclass(frozen=True)
class Product:
    """p^w · q^(1-w), not normalised.

    Arguments:
        p: Row with batch [*].
        q: Row with batch [*].
        weight: w.
        both: p and q as one row with batch [2, *], which halves the operations, or None.
    """

    p: Density1D
    q: Density1D
    weight: float
    both: Density1D | None

    def log_prob(self, x: Tensor) -> Tensor:
        if self.weight == 1:
            return self.p.log_prob(x)
        if self.both is None:
            log_p = self.p.log_prob(x)
            log_q = self.q.log_prob(x)
        else:
            log_p, log_q = self.both.log_prob(x)
        return torch.add(self.weight * log_p, log_q, alpha=1 - self.weight)


@dataclass(frozen=True)
class Grid(Density1D):
    """A 1-D density ∝ p^w · q^(1-w) on a grid of sorted points; outside the grid it is zero.

    Arguments:
        points: [*, M], ascending.
        density: Normalised density at the points, [*, M].
        cumulative: CDF at the points, [*, M].
        log_z: Log of the normaliser, [*, 1].
        source: Rows p and q, and the weight.
        truncated: 1 where the product cannot be normalised and is cut, [*].
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
        """Simpson's rule on the knots of both rows and on further points at the quantiles.

        With w > 1 and a null narrower than √((w-1)/w) times the conditional, the product grows
        without end. There, and where the mass runs off the grid, it is cut at ±3.3 σ of the
        conditional and counted as truncated.
        """
        source = Product(p, q, weight, None if weight == 1 else p.stack_with(q))
        points = p.knots(KNOTS)
        if q is not p:
            points = torch.cat([points, q.knots(KNOTS)], -1)
        if weight > 1:
            points = torch.cat([points, _beyond(p, q, weight)], -1)
        points = points.sort(-1).values
        log_p = source.log_prob(points)

        truncated = torch.zeros_like(points[..., 0], dtype=torch.long)
        if weight > 1:
            cut = _is_unbounded(p, q, weight, log_p)
            truncated = cut.long()

            # asking whether any is cut would make a GPU wait, and split a compiled graph
            if points.is_cuda or torch.compiler.is_compiling() or cut.any():
                low, high = p.span(TRUNCATE)
                inside = torch.minimum(points, high.unsqueeze(-1))
                inside = torch.maximum(inside, low.unsqueeze(-1))
                points = torch.where(cut.unsqueeze(-1), inside, points)
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
        """Roots of the CDF, which is a quadratic between two points: [*, n] → [*, n]."""
        i, step, left, slope, scale = self._cell(torch.searchsorted(self.cumulative, u))
        area = (u - self.cumulative.gather(-1, i)).clamp(min=0) / scale.clamp(min=_TINY)
        root = (left * left + 2 * slope * area).clamp(min=0).sqrt()
        t = 2 * area / (left + root).clamp(min=_TINY)
        return self.points.gather(-1, i) + torch.minimum(t, step)

    def _cell(self, right: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The cell that ends at index `right`: its left index, its width, the density at its left
        end and its slope, and the ratio of the cell's mass to the area under that line.
        """
        i = right.clamp(1, self.points.shape[-1] - 1) - 1
        step = self.points.gather(-1, i + 1) - self.points.gather(-1, i)
        left = self.density.gather(-1, i)
        end = self.density.gather(-1, i + 1)
        mass = self.cumulative.gather(-1, i + 1) - self.cumulative.gather(-1, i)
        # points of a narrow spike may be equal
        slope = torch.where(step > 0, (end - left) / step.clamp(min=_TINY), 0.0)
        return i, step, left, slope, mass / ((left + end) / 2 * step).clamp(min=_TINY)

    def knots(self, n: int) -> Tensor:
        return self.points


_TINY = torch.finfo(torch.float64).tiny
_LEAST = torch.finfo(torch.float32).tiny


def _is_unbounded(p: Density1D, q: Density1D, weight: float, log_p: Tensor) -> Tensor:
    """Whether p^w · q^(1-w), log_p [*, M] on the grid, grows or runs off the grid's ends: [*]."""
    highest_end = torch.maximum(log_p[..., 0], log_p[..., -1])
    runs_off = highest_end > log_p.amax(-1) - NEGLIGIBLE
    is_narrow = q.tail() < math.sqrt((weight - 1) / weight) * p.tail()
    return runs_off | ((q.tail() > 0) & is_narrow)


def _interleave(ends: Tensor, middles: Tensor) -> Tensor:
    """[*, M] and [*, M - 1] in turn: [*, 2M - 1]."""
    return torch.cat([torch.stack([ends[..., :-1], middles], -1).flatten(-2), ends[..., -1:]], -1)


def _quantiles(points: Tensor, log_p: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """n points [*, n] at evenly spaced quantiles of log_p at points [*, M], uniform between two of
    them; and the order [*, M + n] that sorts the points and these, from the cells they lie in.
    """
    density = (log_p - log_p.amax(-1, keepdim=True)).exp()
    step = points.diff()
    upto = ((density[..., 1:] + density[..., :-1]) * step).cumsum(-1)
    u = upto[..., -1:] * ((torch.arange(n, device=points.device) + 0.5) / n).to(points.dtype)
    i = torch.searchsorted(upto, u).clamp(max=step.shape[-1] - 1)
    end = upto.gather(-1, i)
    left = points.gather(-1, i)
    right = points.gather(-1, i + 1)
    mass = torch.nn.functional.pad(upto, (1, 0)).diff().gather(-1, i)
    share = ((end - u) / mass.clamp(min=_LEAST)).clamp(0, 1)
    more = torch.maximum(left, right - (right - left) * share)

    place = torch.arange(points.shape[-1] + n, device=points.device)
    new = torch.zeros_like(place).expand(*points.shape[:-1], -1).scatter(-1, i + 1 + place[:n], 1)
    rank = new.cumsum(-1)

    return more, torch.where(new == 1, points.shape[-1] - 1 + rank, place - rank)


def _simpson(points: Tensor, log_p: Tensor, log_middle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised density, CDF and log-normaliser by Simpson's rule, at points and middles."""
    top = torch.maximum(log_p.amax(-1, keepdim=True), log_middle.amax(-1, keepdim=True))
    ends = (log_p - top).exp()
    middle = (log_middle - top).exp()
    step = points.diff()
    left = ends[..., :-1]
    right = ends[..., 1:]

    whole = step / 6 * (left + 4 * middle + right)
    half = step / 24 * (5 * left + 8 * middle - right)
    half = half.clamp(min=torch.zeros_like(whole), max=whole)
    mass = torch.stack([half, whole - half], -1).flatten(-2)

    return _normalised(_interleave(ends, middle), mass, top)


def _normalised(density: Tensor, mass: Tensor, top: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    cumulative = mass.double().cumsum(-1)
    # a spike narrower than the precision of the points has no mass
    total = cumulative[..., -1:].clamp(min=_TINY)
    return density / total, torch.nn.functional.pad(cumulative / total, (1, 0)), top + total.log()


def _beyond(p: Density1D, q: Density1D, weight: float) -> Tensor:
    """Points on both sides as far as guidance moves the mass: (w-1) times the distance of p and q,
    the shift of a mean when widths are equal.
    """
    ends = torch.stack([*p.span(0.0), *q.span(0.0)], -1)
    distance = ends.amax(-1) - ends.amin(-1)
    low, high = p.span(REACH)
    further = (weight - 1) * distance.unsqueeze(-1) * torch.linspace(0, 1, KNOTS).to(low)
    return torch.cat([low.unsqueeze(-1) - further, high.unsqueeze(-1) + further], -1)


def normal_knots(n: int, reach: float = REACH) -> Tensor:
    """n points on ±reach, dense in the middle, on which a standard normal is nearly linear."""
    s = torch.linspace(-1, 1, n, dtype=torch.float64)
    return reach * torch.sinh(3 * s) / math.sinh(3)
