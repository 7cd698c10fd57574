"""Pictures of one run: its diagnosis, and what several runs believe about the same features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..files.arrays import read_npz
from ..files.atomic import atomic_draft

_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def draw_diagnosis(report: Mapping[str, Any], found: Mapping[str, Any], path: Path) -> None:
    """Likelihood by token and feature, calibration, error accumulation and guidance of
    one run, a panel each.
    """
    plt, said = _pyplot(), report["diagnosis"]
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
    ax.plot(range(len(bits)), bits, marker="o", markersize=3, color=_BLUE)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="token", ylabel="bits/dim")


def _by_feature(ax: Any, bits: list[float]) -> None:
    ax.bar(range(len(bits)), bits, color=_BLUE)
    ax.set(xlabel="feature", ylabel="bits/dim")


def _pit(ax: Any, shares: list[float]) -> None:
    n = len(shares)
    ax.bar(
        (np.arange(n) + 0.5) / n,
        np.asarray(shares) * n,
        width=1 / n,
        color=_BLUE,
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
            color=_BLUE,
            label="bits/dim, true rest",
        )
        ax.plot(
            shares,
            [row["own"] for row in rows],
            "--",
            marker="s",
            color=_ORANGE,
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
            color=_GREEN,
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
        color=_BLUE,
        label="KL(drawn ‖ conditional), nats a token",
    )
    ax.plot(
        steps,
        found["truncated_by_step"],
        "--",
        marker="s",
        markersize=3,
        color=_ORANGE,
        label="share truncated",
    )
    ax.set(xlabel="step")
    ax.legend(fontsize=7)


def save_conditionals_figure(arms: Mapping[str, Path], path: Path) -> None:
    """Save the figure of what each arm believes."""
    plt = _pyplot()
    figure = draw_conditionals(plt, arms)
    with atomic_draft(path) as draft:
        figure.savefig(draft, dpi=160)
    plt.close(figure)


def draw_conditionals(
    plt: Any, arms: Mapping[str, Path], width: float = 6.9, features: int = 4, item: int = 0
) -> Any:
    """What each arm believes about the same features of the same held-out token: a row an
    arm, a column a feature.

    Arguments:
        plt: matplotlib's pyplot.
        arms: name → `beliefs.npz`.
        width: inches; features: columns at most; item: which of the held-out items.
    """
    loaded = {name: read_npz(file) for name, file in arms.items()}
    columns = min(features, *(len(content["grid"]) for content in loaded.values()))

    figure, axes = plt.subplots(
        len(loaded),
        columns,
        figsize=(width, 0.62 * len(loaded) + 0.5),
        layout="constrained",
        squeeze=False,
        sharex="col",
    )
    for row, (name, content) in zip(axes, loaded.items(), strict=True):
        for f, ax in enumerate(row[:columns]):
            _belief(ax, content, f, item)
        label = f"{name}\n(draws)" if content["drawn"] else name
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=7)

    for f, ax in enumerate(axes[0][:columns]):
        ax.set_title(f"feature {f}", fontsize=8)
    figure.supxlabel(
        "value, in units of the tokens; dashed: the true one; height: root of the density",
        fontsize=8,
    )

    return figure


def _belief(ax: Any, content: Mapping[str, np.ndarray], f: int, item: int) -> None:
    """One density; its square root is drawn, so that what is narrow does not
    flatten what is broad.
    """
    grid, density = content["grid"][f], content["density"][item, f]
    ax.plot(
        grid,
        density,
        color=_BLUE,
        linewidth=1,
        **({"drawstyle": "steps-mid"} if content["drawn"] else {}),
    )
    ax.fill_between(grid, density, color=_BLUE, alpha=0.15, linewidth=0)
    ax.axvline(content["true"][item, f], color=_ORANGE, linestyle="--", linewidth=1)
    ax.set_yscale("function", functions=(lambda y: np.sqrt(np.clip(y, 0, None)), np.square))
    ax.set(yticks=[], ylim=(0, 1.05 * float(density.max()) or 1))
    ax.grid(visible=False)
    ax.tick_params(labelsize=7)
