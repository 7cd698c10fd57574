"""What an arm costs: counts that can be done by hand, arms of equal cost, and a dry run
that writes nothing.
"""

from pathlib import Path

import pytest
import torch
from command import arinar
from tiny import tiny, write_study

from arinar_lab import cli
from arinar_lab.cli import ablate
from arinar_lab.config.build import build
from arinar_lab.config.schema import to_plain
from arinar_lab.errors import ConfigError
from arinar_lab.evaluation.evaluate import count_flops
from arinar_lab.study import cost
from arinar_lab.study.cost import Cost, format_count, nearest_multiple, probe
from arinar_lab.study.plan import read_plan

pytestmark = pytest.mark.usefixtures("alone")


def matched(base=None, **match):
    arms = {"plain": {}, "deep": {"outer.depth": 3}}
    return read_plan(write_study(base=base, arms=arms, seeds=[0], match=match)).arms


def test_the_probe_counts_what_a_step_multiplies():
    """Forward and backward of a linear map are 2 and 4 operations a weight and row; the first layer
    needs no gradient of x.
    """
    one, two = probe(tiny("training.batch=16"), 1), probe(tiny("training.batch=32"), 1)
    assert two.step == pytest.approx(2 * one.step, rel=1e-6) and one.step > 0
    assert two.image == pytest.approx(count_flops(tiny(), build(tiny())) / 1e9, rel=1e-9)
    assert one.parameters == build(tiny()).parameters and one.seconds > 5


def test_missing_data_is_told_in_one_line():
    with pytest.raises(ConfigError, match=r"^data.path: [^\n]*train.safetensors[^\n]*$"):
        probe(tiny("data={kind: images, path: nowhere, size: 8, channels: 1, classes: 10}"))


def test_arms_of_equal_parameters():
    plain, deep = matched(cost="parameters", by="outer.width", tolerance=0.1)
    width = deep.recipe.outer.arguments["width"]
    assert to_plain(plain.recipe) == to_plain(tiny()) and plain.matched == ""
    assert width % 2 == 0 and width < 16 and deep.matched == f"outer.width={width}"
    assert deep.parameters == build(deep.recipe).parameters
    assert abs(deep.parameters / plain.parameters - 1) <= 0.1

    other_values = [
        build(tiny("outer.depth=3", f"outer.width={width + d}")).parameters for d in (-2, 2)
    ]
    assert all(
        abs(deep.parameters - plain.parameters) <= abs(other - plain.parameters)
        for other in other_values
    )


def test_arms_of_equal_operations():
    plain, deep = matched(
        tiny("codec.patch=4", "inner.group=4"), cost="gflops", by="outer.width", tolerance=0.2
    )
    actual, expected = (count_flops(arm.recipe, build(arm.recipe)) for arm in (deep, plain))
    assert deep.matched and abs(actual / expected - 1) <= 0.2


def test_the_solved_width_stands_in_the_signature():
    _, deep = matched(tolerance=0.1)
    assert deep.recipe.training_signature == tiny("outer.depth=3", deep.matched).training_signature


def test_no_width_within_the_tolerance_is_one_line_and_status_2(capsys):
    file = write_study(arms={"plain": {}, "deep": {"outer.depth": 3}}, match={"tolerance": 1e-6})
    with pytest.raises(SystemExit) as leave:
        cli.main(["ablate", str(file)])
    captured = capsys.readouterr()
    assert leave.value.code == 2 and captured.out == "" and captured.err.count("\n") == 1
    assert "arm deep: match: no outer.width has" in captured.err and "comes nearest" in captured.err


@pytest.mark.parametrize("start", [1, 7, 1000])
@pytest.mark.parametrize(
    ("target", "n"), [(1, 1), (0.01, 1), (100.0, 10), (109, 10), (111, 11), (12.3e6, 3507)]
)
def test_the_nearest_multiple_is_found_in_a_few_counts(target, n, start):
    calls = []
    assert nearest_multiple(lambda m: calls.append(m) or m**2, target, start) == n
    assert len(calls) <= 6 and len(set(calls)) == len(calls)


def test_the_nearest_multiple_of_any_rising_cost():
    assert nearest_multiple(lambda m: 5 * m + 1000, 1052) == 10
    assert nearest_multiple(lambda m: m**3 + m, 1e6) == 100


def test_a_verbose_dry_run_shows_every_run_and_writes_nothing(capsys):
    file = write_study(
        vary={"inner.head.components": [1], "sampler.temperature": [0.9]}, seeds=[0, 1]
    )
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    with pytest.raises(SystemExit) as leave:
        cli.main(["ablate", str(file), "--dry-run", "--verbose"])
    stdout = capsys.readouterr().out
    assert leave.value.code == 0
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before
    rows = [line for line in stdout.splitlines() if "│ 0 " in line or "│ 1 " in line]
    assert len(rows) == 6 and sum("shares" in row for row in rows) == 2
    expected = probe(tiny(), 1)

    assert (
        format_count(expected.image) in rows[0]
        and format_count(expected.step) in rows[0]
        and f"{expected.parameters:,}" in rows[0]
    )
    assert "4 runs by 2 workers" in stdout


def test_a_dry_run_fits_eighty_columns(monkeypatch, capsys):
    """A line for each arm of a common name; numbers and headings keep theirs."""
    monkeypatch.setattr(cost, "probe", lambda _: Cost(1, 1234.5, 1.0, 3600 * 123.4))
    monkeypatch.setenv("COLUMNS", "80")
    file = write_study(
        axes={"inner.head.components": [1, 2], "sampler.temperature": [0.9, 1.0]}, seeds=[0, 1, 2]
    )
    assert arinar("ablate", file, "--dry-run") == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line[:1] in "┃│"]
    cells = [
        [cell.strip() for cell in row.strip("┃│").replace("┃", "│").split("│")] for row in rows
    ]
    assert max(map(len, rows)) <= 80
    assert cells[0] == ["arm", "parameters", "GFLOPs/image", "hours a run", "runs to do"]
    numbers = [row[2:] for row in cells[1:] if row[1]]
    assert numbers == [["1,234", "123", "3"], ["1,234", "123", "0 (shared)"]] * 2
    assert [row[0] for row in cells[1:3]] == ["components=1,", "temperature=0.9"]


@pytest.mark.parametrize("words", [["--dry-run"], []])
def test_an_arm_whose_cost_cannot_be_measured_stops_nothing(words, monkeypatch, capsys):
    """Out of memory in one arm's few timed steps: its cost is unknown, and the study
    goes on to its workers.
    """

    def run_out(recipe):
        if recipe.inner.arguments["head"].arguments["components"] == 2:
            raise torch.OutOfMemoryError("no room\nfor 3 TB")
        return Cost(1, 1.0, 1.0, 1.0)

    begun = []
    monkeypatch.setattr(cost, "probe", run_out)
    monkeypatch.setattr(ablate, "run_workers", lambda *_: begun.append(True))
    file = write_study(axes={"inner.head.components": [1, 2]}, seeds=[0])
    with pytest.raises(SystemExit) as leave:
        cli.main(["ablate", str(file), *words])
    stdout = capsys.readouterr().out
    assert "The cost of components=2 is unknown: OutOfMemoryError: no room for 3 TB" in stdout
    assert [("unknown" in line) for line in stdout.splitlines() if "│" in line][-2:] == [
        False,
        True,
    ]
    assert begun == ([] if words else [True]) and leave.value.code == (0 if words else 130)
