"""A validation part of the training images, for choices that must not see the test images.

    data                 ┌ train     ─ split by a seed ─┬ train
    (held_out is         │                              └ held_out: the validation part
     not used)           └ held_out

A search judges its trials on the validation part. What it chooses is then trained on all training
images and reported on the held-out ones, which have decided nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from ..model.noise import Noise
from .sources import Source


@dataclass(frozen=True)
class Validation:
    """A part of the training images that is set aside, of each class alike.

    Arguments:
        share: Share of the training images, between 0 and 1; the part holds at most as many images
            as are held out.
        seed: Seed of the split, in 0 … 2^32 - 1.

    Raises:
        ValueError: if a number is out of range.
    """

    share: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share: {self.share:g} is not between 0 and 1")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed: {self.seed} is outside 0 … 2^32 - 1")

    def __str__(self) -> str:
        """The split in words."""
        return (
            f"{100 * self.share:g} % of the training images (at most as many as are held out), of "
            f"each class alike, drawn by seed {self.seed}"
        )


def split_items(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split items by their labels [n] into n - count and count items, of each class alike.

    The items of a class of size m are shuffled and placed at (k + 1/2) / m, k = 0, …, m - 1. The
    `count` lowest places of all classes are the second part, so that a class contributes its share
    but for one item. Each class keeps one item in the first part.

    Returns:
        the items of the two parts, each in ascending order.

    Raises:
        ValueError: if the classes are too small for that.
    """
    order = Noise.of(torch.tensor(seed), "validation split").permutation(len(labels))
    shuffled = labels[order]
    places = torch.full((len(labels),), math.inf, dtype=torch.float64)
    for label in shuffled.unique():
        members = (shuffled == label).nonzero().flatten()[:-1]
        places[members] = (torch.arange(len(members)) + 0.5).double() / (len(members) + 1)

    if count > int(places.isfinite().sum()):
        raise ValueError(
            f"{len(labels)} training images are too few to set {count} aside for validation, since "
            "each class keeps one"
        )
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[order[places.argsort(stable=True)[:count]]] = True
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()


class SelectedImages:
    """Some images of a part of the data that is read on demand.

    Item i + n is item i mirrored, where the images have mirror images.

    Arguments:
        images: The images of the part.
        items: Their indices [n].
    """

    def __init__(self, images: Any, items: Tensor) -> None:
        self.images = images
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: Any) -> Tensor:
        n = len(self)
        i = torch.arange(2 * n)[: n if isinstance(i, slice) else None][i]
        selected: Tensor = self.images[self.items[i % n] + i // n * len(self.images)]
        return selected

    def check(self) -> None:
        """Refuse data with too many damaged images, see `image_datasets.py`."""
        if hasattr(self.images, "check"):
            self.images.check()


class ValidationSource(Source):
    """Data whose held-out part is a validation part of another source's training images.

    The other source's own held-out images are counted, and otherwise not used.

    Arguments:
        whole: The other source.
        validation: The split.

    Raises:
        ValueError: on reading, or on counting, if there are too few images.
    """

    def __init__(self, whole: Source, validation: Validation) -> None:
        self._whole = whole
        self.validation = validation
        self.shape = whole.shape
        self.levels = whole.levels
        self.classes = whole.classes
        self.flip = whole.flip

    @property
    def whole(self) -> Source:
        return self._whole

    @property
    def counts(self) -> tuple[int, int] | None:
        counts = self.whole.counts
        if counts is None:
            return None
        train, _ = counts
        count = self._count(*counts)
        return train - count, count

    @property
    def pictures(self) -> bool:
        return self.whole.pictures

    @property
    def classifier(self) -> str | None:
        return self.whole.classifier

    @property
    def reference(self) -> Literal["train", "held_out"]:
        return self.whole.reference

    def prepare(self) -> None:
        self.whole.prepare()
        super().prepare()

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor | None:
        return self.whole.log_prob(x, y)

    def _count(self, train: int, held_out: int) -> int:
        """Number of validation images, given the numbers of training and held-out images."""
        count = min(int(self.validation.share * train), held_out)
        if count < 1:
            raise ValueError(
                f"{train} training images are too few to set a share of "
                f"{self.validation.share:g} aside for validation"
            )
        return count

    @cached_property
    def _items(self) -> dict[str, Tensor]:
        """The indices of the two parts among the training images."""
        labels = self.whole.train[1]
        count = self._count(len(labels), len(self.whole.held_out[1]))
        train, held_out = split_items(labels, count, self.validation.seed)
        return {"train": train, "held_out": held_out}

    def _read_part(self, part: str) -> tuple[Any, Tensor]:
        images: Any
        images, labels = self.whole.train
        items = self._items[part]
        if isinstance(images, Tensor):
            return images[items], labels[items]
        return SelectedImages(images, items), labels[items]
