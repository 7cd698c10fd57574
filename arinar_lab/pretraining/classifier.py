"""Training of the classifiers that ship with the package: `arinar retrain NAME`.

Only training images are used; the fashion classifier's are all 60,000.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..data.fashion import Fashion, halved
from ..data.sources import Digits, Source
from ..model.classifiers import CLASSIFIERS, classify
from ..model.weight_files import ASSETS
from ..output.text import say

_REPORT_EVERY = 500  # steps


@dataclass(frozen=True)
class ClassifierTraining:
    """How a classifier is trained.

    Arguments:
        source: Its images.
        steps: Optimiser steps.
        lr: Peak learning rate.
        varied: Images [B, 1, H, W] of bytes → the images of a step, shifted or mirrored at random.
        sizes: Number of sizes whose held-out accuracy is reported: 2 adds images of half the size.
    """

    source: Callable[[], Source]
    steps: int
    lr: float
    varied: Callable[[Tensor], Tensor]
    sizes: int = 1


def _shifted(images: Tensor, most: int = 1) -> Tensor:
    """Shift images by at most so many pixels."""
    size = images.shape[-1]
    across, down = torch.randint(-most, most + 1, (2,)).tolist()
    padded = nn.functional.pad(images, (most,) * 4)
    return padded[..., most + down :, most + across :][..., :size, :size]


def _varied_fashion(images: Tensor) -> Tensor:
    """Shift images by at most two pixels, mirror half of the batches, and halve half of them."""
    images = _shifted(images, 2)
    mirror, halve = torch.randint(2, (2,)).tolist()
    images = images.flip(-1) if mirror else images
    return halved(images) if halve else images


TRAININGS = {
    "digits": ClassifierTraining(Digits, 3000, 2e-3, _shifted),
    "fashion": ClassifierTraining(lambda: Fashion(source="full"), 2500, 6e-3, _varied_fashion, 2),
}


def train_classifier(name: str) -> tuple[nn.Module, str]:
    """Train a classifier; return it and a line with its held-out accuracy.

    Raises:
        ValueError: if its images are not on this machine.
    """
    training = TRAININGS[name]
    data = training.source()
    images, labels = data.train
    model = CLASSIFIERS[name]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.lr, training.steps)

    for step in range(training.steps):
        i = torch.randint(len(images), (128,))
        _, logits = model(training.varied(images[i]))
        loss = nn.functional.cross_entropy(logits, labels[i], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % _REPORT_EVERY == 0:
            say(f"step {step + 1} of {training.steps}: loss {loss.item():.3f}")

    model.eval()
    held_out, y = data.held_out
    accuracies = []
    with torch.no_grad():
        for shown in (held_out, halved(held_out))[: training.sizes]:
            right = (classify(model, shown)[1].argmax(-1) == y).float().mean()
            size = shown.shape[-1]
            accuracies.append(f"{right:.4f} at {size}×{size}")

    return model, f"accuracy on {len(y):,} held-out images: {', '.join(accuracies)}"


def retrain_classifier(name: str, folder: Path = ASSETS) -> str:
    """Train a shipped classifier from seed 0, save it, and return its size and accuracy.

    Raises:
        ValueError: if its images are not on this machine.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, quality = train_classifier(name)
    path = folder / f"{name}_classifier.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    return f"{path}: {path.stat().st_size / 1e6:.2f} MB, {quality}"
