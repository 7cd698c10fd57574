"""The results of `arinar bench` as a table in the terminal and as a picture."""

from __future__ import annotations

import os
import statistics
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..files.atomic import atomic_draft
from ..report.style import BLUE, ORANGE, PAGE, paper_pyplot
from .generation import Result
from .presets import ARINAR, CAUSAL, FAST, FRACTAL, MAR, Record

BUSY = 0.25  # load average of each CPU above which other programs slow a measurement
BENCHMARK_COLUMNS = ("s", "other way takes", "at most", "of peak", "per s", "GB", "TFLOP")


def print_benchmark(record: Record, console: Console) -> None:
    """Print the table, with as many of its columns as fit the console, and its footnotes."""
    unbounded = console.options.update(width=1000)
    for count in range(len(BENCHMARK_COLUMNS), 0, -1):
        table = _table(record, BENCHMARK_COLUMNS[:count])
        if console.measure(table, options=unbounded).maximum <= console.width:
            break

    console.print(table)
    if count < len(BENCHMARK_COLUMNS):
        console.print(f"In the record, too: {', '.join(BENCHMARK_COLUMNS[count:])}.")
    for line in footnotes(record):
        console.print(line)


def _table(record: Record, columns: tuple[str, ...]) -> Table:
    table = Table("", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for preset, rows in groupby(record.rows, lambda row: Path(row.preset).stem):
        table.add_section()
        table.add_row(Text(preset, style="bold"))
        for row in rows:
            table.add_row(row_label(row), *_cells(row, record.peaks[row.precision])[: len(columns)])

    return table


def _cells(row: Result, peak: float) -> list[str]:
    """A row's cells in the BENCHMARK_COLUMNS."""
    spread = (max(row.seconds) - min(row.seconds)) / 2 / row.median
    ratio = at_most = ""
    if ratios := row.ratios:
        ratio = f"×{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
        at_most = f"×{row.at_most(peak):.2f}"

    return [
        f"{row.median:.3g} ±{spread:.0%}",
        ratio,
        at_most,
        f"{row.share(peak):.1%}",
        f"{row.rate:.3g}",
        f"{row.memory / 1e9:.1f}" if row.memory else "",
        f"{row.flops / row.batch / 1e12:.3g}",
    ]


def row_label(row: Result) -> str:
    """The setting of a row without its preset."""
    what = "" if row.what == "generation" else f"{row.what}, "
    batch = f"{row.batch} tokens" if row.what == "inner loop" else f"batch {row.batch}"
    steps = f", {row.steps} steps" if row.steps > 1 else ""
    guided = f", w {row.guidance:g}" if row.what != "training step" else ""
    compiled = ", compiled" if row.compiled else ""
    precision = ", bf16" if row.precision == "bfloat16" else ""
    return f"{what}{batch}{steps}{guided}{compiled}{precision}"


def footnotes(record: Record) -> list[str]:
    """The lines below the table."""
    peaks = ", ".join(
        f"{flops / 1e9:,.0f} GFLOP/s in {precision}" for precision, flops in record.peaks.items()
    )
    of_bf16 = (
        " (of bf16: of generation our float32, of the inner loop the published algorithm in"
        " float32, of a training step in bf16 too)"
        if "bfloat16" in record.peaks
        else ""
    )
    lines = [
        (
            "TFLOP: needed for one. s: a batch, median ± half of the range. Other way: the "
            f"published algorithm written plainly{of_bf16}, median of repeats that took turns "
            "(lowest – highest); at most: what that would be, were ours at the peak."
        ),
        f"Peak of the matrix product: {peaks}.",
    ]

    if record.load > BUSY * (os.cpu_count() or 1):
        lines.append(
            f"Caution: the load average was {record.load:.1f} when this began; if what ran then "
            "went on, times are too long."
        )

    if "bfloat16" not in record.peaks:
        lines.append("bfloat16 is not timed: this processor has no instructions for it.")
    for memory in record.memory:
        lines.append(
            f"Memory of {Path(memory['preset']).stem}: {memory['bytes_at_rest'] / 1e9:.2f} GB and"
            f" {memory['bytes_an_image'] / 1e6:.0f} MB an image; largest deviation"
            f" {memory['largest_deviation']:.1%}."
        )

    if record.how.samples:
        lines.append(
            f"{record.how.samples} steps of a masked walk are timed, those between are "
            "interpolated; --full times all."
        )

    rows = _generations(record)
    return [*lines, *_rates_over_masked(rows), *_times_over_arinar(rows)]


def _generations(record: Record) -> list[Result]:
    return [row for row in record.rows if row.what == "generation"]


def _rates_over_masked(rows: list[Result]) -> list[str]:
    """Images a second of our faster presets over those of the masked one, under equal guidance and
    precision.
    """
    masked: dict[tuple[float, str], Result] = {}
    for row in rows:
        if row.preset == ARINAR:
            masked[row.guidance, row.precision] = row

    lines: list[str] = []
    for row in rows:
        base = masked.get((row.guidance, row.precision))
        if base is not None and row.preset in (FAST, CAUSAL):
            lines.append(
                f"{row.preset} (batch {row.batch}) draws {row.rate / base.rate:.2f} times the"
                f" images a second of {ARINAR} (batch {base.batch}), guidance {row.guidance:g},"
                f" {row.precision}."
            )

    return lines


def _times_over_arinar(rows: list[Result]) -> list[str]:
    """Time of the other published models over that of ARINAR, each under its own guidance."""
    rows = [row for row in rows if row.precision == "float32"]
    arinar = {row.batch: row for row in rows if row.preset == ARINAR and row.guidance != 1}

    lines: list[str] = []
    for row in rows:
        base = arinar.get(row.batch)
        if base is not None and row.preset in (MAR, FRACTAL):
            lines.append(
                f"{row.preset} in {row.steps} steps, guidance {row.guidance:g}, takes"
                f" {row.median / base.median:.2f} times as long as {ARINAR} in {base.steps},"
                f" guidance {base.guidance:g} (batch {row.batch})."
            )

    return lines


def draw_throughput(record: Record, path: Path) -> None:
    """Draw images a second of every generation and its other way, and the share of the peak."""
    rows = _generations(record)
    names: list[str] = []
    shares: list[float] = []
    for row in rows:
        preset = Path(row.preset).stem.removeprefix("imagenet256_")
        names.append(f"{preset}\n{row_label(row)}")
        shares.append(100 * row.share(record.peaks[row.precision]))

    with paper_pyplot() as plt:
        size = (PAGE, 0.9 + 0.36 * len(rows))
        figure, (left, right) = plt.subplots(1, 2, figsize=size, sharey=True, width_ratios=(3, 2))
        _draw_rates(left, rows)
        left.set(yticks=range(len(rows)), yticklabels=names, ylim=(len(rows) - 0.5, -0.5))
        figure.legend(loc="outside upper center", ncols=2)
        right.barh(range(len(rows)), shares, 0.5, color=BLUE)
        right.set(xlabel="% of the matrix product's peak", xlim=(0, 100))
        with atomic_draft(path) as draft:
            figure.savefig(draft, dpi=200)
        plt.close(figure)


def _draw_rates(ax: Any, rows: list[Result]) -> None:
    """Draw a dot for each way, since a bar has no start on a logarithmic axis."""
    other_rates: dict[int, float] = {}
    for i, row in enumerate(rows):
        if row.others:
            other_rates[i] = row.batch / statistics.median(row.others)

    if other_rates:
        x, y = list(other_rates.values()), list(other_rates)
        label = "published algorithm (of bf16: float32)"
        ax.scatter(x, y, color=ORANGE, marker="D", s=18, label=label)

    rates = [row.rate for row in rows]
    ax.scatter(rates, range(len(rows)), color=BLUE, s=24, label="arinar_lab", zorder=3)
    text = {"textcoords": "offset points", "fontsize": 6, "ha": "center"}
    for i, rate in enumerate(rates):
        ax.annotate(f"{rate:.3g}", (rate, i), (0, 6), **text)

    ax.set(xscale="log", xlabel="images a second")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")
    ax.margins(x=0.12)
