"""Main effects and interactions: F by hand, levels against the baseline's, what is refused."""

import math
import re
from dataclasses import replace
from itertools import product
from statistics import fmean, stdev, variance

import numpy as np
import pytest
from reports import report_of, study
from scipy.stats import f as f_distribution
from scipy.stats import t as student

from arinar_lab.analysis.analyse import analyse
from arinar_lab.analysis.factors import analyse_factors, factor_lines, factor_sentences
from arinar_lab.analysis.results import ArmResult, Results
from arinar_lab.metrics import BITS, DISTANCE
from arinar_lab.report.report import page
from arinar_lab.report.tables import report_markdown
from arinar_lab.significance.factorial import factorial
from arinar_lab.study.collect import collect

AXES = ("outer.norm", "inner.norm")
NORMS = {
    ("layer", "layer"): (2.223, 0.170),
    ("layer", "rms"): (2.222, 0.167),
    ("layer", "dyt"): (2.240, 0.124),
    ("layer", "none"): (2.225, 0.069),
    ("rms", "layer"): (2.241, 0.288),
    ("rms", "rms"): (2.275, 0.256),
    ("rms", "dyt"): (2.242, 0.295),
    ("rms", "none"): (2.229, 0.157),
    ("dyt", "layer"): (2.222, 0.034),
    ("dyt", "rms"): (2.227, 0.062),
    ("dyt", "dyt"): (2.392, 0.408),
    ("dyt", "none"): (2.254, 0.061),
    ("none", "layer"): (2.086, 0.086),
    ("none", "rms"): (2.097, 0.124),
    ("none", "dyt"): (2.093, 0.096),
    ("none", "none"): (2.135, 0.118),
}
"""Outer and inner norm → bits/dim and its 95 % interval, of three runs on pixels each."""


def results_of(cells, metric=BITS, axes=AXES, beside=(), **fields):
    """Levels → value of each seed, None for a missing run; the first cell is the baseline."""
    arms = []
    for levels, values in cells.items():
        reports = {}
        for seed, value in enumerate(values):
            if value is not None:
                reports[seed] = {"metrics": {metric: float(value)}}
        name = ",".join(map("=".join, zip(axes, levels, strict=True)))
        arms.append(ArmResult(name, {}, reports, factors=levels, signature=name))
    seeds = tuple(range(max(map(len, cells.values()))))
    return Results("study", (*arms, *beside), arms[0].name, seeds, axes=axes, **fields)


def only(results):
    (analysis,) = analyse_factors(results)
    return analysis


def cells_of(levels, effect, seeds=4, noise=0.02, of_seed=0.0, seed=0):
    """Cells of normal runs around `effect(*levels)`; `of_seed` moves all cells of a seed alike."""
    rng = np.random.default_rng(seed)
    shift = rng.normal(0, of_seed, seeds) if of_seed else np.zeros(seeds)
    cells = {}
    for cell in product(*levels):
        cells[cell] = list(effect(*cell) + shift + rng.normal(0, noise, seeds))
    return cells


def norms_on_pixels():
    """Three values of the mean and interval of each cell."""
    cells = {}
    for levels, (mean, half) in NORMS.items():
        deviation = half * math.sqrt(3) / student.ppf(0.975, 2)
        cells[levels] = [mean + shift * deviation for shift in (-1, 0, 1)]
    return cells


def unpaired(cells):
    """The same with other seeds in every cell, so that none is a block."""
    rng = np.random.default_rng(0)
    return {levels: list(rng.permutation(values)) for levels, values in cells.items()}


def reduced_df(cells, df):
    """df of an error to which cells of as many runs contribute by their own variance."""
    squares = np.array(list(map(variance, cells)))
    return squares.sum() ** 2 / (squares**2).sum() * df / len(squares)


def test_outer_norm_matters_on_pixels():
    cells = unpaired(norms_on_pixels())
    assert len(cells) == 16
    analysis = only(results_of(cells))
    outer, inner = analysis.axes
    (both,) = analysis.interactions

    assert not analysis.blocked
    assert outer.test.statistic == pytest.approx(12.2, abs=0.05)
    assert f_distribution.sf(outer.test.statistic, 3, 32) == pytest.approx(1.8e-5, rel=0.02)
    assert f_distribution.sf(inner.test.statistic, 3, 32) == pytest.approx(0.445, abs=0.002)
    assert f_distribution.sf(both.test.statistic, 9, 32) == pytest.approx(0.462, abs=0.002)
    assert outer.test.df == (3, pytest.approx(reduced_df(cells.values(), 32)))
    assert outer.adjusted == 2 * outer.test.p < 0.002

    level = {effect.arm: effect for effect in outer.levels}["none"]
    assert level.difference == pytest.approx(-0.125, abs=5e-4) and level.answer == "better"
    assert analysis.sentence.startswith(
        "Outer norm matters (F(3, 12.6) = 12.2, adjusted p = 0.001): none is 0.125 ± 0.09"
    )
    assert analysis.sentence.endswith(
        "bits/dim better than layer; inner norm shows no effect in bits/dim."
    )


@pytest.mark.parametrize("of_seed", [0.0, 1.0], ids=["repeats", "block"])
def test_f_is_that_of_the_textbook(of_seed):
    effects = {"a": 0.0, "b": 0.05, "c": 0.0, "x": 0.0, "y": 0.02}
    cells = cells_of(
        [("a", "b", "c"), ("x", "y")], lambda p, q: 2 + effects[p] + effects[q], of_seed=of_seed
    )
    y = np.array(list(cells.values())).reshape(3, 2, 4)
    mean = y.mean()
    residuals = y - y.mean(2, keepdims=True)
    error_df = 18
    if of_seed:
        residuals = residuals - (y.mean((0, 1)) - mean)
        error_df -= 3
    error = (residuals**2).sum()
    own_df = reduced_df(residuals.reshape(6, 4), error_df)
    squares = {
        (0,): 8 * ((y.mean((1, 2)) - mean) ** 2).sum(),
        (1,): 12 * ((y.mean((0, 2)) - mean) ** 2).sum(),
    }
    squares[0, 1] = 4 * ((y.mean(2) - mean) ** 2).sum() - sum(squares.values())

    analysis = only(results_of(cells))
    assert analysis.blocked == bool(of_seed)
    for term in (*analysis.axes, *analysis.interactions):
        df = math.prod((2, 1)[i] for i in term.test.axes)
        statistic = squares[term.test.axes] / df / (error / error_df)
        assert term.test.df == (df, pytest.approx(own_df))
        assert term.test.statistic == pytest.approx(statistic)
        assert term.test.p == pytest.approx(f_distribution.sf(statistic, df, own_df))


def test_unequal_numbers_of_runs_have_sums_of_squares_of_type_two():
    cells = cells_of([("a", "b"), ("x", "y")], lambda p, q: 2 + 0.05 * (p == "b"), seeds=5)
    cells["a", "x"][3:] = [None, None]
    cells["b", "y"][4:] = [None]
    analysis = only(results_of(cells))

    rows = []
    for (p, q), values in cells.items():
        for value in filter(None, values):
            rows.append((1.0, p == "b", q == "y", p == "b" and q == "y", value))
    x = np.array(rows, float)
    y = x[:, -1]

    def residual(*columns):
        return np.linalg.lstsq(x[:, columns], y)[1].item()

    error = residual(0, 1, 2, 3) / (len(y) - 4)
    statistic = (residual(0, 2) - residual(0, 1, 2)) / error
    assert analysis.axes[0].test.statistic == pytest.approx(statistic)
    assert 2 < analysis.axes[0].test.df[1] < len(y) - 4

    # each cell counts once in the mean of a level, however many runs it has
    means = {levels: fmean(filter(None, values)) for levels, values in cells.items()}
    difference = (means["b", "x"] + means["b", "y"] - means["a", "x"] - means["a", "y"]) / 2
    assert analysis.axes[0].levels[0].difference == pytest.approx(difference)


def test_levels_have_the_four_answers_and_the_interval_is_that_of_the_answer():
    effects = {"base": 0.0, "good": -0.3, "bad": 0.3, "same": 0.0, "x": 0.0, "y": 0.0, "z": 0.0}
    cells = cells_of(
        [("base", "good", "bad", "same"), ("x", "y", "z")],
        lambda p, q: 2 + effects[p] + effects[q],
        seeds=5,
        noise=0.01,
    )
    analysis = only(results_of(cells))
    first, second = analysis.axes
    answers = {level.arm: level.answer for level in (*first.levels, *second.levels)}
    assert answers == {
        "good": "better",
        "bad": "worse",
        "same": "equivalent",
        "y": "equivalent",
        "z": "equivalent",
    }
    assert "inner norm makes no difference beyond ±0.02 bits/dim" in analysis.sentence
    assert re.search(r"good is 0\.(30|29).*better, bad is 0\.3.*worse than base", analysis.sentence)
    for level in first.levels:
        low, high = level.interval
        assert level.resolved == (not low <= 0 <= high)

    noisy = only(results_of({levels: [v * 40 for v in vs] for levels, vs in cells.items()}))
    assert {level.answer for level in noisy.axes[1].levels} == {"unresolved"}


def test_levels_are_corrected_over_all_levels_of_all_axes():
    cells = unpaired(norms_on_pixels())
    outer, inner = only(results_of(cells)).axes
    levels = [*outer.levels, *inner.levels]
    best = min(levels, key=lambda level: level.p)
    assert best.arm == "none" and best.adjusted == pytest.approx(6 * best.p)
    low, high = best.interval
    half = student.ppf(1 - 0.05 / 12, best.spread.df) * best.test.error
    assert (high - low) / 2 == pytest.approx(half)


def test_looks_are_corrected_for():
    cells = unpaired(norms_on_pixels())
    once = only(results_of(cells))
    twice = only(results_of(cells, looks=(2, 3), most_seeds=12))
    assert twice.axes[0].adjusted > 1.5 * once.axes[0].adjusted
    assert twice.axes[0].levels[-1].half > once.axes[0].levels[-1].half


def test_an_interaction_alone_is_told_to_be_read_arm_by_arm():
    cells = cells_of([("a", "b"), ("x", "y")], lambda p, q: 2.0)
    for levels, values in cells.items():
        mean = 2.2 if levels in (("a", "x"), ("b", "y")) else 2.0
        cells[levels] = [mean + value - fmean(values) for value in values]
    analysis = only(results_of(cells))
    assert not any(axis.resolved for axis in analysis.axes)
    assert analysis.interactions[0].resolved
    assert "Outer norm × inner norm interact (F(1, " in analysis.sentence


def test_three_axes_have_three_pairs_and_one_triple():
    levels = [("a", "b"), ("x", "y"), ("1", "2")]
    cells = cells_of(levels, lambda *cell: 2 + 0.2 * (cell[2] == "2"), seeds=3)
    analysis = only(results_of(cells, axes=(*AXES, "inner.depth")))
    assert [term.name for term in analysis.axes] == ["outer norm", "inner norm", "inner depth"]
    assert [term.test.axes for term in analysis.interactions] == [(0, 1), (0, 2), (1, 2), (0, 1, 2)]
    assert [term.resolved for term in analysis.axes] == [False, False, True]


def test_distances_are_compared_by_their_logarithm():
    cells = cells_of([("a", "b"), ("x", "y")], lambda p, q: math.log(8) - (p == "b") * math.log(2))
    distances = {levels: list(np.exp(values)) for levels, values in cells.items()}
    level = only(results_of(distances, DISTANCE)).axes[0].levels[0]
    assert level.difference == pytest.approx(-4, abs=0.2)
    assert level.test.mean == pytest.approx(-math.log(2), abs=0.03)
    low, high = level.interval
    assert low < level.difference < high < 0
    assert level.difference - low < high - level.difference  # an interval of ratios
    assert level.difference_text.endswith(f"[{low:+.2f}, {high:+.2f}]")
    sentence = only(results_of(distances, DISTANCE)).sentence
    assert re.search(r"b is 4\.\d\d \[[34]\.\d\d, 4\.\d\d\] FD digits better than a", sentence)


def test_a_wild_cell_is_named_and_its_levels_are_judged_by_their_own_spread():
    cells = cells_of([("a", "b", "c", "d"), ("x", "y")], lambda p, q: 2.0)
    cells["b", "y"] = [2.0, 3.0, 1.0, 2.1]
    results = results_of(cells)
    analysis = only(results)
    assert analysis.uneven == ("outer.norm=b,inner.norm=y",)
    assert "caution: outer.norm=b,inner.norm=y" not in analysis.lines[0]
    assert any("vary more from seed to seed" in line for line in factor_lines([analysis]))

    wild = {level.arm: level for level in analysis.axes[0].levels}
    own = [cells[cell] for cell in product("ab", "xy")]
    error = math.sqrt(sum(variance(values) / 4 / 4 for values in own))
    assert wild["b"].test.error == pytest.approx(error)
    assert wild["c"].spread.df == pytest.approx(analysis.axes[0].test.df[1])
    assert analysis.axes[0].test.df[1] < 6  # of 24, for one cell has most of the error


def test_paired_levels_are_judged_by_their_difference_under_each_seed():
    cells = cells_of([("a", "b"), ("x", "y")], lambda p, q: 2.0, of_seed=1.0, noise=0.001)
    for seed, shift in enumerate((0.02, -0.02, 0.02, -0.02)):
        cells["b", "x"][seed] += shift
        cells["b", "y"][seed] += shift
    analysis = only(results_of(cells))
    assert analysis.blocked
    level = analysis.axes[0].levels[0]
    differences = []
    for seed in range(4):
        of_seed = {levels: values[seed] for levels, values in cells.items()}
        b = of_seed["b", "x"] + of_seed["b", "y"]
        differences.append((b - of_seed["a", "x"] - of_seed["a", "y"]) / 2)
    assert level.difference == pytest.approx(fmean(differences))
    assert level.test.error == pytest.approx(stdev(differences) / 2)


GRID = [("a", "b"), ("x", "y")]


def test_a_missing_cell_refuses_and_names_itself():
    cells = cells_of(GRID, lambda p, q: 2.0)
    cells["b", "y"] = [None] * 4
    analyses = analyse_factors(results_of(cells))
    assert factor_sentences(analyses) == []
    assert factor_lines(analyses) == [
        "bits/dim: main effects are not computed: no run of outer.norm=b,inner.norm=y is finished"
        " and measured"
    ]


def test_one_seed_says_nothing_of_noise():
    analysis = only(results_of(cells_of(GRID, lambda p, q: 2.0, seeds=1)))
    assert "too few" in analysis.reason and not analysis.axes


def test_runs_that_do_not_vary_have_no_f():
    analysis = only(results_of(cells_of(GRID, lambda p, q: 2.0 + (p == "b"), noise=0.0)))
    assert "do not vary" in analysis.reason


def test_arms_that_share_a_training_with_some_are_refused_and_with_all_are_a_block():
    results = results_of(cells_of(GRID, lambda p, q: 2.0))
    half = [replace(arm, signature=arm.factors[0]) for arm in results.arms]
    assert "share a training" in only(replace(results, arms=tuple(half))).reason

    one = [replace(arm, signature="one") for arm in results.arms]
    assert only(replace(results, arms=tuple(one))).blocked
    assert not only(results).blocked


def test_bounds_beside_exact_numbers_are_refused():
    results = results_of(cells_of(GRID, lambda p, q: 2.0))
    arms = []
    for arm in results.arms:
        kind = {"kind": "bound", "steps": 8} if arm.factors[0] == "b" else {"kind": "exact"}
        reports = {seed: {**report, "likelihood": kind} for seed, report in arm.reports.items()}
        arms.append(replace(arm, reports=reports))
    assert "bound" in only(replace(results, arms=tuple(arms))).reason


def test_no_grid_has_no_main_effects():
    one_axis = results_of(cells_of([("a", "b", "c")], lambda p: 2.0), axes=AXES[:1])
    assert analyse_factors(one_axis) == ()
    assert analyse_factors(results_of(cells_of([("a", "b"), ("x",)], lambda p, q: 2.0))) == ()
    assert analyse_factors(results_of({levels: [None] for levels in product("ab", "xy")})) == ()


def test_arms_beside_the_grid_do_not_count():
    beside = ArmResult("sandwich", {}, {s: {"metrics": {BITS: 90.0 + s}} for s in range(4)})
    cells = cells_of(GRID, lambda p, q: 2.0)
    alone = only(results_of(cells))
    assert only(results_of(cells, beside=(beside,))).axes == alone.axes


def test_each_budget_is_analysed_by_itself():
    cells = cells_of(GRID, lambda p, q: 2.0 + 0.3 * (p == "b"))
    arms = []
    for regime in ("steps×1", "steps×4"):
        for arm in results_of(cells).arms:
            arms.append(replace(arm, name=f"{arm.name} @ {regime}", regime=regime))
    results = replace(
        results_of(cells), arms=tuple(arms), baseline=arms[0].name, regimes=("steps×1", "steps×4")
    )
    analyses = analyse_factors(results)
    assert [analysis.regime for analysis in analyses] == ["steps×1", "steps×4"]
    assert "bits/dim at steps×4" in analyses[1].sentence


@pytest.mark.parametrize("noises", [(1, 1, 1, 1), (1, 1, 1, 3)], ids=["even", "one wild"])
def test_equal_levels_are_seldom_told_apart(noises):
    """In 400 grids of equal means 5 % call a level resolved; 8 % would with all df."""
    rng = np.random.default_rng(1)
    names = [f"{p}{q}" for p, q in product("ab", "xy")]
    levels = {name: tuple(name) for name in names}
    called = 0
    for _ in range(400):
        values = {}
        for name, noise in zip(names, noises, strict=True):
            values[name] = dict(enumerate(2 + noise * rng.normal(0, 0.1, 3)))
        table = factorial(values, levels, "ax")
        called += any(2 * test.p < 0.05 for test in table.levels.values())
    assert called / 400 <= 0.065


def test_table_and_page_have_a_section_where_there_is_a_grid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    axes = {"inner.head.components": [1, 2], "outer.depth": [1, 2]}
    plan = study({}, axes=axes, baseline="components=1,depth=1")
    rng = np.random.default_rng(0)
    reports = {}
    for arm in plan.arms:
        for seed in (0, 1, 2):
            reports[arm.name, seed] = report_of(2 - 0.3 * arm.values[1] + rng.normal(0, 0.01))
    analysis = analyse(collect(study(reports, axes=axes, baseline=plan.baseline)))

    assert any(line.startswith("bits/dim: outer depth: F(1, ") for line in analysis.main_effects)
    markdown = report_markdown(analysis)
    assert "## Main effects and interactions" in markdown
    assert "inner head components × outer depth" in markdown
    html = page(analysis, {})
    assert '<details id="factors"' in html and "analysis of variance" in html

    single = analyse(collect(study({("components=1", 0): report_of(2.0)})))
    assert single.main_effects == []
    assert "Main effects" not in report_markdown(single) + page(single, {})
