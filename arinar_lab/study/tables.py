"""The table of a study, as text: for the terminal, as Markdown, and as CSV with one row a run."""

from __future__ import annotations

import csv
import io
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from . import ranking
from .comparison import effects
from .methods import notes
from .results import BITS, DISTANCE, GAP, LEVEL, SPEED, Column, Results


def rows(results: Results, columns: list[Column]) -> tuple[list[str], list[list[str]]]:
    """The table as text: headings, and a row for each arm and reference."""
    arrows = {True: " ↓", False: " ↑", None: ""}
    headings = ["arm", "seeds", "likelihood", *(c.heading + arrows[c.less] for c in columns)]
    body = []
    for arm in results.plan.arms:
        cells = [results.summary(arm, c.metric) for c in columns]
        none = {BITS: "n/a"} if arm.likelihood == "none" else {}
        texts = [
            cell.text(c.digits) if cell else none.get(c.metric, "") for c, cell in zip(columns, cells, strict=True)
        ]
        name = f"{arm.name} (baseline)" if arm.name == results.plan.baseline else arm.name
        seeds = f"{len(results.reports[arm.name])} of {len(results.plan.seeds)}"
        body.append([name, seeds, _likelihood(results.reports[arm.name]), *texts])
    for name, bits in results.references.items():
        body.append([f"{name} (not ours)", "", "exact", *(f"{bits:.3f}" if c.metric == BITS else "" for c in columns)])
    for paper in results.plan.papers:
        there = [f"{paper.values[c.metric]:,.{c.digits}f}" if c.metric in paper.values else "" for c in columns]
        body.append([f"{paper.name} (not ours)", "", "", *there])
    return headings, body


def _likelihood(reports: dict[int, dict[str, Any]]) -> str:
    """What an arm's bits/dim are: exact, a bound or an estimate, with the outer's steps; of pixels, or of latents."""
    for report in reports.values():
        said = report["likelihood"]
        if said["kind"] == "none":
            return "none"
        kind = f"{said['kind']}, {said['steps']} steps" if said["steps"] else said["kind"]
        return kind if said["unit"] == "pixel" else f"{kind}, {said['unit']}"
    return ""


def terminal_table(results: Results) -> Table:
    """The table for the terminal, at 80 columns: what people look at first; what is the same everywhere goes below it."""
    headings, body = rows(results, [c for c in results.columns if c.metric in (BITS, LEVEL, GAP, DISTANCE, SPEED)])
    said = {name: {row[headings.index(name)] for row in body} - {""} for name in ("seeds", "likelihood")}
    same = [name for name, values in said.items() if len(values) == 1]
    keep = [i for i, heading in enumerate(headings) if heading not in same]
    caption = ", ".join(f"{name}: {next(iter(said[name]))}" for name in same)
    question = escape(results.plan.question or results.plan.name)
    table = Table(title=question, title_justify="left", caption=caption, caption_justify="left", box=SIMPLE_HEAD)
    for i in keep:
        table.add_column(headings[i], justify="left" if i == 0 else "right", no_wrap=i > 0)
    for row in body:
        table.add_row(*(escape(row[i]) for i in keep))
    return table


def markdown(results: Results) -> str:
    """The report as Markdown."""
    headings, body = rows(results, results.columns)
    lines = [f"# {results.plan.name}", "", results.plan.question, ""]
    lines += ["| " + " | ".join(headings) + " |", "|:--" + "|--:" * (len(headings) - 1) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in body]
    if difference := [line for part in results.by_budget for line in effects(part)]:
        lines += [
            "",
            "## Differences to the baseline, paired by seed",
            "",
            *(f"- {line}" for line in difference),
        ]
    if lasting := ranking.conclusions(results):
        lines += ["", "## Does the ranking last?", "", *(f"- {line}" for line in lasting)]
    return "\n".join([*lines, "", "## How to read it", "", *(f"- {line}" for line in notes(results)), ""])


def csv_of(results: Results) -> str:
    """One row a run, every metric."""
    metrics = sorted({m for by_seed in results.reports.values() for r in by_seed.values() for m in r["metrics"]})
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["arm", *results.plan.axes, "seed", *metrics])
    for arm in results.plan.arms:
        for seed, report in results.reports[arm.name].items():
            values = arm.values or ("",) * len(results.plan.axes)
            writer.writerow([arm.name, *values, seed, *(report["metrics"].get(m, "") for m in metrics)])
    return file.getvalue()
