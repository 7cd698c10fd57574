"""The verdict of a study on one screen: 24 lines of 80 columns.

The question, the sentence that answers it, a small table, a line on speed, the next command, and
where the whole report is. Rows of the table give way where the names are long; lines are broken
between words, and commands and paths not at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..analysis.verdict import MOST_ROWS, Verdict, VerdictCell
from ..output.names import abridged, breakable_name

LINES = 22  # of the 24, with the line of the command before it and the prompt behind it
_LEAST_ROWS = 3
_LEAST_NAME = 16  # letters
_STYLES = {"▲": "bold green", "▼": "red", "≈": "cyan", "?": "dim"}


def print_verdict(verdict: Verdict, page: str, program: str, console: Console) -> None:
    """Print a verdict so that it fits one screen.

    Arguments:
        page: The path of the report's page.
        program: How this machine starts arinar, as a shell reads it.
    """
    closing = _closing(verdict, page, program)
    rows = min(MOST_ROWS, len(verdict.rows))
    while rows > _LEAST_ROWS and _height(verdict, rows, closing, console) > LINES:
        rows -= 1

    for part in _opening(verdict, rows, console.width):
        console.print(part)
    for line in closing:
        console.print(line, soft_wrap=line.startswith("  ") or page in line)


def _opening(verdict: Verdict, rows: int, width: int) -> list[Text | Table | str]:
    """What stands before the next command."""
    parts: list[Text | Table | str] = [Text(verdict.question, style="bold"), "", verdict.answer]
    parts.append(_table(verdict, rows, width))
    parts += filter(None, [verdict.left_out(rows)])
    if verdict.is_marked:
        parts.append(Text(verdict.legend, style="dim"))
    if verdict.speed:
        parts.append(f"Speed: {verdict.speed}")
    return parts


def _closing(verdict: Verdict, page: str, program: str) -> list[str]:
    """The cautions, the next command and the path of the page."""
    lines = []
    if verdict.caution:
        lines.append(f"{verdict.caution}: see report.html.")
    if verdict.step:
        lines += ["", verdict.step.reason, f"  {verdict.step.command(program)}"]
    return [*lines, f"Everything else: {page}"]


def _table(verdict: Verdict, rows: int, width: int) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(Text(verdict.headings[0]), overflow="fold")
    room = width
    for i, heading in enumerate(verdict.headings[1:]):
        widest = max(len(_cell(row.cells[i])) for row in verdict.rows)
        room -= max(widest, len(heading)) + 3
        table.add_column(Text(heading), justify="right", no_wrap=True)

    for row in verdict.shown(rows):
        name = abridged(breakable_name(row.arm), max(room, _LEAST_NAME))
        table.add_row(Text(name), *map(_cell, row.cells))
    return table


def _cell(cell: VerdictCell) -> Text:
    """Numbers stand under each other, whether a mark follows or not."""
    return Text.assemble(f"{cell.text} ", (cell.mark or " ", _STYLES.get(cell.mark, "")))


def _height(verdict: Verdict, rows: int, closing: Sequence[str], console: Console) -> int:
    """The number of lines that a verdict takes on the terminal."""
    height = sum(max(1, math.ceil(cell_len(line) / console.width)) for line in closing)
    for part in _opening(verdict, rows, console.width):
        height += len(console.render_lines(part))
    return height
