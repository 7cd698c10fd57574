"""Status: each state as it really comes about, and quickly over a large study."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import tiny, write_study

from arinar_lab import cli
from arinar_lab.runs.folder import write_json, write_sealed
from arinar_lab.study import optuna_storage, status, worker
from arinar_lab.study.collect import collect
from arinar_lab.study.plan import read_plan
from arinar_lab.study.status import load_cells, run_statuses, save_cells
from arinar_lab.study.worker import open_board

pytestmark = pytest.mark.usefixtures("alone")

STUDY = {"axes": {"inner.head.components": [1, 2, 3, 4, 5]}, "seeds": [0]}


def finish(job):
    write_sealed(job.folder.path / "DONE", {"steps": 6, "seconds": 1.0})
    for recipe in job.recipes:
        write_sealed(job.folder.evaluation(recipe) / "report.json", {"metrics": {"n": 1}})


def begin(job):
    job.folder.path.mkdir(parents=True)
    job.folder.log("started at commit abc, process 12 on a-host")
    job.folder.progress("train", 3, 6)


@pytest.fixture
def study():
    """One cell in each state: done, running, failed, lost, waiting. The running one is held
    until the test ends.
    """
    path = write_study(**STUDY)
    plan = read_plan(path)
    done, running, failed, lost, _ = plan.jobs

    finish(done)
    for job in (running, failed, lost):
        begin(job)
    failed.folder.fail(RuntimeError("the disk\nis full"))
    with running.folder.lock:
        yield path, plan


def test_every_state_is_told(study):
    path, plan = study
    cells = run_statuses(save_cells(plan, path, []))
    assert [cell.state for cell in cells] == ["done", "running", "failed", "lost", "waiting"]
    running, failed = cells[1], cells[2]
    assert (running.phase, running.step, running.steps) == ("train", 3, 6)
    assert running.where == "process 12 on a-host" and running.since.startswith("20")
    # the last line of its log
    assert failed.reason == "RuntimeError: the disk is full" and failed.log == "is full"


def say(capsys, *words):
    with pytest.raises(SystemExit) as leave:
        cli.main(["status", "study.yaml", *words])
    return leave.value.code, capsys.readouterr().out


def test_the_command_tells_people_and_machines(study, capsys):
    code, text = say(capsys)
    assert code == 1  # one has failed
    assert "5 runs: 1 done, 1 running, 1 waiting, 1 failed, 1 lost" in text
    assert (
        "train 3 of 6, process 12 on a-host, since 20" in text
        and "RuntimeError: the disk is full" in text
    )
    _, text = say(capsys, "--json")
    content = json.loads(text)

    assert content["states"] == {"done": 1, "running": 1, "waiting": 1, "failed": 1, "lost": 1}
    assert [cell["arm"] for cell in content["cells"]] == [f"components={k}" for k in range(1, 6)]


def test_what_was_written_is_used_until_the_file_changes(study):
    path, plan = study
    save_cells(plan, path, [])
    assert load_cells(path, [])["name"] == plan.name
    assert load_cells(path, ["training.steps=9"]) is None
    later = time.time() + 5
    os.utime(path, (later, later))
    assert load_cells(path, []) is None


def test_watching_ends_when_all_is_done(capsys):
    path = write_study(**STUDY)
    for job in read_plan(path).jobs:
        finish(job)
    code, text = say(capsys, "--watch")
    assert code == 0 and "5 runs: 5 done" in text


def test_five_hundred_finished_runs_answer_without_torch():
    """In a process of its own: it reads the run folders, and imports neither torch nor Optuna."""
    path = write_study(**STUDY)
    plan = read_plan(path)
    content = save_cells(plan, path, [])

    content["cells"] = []
    for i in range(500):
        folder = Path(f"runs/{i}-abc/seed_0")
        write_sealed(folder / "DONE", {})
        write_sealed(folder / "evaluations" / "def" / "report.json", {"metrics": {"n": 1}})
        content["cells"].append(
            {"arm": f"{i}", "seed": 0, "key": f"{i}", "folder": str(folder), "evaluations": ["def"]}
        )

    write_json(plan.folder / "cells.json", content)
    program = (
        "import sys, time; begun = time.process_time(); sys.argv = ['arinar', 'status', "
        "'study.yaml']\n"
        "from arinar_lab.cli import main\n"
        "try: main()\n"
        "finally: print([m for m in ('torch', 'optuna') if m in sys.modules], "
        "time.process_time() - begun)"
    )
    root = str(Path(cli.__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONPATH": root}
    )
    first, *_, last = run.stdout.splitlines()
    assert first == "study: 500 runs: 500 done" and run.returncode == 0

    imported, seconds = last.rsplit(" ", 1)
    assert imported == "[]" and float(seconds) < 3


@pytest.mark.parametrize("content", ["{}", '{"metrics": {}}', '{"metrics": {"n": 1}', "[]", ""])
def test_a_report_that_is_damaged_is_none(content):
    path = write_study(**STUDY)
    plan = read_plan(path)
    job = plan.jobs[0]
    finish(job)
    (job.folder.evaluation(job.recipes[0]) / "report.json").write_text(content)
    assert run_statuses(save_cells(plan, path, []))[0].state == "waiting"  # to be evaluated again
    assert not job.done and collect(plan).reports[job.arm] == {}


def test_what_is_trained_and_asked_for_another_evaluation_waits():
    plan = read_plan(write_study(**STUDY))
    begin(plan.jobs[0])
    finish(plan.jobs[0])
    path = write_study(**{**STUDY, "base": tiny("evaluation.images=61")})
    assert [cell.state for cell in run_statuses(save_cells(read_plan(path), path, []))] == [
        "waiting"
    ] * 5


def test_cells_of_any_study_may_be_damaged(study, capsys):
    say(capsys)
    for name in ("another", "study"):
        write_json(Path("studies") / name / "cells.json", {})
        (Path("studies") / name / "cells.json").write_text('{"file": "/somewh')
    code, text = say(capsys)
    assert code == 1 and "5 runs: 1 done" in text


def test_a_base_in_another_folder_that_is_edited_is_seen(tmp_path):
    path, far = write_study(**STUDY), tmp_path / "far" / "away" / "base.yaml"
    far.parent.mkdir(parents=True)
    Path("base.yaml").rename(far)
    middle = far.with_name("middle.yaml")
    middle.write_text("extends: base.yaml\n")
    path.write_text(path.read_text().replace("base: base.yaml", f"base: {middle}"))
    save_cells(read_plan(path), path, [])
    assert load_cells(path, []) is not None
    later = time.time() + 5
    os.utime(far, (later, later))

    assert load_cells(path, []) is None


def test_a_server_among_the_words_is_asked(study, monkeypatch, capsys):
    monkeypatch.setenv("ARINAR_STORAGE", "")
    assert say(capsys, "storage=postgresql+psycopg://u:secret@127.0.0.1:9/x")[0] == 2
    assert say(capsys, "storage=sqlite:///x.db")[0] == 1  # one has failed


def test_a_server_says_what_its_machines_do(study, postgresql, monkeypatch):
    """Of a study whose files here know nothing of it."""
    path, _ = study
    monkeypatch.setenv("ARINAR_STORAGE", postgresql.url())
    shutil.rmtree("runs")
    plan = replace(read_plan(path), name=f"status_{time.time_ns()}")
    content = save_cells(plan, path, [])
    board = open_board(plan)
    done, running, failed, lost, waiting = plan.jobs
    begun = {"attempts": ["a-host 12"], "since": "2026-01-01 00:00:00"}
    board.write(
        done,
        {"evaluations": worker.evaluation_signatures(done), "place": "elsewhere", "host": "a-host"},
    )
    board.write(failed, {"failed": "RuntimeError: the disk is full"})
    board.write(lost, begun)
    board.write(waiting, {"attempts": []})  # handed back
    with board.claim(running):
        board.write(running, begun)
        cells = run_statuses(content, board)
        assert board.at_work() == ["a-host 12"]

    assert [cell.state for cell in cells] == ["done", "running", "failed", "lost", "waiting"]
    assert (cells[1].where, cells[1].since) == ("a-host 12", "2026-01-01 00:00:00")
    assert cells[2].reason == "RuntimeError: the disk is full"


def test_watching_outlasts_a_server_that_is_restarted(study, monkeypatch):
    path, plan = study
    monkeypatch.setattr(optuna_storage.time, "sleep", lambda _: None)
    answers = [optuna_storage.StorageUnavailable("storage: does not answer"), {}]

    def states(_):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(status, "_states", states)
    cells = status._look_patiently(save_cells(plan, path, []), SimpleNamespace())
    assert [cell.state for cell in cells] == [
        "done",
        "running",
        "failed",
        "lost",
        "waiting",
    ] and answers == []
