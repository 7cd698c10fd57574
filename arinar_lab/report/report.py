"""The report of a study, written into its folder:

    table.md  table.tex  table.csv      the table; as CSV one row a run
    methods.md                          how the numbers came about, for a paper
    <figure>.png  <figure>.pdf          see `figures.py`
    report.html                         all of it as one page that opens from disk, asks the network
                                        for nothing, and prints

Every number carries its interval over seeds, and that over images where it was measured; what a
paired test does not resolve is called not resolved. A study that is not finished is reported, too,
and what is missing is named.

The page's template is `page.html`; pictures are inlined, and every text is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from ..analysis import pareto, rank_agreement
from ..analysis.comparison import Effect, compare_all, p_text, summary, verdict
from ..analysis.results import Results
from ..analysis.text import breakable_name
from ..files.atomic import disk_full_guard, write_atomically
from ..metrics import Column
from ..study.plan import Plan
from .figures import DPI, FIGURES, Figure
from .latex import latex_table
from .methods import methods_markdown, paragraphs
from .notes import baseline_text, caution_lines, reading_notes
from .tables import TableRow, report_markdown, runs_csv, table_of


def write_report(results: Results) -> list[Path]:
    """Write the report into the study's folder; returns the paths of its files, the page first."""
    folder = results.plan.folder / "report"
    with disk_full_guard(folder):
        return _written(results, folder)


def _written(results: Results, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {figure.name: paths for figure in FIGURES if (paths := figure.write(results, folder))}
    texts = {
        "report.html": page(results, {name: paths[0] for name, paths in drawn.items()}),
        "table.md": report_markdown(results),
        "table.tex": latex_table(results),
        "table.csv": runs_csv(results),
        "methods.md": methods_markdown(results),
    }
    for name, text in texts.items():
        write_atomically(folder / name, text)

    return [
        *(folder / name for name in texts),
        *(path for paths in drawn.values() for path in paths),
    ]


WIDTH = 130  # pixels on the screen of an inch of a picture


def page(results: Results, pictures: Mapping[str, Path]) -> str:
    """The page of a study. pictures: figure's name → its PNG; the others are named as left out."""
    headings, rows = table_of(results, results.columns)
    columns = {column.metric: column for column in results.columns}
    found = compare_all(results)
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True
    ).from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))

    return template.render(
        name=results.plan.name,
        question=results.plan.question,
        baseline=baseline_text(results.plan),
        sections=_sections(bool(found)),
        missing=caution_lines(results),
        verdicts=[
            *summary(found, results.columns),
            *pareto.frontier_conclusions(results),
            *rank_agreement.rank_conclusions(results),
        ],
        headings=headings,
        rows=[_row(row, results.plan) for row in rows],
        effects=[_effect(effect, columns[effect.metric]) for effect in found],
        figures=[
            _picture(figure, pictures[figure.name]) for figure in FIGURES if figure.name in pictures
        ],
        left_out=[
            figure for figure in FIGURES if figure.name not in pictures and figure.asked(results)
        ],
        reading=reading_notes(results),
        methods=paragraphs(results),
    )


def _sections(compared: bool) -> list[tuple[str, str]]:
    titles = {
        "answer": "What may be concluded",
        "table": "Table",
        "differences": "Differences",
        "figures": "Figures",
        "reading": "How to read it",
        "methods": "Methods",
    }
    return [(name, title) for name, title in titles.items() if compared or name != "differences"]


def _row(row: TableRow, plan: Plan) -> dict[str, Any]:
    baseline = row.name in {f"{name} (baseline)" for name in plan.baselines}
    kind = "baseline" if baseline else "" if row.seeds else "reference"

    return {
        "kind": kind,
        "name": breakable_name(row.name),
        "seeds": row.seeds,
        "likelihood": row.likelihood,
        "cells": row.cells,
    }


def _effect(effect: Effect, column: Column) -> dict[str, Any]:
    """A row of the table of differences, as text."""
    d, many = effect.difference, effect.difference.n > 1
    size, low, high = (f"{round(end, 1) + 0:.1f}" for end in (effect.size, *effect.size_interval))
    half = f" ± {d.half:.{column.digits}f}" if many else ""
    said = verdict(effect, column)

    return {
        "heading": column.heading,
        "arm": breakable_name(effect.arm),
        "difference": f"{d.mean:+.{column.digits}f}{half}",
        "n": d.n,
        "spread": effect.spread_of,
        "df": f"{effect.spread.df:.1f}" if effect.spread else "",
        "p": p_text(effect.p).removeprefix("p ").removeprefix("= ") if many else "",
        "adjusted": p_text(effect.adjusted).removeprefix("p ").removeprefix("= ") if many else "",
        "size": f"{size} [{low}, {high}]" if many else "",
        "mark": said if effect.supported else "",
        "verdict": said,
        "caution": effect.caution,
    }


def _picture(figure: Figure, path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        width = round(image.width / DPI * WIDTH)
    data = base64.b64encode(path.read_bytes()).decode()
    return {"title": figure.title, "caption": figure.caption, "data": data, "width": width}
