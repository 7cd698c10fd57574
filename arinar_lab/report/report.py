"""The report of a study, written into its folder:

    table.md  table.tex  table.csv      the table; as CSV one row a run
    methods.md                          how the numbers came about, for a paper
    <figure>.png  <figure>.pdf          see `figures.py`
    report.html                         the verdict, and all else folded under it; one page that
                                        opens from disk, asks the network for nothing, and prints

Every number carries its interval over seeds, and that over images where it was measured. A
difference that the test does not resolve is called not resolved. An unfinished study is
reported, too, with the names of its missing runs.

The page's template is `page.html`; pictures are inlined, and every text is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from PIL import Image

from ..analysis.analyse import Analysis
from ..analysis.by_image.shifts import IMAGE_HEADINGS
from ..analysis.comparison import MARKS, p_value_text
from ..analysis.verdict import verdict_of
from ..files.atomic import disk_full_guard, write_atomically
from ..output.names import breakable_name
from .figures import DPI, FIGURES, Figure
from .latex import latex_table
from .statements import (
    baseline_in_words,
    caption,
    caution_lines,
    methods_markdown,
    paragraphs,
    reading_notes,
)
from .tables import report_markdown, runs_csv, table_of

WIDTH = 130  # pixels on the screen of an inch of a picture


def write_report(analysis: Analysis) -> list[Path]:
    """Write the report into the study's folder; returns the paths of its files, the page first."""
    folder = analysis.results.folder / "report"
    with disk_full_guard(folder):
        return _written(analysis, folder)


def _written(analysis: Analysis, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, list[Path]] = {}
    for figure in FIGURES:
        if paths := figure.write(analysis, folder):
            drawn[figure.name] = paths

    texts = {
        "report.html": page(analysis, {name: paths[0] for name, paths in drawn.items()}),
        "table.md": report_markdown(analysis),
        "table.tex": latex_table(analysis),
        "table.csv": runs_csv(analysis),
        "methods.md": methods_markdown(analysis),
    }
    for name, text in texts.items():
        write_atomically(folder / name, text)

    return [*map(folder.joinpath, texts), *chain.from_iterable(drawn.values())]


def page(analysis: Analysis, pictures: Mapping[str, Path]) -> str:
    """The page of a study. pictures: figure's name → its PNG; the others are named as left out."""
    results = analysis.results
    headings, rows = table_of(analysis, analysis.columns)
    figures = []
    left_out = []
    for figure in FIGURES:
        if figure.name in pictures:
            figures.append(_picture(figure, pictures[figure.name]))
        elif figure.applies(results):
            left_out.append(figure)

    return _template().render(
        name=results.name,
        verdict=verdict_of(analysis),
        marks={mark: answer for answer, mark in MARKS.items()} | {"": ""},
        baseline=baseline_in_words(results),
        missing=caution_lines(analysis),
        verdicts=analysis.verdicts,
        against_speed=[*analysis.against_speed, *analysis.ranking],
        caption=caption(analysis),
        headings=headings,
        rows=rows,
        effects=analysis.effects,
        main_effects=analysis.main_effects,
        sources_of_spread=analysis.sources_of_spread,
        image_headings=IMAGE_HEADINGS,
        image_shifts=analysis.image_shifts,
        figures=figures,
        left_out=left_out,
        reading=reading_notes(analysis),
        methods=paragraphs(analysis),
    )


def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"spaced": breakable_name, "p": p_value_text}
    source = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return environment.from_string(source)


def _picture(figure: Figure, path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        width = round(image.width / DPI * WIDTH)
    data = base64.b64encode(path.read_bytes()).decode()
    return {"title": figure.title, "caption": figure.caption, "data": data, "width": width}
