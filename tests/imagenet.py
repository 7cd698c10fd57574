"""A folder of images in ten classes, and a small model of the paper's preset for them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tiny import EXPERIMENTS

from arinar_lab.model.codecs.kl_autoencoder import AutoencoderShape
from arinar_lab.model.codecs.kl_checkpoints import random_kl

PRESET = str(EXPERIMENTS / "imagenet256_arinar_b.yaml")
CLASSES = 10
EVALUATION = (
    "evaluation={images: 5, batch: 5, kid_subset: 5, draws: 1, speed_batch: 1, speed_repeats: 1}"
)
SMALL = [
    "codec.weights=kl16.ckpt",
    "outer.width=16",
    "outer.encoder_depth=1",
    "outer.decoder_depth=1",
    "outer.heads=2",
    "outer.prefix=4",
    "outer.steps=2",
    "inner.width=16",
    "inner.heads=2",
    "training.steps=5",
    "training.validate_every=5",
    "training.precision=32-true",
    "sampler={guidance: 1, candidates: 0, steps: 2}",
    EVALUATION,
]


def write_images(
    train: int, held_out: int, size_of: Callable[[int], tuple[int, int]], suffix: str
) -> None:
    """Write images/train and images/val with so many images of noise a class, and kl16.ckpt: an
    autoencoder of random weights in KL-16's layout.
    """
    numbers = np.random.default_rng(0)
    for part, count in (("train", train), ("val", held_out)):
        for c in range(CLASSES):
            folder = Path("images") / part / f"n{c:08}"
            folder.mkdir(parents=True)
            for k in range(count):
                coarse = numbers.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(coarse).resize(size_of(c)).save(folder / f"{k}{suffix}")

    shape = AutoencoderShape(16, (32, 32, 32, 32, 32), blocks=1, encoder_attention=frozenset({4}))
    torch.save({"model": random_kl(shape).state_dict()}, "kl16.ckpt")
