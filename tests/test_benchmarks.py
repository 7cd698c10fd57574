"""The scripts of benchmarks/ run, at a size at which their numbers say nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import WIDTHS

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        (
            "loop_overhead",
            ["--steps", "2", "--repeats", "2", *WIDTHS, "training.batch=32"],
            (
                r"clock +Lightning [\d.]+ ms a step, bare [\d.]+ ms: [\d.]+ times "
                r"\(.+\)\nprocessor .+ times"
            ),
        ),
        (
            "study_overhead",
            ["--arms", "3", "--workers", "2", "--tracking", "off"],
            r"3 arms, 2 workers, .+ s an arm",
        ),
        ("loader", ["{folder}", "300"], r"images/s"),
    ],
    ids=["loop", "study", "loader"],
)
def test_a_benchmark_prints_its_figures(tmp_path, script, words, message):
    line = [
        sys.executable,
        BENCHMARKS / f"{script}.py",
        *(word.format(folder=tmp_path / "x") for word in words),
    ]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(message, done.stdout)
