"""The training of an autoencoder: it learns, resumes, is read by the codec, and refuses faults."""

import re
from types import SimpleNamespace

import pytest
import torch
from command import arinar
from safetensors.torch import load_file, save_file
from tiny import EXPERIMENTS

from arinar_lab.config.files import read_recipe
from arinar_lab.config.schema import parse_dataclass
from arinar_lab.data.sources import Digits
from arinar_lab.errors import ConfigError, Diverged
from arinar_lab.model.codecs.autoencoder import SHIPPED, Autoencoder, architecture_of
from arinar_lab.model.codecs.codec import VAE
from arinar_lab.model.noise import Noise
from arinar_lab.model.weight_files import ASSETS
from arinar_lab.pretraining import autoencoder
from arinar_lab.pretraining.autoencoder import (
    WEIGHTS,
    AutoencoderRecipe,
    AutoencoderTraining,
    train_autoencoder,
)
from arinar_lab.runs.folder import read_json

SMALL = {"data": "digits", "widths": [8, 8], "steps": 30, "batch": 16}


def recipe_of(**changes):
    return parse_dataclass(AutoencoderRecipe, SMALL | changes, "")


@pytest.mark.parametrize(
    ("shape", "widths", "grid"),
    [
        ((1, 8, 8), (8, 8), (4, 4)),
        ((1, 28, 28), (4, 8, 8, 8), (4, 4)),
        ((3, 33, 16), (4, 4, 4), (9, 4)),
        ((1, 5, 5), (4,), (5, 5)),
    ],
)
def test_each_level_halves_the_grid_rounded_up_and_the_way_back_ends_at_the_image(
    shape, widths, grid
):
    model = Autoencoder(shape, 3, widths)
    mean, std = model.posterior(torch.zeros(2, *shape))
    assert mean.shape == std.shape == (2, 3, *grid) and model.grid == grid
    assert model.decoder(mean).shape == (2, *shape)
    assert architecture_of(model.state_dict()) == (3, widths)


def test_a_shipped_autoencoder_restores_images_it_was_not_trained_on():
    codec = VAE((1, 8, 8), 17, weights="digits", latents=4)
    images = Digits().held_out[0][:100]
    tokens, _ = codec.encode(images, Noise.of(torch.arange(100), "codec"))
    assert tokens.shape == (100, 16, 4)
    error = (codec.decode(tokens).float() - images).square().mean().sqrt()
    deviation = images.float().std()
    assert error < 0.25 * deviation


def test_training_lowers_the_error_and_the_codec_reads_the_weights(tmp_path):
    recipe = recipe_of(steps=150, batch=32)
    folder = train_autoencoder(recipe, "a", tmp_path)
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".sha256") == [
        WEIGHTS,
        "report.json",
        "restored.png",
    ]
    report = read_json(folder / "report.json")
    assert report["recipe"]["widths"] == [8, 8]
    untrained = AutoencoderTraining(recipe, Digits())
    images = Digits().held_out[0]
    before = autoencoder.restored_images(untrained.model, images, 17, 64)
    error = (before.float() - images).square().mean().sqrt().item()
    assert report["metrics"]["error"] < 0.7 * error
    assert report["metrics"]["fd_digits"] > 0

    codec = VAE((1, 8, 8), 17, weights=str(folder / WEIGHTS), latents=4)
    x, _ = codec.encode(images[:50], Noise.of(torch.arange(50), "codec"))
    again = (codec.decode(x).float() - images[:50]).square().mean().sqrt().item()
    assert again < 1.5 * report["metrics"]["error"]


def test_a_training_that_was_cut_ends_as_one_that_was_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(autoencoder, "_CHECKPOINT_EVERY", 10)
    recipe = recipe_of(adversarial=0.01)
    whole = train_autoencoder(recipe, "whole", tmp_path)

    advance = AutoencoderTraining.advance

    def cut(training):
        if training.step == 25:
            raise KeyboardInterrupt
        return advance(training)

    monkeypatch.setattr(AutoencoderTraining, "advance", cut)
    with pytest.raises(KeyboardInterrupt):
        train_autoencoder(recipe, "cut", tmp_path)
    monkeypatch.setattr(AutoencoderTraining, "advance", advance)
    resumed = train_autoencoder(recipe, "cut", tmp_path)

    assert "Going on at step 20." in capsys.readouterr().out
    a, b = load_file(whole / WEIGHTS), load_file(resumed / WEIGHTS)
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    train_autoencoder(recipe, "cut", tmp_path)
    assert "is trained already" in capsys.readouterr().out


def test_the_critic_changes_the_second_half_of_a_training_alone():
    with torch.random.fork_rng():
        plain = AutoencoderTraining(recipe_of(steps=20), Digits())
        state = torch.get_rng_state()
        errors = [plain.advance()["error"] for _ in range(20)]
        judged = AutoencoderTraining(recipe_of(steps=20, adversarial=0.1), Digits())
        torch.set_rng_state(state)
        judged_errors = [judged.advance()["error"] for _ in range(20)]
    assert judged_errors[:11] == errors[:11]
    assert judged_errors[12:] != errors[12:]


class Network(torch.nn.Module):
    """In place of LPIPS, whose weights are a download."""

    def forward(self, restored, image):
        assert restored.shape == image.shape and restored.shape[1] == 3
        return (restored - image).abs().mean((1, 2, 3), keepdim=True)


@pytest.fixture
def lpips(monkeypatch):
    monkeypatch.setattr(
        "torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity",
        lambda net_type: SimpleNamespace(net=Network()),
    )


def test_the_perceptual_term_is_of_grey_images_as_coloured_ones(lpips):
    a, b = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    assert autoencoder.Perceptual()(a, b).item() == 1.0


def test_the_perceptual_term_takes_part_in_the_loss(lpips):
    with torch.random.fork_rng():
        plain = AutoencoderTraining(recipe_of(), Digits())
        perceptual = AutoencoderTraining(recipe_of(perceptual=1.0), Digits())
        state = torch.get_rng_state()
        errors = [plain.advance()["error"] for _ in range(3)]
        torch.set_rng_state(state)
        other_errors = [perceptual.advance()["error"] for _ in range(3)]
    assert errors[0] == other_errors[0] and errors[2] != other_errors[2]


def test_without_a_download_the_perceptual_term_is_refused(monkeypatch):
    def refuse(net_type):
        raise OSError("no network")

    monkeypatch.setattr("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", refuse)
    with pytest.raises(ConfigError, match=r"^perceptual: .*no network"):
        autoencoder.Perceptual()


def test_half_precision_halves_the_file(tmp_path):
    full = train_autoencoder(recipe_of(steps=2), "full", tmp_path) / WEIGHTS
    half = train_autoencoder(recipe_of(steps=2, half=True), "half", tmp_path) / WEIGHTS
    a, b = load_file(full), load_file(half)
    assert all(torch.equal(a[key].half(), b[key]) for key in a)
    assert half.stat().st_size < 0.65 * full.stat().st_size


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"latents": 0}, "latents: 0"),
        ({"widths": []}, r"widths: \[\]"),
        ({"widths": [8, 0]}, r"widths: \[8, 0\]"),
        ({"kl_weight": -1.0}, "kl_weight: -1.0 is negative"),
        ({"lr": 0.0}, "lr: 0.0 is not above 0"),
        ({"seed": -1}, "seed: -1"),
        ({"outer": "causal"}, "outer: unknown key"),
        ({"data": "digit"}, "data.kind: unknown kind 'digit'"),
    ],
)
def test_what_is_no_recipe_is_refused_with_its_key(changes, line):
    with pytest.raises(ConfigError, match=f"^{line}"):
        recipe_of(**changes)


def test_vgg_sees_no_images_of_eight_pixels():
    with pytest.raises(ConfigError, match=r"^perceptual: VGG-16 sees no images below 16×16"):
        recipe_of(perceptual=1.0).source()


def test_a_loss_that_is_not_finite_ends_the_training_and_leaves_no_weights(tmp_path):
    with pytest.raises(Diverged, match=r"step \d+: the loss is not finite; choose a smaller lr"):
        train_autoencoder(recipe_of(lr=1e20), "wild", tmp_path)
    assert not list(tmp_path.rglob(WEIGHTS))


@pytest.mark.parametrize("content", [b"no checkpoint", None], ids=["damaged", "other"])
def test_a_checkpoint_that_cannot_be_read_is_told_in_one_line(tmp_path, content):
    recipe = recipe_of()
    checkpoint = tmp_path / f"a-{recipe.signature}" / "checkpoint.pt"
    checkpoint.parent.mkdir()
    torch.save({"step": 3}, checkpoint)
    if content is not None:
        checkpoint.write_bytes(content)
    with pytest.raises(ConfigError, match="remove it to train anew") as caught:
        train_autoencoder(recipe, "a", tmp_path)
    assert str(caught.value).startswith(f"{checkpoint}: ") and "\n" not in str(caught.value)


def test_the_critic_has_a_whole_cycle_of_rates_in_the_second_half():
    with torch.random.fork_rng():
        training = AutoencoderTraining(recipe_of(steps=20, adversarial=0.1), Digits())
        for _ in range(20):
            training.advance()
    rates = [part.schedule.get_last_lr()[0] for part in (training.training, training.critic)]
    assert max(rates) < training.recipe.lr / 10


def test_tokens_are_no_images():
    recipe = recipe_of(data={"kind": "synthetic", "tokens": 2, "features": 2, "classes": 2})
    with pytest.raises(ConfigError, match=r"^data.kind: holds no images"):
        recipe.source()


@pytest.mark.parametrize(
    ("shape", "latents", "line"),
    [
        ((1, 8, 8), 5, "latents: 5 is not the 4 of weights"),
        ((3, 8, 8), 4, "weights: .* does not fit images of 3×8×8"),
    ],
)
def test_weights_of_another_shape_are_refused(tmp_path, shape, latents, line):
    path = tmp_path / "a.safetensors"
    save_file(Autoencoder((1, 8, 8), 4, (8, 8)).state_dict(), path)
    with pytest.raises(ValueError, match=line):
        VAE(shape, 17, weights=str(path), latents=latents)


@pytest.mark.parametrize(
    "state",
    [
        {"encoder.0.weight": torch.zeros(3, 3)},
        {"encoder.0.block.0.weight": torch.zeros(2, 2, 3, 3)},
        {"encoder.conv_in.weight": torch.zeros(2, 2, 3, 3)},
        {"decoder.0.weight": torch.zeros(2, 2, 3, 3)},
    ],
    ids=lambda state: next(iter(state)),
)
def test_a_file_of_other_weights_is_refused(tmp_path, state):
    path = tmp_path / "a.safetensors"
    save_file(state, path)
    with pytest.raises(ValueError, match=r"^weights: the file holds no autoencoder"):
        VAE((1, 8, 8), 17, weights=str(path))


def test_the_command_trains_and_says_how_to_use_it(tmp_path, capsys):
    file = str(EXPERIMENTS / "codecs" / "digits.yaml")
    words = ["steps=2", "widths=[8,8]", "--out", str(tmp_path)]
    assert arinar("train-codec", file, *words) == 0
    (folder,) = tmp_path.iterdir()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"'codec={{kind: vae, latents: 4, weights: {folder / WEIGHTS}}}' uses it."


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_autoencoder_has_the_architecture_of_its_file(name):
    recipe = parse_dataclass(
        AutoencoderRecipe, read_recipe(EXPERIMENTS / "codecs" / f"{name}.yaml"), ""
    )
    state = load_file(ASSETS / f"{name}_vae.safetensors")
    assert architecture_of(state) == (recipe.latents, recipe.widths)
    assert re.fullmatch("[0-9a-f]{8}", recipe.signature)
