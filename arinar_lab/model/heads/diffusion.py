"""Diffusion of a whole token: the head of MAR (arXiv 2406.11838, section 3.2).

    q(x_s | x)         = N(√ᾱ_s x, 1 - ᾱ_s)                            noise is added in S steps
    p(x_{s-1} | x_s)   = N(μ(x_s, ε), σ²),  (ε, v) = network(x_s, z, time_s)
    log σ²             = ½(1+v) log β_s + ½(1-v) log β̃_s              arXiv 2102.09672, equation 15
    log p(x)           ≥ -KL(q(x_S|x) ‖ N(0, 1)) - Σ_s KL(q(x_{s-1}|x_s, x) ‖ p(x_{s-1}|x_s))
                         + log p(x|x_0)

It is trained with 1000 steps, and sampled and evaluated with fewer of them, evenly spaced. x_0 here
is the least noisy of the S noisy states, as the published code counts.

Letters: * batch, E width of the context, F features, S steps, s one of them, R repeats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import accumulate, repeat

import torch
from torch import Tensor

from ..density import Density
from ..inner.head import Head, Likelihood
from ..layers import require_at_least
from ..noise import Noise, Stream
from .conditioned import ConditionedMLP

TRAINING_STEPS = 1000
_LARGEST_BETA, _OFFSET = 0.999, 0.008
Range = tuple[Tensor, Tensor] | None
"""Least and greatest predicted value of each feature."""
# the published loss takes the last step for a probability of 8-bit values in [-1, 1]
_HALF_BIN, _EDGE = 1 / 255, 0.999


@dataclass(frozen=True)
class DiffusionProcess:
    """The noise of S steps, each table [S, 1].

    Arguments:
        time: Time input of the network, 0 … 999.
        signal: √ᾱ.
        spread: √(1 - ᾱ).
        of_x: Coefficient of x in the mean of q(x_{s-1} | x_s, x).
        of_noisy: Coefficient of x_s in that mean.
        low: log β̃, lower bound of the log-variance; the first step, with β̃ = 0, has the second's.
        high: log β, upper bound of the log-variance.
    """

    time: Tensor
    signal: Tensor
    spread: Tensor
    of_x: Tensor
    of_noisy: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def spaced(cls, steps: int, like: Tensor) -> DiffusionProcess:
        """`steps` of the 1000 of the cosine schedule (arXiv 2102.09672, equation 17), evenly
        spaced from 0 to 999.
        """
        count = torch.arange(TRAINING_STEPS + 1, dtype=torch.float64, device=like.device)
        grid = count / TRAINING_STEPS
        cosine = ((grid + _OFFSET) / (1 + _OFFSET) * math.pi / 2).cos() ** 2
        betas = (1 - cosine[1:] / cosine[:-1]).clamp(max=_LARGEST_BETA)
        time = torch.tensor(spacing(steps), device=like.device)
        alpha = (1 - betas).cumprod(0)[time]

        before = torch.cat([torch.ones_like(alpha[:1]), alpha[:-1]])
        beta = 1 - alpha / before
        variance = beta * (1 - before) / (1 - alpha)
        variance[0] = variance[1]
        tables = [
            alpha.sqrt(),
            (1 - alpha).sqrt(),
            beta * before.sqrt() / (1 - alpha),
            (1 - before) * (1 - beta).sqrt() / (1 - alpha),
            variance.log(),
            beta.log(),
        ]

        return cls(time, *torch.stack(tables).unsqueeze(-1).to(like.dtype))

    def noisy(self, x: Tensor, s: Tensor | int, noise: Tensor) -> Tensor:
        """A draw x_s of q(x_s | x)."""
        return self.signal[s] * x + self.spread[s] * noise

    def posterior(self, x: Tensor, noisy: Tensor, s: Tensor | int) -> Tensor:
        """The mean of q(x_{s-1} | x_s, x); its log-variance is `low[s]`."""
        return self.of_x[s] * x + self.of_noisy[s] * noisy

    def reverse(
        self, output: Tensor, noisy: Tensor, s: Tensor | int, within: Range = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of p(x_{s-1} | x_s) from the network's output (ε, v) [*, 2F]."""
        noise, share = output.to(noisy.dtype).chunk(2, -1)
        x = (noisy - self.spread[s] * noise) / self.signal[s]
        x = x if within is None else torch.clamp(x, *within)
        return self.posterior(x, noisy, s), torch.lerp(self.low[s], self.high[s], (share + 1) / 2)


def spacing(steps: int) -> list[int]:
    """The published choice of `steps` of the 1000 training steps: rounded sums of a stride.

    Rounded products i · stride would move the middle step of 283 of the odd counts by one.
    """
    stride = (TRAINING_STEPS - 1) / max(steps - 1, 1)
    return list(map(round, accumulate(repeat(stride, steps - 1), initial=0.0)))


@dataclass(frozen=True)
class DiffusionDensity(Density):
    """The density of ancestral sampling of a diffusion, and its guided and tempered versions.

    Guidance extrapolates the predicted noise, ε∅ + w(ε - ε∅), and keeps the conditional variance; a
    temperature multiplies the noise of every step but the first draw (both as published). Their
    `log_prob` is the bound of that process. The last step is a Gaussian in the bound; a sample is
    its mean, as published (σ is about 0.006 there).

    Arguments:
        network: (x [*, F], z [*, E], time [*]) → (ε, v) [*, 2F].
        z: Contexts, [*, E].
        steps: S.
        repeats: R.
        within: Bounds of the predicted x, two tensors that broadcast against [*, F], or None.
        null: Contexts of the null density, [*, E], or None.
        weight: w.
        temperature: Factor of the noise.
    """

    network: ConditionedMLP
    z: Tensor
    steps: int
    repeats: int
    within: Range = None
    null: Tensor | None = None
    weight: float = 1.0
    temperature: float = 1.0

    def tempered(self, t: float) -> DiffusionDensity:
        return replace(self, temperature=self.temperature * t)

    def guided(self, null: Density, weight: float, candidates: int = 0) -> DiffusionDensity:
        if not isinstance(null, DiffusionDensity) or self.null is not None:
            raise TypeError("a diffusion is guided once, by a diffusion")
        if candidates:
            raise ValueError(
                "candidates: a diffusion cannot be guided by drawing candidates; use 0"
            )
        return self if weight == 1 else replace(self, null=null.z, weight=weight)

    def _reverse(self, process: DiffusionProcess, noisy: Tensor, s: int) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of p(x_{s-1} | x_s), guided and tempered."""
        output = self.network(noisy, self.z, process.time[s])
        if self.null is not None:
            noise, share = output.chunk(2, -1)
            nothing = self.network(noisy, self.null, process.time[s]).chunk(2, -1)[0]
            output = torch.cat([torch.lerp(nothing, noise, self.weight), share], -1)
        mean, log_var = process.reverse(output, noisy, s, self.within)
        return mean, log_var + 2 * math.log(self.temperature)

    def log_prob(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """An unbiased estimate of the variational bound in nats, one draw of noise
        a step: [*, F] → [*].
        """
        if noise is None:
            raise ValueError(
                "noise: the variational bound is an expectation over noise, and none was given"
            )

        process = DiffusionProcess.spaced(self.steps, x)
        last_mean = process.signal[-1] * x
        last_var = process.spread[-1] ** 2
        standard = torch.zeros_like(x)  # mean, and log-variance
        total = -normal_kl(last_mean, last_var.log(), standard, standard).sum(-1)

        for s in range(self.steps):
            noisy = process.noisy(x, s, noise.at(s).normal(x.shape[-1], x.dtype))
            mean, log_var = self._reverse(process, noisy, s)
            true = process.posterior(x, noisy, s)
            if s > 0:
                term = -normal_kl(true, process.low[s], mean, log_var)
            else:
                term = log_normal(x, mean, log_var)
            total = total + term.sum(-1)

        return total

    def loss(self, x: Tensor, noise: Noise) -> Tensor:
        """Squared error and variational term, means over features and R draws of step and noise."""
        repeats = torch.arange(self.repeats, device=x.device)[(None,) * noise.key.dim()]
        noise = noise.at(repeats)
        step = (noise.at(Stream.TIME).uniform(1).squeeze(-1) * TRAINING_STEPS).long()
        drawn = noise.at(Stream.START).normal(x.shape[-1], x.dtype)
        error, variational = self.terms(x.unsqueeze(-2), step, drawn)
        return (error + variational).mean(-1)

    def terms(self, x: Tensor, step: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error of ε, and the variational term in bits with ε detached, as published:
        x [*, 1, F] → two [*, R].

        The variational term trains the variance alone. It is the probability of an 8-bit value at
        the last step and a KL at all others, with weight 1.
        """
        process = DiffusionProcess.spaced(TRAINING_STEPS, x)
        noisy = process.noisy(x, step, drawn)
        output = self.network(noisy, self.z.unsqueeze(-2), process.time[step])
        predicted, share = output.chunk(2, -1)
        error = (drawn - predicted).square().mean(-1)

        within = self.within
        if within is not None:
            within = within[0].unsqueeze(-2), within[1].unsqueeze(-2)
        detached = torch.cat([predicted.detach(), share], -1)
        mean, log_var = process.reverse(detached, noisy, step, within)
        kl = normal_kl(process.posterior(x, noisy, step), process.low[step], mean, log_var).mean(-1)
        last = -log_binned(x, mean, log_var / 2).mean(-1)

        return error, torch.where(step == 0, last, kl) / math.log(2)

    def sample(self, noise: Noise) -> Tensor:
        """Ancestral: the start is the first draw, step i draws `noise.at(i)`, the last its mean."""
        features = self.network.inputs
        x = noise.at(Stream.FIRST_DRAW).normal(features, self.z.dtype)
        process = DiffusionProcess.spaced(self.steps, x)
        for s in reversed(range(self.steps)):
            mean, log_var = self._reverse(process, x, s)
            drawn = noise.at(self.steps - s).normal(features, x.dtype)
            x = mean + (log_var / 2).exp() * drawn if s > 0 else mean
        return x


def normal_kl(mean: Tensor, log_var: Tensor, other_mean: Tensor, other_log_var: Tensor) -> Tensor:
    """KL(N(mean, e^log_var) ‖ N(other_mean, e^other_log_var)) in nats."""
    ratio = log_var - other_log_var
    return 0.5 * (ratio.exp() - 1 - ratio + (mean - other_mean) ** 2 * (-other_log_var).exp())


def log_normal(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Log-density of N(mean, e^log_var) in nats."""
    return -0.5 * ((x - mean) ** 2 * (-log_var).exp() + log_var + math.log(2 * math.pi))


def log_binned(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-probability of the 8-bit value of x in [-1, 1] under a Gaussian, whose CDF is
    approximated as published.
    """

    def cdf(value: Tensor) -> Tensor:
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (value + 0.044715 * value**3)))

    above = cdf((x - mean + _HALF_BIN) * (-log_std).exp())
    below = cdf((x - mean - _HALF_BIN) * (-log_std).exp())
    mass = torch.where(x < -_EDGE, above, torch.where(x > _EDGE, 1 - below, above - below))
    return mass.clamp(min=1e-12).log()


class Diffusion(Head):
    """Diffusion conditioned on z (MAR, arXiv 2406.11838, equation 1), with learned variance
    (arXiv 2102.09672).

    Arguments:
        width: Width of the network, ≥ 1.
        depth: Blocks of the network, ≥ 1.
        sampling_steps: S, steps of sampling and of the bound, 2 … 1000.
        repeats: R, draws of step and noise of each token in training, ≥ 1.
        clip: Whether the predicted x is clipped to the range of the training data, widened by half
            on each side. The first of 100 steps divides the error of ε by √ᾱ = 5e-5, which only
            long training makes small enough; the published model has no clip.

    Raises:
        ValueError: if a number is outside its range.
    """

    likelihood: Likelihood = "bound"
    capabilities = frozenset({"log_prob", "temper", "guide"})
    low: Tensor
    high: Tensor

    def __init__(
        self,
        context: int,
        features: int,
        groups: int = 1,
        /,
        *,
        width: int = 64,
        depth: int = 3,
        sampling_steps: int = 100,
        repeats: int = 4,
        clip: bool = True,
    ) -> None:
        super().__init__()
        require_at_least(1, width=width, depth=depth, repeats=repeats)
        if not 2 <= sampling_steps <= TRAINING_STEPS:
            raise ValueError(f"sampling_steps: {sampling_steps} is outside 2 … {TRAINING_STEPS}")

        self.steps = sampling_steps
        self.repeats = repeats
        self.clip = clip
        self.network = ConditionedMLP(context, features, 2 * features, width, depth)
        if clip:
            self.register_buffer("low", torch.full((groups, features), -math.inf))
            self.register_buffer("high", torch.full((groups, features), math.inf))

    def fit(self, x: Tensor) -> None:
        """The range of each feature in training data x [n, groups, F]."""
        if self.clip:
            low = x.amin(0)
            high = x.amax(0)
            self.low.copy_(low - (high - low) / 2)
            self.high.copy_(high + (high - low) / 2)

    @property
    def needs_fit(self) -> bool:
        return self.clip

    def forward(self, h: Tensor, index: Tensor | int = 0) -> DiffusionDensity:
        within = (self.low[index], self.high[index]) if self.clip else None
        return DiffusionDensity(self.network, h, self.steps, self.repeats, within)
