"""Whether reading is ever the bottleneck: images/s of the loaders, beside the rate at which a GPU
could train ARINAR-B.

    python benchmarks/loader.py FOLDER [ENTRIES]

The loaders are those that training has (`DataModule`), without workers: a latent cache of KL-16's
shape, written by `latent_cache.py`, its pages dropped before the first epoch; and a folder of
JPEGs of ImageNet's mean size, which are read, cropped and mirrored. The rate of a GPU is
calculated, not measured:

    images/s = share of its peak that training reaches · peak
               / (floating-point operations of an image, forward and backward)

Operations are counted by torch (matrix products and attention) in one training step of
the preset, on the CPU.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from latent_cache import SHAPE, anonymous, forget, read_ours, timed, write_ours
from PIL import Image

from arinar_lab.config.build import build
from arinar_lab.config.files import preset_path, read_recipe
from arinar_lab.config.sections import parse_recipe
from arinar_lab.data.image_datasets import ImageFolder
from arinar_lab.hardware.profiling import flops_of
from arinar_lab.model.noise import Noise
from arinar_lab.training.datamodule import DataModule

# H100 SXM, bf16 without sparsity; a share that well-kept training code reaches
PEAK, SHARE = 989e12, 0.4
JPEGS, SIZE = 256, (473, 405)


def operations(name: str) -> tuple[float, float]:
    """Floating-point operations of training on one image, and the share of its
    tokens that were masked.
    """
    recipe = parse_recipe(read_recipe(preset_path(name)))
    torch.manual_seed(0)
    model = build(recipe).model.train()
    x, noise = (
        torch.randn(1, SHAPE[1] * SHAPE[2], SHAPE[0] // 2),
        Noise.of(torch.zeros(1, dtype=torch.long), "loader"),
    )
    masked: list[float] = []
    model.inner.register_forward_pre_hook(
        lambda _, arguments: masked.append(arguments[0].shape[-2] / x.shape[1])
    )
    flops = flops_of(lambda: model.loss(x, torch.zeros(1, dtype=torch.long), noise).backward())

    return flops, masked[0]


def write_jpegs(folder: Path) -> None:
    numbers = np.random.default_rng(0)
    for part in ("train", "val"):
        (folder / part / "n0").mkdir(parents=True)
        for k in range(JPEGS if part == "train" else 1):
            coarse = numbers.integers(0, 256, (60, 60, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize(SIZE).save(
                folder / part / "n0" / f"{k}.JPEG", quality=90
            )


def rate(batches: Iterable[Any]) -> float:
    """Images/s over one epoch."""
    begun, n = time.perf_counter(), 0
    for batch in batches:
        n += len(batch[0])
    return n / (time.perf_counter() - begun)


def main(root: Path, n: int) -> None:
    torch.set_num_threads(1)
    cache, images = root / "memory_map", root / "images"
    if not cache.exists():
        cache.mkdir(parents=True)
        write_ours(cache, n)

    if not images.exists():
        write_jpegs(images)
    forget(cache)
    before = anonymous()
    loader = read_ours(cache)
    (cold, entries), (warm, _) = timed(loader, n), timed(loader, n)
    print(
        f"cache of {n:,}: {cold:,.0f} images/s cold, {warm:,.0f} warm, {anonymous() - before:.0f} "
        f"MB, {entries:,} different"
    )
    folder = DataModule(ImageFolder(path=str(images), classes=1), 64, 0).train_dataloader()
    print(
        f"JPEGs of {SIZE[0]}×{SIZE[1]}: {rate(folder):,.0f} images/s, one process; load "
        f"{os.getloadavg()[0]:.1f}"
    )
    flops, masked = operations("imagenet256_arinar_b")
    gpu = SHARE * PEAK / flops
    print(
        f"ARINAR-B: {flops / 1e9:,.0f} GFLOPs an image with {masked:.0%} masked: {gpu:,.0f} "
        f"images/s at {SHARE:.0%} of an H100"
    )
    print(f"one reader feeds {cold / gpu:.1f} such GPUs cold, {warm / gpu:.1f} warm (calculated)")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100_000)
