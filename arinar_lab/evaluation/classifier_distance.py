"""Metrics: bits/dim on torchmetrics; Fréchet distance, KID, precision and recall on torch-fidelity.

Distances of digits are taken in the features of a small classifier whose weights ship with the
package. They are named `fd_digits`, never FID: FID is the Fréchet distance of Inception features.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
import torch_fidelity
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.metric_fid import (
    KEY_METRIC_FID,
    fid_features_to_statistics,
    fid_statistics_to_metric,
)

from ..model.codecs.codec import ASSETS, load_safetensors

FEATURE_COUNT = 64


class DigitsClassifier(nn.Module):
    """Classifier of 1×8×8 digits, whose 64 last activations are the features of `fd_digits`."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, 1, 1),
            nn.GELU(),
            nn.Conv2d(32, 64, 3, 2, 1),
            nn.GELU(),
            nn.Conv2d(64, 64, 3, 1, 1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(64 * 16, FEATURE_COUNT),
            nn.GELU(),
        )
        self.logits = nn.Linear(FEATURE_COUNT, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Grey levels 0 … 16, [B, 1, 8, 8] → features [B, 64], logits [B, 10]."""
        features = self.body(images.float() / 8 - 1)
        return features, self.logits(features)


class DigitsExtractor(FeatureExtractorBase):
    """The classifier as torch-fidelity wants an extractor."""

    def __init__(self, name: str, features_list: list[str], **ignored: Any) -> None:
        super().__init__(name, features_list)
        self.classifier = DigitsClassifier().requires_grad_(False)
        load_safetensors(self.classifier, ASSETS / "digits_classifier.safetensors")

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


torch_fidelity.register_feature_extractor("digits", DigitsExtractor)


class ByteImages(Dataset):
    """Images [n, C, H, W] of unsigned bytes, one by one, as torch-fidelity reads them."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.cpu()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i]


def features_of(images: Tensor) -> Tensor:
    """Compute the classifier's features of digits [n, 1, 8, 8]: [n, 64]."""
    extractor = DigitsExtractor("digits", ["features"])
    return torch.cat([extractor(part)[0] for part in images.cpu().split(256)])


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


def distance_of_parts(images: Tensor, reference: Tensor, n: int) -> float:
    """Return the mean Fréchet distance of disjoint sets of n images to the whole reference.

    A Fréchet distance falls as images are added, so only distances of equally many are comparable.
    """
    target = fid_features_to_statistics(features_of(reference))
    features = features_of(images)
    distances = []
    for part in features[: len(features) // n * n].split(n):
        moments = fid_features_to_statistics(part)
        distances.append(fid_statistics_to_metric(moments, target, False)[KEY_METRIC_FID])
    return statistics.fmean(distances)


def digits_distances(images: Tensor, reference: Tensor) -> dict[str, float]:
    """Measure Fréchet distance, KID, precision and recall of two sets of digits [n, 1, 8, 8].

    Returns:
        fd_digits, kid_digits (of all images, see `kernel_distance`), precision, recall.
    """
    values = torch_fidelity.calculate_metrics(
        input1=ByteImages(images),
        input2=ByteImages(reference),
        feature_extractor="digits",
        batch_size=256,
        cuda=False,
        fid=True,
        prc=True,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
    )

    return {
        "fd_digits": float(values["frechet_inception_distance"]),
        "kid_digits": kernel_distance(features_of(images), features_of(reference)),
        "precision": float(values["precision"]),
        "recall": float(values["recall"]),
    }
