"""Evaluation noise: how far a reading would move over other images, with the trained
weights as they are.

A report's `noise` holds the half-width of a 95 % interval for each metric that is a function of a
set of images. It says nothing of other trainings; that is what seeds are for.

    means         t(0.975, n-1) · s / √n over n images, each the mean of its draws. A bootstrap over
                  images says the same and draws nothing more out of them: its standard error of a
                  mean is s/√n · √((n-1)/n), whatever the values. Bits/dim, their gap, precision (is
                  an image among the reference's neighbours?), the truncated share
    the rest      jackknife over b = 10 disjoint blocks of images, with the same share of every
                  class, each left out in turn: t(0.975, b-1) · √((b-1)/b · Σ (v - mean)²).
                  Fréchet's distance, KID, recall

A Fréchet distance falls as images are added, so a bootstrap, whose sets hold two thirds of the
images, would be centred too high, and blocks by themselves are as far off as a tenth of the images:
on digits their spread gives half-widths that are 1.4 to 2.8 times too wide. What a block changes
when it is left out is free of that. The interval is of the value that n images have on average.
Where a set is nearly as good as the reference it is too wide (1.3 times for Fréchet, 1.7 for KID, 2
for a recall of 0.99, against 1.2 for one of 0.8).
The reference images stay as they are: they are part of the metric's definition.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from scipy.special import stdtrit
from torch import Tensor
from torch_fidelity.metric_fid import (
    KEY_METRIC_FID,
    fid_features_to_statistics,
    fid_statistics_to_metric,
)

from .classifier_distance import features_of, kernel, mean_within

BLOCK_COUNT = 10
NEIGHBOURS = 3  # torch-fidelity's, of precision and recall


def half_width(values: Tensor) -> float:
    """Of the mean of independent values [n]; infinite for one."""
    n = len(values)
    return (
        float(stdtrit(n - 1, 0.975) * values.double().std() / math.sqrt(n)) if n > 1 else math.inf
    )


def half_width_of_ratio(above: Tensor, below: Tensor) -> float:
    """Of mean(above) / mean(below), independent sets of positive values, to first
    order in their errors.
    """
    ratio = above.double().mean() / below.double().mean()
    errors = torch.tensor([half_width(above), half_width(below) * ratio], dtype=torch.float64)
    return (errors.norm() / below.double().mean()).item()


def disjoint_blocks(y: Tensor, count: int = BLOCK_COUNT) -> list[Tensor]:
    """Indices of disjoint blocks of equal size, with as many of each class y [n] as can
    be; a rest is left out.
    """
    order = y.argsort(stable=True)[: len(y) // count * count]
    return list(order.view(-1, count).unbind(1))


def half_widths_of_sets(images: Tensor, y: Tensor, reference: Tensor) -> dict[str, float]:
    """Half-widths of what `classifier_distance.digits_distances` says of digits [n, 1, 8, 8] of
    classes y; none below 2 a block.
    """
    if len(images) < 2 * BLOCK_COUNT:
        return {}

    features, whole, parts = features_of(images), features_of(reference), disjoint_blocks(y)
    return {
        "fd_digits": jackknife(distances_without(parts, features, whole)),
        "kid_digits": jackknife(kernels_without(parts, features, whole)),
        "precision": half_width(is_inside(features, whole, whole).double()),
        "recall": jackknife(recall_without(parts, features, whole)),
    }


def jackknife(values: Tensor) -> float:
    """Half-width of a statistic, from its values [b] when each of b blocks is left out."""
    b = len(values)
    return float(stdtrit(b - 1, 0.975) * values.std(correction=0) * math.sqrt(b - 1))


def outside_block(part: Tensor, n: int) -> Tensor:
    """Which of n images are not in a block: [n] bool."""
    keep = torch.ones(n, dtype=torch.bool)
    keep[part] = False
    return keep


def distances_without(parts: Iterable[Tensor], features: Tensor, reference: Tensor) -> Tensor:
    """Fréchet distance of features [n, F] to the reference's when each block is left out: [b]."""
    whole, values = fid_features_to_statistics(reference), []
    for part in parts:
        left = fid_features_to_statistics(features[outside_block(part, len(features))])
        values.append(fid_statistics_to_metric(left, whole, False)[KEY_METRIC_FID])
    return torch.tensor(values, dtype=torch.float64)


def kernels_without(parts: Iterable[Tensor], features: Tensor, reference: Tensor) -> Tensor:
    """KID as `classifier_distance.digits_distances` has it, when each block is left out: [b]."""
    own, across = kernel(features, features), kernel(features, reference)
    other = mean_within(kernel(reference, reference))
    left = (outside_block(part, len(features)) for part in parts)
    return torch.stack(
        [mean_within(own[keep][:, keep]) + other - 2 * across[keep].mean() for keep in left]
    )


def is_inside(points: Tensor, centres: Tensor, among: Tensor) -> Tensor:
    """Whether each point lies nearer to some centre than that one's third neighbour
    among its own: [n] bool.
    """
    radius = torch.cdist(centres, among).kthvalue(NEIGHBOURS + 1).values
    return (torch.cdist(points, centres) <= radius).any(1)


def recall_without(parts: Iterable[Tensor], features: Tensor, reference: Tensor) -> Tensor:
    """Recall when each block is left out: [b]."""
    own, across, values = torch.cdist(features, features), torch.cdist(reference, features), []
    for part in parts:
        keep = outside_block(part, len(features))
        radius = own[keep][:, keep].kthvalue(NEIGHBOURS + 1).values
        values.append((across[:, keep] <= radius).any(1).double().mean())
    return torch.stack(values)
