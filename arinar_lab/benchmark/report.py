"""What `arinar bench` has measured, as a table in the terminal and as a picture."""

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

BUSY = 0.25  # load average for each CPU from which on other programs were at work
BENCHMARK_COLUMNS = ("s", "other way takes", "at most", "of peak", "per s", "GB", "TFLOP")


def print_benchmark(record: Record, console: Console) -> None:
    """The table, as many of its columns as there is room for, and what stands below it."""
    tables = (_table(record, BENCHMARK_COLUMNS[:n]) for n in range(len(BENCHMARK_COLUMNS), 0, -1))
    unbounded = console.options.update(width=1000)
    table = next(
        (t for t in tables if console.measure(t, options=unbounded).maximum <= console.width), None
    )
    table = table or _table(record, BENCHMARK_COLUMNS[:1])

    console.print(table)
    if left := BENCHMARK_COLUMNS[len(table.columns) - 1 :]:
        console.print(f"In the record, too: {', '.join(left)}.")
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
    """A row's number in each of the COLUMNS."""
    r, spread = row.ratios, (max(row.seconds) - min(row.seconds)) / 2 / row.median
    return [
        f"{row.median:.3g} ±{spread:.0%}",
        f"×{statistics.median(r):.2f} ({min(r):.2f}–{max(r):.2f})" if r else "",
        f"×{row.at_most(peak):.2f}" if r else "",
        f"{row.share(peak):.1%}",
        f"{row.rate:.3g}",
        f"{row.memory / 1e9:.1f}" if row.memory else "",
        f"{row.flops / row.batch / 1e12:.3g}",
    ]


def row_label(row: Result) -> str:
    """What a row is of, without its preset."""
    what = "" if row.what == "generation" else f"{row.what}, "
    batch = f"{row.batch} tokens" if row.what == "inner loop" else f"batch {row.batch}"
    steps = f", {row.steps} steps" if row.steps > 1 else ""
    guided = f", w {row.guidance:g}" if row.what != "training step" else ""
    compiled = ", compiled" if row.compiled else ""
    return f"{what}{batch}{steps}{guided}{compiled}" + (
        ", bf16" if row.precision == "bfloat16" else ""
    )


def footnotes(record: Record) -> list[str]:
    """What stands below the table."""
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
    for found in record.memory:
        lines.append(
            f"Memory of {Path(found['preset']).stem}: {found['bytes_at_rest'] / 1e9:.2f} GB and"
            f" {found['bytes_an_image'] / 1e6:.0f} MB an image; largest deviation"
            f" {found['largest_deviation']:.1%}."
        )

    if record.how.samples:
        lines.append(
            f"{record.how.samples} steps of a masked walk are timed, those between are "
            "interpolated; --full times all."
        )

    return [*lines, *_beside_masked(record.rows), *_beside_others(record.rows)]


def _beside_masked(rows: list[Result]) -> list[str]:
    """Images a second of our faster ways over those of the masked preset, under the same
    guidance and precision.
    """
    masked = {
        (row.guidance, row.precision): row
        for row in rows
        if (row.what, row.preset) == ("generation", ARINAR)
    }
    pairs = [
        (row, masked.get((row.guidance, row.precision)))
        for row in rows
        if row.preset in (FAST, CAUSAL)
    ]

    return [
        f"{row.preset} (batch {row.batch}) draws {row.rate / other.rate:.2f} times the images a"
        f" second of {ARINAR} (batch {other.batch}), guidance {row.guidance:g}, {row.precision}."
        for row, other in pairs
        if other is not None and row.what == "generation"
    ]


def _beside_others(rows: list[Result]) -> list[str]:
    """How much longer than the masked preset the other published models take, each
    under its own guidance.
    """
    drawn = [row for row in rows if row.what == "generation" and row.precision == "float32"]
    own = {row.batch: row for row in drawn if row.preset == ARINAR and row.guidance != 1}

    return [
        f"{row.preset} in {row.steps} steps, guidance {row.guidance:g}, takes"
        f" {row.median / own[row.batch].median:.2f} times as long as {ARINAR} in"
        f" {own[row.batch].steps}, guidance {own[row.batch].guidance:g} (batch {row.batch})."
        for row in drawn
        if row.preset in (MAR, FRACTAL) and row.batch in own
    ]


def draw_throughput(record: Record, path: Path) -> None:
    """Images a second of every generation, beside the other way's, and the share of the peak."""
    rows = [row for row in record.rows if row.what == "generation"]
    names = [
        f"{Path(row.preset).stem.removeprefix('imagenet256_')}\n{row_label(row)}" for row in rows
    ]
    with paper_pyplot() as plt:
        size = (PAGE, 0.9 + 0.36 * len(rows))
        figure, (left, right) = plt.subplots(1, 2, figsize=size, sharey=True, width_ratios=(3, 2))
        _rates(left, rows)
        left.set(yticks=range(len(rows)), yticklabels=names, ylim=(len(rows) - 0.5, -0.5))
        figure.legend(loc="outside upper center", ncols=2)
        right.barh(
            range(len(rows)),
            [100 * row.share(record.peaks[row.precision]) for row in rows],
            0.5,
            color=BLUE,
        )
        right.set(xlabel="% of the matrix product's peak", xlim=(0, 100))
        with atomic_draft(path) as draft:
            figure.savefig(draft, dpi=200)
        plt.close(figure)


def _rates(ax: Any, rows: list[Result]) -> None:
    """A dot for each way: on a logarithmic axis a bar would begin nowhere."""
    others = [
        (i, row.batch / statistics.median(row.others)) for i, row in enumerate(rows) if row.others
    ]
    if others:
        ax.scatter(
            [rate for _, rate in others],
            [i for i, _ in others],
            color=ORANGE,
            marker="D",
            s=18,
            label="published algorithm (of bf16: float32)",
        )

    ax.scatter(
        [row.rate for row in rows], range(len(rows)), color=BLUE, s=24, label="arinar_lab", zorder=3
    )
    for i, row in enumerate(rows):
        ax.annotate(
            f"{row.rate:.3g}",
            (row.rate, i),
            (0, 6),
            textcoords="offset points",
            fontsize=6,
            ha="center",
        )

    ax.set(xscale="log", xlabel="images a second")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")
    ax.margins(x=0.12)
