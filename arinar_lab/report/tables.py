"""The table of a study: its cells, and the text of them for the terminal, as Markdown, and as
CSV with one row a run.

    2.120 ± 0.013 (± 0.004)         mean over seeds ± training noise (± evaluation noise, over
                                    images, where measured)

Both are half-widths of 95 % intervals and stand apart, for more seeds narrow the one and more
images the other. Bold is better and italic worse than the baseline, where the paired test resolves
it. LaTeX is in `latex.py`, HTML in `report.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import MappingProxyType
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..analysis.analyse import Analysis
from ..analysis.conditions import kinds_of
from ..analysis.results import ArmResult, Report, Results
from ..analysis.statistics import Interval
from ..analysis.text import breakable_name, join_names, short_value
from ..metrics import BITS, DISTANCES, GAP, LEVEL, SPEED, Column
from ..output.text import csv_text, markdown_line, markdown_list, markdown_table
from .statements import notes

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
    """A row: of an arm, or of a reference that is not ours.

    kind: `baseline`, `arm` or `reference`.
    """

    name: str
    seeds: str
    likelihood: str
    cells: tuple[TableCell, ...]
    kind: Literal["baseline", "arm", "reference"] = "reference"

    def texts(self, better: str = "", worse: str = "") -> list[str]:
        return [
            self.name,
            self.seeds,
            self.likelihood,
            *(cell.text(better, worse) for cell in self.cells),
        ]


def table_of(analysis: Analysis, columns: Sequence[Column]) -> tuple[list[str], list[TableRow]]:
    """Headings, and a row for each arm, floor and reference."""
    results = analysis.results
    verdicts = verdicts_of(analysis)
    rows = [row_of(results, arm, columns, verdicts) for arm in results.arms]
    rows += _floors(results, columns)

    for name, bits in results.references.items():
        rows.append(_not_ours(name, "exact", {BITS: bits}, columns))
    for paper in results.papers:
        rows.append(_not_ours(paper.name, "", paper.values, columns))

    return headings_of(columns), rows


def headings_of(columns: Sequence[Column]) -> list[str]:
    """The headings of the table."""
    return [
        "arm",
        "seeds",
        "likelihood",
        *(column.heading + ARROWS[column.less] for column in columns),
    ]


def row_of(
    results: Results,
    arm: ArmResult,
    columns: Sequence[Column],
    verdicts: Mapping[tuple[str, str], Verdict] = MappingProxyType({}),
) -> TableRow:
    """The row of an arm. verdicts: (arm, metric) → against the baseline."""
    cells = []
    for column in columns:
        value = arm.summary(column.metric)
        noise = arm.evaluation_noise(column.metric)
        absent = "n/a" if column.metric == BITS and arm.likelihood == "none" else ""
        partial = value is not None and value.n < len(arm.reports)
        verdict = verdicts.get((arm.name, column.metric), "")
        cells.append(TableCell(value, noise, verdict, column.digits, partial, absent))

    seeds = f"{len(arm.reports)} of {len(results.seeds)}"
    likelihood = " / ".join(kinds_of(arm))
    if arm.name in results.baselines:
        return TableRow(f"{arm.name} (baseline)", seeds, likelihood, tuple(cells), "baseline")
    return TableRow(arm.name, seeds, likelihood, tuple(cells), "arm")


def _not_ours(
    name: str, likelihood: str, values: Mapping[str, float], columns: Sequence[Column]
) -> TableRow:
    """The row of numbers that somebody else measured."""
    cells = []
    for column in columns:
        value = Interval(values[column.metric], 0.0, 1) if column.metric in values else None
        cells.append(TableCell(value, digits=column.digits))
    return TableRow(f"{name} (not ours)", "", likelihood, tuple(cells))


def _floors(results: Results, columns: Sequence[Column]) -> list[TableRow]:
    """What held-out images reach in each distance, in a row; in one for each codec where
    arms differ in theirs.
    """
    by_codec: dict[str, list[ArmResult]] = {}
    for arm in results.arms:
        by_codec.setdefault(short_value(arm.settings["codec"]), []).append(arm)

    rows = []
    for arms in by_codec.values():
        cells = tuple(_floor(arms, column) for column in columns)
        of_codec = (
            f" by the codec of {join_names(arm.name for arm in arms)}" if len(by_codec) > 1 else ""
        )
        if any(cell.value for cell in cells):
            rows.append(TableRow(f"held-out images{of_codec}", "", "", cells))
    return rows


def _floor(arms: Sequence[ArmResult], column: Column) -> TableCell:
    floors = [floor for arm in arms if (floor := arm.floor(column.metric))]
    if not floors:
        return TableCell(None, digits=column.digits)
    mean = fmean(value for value, _ in floors)
    return TableCell(Interval(mean, 0.0, 1), digits=column.digits, images_of=floors[0][1])


def verdicts_of(analysis: Analysis) -> dict[tuple[str, str], Verdict]:
    """(arm, metric) → better or worse than the baseline, where that is concluded."""
    verdicts: dict[tuple[str, str], Verdict] = {}
    for effect in analysis.effects:
        if effect.supported:
            verdicts[effect.arm, effect.metric] = (
                "better" if effect.verdict == "better" else "worse"
            )
    return verdicts


def plain_table(analysis: Analysis, columns: Sequence[Column]) -> tuple[list[str], list[list[str]]]:
    """The table as plain text: headings, and a row for each arm and reference."""
    headings, body = table_of(analysis, columns)
    return headings, [row.texts() for row in body]


def terminal_table(analysis: Analysis, width: int) -> Table:
    """The table for the terminal: what people look at first, as far as it fits; what is the same
    everywhere goes below it.
    """
    shown = [
        column
        for column in analysis.columns
        if column.metric in (BITS, LEVEL, GAP, *DISTANCES, SPEED)
    ]
    headings, body = table_of(analysis, shown)
    lines = [
        [
            Text(breakable_name(row.name)),
            Text(row.seeds),
            Text(row.likelihood),
            *map(_terminal_cell, row.cells),
        ]
        for row in body
    ]

    values = {
        "seeds": {row.seeds for row in body} - {""},
        "likelihood": {row.likelihood for row in body} - {""},
    }
    same = {name: next(iter(of_rows)) for name, of_rows in values.items() if len(of_rows) == 1}
    captions = [f"{name}: {value}" for name, value in same.items()]
    keep = [i for i, heading in enumerate(headings) if heading not in same]
    keep, left_out = _fitting(keep, [[Text(heading) for heading in headings], *lines], width)
    if left_out:
        captions.append(f"more in table.md: {', '.join(headings[i] for i in left_out)}")

    table = Table(
        title=analysis.results.question or analysis.results.name,
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


def report_markdown(analysis: Analysis) -> str:
    """The report as Markdown."""
    results = analysis.results
    headings, body = table_of(analysis, analysis.columns)
    lines = [f"# {markdown_line(results.name)}", "", markdown_line(results.question), ""]
    lines += markdown_table(headings, [row.texts("**", "*") for row in body])

    sections = {
        "Differences to the baseline, paired by seed": analysis.differences,
        "Quality against speed": analysis.against_speed,
        "Does the ranking last?": analysis.ranking,
        "How to read it": notes(analysis),
    }
    for title, sentences in sections.items():
        if sentences:
            lines += ["", f"## {title}", "", *markdown_list(sentences)]

    return "\n".join([*lines, ""])


def runs_csv(analysis: Analysis, literal: bool = False) -> str:
    """One row a run: every metric, its evaluation noise where measured, and which code
    and machine made it.

    `literal` leaves text that a spreadsheet would compute as it is.
    """
    results = analysis.results
    metrics, noisy = set[str](), set[str]()
    for *_, report in results.runs:
        metrics |= report["metrics"].keys()
        noisy |= report.get("noise", {}).keys()

    noise_headings = [f"{metric} ± over images" for metric in sorted(noisy)]
    origin = ["training_signature", "evaluation_signature", "commit", "device"]
    rows: list[list[Any]] = [
        ["arm", *results.axes, "seed", *sorted(metrics), *noise_headings, *origin]
    ]
    for arm, seed, report in results.runs:
        factors = arm.factors or ("",) * len(results.axes)
        values = [report["metrics"].get(metric, "") for metric in sorted(metrics)]
        values += [report.get("noise", {}).get(metric, "") for metric in sorted(noisy)]
        rows.append([arm.name, *factors, seed, *values, *_origin(report)])
    return csv_text(rows, literal)


def _origin(report: Report) -> list[str]:
    return [
        report.get("training_signature", ""),
        report.get("evaluation_signature", ""),
        report.get("git", {}).get("commit") or "",
        report.get("environment", {}).get("device", ""),
    ]
