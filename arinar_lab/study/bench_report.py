"""What `arinar bench` has measured, as a table in the terminal and as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..run.bench import Result
from .bench import ARINAR, CAUSAL, Record
from .style import BLUE, ORANGE, PAGE, paper


def show(record: Record, console: Console) -> None:
    """The table, the memory, and how the causal preset compares with the masked one."""
    table = Table("", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("TFLOP", "s", "per s", "of peak", "GB", "other way takes"):
        table.add_column(column, justify="right", no_wrap=True)
    for preset, rows in groupby(record.rows, lambda row: Path(row.preset).stem):
        table.add_section()
        table.add_row(f"[bold]{escape(preset)}")
        for row in rows:
            table.add_row(*_cells(row, record))
    console.print(table)
    for line in said(record):
        console.print(line, highlight=False)


def _cells(row: Result, record: Record) -> Iterator[str]:
    yield named(row)
    yield f"{row.flops / row.batch / 1e12:.3g}"
    yield f"{row.median:.3g} ±{(max(row.seconds) - min(row.seconds)) / 2 / row.median:.0%}"
    yield f"{row.rate:.3g}"
    yield f"{row.share(record.peaks[row.precision]):.1%}"
    yield f"{row.memory / 1e9:.1f}" if row.memory else ""
    yield f"×{statistics.median(r):.2f} ({min(r):.2f}–{max(r):.2f})" if (r := row.ratios) else ""


def named(row: Result) -> str:
    """What a row is of, without its preset."""
    what = "" if row.what == "generation" else f"{row.what}, "
    batch = f"{row.batch} tokens" if row.what == "inner loop" else f"batch {row.batch}"
    steps = f", {row.steps} steps" if row.steps > 1 else ""
    guided = f", w {row.guidance:g}" if row.what != "training step" else ""
    return f"{what}{batch}{steps}{guided}" + (", bf16" if row.precision == "bfloat16" else "")


def said(record: Record) -> list[str]:
    """What stands below the table."""
    peaks = ", ".join(f"{flops / 1e9:,.0f} GFLOP/s in {precision}" for precision, flops in record.peaks.items())
    lines = [
        "TFLOP: needed for one. s: a batch, median ± half of the range. Other way: the published algorithm written plainly"
        " (of bf16: our float32), median of repeats that took turns (lowest – highest).",
        f"Peak of the matrix product: {peaks}.",
    ]
    for found in record.memory:
        lines.append(
            f"Memory of {Path(found['preset']).stem}: {found['bytes_at_rest'] / 1e9:.2f} GB and"
            f" {found['bytes_an_image'] / 1e6:.0f} MB an image; largest deviation {found['largest_deviation']:.1%}."
        )
    if record.how.samples:
        lines.append(
            f"{record.how.samples} steps of a masked walk are timed, those between are interpolated; --full times all."
        )
    return lines + _causal(record.rows)


def _causal(rows: list[Result]) -> list[str]:
    """The causal preset's images a second over the masked one's, under the same guidance and precision."""
    masked = {(row.guidance, row.precision): row for row in rows if (row.what, row.preset) == ("generation", ARINAR)}
    pairs = [(row, masked.get((row.guidance, row.precision))) for row in rows if row.preset == CAUSAL]
    return [
        f"{CAUSAL} (batch {row.batch}) draws {row.rate / other.rate:.1f} times the images a second of {ARINAR}"
        f" (batch {other.batch}), guidance {row.guidance:g}, {row.precision}"
        for row, other in pairs
        if other is not None
    ]


def draw(record: Record, path: Path) -> None:
    """Images a second of every generation, beside the other way's, and the share of the peak."""
    rows = [row for row in record.rows if row.what == "generation"]
    names = [f"{Path(row.preset).stem.removeprefix('imagenet256_')}\n{named(row)}" for row in rows]
    with paper() as plt:
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(PAGE, 0.8 + 0.42 * len(rows)), sharey=True, width_ratios=(3, 2)
        )
        places = range(len(rows))
        left.barh([i - 0.2 for i in places], [row.rate for row in rows], 0.38, color=BLUE, label="arinar_lab")
        for i, row in enumerate(rows):
            left.text(row.rate, i - 0.2, f" {row.rate:.3g}", va="center", fontsize=6)
        _others(left, rows)
        left.set(xscale="log", xlabel="images a second", yticks=list(places), yticklabels=names)
        left.margins(x=0.15)
        left.invert_yaxis()
        left.legend(loc="lower right")
        right.barh(list(places), [100 * row.share(record.peaks[row.precision]) for row in rows], 0.5, color=BLUE)
        right.set(xlabel="% of the matrix product's peak", xlim=(0, 100))
        figure.savefig(path, dpi=200)
        plt.close(figure)


def _others(ax: object, rows: list[Result]) -> None:
    there = [(i, row.batch / statistics.median(row.others)) for i, row in enumerate(rows) if row.others]
    if there:
        places, rates = zip(*there, strict=True)
        ax.barh([i + 0.2 for i in places], rates, 0.38, color=ORANGE, label="published algorithm (of bf16: float32)")  # type: ignore[attr-defined]
