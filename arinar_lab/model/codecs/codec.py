"""Codecs: images ↔ tokens, with the log-determinant that turns a density of tokens into
one of the raw data.

    encode(image, noise) → x [B, N, D], log_det [B]      log p(raw) = log p(x) + log_det
    decode(x)            → image [B, C, H, W], integer grey levels

    bits/dim = -(log p(x) + log_det) / (dims · ln 2)

`unit` says whose density it is: `pixel` (dequantised integers, in grey levels), `latent` (an
autoencoder has no density of pixels, so the raw latents are what is compared) or `token` (data that
are tokens already). Latents are normalised here, because statistics belong to the codec, measured
once on the training data:

    none                    x
    scale, channel          (x - μ) / σ             one σ and μ = 0, or each feature's own
    whiten                  ((x - μ) U / σ) Uᵀ      with the covariance U diag(σ²) Uᵀ of the
                                                    features (ZCA: of all linear maps to unit
                                                    covariance the one that moves the tokens least)

U is orthogonal, so log_det is -N Σ log σ in every case.

Letters: B images, N tokens, D features a token, C×H×W an image, P patch side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..layers import project_on_axes
from ..noise import Noise
from ..weight_files import read_safetensors
from .kl_autoencoder import KLAutoencoder
from .kl_checkpoints import LAYOUTS, random_kl, read_kl, weights_fingerprint

Normalisation = Literal["none", "scale", "channel", "whiten"]
# the least deviation along an axis, as a share of the largest: a whitened constant would blow up
_FLATTEST = 1e-4
# mean and deviation of red, green, blue in [0, 1]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ASSETS = Path(__file__).parents[2] / "assets"


class Codec(nn.Module):
    """Images to tokens and back. The constructor takes the shape of the data and its
    number of grey levels.

    Attributes:
        tokens, features: N, D.
        dims: raw dimensions of an image, the divisor of bits/dim.
        mean, std: μ and σ of the tokens, [D]; axes: U [D, D], where the tokens are whitened.
        unit: whose density bits/dim is: `pixel`, `latent` or `token`.
        raw_unit: how long one raw unit is in tokens before they are normalised.
    """

    raw_unit: float = 1.0
    unit: Literal["pixel", "latent", "token"]
    tokens: int
    features: int
    dims: int
    mean: Tensor
    std: Tensor
    axes: Tensor

    def __init__(self, tokens: int, features: int, normalise: Normalisation) -> None:
        super().__init__()
        self.tokens, self.features, self.dims, self.normalise = (
            tokens,
            features,
            tokens * features,
            normalise,
        )
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        if normalise == "whiten":
            self.register_buffer("axes", torch.eye(features))

    def encode(self, image: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Tokens x [B, N, D] and log |dx/d raw| [B]; noise [B] dequantises or
        draws from a posterior.
        """
        x, log_det = self._encode(image, noise)
        return self._normalised(x), log_det - self.tokens * self.std.log().sum()

    def moments(self, image: Tensor) -> Tensor:
        """Of the posterior that tokens are drawn from: means, then log-variances, [B, 2D, H, W].

        A cache keeps them. They (floats) stand in place of the images (bytes) from then on:
        they pass as they are.

        Raises:
            ValueError: if this codec has no posterior.
        """
        raise ValueError(
            f"kind: {type(self).__name__.lower()} draws tokens from no posterior; there is "
            "nothing to cache"
        )

    def decode(self, x: Tensor) -> Tensor:
        """Images of tokens x [B, N, D]."""
        if self.normalise == "whiten":
            return self._decode(
                project_on_axes(project_on_axes(x, self.axes) * self.std, self.axes.T) + self.mean
            )
        return self._decode(x * self.std + self.mean)

    def box(self, image: Tensor) -> tuple[Tensor, Tensor] | None:
        """The ends [B, N, D] of the grey levels that the image has, in units of the tokens.

        None for latents, and for whitened tokens: a box that is turned is none.
        """
        return None

    def around(self, x: Tensor, delta: float) -> tuple[Tensor, Tensor] | None:
        """The ends [B, N, D] of tokens x ± Δ/2, with Δ in raw units; None for whitened tokens."""
        if self.normalise == "whiten":
            return None
        half = delta / 2 * self.raw_unit / self.std.double()
        return x.double() - half, x.double() + half

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """All that has weights: itself, and what it holds beside its own."""
        return (self,)

    def prepare(self) -> None:
        """Read the files that the constructor leaves, so that a recipe can be checked without them.

        Raises:
            ValueError: in one line, if one is missing, damaged or does not fit.
        """

    @torch.no_grad()
    def fit(self, images: Tensor, noise: Noise) -> None:
        """Measure the normalisation on training images, once."""
        if self.normalise == "none":
            return

        x, _ = self._encode(images, noise)
        if self.normalise == "scale":
            self.std.fill_(x.std())
        elif self.normalise == "channel":
            self.mean.copy_(x.mean((0, 1)))
            self.std.copy_(x.std((0, 1)))
        elif self.normalise == "whiten":
            variance, axes = torch.linalg.eigh(
                x.double().flatten(0, 1).T.cov().reshape(self.features, self.features)
            )
            std = variance.clamp(min=0).sqrt()
            self.mean.copy_(x.mean((0, 1)))
            self.std.copy_(std.clamp(min=_FLATTEST * std.max()))
            self.axes.copy_(axes)

    def _normalised(self, x: Tensor) -> Tensor:
        if self.normalise == "whiten":
            return project_on_axes(
                project_on_axes(x - self.mean, self.axes) / self.std, self.axes.T
            )
        return (x - self.mean) / self.std

    def _encode(self, image: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _decode(self, x: Tensor) -> Tensor:
        raise NotImplementedError


def imagenet(levels: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation [3] of ImageNet's colours, in units of x = 2
    (i + 1/2) / L - 1 for i / (L - 1).
    """
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in IMAGENET)
    scale = 2 * (levels - 1) / levels
    return (mean - 0.5) * scale, std * scale


class Pixels(Codec):
    """P×P patches of uniformly dequantised grey levels: x = 2 (i + u) / L - 1 with u from [0,
    1) (arXiv 1511.01844).

    Arguments:
        patch: P, must divide height and width.
        normalise: of the tokens; `imagenet` by the constants of that collection, for each colour.
        dequantise: whether u is drawn. Otherwise it is 1/2, the centre of the level: for inner
            models that give integers a probability (`colour`), whose bits/dim is then exact for the
            integers. Other densities would grow spikes.

    Raises:
        ValueError: if the data are no images, patch does not divide them, or imagenet is asked for
            without three colours.
    """

    unit = "pixel"

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int,
        /,
        *,
        patch: int = 2,
        normalise: Literal["none", "scale", "channel", "imagenet"] = "none",
        dequantise: bool = True,
    ) -> None:
        if len(shape) != 3:
            raise ValueError(
                "kind: pixels encodes images, and these data are tokens; use kind: tokens"
            )
        channels, height, width = shape
        if patch < 1 or height % patch or width % patch:
            raise ValueError(f"patch: {patch} does not divide the image, {height}×{width}")
        known = normalise == "imagenet"
        if known and channels != 3:
            raise ValueError(
                f"normalise: imagenet knows three colours, and these data have {channels}"
            )

        super().__init__(
            (height // patch) * (width // patch),
            channels * patch**2,
            "none" if normalise == "imagenet" else normalise,
        )
        self.shape, self.levels, self.patch, self.dequantise = shape, levels, patch, dequantise
        self.placed = normalise
        self.raw_unit = 2 / levels

        if known:
            mean, std = imagenet(levels)
            self.mean.copy_(mean.repeat_interleave(patch**2))
            self.std.copy_(std.repeat_interleave(patch**2))

    def _encode(self, image: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        u = noise.uniform(self.dims, torch.float32).reshape(image.shape) if self.dequantise else 0.5
        x = self._patches(image + u)
        return x, x.new_full(x.shape[:1], self.dims * math.log(2 / self.levels))

    def _patches(self, raw: Tensor) -> Tensor:
        return nn.functional.unfold(
            2 * raw / self.levels - 1, self.patch, stride=self.patch
        ).transpose(1, 2)

    def _decode(self, x: Tensor) -> Tensor:
        image = nn.functional.fold(x.transpose(1, 2), self.shape[1:], self.patch, stride=self.patch)
        return ((image + 1) / 2 * self.levels).floor().clamp(0, self.levels - 1).to(torch.uint8)

    def box(self, image: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.normalise == "whiten":
            return None
        low, high = (self._normalised(self._patches(image.float() + end)) for end in (0, 1))
        return low, high


class Tokens(Codec):
    """Data that are tokens already: [B, N, D] as it is.

    Raises:
        ValueError: if the data are images.
    """

    unit = "token"

    def __init__(
        self, shape: tuple[int, ...], levels: int, /, *, normalise: Normalisation = "none"
    ) -> None:
        if len(shape) != 2:
            raise ValueError(
                "kind: tokens passes tokens through, and these data are images; use kind: "
                "pixels or vae"
            )
        super().__init__(shape[0], shape[1], normalise)

    def _encode(self, image: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        return image, image.new_zeros(image.shape[0])

    def _decode(self, x: Tensor) -> Tensor:
        return x


class Latents(Codec):
    """Latents of an autoencoder that are data already: [B, C, H, W], one position a
    token, N = H·W and D = C.

    Arguments:
        scale: what they are multiplied by before `normalise` (0.2325 for the published KL-16,
            0.18215 for Stable Diffusion's).
        normalise: of the tokens; `none` where the scale is given.

    Raises:
        ValueError: if the data are no [C, H, W], or scale is not above 0.
    """

    unit = "latent"

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int,
        /,
        *,
        scale: float = 1.0,
        normalise: Normalisation = "none",
    ) -> None:
        if len(shape) != 3 or levels:
            raise ValueError(
                "kind: latents passes latents through, and these data are none; use kind: "
                "vae or tokens"
            )

        if not scale > 0:
            raise ValueError(f"scale: {scale} is not above 0")

        super().__init__(shape[1] * shape[2], shape[0], normalise)
        self.grid, self.scale, self.raw_unit = shape[1:], scale, scale

    def _encode(self, image: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        x = self.scale * image.float().flatten(2).transpose(1, 2)
        return x, x.new_full(x.shape[:1], self.dims * math.log(self.scale))

    def _decode(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).unflatten(2, self.grid) / self.scale


class Autoencoder(nn.Module):
    """Small convolutional autoencoder of stride 2: [B, C, H, W] ↔ moments [B, 2·latents, H/2, W/2].

    The moments are means then log-variances, as in the published KL autoencoder.
    """

    def __init__(self, channels: int, latents: int, width: int = 48) -> None:
        super().__init__()

        def conv(inside: int, outside: int, stride: int = 1) -> nn.Conv2d:
            return nn.Conv2d(inside, outside, 3, stride, 1)

        self.encoder = nn.Sequential(
            conv(channels, width),
            nn.SiLU(),
            conv(width, width, 2),
            nn.SiLU(),
            conv(width, width),
            nn.SiLU(),
            conv(width, 2 * latents),
        )
        self.decoder = nn.Sequential(
            conv(latents, width),
            nn.SiLU(),
            conv(width, width),
            nn.SiLU(),
            nn.ConvTranspose2d(width, width, 4, 2, 1),
            nn.SiLU(),
            conv(width, width),
            nn.SiLU(),
            conv(width, channels),
        )

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [B, latents, H/2, W/2] for images scaled to [-1, 1]."""
        return posterior(self.encoder(image))


def posterior(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [B, D, H, W] of moments [B, 2D, H, W]:
    means, then log-variances.
    """
    mean, log_var = moments.chunk(2, 1)
    return mean, (log_var.clamp(-30, 20) / 2).exp()


class VAE(Codec):
    """Tokens are the latents of a frozen KL autoencoder, one position a token,
    drawn from its posterior.

    Arguments:
        weights: a shipped autoencoder (`digits`), or the path of a safetensors file.
        latents: D.
        normalise: of the latents.

    Raises:
        ValueError: if the data are no images, or the weights are missing, damaged or do not fit.
    """

    unit = "latent"

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int,
        /,
        *,
        weights: str = "digits",
        latents: int = 4,
        normalise: Normalisation = "scale",
    ) -> None:
        if len(shape) != 3:
            raise ValueError(
                "kind: vae encodes images, and these data are tokens; use kind: tokens"
            )

        channels, height, width = shape
        super().__init__((height // 2) * (width // 2), latents, normalise)
        self.grid, self.levels = (height // 2, width // 2), levels
        self.autoencoder = Autoencoder(channels, latents).requires_grad_(False).eval()
        load_safetensors(
            self.autoencoder,
            ASSETS / "digits_vae.safetensors" if weights == "digits" else Path(weights),
        )

    def moments(self, image: Tensor) -> Tensor:
        if image.is_floating_point():
            return image.float()
        return self.autoencoder.encoder(2 * image.float() / (self.levels - 1) - 1)

    def _encode(self, image: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        mean, std = posterior(self.moments(image))
        z = mean + std * noise.normal(self.dims).reshape(mean.shape)
        return z.flatten(2).transpose(1, 2), mean.new_zeros(mean.shape[0])

    def _decode(self, x: Tensor) -> Tensor:
        image = self.autoencoder.decoder(x.transpose(1, 2).unflatten(2, self.grid))
        return (
            ((image + 1) / 2 * (self.levels - 1)).round().clamp(0, self.levels - 1).to(torch.uint8)
        )


class FrozenAutoencoder:
    """An autoencoder that is neither trained, averaged nor saved with a run: copies share it; it
    goes where it is needed.
    """

    def __init__(self, module: KLAutoencoder) -> None:
        self.module, self.fingerprint = (
            module.requires_grad_(False).eval(),
            weights_fingerprint(module),
        )

    def on(self, device: torch.device) -> KLAutoencoder:
        return self.module.to(device)

    def __deepcopy__(self, memo: dict[int, object]) -> FrozenAutoencoder:
        return self


class KL(Codec):
    """Tokens are latents z ~ N(μ, σ²) of a published KL autoencoder (`kl_autoencoder.py`), times a
    scale; one position a token.

        x = scale · z,   log_det = N D log(scale):   bits/dim is of the raw latents

    In place of images `encode` takes moments (μ, log σ²), as a latent cache keeps them. The
    autoencoder is no part of a run's files: they keep its fingerprint, and another one is refused.

    Arguments:
        weights: a folder of the diffusers library, or a checkpoint of the released code (`.ckpt`,
            `.pt`, `.safetensors`). It is read when it is first needed. `random` are random ones of
            the layout's full size, to try out and to time.
        layout: `kl16` (D = 16, stride 16; MAR's and ARINAR's), `sd` (4, 8) or `f16d32` (32, 16).
        scale: None is the published one: 0.2325, 0.18215 and 1 (`f16d32` is published with
            `normalise: channel`).
        normalise: of the scaled latents.

    Raises:
        ValueError: if the data are no colour images of a size that the stride divides, or scale is
            not above 0; on reading, if the weights are missing, damaged, hold code, have another
            layout, or are not those of the run.
    """

    unit = "latent"
    fingerprint: Tensor
    # images that pass the autoencoder together: one of 256×256 takes 34 MB in
    # each layer at full size
    _AT_ONCE = 16

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int,
        /,
        *,
        weights: str,
        layout: Literal["kl16", "sd", "f16d32"] = "kl16",
        scale: float | None = None,
        normalise: Normalisation = "none",
    ) -> None:
        published = LAYOUTS[layout]
        stride = published.shape.stride
        if len(shape) != 3 or shape[0] != 3 or not levels:
            raise ValueError(
                f"kind: kl encodes images of three colours, and these data are {shape}; use "
                "another kind"
            )

        if shape[1] % stride or shape[2] % stride:
            raise ValueError(
                f"layout: {layout} has stride {stride}, which does not divide the image, "
                f"{shape[1]}×{shape[2]}"
            )

        grid = (shape[1] // stride, shape[2] // stride)
        super().__init__(math.prod(grid), published.shape.channels, normalise)
        self.scale = self.raw_unit = published.scale if scale is None else scale
        if not self.scale > 0:
            raise ValueError(f"scale: {scale} is not above 0")
        self.grid, self.weights, self.layout, self.levels = grid, weights, layout, levels
        self.register_buffer("fingerprint", torch.zeros((), dtype=torch.int64))  # 0: not known yet
        self._frozen: FrozenAutoencoder | None = None

    def prepare(self) -> None:
        if self._frozen is None:
            self._frozen = FrozenAutoencoder(self._read())
        if self._other(self.fingerprint):
            raise ValueError(
                f"weights: {self.weights!r} is not the autoencoder that this run was trained with"
            )
        self.fingerprint.copy_(self._frozen.fingerprint)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return (self,) if self._frozen is None else (self, self._frozen.module)

    def _read(self) -> KLAutoencoder:
        wanted = LAYOUTS[self.layout].shape
        if self.weights == "random":
            return random_kl(wanted)
        try:
            model = read_kl(Path(self.weights))
        except ValueError as error:
            raise ValueError(f"weights: {error}") from None

        there = model.shape
        if (there.channels, there.stride) != (wanted.channels, wanted.stride):
            raise ValueError(
                f"weights: {self.weights!r} has {there.channels} channels at stride"
                f" {there.stride}, and layout: {self.layout} has {wanted.channels} at"
                f" {wanted.stride}"
            )

        return model

    def _other(self, known: Tensor) -> bool:
        """Whether a fingerprint is known, and not that of the weights at hand."""
        return self._frozen is not None and known.item() not in (0, self._frozen.fingerprint.item())

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *others: Any) -> None:
        name = f"{prefix}fingerprint"
        if name in state and self._other(state[name]):
            others[-1].append(
                f"{self.weights!r} is not the autoencoder that this run was trained with"
            )
        super()._load_from_state_dict(state, prefix, *others)

    def _autoencoder(self, x: Tensor) -> KLAutoencoder:
        if self._frozen is None:
            self.prepare()
        assert self._frozen is not None
        return self._frozen.on(x.device)

    def moments(self, image: Tensor) -> Tensor:
        if image.is_floating_point():
            return image.float()
        network, x = self._autoencoder(image), 2 * image.float() / (self.levels - 1) - 1
        with torch.autocast(x.device.type, enabled=False):
            return torch.cat([network.moments(part) for part in x.split(self._AT_ONCE)])

    def _encode(self, image: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        mean, std = posterior(self.moments(image))
        z = mean + std * noise.normal(self.dims).reshape(mean.shape)
        x = self.scale * z.flatten(2).transpose(1, 2)
        return x, x.new_full(x.shape[:1], self.dims * math.log(self.scale))

    def _decode(self, x: Tensor) -> Tensor:
        z, network = (
            x.float().transpose(1, 2).unflatten(2, self.grid) / self.scale,
            self._autoencoder(x),
        )
        with torch.autocast(x.device.type, enabled=False):
            image = torch.cat([network.restored(part) for part in z.split(self._AT_ONCE)])

        return (
            ((image + 1) / 2 * (self.levels - 1)).round().clamp(0, self.levels - 1).to(torch.uint8)
        )


def load_safetensors(model: nn.Module, path: Path) -> None:
    """Load a safetensors file into a module.

    Raises:
        ValueError: in one line, if the file is missing, damaged or does not fit.
    """
    if not path.is_file():
        raise ValueError(
            f"weights: {str(path)!r} is not a file, and not the name of shipped weights (digits)"
        )

    try:
        model.load_state_dict(read_safetensors(path))
    except ValueError as error:
        raise ValueError(f"weights: {error}") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"weights: {str(path)!r} does not fit this autoencoder: {reason}"
        ) from None


CODECS: dict[str, type[Codec]] = {
    "pixels": Pixels,
    "tokens": Tokens,
    "vae": VAE,
    "latents": Latents,
    "kl": KL,
}
CodecFactory = Callable[[tuple[int, ...], int], Codec]
"""Called as `maker(shape of the data, grey levels)`."""
