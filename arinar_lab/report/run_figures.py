"""The picture of one run: its diagnosis, a panel for each part of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..files.atomic import atomic_draft
from .style import BLUE, GREEN, VERMILION


def draw_diagnosis(report: Mapping[str, Any], found: Mapping[str, Any], path: Path) -> None:
    """Likelihood by token and feature, calibration, error accumulation and guidance of
    one run, a panel each.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    said = report["diagnosis"]
    panels: list[tuple[Any, Callable[[Any, Any], None]]] = [
        (said.get("by_token"), _by_token),
        (said.get("by_feature"), _by_feature),
        (said.get("pit"), _pit),
        (found.get("prefix"), _prefix),
        (found.get("guidance"), _guidance),
    ]
    drawn = [(content, draw) for content, draw in panels if content]
    columns = min(3, len(drawn))
    figure, axes = plt.subplots(
        -(-len(drawn) // columns),
        columns,
        figsize=(4.2 * columns, 3.4 * -(-len(drawn) // columns)),
        layout="constrained",
        squeeze=False,
    )
    for ax, (content, draw) in zip(axes.flat, drawn, strict=False):
        draw(ax, content)
        ax.grid(alpha=0.25)
    for ax in axes.flat[len(drawn) :]:
        ax.axis("off")
    with atomic_draft(path) as draft:
        figure.savefig(draft, dpi=160)
    plt.close(figure)


def _by_token(ax: Any, bits: list[float]) -> None:
    ax.plot(range(len(bits)), bits, marker="o", markersize=3, color=BLUE)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="token", ylabel="bits/dim")


def _by_feature(ax: Any, bits: list[float]) -> None:
    ax.bar(range(len(bits)), bits, color=BLUE)
    ax.set(xlabel="feature", ylabel="bits/dim")


def _pit(ax: Any, shares: list[float]) -> None:
    n = len(shares)
    ax.bar(
        (np.arange(n) + 0.5) / n,
        np.asarray(shares) * n,
        width=1 / n,
        color=BLUE,
        edgecolor="white",
        linewidth=0.5,
    )
    ax.axhline(1, color="black", linestyle="--", linewidth=1)
    ax.set(xlabel="F(x | what precedes)", ylabel="density (flat where right)")


def _prefix(ax: Any, rows: list[dict[str, float]]) -> None:
    shares = [row["share"] for row in rows]
    if "true" in rows[0]:
        ax.plot(
            shares,
            [row["true"] for row in rows],
            marker="o",
            color=BLUE,
            label="bits/dim, true rest",
        )
        ax.plot(
            shares,
            [row["own"] for row in rows],
            "--",
            marker="s",
            color=VERMILION,
            label="bits/dim, own rest",
        )
        ax.set(ylabel="bits/dim")

    if "fd_digits" in rows[0]:
        right = ax.twinx() if "true" in rows[0] else ax
        right.plot(
            shares,
            [row["fd_digits"] for row in rows],
            ":",
            marker="^",
            color=GREEN,
            label="FD digits",
        )
        right.set(ylabel="FD digits")
        lines = [line for part in {ax, right} for line in part.get_lines()]
        ax.legend(lines, [line.get_label() for line in lines], fontsize=7)

    ax.set(xlabel="share of true tokens")


def _guidance(ax: Any, found: dict[str, list[float]]) -> None:
    ax.xaxis.get_major_locator().set_params(integer=True)
    steps = np.arange(1, len(found["kl_by_step"]) + 1)
    ax.plot(
        steps,
        found["kl_by_step"],
        marker="o",
        markersize=3,
        color=BLUE,
        label="KL(drawn ‖ conditional), nats a token",
    )
    ax.plot(
        steps,
        found["truncated_by_step"],
        "--",
        marker="s",
        markersize=3,
        color=VERMILION,
        label="share truncated",
    )
    ax.set(xlabel="step")
    ax.legend(fontsize=7)
