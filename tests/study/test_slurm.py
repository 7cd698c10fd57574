"""Job arrays: the script is valid, runs the worker, and hands the cell back when
Slurm wants the machine.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import arinar
from tiny import tiny, write_study

from arinar_lab.study.plan import read_plan
from arinar_lab.study.slurm import Options, parse_time_limit, write_script
from arinar_lab.study.worker import open_board

pytestmark = pytest.mark.usefixtures("alone")

SCONTROL = '#!/bin/bash\necho "scontrol $*" >> calls.txt\n'
SBATCH = """#!/bin/bash
while [[ "$1" == -* ]]; do shift; done
SLURM_JOB_ID=71 SLURM_ARRAY_JOB_ID=70 SLURM_ARRAY_TASK_ID=1 SLURM_NTASKS=1 exec bash "$@"
"""
WORKER = """
import os, signal, sys, time
def end(*_):
    open("checkpoint.txt", "w").write("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
words = [*sys.argv[1:], os.environ["OMP_NUM_THREADS"], str("SLURM_NTASKS" in os.environ)]
open("worker.txt", "w").write(" ".join(words))
time.sleep(float(sys.argv[1]))
sys.exit(int(sys.argv[2]))
"""


@pytest.fixture
def fakes(alone, monkeypatch):
    """A folder with sbatch and scontrol at the head of PATH."""
    folder = alone / "bin"
    folder.mkdir()
    for name, text in (("scontrol", SCONTROL), ("sbatch", SBATCH)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def study():
    return write_study(
        base=tiny("training.steps=4"), axes={"inner.head.components": [1, 2]}, seeds=[0]
    )


def script(*words):
    Path("worker.py").write_text(WORKER)
    return write_script(
        read_plan(study()),
        "12 runs",
        1,
        [sys.executable, "worker.py", *words],
        ["arinar"],
        Options(),
    )


def submit(path):
    return subprocess.Popen(["sbatch", str(path)], start_new_session=True)


def test_the_script_is_valid_and_asks_for_what_was_given(capsys):
    file = study()
    assert (
        arinar("slurm", file, "--array", 7, "--time", "2-12:00", "--gpus", 2, "--partition", "long")
        == 0
    )
    path = Path("studies/study/slurm.sh")
    assert str(path) in capsys.readouterr().out
    subprocess.run(["bash", "-n", path], check=True)
    text = path.read_text()
    for line in (
        "--array=1-7",
        "--time=2-12:00",
        "--gpus=2",
        "--partition=long",
        "--requeue",
        "--signal=B:USR1@120",
    ):
        assert f"#SBATCH {line}\n" in text

    assert f"-m arinar_lab work {file} &\n" in text
    assert len(open_board(read_plan(file)).arms()["arms"]) == 2  # by which the workers run


def test_overrides_go_to_the_workers():
    file = study()
    assert arinar("slurm", file, "training.steps=3", "seeds=[4, 5]") == 0
    (path,) = Path("studies").glob("*/slurm.sh")
    assert f"work {file} training.steps=3 'seeds=[4, 5]' &" in path.read_text()
    assert "--gpus" not in path.read_text() and "--partition" not in path.read_text()


def test_the_script_says_what_reports_the_study(capsys):
    file = study()
    assert arinar("slurm", file, "seeds=[4, 5]") == 0
    (path,) = Path("studies").glob("*/slurm.sh")
    text = f"arinar ablate {file} 'seeds=[4, 5]'"

    assert f"# When the tasks have ended: {text} " in path.read_text()
    assert (
        f"When they have ended: {text} measures speed and writes the report"
        in capsys.readouterr().out
    )


def test_the_address_of_the_queue_is_taken_from_the_shell_that_submits(fakes, monkeypatch):
    monkeypatch.setenv("ARINAR_STORAGE", "")  # so that it is put back
    assert arinar("slurm", study(), "storage=sqlite:///topsecret.db") == 0
    (path,) = Path("studies").glob("*/slurm.sh")
    assert "topsecret" not in path.read_text() and "storage=" not in path.read_text()
    monkeypatch.delenv("ARINAR_STORAGE")

    run = subprocess.run(["sbatch", str(path)], capture_output=True, text=True)
    assert (
        run.returncode
        and "ARINAR_STORAGE: is not set: export the address of the queue" in run.stderr
    )


HOSTILE = [
    "question=x\n touch PWNED; #",
    "a b",
    "$(touch PWNED)",
    "`touch PWNED`",
    "'; touch PWNED; '",
    "--leading",
    "-",
    "",
    "σ ≤ 1",
    "\r\n#SBATCH --wrap=touch",
    "{braces}",
    "%A",
    "\\n'\t\x01",
    "a\u2028b",
    "!x",
    "*",
    os.fsdecode(b"\xff\xfe"),
]


def test_no_word_becomes_a_command(fakes, monkeypatch, tmp_path):
    Path("worker.py").write_text(
        "import json, sys\njson.dump(sys.argv[1:], open('worker.json', 'w'))"
    )
    place = tmp_path / "it's $(touch PWNED)\n touch PWNED"
    shutil.move("worker.py", place.mkdir() or place / "worker.py")
    file = study()
    monkeypatch.setattr(Path, "cwd", lambda: place)
    path = write_script(
        read_plan(file),
        "12 runs",
        1,
        [sys.executable, "worker.py", *HOSTILE],
        ["arinar", *HOSTILE],
        Options(),
    )
    subprocess.run(["bash", "-n", path], check=True)
    assert submit(path).wait(20) == 0
    assert json.loads((place / "worker.json").read_text()) == HOSTILE
    assert not list(tmp_path.rglob("PWNED"))

    begin = path.read_bytes().split(b"\ncd ")[0]
    assert all(line.startswith(b"#") or not line for line in begin.split(b"\n"))


def test_words_of_the_command_line_stay_words(fakes, capsys):
    file = study().rename("-it's a study.yaml")
    assert arinar("slurm", "--", file, "question='x\n touch PWNED; #'") == 0
    (path,) = Path("studies").glob("*/slurm.sh")
    text = path.read_text()
    word = "$'question=\\'x\\x0a touch PWNED; #\\''"
    assert f"work './-it'\"'\"'s a study.yaml' {word} &\n" in text
    assert capsys.readouterr().out.count("\n") == 2


@pytest.mark.parametrize("status", [0, 1])
def test_a_task_runs_the_worker_and_ends_as_it_does(fakes, status):
    assert submit(script("0", str(status))).wait(20) == status
    assert Path("worker.txt").read_text() == f"0 {status} 1 False"
    assert not Path("calls.txt").exists()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_task_that_must_end_hands_its_cell_back(fakes, number):
    process = submit(script("60", "0"))
    for _ in range(200):
        if Path("worker.txt").exists():
            break
        time.sleep(0.05)
    os.kill(process.pid, number)

    assert process.wait(20) == 0
    assert Path("checkpoint.txt").read_text() == "saved"
    assert Path("calls.txt").read_text() == "scontrol requeue 70_1\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--time", "soon"], "--time: 'soon' is no time limit"),
        (["--time", "1"], "--time: '1' is no more than the 120 s before the limit"),
        (["--time", "0:02:00"], "--time: '0:02:00' is no more than the 120 s before the limit"),
        (["--time", "9" * 5000], "is no time limit"),
        (["--time", "１"], "is no time limit"),
        (["--partition", "a b"], "--partition: 'a b' is not the name"),
        (["--partition", "a\nb"], "is not the name"),
        (["--partition=-1"], "--partition: '-1' is not the name"),
        (["--array", "9" * 5000], "is not a whole number of 1 … 10^9"),
        (["--gpus", "1" * 30], "is not a whole number of 1 … 1024"),
    ],
)
def test_what_slurm_would_refuse_is_one_line(capsys, words, message):
    assert arinar("slurm", study(), *words) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and message in captured.err
    assert not Path("studies").exists()


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("90", 5400),
        ("2:30", 150),
        ("1:00:05", 3605),
        ("2-12", 216000),
        ("1-0:30", 88200),
        ("1-1:01:01", 90061),
        ("0", 0),
    ],
)
def test_a_time_limit_is_read_as_sbatch_reads_it(limit, seconds):
    assert parse_time_limit(limit) == seconds
    assert Options(time=limit).time == limit


@pytest.mark.slow
def test_the_real_worker_does_the_study(fakes, monkeypatch):
    file = study()
    assert arinar("slurm", file, "--array", 1) == 0
    assert submit(Path("studies/study/slurm.sh")).wait(300) == 0
    assert all(job.done for job in read_plan(file).jobs)
