"""Image data: read on demand, since large collections fit no memory, or (CIFAR-10, MNIST) held.

    image_folder    <path>/train and <path>/val, each with a folder of files for each class, in
                    ImageNet's layout
    hub             a data set of the Hugging Face hub, or a folder in one of its formats, by name
    cifar10, mnist  torchvision's
    fashion         Fashion-MNIST, of which an extract ships with the package: `fashion.py`

Images are read as the published models' were (ADM, arXiv 2105.05233): Pillow's
`convert("RGB")`, then `centre_crop`.

    16 bits                 grey is scaled to 8 bits, round(v / 257); of colour Pillow
                            keeps the upper 8 bits
    floats, 32-bit integers refused, since their white value is unknown
    palette, CMYK           converted
    transparency            ignored: the colour beneath it is read
    EXIF orientation        ignored, as ImageNet's loaders do: pixels are read as they are stored
    several frames, pages   the first one

Damaged images (cut, empty, too large for Pillow, links to missing files) are named and counted.
Each is replaced by another image of its class, always the same, up to the recipe's share of damaged
images.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import struct
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info

from ..errors import Damaged
from ..files.atomic import SHARED_MEMORY, disk_full_guard
from ..model.layers import require_at_least
from ..output.text import say
from .fashion import Fashion
from .sources import Source, checked_labels

DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""Errors that Pillow raises on damaged files."""
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Endings of image files, those of torchvision's ImageFolder. Other files are ignored."""
_HEADERS = 64  # images of a part whose headers are read before training


class UnknownScale(ValueError):
    """The white value of an image's numbers is unknown."""


def image_files(folder: Path) -> Iterator[str]:
    """List the image files in a folder and its sub-folders, as paths in it, without order.

    Links are followed; a link to a missing file is listed, so that its reader can name it.
    Hidden files are left out.

    Raises:
        ValueError: if a link leads back to a folder that holds it.
        OSError: if a folder cannot be read.
    """

    def walk(prefix: str, parents: frozenset[tuple[int, int]]) -> Iterator[str]:
        place = folder / prefix
        status = place.stat()

        identity = (status.st_dev, status.st_ino)
        if identity in parents:
            raise ValueError(
                f"{str(place)!r} leads back to a folder that holds it; remove the link"
            )

        with os.scandir(place) as entries:
            for entry in entries:
                name = prefix + entry.name
                is_link = entry.is_symlink()
                if entry.name.startswith("."):
                    continue
                if os.path.isdir(entry.path) if is_link else entry.is_dir():
                    yield from walk(f"{name}/", parents | {identity})
                elif entry.name.lower().endswith(ENDINGS) and (is_link or entry.is_file()):
                    yield name

    return walk("", frozenset())


def read_image(file: Path | io.BytesIO, mode: str) -> Image.Image:
    """Read an image in 8 bits. mode: Pillow's, "RGB" or "L".

    Raises:
        UnknownScale: if its numbers are floats, or integers of unknown range.
        one of DAMAGE: if it is damaged.
    """
    with Image.open(file) as image:
        if _has_sixteen_bits(image):
            pixels = (np.asarray(image).astype(np.uint32) + 128) // 257
            return Image.fromarray(pixels.astype(np.uint8)).convert(mode)
        return image.convert(mode)


def _has_sixteen_bits(image: Image.Image) -> bool:
    """Whether an image has one channel of 16 bits, 0 … 65535 from black to white.

    Raises:
        UnknownScale: if it has one of floats, or of integers of another range.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return False

    is_known = image.mode != "F"
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        is_known = False
    if image.format == "TIFF":  # its tags of bits a number, and of the value of black
        tags = getattr(image, "tag_v2", {})
        is_known = is_known and tags.get(258) == (16,) and tags.get(262) == 1
    if not is_known:
        kind = "floats" if image.mode == "F" else "integers of unknown range"
        raise UnknownScale(
            f"its pixels are {kind}, so nobody knows which is white; save it with 8 or 16 bits"
        )

    return True


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Crop an image as ADM does.

    The image is halved by area while its shorter side is at least 2·size, then scaled to size
    bicubically and cut to the square in the centre.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    scaled = (round(image.width * scale), round(image.height * scale))
    image = image.resize(scaled, Image.Resampling.BICUBIC)

    left = (image.width - size) // 2
    top = (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


class ImageStore(Protocol):
    """A store of encoded images."""

    def name(self, i: int) -> str:
        """Return the name of image i for messages."""
        ...

    def open(self, i: int) -> Path | io.BytesIO:
        """Return image i as Pillow opens it."""
        ...

    @property
    def fingerprint(self) -> str:
        """A text that identifies the images without reading them."""
        ...


def files_fingerprint(files: Iterable[tuple[str, Path]]) -> str:
    """Hash names, sizes in bytes and times of change of files, without reading them."""
    digest = hashlib.sha256()
    for name, file in files:
        try:
            status = os.stat(file)
            digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
        except OSError:  # a link to a missing file
            digest.update(f"{name} missing\n".encode())
    return digest.hexdigest()


class LazyImages:
    """Images that are read on demand: images[i] are bytes [*, C, S, S] of items i [*].

    Item i + n is item i mirrored.

    Arguments:
        store: Store of the encoded images.
        labels: Labels [n].
        shape: (C, S, S), with C = 1 or 3.
        allowed: Share of the images that may be damaged.

    Raises:
        Damaged: on reading, if more are; in the main process alone, where `check` counts all.

    Attributes:
        marks: 1 for each damaged image [n], shared by all processes.
    """

    def __init__(
        self, store: ImageStore, labels: Tensor, shape: tuple[int, ...], allowed: float
    ) -> None:
        self.store = store
        self.labels = labels
        self.shape = shape
        self.allowed = allowed
        with disk_full_guard(SHARED_MEMORY):
            self.marks = torch.zeros(len(labels), dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: Any) -> Tensor:
        n = len(self)
        i = torch.arange(2 * n)[: n if isinstance(i, slice) else None][i]
        if not i.dim():
            return self._item(int(i))
        if not len(i):
            return torch.zeros(0, *self.shape).byte()
        return torch.stack(list(map(self._item, i.tolist())))

    @property
    def fingerprint(self) -> str:
        """The store's fingerprint and the shape."""
        return f"{self.store.fingerprint} {self.shape}"

    @property
    def damaged(self) -> list[str]:
        """Names of the damaged images that were read so far."""
        return [self.store.name(i) for i in self.marks.nonzero().flatten().tolist()]

    def check(self) -> None:
        """Refuse data with too many damaged images, in whichever process they were read."""
        count = int(self.marks.sum())
        if count > self.allowed * len(self):
            raise Damaged(
                f"{count} of {len(self)} images are damaged, and data.damaged allows a share of"
                f" {self.allowed:g}: {', '.join(self.damaged[:3])}"
            )

    def check_scale(self) -> None:
        """Read the headers of a few images, spread evenly.

        Raises:
            ValueError: naming one that cannot be read as 8 bits.
        """
        for i in torch.linspace(0, len(self) - 1, min(_HEADERS, len(self))).long().tolist():
            try:
                with Image.open(self.store.open(i)) as image:
                    _has_sixteen_bits(image)
            except UnknownScale as error:
                raise ValueError(f"{self.store.name(i)}: {error}") from None
            except DAMAGE:  # counted when the image is read
                continue

    def _item(self, i: int) -> Tensor:
        mirrored, i = divmod(i, len(self))
        pixels = self._read(i)
        return pixels.flip(-1) if mirrored else pixels

    def _read(self, i: int) -> Tensor:
        for j in self._candidates(i):
            try:
                return self._decode(j)
            except UnknownScale as error:
                raise Damaged(f"{self.store.name(j)}: {error}") from None
            except DAMAGE as error:
                self._mark(j, error)
        raise Damaged(f"{self.store.name(i)}: damaged, and so are all of its class")

    def _candidates(self, i: int) -> Iterator[int]:
        """Yield item i, then the next ones of its class, without those marked as damaged."""
        if not self.marks[i]:
            yield i
        same = (self.labels == self.labels[i]).nonzero().flatten()
        for j in [*same[same > i].tolist(), *same[same < i].tolist()]:
            if not self.marks[j]:
                yield j

    def _decode(self, i: int) -> Tensor:
        channels, size = self.shape[:2]
        image = read_image(self.store.open(i), "RGB" if channels == 3 else "L")
        pixels = np.array(centre_crop(image, size))
        return torch.from_numpy(pixels).reshape(size, size, channels).permute(2, 0, 1).contiguous()

    def _mark(self, i: int, error: Exception) -> None:
        self.marks[i] = 1
        reason = " ".join(str(error).split())[:120]
        say(
            f"arinar: {self.store.name(i)}: damaged ({reason}); another image of its class"
            " stands in",
            file=sys.stderr,
        )
        if get_worker_info() is None:
            self.check()


def damaged_names(source: Source) -> list[str]:
    """List the names of a source's damaged images that any process has read so far."""
    names: list[str] = []
    for part in ("train", "held_out"):
        images, *_ = vars(source.whole).get(part, (None,))
        if isinstance(images, LazyImages):
            names += images.damaged
    return names


class LazySource(Source):
    """Images of a training and a held-out part that are opened at first use.

    Arguments:
        channels: Channels of an image, 1 or 3.
        size: Height and width of an image in pixels, at least 1.
        classes: Number of labels, at least 1.
        flip: Whether training mirrors half of the images.
        damaged: Share of a part's images that may be damaged, in [0, 1).

    Raises:
        ValueError: if a number is out of range.
    """

    levels = 256

    def __init__(self, channels: int, size: int, classes: int, flip: bool, damaged: float) -> None:
        require_at_least(1, size=size, classes=classes)
        if channels not in (1, 3):
            raise ValueError(f"channels: {channels} is neither 1 nor 3")
        if not 0 <= damaged < 1:
            raise ValueError(f"damaged: {damaged} is outside [0, 1)")
        self.shape = (channels, size, size)
        self.classes = classes
        self.flip = flip
        self.allowed = damaged

    @property
    def counts(self) -> tuple[int, int] | None:
        return super().counts if "train" in self.__dict__ else None

    def prepare(self) -> None:
        super().prepare()
        images: Any
        for images, _ in (self.train, self.held_out):
            try:
                images.check_scale()
            except ValueError as error:
                raise ValueError(f"kind: {error}") from None

    def _read_part(self, part: str) -> tuple[LazyImages, Tensor]:
        store, labels = self._part(part)
        return LazyImages(store, labels, self.shape, self.allowed), labels

    def _part(self, part: str) -> tuple[ImageStore, Tensor]:
        """Open the store and the labels of a part."""
        raise NotImplementedError


class ImageFiles:
    """Image files.

    Arguments:
        root: Folder of the files.
        names: Paths in the folder as an array of bytes, which holds a million in little memory.
    """

    def __init__(self, root: Path, names: np.ndarray) -> None:
        self.root = root
        self.names = names

    def name(self, i: int) -> str:
        return str(self.open(i))

    def open(self, i: int) -> Path:
        return self.root / os.fsdecode(self.names[i])

    @property
    def fingerprint(self) -> str:
        names = map(os.fsdecode, self.names)
        return files_fingerprint(zip(names, map(self.open, range(len(self.names))), strict=True))


class ImageFolder(LazySource):
    """Files in <path>/train/<class>/ and <path>/val/<class>/, with classes in order of their names.

    Arguments:
        path: Folder of train and val.
        channels: Channels of an image, 1 or 3.
        size: Height and width of an image in pixels, at least 1.
        classes: Number of labels, at least 1.
        flip: Whether training mirrors half of the images.
        held_out: Number of images of val that are used, spread evenly, at least 1; null is all.
        damaged: Share of a part's images that may be damaged, in [0, 1).

    Raises:
        ValueError: if a number is out of range; on reading, if a folder is missing, a class has no
            images, or their number is another.
    """

    def __init__(
        self,
        *,
        path: str,
        channels: int = 3,
        size: int = 256,
        classes: int = 1000,
        flip: bool = True,
        held_out: int | None = None,
        damaged: float = 0.001,
    ) -> None:
        super().__init__(channels, size, classes, flip, damaged)
        if held_out is not None:
            require_at_least(1, held_out=held_out)
        self.path = Path(path)
        self.used = held_out

    @property
    def counts(self) -> tuple[int, int] | None:
        if "train" not in self.__dict__ and not (self.path / "train").is_dir():
            return None
        return len(self.train[0]), len(self.held_out[0])

    def _part(self, part: str) -> tuple[ImageStore, Tensor]:
        folder = self.path / {"train": "train", "held_out": "val"}[part]
        names = self._classes(folder)
        if part == "held_out":
            difference = set(names) ^ set(self._classes(self.path / "train"))
            if difference:
                raise ValueError(
                    f"path: {str(folder)!r} has other classes than train: {min(difference)} is in"
                    " one of them alone"
                )

        paths: list[bytes] = []
        counts = []
        for name in names:
            images = self._images(folder / name)
            paths += [os.fsencode(f"{name}/{image}") for image in images]
            counts.append(len(images))

        labels = torch.arange(len(names)).repeat_interleave(torch.tensor(counts))
        files = np.array(paths)
        if part == "held_out" and self.used is not None:
            kept = torch.linspace(0, len(labels) - 1, min(self.used, len(labels))).long()
            files = files[kept.numpy()]
            labels = labels[kept]

        return ImageFiles(folder, files), labels

    def _images(self, folder: Path) -> list[str]:
        """List the images of a class as paths in its folder, in torchvision's order."""
        try:
            images = sorted(image_files(folder), key=os.path.split)
        except (OSError, ValueError) as error:
            raise ValueError(f"path: {error}") from None
        if not images:
            raise ValueError(f"path: {str(folder)!r} has no images ({', '.join(ENDINGS)})")
        return images

    def _classes(self, folder: Path) -> list[str]:
        """List the names of the classes, and check them."""
        if not folder.is_dir():
            raise ValueError(
                f"path: {str(folder)!r} is not a folder; it holds a folder of images for each class"
            )
        names = [name for name in sorted(os.listdir(folder)) if (folder / name).is_dir()]
        names = [name for name in names if name[0] != "."]
        if len(names) != self.classes:
            raise ValueError(
                f"path: {str(folder)!r} has {len(names)} folders of classes, and classes says "
                f"{self.classes}"
            )

        places: dict[str, str] = {}
        for name in names:
            first = places.setdefault(os.path.realpath(folder / name), name)
            if first != name:
                raise ValueError(
                    f"path: the classes {first} and {name} of {str(folder)!r} are one folder"
                )

        return names


class Hub(LazySource):
    """A labelled data set of the Hugging Face hub, or a folder in one of its formats (extra [hub]).

    Arguments:
        name: Name of the data set, or path of a folder.
        subset: Name of its configuration, where it has several.
        train: Name of the training split.
        held_out: Name of the held-out split.
        image: Name of the column of images.
        label: Name of the column of labels.
        channels: Channels of an image, 1 or 3.
        size: Height and width of an image in pixels, at least 1.
        classes: Number of labels, at least 1.
        flip: Whether training mirrors half of the images.
        damaged: Share of a part's images that may be damaged, in [0, 1).

    Raises:
        ValueError: if the package is missing, or a number is out of range; on reading, if the
            data set cannot be loaded, or has other columns or labels.
    """

    def __init__(
        self,
        *,
        name: str,
        subset: str | None = None,
        train: str = "train",
        held_out: str = "validation",
        image: str = "image",
        label: str = "label",
        channels: int = 3,
        size: int = 256,
        classes: int = 1000,
        flip: bool = True,
        damaged: float = 0.001,
    ) -> None:
        if importlib.util.find_spec("datasets") is None:
            raise ValueError("kind: hub needs the package datasets; pip install 'arinar_lab[hub]'")
        super().__init__(channels, size, classes, flip, damaged)
        self.name = name
        self.subset = subset
        self.columns = (image, label)
        self.splits = {"train": train, "held_out": held_out}

    def _part(self, part: str) -> tuple[ImageStore, Tensor]:
        import datasets

        split = self.splits[part]
        image, label = self.columns
        try:
            data = datasets.load_dataset(self.name, self.subset, split=split)
            for column in self.columns:
                if column not in data.column_names:
                    raise ValueError(
                        f"it has no column {column!r}, but {', '.join(data.column_names)}"
                    )
            values = np.array(data.data.column(label))
            if values.dtype.kind not in "biuf":
                kind = getattr(data.features[label], "dtype", data.features[label])
                raise ValueError(
                    f"its column {label!r} is of {kind}, not of whole numbers; name "
                    "another by data.label"
                )
            labels = checked_labels(torch.tensor(values), len(data), self.classes)
            data = data.cast_column(image, datasets.Image(decode=False))
        except Exception as error:  # a hub, its cache or a file format may raise anything
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"name: {self.name!r}, split {split!r}: {reason}") from None
        return HubImages(data, image, f"{self.name}[{split}]"), labels


class HubImages:
    """Encoded images in a column of a data set of the datasets library."""

    def __init__(self, data: Any, column: str, title: str) -> None:
        self.data = data
        self.column = column
        self.title = title

    def name(self, i: int) -> str:
        return f"{self.title}[{i}]"

    def open(self, i: int) -> Path | io.BytesIO:
        row = self.data[i][self.column]
        if row is None:
            raise ValueError("the row has no image")
        return Path(row["path"]) if row["bytes"] is None else io.BytesIO(row["bytes"])

    @property
    def fingerprint(self) -> str:
        # the library's own, of its files and their transforms
        return f"{self.title} {self.data._fingerprint}"


class TorchVision(Source):
    """A data set of torchvision in memory; its test part is held out.

    Arguments:
        make: Name of the class in torchvision.datasets.
        shape: Shape of an image.
        path: Folder of the data set.
        download: Whether it may be downloaded.
        flip: Whether training mirrors half of the images.
    """

    levels = 256
    classes = 10

    def __init__(
        self, make: str, shape: tuple[int, ...], path: str, download: bool, flip: bool
    ) -> None:
        self.make = make
        self.shape = shape
        self.path = path
        self.download = download
        self.flip = flip

    @property
    def counts(self) -> tuple[int, int] | None:
        return super().counts if "train" in self.__dict__ else None

    def _read_part(self, part: str) -> tuple[Tensor, Tensor]:
        import torchvision

        make = getattr(torchvision.datasets, self.make)
        try:
            data = make(self.path, train=part == "train", download=self.download)
        except (RuntimeError, OSError, ValueError, EOFError, tarfile.TarError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ValueError(
                f"path: {self.make} is not in {self.path!r}, or is damaged; data.download=true "
                f"fetches it ({reason})"
            ) from None

        pixels = torch.as_tensor(data.data)
        images = pixels.unsqueeze(1) if self.shape[0] == 1 else pixels.permute(0, 3, 1, 2)
        try:
            if tuple(images.shape[1:]) != self.shape:
                raise ValueError(f"its images are {tuple(images.shape[1:])}, not {self.shape}")
            labels = checked_labels(torch.as_tensor(data.targets), len(images), self.classes)
        except ValueError as error:
            raise ValueError(f"path: {self.make} in {self.path!r}: {error}") from None
        return images.contiguous(), labels


class CIFAR10(TorchVision):
    """CIFAR-10 (Krizhevsky, 2009).

    Its files are pickles; torchvision opens them only if their MD5 is the published one.

    Arguments:
        path: Folder that has or gets cifar-10-batches-py.
        download: Whether the data may be downloaded.
        flip: Whether training mirrors half of the images.
    """

    def __init__(self, *, path: str = "data", download: bool = False, flip: bool = True) -> None:
        super().__init__("CIFAR10", (3, 32, 32), path, download, flip)


class MNIST(TorchVision):
    """MNIST (LeCun et al., 1998).

    Arguments:
        path: Folder that has or gets MNIST/raw.
        download: Whether the data may be downloaded.
    """

    def __init__(self, *, path: str = "data", download: bool = False) -> None:
        super().__init__("MNIST", (1, 28, 28), path, download, False)


IMAGES: dict[str, Callable[..., Source]] = {
    "image_folder": ImageFolder,
    "hub": Hub,
    "cifar10": CIFAR10,
    "mnist": MNIST,
    "fashion": Fashion,
}
