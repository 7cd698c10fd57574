"""The type of every head: a mixture on one feature, the inner AR, a whole nested model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from ..density import Density

Likelihood = Literal["exact", "bound", "estimate", "surrogate", "none"]


class Head(nn.Module):
    """A context h [*, E] becomes a density over F features.

    The constructor takes three arguments by position: the width E of the context, the number F of
    features, and the number of groups of features, for each of which it may keep constants. Its
    named arguments are keys of YAML.

    Attributes:
        likelihood: Kind of `log_prob` of the density.
        integers: Number and placement of the levels of a model of integers; None for others.
        capabilities: Methods of the density; also `together` where features come in turn, and
            `filter_threshold` where they are levels.
    """

    likelihood: Likelihood = "exact"
    integers: tuple[int, str] | None = None
    capabilities: frozenset[str] = frozenset({"log_prob", "temper", "guide", "pit"})

    def forward(self, h: Tensor, index: Tensor | int = 0) -> Density:
        """h [*, E] → a density on [*, F] of the groups `index`, broadcast against *."""
        raise NotImplementedError

    def fit(self, x: Tensor) -> None:
        """Set buffers such as bin edges from training data x [n, groups, F], before training."""

    @property
    def needs_fit(self) -> bool:
        """Whether `fit` has anything to do."""
        return type(self).fit is not Head.fit


HeadFactory = Callable[..., Head]
"""Called as `maker(context width E, features F, groups)`."""
