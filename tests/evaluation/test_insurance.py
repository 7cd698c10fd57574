"""Insured likelihood: a density like the model's own, that no single pixel decides."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from laws import CLASSES, HEADS, INSIDE, images, labels, make_model, normal_numbers
from tiny import tiny

from arinar_lab.config.build import build
from arinar_lab.evaluation import evaluate, insurance
from arinar_lab.evaluation.insurance import SHARE, BroadDensity, insured_log_prob
from arinar_lab.model.arinar import Arinar
from arinar_lab.model.checks import randomise
from arinar_lab.model.noise import Noise
from arinar_lab.model.outer import OUTERS


def small_model(**inner) -> Arinar:
    """One token of two features, so that a grid of two dimensions holds it all."""
    ar = partial(HEADS["feature_ar"], head=HEADS["gmm"], **INSIDE, **inner)
    outer = partial(OUTERS["causal"], width=16, depth=1, heads=2)
    model = Arinar(1, 2, CLASSES, outer, ar)
    model.inner.fit(normal_numbers(100, 1, 2, seed=1, dtype=torch.float32))
    return randomise(model.double()).eval()


@pytest.mark.parametrize(("order", "parts"), [("reversed", 2), ("principal", 1)])
@torch.no_grad()
def test_insured_likelihood_integrates_to_one(order, parts):
    """∫ p' dx = E p'(x) / q(x) over x of the broad density, here by a grid of its quantiles."""
    model = small_model(order=order)
    broad = BroadDensity(torch.tensor([0.3, -0.2]).double(), torch.tensor([1.0, 2.0]).double())
    n = 500
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    line = torch.tan(math.pi * (u - 0.5))
    x = torch.cartesian_prod(line, line) * broad.scale + broad.center
    x = x.unsqueeze(1)

    terms = model.log_prob_terms(x, labels(len(x)) * 0, images(len(x)), None)
    log_q = broad.log_prob(x).sum((1, 2))

    assert terms.shape[-1] == parts
    mass = torch.exp(terms.sum((1, 2)) - log_q).mean().item()
    assert mass == pytest.approx(1, abs=0.004)
    insured = torch.exp(insured_log_prob(terms, x, broad) - log_q).mean().item()
    assert insured == pytest.approx(1 + (1 - SHARE) ** parts * (mass - 1), abs=1e-5)
    # the mixture is not the model's own density
    assert (insured_log_prob(terms, x, broad) - terms.sum((1, 2))).abs().max() > 0.1


@pytest.mark.parametrize("outer", ["causal", "masked", "random_causal"])
@pytest.mark.parametrize(
    ("kind", "inside"),
    [
        ("gmm", True),
        ("gmm", False),
        ("gmm_full", True),
        ("discrete", True),
        ("spline", False),
        ("nested", False),
        ("flow", False),
        ("diffusion", True),
    ],
)
@torch.no_grad()
def test_the_terms_add_up_to_the_likelihood(outer, kind, inside):
    model = make_model(outer, kind, inside)
    x = normal_numbers(3, 6, 4, seed=2)
    walk = (x, labels(3), images(3), None)
    terms = model.log_prob_terms(*walk)
    assert terms.shape == (3, 6, 1 if kind in ("flow", "diffusion") else 4)
    torch.testing.assert_close(terms.sum((1, 2)), model.log_prob(*walk))


def test_a_pixel_far_out_costs_what_the_broad_density_says_and_a_good_one_nearly_nothing():
    broad = BroadDensity(torch.zeros(2).double(), torch.ones(2).double())
    x = torch.tensor([[[0.0, 10.0]]])
    terms = torch.tensor([[[1.0, -400.0]]])
    bits = -insured_log_prob(terms, x, broad).item() / math.log(2)
    cost = math.log2(1000 * math.pi * (1 + 10**2))
    assert bits == pytest.approx(cost - 1 / math.log(2), abs=0.002)

    terms = torch.tensor([[[1.0, -math.inf]]])
    bits = -insured_log_prob(terms, x, broad).item() / math.log(2)
    assert bits == pytest.approx(cost - 1 / math.log(2), abs=0.002)


def test_the_broad_density_is_that_of_training_tokens_and_of_no_held_out_image():
    recipe = tiny()
    experiment = build(recipe)
    broad = insurance.broad_density(experiment, 100)
    x, _ = experiment.codec.encode(experiment.source.train[0], Noise.of(torch.arange(1437)))
    assert broad.center.shape == (4,)
    assert broad.scale == pytest.approx(x.std((0, 1)), rel=0.05)
    assert broad.center == pytest.approx(x.mean((0, 1)), abs=0.05)

    held_out, y = experiment.source.held_out
    experiment.source.held_out = (held_out.flip(-1), y)
    again = insurance.broad_density(experiment, 100)
    assert torch.equal(again.scale, broad.scale) and torch.equal(again.center, broad.center)


def test_one_missed_pixel_moves_bits_per_dim_and_hardly_insured_bits():
    """A model that is sure of a dark image meets one with a single bright pixel."""
    recipe = tiny("evaluation.draws=1")
    experiment = build(recipe)
    terms = torch.zeros(100, 16, 4)
    x = torch.zeros(100, 16, 4)
    terms[0, 0, 0] = -409.0  # 590 bits
    x[0, 0, 0] = 2.0
    broad = insurance.broad_density(experiment, 100)
    insured = insured_log_prob(terms, x, broad)
    cost = (insured[1:].mean() - insured[0]) / math.log(2)
    assert 5 < cost < 20


@pytest.mark.parametrize("head", ["gmm", "{kind: flow, width: 8, depth: 1, steps: 2, repeats: 1}"])
def test_insured_bits_are_at_most_a_little_above_bits(head):
    recipe = tiny(f"inner={{kind: feature_ar, width: 8, heads: 2, head: {head}}}")
    images = evaluate.metrics_by_image(recipe, build(recipe))
    premium = images["val/bits_per_dim_insured"] - images["val/bits_per_dim"]
    assert premium.max() < -math.log2(1 - SHARE) + 1e-6
    assert premium.abs().max() > 0
