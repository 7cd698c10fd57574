"""Distances in features of a classifier: Fréchet, precision and recall on torch-fidelity; KID,
sliced, coverage here.

Features are those of the small classifiers of `model/classifiers.py`. Distances are named
`fd_digits` and `fd_fashion`, never FID: FID is the Fréchet distance of Inception features.

    sliced_…        3 D · mean over directions u of W₂²(u·features, u·reference), D features
    density         mean over images of (reference balls that hold it) / 5
    coverage        share of reference balls that hold an image

A ball is about a reference image and reaches to its fifth neighbour in the reference.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch_fidelity
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.metric_fid import (
    KEY_METRIC_FID,
    fid_features_to_statistics,
    fid_statistics_to_metric,
)

from ..model.classifiers import CLASSIFIERS, classify, load_classifier

BALL_NEIGHBOURS = 5  # of density and coverage, as its authors advise
BASES = 4  # sets of orthogonal directions of the sliced distance


class ClassifierExtractor(FeatureExtractorBase):
    """The classifier of a name as torch-fidelity wants an extractor."""

    def __init__(self, name: str, features_list: list[str], **ignored: Any) -> None:
        super().__init__(name, features_list)
        self.classifier = load_classifier(name)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return "features", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "features"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        return torch.zeros(1, 1, 8, 8, dtype=torch.uint8)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features, logits = self.classifier(images)
        outputs = {"features": features, "logits": logits}
        return tuple(map(outputs.__getitem__, self.features_list))


for _name in CLASSIFIERS:
    torch_fidelity.register_feature_extractor(_name, ClassifierExtractor)


class ByteImages(Dataset):
    """Images [n, C, H, W] of unsigned bytes, one by one, as torch-fidelity reads them."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.cpu()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i]


def features_of(images: Tensor, classifier: str) -> Tensor:
    """Compute the features [n, 64] of images [n, 1, H, W] by a shipped classifier."""
    return classify(load_classifier(classifier), images)[0]


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """KID's cubic kernel of features [n, F] and [m, F]: [n, m]."""
    return (a.double() @ b.double().T / a.shape[1] + 1) ** 3


def mean_within(k: Tensor) -> Tensor:
    """Mean of a kernel [n, n] over pairs of different images."""
    return (k.sum() - k.trace()) / (len(k) * (len(k) - 1))


def kernel_distance(features: Tensor, reference: Tensor) -> float:
    """Return KID over all images: the unbiased squared MMD of features [n, F] and [m, F].

    It is equation 3 of Gretton et al., 2012. The published KID is its mean over random subsets,
    which has the same expectation and a variance of its own.
    """
    within = mean_within(kernel(features, features)) + mean_within(kernel(reference, reference))
    return (within - 2 * kernel(features, reference).mean()).item()


def frechet_distance(features: Tensor, reference: Tensor) -> float:
    """Return the Fréchet distance of features [n, F] and [m, F], as torch-fidelity computes it."""
    moments = fid_features_to_statistics(features)
    target = fid_features_to_statistics(reference)
    return float(fid_statistics_to_metric(moments, target, False)[KEY_METRIC_FID])


@cache
def directions(d: int) -> Tensor:
    """Draw the directions of `sliced_distance` once and for all: [BASES · d, d], of length one.

    They are orthogonal within each set of d, where the mean of (u·a)² is |a|² / d exactly. Each
    is uniform on the sphere, and together they scatter less than independent ones: Rowland et
    al., 2019, "Orthogonal Estimation of Wasserstein Distances".
    """
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(BASES, d, d, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(normal).Q.mT.reshape(BASES * d, d).float()


def sorted_projections(features: Tensor) -> torch.return_types.sort:
    """Project features [n, F] on all directions and sort them: values, indices [directions, n]."""
    return (directions(features.shape[1]) @ features.float().T).sort(1)


def quantile_pairs(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """Match n sorted values with m: indices i [p] and j [p] of pairs, and their mass [p].

    The optimal transport of a line moves the quantile q of one set to that of the other. Both
    are constant between neighbouring multiples of 1/n and of 1/m. Masses are exact fractions
    of n · m, so that equal numbers give each pair 1/n.
    """
    ends = torch.cat([m * torch.arange(1, n + 1), n * torch.arange(1, m + 1)]).unique()
    starts = torch.cat([torch.zeros(1, dtype=torch.long), ends[:-1]])
    return starts // m, starts // n, (ends - starts).double() / (n * m)


def sliced_between(projections: Tensor, reference: Tensor) -> Tensor:
    """Return `sliced_distance` of sorted projections [P, n] and [P, m]: a scalar."""
    i, j, mass = quantile_pairs(projections.shape[1], reference.shape[1])
    gaps = projections.index_select(1, i) - reference.index_select(1, j)
    squares = gaps.square().mean(0).double()
    return 3 * len(projections) / BASES * (squares @ mass)


def sliced_distance(features: Tensor, reference: Tensor) -> float:
    """Return the sliced Wasserstein distance of features [n, F] and [m, F], squared.

    It is 3 F times the mean over directions u of W₂²(u·features, u·reference), where W₂² is the
    mean squared difference of quantiles. This is MIND (Berthet et al., 2026, arXiv 2605.06797)
    in other features, with its scale 3 F, for sets of any two sizes, and on 4 F fixed directions
    of `directions` in place of 1,000 independent ones. Slicing is due to Rabin et al., 2012, and
    Bonneel et al., 2015.

    Two sets of one distribution are not at distance zero: like a Fréchet distance it falls as
    images are added. Its unit is that of squared features.
    """
    projections = sorted_projections(features).values
    return sliced_between(projections, sorted_projections(reference).values).item()


def neighbour_distances(within: Tensor, neighbours: int) -> Tensor:
    """Return each point's distance to a nearest neighbour, from distances [n, n] with its own 0."""
    return within.topk(neighbours + 1, largest=False).values[:, -1]


def balls_with_images(features: Tensor, reference: Tensor) -> Tensor:
    """Mark which balls of a reference [m, F] hold which of features [n, F]: [m, n] bool.

    A ball is about a reference image and reaches to its fifth neighbour in the reference, which
    has six images or more.
    """
    radii = neighbour_distances(torch.cdist(reference, reference), BALL_NEIGHBOURS)
    return torch.cdist(reference, features) <= radii[:, None]


def density_of_images(balls: Tensor) -> Tensor:
    """Return the density of each image [n], of `balls_with_images` [m, n].

    Its mean is the density of Naeem et al., 2020 (arXiv 2002.09797):
    1/(k n) Σ_j Σ_i 1[image j is in ball i], k = 5. For two sets of one distribution it is 1 on
    average, whatever n and m are. It exceeds 1 where images crowd into dense places.
    """
    return balls.double().sum(0) / BALL_NEIGHBOURS


def coverage(balls: Tensor) -> float:
    """Return the share of balls that hold an image, of `balls_with_images` [m, n].

    It is the coverage of Naeem et al., 2020: 1/m Σ_i 1[ball i holds an image]. Two sets of one
    distribution have, by their lemma 2, 1 - (m-1)…(m-k) / ((n+m-1)…(n+m-k)) on average, k = 5:
    0.97 where n = m, and less where n is less.
    """
    return balls.any(1).double().mean().item()


def means_of_parts(images: Tensor, reference: Tensor, n: int, classifier: str) -> dict[str, float]:
    """Return mean distances of disjoint sets of n images to the whole reference.

    Fréchet and sliced distance fall and coverage rises as images are added, so only values of
    equally many are comparable. KID, precision and density have no such bias.

    Returns:
        fd_{classifier}, sliced_{classifier}, coverage.
    """
    target = features_of(reference, classifier)
    features = features_of(images, classifier)
    parts = features[: len(features) // n * n].split(n)
    projections = sorted_projections(target).values

    def mean(distance: Callable[[Tensor], float]) -> float:
        return statistics.fmean(map(distance, parts))

    return {
        f"fd_{classifier}": mean(lambda part: frechet_distance(part, target)),
        f"sliced_{classifier}": mean(
            lambda part: sliced_between(sorted_projections(part).values, projections).item()
        ),
        "coverage": mean(lambda part: coverage(balls_with_images(part, target))),
    }


def classifier_distances(images: Tensor, reference: Tensor, classifier: str) -> dict[str, float]:
    """Measure the distances of two sets of images [n, 1, H, W] and [m, 1, H, W].

    Returns:
        fd_{classifier}, kid_{classifier} (of all images, see `kernel_distance`),
        sliced_{classifier}, precision, recall, density, coverage.
    """
    values = torch_fidelity.calculate_metrics(
        input1=ByteImages(images),
        input2=ByteImages(reference),
        feature_extractor=classifier,
        batch_size=256,
        cuda=False,
        fid=True,
        prc=True,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
    )

    features = features_of(images, classifier)
    target = features_of(reference, classifier)
    balls = balls_with_images(features, target)

    return {
        f"fd_{classifier}": float(values["frechet_inception_distance"]),
        f"kid_{classifier}": kernel_distance(features, target),
        f"sliced_{classifier}": sliced_distance(features, target),
        "precision": float(values["precision"]),
        "recall": float(values["recall"]),
        "density": density_of_images(balls).mean().item(),
        "coverage": coverage(balls),
    }
