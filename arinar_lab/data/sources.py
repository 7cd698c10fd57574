"""Sources of data. A source holds its training and held-out parts as tensors:

digits      scikit-learn's 1,797 handwritten digits, 1×8×8, 17 grey levels, 10 classes: 1,437 to
            train on, 360 held out
synthetic   tokens of a known autoregressive process, so that log p_true is known
latents     an autoencoder's latents, from files that are read at first use
images      8-bit images, likewise
…           image files, the hub's, CIFAR-10 and MNIST: `image_datasets.py`; Fashion-MNIST:
            `fashion.py`; a latent cache: `latent_cache.py`
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..model.layers import require_at_least
from ..model.noise import Noise, Stream
from ..model.weight_files import read_safetensors


class Source:
    """Training and held-out data. Each part is read at its first use.

    Attributes:
        shape: Shape of one item, C×H×W for images, N×D for tokens.
        levels: Grey levels of an image, 0 for tokens.
        classes: Number of labels.
        flip: Whether training mirrors half of the images, drawn anew in each epoch.

    Images that do not fit the memory are no tensor, but have `len` and take indices like one; i + n
    is then item i mirrored.
    """

    shape: tuple[int, ...]
    levels: int
    classes: int
    flip: bool = False

    @cached_property
    def train(self) -> tuple[Tensor, Tensor]:
        """Images or tokens [n, *shape] of the training part, and labels [n]."""
        return self._read_part("train")

    @cached_property
    def held_out(self) -> tuple[Tensor, Tensor]:
        """Images or tokens [n, *shape] of the held-out part, and labels [n]."""
        return self._read_part("held_out")

    def _read_part(self, part: str) -> tuple[Any, Tensor]:
        """Read the items and labels of a part, "train" or "held_out"."""
        raise NotImplementedError

    @property
    def counts(self) -> tuple[int, int] | None:
        """Number of training and held-out items; None before the data are first read."""
        return len(self.train[0]), len(self.held_out[0])

    def examples(self, labels: Tensor) -> Tensor:
        """Return a training item [n, *shape] for each of some labels [n]: the first of its class,
        then the second. A class begins anew where it has too few.

        Raises:
            ValueError: if a label has no training item.
        """
        train_labels = self.train[1]
        places: dict[int, Tensor] = {}
        counts: dict[int, int] = {}
        chosen = []
        for label in labels.tolist():
            if label not in places:
                places[label] = (train_labels == label).nonzero()[:, 0]
                if not len(places[label]):
                    raise ValueError(f"label {label} has no training item")
            number = counts.get(label, 0)
            counts[label] = number + 1
            chosen.append(int(places[label][number % len(places[label])]))
        return self.train[0][torch.tensor(chosen)]

    @property
    def whole(self) -> Source:
        """The source of all images: another one where this one splits its training images."""
        return self

    @property
    def pictures(self) -> bool:
        """Whether items are images that generated ones are compared with."""
        return self.levels > 0

    @property
    def classifier(self) -> str | None:
        """The shipped classifier that knows such images, in whose features distances are taken."""
        is_like_digits = (tuple(self.shape), self.levels) == (Digits.shape, Digits.levels)
        return "digits" if is_like_digits else None

    @property
    def reference(self) -> Literal["train", "held_out"]:
        """The part that generated images are compared with; the other part shows the floor."""
        return "train"

    def prepare(self) -> None:
        """Open the data now.

        Raises:
            ValueError: in one line, if they are missing, damaged or contradict the recipe.
        """
        for part in (self.train, self.held_out):
            if len(part[0]) == 0:
                raise ValueError("kind: there are no images")

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor | None:
        """Return the true log-density of tokens x [B, N, D] in nats, [B]; None if it is unknown."""
        return None


class Digits(Source):
    """The handwritten digits of scikit-learn (Alpaydin and Kaynak, 1998)."""

    shape = (1, 8, 8)
    levels = 17
    classes = 10
    counts = (1437, 360)

    def _read_part(self, part: str) -> tuple[Tensor, Tensor]:
        images, labels = _read_digits()
        items = slice(360, None) if part == "train" else slice(360)
        return images[items], labels[items]


@cache
def _read_digits() -> tuple[Tensor, Tensor]:
    """Read images and labels in the order of the split, once for all arms of a study."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(data.target).long()
    order = Noise.of(torch.tensor(0), "digits split").permutation(len(images))
    return images[order], labels[order]


class Synthetic(Source):
    """Tokens of a known process: each feature is a mixture of two Gaussians given the previous, s.

        p(x | s, y) = a N(0.6 s + 1, σ²) + (1 - a) N(0.6 s - 1, σ²)
        a           = sigmoid(2 s + y - (classes - 1)/2)

    Arguments:
        tokens: Number N of tokens in a sequence, at least 1.
        features: Number D of features in a token, at least 1.
        classes: Number of labels, at least 1.
        train: Number of training sequences, at least 1.
        held_out: Number of held-out sequences, at least 1.
        std: Standard deviation σ of each Gaussian, above 0.
        seed: Seed of the data.

    Raises:
        ValueError: if a count is below 1 or std is not above 0.
    """

    levels = 0

    def __init__(
        self,
        *,
        tokens: int = 4,
        features: int = 4,
        classes: int = 3,
        train: int = 50_000,
        held_out: int = 2_000,
        std: float = 0.3,
        seed: int = 0,
    ) -> None:
        require_at_least(
            1, tokens=tokens, features=features, classes=classes, train=train, held_out=held_out
        )
        if not std > 0:
            raise ValueError(f"std: {std} is not above 0")

        self.shape = (tokens, features)
        self.classes = classes
        self.std = std
        self.sizes = (train, held_out)
        self.seed = seed

    @property
    def counts(self) -> tuple[int, int]:
        return self.sizes

    def _read_part(self, part: str) -> tuple[Tensor, Tensor]:
        x, y = self._all
        items = slice(self.sizes[0]) if part == "train" else slice(self.sizes[0], None)
        return x[items], y[items]

    @cached_property
    def _all(self) -> tuple[Tensor, Tensor]:
        """All sequences, drawn at first use: a check of a recipe needs none."""
        noise = Noise.of(torch.arange(sum(self.sizes)) + 1_000_003 * self.seed, "synthetic")
        y = (noise.at(Stream.LABEL).uniform(1).squeeze(-1) * self.classes).long()
        return self._draw(y, noise.at(Stream.ITEM)), y

    def _weight(self, s: Tensor, y: Tensor) -> Tensor:
        return torch.sigmoid(2 * s + y - (self.classes - 1) / 2)

    def _draw(self, y: Tensor, noise: Noise) -> Tensor:
        steps = math.prod(self.shape)
        u = noise.at(Stream.CHOICE).uniform(steps)
        e = noise.at(Stream.PLACE).normal(steps, torch.float64)
        row = [torch.zeros(len(y), dtype=torch.float64)]
        for t in range(steps):
            sign = torch.where(u[:, t] < self._weight(row[-1], y), 1.0, -1.0)
            row.append(0.6 * row[-1] + sign + self.std * e[:, t])
        return torch.stack(row[1:], -1).float().unflatten(-1, self.shape)

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        row = x.double().flatten(1)
        s = torch.nn.functional.pad(row[:, :-1], (1, 0))
        a = self._weight(s, y.unsqueeze(-1)).double()

        def log_normal(mean: Tensor) -> Tensor:
            return (
                -0.5 * ((row - mean) / self.std) ** 2
                - math.log(self.std)
                - 0.5 * math.log(2 * math.pi)
            )

        upper = a.log() + log_normal(0.6 * s + 1)
        lower = (1 - a).log() + log_normal(0.6 * s - 1)
        return torch.logaddexp(upper, lower).sum(-1)


class TensorFiles(Source):
    """Items and `labels` in `train.safetensors` and `held_out.safetensors` of a folder.

    The files are read at first use, so a recipe can be checked, and a published checkpoint
    converted, without them. Labels may be [n], a column [n, 1] or one-hot rows [n, classes].

    Arguments:
        path: Folder of the two files.
        name: Name of the items in the files.
        channels: Channels of an item, at least 1.
        size: Height and width of an item, at least 1.
        classes: Number of labels, at least 1.

    Raises:
        ValueError: if a count is below 1; on reading, if a file is missing, damaged or of another
            shape or type, or items or labels are no numbers that can be trained on.
    """

    dtypes: tuple[torch.dtype, ...]
    advice = ""

    def __init__(self, path: str, name: str, channels: int, size: int, classes: int) -> None:
        require_at_least(1, channels=channels, size=size, classes=classes)
        self.path = Path(path)
        self.name = name
        self.shape = (channels, size, size)
        self.classes = classes

    @property
    def counts(self) -> tuple[int, int] | None:
        return super().counts if (self.path / "train.safetensors").is_file() else None

    def _read_part(self, part: str) -> tuple[Tensor, Tensor]:
        file = self.path / f"{part}.safetensors"
        if not file.is_file():
            raise ValueError(
                f"path: {str(file)!r} is not there; it holds {self.name} [n, C, "
                "H, W] and labels [n]"
            )

        try:
            content = read_safetensors(file)
        except ValueError as error:
            raise ValueError(f"path: {error}") from None

        try:
            for name in (self.name, "labels"):
                if name not in content:
                    raise ValueError(f"lacks {name}; it holds {', '.join(content) or 'nothing'}")
            items = self._checked(content[self.name])
            return items, checked_labels(content["labels"], len(items), self.classes)
        except ValueError as error:
            raise ValueError(f"path: {str(file)!r}: {error}") from None

    def _checked(self, items: Tensor) -> Tensor:
        """Refuse items of another type or shape, and numbers that are not finite."""
        if items.dtype not in self.dtypes:
            wanted = " or ".join(map(_name, self.dtypes))
            raise ValueError(f"its {self.name} are {_name(items.dtype)}, not {wanted}{self.advice}")

        if items.shape[1:] != self.shape:
            raise ValueError(f"its {self.name} are {tuple(items.shape)}, not [n, {self.shape}]")
        faulty = _not_finite(items) if items.is_floating_point() else []
        if faulty:
            raise ValueError(
                f"{len(faulty)} of {len(items)} {self.name} hold NaN or infinity; the first is "
                f"item {faulty[0]}"
            )

        return items


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _not_finite(items: Tensor) -> list[int]:
    """List the items with NaN or infinity; a mask of all items at once takes much memory."""
    finite = [part.isfinite().flatten(1).all(1) for part in items.split(4096)]
    return (~torch.cat(finite)).nonzero().flatten().tolist()


def checked_labels(labels: Tensor, n: int, classes: int) -> Tensor:
    """Convert labels [n], a column [n, 1] or one-hot rows [n, classes] of n items to labels [n].

    Raises:
        ValueError: if they have another shape, or are no whole numbers in 0 … classes - 1.
    """
    values = labels.double()
    if values.shape == (n, 1):
        values = values[:, 0]
    elif values.shape == (n, classes) and _is_one_hot(values):
        values = values.argmax(1).double()
    if values.shape != (n,):
        raise ValueError(
            f"its labels are {tuple(labels.shape)}; they have to be [{n}], or one-hot "
            f"[{n}, {classes}]"
        )

    _check_labels(values, values != values.round(), "labels that are no whole numbers")
    outside = (values < 0) | (values >= classes)
    _check_labels(values, outside, f"labels outside 0 … {classes - 1}")
    return values.long()


def _is_one_hot(values: Tensor) -> bool:
    """Whether rows [n, K] are all zeros but for a single one."""
    is_binary = ((values == 0) | (values == 1)).all()
    return bool(is_binary and (values.sum(1) == 1).all())


def _check_labels(values: Tensor, faulty: Tensor, fault: str) -> None:
    """Refuse labels [n] some of which are faulty [n]."""
    if faulty.any():
        i = int(faulty.nonzero()[0])
        raise ValueError(f"it has {int(faulty.sum())} {fault}; that of item {i} is {values[i]:g}")


class LatentTensors(TensorFiles):
    """Latents of an autoencoder: `latents` [n, channels, size, size] of any float type, in files.

    Arguments:
        path: Folder of `train.safetensors` and `held_out.safetensors`, see `TensorFiles`.
        channels: Channels of an item, at least 1.
        size: Height and width of an item, at least 1.
        classes: Number of labels, at least 1.
    """

    levels = 0
    dtypes = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

    def __init__(
        self, *, path: str, channels: int = 16, size: int = 16, classes: int = 1000
    ) -> None:
        super().__init__(path, "latents", channels, size, classes)


class ImageTensors(TensorFiles):
    """8-bit images: `images` [n, channels, size, size], uint8, in files.

    Other types are refused, since floats may be in [0, 1], in [-1, 1] or in [0, 255].

    Arguments:
        path: Folder of `train.safetensors` and `held_out.safetensors`, see `TensorFiles`.
        channels: Channels of an image, at least 1.
        size: Height and width of an image in pixels, at least 1.
        classes: Number of labels, at least 1.
    """

    levels = 256
    dtypes = (torch.uint8,)
    advice = "; of floats in [0, 1] save (255 * images).round().to(torch.uint8)"

    def __init__(
        self, *, path: str, channels: int = 3, size: int = 256, classes: int = 1000
    ) -> None:
        super().__init__(path, "images", channels, size, classes)


SOURCES: dict[str, Callable[..., Source]] = {
    "digits": Digits,
    "synthetic": Synthetic,
    "latents": LatentTensors,
    "images": ImageTensors,
}
SourceFactory = Callable[[], Source]
"""Called without arguments."""


def subsample(images: Tensor, limit: int = 4096) -> Tensor:
    """Return all images of a tensor, or at most `limit` of those read on demand, spread evenly."""
    if isinstance(images, Tensor):
        return images
    return images[torch.linspace(0, len(images) - 1, min(limit, len(images))).long()]
