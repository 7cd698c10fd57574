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
    """One feature of `Levels`. Its levels are equally wide, which their ends tell better
    than two neighbours do.
    """

    def log_prob(self, x: Tensor) -> Tensor:
        symbol, left, right = self._place(x)
        width = (self.edges[..., -1:] - self.edges[..., :1]) / (self.edges.shape[-1] - 1)
        beyond = torch.where(left == right, (left - x).abs() / width, torch.zeros_like(x))
        return self.log_mass.gather(-1, symbol) - width.log() - beyond


@dataclass(frozen=True)
class Levels(Histogram):
    """A histogram of integers: what is drawn is the centre of a level."""

    def row(self, f: int, past: Tensor) -> Level1D:
        return Level1D(self.log_mass[..., f, :], self.edges[..., f, :])

    def sample(self, noise: Noise) -> Tensor:
        cumulative = self.log_mass.double()[..., 1:-1].softmax(-1).cumsum(-1)
        which = noise.at(Stream.CHOICE).uniform(self.features).unsqueeze(-1)
        level = (cumulative < which).sum(-1, keepdim=True).clamp(max=cumulative.shape[-1] - 1)
        centre = (self.edges[..., 1:] + self.edges[..., :-1]) / 2
        return centre.gather(-1, level).squeeze(-1).to(self.log_mass.dtype)


class LevelHead(Head):
    """Logits h [*, L] of one feature, read as a density; `index` tells which feature."""

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
        """The level, 0 … L - 1, that is nearest to x [*] of feature `index`,
        broadcast against *.
        """
        edges = self.edges[index]
        place = (x - edges[..., 0]) / (edges[..., -1] - edges[..., 0]) * (edges.shape[-1] - 1) - 0.5
        return place.round().long().clamp(0, edges.shape[-1] - 2)

    def width(self) -> Tensor:
        """Of a level of each feature, [F]."""
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

    Position 0 reads the last of the `rows` that z consists of, position f reads feature f - 1.
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
        self.row, self.level_of = context // rows, head.levels
        features, levels = head.edges.shape[0], head.edges.shape[1] - 1
        self.start_of = Linear(self.row, width)
        self.codebooks = nn.ModuleList(Codebook(levels, width) for _ in range(features))
        norm = block.get("norm", layer)
        self.input_norm, self.norm = norm(width, True), norm(width, True)
        self.blocks = Blocks(Block(width, heads, **block) for _ in range(depth))

    def forward(self, x: Tensor, z: Tensor, caches: Caches | None = None) -> tuple[Tensor, Caches]:
        """Features x [M, T, 1] and z [M, E] → logits [M, T', L]; without caches, or with empty
        ones, they begin at z.
        """
        done = caches[0].length if caches and caches[0] else 0
        first = max(done - 1, 0)
        level = self.level_of(
            x.squeeze(-1), torch.arange(first, first + x.shape[1], device=x.device)
        )
        read = [self._book(first + t)()[level[:, t]].unsqueeze(1) for t in range(x.shape[1])]
        start = [] if done else [self.start_of(z[:, -self.row :]).unsqueeze(1)]
        y, after = self.blocks(self.input_norm(torch.cat([*start, *read], 1)), None, True, caches)
        y = self.norm(y)

        return torch.stack(
            [self._book(done + t).logits(y[:, t]) for t in range(y.shape[1])], 1
        ), after

    def empty(self, batch: int) -> Caches:
        """Empty caches for `batch` tokens."""
        return self.blocks.caches(batch, len(self.codebooks))

    def _book(self, f: int) -> Codebook:
        book = self.codebooks[f]
        assert isinstance(book, Codebook)
        return book


class ColourAR(FeatureAR):
    """An AR over integer levels, its features read and predicted by one codebook each
    (arXiv 2502.17437, released code).

    It is a `FeatureAR` of single features in their given order, with a trunk and a head of its own.

    Arguments:
        levels: L ≥ 2.
        width, depth, heads: of the trunk.
        rows: of equal width that z consists of; the last is read, and must divide E.
        normalise: of the codec: `none`, or `imagenet` for its three colours. It places the levels.
        first_weight: of the first feature in the training loss, the others have 1; the weights'
            mean is made 1 (5 as published, for red). The likelihood knows no weights.
        block: of the trunk's blocks, see `Block`.

    Raises:
        ValueError: if a number is outside its range, or imagenet is asked for with
            features that are not three.
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

        self.features, self.group, self.groups, self.order = features, 1, features, "identity"
        self.first_weight = first_weight
        self.head = LevelHead(edges.to(torch.get_default_dtype(), copy=True))
        self.trunk = LevelTrunk(context, self.head, width, depth, heads, rows, block)
        self.likelihood, self.capabilities, self.integers = (
            self.head.likelihood,
            self.head.capabilities,
            (levels, normalise),
        )
        self.register_buffer("order_index", torch.arange(features).repeat(groups, 1))

    def forward(self, h: Tensor, index: Tensor | int = 0) -> WeightedChain:
        return WeightedChain(self, h, index)

    def fit(self, x: Tensor) -> None:
        """Nothing: the levels are given."""

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
        terms, first = self.terms(x), self.model.first_weight
        rest = terms[..., 1:].sum(-1)
        return (
            -(first * terms[..., 0] + rest)
            * self.model.features
            / (first + self.model.features - 1)
        )

    def log_mass(self, x: Tensor) -> Tensor:
        """log of the probability of the levels of x, [*, F] → [*]."""
        return self.log_prob(x) + self.model.head.width().log().sum()
