"""Figures for notebooks: conditional densities of several runs, and samples of the same seeds.

Each function returns a figure without a window or a backend: a notebook shows it, `savefig` writes
it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ..report.density_figures import DENSITY_AXIS, Curves, density_panel
from ..report.style import BASELINE, BLACK, VERMILION, Look


def conditionals_figure(
    rows: Mapping[str, Curves],
    image: Any,
    token: int,
    tokens: int,
    features: int = 4,
    looks: Mapping[str, Look] | None = None,
) -> Figure:
    """Draw densities of one token's features, several curves a row, next to the token's image.

    The title of a panel is the cost of the true value under each curve, in bits.

    Arguments:
        rows: name → its curves.
        image: The item, [C, H, W] or [N, D].
        token: Number of the token.
        tokens: Number of all tokens.
        features: Largest number of columns.
        looks: Name of an arm → its look, as in `report.style.looks`; a row has its arm's colour,
            or black.
    """
    columns = features
    for curves in rows.values():
        for curve in curves.values():
            columns = min(columns, len(curve["grid"]))
    figure = Figure(figsize=(2.3 * columns + 2.2, 1.3 * len(rows) + 1.1), layout="constrained")
    left, right = cast(Any, figure.subfigures(1, 2, width_ratios=[1, 1.2 * columns]))
    picture = left.add_subplot(left.add_gridspec(len(rows), 1)[0])
    _draw_token(picture, np.asarray(image), token, tokens)

    axes = right.subplots(len(rows), columns, squeeze=False, sharex="col")
    for row, (name, curves) in zip(axes, rows.items(), strict=True):
        colour = (looks or {}).get(name, BASELINE).colour
        for f, ax in enumerate(row):
            density_panel(ax, curves, f, colour=colour)
            ax.set_title(_costs(curves, f), fontsize=8, pad=3)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)

    for f, ax in enumerate(axes[0]):
        ax.set_title(f"feature {f}\n{ax.get_title()}", fontsize=8, pad=3)
    handles: dict[str, Any] = {}
    for ax in axes[:, 0]:
        for line in ax.get_lines():
            look: dict[str, Any] = {"linestyle": line.get_linestyle(), "color": BLACK}
            handles[line.get_label()] = Line2D([], [], **look)
    place = {"loc": "outside upper center", "ncols": 4}
    right.legend(handles.values(), handles.keys(), fontsize=8, frameon=False, **place)
    right.supxlabel(DENSITY_AXIS, fontsize=9)

    return figure


def _costs(curves: Curves, feature: int) -> str:
    """Return the cost of a feature's true value under each curve, in bits."""
    bits = [f"{curve['bits'][0, feature]:.1f}" for curve in curves.values() if "bits" in curve]
    return " → ".join(bits) + " bits" if bits else "(draws)"


def _draw_token(ax: Any, image: np.ndarray, token: int, tokens: int) -> None:
    """Draw an image, and a frame around the token where tokens lie on a square grid."""
    _show(ax, image, 0)
    side = round(tokens**0.5)
    if image.ndim == 3 and side**2 == tokens:
        height = image.shape[1] / side
        width = image.shape[2] / side
        corner = (token % side * width - 0.5, token // side * height - 0.5)
        ax.add_patch(
            Rectangle(corner, width, height, fill=False, edgecolor=VERMILION, linewidth=2.5)
        )

    ax.set_title(f"token {token}", fontsize=9)


def _show(ax: Any, image: np.ndarray, levels: int) -> None:
    """Draw an image [C, H, W], in colour if C = 3, else its first channel; or tokens [N, D]."""
    if image.ndim == 3 and len(image) == 3:
        white = levels - 1 if levels else image.max()
        ax.imshow(image.transpose(1, 2, 0) / white, interpolation="nearest")
    else:
        plane = image[0] if image.ndim == 3 else image
        shade = {"vmin": 0, "vmax": levels - 1} if levels else {}
        ax.imshow(plane, cmap="gray_r", interpolation="nearest", **shade)

    ax.set(xticks=[], yticks=[])


def samples_figure(
    rows: Mapping[str, Any],
    levels: int,
    labels: Sequence[int] | None = None,
    real: Any = None,
) -> Figure:
    """Draw images in a grid: a row for each setting, a column for each seed.

    Arguments:
        rows: name → images [n, …], as many in each row.
        levels: Grey levels, 0 where the items are no images.
        labels: The class of each column, written above it.
        real: Training images of these classes [n, …], as of `Source.examples`: the first row.
    """
    shown = dict(rows) if real is None else {"training images": real, **rows}
    columns = min(map(len, shown.values()))
    height = 0.82 * len(shown) + (0.2 if labels else 0)
    figure = Figure(figsize=(0.8 * columns + 1.6, height), layout="constrained")

    axes = figure.subplots(len(shown), columns, squeeze=False)
    for row, (name, images) in zip(axes, shown.items(), strict=True):
        for ax, image in zip(row, np.asarray(images), strict=False):
            _show(ax, image, levels)
            ax.spines[:].set(color="0.85", linewidth=0.6)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    for ax, label in zip(axes[0], labels or (), strict=False):
        ax.set_title(str(label), fontsize=9, pad=3)

    return figure
