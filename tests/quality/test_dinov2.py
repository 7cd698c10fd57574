"""DINOv2's features: the network is the published one, read from a file of weights alone, and
measures runs by name.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from command import arinar
from tiny import tiny

from arinar_lab.errors import ConfigError
from arinar_lab.quality.dinov2 import LARGE, VisionTransformer, read_dinov2
from arinar_lab.quality.distances import extractor_of_reference
from arinar_lab.quality.extractors import DINOV2, Extractor

pytestmark = pytest.mark.usefixtures("alone")
TIMM = [0.0, 0.35578, 0.208907, -0.399825, 0.151932, -0.319332, -0.055484, 0.149786]
"""Every 16th feature that timm 1.0.31 computes of this image with these weights."""


def weights(width, depth, side):
    """A published file's names, with numbers that are easily made anywhere."""
    state = VisionTransformer(width, depth, side).state_dict()
    waves = enumerate(sorted(state.items()))
    return {
        name: ((torch.arange(p.numel(), dtype=torch.float64) * (0.7 + 0.1 * i)).sin() * 0.3)
        .reshape(p.shape)
        .float()
        for i, (name, p) in waves
    }


@torch.no_grad()
def test_it_computes_what_another_implementation_does():
    torch.save(weights(128, 2, 2), "small.pth")
    image = (torch.arange(3 * 28 * 28) * 0.37).sin().reshape(1, 3, 28, 28)
    assert read_dinov2(Path("small.pth"))(image)[0, ::16].tolist() == pytest.approx(TIMM, abs=1e-5)


@torch.no_grad()
def test_positions_are_resized_and_the_class_tokens_is_not():
    model = VisionTransformer(64, 1, 37)
    across = torch.linspace(0, 1, 37).repeat(37, 1).flatten()
    model.pos_embed[0, 1:, 0], model.pos_embed[0, :, 1], model.pos_embed[0, 0, 2] = across, 2.0, 5.0
    resized = model.positions(16)
    assert resized.shape == (1, 257, 64) and model.positions(37) is model.pos_embed
    rows = resized[0, 1:, 0].reshape(16, 16)
    assert (rows.diff(dim=1) > 0).all() and torch.allclose(rows, rows[:1].expand(16, -1), atol=1e-5)
    assert torch.allclose(resized[0, :, 1], torch.tensor(2.0), atol=1e-5) and resized[0, 0, 2] == 5


def test_the_published_layout_is_built_and_others_are_refused():
    with torch.device("meta"):
        names = VisionTransformer(LARGE, 24, 37).state_dict()
    # ViT-L/14 less its mask token, of 1,024
    assert sum(p.numel() for p in names.values()) == 304_367_616
    small = weights(64, 1, 2)
    swiglu = {name.replace("fc1", "w12"): value for name, value in small.items()}
    for state, text in (
        (swiglu, "holds no such DINOv2"),
        ({"weight": torch.zeros(3)}, "holds no DINOv2"),
    ):
        torch.save(state, "other.pth")
        with pytest.raises(
            ConfigError, match=rf"^other\.pth: no weights of dinov2, or damaged: other\.pth: {text}"
        ):
            _ = Extractor(DINOV2, weights=Path("other.pth")).network


def test_a_run_is_measured_in_its_features(a_run, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", "home")
    place = Path("home/hub/checkpoints/dinov2_vitl14_pretrain.pth")
    place.parent.mkdir(parents=True)
    torch.save({**weights(64, 1, 37), "mask_token": torch.zeros(1, 64)}, place)
    few = ["evaluation.images=66", "evaluation.kid_subset=10", "evaluation.batch=33"]
    images = tiny().data().held_out[0][:70].permute(0, 2, 3, 1).expand(-1, -1, -1, 3)
    np.savez("some.npz", (images * 15).numpy())
    assert arinar("reference", "some.npz", "--features", "dinov2") == 0
    (path,) = Path("references").glob("some-*.npz")
    assert extractor_of_reference(path) == ("dinov2", "dinov2")
    capsys.readouterr()
    assert arinar("evaluate", a_run.path, "--quality", "--reference", path, *few) == 0
    stdout = capsys.readouterr().out
    for name in ("fd_dinov2_64", "fd_dinov2_64_floor", "kid_dinov2_64", "precision_dinov2_64"):
        assert f"quality/{name} " in stdout

    assert "inception_score" not in stdout
    assert (
        arinar(
            "evaluate",
            a_run.path,
            "--quality",
            "--features",
            "dinov2",
            "--layer",
            "64",
            "--reference",
            path,
        )
        == 2
    )
    assert "--layer: dinov2 has dinov2, and no 64" in capsys.readouterr().err
