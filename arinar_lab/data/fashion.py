"""Fashion-MNIST: grey images of ten classes of clothing, 28×28 pixels, equally many of each class.

full        all images: 60,000 to train on, 10,000 (the published test images) held out
extract     10,000 and 2,000 of these, which ship with the package (`scripts/fashion_extract.py`)

Each has four idx files, `{train,t10k}-{images-idx3,labels-idx1}-ubyte`, gzipped or not:

    0, 0, 8, d      unsigned bytes of d dimensions
    n, 28, 28       d sizes of 32 bits, the upper byte first
    …               the bytes

A gz file of the extract may be cut into pieces, `….gz.0`, `….gz.1`, …, of a megabyte at most.

The SHA-256 of a file's content says that it is the published one. A gz file is not compared: Debian
packs the same content under another header than the files whose MD5 torchvision publishes.

Source: Xiao, Rasul and Vollgraf, arXiv 1708.07747. Licence: MIT, Zalando SE, 2017.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..model.weight_files import ASSETS
from .sources import Source

EXTRACT_FOLDER = ASSETS / "fashion_mnist"
FETCHED_FOLDER = Path("data/fashion-mnist")  # of `make fashion`
FULL_FOLDERS = (
    FETCHED_FOLDER,
    Path("data/FashionMNIST/raw"),  # of torchvision, whose root is `data`
    Path("/usr/share/datasets/fashion-mnist"),  # of Debian's dataset-fashion-mnist
)
_SIZE = 28


@dataclass(frozen=True)
class Part:
    """What the two files of a part have to hold.

    Arguments:
        name: Beginning of the files' names.
        count: Number of images.
        images: SHA-256 of the uncompressed images file.
        labels: SHA-256 of the uncompressed labels file.
    """

    name: str
    count: int
    images: str
    labels: str

    @property
    def image_file(self) -> str:
        return f"{self.name}-images-idx3-ubyte"

    @property
    def label_file(self) -> str:
        return f"{self.name}-labels-idx1-ubyte"


PARTS = {
    "full": {
        "train": Part(
            "train",
            60_000,
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        "held_out": Part(
            "t10k",
            10_000,
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    },
    "extract": {
        "train": Part(
            "train",
            10_000,
            "26917a051ef42038c73298b8771db9a83bb842d016f76cfe36dd5f394b14318c",
            "4f06e5f379b68aa7455fccfb536aac506219c11774d91af9a06e9504c6606ec8",
        ),
        "held_out": Part(
            "t10k",
            2_000,
            "5c275b0fae172b195386ef545847e2b44ae92b774830cbca57f2dc0d8c2e0bbc",
            "a5b696a999cf0668e75a7565f79b63a6392d564906723382050f3aa8f42af72f",
        ),
    },
}
"""Set of images → part → its files."""


class Fashion(Source):
    """Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017), or the extract that ships with the package.

    Arguments:
        source: The images: `extract` ships with the package, 10,000 to train on and 2,000 held out;
            `full` has 60,000 and 10,000, in files that `make fashion` fetches.
        path: Folder of the four files of `full`, or torchvision's folder that holds
            FashionMNIST/raw; null finds what `make fashion`, torchvision or Debian's package
            dataset-fashion-mnist have put in its place.
        size: Height and width of an image in pixels; 14 takes the mean of 2×2 pixels.
        flip: Whether training mirrors half of the images.

    Raises:
        ValueError: if size is another, or path is given for the extract; on reading, if a file is
            missing, damaged, or not Fashion-MNIST's.
    """

    levels = 256
    classes = 10
    classifier = "fashion"
    reference = "held_out"

    def __init__(
        self,
        *,
        source: Literal["extract", "full"] = "extract",
        path: str | None = None,
        size: Literal[28, 14] = 28,
        flip: bool = False,
    ) -> None:
        if size not in (_SIZE, _SIZE // 2):
            raise ValueError(f"size: {size} is neither {_SIZE} nor {_SIZE // 2}")
        if source == "extract" and path is not None:
            raise ValueError(
                f"path: {path!r} is given, and the extract ships with the package; add source: full"
            )
        self.source = source
        self.path = path
        self.shape = (1, size, size)
        self.flip = flip

    @property
    def counts(self) -> tuple[int, int]:
        parts = PARTS[self.source]
        return parts["train"].count, parts["held_out"].count

    def _read_part(self, part: str) -> tuple[Tensor, Tensor]:
        key = "source" if self.path is None else "path"
        try:
            images, labels = read_part(self._folder(), PARTS[self.source][part])
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None
        return (images if self.shape[-1] == _SIZE else halved(images)), labels

    def _folder(self) -> Path:
        """The folder of the files."""
        if self.source == "extract":
            return EXTRACT_FOLDER
        return find_full() if self.path is None else folder_of_files(Path(self.path))


def find_full() -> Path:
    """Find the folder that has all images where no path is given.

    Raises:
        ValueError: if there is none.
    """
    for folder in FULL_FOLDERS:
        if _holds_files(folder):
            return folder
    places = ", ".join(map(str, FULL_FOLDERS))
    raise ValueError(
        f"full: Fashion-MNIST's files are in none of {places}; make fashion fetches them"
    )


def folder_of_files(path: Path) -> Path:
    """Return the folder of the files in a folder that the user names: itself, or torchvision's.

    Raises:
        ValueError: if it is no folder.
    """
    if not path.is_dir():
        raise ValueError(f"{str(path)!r} is not a folder; it holds Fashion-MNIST's four idx files")
    inner = path / "FashionMNIST" / "raw"
    return inner if _holds_files(inner) else path


def _holds_files(folder: Path) -> bool:
    """Whether a folder has the first of the four files."""
    return _file_in(folder, PARTS["full"]["train"].image_file) is not None


def _file_in(folder: Path, name: str) -> Path | None:
    """The file of a name in a folder, gzipped or not, or the first of its pieces."""
    for file in (folder / f"{name}.gz", folder / name, folder / f"{name}.gz.0"):
        if file.is_file():
            return file
    return None


def read_part(folder: Path, part: Part) -> tuple[Tensor, Tensor]:
    """Read the images [n, 1, 28, 28], in bytes, and the labels [n] of a part.

    Raises:
        ValueError: naming the file that is missing, damaged, or another.
    """
    pixels = _read_named(folder, part.image_file, (part.count, _SIZE, _SIZE), part.images)
    labels = _read_named(folder, part.label_file, (part.count,), part.labels)
    return pixels.unsqueeze(1), labels.long()


def _read_named(folder: Path, name: str, shape: tuple[int, ...], digest: str) -> Tensor:
    file = _file_in(folder, name)
    if file is None:
        raise ValueError(f"{str(folder)!r} lacks {name}.gz; make fashion fetches it")
    try:
        return read_idx(file, shape, digest)
    except ValueError as error:
        raise ValueError(f"{str(file)!r} {error}") from None


def _opened(file: Path) -> io.BufferedIOBase:
    """Open the content of a file, or of the pieces of which it is the first."""
    if file.suffix == ".0":
        pieces = sorted(file.parent.glob(f"{file.stem}.*"))
        return gzip.open(io.BytesIO(b"".join(map(Path.read_bytes, pieces))), "rb")
    return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")


def read_idx(file: Path, shape: tuple[int, ...], digest: str) -> Tensor:
    """Read an idx file of bytes, gzipped or not.

    Arguments:
        file: The file; it is gzipped if its name ends in .gz, and in pieces if in .gz.0.
        shape: The sizes that it has to have.
        digest: SHA-256 of its uncompressed content.

    Raises:
        ValueError: in the words that follow the file's name, if it cannot be read or is another.
    """
    size = torch.Size(shape).numel()
    try:
        with _opened(file) as content:
            header = content.read(4 + 4 * len(shape))
            _check_header(header, shape)
            body = content.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"is damaged ({reason})") from None

    if len(body) != size:
        length = "more" if len(body) > size else f"{len(body):,}"
        raise ValueError(f"is damaged: it has {length} bytes, not the {size:,} of its header")
    content_digest = hashlib.sha256(header + body).hexdigest()
    if content_digest != digest:
        raise ValueError(
            f"is not Fashion-MNIST's, or is damaged: the SHA-256 of its content begins with "
            f"{content_digest[:8]}, not {digest[:8]}"
        )

    return torch.frombuffer(bytearray(body), dtype=torch.uint8).reshape(shape)


def _check_header(header: bytes, shape: tuple[int, ...]) -> None:
    """Refuse the header of another file."""
    if header[:4] != idx_header(shape)[:4] or len(header) < len(idx_header(shape)):
        raise ValueError(f"is no idx file of bytes in {len(shape)} dimensions")
    sizes = [int.from_bytes(header[i : i + 4]) for i in range(4, len(header), 4)]
    if sizes != list(shape):
        raise ValueError(f"holds {_times(sizes)} bytes, not {_times(shape)}")


def _times(sizes: list[int] | tuple[int, ...]) -> str:
    return "×".join(map(str, sizes))


def idx_header(shape: tuple[int, ...]) -> bytes:
    """Return the header of an idx file of bytes."""
    return bytes((0, 0, 8, len(shape))) + b"".join(n.to_bytes(4) for n in shape)


def halved(images: Tensor) -> Tensor:
    """Take the mean of 2×2 pixels, rounded half up: bytes [n, C, 2H, 2W] → [n, C, H, W]."""
    rows = images[..., ::2, :].short() + images[..., 1::2, :]
    return ((rows[..., ::2] + rows[..., 1::2] + 2) // 4).byte()
