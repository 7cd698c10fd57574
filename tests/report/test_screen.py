"""The verdict on a terminal of 24 lines and 80 columns."""

import re

import pytest
from reports import analysed, report_of, study, whole

from arinar_lab.analysis.verdict import verdict_of
from arinar_lab.output.terminal import Terminal
from arinar_lab.report.screen import print_verdict

pytestmark = pytest.mark.usefixtures("alone")


def shown(plan, capsys, width=80):
    verdict = verdict_of(analysed(plan))
    print_verdict(
        verdict, "studies/study/report/report.html", ".venv/bin/arinar", Terminal(width=width)
    )
    return verdict, capsys.readouterr().out.splitlines()


def crowded(count=20):
    """A study of many arms with long names, a long question and a missing run."""
    arms = {}
    reports = {}
    for i in range(count):
        name = f"an arm whose name is long,outer.norm=rms,inner.norm=layer,number={i}"
        arms[name] = {"inner.head.components": 1 + i}
        for seed in (0, 1, 2):
            report = report_of(2.0 + i / 10 + 0.002 * ((seed * (i + 1)) % 3), distance=10.0 + i)
            if (i, seed) != (5, 1):
                reports[name, seed] = report
    question = "Which of all these normalisations does a model need, " * 3
    return study(reports, axes=None, arms=arms, question=question)


@pytest.mark.parametrize("make", [lambda: study(whole()), crowded, lambda: study({})])
def test_it_fits_24_lines_of_80_columns(make, capsys):
    _, lines = shown(make(), capsys)
    assert len(lines) <= 22  # the command before it, and the prompt behind it
    assert max(map(len, lines)) <= 80


def test_it_holds_the_question_the_answer_the_table_and_the_command(capsys):
    verdict, lines = shown(study(whole()), capsys)
    text = " ".join(" ".join(lines).split())
    assert lines[0] == "How many?" and verdict.answer in text
    assert "components=1 (baseline)" in text and "2.335 ▲" in text
    assert "▲ better ▼ worse ≈ within ±0.02 bits/dim, ±0.5 FD digits ? unresolved" in text
    assert "Everything else: studies/study/report/report.html" in text
    assert f"  .venv/bin/arinar {' '.join(verdict.step.words[:2])}" in "\n".join(lines)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_words_are_whole_and_commands_are_in_one_line(width, capsys):
    verdict, lines = shown(crowded(), capsys, width)
    sentence = re.sub(r"\s+", " ", " ".join(lines))
    assert verdict.answer in sentence
    assert f"  {verdict.step.command('.venv/bin/arinar')}" in lines


def test_of_many_arms_it_says_how_many_more_there_are(capsys):
    verdict, lines = shown(crowded(), capsys)
    (more,) = re.findall(r"and (\d+) more arms in report.html", "\n".join(lines))
    assert 20 - int(more) >= 3 and verdict.caution in " ".join(lines)
    assert "=0 (baseline)" in "\n".join(lines)
