"""Comparisons: what is pooled, what is corrected, what is called resolved, and what is said
of runs that differ.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2, ttest_ind, ttest_rel
from tiny import write_study

from arinar_lab.analysis.analyse import analyse
from arinar_lab.analysis.comparison import (
    CLAIMS,
    Effect,
    compare_arms,
    resolved_pairs,
    summary,
)
from arinar_lab.analysis.conditions import LOOSER_BOUND, differing_conditions
from arinar_lab.metrics import BITS, DISTANCE, LEVEL
from arinar_lab.report.statements import caution_lines, reading_notes
from arinar_lab.significance.arm_tests import ArmTest
from arinar_lab.significance.looks import level_at
from arinar_lab.significance.pooled_variance import (
    homogeneity,
    homogeneous_arms,
    pool_spread,
    spreads,
)
from arinar_lab.significance.statistics import (
    MAX_SEEDS,
    PooledSD,
    cohens_d,
    combined_df,
    degrees_of_freedom,
    holm,
    interval,
    more_seeds,
    p_value,
)
from arinar_lab.study.collect import results_of as collected
from arinar_lab.study.plan import read_plan

ENVIRONMENT = {"device": "a CPU", "torch": "2.15.0", "lightning": "2.6.6"}


def report_of(metrics, *, commit="abc", kind="exact", environment=ENVIRONMENT):
    likelihood = {"kind": kind, "unit": "pixel", "steps": None}
    return {
        "metrics": metrics,
        "git": {"commit": commit, "dirty": False},
        "likelihood": likelihood,
        "environment": environment,
    }


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Four arms and five seeds; what they found is given by each test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("study"))
        arms = {
            "base": {},
            "a": {"outer.width": 32},
            "b": {"outer.width": 48},
            "c": {"evaluation.draws": 2},
        }
        return read_plan(write_study(arms=arms, seeds=[0, 1, 2, 3, 4]))


def results_of(plan, table, **sections):
    """arm → a value for each seed (None: missing), of bits/dim; or metric → such a table."""
    tables = table if set(table) <= set(CLAIMS) else {BITS: table}
    reports = {arm.name: {} for arm in plan.arms}
    for metric, rows in tables.items():
        for arm, values in rows.items():
            for seed, value in enumerate(values):
                if value is not None:
                    reports[arm].setdefault(seed, report_of({}, **sections))["metrics"][metric] = (
                        float(value)
                    )

    return collected(plan, reports)


def lines_of(results):
    return [effect.line for effect in compare_arms(results)]


def of(effects, arm):
    (result,) = [effect for effect in effects if effect.arm == arm]
    return result


def noisy(rng, spreads, means=None, seeds=5, common=1.0):
    """Arms of given spreads, with an effect of each seed that all share."""
    shared = common * rng.normal(size=seeds)
    means = means or dict.fromkeys(spreads, 0.0)
    return {
        arm: (means[arm] + shared + s * rng.normal(size=seeds)).tolist()
        for arm, s in spreads.items()
    }


EQUAL = {"base": 0.1, "a": 0.1, "b": 0.1, "c": 0.1}


# The spread


def pairs_of(rng, spreads, seeds):
    """Differences to the first arm, of arms of given spreads."""
    table = np.array(spreads)[:, None] * rng.normal(size=(len(spreads), seeds))
    return {str(a): dict(enumerate(row.tolist())) for a, row in enumerate(table[1:] - table[0])}


def test_the_pooled_spread_is_the_mean_variance_of_the_differences():
    pairs = pairs_of(np.random.default_rng(0), [1.0] * 4, 3)
    pooled = pool_spread(pairs)
    assert pooled.deviation == pytest.approx(
        math.sqrt(np.mean([np.var(list(d.values()), ddof=1) for d in pairs.values()]))
    )
    assert (pooled.df, pooled.arms) == (pytest.approx(4), 4)


@pytest.mark.parametrize(("arms", "seeds"), [(2, 5), (3, 2), (4, 3), (15, 5)])
def test_its_degrees_of_freedom_are_those_of_its_variance(arms, seeds):
    """Of a χ² with as large a spread for its mean: var / mean² = 2 / df."""
    rng = np.random.default_rng(arms)
    assert pool_spread(pairs_of(rng, [1.0] * arms, seeds)).df == pytest.approx(
        degrees_of_freedom(arms, seeds)
    )
    table = rng.normal(size=(20000, arms, seeds))

    variances = (table[:, 1:] - table[:, :1]).var(2, ddof=1).mean(1)
    assert 2 * variances.mean() ** 2 / variances.var() == pytest.approx(
        degrees_of_freedom(arms, seeds), rel=0.08
    )


def test_of_one_pair_it_is_the_pair_s_own():
    pooled = pool_spread({"a": {0: 0.1, 1: 0.4, 2: 0.2}})
    assert (pooled.deviation, pooled.df) == (
        pytest.approx(np.std([0.1, 0.4, 0.2], ddof=1)),
        pytest.approx(2),
    )
    assert spreads({"a": {0: 0.1, 1: 0.4, 2: 0.2}, "b": {0: 1.0}}) == {"a": pooled}


def test_missing_cells_cost_degrees_of_freedom():
    whole = {"a": {0: 1.0, 1: 2.0, 2: 3.5}, "b": {0: 1.1, 1: 2.2, 2: 0.1}}
    assert (
        2
        < pool_spread({**whole, "b": {0: 1.1, 1: 2.2}}).df
        < pool_spread(whole).df
        == pytest.approx(3.2)
    )


@pytest.mark.parametrize("seeds", [3, 5])
def test_an_arm_that_strays_far_more_than_the_others_is_left_out(seeds):
    rng, left = np.random.default_rng(2), []
    for _ in range(20):
        pairs = pairs_of(rng, [1.0] * 9 + [50.0], seeds)
        left.append(set(pairs) - set(homogeneous_arms(pairs)))
    assert all("8" in out for out in left) and sum(map(len, left)) < 26


@pytest.mark.parametrize(("arms", "seeds"), [(4, 2), (4, 3), (15, 3)])
def test_equal_spreads_are_told_apart_in_one_study_of_twenty(arms, seeds):
    rng = np.random.default_rng(arms * seeds)
    ps = [homogeneity(pairs_of(rng, [1.0] * arms, seeds)) for _ in range(600)]
    assert 0.03 < np.mean(np.array(ps) < 0.05) < 0.075


def test_arms_that_never_stray_agree():
    pairs = {"a": {0: 1.0, 1: 1.0, 2: 1.0}, "b": {0: 2.1, 1: 2.1, 2: 2.1 + 1e-15}}
    assert homogeneous_arms(pairs) == ["a", "b"] and pool_spread(pairs).deviation == 0


def test_no_arm_is_judged_by_less_than_its_own_spread():
    """What its own seeds show beyond the pool is known with their degrees of freedom alone."""
    pairs = pairs_of(np.random.default_rng(0), [1.0] * 5, 3)
    common, result = pool_spread(pairs), spreads(pairs)
    own = {arm: np.std(list(d.values()), ddof=1) for arm, d in pairs.items()}

    assert homogeneous_arms(pairs) == list(pairs) == list(result)
    wild = {arm for arm, s in own.items() if s > common.deviation}
    assert {arm for arm, of in result.items() if of != common} == wild and 0 < len(wild) < 4
    for arm in wild:
        assert (result[arm].deviation, result[arm].arms) == (pytest.approx(own[arm]), 5)
        assert result[arm].shared == pytest.approx((common.deviation / own[arm]) ** 2)
        assert (
            result[arm].df == pytest.approx(combined_df(result[arm].shared, common.df, 2))
            and 2 < result[arm].df < common.df
        )


# Effects


def test_arms_that_agree_share_their_spread(plan):
    results = results_of(plan, noisy(np.random.default_rng(4), EQUAL, seeds=3))
    effects = compare_arms(results)
    assert [effect.arm for effect in effects] == ["a", "b", "c"]
    assert all(effect.spread.arms == 4 for effect in effects)
    shared = [effect for effect in effects if effect.spread.shared == 1]
    own = [effect for effect in effects if effect not in shared]

    assert shared and own and len({effect.spread.deviation for effect in shared}) == 1
    assert all(
        effect.spread.df == pytest.approx(4) and effect.spread_of == "4 arms" for effect in shared
    )
    assert all(
        effect.spread.df < 4 and effect.spread_of == "the pair, above that of 4 arms"
        for effect in own
    )
    assert {
        line.split(": ")[1].split()[0]
        for line in lines_of(results)
        if "(paired, n = 3, spread of 4 arms" in line
    } == {effect.arm for effect in shared}


def test_a_wild_arm_is_judged_by_its_own_seeds(plan):
    table = noisy(np.random.default_rng(4), {**EQUAL, "c": 50.0})
    results = results_of(plan, table)
    a, b, c = compare_arms(results)
    assert a.spread.arms == b.spread.arms == 3 and c.spread_of == "the pair"
    own = interval(np.subtract(table["c"], table["base"]).tolist())
    assert c.spread.deviation * 2.776 / 5**0.5 == pytest.approx(own.half, rel=1e-3)
    assert ["of 3 arms" in line for line in lines_of(results)] == [True, True, False]


def test_a_wild_baseline_is_in_every_difference(plan):
    """Its share is the largest, and pooling keeps it."""
    effects = compare_arms(
        results_of(plan, noisy(np.random.default_rng(4), {**EQUAL, "base": 50.0}))
    )
    assert all(20 < effect.spread.deviation < 100 for effect in effects)


def test_pooling_resolves_what_three_seeds_of_a_pair_do_not(plan):
    """Three seeds alone have t(2), and Holm over three arms asks it for 7.6."""
    rng = np.random.default_rng(5)
    table = noisy(rng, EQUAL, {"base": 0.0, "a": -0.5, "b": -0.5, "c": -0.5}, seeds=3)
    for effect in compare_arms(results_of(plan, table)):
        assert effect.resolved and effect.adjusted < 0.05 and effect.more_seeds is None
        alone = interval(np.subtract(table[effect.arm], table["base"]).tolist())
        assert abs(alone.mean) / alone.half * 4.303 < 7.65 or effect.p < 0.01


def test_holm_is_over_the_arms_of_one_reading(plan):
    rng = np.random.default_rng(6)
    results = results_of(plan, {BITS: noisy(rng, EQUAL), DISTANCE: noisy(rng, EQUAL)})
    for metric in (BITS, DISTANCE):
        effects = [effect for effect in compare_arms(results) if effect.metric == metric]
        assert [effect.adjusted for effect in effects] == holm([effect.p for effect in effects])
    assert [effect.metric for effect in compare_arms(results, [DISTANCE])] == [DISTANCE] * 3


def test_a_family_of_all_metrics_that_matter_is_corrected_together(plan):
    rng = np.random.default_rng(5)
    of_metric = {metric: noisy(rng, EQUAL, common=0.0) for metric in (BITS, DISTANCE, LEVEL)}
    for rows in of_metric.values():
        rows.update({arm: [value + 5 for value in values] for arm, values in rows.items()})
    results = replace(results_of(plan, of_metric), matters={BITS: 0.5, DISTANCE: 0.5})
    alone = {(e.metric, e.arm): e for e in compare_arms(results)}
    joint = {(e.metric, e.arm): e for e in compare_arms(replace(results, family="matters"))}

    assert list(alone) == list(joint)
    keys = [key for key in joint if key[0] != LEVEL]
    expected = dict(zip(keys, holm([alone[key].p for key in keys]), strict=True))
    for key, effect in joint.items():
        assert effect.adjusted == pytest.approx(expected.get(key, alone[key].adjusted))
        assert effect.resolved == (effect.interval[0] > 0 or effect.interval[1] < 0)
    assert any(joint[key].adjusted > alone[key].adjusted for key in keys)
    assert all(joint[key].equivalence >= alone[key].equivalence for key in keys)
    text = " ".join(reading_notes(analyse(replace(results, family="matters"))))
    assert "over the arms, together for bits/dim, FD digits," in text


def test_more_seeds_of_the_baseline_narrow_every_interval(plan):
    table = noisy(np.random.default_rng(8), EQUAL, seeds=12, common=0.0)
    few = {arm: values[:3] for arm, values in table.items()}
    more = {**few, "base": table["base"]}
    widths = {}
    for name, rows in {"few": few, "more": more}.items():
        a, b, _ = compare_arms(results_of(plan, rows), [BITS])  # c has the baseline's weights
        assert a.test.counts == b.test.counts == (3, len(rows["base"]))
        widths[name] = [a.half, b.half]
    assert np.all(np.array(widths["more"]) < np.array(widths["few"]))


def test_an_interval_without_zero_is_not_enough_among_many_arms(plan):
    """p = 0.03, and 0.1 over three arms."""
    rng, result = np.random.default_rng(7), []
    while not result:
        effects = compare_arms(results_of(plan, noisy(rng, EQUAL)))
        result = [e for e in effects if e.p < 0.05 < e.adjusted]
    low, high = result[0].interval
    assert not result[0].resolved and low < 0 < high and result[0].more_seeds[0] >= 1


def test_one_seed_resolves_nothing_and_is_in_no_family(plan):
    table = noisy(np.random.default_rng(8), EQUAL)
    table["c"] = [table["c"][0], None, None, None, None]
    effects = compare_arms(results_of(plan, table))
    single = of(effects, "c")

    assert (single.n, single.p, single.more_seeds, single.resolved) == (
        1,
        1.0,
        None,
        False,
    )
    assert [e.adjusted for e in effects[:2]] == holm([e.p for e in effects[:2]])


def test_an_arm_that_shares_no_seed_is_compared_by_its_mean_in_the_same_family(plan):
    table = noisy(np.random.default_rng(9), EQUAL)
    table["a"], table["base"] = (
        [*table["a"][:2], None, None, None],
        [None, None, *table["base"][2:]],
    )
    effects = compare_arms(results_of(plan, table))
    alone = of(effects, "a")
    assert alone.test.mean == pytest.approx(np.mean(table["a"][:2]) - np.mean(table["base"][2:]))
    assert alone.seeds == "n = 2 and 3"
    assert [effect.adjusted for effect in effects] == pytest.approx(
        holm([effect.p for effect in effects])
    )
    assert len(effects) == 3


def test_without_a_pool_tests_are_welchs_and_the_paired_t_test(plan):
    rng = np.random.default_rng(3)
    table = noisy(rng, EQUAL, common=0.0)
    results = replace(results_of(plan, table), pooled=False)
    a, b, c = compare_arms(results)
    for effect in (a, b):
        reference = ttest_ind(table[effect.arm], table["base"], equal_var=False)
        assert effect.p == pytest.approx(reference.pvalue)
    assert c.p == pytest.approx(ttest_rel(table["c"], table["base"]).pvalue)  # one training


def test_seeds_are_paired_where_they_move_all_arms(plan):
    rng = np.random.default_rng(11)
    together = compare_arms(results_of(plan, noisy(rng, EQUAL, common=1.0)))
    apart = compare_arms(results_of(plan, noisy(rng, EQUAL, common=0.0)))
    assert [effect.test.counts for effect in together] == [None] * 3
    assert [effect.test.counts for effect in apart] == [(5, 5), (5, 5), None]


def test_distances_are_compared_by_their_logarithms(plan):
    """Of log-normal distances the ratio is estimated; its interval is not symmetric."""
    rng = np.random.default_rng(12)
    rows = {arm: np.exp(rng.normal(1.0, 0.3, 5)).tolist() for arm in EQUAL}
    (a, *_) = compare_arms(results_of(plan, {DISTANCE: rows}))
    ratio = np.log(rows["a"]).mean() - np.log(rows["base"]).mean()
    center = np.mean(rows["base"])
    assert a.difference == pytest.approx(center * math.expm1(ratio))
    low, high = a.interval
    assert low < a.difference < high and high - a.difference > a.difference - low
    assert a.difference_text.endswith(f"[{low:+.2f}, {high:+.2f}]")

    rows["a"] = [0.0, *rows["a"][1:]]
    (a, *_) = compare_arms(results_of(plan, {DISTANCE: rows}))
    assert a.difference == pytest.approx(np.mean(rows["a"]) - center) and a.test.center is None


def test_the_interval_excludes_zero_exactly_where_the_answer_is_resolved(plan):
    rng = np.random.default_rng(14)
    for _ in range(60):
        rows = noisy(rng, EQUAL, {"base": 0.0, "a": -0.2, "b": 0.15, "c": 0.05}, common=0.3)
        for effect in compare_arms(results_of(plan, rows)):
            low, high = effect.interval
            assert effect.resolved == (not low <= 0 <= high)


def test_a_small_difference_is_equivalent_and_a_large_one_is_not(plan):
    """One-sided tests at ±0.02, by hand: Welch's, and Holm over two arms."""
    rng = np.random.default_rng(15)
    rows = {arm: (2 + 0.002 * rng.normal(size=5)).tolist() for arm in EQUAL}
    rows["a"] = [value + 0.5 for value in rows["a"]]
    results = replace(results_of(plan, rows), pooled=False)
    _a, b, _ = effects = compare_arms(results)
    assert [effect.answer for effect in effects] == ["worse", "equivalent", "equivalent"]
    assert [effect.mark for effect in effects] == ["▼", "≈", "≈"]
    assert b.verdict == "equivalent (within ±0.02)"

    ps = [
        ttest_ind(np.add(rows["b"], shift), rows["base"], equal_var=False, alternative=side).pvalue
        for shift, side in ((0.02, "greater"), (-0.02, "less"))
    ]
    assert b.test.equivalence(0.02) == pytest.approx(max(ps))

    strict = compare_arms(replace(results, matters={BITS: 1e-5}))
    assert [effect.answer for effect in strict][1:] == ["unresolved"] * 2
    silent = compare_arms(replace(results, matters={}))
    assert [effect.answer for effect in silent][1:] == ["unresolved"] * 2


def test_a_growing_study_asks_more_at_each_look(plan):
    rows = noisy(np.random.default_rng(16), EQUAL, {"base": 0.0, "a": 0.3, "b": 0.3, "c": 0.3})
    results = results_of(plan, rows)
    fixed = compare_arms(results)
    growing = compare_arms(replace(results, looks=(3, 5), most_seeds=12))
    factor = (0.05 / 3) / level_at((3, 5), 12, 0.05 / 3)
    assert factor > 3
    for before, after in zip(fixed, growing, strict=True):
        assert after.adjusted == pytest.approx(min(1.0, factor * before.adjusted))


def test_arms_of_other_data_are_not_compared_whether_or_not_they_share_a_seed(plan):
    results = results_of(
        plan,
        {
            "base": [1.0, 1.1, 1.2, None, None],
            "a": [None, None, None, 9.0, 9.1],
            "b": [9.0, 9.1, 9.2],
        },
    )
    for arm in "ab":
        for report in results.reports[arm].values():
            report["likelihood"]["unit"] = "latent"

    assert compare_arms(results) == []


def test_arms_of_other_held_out_images_are_not_compared_where_both_state_them(plan):
    results = results_of(plan, {"base": [1.0, 1.1, 1.2], "a": [9.0, 9.1, 9.2], "b": [2.0, 2.1, 2]})
    for arm, images in {"base": "extract", "a": "all"}.items():
        for report in results.reports[arm].values():
            report["likelihood"]["held_out"] = images
    assert {effect.arm for effect in compare_arms(results)} == {"b"}


def test_an_arm_without_a_value_is_left_out(plan):
    table = noisy(np.random.default_rng(9), EQUAL)
    assert (
        compare_arms(results_of(plan, {arm: row for arm, row in table.items() if arm != "base"}))
        == []
    )
    assert compare_arms(results_of(plan, {})) == []


def test_a_tiny_effect_would_need_more_seeds_than_anybody_has(plan):
    rows = {
        "base": [1.0, 2.0, 3.0],
        "a": [1.2, 1.8, 3.01],
        "b": [1.0, 2.3, 2.9],
        "c": [0.9, 2.2, 3.1],
    }
    results = results_of(plan, rows)
    effect = of(compare_arms(results), "a")

    assert effect.more_seeds == (MAX_SEEDS + 1, MAX_SEEDS + 1)
    assert f"more than {MAX_SEEDS} more seeds would be needed" in lines_of(results)[0]


def test_the_same_in_every_seed_is_said_plainly(plan):
    rows = {
        "base": [1.1, 2.2, 3.3],
        "a": [1.1, 2.2, 3.3],
        "b": [1.2, 2.3, 3.4],
        "c": [1.0, 2.1, 3.2],
    }
    results = results_of(plan, rows)
    same, worse, better = lines_of(results)

    assert (
        same.endswith("the same in every seed")
        and worse.endswith("worse")
        and better.split(". Caution")[0].endswith("better")
    )
    assert of(compare_arms(results), "b").adjusted == 0 and of(compare_arms(results), "a").p == 1


# Runs that differ otherwise than by design


def test_different_code_devices_and_versions_are_said(plan):
    table = noisy(np.random.default_rng(10), EQUAL)
    results = results_of(plan, table)
    assert all("Caution" not in line for line in lines_of(results) if " c against" not in line)
    results.reports["a"][3] = report_of({BITS: 0.1}, commit="def")
    results.reports["b"][0] = report_of(
        {BITS: 0.1}, environment={**ENVIRONMENT, "device": "a GPU", "torch": "3"}
    )
    a, b, c = lines_of(results)

    assert a.endswith("Caution: the runs differ in the code's version")
    assert b.endswith("Caution: the runs differ in device; torch")
    assert c.endswith("Caution: the runs differ in evaluation.draws (2 against 1)")
    assert (
        differing_conditions([report_of({}), {"git": {}}]) == ["the code's version"]
        and differing_conditions([]) == []
    )


def test_a_bound_against_an_exact_likelihood_is_said(plan):
    results = results_of(
        plan,
        {
            BITS: noisy(np.random.default_rng(11), EQUAL),
            DISTANCE: noisy(np.random.default_rng(12), EQUAL),
        },
    )
    for report in results.reports["a"].values():
        report["likelihood"]["kind"] = "bound"

    sentences = [line for line in lines_of(results) if " a against" in line]
    assert (
        sentences[0].endswith("Caution: the runs differ in likelihoods (bound against exact)")
        and "Caution" not in sentences[1]
    )


@pytest.mark.parametrize(
    ("bound", "verdicts"),
    [
        # a: worse; b: worse, c: better
        ("a", [f"reads worse: not concluded, for {LOOSER_BOUND}", "worse", "better"]),
        ("c", ["worse", "worse", "better"]),  # a bound that is better all the same
        ("base", ["worse", "worse", f"reads better: not concluded, for {LOOSER_BOUND}"]),
    ],
)
def test_a_bound_that_reads_worse_shows_nothing(plan, bound, verdicts):
    rows = {
        "base": [1.1, 2.2, 3.3],
        "a": [1.3, 2.4, 3.5],
        "b": [1.2, 2.3, 3.4],
        "c": [1.0, 2.1, 3.2],
    }
    results = results_of(plan, rows)
    for report in results.reports[bound].values():
        report["likelihood"]["kind"] = "bound"
    effects = compare_arms(results)

    assert [effect.verdict for effect in effects] == verdicts
    assert all(effect.resolved for effect in effects)
    assert [effect.supported for effect in effects] == [
        "not concluded" not in text for text in verdicts
    ]


def kinds(results, **steps):
    """Make the likelihoods of some arms bounds of so many steps."""
    for arm, count in steps.items():
        for report in results.reports[arm].values():
            report["likelihood"] |= {"kind": "bound", "steps": count}
    return results


BOUNDS = {"base": [1.1, 2.2, 3.3], "a": [1.3, 2.4, 3.5], "b": [1.2, 2.3, 3.4], "c": [1.0, 2.1, 3.2]}


def test_two_bounds_are_told_apart_only_where_their_steps_are_the_same(plan):
    results = kinds(results_of(plan, BOUNDS), base=16, a=16, b=8, c=16)
    effects = compare_arms(results)
    loose = "bounds differ by how loose they are, too (bound, 16 steps against bound, 8 steps)"

    assert [e.verdict for e in effects] == [
        "worse",
        f"reads worse: not concluded, for {loose}",
        "better",
    ]
    assert [effect.supported for effect in effects] == [True, False, True]
    assert summary(effects)[0].endswith(f"better: c; worse: a; not concluded, for {loose}: b.")


def test_two_bounds_are_told_apart_only_where_one_kind_of_model_makes_them(tmp_path, monkeypatch):
    """random_causal and masked have as many steps, and slacks of their own."""
    monkeypatch.chdir(tmp_path)
    arms = {
        "base": {"outer.kind": "masked"},
        "a": {"outer.kind": "random_causal"},
        "b": {"outer.kind": "masked", "inner.head.components": 2},
    }
    plan = read_plan(write_study(arms=arms, seeds=[0, 1, 2]))
    results = kinds(results_of(plan, {arm: BOUNDS[arm] for arm in arms}), base=16, a=16, b=16)
    a, b = compare_arms(results)

    assert (
        a.resolved
        and not a.supported
        and "(masked, 16 steps against random_causal, 16 steps)" in a.doubt
    )
    assert b.supported and b.doubt == ""


def test_every_pair_is_in_one_family_of_all_pairs(plan):
    rows = {
        "base": [1.0, 1.3, 1.1],
        "a": [1.5, 1.78, 1.61],
        "b": [1.5, 1.79, 1.62],
        "c": [3.0, 3.3, 3.1],
    }
    results = results_of(plan, rows)
    pairs = {
        frozenset(pair)
        for pair in (("base", "a"), ("base", "b"), ("base", "c"), ("a", "c"), ("b", "c"))
    }

    assert resolved_pairs(results, BITS) == pairs  # not a against b
    assert resolved_pairs(kinds(results, c=8), BITS) == pairs - {
        frozenset((arm, "c")) for arm in ("base", "a", "b")
    }


def published(results, metric, **files):
    """The same distance for all arms as bits/dim, measured against these files, by arm."""
    for arm, (file, network) in files.items():
        for report in results.reports[arm].values():
            report["metrics"] = {metric: report["metrics"][BITS]}
            report["fidelity"] = {
                "images": 80,
                "extractor": network,
                "reference": {"file": file, "images": 320},
            }

    return results


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (
            ("half.npz", "inception/64/aaaa"),
            "distances are to two references (half.npz and whole.npz)",
        ),
        (
            ("whole.npz", "inception/64/bbbb"),
            "distances are of two networks (inception/64/aaaa and inception/64/bbbb)",
        ),
    ],
)
def test_distances_to_two_references_or_of_two_networks_are_not_concluded(plan, other, reason):
    metric, whole = "quality/fd_inception64", ("whole.npz", "inception/64/aaaa")
    results = published(results_of(plan, BOUNDS), metric, base=whole, a=whole, b=other, c=whole)
    effects = compare_arms(results)
    assert [effect.doubt for effect in effects] == ["", reason, ""]
    assert not any("b" in pair for pair in resolved_pairs(results, metric))

    (caution,) = [line for line in caution_lines(analyse(results)) if reason in line]
    assert (
        caution
        == f"Not concluded, and on no front and in no ranking: FD Inception 64: {reason}: b."
    )


def test_references_of_one_name_are_told_apart_by_their_sums(plan):
    metric, whole = "quality/fd_inception64", ("whole.npz", "inception/64/aaaa")
    results = published(results_of(plan, BOUNDS), metric, base=whole, a=whole, b=whole, c=whole)
    for arm, by_seed in results.reports.items():
        for report in by_seed.values():
            report["fidelity"]["reference_sha256"] = "1" if arm == "a" else "2"
    assert [bool(effect.doubt) for effect in compare_arms(results)] == [True, False, False]


def test_the_seeds_to_add_are_a_range(plan):
    """Of d = 1.2 in three seeds of a pair (df 2): χ² is 0.21 to 4.61 in 80 of 100 studies,
    so d is 0.39 to 1.82.
    """
    rows = {"base": [1.0, 2.0, 3.0], "a": [1.2, 2.8, 3.8]}
    effect = of(compare_arms(results_of(plan, rows)), "a")
    assert effect.size == pytest.approx(0.6 / math.sqrt(0.12)) and effect.spread.df == 2
    few, most = (more_seeds(effect.size * math.sqrt(chi2.ppf(q, 2) / 2), 3) for q in (0.9, 0.1))
    assert effect.more_seeds == (few, most) and few < more_seeds(effect.size, 3) < most

    (line,) = lines_of(results_of(plan, rows))
    assert line.endswith(
        f"not resolved; about {few} to {most} more seeds would resolve an effect of this size"
    )


def test_the_sum_of_many_differences_names_what_is_resolved():
    def effect(i, adjusted, doubt=""):
        mean = -1.0 if i % 2 else 1.0
        return Effect(
            f"arm {i}",
            "base",
            BITS,
            ArmTest(mean, 3, PooledSD(0.1, 4)),
            (mean - 0.1, mean + 0.1),
            adjusted,
            None,
            1.0,
            9,
            doubt,
        )

    result = [
        effect(1, 0.01),
        effect(2, 0.01),
        effect(3, 0.01, LOOSER_BOUND),
        *(effect(i, 0.5) for i in range(4, 14)),
    ]
    assert summary(result) == [
        (
            "bits/dim, against the baseline: better: arm 1; worse: arm 2; not concluded, for a"
            " bound that reads worse shows nothing: arm 3; not resolved: 10 arms."
        )
    ]
    assert (
        summary(result[:1]) == ["bits/dim, against the baseline: better: arm 1."]
        and summary([]) == []
    )


def test_arms_that_are_one_model_tell_the_spread_once(plan):
    rng = np.random.default_rng(13)
    table = noisy(rng, EQUAL)
    twice = {**table, "b": table["a"]}
    once = {arm: values for arm, values in twice.items() if arm != "b"}
    both, alone = (compare_arms(results_of(plan, rows)) for rows in (twice, once))
    assert of(both, "a").spread == of(both, "b").spread == of(alone, "a").spread


# What it is worth: simulated studies


def studies(plan, count, seed, spreads=EQUAL, seeds=3, metrics=(BITS,)):
    """Studies in which nothing differs; readings of one study are drawn as in ours: both of
    the likelihood alike.
    """
    rng = np.random.default_rng(seed)
    for _ in range(count):
        table = {BITS: noisy(rng, spreads, seeds=seeds)}
        table[LEVEL] = {
            arm: (1.1 * np.array(row) + 0.01 * rng.normal(size=seeds)).tolist()
            for arm, row in table[BITS].items()
        }
        table[DISTANCE] = noisy(rng, spreads, seeds=seeds)
        yield results_of(plan, {metric: table[metric] for metric in metrics})


def test_of_a_hundred_studies_of_equal_arms_ninety_call_nothing_resolved(plan):
    quiet = [
        not any(e.resolved for e in compare_arms(r))
        for r in studies(plan, 100, 0, metrics=(BITS, LEVEL, DISTANCE))
    ]
    assert sum(quiet) >= 90


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wild", "seeds"),
    [
        ({}, 3),
        ({}, 5),
        ({"base": 0.3}, 3),
        ({"c": 0.3}, 3),
        ({"c": 0.3}, 5),
        ({"c": 0.7}, 3),
        ({"b": 0.3, "c": 0.3}, 3),
        ({"base": 0.03, "c": 0.3}, 3),
    ],
    ids=str,
)
def test_the_family_wise_error_is_at_most_six_in_a_hundred(plan, wild, seeds):
    """However far arms stray: seven times as far as the others is the worst of one among four
    (`pooled_variance.py`).
    """
    wrong = [
        any(e.resolved for e in compare_arms(r))
        for r in studies(plan, 2000, seeds, {**EQUAL, **wild}, seeds)
    ]
    assert np.mean(wrong) <= 0.063


@pytest.mark.slow
@pytest.mark.parametrize(("true", "seeds"), [(3, 3), (2, 5)])
def test_most_of_what_pooling_resolves_is_kept(true, seeds):
    """Against the spread of the pair alone, and against that of the pool alone, which errs
    where an arm is wild.
    """
    rng, hits = np.random.default_rng(seeds), []
    for _ in range(2000):
        pairs = pairs_of(rng, [1.0] * 4, seeds)
        pairs["0"] = {seed: d + true * math.sqrt(2) for seed, d in pairs["0"].items()}
        alone = {arm: pool_spread({arm: d}) for arm, d in pairs.items()}
        hits.append(
            [
                _first(pairs, pooled)
                for pooled in (alone, spreads(pairs), dict.fromkeys(pairs, pool_spread(pairs)))
            ]
        )

    low, actual, high = np.mean(hits, 0)
    assert 0.6 < (actual - low) / (high - low) < 1


def _first(pairs, spreads_by_arm):
    """Whether Holm resolves the first of the arms."""
    ps = [
        p_value(
            cohens_d(float(np.mean(list(d.values()))), spreads_by_arm[arm]),
            len(d),
            spreads_by_arm[arm].df,
        )
        for arm, d in pairs.items()
    ]
    return holm(ps)[0] < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
def test_pooled_intervals_and_sizes_cover_the_truth(plan, seeds):
    """A little more often than 95 %, for no arm is judged by less than its own spread; sizes
    are those of one arm.
    """
    rng, means, covered = (
        np.random.default_rng(seeds),
        {"base": 0.0, "a": 0.1, "b": 0.0, "c": 0.3},
        [],
    )
    for _ in range(2000):
        effects = compare_arms(results_of(plan, noisy(rng, EQUAL, means, seeds)), [BITS])
        low, high = of(effects, "c").size_interval
        true = 0.3 / (0.1 * math.sqrt(2))
        inside = []
        for effect in effects:
            lower, upper = effect.test.bounds(0.05)
            inside.append(lower <= means[effect.arm] <= upper)
        covered.append((np.mean(inside), low <= true <= high))

    assert all(0.93 < share < 0.97 for share in np.mean(covered, 0))


@pytest.mark.slow
def test_the_seeds_to_add_give_the_power_they_promise():
    """An arm whose true effect is as large as seen, among three arms; Holm's first of three."""
    true, alpha = 1.2, 0.05 / 3  # the spread of 4 arms
    total = 3 + more_seeds(true, 3, arms=4, alpha=alpha)
    rng, hits = np.random.default_rng(0), []
    assert 4 < total <= 20
    for _ in range(2000):
        pairs = pairs_of(rng, [1.0] * 4, total)
        spreads_by_arm = spreads(pairs)["1"]
        size = cohens_d(
            float(np.mean(list(pairs["1"].values()))) + true * math.sqrt(2), spreads_by_arm
        )
        hits.append(p_value(size, total, spreads_by_arm.df) < alpha)

    assert 0.77 < np.mean(hits) < 0.87
