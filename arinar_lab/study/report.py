"""The report of a study: one table (terminal, Markdown, CSV), one figure, and what follows from them.

Every number carries its interval over seeds; a difference whose interval holds zero is called not resolved.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from ..run.figures import draw_beliefs
from ..run.folder import read_json, write
from .plan import Arm, Plan
from .stats import Interval, interval, paired

BITS, ERROR = "val/bits_per_dim", "val/bits_per_dim_error"
LEVEL, GAP = "val/bits_per_dim_at_level", "val/gap_bits_per_dim"
DISTANCE, SPEED = "quality/fd_digits", "speed/images_per_second"


@dataclass(frozen=True)
class Column:
    """A column of the table: the metric, its heading and digits, and whether less is better (None: neither)."""

    metric: str
    heading: str
    digits: int = 3
    less: bool | None = None


COLUMNS = (
    Column(BITS, "bits/dim", 3, True),
    Column(ERROR, "error of the estimate", 4),
    Column(LEVEL, "bits/dim at Δ", 3, True),
    Column("val/bits_per_dim_at_resolution", "bits/dim at stated Δ", 3, True),
    Column(GAP, "gap to truth", 4, True),
    Column(DISTANCE, "FD digits", 2, True),
    Column("quality/kid_digits", "KID digits", 3, True),
    Column("quality/precision", "precision", 3, False),
    Column("quality/recall", "recall", 3, False),
    Column("quality/truncated_share", "truncated", 4),
    Column(SPEED, "images/s", 0, False),
    Column("speed/latency_ms_b1", "latency ms", 1, True),
    Column("cost/gflops_per_image", "GFLOPs/image", 4, True),
    Column("cost/parameters", "parameters", 0),
)


@dataclass(frozen=True)
class Results:
    """What the finished cells of a study say.

    Arguments:
        plan: the study.
        reports: arm name → seed → report.json.
        references: bits/dim of outside estimators by name.
    """

    plan: Plan
    reports: dict[str, dict[int, dict[str, Any]]]
    references: dict[str, float]

    def values(self, arm: Arm, metric: str) -> dict[int, float]:
        """Seed → value, of the seeds that have it."""
        there = self.reports[arm.name]
        return {seed: report["metrics"][metric] for seed, report in there.items() if metric in report["metrics"]}

    def summary(self, arm: Arm, metric: str) -> Interval | None:
        values = list(self.values(arm, metric).values())
        return interval(values) if values else None

    @property
    def columns(self) -> list[Column]:
        """Columns that hold something; `truncated` only where something was."""
        found = [c for c in COLUMNS if any(self.values(arm, c.metric) for arm in self.plan.arms)]
        truncated = any(any(self.values(arm, "quality/truncated_share").values()) for arm in self.plan.arms)
        return [c for c in found if truncated or c.metric != "quality/truncated_share"]

    @property
    def baseline(self) -> Arm:
        return next(arm for arm in self.plan.arms if arm.name == self.plan.baseline)

    @property
    def any_report(self) -> dict[str, Any]:
        return next((r for by_seed in self.reports.values() for r in by_seed.values()), {})


def collect(plan: Plan) -> Results:
    """Read what the run folders hold; unfinished cells are absent."""
    reports: dict[str, dict[int, dict[str, Any]]] = {}
    for arm in plan.arms:
        cells = {seed: plan.cell(arm, seed) for seed in plan.seeds}
        found = {seed: folder.report(recipe) for seed, (folder, recipe) in cells.items()}
        reports[arm.name] = {seed: report for seed, report in found.items() if report}
    return Results(plan, reports, read_json(plan.folder / "references.json"))


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


def effects(results: Results) -> list[str]:
    """One line for each arm and reading: the difference to the baseline, paired by seed, and whether it is resolved."""
    lines = []
    for column in [c for c in results.columns if c.metric in (BITS, LEVEL, DISTANCE)]:
        for arm in results.plan.arms:
            baseline = results.values(results.baseline, column.metric)
            difference = None if arm == results.baseline else paired(results.values(arm, column.metric), baseline)
            if difference is None:
                continue
            verdict = _verdict(difference, column)
            number = f"{difference.mean:+.{column.digits}f}" + (
                f" ± {difference.half:.{column.digits}f}" if difference.n > 1 else ""
            )
            lines.append(
                f"{column.heading}: {arm.name} against {results.plan.baseline}: {number} (n = {difference.n}): {verdict}"
            )
    return lines


def _verdict(difference: Interval, column: Column) -> str:
    if difference.n < 2:
        return "one seed resolves nothing"
    if not difference.resolved:
        return "not resolved"
    return "better" if (difference.mean < 0) == bool(column.less) else "worse"


def notes(results: Results) -> list[str]:
    """How to read the table."""
    report = results.any_report
    if not report:
        return ["No cell is finished."]
    said, quality = report["likelihood"], report["quality"]
    lines = [
        f"± is the 95 % t-interval of the mean over seeds (training noise); n is {len(results.plan.seeds)} where all are done."
    ]
    if any(results.values(arm, LEVEL) for arm in results.plan.arms):
        lines.append(
            "Bits/dim is of the uniformly dequantised pixels: exact as a density, a bound for the integers. 49 % of digit"
            " pixels are level 0, and this reading rewards components that are spent on filling that level's box evenly."
            " Bits/dim at Δ asks only for the probability of the grey level itself (its centre ± Δ/2). Read both."
        )
    without = [arm.name for arm in results.plan.arms if arm.likelihood == "none"]
    if without:
        lines.append(
            f"No likelihood (n/a): {', '.join(without)}. Arms are ranked by {_LABELS[results.plan.criterion]}."
        )
    if any(results.values(arm, ERROR) for arm in results.plan.arms):
        lines.append(
            "An estimate of bits/dim comes from integrating an equation; its error is how far the mean moves when the"
            " steps are doubled."
        )
    if said["unit"] != "pixel":
        lines.append(f"Bits/dim is of the raw {said['unit']}s, not of pixels.")
    if DISTANCE in report["metrics"]:
        floor = report["metrics"][f"{DISTANCE}_floor"]
        lines.append(
            "FD, KID, precision and recall: features of a digits classifier, not Inception, so no FID."
            f" {quality['images']:,} generated against {quality['reference']:,} training images, KID on subsets of"
            f" {quality['kid_subset']}. Floor of FD: {floor:.2f}"
            f" ({quality['floor_images']} held-out images against the training images)."
        )
    speed = report.get("speed")
    if speed:
        lines.append(
            f"Speed: batch {speed['batch']} and batch 1, median of {speed['repeats']} after a warm-up,"
            f" {speed['threads']} thread(s) of {speed['device']}, {speed['precision']}, no run of ours beside it"
            f" ({_load(results)})."
        )
    missing = [
        f"{arm.name} seed {s}"
        for arm in results.plan.arms
        for s in results.plan.seeds
        if s not in results.reports[arm.name]
    ]
    if missing:
        lines.append(f"Missing: {', '.join(missing)}. Nothing may be concluded about arms with fewer than two seeds.")
    states = {
        (r["git"].get("commit"), r["git"].get("dirty"))
        for by_seed in results.reports.values()
        for r in by_seed.values()
    }
    if len(states) > 1:
        lines.append("Caution: these runs come from different versions of the code.")
    return lines


def _load(results: Results) -> str:
    """How busy the machine was when the speeds were taken: the load of the last minute, our own thread included."""
    loads = [
        r["speed"]["load_average"] for by_seed in results.reports.values() for r in by_seed.values() if "speed" in r
    ]
    return f"load average {min(loads):.1f} to {max(loads):.1f}"


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
    if difference := effects(results):
        lines += [
            "",
            "## Differences to the baseline, paired by seed",
            "",
            *(f"- {line}" for line in difference),
        ]
    return "\n".join([*lines, "", "## How to read it", "", *(f"- {line}" for line in notes(results)), ""])


def write_report(results: Results) -> list[Path]:
    """Write table.md, table.csv and figure.png into the study's folder; returns their paths."""
    folder = results.plan.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "table.md", markdown(results))
    write(folder / "table.csv", _csv(results))
    paths = [folder / "table.md", folder / "table.csv"]
    if results.any_report:
        draw(results, folder / "figure.png")
        paths.append(folder / "figure.png")
    if beliefs := _beliefs(results):
        draw_beliefs(beliefs, folder / "beliefs.png")
        paths.append(folder / "beliefs.png")
    return paths


def _beliefs(results: Results) -> dict[str, Path]:
    """Arm → what it believes under the first finished seed, of the arms that see the same tokens as the baseline."""
    found: dict[str, Path] = {}
    for arm in results.plan.arms:
        same = arm.recipe.codec == results.baseline.recipe.codec
        cells = (results.plan.cell(arm, seed) for seed in results.reports[arm.name] if same)
        files = (folder.evaluation(recipe) / "beliefs.npz" for folder, recipe in cells)
        if file := next((file for file in files if file.is_file()), None):
            found[arm.name] = file
    return found


def _csv(results: Results) -> str:
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


def draw(results: Results, path: Path) -> None:
    """Likelihood and Fréchet distance against the arms, and quality against speed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    there = {m for m in (BITS, LEVEL, GAP, DISTANCE) if any(results.values(a, m) for a in results.plan.arms)}
    panels = [[m for m in panel if m in there] for panel in ((BITS, LEVEL, GAP), (DISTANCE,))]
    panels = [panel for panel in panels if panel]
    figure, axes = plt.subplots(
        1, len(panels) + 1, figsize=(4.4 * (len(panels) + 1), 3.6), layout="constrained", squeeze=False
    )
    for ax, metrics in zip(axes[0], panels, strict=False):
        _against_arms(ax, results, metrics)
    _against_speed(axes[0][-1], results, panels[-1][0])
    figure.suptitle(results.plan.question or results.plan.name, fontsize=11)
    figure.savefig(path, dpi=160)
    plt.close(figure)


_MARKS = (("o", "-", "#0072B2"), ("s", "--", "#D55E00"), ("^", ":", "#009E73"))
_LABELS = {c.metric: c.heading for c in COLUMNS}


def _places(plan: Plan) -> tuple[Sequence[float], list[str], str, bool]:
    """Where the arms stand on the x axis: at their value where one numeric axis is varied, else side by side."""
    values = [arm.values[0] for arm in plan.arms if len(arm.values) == 1]
    numeric = len(values) == len(plan.arms) and all(
        isinstance(v, int | float) and not isinstance(v, bool) for v in values
    )
    if numeric:
        return [float(v) for v in values], [str(v) for v in values], plan.axes[0], min(values) > 0
    return list(range(len(plan.arms))), [arm.name for arm in plan.arms], "", False


def _against_arms(ax: Any, results: Results, metrics: list[str]) -> None:
    at, names, label, positive = _places(results.plan)
    for i, (metric, (mark, line, colour)) in enumerate(zip(metrics, _MARKS, strict=False)):
        places = [x * 1.05**i if positive else x for x in at]  # beside each other, not one on the other
        points = [
            (x, s) for x, arm in zip(places, results.plan.arms, strict=True) if (s := results.summary(arm, metric))
        ]
        half = [0.0 if math.isinf(s.half) else s.half for _, s in points]
        style = line if label else "none"
        ax.errorbar([x for x, _ in points], [s.mean for _, s in points], half, marker=mark, linestyle=style, color=colour,
                    capsize=3, label=_LABELS[metric])  # fmt: skip
        for x, arm in zip(places, results.plan.arms, strict=True):
            values = list(results.values(arm, metric).values())
            ax.plot(
                [x] * len(values),
                values,
                marker=mark,
                linestyle="none",
                color=colour,
                alpha=0.35,
                markersize=3,
            )
    _keep_the_points_in_view(ax, results, metrics)
    floor = results.any_report["metrics"].get(f"{metrics[0]}_floor")
    if floor is not None:
        ax.axhline(floor, color="grey", linestyle="--", linewidth=1, label="floor: held-out images")
    if positive:
        ax.set_xscale("log", base=2)
    ax.set_xticks(at, names, rotation=0 if label else 30, ha="center" if label else "right")
    ax.minorticks_off()
    ax.set_xlabel(label)
    ax.set_ylabel(_LABELS[metrics[0]] + " (less is better)")
    ax.grid(alpha=0.25)
    ax.legend(fontsize=8)


def _keep_the_points_in_view(ax: Any, results: Results, metrics: list[str]) -> None:
    """Intervals of two seeds reach far beyond what was measured; where they would flatten the points, they leave the axes."""
    values = [v for m in metrics for arm in results.plan.arms for v in results.values(arm, m).values()]
    low, high = min(values), max(values)
    bottom, top = ax.get_ylim()
    ax.set_ylim(max(bottom, low - (high - low)), min(top, high + (high - low))) if high > low else None


def _against_speed(ax: Any, results: Results, metric: str) -> None:
    for i, arm in enumerate(results.plan.arms):
        quality, speed = results.summary(arm, metric), results.summary(arm, SPEED)
        if quality and speed:
            spread = [0.0 if math.isinf(s.half) else s.half for s in (speed, quality)]
            mark, colour = "osD^vP*X"[i % 8], f"C{i % 10}"
            ax.errorbar(
                speed.mean, quality.mean, spread[1], spread[0], fmt=mark, capsize=3, color=colour, label=arm.name
            )
    ax.set_xlabel("images/s (more is better)")
    ax.set_ylabel(_LABELS[metric] + " (less is better)")
    ax.grid(alpha=0.25)
    if ax.has_data():
        ax.legend(fontsize=7)
