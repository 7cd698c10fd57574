"""Pictures for notebooks: densities of several runs for one token, and samples side by side
under the same seeds.

Each function returns a figure that belongs to no window and no backend: a notebook shows it,
`savefig` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..report.density_figures import DENSITY_AXIS, Curves, density_panel
from ..report.style import VERMILION


def conditionals_figure(
    rows: Mapping[str, Curves], image: Any, token: int, tokens: int, features: int = 4
) -> Figure:
    """Densities of the features of one token, several curves a row, beside the token's image.

    The title of each panel is the cost of the true value under each curve, in bits.

    Arguments:
        rows: Name → its curves.
        image: The item, [C, H, W] or [N, D].
        token: Index of the token.
        tokens: Number of tokens of the item.
        features: Columns at most.
    """
    all_curves = chain.from_iterable(curves.values() for curves in rows.values())
    columns = min(features, *(len(curve["grid"]) for curve in all_curves))
    figure = Figure(figsize=(2.3 * columns + 2.2, 1.3 * len(rows) + 1.1), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=[1, 1.2 * columns])
    left, right = parts
    image_ax = left.add_subplot(left.add_gridspec(len(rows), 1)[0])
    _token_in_image(image_ax, np.asarray(image), token, tokens)

    axes = right.subplots(len(rows), columns, squeeze=False, sharex="col")
    for row, (name, curves) in zip(axes, rows.items(), strict=True):
        for f, ax in enumerate(row):
            density_panel(ax, curves, f)
            ax.set_title(_costs(curves, f), fontsize=8, pad=3)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)

    for f, ax in enumerate(axes[0]):
        ax.set_title(f"feature {f}\n{ax.get_title()}", fontsize=8, pad=3)
    handles = {}
    for ax in axes[:, 0]:
        for line in ax.get_lines():
            handles[line.get_label()] = line
    style = {"ncols": 4, "fontsize": 8, "frameon": False}
    right.legend(handles.values(), handles.keys(), loc="outside upper center", **style)
    right.supxlabel(DENSITY_AXIS, fontsize=9)

    return figure


def _costs(curves: Curves, feature: int) -> str:
    """The cost of a feature's true value under each curve, in bits."""
    costs = []
    for curve in curves.values():
        if "bits" in curve:
            costs.append(f"{curve['bits'][0, feature]:.1f}")
    return " → ".join(costs) + " bits" if costs else "(draws)"


def _token_in_image(ax: Any, image: np.ndarray, token: int, tokens: int) -> None:
    """The image, and a frame around the token where tokens lie on a square grid."""
    _show(ax, image, 0)
    side = round(tokens**0.5)
    if image.ndim == 3 and side**2 == tokens:
        height = image.shape[1] / side
        width = image.shape[2] / side
        corner = (token % side * width - 0.5, token // side * height - 0.5)
        frame = Rectangle(corner, width, height, fill=False, edgecolor=VERMILION, linewidth=2.5)
        ax.add_patch(frame)

    ax.set_title(f"token {token}", fontsize=9)


def _show(ax: Any, image: np.ndarray, levels: int) -> None:
    """An image [C, H, W], in colour if it has three channels, else its first channel dark on
    light; or tokens [N, D].
    """
    if image.ndim == 3 and len(image) == 3:
        white = levels - 1 if levels else image.max()
        ax.imshow(image.transpose(1, 2, 0) / white, interpolation="nearest")
    else:
        shade = {"vmin": 0, "vmax": levels - 1} if levels else {}
        plane = image[0] if image.ndim == 3 else image
        ax.imshow(plane, cmap="gray_r", interpolation="nearest", **shade)

    ax.set(xticks=[], yticks=[])


def samples_figure(rows: Mapping[str, Any], levels: int) -> Figure:
    """Images side by side: a row a setting, a column a seed.

    Arguments:
        rows: Name → images [n, …], as many in each row.
        levels: Number of grey levels; 0 where the items are no images.
    """
    columns = min(map(len, rows.values()))
    figure = Figure(figsize=(0.8 * columns + 1.6, 0.82 * len(rows)), layout="constrained")

    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, (name, images) in zip(axes, rows.items(), strict=True):
        for ax, image in zip(row, np.asarray(images), strict=False):
            _show(ax, image, levels)
            ax.spines[:].set(color="0.85", linewidth=0.6)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)

    return figure
