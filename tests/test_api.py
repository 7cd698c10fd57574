"""A study read in Python: found by name or by time, as frames whose numbers are the report's,
and as trained models.
"""

from __future__ import annotations

import csv
import io
import math
import os
import shutil
from pathlib import Path

import pytest
from reports import analysed
from tiny import tiny, write_study

from arinar_lab import api
from arinar_lab.errors import ConfigError
from arinar_lab.files.atomic import write_atomically
from arinar_lab.report.tables import plain_table, runs_csv
from arinar_lab.runs.folder import read_json, write_sealed
from arinar_lab.study.plan import read_plan
from arinar_lab.study.status import save_cells

pytestmark = pytest.mark.usefixtures("alone")

BITS = "val/bits_per_dim"


def report_of(bits):
    return {
        "metrics": {
            BITS: bits,
            "quality/fd_digits": 10 * bits,
            "quality/fd_digits_floor": 2.0,
            "cost/parameters": 123,
        },
        "noise": {BITS: 0.25},
        "likelihood": {"kind": "exact", "unit": "pixel", "steps": None, "images": 360, "draws": 1},
        "quality": {
            "images": 100,
            "reference": 1437,
            "floor_images": 360,
            "kid": "over all images",
        },
        "diagnosis": {"by_feature": [bits - 1, bits + 1], "by_token": [bits, bits, bits]},
        "git": {"commit": "abc", "dirty": False},
    }


def study(name="study", seeds=(0, 1, 2), done=lambda arm, seed: True, **keys):
    """A study whose cells have reports that nobody trained for: bits/dim of 2, 3, … for each arm,
    plus a tenth a seed.
    """
    file = write_study(
        name, **{"arms": {"one": {}, "None": {"outer.width": 32}}, "seeds": list(seeds), **keys}
    )
    plan = read_plan(file)
    for i, arm in enumerate(plan.arms):
        for seed in (seed for seed in seeds if done(arm.name, seed)):
            folder, recipe = plan.cell(arm, seed)
            write_sealed(folder.path / "DONE", {"steps": 6, "seconds": 1.0})
            write_atomically(
                folder.path / "metrics.csv",
                f"step,name,value\n2,train/loss,{3 + seed}\n4,val/loss,{i}\n",
            )
            write_sealed(folder.evaluation(recipe) / "report.json", report_of(2 + i + seed / 10))

    save_cells(plan, file, [])
    write_atomically(plan.folder / "report" / "table.csv", runs_csv(analysed(plan)))

    return plan


# Which study


def test_a_study_is_opened_by_its_folder_or_its_file_from_anywhere_below(monkeypatch):
    plan = study()
    Path("notebooks").mkdir()
    monkeypatch.chdir("notebooks")
    for name in ("studies/study", "study.yaml", Path.cwd().parent / "studies" / "study"):
        results = api.open_study(name).results
        assert [len(by_seed) for by_seed in results.reports.values()] == [3, 3]
        assert results.folder == Path.cwd().parent / "studies" / plan.name
    assert Path.cwd().name == "notebooks"


def test_overridden_studies_are_opened_as_they_were_run():
    file = write_study(arms={"one": {}}, seeds=[0, 1])
    plan = read_plan(file, {"seeds": [7]})
    save_cells(plan, file, ["seeds=[7]"])
    folder, recipe = plan.cell(plan.arms[0], 7)
    write_sealed(folder.evaluation(recipe) / "report.json", report_of(2.0))
    assert api.open_study(plan.folder).results.seeds == (7,)


def test_the_newest_finished_study_is_read_where_none_is_named():
    for i, (name, done) in enumerate([("old", True), ("new", True), ("newest", False)]):
        plan = study(
            name,
            seeds=(0,),
            done=lambda arm, _, done=done: done or arm == "one",
            base=tiny(f"training.warmup={i}"),
        )
        os.utime(plan.folder / "report" / "table.csv", (i, i))

    assert api.open_study().results.name == "new"
    os.utime("studies/old/report/table.csv", (9, 9))

    assert api.open_study().results.name == "old"


def test_no_study_is_one_clear_line():
    with pytest.raises(ConfigError, match="holds no finished study; make one"):
        api.open_study()
    with pytest.raises(
        ConfigError, match=r"studies/none: not a study's folder; it holds no cells.json"
    ):
        api.open_study("studies/none")

    with pytest.raises(ConfigError, match=r"none.yaml: no such file"):
        api.open_study("none.yaml")
    study(done=lambda *_: False)
    with pytest.raises(
        ConfigError, match="nothing of this study is finished; run it first: arinar ablate"
    ):
        api.open_study("studies/study")


def test_what_is_not_finished_is_named():
    study(done=lambda arm, seed: arm == "one" or seed == 1)
    assert api.missing(api.open_study("study.yaml")) == ["None seed 0", "None seed 2"]


# Frames


def test_the_frame_of_runs_is_the_reports_csv():
    results = analysed(study())
    frame, lines = api.runs(results), list(csv.DictReader(io.StringIO(runs_csv(results))))
    assert list(frame.columns) == list(lines[0]) and len(frame) == len(lines) == 6
    assert list(frame.arm) == ["one"] * 3 + ["None"] * 3
    assert frame[BITS].tolist() == pytest.approx([2, 2.1, 2.2, 3, 3.1, 3.2])


def test_the_table_is_the_reports():
    results = analysed(study())
    headings, body = plain_table(results, results.columns)
    table = api.table(results)
    assert [
        table.index.name,
        *table.columns,
    ] == headings and table.reset_index().to_numpy().tolist() == body


def test_summaries_keep_both_error_bars_apart():
    frame = api.summaries(analysed(study())).set_index(["arm", "metric"])
    bits, distance = frame.loc["one", BITS], frame.loc["one", "quality/fd_digits"]
    assert bits["mean"] == pytest.approx(2.1) and bits.n == 3 and bits.heading == "bits/dim"
    # t of two degrees of freedom
    assert bits.seeds == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-5)
    assert bits.images == pytest.approx(0.25) and math.isnan(distance.images)


def test_noise_that_nobody_measured_is_not_a_number():
    plan = study()
    for arm in plan.arms:
        for seed in plan.seeds:
            folder, recipe = plan.cell(arm, seed)
            report = read_json(folder.evaluation(recipe) / "report.json")
            write_sealed(folder.evaluation(recipe) / "report.json", {**report, "noise": {}})
    frame = api.summaries(analysed(plan))
    assert frame.images.dtype == float and frame.images.isna().all()


def test_one_seed_says_nothing_of_training_noise():
    frame = api.summaries(analysed(study(seeds=(0,))))
    assert frame.seeds.isna().all() and (frame.n == 1).all() and frame["mean"].notna().all()


def test_what_was_logged_is_a_row_for_each_number():
    frame = api.curves(analysed(study()))
    assert len(frame) == 12
    assert frame.query("name == 'val/loss'").groupby("arm").value.mean().to_dict() == {
        "one": 0,
        "None": 1,
    }
    assert frame.query("name == 'train/loss' and arm == 'one'")[
        ["seed", "step", "value"]
    ].to_numpy().tolist() == [[0, 2, 3], [1, 2, 4], [2, 2, 5]]


def test_the_breakdown_is_the_mean_over_seeds_of_the_arms_that_have_one():
    plan = study()
    for seed in plan.seeds:
        folder, recipe = plan.cell(plan.arms[1], seed)
        report = read_json(folder.evaluation(recipe) / "report.json")
        write_sealed(folder.evaluation(recipe) / "report.json", {**report, "diagnosis": {}})
    frame = api.breakdown(analysed(plan), "feature")

    assert frame.index.tolist() == ["one"] and frame.loc["one"].tolist() == pytest.approx(
        [1.1, 3.1]
    )
    assert api.breakdown(analysed(plan), "token").shape == (1, 3)


# Trained models


@pytest.fixture
def trained(a_run):
    """A study of two arms of which the first is trained."""
    file = write_study(arms={"tiny": {}, "wide": {"outer.width": 32}}, seeds=[0])
    return api.open_study(file), a_run


def test_the_trained_models_are_opened_and_the_others_left_out(trained):
    results, _ = trained
    runs = api.open_runs(results)
    assert list(runs) == ["tiny"] == list(api.open_runs(results, "tiny"))
    assert runs["tiny"].recipe.training_signature == tiny().training_signature


def test_reports_without_their_weights_are_told(trained):
    results, folder = trained
    with pytest.raises(ConfigError, match="study: no weights of wide are here"):
        api.open_runs(results, "wide")
    shutil.rmtree(folder.checkpoints)
    with pytest.raises(ConfigError, match="study: no weights of its arms are here"):
        api.open_runs(results)


def test_an_unknown_arm_is_refused(trained):
    with pytest.raises(ConfigError, match="'narrow' is no arm of study; one of tiny, wide"):
        api.open_runs(trained[0], "narrow")
