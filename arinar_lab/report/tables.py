"""The table of a study: its cells, and the text of them for the terminal, as Markdown, and as
CSV with one row a run.

    2.120 ± 0.013 (± 0.004)         mean over seeds ± training noise (± evaluation noise, over
                                    images, where measured)

Both are half-widths of 95 % intervals and stand apart, for more seeds narrow the one and more
images the other. Bold is better and italic worse than the baseline, where the test resolves it.
LaTeX is in `latex.py`, HTML in `report.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from types import MappingProxyType
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..analysis.analyse import Analysis
from ..analysis.by_image.shifts import IMAGE_HEADINGS
from ..analysis.conditions import floor_images, kinds_of
from ..analysis.results import ArmResult, Report, Results
from ..metrics import BITS, DISTANCES, GAP, LEVEL, SPEED, Column
from ..output.names import breakable_name, join_names, short_value
from ..output.text import csv_text, markdown_line, markdown_list, markdown_table
from ..significance.statistics import Interval
from .statements import notes

ARROWS = {True: " ↓", False: " ↑", None: ""}
_NAMES = 16  # least letters of a line of an arm's name in the terminal
_MAIN = (BITS, LEVEL, GAP, *DISTANCES, SPEED)  # metrics in the terminal
Verdict = Literal["", "better", "worse"]


@dataclass(frozen=True)
class TableCell:
    """The cell of one arm and one metric.

    Arguments:
        value: Mean and training noise; None where nothing was measured.
        images: Evaluation noise, or None where it was not measured.
        verdict: Against the baseline; empty where it is not resolved.
        digits: Digits behind the point.
        partial: Whether fewer seeds have it than the arm has finished.
        absent: The text of a cell without a value.
        images_of: Number of images of a floor, where the column's other values are of more; else
            None.
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
        """` ± 0.013`, with the number of seeds if it is not the row's; empty for one value."""
        if self.value is None:
            return ""
        n = f", n = {self.value.n}" if self.partial else ""
        return self.value.text(self.digits).removeprefix(self.mean) + n

    @property
    def evaluation(self) -> str:
        """`(± 0.004)`, of a floor `(360 images)`, or nothing."""
        if self.value is None:
            return ""
        if self.images_of is not None:
            return f"({self.images_of:,} images)"
        return "" if self.images is None else f"(± {self.images:.{self.digits}f})"

    def text(self, better: str = "", worse: str = "", between: str = " ") -> str:
        """The whole cell; the mean between the marks of its verdict."""
        mark = {"better": better, "worse": worse, "": ""}[self.verdict]
        evaluation = between + self.evaluation if self.evaluation else ""
        return f"{mark}{self.mean}{mark}{self.training}{evaluation}"


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
        cells = [cell.text(better, worse) for cell in self.cells]
        return [self.name, self.seeds, self.likelihood, *cells]


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
    metrics = [column.heading + ARROWS[column.less] for column in columns]
    return ["arm", "seeds", "likelihood", *metrics]


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

    seeds = f"{len(arm.reports)} of {len(results.seeds_of(arm))}"
    likelihood = " / ".join(kinds_of(arm))
    if arm.name in results.baselines:
        return TableRow(f"{arm.name} (baseline)", seeds, likelihood, tuple(cells), "baseline")
    return TableRow(arm.name, seeds, likelihood, tuple(cells), "arm")


def _not_ours(
    name: str, likelihood: str, values: Mapping[str, float], columns: Sequence[Column]
) -> TableRow:
    """The row of numbers that others measured."""
    cells = []
    for column in columns:
        value = Interval(values[column.metric], 0.0, 1) if column.metric in values else None
        cells.append(TableCell(value, digits=column.digits))
    return TableRow(f"{name} (not ours)", "", likelihood, tuple(cells))


def _floors(results: Results, columns: Sequence[Column]) -> list[TableRow]:
    """The distances that real images reach, in a row; in one for each codec where arms
    differ in theirs.
    """
    by_codec: dict[str, list[ArmResult]] = {}
    for arm in results.arms:
        by_codec.setdefault(short_value(arm.settings["codec"]), []).append(arm)

    rows = []
    for arms in by_codec.values():
        name = floor_images(arms)
        if len(by_codec) > 1:
            name += f" by the codec of {join_names(arm.name for arm in arms)}"
        cells = tuple(_floor(arms, column) for column in columns)
        if any(cell.value for cell in cells):
            rows.append(TableRow(name, "", "", cells))
    return rows


def _floor(arms: Sequence[ArmResult], column: Column) -> TableCell:
    values = []
    counts = []
    for arm in arms:
        if floor := arm.floor(column.metric):
            values.append(floor[0])
            counts.append(floor[1])

    if not values:
        return TableCell(None, digits=column.digits)
    return TableCell(Interval(fmean(values), 0.0, 1), digits=column.digits, images_of=counts[0])


def verdicts_of(analysis: Analysis) -> dict[tuple[str, str], Verdict]:
    """(arm, metric) → better or worse than the baseline, where that is concluded."""
    verdicts: dict[tuple[str, str], Verdict] = {}
    for effect in analysis.effects:
        if effect.supported:
            verdict: Verdict = "better" if effect.verdict == "better" else "worse"
            verdicts[effect.arm, effect.metric] = verdict
    return verdicts


def plain_table(analysis: Analysis, columns: Sequence[Column]) -> tuple[list[str], list[list[str]]]:
    """The table as plain text: headings, and a row for each arm and reference."""
    headings, rows = table_of(analysis, columns)
    return headings, list(map(TableRow.texts, rows))


def terminal_table(analysis: Analysis, width: int) -> Table:
    """The table for the terminal: the main metrics, as far as they fit. A column of one value
    goes into the caption.
    """
    metrics = [column for column in analysis.columns if column.metric in _MAIN]
    headings, rows = table_of(analysis, metrics)
    captions = []
    columns = []
    for heading, *texts in zip(map(Text, headings), *map(_terminal_row, rows), strict=True):
        values = set(map(str, texts)) - {""}
        if str(heading) in ("seeds", "likelihood") and len(values) == 1:
            captions.append(f"{heading}: {values.pop()}")
        else:
            columns.append([heading, *texts])
    count = _fitting_count(columns, width)
    if count < len(columns):
        left_out = ", ".join(str(column[0]) for column in columns[count:])
        captions.append(f"more in table.md: {left_out}")

    table = Table(
        title=analysis.results.question or analysis.results.name,
        title_justify="left",
        caption=", ".join(captions),
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    shown, *lines = zip(*columns[:count], strict=True)
    table.add_column(shown[0], min_width=_NAMES, overflow="fold")
    for heading in shown[1:]:
        table.add_column(heading, justify="right", no_wrap=True, overflow="fold")
    for line in lines:
        table.add_row(*line)
    return table


def _terminal_row(row: TableRow) -> list[Text]:
    texts = [Text(breakable_name(row.name)), Text(row.seeds), Text(row.likelihood)]
    return [*texts, *map(_terminal_cell, row.cells)]


def _fitting_count(columns: Sequence[Sequence[Text]], width: int) -> int:
    """Number of columns that fit beside the arms' names; one number always stays."""
    room = width - 1
    for i, column in enumerate(columns):
        # each column has a space on either side, and one more before the next
        room -= (_NAMES if i == 0 else _widest_line(column)) + 3
        if room < -2 and i > 1:
            return i
    return len(columns)


def _widest_line(texts: Sequence[Text]) -> int:
    lines = chain.from_iterable(map(Text.split, texts))
    return max(line.cell_len for line in lines)


def _terminal_cell(cell: TableCell) -> Text:
    """The mean, in bold or italic if its difference is resolved, above evaluation noise."""
    text = Text(cell.text(between="\n"))
    text.stylize({"better": "bold", "worse": "italic", "": ""}[cell.verdict], 0, len(cell.mean))
    return text


def report_markdown(analysis: Analysis) -> str:
    """The report as Markdown."""
    results = analysis.results
    headings, rows = table_of(analysis, analysis.columns)
    lines = [f"# {markdown_line(results.name)}", "", markdown_line(results.question), ""]
    lines += markdown_table(headings, [row.texts("**", "*") for row in rows])

    lines += _images_markdown(analysis)
    sections = {
        "Differences to the baseline": analysis.differences,
        "Main effects and interactions": analysis.main_effects,
        "Where the spread comes from": analysis.sources_of_spread,
        "Quality against speed": analysis.against_speed,
        "Does the ranking last?": analysis.ranking,
        "How to read it": notes(analysis),
    }
    for title, sentences in sections.items():
        if sentences:
            lines += ["", f"## {title}", "", *markdown_list(sentences)]

    return "\n".join([*lines, ""])


def _images_markdown(analysis: Analysis) -> list[str]:
    """The differences in bits/dim, image by image; nothing where no run kept images' bits/dim."""
    if not analysis.image_shifts:
        return []
    rows = [shift.texts for shift in analysis.image_shifts]
    table = markdown_table(IMAGE_HEADINGS, rows)
    return ["", "## Bits/dim, image by image", "", *table]


def runs_csv(analysis: Analysis, literal: bool = False) -> str:
    """A row for each run: every metric, its evaluation noise where measured, its code and machine.

    `literal` leaves text that a spreadsheet would compute as it is.
    """
    results = analysis.results
    metrics = sorted(_keys(results, "metrics"))
    noisy = sorted(_keys(results, "noise"))
    noise_headings = map("{} ± over images".format, noisy)
    origin = ["training_signature", "evaluation_signature", "commit", "device"]

    rows: list[list[Any]] = [["arm", *results.axes, "seed", *metrics, *noise_headings, *origin]]
    for arm, seed, report in results.runs:
        factors = arm.factors or ("",) * len(results.axes)
        values = _values(report["metrics"], metrics)
        noise = _values(report.get("noise", {}), noisy)
        rows.append([arm.name, *factors, seed, *values, *noise, *_origin(report)])
    return csv_text(rows, literal)


def _values(section: Mapping[str, float], keys: Sequence[str]) -> list[Any]:
    """The values of some keys; empty text where a key is absent."""
    return [section.get(key, "") for key in keys]


def _keys(results: Results, section: str) -> set[str]:
    """The keys of a section over all reports."""
    keys = set[str]()
    for report in results.every_report:
        keys.update(report.get(section, {}))
    return keys


def _origin(report: Report) -> list[str]:
    return [
        report.get("training_signature", ""),
        report.get("evaluation_signature", ""),
        report.get("git", {}).get("commit") or "",
        report.get("environment", {}).get("device", ""),
    ]
