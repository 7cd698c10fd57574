"""The table of a study: its cells, and as text for the terminal, as Markdown, and as
CSV with one row a run.

    2.120 ± 0.013 (± 0.004)         mean over seeds ± training noise (± evaluation noise, over
                                    images, where measured)

Both are half-widths of 95 % intervals and stand apart, for more seeds narrow the one and more
images the other. Bold is better and italic worse than the baseline, where the paired test resolves
it. LaTeX is in `latex.py`, HTML in `report.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..analysis import pareto, rank_agreement
from ..analysis.comparison import compare_all, effect_lines, verdict
from ..analysis.results import Results
from ..analysis.statistics import Interval
from ..analysis.text import breakable_name, join_names, short_value
from ..config.schema import to_plain
from ..metrics import BITS, DISTANCES, GAP, LEVEL, SPEED, Column
from ..output.text import csv_text, markdown_line, markdown_row
from ..study.plan import Arm
from .notes import likelihood_kind, notes

ARROWS = {True: " ↓", False: " ↑", None: ""}
_NAMES = 16  # least letters of a line of an arm's name in the terminal
Verdict = Literal["", "better", "worse"]


@dataclass(frozen=True)
class TableCell:
    """What a table says of one arm and one metric.

    Arguments:
        value: mean and training noise; None where nothing was measured, and `absent` says so.
        images: evaluation noise, or None where it was not measured.
        verdict: against the baseline, empty where it is not resolved; digits: behind the point.
        partial: whether fewer seeds have it than the arm has finished.
        images_of: how many images it is of, where the column's others are of more;
            None where they are not.
    """

    value: Interval | None
    images: float | None = None
    verdict: Verdict = ""
    digits: int = 3
    partial: bool = False
    absent: str = ""
    images_of: int | None = None

    @property
    def mean(self) -> str:
        return f"{self.value.mean:,.{self.digits}f}" if self.value else self.absent

    @property
    def training(self) -> str:
        """` ± 0.013`, and how many seeds where that is not the row's number; empty where
        one value says nothing.
        """
        if self.value is None:
            return ""
        n = f", n = {self.value.n}" if self.partial else ""
        return self.value.text(self.digits).removeprefix(self.mean) + n

    @property
    def evaluation(self) -> str:
        """`(± 0.004)`, of a floor `(360 images)`, or nothing."""
        if self.value and self.images_of is not None:
            return f"({self.images_of:,} images)"
        return (
            f"(± {self.images:.{self.digits}f})" if self.value and self.images is not None else ""
        )

    def text(self, better: str = "", worse: str = "", between: str = " ") -> str:
        """All of it; the mean between the marks of its verdict."""
        mark = {"better": better, "worse": worse, "": ""}[self.verdict]
        return f"{mark}{self.mean}{mark}{self.training}" + (
            between + self.evaluation if self.evaluation else ""
        )


@dataclass(frozen=True)
class TableRow:
    """A row: of an arm, or of a reference that is not ours."""

    name: str
    seeds: str
    likelihood: str
    cells: tuple[TableCell, ...]

    def texts(self, better: str = "", worse: str = "") -> list[str]:
        return [
            self.name,
            self.seeds,
            self.likelihood,
            *(cell.text(better, worse) for cell in self.cells),
        ]


def table_of(results: Results, columns: Sequence[Column]) -> tuple[list[str], list[TableRow]]:
    """Headings, and a row for each arm, floor and reference."""
    said = verdicts(results)
    headings = ["arm", "seeds", "likelihood", *(c.heading + ARROWS[c.less] for c in columns)]
    body = [_row(results, arm, columns, said) for arm in results.plan.arms] + _floors(
        results, columns
    )

    for name, bits in results.references.items():
        cells = tuple(
            TableCell(Interval(bits, 0.0, 1) if c.metric == BITS else None, digits=c.digits)
            for c in columns
        )
        body.append(TableRow(f"{name} (not ours)", "", "exact", cells))

    for paper in results.plan.papers:
        theirs = [(paper.values.get(c.metric), c.digits) for c in columns]
        cells = tuple(
            TableCell(None if value is None else Interval(value, 0.0, 1), digits=n)
            for value, n in theirs
        )
        body.append(TableRow(f"{paper.name} (not ours)", "", "", cells))

    return headings, body


def _row(
    results: Results, arm: Arm, columns: Sequence[Column], said: dict[tuple[str, str], Verdict]
) -> TableRow:
    reports = results.reports[arm.name]
    cells = []
    for c in columns:
        value = results.summary(arm, c.metric)
        absent = "n/a" if c.metric == BITS and arm.likelihood == "none" else ""
        partial = value is not None and value.n < len(reports)
        noise, verdict = results.evaluation_noise(arm, c.metric), said.get((arm.name, c.metric), "")
        cells.append(TableCell(value, noise, verdict, c.digits, partial, absent))

    name = f"{arm.name} (baseline)" if arm.name in results.plan.baselines else arm.name
    kind = " / ".join(
        dict.fromkeys(kind for report in reports.values() if (kind := likelihood_kind(report)))
    )

    return TableRow(name, f"{len(reports)} of {len(results.plan.seeds)}", kind, tuple(cells))


def _floors(results: Results, columns: Sequence[Column]) -> list[TableRow]:
    """What held-out images reach in each distance, in a row; in one for each codec where
    arms differ in theirs.
    """
    rows = []
    for codec in dict.fromkeys(
        short_value(to_plain(arm.recipe.codec)) for arm in results.plan.arms
    ):
        arms = [
            arm for arm in results.plan.arms if short_value(to_plain(arm.recipe.codec)) == codec
        ]
        cells = tuple(
            _floor([f for arm in arms if (f := results.floor(arm, c.metric))], c.digits)
            for c in columns
        )
        whose = (
            ""
            if len(arms) == len(results.plan.arms)
            else f" by the codec of {join_names(arm.name for arm in arms)}"
        )
        rows += (
            [TableRow(f"held-out images{whose}", "", "", cells)]
            if any(cell.value for cell in cells)
            else []
        )

    return rows


def _floor(found: Sequence[tuple[float, int | None]], digits: int) -> TableCell:
    if not found:
        return TableCell(None, digits=digits)
    return TableCell(
        Interval(fmean(value for value, _ in found), 0.0, 1), digits=digits, images_of=found[0][1]
    )


def verdicts(results: Results) -> dict[tuple[str, str], Verdict]:
    """(arm, metric) → better or worse than the baseline, where that is resolved and one
    direction is better.
    """
    columns = {column.metric: column for column in results.columns}
    said = {
        (e.arm, e.metric): verdict(e, columns[e.metric])
        for e in compare_all(results)
        if e.supported
    }
    return {key: "better" if text == "better" else "worse" for key, text in said.items()}


def plain_table(results: Results, columns: Sequence[Column]) -> tuple[list[str], list[list[str]]]:
    """The table as plain text: headings, and a row for each arm and reference."""
    headings, body = table_of(results, columns)
    return headings, [row.texts() for row in body]


def terminal_table(results: Results, width: int) -> Table:
    """The table for the terminal: what people look at first, as far as it fits; what is the same
    everywhere goes below it.
    """
    shown = [c for c in results.columns if c.metric in (BITS, LEVEL, GAP, *DISTANCES, SPEED)]
    headings, body = table_of(results, shown)
    said = {
        "seeds": {row.seeds for row in body} - {""},
        "likelihood": {row.likelihood for row in body} - {""},
    }
    same = [name for name, values in said.items() if len(values) == 1]
    captions = [f"{name}: {next(iter(said[name]))}" for name in same]
    lines = [
        [
            Text(breakable_name(row.name)),
            Text(row.seeds),
            Text(row.likelihood),
            *map(_terminal_cell, row.cells),
        ]
        for row in body
    ]
    keep = [i for i, heading in enumerate(headings) if heading not in same]

    keep, left_out = _fitting(keep, [[Text(heading) for heading in headings], *lines], width)
    if left_out:
        captions += [f"more in table.md: {', '.join(headings[i] for i in left_out)}"]
    question = results.plan.question or results.plan.name
    table = Table(
        title=question,
        title_justify="left",
        caption=", ".join(captions),
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    for i in keep:
        side, least = ("right", 0) if i else ("left", _NAMES)
        table.add_column(headings[i], justify=side, no_wrap=i > 0, min_width=least, overflow="fold")  # type: ignore[arg-type]

    for line in lines:
        table.add_row(*(line[i] for i in keep))

    return table


def _fitting(keep: list[int], lines: list[list[Text]], width: int) -> tuple[list[int], list[int]]:
    """The first columns that fit beside the arms' names, and those that are left out; one
    number always stays.
    """
    wide = {i: max(part.cell_len for line in lines for part in line[i].split()) for i in keep}
    room, count = width - 1, 0
    # each column has a space on either side, and one more before the next
    for count, i in enumerate(keep):
        room -= (_NAMES if i == 0 else wide[i]) + 3
        if room < -2 and count > 1:
            return keep[:count], keep[count:]
    return keep, []


def _terminal_cell(cell: TableCell) -> Text:
    """The mean in bold or italic where its difference is resolved; evaluation noise
    on a line of its own.
    """
    text = Text(cell.text(between="\n"))
    text.stylize({"better": "bold", "worse": "italic", "": ""}[cell.verdict], 0, len(cell.mean))
    return text


def report_markdown(results: Results) -> str:
    """The report as Markdown."""
    headings, body = table_of(results, results.columns)
    lines = [f"# {markdown_line(results.plan.name)}", "", markdown_line(results.plan.question), ""]
    lines += [markdown_row(headings), "|:--" + "|--:" * (len(headings) - 1) + "|"]
    lines += [markdown_row(row.texts("**", "*")) for row in body]

    if difference := [line for part in results.by_budget for line in effect_lines(part)]:
        lines += [
            "",
            "## Differences to the baseline, paired by seed",
            "",
            *(f"- {markdown_line(line)}" for line in difference),
        ]

    if worth := pareto.frontier_conclusions(results):
        lines += [
            "",
            "## Quality against speed",
            "",
            *(f"- {markdown_line(line)}" for line in worth),
        ]

    if lasting := rank_agreement.rank_conclusions(results):
        lines += [
            "",
            "## Does the ranking last?",
            "",
            *(f"- {markdown_line(line)}" for line in lasting),
        ]

    return "\n".join(
        [
            *lines,
            "",
            "## How to read it",
            "",
            *(f"- {markdown_line(line)}" for line in notes(results)),
            "",
        ]
    )


def runs_csv(results: Results, literal: bool = False) -> str:
    """One row a run: every metric, its evaluation noise where measured, and which code
    and machine made it.

    `literal` leaves text that a spreadsheet would compute as it is.
    """
    metrics = sorted(
        {m for by_seed in results.reports.values() for r in by_seed.values() for m in r["metrics"]}
    )
    noisy = sorted(
        {
            m
            for by_seed in results.reports.values()
            for r in by_seed.values()
            for m in r.get("noise", {})
        }
    )
    made = ["training_signature", "evaluation_signature", "commit", "device"]
    rows = [
        ["arm", *results.plan.axes, "seed", *metrics, *(f"{m} ± over images" for m in noisy), *made]
    ]

    for arm in results.plan.arms:
        for seed, report in results.reports[arm.name].items():
            values = arm.values or ("",) * len(results.plan.axes)
            measured = [report["metrics"].get(m, "") for m in metrics] + [
                report.get("noise", {}).get(m, "") for m in noisy
            ]
            rows.append([arm.name, *values, seed, *measured, *_origin(report)])

    return csv_text(rows, literal)


def _origin(report: dict[str, Any]) -> list[str]:
    return [
        report.get("training_signature", ""),
        report.get("evaluation_signature", ""),
        report.get("git", {}).get("commit") or "",
        report.get("environment", {}).get("device", ""),
    ]
