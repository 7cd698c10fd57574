"""Fixtures: a folder of its own for each test, one finished run for all, and an MLflow store
that is quick to open.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forked import Forked
from server import Server
from tiny import finished, tiny

from arinar_lab.evaluation import evaluate
from arinar_lab.runs.folder import RunFolder
from arinar_lab.study import processes

torch.set_num_threads(1)
os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", CUDA_VISIBLE_DEVICES="", MPLBACKEND="Agg")
QUIET = (
    "The dirpath has changed",
    "You have overridden `on_before_batch_transfer`",
    "Checkpoint directory .* exists and is not empty",
    "The number of training batches",
)
NOBODY = "http://127.0.0.1:9"  # the discard port: refused at once


def pytest_configure(config):
    for message in QUIET:
        config.addinivalue_line("filterwarnings", f"ignore:{message}")


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """Work in a new folder, without MLflow: runs/, studies/ and tracking/ land there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    return tmp_path


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """MLflow's SQLite file with its tables made, which takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def tracked(alone, empty_store, monkeypatch):
    """Work in a new folder with MLflow's default store in it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    Path("tracking").mkdir()
    shutil.copy(empty_store, "tracking/mlflow.db")
    return alone


@pytest.fixture
def uncounted(monkeypatch):
    """Leave out the counts of memory and operations, half of what a cell costs; they
    have tests of their own.
    """
    monkeypatch.setattr(evaluate, "count_flops", lambda *_: 1e6)
    monkeypatch.setattr(evaluate, "peak_memory", lambda *_: 1e6)


@pytest.fixture(scope="session")
def one_run(tmp_path_factory):
    """The folder of a finished run, to be read only."""
    path = tmp_path_factory.mktemp("finished") / "runs" / "tiny" / "seed_0"
    return finished(tiny(), RunFolder(path))


@pytest.fixture
def a_run(alone, one_run):
    """A copy of the finished run, to be changed."""
    recipe = tiny()
    path = Path(f"runs/tiny-{recipe.training_signature}/seed_0")
    shutil.copytree(one_run.path, path)
    return RunFolder(path)


@pytest.fixture
def forked(monkeypatch):
    """Let studies fork their workers; gives the list of those that were started."""
    import mlflow  # noqa: F401 once, not in every fork

    def too_long(*_):
        raise TimeoutError("the study does not end")

    started = []
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(600)

    def start(*words, **options):
        started.append(Forked(*words, **options))
        return started[-1]

    spawn = SimpleNamespace(
        Popen=start, STDOUT=subprocess.STDOUT, TimeoutExpired=subprocess.TimeoutExpired
    )
    monkeypatch.setattr(processes, "subprocess", spawn)
    yield started
    signal.alarm(0)
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait(10)


@pytest.fixture
def small_disk():
    """A disk of 4 MB."""
    place = Path("disk").absolute()
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk (tmpfs) may not be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(scope="session")
def postgresql():
    """A PostgreSQL server for all tests; skipped where it is not installed."""
    server = Server()
    yield server
    server.remove()
