"""`scripts/split_one_arm.py` deals runs to fake studies, and counts their false calls."""

import sys

import numpy as np
import pandas as pd
import pytest
import split_one_arm
from scipy.stats import ttest_ind

from arinar_lab.metrics import BITS, DISTANCE


def test_a_fake_study_of_two_arms_is_a_t_test_of_its_runs():
    values = np.random.default_rng(1).normal(1.3, 0.01, size=20)
    rng = np.random.default_rng(4)
    called, half = split_one_arm.fake_study(values, 2, 10, False, rng)
    a, b = np.random.default_rng(4).permutation(values).reshape(2, 10)
    result = ttest_ind(a, b)
    low, high = result.confidence_interval(0.95)
    assert called == (result.pvalue < 0.05)
    assert (high - low) / 2 <= half < 1.25 * (high - low) / 2  # the larger spread of an arm counts


def test_equal_arms_are_seldom_called_different():
    rng = np.random.default_rng(0)
    values = {BITS: rng.normal(1.3, 0.01, size=20), DISTANCE: np.exp(rng.normal(0.4, 0.1, size=20))}
    table = split_one_arm.rows(values, studies=100, seed=0)
    assert [row[0] for row in table] == ["2 × 3", "2 × 5", "2 × 10", "4 × 3", "4 × 5"]
    assert all(int(row[column]) <= 12 for row in table for column in (1, 3))
    assert sum(int(row[column]) for row in table for column in (1, 3)) > 0
    fewer = {metric: of_runs[:12] for metric, of_runs in values.items()}
    assert [row[0] for row in split_one_arm.rows(fewer, 5, 0)] == ["2 × 3", "2 × 5", "4 × 3"]


def test_a_study_of_several_arms_is_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(split_one_arm.api, "open_study", lambda path: path)
    runs = pd.DataFrame({"arm": ["a", "b"] * 6, "seed": range(12)})
    monkeypatch.setattr(split_one_arm.api, "runs", lambda study: runs)
    monkeypatch.setattr(sys, "argv", ["split_one_arm.py", str(tmp_path)])
    with pytest.raises(SystemExit) as error:
        split_one_arm.main()
    assert error.value.code == 2
    assert "needs one arm with twelve finished seeds" in capsys.readouterr().err
