"""Transformer parts, shared by the outer and the inner model.

    block(x, z)     x += g₁ · attention(norm(x)·(1+s₁) + b₁)
                    x += g₂ · feed_forward(norm(x)·(1+s₂) + b₂)

With a condition z the gains g, s, b are a linear map of SiLU(z) (adaptive normalisation, DiT,
arXiv 2212.09748); without one they are 1, 0, 0 and the norms have learned gains.

A step writes into its `KVCache` and returns a new one; the old value must not be used again.

The place of a row is a vector that is added to it, `learned` or of `sine`s, or an angle by which
`rotary` attention turns queries and keys, so that their product depends on the distance
(arXiv 2104.09864).

Letters: B batch, T positions, W width, H attention heads, S head size = W/H.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial, reduce
from typing import Annotated, Literal, NamedTuple, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as f

from .packed_linear import Packable


def require_at_least(least: int, **values: int) -> None:
    """Refuse numbers below `least`.

    Raises:
        ValueError: with the name of the first.
    """
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name}: {value} is too few; at least {least}")


class Linear(Packable):
    """Linear map with Xavier-uniform weights and zero bias, as the published models start."""

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class ZeroLinear(Packable):
    """Linear map that starts at zero, so that an adaptive block starts as the identity
    (arXiv 2212.09748, section 3.2).
    """

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class DensityParameters(Linear):
    """Linear map to the parameters of a density, in single precision even under autocast."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # has a bias and no GELU
        kind = x.device.type
        if kind == "meta" or not torch.is_autocast_enabled(kind):
            return super().forward(x)
        with torch.autocast(kind, enabled=False):
            return super().forward(x.float())


class LearnedVectors(nn.Module):
    """n learned vectors [n, W], such as positions or classes, that start with length about two."""

    def __init__(self, n: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=2 * self.weight.shape[-1] ** -0.5)

    def forward(self) -> Tensor:
        return self.weight


class FixedVectors(nn.Module):
    """n constant vectors [n, W] in place of `LearnedVectors`."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)

    def forward(self) -> Tensor:
        return self.weight


Positions = Literal["learned", "sine", "rotary"]


def positions_of(kind: Positions, n: int, width: int) -> LearnedVectors | FixedVectors:
    """The vectors [n, W] that are added to rows at n places; zeros where attention is rotary."""
    if kind == "learned":
        return LearnedVectors(n, width)
    return FixedVectors(sine_positions(n, width) if kind == "sine" else torch.zeros(n, width))


def sine_positions(n: int, width: int) -> Tensor:
    """Sines and cosines of n places at frequencies from 1 to 1/10,000 (arXiv 1706.03762,
    section 3.5): [n, W].

    They have length two, as learned vectors at their start, so that they do not outweigh tokens.
    """
    angle = _angles(torch.arange(n), (width + 1) // 2)
    table = torch.cat([angle.sin(), angle.cos()], -1)[:, :width]
    return (2 * table / table.norm(dim=-1, keepdim=True)).to(torch.get_default_dtype())


def rotate(x: Tensor, at: Tensor) -> Tensor:
    """x [B, H, T, S], each pair (i, i + S/2) turned by at · 10,000^(-2i/S); at [T] or [B, T]."""
    angle = _angles(at, x.shape[-1] // 2).unsqueeze(-3)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def project_on_axes(x: Tensor, axes: Tensor) -> Tensor:
    """x [*, D] along the columns of axes [*, D, D].

    It is a sum, since autocast and TF32 would round a matrix product.
    """
    return (x.unsqueeze(-1) * axes.to(x.dtype)).sum(-2)


def _angles(at: Tensor, n: int) -> Tensor:
    """at [*] times n frequencies from 1 down to 1/10,000: [*, n]."""
    exponents = -torch.arange(n, dtype=torch.float64, device=at.device) / n
    return at.unsqueeze(-1) * 10_000.0**exponents


def is_rotary(kind: Positions, width: int, heads: int) -> bool:
    """Whether attention is rotary.

    Raises:
        ValueError: if it is and a head has an odd size.
    """
    if kind == "rotary" and (width // heads) % 2:
        raise ValueError(
            f"positions: rotary turns pairs of numbers, and a head of size {width // heads} is odd"
        )
    return kind == "rotary"


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x · scale + shift, in one pass over x."""
    return torch.addcmul(shift, x, scale)


def dropout(x: Tensor, p: float) -> Tensor:
    """x with a share p of its numbers set to zero and the others divided by 1 - p.

    On a CPU torch draws a 64-bit word for each number. Here a word serves four numbers with 16 bits
    each, so p is rounded to 16 bits.
    """
    if p == 0 or x.device.type != "cpu":
        return f.dropout(x, p)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    dropped = round(p * 2**16)
    kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - 2**15
    return x * kept.to(x.dtype).mul_(2**16 / (2**16 - dropped))


class Dropout(nn.Dropout):
    """`dropout` in training."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x


class GELU(nn.GELU):
    """GELU, exact or with tanh (arXiv 1606.08415).

    On a CPU without gradients the tanh is computed as a sigmoid, ½(1 + tanh u) = σ(2u), in a half
    to a third of the time of torch's own.
    """

    def forward(self, x: Tensor) -> Tensor:
        if (
            self.approximate == "none"
            or x.device.type != "cpu"
            or x.dtype != torch.float32
            or torch.is_grad_enabled()
        ):
            return super().forward(x)

        factor = 2 * math.sqrt(2 / math.pi)  # 2u = factor · (x + 0.044715 x³)
        y = torch.addcmul(x.new_tensor(factor), x, x, value=0.044715 * factor)
        return y.mul_(x).sigmoid_().mul_(x)


class DyT(nn.Module):
    """Dynamic tanh, γ·tanh(αx) + β (arXiv 2503.10622): a norm without statistics."""

    def __init__(self, width: int, affine: bool) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(()))
        self.gain = nn.Parameter(torch.empty(width)) if affine else None
        self.shift = nn.Parameter(torch.empty(width)) if affine else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.alpha, 0.5)
        if self.gain is not None and self.shift is not None:
            nn.init.ones_(self.gain)
            nn.init.zeros_(self.shift)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.alpha * x)
        return x if self.gain is None or self.shift is None else self.gain * x + self.shift


NormFactory = Callable[[int, bool], nn.Module]
"""Called as `maker(width, affine)`."""


def layer(width: int, affine: bool, /) -> nn.Module:
    """LayerNorm, ε = 1e-6 as published."""
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=affine)


def rms(width: int, affine: bool, /) -> nn.Module:
    """RMSNorm (arXiv 1910.07467)."""
    return nn.RMSNorm(width, eps=1e-6, elementwise_affine=affine)


def dyt(width: int, affine: bool, /) -> nn.Module:
    """Dynamic tanh (arXiv 2503.10622)."""
    return DyT(width, affine)


def none(width: int, affine: bool, /) -> nn.Module:
    """No normalisation."""
    return nn.Identity()


NORMS: dict[str, NormFactory] = {"layer": layer, "rms": rms, "dyt": dyt, "none": none}


class KVCache(NamedTuple):
    """The keys, values and gains that one block keeps from step to step.

    When k and v are full they join the pieces `before`, and a new piece begins: a CPU reads rows
    more slowly across the unused room between the heads of a piece.

    Attributes:
        k: Keys, [B, H, room, S].
        v: Values, [B, H, room, S].
        length: Positions that are written; the next step writes behind them.
        gains: Gains that the block read from z in the first step.
        filled: Positions that attention reads, where it exceeds `length`: older rows follow those
            that are written again.
        before: Full pieces.
    """

    k: Tensor
    v: Tensor
    length: int
    gains: Gains | None = None
    filled: int = 0
    before: tuple[Piece, ...] = ()

    def first_sequences(self, batch: int) -> KVCache:
        """The cache of the first `batch` sequences."""
        before = tuple((k[:batch], v[:batch]) for k, v in self.before)
        return self._replace(k=self.k[:batch], v=self.v[:batch], before=before)


Gains = tuple[Tensor, ...]
"""Gates of attention and feed-forward, 1 + their scales, their shifts: [B, 1, W] each."""
Piece = tuple[Tensor, Tensor]
"""Keys and values of some positions, [B, H, T, S] each."""
PIECE = 64  # rows of a piece
Caches = list[KVCache | None]
"""One for each block; None without a cache."""


class Attention(nn.Module):
    """Multi-head attention, bidirectional or causal.

    Arguments:
        width: W.
        heads: H, a divisor of W.
        qk_norm: see `Block`.
        softmax_scale: see `Block`.
        k_bias: see `Block`.
        dropout: Share of attention weights and outputs that training drops, in [0, 1).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        /,
        *,
        qk_norm: bool = False,
        softmax_scale: float = 1.0,
        k_bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"heads: {heads} does not divide the width {width}")
        if not softmax_scale > 0:
            raise ValueError(f"softmax_scale: {softmax_scale} is not above 0")

        self.heads = heads
        self.size = width // heads
        self.dropout = dropout
        self.scale = softmax_scale * self.size**-0.5
        self.qkv = Linear(width, 3 * width, bias=k_bias)
        self.project = Linear(width, width)
        if not k_bias:
            self.q_bias = nn.Parameter(torch.zeros(width))
            self.v_bias = nn.Parameter(torch.zeros(width))
        self.q_norm = nn.RMSNorm(self.size, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(self.size, eps=1e-6) if qk_norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        causal: bool = False,
        cache: KVCache | None = None,
        at: Tensor | None = None,
        where: Tensor | None = None,
    ) -> tuple[Tensor, KVCache | None]:
        """x [B, T, W] → [B, T, W], and the cache with the rows of x.

        With a cache, attention is causal and the rows of x follow those of the cache. Places `at`,
        [T] or [B, T], rotate queries and keys. With `where` [B, m] only those rows are queries, and
        the result is [B, m, W].
        """
        bias = self.qkv.bias
        if bias is None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = self.qkv(x, bias).unflatten(-1, (3, self.heads, self.size)).permute(2, 0, 3, 1, 4)
        q = self.q_norm(q)
        k = self.k_norm(k)
        if at is not None:
            q = rotate(q, at)
            k = rotate(k, at)
        if where is not None:
            q = q.gather(2, where[:, None, :, None].expand(-1, self.heads, -1, self.size))
        drop = self.dropout if self.training else 0.0
        if cache is None:
            y = self._attend(q, k, v, None, drop, causal)
        else:
            cache, pieces = self._extend(cache, k, v)
            y = self._attend_to_pieces(q, pieces, drop, causal)

        return dropout(self.project(y.transpose(1, 2).flatten(2)), drop), cache

    def _attend_to_pieces(
        self, q: Tensor, pieces: list[Piece], drop: float, causal: bool
    ) -> Tensor:
        """Attention of the last rows q [B, H, T, S] to all pieces; piece by piece for one row."""
        if len(pieces) > 1 and q.shape[2] == 1 and not drop:
            return self._attend_by_piece(q, pieces)

        k, v = pieces[0]
        if len(pieces) > 1:
            k, v = map(partial(torch.cat, dim=2), zip(*pieces, strict=True))
        mask = None
        if causal and q.shape[2] > 1:
            shape = (q.shape[2], k.shape[2])
            ones = torch.ones(shape, dtype=torch.bool, device=q.device)
            mask = ones.tril(k.shape[2] - q.shape[2])

        return self._attend(q, k, v, mask, drop, False)

    def _attend_by_piece(self, q: Tensor, pieces: list[Piece]) -> Tensor:
        """Σ_p softmax(q Kᵀ)_p V_p, the softmax over all pieces p."""
        keys, values = zip(*pieces, strict=True)
        with _in_cache_dtype(q, keys[0]):
            q = q.to(keys[0].dtype) * self.scale
            weights = torch.cat([q @ k.mT for k in keys], -1).softmax(-1)
            parts = weights.split([k.shape[2] for k in keys], -1)
            return reduce(torch.add, map(torch.matmul, parts, values))

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, drop: float, causal: bool
    ) -> Tensor:
        """Fused attention; with dropout on a CPU, which has none, its formula with `dropout`."""
        if not drop or q.device.type != "cpu":
            with _in_cache_dtype(q, k):
                return f.scaled_dot_product_attention(
                    q.to(k.dtype), k, v, mask, drop, is_causal=causal, scale=self.scale
                )

        if causal:
            mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
        products = q @ k.mT * self.scale
        if mask is not None:
            products = products.masked_fill(~mask, -torch.inf)

        return dropout(products.softmax(-1), drop).to(v.dtype) @ v

    @staticmethod
    def _extend(cache: KVCache, k: Tensor, v: Tensor) -> tuple[KVCache, list[Piece]]:
        """The cache with the rows k, v [B, H, T, S], and all of its pieces."""
        if cache.length + k.shape[2] > cache.k.shape[2]:
            full = cache.k[:, :, : cache.length], cache.v[:, :, : cache.length]
            shape = (*cache.k.shape[:2], max(PIECE, k.shape[2]), cache.k.shape[3])
            before = (*cache.before, full)
            new_k = cache.k.new_empty(shape)
            new_v = cache.v.new_empty(shape)
            cache = KVCache(new_k, new_v, 0, cache.gains, before=before)

        end = cache.length + k.shape[2]
        cache.k[:, :, cache.length : end] = k
        cache.v[:, :, cache.length : end] = v
        filled = max(end, cache.filled)
        last = cache.k[:, :, :filled], cache.v[:, :, :filled]

        return cache._replace(length=end), [*cache.before, last]

    def cache(self, batch: int, room: int, begin: int | None = None) -> KVCache:
        """An empty cache for `batch` sequences of `room` positions, on a GPU in autocast's dtype.

        If only `begin` positions come first, a CPU's cache has room for them in whole pieces; later
        positions begin new pieces.
        """
        weight = self.qkv.weight
        if begin is not None and weight.device.type == "cpu":
            room = min(room, -(-begin // PIECE) * PIECE)
        is_autocast = weight.is_cuda and torch.is_autocast_enabled("cuda")
        dtype = torch.get_autocast_dtype("cuda") if is_autocast else weight.dtype
        empty = weight.new_empty(2, batch, self.heads, room, self.size, dtype=dtype)
        return KVCache(empty[0], empty[1], 0)


def _in_cache_dtype(q: Tensor, k: Tensor) -> AbstractContextManager[object]:
    """A context in which one query on a CPU attends in the dtype of the cached keys: bfloat16
    would be three to six times slower.
    """
    if q.shape[2] > 1 or q.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return nullcontext()
    return torch.autocast("cpu", enabled=False)


class FeedForward(nn.Sequential):
    """Linear map, GELU, linear map, dropout. Packed weights may fuse the first two.

    Attributes:
        drops_hidden: Whether the dropout also acts behind GELU.
    """

    drops_hidden = False

    def forward(self, x: Tensor) -> Tensor:
        first, gelu, second, dropout = self
        assert isinstance(first, Packable) and isinstance(gelu, nn.GELU)
        hidden = first(x, gelu=gelu)
        return dropout(second(dropout(hidden) if self.drops_hidden else hidden))


class BlockOptions(TypedDict, total=False):
    """The keys of a block in YAML, see `Block`. Outer and inner models pass them on."""

    norm: NormFactory
    placement: Literal["pre", "sandwich"]
    mlp_ratio: float
    gelu: Literal["exact", "tanh"]
    qk_norm: bool
    softmax_scale: float
    k_bias: bool
    dropout: float
    dropout_hidden: Annotated[bool, "later"]


class Block(nn.Module):
    """Transformer block; with a `context`, adaptive normalisation conditions it on z.

    The linear map of z gives the six gains in the published order: gate, scale and shift, each for
    attention and feed-forward (arXiv 2503.02883, released code).

    Arguments:
        width: W.
        heads: H, a divisor of W.
        context: Width of z, or None for a block without condition.
        norm: Norm of the blocks.
        placement: Places of the norms: `pre`, before attention and feed-forward, or `sandwich`,
            before and behind them (CogView, arXiv 2105.13290).
        mlp_ratio: Width of the feed-forward layer as a multiple of W, at least 1/W.
        gelu: GELU, `exact` or by its `tanh` approximation.
        qk_norm: Whether queries and keys are RMS-normalised (arXiv 2302.05442).
        softmax_scale: Factor of the usual scale 1/√S of attention's products, > 0.
        k_bias: Whether keys have a bias. It changes the output only with `qk_norm`, since the
            softmax cancels it otherwise.
        dropout: Share of numbers, in [0, 1), that training drops: attention weights, and outputs of
            attention and of feed-forward.
        dropout_hidden: Whether the dropout also acts behind GELU, as in the published models.

    Raises:
        ValueError: if a number is outside its range.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        /,
        *,
        context: int | None = None,
        norm: NormFactory = layer,
        placement: Literal["pre", "sandwich"] = "pre",
        mlp_ratio: float = 4.0,
        gelu: Literal["exact", "tanh"] = "exact",
        qk_norm: bool = False,
        softmax_scale: float = 1.0,
        k_bias: bool = True,
        dropout: float = 0.0,
        dropout_hidden: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: {dropout} is outside [0, 1)")
        hidden = int(width * mlp_ratio)
        if hidden < 1:
            raise ValueError(f"mlp_ratio: {mlp_ratio} leaves no width of the feed-forward layer")

        norm_behind = norm if placement == "sandwich" else none
        self.norm1 = norm(width, context is None)
        self.norm2 = norm(width, context is None)
        self.after1 = norm_behind(width, True)
        self.after2 = norm_behind(width, True)
        self.attention = Attention(
            width,
            heads,
            qk_norm=qk_norm,
            softmax_scale=softmax_scale,
            k_bias=k_bias,
            dropout=dropout,
        )
        activation = GELU(approximate="tanh" if gelu == "tanh" else "none")
        self.feed_forward = FeedForward(
            Linear(width, hidden), activation, Linear(hidden, width), Dropout(dropout)
        )
        self.feed_forward.drops_hidden = dropout_hidden
        self.adapt = nn.Sequential(nn.SiLU(), ZeroLinear(context, 6 * width)) if context else None

    def forward(
        self,
        x: Tensor,
        z: Tensor | None = None,
        causal: bool = False,
        cache: KVCache | None = None,
        at: Tensor | None = None,
        where: Tensor | None = None,
    ) -> tuple[Tensor, KVCache | None]:
        """x [B, T, W], z [B, context], places [T] or [B, T] → [B, T, W] and the cache after it.

        With `where` [B, m] only those rows are computed, [B, m, W]. With a cache, only the first
        step reads z.
        """
        context = x
        if where is not None:
            x = x.gather(1, where.unsqueeze(-1).expand(-1, -1, x.shape[-1]))

        if self.adapt is None:
            y, cache = self.attention(self.norm1(context), causal, cache, at, where)
            x = x + self.after1(y)
            return x + self.after2(self.feed_forward(self.norm2(x))), cache

        gains = None if cache is None else cache.gains
        if gains is None:
            gains = self._gains(self.adapt(z))
        gate1, gate2, scale1, scale2, shift1, shift2 = gains

        h = modulate(self.norm1(context), scale1, shift1)
        y, cache = self.attention(h, causal, cache, at, where)
        x = torch.addcmul(x, gate1, self.after1(y))
        h = modulate(self.norm2(x), scale2, shift2)
        x = torch.addcmul(x, gate2, self.after2(self.feed_forward(h)))

        return x, None if cache is None else cache._replace(gains=gains)

    @staticmethod
    def _gains(read: Tensor) -> Gains:
        gate1, gate2, scale1, scale2, shift1, shift2 = read.unsqueeze(1).chunk(6, -1)
        return gate1, gate2, 1 + scale1, 1 + scale2, shift1, shift2


class Blocks(nn.ModuleList):
    """Blocks applied one after the other."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        super().__init__(blocks)

    def forward(
        self,
        x: Tensor,
        z: Tensor | None = None,
        causal: bool = False,
        caches: Caches | None = None,
        at: Tensor | None = None,
        where: Tensor | None = None,
    ) -> tuple[Tensor, Caches]:
        """x [B, T, W], z [B, context], places [T] or [B, T] for rotary attention → [B, T, W] and
        the caches after it.

        With `where` [B, m] the last block computes only those rows: [B, m, W].
        """
        after: Caches = []
        for i, (block, cache) in enumerate(zip(self, caches or [None] * len(self), strict=True)):
            x, cache = block(x, z, causal, cache, at, where if i == len(self) - 1 else None)
            after.append(cache)
        return x, after

    def caches(self, batch: int, room: int, begin: int | None = None) -> Caches:
        """Empty caches, one for each block; see `Attention.cache`."""
        caches: Caches = []
        for block in self:
            assert isinstance(block, Block)
            caches.append(block.attention.cache(batch, room, begin))
        return caches


def initialise(model: nn.Module, seed: int) -> None:
    """Draw all parameters again, each module from a generator keyed by the seed and its name.

    Two arms of an ablation so start with equal values in each part that they share. On the device
    `meta` nothing is drawn.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        return
    for name, module in model.named_modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
                reset()
