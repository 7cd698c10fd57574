"""The table of a study for a paper: LaTeX that needs the package `booktabs`, nothing else, and
fits a page 17 cm wide.

A cell has two lines: mean ± training noise, and below it evaluation noise in brackets. Many columns
become several tables.
"""

from __future__ import annotations

import unicodedata

from ..analysis.analyse import Analysis
from ..analysis.results import Results
from ..analysis.text import breakable_name
from .statements import caption
from .tables import TableCell, TableRow, table_of

MAX_METRICS = 4  # metrics beside each other
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
    """Text as LaTeX shows it. What pdfLaTeX's fonts lack becomes its plain
    letter, or its code point.
    """
    return "".join(_SPECIAL.get(letter) or _plain(letter) for letter in text)


def _plain(letter: str) -> str:
    if " " <= letter <= "~":
        return letter
    bare = "".join(part for part in unicodedata.normalize("NFKD", letter) if " " <= part <= "~")
    return "".join(_SPECIAL.get(part, part) for part in bare) or f"U+{ord(letter):04X}"


def latex_table(analysis: Analysis) -> str:
    """table.tex: tables of at most `MAX_METRICS` metrics, the first with the caption."""
    results = analysis.results
    headings, rows = table_of(analysis, analysis.columns)
    names, columns = headings[:3], list(enumerate(headings[3:]))
    parts = [columns[i : i + MAX_METRICS] for i in range(0, len(columns), MAX_METRICS)] or [[]]
    lines = [
        (
            f"% The table of the study {escape_latex(results.name)}, written by arinar report. It"
            " needs \\usepackage{booktabs} and a page 17 cm wide."
        )
    ]

    for number, part in enumerate(parts):
        lines += [
            "",
            r"\begin{table*}",
            r"\centering\small\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{_caption(analysis) if number == 0 else _more(results)}}}",
            r"\vspace{4pt}",
            rf"\label{{tab:{_label(results)}{f'-{number + 1}' if number else ''}}}",
            *_tabular(names, part, rows),
            r"\end{table*}",
        ]

    return "\n".join([*lines, ""])


def _tabular(names: list[str], part: list[tuple[int, str]], rows: list[TableRow]) -> list[str]:
    """One tabular; the likelihood stands in the first table alone, where bits/dim are."""
    likelihood = not part or part[0][0] == 0
    head = [names[0], "n", *(names[2:] if likelihood else []), *(heading for _, heading in part)]

    body = []
    for row in rows:
        if not row.seeds and not any(row.cells[i].value for i, _ in part):
            continue  # a row that is not ours, and has none of these
        cells = [
            escape_latex(breakable_name(row.name)),
            escape_latex(row.seeds.split(" ")[0]),
            *([escape_latex(row.likelihood)] if likelihood else []),
        ]
        body.append(" & ".join([*cells, *(_cell(row.cells[i]) for i, _ in part)]) + r" \\")
        body += [r"\addlinespace[3pt]"] if any(row.cells[i].evaluation for i, _ in part) else []

    names_of = r"p{4.8cm}" if any(len(row.name) > LONG_NAME for row in rows) else "l"
    return [
        rf"\begin{{tabular}}{{@{{}}{names_of}r{'l' if likelihood else ''}{'r' * len(part)}@{{}}}}",
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
    first = (mark % escape_latex(cell.mean) + escape_latex(cell.training)).replace(
        "-", "$-$", int(cell.mean.startswith("-"))
    )
    if not cell.evaluation:
        return first

    return (
        rf"\begin{{tabular}}[t]{{@{{}}r@{{}}}}{first}\\[-2pt]{{\scriptsize "
        rf"{escape_latex(cell.evaluation)}}}\end{{tabular}}"
    )


def _caption(analysis: Analysis) -> str:
    results = analysis.results
    return escape_latex(" ".join([results.question or results.name, *caption(analysis)]))


def _more(results: Results) -> str:
    return (
        escape_latex(f"More of {results.name}: notation as in Table ")
        + rf"\ref{{tab:{_label(results)}}}."
    )


def _label(results: Results) -> str:
    return "".join(
        letter if letter.isascii() and letter.isalnum() else "-" for letter in results.name
    )
