"""Variance components: by hand, against exact intervals, and the coverage of simulated designs."""

import math

import numpy as np
import pytest
from scipy.stats import chi2
from scipy.stats import f as f_distribution

from arinar_lab.significance.components import (
    combination_interval,
    redraw_ratio,
    variance_components,
)

SOURCES = ("init", "data", "noise")


def by_sources(components):
    return {part.sources: part for part in components.parts}


def test_components_of_a_table_by_hand():
    # rows ±3, columns ±1, interaction ±0.5 around 10: MS are 4·9, 4·1 and 4·0.25
    values = np.array([[10 + 3 + 1 + 0.5, 10 + 3 - 1 - 0.5], [10 - 3 + 1 - 0.5, 10 - 3 - 1 + 0.5]])
    components = variance_components(values, ("init", "data"))
    parts = by_sources(components)
    assert parts["init",].variance == pytest.approx((36 - 1) / 2)
    assert parts["data",].variance == pytest.approx((4 - 1) / 2)
    assert parts["init", "data"].variance == pytest.approx(1)
    assert components.total.variance == pytest.approx(17.5 + 1.5 + 1)
    assert components.mean == 10
    assert components.variation[0] == pytest.approx(math.sqrt(20) / 10)


def test_main_effects_of_three_sources_take_interactions_off():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 4, 5))
    of_init = values.mean((1, 2))
    grand = values.mean()
    pairs = {}
    for axis, name in ((2, "data"), (1, "noise")):
        of_pair = values.mean(axis)
        residual = of_pair - of_pair.mean(1, keepdims=True) - of_pair.mean(0, keepdims=True) + grand
        levels = of_pair.shape[1]
        pairs[name] = (20 // levels) * (residual**2).sum() / (2 * (levels - 1))
    full = values.copy()
    for axis in range(3):
        full = full - full.mean(axis, keepdims=True)
    residual = (full**2).sum() / (2 * 3 * 4)
    expected = (20 * of_init.var(ddof=1) - pairs["data"] - pairs["noise"] + residual) / 20

    components = variance_components(values, SOURCES)
    assert by_sources(components)["init",].variance == pytest.approx(expected)
    assert by_sources(components)[SOURCES].variance == pytest.approx(residual)
    assert len(components.parts) == 7
    assert components.total.variance == pytest.approx(sum(p.variance for p in components.parts))


def test_one_source_has_the_exact_interval_of_a_variance():
    values = np.array([1.0, 2.0, 4.0, 7.0])
    (part,) = variance_components(values, ("init",)).parts
    exact = 3 * values.var(ddof=1) / chi2.ppf([0.975, 0.025], 3)
    assert part.variance == pytest.approx(values.var(ddof=1))
    assert (part.low, part.high) == pytest.approx(tuple(exact))
    total = variance_components(values, ("init",)).total
    assert (total.low, total.high) == pytest.approx(tuple(exact))


def test_ends_of_a_difference_are_zero_just_where_f_says_so():
    critical = f_distribution.isf(0.025, 4, 12)
    assert combination_interval([(0.2, critical, 4), (-0.2, 1.0, 12)])[0] == pytest.approx(0)
    assert combination_interval([(0.2, 1.01 * critical, 4), (-0.2, 1.0, 12)])[0] > 0
    smallest = f_distribution.ppf(0.025, 4, 12)
    assert combination_interval([(0.2, smallest, 4), (-0.2, 1.0, 12)])[1] == pytest.approx(0)
    assert combination_interval([(0.2, 1.01 * smallest, 4), (-0.2, 1.0, 12)])[1] > 0


@pytest.mark.parametrize(
    "deviations", [(1, 1, 1), (3, 1, 1), (1, 0, 0)], ids=["equal", "init", "init alone"]
)
def test_intervals_cover_what_they_say(deviations):
    rng = np.random.default_rng(1)
    shape = (4, 4, 4)
    of_init, of_data, of_noise = deviations
    covered = {"init": 0, "total": 0}
    estimates = []
    for _ in range(1000):
        values = rng.normal(0, 1, shape)
        values += rng.normal(0, of_init, (4, 1, 1)) + rng.normal(0, of_data, (1, 4, 1))
        values += rng.normal(0, of_noise, (1, 1, 4))
        components = variance_components(values, SOURCES)
        init = by_sources(components)["init",]
        covered["init"] += init.low <= of_init**2 <= init.high
        total = of_init**2 + of_data**2 + of_noise**2 + 1
        covered["total"] += components.total.low <= total <= components.total.high
        estimates.append(init.variance)

    assert np.mean(estimates) == pytest.approx(of_init**2, rel=0.12)
    assert 930 <= covered["init"] <= 985, covered
    assert 930 <= covered["total"] <= 985


def test_a_source_without_spread_has_none():
    components = variance_components(np.ones((2, 3)), ("init", "data"))
    assert {part.variance for part in components.parts} == {0}
    assert components.total.high == 0
    assert math.isnan(variance_components(np.zeros((2, 2)), ("init", "data")).variation[0])


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (np.ones((1, 3)), "each needs two"),
        (np.ones(3), "each needs two"),
        (np.full((2, 2), np.nan), "finite"),
    ],
)
def test_designs_that_say_nothing_are_refused(values, fault):
    with pytest.raises(ValueError, match=fault):
        variance_components(values, ("init", "data"))


def test_retraining_over_redrawing_by_hand():
    # trainings 4 apart in each of two redraws, redraws 1 apart: variances 8 and 0.5
    trainings = [np.array([1.0, 5.0]), np.array([2.0, 6.0])]
    assert redraw_ratio(trainings, 0.5) == pytest.approx(4)
    assert redraw_ratio(trainings, 0.0) == math.inf
    assert math.isnan(redraw_ratio([np.ones(3)], 0.0))


def test_trainings_of_two_sources_count_with_the_variance_of_a_new_draw_of_both():
    table = np.array([[10 + 3 + 1 + 0.5, 10 + 3 - 1 - 0.5], [10 - 3 + 1 - 0.5, 10 - 3 - 1 + 0.5]])
    assert redraw_ratio([table], 5.0) == pytest.approx(2)
