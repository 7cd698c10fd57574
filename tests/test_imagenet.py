"""The preset of the paper from a folder of images to samples, with everything in small but the
images and the tokens.
"""

import json

import numpy as np
import pytest
from command import arinar
from extractor import FEW
from imagenet import CLASSES, PRESET, SMALL, write_images
from PIL import Image
from released import ARINAR_WIDTHS, DATA

from arinar_lab.data.loader import EpochOrder

OVERRIDES = [
    *SMALL,
    "data.path=images",
    f"data.classes={CLASSES}",
    "data.held_out=2",
    "data.damaged=0.1",
    "training.batch=2",
    "machine={accelerator: cpu, workers: 2, threads: 1}",
]
FIVE = ["evaluation.batch=5", "evaluation.kid_subset=5"]


@pytest.fixture
def imagenet(alone):
    """train/ with 2 and val/ with 1 images in each of 10 classes, and an autoencoder."""
    write_images(2, 1, lambda c: (300, 260 + 10 * c), ".JPEG")
    return alone


@pytest.mark.slow
def test_the_preset_trains_on_images_evaluates_and_samples(imagenet, capsys, uncounted):
    # the first image that training reads
    c, k = divmod(next(iter(EpochOrder(2 * CLASSES, 0))) % (2 * CLASSES), 2)
    damaged = imagenet / "images" / "train" / f"n{c:08}" / f"{k}.JPEG"
    damaged.write_bytes(damaged.read_bytes()[:900])
    assert arinar("train", PRESET, *OVERRIDES) == 0
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
        *ARINAR_WIDTHS,
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
