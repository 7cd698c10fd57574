"""Codecs: images ↔ tokens, with the log-determinant from a density of tokens to one of raw data.

    encode(image, noise) → x [B, N, D], log_det [B]      log p(raw) = log p(x) + log_det
    decode(x)            → image [B, C, H, W], integer grey levels

    bits/dim = -(log p(x) + log_det) / (dims · ln 2)

`unit` names the raw data of the density: `pixel` (dequantised integers, in grey levels), `latent`
(raw latents, since an autoencoder has no density of pixels) or `token` (data that are tokens). The
codec normalises tokens by statistics of the training data:

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
from .autoencoder import posterior, read_autoencoder
from .kl_autoencoder import KLAutoencoder
from .kl_checkpoints import LAYOUTS, random_kl, read_kl, weights_fingerprint

Normalisation = Literal["none", "scale", "channel", "whiten"]
# least deviation along an axis as a share of the largest, so that no constant is divided by zero
_FLATTEST = 1e-4
# mean and deviation of red, green, blue in [0, 1]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Codec(nn.Module):
    """Images to tokens and back. The constructor takes the data's shape and number of grey levels.

    Attributes:
        tokens: N.
        features: D.
        dims: Raw dimensions of an image, the divisor of bits/dim.
        mean: μ of the tokens, [D].
        std: σ of the tokens, [D].
        axes: U of whitened tokens, [D, D].
        unit: Raw data of bits/dim: `pixel`, `latent` or `token`.
        raw_unit: Length of one raw unit in tokens before normalisation.
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
        self.tokens = tokens
        self.features = features
        self.dims = tokens * features
        self.normalise = normalise
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        if normalise == "whiten":
            self.register_buffer("axes", torch.eye(features))

    def encode(self, image: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Tokens x [B, N, D] and log |dx/d raw| [B]; noise [B] dequantises or draws a posterior."""
        x, log_det = self._encode(image, noise)
        return self._normalised(x), log_det - self.tokens * self.std.log().sum()

    def moments(self, image: Tensor) -> Tensor:
        """Means, then log-variances, of the posterior of the tokens: [B, 2D, H, W].

        A cache keeps them and passes them (floats) in place of images (bytes); they are returned as
        they are.

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
            x = project_on_axes(project_on_axes(x, self.axes) * self.std, self.axes.T)
        else:
            x = x * self.std
        return self._decode(x + self.mean)

    def box(self, image: Tensor) -> tuple[Tensor, Tensor] | None:
        """The ends [B, N, D] of the image's grey levels, in units of the tokens.

        None for latents, and for whitened tokens, which turn a box.
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
        """The modules with weights: itself, and a frozen autoencoder."""
        return (self,)

    def prepare(self) -> None:
        """Read the files that the constructor leaves unread, so that a check needs none.

        Raises:
            ValueError: in one line, if one is missing, damaged or does not fit.
        """

    @torch.no_grad()
    def fit(self, images: Tensor, noise: Noise) -> None:
        """Measure the normalisation on training images, before training."""
        if self.normalise == "none":
            return

        x, _ = self._encode(images, noise)
        if self.normalise == "scale":
            self.std.fill_(x.std())
        elif self.normalise == "channel":
            self.mean.copy_(x.mean((0, 1)))
            self.std.copy_(x.std((0, 1)))
        elif self.normalise == "whiten":
            covariance = x.double().flatten(0, 1).T.cov().reshape(self.features, self.features)
            variance, axes = torch.linalg.eigh(covariance)
            std = variance.clamp(min=0).sqrt()
            self.mean.copy_(x.mean((0, 1)))
            self.std.copy_(std.clamp(min=_FLATTEST * std.max()))
            self.axes.copy_(axes)

    def _normalised(self, x: Tensor) -> Tensor:
        if self.normalise == "whiten":
            x = project_on_axes(x - self.mean, self.axes)
            return project_on_axes(x / self.std, self.axes.T)
        return (x - self.mean) / self.std

    def _encode(self, image: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _decode(self, x: Tensor) -> Tensor:
        raise NotImplementedError


def imagenet(levels: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation [3] of ImageNet's colours, in units of x = 2 (i + 1/2) / L - 1."""
    mean, std = torch.tensor(IMAGENET, dtype=torch.float64)
    scale = 2 * (levels - 1) / levels
    return (mean - 0.5) * scale, std * scale


class Pixels(Codec):
    """P×P patches of uniformly dequantised grey levels: x = 2 (i + u) / L - 1 with u from [0, 1)
    (arXiv 1511.01844).

    Arguments:
        patch: P, side of a patch in pixels, a divisor of height and width.
        normalise: Normalisation of the tokens; `imagenet` takes that collection's mean and
            deviation of each of three colours.
        dequantise: Whether u is drawn; otherwise it is 1/2, the centre of a level, for inner models
            of integers (`colour`), whose bits/dim is then exact. Other densities would grow spikes.

    Raises:
        ValueError: if the data are no images, patch does not divide them, or `imagenet` has other
            than three colours.
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
        is_imagenet = normalise == "imagenet"
        if is_imagenet and channels != 3:
            raise ValueError(
                f"normalise: imagenet knows three colours, and these data have {channels}"
            )

        tokens = (height // patch) * (width // patch)
        measured = "none" if normalise == "imagenet" else normalise
        super().__init__(tokens, channels * patch**2, measured)
        self.shape = shape
        self.levels = levels
        self.patch = patch
        self.dequantise = dequantise
        self.placed = normalise
        self.raw_unit = 2 / levels
        if is_imagenet:
            mean, std = imagenet(levels)
            self.mean.copy_(mean.repeat_interleave(patch**2))
            self.std.copy_(std.repeat_interleave(patch**2))

    def _encode(self, image: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        u = noise.uniform(self.dims, torch.float32).reshape(image.shape) if self.dequantise else 0.5
        x = self._patches(image + u)
        return x, x.new_full(x.shape[:1], self.dims * math.log(2 / self.levels))

    def _patches(self, raw: Tensor) -> Tensor:
        x = 2 * raw / self.levels - 1
        return nn.functional.unfold(x, self.patch, stride=self.patch).transpose(1, 2)

    def _decode(self, x: Tensor) -> Tensor:
        image = nn.functional.fold(x.transpose(1, 2), self.shape[1:], self.patch, stride=self.patch)
        return ((image + 1) / 2 * self.levels).floor().clamp(0, self.levels - 1).to(torch.uint8)

    def box(self, image: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.normalise == "whiten":
            return None
        low = self._patches(image.float())
        high = self._patches(image.float() + 1)
        return self._normalised(low), self._normalised(high)


class Tokens(Codec):
    """Data that are tokens, [B, N, D], unchanged but for a normalisation.

    Arguments:
        normalise: Normalisation of the tokens.

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
    """Data that are latents of an autoencoder, [B, C, H, W]: one position a token, N = H·W, D = C.

    Arguments:
        scale: Factor of the latents before `normalise`, > 0: 0.2325 for the published KL-16,
            0.18215 for that of Stable Diffusion.
        normalise: Normalisation of the scaled latents, `none` with a published scale.

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
        self.grid = shape[1:]
        self.scale = scale
        self.raw_unit = scale

    def _encode(self, image: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        x = self.scale * image.float().flatten(2).transpose(1, 2)
        return x, x.new_full(x.shape[:1], self.dims * math.log(self.scale))

    def _decode(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).unflatten(2, self.grid) / self.scale


class VAE(Codec):
    """Tokens are draws from the posterior of a frozen KL autoencoder, one position a token.

    Arguments:
        weights: A shipped autoencoder (`digits`), or the path of a file of
            `arinar train-codec`.
        latents: D, channels of the latents, those of the weights.
        normalise: Normalisation of the latents.

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

        autoencoder = read_autoencoder(weights, shape, latents)
        super().__init__(math.prod(autoencoder.grid), latents, normalise)
        self.grid = autoencoder.grid
        self.levels = levels
        self.autoencoder = autoencoder.requires_grad_(False).eval()

    def moments(self, image: Tensor) -> Tensor:
        if image.is_floating_point():
            return image.float()
        return self.autoencoder.encoder(from_grey_levels(image, self.levels))

    def _encode(self, image: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        mean, std = posterior(self.moments(image))
        z = mean + std * noise.normal(self.dims).reshape(mean.shape)
        return z.flatten(2).transpose(1, 2), mean.new_zeros(mean.shape[0])

    def _decode(self, x: Tensor) -> Tensor:
        image = self.autoencoder.decoder(x.transpose(1, 2).unflatten(2, self.grid))
        return to_grey_levels(image, self.levels)


def from_grey_levels(image: Tensor, levels: int) -> Tensor:
    """An image in [-1, 1] of its grey levels 0 … levels - 1."""
    return 2 * image.float() / (levels - 1) - 1


def to_grey_levels(image: Tensor, levels: int) -> Tensor:
    """Grey levels of an image in [-1, 1]."""
    return ((image + 1) / 2 * (levels - 1)).round().clamp(0, levels - 1).to(torch.uint8)


class FrozenAutoencoder:
    """An autoencoder that is neither trained, averaged nor saved with a run; copies share it."""

    def __init__(self, module: KLAutoencoder) -> None:
        self.module = module.requires_grad_(False).eval()
        self.fingerprint = weights_fingerprint(module)

    def on(self, device: torch.device) -> KLAutoencoder:
        return self.module.to(device)

    def __deepcopy__(self, memo: dict[int, object]) -> FrozenAutoencoder:
        return self


class KL(Codec):
    """Tokens are latents z ~ N(μ, σ²) of a published KL autoencoder (`kl_autoencoder.py`), times a
    scale; one position a token.

        x = scale · z,   log_det = N D log(scale):   bits/dim is of the raw latents

    `encode` also takes moments (μ, log σ²), as a latent cache keeps them, in place of images. A run
    saves the fingerprint of the autoencoder, not its weights, and refuses another autoencoder.

    Arguments:
        weights: A folder of the diffusers library, a checkpoint of the released code (`.ckpt`,
            `.pt`, `.safetensors`), read on first use, or `random`: random weights of the layout's
            full size, for trials and timing.
        layout: Published autoencoder: `kl16` (D = 16, stride 16; MAR, ARINAR), `sd` (4, 8) or
            `f16d32` (32, 16).
        scale: Factor of the latents, > 0; null is the published one: 0.2325, 0.18215 and 1
            (`f16d32` is published with `normalise: channel`).
        normalise: Normalisation of the scaled latents.

    Raises:
        ValueError: if the data are no colour images of a size that the stride divides, or scale is
            not above 0; on reading, if the weights are missing, damaged, hold code, have another
            layout, or are not those of the run.
    """

    unit = "latent"
    fingerprint: Tensor
    # images that pass the autoencoder together: one of 256×256 takes 34 MB a layer at full size
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
        self.grid = grid
        self.weights = weights
        self.layout = layout
        self.levels = levels
        self.register_buffer("fingerprint", torch.zeros((), dtype=torch.int64))  # 0: not read yet
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

        shape = model.shape
        if (shape.channels, shape.stride) != (wanted.channels, wanted.stride):
            raise ValueError(
                f"weights: {self.weights!r} has {shape.channels} channels at stride"
                f" {shape.stride}, and layout: {self.layout} has {wanted.channels} at"
                f" {wanted.stride}"
            )

        return model

    def _other(self, fingerprint: Tensor) -> bool:
        """Whether a fingerprint differs from that of the weights, where both are set."""
        if self._frozen is None:
            return False
        return fingerprint.item() not in (0, self._frozen.fingerprint.item())

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *arguments: Any) -> None:
        name = f"{prefix}fingerprint"
        if name in state and self._other(state[name]):
            arguments[-1].append(
                f"{self.weights!r} is not the autoencoder that this run was trained with"
            )
        super()._load_from_state_dict(state, prefix, *arguments)

    def _autoencoder(self, x: Tensor) -> KLAutoencoder:
        if self._frozen is None:
            self.prepare()
        assert self._frozen is not None
        return self._frozen.on(x.device)

    def moments(self, image: Tensor) -> Tensor:
        if image.is_floating_point():
            return image.float()
        network = self._autoencoder(image)
        x = from_grey_levels(image, self.levels)
        with torch.autocast(x.device.type, enabled=False):
            return torch.cat(list(map(network.moments, x.split(self._AT_ONCE))))

    def _encode(self, image: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        mean, std = posterior(self.moments(image))
        z = mean + std * noise.normal(self.dims).reshape(mean.shape)
        x = self.scale * z.flatten(2).transpose(1, 2)
        return x, x.new_full(x.shape[:1], self.dims * math.log(self.scale))

    def _decode(self, x: Tensor) -> Tensor:
        network = self._autoencoder(x)
        z = x.float().transpose(1, 2).unflatten(2, self.grid) / self.scale
        with torch.autocast(x.device.type, enabled=False):
            image = torch.cat(list(map(network.restored, z.split(self._AT_ONCE))))

        return to_grey_levels(image, self.levels)


CODECS: dict[str, type[Codec]] = {
    "pixels": Pixels,
    "tokens": Tokens,
    "vae": VAE,
    "latents": Latents,
    "kl": KL,
}
CodecFactory = Callable[[tuple[int, ...], int], Codec]
"""Called as `maker(shape of the data, grey levels)`."""
