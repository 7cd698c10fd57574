"""Trunks of the inner autoregressive model: from z and the groups of features so far to a context
for each next group.

    h_g = trunk(z, x_0 … x_{g-1})          all h at once from true groups, or one by one from drawn
                                           ones

    transformer     causal attention over the groups (ARINAR, arXiv 2503.02883)
    recurrent       gated recurrent units, their state handed from group to group (arXiv 1406.1078)
    masked_mlp      one pass of a multi-layer perceptron with masked weights, for all groups
                    (MADE, arXiv 1502.03509)

Each ends in a norm whose gain and shift are a linear map of SiLU(z). Each has its own state between
two calls: a cache, hidden states, or the groups so far.

Letters: M tokens, G groups, T of them in one call, F features a group, E width of z,
W width of the trunk.
"""

from __future__ import annotations

from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as f

from ..layers import (
    Block,
    BlockOptions,
    Blocks,
    Caches,
    Gains,
    LearnedVectors,
    Linear,
    ZeroLinear,
    layer,
    modulate,
)


class Steps(nn.Module):
    """A model of groups of features that computes all of them at once or one by one."""

    def forward(self, x: Tensor, z: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Groups x [M, T, F] and z [M, E] → h [M, T', W] and the state after them.

        Without a state, or with an empty one, x begins at group 0, and h at the context of group 0
        (T' = T + 1). Otherwise x follows the groups of the call before, and h begins at the context
        of the group behind x_0 (T' = T).
        """
        raise NotImplementedError

    def empty(self, batch: int) -> Any:
        """The state of `batch` tokens without any group."""
        return None

    def ahead(self, x: Tensor, z: Tensor, state: Any, n: int) -> tuple[Tensor, Any]:
        """h of the group behind x and of n more, with zeros for groups to come: [M, n + 1, W].

        The returned state is that after x, without the zeros.
        """
        h, state = self(x, z, state)
        if n == 0:
            return h[:, -1:], state
        more, _ = self(x.new_zeros(x.shape[0], n, x.shape[-1]), z, state)
        return torch.cat([h[:, -1:], more], 1), state


class TrunkSizes(NamedTuple):
    """Sizes that a trunk is made of.

    Arguments:
        context: E, width of z.
        features: F, features of a group.
        groups: G, groups of a token.
        width: W, width of the trunk.
        depth: Layers.
        heads: Attention heads of a transformer.
    """

    context: int
    features: int
    groups: int
    width: int
    depth: int
    heads: int


class Trunk(Steps):
    """The type of every trunk."""

    def __init__(self, sizes: TrunkSizes, block: BlockOptions) -> None:
        super().__init__()
        self.groups = sizes.groups
        self.width = sizes.width
        self.norm = block.get("norm", layer)(sizes.width, False)
        self.adapt = nn.Sequential(nn.SiLU(), ZeroLinear(sizes.context, 2 * sizes.width))

    def _gains(self, z: Tensor) -> Gains:
        """1 + scale, and shift, of the output norm, [M, 1, W] each."""
        scale, shift = self.adapt(z).unsqueeze(1).chunk(2, -1)
        return 1 + scale, shift

    def _adapted(self, y: Tensor, gains: Gains) -> Tensor:
        """y [M, T, W] normalised under the gains of z."""
        scale, shift = gains
        return modulate(self.norm(y), scale, shift)


class Transformer(Trunk):
    """Causal transformer over feature groups, every block and the output norm conditioned on
    z (arXiv 2503.02883).

    Position 0 reads z and a start token, position g reads group g - 1. Its state is the blocks'
    caches and the gains of the output norm, which the first step computes from z.
    """

    def __init__(self, sizes: TrunkSizes, block: BlockOptions) -> None:
        super().__init__(sizes, block)
        context, features, groups, width, depth, heads = sizes
        self.start_of, self.group_of = Linear(context, width), Linear(features, width)
        self.start, self.positions = LearnedVectors(1, width), LearnedVectors(groups, width)
        self.blocks = Blocks(Block(width, heads, context=context, **block) for _ in range(depth))

    def forward(
        self, x: Tensor, z: Tensor, state: TransformerState | None = None
    ) -> tuple[Tensor, TransformerState]:
        caches, gains = state or (None, None)
        done = caches[0].length if caches and caches[0] else 0
        gains = self._gains(z) if gains is None else gains
        y = self.group_of(x)

        if done == 0:
            y = torch.cat([(self.start_of(z) + self.start()).unsqueeze(1), y], 1)
        y = y + self.positions()[done : done + y.shape[1]]
        y, after = self.blocks(y, z, True, caches)

        return self._adapted(y, gains), (after, gains)

    def empty(self, batch: int) -> TransformerState:
        return self.blocks.caches(batch, self.groups), None

    def ahead(
        self, x: Tensor, z: Tensor, state: TransformerState, n: int
    ) -> tuple[Tensor, TransformerState]:
        """One call; the next step writes over the keys and values of the zeros."""
        h, (caches, gains) = self(f.pad(x, (0, 0, 0, n)), z, state)
        caches = [cache and cache._replace(length=cache.length - n) for cache in caches]
        return h[:, -n - 1 :], (caches, gains)


TransformerState = tuple[Caches, Gains | None]
"""Caches of the blocks, and the gains of the output norm; None before the first step."""


class Recurrent(Trunk):
    """Gated recurrent units over feature groups, `depth` layers of them (arXiv 1406.1078).

    z sets the initial states of the layers and is added to the input of the first layer: a start
    vector, then group g - 1 at step g. Its state is those of the layers, [M, W] each, the number of
    steps done, and the vectors that z gives.
    """

    def __init__(self, sizes: TrunkSizes, block: BlockOptions) -> None:
        super().__init__(sizes, block)
        context, features, groups, width, depth, _ = sizes
        self.state_of, self.context_of = Linear(context, depth * width), Linear(context, width)
        self.group_of = Linear(features, width)
        self.start, self.positions = LearnedVectors(1, width), LearnedVectors(groups, width)
        self.cells = nn.ModuleList(nn.GRUCell(width, width) for _ in range(depth))

    def forward(
        self, x: Tensor, z: Tensor, state: RecurrentState | None = None
    ) -> tuple[Tensor, RecurrentState]:
        y = self.group_of(x)
        if state is None:
            y = torch.cat([self.start().expand(z.shape[0], 1, -1), y], 1)
            memory = list(self.state_of(z).tanh().chunk(len(self.cells), -1))
            state = memory, 0, self.context_of(z).unsqueeze(1), self._gains(z)

        memory, done, context, gains = state
        rows: list[Tensor] = []
        end = done + y.shape[1]
        for row in (y + context + self.positions()[done:end]).unbind(1):
            after: list[Tensor] = []
            for cell, hidden in zip(self.cells, memory, strict=True):
                row = cell(row, hidden)
                after.append(row)
            memory = after
            rows.append(row)

        return self._adapted(torch.stack(rows, 1), gains), (memory, end, context, gains)


RecurrentState = tuple[list[Tensor], int, Tensor, Gains]
"""States of the layers, [M, W] each; steps done; of z the vector [M, 1, W] that is added to each
step, and the gains of the norm.
"""


class MaskedLinear(Linear):
    """Linear map with masked weights: `reads` [outputs, inputs] is true where one is used."""

    reads: Tensor

    def __init__(self, reads: Tensor) -> None:
        super().__init__(reads.shape[1], reads.shape[0])
        self.register_buffer("reads", reads, persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # never packed
        return f.linear(x, self.weight * self.reads, self.bias)


class MaskedMLP(Trunk):
    """Multi-layer perceptron with masked weights, all G contexts in one pass (MADE,
    arXiv 1502.03509, section 4).

    A hidden unit of degree d reads z and the groups before d: inputs of group i < d, units of
    degree ≤ d. The context of group g reads units of degree ≤ g. The W units of each layer share
    the degrees 0 … G - 1 evenly, and each layer adds a linear map of z. Its state is the groups so
    far: generation takes G passes.

    Raises:
        ValueError: if there are fewer units than groups.
    """

    def __init__(self, sizes: TrunkSizes, block: BlockOptions) -> None:
        super().__init__(sizes, block)
        context, features, groups, width, depth, _ = sizes
        if width < groups:
            raise ValueError(
                f"width: {width} is too few; a masked_mlp needs a unit for each of the "
                f"{groups} groups"
            )

        group = torch.arange(groups)
        degree = (torch.arange(width) * groups // width).unsqueeze(-1)
        reads = [group.repeat_interleave(features) < degree] + [degree >= degree.T] * (depth - 1)
        self.layers = nn.ModuleList(MaskedLinear(mask) for mask in reads)
        self.contexts = nn.ModuleList(Linear(context, width) for _ in range(depth))
        self.contexts_of_groups = MaskedLinear(
            group.repeat_interleave(width).unsqueeze(-1) >= degree.T
        )

    def forward(self, x: Tensor, z: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        begin = 0 if state is None else state.shape[1] + 1
        past = x if state is None else torch.cat([state, x], 1)
        y = f.pad(past, (0, 0, 0, self.groups - past.shape[1])).flatten(1)
        for masked, context in zip(self.layers, self.contexts, strict=True):
            y = f.gelu(masked(y) + context(z))
        y = self.contexts_of_groups(y).unflatten(-1, (self.groups, self.width))
        return self._adapted(y[:, begin : past.shape[1] + 1], self._gains(z)), past


def refuse_options(trunk: str, block: BlockOptions) -> None:
    """Refuse options of a transformer's block for another trunk, which reads the norm alone.

    Raises:
        ValueError: with the first that is not at its default.
    """
    for name, value in block.items():
        if name != "norm" and value != signature(Block).parameters[name].default:
            raise ValueError(
                f"{name}: {value!r} is an option of the transformer, and the trunk is {trunk}; "
                "leave it out"
            )


TRUNKS: dict[str, type[Trunk]] = {
    "transformer": Transformer,
    "recurrent": Recurrent,
    "masked_mlp": MaskedMLP,
}
