"""The notebooks hold no output, train nothing, and run from end to end over a study that is
made for the purpose.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from tiny import finished, tiny, write_study

from arinar_lab import api, cli
from arinar_lab.analysis.analyse import analyse
from arinar_lab.analysis.rankings.pareto import frontier
from arinar_lab.cli.ablate import run_study
from arinar_lab.cli.notebooks import NOTEBOOKS, execute_notebooks
from arinar_lab.output.terminal import Terminal
from arinar_lab.report.report import write_report
from arinar_lab.study.collect import collect
from arinar_lab.study.plan import read_plan
from arinar_lab.study.status import save_cells

FILES = sorted(NOTEBOOKS.glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
TRAINERS = {
    "arinar_lab.training.train",
    "arinar_lab.pipeline",
    "arinar_lab.study.worker",
    "arinar_lab.cli.ablate",
}


def cells(file):
    """The code of each cell, without magics."""
    notebook = nbformat.read(file, 4)
    nbformat.validate(notebook)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return [
        "\n".join(line for line in text.split("\n") if not line.startswith("%")) for text in code
    ]


def test_there_are_five():
    assert [file.name[:3] for file in FILES] == ["01_", "02_", "03_", "04_", "05_"]


def test_they_hold_no_output():
    strip = [sys.executable, "-m", "nbstripout", "--verify"]  # what pre-commit runs
    process = subprocess.run([*strip, *FILES], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout
    assert not any(cell.get("outputs") for file in FILES for cell in nbformat.read(file, 4).cells)


@each_notebook
def test_they_train_nothing_and_leave_logic_to_the_package(file):
    for text in cells(file):
        tree = ast.parse(text)
        names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not names & TRAINERS
        if not any(isinstance(node, ast.ClassDef) for node in tree.body):
            statements = [n for n in tree.body if not isinstance(n, ast.Import | ast.ImportFrom)]
            assert sum(len(ast.unparse(n).split("\n")) for n in statements) <= 10, text


def test_the_example_head_is_short():
    text = "\n".join(cells(FILES[4]))
    classes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
    assert len(classes) == 2
    assert all(node.end_lineno - node.lineno + 1 <= 30 for node in classes)


def test_the_small_study_is_a_study():
    plan = read_plan(NOTEBOOKS / "small.yaml")
    assert (plan.name, len(plan.arms), plan.seeds) == ("small", 3, (0, 1))


# Executed


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Three arms × two seeds of a few steps; one has no likelihood and is not walked
    one feature at a time.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("study"))
        arms = {
            "gmm": {},
            "discrete": {"inner.head": {"kind": "discrete", "bins": 17}},
            "energy": {"inner": {"kind": "energy", "width": 16, "depth": 1, "noise": 8}},
        }
        file = write_study("made", base=tiny(), arms=arms, seeds=[0, 1])

        plan = read_plan(file)
        for arm in plan.arms:
            for seed in plan.seeds:
                folder, recipe = plan.cell(arm, seed)
                finished(recipe, folder)

        save_cells(plan, file, [])
        write_report(analyse(collect(plan)))
        yield plan


@pytest.fixture(scope="module")
def pages(small):
    """Page of each notebook, and what was printed."""
    console = Terminal(record=True, width=200)
    assert execute_notebooks("", console, run_study) == 0, console.export_text()
    return {
        path.stem: path.read_text() for path in sorted(Path("studies/notebooks").glob("*.html"))
    }, console


@pytest.mark.slow
def test_every_notebook_becomes_a_page_that_says_what_it_read(pages):
    pages, console = pages
    text = console.export_text(clear=False)
    assert "reading " in text and "studies/made" in text
    for file in FILES:
        page = pages[file.stem]
        assert "data:image/png;base64" in page or 'src="data:image/png' in page
        assert f"studies/notebooks/{file.stem}.html" in text


@pytest.mark.slow
def test_the_pages_show_the_studys_numbers(pages, small):
    pages, results = pages[0], analyse(collect(small))
    for value in api.table(results)["FD digits ↓"]:
        assert value in pages["02_read_an_ablation"]
    assert "3 of 3 arms have both" in pages["03_quality_against_speed"]
    is_unreliable = bool(frontier(results.results).doubt)  # as on a busy machine
    front = "UNRELIABLE SPEEDS" if is_unreliable else "the front of means is"

    assert front in pages["03_quality_against_speed"]
    assert "left out: sampler.steps: 2 does not fit" in pages["04_samples_and_sampler_settings"]
    assert pages["05_add_your_own_head"].count("<td>True</td>") == 7
    assert "<td>False</td>" not in pages["05_add_your_own_head"]


@pytest.mark.slow
def test_any_arm_is_sampled(small, monkeypatch, tmp_path):
    monkeypatch.setenv("ARINAR_ARM", "energy")
    (tmp_path / FILES[3].name).write_text(FILES[3].read_text())
    console = Terminal(record=True, width=200)
    assert execute_notebooks("made.yaml", console, run_study, tmp_path) == 0, console.export_text()


@pytest.mark.slow
def test_a_cell_that_fails_is_told_in_one_line_and_the_page_shows_it(small, tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(6 * 7)\n1 / 0")])
    nbformat.write(notebook, tmp_path / "wrong.ipynb")
    console = Terminal(record=True, width=200)
    assert execute_notebooks("studies/made", console, run_study, tmp_path) == 1
    assert "wrong.html  (failed: ZeroDivisionError: division by zero)" in console.export_text()
    page = Path("studies/notebooks/wrong.html").read_text()
    assert "42" in page and "ZeroDivisionError" in page


@pytest.mark.slow
def test_a_kernel_that_falls_silent_is_started_anew(small, tmp_path):
    """The first kernel stops itself for longer than a cell may take; the second does not."""
    code = (
        "import time\nfrom pathlib import Path\nhere = Path('silent')\n"
        "if not here.exists():\n    here.touch()\n    time.sleep(60)"
    )
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), tmp_path / "silent.ipynb"
    )
    console = Terminal(record=True, width=200)

    assert execute_notebooks("studies/made", console, run_study, tmp_path, seconds=15) == 0
    assert "; once more" in console.export_text()


@pytest.mark.slow
def test_a_study_that_is_not_there_is_one_line_and_status_two(alone, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["notebooks", "studies/none"])
    captured = capsys.readouterr()
    assert (
        left.value.code == 2
        and captured.err.count("\n") == 1
        and "not a study's folder" in captured.err
    )
