"""Evaluation noise: the uncertainty of a metric over images, for fixed trained weights.

A report's `noise` holds the half-width of a 95 % interval for each metric that is a function of a
set of images. It does not cover the variance of training, which seeds measure.

    means         t(0.975, n-1) · s / √n over n images, each the mean of its draws. A bootstrap over
                  images gives the same: its standard error of a mean is s/√n · √((n-1)/n), whatever
                  the values. Bits/dim, their gap, precision (is an image among the reference's
                  neighbours?), density, the truncated share
    sets          jackknife over b = 10 disjoint blocks of images, with the same share of every
                  class, each left out in turn: t(0.975, b-1) · √((b-1)/b · Σ (v - mean)²).
                  Fréchet's distance, KID, the sliced distance, recall, coverage

A Fréchet distance falls as images are added. So a bootstrap, whose sets hold two thirds of the
images, is centred too high, and single blocks are biased like a tenth of the images: on digits
their spread gives half-widths that are 1.4 to 2.8 times too wide. The change when a block is left
out has no such bias. The interval is of the value that n images have on average. Where a set is
nearly as good as the reference it is too wide (1.3 times for Fréchet, 1.7 for KID, 2 for a recall
of 0.99, against 1.2 for one of 0.8).
The reference images are fixed: they are part of the metric's definition.
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

from .classifier_distance import (
    balls_with_images,
    density_of_images,
    features_of,
    kernel,
    mean_within,
    neighbour_distances,
    sliced_between,
    sorted_projections,
)

BLOCK_COUNT = 10
NEIGHBOURS = 3  # torch-fidelity's, of precision and recall


def half_width(values: Tensor) -> float:
    """Return the half-width of the mean of independent values [n]; infinite for one."""
    n = len(values)
    if n < 2:
        return math.inf
    return float(stdtrit(n - 1, 0.975) * values.double().std() / math.sqrt(n))


def half_width_of_ratio(above: Tensor, below: Tensor) -> float:
    """Return the half-width of mean(above) / mean(below), to first order in their errors.

    The two are independent sets of positive values.
    """
    ratio = above.double().mean() / below.double().mean()
    errors = torch.tensor([half_width(above), half_width(below) * ratio], dtype=torch.float64)
    return (errors.norm() / below.double().mean()).item()


def disjoint_blocks(y: Tensor, count: int = BLOCK_COUNT) -> list[Tensor]:
    """Split indices into equal blocks with equal shares of each class y [n]; drop a remainder."""
    order = y.argsort(stable=True)[: len(y) // count * count]
    return list(order.view(-1, count).unbind(1))


def half_widths_of_sets(
    images: Tensor, y: Tensor, reference: Tensor, classifier: str
) -> dict[str, float]:
    """Return the half-widths of `classifier_distance.classifier_distances`.

    The images [n, 1, H, W] are of classes y. Below 2 images a block there are none.
    """
    if len(images) < 2 * BLOCK_COUNT:
        return {}

    features = features_of(images, classifier)
    target = features_of(reference, classifier)
    balls = balls_with_images(features, target)
    parts = disjoint_blocks(y)
    return {
        f"fd_{classifier}": jackknife(distances_without(parts, features, target)),
        f"kid_{classifier}": jackknife(kernels_without(parts, features, target)),
        f"sliced_{classifier}": jackknife(sliced_without(parts, features, target)),
        "precision": half_width(is_inside(features, target, target).double()),
        "recall": jackknife(recall_without(parts, features, target)),
        "density": half_width(density_of_images(balls)),
        "coverage": jackknife(coverage_without(parts, balls)),
    }


def jackknife(values: Tensor) -> float:
    """Return a statistic's half-width, from its values [b] without each of b blocks."""
    b = len(values)
    return float(stdtrit(b - 1, 0.975) * values.std(correction=0) * math.sqrt(b - 1))


def outside_block(part: Tensor, n: int) -> Tensor:
    """Mark the images of n that are not in a block: [n] bool."""
    keep = torch.ones(n, dtype=torch.bool)
    keep[part] = False
    return keep


def distances_without(parts: Iterable[Tensor], features: Tensor, reference: Tensor) -> Tensor:
    """Return the Fréchet distance of features to the reference when each block is left out: [b]."""
    target = fid_features_to_statistics(reference)
    values = []
    for part in parts:
        moments = fid_features_to_statistics(features[outside_block(part, len(features))])
        values.append(fid_statistics_to_metric(moments, target, False)[KEY_METRIC_FID])
    return torch.tensor(values, dtype=torch.float64)


def kernels_without(parts: Iterable[Tensor], features: Tensor, reference: Tensor) -> Tensor:
    """Return KID of `classifier_distance.classifier_distances` when each block is left out: [b]."""
    within = kernel(features, features)
    across = kernel(features, reference)
    target = mean_within(kernel(reference, reference))
    values = []
    for part in parts:
        keep = outside_block(part, len(features))
        values.append(mean_within(within[keep][:, keep]) + target - 2 * across[keep].mean())
    return torch.stack(values)


def sliced_without(parts: Iterable[Tensor], features: Tensor, reference: Tensor) -> Tensor:
    """Return the sliced distance of features to the reference when each block is left out: [b]."""
    target = sorted_projections(reference)
    projections = sorted_projections(features)
    values = []
    for part in parts:
        keep = outside_block(part, len(features))[projections.indices]
        kept = projections.values[keep].view(len(keep), -1)
        values.append(sliced_between(kept, target.values))
    return torch.stack(values)


def is_inside(points: Tensor, centres: Tensor, among: Tensor) -> Tensor:
    """Mark points that are nearer to a centre than the centre's third neighbour `among`: [n]."""
    radius = neighbour_distances(torch.cdist(centres, among), NEIGHBOURS)
    return (torch.cdist(points, centres) <= radius).any(1)


def recall_without(parts: Iterable[Tensor], features: Tensor, reference: Tensor) -> Tensor:
    """Return recall when each block is left out: [b]."""
    within = torch.cdist(features, features)
    across = torch.cdist(reference, features)
    values = []
    for part in parts:
        keep = outside_block(part, len(features))
        radius = neighbour_distances(within[keep][:, keep], NEIGHBOURS)
        values.append((across[:, keep] <= radius).any(1).double().mean())
    return torch.stack(values)


def coverage_without(parts: Iterable[Tensor], balls: Tensor) -> Tensor:
    """Return coverage, of `balls_with_images` [m, n], when each block is left out: [b]."""
    holders = balls.sum(1)
    values = []
    for part in parts:
        values.append((holders > balls[:, part].sum(1)).double().mean())
    return torch.stack(values)
