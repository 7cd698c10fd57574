"""`scripts/simulate_tests.py` computes what the package's tests say, and counts it."""

import dataclasses
import sys

import numpy as np
import pytest
import simulate_tests as simulation

from arinar_lab.significance.arm_tests import against_baseline

NORMAL = simulation.Noise("normal")
ALIKE = simulation.Noise("seeds correlate by 0.9", correlation=0.9)
STUDIES = 200


@pytest.mark.parametrize("noise", [NORMAL, ALIKE], ids=["unpaired", "paired"])
@pytest.mark.parametrize("difference", [0.0, 0.7])
def test_p_is_the_package_own_with_a_difference_too(noise, difference):
    runs = noise.studies(np.random.default_rng(0), (1, 4, 3))
    tests = simulation.StudyTests(runs)
    differences = simulation.first_arm(4, difference)

    moved = runs[0] + np.array([0.0, *differences])[:, None]
    values = {str(arm): dict(enumerate(map(float, seeds))) for arm, seeds in enumerate(moved)}
    expected = against_baseline(values, "0")
    assert tests.p(differences)[0] == pytest.approx([test.p for test in expected.values()])
    equivalences = [test.equivalence(simulation.MARGIN) for test in expected.values()]
    assert tests.equivalence(differences)[0] == pytest.approx(equivalences)


def test_noise_is_as_it_says():
    rng = np.random.default_rng(0)
    shape = (20_000, 4, 3)
    for noise in simulation.NOISES:
        runs = dataclasses.replace(noise, broken="").studies(rng, shape)
        deviations = runs.std((0, 2))
        expected = [3.0 if noise.wild == "baseline" else 1.0, 1.0, 1.0]
        assert deviations[:3] == pytest.approx(expected, abs=0.1), noise.name
        assert deviations[3] == pytest.approx(3.0 if noise.wild == "arm" else 1.0, abs=0.1)
        correlation = np.corrcoef(runs[:, 0].ravel(), runs[:, 1].ravel())[0, 1]
        assert correlation == pytest.approx(noise.correlation, abs=0.03), noise.name

    broken = simulation.Noise("broken", broken="arm").studies(rng, shape)
    assert broken.mean(0)[3] == pytest.approx([10, 0, 0], abs=0.1)


def test_false_calls_coverage_and_power_are_of_the_expected_size():
    rule, paired = simulation.fixed(NORMAL, 4, 3, STUDIES)
    assert rule.false < 0.1 and paired.false < 0.1
    assert 0.92 < rule.coverage < 0.98 <= rule.corrected
    assert 0.1 < paired.power < rule.power < 0.5


def test_seeds_that_move_all_arms_alike_are_paired():
    rule, paired = simulation.fixed(ALIKE, 4, 3, STUDIES)
    assert min(rule.power, paired.power) > 0.85


def test_a_growing_study_calls_no_more_and_uses_fewer_runs():
    grown = simulation.growing(NORMAL, 4, STUDIES)
    assert grown.fixed and grown.runs
    assert grown.false < 0.1 and grown.equivalent < 0.1
    assert grown.power > 0.85 and grown.fixed.power > 0.9
    none, one, every = grown.runs
    assert every < 0.8 < min(none, one)


def test_more_seeds_of_the_baseline_find_more_and_call_no_more():
    rng = np.random.default_rng(3)
    runs = NORMAL.studies(rng, (STUDIES, 15, 11))
    few = simulation._fixed(simulation.StudyTests(runs[:, :, :3], (), 3))
    more = simulation._fixed(simulation.StudyTests(runs, (), 3))
    assert more.power > few.power + 0.05
    assert more.false < 0.08 and 0.92 < more.coverage < 0.99


def test_the_script_prints_its_tables(monkeypatch, capsys):
    half = dataclasses.replace(ALIKE, name="half the arms", correlated=0.5)
    monkeypatch.setattr(simulation, "NOISES", (NORMAL, half))
    monkeypatch.setattr(simulation, "LAYOUTS", ((2, 3), (3, 3)))
    monkeypatch.setattr(simulation, "ARMS", (2, 3))
    monkeypatch.setattr(simulation, "BASELINE_SEEDS", (3, 4))
    monkeypatch.setattr(sys, "argv", ["simulate_tests.py", "--studies", "5"])
    simulation.main()
    output = capsys.readouterr().out
    assert output.count("| normal | ") == 6 and output.count("| half the arms | – | ") == 3
    assert output.count("| half the arms | – / ") == 2
    assert "| Noise | 2 arms × 3 | 3 arms × 3 |" in output
    assert "**3 arms × 3, of the baseline 3 / 4 seeds, in %**" in output
    assert "| Noise | false calls | at 12 seeds | power | at 12 seeds | runs |" in output
