"""Runs that lie far from their arm's other seeds: which are named, how often wrongly, and
where they are told.
"""

import numpy as np
import pytest
from reports import BITS, FD, analysed, report_of, study, whole
from scipy.stats import t as student

from arinar_lab.report.report import page
from arinar_lab.report.statements import notes
from arinar_lab.report.tables import report_markdown
from arinar_lab.significance.outliers import outliers

CALM = {"base": [1.0, 1.1, 0.9], "a": [2.0, 2.1, 2.05], "b": [3.1, 3.0, 3.05]}


def named(table):
    return outliers({arm: dict(enumerate(values)) for arm, values in table.items()})


def test_one_broken_run_is_named_and_calm_ones_are_not():
    assert named(CALM) == []
    assert named({**CALM, "base": [1.0, 1.1, 9.0]}) == [("base", 2)]
    assert named({**CALM, "base": [1.0, 1.1, 900.0], "b": [-5.0, 3.0, 3.05]}) == [
        ("base", 2),
        ("b", 0),
    ]


def test_its_p_is_of_an_externally_studentised_residual():
    """By hand: six others have squares of 0.005 around their means and three degrees
    of freedom together.
    """
    pooled = (0.005 + 0.005 + 0.005) / 3
    table = {"base": [1.0, 1.1, 0.0], "a": [2.0, 2.1], "b": [3.0, 3.1]}
    for off in (0.3, 3.0):
        table["base"][2] = 1.05 + off
        p = 3 * 2 * student.sf(off / np.sqrt(pooled * 3 / 2), 3)
        assert (named(table) == [("base", 2)]) == (p < 0.01), p


def test_two_seeds_tell_of_no_odd_one_and_equal_values_of_none():
    assert named({"base": [1.0, 9.0], "a": [1.0, 1.1, 1.05]}) == []
    assert named({"base": [1.0, 1.0, 1.0 + 1e-15], "a": [2.0, 2.0, 2.0]}) == [] == named({})


def test_an_arm_that_strays_by_itself_is_judged_by_its_own_seeds():
    assert named({**CALM, "wild": [0.0, 8.0, 4.0]}) == []


@pytest.mark.parametrize(("arms", "seeds", "shared"), [(4, 3, 0.0), (4, 3, 0.9), (9, 5, 0.0)])
def test_one_study_in_a_hundred_has_a_false_alarm(arms, seeds, shared):
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(150):
        common = np.sqrt(shared) * rng.normal(size=seeds)
        rows = (common + np.sqrt(1 - shared) * rng.normal(size=seeds) for _ in range(arms))
        alarms += bool(named({str(arm): row.tolist() for arm, row in enumerate(rows)}))
    assert alarms <= 150 * 0.01 + 3 * np.sqrt(150 * 0.01)


@pytest.mark.slow
def test_most_broken_runs_are_named():
    """Ten standard deviations off, in four arms."""
    rng = np.random.default_rng(0)
    for seeds, share in ((3, 0.63), (5, 0.87)):
        hits = 0
        for _ in range(500):
            table = rng.normal(size=(4, seeds))
            table[0, 0] += 10
            hits += ("0", 0) in named({str(arm): row.tolist() for arm, row in enumerate(table)})
        assert hits / 500 == pytest.approx(share, abs=0.06)


@pytest.mark.usefixtures("alone")
def test_it_is_told_with_its_folder_in_terminal_table_and_page():
    reports = whole()
    reports["components=1", 1] = report_of(
        reports["components=1", 1]["metrics"][BITS], distance=500.0
    )
    for (arm, seed), report in reports.items():
        report["metrics"][FD] += {
            "components=1": 0.0,
            "components=2": 0.1 * seed**2,
            "components=4": -0.3 * seed,
        }[arm]

    plan = study(reports)
    analysis, folder = analysed(plan), plan.cell(plan.arms[0], 1)[0].path
    terminal = "\n".join([*analysis.differences, *notes(analysis)])
    sentences = (
        "Caution: components=1 seed 1 is far from its arm's other seeds in FD digits: "
        f"look at {folder}."
    )

    for text in (terminal, report_markdown(analysis), page(analysis, {}).replace("&#39;", "'")):
        assert (
            sentences in text
            and "components=1 seed 1 is far from its arm's other seeds"
            in text.replace(sentences, "")
        )

    assert analysis.results.baseline_arm.values(FD)[1] == 500.0  # and is kept
