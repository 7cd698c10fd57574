"""Insured likelihood: bits/dim that a few pixels cannot decide.

    p'(x_f | x_<f) = (1 - ε) p(x_f | x_<f) + ε q_f(x_f)        ε = 0.1 %

q_f is a Cauchy density with the mean and the standard deviation σ_f that feature f has over the
training tokens. It is fixed before a held-out image is seen, so p' is a density like p: it
integrates to one. Insurance costs at most -log₂(1 - ε) = 0.0014 bits a feature, and no feature z
deviations from the mean costs more than log₂(1000 π σ_f (1 + z²)) bits, however far it lies from
all that the model expects. Without it one pixel may cost hundreds.

A density that is not walked one feature at a time (diffusion, flow, principal axes, a nested model
with a guiding pixel) is mixed token by token, with Π_f q_f. So is one whose order within a token is
random. A bound stays a bound.

Letters: B images, N tokens an image, D features a token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config.build import Experiment
from ..model.noise import Noise, Stream

SHARE = 1e-3  # ε
IMAGES = 1024  # training images, evenly spaced, that the broad density is measured on


@dataclass(frozen=True)
class BroadDensity:
    """Independent Cauchy densities of the features of a token.

    Arguments:
        center: The means, [D].
        scale: The half-widths at half the maximum, [D], above 0.
    """

    center: Tensor
    scale: Tensor

    @classmethod
    def of_tokens(cls, x: Tensor) -> BroadDensity:
        """The broad density of tokens [*, D]: their means and standard deviations."""
        flat = x.reshape(-1, x.shape[-1]).double()
        tiny = torch.finfo(torch.float32).eps
        return cls(flat.mean(0), flat.std(0).clamp(min=tiny))

    def log_prob(self, x: Tensor) -> Tensor:
        """log q_f(x_f) in nats of each feature, [*, D] → [*, D]."""
        z = (x.double() - self.center) / self.scale
        return -torch.log(math.pi * self.scale) - torch.log1p(z * z)


@torch.no_grad()
def broad_density(experiment: Experiment, batch: int) -> BroadDensity:
    """Measure the broad density on training images, encoded `batch` at a time."""
    images = experiment.source.train[0]
    count = min(IMAGES, len(images))
    index = torch.linspace(0, len(images) - 1, count, dtype=torch.float64).long()

    tokens = []
    for i in index.split(batch):
        noise = Noise.of(i.to(experiment.device), "insurance").at(Stream.CODEC)
        x, _ = experiment.codec.encode(images[i].to(experiment.device), noise)
        tokens.append(x)

    return BroadDensity.of_tokens(torch.cat(tokens))


def insured(log_prob: Tensor, broad: Tensor) -> Tensor:
    """log((1 - ε) p + ε q) in nats, of log p and log q of the same events."""
    return torch.logaddexp(math.log1p(-SHARE) + log_prob, math.log(SHARE) + broad)


def insured_log_prob(terms: Tensor, x: Tensor, broad: BroadDensity) -> Tensor:
    """Insured log p of images in nats, [B].

    Arguments:
        terms: log p of each feature [B, N, D], or of each token [B, N, 1].
        x: The tokens, [B, N, D].
        broad: The broad density of their features.
    """
    log_q = broad.log_prob(x)
    if terms.shape[-1] == 1:
        log_q = log_q.sum(-1, keepdim=True)
    return insured(terms.double(), log_q).sum((1, 2))
