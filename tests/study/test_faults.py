"""What really happens to studies: workers killed at any moment, terminated, frozen; the storage
stopped; a file changed.

Every cell must be in the report exactly once, none lost, and every number but timing that of
the undisturbed study.
"""

import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from filelock import Timeout
from optuna.trial import TrialState
from server import PASSWORD
from tiny import tiny, write_study

from arinar_lab import cli, pipeline
from arinar_lab.cli import ablate
from arinar_lab.errors import ConfigError
from arinar_lab.report.tables import plain_table
from arinar_lab.runs.folder import write_sealed
from arinar_lab.study import optuna_storage, processes, worker
from arinar_lab.study.collect import collect
from arinar_lab.study.cost import Cost
from arinar_lab.study.plan import read_plan
from arinar_lab.study.worker import changes, enqueue, ensure_queue_filled, open_queue, run_worker

pytestmark = pytest.mark.usefixtures("alone", "uncounted")

SHORT = tiny("evaluation.images=20", "training.steps=8", "outer.dropout=0.1")
STUDY = {"base": SHORT, "axes": {"inner.head.components": [1, 2, 3]}, "seeds": [0, 1]}
BOTH = ["sqlite", "postgresql"]


@pytest.fixture(params=BOTH)
def queue(request, monkeypatch, tmp_path):
    """Studies on a local file, and on a PostgreSQL server with a heartbeat of
    1 s and 5 s of grace.
    """
    import mlflow  # noqa: F401 once, not in every fork

    monkeypatch.setattr(worker, "_CLAIM_SECONDS", 2)
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
    found = {}
    for arm, by_seed in collect(plan).reports.items():
        for seed, report in by_seed.items():
            found[arm, seed] = {
                k: v for k, v in report["metrics"].items() if not k.startswith(("time/", "speed/"))
            }
    return found


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
            enqueue(calm)
            assert run_worker(calm) == []

            return numbers(calm)

    return of


def trainings(plan):
    """How often each cell was trained to its end."""
    return [(job.folder.path / "log.txt").read_text().count(" done, ") for job in plan.jobs]


def recovery(study, killed):
    """Seconds from the death of a worker until its trial was given up, of those who had one."""
    died = {f"{os.uname().nodename} {pid}": at for pid, at in killed.items()}
    return [
        trial.datetime_complete.timestamp() - died[trial.user_attrs["worker"]]
        for trial in study.get_trials(deepcopy=False)
        if trial.state == TrialState.FAIL and trial.user_attrs.get("worker") in died
    ]


# Killed


@pytest.mark.parametrize(
    ("kills", "seeds", "apart"), [(10, 3, 0.5), pytest.param(30, 10, 0.9, marks=pytest.mark.slow)]
)
def test_workers_killed_at_any_moment_change_no_number(
    queue, kills, seeds, apart, undisturbed, monkeypatch, capsys
):
    monkeypatch.setattr(worker, "_RETURNS", kills)
    chance, plan = random.Random(kills), plan_of(seeds=list(range(seeds)))
    expected = undisturbed(plan)  # first, so that no fork imports anything
    enqueue(plan)
    workers, killed = [fork(run_worker, plan) for _ in range(4)], {}
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
            killed[victim] = time.time()
        workers.remove(victim)
        workers.append(fork(run_worker, plan))

    assert [ended(child, 300) for child in workers] == [0] * 4
    study = open_queue(plan)
    complete = [t.user_attrs["key"] for t in study.get_trials() if t.state == TrialState.COMPLETE]
    assert sorted(complete) == sorted(job.key for job in plan.jobs)
    assert all(job.done for job in plan.jobs) and trainings(plan) == [1] * len(plan.jobs)
    assert numbers(plan) == expected
    table = plain_table(collect(plan), [])[1]
    assert [row[1] for row in table] == [f"{seeds} of {seeds}"] * 3
    seconds = recovery(study, killed)
    with capsys.disabled():
        print(
            f"\n{queue}: {len(killed)} kills, {len(seconds)} of them in a cell, 0 lost, 0 "
            f"repeated, recovered in {max(seconds, default=0):.1f} s at most"
        )


@pytest.mark.slow
def test_a_fifth_worker_goes_on_where_two_of_four_were_killed(postgresql, undisturbed, monkeypatch):
    for name, value in {"STORAGE": postgresql.url(), "HEARTBEAT": "1", "GRACE": "5"}.items():
        monkeypatch.setenv(f"ARINAR_{name}", value)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    plan = plan_of(seeds=list(range(6)))
    expected = undisturbed(plan)
    enqueue(plan)
    four = [fork(run_worker, plan) for _ in range(4)]
    until(lambda: sum(job.done for job in plan.jobs) >= 3)
    for child in four[:2]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    fifth = fork(run_worker, plan)
    assert [ended(child, 90) for child in (*four[2:], fifth)] == [0, 0, 0]
    complete = [t for t in open_queue(plan).get_trials() if t.state == TrialState.COMPLETE]

    assert sorted(t.user_attrs["key"] for t in complete) == sorted(job.key for job in plan.jobs)
    assert f"{os.uname().nodename} {fifth}" in {t.user_attrs["worker"] for t in complete}
    assert numbers(plan) == expected and trainings(plan) == [1] * 18


@pytest.mark.slow
def test_a_job_whose_workers_always_die_goes_back_three_times(queue, monkeypatch):
    plan = plan_of(axes={"inner.head.components": [1, 2]}, seeds=[0])
    bad = plan.jobs[0]

    def die(job, study):
        if job.key == bad.key:
            with job.folder.lock:
                os.kill(os.getpid(), signal.SIGKILL)
        return 0.0

    monkeypatch.setattr(worker, "run_job", die)
    enqueue(plan)
    for status in (-9, -9, -9, -9, 0):
        assert ended(fork(lambda: sys.exit(len(run_worker(plan)) != 1)), 60) == status
    lost = [
        t.user_attrs.get("lost", 0)
        for t in open_queue(plan).get_trials()
        if t.user_attrs.get("key") == bad.key
    ]
    assert lost == [0, 1, 2, 3]
    assert (
        (bad.folder.path / "FAILED")
        .read_text()
        .startswith("Lost: its worker died 4 times, the last time as ")
    )
    assert bad.folder.path.joinpath("log.txt").is_file()
    assert run_worker(plan) == [
        f"{bad.arm} {bad.key}: its worker died, again and again; see its log"
    ]


def test_sigterm_saves_a_checkpoint_and_hands_the_job_back(queue):
    base = tiny("evaluation.images=20", "training.steps=100000", "training.checkpoint_every=100000")
    plan = plan_of(base=base, axes={"inner.head.components": [1]}, seeds=[0])
    job = plan.jobs[0]
    enqueue(plan)
    child = fork(run_worker, plan)
    until((job.folder.path / "progress.json").is_file)
    begun = time.monotonic()
    os.kill(child, signal.SIGTERM)
    assert ended(child, 10) == 143
    assert time.monotonic() - begun < 10
    assert len(list(job.folder.checkpoints.glob("step=*.ckpt"))) == 1
    assert not job.done and not (job.folder.path / "FAILED").exists()
    study = open_queue(plan)
    (trial,) = study.get_trials()
    assert trial.state == TrialState.FAIL and trial.user_attrs["handed back"]
    worker.requeue_lost(study, {job.key: job}, plan)

    assert study.get_trials()[-1].state == TrialState.WAITING
    assert "lost" not in study.get_trials()[-1].user_attrs  # to be asked to end is no loss


def test_sigterm_between_trainings_hands_the_job_back(queue, monkeypatch):
    plan = plan_of(axes={"inner.head.components": [1]}, seeds=[0])
    monkeypatch.setattr(worker, "run_job", lambda *_: Path("begun").touch() or time.sleep(60))
    enqueue(plan)
    child = fork(run_worker, plan)
    until(Path("begun").exists)
    os.kill(child, signal.SIGTERM)
    assert ended(child, 10) == 143
    assert open_queue(plan).get_trials()[-1].user_attrs["handed back"]


# What fails in an arm


def test_arms_that_fail_say_why_and_the_study_goes_on(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    plan, train = plan_of(seeds=[0]), pipeline.train
    errors = {
        plan.jobs[0].folder: MemoryError("no room for 3 TB"),
        plan.jobs[1].folder: KeyError("gone"),
    }
    said = ["MemoryError: no room for 3 TB", "KeyError: 'gone'"]

    def fail(recipe, folder, *rest):
        if folder in errors:
            raise errors[folder]
        train(recipe, folder, *rest)

    monkeypatch.setattr(pipeline, "train", fail)
    enqueue(plan)
    assert run_worker(plan) == [
        f"{job.arm} {job.key}: {why}" for job, why in zip(plan.jobs, said, strict=False)
    ]
    assert [job.done for job in plan.jobs] == [False, False, True]
    assert [(job.folder.path / "FAILED").read_text().strip() for job in plan.jobs[:2]] == said


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
    enqueue(plan)
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
    ("address", "said"),
    [
        (
            "postgresql+nodriver://u:secret@127.0.0.1/x",
            "u:***@127.0.0.1/x: needs the Python package nodriver",
        ),
        ("mysql://u:secret@h/x", "mysql://u:***@h/x: 'mysql' is neither postgresql nor sqlite"),
        ("sqlite://", "names no database, as in sqlite:///queue.db"),
        ("secret and more", "not an address, as in postgresql+psycopg://user@host/database"),
        (
            "sqlite:////nowhere/at/all/secret.db?password=secret",
            "/nowhere/at/all/x.db: its folder is not there",
        ),
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
def test_a_storage_that_cannot_be_used_is_one_line(verb, address, said, monkeypatch, capsys):
    path = write_study(**STUDY)
    address = address.replace("/secret.db", "/x.db")
    assert said in said_at_the_end(monkeypatch, capsys, [verb, str(path)], ARINAR_STORAGE=address)
    assert not Path("runs").exists()


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
    enqueue(plan)
    assert Path("elsewhere.db").is_file() and not (plan.folder / "queue.db").exists()


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
    said = capsys.readouterr()
    assert leave.value.code in (1, 2) and "topsecret" not in said.out + said.err
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
    assert len(commands) == 2 and Path("topsecret.db").is_file()


def test_no_password_is_in_any_file(postgresql, monkeypatch):
    monkeypatch.setenv("ARINAR_STORAGE", postgresql.url())
    plan = plan_of(axes={"inner.head.components": [1]}, seeds=[0])
    ensure_queue_filled(plan)
    run_worker(plan)
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert plan.jobs[0].done and not [
        path for path in files if PASSWORD.encode() in path.read_bytes()
    ]


def test_what_another_machine_has_finished_is_not_run_again(postgresql, monkeypatch):
    monkeypatch.setenv("ARINAR_STORAGE", postgresql.url())
    plan = plan_of(seeds=[0])
    assert len(enqueue(plan)) == 3
    # its files are on the other machine
    monkeypatch.setattr(worker, "run_job", lambda job, plan: 1.0)
    with monkeypatch.context() as other:
        other.setattr(worker.platform, "node", lambda: "elsewhere")
        assert run_worker(plan) == []

    assert len(enqueue(plan)) == 3  # a machine that shares our files, where none is
    assert run_worker(plan) == []
    (plan.folder / ".place").write_text("elsewhere")
    with monkeypatch.context() as other:
        other.setattr(worker.platform, "node", lambda: "a third machine")
        assert enqueue(plan) == []

    asked = replace(
        plan, arms=tuple(replace(arm, recipe=evaluated(arm.recipe, 21)) for arm in plan.arms)
    )
    # measured otherwise
    assert [job.key for job in enqueue(asked)] == [job.key for job in plan.jobs]


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
def test_a_damaged_cell_is_queued_again(queue, fault, monkeypatch):
    plan, ran = plan_of(seeds=[0]), []

    def run_job(job, plan):
        ran.append(job.key)
        job.folder.path.mkdir(parents=True, exist_ok=True)
        (job.folder.path / "DONE").touch()
        write_sealed(
            job.folder.evaluation(job.recipes[0]) / "report.json",
            {"metrics": {"val/bits_per_dim": 1.0}},
        )
        return 1.0

    monkeypatch.setattr(worker, "run_job", run_job)
    enqueue(plan)
    assert run_worker(plan) == [] and enqueue(plan) == [] and len(ran) == 3
    damage(plan.jobs[1], fault)
    assert [job.key for job in enqueue(plan)] == [plan.jobs[1].key]
    assert run_worker(plan) == [] and enqueue(plan) == [] and ran[3:] == [plan.jobs[1].key]


@pytest.mark.slow
@pytest.mark.parametrize("fault", DAMAGE)
def test_a_damaged_cell_comes_out_the_same(queue, fault, undisturbed):
    plan = plan_of(seeds=[0])
    expected = undisturbed(plan)
    enqueue(plan)
    assert run_worker(plan) == []
    damage(plan.jobs[1], fault)
    enqueue(plan)
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
        optuna_storage._seconds("ARINAR_GRACE", 300)


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
    told = capsys.readouterr().out

    assert told.count("waiting for it") == 1 and "away" not in told
    assert f"storage: {small_disk}/queue.db: the disk is full, 0.0 MB are free; make room" in told
    assert len(study.user_attrs["said"]) == 1_000_000


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_queue_cut_short_may_be_deleted(share, monkeypatch, capsys):
    path = write_study(**STUDY)
    plan = read_plan(path)
    enqueue(plan)
    queue = plan.folder / "queue.db"
    queue.write_bytes(queue.read_bytes()[: int(share * queue.stat().st_size)])
    said = said_at_the_end(monkeypatch, capsys, ["work", str(path)])
    assert (
        "studies/study/queue.db: damaged" in said
        and "delete it, and the same command makes it anew" in said
    )
    queue.unlink()

    assert len(enqueue(plan)) == 6


@pytest.mark.parametrize("fault", ["deleted", "replaced", "emptied", "cut"])
def test_a_queue_that_waiting_does_not_mend_is_one_line_at_once(fault, monkeypatch, capsys):
    path = write_study(**{**STUDY, "seeds": [0]})
    plan, queue, ran = read_plan(path), Path("studies/study/queue.db"), []

    def run_job(job, plan):
        ran.append(job.key)
        if len(ran) == 1:
            content = queue.read_bytes()
            if fault in ("deleted", "replaced"):
                queue.unlink()
            if fault != "deleted":
                queue.write_bytes(
                    content[: {"replaced": len(content), "emptied": 0, "cut": 20_000}[fault]]
                )

        return 1.0

    monkeypatch.setattr(worker, "run_job", run_job)
    monkeypatch.delenv("ARINAR_PARENT", raising=False)
    enqueue(plan)
    begun = time.monotonic()
    with pytest.raises(SystemExit) as leave:
        cli.main(["work", str(path)])
    told = capsys.readouterr().err
    reason = {
        "replaced": "was replaced while it was in use",
        "cut": "damaged (database disk image is malformed)",
    }
    assert leave.value.code == 1 and told.count("\n") == 1 and time.monotonic() - begun < 10
    assert f"queue.db: {reason.get(fault, 'was deleted while it was in use')}" in told
    assert "the same command" in told and len(ran) == 1


@pytest.mark.slow
def test_a_study_whose_queue_is_deleted_goes_on_by_itself(forked, undisturbed, monkeypatch, capfd):
    monkeypatch.setattr(ablate, "probe_or_reason", lambda _: Cost(1, 1.0, 1.0, 1.0))
    path = write_study(**{**STUDY, "seeds": [0]})
    plan, run_job = read_plan(path), worker.run_job

    def delete_once(job, plan):
        if not Path("deleted").exists():
            Path("deleted").touch()
            (plan.folder / "queue.db").unlink()
        return run_job(job, plan)

    expected = undisturbed(plan)
    monkeypatch.setattr(worker, "run_job", delete_once)
    with pytest.raises(SystemExit) as leave:
        cli.main(["ablate", str(path), "--workers", "1"])
    assert "The queue was deleted while it was in use. It is made anew" in capfd.readouterr().out
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
def test_what_a_server_refuses_is_one_line_at_once(fault, postgresql):
    def act(*commands, database="postgres"):
        engine = sqlalchemy.create_engine(postgresql.url(database), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for command in commands:
                connection.exec_driver_sql(command)
        engine.dispose()

    name = f"faults_{time.time_ns()}"
    act(
        f"CREATE DATABASE {name}",
        "DROP ROLE IF EXISTS guest",
        "CREATE ROLE guest LOGIN SUPERUSER PASSWORD 'guest'",
    )
    url = sqlalchemy.make_url(postgresql.url(name)).set(username="guest", password="guest")
    study = optuna.create_study(storage=optuna_storage.open_storage(url))
    act(
        "ALTER ROLE guest NOSUPERUSER",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO guest",
        fault,
        database=name,
    )
    study._storage._backend.engine.dispose()
    begun = time.monotonic()
    with pytest.raises(
        optuna_storage.StorageUnusable, match=r"guest:\*\*\*@.*the same command goes on"
    ) as told:
        optuna_storage.retry_while_unavailable(lambda: study.tell(study.ask(), 1.0))
    assert time.monotonic() - begun < 5 and "\n" not in str(told.value)
    act(f"DROP DATABASE {name} WITH (FORCE)", "DROP ROLE guest")


def test_a_process_that_is_asked_to_end_in_a_statement_ends(queue):
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
def test_two_studies_at_once_work_together(queue, undisturbed):
    plan = plan_of()

    def command():
        enqueue(plan)
        run_worker(plan)

    children = [fork(command), fork(command)]
    assert [ended(child, 90) for child in children] == [0, 0]
    assert trainings(plan) == [1] * 6 and numbers(plan) == undisturbed(plan)
    # one more for each race for the last job
    assert len(open_queue(plan).get_trials()) in (6, 7, 8)


def test_the_second_command_says_that_others_are_at_work(queue, monkeypatch):
    plan = plan_of(seeds=[0])

    def run_job(job, study):
        with job.folder.lock:
            Path("begun").touch()
            time.sleep(60)

    monkeypatch.setattr(worker, "run_job", run_job)
    enqueue(plan)
    child = fork(run_worker, plan)
    until(Path("begun").exists)
    try:
        assert worker.active_workers(open_queue(plan), plan) == [f"{os.uname().nodename} {child}"]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def edited(seeds=(0,), **arms):
    return read_plan(write_study("changing", base=SHORT, arms=arms, seeds=list(seeds)))


def test_a_changed_file_is_told(monkeypatch):
    ran = []
    monkeypatch.setattr(worker, "run_job", lambda job, _: ran.append(job.arm) or 1.0)
    old = edited(a={}, b={"training.lr": 0.0041}, c={"training.lr": 0.0042})
    enqueue(old)
    new = edited(a={}, b={"training.lr": 0.0043}, d={"training.lr": 0.0042}, seeds=(0, 1))
    said = ["added: d", "removed: c", "edited: b", "seeds: [0] became [0, 1]"]
    assert changes(open_queue(new), old) == []
    assert changes(open_queue(new), new) == said
    with pytest.raises(
        ConfigError, match=r"another version of the study's file \(added: d; removed: c; edited: b;"
    ):
        run_worker(new)

    assert ran == []
    enqueue(new)
    with pytest.raises(ConfigError, match="another version"):
        run_worker(old)
    run_worker(new)
    assert sorted(ran) == ["a", "a", "b", "b", "d", "d"]

    waiting = [t for t in open_queue(new).get_trials() if t.state == TrialState.WAITING]
    assert waiting == []


def test_a_worker_whose_file_changes_under_it_ends_after_its_run(monkeypatch):
    old, new, ran = (
        edited(a={}, b={"training.lr": 0.0041}),
        edited(a={}, d={"training.lr": 0.0042}),
        [],
    )

    def run_job(job, _):
        if not ran:
            enqueue(new)
        ran.append(job.arm)
        return 1.0

    monkeypatch.setattr(worker, "run_job", run_job)
    enqueue(old)
    with pytest.raises(ConfigError, match="added: b; removed: d"):
        run_worker(old)
    assert ran == ["a"]
    run_worker(new)
    assert ran == ["a", "d"]


def test_a_worker_may_be_the_first_and_adds_nothing_later(monkeypatch):
    plan, ran = plan_of(seeds=[0]), []
    monkeypatch.setattr(worker, "run_job", lambda job, _: ran.append(job.key) or 1.0)
    ensure_queue_filled(plan)
    ensure_queue_filled(plan)
    run_worker(plan)
    ensure_queue_filled(plan)
    run_worker(plan)
    assert sorted(ran) == sorted(job.key for job in plan.jobs)


def test_json_of_what_is_asked_for_survives_the_storage():
    plan = plan_of()
    enqueue(plan)
    assert open_queue(plan).user_attrs["file"] == json.loads(
        json.dumps(worker.study_signatures(plan))
    )
