"""The report of a study, written into its folder:

    table.md  table.tex  table.csv      the table; as CSV one row a run
    methods.md                          how the numbers came about, for a paper
    <figure>.png  <figure>.pdf          see `figures.py`
    report.html                         all of it as one page that opens from disk, asks the network for nothing, and prints

Every number carries its interval over seeds, and that over images where it was measured; what a paired test does not
resolve is called not resolved. A study that is not finished is reported, too, and what is missing is named.

The page's template is `page.html`; pictures are inlined, and every text is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from ..analysis.analyse import Analysis
from ..analysis.comparison import Effect, p_text
from ..analysis.text import spaced
from ..files.atomic import room_for, write
from .figures import DPI, FIGURES, Figure
from .latex import latex
from .statements import baseline_in_words, caption, methods, missing, paragraphs, reading
from .tables import Row, csv_of, markdown, table_of

WIDTH = 130  # pixels on the screen of an inch of a picture


def write_report(analysis: Analysis) -> list[Path]:
    """Write the report into the study's folder; returns the paths of its files, the page first."""
    folder = analysis.results.folder / "report"
    with room_for(folder):
        return _written(analysis, folder)


def _written(analysis: Analysis, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {figure.name: paths for figure in FIGURES if (paths := figure.write(analysis, folder))}
    texts = {
        "report.html": page(analysis, {name: paths[0] for name, paths in drawn.items()}),
        "table.md": markdown(analysis),
        "table.tex": latex(analysis),
        "table.csv": csv_of(analysis),
        "methods.md": methods(analysis),
    }
    for name, text in texts.items():
        write(folder / name, text)
    return [*(folder / name for name in texts), *(path for paths in drawn.values() for path in paths)]


def page(analysis: Analysis, pictures: Mapping[str, Path]) -> str:
    """The page of a study. pictures: figure's name → its PNG; the others are named as left out."""
    results = analysis.results
    headings, rows = table_of(analysis, analysis.columns)
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(
        Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    )
    absent = [figure for figure in FIGURES if figure.name not in pictures and figure.asked(results)]
    return template.render(
        name=results.name,
        question=results.question,
        baseline=baseline_in_words(results),
        sections=_sections(bool(analysis.effects)),
        missing=missing(analysis),
        verdicts=[*analysis.verdicts, *analysis.against_speed, *analysis.ranking],
        caption=caption(analysis),
        headings=headings,
        rows=[_row(row, analysis) for row in rows],
        effects=[_effect(effect) for effect in analysis.effects],
        figures=[_picture(figure, pictures[figure.name]) for figure in FIGURES if figure.name in pictures],
        left_out=absent,
        reading=reading(analysis),
        methods=paragraphs(analysis),
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


def _row(row: Row, analysis: Analysis) -> dict[str, Any]:
    is_baseline = row.name.endswith(" (baseline)") and analysis.is_baseline(row.name.removesuffix(" (baseline)"))
    kind = "baseline" if is_baseline else "" if row.seeds else "reference"
    return {
        "kind": kind,
        "name": spaced(row.name),
        "seeds": row.seeds,
        "likelihood": row.likelihood,
        "cells": row.cells,
    }


def _effect(effect: Effect) -> dict[str, Any]:
    """A row of the table of differences, as text."""
    has_test = effect.difference.n > 1
    return {
        "heading": effect.column.heading,
        "arm": spaced(effect.arm),
        "difference": effect.difference_text,
        "n": effect.difference.n,
        "spread": effect.spread_of,
        "df": f"{effect.spread.df:.1f}" if effect.spread else "",
        "p": _bare(effect.p) if has_test else "",
        "adjusted": _bare(effect.adjusted) if has_test else "",
        "size": effect.size_text if has_test else "",
        "mark": effect.verdict if effect.concluded else "",
        "verdict": effect.verdict,
        "caution": effect.caution,
    }


def _bare(p: float) -> str:
    """`0.04`, `< 0.001`."""
    return p_text(p).removeprefix("p ").removeprefix("= ")


def _picture(figure: Figure, path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        width = round(image.width / DPI * WIDTH)
    data = base64.b64encode(path.read_bytes()).decode()
    return {"title": figure.title, "caption": figure.caption, "data": data, "width": width}
