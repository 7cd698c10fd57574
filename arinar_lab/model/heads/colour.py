"""Autoregressive model over integer levels, such as a pixel's colours (FractalMAR's
innermost, arXiv 2502.17437).

    logits of feature f = codebook_f · h_f + bias_f
    h                   = causal transformer over (z, codebook_0[x_0], codebook_1[x_1], …)
    p(x_f | x_<f, z)    = p(level) / width of a level: it compares with every other density

The data are integers at the centres of their levels (a codec that does not dequantise),
and so are the samples.

Letters: * batch (M when flat), E width of z, W width of the trunk, F features, L levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from ..codecs.codec import imagenet
from ..inner.feature_ar import Chain, FeatureAR
from ..inner.head import Head
from ..inner.trunks import Steps
from ..layers import (
    Block,
    BlockOptions,
    Blocks,
    Caches,
    LearnedVectors,
    Linear,
    layer,
    require_at_least,
)
from ..noise import Noise, Stream
from .bins import Histogram, Histogram1D

# logit outside the levels; finite, so that the product of two such densities is one too
_NEVER = -1e4


@dataclass(frozen=True)
class Level1D(Histogram1D):
    """One feature of `Levels`, whose equal width comes from the outer edges, to full precision."""

    def log_prob(self, x: Tensor) -> Tensor:
        symbol, left, right = self._place(x)
        width = (self.edges[..., -1:] - self.edges[..., :1]) / (self.edges.shape[-1] - 1)
        beyond = torch.where(left == right, (left - x).abs() / width, torch.zeros_like(x))
        return self.log_mass.gather(-1, symbol) - width.log() - beyond


@dataclass(frozen=True)
class Levels(Histogram):
    """A histogram of integers; a sample is the centre of a level."""

    def row(self, f: int, past: Tensor) -> Level1D:
        return Level1D(self.log_mass[..., f, :], self.edges[..., f, :])

    def sample(self, noise: Noise) -> Tensor:
        cumulative = self.log_mass.double()[..., 1:-1].softmax(-1).cumsum(-1)
        which = noise.at(Stream.CHOICE).uniform(self.features).unsqueeze(-1)
        level = (cumulative < which).sum(-1, keepdim=True).clamp(max=cumulative.shape[-1] - 1)
        centre = (self.edges[..., 1:] + self.edges[..., :-1]) / 2
        return centre.gather(-1, level).squeeze(-1).to(self.log_mass.dtype)


class LevelHead(Head):
    """Logits h [*, L] of one feature become a density; `index` is the feature."""

    capabilities = Head.capabilities | {"filter_threshold"}
    edges: Tensor

    def __init__(self, edges: Tensor) -> None:
        super().__init__()
        self.register_buffer("edges", edges)

    def forward(self, h: Tensor, index: Tensor | int = 0) -> Levels:
        log_mass = nn.functional.pad(h, (1, 1), value=_NEVER).log_softmax(-1).unsqueeze(-2)
        edges = self.edges[index % len(self.edges)].unsqueeze(-2)
        return Levels(log_mass, edges.expand(*log_mass.shape[:-1], -1))

    def levels(self, x: Tensor, index: Tensor) -> Tensor:
        """The level, 0 … L - 1, nearest to x [*] of feature `index`, broadcast against *."""
        edges = self.edges[index]
        levels = edges.shape[-1] - 1
        place = (x - edges[..., 0]) / (edges[..., -1] - edges[..., 0]) * levels - 0.5
        return place.round().long().clamp(0, levels - 1)

    def width(self) -> Tensor:
        """Width of a level of each feature, [F]."""
        return (self.edges[:, -1] - self.edges[:, 0]) / (self.edges.shape[-1] - 1)


class Codebook(LearnedVectors):
    """A vector and a bias for each of L levels: the same vectors read a level and predict one."""

    def __init__(self, levels: int, width: int) -> None:
        super().__init__(levels, width)
        self.bias = nn.Parameter(torch.zeros(levels))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if hasattr(self, "bias"):
            nn.init.zeros_(self.bias)

    def logits(self, h: Tensor) -> Tensor:
        """[*, W] → [*, L]."""
        return h @ self.weight.T + self.bias


class LevelTrunk(Steps):
    """Causal transformer over features that are levels, up to their logits.

    Position 0 reads the last of the `rows` of z, position f reads feature f - 1.
    """

    def __init__(
        self,
        context: int,
        head: LevelHead,
        width: int,
        depth: int,
        heads: int,
        rows: int,
        block: BlockOptions,
    ) -> None:
        super().__init__()
        self.row = context // rows
        self.level_of = head.levels
        features = head.edges.shape[0]
        levels = head.edges.shape[1] - 1

        self.start_of = Linear(self.row, width)
        self.codebooks = nn.ModuleList(Codebook(levels, width) for _ in range(features))
        norm = block.get("norm", layer)
        self.input_norm = norm(width, True)
        self.norm = norm(width, True)
        self.blocks = Blocks(Block(width, heads, **block) for _ in range(depth))

    def forward(self, x: Tensor, z: Tensor, caches: Caches | None = None) -> tuple[Tensor, Caches]:
        """Features x [M, T, 1] and z [M, E] → logits [M, T', L]; without caches, or with empty
        ones, they begin at z.
        """
        done = caches[0].length if caches and caches[0] else 0
        first = max(done - 1, 0)
        places = torch.arange(first, first + x.shape[1], device=x.device)
        level = self.level_of(x.squeeze(-1), places)

        rows = [] if done else [self.start_of(z[:, -self.row :])]
        for t in range(x.shape[1]):
            rows.append(self._book(first + t)()[level[:, t]])
        y, after = self.blocks(self.input_norm(torch.stack(rows, 1)), None, True, caches)
        y = self.norm(y)
        logits = [self._book(done + t).logits(y[:, t]) for t in range(y.shape[1])]

        return torch.stack(logits, 1), after

    def empty(self, batch: int) -> Caches:
        """Empty caches for `batch` tokens."""
        return self.blocks.caches(batch, len(self.codebooks))

    def _book(self, f: int) -> Codebook:
        book = self.codebooks[f]
        assert isinstance(book, Codebook)
        return book


class ColourAR(FeatureAR):
    """An AR over integer levels with a codebook for each feature (arXiv 2502.17437, released code).

    It is a `FeatureAR` of single features in the order of their index, with another trunk and head.

    Arguments:
        levels: L, levels of each feature, ≥ 2.
        width: W, width of the trunk, ≥ 1.
        depth: Blocks of the trunk, ≥ 1.
        heads: Attention heads of the trunk, a divisor of `width`.
        rows: Rows of equal width in z, a divisor of its width; the model reads the last.
        normalise: Normalisation of the codec, which places the levels: `none`, or `imagenet` for
            three colours.
        first_weight: Weight of the first feature in the training loss, > 0, where the others have
            1 (5 as published, for red); weights are divided by their mean. Likelihood has none.
        block: Options of the trunk's blocks, see `Block`.

    Raises:
        ValueError: if a number is outside its range, or `imagenet` has features that are not three.
    """

    trunk: LevelTrunk  # type: ignore[assignment]  # takes and returns what a Trunk does
    head: LevelHead

    def __init__(
        self,
        context: int,
        features: int,
        groups: int = 1,
        /,
        *,
        levels: int = 256,
        width: int = 64,
        depth: int = 1,
        heads: int = 4,
        rows: int = 1,
        normalise: Literal["none", "imagenet"] = "none",
        first_weight: float = 1.0,
        **block: Unpack[BlockOptions],
    ) -> None:
        Head.__init__(self)
        require_at_least(1, width=width, depth=depth, rows=rows)
        require_at_least(2, levels=levels)
        if context % rows:
            raise ValueError(f"rows: {rows} does not divide the width {context} of z")
        if not first_weight > 0:
            raise ValueError(f"first_weight: {first_weight} is not above 0")
        edges = torch.linspace(-1, 1, levels + 1, dtype=torch.float64).expand(features, -1)
        if normalise == "imagenet":
            if features != 3:
                raise ValueError(
                    f"normalise: imagenet knows three colours, and there are {features} features"
                )
            mean, std = imagenet(levels)
            edges = (edges - mean.unsqueeze(-1)) / std.unsqueeze(-1)

        self.features = features
        self.group = 1
        self.groups = features
        self.order = "identity"
        self.first_weight = first_weight
        self.head = LevelHead(edges.to(torch.get_default_dtype(), copy=True))
        self.trunk = LevelTrunk(context, self.head, width, depth, heads, rows, block)
        self.likelihood = self.head.likelihood
        self.capabilities = self.head.capabilities
        self.integers = (levels, normalise)
        self.register_buffer("order_index", torch.arange(features).repeat(groups, 1))

    def forward(self, h: Tensor, index: Tensor | int = 0) -> WeightedChain:
        return WeightedChain(self, h, index)

    def fit(self, x: Tensor) -> None:
        """Do nothing: the levels are constants."""

    @property
    def needs_fit(self) -> bool:
        return False

    def nearest(self, x: Tensor) -> Tensor:
        """The centres of the levels nearest to x [*, F]."""
        edges, at = self.head.edges, torch.arange(self.features, device=x.device)
        return edges[:, 0] + (self.head.levels(x, at) + 0.5) * self.head.width()


@dataclass(frozen=True)
class WeightedChain(Chain):
    """The density of a ColourAR: a chain whose training loss weighs the first feature."""

    model: ColourAR

    def loss(self, x: Tensor, noise: Noise) -> Tensor:
        terms = self.terms(x)
        weight, features = self.model.first_weight, self.model.features
        total = weight * terms[..., 0] + terms[..., 1:].sum(-1)
        return -total * features / (weight + features - 1)

    def log_mass(self, x: Tensor) -> Tensor:
        """Log-probability of the levels of x, [*, F] → [*]."""
        return self.log_prob(x) + self.model.head.width().log().sum()
