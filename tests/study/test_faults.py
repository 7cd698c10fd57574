"""What really happens to studies: workers killed at any moment, terminated, frozen; the storage
stopped; a file changed.

Every cell must be in the report exactly once, none lost, and every number but timing that of
the undisturbed study.
"""

import errno
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from filelock import Timeout
from server import PASSWORD
from tiny import pretend, tiny, write_study

from arinar_lab import cli, pipeline
from arinar_lab.analysis.analyse import analyse
from arinar_lab.cli import forecast
from arinar_lab.errors import ConfigError
from arinar_lab.report.tables import plain_table
from arinar_lab.study import optuna_storage, processes, worker
from arinar_lab.study.collect import collect
from arinar_lab.study.cost import Cost
from arinar_lab.study.plan import read_plan
from arinar_lab.study.worker import changes, ensure_prepared, open_board, prepare, run_worker
from arinar_lab.sweep import trials
from arinar_lab.sweep.sweep import read_sweep

pytestmark = pytest.mark.usefixtures("alone", "uncounted")

SHORT = tiny("evaluation.images=20", "training.steps=8", "outer.dropout=0.1")
STUDY = {"base": SHORT, "axes": {"inner.head.components": [1, 2, 3]}, "seeds": [0, 1]}
BOTH = ["files", "postgresql"]


@pytest.fixture(params=BOTH)
def shared(request, monkeypatch, tmp_path):
    """Workers that share files, and such that share a PostgreSQL server with a heartbeat of
    1 s and 5 s of grace.
    """
    import mlflow  # noqa: F401 once, not in every fork

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    if request.param == "postgresql":
        server = request.getfixturevalue("postgresql")
        monkeypatch.setenv("ARINAR_STORAGE", server.url())
        monkeypatch.setenv("ARINAR_HEARTBEAT", "1")
        monkeypatch.setenv("ARINAR_GRACE", "5")
    return request.param


def plan_of(name="study", **keys):
    """A study under a name of its own: all share one server."""
    return read_plan(write_study(f"{name}_{time.time_ns()}", **{**STUDY, **keys}))


def fork(act, *words):
    """Run a function in a process of its own, its output in worker.log; it exits 0 where
    the function returns.
    """
    child = os.fork()
    if child:
        return child

    status = 1
    try:
        output = os.open("worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
        act(*words)
        status = 0
    except SystemExit as leave:
        status = leave.code if isinstance(leave.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def ended(child, seconds):
    """The exit status of a process that ends within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        gone, status = os.waitpid(child, os.WNOHANG)
        if gone:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)

    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail(
        f"process still running after {seconds} s\n{Path('worker.log').read_text()[-3000:]}"
    )


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, Path("worker.log").read_text()[-3000:]
        time.sleep(0.02)


def numbers(plan):
    """Every number of the report but timing, cell by cell."""
    result = {}
    for arm, by_seed in collect(plan).reports.items():
        for seed, report in by_seed.items():
            result[arm, seed] = {
                k: v for k, v in report["metrics"].items() if not k.startswith(("time/", "speed/"))
            }
    return result


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The numbers of a plan's cells when nothing happens to the study; what was run for another
    plan is not run again.
    """
    folder = tmp_path_factory.mktemp("undisturbed")

    def of(plan):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.delenv("ARINAR_STORAGE", raising=False)
            patch.setenv("ARINAR_TRACKING", "off")
            patch.setattr("arinar_lab.evaluation.evaluate.count_flops", lambda *_: 1e6)
            patch.setattr("arinar_lab.evaluation.evaluate.peak_memory", lambda *_: 1e6)
            calm = plan_of("calm", seeds=list(plan.seeds))
            prepare(calm)
            assert run_worker(calm) == []

            return numbers(calm)

    return of


def trainings(plan):
    """How often each cell was trained to its end."""
    return [(job.folder.path / "log.txt").read_text().count(" done, ") for job in plan.jobs]


def begun():
    """Keys of the jobs that workers have begun, as their common log tells it; one that was begun
    again is there twice.
    """
    lines = Path("worker.log").read_text().splitlines()
    return [line.split()[-1] for line in lines if "/seed_" in line]


# Killed


@pytest.mark.parametrize(
    ("kills", "seeds", "apart"), [(10, 3, 0.5), pytest.param(30, 10, 0.9, marks=pytest.mark.slow)]
)
def test_workers_killed_at_any_moment_change_no_number(
    shared, kills, seeds, apart, undisturbed, monkeypatch, capsys
):
    monkeypatch.setattr(worker, "_DEATHS", kills)
    chance, plan = random.Random(kills), plan_of(seeds=list(range(seeds)))
    expected = undisturbed(plan)  # first, so that no fork imports anything
    prepare(plan)
    workers, killed = [fork(run_worker, plan) for _ in range(4)], []
    # a cell is taken
    until(lambda: Path("worker.log").is_file() and "/seed_" in Path("worker.log").read_text())
    while len(killed) < kills:
        assert not all(job.done for job in plan.jobs), (
            f"only {len(killed)} kills before the study was done"
        )
        time.sleep(chance.uniform(0.05, apart))
        victim = chance.choice(workers)
        if os.waitpid(victim, os.WNOHANG)[0] == 0:
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            killed.append(victim)
        workers.remove(victim)
        workers.append(fork(run_worker, plan))

    assert [ended(child, 300) for child in workers] == [0] * 4
    assert all(job.done for job in plan.jobs) and trainings(plan) == [1] * len(plan.jobs)
    assert numbers(plan) == expected
    table = plain_table(analyse(collect(plan)), [])[1]
    assert [row[1] for row in table] == [f"{seeds} of {seeds}"] * 3
    again = len(begun()) - len(plan.jobs)
    with capsys.disabled():
        print(f"\n{shared}: {len(killed)} kills, {again} of them in a cell, 0 lost, 0 repeated")


@pytest.mark.slow
def test_a_fifth_worker_goes_on_where_two_of_four_were_killed(postgresql, undisturbed, monkeypatch):
    for name, value in {"STORAGE": postgresql.url(), "HEARTBEAT": "1", "GRACE": "5"}.items():
        monkeypatch.setenv(f"ARINAR_{name}", value)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    plan = plan_of(seeds=list(range(6)))
    expected = undisturbed(plan)
    prepare(plan)
    four = [fork(run_worker, plan) for _ in range(4)]
    until(lambda: sum(job.done for job in plan.jobs) >= 3)
    for child in four[:2]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    fifth = fork(run_worker, plan)
    assert [ended(child, 90) for child in (*four[2:], fifth)] == [0, 0, 0]
    logs = [(job.folder.path / "log.txt").read_text() for job in plan.jobs]

    assert any(f"process {fifth} on " in log for log in logs)
    assert numbers(plan) == expected and trainings(plan) == [1] * 18


@pytest.mark.slow
def test_a_job_whose_workers_always_die_goes_back_three_times(shared, monkeypatch):
    plan = plan_of(axes={"inner.head.components": [1, 2]}, seeds=[0])
    bad = plan.jobs[0]

    def die(job, study):
        if job.key == bad.key:
            os.kill(os.getpid(), signal.SIGKILL)
        pretend(job)
        return 0.0

    monkeypatch.setattr(worker, "run_job", die)
    prepare(plan)
    for status in (-9, -9, -9, -9, 0):
        assert ended(fork(lambda: sys.exit(len(run_worker(plan)) != 1)), 60) == status
    assert begun().count(bad.key) == 4
    reason = (bad.folder.path / "FAILED").read_text().strip()
    assert reason.startswith("WorkersLost: its worker died 4 times, the last time as ")
    assert bad.folder.path.joinpath("log.txt").is_file()
    assert run_worker(plan) == [f"{bad.arm} {bad.key}: {reason}"]
    prepare(plan)
    assert ended(fork(lambda: run_worker(plan)), 60) == -9  # another command tries it again


def test_sigterm_saves_a_checkpoint_and_hands_the_job_back(shared):
    base = tiny("evaluation.images=20", "training.steps=100000", "training.checkpoint_every=100000")
    plan = plan_of(base=base, axes={"inner.head.components": [1]}, seeds=[0])
    job = plan.jobs[0]

    prepare(plan)
    child = fork(run_worker, plan)
    until((job.folder.path / "progress.json").is_file)
    begun = time.monotonic()
    os.kill(child, signal.SIGTERM)
    assert ended(child, 10) == 143
    assert time.monotonic() - begun < 10
    assert len(list(job.folder.checkpoints.glob("step=*.ckpt"))) == 1
    assert not job.done and not (job.folder.path / "FAILED").exists()
    assert not open_board(plan).record(job).get("attempts")  # to be asked to end is no loss
    board = open_board(plan)
    with board.claim(job):  # another worker may take it at once
        assert board.outcome(job) is None


def test_sigterm_between_trainings_hands_the_job_back(shared, monkeypatch):
    plan = plan_of(axes={"inner.head.components": [1]}, seeds=[0])
    monkeypatch.setattr(worker, "run_job", lambda *_: Path("begun").touch() or time.sleep(60))
    prepare(plan)
    child = fork(run_worker, plan)
    until(Path("begun").exists)
    os.kill(child, signal.SIGTERM)
    assert ended(child, 10) == 143
    assert not open_board(plan).record(plan.jobs[0]).get("attempts")


# What fails in an arm


def test_arms_that_fail_say_why_and_the_study_goes_on(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    plan, train = plan_of(seeds=[0]), pipeline.train
    errors = {
        plan.jobs[0].folder: MemoryError("no room for 3 TB"),
        plan.jobs[1].folder: KeyError("gone"),
    }
    messages = ["MemoryError: no room for 3 TB", "KeyError: 'gone'"]

    def fail(recipe, folder, *arguments):
        if folder in errors:
            raise errors[folder]
        train(recipe, folder, *arguments)

    monkeypatch.setattr(pipeline, "train", fail)
    prepare(plan)
    assert run_worker(plan) == [
        f"{job.arm} {job.key}: {why}" for job, why in zip(plan.jobs, messages, strict=False)
    ]
    assert [job.done for job in plan.jobs] == [False, False, True]
    assert [(job.folder.path / "FAILED").read_text().strip() for job in plan.jobs[:2]] == messages


def test_a_worker_leaves_with_1_and_a_list_of_what_failed(monkeypatch, capsys):
    path = write_study(**{**STUDY, "seeds": [0]})
    bad = read_plan(path).jobs[2]

    def run_job(job, plan):
        return float("nan") if job.key == bad.key else 1.0

    monkeypatch.setattr(worker, "run_job", run_job)
    monkeypatch.delenv("ARINAR_PARENT", raising=False)
    with pytest.raises(SystemExit) as leave:
        cli.main(["work", str(path)])
    assert leave.value.code == 1
    assert (
        f"failed: {bad.arm} {bad.key}: ValueError: val/bits_per_dim is nan"
        in capsys.readouterr().out
    )


# The storage


@pytest.mark.slow
def test_a_server_stopped_and_started_again_costs_nothing(postgresql, undisturbed, monkeypatch):
    for name, value in {"STORAGE": postgresql.url(), "HEARTBEAT": "1", "GRACE": "5"}.items():
        monkeypatch.setenv(f"ARINAR_{name}", value)
    plan = plan_of()
    expected = undisturbed(plan)
    prepare(plan)
    workers = [fork(run_worker, plan) for _ in range(2)]
    until(lambda: any(job.done for job in plan.jobs))
    postgresql.stop()
    time.sleep(3)
    postgresql.start()

    assert [ended(child, 90) for child in workers] == [0, 0]
    assert numbers(plan) == expected and trainings(plan) == [1] * 6
    assert "does not answer: " in Path("worker.log").read_text()


def said_at_the_end(monkeypatch, capsys, words, **environment):
    """Standard error of a command that is refused."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as leave:
        cli.main(words)
    output = capsys.readouterr()
    assert leave.value.code == 2 and len(output.err.splitlines()) == 1
    assert PASSWORD not in output.err + output.out and "secret" not in output.err + output.out
    return output.err


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "postgresql+nodriver://u:secret@127.0.0.1/x",
            "u:***@127.0.0.1/x: needs the Python package nodriver",
        ),
        ("mysql://u:secret@h/x", "mysql://u:***@h/x: 'mysql' is neither postgresql nor sqlite"),
        ("sqlite://", "names no database, as in sqlite:///queue.db"),
        ("secret and more", "not an address, as in postgresql+psycopg://user@host/database"),
        (
            "postgresql+psycopg://me:pa@secret@127.0.0.1:9/x",
            "has an @ too many; write one of a name or a password as %40",
        ),
        ("postgresql+psycopg://me/you:secret@127.0.0.1:9/x", "has an @ too many"),
        ("postgresql+psycopg://me:p@s?secret@127.0.0.1:9/x", "has an @ too many"),
        ("mysql://me:pa@secret@h/x", "has an @ too many"),
        (
            "postgresql+psycopg://me@127.0.0.1:9/x?password=secret",
            "me@127.0.0.1:9/x: does not answer",
        ),
        (
            "postgresql+psycopg://me:a%40secret@127.0.0.1:9/x?sslpassword=secret",
            "me:***@127.0.0.1:9/x: does not answer",
        ),
        (
            "postgresql+psycopg://me:x@127.0.0.1:9/x?connect_timeout=secret&password=secret",
            "9/x: (its message is not shown",
        ),
    ],
)
@pytest.mark.parametrize("verb", ["work", "ablate"])
def test_a_storage_that_cannot_be_used_is_one_line(verb, address, message, monkeypatch, capsys):
    path = write_study(**STUDY)
    assert message in said_at_the_end(
        monkeypatch, capsys, [verb, str(path)], ARINAR_STORAGE=address
    )
    assert not Path("runs").exists()


def write_sweep():
    """A sweep of one trial."""
    keys = {"search": {"sampler.temperature": {"float": [0.5, 1.0]}}, "trials": 1, "seeds": [1]}
    objectives = [{"metric": "quality/fd_digits", "direction": "minimize"}]
    return write_study("sweep", SHORT, objectives=objectives, **keys)


def test_the_storage_of_a_sweep_that_cannot_be_used_is_one_line(monkeypatch, capsys):
    address = "sqlite:////nowhere/at/all/x.db?password=secret"
    text = said_at_the_end(
        monkeypatch, capsys, ["sweep", str(write_sweep())], ARINAR_STORAGE=address
    )
    assert "/nowhere/at/all/x.db: its folder is not there" in text


def test_a_server_that_does_not_answer_is_one_line_without_password(
    postgresql, monkeypatch, capsys
):
    path = write_study(**STUDY)
    wrong = postgresql.url(password="a-secret")
    assert "does not answer" in said_at_the_end(
        monkeypatch, capsys, ["work", str(path)], ARINAR_STORAGE=wrong
    )

    nobody = postgresql.url().replace(str(postgresql.port), "9")
    assert "does not answer" in said_at_the_end(
        monkeypatch, capsys, ["ablate", str(path)], ARINAR_STORAGE=nobody
    )


def test_the_address_in_a_file_is_no_part_of_the_study():
    plan = read_plan(write_study(**STUDY, storage="sqlite:///elsewhere.db"))
    assert "elsewhere" not in plan.name and "elsewhere" not in repr(plan)
    prepare(plan)
    written = [path for path in Path("studies").rglob("*") if path.is_file()]
    assert written and not [path for path in written if b"elsewhere" in path.read_bytes()]
    assert not list(Path().rglob("*.db"))  # workers that share files need none


ADDRESS = "storage=postgresql+psycopg://u:topsecret@127.0.0.1:9/x"


@pytest.mark.parametrize("words", [["ablate"], ["status"], ["report"], ["work"]])
def test_an_address_among_the_words_is_kept_nowhere(words, monkeypatch, capsys):
    """The server is down: the command ends with one line, and what it wrote
    before knows nothing.
    """
    monkeypatch.setenv("ARINAR_STORAGE", "")  # so that it is put back
    path = write_study(**STUDY)
    with pytest.raises(SystemExit) as leave:
        cli.main([*words, str(path), ADDRESS])
    captured = capsys.readouterr()
    assert leave.value.code in (1, 2) and "topsecret" not in captured.out + captured.err
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert files and not [path for path in files if b"topsecret" in path.read_bytes()]


def test_workers_are_told_the_address_by_their_environment(forked, monkeypatch):
    monkeypatch.setenv("ARINAR_STORAGE", "")
    monkeypatch.setattr(worker, "run_job", lambda *_: 1.0)
    path, commands = write_study(**{**STUDY, "seeds": [0]}), []
    start = processes.subprocess.Popen

    def spy(command, **options):
        commands.append((command, options["env"]))
        return start(command, **options)

    monkeypatch.setattr(processes.subprocess, "Popen", spy)
    with pytest.raises(SystemExit):
        cli.main(["ablate", str(path), "storage=sqlite:///topsecret.db", "training.steps=7"])
    for command, environment in commands:
        assert (
            command[-2:] == [str(path), "training.steps=7"]
            and environment["ARINAR_STORAGE"] == "sqlite:///topsecret.db"
        )
    assert len(commands) == 2


def test_no_password_is_in_any_file(postgresql, monkeypatch):
    monkeypatch.setenv("ARINAR_STORAGE", postgresql.url())
    plan = plan_of(axes={"inner.head.components": [1]}, seeds=[0])
    ensure_prepared(plan)
    run_worker(plan)
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert plan.jobs[0].done and not [
        path for path in files if PASSWORD.encode() in path.read_bytes()
    ]


def test_what_another_machine_has_finished_is_not_run_again(postgresql, monkeypatch):
    monkeypatch.setenv("ARINAR_STORAGE", postgresql.url())
    plan = plan_of(seeds=[0])
    assert len(prepare(plan)) == 3
    # its files are on the other machine
    monkeypatch.setattr(worker, "run_job", lambda job, plan: 1.0)
    with monkeypatch.context() as other:
        other.setattr(worker.platform, "node", lambda: "elsewhere")
        assert run_worker(plan) == []

    assert len(prepare(plan)) == 3  # a machine that shares our files, where none is
    assert run_worker(plan) == []
    (plan.folder / ".place").write_text("elsewhere")
    with monkeypatch.context() as other:
        other.setattr(worker.platform, "node", lambda: "a third machine")
        assert prepare(plan) == []

    request = replace(
        plan, arms=tuple(replace(arm, recipe=evaluated(arm.recipe, 21)) for arm in plan.arms)
    )
    # measured otherwise
    assert [job.key for job in prepare(request)] == [job.key for job in plan.jobs]


def test_what_was_finished_before_the_server_was_named_is_not_run_by_other_machines(
    postgresql, monkeypatch
):
    plan = plan_of(seeds=[0])
    pretend(plan.jobs[0])
    monkeypatch.setenv("ARINAR_STORAGE", postgresql.url())
    assert prepare(plan) == plan.jobs[1:]
    shutil.rmtree("runs")
    (plan.folder / ".place").write_text("elsewhere")
    monkeypatch.setattr(worker.platform, "node", lambda: "another machine")
    assert prepare(plan) == plan.jobs[1:]


def damage(job, fault):
    """Spoil a finished cell."""
    if fault == "no DONE":
        (job.folder.path / "DONE").unlink()
    elif fault == "damaged report":
        report = job.folder.evaluation(job.recipes[0]) / "report.json"
        report.write_bytes(report.read_bytes()[:10])
    else:
        shutil.rmtree(job.folder.path)


DAMAGE = ["no DONE", "damaged report", "no folder"]


@pytest.mark.parametrize("fault", DAMAGE)
def test_a_damaged_cell_is_done_again(shared, fault, monkeypatch):
    plan, ran = plan_of(seeds=[0]), []

    def run_job(job, plan):
        ran.append(job.key)
        pretend(job)
        return 1.0

    monkeypatch.setattr(worker, "run_job", run_job)
    prepare(plan)
    assert run_worker(plan) == [] and prepare(plan) == [] and len(ran) == 3
    damage(plan.jobs[1], fault)
    assert [job.key for job in prepare(plan)] == [plan.jobs[1].key]
    assert run_worker(plan) == [] and prepare(plan) == [] and ran[3:] == [plan.jobs[1].key]


@pytest.mark.slow
@pytest.mark.parametrize("fault", DAMAGE)
def test_a_damaged_cell_comes_out_the_same(shared, fault, undisturbed):
    plan = plan_of(seeds=[0])
    expected = undisturbed(plan)
    prepare(plan)
    assert run_worker(plan) == []
    damage(plan.jobs[1], fault)
    prepare(plan)
    assert run_worker(plan) == [] and numbers(plan) == expected


def evaluated(recipe, images):
    return replace(recipe, evaluation=replace(recipe.evaluation, images=images))


def test_two_studies_that_begin_at_once_train_an_arm_of_two_names_once():
    arms = {"base": SHORT, "seeds": [0]}
    plans = [
        plan_of(axes={}, arms={name: {"inner.head.components": 2}}, **arms)
        for name in ("one", "other")
    ]
    jobs = [plan.jobs[0] for plan in plans]
    assert jobs[0].folder != jobs[1].folder and jobs[0].key == jobs[1].key
    first, second = (job.folder.claim_name(job.recipes[0]) for job in jobs)

    assert first == second == jobs[0].folder
    assert plans[1].jobs[0].folder == first


def test_seconds_of_the_heartbeat_are_checked(monkeypatch):
    monkeypatch.setenv("ARINAR_GRACE", "soon")
    with pytest.raises(ConfigError, match="ARINAR_GRACE: 'soon' is not a whole number of seconds"):
        optuna_storage.heartbeat_seconds()


def test_a_queue_on_a_full_disk_is_waited_for_and_said(small_disk, capsys):
    url, filling = (
        optuna_storage.storage_address(f"sqlite:///{small_disk}/queue.db", Path()),
        small_disk / "filling",
    )
    study = optuna.create_study(storage=optuna_storage.open_storage(url))
    with filling.open("wb", buffering=0) as file:
        file.write(b"\0" * shutil.disk_usage(small_disk).free)
    threading.Timer(1.5, filling.unlink).start()
    optuna_storage.retry_while_unavailable(lambda: study.set_user_attr("said", "x" * 1_000_000))
    stdout = capsys.readouterr().out

    assert stdout.count("waiting for it") == 1 and "away" not in stdout
    assert f"storage: {small_disk}/queue.db: the disk is full, 0.0 MB are free; make room" in stdout
    assert len(study.user_attrs["said"]) == 1_000_000


def test_a_worker_waits_for_room_on_a_full_disk(small_disk, monkeypatch, capsys):
    monkeypatch.chdir(small_disk)
    plan, ran = plan_of(seeds=[0]), []
    filling = small_disk / "filling"

    def fill():
        with filling.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(b"\0" * 4096):
                pass

    def run_job(job, plan):
        ran.append(job.key)
        if len(ran) == 1:
            threading.Timer(2.5, filling.unlink).start()
            fill()
            raise OSError(errno.ENOSPC, "No space left on device")
        pretend(job)
        return 1.0

    monkeypatch.setattr(worker, "run_job", run_job)
    prepare(plan)
    (failure,) = run_worker(plan)
    assert "No space left on device" in failure and "No space left" in plan.jobs[0].folder.failure
    assert ran == [job.key for job in plan.jobs]  # the others have waited, and not failed
    stdout = capsys.readouterr().out
    assert stdout.count("waiting for it") == 1 and "the disk is full" in stdout


@pytest.fixture
def swept(monkeypatch):
    """A sweep whose trials take no time: its file, and its storage; gives them, and the list
    of what was measured.
    """
    path, measured = write_sweep(), []

    def measure(sweep, target, cell, watch=None):
        measured.append(cell)
        return {"quality/fd_digits": 1.0}

    monkeypatch.setattr(trials, "measure_job", measure)
    monkeypatch.setattr(trials, "rerun", lambda sweep: None)
    monkeypatch.delenv("ARINAR_PARENT", raising=False)
    return path, Path("studies/sweep/queue.db"), measured


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_storage_cut_short_may_be_deleted(share, swept, monkeypatch, capsys):
    path, queue, measured = swept
    sweep = read_sweep(path)
    trials.open_search(sweep, sweep.targets[0])
    queue.write_bytes(queue.read_bytes()[: int(share * queue.stat().st_size)])
    text = said_at_the_end(monkeypatch, capsys, ["work", str(path)])
    assert (
        "studies/sweep/queue.db: damaged" in text
        and "delete it, and the same command makes it anew" in text
    )
    queue.unlink()
    trials.run_sweep_worker(sweep)

    assert len(measured) == 1


@pytest.mark.parametrize("fault", ["deleted", "replaced", "emptied", "cut"])
def test_a_storage_that_waiting_does_not_mend_is_one_line_at_once(
    fault, swept, monkeypatch, capsys
):
    path, queue, measured = swept

    def measure(sweep, target, cell, watch=None):
        measured.append(cell)
        content = queue.read_bytes()
        if fault in ("deleted", "replaced"):
            queue.unlink()
        if fault != "deleted":
            queue.write_bytes(
                content[: {"replaced": len(content), "emptied": 0, "cut": 20_000}[fault]]
            )

        return {"quality/fd_digits": 1.0}

    monkeypatch.setattr(trials, "measure_job", measure)
    started = time.monotonic()
    with pytest.raises(SystemExit) as leave:
        cli.main(["work", str(path)])
    stderr = capsys.readouterr().err
    reason = {
        "replaced": "was replaced while it was in use",
        "cut": "damaged (database disk image is malformed)",
    }
    assert leave.value.code == 1 and stderr.count("\n") == 1 and time.monotonic() - started < 10
    assert f"queue.db: {reason.get(fault, 'was deleted while it was in use')}" in stderr
    assert "the same command" in stderr and len(measured) == 1


@pytest.mark.parametrize("lost", ["arms.json", "attempts.json", ".lock"])
def test_a_study_whose_files_are_deleted_under_its_worker_goes_on(lost, monkeypatch):
    plan, ran = plan_of(seeds=[0]), []

    def run_job(job, plan):
        ran.append(job.key)
        for file in (plan.folder / lost, job.folder.path / lost):
            file.unlink(missing_ok=True)
        pretend(job)
        return 1.0

    monkeypatch.setattr(worker, "run_job", run_job)
    prepare(plan)
    assert run_worker(plan) == [] and ran == [job.key for job in plan.jobs]


@pytest.fixture
def database(postgresql):
    """A database of its own on the server: its address, and a function that gives it commands."""
    name = f"faults_{time.time_ns()}"

    def act(*commands, database=name):
        engine = sqlalchemy.create_engine(postgresql.url(database), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for command in commands:
                connection.exec_driver_sql(command)
        engine.dispose()

    act(f"CREATE DATABASE {name}", database="postgres")
    yield postgresql.url(name), act
    act(f"DROP DATABASE {name} WITH (FORCE)", database="postgres")


@pytest.mark.slow
def test_a_study_whose_server_forgets_it_goes_on_by_itself(
    forked, undisturbed, database, monkeypatch, capfd
):
    address, act = database
    monkeypatch.setattr(forecast, "probe_or_reason", lambda _: Cost(1, 1.0, 1.0, 1.0))
    monkeypatch.setenv("ARINAR_STORAGE", address)
    path = write_study(**{**STUDY, "seeds": [0]})
    plan, run_job = read_plan(path), worker.run_job

    def delete_once(job, plan):
        if not Path("deleted").exists():
            Path("deleted").touch()
            act("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
        return run_job(job, plan)

    expected = undisturbed(plan)
    monkeypatch.setattr(worker, "run_job", delete_once)
    with pytest.raises(SystemExit) as leave:
        cli.main(["ablate", str(path), "--workers", "1"])
    assert "What the workers ran by was deleted. It is made anew" in capfd.readouterr().out
    assert leave.value.code == 0 and len(forked) == 2 and trainings(plan) == [1] * 3
    bits = {cell: metrics["val/bits_per_dim"] for cell, metrics in numbers(plan).items()}
    assert bits == {cell: metrics["val/bits_per_dim"] for cell, metrics in expected.items()}


@pytest.mark.parametrize(
    "fault",
    [
        "DROP TABLE trial_values CASCADE",
        "REVOKE ALL ON trials FROM guest",
        "ALTER ROLE guest SET default_transaction_read_only = on",
    ],
)
def test_what_a_server_refuses_is_one_line_at_once(fault, database):
    address, act = database
    act("DROP ROLE IF EXISTS guest", "CREATE ROLE guest LOGIN SUPERUSER PASSWORD 'guest'")
    url = sqlalchemy.make_url(address).set(username="guest", password="guest")
    store = optuna_storage.open_storage(url)
    study = optuna.create_study(storage=store)
    act("ALTER ROLE guest NOSUPERUSER", "GRANT ALL ON ALL TABLES IN SCHEMA public TO guest", fault)
    store.engine.dispose()
    started = time.monotonic()
    with pytest.raises(
        optuna_storage.StorageUnusable, match=r"guest:\*\*\*@.*the same command goes on"
    ) as caught:
        optuna_storage.retry_while_unavailable(lambda: study.tell(study.ask(), 1.0))

    assert time.monotonic() - started < 5 and "\n" not in str(caught.value)
    act("DROP OWNED BY guest", "DROP ROLE guest")


def test_a_process_that_is_asked_to_end_in_a_statement_ends(shared):
    store = optuna_storage.open_storage(optuna_storage.storage_address("", Path("queue.db")))
    url = store.engine.url

    def leave(*_):
        raise SystemExit(143)

    signal.signal(signal.SIGALRM, leave)
    if optuna_storage.is_shared(url):
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(SystemExit), store.engine.connect() as connection:
            connection.exec_driver_sql("SELECT pg_sleep(5)")
    else:
        sqlalchemy.event.listen(store.engine, "before_cursor_execute", leave)
        with pytest.raises(SystemExit), store.engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1")


def test_the_server_is_told_how_long_to_keep_a_silent_connection(postgresql, monkeypatch):
    monkeypatch.setenv("ARINAR_GRACE", "120")
    url = sqlalchemy.make_url(postgresql.url()).update_query_dict({"options": "-c work_mem=5MB"})
    expected = {
        "tcp_keepalives_idle": "30",
        "tcp_keepalives_interval": "10",
        "tcp_keepalives_count": "3",
        "lock_timeout": "2min",
        "statement_timeout": "2min",
        "idle_in_transaction_session_timeout": "2min",
        "work_mem": "5MB",
    }

    store = optuna_storage.open_storage(url)
    with store.engine.connect() as connection:
        assert {
            name: connection.exec_driver_sql(f"SHOW {name}").scalar() for name in expected
        } == expected
        client = connection.connection.driver_connection.info.get_parameters()

    assert {
        client[name] for name in ("keepalives_idle", "keepalives_interval", "keepalives_count")
    } == {
        "30",
        "10",
        "3",
    }
    assert client["tcp_user_timeout"] == "60000" and client["connect_timeout"] == "10"


def test_a_frozen_process_keeps_a_servers_lock_for_no_longer_than_its_grace(
    postgresql, monkeypatch
):
    for name, value in {"HEARTBEAT": "1", "GRACE": "3"}.items():
        monkeypatch.setenv(f"ARINAR_{name}", value)
    url = sqlalchemy.make_url(postgresql.url())

    def hold():
        with optuna_storage.shared_lock(url, "a lock"):
            Path("held").touch()
            time.sleep(60)

    child = fork(hold)
    until(Path("held").exists)
    time.sleep(5)  # longer than the grace: whoever lives keeps it
    with pytest.raises(Timeout), optuna_storage.shared_lock(url, "a lock", wait=False):
        pass
    os.kill(child, signal.SIGSTOP)
    begun = time.monotonic()
    try:
        with optuna_storage.shared_lock(url, "a lock"):
            assert time.monotonic() - begun < 10
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_lock_whose_connection_breaks_is_taken_again_and_is_not_abandoned_before_its_grace(
    database, monkeypatch
):
    address, act = database
    for name, value in {"HEARTBEAT": "1", "GRACE": "3"}.items():
        monkeypatch.setenv(f"ARINAR_{name}", value)
    url = sqlalchemy.make_url(address)
    cut = (
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND "
        "database = {}"
    )
    here = "(SELECT oid FROM pg_database WHERE datname = current_database())"
    files = {name: Path(name) for name in ("a lock", "another")}
    recorded = optuna_storage.AbandonedLocks()

    assert optuna_storage.free_locks(url, files) == set(files)
    with optuna_storage.shared_lock(url, "a lock"):
        assert optuna_storage.free_locks(url, files) == {"another"}
        act(cut.format(here))
        assert (
            optuna_storage.free_locks(url, files) == set(files)
            and recorded.among(set(files)) == set()
        )
        until(lambda: optuna_storage.free_locks(url, files) == {"another"}, 10)
        with pytest.raises(Timeout), optuna_storage.shared_lock(url, "a lock", wait=False):
            pass
    assert recorded.among({"another"}) == set()
    # "a lock" has been free for less
    until(lambda: recorded.among(optuna_storage.free_locks(url, files)) == {"another"}, 10)
    until(lambda: recorded.among(optuna_storage.free_locks(url, files)) == set(files), 10)


def machine(name, plan):
    """A worker in a folder of its own, as on another machine."""
    Path(name).mkdir()

    def act():
        os.chdir(name)
        failed = run_worker(plan)
        sys.exit(len(failed))

    return fork(act)


@pytest.mark.parametrize("fault", ["none", "restarted", "killed"])
def test_machines_without_common_files_do_each_job_once(fault, postgresql, monkeypatch):
    for name, value in {"STORAGE": postgresql.url(), "HEARTBEAT": "1", "GRACE": "5"}.items():
        monkeypatch.setenv(f"ARINAR_{name}", value)
    plan, log = plan_of(), Path("log").absolute()

    def run_job(job, plan):
        with log.open("a") as file:
            file.write(f"{job.key}\n")
        time.sleep(4 if len(log.read_text().split()) <= 2 else 0.1)
        pretend(job)
        return 1.0

    monkeypatch.setattr(worker, "run_job", run_job)
    prepare(plan)
    log.touch()
    one, other = machine("here", plan), machine("there", plan)
    until(lambda: len(log.read_text().split()) == 2)
    if fault == "restarted":
        postgresql.stop()
        postgresql.start()
    if fault == "killed":
        os.kill(one, signal.SIGKILL)
    assert ended(other, 60) == 0
    assert ended(one, 60) == (-9 if fault == "killed" else 0)
    counts = Counter(log.read_text().split())
    assert counts.keys() == {job.key for job in plan.jobs} and counts.total() == (
        7 if fault == "killed" else 6
    )
    assert len(list(Path().glob("*/runs/*/seed_*/DONE"))) == 6
    monkeypatch.setattr(worker.platform, "node", lambda: "a third machine")
    assert prepare(plan) == []


def test_a_grace_that_one_late_heartbeat_uses_up_is_refused(monkeypatch):
    monkeypatch.setenv("ARINAR_HEARTBEAT", "200")
    with pytest.raises(
        ConfigError, match=r"ARINAR_GRACE: 300 s is less than twice ARINAR_HEARTBEAT \(200 s\)"
    ):
        optuna_storage.heartbeat_seconds()
    monkeypatch.setenv("ARINAR_GRACE", "400")
    assert optuna_storage.heartbeat_seconds() == (200, 400)


# Two commands, and a file that changes


@pytest.mark.slow
def test_two_studies_at_once_work_together(shared, undisturbed):
    plan = plan_of()

    def command():
        prepare(plan)
        run_worker(plan)

    children = [fork(command), fork(command)]
    assert [ended(child, 90) for child in children] == [0, 0]
    assert trainings(plan) == [1] * 6 and numbers(plan) == undisturbed(plan)
    assert sorted(begun()) == sorted(job.key for job in plan.jobs)


def test_the_second_command_says_that_others_are_at_work(shared, monkeypatch):
    plan = plan_of(seeds=[0])

    def run_job(job, study):
        Path("begun").touch()
        time.sleep(60)

    monkeypatch.setattr(worker, "run_job", run_job)
    prepare(plan)
    child = fork(run_worker, plan)
    until(Path("begun").exists)
    try:
        assert open_board(plan).at_work() == [f"{os.uname().nodename} {child}"]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def edited(seeds=(0,), **arms):
    return read_plan(
        write_study(f"changing_{Path.cwd().name}", base=SHORT, arms=arms, seeds=list(seeds))
    )


def test_a_changed_file_is_told(shared, monkeypatch):
    ran = []
    monkeypatch.setattr(worker, "run_job", lambda job, _: ran.append(job.arm) or 1.0)
    old = edited(a={}, b={"training.lr": 0.0041}, c={"training.lr": 0.0042})
    prepare(old)
    new = edited(a={}, b={"training.lr": 0.0043}, d={"training.lr": 0.0042}, seeds=(0, 1))
    edits = ["added: d", "removed: c", "edited: b", "seeds: [0] became [0, 1]"]
    assert changes(open_board(old)) == []
    assert changes(open_board(new)) == edits
    with pytest.raises(
        ConfigError, match=r"another version of the study's file \(added: d; removed: c; edited: b;"
    ):
        run_worker(new)

    assert ran == []
    prepare(new)
    with pytest.raises(ConfigError, match="another version"):
        run_worker(old)
    run_worker(new)

    assert sorted(ran) == ["a", "a", "b", "b", "d", "d"]


def test_a_worker_whose_file_changes_under_it_ends_after_its_run(shared, monkeypatch):
    old, new, ran = (
        edited(a={}, b={"training.lr": 0.0041}),
        edited(a={}, d={"training.lr": 0.0042}),
        [],
    )

    def run_job(job, _):
        if not ran:
            prepare(new)
        ran.append(job.arm)
        pretend(job)
        return 1.0

    monkeypatch.setattr(worker, "run_job", run_job)
    prepare(old)
    with pytest.raises(ConfigError, match="added: b; removed: d"):
        run_worker(old)
    assert ran == ["a"]
    run_worker(new)
    assert ran == ["a", "d"]


def test_a_worker_may_be_the_first_and_adds_nothing_later(shared, monkeypatch):
    plan, ran = plan_of(seeds=[0]), []
    monkeypatch.setattr(
        worker, "run_job", lambda job, _: ran.append(job.key) or pretend(job) or 1.0
    )
    ensure_prepared(plan)
    ensure_prepared(plan)
    run_worker(plan)
    ensure_prepared(plan)
    run_worker(plan)

    assert sorted(ran) == sorted(job.key for job in plan.jobs)


def test_what_is_asked_for_survives_json(shared):
    plan = plan_of()
    prepare(plan)
    assert open_board(plan).arms() == json.loads(json.dumps(worker.study_signatures(plan)))
