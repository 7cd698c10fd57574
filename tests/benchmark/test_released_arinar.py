"""The released algorithm, written plainly, and ours compute the same."""

from __future__ import annotations

from functools import partial

import laws
import pytest
import torch
from scipy.stats import ks_2samp

from arinar_lab.benchmark import released_arinar
from arinar_lab.model.arinar import Arinar
from arinar_lab.model.density import Density
from arinar_lab.model.heads import HEADS
from arinar_lab.model.noise import Noise
from arinar_lab.model.outer import MaskedAR, take
from arinar_lab.model.sampler import Sampler

TOKENS, FEATURES, CLASSES = 12, 4, 3
WEIGHTS = pytest.mark.parametrize("guidance", [1.0, 4.5])


def released(
    width: int = 32, dtype: torch.dtype = torch.float32, tokens: int = TOKENS, **outer: int
) -> Arinar:
    """A model of the released architecture, its weights random but small: guided densities are
    hardly ever truncated.
    """
    shape = {
        "width": width,
        "encoder_depth": 1,
        "decoder_depth": 2,
        "heads": 2,
        "prefix": 3,
        "steps": 6,
        **outer,
    }
    head = partial(HEADS["gmm"], components=3, min_std=0.0, loss_constant=False)
    block = {"heads": 4, "gelu": "tanh", "k_bias": False, "softmax_scale": 0.25}
    inner = partial(HEADS["feature_ar"], head=head, width=width, **block)
    model = Arinar(tokens, FEATURES, CLASSES, partial(MaskedAR, **shape), inner)

    return laws.randomise(model.to(dtype), 0.25 * width**-0.5).eval()


def forced(model: Arinar, x: torch.Tensor, sampler: Sampler) -> tuple[float, float]:
    """Largest difference of conditions, and of drawn tokens, in a walk that is answered
    with the true tokens x.
    """
    y, noise = torch.arange(len(x)) % CLASSES, Noise.of(torch.arange(len(x)))
    generator, known_at, differences = (
        torch.Generator(),
        torch.zeros(x.shape[:2], dtype=torch.bool),
        [(0.0, 0.0)],
    )
    labels = [model.labels(y), *([model.labels.null(len(x))] if sampler.guidance != 1 else [])]

    def visit(z, z_null, where, progress):
        actual: Density = sampler.apply(
            model.inner(z), None if z_null is None else model.inner(z_null), progress
        )
        keys = noise.at(1).at(where)
        branches = [
            take(released_arinar.released_condition(model, x, c, ~known_at), where) for c in labels
        ]
        flat = Noise(keys.key.flatten())
        drawn = released_arinar.draw_token(
            model, torch.cat(branches).flatten(0, 1), flat, sampler, progress, generator
        )
        tokens = actual.sample(keys)
        differences.append(
            (
                (branches[0] - z).abs().max().item(),
                (drawn.view_as(tokens) - tokens).abs().max().item(),
            )
        )
        known_at.scatter_(1, where, True)

        return take(x, where)

    model.outer.walk(labels[0], labels[1] if len(labels) > 1 else None, visit, noise, sampler)
    return tuple(max(column) for column in zip(*differences, strict=True))


@WEIGHTS
@torch.no_grad()
def test_both_draw_the_same_tokens_when_answered_with_the_true_ones(guidance):
    x = laws.normal_numbers(2, TOKENS, FEATURES, dtype=torch.float32)
    conditions, tokens = forced(released(), x, Sampler(guidance=guidance))
    assert conditions < 1e-5
    assert tokens < 1e-4


@WEIGHTS
def test_both_generate_the_same_images_from_the_same_noise(guidance):
    model, y, noise = (
        released(dtype=torch.float64),
        torch.arange(4) % CLASSES,
        Noise.of(torch.arange(4)),
    )
    sampler = Sampler(guidance=guidance, temperature=0.9, steps=5)

    expected = model.generate(y, noise, sampler)[0]
    assert torch.allclose(
        released_arinar.generate_released(model, y, noise, sampler), expected, atol=1e-6
    )


def test_both_have_the_same_loss_and_gradients():
    model = released(dtype=torch.float64)
    x, y, noise = (
        laws.normal_numbers(4, TOKENS, FEATURES),
        torch.arange(4) % CLASSES,
        Noise.of(torch.arange(4) + 5),
    )
    results = []
    for loss in (model.loss(x, y, noise), released_arinar.loss(model, x, y, noise)):
        model.zero_grad()
        loss.backward()
        results.append((loss, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    (actual, gradients), (expected, expected_gradients) = results

    assert torch.allclose(actual, expected, atol=1e-12)
    assert len(gradients) == len(expected_gradients) > 50
    assert all(
        torch.allclose(a, b, atol=1e-9) for a, b in zip(gradients, expected_gradients, strict=True)
    )


@torch.no_grad()
def test_candidates_of_both_have_one_distribution():
    """The plain side draws from a generator, ours from keyed noise."""
    model, n = released(), 3000
    sampler = Sampler(
        guidance=3.0, temperature=1.1, temperature_divides=True, candidates=50, schedule="constant"
    )
    z, null = (
        laws.normal_numbers(1, 32, seed=s, dtype=torch.float32).expand(n, -1) for s in (0, 1)
    )
    keys = Noise.of(torch.arange(n))
    expected = released_arinar.draw_token(
        model, torch.cat([z, null]), keys, sampler, 0.5, torch.Generator().manual_seed(0)
    )
    actual = sampler.apply(model.inner(z), model.inner(null), 0.5).sample(keys)
    unguided = model.inner(z).sample(keys)

    for feature in (0, FEATURES - 1):
        # critical value at 0.1 %
        assert ks_2samp(expected[:, feature], actual[:, feature]).statistic < 0.05

    assert ks_2samp(expected[:, 0], unguided[:, 0]).statistic > 0.1


def test_an_image_is_drawn_with_candidates_under_every_weight():
    sampler = Sampler(guidance=4.5, candidates=10, steps=4)
    model, y, noise = released(), torch.arange(2), Noise.of(torch.arange(2))
    x = released_arinar.generate_released(model, y, noise, sampler)
    assert x.shape == (2, TOKENS, FEATURES) and x.isfinite().all() and (x != 0).all()
    assert torch.equal(x, released_arinar.generate_released(model, y, noise, sampler))


@pytest.mark.parametrize(
    ("outer", "kind", "inside"), [("causal", "gmm", True), ("masked", "gmm", False)]
)
def test_another_architecture_is_refused(outer, kind, inside):
    with pytest.raises(ValueError, match="the release has a"):
        released_arinar.parts(laws.make_model(outer, kind, inside))


@pytest.mark.slow
@torch.no_grad()
def test_both_draw_the_same_tokens_at_the_size_of_arinar_b():
    """Three steps of the whole walk are enough to see every part at its width.

    In double precision: in single precision an inverse CDF is so steep between the modes of some
    guided densities that the last digits of z move a token by hundredths.
    """
    depths = {"encoder_depth": 14, "decoder_depth": 14, "heads": 12, "prefix": 64, "steps": 3}
    model = released(768, torch.float64, tokens=256, **depths)
    conditions, tokens = forced(model, laws.normal_numbers(1, 256, FEATURES), Sampler(guidance=4.5))
    assert conditions < 1e-9
    assert tokens < 1e-4
