"""Locks say what they wait for; helpers that do not end are killed."""

import fcntl
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from tiny import tiny

from arinar_lab.benchmark import presets
from arinar_lab.benchmark.generation import BenchmarkOptions
from arinar_lab.evaluation import evaluate
from arinar_lab.evaluation.evaluate import measure_speed
from arinar_lab.files import locks, shards
from arinar_lab.files.locks import hold_lock
from arinar_lab.files.shards import end_processes, make_shards
from arinar_lab.output.terminal import Terminal

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(locks, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr(shards, "QUIET_SECONDS", 0.1)


def hold_for(path, seconds):
    """Lock a file as another process does."""
    file = path.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    threading.Timer(seconds, file.close).start()


def test_a_free_lock_says_nothing(tmp_path, capfd):
    with hold_lock(FileLock(tmp_path / "lock"), "works"):
        pass
    assert capfd.readouterr() == ("", "")


def test_a_lock_that_waits_says_so_once(tmp_path, impatient, capfd):
    hold_for(tmp_path / "lock", 0.6)
    with hold_lock(FileLock(tmp_path / "lock"), "works"):
        pass
    stderr = capfd.readouterr().err
    assert stderr == f"waiting for another process, which works ({tmp_path / 'lock'} is locked)\n"


def test_a_lock_is_free_again_after_an_error(tmp_path):
    with pytest.raises(KeyError), hold_lock(FileLock(tmp_path / "lock"), "works"):
        raise KeyError
    with FileLock(tmp_path / "lock", timeout=0):
        pass


def time_a_run(run):
    measure_speed(tiny("machine.threads=2"), run)


def time_presets(_):
    presets.run_benchmark(
        [], BenchmarkOptions(torch.device("cpu")), Path("benchmarks.json"), Terminal()
    )


@pytest.mark.parametrize("measure", [time_a_run, time_presets], ids=["a run", "bench"])
def test_whatever_measures_speed_waits_for_its_turn_and_says_so(
    measure, a_run, tmp_path, monkeypatch, impatient, capfd
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(evaluate, "load_trained", lambda *_: pytest.fail("its turn"))
    monkeypatch.setattr(presets, "cases", lambda *_: [])
    monkeypatch.setattr(presets, "keep_freed_memory", lambda: pytest.fail("its turn"))
    hold_for(tmp_path / "arinar-speed-of-all.lock", 0.6)
    with pytest.raises(pytest.fail.Exception, match="its turn"):
        measure(a_run)

    assert re.fullmatch(
        r"waiting for another process, which measures speed \(.*speed-of-all.lock is locked\)\n",
        capfd.readouterr().err,
    )


def test_work_that_others_do_is_waited_for_with_a_line(tmp_path, impatient, capfd):
    hold_for(tmp_path / ".a.lock", 0.8)
    make_shards([tmp_path / "a.bin"], lambda _: (tmp_path / "a.bin").touch(), lambda *_: None)
    assert capfd.readouterr().err == "waiting for other processes, which make 1 of 1 blocks\n"


@pytest.mark.parametrize(
    "act", ["", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"], ids=["calm", "frozen"]
)
def test_helpers_end_even_where_one_is_frozen(act):
    helper = subprocess.Popen(
        [sys.executable, "-S", "-c", f"import time; {act or 'pass'}; time.sleep(60)"]
    )
    time.sleep(0.3)
    end_processes([helper], 0.2)
    assert helper.wait(10) in (-15, -9)


def test_a_second_ctrl_c_kills_helpers_at_once(monkeypatch):
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); "
        "time.sleep(60)"
    )
    helper = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
    helper.stdout.readline()

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(helper, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            end_processes([helper])
    assert helper.wait(10) == -9
