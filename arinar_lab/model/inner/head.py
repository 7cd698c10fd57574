"""The type of every head: of a mixture on one feature, of the inner AR, of a whole nested model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from ..density import Density

Likelihood = Literal["exact", "bound", "estimate", "surrogate", "none"]


class Head(nn.Module):
    """A context h [*, E] becomes a density over F features.

    The constructor takes, by position, the width E of the context, the number F of features and the
    number of groups it serves (one head may stand for several groups of features and keep constants
    of its own for each); what follows by name is what YAML may say.
    """

    likelihood: Likelihood = "exact"
    # number of levels and how they are placed, of a model of integer levels
    integers: tuple[int, str] | None = None
    capabilities: frozenset[str] = frozenset(
        {"log_prob", "temper", "guide", "pit"}
    )  # and `together`, where features come in turn; `filter_threshold`, where they are levels

    def forward(self, h: Tensor, index: Tensor | int = 0) -> Density:
        """h [*, E] → a density on [*, F]; `index` (broadcast against *) tells which
        groups h stands for.
        """
        raise NotImplementedError

    def fit(self, x: Tensor) -> None:
        """Once, before training: set buffers (bin edges, feature orders) from training
        data x [n, groups, F].
        """

    @property
    def needs_fit(self) -> bool:
        """Whether `fit` has anything to do."""
        return type(self).fit is not Head.fit


HeadFactory = Callable[..., Head]
"""Called as `maker(context width E, features F, groups)`."""
