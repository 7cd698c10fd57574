"""Text of unknown authors: no escape sequence, markup, HTML or formula in it
acts where it is shown.
"""

import csv
import io
import os
import subprocess
import sys

import pytest
from rich.table import Table

from arinar_lab.output.terminal import Terminal, failure_line
from arinar_lab.output.text import (
    accept_any_letter,
    csv_text,
    markdown_line,
    markdown_table,
    one_line,
    printable,
    say,
)

HOSTILE = "\x1b[2J\x1b]0;title\x07 [red]a[/red] \x9b31m\r\u202e :bomb: seeds=[4, 5]"
SHOWN = r"\x1b[2J\x1b]0;title\x07 [red]a[/red] \x9b31m\r\u202e :bomb: seeds=[4, 5]"


def test_control_characters_are_shown_as_their_escapes(capsys):
    assert printable(HOSTILE) == SHOWN and printable("a\tb\nσ ≤ 1") == "a\tb\nσ ≤ 1"
    assert one_line("a\nb") == r"a\nb"
    say(HOSTILE)
    assert capsys.readouterr().out == f"{SHOWN}\n"


def test_no_letter_is_an_error_whatever_the_encoding(monkeypatch):
    content = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(content, encoding="ascii"))
    monkeypatch.setattr("sys.stderr", io.StringIO())  # has no encoding to change
    accept_any_letter()
    say("σ ≤ 1")
    Terminal(file=sys.stdout).print("…")
    assert content.getvalue() == rb"\u03c3 \u2264 1" + b"\n" + rb"\u2026" + b"\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_the_command_prints_in_every_encoding(encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    words = [sys.executable, "-m", "arinar_lab", "--help"]
    process = subprocess.run(words, env=environment, capture_output=True, timeout=60)
    assert (
        process.returncode == 0 and rb"components=4-\u2026" in process.stdout and not process.stderr
    )


def test_the_terminal_takes_text_literally():
    out = io.StringIO()
    terminal = Terminal(file=out, width=200, force_terminal=True, color_system="standard")
    table = Table("name", title=HOSTILE)
    table.add_row(HOSTILE)
    for shown in (HOSTILE, failure_line(HOSTILE), table):
        terminal.print(shown, soft_wrap=True)
    text = out.getvalue()

    assert (
        text.count(r"\x1b[2J\x1b]0;title") == 4
        and text.count("[red]a[/red]") == 4
        and ":bomb:" in text
    )
    assert (
        "\x1b[2J" not in text and "\x9b" not in text and "\u202e" not in text and "\r" not in text
    )
    assert "\x1b[31mfailed" in text  # styles of ours are shown


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nb", "a b"),
        ("a|b", r"a\|b"),
        ("a\\|b", r"a\\\|b"),
        ("<script>x</script>", "&lt;script>x&lt;/script>"),
        ("![x](http://y)", r"![x]\(http://y)"),
        ("p < 0.001, **2.1** ± 3", "p < 0.001, **2.1** ± 3"),
    ],
)
def test_markdown_is_one_line_of_text(text, line):
    assert markdown_line(text) == line
    assert markdown_table(["a", "b"], [[text, "b"]])[2] == f"| {line} | b |"


@pytest.mark.parametrize("formula", ["=1+1", "+A1", "-A1", "@SUM(A1)", "\t=1", "=\"'\n|"])
def test_a_spreadsheet_computes_nothing(formula):
    ((cell,),) = csv.reader(io.StringIO(csv_text([[formula]])))
    assert cell == f"'{formula}"
    assert list(csv.reader(io.StringIO(csv_text([[formula]], literal=True)))) == [[formula]]


def test_numbers_of_a_table_stay_numbers():
    assert (
        csv_text([[-1.5, "-1e-3", "+2", "-inf", -1, None, "a-b", "1=2"]])
        == "-1.5,-1e-3,+2,-inf,-1,,a-b,1=2\r\n"
    )
