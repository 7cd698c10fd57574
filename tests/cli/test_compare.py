"""`arinar compare`: what differs, in configuration and result, and what may be concluded;
bad input is one line.
"""

import shutil
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import pytest
from command import arinar
from reports import BITS, analysed, report_of, study, whole
from scipy.stats import ttest_ind
from tiny import tiny, write_study

from arinar_lab.cli.compare import (
    comparison_cautions,
    comparison_lines,
    differing_keys,
    gather_runs,
    metric_rows,
)
from arinar_lab.runs.folder import RunFolder, write_sealed
from arinar_lab.significance.statistics import holm
from arinar_lab.study.plan import read_plan
from arinar_lab.study.status import save_cells

pytestmark = pytest.mark.usefixtures("alone")


def refused(capsys, message, *words):
    assert arinar("compare", *words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("arinar: ") and message in err, err


def cells_of(plan):
    """Run folders as training leaves them, configuration included: arm → its folder."""
    for arm in plan.arms:
        for seed in plan.seeds:
            folder, recipe = plan.cell(arm, seed)
            folder.write_config(recipe)
    return {arm.name: plan.cell(arm, 0)[0].path.parent for arm in plan.arms}


def run(*overrides, seed=0, name="a run", **sections):
    """One finished run, and its folder."""
    recipe = tiny(*overrides, f"seed={seed}")
    folder = RunFolder.of(recipe, name)
    folder.write_config(recipe)
    write_sealed(
        folder.evaluation(recipe) / "report.json",
        report_of(**{"bits": 2.0 + seed / 10, **sections}),
    )
    return folder.path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study of three arms in a folder of its own, to be copied."""
    path = tmp_path_factory.mktemp("finished")
    with chdir(path):
        plan = study(whole())
        save_cells(plan, Path("study.yaml"), [])
        return path, cells_of(plan)


@pytest.fixture
def arms(alone, finished):
    path, folders = finished
    shutil.copytree(path, alone, dirs_exist_ok=True)
    return folders


def sheet(rows):
    """First cell → the others."""
    return {row[0]: row[1:] for row in rows}


def compared(*words):
    comparison = gather_runs([str(word) for word in words])
    return comparison, comparison_cautions(comparison)


# What differs


def test_only_the_keys_that_differ_are_shown(arms):
    results, _ = compared(*list(arms.values())[:2])
    assert differing_keys(results.results) == [
        ["", "components=1", "components=2"],
        ["inner.head.components", "1", "2"],
    ]


def test_parts_of_another_kind_are_aligned_by_their_key():
    results, _ = compared(run(), run("inner.head={kind: byte}"))
    rows = sheet(differing_keys(results.results))
    assert rows["inner.head.kind"] == ["gmm", "byte"]
    assert rows["inner.head.components"] == ["4", "–"]
    assert "inner.head" not in rows and "inner.width" not in rows


def test_neither_seed_nor_machine_is_a_difference():
    results, _ = compared(run(), run("machine.threads=2", seed=1))
    assert len(differing_keys(results.results)) == 1


def test_readings_are_side_by_side_with_their_seeds(arms):
    results, _ = compared(*arms.values())
    rows = sheet(metric_rows(results.results))
    assert rows["seeds"] == ["0, 1, 2"] * 3
    assert rows["bits/dim ↓"][1] == "2.434 ± 0.624"  # as in the study's own table
    assert rows["parameters"] == ["12,345"] * 3


def test_arms_of_common_seeds_are_paired(arms):
    first, second, _ = arms.values()
    sentences = comparison_lines(compared(first, second)[0])
    (line,) = [line for line in sentences if line.startswith("bits/dim: components=2")]
    assert line.startswith(
        "bits/dim: components=2 against components=1: -0.099 ± 0.002 (paired, n = 3, "
    )
    assert line.endswith(": better")


def test_the_first_is_the_baseline(arms):
    first, second, _ = arms.values()
    assert any(
        "components=1 against components=2: +0.099" in line
        for line in comparison_lines(compared(second, first)[0])
    )


def test_without_a_common_seed_means_are_compared():
    """One spread of a run for both arms, by all their seeds."""
    a, b = [2.0, 2.1, 2.2], [3.0, 3.2]
    for i, bits in enumerate(a):
        one = run(seed=i, bits=bits)
    for i, bits in enumerate(b):
        other = run("outer.width=32", seed=10 + i, bits=bits)
    results, _ = compared(one.parent, other.parent)
    (effect, *_) = results.analysis.effects

    assert "bits/dim: " in effect.line and "+1.000 ± " in effect.line
    assert effect.test.counts == (2, 3) and effect.seeds == "n = 2 and 3"
    equal = ttest_ind(b, a).pvalue
    assert equal < effect.p < 5 * equal and effect.answer == "worse"


def test_without_a_common_seed_holm_is_over_all_that_is_named():
    paths = []
    for i, bits in enumerate((2.0, 2.6, 2.0, 2.1)):
        for seed, off in enumerate((0.0, 0.1, 0.24, 0.3)):
            path = run(f"outer.width={16 + 16 * i}", seed=10 * i + seed, bits=bits + off)
        paths.append(path.parent)
    effects = [effect for effect in compared(*paths)[0].analysis.effects if effect.metric == BITS]

    assert [effect.test.counts for effect in effects] == [(4, 4)] * 3
    assert [effect.adjusted for effect in effects] == holm([effect.p for effect in effects])
    assert effects[0].adjusted == pytest.approx(3 * effects[0].p)


def test_arms_of_a_study_have_the_numbers_of_its_report(arms):
    """Of two of its three arms, in the same spread and family; with another baseline,
    in the family of that.
    """
    sentences = analysed(read_plan(Path("study.yaml"))).differences
    text = comparison_lines(compared("study.yaml:components=1", "study.yaml:components=4")[0])
    assert (
        text[:-1] == [line for line in sentences if "components=4 against components=1" in line]
        and len(text) == 4
    )
    assert (
        text[-1]
        == "Spreads and Holm's correction are over all arms of the study study, as in its report."
    )
    other = comparison_lines(compared("study.yaml:components=4", "study.yaml:components=2")[0])
    assert "spread of 3 arms" in other[0] and "its report has another baseline" in other[-1]

    bare = comparison_lines(compared(*list(arms.values())[:2])[0])
    assert "of 3 arms" not in bare[0] and "over all arms of what is named here" in bare[-1]


def restated(name, **keys):
    """A study of the finished runs that says otherwise what matters, or how spreads are pooled."""
    write_study(name, axes={"inner.head.components": [1, 2, 4]}, seeds=[0, 1, 2], **keys)


def effect_of(*words):
    """The difference of the second arm in bits/dim, and the lines of the comparison."""
    comparison, _ = compared(*words)
    (effect,) = [
        effect
        for effect in comparison.analysis.effects
        if effect.metric == BITS and effect.arm == comparison.results.arms[1].name
    ]
    return effect, comparison_lines(comparison)


def test_margins_and_pooling_of_the_arms_study_hold(arms):
    restated("wide", matters={"bits/dim": 1.0}, pool="none")
    words = ["wide.yaml:components=1", "wide.yaml:components=2"]
    effect, lines = effect_of(*words)
    assert effect.margin == 1.0 and effect.answer == "equivalent" and effect.spread.arms < 3
    assert not any("margins" in line for line in lines)
    assert effect_of("study.yaml:components=1", "study.yaml:components=2")[0].answer == "better"

    mixed, lines = effect_of(words[0], arms["components=2"])  # a folder states nothing
    assert mixed.margin == 1.0 and not any("margins" in line for line in lines)


def test_margins_of_two_studies_that_differ_are_the_default_and_said(arms):
    restated("wide", matters={"bits/dim": 1.0}, pool="none")
    effect, lines = effect_of("wide.yaml:components=1", "study.yaml:components=2")
    assert effect.margin == 0.02 and effect.answer == "better"
    assert lines[-1] == (
        "Their studies state different margins (matters); the default holds here: 0.02 bits/dim,"
        " 0.02 bits/dim at Δ, 0.02 bits/dim at stated Δ, 0.5 FD digits, 0.5 FD fashion. One of"
        " their studies says pool: none, so each pair has its own spread."
    )

    restated("alike", matters={"bits/dim": 1.0}, pool="none")
    effect, lines = effect_of("wide.yaml:components=1", "alike.yaml:components=2")
    assert effect.margin == 1.0 and not any("margins" in line for line in lines)


def test_arms_at_two_budgets_of_one_study_have_its_margins():
    plan = read_plan(
        write_study(
            axes={"inner.head.components": [1, 2]},
            budget={"training.steps": [1, 2]},
            matters={"bits/dim": 1.0},
            seeds=[0, 1],
        )
    )
    for arm in plan.arms:
        for seed in plan.seeds:
            folder, recipe = plan.cell(arm, seed)
            write_sealed(folder.evaluation(recipe) / "report.json", report_of(2.0 + seed / 1000))
    effect, _ = effect_of(*[f"study.yaml:components=1 @ steps×{n}" for n in (1, 2)])
    assert effect.margin == 1.0


def test_a_run_that_lies_far_off_is_named_with_its_folder():
    bits = {16: [2.0, 2.1, 2.4], 32: [3.0, 3.09, 90.0], 48: [4.0, 4.08, 4.33]}
    paths = {
        (width, seed): run(f"outer.width={width}", seed=seed, bits=value)
        for width, values in bits.items()
        for seed, value in enumerate(values)
    }

    (text,) = [
        line
        for line in compared(*(paths[width, 0].parent for width in bits))[1]
        if "is far from" in line
    ]
    assert (
        "seed 2 is far from its arm's other seeds in bits/dim, bits/dim at Δ: look at "
        f"{paths[32, 2]}." in text
    )


def test_two_references_are_not_concluded():
    paths = [run(seed=seed) for seed in (0, 1)] + [
        run("outer.width=32", seed=seed) for seed in (0, 1)
    ]
    for path in paths:
        (file,) = path.glob("evaluations/*/report.json")
        report, other = report_of(2.0), path in paths[2:]
        report["metrics"]["quality/fd_inception64"] = (0.03 if other else 0.01) + 1e-4 * (
            path.name == "seed_1"
        )
        reference = {"file": "half.npz" if other else "whole.npz", "images": 320}
        report["fidelity"] = {"images": 80, "extractor": "inception/64/a", "reference": reference}
        write_sealed(file, report)

    results, _ = compared(paths[0].parent, paths[2].parent)
    (line,) = [line for line in comparison_lines(results) if line.startswith("FD Inception 64")]

    reason = "distances are to two references (half.npz and whole.npz)"
    assert line.endswith(f"reads worse: not concluded, for {reason}")


def test_single_runs_resolve_nothing():
    sentences = comparison_lines(compared(run(seed=0), run(seed=1))[0])
    assert len(sentences) == 3 and all(
        line.endswith("one seed resolves nothing") for line in sentences
    )
    assert "bits/dim: " in sentences[0] and "+0.100 (n = 1)" in sentences[0]


def test_one_seed_of_each_is_paired_and_resolves_nothing(arms):
    first, second, _ = arms.values()
    results, _ = compared(first / "seed_0", second / "seed_0")
    assert [arm.name for arm in results.results.arms] == [
        "components=1/seed_0",
        "components=2/seed_0",
    ]
    assert all(
        line.endswith("(n = 1): one seed resolves nothing") for line in comparison_lines(results)
    )


# How things are named


def test_an_arm_is_named_by_its_studys_file_or_folder(arms):
    for place in ("study.yaml", "studies/study"):
        results, _ = compared(f"{place}:components=2", f"{place}:components=4")
        assert [arm.name for arm in results.results.arms] == ["components=2", "components=4"]
        assert results.results.arms[0].values(BITS)[0] == pytest.approx(2.4)


def test_a_studys_folder_knows_its_overrides():
    plan = read_plan(
        write_study(axes={"inner.head.components": [1, 2]}), {"training": {"steps": 8}}
    )
    for arm in plan.arms:
        folder, recipe = plan.cell(arm, 0)
        write_sealed(folder.evaluation(recipe) / "report.json", report_of(2.0))
    save_cells(plan, Path("study.yaml"), ["training.steps=8"])

    results, _ = compared(f"{plan.folder}:components=1", f"{plan.folder}:components=2")
    assert results.results.arms[0].settings["training"]["steps"] == 8


def test_arms_of_one_name_are_told_apart(arms):
    write_study("other", axes={"inner.head.components": [1, 2, 4]})
    Path("base.yaml").write_text(
        Path("base.yaml").read_text().replace("temperature: 1.0", "temperature: 0.9")
    )
    plan = read_plan(Path("other.yaml"))
    folder, recipe = plan.cell(plan.arms[0], 0)
    write_sealed(folder.evaluation(recipe) / "report.json", report_of(2.0))
    first = next(iter(arms.values()))

    results, _ = compared(first / "seed_1", "other.yaml:components=1")
    assert sheet(differing_keys(results.results))["sampler.temperature"] == ["1.0", "0.9"]


# Under which conditions


def test_alike_is_said_with_no_word(arms):
    assert compared(*arms.values())[1] == []


@pytest.mark.parametrize(
    ("overrides", "message", "words"),
    [
        ((), {"commit": "defdef"}, ["Versions of the code differ", "abc", "defdef"]),
        (("evaluation.draws=2",), {}, ["Evaluation settings differ", "evaluation.draws"]),
        (("codec.patch=4",), {}, ["Codecs differ", "codec.patch"]),
        (
            (),
            {"kind": "bound", "steps": 8},
            ["Likelihoods are of different kinds", "bound of pixel", "exact of pixel"],
        ),
    ],
)
def test_other_conditions_are_said(overrides, message, words):
    other = run("outer.width=32", *overrides, **message)
    (line,) = compared(run(), other)[1]
    assert line.startswith("Caution: ") and all(word in line for word in words), line


def test_other_numbers_of_items_are_said():
    paths = [run(), run("outer.width=32")]
    for path, images in zip(paths, (360, 100), strict=True):
        (file,) = path.glob("evaluations/*/report.json")
        report = report_of(2.0)
        report["likelihood"]["images"] = images
        write_sealed(file, report)

    (text,) = compared(*paths)[1]
    assert (
        "other numbers of items" in text
        and "360 held-out, 1 draw(s)" in text
        and "100 held-out" in text
    )


def test_other_devices_are_said():
    paths = [run(), run("outer.width=32")]
    for path, device in zip(paths, ("a CPU", "a GPU"), strict=True):
        (file,) = path.glob("evaluations/*/report.json")
        report = report_of(2.0)
        report["environment"] = {"device": device, "torch": "2.15"}
        report["speed"]["device"] = device
        write_sealed(file, report)

    text = compared(*paths)[1]
    assert (
        len(text) == 2
        and "Devices differ" in text[0]
        and "a GPU" in text[0]
        and "Speed was measured" in text[1]
    )


def test_unfinished_seeds_are_named_and_the_others_compared(arms):
    first, second, _ = arms.values()
    (report,) = (second / "seed_2").glob("evaluations/*/report.json")
    report.unlink()
    results, cautions = compared(first, second)
    assert cautions == ["Missing: components=2 seed 2: not finished, or not evaluated alike."]
    assert sheet(metric_rows(results.results))["seeds"] == ["0, 1, 2", "0, 1"]
    assert any("(paired, n = 2, " in line for line in comparison_lines(results))


def test_a_seed_that_was_evaluated_otherwise_is_no_part_of_the_mean():
    run(seed=0), run(seed=1)
    recipe = tiny("seed=2")
    folder = RunFolder.of(recipe, "a run")
    other = replace(recipe, sampler=replace(recipe.sampler, temperature=0.5))
    folder.write_config(other)
    write_sealed(folder.evaluation(other) / "report.json", report_of(1.0))
    results, cautions = compared(folder.path.parent, run("outer.width=32"))
    assert list(results.results.reports["a_run"]) == [0, 1] and "seed 2" in cautions[0]


# Shown, and refused


def test_the_terminal_shows_all_of_it(arms, capsys):
    assert arinar("compare", *arms.values()) == 0
    stdout = capsys.readouterr().out
    for words in (
        "Configuration",
        "inner.head.components",
        "Result",
        "bits/dim ↓",
        "FD digits ↓",
        "better",
    ):
        assert words in stdout


def test_markdown_is_markdown(arms, capsys):
    assert arinar("compare", "--markdown", *arms.values()) == 0
    stdout = capsys.readouterr().out
    assert (
        "| inner.head.components | 1 | 2 | 4 |" in stdout
        and "## Differences to the first" in stdout
    )
    lines = [line for line in stdout.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {5}


def test_nothing_differs_is_said(capsys):
    assert arinar("compare", run(seed=0), run(seed=1)) == 0
    assert "Configuration: no difference" in capsys.readouterr().out


def test_bad_input_is_one_line(arms, capsys):
    first = next(iter(arms.values()))
    refused(capsys, "needs at least two", first)
    refused(capsys, "nowhere: no run and no arm; name runs/ARM", first, "nowhere")
    refused(capsys, "study.yaml: a study; name one of its arms", first, "study.yaml")
    refused(
        capsys, "'components=3' is no arm; one of components=1", first, "study.yaml:components=3"
    )
    refused(capsys, "nowhere.yaml: no such file", first, "nowhere.yaml:components=3")
    refused(capsys, "runs: not a study's folder", first, "runs:components=3")
    refused(capsys, "seed 0 is the same run as in", first, first / "seed_0")


def test_what_is_not_finished_is_refused(arms, capsys):
    first, second, _ = arms.values()
    for report in second.glob("*/evaluations/*/report.json"):
        report.unlink()
    refused(capsys, "no seed of it is finished", first, second)
    refused(capsys, "is not finished", first, second / "seed_0")


def test_a_damaged_configuration_names_its_file(arms, capsys):
    first, second, _ = arms.values()
    (second / "seed_0" / "config.yaml").write_text("seed: 1")
    refused(capsys, "seed_0/config.yaml: data: missing", first, second)
