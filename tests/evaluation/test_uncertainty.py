"""Evaluation noise: half-widths over images that cover what they claim."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap, ttest_1samp

from arinar_lab.data.sources import Digits
from arinar_lab.evaluation.classifier_distance import (
    digits_distances,
    distance_of_parts,
    features_of,
    kernel_distance,
)
from arinar_lab.evaluation.uncertainty import (
    BLOCK_COUNT,
    disjoint_blocks,
    distances_without,
    half_width,
    half_width_of_ratio,
    half_widths_of_sets,
    is_inside,
    jackknife,
    kernels_without,
    recall_without,
)

NOTHING = [torch.tensor([], dtype=torch.long)]


@pytest.fixture(scope="module")
def digits():
    return Digits()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Means


def test_the_half_width_of_a_mean_is_students():
    values = normal(40)
    reference = ttest_1samp(values.numpy(), 0).confidence_interval(0.95)
    assert half_width(values) == pytest.approx((reference.high - reference.low) / 2)
    assert math.isinf(half_width(values[:1]))


def test_it_is_what_a_bootstrap_says():
    """The bootstrap's standard error of a mean is s/√n · √((n-1)/n), but for its own chance."""
    values = torch.distributions.Exponential(1.0).icdf(
        torch.rand(400, generator=torch.Generator().manual_seed(1))
    )
    drawn = bootstrap(
        (values.numpy(),), np.mean, n_resamples=4000, rng=np.random.default_rng(0)
    ).standard_error
    assert half_width(values) / 1.966 == pytest.approx(drawn, rel=0.04)


def test_a_ratio_of_means_covers_the_truth():
    covered = []
    for study in range(1000):
        above, below = normal(50, seed=2 * study).exp(), normal(80, seed=2 * study + 1).abs() + 1
        true = math.exp(0.5) / (1 + math.sqrt(2 / math.pi))
        ratio = (above.mean() / below.mean()).item()
        covered.append(abs(ratio - true) <= half_width_of_ratio(above, below))
    assert 0.9 < np.mean(covered) < 0.97  # of 50 skewed values
    assert half_width_of_ratio(torch.zeros(5), torch.ones(5)) == 0


# Sets


def test_blocks_are_disjoint_of_one_size_and_share_the_classes():
    y = torch.tensor([0] * 43 + [1] * 61 + [2] * 3)[
        torch.randperm(107, generator=torch.Generator().manual_seed(0))
    ]
    parts = disjoint_blocks(y)
    assert len(parts) == BLOCK_COUNT and {len(part) for part in parts} == {10}
    assert len(set(torch.cat(parts).tolist())) == 100
    assert all(abs(int((y[part] == 0).sum()) - 4.3) < 1 for part in parts)


def test_precision_and_recall_are_torch_fidelitys(digits):
    images, reference = digits.held_out[0][:200], digits.train[0][:500]
    distances_of_set = digits_distances(images, reference)
    features, whole = features_of(images), features_of(reference)

    assert is_inside(features, whole, whole).double().mean().item() == pytest.approx(
        distances_of_set["precision"], abs=1e-6
    )
    assert is_inside(whole, features, features).double().mean().item() == pytest.approx(
        distances_of_set["recall"], abs=1e-6
    )
    assert recall_without(NOTHING, features, whole).item() == pytest.approx(
        distances_of_set["recall"], abs=1e-6
    )


def test_without_nothing_the_distances_are_the_distances(digits):
    images, reference = digits.held_out[0], digits.train[0][:300]
    expected = digits_distances(images, reference)
    features, whole = features_of(images), features_of(reference)
    assert distances_without(NOTHING, features, whole).item() == pytest.approx(
        expected["fd_digits"], rel=1e-6
    )
    generator = torch.Generator().manual_seed(0)
    assert kernels_without(NOTHING, features, whole).item() == pytest.approx(
        expected["kid_digits"], rel=1e-9
    )  # its interval's
    subsets = [features[torch.randperm(360, generator=generator)[:50]] for _ in range(200)]
    actual = kernels_without(NOTHING, features, whole).item()

    spread = torch.cat([kernels_without(NOTHING, subset, whole) for subset in subsets])
    assert abs(spread.mean().item() - actual) < 3 * half_width(spread)  # no bias


def test_kid_is_the_unbiased_squared_mmd():
    """By hand, of one feature: k(a, b) = (ab + 1)³ between {0, 1, 2} and {0, 1}."""
    cube = lambda a, b: (a * b + 1) ** 3  # noqa: E731
    within = 2 * (cube(0, 1) + cube(0, 2) + cube(1, 2)) / 6 + cube(0, 1)
    across = sum(cube(a, b) for a in (0, 1, 2) for b in (0, 1)) / 6
    result = kernel_distance(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0]]))
    assert result == pytest.approx(within - 2 * across) == pytest.approx(29 / 3 + 1 - 2 * 39 / 6)


def test_a_distance_of_parts_is_the_mean_over_sets_of_that_number(digits):
    images, reference = digits.train[0][:250], digits.held_out[0]
    halves = [
        digits_distances(images[:100], reference)["fd_digits"],
        digits_distances(images[100:200], reference)["fd_digits"],
    ]
    assert distance_of_parts(images, reference, 100) == pytest.approx(np.mean(halves), rel=1e-6)
    # it falls as images are added
    assert distance_of_parts(images, reference, 250) < np.mean(halves)


def test_a_block_that_is_left_out_is_left_out():
    features, whole = normal(30, 4).float(), normal(50, 4, seed=1).float()
    for measure in (distances_without, kernels_without, recall_without):
        assert torch.allclose(
            measure([torch.arange(10)], features, whole), measure(NOTHING, features[10:], whole)
        )


def test_every_distance_has_a_half_width(digits):
    result = half_widths_of_sets(*digits.held_out, digits.train[0])
    assert set(result) == {"fd_digits", "kid_digits", "precision", "recall"}
    assert all(0 < half < math.inf for half in result.values())
    assert result == half_widths_of_sets(*digits.held_out, digits.train[0])  # nothing is drawn
    assert (
        half_widths_of_sets(digits.held_out[0][:19], digits.held_out[1][:19], digits.train[0]) == {}
    )


def test_a_jackknife_of_a_mean_is_that_of_its_blocks():
    values = normal(100)
    parts = values.view(BLOCK_COUNT, -1)
    without = torch.stack(
        [torch.cat([*parts[:b], *parts[b + 1 :]]).mean() for b in range(BLOCK_COUNT)]
    )
    assert jackknife(without) == pytest.approx(half_width(parts.mean(1)))


# Coverage, over 2,000 simulated studies


def share_covered(values, true, halves):
    return np.mean([abs(value - true) <= half for value, half in zip(values, halves, strict=True)])


def test_intervals_of_means_cover_the_truth():
    """Of 360 images, skewed as the bits of images are."""
    sets = torch.distributions.Gamma(4.0, 2.0)
    torch.manual_seed(0)
    images = sets.sample((2000, 360)).double()
    covered = share_covered(images.mean(1).tolist(), 2.0, [half_width(row) for row in images])
    assert 0.93 < covered < 0.97


@pytest.mark.slow
def test_the_jackknife_of_a_distance_covers_its_mean():
    """Features of a model that is a little off: 400 images against 300 of reference; the mean
    is over all studies.
    """
    generator = torch.Generator().manual_seed(0)
    scale = torch.linspace(0.5, 1.5, 4)
    reference = torch.randn(300, 4, generator=generator) * scale
    parts = disjoint_blocks(torch.zeros(400))

    values, halves = [], []
    for _ in range(2000):
        images = torch.randn(400, 4, generator=generator) * scale * 1.2 + 0.3
        values += distances_without(NOTHING, images, reference).tolist()
        halves.append(jackknife(distances_without(parts, images, reference)))

    assert 0.93 < share_covered(values, np.mean(values), halves) < 0.97


@pytest.mark.slow
def test_the_jackknife_of_kid_covers_its_mean():
    """The cubic kernel has long tails: of 120 images in three dimensions it covers 92 %."""
    generator = torch.Generator().manual_seed(0)
    reference, parts = torch.randn(150, 4, generator=generator), disjoint_blocks(torch.zeros(200))
    values, halves = [], []
    for _ in range(2000):
        images = torch.randn(200, 4, generator=generator) * 1.2 + 0.4
        values += kernels_without(NOTHING, images, reference).tolist()
        halves.append(jackknife(kernels_without(parts, images, reference)))
    assert 0.93 < share_covered(values, np.mean(values), halves) < 0.97
