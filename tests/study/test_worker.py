"""Workers: every job is done once, whoever dies; what fails is told, and the study goes on."""

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock
from safetensors.torch import load_file
from tiny import pretend, tiny, write_study

from arinar_lab import cli, pipeline
from arinar_lab.analysis.analyse import analyse
from arinar_lab.cli import ablate, forecast
from arinar_lab.cli.ablate import _outcome
from arinar_lab.cli.processes import end_with_parent
from arinar_lab.errors import ConfigError
from arinar_lab.report.report import write_report
from arinar_lab.report.statements import notes
from arinar_lab.report.tables import plain_table
from arinar_lab.runs.folder import RunFolder, write_json
from arinar_lab.study import processes as crew
from arinar_lab.study import worker
from arinar_lab.study.collect import collect
from arinar_lab.study.cost import Cost
from arinar_lab.study.plan import read_plan
from arinar_lab.study.worker import open_board, prepare, run_worker
from arinar_lab.training.train import train

pytestmark = pytest.mark.usefixtures("alone")

K = {"inner.head.components": [1, 2]}


def plan_of(base=None, **keys):
    return read_plan(write_study(base=base, **{"axes": K, "seeds": [0, 1], **keys}))


def stamps(job):
    return [path.stat().st_mtime_ns for path in (job.folder.path / "DONE", job.folder.weights)]


@pytest.fixture
def ran(monkeypatch):
    """Keys of the jobs that workers of this process do, without training."""
    keys = []

    def run_job(job, plan):
        keys.append(job.key)
        pretend(job)
        return 1.0

    monkeypatch.setattr(worker, "run_job", run_job)
    return keys


# Which jobs there are to do


def test_every_job_is_done_once(ran):
    plan = plan_of()
    assert prepare(plan) == prepare(plan) == plan.jobs
    assert run_worker(plan) == []
    assert ran == [job.key for job in plan.jobs]
    assert prepare(plan) == [] and run_worker(plan) == [] and len(ran) == 4


def test_a_finished_job_is_left_alone():
    plan = plan_of(base=tiny("training.steps=2"))
    plan.jobs[1].folder.path.mkdir(parents=True)
    worker.run_job(plan.jobs[1], plan)
    assert prepare(plan) == [plan.jobs[0], *plan.jobs[2:]]


def test_a_longer_study_adds_what_is_new(ran):
    old, plan = plan_of(seeds=[0]), plan_of(seeds=[0, 1])
    for study in (old, plan):
        prepare(study)
        run_worker(study)
    assert ran == [job.key for job in plan.jobs]


def test_jobs_that_left_the_study_are_not_run(ran):
    prepare(plan_of(seeds=[0, 1]))
    plan = plan_of(seeds=[1])
    prepare(plan)
    run_worker(plan)
    assert ran == [job.key for job in plan.jobs]


def test_a_failed_job_is_tried_again_by_the_next_command_and_by_no_worker_before(monkeypatch):
    plan, tries = plan_of(), []
    keys = [job.key for job in plan.jobs]

    def fail_first(job, study):
        tries.append(job.key)
        if tries == keys[:1]:
            raise RuntimeError("the disk is full")
        return 0.0

    monkeypatch.setattr(worker, "run_job", fail_first)
    prepare(plan)
    failures = [f"{plan.jobs[0].arm} {keys[0]}: RuntimeError: the disk is full"]
    assert run_worker(plan) == failures
    assert tries == keys  # the failed one is not tried for ever
    for job in plan.jobs[1:]:
        pretend(job)
    assert run_worker(plan) == failures and tries == keys
    assert prepare(plan) == plan.jobs[:1] and plan.jobs[0].folder.failure == ""
    assert run_worker(plan) == []
    assert tries == [*keys, keys[0]]


# Jobs whose worker died


def test_a_lost_job_is_taken_at_once_whatever_the_clock_says(ran):
    plan = plan_of()
    for job, since in zip(plan.jobs, ("2001-01-01 00:00:00", "2999-12-31 23:59:59"), strict=False):
        write_json(job.folder.path / "attempts.json", {"attempts": ["host 1"], "since": since})
    prepare(plan)
    assert run_worker(plan) == [] and ran == [job.key for job in plan.jobs]
    assert not list(Path("runs").rglob("attempts.json"))  # what is done has no attempts


def test_an_attempt_is_counted_while_it_lasts_and_after_its_worker_died(monkeypatch):
    plan = plan_of(axes={"inner.head.components": [1]}, seeds=[0])
    (job,) = plan.jobs
    recorded = []

    def run_job(job, plan):
        recorded.append(open_board(plan).record(job)["attempts"])
        return 1.0

    monkeypatch.setattr(worker, "run_job", run_job)
    write_json(
        job.folder.path / "attempts.json", {"attempts": ["host 1"], "since": "2026-01-01 00:00:00"}
    )
    assert run_worker(plan) == []
    assert recorded == [["host 1", f"{os.uname().nodename} {os.getpid()}"]]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"attempts": 7, "since": "now"}', '{"since": "now"}']
)
def test_attempts_that_are_damaged_are_none(ran, content):
    plan = plan_of()
    file = plan.jobs[0].folder.path / "attempts.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    assert open_board(plan).at_work() == []
    assert run_worker(plan) == [] and len(ran) == 4


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles"])
def test_a_job_whose_folder_is_locked_is_waited_for_anywhere_in_the_world(ran, monkeypatch, zone):
    plan = plan_of()
    held = plan.jobs[0].folder.lock.acquire()
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            held.lock.release()

    monkeypatch.setenv("TZ", zone)
    time.tzset()
    monkeypatch.setattr(worker.time, "sleep", sleep)
    assert run_worker(plan) == []
    monkeypatch.undo()
    time.tzset()
    assert ran == [job.key for job in (*plan.jobs[1:], plan.jobs[0])] and waits == [1, 1, 1]


# Many processes


def test_no_two_processes_take_the_same_job(monkeypatch):
    """Four real processes and forty jobs."""
    plan = plan_of(axes={"inner.head.components": [1, 2]}, seeds=list(range(20)))
    log = Path("log").absolute()

    def run_job(job, study):
        with log.open("a") as file:
            file.write(f"{job.key}\n")
        pretend(job)
        return 0.0

    monkeypatch.setattr(worker, "run_job", run_job)
    prepare(plan)
    fork = get_context("fork")
    start = fork.Barrier(4)

    def take():
        start.wait()
        run_worker(plan)

    processes = [fork.Process(target=take) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert sorted(log.read_text().splitlines()) == sorted(job.key for job in plan.jobs)


def test_a_worker_ends_with_its_parent():
    """However the parent dies: its child gets a SIGTERM, which here writes a file."""
    done = Path("terminated").absolute()
    parent = os.fork()
    if parent == 0:
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, lambda *_: (done.write_text("yes"), os._exit(0)))
            end_with_parent(os.getppid())
            time.sleep(30)
            os._exit(1)
        time.sleep(0.3)
        os._exit(0)

    os.waitpid(parent, 0)
    for _ in range(100):
        if done.exists():
            return
        time.sleep(0.05)

    pytest.fail("the worker outlived its parent")


# One study, stopped in every way

LONG = [
    "evaluation.speed_batch=1",
    "evaluation.images=20",
    "training.steps=60",
    "training.checkpoint_every=10",
    "training.validate_every=30",
    "outer.dropout=0.1",
]
ARMS = {"inner.head.components": [1, 2, 3]}


@pytest.fixture(params=["forked", pytest.param("real", marks=pytest.mark.slow)])
def processes(request, monkeypatch):
    """The workers that a study has started: forks of this process, or the real commands."""
    if request.param == "forked":
        request.getfixturevalue("uncounted")
        return request.getfixturevalue("forked")
    started = []

    def start(*words, **options):
        started.append(subprocess.Popen(*words, **options))
        return started[-1]

    spawn = SimpleNamespace(
        Popen=start, STDOUT=subprocess.STDOUT, TimeoutExpired=subprocess.TimeoutExpired
    )
    monkeypatch.setattr(crew, "subprocess", spawn)
    return started


@contextmanager
def whenever_it_watches(monkeypatch, act):
    """Call `act` each time the study's own process looks at its workers."""

    def sleep(seconds):
        act()
        time.sleep(0.02)

    clock = SimpleNamespace(
        sleep=sleep, time=time.time, monotonic=time.monotonic, perf_counter=time.perf_counter
    )
    with monkeypatch.context() as patch:
        patch.setattr(ablate, "time", clock)
        yield


def run(*words):
    with pytest.raises(SystemExit) as leave:
        cli.main(["ablate", "study.yaml", "--workers", "1", *words])
    return leave.value.code


def once(condition, act):
    """A function that acts when the condition is first met."""
    left = [act]

    def look():
        if left and condition():
            left.pop()()

    return look


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_that_was_finished(processes, monkeypatch, capfd):
    path = write_study(base=tiny(*LONG), axes=ARMS, seeds=[0])
    first, second, third = read_plan(path).jobs

    def in_the_middle():
        return first.done and any(second.folder.checkpoints.glob("step=*.ckpt"))

    with whenever_it_watches(monkeypatch, once(in_the_middle, lambda: processes[0].kill())):
        assert run() == 0
    assert first.done and second.done and third.done and len(processes) == 2
    assert (
        f"Worker {processes[0].pid} died of SIGKILL; its log is studies/study/worker_0.log"
        in capfd.readouterr().out
    )
    started = Counter(
        line.split()[-1]
        for line in Path("studies/study/worker_0.log").read_text().splitlines()
        if "components=" in line and line.endswith("seed_0")
    )
    assert started == {first.key: 1, second.key: 2, third.key: 1}

    # the killed run went on from its checkpoint, bit for bit
    straight = RunFolder(Path("straight"))
    straight.path.mkdir()
    train(second.recipes[0], straight)
    actual, expected = load_file(second.folder.weights), load_file(straight.weights)
    assert all((actual[name] == expected[name]).all() for name in expected)

    after = [stamps(job) for job in (first, second, third)]
    assert run() == 0 and len(processes) == 2  # all is done: nobody is started
    assert [stamps(job) for job in (first, second, third)] == after


def test_a_worker_that_is_killed_is_replaced_and_the_study_goes_on(forked, monkeypatch, capfd):
    path = write_study(axes=K, seeds=[0])

    def run_job(job, plan):
        if not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        with Path("done").open("a") as file:
            file.write(f"{job.key}\n")
        return 1.0

    monkeypatch.setattr(worker, "run_job", run_job)
    monkeypatch.setattr(forecast, "probe_or_reason", lambda _: Cost(1, 1.0, 1.0, 1.0))
    assert run() == 1  # nothing was really trained
    stdout = capfd.readouterr().out
    assert (
        f"Worker {forked[0].pid} died of SIGKILL; its log is studies/study/worker_0.log." in stdout
    )
    assert "Another one takes its place" in stdout and len(forked) == 2
    assert (
        "Logs of the workers: studies/study/worker_*.log\narinar ablate, with the same file and "
        "words, goes on." in stdout
    )
    assert Path("done").read_text().split() == [job.key for job in read_plan(path).jobs]


def crew_of(script):
    """One worker that runs a shell's script, watched to its end; its last
    status, and what was told.
    """
    Path("log").touch()
    messages = []
    one = crew.Worker(["sh", "-c", script], Path("log"), dict(os.environ), messages.append)
    while (status := one.poll()) is None:
        time.sleep(0.005)
    return status, messages


def test_a_worker_that_always_dies_is_not_replaced_for_ever():
    status, messages = crew_of("kill -9 $$")
    assert status == -9 and len(messages) == crew.MAX_RESTARTS + 1
    assert (
        "is not again; the same command goes on" in messages[-1]
        and "its log is log" in messages[-1]
    )


@pytest.mark.parametrize(("script", "status"), [("exit 2", 2), ("kill -TERM $$", -15)])
def test_a_worker_that_ends_by_itself_or_is_asked_to_is_not_replaced(script, status):
    assert crew_of(script) == (status, [])


def test_a_study_that_is_asked_to_end_leaves_no_worker(processes, monkeypatch, capfd):
    path = write_study(base=tiny(*LONG), axes=K, seeds=[0])
    first = read_plan(path).jobs[0]

    def in_the_middle():
        return any(first.folder.checkpoints.glob("step=*.ckpt"))

    def not_handled(*_):
        raise AssertionError("the study does not listen")

    before = signal.signal(signal.SIGTERM, not_handled)
    try:
        with whenever_it_watches(
            monkeypatch, once(in_the_middle, lambda: os.kill(os.getpid(), signal.SIGTERM))
        ):
            assert run() == 130
        assert signal.getsignal(signal.SIGTERM) == not_handled
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [process.poll() is None for process in processes] == [False]
    assert not first.folder.done and not (first.folder.path / "FAILED").exists()
    with FileLock(first.folder.path / ".lock", timeout=0):
        pass
    assert "The same command goes on where it stopped." in capfd.readouterr().out


def test_an_arm_that_diverges_is_told_and_the_others_go_on(forked, uncounted, capfd):
    path = write_study(arms={"wild": {"training.lr": 1e30}, "tame": {}}, seeds=[0])
    wild, tame = read_plan(path).jobs
    assert run() == 1
    assert tame.done and not wild.folder.done
    reason = (wild.folder.path / "FAILED").read_text()
    assert (
        reason.startswith("Diverged: the loss became nan at step ")
        and "lower training.lr" in reason
    )
    stdout = " ".join(capfd.readouterr().out.split())
    assert "failed" in stdout and "the loss became nan" in stdout
    assert "finish the run that is missing" in stdout

    before = stamps(tame)
    assert run() == 1  # it is tried again, and the other is not
    assert stamps(tame) == before
    begun = [
        line.split()[-1]
        for line in Path("studies/study/worker_0.log").read_text().splitlines()
        if "seed_0" in line
    ]
    assert begun.count(wild.key) == 2 and begun.count(tame.key) == 1


def test_a_run_that_recovers_is_no_longer_failed(monkeypatch):
    """Trained, not evaluated: the disk was full. The next command evaluates it."""
    plan = plan_of(base=tiny("training.steps=2"), axes={"inner.head.components": [1]}, seeds=[0])
    job, measured = plan.jobs[0], pipeline.evaluate_with_reference

    def fail(*_):
        raise OSError("no space left")

    prepare(plan)
    monkeypatch.setattr(pipeline, "evaluate_with_reference", fail)
    run_worker(plan)
    assert (job.folder.path / "FAILED").read_text() == "OSError: no space left\n"
    monkeypatch.setattr(pipeline, "evaluate_with_reference", measured)
    prepare(plan)
    run_worker(plan)
    assert job.done and not (job.folder.path / "FAILED").exists()


def test_a_guidance_study_trains_once_and_evaluates_each():
    plan = plan_of(base=tiny("training.steps=2"), axes={"sampler.guidance": [1.0, 2.0]}, seeds=[0])
    prepare(plan)
    run_worker(plan)
    assert plan.jobs[0].done
    assert len(list(Path("runs").glob("*/seed_0"))) == 1
    assert len(list(Path("runs").glob("*/seed_0/evaluations/*/report.json"))) == 2


def test_the_value_of_a_job_is_its_bits_per_dim():
    plan = plan_of(base=tiny("training.steps=2"), axes={"inner.head.components": [1]}, seeds=[0])
    job = plan.jobs[0].claim_name()
    value = worker.run_job(job, plan)
    assert value == pytest.approx(job.folder.report(job.recipes[0])["metrics"]["val/bits_per_dim"])


def test_without_a_likelihood_each_regime_has_the_distance_of_its_data(monkeypatch):
    energy = {"inner": {"kind": "energy", "width": 8, "depth": 1}}
    regimes = {"digits": {}, "clothing": {"data": {"kind": "fashion", "size": 14}}}
    plan = plan_of(axes={}, arms={"energy": energy, "gmm": {}}, seeds=[0], regimes=regimes)
    metrics = {"quality/fd_digits": 1.0, "quality/fd_fashion": 2.0}
    monkeypatch.setattr(worker, "perform_locked", lambda *_: ([{"metrics": metrics}], None))
    values = {job.arm: worker.run_job(job, plan) for job in plan.jobs}
    assert {arm.partition(" @ ")[2]: value for arm, value in values.items()} == {
        "digits": 1.0,
        "clothing": 2.0,
    }


def test_a_study_with_an_arm_without_likelihood_is_ranked_by_distance():
    energy = {"inner": {"kind": "energy", "width": 8, "depth": 1}}
    plan = plan_of(
        base=tiny("training.steps=2"), axes={}, arms={"gmm": {}, "energy": energy}, seeds=[0]
    )
    values = {job.arm: worker.run_job(job.claim_name(), plan) for job in plan.jobs}
    assert plan.criterion == "quality/fd_digits"
    reports = {arm.name: plan.cell(arm, 0)[0].report(plan.cell(arm, 0)[1]) for arm in plan.arms}
    assert "val/bits_per_dim" in reports["gmm"]["metrics"]
    assert not [name for name in reports["energy"]["metrics"] if "bits_per_dim" in name]
    assert reports["energy"]["likelihood"]["kind"] == "none"
    assert values == {
        name: report["metrics"]["quality/fd_digits"] for name, report in reports.items()
    }
    results = analyse(collect(plan))
    headings, body = plain_table(results, results.columns)
    cell = dict(zip(headings, body[1], strict=True))

    assert (cell["arm"], cell["likelihood"], cell["bits/dim ↓"]) == ("energy", "none", "n/a")
    assert "No likelihood (n/a): energy. Arms are ranked by FD digits." in notes(results)
    assert all(path.is_file() for path in write_report(results))
    assert "n/a bits/dim, FD digits" in _outcome(plan.jobs[1], "energy")


def test_an_arm_that_nothing_could_compare_is_refused():
    with pytest.raises(ConfigError, match="arm energy: has no likelihood"):
        plan_of(
            base=tiny("data={kind: synthetic}", "codec=tokens"),
            axes={},
            arms={"gmm": {}, "energy": {"inner": "energy"}},
        )


def test_the_folder_of_the_study_can_be_lost(monkeypatch):
    """The run folders are the truth: without studies/ nothing is trained again, and an old
    queue.db is not read.
    """
    plan = plan_of(base=tiny("training.steps=2"), axes={"inner.head.components": [1]}, seeds=[0])
    prepare(plan)
    run_worker(plan)
    shutil.rmtree("studies")
    plan.folder.mkdir(parents=True)
    (plan.folder / "queue.db").write_text("of an earlier version")
    monkeypatch.setattr(worker, "run_job", lambda *_: pytest.fail("trained again"))

    assert prepare(plan) == []
    assert run_worker(plan) == []
