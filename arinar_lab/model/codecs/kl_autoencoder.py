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

Parameters have the names of the released code, so that its checkpoints are read as they are;
`kl_checkpoints.py` has those of the diffusers library. A file of weights says itself how the
autoencoder is built (`AutoencoderShape`).

Letters: B images, C latent channels, W channels inside, S stride.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

GROUPS = 32


@dataclass(frozen=True)
class AutoencoderShape:
    """How an autoencoder is built.

    Arguments:
        channels: C; widths: W of each level, from the image on; blocks: in a level of the encoder
            (the decoder has one more).
        encoder_attention, decoder_attention: levels whose blocks are each followed by attention.
    """

    channels: int
    widths: tuple[int, ...]
    blocks: int = 2
    encoder_attention: frozenset[int] = frozenset()
    decoder_attention: frozenset[int] = frozenset()

    @property
    def stride(self) -> int:
        """S: pixels that a latent is wide."""
        return int(2 ** (len(self.widths) - 1))

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> AutoencoderShape:
        """The shape of the autoencoder that has these tensors.

        Raises:
            ValueError: if they are none of such an autoencoder.
        """

        def found(pattern: str) -> list[int]:
            return sorted({int(m[1]) for key in state if (m := re.match(pattern, key))})

        try:
            widths = [
                len(state[f"encoder.down.{i}.block.0.conv1.weight"])
                for i in found(r"encoder\.down\.(\d+)\.")
            ]
            channels = state["decoder.conv_in.weight"].shape[1]
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(
                f"it holds no KL autoencoder: {error} is missing or no weight"
            ) from None
        if not widths or any(width % GROUPS for width in widths):
            raise ValueError(
                f"it holds no KL autoencoder: its widths are {widths}, not multiples of {GROUPS}"
            )
        blocks = len(found(r"encoder\.down\.0\.block\.(\d+)\."))
        attention = (
            frozenset(found(rf"{side}\.(\d+)\.attn\."))
            for side in (r"encoder\.down", r"decoder\.up")
        )
        return cls(channels, tuple(widths), blocks, *attention)


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
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (part(h).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(
            q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)
        ).squeeze(1)
        return x + self.proj_out(mixed.transpose(1, 2).reshape(x.shape))


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
    """Blocks of one grid size, each followed by attention where asked for; then what changes the
    size, by its released name.
    """

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
        self.block_1, self.attn_1, self.block_2 = (
            ResidualBlock(width, width),
            GridAttention(width),
            ResidualBlock(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Images [B, 3, H, H] in [-1, 1] → [B, 2C, H/S, H/S]."""

    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        widths, last = shape.widths, len(shape.widths) - 1
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            ResolutionLevel(
                widths[max(i - 1, 0)],
                width,
                shape.blocks,
                i in shape.encoder_attention,
                **({} if i == last else {"downsample": Downsample(width)}),
            )
            for i, width in enumerate(widths)
        )
        self.mid = MiddleBlocks(widths[-1])
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 2 * shape.channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        h = self.conv_in(image)
        for level in self.down:
            h = level(h)
        return self.conv_out(functional.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """Latents [B, C, H/S, H/S] → images [B, 3, H, H]. Levels are numbered from the
    image on, as released.
    """

    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        widths, last = shape.widths, len(shape.widths) - 1
        self.conv_in = nn.Conv2d(shape.channels, widths[-1], 3, padding=1)
        self.mid = MiddleBlocks(widths[-1])
        self.up = nn.ModuleList(
            ResolutionLevel(
                widths[min(i + 1, last)],
                width,
                shape.blocks + 1,
                i in shape.decoder_attention,
                **({} if i == 0 else {"upsample": Upsample(width)}),
            )
            for i, width in enumerate(widths)
        )
        self.norm_out = _norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(functional.silu(self.norm_out(h)))


class KLAutoencoder(nn.Module):
    """Encoder and decoder with their 1×1 maps. shape: see `AutoencoderShape`."""

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
