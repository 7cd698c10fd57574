"""The preset of the paper from a folder of images to samples, with everything in small but the
images and the tokens.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command import arinar
from extractor import FEW
from PIL import Image
from tiny import EXPERIMENTS

from arinar_lab.data.loader import EpochOrder
from arinar_lab.model.codecs.kl_autoencoder import AutoencoderShape
from arinar_lab.model.codecs.kl_checkpoints import random_kl

DATA = Path(__file__).parent / "data"
PRESET = str(EXPERIMENTS / "imagenet256_arinar_b.yaml")
CLASSES = 10
SMALL = [
    "data.path=images",
    f"data.classes={CLASSES}",
    "data.held_out=2",
    "data.damaged=0.1",
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
    "training.batch=2",
    "training.validate_every=5",
    "training.precision=32-true",
    "sampler={guidance: 1, candidates: 0, steps: 2}",
    "evaluation={images: 5, batch: 5, kid_subset: 5, draws: 1, speed_batch: 1, speed_repeats: 1}",
    "machine={accelerator: cpu, workers: 2, threads: 1}",
]


FIVE = ["evaluation.batch=5", "evaluation.kid_subset=5"]


@pytest.fixture
def imagenet(alone):
    """train/ with 2 and val/ with 1 images in each of 10 classes, and an autoencoder of random
    weights in KL-16's layout.
    """
    numbers = np.random.default_rng(0)
    for part, count in (("train", 2), ("val", 1)):
        for c in range(CLASSES):
            folder = alone / "images" / part / f"n{c:08}"
            folder.mkdir(parents=True)
            for k in range(count):
                coarse = numbers.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(coarse).resize((300, 260 + 10 * c)).save(folder / f"{k}.JPEG")

    shape = AutoencoderShape(16, (32, 32, 32, 32, 32), blocks=1, encoder_attention=frozenset({4}))
    torch.save({"model": random_kl(shape).state_dict()}, alone / "kl16.ckpt")

    return alone


@pytest.mark.slow
def test_the_preset_trains_on_images_evaluates_and_samples(imagenet, capsys, uncounted):
    # the first image that training reads
    c, k = divmod(next(iter(EpochOrder(2 * CLASSES, 0))) % (2 * CLASSES), 2)
    damaged = imagenet / "images" / "train" / f"n{c:08}" / f"{k}.JPEG"
    damaged.write_bytes(damaged.read_bytes()[:900])
    assert arinar("train", PRESET, *SMALL) == 0
    (run,) = (imagenet / "runs").glob("*/seed_0")
    (report,) = run.glob("evaluations/*/report.json")
    content = json.loads(report.read_text())
    assert content["likelihood"]["unit"] == "latent" and content["likelihood"]["images"] == 2
    assert np.isfinite(content["metrics"]["val/bits_per_dim"])
    assert not any(name.startswith("quality/fd") for name in content["metrics"])
    assert (
        f"1 damaged images, others of their classes stood in: images/train/n{c:08}/{k}.JPEG"
        in (run / "log.txt").read_text()
    )
    # without the autoencoder
    assert (run / "checkpoints" / "final.safetensors").stat().st_size < 10**6
    assert arinar("sample", run, "--count", 2, "--out", "two.png") == 0
    with Image.open("two.png") as picture:
        assert picture.mode == "RGB" and min(picture.size) > 256
    (imagenet / "kl16.ckpt").unlink()

    assert arinar("sample", run, "--count", 1, "--out", "none.png") == 2
    assert "codec.weights: kl16.ckpt: no such file" in capsys.readouterr().err


def test_a_published_checkpoint_is_converted_and_draws_images_without_the_data(
    imagenet, monkeypatch, capsys
):
    tiny = [
        "data.size=64",
        "data.classes=10",
        "codec.weights=kl16.ckpt",
        "outer.width=32",
        "outer.heads=2",
        "outer.encoder_depth=1",
        "outer.decoder_depth=2",
        "outer.prefix=8",
        "outer.steps=16",
        "inner.width=32",
        "inner.head.components=3",
        "sampler={guidance: 1, candidates: 0}",
        "machine={accelerator: cpu, threads: 1}",
    ]
    assert (
        arinar(
            "convert",
            DATA / "arinar_tiny.pth",
            "--preset",
            PRESET,
            "--weights",
            "model",
            "--out",
            "run",
            *tiny,
        )
        == 0
    )
    assert arinar("sample", "run", "--count", 10, "--out", "ten.png") == 0
    with Image.open("ten.png") as picture:
        assert picture.size == (66, 10 * 65 + 1)
        assert len(set(np.array(picture)[1:65, 1:65].flatten().tolist())) > 20

    monkeypatch.setattr("arinar_lab.cli.runs._extractor", lambda *_: FEW)
    np.savez("stats.npz", mu=np.zeros(4), sigma=np.eye(4))
    capsys.readouterr()
    assert (
        arinar(
            "evaluate", "run", "--quality", "--reference", "stats.npz", "evaluation.images=5", *FIVE
        )
        == 0
    )
    stdout = capsys.readouterr().out

    assert (
        "quality/fd_tinyfew " in stdout and "no floor: the held-out images are not there" in stdout
    )
    assert arinar("evaluate", "run") == 2
    assert capsys.readouterr().err.startswith(
        "arinar: data.path: 'data/imagenet/train' is not a folder"
    )
