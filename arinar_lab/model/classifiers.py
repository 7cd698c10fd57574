"""Classifiers whose last activations are the features of distances. Their weights ship.

digits      1×8×8, 17 grey levels: `fd_digits`
fashion     1×28×28 or 1×14×14, 256 grey levels: `fd_fashion`
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .codecs.codec import from_grey_levels
from .weight_files import ASSETS, read_safetensors

FEATURE_COUNT = 64


class Classifier(nn.Module):
    """Classifier of grey images, whose `FEATURE_COUNT` last activations are features.

    Attributes:
        size: Height and width of the images that it is trained on.
        levels: Their number of grey levels.
    """

    size: int
    levels: int

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)
        self.logits = nn.Linear(FEATURE_COUNT, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Grey levels [B, 1, H, W] → features [B, 64], logits [B, 10].

        Each pixel of an image of half the size stands for 2×2.
        """
        scaled = from_grey_levels(images, self.levels)
        if images.shape[-1] != self.size:
            scaled = nn.functional.interpolate(scaled, self.size)
        features = self.body(scaled)
        return features, self.logits(features)


class DigitsClassifier(Classifier):
    """Classifier of scikit-learn's digits, 1×8×8."""

    size = 8
    levels = 17

    def __init__(self) -> None:
        super().__init__(
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


class FashionClassifier(Classifier):
    """Classifier of Fashion-MNIST, 1×28×28."""

    size = 28
    levels = 256

    def __init__(self) -> None:
        super().__init__(
            *_normalised_conv(1, 24, 2),
            *_normalised_conv(24, 48),
            *_normalised_conv(48, 64, 2),
            *_normalised_conv(64, 64),
            nn.AvgPool2d(3, 2, 1),
            nn.Flatten(),
            nn.Linear(64 * 16, FEATURE_COUNT),
            nn.GELU(),
        )


def _normalised_conv(inside: int, outside: int, stride: int = 1) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
    return conv, nn.BatchNorm2d(outside), nn.GELU()


CLASSIFIERS: dict[str, type[Classifier]] = {
    "digits": DigitsClassifier,
    "fashion": FashionClassifier,
}


def load_classifier(name: str) -> Classifier:
    """Load a shipped classifier, frozen."""
    classifier = CLASSIFIERS[name]().requires_grad_(False).eval()
    classifier.load_state_dict(read_safetensors(ASSETS / f"{name}_classifier.safetensors"))
    return classifier


def classify(classifier: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute features [n, 64] and logits [n, 10] of images [n, 1, H, W], some at a time."""
    features, logits = zip(*map(classifier, images.cpu().split(256)), strict=True)
    return torch.cat(features), torch.cat(logits)
