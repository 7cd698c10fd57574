import math

import pytest
import torch
from safetensors.torch import save_file

from arinar_lab.data.sources import Digits
from arinar_lab.model.codecs.autoencoder import Autoencoder
from arinar_lab.model.codecs.codec import VAE, Pixels, Tokens
from arinar_lab.model.noise import Noise

DIGITS = Digits()
IMAGES = DIGITS.held_out[0]
NOISE = Noise.of(torch.arange(len(IMAGES)))


def pixels(**arguments):
    codec = Pixels((1, 8, 8), 17, **arguments)
    codec.fit(DIGITS.train[0], Noise.of(torch.arange(len(DIGITS.train[0])), "fit"))
    return codec


@pytest.mark.parametrize("normalise", ["none", "scale", "channel"])
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_pixels_survive_the_round_trip(normalise, patch):
    codec = pixels(normalise=normalise, patch=patch)
    x, _ = codec.encode(IMAGES, NOISE)
    assert x.shape == (len(IMAGES), (8 // patch) ** 2, patch**2)
    assert torch.equal(codec.decode(x), IMAGES)


@pytest.mark.parametrize("normalise", ["none", "scale", "channel", "whiten"])
def test_log_det_is_the_autograd_log_determinant(normalise):
    codec = pixels(normalise=normalise)

    def encode(raw):
        return codec._normalised(codec._patches(raw.reshape(1, 1, 8, 8))).flatten()

    jacobian = torch.autograd.functional.jacobian(encode, IMAGES[0].flatten().float())
    _, log_det = codec.encode(IMAGES, NOISE)
    assert log_det[0].item() == pytest.approx(
        torch.linalg.slogdet(jacobian).logabsdet.item(), abs=1e-4
    )


def test_uniform_noise_costs_log2_of_the_levels_per_dimension():
    """A density that is uniform over all grey levels has log2(17) bits/dim."""
    codec = pixels()
    _, log_det = codec.encode(IMAGES, NOISE)
    log_prob = torch.full((len(IMAGES),), -codec.dims * math.log(2.0))  # uniform on [-1, 1]
    bits = -(log_prob + log_det) / (codec.dims * math.log(2))
    assert torch.allclose(bits, torch.tensor(math.log2(17)))


def test_the_box_of_a_level_holds_what_was_dequantised_and_is_one_level_wide():
    codec = pixels(normalise="channel")
    (low, high), (x, _) = codec.box(IMAGES), codec.encode(IMAGES, NOISE)
    assert (low <= x).all()
    assert (x <= high).all()
    assert torch.allclose((high - low) * codec.std, torch.tensor(2 / 17))


def test_normalised_training_tokens_have_the_deviation_one():
    codec, noise = pixels(normalise="channel"), Noise.of(torch.arange(len(DIGITS.train[0])), "fit")
    x, _ = codec.encode(DIGITS.train[0], noise)
    assert torch.allclose(x.std((0, 1)), torch.ones(4), atol=1e-4)
    assert x.mean((0, 1)).abs().max() < 1e-4


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_whitened_training_tokens_have_unit_covariance_and_find_back(patch):
    codec, noise = (
        pixels(normalise="whiten", patch=patch),
        Noise.of(torch.arange(len(DIGITS.train[0])), "fit"),
    )
    x, _ = codec.encode(DIGITS.train[0], noise)
    d = patch**2
    assert torch.allclose(
        x.double().flatten(0, 1).T.cov().reshape(d, d), torch.eye(d).double(), atol=1e-4
    )
    assert x.mean((0, 1)).abs().max() < 1e-4
    # rounding moves a number across a level's edge now and then
    changed = codec.decode(x) != DIGITS.train[0]
    assert changed.float().mean() < 1e-4
    raw, _ = codec._encode(DIGITS.train[0], noise)
    assert (codec.axes.T @ codec.axes - torch.eye(d)).abs().max() < 1e-5

    back = ((x @ codec.axes) * codec.std) @ codec.axes.T + codec.mean
    assert (back - raw).abs().max() < 1e-5


def test_whitening_moves_the_tokens_least():
    """Of all maps to unit covariance the symmetric one leaves each feature
    most like itself (ZCA).
    """
    codec, noise = pixels(normalise="whiten"), Noise.of(torch.arange(len(DIGITS.train[0])), "fit")
    x, (raw, _) = (
        codec.encode(DIGITS.train[0], noise)[0].flatten(0, 1),
        codec._encode(DIGITS.train[0], noise),
    )
    likeness = torch.corrcoef(torch.cat([raw.flatten(0, 1), x], 1).T)[:4, 4:]
    assert (likeness.argmax(1) == torch.arange(4)).all()
    assert torch.allclose(likeness, likeness.T, atol=0.05)


def test_a_whitened_token_has_no_box_and_a_constant_feature_stays_finite():
    assert pixels(normalise="whiten").box(IMAGES) is None
    codec, x = (
        Tokens((5, 3), 0, normalise="whiten"),
        torch.randn(200, 5, 3, generator=torch.Generator().manual_seed(0)),
    )
    x[..., 1] = 0.25
    codec.fit(x, Noise.of(torch.arange(200)))
    encoded, log_det = codec.encode(x, Noise.of(torch.arange(200)))

    assert encoded.isfinite().all()
    assert log_det.isfinite().all()
    assert torch.allclose(codec.decode(encoded), x, atol=1e-4)


@pytest.mark.parametrize("normalise", ["none", "scale", "channel"])
def test_other_normalisations_keep_their_state(normalise):
    assert set(Tokens((5, 3), 0, normalise=normalise).state_dict()) == {"mean", "std"}


def test_the_shipped_autoencoder_restores_held_out_digits():
    codec = VAE((1, 8, 8), 17)
    x, log_det = codec.encode(IMAGES, NOISE)
    error = (codec.decode(x).float() - IMAGES.float()).abs().mean()
    assert x.shape == (len(IMAGES), 16, 4)
    assert error < 0.5  # grey levels of 16, posterior noise included
    assert log_det.abs().max() == 0


def test_latents_are_normalised_and_log_det_says_so():
    codec = VAE((1, 8, 8), 17, normalise="scale")
    codec.fit(IMAGES, NOISE)
    x, log_det = codec.encode(IMAGES, NOISE)
    assert x.std().item() == pytest.approx(1, abs=1e-3)
    assert log_det[0].item() == pytest.approx(-64 * math.log(codec.std[0].item()), rel=1e-5)


def test_tokens_pass_through():
    x = torch.randn(3, 5, 2)
    codec = Tokens((5, 2), 0)
    encoded, log_det = codec.encode(x, Noise.of(torch.arange(3)))
    assert torch.equal(encoded, x)
    assert torch.equal(codec.decode(encoded), x)
    assert log_det.abs().max() == 0


def test_weights_that_are_missing_damaged_or_misfit_are_refused_in_one_line(tmp_path):
    damaged, misfit = tmp_path / "damaged.safetensors", tmp_path / "misfit.safetensors"
    damaged.write_bytes(b"\x08\x00\x00\x00")
    save_file(Autoencoder((3, 8, 8), 4, (8, 8)).state_dict(), misfit)
    for path, reason in [
        (tmp_path / "none", "is not a file"),
        (damaged, ": damaged"),
        (misfit, "does not fit"),
    ]:
        with pytest.raises(ValueError, match=reason) as caught:
            VAE((1, 8, 8), 17, weights=str(path))
        assert str(caught.value).startswith("weights: ")
        assert "\n" not in str(caught.value)
