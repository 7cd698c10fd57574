"""Figures of the models: calibration of their conditionals, their densities, their samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.analyse import Analysis
from ..analysis.results import ArmResult, Results
from ..files.arrays import map_array, read_npz
from .style import BLACK, PAGE, looks, paper_pyplot, wrap_label

PANEL_COLUMNS = 5  # of small multiples
MAX_DENSITY = 3.0  # density of a histogram's bar; higher ones leave the axes
FEATURES = 4  # columns of the figure of beliefs
LINES = ("-", "--", ":")  # of the curves of a panel
Curves = Mapping[str, Mapping[str, np.ndarray]]
"""Name of a curve → grid [features, points], density [items, features, points], true
[items, features], drawn.
"""


def calibration_histograms(analysis: Analysis) -> Any | None:
    """Histograms of the probability integral transform, an arm a panel: flat where the
    densities are right.
    """
    histograms: dict[str, tuple[np.ndarray, float]] = {}
    for arm in analysis.results.arms:
        if histogram := _pit(arm):
            histograms[arm.name] = histogram
    if not histograms:
        return None

    look_of = looks(analysis.results)
    columns = min(PANEL_COLUMNS, len(histograms))
    height = -(-len(histograms) // columns)
    with paper_pyplot() as plt:
        figure, axes = plt.subplots(
            height,
            columns,
            figsize=(PAGE * columns / PANEL_COLUMNS if columns > 2 else 3.3, 0.45 + 1.2 * height),
            squeeze=False,
            sharex=True,
            sharey=True,
        )
        highest = max(densities.max() for densities, _ in histograms.values())
        for ax, (name, (densities, distance)) in zip(axes.flat, histograms.items(), strict=False):
            _stairs(ax, densities, look_of[name].colour)
            ax.set_title(f"{wrap_label(name, 24, 1)}\nKS {distance:.3f}", fontsize=7)

        axes[0, 0].set_ylim(0, min(MAX_DENSITY, 1.05 * highest))
        for ax in axes.flat[len(histograms) :]:
            ax.axis("off")
        figure.supxlabel("F(x | what precedes)", fontsize=8)
        figure.supylabel("density", fontsize=8)

    return figure


def _stairs(ax: Any, densities: np.ndarray, colour: str) -> None:
    """A histogram [seeds, bins]: its mean, and the range over seeds."""
    edges = np.linspace(0, 1, densities.shape[1] + 1)
    low = densities.min(0)
    high = densities.max(0)
    ax.stairs(densities.mean(0), edges, fill=True, color=colour, alpha=0.35)
    ax.stairs(high, edges, baseline=low, fill=True, color=colour, alpha=0.6)
    ax.axhline(1, color=BLACK, linestyle="--", linewidth=0.8)
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])


def _pit(arm: ArmResult) -> tuple[np.ndarray, float] | None:
    """A histogram for each seed [seeds, bins], and their mean distance from uniform."""
    shares: list[list[float]] = []
    distances = []
    for report in arm.reports.values():
        diagnosis = report.get("diagnosis", {})
        pit = diagnosis.get("pit")
        if pit and (not shares or len(pit) == len(shares[0])):
            shares.append(pit)
            distances.append(diagnosis["pit_distance"])

    if not shares:
        return None
    return len(shares[0]) * np.asarray(shares), float(np.mean(distances))


def conditional_densities(analysis: Analysis) -> Any | None:
    """Each arm's densities of the same features, for the arms whose codec is the baseline's."""
    results = analysis.results
    files: dict[str, Path] = {}
    for arm in results.arms:
        file = _first_file(arm, "beliefs.npz")
        if file and arm.settings["codec"] == results.baseline_arm.settings["codec"]:
            files[arm.name] = file

    if not files:
        return None
    look_of = looks(results)
    contents = {name: read_npz(file) for name, file in files.items()}
    columns = min(FEATURES, *(len(content["grid"]) for content in contents.values()))
    with paper_pyplot() as plt:
        size = (PAGE, 0.62 * len(files) + 0.5)
        figure, axes = plt.subplots(len(files), columns, figsize=size, squeeze=False, sharex="col")
        for row, (name, content) in zip(axes, contents.items(), strict=True):
            for feature, ax in enumerate(row):
                density_panel(ax, {name: content}, feature, colour=look_of[name].colour)
            label = f"{name}\n(draws)" if content["drawn"] else name
            row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=7)
        for feature, ax in enumerate(axes[0]):
            ax.set_title(f"feature {feature}", fontsize=8)
        figure.supxlabel(f"{DENSITY_AXIS}; dash-dotted: the true value", fontsize=8)

    return figure


DENSITY_AXIS = "value, in units of the tokens; height: square root of the density"


def density_panel(
    ax: Any, curves: Curves, feature: int, item: int = 0, colour: str = BLACK
) -> None:
    """Draw densities of one feature of a held-out token in one colour, and its true value.

    The first is filled, the others are dashed and dotted. The square root of a density is drawn,
    so that a narrow one does not flatten a broad one.
    """
    top = 0.0
    for (name, curve), line in zip(curves.items(), LINES, strict=False):
        x = curve["grid"][feature]
        y = np.sqrt(np.maximum(curve["density"][item, feature], 0))
        is_histogram = bool(curve["drawn"])
        drawstyle = "steps-mid" if is_histogram else "default"
        step = "mid" if is_histogram else None
        look = {"color": colour, "linestyle": line, "linewidth": 1, "marker": ""}
        ax.plot(x, y, **look, label=name, drawstyle=drawstyle)
        if line == LINES[0]:
            ax.fill_between(x, y, color=colour, alpha=0.15, linewidth=0, step=step)
        top = max(top, float(y.max()))

    true = next(iter(curves.values()))["true"][item, feature]
    ax.axvline(true, color=BLACK, linestyle="-.", linewidth=1, label="true value")
    ax.set(yticks=[], ylim=(0, 1.08 * top or 1))
    ax.grid(visible=False)
    ax.tick_params(labelsize=7)


def _first_file(arm: ArmResult, name: str) -> Path | None:
    """A file of the arm's evaluation, of the first finished seed that has it."""
    for seed in arm.reports:
        file = arm.folders[seed].evaluation / name
        if file.is_file():
            return file
    return None


def sample_grid(analysis: Analysis) -> Any | None:
    """The first images of each arm, a row each; a column has one seed and one label.

    Above them stand training images of the same labels, where an evaluation saved some
    (`real.npz`), and the labels.
    """
    files = _image_files(analysis.results)
    if not files:
        return None

    rows: dict[str, np.ndarray] = {}
    labels: list[str] = []
    real = next(iter(files.values())).with_name("real.npz")
    if real.is_file():
        content = read_npz(real, ("images", "labels"))
        rows["training images"] = content["images"]
        labels = list(map(str, content["labels"].tolist()))
    rows |= {name: map_array(file) for name, file in files.items()}

    images = next(iter(rows.values()))
    most = 20 if images.shape[-1] <= 16 else 10
    count = min(most, *map(len, rows.values()))
    white = max(int(images[:count].max()) for images in rows.values()) or 1

    with paper_pyplot() as plt:
        height = (PAGE - 1.4) / count * images.shape[-2] / images.shape[-1]
        size = (PAGE, (0.3 if labels else 0.1) + (height + 0.03) * len(rows))
        figure, axes = plt.subplots(len(rows), 1, figsize=size, squeeze=False)
        figure.get_layout_engine().set(h_pad=0.015, w_pad=0.02, hspace=0)
        for ax, (name, images) in zip(axes[:, 0], rows.items(), strict=True):
            strip = _strip(images[:count], white)
            ax.imshow(strip, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            ax.spines[:].set_visible(False)
            ax.set_ylabel(wrap_label(name, 26), rotation=0, ha="right", va="center", fontsize=7)
        if labels:
            width = images.shape[-1]
            centres = (np.arange(count) + 0.5) * (width + _gap(width)) - _gap(width) / 2 - 0.5
            axes[0, 0].set_xticks(centres, labels[:count])
            axes[0, 0].tick_params(length=0, pad=1, labeltop=True, labelbottom=False)
        # the first layout measures names beside rows of another width
        figure.draw_without_rendering()

    return figure


def _gap(width: int) -> int:
    """Pixels between images of a strip."""
    return max(1, width // 16)


def _strip(images: np.ndarray, white: int) -> np.ndarray:
    """Images [n, C, H, W] of levels 0 … white beside each other, a little apart: [H, W']
    or [H, W', 3], in [0, 1].
    """
    gap = _gap(images.shape[-1])
    paper_white = 0.0 if images.shape[1] == 1 else 1.0  # grey levels are drawn as ink
    apart = np.pad(
        images.astype(float) / white,
        ((0, 0), (0, 0), (0, 0), (0, gap)),
        constant_values=paper_white,
    )
    row = np.concatenate(list(apart), -1)

    return row[0] if len(row) == 1 else row.transpose(1, 2, 0)


def _image_files(results: Results) -> dict[str, Path]:
    """Arm → file of images of one training seed, of the arms with the baseline's data and
    image seeds.
    """
    files: dict[int, dict[str, Path]] = {}
    for arm in results.arms:
        if _drawn_alike(arm, results.baseline_arm):
            for seed in arm.reports:
                file = arm.folders[seed].evaluation / "samples" / "images.npy"
                if file.is_file():
                    files.setdefault(seed, {})[arm.name] = file

    return max(files.values(), key=len, default={})


def _drawn_alike(arm: ArmResult, other: ArmResult) -> bool:
    """Whether images of two arms at one place have one label and one noise."""
    seed = arm.settings["evaluation"]["seed"]
    other_seed = other.settings["evaluation"]["seed"]
    return seed == other_seed and arm.settings["data"] == other.settings["data"]
