"""Reports: they are written whatever is missing, and say what it is and what may be concluded."""

import csv
import math
from collections import Counter
from pathlib import Path

import pytest
from reports import BITS, FD, analysed, full_report, report_of, study, whole, whole_and_full
from tiny import tiny, write_study

from arinar_lab.analysis import analyse, comparison
from arinar_lab.analysis.conditions import NO_DISTANCES
from arinar_lab.analysis.rankings import pareto
from arinar_lab.cli import ablate
from arinar_lab.cli.ablate import report_study
from arinar_lab.errors import ConfigError, Diverged
from arinar_lab.output.names import breakable_name, join_names
from arinar_lab.output.terminal import Terminal
from arinar_lab.report.report import write_report
from arinar_lab.report.statements import notes
from arinar_lab.report.tables import plain_table, report_markdown, runs_csv, terminal_table
from arinar_lab.runs.folder import RunFolder, write_json, write_sealed
from arinar_lab.study.collect import collect
from arinar_lab.study.plan import read_plan

pytestmark = pytest.mark.usefixtures("alone")


def text_of(plan):
    return report_markdown(analysed(plan))


def lines(text, start):
    return [line for line in text.splitlines() if line.startswith(start)]


def table(plan):
    """Table of the report: arm → heading → cell."""
    results = analysed(plan)
    headings, body = plain_table(results, results.columns)
    return {row[0]: dict(zip(headings, row, strict=True)) for row in body}


# Quality by the published protocol


def test_distances_and_their_floor_stand_in_the_table_and_under_it():
    reports = whole()
    for (arm, seed), report in reports.items():
        report["metrics"] |= {
            "quality/fid": 20.0 + seed + (arm == "components=2"),
            "quality/fid_floor": 1.25,
        }
        report["fidelity"] = {
            "images": 5000,
            "extractor": "inception-v3-compat/2048/abc",
            "floor_images": 4000,
            "reference": {"file": "adm_in256_stats.npz"},
        }

    plan = study(reports)
    result = table(plan)
    assert result["components=2"]["FID ↓"] == "22.00 ± 2.48"
    floor = result["held-out images"]
    assert (floor["FID ↓"], floor["bits/dim ↓"]) == ("1.25 (4,000 images)", "")
    assert floor["FD digits ↓"] == "2.17 (360 images)"  # of 100 generated ones
    text = text_of(plan)
    assert lines(text, "- FID: components=2 against components=1: +1.00")
    (message,) = lines(
        text,
        "- By the published protocol: features of inception-v3-compat/2048/abc, 5,000 "
        "generated images",
    )

    assert (
        "against adm_in256_stats.npz; " in message
        and "Floor: 4,000 held-out images, encoded and decoded" in message
    )
    assert "FID" in str([column.header for column in terminal_table(analysed(plan), 200).columns])


def test_precision_and_recall_have_their_floor_and_a_distance_that_of_as_many_images():
    reports = whole()
    for report in reports.values():
        report["quality"] |= {"images": 1437}
        report["metrics"] |= {
            "quality/fd_digits_few": report["metrics"][FD] + 1.5,
            "quality/precision_floor": 0.917,
            "quality/recall_floor": 0.919,
        }
    floor = table(study(reports))["held-out images"]

    assert (floor["precision ↑"], floor["recall ↑"]) == ("0.917", "0.919")
    assert (floor["FD digits ↓"], floor["FD digits (few) ↓"]) == ("2.17 (360 images)", "2.17")


def test_each_codec_has_its_own_floor():
    reports = {
        (f"patch={n}", 0): report_of(2.0, **{"quality/fid": 9.0, "quality/fid_floor": float(n)})
        for n in (2, 4)
    }
    result = table(study(reports, seeds=(0,), axes={"codec.patch": [2, 4]}))
    assert result["held-out images by the codec of patch=4"]["FID ↓"] == "4.00"
    assert result["held-out images by the codec of patch=2"]["FID ↓"] == "2.00"


# A whole study


def test_a_whole_study_writes_its_files():
    plan = study(whole())
    paths = write_report(analysed(plan))
    texts = ["report.html", "table.md", "table.tex", "table.csv", "methods.md"]
    pictures = ["factor.png", "factor.pdf", "speed.png", "speed.pdf"]
    assert paths == [plan.folder / "report" / name for name in texts + pictures]
    assert all(path.is_file() for path in paths)
    assert (plan.folder / "report" / "table.md").read_text() == report_markdown(analysed(plan))


def test_each_arm_has_its_mean_and_interval():
    cell = table(study(whole()))["components=2"]
    assert cell["seeds"] == "3 of 3"
    assert cell["bits/dim ↓"] == "2.434 ± 0.624"  # of 2.4, 2.701, 2.202
    assert cell["FD digits ↓"] == "21.00 ± 2.48"
    assert cell["parameters"] == "12,345"


def test_the_baseline_is_marked():
    assert "components=1 (baseline)" in table(study(whole()))
    assert "components=4 (baseline)" in table(study(whole(), baseline="components=4"))


def test_differences_are_paired_by_seed():
    """The spread over seeds is 0.5, and yet a tenth is resolved."""
    sentences = analysed(study(whole())).differences
    better, same = (
        line for line in sentences if "components=2 against" in line and "at Δ" not in line
    )
    assert better.startswith(
        "bits/dim: components=2 against components=1: -0.099 ± 0.004 (paired, n = 3, spread of 3"
    )
    assert better.endswith("better")
    assert same.startswith(
        "FD digits: components=2 against components=1: +0.00 [+0.00, +0.00] (paired, n = 3, "
    )
    assert same.endswith("the same in every seed")
    assert not any("components=1 against" in line for line in sentences)


def test_worse_is_worse():
    sentences = analysed(study(whole(), baseline="components=4")).differences
    assert any(
        line.startswith("bits/dim: components=1 against components=4: +0.19")
        and line.endswith("worse")
        for line in sentences
    )


def test_the_csv_has_a_row_for_each_run_and_a_column_for_each_metric():
    read = list(csv.DictReader(runs_csv(analysed(study(whole_and_full()))).splitlines()))
    assert len(read) == 9
    assert (
        read[3]["arm"] == "components=2"
        and read[3]["inner.head.components"] == "2"
        and read[3]["seed"] == "0"
    )
    assert float(read[3][BITS]) == pytest.approx(2.4)
    assert {FD, "quality/fd_digits_floor", "speed/images_per_second"} <= set(read[0])
    assert (read[3][f"{BITS} ± over images"], read[3]["commit"], read[3]["device"]) == (
        "0.004",
        "abc",
        "a CPU",
    )


def test_markdown_has_a_table_with_as_many_cells_in_each_row():
    text = text_of(study(whole()))
    assert len({line.count("|") for line in lines(text, "|")}) == 1
    assert len(lines(text, "| components=")) == 3 and "How many?" in text


def test_the_notes_say_how_to_read_the_numbers():
    sentences = " ".join(notes(analysed(study(whole()))))
    for words in (
        "95 % t-interval",
        "not Inception, so no FID",
        "FD of 360 held-out images against the same is 2.17",
        "compare 100 generated images with 1,437",
        "a bound for the integers",
        "batch 4 and batch 1",
    ):
        assert words in sentences

    assert "Missing" not in sentences and "Caution" not in sentences


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_in_no_mean_and_is_said(value):
    reports = whole_and_full()
    reports["components=2", 1]["metrics"][BITS] = value
    results = analysed(study(reports))
    (line,) = [line for line in results.differences if line.startswith("bits/dim: components=2 ")]

    assert "nan" not in line and "(paired, n = 2," in line
    assert line.endswith("Caution: components=2 seed 1 is not finite and left out")
    assert any(
        "Not finite, and in no mean: bits/dim of components=2 seed 1." in note
        for note in notes(results)
    )
    assert table(study(reports))["components=2"]["bits/dim ↓"].startswith("2.301 ± 1.258, n = 2")


def test_an_arm_without_a_common_seed_is_said_not_to_be_compared():
    reports = {
        cell: report
        for cell, report in whole().items()
        if cell not in {("components=2", 0), ("components=2", 1)}
    }
    del reports["components=1", 2]
    sentences = " ".join(notes(analysed(study(reports))))

    assert (
        "Compared without pairs, which resolves less, for want of a seed in common with the "
        "baseline: components=2." in sentences
    )
    assert "Not compared" not in " ".join(notes(analysed(study(whole()))))


@pytest.mark.parametrize(
    ("part", "key", "message"),
    [("likelihood", "images", "held-out items"), ("speed", "batch", "the speed's batch")],
)
def test_other_settings_of_a_measurement_are_said(part, key, message):
    reports = whole_and_full()
    reports["components=2", 1][part][key] += 1
    assert any("Caution" in note and message in note for note in notes(analysed(study(reports))))


def test_a_cell_has_both_kinds_of_noise_and_n():
    """Evaluation noise over the seeds is its root mean square; training noise of
    one seed is unknown.
    """
    reports = {
        ("components=1", 0): full_report(2.5),
        ("components=2", 0): full_report(2.4),
        ("components=2", 1): full_report(2.6),
    }
    reports["components=2", 1]["noise"][BITS] = 0.008
    del reports["components=2", 1]["metrics"][FD]
    result = table(study(reports))

    assert result["components=1 (baseline)"]["bits/dim ↓"] == "2.500 (± 0.004)"
    # √((4² + 8²) / 2) = 6.3 thousandths
    assert result["components=2"]["bits/dim ↓"] == "2.500 ± 1.271 (± 0.006)"
    assert result["components=2"]["FD digits ↓"] == "10.00, n = 1 (± 0.60)"
    assert result["components=2"]["seeds"] == "2 of 3"


def test_bold_is_what_is_resolved_as_better_and_italic_as_worse():
    assert "| **2.434** ± 0.624 |" in text_of(study(whole()))
    text = text_of(study(whole(), baseline="components=4"))
    assert "| *2.434* ± 0.624 |" in text and "**" not in text


def test_of_one_seed_nothing_is_bold():
    one = {cell: report for cell, report in whole().items() if cell[1] == 0}
    assert "*" not in "".join(lines(text_of(study(one)), "|"))


# What is missing


def test_nothing_finished_says_so_and_draws_nothing():
    plan = study({})
    assert all(
        path.is_file() and path.suffix not in (".png", ".pdf")
        for path in write_report(analysed(plan))
    )
    text = (plan.folder / "report" / "table.md").read_text()
    assert "No cell is finished." in text and "| components=1 (baseline) | 0 of 3 |" in text


def test_an_unfinished_arm_is_named():
    reports = {cell: report for cell, report in whole().items() if cell[0] != "components=2"}
    plan = study(reports)
    text = text_of(plan)
    assert "Missing: components=2 seed 0, components=2 seed 1, components=2 seed 2." in text
    assert (
        table(plan)["components=2"]["seeds"] == "0 of 3"
        and table(plan)["components=2"]["bits/dim ↓"] == ""
    )


def test_an_unfinished_baseline_leaves_nothing_to_compare_with():
    plan = study({cell: report for cell, report in whole().items() if cell[0] != "components=1"})
    assert analysed(plan).differences == []
    assert "Missing: components=1 seed 0" in text_of(plan)


def test_a_single_seed_resolves_nothing():
    plan = study({cell: report for cell, report in whole().items() if cell[1] == 0})
    assert table(plan)["components=2"]["bits/dim ↓"] == "2.400"
    sentences = analysed(plan).differences
    assert sentences and all(
        line.endswith("(n = 1): one seed resolves nothing") for line in sentences
    )
    assert "Nothing may be concluded about arms with fewer than two seeds" in text_of(plan)


def test_a_study_of_one_seed_is_told_the_same():
    plan = study({cell: report for cell, report in whole().items() if cell[1] == 0}, seeds=(0,))
    assert all(line.endswith("one seed resolves nothing") for line in analysed(plan).differences)
    assert "Missing" not in text_of(plan)


def test_only_common_seeds_are_compared():
    reports = whole()
    del reports["components=2", 2]
    sentences = analysed(study(reports)).differences
    assert any("components=2 against" in line and "(paired, n = 2," in line for line in sentences)
    assert any("components=4 against" in line and "(paired, n = 3," in line for line in sentences)


def test_a_failed_arm_is_told_with_its_reason_and_status_one(capsys):
    reports = {cell: report for cell, report in whole().items() if cell[0] != "components=4"}
    plan = study(reports, seeds=(0, 1))
    for seed in (0, 1):
        plan.cell(plan.arms[2], seed)[0].fail(Diverged("the loss became nan at step 3"))
    assert report_study(plan, collect(plan), Terminal(width=200)) == 1
    stdout = capsys.readouterr().out
    assert stdout.count("Diverged: the loss became nan at step 3") == 2  # with their folders
    assert report_study(plan, collect(plan), Terminal(width=200), verbose=True) == 1
    stdout = capsys.readouterr().out

    # in the notes, too
    assert stdout.count("Diverged: the loss became nan at step 3") == 4
    assert "Missing: components=4 seed 0, components=4 seed 1" in stdout
    assert (plan.folder / "report" / "factor.png").is_file()


def test_a_whole_study_has_status_zero_and_shows_where_to_look(capsys):
    plan = study(whole())
    assert report_study(plan, collect(plan), Terminal(width=200)) == 0
    stdout = capsys.readouterr().out
    assert "How many?" in stdout and f"Everything else: {plan.folder}/report/report.html" in stdout
    assert "table.md" not in stdout and "Cohen's d" not in stdout and "Holm" not in stdout
    assert report_study(plan, collect(plan), Terminal(width=200), verbose=True) == 0
    stdout = capsys.readouterr().out
    assert (
        "report/report.html" in stdout and "report/table.md" in stdout and "make mlflow" in stdout
    )
    assert "2 figures beside them" in stdout


def test_speed_that_is_not_measured_yet_is_left_out():
    plan = study({cell: report_of(2.0 + cell[1] / 10, speed=False) for cell in whole()})
    text = text_of(plan)
    assert "images/s" not in text and "Speed:" not in text


# What the numbers are


def masked(bits, **sections):
    return report_of(bits, kind="bound", steps=8, **sections)


def test_a_bound_is_labelled_with_its_steps():
    reports = {**whole(), **{("components=2", seed): masked(2.0 + seed / 10) for seed in range(3)}}
    cells = table(study(reports))
    assert cells["components=2"]["likelihood"] == "bound, 8 steps"
    assert cells["components=4"]["likelihood"] == "exact"


@pytest.mark.parametrize("unit", ["latent", "token"])
def test_what_are_no_pixels_is_labelled(unit):
    reports = {cell: report_of(2.0 + cell[1] / 10, unit=unit) for cell in whole()}
    plan = study(reports)
    assert table(plan)["components=2"]["likelihood"] == f"exact, {unit}"
    assert any(f"of the raw {unit}s, not of pixels" in note for note in notes(analysed(plan)))


def test_references_are_not_ours():
    plan = study(whole(), references=True)
    write_json(
        plan.folder / "references.json",
        {"scikit-learn GaussianMixture": 2.6161, "scikit-learn KernelDensity": 3.2},
    )
    cell = table(plan)["scikit-learn GaussianMixture (not ours)"]

    assert (cell["bits/dim ↓"], cell["likelihood"], cell["FD digits ↓"], cell["seeds"]) == (
        "2.616",
        "exact",
        "",
        "",
    )
    assert "| scikit-learn KernelDensity (not ours) |" in text_of(plan)
    assert not any("scikit-learn" in line for line in analysed(plan).differences)


def test_references_are_fitted_once(monkeypatch):
    plan, calls = study(whole(), references=True), []
    monkeypatch.setattr(
        ablate, "baseline_bits", lambda recipe: calls.append(recipe) or {"an estimator": 2.5}
    )
    for _ in range(2):
        ablate._measure(plan, Terminal())
    assert len(calls) == 1 and "an estimator (not ours)" in table(plan)


def test_one_bad_run_does_not_keep_the_others_from_their_report(monkeypatch):
    reports = whole()
    for report in reports.values():
        report["metrics"].pop("speed/images_per_second", None)
    plan, timed = study(reports), []

    def measure(recipe, folder):
        if not timed:
            timed.append(None)
            raise ConfigError("final.safetensors: damaged or edited")
        timed.append(folder)

    monkeypatch.setattr(ablate, "measure_speed", measure)
    (fault,) = ablate._measure(plan, Terminal())
    assert len(timed) == len(plan.jobs) and fault.endswith(
        "is not measured: final.safetensors: damaged or edited"
    )


def test_a_report_without_likelihood_and_origin_is_compared_all_the_same():
    reports = whole()
    for name in ("likelihood", "git"):
        reports["components=2", 1].pop(name)
    assert analysed(study(reports)).differences


def test_references_are_asked_for(monkeypatch):
    monkeypatch.setattr(ablate, "baseline_bits", lambda _: pytest.fail("nobody asked"))
    ablate._measure(study(whole()), Terminal())


def test_runs_of_different_code_are_warned_about():
    reports = {**whole(), ("components=4", 2): report_of(2.0, commit="def")}
    text = text_of(study(reports))
    assert "Caution: these runs differ in the code's version." in text
    assert "Code at commit abc (but def in components=4 seed 2)." in text


def test_a_row_names_every_kind_of_likelihood_in_it():
    reports = {**whole(), ("components=2", 0): masked(2.0)}
    assert table(study(reports))["components=2"]["likelihood"] == "bound, 8 steps / exact"


def test_reports_of_another_training_are_said():
    reports = whole_and_full()
    reports["components=4", 1]["training_signature"] = "1234abcd"
    sentences = (
        "Caution: these reports are of another training than the arm's: components=4 seed 1."
    )
    assert sentences in text_of(study(reports))


def test_an_unreadable_report_is_no_missing_run():
    plan = study(whole())
    folder, recipe = plan.cell(plan.arms[1], 1)
    (folder.evaluation(recipe) / "report.json").write_text("{")
    text = text_of(plan)
    assert "Missing: components=2 seed 1." in text and "- Unreadable: runs/components=2" in text
    assert "Where seeds are missing because they failed" in text


def test_a_metric_that_matters_and_is_not_measured_is_named():
    line = "Named in matters, and measured by no run: FID."
    assert line in text_of(study(whole(), matters={"bits/dim": 0.02, "FID": 1}))
    assert "Named in matters" not in text_of(study(whole(), matters={"bits/dim": 0.02}))
    assert "Named in matters" not in text_of(study(whole()))


def test_few_seeds_are_no_claim():
    assert "A claim should rest on 5 seeds." in text_of(study(whole()))


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("likelihood", "exact", "likelihood: not a mapping"),
        ("metrics", [1], "metrics: not a mapping"),
        ("metrics", {BITS: True}, "metrics.val/bits_per_dim: True is not a number"),
        (
            "metrics",
            {"speed/images_per_second": 0.0},
            "metrics.speed/images_per_second: not above 0",
        ),
    ],
)
def test_reports_of_another_form_are_refused_in_one_line(section, value, message):
    reports = whole()
    reports["components=1", 0][section] = value
    with pytest.raises(ConfigError, match=message):
        analysed(study(reports))


def test_a_report_that_lacks_parts_is_told_all_the_same():
    reports = whole_and_full()
    first = reports["components=1", 0]
    del first["speed"]["threads"], first["quality"]["floor_images"]
    plan = study(reports)
    write_report(analysed(plan))
    assert "images/s: the front of means" in text_of(plan)


def test_speeds_that_were_not_taken_alike_are_said():
    reports = whole_and_full()
    reports["components=4", 0]["metrics"]["speed/images_per_second"] *= 0.5
    assert "differ from seed to seed by more than 30% (components=4)" in text_of(study(reports))
    reports = whole_and_full()
    for (_, seed), report in reports.items():
        report["speed"]["gflops"] = 100.0 if seed else 60.0

    assert "(its matrix product 60 to 100 GFLOP/s when speeds were taken)" in text_of(
        study(reports)
    )


def test_latents_have_no_place_among_pixels():
    reports = whole()
    for seed in range(3):
        reports["components=4", seed]["likelihood"]["unit"] = "latent"
    (line,) = lines(text_of(study(reports)), "- bits/dim against images/s")
    assert "components=4" not in line


def test_a_busy_machine_is_said_where_speeds_are():
    reports = whole_and_full()
    assert "Caution" not in text_of(study(reports))
    reports["components=2", 1]["speed"]["load_average"] = 5.5
    sentences = (
        "Caution: other programs were at work while 1 of 9 speeds were taken (load average up "
        "to 5.5 on 2 CPUs)"
    )
    assert sentences in text_of(study(reports))


def test_what_was_measured_on_other_numbers_of_images_is_said_at_the_difference():
    reports = whole()
    for seed in range(3):
        reports["components=2", seed]["quality"]["images"] = 50
    sentences = [line for line in analysed(study(reports)).differences if "Caution" in line]
    assert [line.split(":")[:2] for line in sentences] == [
        ["FD digits", " components=2 against components=1"]
    ]
    assert sentences[0].endswith("Caution: the runs differ in quality.images (100, 50)")


def test_units_that_are_mixed_within_an_arm_are_said():
    reports = {**whole(), ("components=4", 2): report_of(2.0, unit="latent")}
    assert "Caution: these runs differ in what bits/dim are of (within components=4)." in text_of(
        study(reports)
    )


def test_bits_per_dim_of_other_held_out_images_are_named():
    reports = whole()
    for (arm, _), report in reports.items():
        report["likelihood"]["held_out"] = "all" if arm == "components=4" else "extract"
    assert (
        "Bits/dim of different data cannot be compared, and are not (held-out images of"
        " components=1, components=2; of components=4)."
    ) in text_of(study(reports))


def test_images_without_distances_are_told_once():
    reports = whole()
    assert NO_DISTANCES not in text_of(study(reports))
    for report in reports.values():
        report["likelihood"]["held_out"] = "images"
        report["metrics"] = {
            name: value
            for name, value in report["metrics"].items()
            if not name.startswith("quality/")
        }
    assert text_of(study(reports)).count(NO_DISTANCES) == 1


def test_distances_of_clothing_name_their_classifier_and_the_part_they_compare_with():
    reports = whole()
    for report in reports.values():
        report["metrics"] = {
            name.replace("digits", "fashion"): value for name, value in report["metrics"].items()
        } | {"quality/fd_fashion_codec": 1.234}
        report["quality"] |= {"part": "held-out", "reference": 2000}
    text = text_of(study(reports))
    assert "generated images with 2,000 held-out images" in text
    assert "in the features of a fashion classifier" in text
    assert "FD of 360 training images against the same is 2.17" in text
    assert "encoded and decoded by the codec, is 1.23" in text
    assert "FD fashion" in text and "FD digits" not in text


def test_a_metric_that_is_no_number_is_refused(capsys):
    reports = whole()
    reports["components=1", 0]["metrics"][BITS] = "2.0"
    plan = study(reports)
    with pytest.raises(
        ConfigError, match=r"report.json: metrics.val/bits_per_dim: '2.0' is not a number; remove"
    ):
        collect(plan)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_the_terminal_keeps_the_arms_and_as_many_columns_as_fit(capsys, width):
    Terminal(width=width).print(terminal_table(analysed(study(whole())), width))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= width
    for words in ("components=4", "2.335 ± 0.623", "bits/dim"):
        assert words in shown
    assert ("images/s" in shown.split("seeds:")[0]) == (width >= 80)
    assert ("more in" in " ".join(shown.split())) == (width < 80)


def test_a_name_can_be_broken_behind_its_commas():
    assert (
        breakable_name("a=1,b=2") == breakable_name("a=1, b=2") == "a=1, b=2"
        and breakable_name("plain") == "plain"
    )


def test_a_report_of_many_differences_says_their_sum(monkeypatch, capsys):
    monkeypatch.setattr(ablate, "_LINES", 3)
    plan = study(whole())
    report_study(plan, collect(plan), Terminal(width=200), verbose=True)
    stdout = capsys.readouterr().out

    assert "bits/dim, against the baseline: better: components=2, components=4." in stdout
    assert (
        "Each difference with its interval: in report.html." in stdout
        and "bits/dim: components=2 against" not in stdout
    )


def test_names_with_commas_are_listed_with_semicolons():
    assert (
        join_names(["a", "b"]) == "a, b"
        and join_names(["a=1,b=2", "c"]) == "a=1,b=2; c"
        and join_names([]) == ""
    )


def test_truncation_is_shown_where_there_was_some():
    assert "truncated" not in text_of(study(whole()))
    reports = {**whole(), ("components=4", 2): report_of(2.0, **{"quality/truncated_share": 0.01})}
    assert table(study(reports))["components=4"]["truncated"].startswith("0.0033")


def test_arms_by_name_are_drawn_side_by_side():
    arms = {"a | b": {}, "wide": {"outer.width": 32}}
    plan = study(
        {(name, seed): report_of(2.0 + seed / 10) for name in arms for seed in (0, 1)},
        seeds=(0, 1),
        axes=None,
        arms=arms,
    )

    text = text_of(plan)
    assert len({line.replace("\\|", "").count("|") for line in lines(text, "|")}) == 1


def test_square_brackets_in_names_are_no_markup(capsys):
    arms = {"[red]x[/red]": {}, "wide": {"outer.width": 32}}
    plan = study(
        {(name, 0): report_of(2.0) for name in arms},
        seeds=(0,),
        axes=None,
        arms=arms,
        question="[1, 2]?",
    )
    Terminal(width=200).print(terminal_table(analysed(plan), 200))

    stdout = capsys.readouterr().out
    assert "[red]x[/red]" in stdout and "[1, 2]?" in stdout


def test_a_guidance_study_compares_evaluations_of_one_run():
    plan = read_plan(write_study(base=tiny(), axes={"sampler.guidance": [1.0, 2.0]}, seeds=[0, 1]))
    for arm in plan.arms:
        for seed in plan.seeds:
            folder, recipe = plan.cell(arm, seed)
            distance = 10 * recipe.sampler.guidance + seed / 10
            write_sealed(folder.path / "DONE", {"steps": 6, "seconds": 1.0})
            write_sealed(
                folder.evaluation(recipe) / "report.json", report_of(2.0, distance=distance)
            )

    assert len(list(Path("runs").glob("*"))) == 1
    assert (
        "FD digits: guidance=2.0 against guidance=1.0: +10.00 [+9.38, +10.64] (paired, n = 2, "
        in next(line for line in analysed(plan).differences if line.startswith("FD"))
    )


def test_a_report_compares_the_arms_once_and_reads_each_report_once(monkeypatch):
    """From the run folders to the terminal, the files and MLflow."""
    plan = study(whole_and_full(), full=True)
    calls = Counter()

    def count(place, name):
        original = getattr(place, name)

        def counted(*words, **keys):
            calls[name] += 1
            return original(*words, **keys)

        monkeypatch.setattr(place, name, counted)

    count(RunFolder, "report")
    for name in ("compare_arms", "outlying_runs", "agreements"):
        for module in (analyse, comparison, pareto):
            if name in vars(module):
                count(module, name)
    assert ablate.fetch_and_report(plan, Terminal(width=200)) == 0
    assert calls == {"compare_arms": 1, "outlying_runs": 1, "agreements": 1, "report": 9}
