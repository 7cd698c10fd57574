"""Where the spread comes from: sources by axis, groups, redraws, and where it is shown."""

import math
from itertools import product

import numpy as np
import pytest
from reports import analysed, report_of, study

from arinar_lab.analysis.analyse import analyse
from arinar_lab.analysis.paper_rows import PaperRow
from arinar_lab.analysis.results import ArmResult, Results
from arinar_lab.analysis.spread import analyse_spread
from arinar_lab.metrics import BITS, DISTANCE
from arinar_lab.report.report import page
from arinar_lab.report.tables import report_markdown
from arinar_lab.significance.components import variance_components

SEED_AXES = ("fixed_seeds.init", "fixed_seeds.data")


def results_of(values, axes, metric=BITS, fixed=(), noise=None, **fields):
    """Levels → values of the seeds 0, 1, …; `fixed` names parts that the recipes fix."""
    arms = []
    for levels, of_seeds in values.items():
        reports = {}
        for seed, value in enumerate(of_seeds):
            reports[seed] = {"metrics": {metric: float(value)}}
            if noise is not None:
                reports[seed]["noise"] = {metric: noise}
        settings = {"fixed_seeds": dict.fromkeys(fixed, 0)}
        name = ",".join(f"{axis}={level}" for axis, level in zip(axes, levels, strict=True))
        arms.append(ArmResult(name, settings, reports, factors=levels, signature=name))
    seeds = tuple(range(max(map(len, values.values()))))
    return Results("study", tuple(arms), arms[0].name, seeds, axes=axes, **fields)


def table(*shape):
    return 2 + np.random.default_rng(0).normal(0, 0.1, shape)


def cells(values):
    return {levels: [values[levels]] for levels in product(*map(range, values.shape))}


def only(results):
    (spread,) = analyse_spread(results)
    return spread


def test_axes_of_seeds_are_sources():
    values = table(3, 3)
    spread = only(results_of(cells(values), SEED_AXES))
    expected = variance_components(values, ("init", "data"))
    assert spread.components == expected
    assert math.isnan(spread.ratio)

    whole, init, data, both = spread.lines
    deviation, low, high = expected.total.deviations
    start = f"bits/dim: a run has a standard deviation of {deviation:.2g} [{low:.2g}, {high:.2g}]"
    assert whole.startswith(start) and "of the mean (coefficient of variation)" in whole
    assert init.startswith("bits/dim: init: standard deviation of ")
    assert data.startswith("bits/dim: data: ")
    share = max(0.0, expected.parts[2].variance / expected.total.variance)
    assert both.startswith("bits/dim: init × data and all else: ")
    assert both.endswith(f", {100 * share:.0f} % of the variance")


@pytest.mark.parametrize(
    ("fixed", "name"), [((), "data with noise"), (("data",), "noise"), (("noise",), "data")]
)
def test_seeds_of_the_study_are_a_source_of_what_is_not_fixed(fixed, name):
    values = table(2, 4)
    by_level = {(level,): list(row) for level, row in enumerate(values)}
    spread = only(results_of(by_level, SEED_AXES[:1], fixed=("init", *fixed)))
    assert spread.components == variance_components(values, ("init", name))


def test_other_axes_make_groups():
    values = table(2, 3)
    axes = ("inner.kind", "fixed_seeds.init")
    both = {(kind, k): [values[i, k]] for i, kind in enumerate("ab") for k in range(3)}
    first, second = analyse_spread(results_of(both, axes))
    assert first.heading == "bits/dim of a" and second.heading == "bits/dim of b"
    assert second.components.total.variance == pytest.approx(values[1].var(ddof=1))


def test_redraws_as_an_axis_give_the_ratio():
    # trainings 4 apart in every column, redraws 1 apart in every row
    values = np.array([[1.0, 2.0], [5.0, 6.0]])
    spread = only(results_of(cells(values), ("fixed_seeds.init", "evaluation.seed")))
    assert spread.ratio == pytest.approx(4)
    assert spread.lines[-1] == (
        "bits/dim: retraining moves it 4 times as far as drawing samples anew"
    )

    by_seed = {(k,): list(values[:, k]) for k in range(2)}
    spread = only(results_of(by_seed, ("evaluation.seed",)))
    assert spread.ratio == pytest.approx(4)
    assert {part.sources for part in spread.components.parts} >= {("redraw",), ("training",)}


def test_evaluation_noise_stands_for_redraws_of_a_distance_alone():
    values = np.array([1.0, 5.0])
    half = 2.262157 * 0.5  # t of 9 degrees of freedom times a standard deviation of 0.5
    spread = only(results_of(cells(values), SEED_AXES[:1], DISTANCE, noise=half))
    assert spread.ratio == pytest.approx(math.sqrt(8) / 0.5, rel=1e-5)
    assert math.isnan(only(results_of(cells(values), SEED_AXES[:1], noise=half)).ratio)


def test_missing_runs_refuse_with_their_number():
    values = cells(table(2, 2))
    values[1, 1] = [math.nan]
    spread = only(results_of(values, SEED_AXES))
    assert spread.components is None
    assert spread.lines == [
        "bits/dim: where the spread comes from is not computed: without this number: 1 of 4 runs"
    ]


def test_a_level_that_is_no_seed_is_refused():
    values = {(None,): [1.0, 2.0], (0,): [1.5, 2.5]}
    (line,) = only(results_of(values, SEED_AXES[:1])).lines
    assert line.endswith("not computed: a null of fixed_seeds.init is no seed of its own")


def test_other_studies_have_no_such_section():
    results = results_of(cells(table(2, 3)), ("outer.norm", "inner.norm"))
    assert analyse_spread(results) == ()
    assert analyse(results).sources_of_spread == []


@pytest.mark.usefixtures("alone")
def test_a_study_of_seeds_shows_it_in_its_report():
    axes = {"fixed_seeds.init": [0, 1], "fixed_seeds.data": [0, 1], "fixed_seeds.noise": [0, 1]}
    reports = {}
    for i, (init, data, noise) in enumerate(product((0, 1), repeat=3)):
        reports[f"init={init},data={data},noise={noise}", 0] = report_of(2 + 0.01 * i)
    analysis = analysed(study(reports, seeds=(0,), axes=axes))

    lines = analysis.sources_of_spread
    assert len([line for line in lines if line.startswith("bits/dim: ")]) == 8
    # 0.04 · init + 0.02 · data + 0.01 · noise and nothing else: each variance is half a square
    for name, deviation in (("init", "0.028"), ("data", "0.014"), ("noise", "0.0071")):
        assert any(f"bits/dim: {name}: standard deviation of {deviation} " in x for x in lines)
    assert "## Where the spread comes from" in report_markdown(analysis)
    assert "<summary>Where the spread comes from</summary>" in page(analysis, {})
    assert not any("One seed says nothing" in caution.text for caution in analysis.cautions)


@pytest.mark.parametrize(
    ("gap", "seeds", "is_near"),
    [(0.012, None, True), (-0.012, 1, True), (0.014, None, False), (0.012, 5, False)],
)
def test_a_paper_near_the_baseline_without_seeds_carries_a_caution(gap, seeds, is_near):
    row = PaperRow("ADM", "50k images", "a paper", {"FD digits": 10 * (1 + gap)}, seeds=seeds)
    values = {("a",): [9.0, 11.0], ("b",): [19.0, 21.0]}
    results = results_of(values, ("outer.norm",), DISTANCE, papers=(row,))
    texts = [caution.text for caution in analyse(results).cautions if "ADM" in caution.text]
    assert bool(texts) == is_near
    if is_near:
        (text,) = texts
        assert "ADM in FD digits (1.2 %)" in text and "below 1.3 %" in text


def test_a_paper_of_less_than_one_seed_is_refused():
    with pytest.raises(ValueError, match="seeds: 0 is below 1"):
        PaperRow("ADM", "50k images", "a paper", {"bits/dim": 2.0}, seeds=0)
