"""Energy: the score is strictly proper, the generator learns what it is shown, and it says that
it has no likelihood.
"""

from __future__ import annotations

from typing import cast

import pytest
import torch
from laws import learns, make_head, normal_numbers
from torch import Tensor

from arinar_lab.model.heads.conditioned import ConditionedMLP
from arinar_lab.model.heads.energy import Energy, GeneratorDensity
from arinar_lab.model.noise import Noise


class Scaled:
    """The generator of a normal(shift, scale²)."""

    inputs = 2

    def __init__(self, shift: float, scale: float) -> None:
        self.shift, self.scale = shift, scale

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        return self.shift + self.scale * x


def score(shift: float, scale: float, beta: float, draws: int, n: int = 40_000) -> float:
    """The loss of a generator of normal(shift, scale²) on tokens from N(0, 1)."""
    noise = Noise.of(torch.arange(n))
    density = GeneratorDensity(
        cast(ConditionedMLP, Scaled(shift, scale)), torch.zeros(n, 1).double(), beta, draws
    )
    return density.loss(noise.at(0).normal(2, torch.float64), noise.at(1)).mean().item()


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5])
def test_the_score_is_least_for_the_true_distribution(beta):
    best = score(0.0, 1.0, beta, 2)
    for shift, scale in ((0.0, 0.7), (0.0, 1.4), (0.4, 1.0), (0.0, 0.0)):
        assert score(shift, scale, beta, 2) > best + 0.005


def test_the_score_of_a_normal_is_the_known_number():
    """With β = 1 in two dimensions E|g - x| = E|g - g'| = √π, so the score of the truth is √π/2,
    for any number of draws.
    """
    for draws in (2, 5):
        assert score(0.0, 1.0, 1.0, draws) == pytest.approx(torch.pi**0.5 / 2, abs=0.01)


def test_draws_that_coincide_have_finite_gradients():
    """As at the beginning, when the output map is zero and every draw is the same."""
    head = Energy(4, 2, width=8, depth=1, beta=0.5)
    head(torch.zeros(3, 4)).loss(torch.zeros(3, 2), Noise.of(torch.arange(3))).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


def test_a_generator_learns_a_conditional_density():
    learns(Energy(1, 2, width=32, depth=2, noise=8))


@torch.no_grad()
def test_one_pass_draws_a_token():
    head, calls = make_head("energy", False), []
    handle = head.network.register_forward_hook(lambda *_: calls.append(1))
    head(normal_numbers(7, 8)).tempered(0.5).sample(Noise.of(torch.arange(7)))
    assert len(calls) == 1
    handle.remove()


@torch.no_grad()
def test_guidance_extrapolates_the_context():
    head, noise = make_head("energy", False), Noise.of(torch.arange(3))
    z, null = normal_numbers(3, 8), normal_numbers(3, 8, seed=1)
    guided = head(z).guided(head(null), 2.5)
    assert torch.allclose(
        guided.sample(noise), head(null + 2.5 * (z - null)).sample(noise), atol=1e-12
    )


def test_what_a_generator_cannot_do_is_refused():
    head = Energy(4, 2, width=8, depth=1)
    with pytest.raises(NotImplementedError, match="no likelihood"):
        head(torch.zeros(1, 4)).log_prob(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="candidates: "):
        head(torch.zeros(1, 4)).guided(head(torch.ones(1, 4)), 2.0, 10)
    for wrong in ({"beta": 2.0}, {"beta": 0.0}, {"draws": 1}, {"noise": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}: "):
            Energy(4, 2, **wrong)
