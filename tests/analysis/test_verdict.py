"""The verdict of a study: one sentence that says what its runs show, and one command."""

import pytest
from reports import BITS, FD, analysed, report_of, study, whole

from arinar_lab.analysis.verdict import MOST_ROWS, seeds_to_settle, verdict_of

pytestmark = pytest.mark.usefixtures("alone")
NOISE = (-0.004, 0.0, 0.004)


def each_run(values):
    """A report for each run. values: components → bits/dim of each seed."""
    reports = {}
    for k, of_arm in values.items():
        for seed, bits in enumerate(of_arm):
            reports[f"components={k}", seed] = report_of(bits)
    return reports


def bits_of(means, seeds=3, **keys):
    """Reports of arms by number of components, with little noise that no arm shares."""
    reports = {}
    for i, (k, mean) in enumerate(means.items()):
        for seed in range(seeds):
            noise = NOISE[(seed * (i + 1) + i) % 3]
            reports[f"components={k}", seed] = report_of(mean + noise, distance=10 + noise, **keys)
    return reports


def verdict(reports, **keys):
    return verdict_of(analysed(study(reports, **keys)))


def test_every_answer_is_named_with_its_numbers():
    means = {1: 2.5, 2: 2.3, 4: 2.0, 8: 2.3}
    result = verdict(
        bits_of(means), axes={"inner.head.components": list(means)}, baseline="components=2"
    )
    better, worse, equivalent = result.answer.split("; ")

    assert result.question == "How many?"
    assert (
        better.startswith("components=4 (-0.296 ± 0.0")
        and "better than components=2 in bits" in better
    )
    assert worse.startswith("components=1 (+0.20") and worse.endswith(" is worse")
    assert equivalent.startswith("components=8 (") and "is equivalent within ±0.02" in equivalent
    marks = {row.arm: row.cells[0].mark for row in result.rows}
    assert marks == {
        "components=1": "▼",
        "components=2 (baseline)": "",
        "components=4": "▲",
        "components=8": "≈",
    }


def test_where_nothing_is_better_the_baseline_is_not_beaten():
    answer = verdict(bits_of({1: 2.0, 2: 2.2, 4: 2.4})).answer
    assert answer.startswith("components=2 (+0.2")
    assert "are worse than components=1 in bits/dim; no arm is better" in answer
    assert "unresolved" not in answer


def test_where_nothing_is_resolved_it_says_what_would_have_been():
    values = {1: (2.0, 2.3, 2.6), 2: (2.5, 2.1, 2.2), 4: (2.4, 2.3, 1.9)}
    analysis = analysed(study(each_run(values)))
    effects = [effect for effect in analysis.effects if effect.metric == BITS]
    assert {effect.answer for effect in effects} == {"unresolved"}
    widest = max(effect.half for effect in effects)
    answer = verdict_of(analysis).answer

    assert answer.startswith("Nothing is resolved at 3 seeds an arm: components=4 has the best")
    assert f"more than about {widest:.3f} would have been resolved" in answer


def test_one_seed_resolves_nothing_and_three_are_advised():
    result = verdict(bits_of({1: 2.5, 2: 2.3, 4: 2.4}, seeds=1), seeds=(0,))
    assert result.answer.startswith("One seed resolves nothing; components=2 has the best mean")
    assert result.step.command() == "arinar ablate studies/study 'seeds=[0,1,2]'"


def test_what_a_distance_resolves_is_said_after_the_likelihood():
    reports = whole()
    for (arm, seed), report in reports.items():
        report["metrics"][FD] = (30.0 if arm == "components=4" else 10.0) + seed / 10
    answer = verdict(reports).answer
    assert "in FD digits components=4 (" in answer and answer.endswith(" is worse.")


def test_arms_that_differ_in_samples_alone_are_ranked_by_their_distance():
    reports = {
        (f"guidance={g}", seed): report_of(2.0 + seed / 10, distance=10 * g + seed / 10)
        for g in (1.0, 2.0)
        for seed in (0, 1, 2)
    }
    result = verdict(reports, axes={"sampler.guidance": [1.0, 2.0]})
    assert result.headings[:2] == ("arm", "FD digits")
    assert result.answer.startswith("guidance=2.0 (+10.00")
    assert "is worse than guidance=1.0 in FD digits" in result.answer


def test_a_bound_is_not_concluded_and_is_not_sent_for_more_seeds():
    reports = bits_of({1: 2.0, 2: 2.3, 4: 2.5})
    for (arm, _), report in reports.items():
        if arm != "components=1":
            report["likelihood"] |= {"kind": "bound", "steps": 8}
    result = verdict(reports)
    assert "nothing is concluded, for" in result.answer and "better than" in result.answer
    assert result.answer.startswith("No arm is shown to be better")
    assert result.step.words[0] == "notebooks" and result.cautions


@pytest.mark.parametrize(
    ("absent", "words"),
    [
        (lambda arm: True, "No run is finished"),
        (lambda arm: arm == "components=1", "the baseline, components=1, has no finished run"),
    ],
)
def test_missing_runs_are_to_be_finished_first(absent, words):
    reports = bits_of({1: 2.5, 2: 2.3, 4: 2.0})
    left = {cell: report for cell, report in reports.items() if not absent(cell[0])}
    result = verdict(left)
    assert words in result.answer
    assert result.step.command() == "arinar ablate studies/study"
    assert "that are missing" in result.step.reason


def test_the_column_of_differences_says_what_its_intervals_are():
    assert verdict(bits_of({1: 2.5, 2: 2.0})).headings[2] == "difference ± 95 %"


def test_a_single_arm_is_stated():
    result = verdict(bits_of({1: 2.5}), axes={"inner.head.components": [1]})
    assert result.answer == "components=1 reaches 2.500 ± 0.010 bits/dim."
    assert not any("difference" in heading for heading in result.headings)


def test_speed_is_said_where_it_is_reliable():
    reports = bits_of({1: 2.5, 2: 2.0, 4: 2.5})
    assert verdict(reports).speed.startswith("components=2 is the fastest, 500")
    assert verdict(reports).headings[-1] == "images/s"
    for report in reports.values():
        report["speed"] |= {"load_average": 40.0}
        report["environment"] = {"cpus": 2}

    busy = verdict(reports)
    assert not busy.speed and "images/s" not in busy.headings and busy.cautions == 1
    assert busy.caution == "1 caution limits what may be concluded"


def test_seeds_are_advised_that_settle_what_is_open():
    values = {1: (2.0, 2.05, 1.95), 2: (2.1, 2.03, 2.12), 4: (2.0, 1.98, 2.07)}
    analysis = analysed(study(each_run(values)))
    result = verdict_of(analysis)
    needed = {}
    for effect in analysis.effects:
        if effect.metric == BITS and effect.answer == "unresolved":
            needed[effect.arm] = 3 + seeds_to_settle(effect)
    assert set(needed) == {"components=2", "components=4"}
    assert 3 < needed["components=2"] <= 12 < needed["components=4"]

    total = needed["components=2"]
    assert result.step.words[-1] == "--until-resolved" and f" {total} seeds" in result.step.reason
    assert result.step.reason.startswith("To settle components=2,")


def test_of_many_arms_the_important_ones_are_shown_in_their_order():
    means = {k: 2.0 + 0.1 * k for k in range(1, 15)}
    reports = bits_of(means)
    keys = {"axes": {"inner.head.components": list(means)}, "baseline": "components=12"}
    result = verdict(reports, **keys)
    names = [row.arm for row in result.shown()]

    assert len(names) == MOST_ROWS and "components=12 (baseline)" in names
    assert names[:7] == [f"components={k}" for k in range(1, 8)]  # the best seven
    assert result.left_out() == "and 6 more arms in report.html" and len(result.headings) <= 5
    assert " more are better than components=12" in result.answer
