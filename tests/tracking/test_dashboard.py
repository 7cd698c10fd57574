"""The dashboard: a study is found at once, its arms carry means and intervals, its
note shows the report.
"""

import json
import os
import shutil
import socket
import sys
from contextlib import chdir, nullcontext
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from wsgiref.simple_server import make_server

import pytest
from mlflow import MlflowClient
from optuna_dashboard import wsgi
from reports import BITS, FD, analysed, study, whole
from sqlalchemy import make_url
from tiny import write_study

from arinar_lab import cli
from arinar_lab.cli.mlflow_sync import _numbers, _tags, send_study
from arinar_lab.report.report import write_report
from arinar_lab.report.tables import report_markdown
from arinar_lab.study.optuna_storage import open_storage
from arinar_lab.sweep import dashboard as optuna_board
from arinar_lab.tracking import server as dashboard
from arinar_lab.tracking.connection import tracking_uri
from arinar_lab.tracking.tracker import Tracker


@pytest.fixture(scope="module")
def sent(tmp_path_factory, empty_store):
    """A study of three arms and two seeds in MLflow, with a picture of the first arm's samples;
    and its address there.
    """
    place = tmp_path_factory.mktemp("sent")
    with chdir(place), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/tracking/mlflow.db")
        Path("tracking").mkdir()
        shutil.copy(empty_store, "tracking/mlflow.db")
        plan = study(
            {cell: report for cell, report in whole().items() if cell[1] < 2}, seeds=(0, 1)
        )
        for arm in plan.arms:
            for seed in plan.seeds:
                folder, recipe = plan.cell(arm, seed)
                folder.write_config(recipe)

        folder, recipe = plan.cell(plan.arms[0], 0)
        grid = folder.evaluation(recipe) / "samples" / "grid.png"
        grid.parent.mkdir()
        grid.write_bytes(b"a picture")
        link, unsent = send_study(plan, analysed(plan), write_report(analysed(plan)))
        assert not unsent
        yield plan, link


def experiment_of(plan):
    return MlflowClient(tracking_uri()).get_experiment_by_name(plan.name)


def runs_of(plan, role):
    number = experiment_of(plan).experiment_id
    query = f"tags.`arinar.role` = '{role}'"
    return {r.info.run_name: r for r in MlflowClient(tracking_uri()).search_runs([number], query)}


def test_an_arm_carries_means_intervals_and_their_number(sent):
    plan, _ = sent
    results, arms = analysed(plan).results, runs_of(plan, "arm")
    assert set(arms) == {arm.name for arm in plan.arms}
    for arm in results.arms:
        numbers = arms[arm.name].data.metrics
        for metric in (BITS, FD, "speed/images_per_second"):
            summary = arm.summary(metric)
            assert numbers[metric] == pytest.approx(summary.mean)
            assert numbers[f"{metric}.half95"] == pytest.approx(summary.half)
        assert numbers["n"] == 2


def test_noise_over_images_stands_beside_the_noise_of_training(sent):
    analysis = analysed(sent[0])
    results = analysis.results
    for result in results.reports.values():
        for report in result.values():
            report["noise"] = {BITS: 0.01}

    numbers = _numbers(analysis, results.arms[0])
    assert (
        numbers[f"{BITS}.half95_images"] == pytest.approx(0.01)
        and f"{FD}.half95_images" not in numbers
    )


def test_one_seed_has_no_interval(sent):
    analysis = analysed(sent[0])
    results = analysis.results
    del results.reports["components=2"][1]

    numbers = _numbers(analysis, results.arms[1])
    assert (
        numbers["n"] == 1
        and BITS in numbers
        and not any(name.endswith("half95") for name in numbers)
    )


def test_every_run_tells_its_arm_and_its_value_of_the_axis_by_short_names(sent):
    plan, _ = sent
    for role in ("arm", "seed"):
        runs_found = runs_of(plan, role).values()
        assert {(r.data.params["arm"], r.data.params["components"]) for r in runs_found} == {
            (arm.name, str(arm.values[0])) for arm in plan.arms
        }


def test_the_note_is_the_reports_table(sent):
    plan, _ = sent
    note = experiment_of(plan).tags["mlflow.note.content"]
    assert note == (plan.folder / "report" / "table.md").read_text()


def test_a_long_note_is_cut_at_a_line_and_says_so(sent, monkeypatch):
    analysis = analysed(sent[0])
    monkeypatch.setattr("arinar_lab.cli.mlflow_sync._NOTE", 1500)
    note = _tags(analysis, ["components"])["mlflow.note.content"]
    assert (
        1000 < len(note) < 1600 < len(report_markdown(analysis))
        and "The rest stands in table.md" in note
    )
    assert report_markdown(analysis).startswith(note.rpartition("\n\n(")[0] + "\n")


def test_samples_of_an_arm_are_its_own_artifact(sent):
    plan, _ = sent
    arm = runs_of(plan, "arm")["components=1"]
    assert {item.path for item in MlflowClient(tracking_uri()).list_artifacts(arm.info.run_id)} == {
        "grid.png"
    }


def test_sending_again_adds_nothing(sent):
    plan, _ = sent
    before = {name: run.data for name, run in runs_of(plan, "arm").items()}
    send_study(plan, analysed(plan), [])
    after = runs_of(plan, "arm")
    assert {name: run.data.metrics for name, run in after.items()} == {
        n: d.metrics for n, d in before.items()
    }

    history = MlflowClient(tracking_uri()).get_metric_history(
        after["components=1"].info.run_id, f"{BITS}.half95"
    )
    assert len(history) == 1


def test_the_view_is_of_arms_sorted_by_the_criterion(sent):
    plan, link = sent
    tags = experiment_of(plan).tags
    assert link.endswith("&viewStateShareKey=arms")
    state = json.loads(tags["mlflow.sharedViewState.arms"])
    assert state["orderByKey"] == f"metrics.`{BITS}`" and state["orderByAsc"]
    assert (
        "params.`components`" in state["selectedColumns"]
        and f"metrics.`{BITS}.half95`" in state["selectedColumns"]
    )

    charts = json.loads(tags["mlflow.sharedViewState.charts"])
    assert charts["groupBy"]["groupByKeys"] == [{"mode": "param", "groupByData": "arm"}]


def test_the_filters_of_the_views_find_what_they_name(sent):
    plan, _ = sent
    client, experiment = MlflowClient(tracking_uri()), experiment_of(plan)
    for view, count in (("arms", 3), ("charts", 6)):
        state = json.loads(experiment.tags[f"mlflow.sharedViewState.{view}"])
        order = f"{state['orderByKey']} {'ASC' if state['orderByAsc'] else 'DESC'}"
        runs_found = client.search_runs(
            [experiment.experiment_id], state["searchFilter"], order_by=[order]
        )
        assert len(runs_found) == count

    assert runs_found[0].data.metrics[BITS] == min(run.data.metrics[BITS] for run in runs_found)


def test_the_newest_study_is_opened(sent):
    plan, link = sent
    Tracker("another").publish_study([], {dashboard.REPORTED: "1.0"})  # long ago
    assert [name for name, _ in dashboard.studies()] == [plan.name, "another"]
    first, charts, other = dashboard.welcome()

    assert (
        link in first
        and first.startswith(f"{plan.name}, arms")
        and "viewStateShareKey=charts" in charts
    )
    assert other.startswith("another, arms")


def test_without_a_study_the_dashboard_says_so(tracked):
    (line,) = dashboard.welcome(5001)
    assert line.startswith("http://127.0.0.1:5001/#/experiments") and "no study" in line


def test_the_command_becomes_the_server(tracked, monkeypatch, capsys):
    called = []
    monkeypatch.setattr(os, "execve", lambda *words: called.append(words))
    with pytest.raises(SystemExit) as leave:
        cli.main(["mlflow", "--port", "5001"])
    assert leave.value.code == 0 and "no study" in capsys.readouterr().out
    ((program, words, environment),) = called

    assert program == Path(sys.executable) and "5001" in words and tracking_uri() not in words
    assert environment["MLFLOW_BACKEND_STORE_URI"] == tracking_uri()
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


SECRET = "http://me:top:se@cret@127.0.0.1:9/mlflow"


def test_the_password_of_a_tracking_server_is_shown_nowhere(alone, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SECRET)
    with pytest.raises(SystemExit) as leave:
        cli.main(["mlflow"])
    Tracker("study").publish_study([], {})
    captured = capsys.readouterr()
    assert (
        leave.value.code == 2
        and "http://127.0.0.1:9/mlflow" in captured.err
        and "MLflow: " in captured.out
    )
    for text in (
        captured.out,
        captured.err,
        dashboard.server_address(),
        dashboard.experiment_link("7"),
        Tracker("study").link(),
    ):
        assert "cret" not in text and "top" not in text

    assert dashboard.experiment_link("7").startswith(
        "http://127.0.0.1:9/mlflow/#/experiments/7/runs"
    )


# optuna-dashboard


def board(*words):
    """What optuna-dashboard is served with."""
    with pytest.raises(SystemExit) as leave:
        cli.main(["dashboard", *words])
    return leave.value.code


@pytest.fixture
def served(alone, monkeypatch):
    result = []

    def make_server(host, port, queue, **_):
        result.append((queue, host, port))
        return nullcontext(SimpleNamespace(serve_forever=lambda: None))

    monkeypatch.setattr("optuna_dashboard.wsgi", lambda queue: queue)
    monkeypatch.setattr(optuna_board, "local_only", lambda application: application)
    monkeypatch.setattr(optuna_board, "refuse_taken", lambda port: None)
    monkeypatch.setattr(optuna_board, "make_server", make_server)
    monkeypatch.setenv("ARINAR_STORAGE", "")
    return result


def write_sweep(**keys):
    space = {"search": {"sampler.temperature": {"float": [0.5, 1.0]}}, "trials": 1, "seeds": [1]}
    return write_study(
        "sweep",
        objectives=[{"metric": "quality/fd_digits", "direction": "minimize"}],
        **space,
        **keys,
    )


@pytest.mark.parametrize(
    "where", ["the local file", "storage in the file", "storage among the words"]
)
def test_the_storage_of_a_sweep_is_shown_wherever_it_is(served, where):
    path = write_sweep(
        **{"storage": "sqlite:///elsewhere.db"} if where == "storage in the file" else {}
    )
    words = ["storage=sqlite:///third.db"] if where == "storage among the words" else []
    subject = [str(path), *words, "training.steps=7"]

    with pytest.raises(SystemExit):
        cli.main(["slurm", *subject])  # makes it
    os.environ["ARINAR_STORAGE"] = ""
    assert board(*subject, "--port", "8081") in (None, 0)
    ((store, host, port),) = served

    assert (host, port) == ("127.0.0.1", 8081)
    assert [study.study_name for study in store.get_all_studies()] == ["sweep-training.steps=7"]


def test_a_storage_that_is_not_there_is_not_made(served, capsys):
    assert board(str(write_sweep())) == 2
    assert "studies/sweep/queue.db: is not there; run the sweep first" in capsys.readouterr().err
    assert board() == 2 and "name a sweep's file" in capsys.readouterr().err
    assert not served and not Path("studies").exists()


def test_an_ablation_has_no_trials_to_show(served, capsys):
    assert board(str(write_study(axes={"inner.head.components": [1]}))) == 2
    assert (
        "study.yaml: is no sweep, and has no trials; look at it by arinar status study.yaml"
        in capsys.readouterr().err
    )


@pytest.fixture
def port(alone):
    """The port of a dashboard over an empty storage, which is really served."""
    store = open_storage(make_url("sqlite:///queue.db"))
    server = make_server(
        "127.0.0.1", 0, optuna_board.local_only(wsgi(store)), handler_class=optuna_board._Silent
    )
    thread = Thread(target=server.serve_forever)

    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:PORT", None, 200),
        ("localhost:PORT", "http://localhost:PORT", 200),
        ("localhost:9000", "http://localhost:9000", 200),  # by way of a tunnel
        ("evil.example:PORT", None, 403),
        ("evil.example", None, 403),
        ("127.0.0.1.evil.example", None, 403),
        ("127.0.0.1:PORT", "http://evil.example", 403),
        ("127.0.0.1:PORT", "http://127.0.0.1:1", 403),
        ("127.0.0.1:PORT", "null", 403),
    ],
)
def test_the_board_answers_to_pages_of_this_machine_alone(port, host, origin, status):
    headers = {"Host": host.replace("PORT", str(port))}
    headers |= {"Origin": origin.replace("PORT", str(port))} if origin else {}
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/api/studies", headers=headers)
    assert connection.getresponse().status == status
    connection.close()


@pytest.mark.parametrize("verb", [["mlflow"], ["dashboard", "study.yaml"]])
def test_a_port_that_is_taken_is_one_line(tracked, monkeypatch, verb, capsys):
    monkeypatch.setattr(optuna_board, "open_queue_of_file", lambda *_: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SystemExit) as leave:
            cli.main([*verb, "--port", str(taken.getsockname()[1])])

    captured = capsys.readouterr()
    assert (
        leave.value.code == 2
        and captured.out == ""
        and "Address already in use; name another" in captured.err
    )


def test_a_server_that_does_not_answer_is_one_line(alone, capsys):
    with pytest.raises(SystemExit) as leave:
        cli.main(["mlflow"])
    captured = capsys.readouterr()
    assert leave.value.code == 2 and captured.out == "" and captured.err.count("\n") == 1
