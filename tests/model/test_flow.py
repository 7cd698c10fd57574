"""Flow: its likelihood against densities that are known, its error by
doubled steps, its samples.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import pytest
import torch
from laws import learns, make_head, normal_numbers
from torch import Tensor

from arinar_lab.model.heads.conditioned import ConditionedMLP
from arinar_lab.model.heads.flow import Flow, FlowDensity, with_divergence
from arinar_lab.model.noise import FixedNoise, Noise

MEAN = torch.tensor([[-1.0, 0.5], [1.0, 0.0], [0.5, -1.5]]).double()
STD = torch.tensor([[0.5, 0.6], [0.4, 1.0], [0.7, 0.5]]).double()


class Known:
    """The exact velocity of the flow to a mixture of three Gaussians with equal weights.

    Given component k, x_s is normal with mean s·μ and variance V = s²σ² + (1-s)², and the mean of
    x - ε is μ + (sσ² - (1-s))/V · (x_s - s·μ).
    """

    inputs = 2

    def __call__(self, x: Tensor, z: Tensor, time: Tensor) -> Tensor:
        s, x = time / 10, x.unsqueeze(-2)
        variance = s**2 * STD**2 + (1 - s) ** 2
        share = (-0.5 * ((x - s * MEAN) ** 2 / variance + variance.log())).sum(-1).softmax(-1)
        each = MEAN + (s * STD**2 - (1 - s)) / variance * (x - s * MEAN)
        return (share.unsqueeze(-1) * each).sum(-2)

    @staticmethod
    def log_prob(x: Tensor) -> Tensor:
        each = -0.5 * (((x.unsqueeze(-2) - MEAN) / STD) ** 2 + math.log(2 * math.pi)) - STD.log()
        return each.sum(-1).logsumexp(-1) - math.log(3)


def known(n: int, steps: int) -> FlowDensity:
    return FlowDensity(cast(ConditionedMLP, Known()), torch.zeros(n, 1).double(), steps, 1)


@torch.no_grad()
def test_the_likelihood_of_a_known_flow_converges_at_fourth_order():
    x = 1.5 * normal_numbers(500, 2)
    errors = [
        (known(500, steps).log_prob(x) - Known.log_prob(x)).abs().max().item()
        for steps in (10, 20, 40)
    ]
    assert errors[0] < 0.02 and errors[2] < 1e-4
    assert errors[0] / errors[1] > 8 and errors[1] / errors[2] > 8


@torch.no_grad()
def test_doubled_steps_tell_the_error():
    x = 1.5 * normal_numbers(500, 2)
    density = known(500, 10)
    estimate = (density.log_prob(x) - density.refined().log_prob(x)).abs()
    true = (density.log_prob(x) - Known.log_prob(x)).abs()
    assert torch.allclose(estimate, true, atol=0.15 * true.max().item())
    assert density.refined().steps == 20 and density.refined().refined().steps == 40


@torch.no_grad()
@pytest.mark.parametrize("inside", [False, True])
def test_a_refined_chain_refines_its_blocks(inside):
    head, x = make_head("flow", inside), normal_numbers(4, 4, seed=3)
    density, finer = (
        head(normal_numbers(4, 8)),
        make_head("flow", inside, steps=6)(normal_numbers(4, 8)),
    )
    assert torch.allclose(density.refined().log_prob(x), finer.log_prob(x), atol=1e-12)
    assert not torch.equal(density.refined().log_prob(x), density.log_prob(x))


@torch.no_grad()
@pytest.mark.parametrize(
    ("temperature", "weight"),
    [
        (1.0, 1.0),
        pytest.param(0.7, 1.0, marks=pytest.mark.slow),
        pytest.param(0.8, 2.0, marks=pytest.mark.slow),
    ],
)
def test_log_prob_is_the_density_of_the_samples(temperature, weight):
    """Of a network, guided and tempered: log p of a sample is log N(ε) - log |det
    ∂x/∂ε| along its own path.
    """
    head = make_head("flow", False, features=2, steps=200)
    density = (
        head(normal_numbers(1, 8))
        .guided(head(normal_numbers(1, 8, seed=1)), weight)
        .tempered(temperature)
    )
    for seed in range(2):
        start = normal_numbers(1, 2, seed=seed)

        def path(start: Tensor, density: FlowDensity = density) -> Tensor:
            return density.sample(FixedNoise(torch.zeros(1, dtype=torch.long), start))

        with torch.enable_grad():
            jacobian = torch.autograd.functional.jacobian(path, start).reshape(2, 2)
        expected = (
            -0.5 * (start**2).sum()
            - math.log(2 * math.pi)
            - torch.linalg.slogdet(jacobian).logabsdet
        )
        assert abs(density.log_prob(path(start)) - expected).item() < 1e-5


@torch.no_grad()
def test_guidance_extrapolates_the_velocity():
    head, x = make_head("flow", False), normal_numbers(3, 4)
    p, q = head(normal_numbers(3, 8)), head(normal_numbers(3, 8, seed=1))
    expected = q.velocity(x, 0.3) + 2.5 * (p.velocity(x, 0.3) - q.velocity(x, 0.3))
    assert torch.allclose(p.guided(q, 2.5).velocity(x, 0.3), expected, atol=1e-12)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_divergence_is_exact_in_every_mode(mode):
    matrix = normal_numbers(3, 3)
    with mode():
        x = normal_numbers(5, 2, 3)
        value, divergence = with_divergence(lambda x: (x @ matrix).sin(), x)
        expected = ((x @ matrix).cos() * matrix.diagonal()).sum(-1)
        assert torch.allclose(value, (x @ matrix).sin()) and torch.allclose(
            divergence, expected, atol=1e-12
        )


@torch.no_grad()
def test_the_loss_is_least_for_the_exact_velocity():
    """The exact velocity leaves only the spread of the lines; adding to it costs the
    square of what is added.
    """
    n = 20_000
    noise = Noise.of(torch.arange(n))
    which = (3 * noise.at(0).uniform(1).squeeze(-1)).long()
    x = MEAN[which] + STD[which] * noise.at(1).normal(2, torch.float64)
    exact = known(n, 1)
    moved = replace(
        exact,
        network=cast(
            ConditionedMLP,
            type(
                "Moved",
                (Known,),
                {"__call__": lambda self, x, z, time: Known.__call__(self, x, z, time) + 0.3},
            )(),
        ),
    )

    def loss(density: FlowDensity) -> Tensor:
        network = density.network  # times [n, 1] of the draws need an axis for the components
        spread = type(
            "Spread",
            (),
            {"inputs": 2, "__call__": lambda self, x, z, t: network(x, z, t[..., None, None])},
        )
        return replace(density, network=cast(ConditionedMLP, spread())).loss(x, noise.at(2))

    assert abs((loss(moved) - loss(exact)).mean() - 0.09) < 0.01


def test_a_flow_learns_a_conditional_density():
    learns(Flow(1, 2, width=32, depth=2))


def test_what_a_flow_cannot_do_is_refused():
    head = Flow(4, 2, width=8, depth=1)
    with pytest.raises(ValueError, match="candidates: "):
        head(torch.zeros(1, 4)).guided(head(torch.ones(1, 4)), 2.0, 10)
    for wrong in ({"steps": 0}, {"repeats": 0}, {"depth": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}: "):
            Flow(4, 2, **wrong)
