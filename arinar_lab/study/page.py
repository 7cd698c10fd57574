"""The report as one page: report.html, which opens from disk, asks the network for nothing, and prints.

Its template is `page.html`; pictures are inlined, and every text is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from ..run.metric_names import Column
from . import frontier, ranking
from .comparison import Effect, compare_all, p_text, summary, verdict
from .figures import DPI, FIGURES, Figure
from .methods import against, missing, reading
from .plan import Plan
from .protocol import paragraphs
from .results import Results
from .tables import Row, table_of
from .text import spaced

WIDTH = 130  # pixels on the screen of an inch of a picture


def page(results: Results, pictures: Mapping[str, Path]) -> str:
    """The page of a study. pictures: figure's name → its PNG; the others are named as left out."""
    headings, rows = table_of(results, results.columns)
    columns = {column.metric: column for column in results.columns}
    found = compare_all(results)
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(
        Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    )
    return template.render(
        name=results.plan.name, question=results.plan.question, baseline=against(results.plan),
        sections=_sections(bool(found)), missing=missing(results),
        verdicts=[*summary(found, results.columns), *frontier.conclusions(results), *ranking.conclusions(results)],
        headings=headings, rows=[_row(row, results.plan) for row in rows],
        effects=[_effect(effect, columns[effect.metric]) for effect in found],
        figures=[_picture(figure, pictures[figure.name]) for figure in FIGURES if figure.name in pictures],
        left_out=[figure for figure in FIGURES if figure.name not in pictures and figure.asked(results)],
        reading=reading(results), methods=paragraphs(results),
    )  # fmt: skip


def _sections(compared: bool) -> list[tuple[str, str]]:
    titles = {"answer": "What may be concluded", "table": "Table", "differences": "Differences", "figures": "Figures",
              "reading": "How to read it", "methods": "Methods"}  # fmt: skip
    return [(name, title) for name, title in titles.items() if compared or name != "differences"]


def _row(row: Row, plan: Plan) -> dict[str, Any]:
    baseline = row.name in {f"{name} (baseline)" for name in plan.baselines}
    kind = "baseline" if baseline else "" if row.seeds else "reference"
    return {
        "kind": kind, "name": spaced(row.name), "seeds": row.seeds, "likelihood": row.likelihood, "cells": row.cells
    }  # fmt: skip


def _effect(effect: Effect, column: Column) -> dict[str, Any]:
    """A row of the table of differences, as text."""
    d, many = effect.difference, effect.difference.n > 1
    size, low, high = (f"{round(end, 1) + 0:.1f}" for end in (effect.size, *effect.size_interval))
    half = f" ± {d.half:.{column.digits}f}" if many else ""
    said = verdict(effect, column)
    return {
        "heading": column.heading, "arm": spaced(effect.arm), "difference": f"{d.mean:+.{column.digits}f}{half}", "n": d.n,
        "spread": effect.spread_of, "df": f"{effect.spread.df:.1f}" if effect.spread else "",
        "p": p_text(effect.p).removeprefix("p ").removeprefix("= ") if many else "",
        "adjusted": p_text(effect.adjusted).removeprefix("p ").removeprefix("= ") if many else "",
        "size": f"{size} [{low}, {high}]" if many else "",
        "mark": said if effect.concluded else "", "verdict": said, "caution": effect.caution,
    }  # fmt: skip


def _picture(figure: Figure, path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        width = round(image.width / DPI * WIDTH)
    data = base64.b64encode(path.read_bytes()).decode()
    return {"title": figure.title, "caption": figure.caption, "data": data, "width": width}
