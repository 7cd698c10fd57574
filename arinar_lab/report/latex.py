"""The table of a study for a paper: LaTeX that needs the package `booktabs`, nothing else, and
fits a page 17 cm wide.

A cell has two lines: mean ± training noise, and below it evaluation noise in brackets. Many columns
become several tables.
"""

from __future__ import annotations

import re
import unicodedata

from ..analysis.analyse import Analysis
from ..analysis.results import Results
from ..output.names import breakable_name
from .statements import caption
from .tables import TableCell, TableRow, table_of

MAX_METRICS = 4  # metrics of one table
LONG_NAME = 30  # letters of an arm's name, beyond which names take several lines
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "→": r"$\to$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "−": "$-$",
    "·": r"$\cdot$",
    "∞": r"$\infty$",
    "σ": r"$\sigma$",
    "µ": r"$\mu$",
    "²": "$^2$",
    "³": "$^3$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "“": "``",
    "”": "''",
    "‘": "`",
    "’": "'",
    # a bracket that opens a row would be read as the option of the line break before it
    "[": "{[}",
    "]": "{]}",
}


def escape_latex(text: str) -> str:
    """Text as LaTeX shows it. A letter that pdfLaTeX's fonts lack becomes its plain letter, or its
    code point.
    """
    return "".join(map(_escaped, text))


def _escaped(letter: str) -> str:
    if letter in _SPECIAL:
        return _SPECIAL[letter]
    if _is_printable(letter):
        return letter
    plain = filter(_is_printable, unicodedata.normalize("NFKD", letter))
    return "".join(map(_escaped, plain)) or f"U+{ord(letter):04X}"


def _is_printable(letter: str) -> bool:
    return " " <= letter <= "~"


def latex_table(analysis: Analysis) -> str:
    """table.tex: tables of at most `MAX_METRICS` metrics, the first with the caption."""
    results = analysis.results
    headings, rows = table_of(analysis, analysis.columns)
    metrics = len(headings) - 3
    lines = [
        f"% The table of the study {escape_latex(results.name)}, written by arinar report. It needs"
        " \\usepackage{booktabs} and a page 17 cm wide."
    ]

    for number, first in enumerate(range(0, max(metrics, 1), MAX_METRICS)):
        part = range(first, min(first + MAX_METRICS, metrics))
        label = f"{_label(results)}-{number + 1}" if number else _label(results)
        lines += [
            "",
            r"\begin{table*}",
            r"\centering\small\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{_caption(analysis) if number == 0 else _more(results)}}}",
            r"\vspace{4pt}",
            rf"\label{{tab:{label}}}",
            *_tabular(headings, part, rows),
            r"\end{table*}",
        ]

    return "\n".join([*lines, ""])


def _tabular(headings: list[str], part: range, rows: list[TableRow]) -> list[str]:
    """The tabular of a range of metrics; the likelihood stands in the first table alone, where
    bits/dim are.
    """
    shows_likelihood = part.start == 0
    metrics = headings[3:][part.start : part.stop]
    head = [headings[0], "n", *([headings[2]] if shows_likelihood else []), *metrics]

    body = []
    for row in rows:
        cells = row.cells[part.start : part.stop]
        if not row.seeds and not any(cell.value for cell in cells):
            continue  # a reference without any of these metrics
        texts = [escape_latex(breakable_name(row.name)), escape_latex(row.seeds.split(" ")[0])]
        if shows_likelihood:
            texts.append(escape_latex(row.likelihood))
        body.append(" & ".join([*texts, *map(_cell, cells)]) + r" \\")
        if any(cell.evaluation for cell in cells):
            body.append(r"\addlinespace[3pt]")

    names = r"p{4.8cm}" if any(len(row.name) > LONG_NAME for row in rows) else "l"
    layout = f"{names}r{'l' if shows_likelihood else ''}{'r' * len(part)}"
    return [
        rf"\begin{{tabular}}{{@{{}}{layout}@{{}}}}",
        r"\toprule",
        " & ".join(map(escape_latex, head)) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]


def _cell(cell: TableCell) -> str:
    """One line, or two as a table of their own that hangs from the row's line."""
    mark = {"better": r"\textbf{%s}", "worse": r"\textit{%s}", "": "%s"}[cell.verdict]
    first = mark % escape_latex(cell.mean) + escape_latex(cell.training)
    if cell.mean.startswith("-"):
        first = first.replace("-", "$-$", 1)
    if not cell.evaluation:
        return first

    second = rf"{{\scriptsize {escape_latex(cell.evaluation)}}}"
    return rf"\begin{{tabular}}[t]{{@{{}}r@{{}}}}{first}\\[-2pt]{second}\end{{tabular}}"


def _caption(analysis: Analysis) -> str:
    results = analysis.results
    return escape_latex(" ".join([results.question or results.name, *caption(analysis)]))


def _more(results: Results) -> str:
    text = escape_latex(f"More of {results.name}: notation as in Table ")
    return rf"{text}\ref{{tab:{_label(results)}}}."


def _label(results: Results) -> str:
    return re.sub("[^A-Za-z0-9]", "-", results.name)
