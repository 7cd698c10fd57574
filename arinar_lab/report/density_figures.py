"""Figures of what is inside the arms: calibration of their conditionals, what they
believe, and what they draw.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.results import Results
from ..files.arrays import map_array
from ..study.plan import Arm
from .run_figures import draw_conditionals
from .style import BLACK, BLUE, PAGE, SKY, paper_pyplot, wrap_label

PANEL_COLUMNS = 5  # of small multiples
MAX_DENSITY = 3.0  # density of a histogram's bar; higher ones leave the axes


def calibration_histograms(results: Results) -> Any | None:
    """Histograms of the probability integral transform, an arm a panel: flat where the
    densities are right.
    """
    found = {arm.name: rows for arm in results.plan.arms if (rows := _pit(results, arm))}
    if not found:
        return None

    columns = min(PANEL_COLUMNS, len(found))
    height = -(-len(found) // columns)
    with paper_pyplot() as plt:
        figure, axes = plt.subplots(
            height,
            columns,
            figsize=(PAGE * columns / PANEL_COLUMNS if columns > 2 else 3.3, 0.45 + 1.2 * height),
            squeeze=False,
            sharex=True,
            sharey=True,
        )
        bins = max(shares.shape[1] for shares, _ in found.values())
        for ax, (name, (shares, distance)) in zip(axes.flat, found.items(), strict=False):
            edges = np.linspace(0, 1, bins + 1)
            ax.stairs(bins * shares.mean(0), edges, fill=True, color=SKY, alpha=0.6)
            ax.stairs(
                bins * shares.max(0),
                edges,
                baseline=bins * shares.min(0),
                fill=True,
                color=BLUE,
                alpha=0.5,
            )
            ax.axhline(1, color=BLACK, linestyle="--", linewidth=0.8)
            ax.set_title(f"{wrap_label(name, 24, 1)}\nKS {distance:.3f}", fontsize=7)
            ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])

        axes[0, 0].set_ylim(
            0, min(MAX_DENSITY, 1.05 * max(bins * shares.max() for shares, _ in found.values()))
        )
        for ax in axes.flat[len(found) :]:
            ax.axis("off")
        figure.supxlabel("F(x | what precedes)", fontsize=8)
        figure.supylabel("density", fontsize=8)

    return figure


def _pit(results: Results, arm: Arm) -> tuple[np.ndarray, float] | None:
    """A histogram for each seed [seeds, bins], and the mean of their distances from uniform."""
    said = [report.get("diagnosis", {}) for report in results.reports[arm.name].values()]
    rows = [
        one for one in said if one.get("pit") and len(one["pit"]) == len(said[0].get("pit", []))
    ]
    if not rows:
        return None

    return np.asarray([one["pit"] for one in rows]), float(
        np.mean([one["pit_distance"] for one in rows])
    )


def conditional_densities(results: Results) -> Any | None:
    """What each arm believes about the same features, of the arms that see the same
    tokens as the baseline.
    """
    found: dict[str, Path] = {}
    for arm in results.plan.arms:
        same = arm.recipe.codec == results.baseline.recipe.codec
        cells = (results.plan.cell(arm, seed) for seed in results.reports[arm.name] if same)
        files = (folder.evaluation(recipe) / "beliefs.npz" for folder, recipe in cells)
        if file := next((file for file in files if file.is_file()), None):
            found[arm.name] = file

    if not found:
        return None
    with paper_pyplot() as plt:
        return draw_conditionals(plt, found, PAGE)


def sample_grid(results: Results) -> Any | None:
    """The first images of each arm, unchosen: a row an arm; a column has one seed and one
    label in all of them.
    """
    found = _images(results)
    if not found:
        return None

    count = min(20, *(len(images) for images in found.values()))
    first = next(iter(found.values()))
    white = max(int(images.max()) for images in found.values()) or 1

    if first.shape[-1] > 16:
        count = min(count, 10)
    with paper_pyplot() as plt:
        height = (PAGE - 1.4) / count * first.shape[-2] / first.shape[-1]
        figure, axes = plt.subplots(
            len(found), 1, figsize=(PAGE, 0.1 + (height + 0.03) * len(found)), squeeze=False
        )
        figure.get_layout_engine().set(h_pad=0.015, w_pad=0.02, hspace=0)
        for ax, (name, images) in zip(axes[:, 0], found.items(), strict=True):
            ax.imshow(
                _strip(images[:count], white),
                cmap="gray_r",
                vmin=0,
                vmax=1,
                interpolation="nearest",
            )
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            ax.spines[:].set_visible(False)
            ax.set_ylabel(wrap_label(name, 26), rotation=0, ha="right", va="center", fontsize=7)

    return figure


def _strip(images: np.ndarray, white: int) -> np.ndarray:
    """Images [n, C, H, W] of levels 0 … white beside each other, a little apart: [H, W']
    or [H, W', 3], in [0, 1].
    """
    gap, paper_white = (
        max(1, images.shape[-1] // 16),
        0.0 if images.shape[1] == 1 else 1.0,
    )  # grey ones are drawn as ink
    apart = np.pad(
        images.astype(float) / white,
        ((0, 0), (0, 0), (0, 0), (0, gap)),
        constant_values=paper_white,
    )
    row = np.concatenate(list(apart), -1)

    return row[0] if len(row) == 1 else row.transpose(1, 2, 0)


def _images(results: Results) -> dict[str, np.ndarray]:
    """Arm → its generated images under one training seed, of the arms with the baseline's
    data and images' seeds.
    """
    files: dict[int, dict[str, Path]] = {}
    like = results.baseline.recipe
    for arm in results.plan.arms:
        if arm.recipe.data == like.data and arm.recipe.evaluation.seed == like.evaluation.seed:
            for seed in results.reports[arm.name]:
                folder, recipe = results.plan.cell(arm, seed)
                if (file := folder.evaluation(recipe) / "samples" / "images.npy").is_file():
                    files.setdefault(seed, {})[arm.name] = file

    most = max(files.values(), key=len, default={})
    return {name: map_array(file) for name, file in most.items()}
