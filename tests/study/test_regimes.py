"""Regimes: every arm at multiples of what it may spend, or on other data, and whether the ranking
of arms lasts; rows from papers.
"""

import itertools
import math
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reports import BITS, FD, report_of
from tiny import tiny, write_study

from arinar_lab.analysis.analyse import analyse
from arinar_lab.analysis.rankings.rank_agreement import agreements
from arinar_lab.analysis.verdict import verdict_of
from arinar_lab.config.files import read_overrides
from arinar_lab.errors import ConfigError
from arinar_lab.metrics import FASHION_DISTANCE
from arinar_lab.report.report import write_report
from arinar_lab.report.statements import notes
from arinar_lab.report.tables import plain_table, report_markdown
from arinar_lab.significance.statistics import interval
from arinar_lab.study.collect import collect, results_of
from arinar_lab.study.plan import read_plan, scaled

pytestmark = pytest.mark.usefixtures("alone")

STEPS = {"training.steps": [1, 4]}
ARMS = {name: {"inner.head.components": k} for k, name in enumerate("abcd", start=1)}
SEEDS = (0, 1, 2)


PAIR = dict(list(ARMS.items())[:2])


def plan_of(**keys):
    return read_plan(write_study(**{"arms": PAIR, "seeds": list(SEEDS), **keys}))


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Four arms in two regimes, b the baseline; read once, as building arms takes time."""
    with chdir(tmp_path_factory.mktemp("four")):
        return plan_of(arms=ARMS, budget=STEPS, baseline="b")


def refused(words, **keys):
    with pytest.raises(ConfigError) as error:
        plan_of(**keys)
    line = str(error.value)
    assert "\n" not in line and line.startswith("study.yaml: ") and words in line, line


def finished(plan, bits):
    """Results of every cell: bits(design, regime, seed) → bits/dim; FD is a hundred times it."""
    reports = {arm.name: {} for arm in plan.arms}
    for arm, seed in itertools.product(plan.arms, plan.seeds):
        value = bits(arm.design, plan.regimes.index(arm.regime) if arm.regime else 0, seed)
        reports[arm.name][seed] = report_of(value, distance=100 * value)
    return results_of(plan, reports)


# The plan


def test_every_arm_stands_at_every_budget(four):
    plan = four
    assert [arm.name for arm in plan.arms] == [
        f"{name} @ steps×{k}" for k in (1, 4) for name in "abcd"
    ]
    assert [arm.recipe.training.steps for arm in plan.arms] == [6] * 4 + [24] * 4
    assert plan.regimes == ("steps×1", "steps×4") and plan.baseline == "b @ steps×1"
    assert [arm.design for arm in plan.arms] == list("abcd") * 2
    assert len(plan.jobs) == 24


def test_a_budget_of_one_is_the_arm_itself(four):
    assert (
        four.arms[0].recipe.training_signature == tiny("inner.head.components=1").training_signature
    )


def test_several_keys_are_every_combination():
    plan = plan_of(budget={**STEPS, "outer.width": [1, 2]})
    assert plan.regimes == (
        "steps×1,width×1",
        "steps×1,width×2",
        "steps×4,width×1",
        "steps×4,width×2",
    )
    assert (
        plan.arms[-1].recipe.outer.arguments["width"] == 32
        and plan.arms[-1].recipe.training.steps == 24
    )
    assert plan.arms[-1].parameters > plan.arms[0].parameters


def test_keys_of_one_last_word_are_told_apart():
    plan = plan_of(budget={"outer.width": [1, 2], "inner.width": [1, 2]})
    assert plan.regimes[1] == "outer.width×1,inner.width×2"


def test_a_multiple_is_of_the_arms_own_value():
    arms = {"short": {}, "long": {"training.steps": 10}}
    assert [arm.recipe.training.steps for arm in plan_of(arms=arms, budget=STEPS).arms] == [
        6,
        10,
        24,
        40,
    ]


def test_fractions_that_come_out_whole_are_taken():
    training = scaled(tiny(), {"training.steps": 0.5, "training.lr": 0.5})["training"]
    assert training["steps"] == 3 and training["lr"] == tiny().training.lr / 2


@pytest.mark.parametrize(
    ("regime", "words"),
    [
        ([1, 4], "budget: [1, 4] is not a mapping"),
        ({}, "budget: {} names no key to multiply"),
        ({"training.steps": 4}, "budget.training.steps: 4 is not a list"),
        ({"training.steps": [1]}, "two or more different multiples"),
        ({"training.steps": [1, 1]}, "two or more different multiples"),
        ({"training.steps": [1, 0]}, "multiples above 0"),
        ({"training.steps": [1, True]}, "budget.training.steps.1: true is not a number"),
        (
            {"training.steps": [1, 0.25]},
            "arm a @ steps×0.25: budget.training.steps: 0.25 × 6 is 1.5, which is no whole",
        ),
        ({"training.stepps": [1, 2]}, "budget.training.stepps: not the key of a number"),
        ({"outer.norm": [1, 2]}, "budget.outer.norm: not the key of a number"),
        ({"outer.heads": [1, 3]}, "arm a @ heads×3: outer.heads: 6 does not divide"),
    ],
)
def test_bad_budgets_are_refused(regime, words):
    refused(words, budget=regime)


# What is compared with what


def test_each_budget_has_its_own_baseline(four):
    results = finished(four, lambda name, k, seed: 20 + "abcd".index(name) - 5 * k + seed / 7)
    sentences = analyse(results).differences
    against = {
        (line.split(" against ")[0].split(": ")[1], line.split(" against ")[1].split(": ")[0])
        for line in sentences
    }
    assert against == {(f"{name} @ steps×{k}", f"b @ steps×{k}") for name in "acd" for k in (1, 4)}
    assert all(line.split(": ")[1] in report_markdown(analyse(results)) for line in sentences)


def test_without_budgets_all_arms_are_one_part():
    results = finished(plan_of(), lambda name, k, seed: 2.0)
    assert results.by_regime == [results] and agreements(results) == []
    assert "ranking last" not in report_markdown(analyse(results))


# Regimes by name

DATA = {"digits": None, "clothing": {"data": {"kind": "fashion", "size": 14}}}


@pytest.fixture(scope="module")
def two_data_sets(tmp_path_factory):
    """Four arms on digits and on clothing, b the baseline."""
    with chdir(tmp_path_factory.mktemp("data")):
        return plan_of(arms=ARMS, regimes=DATA, baseline="b")


def test_every_arm_stands_on_all_data(two_data_sets):
    plan = two_data_sets
    assert plan.regimes == ("digits", "clothing") and plan.baseline == "b @ digits"
    kinds = [arm.recipe.data.kind for arm in plan.arms]
    assert kinds == ["digits"] * 4 + ["fashion"] * 4
    components = [arm.recipe.inner.arguments["head"].arguments["components"] for arm in plan.arms]
    assert components == [1, 2, 3, 4] * 2
    assert [arm.distance for arm in plan.arms] == [FD] * 4 + [FASHION_DISTANCE] * 4
    assert (
        plan.arms[0].recipe.training_signature == tiny("inner.head.components=1").training_signature
    )


def test_a_resolution_is_a_regime():
    regimes = {"14×14": {"data.size": 14}, "28×28": {"data.size": 28}}
    arms = {"a": {"data": "fashion"}, "b": {"data": "fashion", "inner.head.components": 3}}
    plan = plan_of(arms=arms, regimes=regimes)
    assert [arm.recipe.data.arguments["size"] for arm in plan.arms] == [14, 14, 28, 28]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"regimes": {"one": {}}}, "regimes: ['one'] names fewer than two"),
        ({"regimes": {}}, "regimes: [] names fewer than two"),
        ({"regimes": DATA, "budget": STEPS}, "regimes: stands beside budget"),
        ({"regimes": DATA, "references": True}, "references: scikit-learn's estimators are of one"),
        ({"regimes": {"a": {}, "b": {"seed": 7}}}, "regimes.b: seed: a study repeats every arm"),
        (
            {"regimes": {"a": {}, "b": {"outer.width": 32}}, "match": {"by": "outer.width"}},
            "regimes.b: outer.width: match solves for it; leave it out",
        ),
        ({"regimes": {"a": {}, "b": {"data.siz": 2}}}, "data.siz: unknown key"),
        ({"regimes": {"a": {}, "b": {}}}, "are the same; give each"),
        (
            {"regimes": {"a": {}, "b": {"inner.head.components": 5}}},
            "are the same; give each a difference",
        ),
    ],
)
def test_regimes_that_are_none_are_refused(keys, words):
    refused(words, **keys)


def test_an_override_that_a_regime_sets_does_not_reach_it_and_one_of_the_regime_does():
    keys = {"arms": PAIR, "seeds": [0], "regimes": {"short": {}, "long": {"training.steps": 8}}}
    plan = read_plan(write_study(**keys), read_overrides(["training.steps=7"]))
    assert [arm.recipe.training.steps for arm in plan.arms] == [7, 7, 8, 8]
    assert "training.steps=7 does not reach a @ long, b @ long" in plan.cautions[0]
    plan = read_plan(write_study(**keys), read_overrides(["regimes.long.training.steps=9"]))
    assert [arm.recipe.training.steps for arm in plan.arms] == [6, 6, 9, 9]


def of_clothing(report):
    """The report as a run on clothing writes it."""
    metrics = {
        name.replace("digits", "fashion"): value for name, value in report["metrics"].items()
    }
    return report | {
        "metrics": metrics,
        "quality": report["quality"] | {"part": "held-out", "reference": 2000},
        "likelihood": report["likelihood"] | {"held_out": "clothing"},
    }


def test_rankings_of_two_data_sets_are_compared_and_their_numbers_are_not(two_data_sets):
    plan = two_data_sets
    order = {"digits": [1.0, 2.0, 3.0, 4.0], "clothing": [11.0, 13.0, 12.0, 14.0]}
    reports = {arm.name: {} for arm in plan.arms}
    for arm, seed in itertools.product(plan.arms, plan.seeds):
        bits = order[arm.regime]["abcd".index(arm.design)] + 0.001 * seed
        report = report_of(bits, distance=10 * bits)
        reports[arm.name][seed] = of_clothing(report) if arm.regime == "clothing" else report
    analysis = analyse(results_of(plan, reports))

    against = {(effect.arm, effect.baseline) for effect in analysis.effects}
    assert against == {(f"{a} @ {data}", f"b @ {data}") for a in "acd" for data in order}
    bits, _, distances = analysis.agreements  # the second is at a resolution
    assert (bits.metric, bits.other_metric) == (BITS, BITS)
    assert (distances.metric, distances.other_metric) == (FD, FASHION_DISTANCE)
    for agreement in (bits, distances):
        assert agreement.swapped == (("b", "c"),) == agreement.reversed
        assert agreement.tau == pytest.approx((5 - 1) / 6)
    assert "FD digits and FD fashion: 4 arms at digits against clothing" in distances.text()
    text = report_markdown(analysis)
    assert "these runs differ" not in text and "(but" not in text.split("| arm")[-1]
    assert text.count("in the features of a digits classifier") == 1
    assert text.count("in the features of a fashion classifier") == 1
    assert "2,000 held-out images" in text and "1,437 training images" in text
    assert analysis.panels == analysis.fronts
    verdict = verdict_of(analysis)
    assert verdict.answer.startswith("At clothing: ")
    assert verdict.answer.endswith(" Against digits, 1 of 6 pairs changes order.")


# Whether the ranking lasts


@pytest.fixture
def ranked(four):
    """Makes results whose arms a, b, … have these bits/dim at the first
    regime and at the second.
    """

    def make(before, after, spread=0.001, plan=four):
        return finished(
            plan,
            lambda name, k, seed: (
                (before, after)[k]["abcd".index(name)]
                + spread * (seed - 1) * (1 + "abcd".index(name))
            ),
        )

    return make


def found(results, metric=BITS):
    (one,) = [a for a in agreements(results) if a.metric == metric]
    return one


def test_the_same_order_is_a_correlation_of_one(ranked):
    one = found(ranked([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4]))
    assert (one.tau, one.rho, one.swapped, one.reversed) == (
        pytest.approx(1),
        pytest.approx(1),
        (),
        (),
    )
    assert one.tau_p == pytest.approx(2 / math.factorial(4))  # this order, or its opposite, of 24
    assert one.rho_p == pytest.approx(2 / math.factorial(4))


def test_the_opposite_order_is_minus_one(ranked):
    one = found(ranked([1, 2, 3, 4], [4, 3, 2, 1]))
    assert (one.tau, one.rho) == (pytest.approx(-1), pytest.approx(-1))
    assert len(one.swapped) == len(one.reversed) == 6


def test_one_swap_by_hand(ranked):
    one = found(ranked([1, 2, 3, 4], [1, 3, 2, 4]))
    assert one.tau == pytest.approx((5 - 1) / 6) and one.rho == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert one.swapped == (("b", "c"),) == one.reversed


def test_p_of_rho_is_the_share_of_all_orders(ranked):
    """Counted here over the 24 orders: twice the smaller tail, as the exact test has it."""
    one = found(ranked([1, 2, 3, 4], [1, 3, 2, 4]))
    x, y = np.array([1, 2, 3, 4]), np.array([1, 3, 2, 4])
    all_orders = [
        np.corrcoef(x[list(order)], y)[0, 1] for order in itertools.permutations(range(4))
    ]
    tail = np.mean([rho >= one.rho - 1e-9 for rho in all_orders])
    assert one.rho_p == pytest.approx(2 * tail)


def test_a_swap_that_is_not_resolved_reverses_nothing(ranked):
    one = found(ranked([1, 2.0, 2.001, 4], [1, 2.001, 2.0, 4], spread=0.1))
    assert one.swapped == (("b", "c"),) and one.reversed == ()
    assert (
        "1 of 6 pairs changes order (concluded in both regimes, by Holm over all pairs: none)"
        in one.text()
    )


def test_a_swap_counts_only_after_holm_over_all_pairs(ranked):
    """b and c differ by 0.02 ± 0.01 of their pair in each regime: two intervals without zero;
    other arms stray farther.
    """
    results = ranked([1, 2.0, 2.02, 4], [1, 2.02, 2.0, 4])
    for regime, sign in (("steps×1", 1), ("steps×4", -1)):
        for seed, off in enumerate((0.0, 0.004, -0.004)):
            results.reports[f"b @ {regime}"][seed]["metrics"][BITS] = 2.0 + 0.1 * seed
            results.reports[f"c @ {regime}"][seed]["metrics"][BITS] = (
                2.0 + 0.1 * seed + sign * 0.02 + off
            )
            results.reports[f"a @ {regime}"][seed]["metrics"][BITS] = 1.0 + (0.0, 0.15, 0.15)[seed]
            results.reports[f"d @ {regime}"][seed]["metrics"][BITS] = 4.0 + (0.05, 0.05, 0.2)[seed]

    pair = interval([0.02, 0.024, 0.016])
    assert (
        pair.resolved and found(results).swapped == (("b", "c"),) and found(results).reversed == ()
    )


def test_bounds_of_other_steps_reverse_nothing(ranked):
    results = ranked([1, 2, 3, 4], [1, 3, 2, 4])
    assert found(results).reversed == (("b", "c"),)
    for regime in ("steps×1", "steps×4"):
        for arm, steps in (("b", 8), ("c", 16)):
            for report in results.reports[f"{arm} @ {regime}"].values():
                report["likelihood"] |= {"kind": "bound", "steps": steps}
    assert found(results).swapped == (("b", "c"),) and found(results).reversed == ()


def test_what_is_said_is_in_the_report_with_a_figure(ranked):
    results = ranked([1, 2, 3, 4], [1, 3, 2, 4])
    paths = write_report(analyse(results))
    text = (results.folder / "report" / "table.md").read_text()
    message = (
        "bits/dim: 4 arms at steps×1 against steps×4: Kendall's τ = +0.67 (p = 0.33), "
        "Spearman's ρ = +0.80"
    )
    assert "## Does the ranking last?" in text and f"- {message}" in text and "b and c" in text
    (path,) = [path for path in paths if path.name == "ranks.png"]

    image = Image.open(path)
    assert (
        image.width > 1000
        and 0.005 < (np.asarray(image.convert("RGB")) != 255).any(-1).mean() < 0.5
    )


def test_two_arms_have_no_correlation(ranked):
    two = ranked([1, 2], [2, 1], plan=plan_of(budget=STEPS))
    assert "2 arms at steps×1 against steps×4: too few" in analyse(two).ranking[0]


def test_only_arms_of_both_budgets_are_ranked(ranked):
    results = ranked([1, 2, 3, 4], [1, 2, 3, 4])
    results.reports["d @ steps×4"].clear()
    assert found(results).arms == ("a", "b", "c") and found(results, FD).tau == pytest.approx(1)
    assert [path.name for path in write_report(analyse(results))].count("ranks.png") == 1


def test_a_study_with_nothing_finished_still_reports(four):
    assert not [path for path in write_report(analyse(collect(four))) if path.suffix == ".png"]


# Rows from papers

GIVT = {
    "name": "GIVT",
    "bits/dim": 3.125,
    FD: 7,
    "protocol": "50k images",
    "steps": "500 epochs",
    "hardware": "16 TPUv4",
    "source": "arXiv 2312.02116",
}


def test_rows_from_papers_stand_in_the_table_and_their_protocol_in_the_notes():
    results = finished(plan_of(references=[GIVT, "scikit-learn"]), lambda name, k, seed: 2.0)
    assert len(results.papers) == 1
    headings, body = plain_table(analyse(results), results.columns)
    cells = dict(zip(headings, body[-1], strict=True))
    assert (cells["arm"], cells["bits/dim ↓"], cells["FD digits ↓"]) == (
        "GIVT (not ours)",
        "3.125",
        "7.00",
    )
    assert {
        value for name, value in cells.items() if name not in ("arm", "bits/dim ↓", "FD digits ↓")
    } == {""}
    note = "GIVT (not ours; arXiv 2312.02116): 50k images; trained for 500 epochs on 16 TPUv4."

    assert note in notes(analyse(results)) and "| GIVT (not ours) |" in report_markdown(
        analyse(results)
    )
    assert not any("GIVT" in line for line in analyse(results).differences)


def test_a_column_that_only_a_paper_fills_is_shown():
    row = {"name": "X", "latency ms": 3.0, "protocol": "batch 1", "source": "a paper"}
    results = finished(plan_of(references=[row]), lambda name, k, seed: 2.0)
    headings, body = plain_table(analyse(results), results.columns)
    assert (
        body[-1][headings.index("latency ms ↓")] == "3.0"
        and body[0][headings.index("latency ms ↓")] == ""
    )
    assert any("unstated steps on unstated hardware" in note for note in notes(analyse(results)))
    write_report(analyse(results))

    assert Path("studies/study/report/table.md").is_file()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**GIVT, "bits": 3}, "references.0.bits: unknown key; references.0 takes FD DINOv2"),
        ({**GIVT, "bits/dim": "low"}, "references.0.bits/dim: 'low' is not a number"),
        ({k: v for k, v in GIVT.items() if k != "source"}, "references.0.source: missing"),
        ({k: v for k, v in GIVT.items() if k != "protocol"}, "references.0.protocol: missing"),
        (
            {k: v for k, v in GIVT.items() if k not in ("bits/dim", FD)},
            "references.0.name: GIVT has no number",
        ),
        ("GIVT", "references.0: 'GIVT' is neither one of scikit-learn nor a mapping"),
    ],
)
def test_rows_that_say_too_little_are_refused(row, words):
    refused(words, references=[row])


def test_references_are_a_choice_or_rows():
    refused("references: GIVT stands there twice", references=[GIVT, GIVT])
    refused("references: 'yes please' is neither true or false nor a list", references="yes please")
