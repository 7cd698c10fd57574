"""The KL autoencoder: the numbers of the published code and of diffusers, both formats of file, and
the codec on top of it.
"""

import copy
import json
import math
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from released import DATA, read_shapes, read_tensors
from safetensors.torch import load_file, save_file
from torch import nn

from arinar_lab.model.codecs.codec import CODECS, KL
from arinar_lab.model.codecs.kl_autoencoder import AutoencoderShape, KLAutoencoder
from arinar_lab.model.codecs.kl_checkpoints import (
    LAYOUTS,
    diffusers_names,
    random_kl,
    read_kl,
    weights_fingerprint,
)
from arinar_lab.model.noise import Noise

# KL-16 in small
SMALL = AutoencoderShape(16, (32, 32, 32, 32, 32), blocks=1, encoder_attention=frozenset({4}))


def kl_tiny(folder):
    """The released code's checkpoint, put together from parts that a repository can hold."""
    path, parts = folder / "kl_tiny.ckpt", sorted((DATA / "kl_tiny").glob("*.safetensors"))
    torch.save(
        {"model": {name: value for part in parts for name, value in load_file(part).items()}}, path
    )
    return path


def expected(name):
    return read_tensors(f"{name}_expected.npz")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A checkpoint of the released format: KL-16's layout with random weights,
    some hundred kilobytes.
    """
    path = tmp_path_factory.mktemp("weights") / "kl16.ckpt"
    torch.save({"model": random_kl(SMALL).state_dict()}, path)
    return path


@pytest.fixture
def codec(small):
    return KL((3, 32, 32), 256, weights=str(small))


def pictures(n=3, size=32, seed=0):
    return torch.randint(
        0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


# Numbers of other code


@torch.no_grad()
@pytest.mark.parametrize("name", ["kl_tiny", "kl_diffusers"])
def test_moments_and_images_are_those_of_the_published_code(name, tmp_path):
    """`kl_diffusers` was written by diffusers 0.42.1, and its numbers computed by it; the other
    by the released code.
    """
    path = kl_tiny(tmp_path) if name == "kl_tiny" else DATA / name
    model, reference = read_kl(path).eval(), expected(name)
    assert (model.moments(reference["images"]) - reference["moments"]).abs().max() < 1e-5
    assert (model.restored(reference["latents"]) - reference["decoded"]).abs().max() < 1e-5


def test_the_layout_of_kl16_has_the_published_names_and_shapes():
    published = read_shapes("kl16")
    with torch.device("meta"):
        model = KLAutoencoder(LAYOUTS["kl16"].shape)
        assert (
            AutoencoderShape.of({key: torch.empty(shape) for key, shape in published.items()})
            == LAYOUTS["kl16"].shape
        )

    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == published
    assert (len(published), sum(p.numel() for p in model.parameters())) == (312, 66_456_019)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_name_has_one_of_diffusers_and_back(layout):
    with torch.device("meta"):
        model = KLAutoencoder(LAYOUTS[layout].shape)
    names = diffusers_names(model)
    assert sorted(names.values()) == sorted(model.state_dict())
    assert not any(
        part in key
        for key in names
        for part in (".down.", ".up.", ".mid.", ".block", ".attn", "nin_")
    )


def test_the_map_is_complete_for_a_file_that_diffusers_wrote():
    model = read_kl(DATA / "kl_diffusers")
    assert set(diffusers_names(model)) == set(
        load_file(DATA / "kl_diffusers" / "diffusion_pytorch_model.safetensors")
    )
    assert model.shape == AutoencoderShape(4, (32, 32), 1, frozenset({1}), frozenset({1}))


@pytest.mark.parametrize(
    ("layout", "channels", "stride"), [("kl16", 16, 16), ("sd", 4, 8), ("f16d32", 32, 16)]
)
def test_layouts_have_the_published_channels_and_strides(layout, channels, stride):
    assert (LAYOUTS[layout].shape.channels, LAYOUTS[layout].shape.stride) == (channels, stride)


# Files


def same(a, b):
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


def test_files_may_say_more_and_have_other_wrappers(tmp_path, small):
    model = random_kl(SMALL)
    state = model.state_dict()
    torch.save(
        {"state_dict": {**state, "loss.discriminator.weight": torch.zeros(3)}, "epoch": 4},
        tmp_path / "a.pt",
    )
    torch.save(state, tmp_path / "b.pth")
    save_file(state, tmp_path / "c.safetensors")

    assert all(same(read_kl(path), model) for path in (small, *sorted(tmp_path.iterdir())))


def test_older_names_of_diffusers_are_read(tmp_path):
    folder = shutil.copytree(DATA / "kl_diffusers", tmp_path / "older")
    file = folder / "diffusion_pytorch_model.safetensors"
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(file)

    for today, former in older.items():
        state = {key.replace(f".{today}.", f".{former}."): value for key, value in state.items()}
    assert any(".query." in key for key in state)
    save_file(state, file)

    assert same(read_kl(folder), read_kl(DATA / "kl_diffusers"))


class Code:
    def __reduce__(self):
        return print, ("code was run",)


def faults(folder: Path, small: Path) -> dict[str, tuple[Path, str]]:
    """Files that must be refused, and what is said of them."""
    (folder / "truncated.ckpt").write_bytes(small.read_bytes()[:5000])
    (folder / "truncated.safetensors").write_bytes(b"\x08\x00\x00\x00")
    torch.save({"model": Code()}, folder / "code.ckpt")
    (folder / "pickle.ckpt").write_bytes(pickle.dumps({"model": Code()}, protocol=2))
    torch.save(torch.zeros(3), folder / "tensor.ckpt")
    torch.save({"model": {"weight": torch.zeros(3)}}, folder / "other.ckpt")
    state = random_kl(SMALL).state_dict()
    torch.save(
        {"model": {**state, "encoder.conv_out.weight": torch.zeros(32, 32, 1, 1)}},
        folder / "shape.ckpt",
    )
    torch.save(
        {"model": {k: v for k, v in state.items() if k != "quant_conv.bias"}}, folder / "lacks.ckpt"
    )
    (folder / "empty").mkdir()
    for name, change in {
        "class": {"_class_name": "VQModel"},
        "shift": {"shift_factor": 0.1},
    }.items():
        copied = shutil.copytree(DATA / "kl_diffusers", folder / name)
        config = json.loads((copied / "config.json").read_text())
        (copied / "config.json").write_text(json.dumps({**config, **change}))

    shutil.copytree(DATA / "kl_diffusers", folder / "weightless")
    (folder / "weightless" / "diffusion_pytorch_model.safetensors").unlink()
    cases = {
        "none.ckpt": "no such file",
        "truncated.ckpt": "damaged",
        "truncated.safetensors": "damaged",
        "code.ckpt": "refused",
        "pickle.ckpt": "refused",
        "tensor.ckpt": "no weights by name",
        "other.ckpt": "no KL autoencoder",
        "shape.ckpt": "encoder.conv_out.weight",
        "lacks.ckpt": "quant_conv.bias",
        "empty": "config.json",
        "class": "VQModel",
        "shift": "shift_factor 0.1",
        "weightless": "no such file",
        "kl_tiny.ckpt": "4 channels at stride 2",
    }
    kl_tiny(folder)

    return {name: (folder / name, words) for name, words in cases.items()}


def test_what_is_no_such_file_is_refused_in_one_line_and_no_code_is_run(tmp_path, small, capsys):
    for path, words in faults(tmp_path, small).values():
        codec = KL((3, 32, 32), 256, weights=str(path))
        with pytest.raises(ValueError, match=words) as caught:
            codec.prepare()
        text = str(caught.value)
        assert (
            text.startswith("weights: ")
            and path.name in text
            and "\n" not in text
            and len(text) < 500
        )

    assert capsys.readouterr().out == ""


# The codec


def test_it_is_registered_and_knows_its_tokens_without_the_weights():
    codec = CODECS["kl"]((3, 256, 256), 256, weights="nowhere.ckpt")
    assert (codec.tokens, codec.features, codec.dims, codec.unit) == (256, 16, 4096, "latent")
    assert (codec.scale, KL((3, 256, 256), 256, weights="", layout="sd").scale) == (0.2325, 0.18215)
    assert KL((3, 256, 256), 256, weights="", layout="f16d32", scale=0.5).scale == 0.5


@pytest.mark.parametrize(
    ("shape", "levels", "words", "arguments"),
    [
        ((1, 32, 32), 256, "three colours", {}),
        ((4, 4), 0, "three colours", {}),
        (
            (3, 40, 32),
            256,
            "layout: kl16 has stride 16, which does not divide the image, 40×32",
            {},
        ),
        ((3, 32, 32), 256, "scale: 0.0 is not above 0", {"scale": 0.0}),
    ],
)
def test_data_that_do_not_fit_are_refused(shape, levels, words, arguments):
    with pytest.raises(ValueError, match=words):
        KL(shape, levels, weights="", **arguments)


@torch.no_grad()
def test_tokens_are_scaled_draws_from_the_posterior(codec):
    """Over many draws their mean and deviation are the scaled moments; log σ² is
    clamped as published.
    """
    n = 4000
    mean, log_var = torch.tensor([0.5, -2.0]).repeat(8), torch.linspace(-40, 2, 16)
    moments = torch.cat([mean, log_var]).reshape(1, 32, 1, 1).expand(n, 32, 2, 2)
    x, log_det = codec.encode(moments, Noise.of(torch.arange(n)))
    assert x.shape == (n, 4, 16)
    std = (log_var.clamp(min=-30) / 2).exp()

    assert (
        (x.double().mean((0, 1)) / 0.2325 - mean).abs() < 5 * std / math.sqrt(4 * n) + 1e-5
    ).all()
    assert (x.flatten(0, 1).double().std(0)[6:] / 0.2325 / std[6:] - 1).abs().max() < 0.05
    assert torch.allclose(log_det, torch.full((n,), 64 * math.log(0.2325)))


@torch.no_grad()
def test_the_place_of_a_latent_is_its_token(codec):
    moments = torch.full((1, 32, 2, 2), -40.0)
    moments[:, :16] = torch.arange(64.0).reshape(1, 16, 2, 2)
    x, _ = codec.encode(moments, Noise.of(torch.arange(1)))
    assert torch.allclose(x[0, 1] / 0.2325, torch.arange(1.0, 64, 4), atol=1e-4)


@torch.no_grad()
def test_moments_stand_for_the_images_and_a_token_depends_on_its_own_image_alone(codec):
    image, noise = pictures(18), Noise.of(torch.arange(18))
    x, _ = codec.encode(image, noise)
    assert torch.equal(codec.encode(codec.moments(image), noise)[0], x)
    alone, _ = codec.encode(image[17:], Noise.of(torch.tensor([17])))
    assert torch.allclose(alone, x[17:], atol=1e-5)
    assert not torch.allclose(codec.encode(image, Noise.of(torch.arange(18) + 1))[0], x, atol=1e-3)


@torch.no_grad()
def test_decoding_undoes_scale_and_normalisation_and_gives_grey_levels(small):
    """A decoder of known answer stands in: its image is the latents' first three channels."""
    codec = KL((3, 32, 32), 256, weights=str(small), normalise="channel")
    codec.fit(pictures(4), Noise.of(torch.arange(4)))
    z = torch.linspace(-1.2, 1.2, 64).reshape(1, 16, 2, 2)
    x, _ = codec.encode(torch.cat([z, torch.full_like(z, -60.0)], 1), Noise.of(torch.arange(1)))
    codec._frozen.module.restored = lambda latents: latents[:, :3]
    reference = ((z[:, :3] + 1) / 2 * 255).round().clamp(0, 255)
    assert (codec.decode(x).float() - reference).abs().max() <= 1
    assert codec.decode(x).dtype == torch.uint8


@torch.no_grad()
def test_statistics_measured_on_data_give_unit_channels_and_count_in_log_det(small):
    codec, image, noise = (
        KL((3, 32, 32), 256, weights=str(small), normalise="channel"),
        pictures(8),
        Noise.of(torch.arange(8)),
    )
    codec.fit(image, noise)
    x, log_det = codec.encode(image, noise)
    assert (
        torch.allclose(x.std((0, 1)), torch.ones(16), atol=1e-3)
        and x.mean((0, 1)).abs().max() < 1e-3
    )

    def map_of(z):
        return codec._normalised(codec.scale * z.reshape(1, 4, 16)).flatten()

    with torch.enable_grad():
        jacobian = torch.autograd.functional.jacobian(map_of, torch.zeros(64))
    assert log_det[0].item() == pytest.approx(
        torch.linalg.slogdet(jacobian).logabsdet.item(), abs=1e-3
    )
    assert set(codec.state_dict()) == {"mean", "std", "fingerprint"}


def test_the_autoencoder_is_shared_frozen_and_no_part_of_a_run(codec):
    codec.prepare()
    assert not list(codec.parameters()) and set(codec.state_dict()) == {
        "mean",
        "std",
        "fingerprint",
    }
    twin = copy.deepcopy(nn.ModuleDict({"codec": codec}))["codec"]

    assert twin._frozen is codec._frozen and codec.fingerprint != 0
    assert not any(p.requires_grad for p in codec._frozen.module.parameters())
    assert codec.networks == (codec, codec._frozen.module)


@torch.no_grad()
def test_another_autoencoder_than_the_runs_is_refused(tmp_path, codec):
    codec.prepare()
    other = random_kl(SMALL)
    other.quant_conv.bias[3] += 1e-3
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    changed = KL((3, 32, 32), 256, weights=str(tmp_path / "other.safetensors"))
    changed.load_state_dict(codec.state_dict())  # weights are read later
    with pytest.raises(ValueError, match="is not the autoencoder that this run was trained with"):
        changed.prepare()
    changed = KL((3, 32, 32), 256, weights=str(tmp_path / "other.safetensors"))
    changed.prepare()
    with pytest.raises(RuntimeError, match="is not the autoencoder that this run was trained with"):
        changed.load_state_dict(codec.state_dict())


def test_a_fingerprint_is_of_names_and_weights_whatever_the_file(tmp_path, codec):
    codec.prepare()
    save_file(random_kl(SMALL).state_dict(), tmp_path / "same.safetensors")
    assert weights_fingerprint(read_kl(tmp_path / "same.safetensors")) == codec.fingerprint
    model = random_kl(SMALL)
    encoder = model.encoder.mid
    encoder.block_1, encoder.block_2 = encoder.block_2, encoder.block_1
    assert weights_fingerprint(model) != codec.fingerprint


def test_building_and_reading_leave_the_global_generator_as_it_was(small):
    state = torch.get_rng_state()
    read_kl(small)
    random_kl(SMALL)
    assert torch.equal(torch.get_rng_state(), state)
    assert same(random_kl(SMALL), random_kl(SMALL))
