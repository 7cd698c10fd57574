"""Evaluation noise: half-widths over images that cover what they claim."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap, ttest_1samp

from arinar_lab.data.sources import Digits
from arinar_lab.evaluation.classifier_distance import (
    balls_with_images,
    classifier_distances,
    coverage,
    density_of_images,
    directions,
    features_of,
    kernel_distance,
    means_of_parts,
    quantile_pairs,
    sliced_distance,
)
from arinar_lab.evaluation.uncertainty import (
    BLOCK_COUNT,
    coverage_without,
    disjoint_blocks,
    distances_without,
    half_width,
    half_width_of_ratio,
    half_widths_of_sets,
    is_inside,
    jackknife,
    kernels_without,
    recall_without,
    sliced_without,
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
    distances_of_set = classifier_distances(images, reference, "digits")
    features, whole = features_of(images, "digits"), features_of(reference, "digits")

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
    expected = classifier_distances(images, reference, "digits")
    features, whole = features_of(images, "digits"), features_of(reference, "digits")
    assert distances_without(NOTHING, features, whole).item() == pytest.approx(
        expected["fd_digits"], rel=1e-6
    )
    assert sliced_without(NOTHING, features, whole).item() == pytest.approx(
        expected["sliced_digits"], rel=1e-6
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


def test_quantiles_of_two_sets_are_matched_by_their_mass():
    """By hand: of {0, 3} and {0, 1, 2}, thirds end at 1/3, 2/3 and halves at 1/2."""
    i, j, mass = quantile_pairs(2, 3)
    assert i.tolist() == [0, 0, 1, 1] and j.tolist() == [0, 1, 1, 2]
    assert mass.tolist() == pytest.approx([1 / 3, 1 / 6, 1 / 6, 1 / 3])
    i, j, mass = quantile_pairs(4, 4)
    assert i.tolist() == j.tolist() == [0, 1, 2, 3] and mass.tolist() == [0.25] * 4


def test_a_sliced_distance_of_one_feature_is_three_times_wassersteins():
    """By hand, of one feature: (1² · 1/6 + 2² · 1/6 + 1² · 1/3) = 7/6 of {0, 3} and {0, 1, 2}."""
    pair, triple = torch.tensor([[3.0], [0.0]]), torch.tensor([[1.0], [0.0], [2.0]])
    assert sliced_distance(pair, triple) == pytest.approx(3 * 7 / 6)
    assert sliced_distance(triple, pair) == pytest.approx(3 * 7 / 6)


def test_a_sliced_distance_of_a_shift_is_three_times_its_square():
    """Directions are orthogonal in sets of F, so that the mean of (u·a)² is |a|² / F exactly."""
    features = normal(50, 64).float()
    shift = torch.linspace(-1, 2, 64)
    distance = sliced_distance(features + shift, features)
    assert distance == pytest.approx(3 * shift.square().sum().item(), rel=1e-4)
    assert sliced_distance(features.repeat(3, 1), features) == pytest.approx(0, abs=1e-9)
    assert torch.allclose(directions(64).norm(dim=1), torch.ones(256))


def test_fixed_directions_are_as_good_as_a_thousand_random_ones(digits):
    """MIND's own way: 1,000 independent directions, sorted projections of as many images."""
    features, reference = (
        features_of(images, "digits") for images in (digits.held_out[0], digits.train[0][:360])
    )
    drawn = torch.nn.functional.normalize(normal(1000, 64)).float()
    gaps = (features @ drawn.T).sort(0).values - (reference @ drawn.T).sort(0).values
    expected = 3 * 64 * gaps.square().mean().item()
    assert sliced_distance(features, reference) == pytest.approx(expected, rel=0.06)


def test_balls_reach_to_the_fifth_neighbour():
    """By hand, of one feature: radii of 0, 1, … 6 are 5, 4, 3, 3, 3, 4, 5."""
    reference = torch.arange(7.0)[:, None]
    images = torch.tensor([[0.0], [9.5]])
    balls = balls_with_images(images, reference)
    assert balls[:, 0].tolist() == [True] * 3 + [True] + [False] * 3
    assert balls[:, 1].tolist() == [False] * 6 + [True]
    assert density_of_images(balls).tolist() == [4 / 5, 1 / 5]
    assert coverage(balls) == 5 / 7
    assert coverage_without([torch.tensor([0]), torch.tensor([1])], balls).tolist() == (
        pytest.approx([1 / 7, 4 / 7])
    )


def test_density_and_coverage_of_one_distribution_are_as_their_authors_say():
    """Density is 1 at any two sizes; coverage is that of their lemma 2."""
    densities, shares = [], []
    for draw in range(60):
        points = normal(150, 3, seed=draw)
        balls = balls_with_images(points[:60], points[60:])
        densities.append(density_of_images(balls).mean().item())
        shares.append(coverage(balls))
    missed = math.prod((90 - k) / (150 - k) for k in range(1, 6))

    assert np.mean(densities) == pytest.approx(1, abs=0.03)
    assert np.mean(shares) == pytest.approx(1 - missed, abs=0.01)


def test_means_of_parts_are_over_sets_of_that_number(digits):
    images, reference = digits.train[0][:250], digits.held_out[0]
    halves = [
        classifier_distances(images[:100], reference, "digits"),
        classifier_distances(images[100:200], reference, "digits"),
    ]
    means = means_of_parts(images, reference, 100, "digits")
    for name, mean in means.items():
        assert mean == pytest.approx((halves[0][name] + halves[1][name]) / 2, rel=1e-6)
    assert set(means) == {"fd_digits", "sliced_digits", "coverage"}

    # distances fall and coverage rises as images are added
    whole = means_of_parts(images, reference, 250, "digits")
    assert whole["fd_digits"] < means["fd_digits"]
    assert whole["sliced_digits"] < means["sliced_digits"]
    assert whole["coverage"] > means["coverage"]


def test_a_block_that_is_left_out_is_left_out():
    features, whole = normal(30, 4).float(), normal(50, 4, seed=1).float()
    balls = balls_with_images(features, whole)
    for measure in (distances_without, kernels_without, sliced_without, recall_without):
        assert torch.allclose(
            measure([torch.arange(10)], features, whole), measure(NOTHING, features[10:], whole)
        )
    without = coverage_without([torch.arange(10)], balls).item()
    assert without == pytest.approx(coverage(balls[:, 10:])) != coverage(balls)


def test_every_distance_has_a_half_width(digits):
    result = half_widths_of_sets(*digits.held_out, digits.train[0], "digits")
    assert set(result) == set(classifier_distances(digits.held_out[0], digits.train[0], "digits"))
    assert all(0 < half < math.inf for half in result.values())
    assert result == half_widths_of_sets(
        *digits.held_out, digits.train[0], "digits"
    )  # nothing is drawn
    assert (
        half_widths_of_sets(
            digits.held_out[0][:19], digits.held_out[1][:19], digits.train[0], "digits"
        )
        == {}
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


@pytest.mark.slow
def test_the_jackknives_of_sliced_distance_and_coverage_cover_their_means():
    generator = torch.Generator().manual_seed(0)
    reference, parts = torch.randn(150, 4, generator=generator), disjoint_blocks(torch.zeros(200))
    values, halves = {"sliced": [], "coverage": []}, {"sliced": [], "coverage": []}
    for _ in range(1000):
        images = torch.randn(200, 4, generator=generator) * 1.2 + 0.4
        balls = balls_with_images(images, reference)
        values["sliced"].append(sliced_distance(images, reference))
        halves["sliced"].append(jackknife(sliced_without(parts, images, reference)))
        values["coverage"].append(coverage(balls))
        halves["coverage"].append(jackknife(coverage_without(parts, balls)))

    for name, covered in values.items():
        assert 0.92 < share_covered(covered, np.mean(covered), halves[name]) < 0.99, name
