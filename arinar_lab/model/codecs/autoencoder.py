"""The small KL autoencoder of `codec: {kind: vae}`: images ↔ moments of a grid of latents.

    encoder    conv ─ one step for each further level: silu, conv of stride 2, silu, conv ─ silu,
               conv → 2 D moments
    decoder    conv, silu, conv ─ the same steps upwards, with transposed convs ─ silu, conv

A step down halves height and width, rounded up: 28, 14, 7, 4. A file of weights determines the
architecture, but for the size of the images. `arinar train-codec` trains one.

Letters: B images, C×H×W an image, D latent channels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from torch import Tensor, nn

from ..weight_files import ASSETS, read_safetensors

SHIPPED = ("digits",)


def _conv(inside: int, outside: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, 3, stride, 1)


class Autoencoder(nn.Module):
    """Images [B, C, H, W] in [-1, 1] ↔ moments [B, 2 D, h, w], means, then log-variances.

    Arguments:
        shape: C, H and W.
        latents: D.
        widths: Channels of each level, from the image to the latents; one level more halves the
            grid once more.

    Attributes:
        grid: h and w.
    """

    def __init__(self, shape: tuple[int, ...], latents: int, widths: Sequence[int]) -> None:
        super().__init__()
        channels, *sides = shape
        grids = [tuple(sides)]
        encoder: list[nn.Module] = [_conv(channels, widths[0])]
        for wide, deep in pairwise(widths):
            encoder += [nn.SiLU(), _conv(wide, deep, 2), nn.SiLU(), _conv(deep, deep)]
            grids.append(tuple(math.ceil(side / 2) for side in grids[-1]))
        deepest = widths[-1]
        self.grid = grids[-1]
        self.encoder = nn.Sequential(*encoder, nn.SiLU(), _conv(deepest, 2 * latents))

        decoder: list[nn.Module] = [_conv(latents, deepest), nn.SiLU(), _conv(deepest, deepest)]
        for (deep, wide), (height, width) in zip(
            pairwise(reversed(widths)), reversed(grids[:-1]), strict=True
        ):
            # a kernel of 4 doubles a side, one of 3 leaves out a row
            kernel = (4 - height % 2, 4 - width % 2)
            upsample = nn.ConvTranspose2d(deep, wide, kernel, 2, 1)
            decoder += [nn.SiLU(), upsample, nn.SiLU(), _conv(wide, wide)]
        self.decoder = nn.Sequential(*decoder, nn.SiLU(), _conv(widths[0], channels))

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [B, D, h, w] for images in [-1, 1]."""
        return posterior(self.encoder(image))


def posterior(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [B, D, H, W] of moments [B, 2D, H, W]."""
    mean, log_var = moments.chunk(2, 1)
    return mean, (log_var.clamp(-30, 20) / 2).exp()


def architecture_of(state: Mapping[str, Tensor]) -> tuple[int, tuple[int, ...]]:
    """Return the latents and the widths of the autoencoder that has these tensors.

    Raises:
        ValueError: if they are not those of such an autoencoder.
    """
    channels: dict[int, int] = {}
    for name, kernel in state.items():
        match = re.fullmatch(r"encoder\.(\d+)\.weight", name)
        if match and kernel.ndim == 4:
            channels[int(match[1])] = len(kernel)
    first = state.get("decoder.0.weight")
    latents = first.shape[1] if first is not None and first.ndim == 4 else 0
    *inner, moments = (channels[i] for i in sorted(channels)) if channels else [0]
    if not inner or len(inner) % 2 == 0 or moments != 2 * latents:
        raise ValueError("the file holds no autoencoder of arinar train-codec")
    return latents, tuple(inner[::2])


def read_autoencoder(weights: str, shape: tuple[int, ...], latents: int) -> Autoencoder:
    """Read an autoencoder of images of a shape: a shipped one, or a safetensors file.

    Raises:
        ValueError: in one line, with the key, if the file is missing or damaged, or does not fit
            the images or the number of latents.
    """
    path = ASSETS / f"{weights}_vae.safetensors" if weights in SHIPPED else Path(weights)
    if not path.is_file():
        raise ValueError(
            f"weights: {weights!r} is not a file, and not the name of shipped weights "
            f"({', '.join(SHIPPED)})"
        )
    try:
        state = read_safetensors(path)
        file_latents, widths = architecture_of(state)
    except ValueError as error:
        raise ValueError(f"weights: {error}") from None
    if file_latents != latents:
        raise ValueError(f"latents: {latents} is not the {file_latents} of weights {weights!r}")

    autoencoder = Autoencoder(shape, latents, widths)
    try:
        autoencoder.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        size = "×".join(map(str, shape))
        raise ValueError(f"weights: {weights!r} does not fit images of {size}: {reason}") from None
    return autoencoder
