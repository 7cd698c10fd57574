"""Bad input of the protocol's commands: one line that names it, exit status 2, nothing
computed or written.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command import arinar
from extractor import TINY
from PIL import Image
from tiny import content

from arinar_lab.model.codecs.kl_autoencoder import AutoencoderShape
from arinar_lab.model.codecs.kl_checkpoints import random_kl
from arinar_lab.quality.distances import statistics

KL = "codec={kind: kl, layout: sd, weights: sd.ckpt}"
DATA = "data={kind: image_folder, path: images, size: 16, classes: 2}"
CACHED = "data={kind: cache, path: made}"


@pytest.fixture
def here(a_run):
    """A run of digits, a folder of images, two autoencoders, a recipe, a cache, and
    references good and bad.
    """
    numbers = np.random.default_rng(0)
    for part, c, k in ((p, c, k) for p in ("train", "val") for c in "ab" for k in range(2)):
        Path(f"images/{part}/{c}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
            f"images/{part}/{c}/{k}.png"
        )

    weights = random_kl(AutoencoderShape(4, (32,) * 4, blocks=1)).state_dict()
    torch.save({"state_dict": weights}, "sd.ckpt")
    torch.save(
        {"state_dict": {**weights, "quant_conv.bias": weights["quant_conv.bias"] + 1e-3}},
        "other.ckpt",
    )
    Path("recipe.yaml").write_text(json.dumps(content(DATA, KL, "training.batch=2")))
    assert arinar("cache", "recipe.yaml") == 0
    next(Path("caches").iterdir()).rename("made")
    stats = statistics(
        TINY(torch.from_numpy(numbers.integers(0, 256, (30, 3, 16, 16), dtype=np.uint8)))[
            "features"
        ]
    )
    np.savez("good.npz", **stats, extractor=np.array(TINY.signature))
    np.savez(
        "narrow.npz",
        mu=stats["mu"][:8],
        sigma=stats["sigma"][:8, :8],
        extractor=np.array(TINY.signature),
    )
    Path("text.npz").write_text("no archive")

    return a_run


QUALITY = ["evaluate", "RUN", "--quality", "evaluation.kid_subset=5"]
BAD = {
    "a missing folder of images": (
        ["cache", "recipe.yaml", "data.path=nowhere"],
        "data.path: 'nowhere/train' is not a folder",
    ),
    "another number of classes": (
        ["cache", "recipe.yaml", "data.classes=3"],
        "has 2 folders of classes, and classes says 3",
    ),
    "a size the codec cannot divide": (
        ["cache", "recipe.yaml", "data.size=20"],
        "has stride 8, which does not divide",
    ),
    "a missing autoencoder": (
        ["cache", "recipe.yaml", "codec.weights=none.ckpt"],
        "codec.weights: none.ckpt: no such file",
    ),
    "a codec without a posterior": (["cache", "recipe.yaml", "codec=pixels"], "nothing to cache"),
    "a missing cache": (
        ["train", "recipe.yaml", "data={kind: cache, path: none}"],
        "holds no finished latent cache",
    ),
    "a cache of another autoencoder": (
        ["train", "recipe.yaml", CACHED, "codec.weights=other.ckpt"],
        "with another codec",
    ),
    "a cache of another scale": (
        ["train", "recipe.yaml", CACHED, "codec.scale=0.5"],
        "with another codec",
    ),
    "a cache of another statistic": (
        ["train", "recipe.yaml", CACHED, "codec.normalise=channel"],
        "with another codec",
    ),
    "more in a batch than images": (
        ["train", "recipe.yaml", CACHED, "training.batch=9"],
        "exceeds the 4 training images",
    ),
    "a missing reference": (
        [*QUALITY, "--reference", "none.npz"],
        "--reference: none.npz is not there",
    ),
    "no reference at all": (QUALITY, "--reference: missing"),
    "a damaged reference": (
        [*QUALITY, "--reference", "text.npz"],
        "text.npz is no npz of arrays, or damaged",
    ),
    "a reference of other dimensions": (
        [*QUALITY, "evaluation.images=30", "--reference", "narrow.npz"],
        "mu (8,) and sigma (8, 8), and the features are of 16",
    ),
    "too few images": (
        [*QUALITY, "evaluation.images=16", "--reference", "good.npz"],
        "16 images give 16 features a",
    ),
    "too few images of a reference": (
        ["reference", "images/train"],
        "4 images give 16 features a covariance",
    ),
    "data that are nowhere": (["reference", "nowhere"], "nowhere: no such file or folder"),
    "data that are no images": (["reference", "recipe.yaml", CACHED], "its data are no images"),
    "no run": (["sample", "runs/none", "--out", "a"], "not a run folder"),
    "a folder that is not there": (
        ["sample", "RUN", "--out", "none/a.npz"],
        "--out: 'none' is not a folder",
    ),
    "a form that is none": (["sample", "RUN", "--out", "a.gif"], "--out: 'a.gif' is not a .png"),
}


def test_bad_input_is_one_line_and_nothing_is_written(here, monkeypatch, capsys):
    extractor = lambda arguments, *_: TINY  # noqa: E731
    monkeypatch.setattr("arinar_lab.cli.runs._extractor", extractor)
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    for what, (words, text) in BAD.items():
        assert arinar(*[here.path if word == "RUN" else word for word in words]) == 2, what
        stderr = capsys.readouterr().err
        assert stderr.startswith("arinar: ") and text in stderr and stderr.count("\n") == 1, (
            what,
            stderr,
        )
        assert sorted(Path().rglob("*")) == before, what


def test_what_is_good_is_not_refused(here, monkeypatch):
    monkeypatch.setattr("arinar_lab.cli.runs._extractor", lambda *_: TINY)
    assert (
        arinar(
            *[here.path if w == "RUN" else w for w in QUALITY],
            "evaluation.images=17",
            "--reference",
            "good.npz",
        )
        == 0
    )
    assert arinar("check", "recipe.yaml", CACHED) == 0


def test_options_of_quality_need_it(a_run, capsys):
    for words in (["--reference", "nope.npz"], ["--ranges", "3"]):
        assert arinar("evaluate", a_run.path, *words) == 2
        assert capsys.readouterr().err == f"arinar: {words[0]}: goes with --quality\n"


def test_a_place_that_is_no_folder_is_told_in_one_line(a_run, capsys):
    Path("file").write_text("")
    assert arinar("sample", a_run.path, "--count", 2, "--out", "file/images") == 2
    assert capsys.readouterr().err.count("\n") == 1
