"""Text whose author is unknown (questions, names, errors), as output shows it: nothing in
it acts as a command.

A terminal obeys escape sequences, a spreadsheet computes cells that begin with `=`, Markdown
passes HTML on. Everything that the package prints or writes goes through this module;
`terminal.py` does the same for rich.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters except newline and tab, and those that reverse the direction of writing."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def printable(text: str) -> str:
    r"""Write each control character of a text as its escape, as in `\x1b`."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def one_line(text: str) -> str:
    r"""Return printable text in one line, with newlines written as `\n`."""
    return printable(text).replace("\n", "\\n")


def say(line: Any, file: TextIO | None = None) -> None:
    """Print a line on standard output, or on another stream."""
    print(printable(str(line)), file=file or sys.stdout, flush=True)


def accept_any_letter() -> None:
    """Let the standard streams write letters that their encoding lacks as escapes."""
    for stream in (sys.stdout, sys.stderr):
        # a stream that captures output may have none
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def markdown_line(text: str) -> str:
    """Return text as one line of Markdown without HTML, links or the end of a table's cell."""
    line = " ".join(printable(text).split("\n")).replace("\\", "\\\\").replace("|", "\\|")
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", line).replace("](", "]\\(")


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table: its first column is left, all others are right."""
    rule = "|:--" + "|--:" * (len(headings) - 1) + "|"
    return [_markdown_row(headings), rule, *map(_markdown_row, rows)]


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(markdown_line, cells))} |"


def markdown_list(sentences: Iterable[str]) -> list[str]:
    """Return the lines of a list in Markdown."""
    return [f"- {markdown_line(sentence)}" for sentence in sentences]


def csv_text(rows: Iterable[Iterable[Any]], literal: bool = False) -> str:
    """Return rows as CSV; text that spreadsheets compute gets an apostrophe, unless `literal`."""
    file = io.StringIO()
    writer = csv.writer(file)
    for row in rows:
        writer.writerow(row if literal else map(_harmless, row))
    return file.getvalue()


def _harmless(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_FORMULA) and not _is_number(value):
        return f"'{value}"
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
