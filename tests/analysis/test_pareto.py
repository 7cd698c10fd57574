"""Quality against speed: the front, how sure it is, its bend, and what is to be
had at a given cost.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from optuna._hypervolume import compute_hypervolume
from tiny import write_study

from arinar_lab.analysis.analyse import analyse
from arinar_lab.analysis.rankings.pareto import (
    attainment,
    attainment_surface,
    best_at,
    cheapest_at,
    dominators,
    frontier,
    frontier_from_readings,
    frontier_sentences,
    fronts,
    knee,
    pareto_front,
    volume,
)
from arinar_lab.metrics import BITS, DISTANCE, FID, SPEED, Column
from arinar_lab.study.collect import results_of
from arinar_lab.study.plan import read_plan

MEANS = {
    "slow": (10.0, 1.0),
    "bent": (3.0, 2.0),
    "fast": (1.0, 6.0),
    "poor": (4.0, 5.0),
    "twin": (3.0, 2.0),
}
POINTS = {
    "slow": {0: (10.0, 1.0), 1: (10.0, 1.5)},
    "bent": {0: (3.0, 2.0), 1: (3.0, 3.0)},
    "fast": {0: (1.0, 6.0), 1: (1.0, 2.0)},
    "poor": {0: (4.0, 5.0), 1: (4.0, 4.0), 2: (0.0, 0.0)},
}


def lines(results, quality=None):
    front = frontier(results, quality)
    return frontier_sentences(front) if front else []


def random_points(arms, seeds, seed=0):
    rng = np.random.default_rng(seed)
    return {str(a): {s: tuple(rng.uniform(size=2)) for s in range(seeds)} for a in range(arms)}


def test_the_front_has_what_nothing_beats():
    # of two that are equal neither beats the other
    assert pareto_front(MEANS) == ["fast", "bent", "twin", "slow"]
    assert dominators(MEANS) == {"poor": ["bent", "twin"]}
    assert pareto_front({}) == [] and dominators({}) == {}


def test_whom_nobody_dominates_is_on_the_front():
    points = {arm: by_seed[0] for arm, by_seed in random_points(40, 1).items()}
    assert set(pareto_front(points)) == set(points) - set(dominators(points)) and dominators(points)


def test_each_seed_has_its_own_front():
    assert fronts(POINTS) == {0: ["fast", "bent", "slow"], 1: ["fast", "slow"]}
    assert attainment(POINTS) == {"slow": 1.0, "bent": 0.5, "fast": 1.0, "poor": 0.0}


def test_seeds_that_an_arm_lacks_are_no_fronts():
    assert attainment({"a": {0: (1.0, 1.0)}, "b": {1: (1.0, 2.0)}}) == {} and fronts({}) == {}
    assert volume({"a": {0: (1.0, 1.0)}, "b": {1: (1.0, 2.0)}}) is None


def test_the_surfaces_are_what_each_share_of_seeds_attains():
    assert attainment_surface(POINTS) == [
        (1.0, 2.0, 2.0, 6.0),
        (3.0, 2.0, 2.0, 2.0),  # 2 by bent in the one seed, by fast in the other
        (4.0, 2.0, 2.0, 2.0),
        (10.0, 1.0, 1.0, 1.5),
    ]
    assert attainment_surface({"a": {0: (1.0, 1.0), 1: (2.0, 1.0)}})[0] == (1.0, 1.0, 1.0, math.inf)


def test_the_surfaces_agree_with_counting():
    """A share of seeds attains (cost, loss) where some point of the seed is at
    least as good in both.
    """
    points = random_points(6, 5)
    steps = attainment_surface(points)
    for cost, loss in np.random.default_rng(1).uniform(size=(200, 2)):
        count = sum(
            any(p[s][0] <= cost and p[s][1] <= loss for p in points.values()) for s in range(5)
        )
        best, median, worst = next(
            (step[1:] for step in reversed(steps) if step[0] <= cost), [math.inf] * 3
        )
        assert (count >= 1, count >= 3, count == 5) == (best <= loss, median <= loss, worst <= loss)


def test_the_hypervolume_is_optunas():
    points = random_points(12, 4)
    recorded = np.array([p for by_seed in points.values() for p in by_seed.values()])
    low, high = recorded.min(0), recorded.max(0)
    expected = [
        compute_hypervolume(
            (np.array([p[s] for p in points.values()]) - low) / (high - low), np.ones(2)
        )
        for s in range(4)
    ]
    actual = volume(points)

    assert (actual.mean, actual.n) == (pytest.approx(np.mean(expected)), 4)
    assert actual.half == pytest.approx(3.182446 * np.std(expected, ddof=1) / 2)


def test_a_single_point_has_no_box():
    # the best and the worst are one
    assert volume({"a": {0: (1.0, 1.0), 1: (1.0, 1.0)}}).mean == 1.0
    # each is worst in something
    assert volume({"a": {0: (1.0, 2.0)}, "b": {0: (2.0, 1.0)}}).mean == 0.0


def test_the_knee_is_where_the_front_bends():
    assert knee(MEANS) == "bent"
    assert knee({"a": (0.0, 1.0), "b": (0.5, 0.5), "c": (1.0, 0.0)}) is None  # straight
    assert knee({"a": (0.0, 1.0), "b": (0.6, 0.6), "c": (1.0, 0.0)}) is None  # bent outwards
    assert knee({"a": (0.0, 1.0), "c": (1.0, 0.0)}) is None and knee({}) is None


def test_the_knee_does_not_depend_on_units():
    assert knee({arm: (60 * x + 5, y / 1000) for arm, (x, y) in MEANS.items()}) == "bent"


def test_what_is_to_be_had_at_a_cost_or_a_quality():
    assert [best_at(MEANS, cost) for cost in (0.5, 1, 2.9, 3, 100)] == [
        None,
        "fast",
        "fast",
        "bent",
        "slow",
    ]
    assert [cheapest_at(MEANS, loss) for loss in (0.5, 1, 1.9, 2, 6)] == [
        None,
        "slow",
        "slow",
        "bent",
        "fast",
    ]


# Of a study


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("study"))
        arms = {"base": {}, "fast": {"outer.width": 32}, "idle": {"outer.width": 48}}
        return read_plan(write_study(arms=arms, seeds=[0, 1, 2]))


@pytest.fixture
def results(plan):
    """Three arms: one fast and poor, one slow and good, one neither; three seeds."""
    values = {"base": (100.0, 5.0), "fast": (200.0, 8.0), "idle": (50.0, 6.0)}
    reports = {
        arm: {
            seed: {
                "metrics": {
                    SPEED: speed + seed,
                    DISTANCE: loss + seed / 10,
                    BITS: 2.0,
                    "quality/precision": 1 / loss,
                },
                "likelihood": {"kind": "exact", "unit": "pixel"},
                "git": {},
            }
            for seed in (0, 1, 2)
        }
        for arm, (speed, loss) in values.items()
    }

    return results_of(plan, reports)


def test_a_study_has_its_front_by_distance_and_speed(results):
    front = frontier(results)
    assert (front.quality.metric, front.speed.metric, front.missing) == (DISTANCE, SPEED, [])
    assert front.front == ["fast", "base"] and front.dominated == {"idle": ["base"]}
    assert front.attained == {"base": 1.0, "fast": 1.0, "idle": 0.0}
    assert front.means["base"] == (pytest.approx(1000 / 101), pytest.approx(5.1))
    # one seed alone is so fast
    assert front.surface[0] == pytest.approx((202, 8.2, math.inf, math.inf))


def test_more_is_better_where_it_is(results):
    front = frontier(results, "quality/precision")
    assert front.front == ["fast", "base"] and front.points["base"][0][1] == -0.2
    assert front.surface[-1][1:] == pytest.approx((0.2, 0.2, 0.2))


def test_the_sentences_say_what_is_worth_having(results):
    sentences = lines(results)
    assert sentences[0] == (
        "FD digits against images/s: the front of means is fast (100 % of seeds), "
        "base (100 % of seeds)."
    )
    assert sentences[1] == "Others are at least as good in both readings as idle."
    assert (
        sentences[2] == "No arm as fast as base (101 images/s) has a better mean FD digits (5.10)."
    )
    assert (
        sentences[3]
        == "No arm with the FD digits of base (5.10) or better is faster on average (101 images/s)."
    )
    assert "(hypervolume, n = 3)" in sentences[4]


def test_matched_readings_name_who_is_better(results):
    for seed, report in results.reports["fast"].items():
        report["metrics"][DISTANCE] = 4 + seed / 10
    text = " ".join(lines(results))
    assert (
        "At the speed of base (101 images/s) or faster, fast has the best mean FD digits: 4.10 "
        "against 5.10." in text
    )
    assert (
        "With the FD digits of base (5.10) or better, fast is the fastest: 201 images/s against "
        "101 images/s." in text
    )
    for seed, report in results.reports["fast"].items():
        report["metrics"][DISTANCE] = (2.0, 9.0, 1.0)[seed]

    unsure = [
        line
        for line in lines(results)
        if line.endswith("its difference in FD digits is not resolved).")
    ]
    assert len(unsure) == 2


def test_speeds_of_a_busy_machine_make_no_front(results):
    for report in results.reports["fast"].values():
        report |= {"speed": {"load_average": 5.5}, "environment": {"cpus": 2}}
    (text,) = lines(results)
    assert text.startswith(
        "FD digits against images/s: no front, for other programs were at work while 3 of 9 speeds"
    )
    assert "% of seeds" not in " ".join(analyse(results).against_speed)
    assert frontier(results, speed=BITS).doubt == ""  # no speed, no doubt

    (caution,) = analyse(results).touching(SPEED)[-1:]
    assert caution.startswith("Caution: other programs were at work") and caution not in analyse(
        results
    ).touching(DISTANCE)


def test_speeds_that_differ_from_seed_to_seed_make_no_front(results):
    results.reports["idle"][0]["metrics"][SPEED] = 99.0
    (text,) = lines(results)
    assert text.endswith(
        "no front, for the speeds of one arm differ from seed to seed by more than 30% (idle)."
    )


def test_no_place_by_a_bound_is_concluded(results):
    text = "Of fast bits/dim is a bound, and how loose is unknown: no place by it is concluded."
    assert text not in lines(results, BITS)
    for report in results.reports["fast"].values():
        report["likelihood"]["kind"] = "bound"
    assert lines(results, BITS)[-1] == text and text not in lines(results, DISTANCE)


def test_distances_to_two_references_have_no_place_on_one_front(results):
    for arm, by_seed in results.reports.items():
        for report in by_seed.values():
            report["metrics"][FID] = report["metrics"][DISTANCE]
            report["fidelity"] = {
                "extractor": "a",
                "reference": {"file": "half.npz" if arm == "fast" else "whole.npz"},
            }
    assert frontier(results, FID).missing == ["fast"] and frontier(results, FID).front == ["base"]


def test_one_seed_has_a_front_and_no_attainment(results):
    for by_seed in results.reports.values():
        del by_seed[1], by_seed[2]
    sentences = lines(results)
    assert sentences[0].startswith(
        "FD digits against images/s: the front of means is fast, base. Fewer than two seeds"
    )
    assert not any("% of seeds" in line for line in sentences)


def test_each_budget_has_its_own_front(results):
    results = replace(
        results,
        arms=tuple(
            replace(arm, name=f"{arm.name} @ {k}", regime=k) for k in "ab" for arm in results.arms
        ),
        baseline="base @ a",
        regimes=("a", "b"),
    )
    parts = [
        line
        for part in results.by_regime
        for metric in (BITS, DISTANCE)
        for line in lines(part, metric)
    ]
    assert analyse(results).against_speed == parts and parts[0].startswith(
        "a: bits/dim against images/s: the front"
    )


def test_many_dominated_arms_are_counted():
    column = Column("val/bits_per_dim", "bits/dim", less=True)
    readings = {str(i): dict.fromkeys((0, 1), (1.0 + i, 1.0 + i)) for i in range(9)}
    assert frontier_sentences(frontier_from_readings(column, column, readings))[1] == (
        "Others are at least as good in both readings as the other 8 arms."
    )


def test_what_is_missing_is_named(results):
    results.reports["idle"].clear()
    results.reports["fast"].pop(0)
    results.reports["fast"].pop(1)
    sentences = lines(results)
    assert sentences[-1].endswith("or because it is of other data: idle.")
    results.reports["base"].pop(2)
    assert (
        "Fewer than two seeds have all arms" in lines(results)[0]
        and frontier(results).hypervolume is None
    )
    results.reports["fast"].clear(), results.reports["base"].clear()

    assert lines(results) == [] and frontier(results) is None


def test_without_a_distance_it_is_by_likelihood(results):
    for by_seed in results.reports.values():
        for report in by_seed.values():
            del report["metrics"][DISTANCE]
    assert frontier(results).quality.metric == BITS
    assert frontier(results, speed="speed/latency_ms_b1") is None
