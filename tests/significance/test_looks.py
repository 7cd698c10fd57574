"""Looks at a growing study: the schedule, the levels, and the error over all looks."""

import numpy as np
import pytest
from scipy.stats import norm

from arinar_lab.significance.looks import level_at, schedule, spent


def test_a_study_looks_at_each_half_as_many_seeds_again():
    assert schedule(3, 12) == (3, 5, 8, 12)
    assert schedule(3, 10) == (3, 5, 8, 10)
    assert schedule(2, 2) == (2,)


def test_one_look_at_the_end_spends_everything():
    assert level_at((5,), 5) == pytest.approx(0.05)
    assert spent(1.0) == pytest.approx(0.05) and spent(2.0) == spent(1.0)


def test_levels_are_those_of_the_literature():
    """Five equal looks with this spending: boundaries 2.438, 2.427, 2.410, 2.397 and 2.386."""
    levels = [level_at(tuple(range(1, k + 1)), 5) for k in range(1, 6)]
    edges = norm.isf(np.array(levels) / 2)
    assert edges == pytest.approx([2.438, 2.427, 2.410, 2.397, 2.386], abs=2e-3)


@pytest.mark.parametrize("looks", [(3, 5, 8, 12), (3, 4, 5, 6, 7, 8), (2, 10)])
def test_the_error_over_all_looks_is_five_percent(looks):
    rng = np.random.default_rng(0)
    most = looks[-1]
    sums = np.cumsum(rng.standard_normal((200_000, most)), axis=1)
    crossed = np.zeros(len(sums), dtype=bool)
    for k, look in enumerate(looks, start=1):
        p = 2 * norm.sf(np.abs(sums[:, look - 1]) / look**0.5)
        crossed |= p < level_at(looks[:k], most)
    assert np.mean(crossed) == pytest.approx(0.05, abs=0.002)
