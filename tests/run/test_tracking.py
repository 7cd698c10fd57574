"""Tracking: MLflow shows what the run folders hold, can be lost and sent again, and never stops a run."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from tiny import tiny

from arinar_lab.run.config import resolved
from arinar_lab.run.evaluate import evaluate
from arinar_lab.run.folder import RunFolder, git_state
from arinar_lab.run.tracking import Tracker, flatten, tracking_uri
from arinar_lab.run.train import read_metrics, train

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


def only(found):
    assert len(found) == 1
    return found[0]


def history(run, metric):
    found = MlflowClient(tracking_uri()).get_metric_history(run.info.run_id, metric)
    return sorted((m.step, m.value) for m in found)


def files(run, below=None):
    return {item.path for item in MlflowClient(tracking_uri()).list_artifacts(run.info.run_id, below)}


def test_a_run_lies_below_its_arm(run):
    publish(run)
    arm, seed = only(runs_of("arm")), only(runs_of("seed"))
    assert seed.data.tags["mlflow.parentRunId"] == arm.info.run_id
    assert (arm.info.run_name, seed.info.run_name) == ("an arm", "an arm seed 0")
    assert seed.info.status == "FINISHED"


def test_parameters_of_arm_and_seed_are_the_resolved_recipe(run):
    publish(run)
    arm, seed = only(runs_of("arm")), only(runs_of("seed"))
    everything = {key: str(value) for key, value in flatten(resolved(tiny())).items()}
    assert seed.data.params == everything
    assert arm.data.params == {key: value for key, value in everything.items() if key != "seed"}
    assert everything["outer.width"] == "16" and everything["inner.head.components"] == "4"


def test_the_code_that_ran_is_told(run):
    publish(run)
    assert only(runs_of("seed")).data.tags["git.commit"] == git_state()["commit"]


def test_two_seeds_share_an_arm(run):
    publish(run)
    publish(run, tiny("seed=1"))
    assert {s.data.tags["mlflow.parentRunId"] for s in runs_of("seed")} == {only(runs_of("arm")).info.run_id}
    assert sorted(s.data.tags["arinar.seed"] for s in runs_of("seed")) == ["0", "1"]


def test_metrics_and_artifacts_arrive(run):
    publish(run)
    seed, report = only(runs_of("seed")), run.report(tiny())
    for name, value in report["metrics"].items():
        assert seed.data.metrics[name] == pytest.approx(value), name
    assert files(seed) == {"config.yaml", "report.json", "samples"}
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
    rows = [(step, value) for step, name, value in read_metrics(folder.path / "metrics.csv") if name == "train/loss"]
    assert history(live, "train/loss") == rows and len(rows) == 1
    evaluate(recipe, folder)
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
    rows = [(step, value) for step, name, value in read_metrics(run.path / "metrics.csv") if name == "val/bits_per_dim"]
    evaluated = (6, run.report(tiny())["metrics"]["val/bits_per_dim"])
    assert history(after, "val/bits_per_dim") == [*rows, evaluated]
    assert files(after) == {"config.yaml", "report.json", "samples"}


@pytest.mark.parametrize("arm", ["it's", 'a "b"', "50 %", "K = 4, σ ≤ 1", "a`b", "back\\slash"])
def test_an_arm_may_have_any_name(run, arm):
    publish(run, arm=arm)
    publish(run, arm=arm)
    assert only(runs_of("seed")).data.tags["arinar.arm"] == only(runs_of("arm")).data.tags["arinar.arm"] == arm


def test_means_of_an_arm_are_its_own(run):
    tracker = publish(run)
    tracker.publish_arm(tiny(), "an arm", {"val/bits_per_dim": 2.5})
    arm = only(runs_of("arm"))
    assert arm.data.metrics == {"val/bits_per_dim": 2.5} and arm.info.status == "FINISHED"


def test_the_reports_of_a_study_are_artifacts_of_one_run(run):
    tracker = publish(run)
    Path("table.md").write_text("a table")
    for _ in range(2):
        tracker.publish_study([Path("table.md")])
    assert files(only(runs_of("report"))) == {"table.md"}


def test_the_link_opens_the_experiment(run):
    tracker = publish(run)
    number = MlflowClient(tracking_uri()).get_experiment_by_name("a study").experiment_id
    assert tracker.link() == f"http://127.0.0.1:5000/#/experiments/{number}?workflowType=machine_learning"


def test_what_is_not_finished_is_not_published(tracked):
    publish(RunFolder(Path("nothing")))
    assert only(runs_of("seed")).data.metrics == {}


# A store that fails


def test_a_dead_server_never_stops_a_run(alone, capsys):
    recipe, tracker, folder = tiny(*LONG), Tracker("a study"), RunFolder(Path("run"))
    folder.path.mkdir()
    tracker.start(recipe, "an arm")
    train(recipe, folder, tracker)
    evaluate(recipe, folder)
    tracker.publish(recipe, "an arm", folder, read_metrics)
    tracker.publish_arm(recipe, "an arm", {"x": 1.0})
    tracker.publish_study([Path("nothing.md")])
    tracker.finish()
    assert tracker.link().startswith("http://")
    assert folder.done
    said = capsys.readouterr().out
    assert said.count("MLflow: ") == 1 and "the run goes on" in said


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
    evaluate(recipe, folder)
    publish(folder, recipe)
    assert [step for step, _ in history(only(runs_of("seed")), "train/loss")] == [9, 19]


def test_names_are_flattened():
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}


def test_the_store_is_the_one_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///x.db")
    assert tracking_uri() == "sqlite:///x.db"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri() == f"sqlite:///{tmp_path}/tracking/mlflow.db"
