"""The README's commands from a folder of images to a distance: cache, train, sample, reference, evaluate --quality."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from extractor import TINY
from PIL import Image
from safetensors.torch import load_file
from tiny import EXPERIMENTS

from arinar_lab.cli import main
from arinar_lab.model.kl import Shape
from arinar_lab.model.published_kl import random_kl

PRESET = str(EXPERIMENTS / "imagenet256_arinar_b.yaml")
IMAGES = ["data.path=images", "data.classes=10"]
SMALL = [
    "codec.weights=kl16.ckpt", "outer.width=16", "outer.encoder_depth=1", "outer.decoder_depth=1", "outer.heads=2",
    "outer.prefix=4", "outer.steps=2", "inner.width=16", "inner.heads=2", "training.steps=5", "training.batch=4",
    "training.validate_every=5", "training.precision=32-true", "sampler={guidance: 1, candidates: 0, steps: 2}",
    "evaluation={images: 20, batch: 10, kid_subset: 5, draws: 1, speed_batch: 1, speed_repeats: 1}",
    "machine={accelerator: cpu, threads: 1, workers: 0}",
]  # fmt: skip


def arinar(*words):
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return left.value.code


@pytest.fixture
def imagenet(alone):
    """2 images in each of 10 classes, to train on and held out, and an autoencoder of random weights in KL-16's layout."""
    numbers = np.random.default_rng(0)
    for part in ("train", "val"):
        for c in range(10):
            folder = alone / "images" / part / f"n{c:08}"
            folder.mkdir(parents=True)
            for k in range(2):
                coarse = numbers.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(coarse).resize((256, 256)).save(folder / f"{k}.png")
    shape = Shape(16, (32, 32, 32, 32, 32), blocks=1, encoder_attention=frozenset({4}))
    torch.save({"model": random_kl(shape).state_dict()}, alone / "kl16.ckpt")
    return alone


@pytest.mark.slow
def test_from_images_to_a_distance(imagenet, monkeypatch, uncounted):
    monkeypatch.setattr("arinar_lab.cli.run._extractor", lambda *_: TINY)
    assert arinar("cache", PRESET, *IMAGES, *SMALL) == 0
    (cache,) = Path("caches").iterdir()
    moments = load_file(cache / "train-00000.safetensors")["moments"]
    assert moments.shape == (20, 2, 32, 16, 16) and moments.dtype == torch.float16
    assert arinar("train", PRESET, f"data={{kind: cache, path: {cache}}}", *SMALL) == 0
    (run,) = Path("runs").glob("*/seed_0")
    assert arinar("sample", run, "--per-class", 2, "--out", "samples.npz") == 0
    with np.load("samples.npz") as file:
        assert file["arr_0"].shape == (20, 256, 256, 3) and file["arr_1"].tolist() == [*range(10), *range(10)]
    assert arinar("reference", "images/train") == 0
    (reference,) = Path("references").glob("train-*.npz")
    assert arinar("evaluate", run, "--quality", "--reference", reference) == 0
    (file,) = run.glob("evaluations/*/quality-*.json")
    found = json.loads(file.read_text())["metrics"]
    assert found["quality/fd_tiny_floor"] > 0 and found["quality/fd_tiny"] > 0
