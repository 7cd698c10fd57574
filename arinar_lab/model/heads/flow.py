"""Rectified flow of a whole token (arXiv 2209.03003; flow matching, arXiv 2210.02747).

    x_s = (1-s)·ε + s·x                   a straight line from noise ε ~ N(0, 1) at s = 0
                                          to the token x at s = 1
    loss = |v(x_s, s, z) - (x - ε)|²      so that v is the mean velocity of the lines through x_s
    dx_s/ds = v(x_s, s, z)                carries the noise to the tokens: one draw a token
    log p(x) = log N(x_0; 0, 1) - ∫₀¹ div v(x_s, s, z) ds
                                          along the same path, walked back from x

The path is integrated by the classical Runge–Kutta method of fourth order, and the divergence is
exact: one forward-mode derivative a feature. What is left is the error of the integration;
`refined` doubles the steps to measure it.

Letters: * batch, E width of the context, F features, R repeats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import jvp, vmap

from ..density import Density
from ..inner.head import Head, Likelihood
from ..layers import require_at_least
from ..noise import Noise, Stream
from .conditioned import ConditionedMLP

# the network's time at s = 1: slow enough to integrate its fastest frequency
_TIME = 10.0
Velocity = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class FlowDensity(Density):
    """The density of a flow, and of its guided and tempered versions.

    Guidance extrapolates the velocity, v∅ + w(v - v∅); a temperature t starts from N(0, t²). The
    result is a flow with its own `log_prob`.

    Arguments:
        network: (x [*, F], z [*, E], time [*]) → v [*, F].
        z: Contexts, [*, E].
        steps: Steps of the integration.
        repeats: R.
        null: Contexts of the null density, [*, E], or None.
        weight: w.
        temperature: t.
    """

    network: ConditionedMLP
    z: Tensor
    steps: int
    repeats: int
    null: Tensor | None = None
    weight: float = 1.0
    temperature: float = 1.0

    def tempered(self, t: float) -> FlowDensity:
        return replace(self, temperature=self.temperature * t)

    def guided(self, null: Density, weight: float, candidates: int = 0) -> FlowDensity:
        if not isinstance(null, FlowDensity) or self.null is not None:
            raise TypeError("a flow is guided once, by a flow")
        if candidates:
            raise ValueError("candidates: a flow cannot be guided by drawing candidates; use 0")
        return self if weight == 1 else replace(self, null=null.z, weight=weight)

    def refined(self) -> FlowDensity:
        return replace(self, steps=2 * self.steps)

    def velocity(self, x: Tensor, s: float) -> Tensor:
        """v(x, s), guided: [*, F] → [*, F]."""
        time = torch.tensor(_TIME * s, dtype=x.dtype, device=x.device)
        v = self.network(x, self.z, time)
        if self.null is None:
            return v
        return torch.lerp(self.network(x, self.null, time), v, self.weight)

    def loss(self, x: Tensor, noise: Noise) -> Tensor:
        """Squared error of the velocity, its mean over features and over R draws of time and
        noise: [*, F] → [*].
        """
        noise = noise.at(torch.arange(self.repeats, device=x.device)[(None,) * noise.key.dim()])
        s = noise.at(Stream.TIME).uniform(1, x.dtype)
        start = noise.at(Stream.START).normal(x.shape[-1], x.dtype)
        x = x.unsqueeze(-2)
        v = self.network(torch.lerp(start, x, s), self.z.unsqueeze(-2), _TIME * s.squeeze(-1))
        return (v - (x - start)).square().mean((-1, -2))

    def sample(self, noise: Noise) -> Tensor:
        start = self.temperature * noise.normal(self.network.inputs, self.z.dtype)
        return integrate(self.velocity, start, 0.0, 1.0, self.steps)

    def log_prob(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """log p(x) in nats by the instantaneous change of variables (arXiv 1806.07366,
        equation 8): [*, F] → [*].
        """

        def both(state: Tensor, s: float) -> Tensor:
            x = state[..., :-1]
            v, divergence = with_divergence(lambda x: self.velocity(x, s), x)
            return torch.cat([v, divergence.unsqueeze(-1)], -1)

        end = torch.cat([x, torch.zeros_like(x[..., :1])], -1)
        state = integrate(both, end, 1.0, 0.0, self.steps)
        start = state[..., :-1] / self.temperature
        change = state[..., -1]  # -∫₀¹ div v ds
        constant = x.shape[-1] * (0.5 * math.log(2 * math.pi) + math.log(self.temperature))
        return change - 0.5 * start.square().sum(-1) - constant


def integrate(velocity: Velocity, x: Tensor, begin: float, end: float, steps: int) -> Tensor:
    """The x at time `end` of dx/ds = velocity(x, s), by `steps` equal steps of fourth order."""
    h = (end - begin) / steps
    for i in range(steps):
        s = begin + i * h
        a = velocity(x, s)
        b = velocity(x + h / 2 * a, s + h / 2)
        c = velocity(x + h / 2 * b, s + h / 2)
        d = velocity(x + h * c, s + h)
        x = x + h / 6 * (a + 2 * b + 2 * c + d)

    return x


def with_divergence(field: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """field(x) [*, F], and Σ_f ∂field_f/∂x_f [*], where field acts on each x [F] by itself."""

    def along(direction: Tensor) -> tuple[Tensor, Tensor]:
        result = jvp(field, (x,), (direction.expand_as(x),))
        return result[0], (result[1] * direction).sum(-1)

    values, changes = vmap(along)(torch.eye(x.shape[-1], dtype=x.dtype, device=x.device))
    return values[0], changes.sum(0)


class Flow(Head):
    """Rectified flow conditioned on z (arXiv 2209.03003, equation 1).

    Arguments:
        width: Width of the network, ≥ 1.
        depth: Blocks of the network, ≥ 1.
        steps: Steps of the integration, ≥ 1, each of four network calls.
        repeats: R, draws of time and noise of each token in training, ≥ 1.

    Raises:
        ValueError: if a number is outside its range.
    """

    likelihood: Likelihood = "estimate"
    capabilities = frozenset({"log_prob", "temper", "guide"})

    def __init__(
        self,
        context: int,
        features: int,
        groups: int = 1,
        /,
        *,
        width: int = 64,
        depth: int = 3,
        steps: int = 10,
        repeats: int = 4,
    ) -> None:
        super().__init__()
        require_at_least(1, width=width, depth=depth, steps=steps, repeats=repeats)
        self.steps, self.repeats = steps, repeats
        self.network = ConditionedMLP(context, features, features, width, depth)

    def forward(self, h: Tensor, index: Tensor | int = 0) -> FlowDensity:
        return FlowDensity(self.network, h, self.steps, self.repeats)
