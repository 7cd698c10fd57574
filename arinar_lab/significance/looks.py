"""Looks at a study while seeds are added: when, and at which level each may conclude.

A study that is tested again and again concludes too often. Four equal arms are told apart at three
seeds in 2.4 % of studies, at three or five in 5.2 %, at 3, 5, 8 or 12 in 9 %, and in 12 % if one
looks at every seed from three to ten. A study that says beforehand how many seeds it may grow to
spends its 5 % over the looks; 3, 5, 8 and 12 then have 3.4 % (`scripts/simulate_tests.py`):

    α(t) = α ln(1 + (e - 1) t)        t = seeds / most seeds (Lan and DeMets, 1983, Biometrika 70)

Look k may call resolved what has p < 2 Φ(-c_k), where c_k leaves α(t_k) - α(t_{k-1}) for the first
crossing at k of a Brownian motion (Armitage, McPherson and Rowe, 1969, J. of the Royal Statistical
Society A 132). Levels of normal tests are used for t-tests, as is usual (Jennison and Turnbull,
2000, Group Sequential Methods, chapter 7).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from .statistics import ALPHA

_GRID = 1201  # points of a distribution between the boundaries


def schedule(first: int, most: int) -> tuple[int, ...]:
    """The numbers of seeds at which a study looks: each half as many again, as in 3, 5, 8, 12."""
    looks = [first]
    while looks[-1] < most:
        looks.append(min(most, math.ceil(1.5 * looks[-1])))
    return tuple(looks)


def spent(share: float, alpha: float = ALPHA) -> float:
    """The error that may be spent once a share of the most seeds is there."""
    return alpha * math.log1p((math.e - 1) * min(1.0, share))


@cache
def level_at(looks: Sequence[int], most: int, alpha: float = ALPHA) -> float:
    """The level of the p-value at the last of some looks.

    Arguments:
        looks: The seeds at each look so far, growing.
        most: The most seeds that the study may grow to.
        alpha: The error over all looks.
    """
    edge = math.inf
    before = 0.0
    grid = np.zeros(0)
    mass = np.zeros(0)  # of the sum of increments that has crossed no boundary
    time = 0.0
    for look in looks:
        share = min(1.0, look / most)
        step = math.sqrt(share - time) if share > time else 0.0
        unspent = spent(share, alpha) - before
        if step == 0.0 or unspent <= 0:
            continue

        start, kept = (grid, mass) if time else (np.zeros(1), np.ones(1))
        edge = _edge(start, kept, step, unspent)
        grid = np.linspace(-edge, edge, _GRID)
        spacing = grid[1] - grid[0]
        mass = (norm.pdf((grid[:, None] - start) / step) / step) @ kept * spacing
        before = spent(share, alpha)
        time = share

    return float(2 * norm.sf(edge / math.sqrt(time))) if time else alpha


def _edge(start: np.ndarray, kept: np.ndarray, step: float, error: float) -> float:
    """The boundary that the next sum crosses, on either side, with a chance of `error`."""

    def excess(edge: float) -> float:
        outside = norm.sf((edge - start) / step) + norm.sf((edge + start) / step)
        return float(outside @ kept) - error

    return float(brentq(excess, 0.0, float(np.abs(start).max()) + 12 * step))
