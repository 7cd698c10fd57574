"""Tracking: MLflow shows what the run folders hold, can be lost and sent again,
and never stops a run.
"""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from command import arinar
from mlflow import MlflowClient
from tiny import tiny, write_study

from arinar_lab.cli.ablate import report_study
from arinar_lab.cli.mlflow_sync import all_runs, fetch
from arinar_lab.config.schema import flatten, to_plain
from arinar_lab.evaluation.evaluate import evaluate_run
from arinar_lab.pipeline import train_and_evaluate
from arinar_lab.runs.folder import RunFolder, git_state
from arinar_lab.runs.history import read_metrics
from arinar_lab.study.collect import collect
from arinar_lab.study.plan import read_plan
from arinar_lab.tracking import server as dashboard
from arinar_lab.tracking import tracker as tracking
from arinar_lab.tracking.connection import PATIENCE, TIMEOUT, tracking_uri
from arinar_lab.tracking.tracker import BudgetedClient, Tracker, Unavailable, note_view
from arinar_lab.training.train import train

LONG = ["training.steps=10"]  # the loss is logged every tenth step


@pytest.fixture
def run(tracked, a_run):
    """A finished run beside an empty store."""
    return a_run


def publish(run, recipe=None, arm="an arm", name="a study"):
    tracker = Tracker(name)
    tracker.publish(recipe or tiny(), arm, run, read_metrics)
    assert not tracker.warned
    return tracker


def runs_of(role, name="a study"):
    client = MlflowClient(tracking_uri())
    experiment = client.get_experiment_by_name(name)
    return client.search_runs([experiment.experiment_id], f"tags.`arinar.role` = '{role}'")


def only(result):
    assert len(result) == 1
    return result[0]


def history(run, metric):
    result = MlflowClient(tracking_uri()).get_metric_history(run.info.run_id, metric)
    return sorted((m.step, m.value) for m in result)


def files(run, below=None):
    return {
        item.path for item in MlflowClient(tracking_uri()).list_artifacts(run.info.run_id, below)
    }


def test_a_run_lies_below_its_arm(run):
    publish(run)
    arm, seed = only(runs_of("arm")), only(runs_of("seed"))
    assert seed.data.tags["mlflow.parentRunId"] == arm.info.run_id
    assert (arm.info.run_name, seed.info.run_name) == ("an arm", "an arm seed 0")
    assert seed.info.status == "FINISHED"


def test_parameters_of_arm_and_seed_are_the_resolved_recipe(run):
    publish(run)
    arm, seed = only(runs_of("arm")), only(runs_of("seed"))
    everything = {key: str(value) for key, value in flatten(to_plain(tiny())).items()}
    assert seed.data.params == {**everything, "arm": "an arm"}
    assert arm.data.params == {
        key: value for key, value in seed.data.params.items() if key != "seed"
    }
    assert everything["outer.width"] == "16" and everything["inner.head.components"] == "4"


def test_the_code_that_ran_is_told(run):
    publish(run)
    assert only(runs_of("seed")).data.tags["git.commit"] == git_state()["commit"]


def test_two_seeds_share_an_arm(run):
    publish(run)
    publish(run, tiny("seed=1"))
    assert {s.data.tags["mlflow.parentRunId"] for s in runs_of("seed")} == {
        only(runs_of("arm")).info.run_id
    }
    assert sorted(s.data.tags["arinar.seed"] for s in runs_of("seed")) == ["0", "1"]


def test_metrics_and_artifacts_arrive(run):
    publish(run)
    seed, report = only(runs_of("seed")), run.report(tiny())
    for name, value in report["metrics"].items():
        assert seed.data.metrics[name] == pytest.approx(value), name
    assert files(seed) == {"config.yaml", "bits.npz", "report.json", "samples"}
    assert files(seed, "samples") == {"samples/grid.png"}


def test_publishing_twice_adds_nothing(run):
    publish(run)
    first = {name: history(only(runs_of("seed")), name) for name in run.report(tiny())["metrics"]}
    publish(run)
    seed = only(runs_of("seed"))
    only(runs_of("arm"))
    assert {name: history(seed, name) for name in first} == first
    assert len(first["val/bits_per_dim"]) == 3  # two validations and the evaluation


def test_a_live_run_and_its_publication_are_one(tracked):
    recipe, tracker = tiny(*LONG), Tracker("a study")
    folder = RunFolder.of(recipe, "an arm")
    folder.path.mkdir(parents=True)
    tracker.start(recipe, "an arm")
    assert only(runs_of("seed")).info.status == "RUNNING"
    train(recipe, folder, tracker)
    live = only(runs_of("seed"))
    rows = [
        (step, value)
        for step, name, value in read_metrics(folder.path / "metrics.csv")
        if name == "train/loss"
    ]
    assert history(live, "train/loss") == rows and len(rows) == 1
    evaluate_run(recipe, folder)
    publish(folder, recipe)
    after = only(runs_of("seed"))

    assert (after.info.run_id, after.info.status) == (live.info.run_id, "FINISHED")
    assert history(after, "train/loss") == rows


def test_a_lost_store_is_restored_from_the_run_folders(run, empty_store, monkeypatch):
    publish(run)
    before = only(runs_of("seed"))
    shutil.rmtree("tracking")
    shutil.copy(empty_store, "again.db")  # by another name: MLflow keeps stores open by theirs
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path('again.db').absolute()}")
    publish(run)
    after = only(runs_of("seed"))
    assert after.data.metrics == before.data.metrics and after.data.params == before.data.params
    assert after.data.tags["mlflow.parentRunId"] == only(runs_of("arm")).info.run_id
    rows = [
        (step, value)
        for step, name, value in read_metrics(run.path / "metrics.csv")
        if name == "val/bits_per_dim"
    ]
    evaluated = (6, run.report(tiny())["metrics"]["val/bits_per_dim"])

    assert history(after, "val/bits_per_dim") == [*rows, evaluated]
    assert files(after) == {"config.yaml", "bits.npz", "report.json", "samples"}


@pytest.mark.parametrize("arm", ["it's", 'a "b"', "50 %", "K = 4, σ ≤ 1", "a`b", "back\\slash"])
def test_an_arm_may_have_any_name(run, arm):
    publish(run, arm=arm)
    publish(run, arm=arm)
    assert (
        only(runs_of("seed")).data.tags["arinar.arm"]
        == only(runs_of("arm")).data.tags["arinar.arm"]
        == arm
    )


def test_means_of_an_arm_are_its_own(run):
    tracker = publish(run)
    tracker.publish_arm(tiny(), "an arm", {"val/bits_per_dim": 2.5})
    arm = only(runs_of("arm"))
    assert arm.data.metrics == {"val/bits_per_dim": 2.5} and arm.info.status == "FINISHED"


def test_an_arm_is_of_the_code_that_trained_it_and_says_what_it_is(run):
    run.write_report(tiny(), {**run.report(tiny()), "git": {"commit": "abc", "dirty": False}})
    tracker = publish(run)
    tracker.publish_arm(tiny(), "an arm", {"n": 1.0}, note="what it is")
    arm, seed = only(runs_of("arm")), only(runs_of("seed"))
    assert arm.data.tags["git.commit"] == seed.data.tags["git.commit"] == "abc"
    assert arm.data.tags["mlflow.note.content"] == "what it is"


def test_the_reports_of_a_study_are_artifacts_of_one_run(run):
    tracker = publish(run)
    Path("table.md").write_text("a table")
    for _ in range(2):
        tracker.publish_study([Path("table.md")])
    assert files(only(runs_of("report"))) == {"table.md"}


def test_the_link_opens_the_experiment(run):
    tracker = publish(run)
    number = MlflowClient(tracking_uri()).get_experiment_by_name("a study").experiment_id
    assert (
        tracker.link()
        == f"http://127.0.0.1:5000/#/experiments/{number}/runs?workflowType=machine_learning"
    )
    assert tracker.link("arms") == f"{tracker.link()}&viewStateShareKey=arms"


def test_what_is_not_finished_is_not_published(tracked):
    publish(RunFolder(Path("nothing")))
    assert only(runs_of("seed")).data.metrics == {}


# A store that fails


def test_a_dead_server_never_stops_a_run(alone, capsys):
    recipe, tracker, folder = tiny(*LONG), Tracker("a study"), RunFolder(Path("run"))
    folder.path.mkdir()
    tracker.start(recipe, "an arm")
    train(recipe, folder, tracker)
    evaluate_run(recipe, folder)
    tracker.publish(recipe, "an arm", folder, read_metrics)
    tracker.publish_arm(recipe, "an arm", {"x": 1.0})
    tracker.publish_study([Path("nothing.md")])
    tracker.finish()
    assert tracker.link().startswith("http://")
    assert folder.done

    stdout = capsys.readouterr().out
    assert stdout.count("MLflow: ") == 1 and "the run goes on" in stdout


def test_a_store_that_dies_in_mid_run_does_not_stop_it_and_is_sent_the_rest(tracked):
    recipe, tracker, folder = tiny("training.steps=20"), Tracker("a study"), RunFolder(Path("run"))
    folder.path.mkdir()
    tracker.start(recipe, "an arm")
    log_batch = tracker._client.log_batch

    def until_step_10(run_id, metrics):
        if metrics[0].step > 10:
            raise ConnectionError("gone")
        log_batch(run_id, metrics=metrics)

    tracker._client.log_batch = until_step_10
    train(recipe, folder, tracker)
    assert folder.done and tracker.warned
    assert [step for step, _ in history(only(runs_of("seed")), "train/loss")] == [9]
    evaluate_run(recipe, folder)
    publish(folder, recipe)
    assert [step for step, _ in history(only(runs_of("seed")), "train/loss")] == [9, 19]


def test_names_are_flattened():
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {
        "a.b": 1,
        "a.c.d": [2],
        "e": None,
    }


def test_the_store_is_the_one_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///x.db")
    assert tracking_uri() == "sqlite:///x.db"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri() == f"sqlite:///{tmp_path}/tracking/mlflow.db"


# How long may be waited


class Slow:
    """A client of a server that answers after a while, or fails after it."""

    def __init__(self, seconds, error=None):
        self.seconds, self.error, self.calls = seconds, error, 0

    def ask(self):
        self.calls += 1
        time.sleep(self.seconds)
        if self.error:
            raise self.error
        return self.calls


def patient(client, patience):
    result = BudgetedClient(patience)
    result.client = client
    return result


def test_a_slow_server_is_asked_until_patience_ends():
    client = patient(Slow(0.05), 0.2)
    begun = time.monotonic()
    with pytest.raises((Unavailable, TimeoutError)):
        for _ in range(100):
            client.ask()
    assert 4 <= client.client.calls <= 6 and time.monotonic() - begun < 0.2 + 0.05 + 0.2


def test_a_run_may_wait_a_hundredth_of_its_time():
    client = patient(Slow(0), 0.0)
    client.begun -= 1000
    assert client.left == pytest.approx(10, abs=0.1)
    assert client.ask() == 1


def test_after_a_failure_there_is_quiet_for_a_while(monkeypatch):
    client = patient(Slow(0, ConnectionError("gone")), 60.0)
    with pytest.raises(ConnectionError):
        client.ask()
    for _ in range(3):
        with pytest.raises(Unavailable):
            client.ask()

    assert client.client.calls == 1
    client.quiet_until = time.monotonic()
    with pytest.raises(ConnectionError):
        client.ask()


def test_a_server_that_never_answers_does_not_hold_up_a_run(alone, monkeypatch, capsys):
    """It accepts connections, and that is all."""
    with socket.create_server(("127.0.0.1", 0)) as hole:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{hole.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        tracker, folder = Tracker("a study"), RunFolder(Path("run"))
        folder.path.mkdir()
        tracker.start(tiny(*LONG), "an arm")
        train(tiny(*LONG), folder, tracker)
        assert not tracker.publish(tiny(*LONG), "an arm", folder, read_metrics)
        tracker.finish("FAILED")

    assert folder.done and 1 <= tracker._client.spent < 3
    assert capsys.readouterr().out.count("MLflow: ") == 1
    assert TIMEOUT <= PATIENCE / 3


@contextmanager
def dripping():
    """The address of a server that sends a byte now and then, for ever."""

    def drip(connection):
        with suppress(OSError), connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while True:
                connection.sendall(b" ")
                time.sleep(0.2)

    def serve(listener):
        with suppress(OSError):
            while True:
                threading.Thread(target=drip, args=[listener.accept()[0]], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=[listener], daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def server_that_is_away():
    """The address of a database that nobody serves: MLflow tries ten times, here for 5 s
    in all, under a lock.
    """
    pytest.importorskip("psycopg")
    from mlflow.store.db import utils

    before = set(threading.enumerate())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "time", SimpleNamespace(sleep=lambda _: time.sleep(0.5)))
        yield "postgresql+psycopg://me:secret@127.0.0.1:9/db"
        for thread in set(threading.enumerate()) - before:
            thread.join(20)


@pytest.mark.parametrize("place", [dripping, server_that_is_away])
def test_no_call_lasts_longer_than_may_be_waited(place, a_run, monkeypatch, capsys):
    import mlflow  # noqa: F401 which takes a second

    for module in (tracking, dashboard):
        monkeypatch.setattr(module, "PATIENCE", 1.0)
    with place() as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        tracker, begun = Tracker("a study", 1.0), time.monotonic()
        tracker.start(tiny(), "an arm")
        assert not tracker.publish(tiny(), "an arm", a_run, read_metrics)
        tracker.finish()
        assert 1 <= tracker._client.spent < 2.5 and time.monotonic() - begun < 5
        assert "MLflow: does not answer within " in capsys.readouterr().out
        note_view(tiny(), "an arm", a_run, "a study")
        begun = time.monotonic()
        assert arinar("sync", a_run.path) == 1
        assert arinar("mlflow") == 2
        captured = capsys.readouterr()
        assert (
            "does not answer within 1.0 s" in captured.err
            and "secret" not in captured.err + captured.out
        )
        assert time.monotonic() - begun < 10


# Sending and fetching


@contextmanager
def server(port, store):
    """MLflow's server on this machine, until the block ends."""
    words = [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        f"sqlite:///{store}",
    ]
    options = ["--artifacts-destination", str(store.parent / "artifacts"), "--serve-artifacts"]
    with (store.parent / "server.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words, *options],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )

    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
                break
            except OSError:
                assert process.poll() is None, (store.parent / "server.log").read_text()
                time.sleep(0.1)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 15)
            process.wait(30)


@pytest.mark.slow
def test_a_server_that_stops_in_mid_run_and_comes_back_is_sent_the_rest(
    alone, empty_store, monkeypatch, capsys
):
    store = alone / "store" / "mlflow.db"
    store.parent.mkdir()
    shutil.copy(empty_store, store)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    recipe = tiny("training.steps=30")
    folder = RunFolder.of(recipe, "an arm")
    log = Tracker.log
    with server(port, store) as process:

        def stop_after_step_10(self, values, step=0, run_id=""):
            if step > 10 and process.poll() is None:
                os.killpg(process.pid, 15)
                process.wait(30)
            log(self, values, step, run_id)

        with monkeypatch.context() as patch:
            patch.setattr(Tracker, "log", stop_after_step_10)
            train_and_evaluate([recipe], folder, "a study", "an arm")
        assert process.poll() is not None and folder.done and folder.report(recipe)
        assert arinar("sync", folder.path) == 1
        assert f"not sent: {folder.path}" in capsys.readouterr().out
    rows = [
        (step, value)
        for step, name, value in read_metrics(folder.path / "metrics.csv")
        if name == "train/loss"
    ]
    assert len(rows) == 3
    with server(port, store):
        assert [step for step, _ in history(only(runs_of("seed")), "train/loss")] == [9]
        for _ in range(2):
            assert arinar("sync", folder.path) == 0
            runs_found = only(runs_of("seed"))
            assert (
                history(runs_found, "train/loss") == rows and runs_found.info.status == "FINISHED"
            )
            assert (
                runs_found.data.metrics["quality/fd_digits"]
                == folder.report(recipe)["metrics"]["quality/fd_digits"]
            )
            assert files(runs_found) == {"config.yaml", "bits.npz", "report.json", "samples"}


def test_a_study_is_sent_and_fetched_where_no_files_are_shared(run, monkeypatch, capsys):
    plan = read_plan(
        write_study(arms={"plain": {}, "two": {"inner.head.components": 2}}, seeds=[0])
    )
    assert plan.cell(plan.arms[0], 0)[0] == run
    assert arinar("sync", "study.yaml") == 0
    assert "MLflow holds 1 of 1 runs" in capsys.readouterr().out
    before = run.report(tiny())
    shutil.move("runs", "elsewhere")
    (place,) = fetch(plan, collect(plan))

    assert place.report(tiny()) == before and not place.done and not place.weights.exists()
    assert plan.jobs[0].reported and not plan.jobs[1].reported
    assert (place.evaluation(tiny()) / "samples" / "grid.png").is_file()
    assert len(place.image_bits(tiny(), before)["bits"]) == 360
    assert (place.path / "config.yaml").read_text() == Path(
        "elsewhere", *run.path.parts[1:], "config.yaml"
    ).read_text()
    assert fetch(plan, collect(plan)) == []
    assert sorted(path.name for path in place.path.iterdir()) == ["config.yaml", "evaluations"]


def test_another_evaluation_is_not_fetched(run):
    publish(run)
    shutil.move("runs", "elsewhere")
    tracker = Tracker("a study")
    other = tiny("sampler.temperature=0.9")
    assert not tracker.fetch(other, RunFolder.of(other, "an arm")) and not tracker.warned
    assert not tracker.fetch(tiny("seed=1"), RunFolder.of(tiny("seed=1"), "an arm"))
    assert tracker.fetch(tiny(), RunFolder.of(tiny(), "an arm"))


def test_unsent_runs_are_named_at_the_end_of_a_study(a_run, capsys):
    from arinar_lab.output.terminal import Terminal

    plan = read_plan(write_study(arms={"plain": {}}, seeds=[0]))
    assert report_study(plan, collect(plan), Terminal(width=200)) == 0
    assert "1 run is not sent to MLflow; arinar sync" in capsys.readouterr().out
    assert report_study(plan, collect(plan), Terminal(width=200), verbose=True) == 0
    assert f"not sent to MLflow (arinar sync {a_run.path})" in capsys.readouterr().out
    assert all_runs() == [a_run.path]
    assert arinar("sync") == 1
    assert "MLflow holds 0 of 1 runs" in capsys.readouterr().out


def test_what_is_no_run_is_told_in_one_line(tracked, capsys):
    for words in (["sync", "nowhere"], ["sync"], ["sync", "nowhere.yaml"]):
        assert arinar(*words) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1
