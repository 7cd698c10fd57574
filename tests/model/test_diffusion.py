"""Diffusion: it computes what MAR's published code computes, and its bound is a
bound of what it samples.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import pytest
import torch
from laws import learns
from released import read_shapes, read_tensors
from torch import Tensor

from arinar_lab.model.heads.conditioned import ConditionedMLP
from arinar_lab.model.heads.diffusion import (
    TRAINING_STEPS,
    Diffusion,
    DiffusionDensity,
    DiffusionProcess,
    log_binned,
    log_normal,
    spacing,
)
from arinar_lab.model.noise import FixedNoise, Noise
from arinar_lab.model.pretrained.names import mar_head_names


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """Weights of a small published head, and what the published code computes with them."""
    return read_tensors("mar_tiny_head.npz")


@pytest.fixture(scope="module")
def head(published) -> Diffusion:
    diffusion = Diffusion(32, 16, width=32, depth=2, sampling_steps=10, clip=False)
    diffusion.load_state_dict(
        {name: published[released] for released, name in mar_head_names(2).items()}
    )
    return diffusion


def test_names_are_complete_in_both_directions(published, head):
    assert set(mar_head_names(2)) == {name for name in published if name.startswith("diffloss.")}
    assert set(mar_head_names(2).values()) == set(head.state_dict())


def test_the_names_and_shapes_of_mar_b_are_the_published_ones():
    with torch.device("meta"):
        actual = Diffusion(768, 16, width=1024, depth=6, clip=False).state_dict()
    shapes = read_shapes("mar_b")
    listed = {key: shape for key, shape in shapes.items() if key.startswith("diffloss.")}
    assert {
        released: tuple(actual[our].shape) for released, our in mar_head_names(6).items()
    } == listed


def test_training_terms_are_the_published_ones(published, head):
    x, t, drawn = published["tokens"].flatten(0, 1), published["timesteps"], published["noise"]
    density, process = (
        head(published["z"].flatten(0, 1)),
        DiffusionProcess.spaced(TRAINING_STEPS, x),
    )
    assert (process.noisy(x, t, drawn) - published["x_t"]).abs().max() < 1e-5
    assert (
        head.network(published["x_t"], density.z, t) - published["net_output"]
    ).abs().max() < 1e-5
    error, variational = density.terms(x[:, None], t[:, None], drawn[:, None])

    assert (error.squeeze(-1) - published["loss_mse"]).abs().max() < 1e-5
    assert (variational.squeeze(-1) - published["loss_vb"]).abs().max() < 1e-5
    assert ((error + variational).squeeze(-1) - published["loss"]).abs().max() < 1e-5


def test_sampling_steps_are_the_published_ones(published):
    assert spacing(10) == published["respaced_timesteps"].tolist()
    assert spacing(TRAINING_STEPS) == list(range(TRAINING_STEPS))


def test_every_number_of_sampling_steps_is_spaced_as_published():
    """A stride is added up step by step, in double precision; a product rounds 283 of
    the numbers otherwise.
    """
    differing = 0
    for steps in range(1, TRAINING_STEPS + 1):
        stride, place, chosen = np.float64(999) / max(steps - 1, 1), np.float64(0), []
        for _ in range(steps):
            chosen.append(int(np.rint(place)))
            place = place + stride
        assert spacing(steps) == chosen
        differing += chosen != [round(i * 999 / max(steps - 1, 1)) for i in range(steps)]

    assert differing == 283


def test_samplings_are_the_published_ones(published, head):
    z, nothing = published["z"].flatten(0, 1)[:6], published["z_null"].flatten(0, 1)[:6]
    key = torch.zeros(6, dtype=torch.long)
    noise = FixedNoise(
        key, torch.cat([published["sample_initial"][None], published["sample_noises"]])
    )
    sample = head(z).tempered(published["sample_temperature"].item()).sample(noise)
    assert (sample - published["sample"]).abs().max() < 1e-4 * published["sample"].abs().max()
    noise = FixedNoise(
        key, torch.cat([published["guided_initial"][None], published["guided_noises"][:, :6]])
    )
    sample = head(z).guided(head(nothing), published["guided_weight"].item()).sample(noise)

    expected = published["guided_sample"][:6]  # the second half is the null's own chain
    assert (sample - expected).abs().max() < 1e-4 * expected.abs().max()


def test_the_last_training_step_is_a_probability_of_eight_bit_values():
    """At t = 0 the published loss reads x as one of 256 values: their probabilities sum to one."""
    values = torch.linspace(-1, 1, 256, dtype=torch.float64)
    for mean, std in ((0.0, 0.1), (0.95, 0.3), (-1.2, 0.01)):
        log_p = log_binned(
            values, torch.tensor(mean).double(), torch.tensor(math.log(std)).double()
        )
        assert abs(log_p.exp().sum() - 1) < 1e-6


class Known:
    """A network of known answer for tokens from a normal(mean, std²).

    The best ε is √(1-ᾱ)(x_s - √ᾱ·mean) / V, where V = ᾱ·std² + 1-ᾱ, and x given x_s has variance
    std²(1-ᾱ)/V, so the reverse process is exact. `scale` multiplies ε, and `share` replaces the
    exact variance: then it is wrong, but linear.
    """

    inputs = 3

    def __init__(
        self,
        steps: int,
        mean: float = 0.0,
        std: float = 1.0,
        scale: float = 1.0,
        share: float | None = None,
    ) -> None:
        self.process = DiffusionProcess.spaced(steps, torch.zeros((), dtype=torch.float64))
        self.mean, self.std, self.scale, self.share = mean, std, scale, share

    def __call__(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        p, s = self.process, int((self.process.time == t).nonzero())
        whole = p.signal[s] ** 2 * self.std**2 + p.spread[s] ** 2
        noise = p.spread[s] * (x - p.signal[s] * self.mean) / whole
        beneath = p.low[s].exp() if s > 0 else 0.0
        variance = beneath + p.of_x[s] ** 2 * self.std**2 * p.spread[s] ** 2 / whole
        exact = 2 * (variance.log() - p.low[s]) / (p.high[s] - p.low[s]) - 1
        share = exact if self.share is None else torch.tensor(self.share)
        return torch.cat([self.scale * noise, share.expand_as(x)], -1)

    def marginal(self, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Mean and variance of what the reverse process, its last step a draw too, ends
        in: a linear recursion.
        """
        p, mean, variance = self.process, torch.zeros(1).double(), torch.ones(1).double()
        for s in reversed(range(len(p.time))):
            outputs = torch.cat(
                [self(x.double(), x, p.time[s]) for x in (torch.zeros(1, 1), torch.ones(1, 1))]
            )
            (at_zero, at_one), log_var = p.reverse(
                outputs, torch.tensor([[0.0], [1.0]]).double(), s
            )
            slope = at_one - at_zero
            mean, variance = (
                slope * mean + at_zero,
                slope**2 * variance + temperature**2 * log_var[0].exp(),
            )

        return mean, variance


def density(network: Known, n: int) -> DiffusionDensity:
    return DiffusionDensity(
        cast(ConditionedMLP, network), torch.zeros(n, 1).double(), len(network.process.time), 1
    )


@pytest.mark.parametrize(("steps", "std"), [(4, 1.0), (100, 1.0), (4, 0.5), (100, 0.5)])
def test_an_exact_network_makes_the_bound_the_likelihood(steps, std):
    """Averaged over tokens and noise the bound of the exact reverse process is log p,
    within its standard error.
    """
    n, network = 20_000, Known(steps, mean=1.5, std=std)
    x = 1.5 + std * Noise.of(torch.arange(n), "data").normal(3, torch.float64)
    truth = log_normal(x, torch.tensor(1.5), torch.tensor(2 * math.log(std))).sum(-1)
    gap = truth - density(network, n).log_prob(x, Noise.of(torch.arange(n)))
    assert abs(gap.mean()) < 4 * gap.std() / n**0.5 + 1e-4
    assert gap.std() / n**0.5 < 0.03


@pytest.mark.parametrize(("scale", "share"), [(1.0, 0.8), (1.0, 0.0), (1.002, 1.0)])
@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_the_bound_lies_below_the_likelihood_of_what_is_sampled(scale, share, temperature):
    """A wrong but linear network ends in a Gaussian that is known: at each x the mean bound must
    not exceed its log p.
    """
    network, n = Known(20, scale=scale, share=share), 4000
    mean, variance = network.marginal(temperature)
    for point in (-1.0, 0.0, 2.0):
        x = torch.full((n, 3), point).double()
        bound = density(network, n).tempered(temperature).log_prob(x, Noise.of(torch.arange(n)))
        truth = log_normal(x[0], mean, variance.log()).sum()
        assert bound.mean() - 3 * bound.std() / n**0.5 < truth


def test_samples_have_the_moments_of_the_chain():
    network, n = Known(20, mean=1.5, scale=0.9, share=0.5), 40_000
    mean, variance = network.marginal()
    x = density(network, n).sample(Noise.of(torch.arange(n)))
    assert abs(x.mean() - mean) < 4 * (variance / x.numel()).sqrt()
    assert abs(x.var() / variance - 1) < 0.02


def test_the_bound_is_keyed_and_needs_noise():
    head, z, x = (
        Diffusion(4, 2, width=8, depth=1, sampling_steps=3),
        torch.zeros(5, 4),
        torch.ones(5, 2),
    )
    one, two = (head(z).log_prob(x, Noise.of(torch.arange(5), stream)) for stream in ("a", "b"))
    assert torch.equal(
        one, head(z).log_prob(x, Noise.of(torch.arange(5), "a"))
    ) and not torch.equal(one, two)
    with pytest.raises(ValueError, match="noise: "):
        head(z).log_prob(x)


def test_what_a_diffusion_cannot_do_is_refused():
    head = Diffusion(4, 2, width=8, depth=1)
    with pytest.raises(ValueError, match="candidates: "):
        head(torch.zeros(1, 4)).guided(head(torch.ones(1, 4)), 2.0, 10)
    for wrong in ({"sampling_steps": 1}, {"sampling_steps": 1001}, {"repeats": 0}, {"width": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}: "):
            Diffusion(4, 2, **wrong)


def test_given_noise_hands_out_what_it_was_given():
    values = torch.arange(12.0).reshape(2, 3, 2)
    noise = FixedNoise(torch.zeros(3, dtype=torch.long), values)
    assert torch.equal(noise.at(1).normal(2), values[1]) and torch.equal(
        noise.at(0).at(5).normal(1), values[0, :, :1]
    )
    assert torch.equal(
        torch.special.ndtri(noise.at(0).uniform(2)).float().round(decimals=4), values[0]
    )


def test_a_diffusion_learns_a_conditional_density():
    learns(Diffusion(1, 2, width=32, depth=2))
