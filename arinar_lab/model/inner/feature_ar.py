"""The inner autoregressive model: p(token | z) = Π_g p(group g | groups before it, z).

    x [*, D] ─order, group→ [*, G, F] ─trunk(shifted, z)→ h [*, G, W]
             ─head(h, index)→ density over F ─Σ_g→ [*]

`FeatureAR` is itself a head over D features, built from a head over F features; its density is a
`Chain`. The features come in the order of their index, or in one that training data decide: by
variance, or along their principal axes, x R with R orthogonal. The density stays the same
(|det R| = 1).

Letters: * batch (M when flat), D features, G groups, F = D/G features a group, E width of z,
W width of the trunk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Unpack

import torch
from torch import Tensor

from ..density import Density
from ..layers import BlockOptions, project_on_axes, require_at_least
from ..noise import Noise
from .conditional import Conditional
from .head import Head, HeadFactory
from .trunks import TRUNKS, TrunkSizes, refuse_options


class FeatureAR(Head):
    """Autoregressive model over the features of one token (arXiv 2503.02883, section 3.1).

    Arguments:
        head: Head on one group of features, called as head(W, F, groups).
        trunk: Network that reads z and the groups so far, see `trunks.py`.
        width: W, width of the trunk, ≥ 1.
        depth: Blocks or layers of the trunk, ≥ 1.
        heads: Attention heads of a `transformer`, a divisor of `width`; other trunks have none.
        group: F, features in a group, a divisor of D.
        order: Order of the features: by index (`identity`), the `reversed`, or one measured on the
            training data: by descending `variance`, or along the `principal` axes, the widest
            first. `principal` has no likelihood at a resolution, since it turns the box.
        block: Options of a `transformer`'s blocks, see `Block`; other trunks read the norm alone.

    Raises:
        ValueError: if depth < 1, group does not divide D, heads does not divide width, or the
            trunk lacks an option.
    """

    order_index: Tensor
    rotation: Tensor

    def __init__(
        self,
        context: int,
        features: int,
        groups: int = 1,
        /,
        *,
        head: HeadFactory,
        trunk: Literal["transformer", "recurrent", "masked_mlp"] = "transformer",
        width: int = 64,
        depth: int = 1,
        heads: int = 4,
        group: int = 1,
        order: Literal["identity", "reversed", "variance", "principal"] = "identity",
        **block: Unpack[BlockOptions],
    ) -> None:
        super().__init__()
        require_at_least(1, width=width, depth=depth)
        if group < 1 or features % group:
            choices = ", ".join(str(n) for n in range(1, features + 1) if features % n == 0)
            raise ValueError(
                f"group: {group} does not divide the {features} features of a token; choose one "
                f"of {choices}"
            )
        if trunk != "transformer":
            refuse_options(trunk, block)

        self.features = features
        self.group = group
        self.groups = features // group
        self.order = order
        sizes = TrunkSizes(
            context=context,
            features=group,
            groups=self.groups,
            width=width,
            depth=depth,
            heads=heads,
        )
        self.trunk = TRUNKS[trunk](sizes, block)
        self.head = head(width, group, groups * self.groups)
        self.likelihood = self.head.likelihood
        self.capabilities = self.head.capabilities | {"together"}

        index = torch.arange(features)
        if order == "reversed":
            index = index.flip(0)
        self.register_buffer("order_index", index.repeat(groups, 1))
        if order == "principal":
            self.capabilities = self.capabilities - {"pit"}
            self.register_buffer("rotation", torch.eye(features).repeat(groups, 1, 1))

    def forward(self, h: Tensor, index: Tensor | int = 0) -> Chain:
        return Chain(self, h, index)

    def fit(self, x: Tensor) -> None:
        """Measure the order or the axes on x [n, groups, D], and fit the head on its groups."""
        if self.order == "variance":
            self.order_index.copy_(x.var(0).argsort(-1, descending=True))
        elif self.order == "principal":
            self.rotation.copy_(principal_axes(x))
        ordered = self.arranged(x, torch.arange(x.shape[1], device=x.device))
        self.head.fit(ordered.flatten(1, 2))

    @property
    def needs_fit(self) -> bool:
        return self.order in ("variance", "principal") or self.head.needs_fit

    def arranged(self, x: Tensor, index: Tensor | int) -> Tensor:
        """Features in the model's order, or along its axes, and grouped: [*, D] → [*, G, F]."""
        if self.order == "principal":
            x = project_on_axes(x, self.rotation[index])
        else:
            x = x.gather(-1, self.order_index[index].expand_as(x))
        return x.unflatten(-1, (self.groups, self.group))

    def restored(self, x: Tensor, index: Tensor | int) -> Tensor:
        """The inverse of `arranged`: [*, G, F] → [*, D]."""
        x = x.flatten(-2)
        if self.order == "principal":
            return project_on_axes(x, self.rotation[index].mT)
        return self.unordered(x, index)

    def unordered(self, x: Tensor, index: Tensor | int) -> Tensor:
        """Numbers in the model's order, moved to the places of their features: [*, D] → [*, D]."""
        return torch.empty_like(x).scatter(-1, self.order_index[index].expand_as(x), x)


def principal_axes(x: Tensor) -> Tensor:
    """R [groups, D, D] of x [n, groups, D]: orthonormal principal axes as columns, widest first.

    Each axis has the direction in which its largest number is positive.
    """
    centred = (x - x.mean(0)).double().movedim(0, -1)
    axes = torch.linalg.eigh(centred @ centred.mT).eigenvectors.flip(-1)
    largest = axes.gather(-2, axes.abs().argmax(-2, keepdim=True))
    return axes * largest.sign()


@dataclass(frozen=True)
class Chain(Conditional[FeatureAR]):
    """The density of a FeatureAR: group after group, each guided and tempered given those before.

    Arguments:
        together: Groups that are drawn at a time; each reads zeros in place of the others.
            Likelihood does not use it.
    """

    together: int = 1

    def with_parallel_groups(self, together: int) -> Chain:
        return replace(self, together=together)

    def log_prob(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        return self.terms(x, noise).sum(-1)

    def given(self, x: Tensor) -> Density:
        groups, blocks = self._teacher_force(x)
        return blocks.given(groups)

    def terms(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """log p of each group in the model's order, [*, D] → [*, G]."""
        groups, blocks = self._teacher_force(x)
        return blocks.log_prob(groups, None if noise is None else noise.at(self._places(groups)))

    def by_feature(self, x: Tensor) -> Tensor:
        groups, blocks = self._teacher_force(x)
        return self._restore(blocks.by_feature(groups))

    def pit(self, x: Tensor) -> Tensor:
        groups, blocks = self._teacher_force(x)
        return self._restore(blocks.pit(groups))

    def truncated(self, x: Tensor) -> Tensor:
        groups, blocks = self._teacher_force(x)
        return self._restore(blocks.truncated(groups))

    def log_interval(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        if self.model.order == "principal":
            raise NotImplementedError(
                "along principal axes there is no likelihood at a resolution: a box is turned"
            )

        groups, blocks = self._teacher_force(x)
        low = self.model.arranged(low, self.index)
        high = self.model.arranged(high, self.index)

        return blocks.log_interval(groups, low, high).sum(-1)

    def loss(self, x: Tensor, noise: Noise) -> Tensor:
        groups, blocks = self._teacher_force(x)
        return blocks.loss(groups, noise.at(self._places(groups))).sum(-1)

    def sample(self, noise: Noise) -> Tensor:
        return self.draw(noise)[0]

    def draw(self, noise: Noise) -> tuple[Tensor, Tensor]:
        """Draw `together` groups at a time, each from the trunk's state after those before."""
        model, z = self.model, self._contexts()
        branches = z.shape[0] // self.z[..., 0].numel()
        state = model.trunk.empty(z.shape[0])
        truncated = torch.zeros_like(noise.key)
        groups: list[Tensor] = []
        last = z.new_empty(z.shape[0], 0, model.group)

        for places in torch.arange(model.groups, device=z.device).split(self.together):
            h, state = model.trunk.ahead(last, z, state, len(places) - 1)
            x, cut = self._block(h, places).draw(noise.at(places.expand(*noise.key.shape, -1)))
            truncated = truncated + cut.sum(-1)
            groups.append(x.to(z.dtype))
            last = groups[-1].reshape(-1, len(places), model.group).repeat(branches, 1, 1)

        return model.restored(torch.cat(groups, -2), self.index), truncated

    def _places(self, groups: Tensor) -> Tensor:
        """The places 0 … G-1 of groups [*, G, F]: [*, G]."""
        return torch.arange(self.model.groups, device=groups.device).expand(groups.shape[:-1])

    def _restore(self, values: Tensor) -> Tensor:
        """Numbers [*, G, F] in the model's order, moved to the places of their features: [*, D]."""
        return self.model.unordered(values.flatten(-2), self.index)

    def _teacher_force(self, x: Tensor) -> tuple[Tensor, Density]:
        """Groups [*, G, F] of x, and their density on [*, G], each given the true groups before."""
        groups = self.model.arranged(x, self.index)
        z = self._contexts()
        past = groups.reshape(-1, *groups.shape[-2:])[:, :-1]
        h, _ = self.model.trunk(past.repeat(z.shape[0] // past.shape[0], 1, 1), z)
        return groups, self._block(h, torch.arange(self.model.groups, device=x.device))

    def _block(self, h: Tensor, g: Tensor | int) -> Density:
        """The density of groups g, guided and tempered, from h [M or 2M, (G,) W] of the trunk."""
        index = self.index
        if isinstance(index, Tensor) and isinstance(g, Tensor):
            index = index.unsqueeze(-1)
        index = index * self.model.groups + g

        h, *h_null = h.reshape(-1, *self.z.shape[:-1], *h.shape[1:])
        null = self.model.head(h_null[0], index) if h_null else None
        return self._part(self.model.head(h, index), null)
