"""Statistics: intervals that cover what they claim, and differences paired by seed."""

import math

import numpy as np
import pytest
from optuna._hypervolume import compute_hypervolume
from scipy.stats import ttest_1samp, ttest_rel

from arinar_lab.study.stats import Interval, hypervolume, interval, paired, pareto


@pytest.mark.parametrize("values", [[2.1, 2.3], [2.1, 2.3, 1.9], [0.0, 1.0, 5.0, 2.0, 7.5]])
def test_the_interval_is_students(values):
    ours, theirs = interval(values), ttest_1samp(values, 0).confidence_interval(0.95)
    assert ours.mean == pytest.approx(np.mean(values)) and ours.n == len(values)
    assert (ours.mean - ours.half, ours.mean + ours.half) == pytest.approx((theirs.low, theirs.high))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_interval_covers_the_truth_in_95_of_100_studies(n):
    studies = np.random.default_rng(n).normal(2.0, 0.3, (2000, n))
    covered = [abs(i.mean - 2.0) <= i.half for i in map(interval, studies.tolist())]
    assert 0.93 < np.mean(covered) < 0.97


def test_one_value_says_nothing_of_its_spread():
    one = interval([2.5])
    assert (one.mean, one.half, one.n) == (2.5, math.inf, 1)
    assert not one.resolved and one.text() == "2.500"


def test_no_values_have_no_interval():
    with pytest.raises(ValueError, match="at least one"):
        interval([])


def test_the_difference_is_taken_seed_by_seed():
    ours, base = {0: 2.0, 1: 3.1, 2: 4.2}, {2: 4.0, 1: 3.0, 0: 1.5}
    difference = paired(ours, base)
    theirs = ttest_rel([2.0, 3.1, 4.2], [1.5, 3.0, 4.0]).confidence_interval(0.95)
    assert (difference.mean - difference.half, difference.mean + difference.half) == pytest.approx(
        (theirs.low, theirs.high)
    )


def test_pairing_resolves_what_the_spread_over_seeds_hides():
    spread = [0.0, 10.0, -10.0, 5.0]
    base = dict(enumerate(spread))
    ours = {seed: value + 1 + 0.01 * seed for seed, value in base.items()}
    assert paired(ours, base).resolved
    assert not Interval(interval(list(ours.values())).mean, interval(list(ours.values())).half, 4).resolved


def test_only_seeds_that_both_have_are_paired():
    difference = paired({0: 1.0, 1: 2.0, 5: 100.0}, {0: 0.5, 1: 1.5, 7: -100.0})
    assert (difference.mean, difference.n) == (0.5, 2)


def test_no_seed_in_common_is_no_difference():
    assert paired({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(
    ("mean", "half", "resolved"), [(1, 0.5, True), (-1, 0.5, True), (0.5, 1, False), (-0.5, 1, False), (1, 1, False)]
)
def test_a_difference_is_resolved_when_its_interval_excludes_zero(mean, half, resolved):
    assert Interval(mean, half, 3).resolved is resolved


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (Interval(2.12, 0.0134, 3), 3, "2.120 ± 0.013"),
        (Interval(1234.5, 2.0, 3), 0, "1,234 ± 2"),
        (Interval(2.12, math.inf, 1), 2, "2.12"),
        (Interval(2.0, 0.0, 3), 1, "2.0"),
    ],
)
def test_an_interval_is_written_as_one_reads_it(value, digits, text):
    assert value.text(digits) == text


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_the_front_and_its_hypervolume_are_optunas(dimensions):
    points = np.random.default_rng(dimensions).uniform(size=(40, dimensions))
    points[5] = points[3]  # of two equal points neither is better
    front = pareto(points.tolist())
    assert front == [i for i, p in enumerate(points) if not ((points <= p).all(1) & (points < p).any(1)).any()]
    reference = np.full(dimensions, 0.9)
    theirs = (
        compute_hypervolume(points[(points < reference).all(1)], reference) if dimensions > 1 else 0.9 - points.min()
    )
    assert hypervolume(points.tolist(), reference.tolist()) == pytest.approx(theirs, abs=1e-12)
    assert hypervolume(points[front].tolist(), reference.tolist()) == pytest.approx(theirs, abs=1e-12)


def test_a_hypervolume_by_hand():
    assert (
        hypervolume([[1, 3], [2, 1]], [4, 4]) == 7 and hypervolume([[5, 0]], [4, 4]) == 0 and hypervolume([], [1]) == 0
    )
    assert hypervolume([[1, 1, 1]], [2, 3, 4]) == 6 and hypervolume([[1, 1, 1], [1, 1, 1]], [2, 3, 4]) == 6
