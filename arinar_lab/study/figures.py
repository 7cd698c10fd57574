"""The figures of a study: what it found against the varied factor, quality against speed, and what the heads believe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .plan import Plan
from .results import BITS, DISTANCE, GAP, HEADINGS, LEVEL, SPEED, Results


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


def _places(plan: Plan) -> tuple[Sequence[float], list[str], str, bool]:
    """Where the arms stand on the x axis: at their value where one numeric axis is varied, else side by side."""
    values = [arm.values[0] for arm in plan.arms if len(arm.values) == 1]
    numeric = (
        not plan.budgets
        and len(values) == len(plan.arms)
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
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
                    capsize=3, label=HEADINGS[metric])  # fmt: skip
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
    ax.set_ylabel(HEADINGS[metrics[0]] + " (less is better)")
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
    ax.set_ylabel(HEADINGS[metric] + " (less is better)")
    ax.grid(alpha=0.25)
    if ax.has_data():
        ax.legend(fontsize=7)
