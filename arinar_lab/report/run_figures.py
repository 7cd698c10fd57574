"""The picture of one run: its diagnosis, a panel for each part of it.

One run has no place in a study, so it is drawn in black and greys, which are no other arm's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..files.atomic import atomic_draft
from .style import BLACK, GREY, PALE


def draw_diagnosis(report: Mapping[str, Any], generated: Mapping[str, Any], path: Path) -> None:
    """Likelihood by token and feature, calibration, error accumulation and guidance of
    one run, a panel each.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    diagnosis = report["diagnosis"]
    panels: list[tuple[Any, Callable[[Any, Any], None]]] = [
        (diagnosis.get("by_token"), _by_token),
        (diagnosis.get("by_feature"), _by_feature),
        (diagnosis.get("pit"), _pit),
        (generated.get("prefix"), _prefix),
        (generated.get("guidance"), _guidance),
    ]
    panels = [(content, draw) for content, draw in panels if content]
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)

    figure, axes = plt.subplots(
        rows, columns, figsize=(4.2 * columns, 3.4 * rows), layout="constrained", squeeze=False
    )
    for ax, (content, draw) in zip(axes.flat, panels, strict=False):
        draw(ax, content)
        ax.grid(alpha=0.25)
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")

    with atomic_draft(path) as draft:
        figure.savefig(draft, dpi=160)
    plt.close(figure)


def _by_token(ax: Any, bits: list[float]) -> None:
    ax.plot(range(len(bits)), bits, marker="o", markersize=3, color=BLACK)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="token", ylabel="bits/dim")


def _by_feature(ax: Any, bits: list[float]) -> None:
    ax.bar(range(len(bits)), bits, color=PALE)
    ax.set(xlabel="feature", ylabel="bits/dim")


def _pit(ax: Any, shares: list[float]) -> None:
    n = len(shares)
    centres = (np.arange(n) + 0.5) / n
    densities = np.asarray(shares) * n
    ax.bar(centres, densities, width=1 / n, color=PALE, edgecolor="white", linewidth=0.5)
    ax.axhline(1, color="black", linestyle="--", linewidth=1)
    ax.set(xlabel="F(x | what precedes)", ylabel="density (flat where right)")


def _prefix(ax: Any, rows: list[dict[str, float]]) -> None:
    def column(name: str) -> list[float]:
        return [row[name] for row in rows]

    shares = column("share")
    lines = []
    right = ax
    if "true" in rows[0]:
        label = "bits/dim, true rest"
        lines += ax.plot(shares, column("true"), marker="o", color=BLACK, label=label)
        label = "bits/dim, own rest"
        lines += ax.plot(shares, column("own"), "--", marker="s", color=GREY, label=label)
        ax.set(ylabel="bits/dim")
        right = ax.twinx() if "distance" in rows[0] else ax

    if "distance" in rows[0]:
        label = "Fréchet distance"
        lines += right.plot(shares, column("distance"), ":", marker="D", color=BLACK, label=label)
        right.set(ylabel="Fréchet distance")
        ax.legend(handles=lines, fontsize=7)

    ax.set(xlabel="share of true tokens")


def _guidance(ax: Any, by_step: dict[str, list[float]]) -> None:
    divergence = by_step["kl_by_step"]
    truncated = by_step["truncated_by_step"]
    steps = np.arange(1, len(divergence) + 1)

    ax.xaxis.get_major_locator().set_params(integer=True)
    label = "KL(drawn ‖ conditional), nats a token"
    ax.plot(steps, divergence, marker="o", markersize=3, color=BLACK, label=label)
    label = "share truncated"
    ax.plot(steps, truncated, "--", marker="s", markersize=3, color=GREY, label=label)
    ax.set(xlabel="step")
    ax.legend(fontsize=7)
