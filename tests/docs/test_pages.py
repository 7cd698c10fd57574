"""Pages of the documentation: links, commands and Python that work, lines that fit a screen."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import reference
from pages import NEEDS, ROOT, Block, blocks, pages

from arinar_lab.cli.parser import parser

PAGES = pages()
BLOCKS = [block for page in PAGES for block in blocks(page)]
TARGETS = set(re.findall(r"^([a-z%-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
GENERATED = {Path(path).name for path in reference.PAGES}
EXECUTED = [
    page for page in PAGES if any(b.is_run and b.language in ("sh", "python") for b in blocks(page))
]


def shell_lines() -> list[tuple[str, str]]:
    """Page and line of every command of the documentation."""
    shells = [block for block in BLOCKS if block.language == "sh"]
    return [(block.page, line) for block in shells for line in block.commands]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize(("page", "line"), shell_lines())
def test_a_command_is_one_that_there_is(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"\w+=\S*", words[0]):
        words.pop(0)
    if words[:1] == [".venv/bin/arinar"] or words[:1] == ["arinar"]:
        parser().parse_args(words[1:])
    if words[:1] == ["make"]:
        targets = [word for word in words[1:] if "=" not in word]
        assert all(t in TARGETS or re.match(r"(ablation|sweep)-", t) for t in targets), targets
        for target in targets:
            kind, _, study = target.partition("-")
            folder = {"ablation": "experiments/ablations", "sweep": "sweeps"}.get(kind)
            assert folder is None or (ROOT / folder / f"{study.replace('-', '_')}.yaml").is_file()


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}:{block.language}")
def test_a_block_that_is_not_run_says_what_it_needs(block: Block) -> None:
    if block.language in ("sh", "python") and block.title:
        assert block.title in NEEDS or block.title.endswith((".yaml", ".py"))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith(("http", "mailto:")) and Path(target).name not in GENERATED:
            assert (page.parent / target).exists(), f"{target} is not there"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_fit(page: Path) -> None:
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        is_free = line.startswith(("|", "![", "<img")) or "http" in line
        assert is_free or len(line) <= 100, f"line {number} has {len(line)} characters"


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    sections = re.split(r"^#+ ", text, flags=re.M)
    assert len(text.split()) <= 900
    assert max(len(section.split()) for section in sections) <= 120


LONG = {"choose_seeds.md", "first_sweep.md", "first_ablation.md"}
"""Pages with many trainings, which take minutes even when they are small."""


def marked(page: Path) -> object:
    marks = [pytest.mark.large] if page.name in LONG else []
    return pytest.param(page, marks=marks, id=name_of(page))


@pytest.mark.slow
@pytest.mark.parametrize("page", [marked(page) for page in EXECUTED])
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    for folder in ("experiments", "sweeps", "notebooks"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    prelude = (Path(__file__).parent / "prelude.sh").read_text(encoding="utf-8")
    run = [block for block in blocks(page) if block.is_run]
    for block in run:
        if block.title.endswith((".yaml", ".py")):
            file = tmp_path / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{tmp_path}",
        "CHECKOUT": str(ROOT),
        "ARINAR_TRACKING": "off",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    shell = "\n".join(line for block in run if block.language == "sh" for line in block.commands)
    result = subprocess.run(
        ["bash", "-c", f"{prelude}\n{shell}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]

    code = "\n".join(b.text for b in run if b.language in ("python", "py") and not b.title)
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]


def test_one_release_date() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    version, date = re.findall(r"^## \[([\d.]+)\] - (\S+)$", changelog, re.M)[0]
    assert f"version: {version}\n" in citation
    assert f"date-released: {date}\n" in citation
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_tests_that_hold_faults_exist() -> None:
    page = (ROOT / "docs" / "explanation" / "faults.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)::(\w+)", page)
    assert named
    for path, name in named:
        assert f"def {name}" in (ROOT / "tests" / path).read_text(encoding="utf-8"), name
