"""Statistics: intervals that cover what they claim, and differences paired by seed."""

import math

import numpy as np
import pytest
from optuna._hypervolume import compute_hypervolume
from scipy.stats import chi2, nct, ttest_1samp, ttest_ind, ttest_rel

from arinar_lab.significance.statistics import (
    MAX_SEEDS,
    Interval,
    PooledSD,
    cohens_d,
    combined_df,
    degrees_of_freedom,
    difference,
    holm,
    hypervolume,
    interval,
    interval_around,
    more_seeds,
    p_value,
    pareto_indices,
    power,
    seeds_to_add,
    size_interval,
    welch,
)


@pytest.mark.parametrize("values", [[2.1, 2.3], [2.1, 2.3, 1.9], [0.0, 1.0, 5.0, 2.0, 7.5]])
def test_the_interval_is_students(values):
    actual, expected = interval(values), ttest_1samp(values, 0).confidence_interval(0.95)
    assert actual.mean == pytest.approx(np.mean(values)) and actual.n == len(values)
    assert (actual.mean - actual.half, actual.mean + actual.half) == pytest.approx(
        (expected.low, expected.high)
    )


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


@pytest.mark.parametrize("baseline", [[1.5, 3.0, 4.0], [1.0, 7.0]])
def test_without_pairs_interval_and_p_are_welchs(baseline):
    values = [2.0, 3.1, 4.2]
    expected, spread, n = (
        ttest_ind(values, baseline, equal_var=False),
        welch(values, baseline),
        len(baseline),
    )
    mean = np.mean(values) - np.mean(baseline)
    result, bounds = interval_around(mean, n, spread), expected.confidence_interval(0.95)

    assert (result.mean - result.half, result.mean + result.half) == pytest.approx(
        (bounds.low, bounds.high)
    )
    assert p_value(cohens_d(mean, spread), n, spread.df) == pytest.approx(expected.pvalue)
    assert welch([1.0, 1.0], [2.0, 2.0]).deviation == 0


def test_the_seeds_to_add_are_those_of_the_ends_of_the_spread():
    of = PooledSD(1.0, 4.0, arms=4)
    low, high = (more_seeds(0.8 * math.sqrt(chi2.ppf(q, 4) / 4), 3, arms=4) for q in (0.9, 0.1))
    assert seeds_to_add(0.8, 3, of) == (low, high) and low < more_seeds(0.8, 3, arms=4) < high
    assert seeds_to_add(0.01, 3, of) == (MAX_SEEDS + 1, MAX_SEEDS + 1)


@pytest.mark.parametrize(
    ("mean", "half", "resolved"),
    [(1, 0.5, True), (-1, 0.5, True), (0.5, 1, False), (-0.5, 1, False), (1, 1, False)],
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
    front = pareto_indices(points.tolist())
    assert front == [
        i for i, p in enumerate(points) if not ((points <= p).all(1) & (points < p).any(1)).any()
    ]
    reference = np.full(dimensions, 0.9)
    expected = (
        compute_hypervolume(points[(points < reference).all(1)], reference)
        if dimensions > 1
        else 0.9 - points.min()
    )

    assert hypervolume(points.tolist(), reference.tolist()) == pytest.approx(expected, abs=1e-12)
    assert hypervolume(points[front].tolist(), reference.tolist()) == pytest.approx(
        expected, abs=1e-12
    )


def test_a_hypervolume_by_hand():
    assert (
        hypervolume([[1, 3], [2, 1]], [4, 4]) == 7
        and hypervolume([[5, 0]], [4, 4]) == 0
        and hypervolume([], [1]) == 0
    )
    assert (
        hypervolume([[1, 1, 1]], [2, 3, 4]) == 6
        and hypervolume([[1, 1, 1], [1, 1, 1]], [2, 3, 4]) == 6
    )


# Tests of differences


def test_p_and_interval_of_a_paired_difference_are_scipys():
    a, b = np.random.default_rng(0).normal(size=(2, 5))
    differences = (a - b).tolist()
    of, expected = PooledSD(np.std(differences, ddof=1), 4), ttest_rel(a, b)
    assert p_value(cohens_d(np.mean(differences), of), 5, of.df) == pytest.approx(expected.pvalue)
    result, alone = difference(differences, of), interval(differences)
    assert (result.mean, result.half, result.n) == (alone.mean, pytest.approx(alone.half), alone.n)


def test_what_never_strays_is_of_infinite_size_or_none():
    assert (
        cohens_d(2.0, PooledSD(0.0, 2)) == math.inf
        and cohens_d(-2.0, PooledSD(1e-16, 2)) == -math.inf
    )
    assert cohens_d(0.0, PooledSD(0.0, 2)) == 0
    assert p_value(math.inf, 3, 2) == 0 and p_value(0.0, 3, 2) == 1
    assert size_interval(math.inf, 3, 2) == (math.inf, math.inf)


def test_holm_by_hand():
    """As R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([0.02]) == [0.02] and holm([]) == []


def test_three_seeds_and_three_arms_ask_for_seven_and_a_half():
    """Holm's first of three at t(2)."""
    assert holm([p_value(t / math.sqrt(3), 3, 2) for t in (7.5, 0, 0)])[0] > 0.05
    assert holm([p_value(t / math.sqrt(3), 3, 2) for t in (7.7, 0, 0)])[0] < 0.05


@pytest.mark.parametrize(
    ("size", "n", "df"), [(0.0, 3, 2), (0.8, 5, 4), (-3.0, 3, 6), (20.0, 3, 2), (56.0, 3, 6)]
)
def test_the_interval_of_a_size_is_where_its_t_is_rare(size, n, df):
    low, high = size_interval(size, n, df)
    t = size * math.sqrt(n)
    assert nct.cdf(t, df, high * math.sqrt(n)) == pytest.approx(0.025, abs=1e-6)
    assert nct.cdf(t, df, low * math.sqrt(n)) == pytest.approx(0.975, abs=1e-6)


def test_the_interval_of_a_huge_size_goes_on_where_the_other_ends():
    below, above = (size_interval(t / math.sqrt(3), 3, 6) for t in (99.9, 100.1))
    assert above == pytest.approx(below, rel=0.01)


@pytest.mark.parametrize(("size", "seeds"), [(0.5, 34), (0.8, 15), (1.0, 10), (2.0, 5)])
def test_the_seeds_needed_are_those_of_the_tables(size, seeds):
    """G*Power's sample sizes of a paired t-test, two-sided at 5 %, power 0.8."""
    assert 3 + more_seeds(size, 3) == seeds == 3 + more_seeds(-size, 3)
    assert power(size, seeds, seeds - 1) >= 0.8 > power(size, seeds - 1, seeds - 2)


@pytest.mark.parametrize("shared", [1.0, 0.5, 0.1])
def test_a_variance_in_part_its_own_is_known_between_the_two(shared):
    """√(2 / df) is the relative error of a variance; the errors of its parts are added."""
    error = shared * math.sqrt(2 / 8) + (1 - shared) * math.sqrt(2 / 2)
    assert combined_df(shared, 8, 2) == pytest.approx(2 / error**2)
    assert combined_df(1, 8, 2) == pytest.approx(8) and combined_df(0, 8, 2) == pytest.approx(2)
    assert degrees_of_freedom(4, 3, shared) == pytest.approx(
        combined_df(shared, 4, 2)
    ) and degrees_of_freedom(4, 3) == pytest.approx(4)
    assert degrees_of_freedom(2, 5, shared) == pytest.approx(4)  # of a pair all is its own


def test_a_hundred_seeds_are_too_few_for_a_small_size():
    assert more_seeds(0.2, 3) == more_seeds(0.0, 3) == MAX_SEEDS + 1  # 199 for 0.2
    assert more_seeds(50.0, 2, alpha=0.001) <= 2 and more_seeds(0.8, 3, arms=10) < more_seeds(
        0.8, 3
    )
