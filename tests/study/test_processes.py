"""Workers as processes: one that ends at its start says why where the user looks."""

import io
import sys
import time
from pathlib import Path

import pytest

from arinar_lab.output.terminal import Terminal
from arinar_lab.study.processes import all_ended, run_workers

pytestmark = pytest.mark.usefixtures("alone")


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (
            "raise ValueError('no [such] thing')",
            "ended with status 1: ValueError: no [such] thing (its log is worker_0.log)",
        ),
        (
            "print('arinar: bad \\x1b[2J'); sys.exit(2)",
            r"ended with status 2: arinar: bad \x1b[2J (its log",
        ),
        ("print('failed: a seed 0'); sys.exit(1)", ""),  # it is told by the run's folder
        ("print('all is well')", ""),
    ],
)
def test_a_worker_that_fails_at_its_start_says_why(code, line):
    Path("worker_0.log").write_text("of an earlier time\n")
    out = io.StringIO()

    def watch(crew):
        while not all_ended(crew):
            time.sleep(0.02)

    command = [sys.executable, "-S", "-c", f"import sys; {code}"]
    assert run_workers(Path("."), command, 1, 1, watch, Terminal(file=out, width=200))
    assert (line in out.getvalue()) if line else not out.getvalue()
