"""The KL autoencoder of latent diffusion (arXiv 2112.10752, section 3.1): images ↔ moments
of a grid of latents.

    encoder    convolution ─ levels of residual blocks, all but the last halve the grid ─ block,
               attention, block ─ 2C channels
    posterior  N(μ, σ²) of each latent, with (μ, log σ²) the 2C channels after a 1×1 map, log σ²
               clamped to [-30, 20]
    decoder    1×1 map ─ block, attention, block ─ levels, all but the last double
               the grid ─ 3 channels

    block      x + conv(silu(norm(conv(silu(norm(x))))))          norm: of 32 groups of channels
    attention  x + project(softmax(qᵀk/√W) v), one head, over all positions

Parameters have the names of the released code and its checkpoints; `kl_checkpoints.py` has those of
the diffusers library. A file of weights determines its `AutoencoderShape`.

Letters: B images, C latent channels, W channels inside, S stride.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

GROUPS = 32


@dataclass(frozen=True)
class AutoencoderShape:
    """The architecture of an autoencoder.

    Arguments:
        channels: C.
        widths: W of each level, from the image to the latents.
        blocks: Blocks in a level of the encoder; the decoder has one more.
        encoder_attention: Levels of the encoder with attention behind each block.
        decoder_attention: Levels of the decoder with attention behind each block.
    """

    channels: int
    widths: tuple[int, ...]
    blocks: int = 2
    encoder_attention: frozenset[int] = frozenset()
    decoder_attention: frozenset[int] = frozenset()

    @property
    def stride(self) -> int:
        """S, width of a latent in pixels."""
        return int(2 ** (len(self.widths) - 1))

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> AutoencoderShape:
        """The shape of the autoencoder that has these tensors.

        Raises:
            ValueError: if they are not those of such an autoencoder.
        """

        def numbers(pattern: str) -> list[int]:
            matches = filter(None, map(re.compile(pattern).match, state))
            return sorted({int(match[1]) for match in matches})

        try:
            levels = numbers(r"encoder\.down\.(\d+)\.")
            widths = [len(state[f"encoder.down.{i}.block.0.conv1.weight"]) for i in levels]
            channels = state["decoder.conv_in.weight"].shape[1]
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(
                f"it holds no KL autoencoder: {error} is missing or no weight"
            ) from None
        if not widths or math.gcd(*widths) % GROUPS:
            raise ValueError(
                f"it holds no KL autoencoder: its widths are {widths}, not multiples of {GROUPS}"
            )

        blocks = numbers(r"encoder\.down\.0\.block\.(\d+)\.")
        encoder_attention = frozenset(numbers(r"encoder\.down\.(\d+)\.attn\."))
        decoder_attention = frozenset(numbers(r"decoder\.up\.(\d+)\.attn\."))
        return cls(channels, tuple(widths), len(blocks), encoder_attention, decoder_attention)


class ResidualBlock(nn.Module):
    """Residual block, W → W' channels: x + conv(silu(norm(conv(silu(norm(x)))))), x through a
    1×1 map where W ≠ W'.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm1 = _norm(width)
        self.conv1 = nn.Conv2d(width, out, 3, padding=1)
        self.norm2 = _norm(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        if width != out:
            self.nin_shortcut = nn.Conv2d(width, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(functional.silu(self.norm1(x)))
        h = self.conv2(functional.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class GridAttention(nn.Module):
    """One head of attention over all positions of a grid [B, W, H, H], added to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q = _rows(self.q(h))
        k = _rows(self.k(h))
        v = _rows(self.v(h))
        y = functional.scaled_dot_product_attention(q, k, v).squeeze(1)
        return x + self.proj_out(y.transpose(1, 2).reshape(x.shape))


def _rows(x: Tensor) -> Tensor:
    """A grid [B, W, H, H] as rows of one head [B, 1, H·H, W]."""
    return x.flatten(2).transpose(1, 2).unsqueeze(1)


class Downsample(nn.Module):
    """Convolution of stride 2. The released code pads below and to the right alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Each position four times, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.interpolate(x, scale_factor=2.0))


class ResolutionLevel(nn.Module):
    """Blocks of one grid size, each with or without attention, then a named change of size."""

    def __init__(
        self, width: int, out: int, blocks: int, attention: bool, **resize: nn.Module
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(width if i == 0 else out, out) for i in range(blocks)
        )
        self.attn = nn.ModuleList(GridAttention(out) for _ in range(blocks if attention else 0))
        self.resize = tuple(resize)

        for name, module in resize.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        for name in self.resize:
            x = getattr(self, name)(x)
        return x


class MiddleBlocks(nn.Module):
    """Block, attention, block on the smallest grid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(width, width)
        self.attn_1 = GridAttention(width)
        self.block_2 = ResidualBlock(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Images [B, 3, H, H] in [-1, 1] → [B, 2C, H/S, H/S]."""

    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        widths = shape.widths
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)

        self.down = nn.ModuleList()
        for i, width in enumerate(widths):
            resize = {"downsample": Downsample(width)} if i < last else {}
            before = widths[max(i - 1, 0)]
            attention = i in shape.encoder_attention
            self.down.append(ResolutionLevel(before, width, shape.blocks, attention, **resize))
        self.mid = MiddleBlocks(widths[-1])
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 2 * shape.channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        h = self.conv_in(image)
        for level in self.down:
            h = level(h)
        return self.conv_out(functional.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """Latents [B, C, H/S, H/S] → images [B, 3, H, H]. Level 0 is the image's, as released."""

    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        widths = shape.widths
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(shape.channels, widths[-1], 3, padding=1)
        self.mid = MiddleBlocks(widths[-1])

        self.up = nn.ModuleList()
        for i, width in enumerate(widths):
            resize = {"upsample": Upsample(width)} if i > 0 else {}
            before = widths[min(i + 1, last)]
            attention = i in shape.decoder_attention
            self.up.append(ResolutionLevel(before, width, shape.blocks + 1, attention, **resize))
        self.norm_out = _norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(functional.silu(self.norm_out(h)))


class KLAutoencoder(nn.Module):
    """Encoder and decoder with their 1×1 maps."""

    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder, self.decoder = Encoder(shape), Decoder(shape)
        self.quant_conv = nn.Conv2d(2 * shape.channels, 2 * shape.channels, 1)
        self.post_quant_conv = nn.Conv2d(shape.channels, shape.channels, 1)

    def moments(self, image: Tensor) -> Tensor:
        """μ and log σ² of images [B, 3, H, H] in [-1, 1]: [B, 2C, H/S, H/S]."""
        return self.quant_conv(self.encoder(image))

    def restored(self, z: Tensor) -> Tensor:
        """Images [B, 3, H, H] of latents [B, C, H/S, H/S], about in [-1, 1]."""
        return self.decoder(self.post_quant_conv(z))


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, width, eps=1e-6)
