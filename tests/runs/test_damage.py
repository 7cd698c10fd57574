"""A file of a finished run that was damaged: one line names it, or the same command makes it again.
Never a wrong number.
"""

import json
import shutil
from pathlib import Path

import pytest
from command import arinar
from rich.console import Console
from tiny import tiny, write_study

from arinar_lab.cli.ablate import _watch
from arinar_lab.errors import ConfigError
from arinar_lab.runs.folder import RunFolder, read_json
from arinar_lab.runs.history import read_metrics
from arinar_lab.study.plan import read_plan
from arinar_lab.tracking.tracker import note_view, noted_views
from arinar_lab.training.train import RunLogger

pytestmark = pytest.mark.usefixtures("alone", "uncounted")


def flip(path):
    """Change one digit, so that the file can still be read."""
    text = path.read_text()
    place = next(i for i, letter in reversed(list(enumerate(text))) if letter in "12345678")
    path.write_text(text[:place] + str(int(text[place]) + 1) + text[place + 1 :])


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def empty(path):
    path.write_bytes(b"")


DAMAGES = [flip, cut, empty]
REPORT = "evaluations/*/report.json"


@pytest.fixture
def a_study(a_run):
    """A study of the finished run, and of a copy of it as if under another seed."""
    shutil.copytree(a_run.path, a_run.path.with_name("seed_1"))
    return write_study(base=tiny(), arms={"one": {}}, seeds=[0, 1])


def damaged(run, name, damage):
    (path,) = run.path.glob(name)
    damage(path)
    return path


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["config.yaml", "DONE"])
@pytest.mark.parametrize("verb", ["evaluate", "sample"])
def test_a_verb_that_reads_it_names_it(a_run, capsys, verb, name, damage):
    path = damaged(a_run, name, damage)
    assert arinar(verb, a_run.path, "sampler.temperature=0.8") == 2
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1 and stderr.startswith(f"arinar: {path}: damaged"), stderr


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_report_is_made_again(a_run, capsys, damage):
    before = a_run.report(tiny())["metrics"]
    path = damaged(a_run, REPORT, damage)
    assert arinar("evaluate", a_run.path) == 0
    assert f"{path}: damaged" in capsys.readouterr().err
    after = a_run.report(tiny())["metrics"]

    timed = ("speed/", "time/", "cost/")
    assert {k: v for k, v in after.items() if not k.startswith(timed)} == {
        k: v for k, v in before.items() if not k.startswith(timed)
    }


@pytest.mark.parametrize(
    ("name", "damage", "status"),
    [
        (REPORT, flip, 1),
        ("metrics.csv", flip, 0),
        ("metrics.csv", Path.unlink, 0),
        ("evaluations/*/bits.npz", cut, 0),
        ("evaluations/*/bits.npz", Path.unlink, 0),
        ("evaluations/*/beliefs.npz", cut, 0),
    ],
)
def test_a_report_of_a_study_names_it_and_lacks_what_rests_on_it(
    a_study, a_run, capsys, name, damage, status
):
    path = damaged(a_run, name, damage)
    assert arinar("report", a_study) == status
    lines = [line for line in capsys.readouterr().err.splitlines() if str(path) in line]
    assert len(lines) == 1 and "delete" in lines[0], lines
    (page,) = Path("studies").glob("*/report/report.html")
    assert page.stat().st_size > 10_000


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["config.yaml", REPORT])
def test_a_comparison_names_it(a_run, capsys, name, damage):
    shutil.copytree(a_run.path, "other/seed_0")
    path = damaged(a_run, name, damage)
    assert arinar("compare", a_run.path, "other/seed_0") == 2
    stderr = capsys.readouterr().err
    assert f"{path}: damaged" in stderr and "Traceback" not in stderr


def test_a_run_without_its_configuration_is_told_in_one_line(a_run, capsys):
    (a_run.path / "config.yaml").unlink()
    assert arinar("evaluate", a_run.path) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_copied_run_works_and_one_that_may_only_be_read_too(a_run, capsys):
    shutil.copytree(a_run.path, "copy")
    before = {path: path.stat().st_mtime_ns for path in RunFolder(a_run.path).path.rglob("*")}
    assert arinar("evaluate", "copy") == 0
    # everything is there: nothing is written, no lock is taken
    assert arinar("evaluate", a_run.path) == 0
    assert {path: path.stat().st_mtime_ns for path in a_run.path.rglob("*")} == before


def test_a_report_without_its_checksum_is_made_again(a_run, capfd):
    path = a_run.evaluation(tiny()) / "report.json"
    content = read_json(path)
    content.pop("sha256")
    path.write_text(json.dumps(content))
    assert a_run.report(tiny()) == {}
    assert "report.json: damaged or edited" in capfd.readouterr().err


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_state_that_is_made_anew_stops_nothing(a_run, content):
    """A power cut leaves empty files."""
    recipe = tiny()
    for name in ("tracking.json", "progress.json"):
        (a_run.path / name).write_text(content)
    assert noted_views(recipe, a_run) == []
    note_view(recipe, "arm", a_run, "experiment")
    assert len(noted_views(recipe, a_run)) == 1


def test_a_study_is_watched_with_a_damaged_progress_file(a_study, a_run):
    plan = read_plan(a_study)
    (plan.jobs[0].folder.path / "progress.json").write_text("")
    _watch(plan, plan.jobs, [], Console(quiet=True))


def test_the_history_of_a_stopped_run_is_rewound_past_what_a_power_cut_left():
    folder = RunFolder(Path("run"))
    folder.path.mkdir()
    file = folder.path / "metrics.csv"
    file.write_bytes(
        b"step,name,value\r\n0,train/loss,1.5\r\n4,train/loss,1.25\r\n9,tra\r\n\0\0\0\0"
    )
    RunLogger(folder, None).rewind(4)
    assert read_metrics(file) == [(0, "train/loss", 1.5)]


def test_a_damaged_history_is_told_in_one_line():
    folder = RunFolder(Path("run"))
    folder.path.mkdir()
    (folder.path / "metrics.csv").write_text("step,name,value\n1,loss,a\n")
    with pytest.raises(ConfigError, match=r"metrics.csv: damaged [^\n]*$"):
        read_metrics(folder.path / "metrics.csv")


@pytest.mark.parametrize("name", ["DONE", REPORT])
def test_a_folder_in_a_files_place_is_named_before_anything_is_computed(a_run, capsys, name):
    (path,) = a_run.path.glob(name)
    path.unlink()
    path.mkdir()
    before = sorted(Path().rglob("*"))
    Path("tiny.yaml").write_text((a_run.path / "config.yaml").read_text())
    assert arinar("train", "tiny.yaml") == 2
    assert (
        capsys.readouterr().err
        == f"arinar: {path}: a file belongs there, and this is none; remove it\n"
    )

    written = {str(place) for place in set(Path().rglob("*")) - set(before)}
    assert written <= {"tiny.yaml", "runs/.names"}


def test_a_checksum_that_is_no_text_does_not_fit(a_run, capsys):
    (path,) = a_run.path.glob("checkpoints/final.safetensors.sha256")
    path.write_bytes(bytes(range(256)))
    assert arinar("sample", a_run.path, "--count", 2) == 2
    assert "final.safetensors: damaged or edited" in capsys.readouterr().err
