"""The README's commands from a folder of images to a distance: cache, train, sample,
reference, evaluate --quality.

Images are 256×256 and tokens 256 of 16 features, as published; the autoencoder is in KL-16's
layout, of random weights and narrow. In `make test` the model is small, in `make test-slow` it
is the preset's own.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command import arinar
from extractor import FEW
from imagenet import EVALUATION, PRESET, SMALL, write_images
from safetensors.torch import load_file

IMAGES = ["data.path=images", "data.classes=10"]
CPU = "machine={accelerator: cpu, threads: 1, workers: 0}"
OWN_SIZE = [
    "codec.weights=kl16.ckpt",
    "training.precision=32-true",
    "training.steps=20",
    "training.batch=2",
    "training.validate_every=20",
    "training.checkpoint_every=20",
    "sampler.steps=2",
    EVALUATION,
    CPU,
]


@pytest.fixture
def few(monkeypatch):
    """Four features in place of Inception's 2,048: five images have a covariance of full rank."""
    monkeypatch.setattr("arinar_lab.cli.runs._extractor", lambda *_: FEW)


def from_images_to_a_distance(size, each, images):
    """The commands; returns the run folder and what was measured."""
    assert arinar("cache", PRESET, *images, *size) == 0
    (cache,) = Path("caches").iterdir()
    moments = load_file(cache / "train-00000.safetensors")["moments"]
    assert (
        moments.shape[0] == 10 * each
        and moments.shape[2:] == (32, 16, 16)
        and moments.dtype == torch.float16
    )
    assert arinar("train", PRESET, f"data={{kind: cache, path: {cache}}}", *size) == 0
    (run,) = Path("runs").glob("*/seed_0")
    assert arinar("sample", run, "--per-class", 1, "--out", "samples.npz") == 0
    with np.load("samples.npz") as file:
        assert file["arr_0"].shape == (10, 256, 256, 3) and file["arr_1"].tolist() == [*range(10)]
    assert arinar("reference", "images/train") == 0
    (reference,) = Path("references").glob("train-*.npz")
    assert arinar("evaluate", run, "--quality", "--reference", reference) == 0
    (file,) = run.glob("evaluations/*/quality-*.json")

    return run, json.loads(file.read_text())["metrics"]


def test_from_images_to_a_distance(alone, few, uncounted):
    write_images(2, 2, lambda _: (256, 256), ".png")
    run, result = from_images_to_a_distance(
        [*SMALL, "training.batch=4", CPU], 2, [*IMAGES, "data.flip=false", "data.held_out=5"]
    )
    assert result["quality/fd_tinyfew_floor"] > 0 and result["quality/fd_tinyfew"] > 0
    assert json.loads((run / "DONE").read_text())["steps"] == 5


@pytest.mark.slow
@pytest.mark.large
def test_from_images_to_a_distance_at_the_presets_own_size(alone, few, uncounted):
    write_images(20, 2, lambda _: (256, 256), ".png")
    run, result = from_images_to_a_distance(OWN_SIZE, 20, [*IMAGES, "data.held_out=5"])
    assert result["quality/fd_tinyfew_floor"] > 0 and result["quality/fd_tinyfew"] > 0
    (report,) = run.glob("evaluations/*/report.json")
    classes = 990 * 768  # vectors of the classes that are not there
    assert json.loads(report.read_text())["metrics"]["cost/parameters"] == 212_949_516 - classes
