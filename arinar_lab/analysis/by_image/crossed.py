"""The interval of a difference over seeds × images, both drawn anew.

    y_si = μ + a_s + b_i + e_si                      seed s of S, image i of n, all random but μ
    Var(mean) = σ_a²/S + σ_e²/(S n) + σ_b²/n
    first two terms    the squared error of the test over seeds, which is of means over images
    σ_b²/n             max(0, s²(ȳ_i) - MS_e/S) / n, with ȳ_i the mean of image i over seeds, s² its
                       variance over images, and MS_e the mean square of what seeds and images add
                       up to no more
    df                 (Σ v)² / Σ (v²/df) over the two parts (Satterthwaite)

MS_e/S is taken off because the scatter of single runs is in s²(ȳ_i), too, and the test's error has
it already. Seeds that are not paired have an MS_e/S in either arm; the two are added, for images
are shared all the same.

Source: the analysis of variance of two crossed random effects (Searle, Casella & McCulloch,
Variance Components, 1992, chapter 4). Owen & Eckles, Annals of Applied Statistics 6 (2012), show
that an interval over one of two crossed factors alone is too narrow, and that a bootstrap of both
is mildly too wide.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import t as student


def residual_square(table: np.ndarray) -> float:
    """MS_e/S of a table [S, n] of seeds × images; 0 for one seed, which cannot tell it."""
    seeds, images = table.shape
    if seeds < 2 or images < 2:
        return 0.0
    residuals = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    return float((residuals**2).sum() / ((seeds - 1) * (images - 1)) / seeds)


def crossed_half_width(
    by_image: np.ndarray, residual: float, error: float, df: float, level: float
) -> float:
    """Half the width of the interval of a mean difference over seeds × images.

    Arguments:
        by_image: Each image's difference, the mean over seeds, [n].
        residual: MS_e/S, of both arms where they are not paired.
        error: Standard error of the mean difference over seeds.
        df: Its degrees of freedom.
        level: 1 minus the coverage.

    Returns:
        the half-width, no less than that over seeds alone; infinite for one seed or one image.
    """
    images = len(by_image)
    if images < 2 or not math.isfinite(error):
        return math.inf

    of_seeds = error**2
    of_images = max(0.0, float(by_image.var(ddof=1)) - residual) / images
    variance = of_seeds + of_images
    if variance == 0:
        return 0.0

    total_df = variance**2 / (of_seeds**2 / df + of_images**2 / (images - 1))
    half = float(student.ppf(1 - level / 2, total_df)) * math.sqrt(variance)
    return max(half, float(student.ppf(1 - level / 2, df)) * error)
