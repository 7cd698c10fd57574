"""Images of recipes, folders and archives as bytes of three colours, by index.

recipe.yaml     the training images of its data (or its held-out ones)
folder          image files of one size, also in sub-folders; links are followed
                (`image_datasets.image_files`)
file.npz        arr_0 [n, H, W, 3], bytes: ADM's layout of samples and reference batches
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.image_datasets import (
    DAMAGE,
    ENDINGS,
    LazyImages,
    UnknownScale,
    files_fingerprint,
    image_files,
    read_image,
)
from ..data.latent_cache import tensors_fingerprint
from ..data.sources import Source
from ..errors import ConfigError, located, prefixed
from ..files.arrays import read_npz

_PROBED = 64  # images of a set whose pixels go into its fingerprint


def colour_bytes(images: Tensor, levels: int = 256) -> Tensor:
    """Convert images [B, C, H, W] of some grey levels to bytes of three colours."""
    if levels != 256:
        images = (images.float() * 255 / (levels - 1)).round().to(torch.uint8)
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


@dataclass(frozen=True)
class ImageSet:
    """n images, read when they are indexed.

    Arguments:
        images: Has `len`, and images[i] [B, C, H, W] for indices i [B].
        name: Name of the set.
        levels: Grey levels of an image.
        known_by: Text that goes into the fingerprint.
    """

    images: Any
    name: str
    levels: int = 256
    known_by: str = ""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: Tensor) -> Tensor:
        return colour_bytes(self.images[i], self.levels)

    @property
    def fingerprint(self) -> str:
        """A hash of number, size, 64 images spread evenly, and `known_by`."""
        n = len(self)
        probe = self[torch.linspace(0, n - 1, min(_PROBED, n)).long()]
        text = f"{n} {tensors_fingerprint(probe)} {self.known_by}"
        return hashlib.sha256(text.encode()).hexdigest()


class EqualSizeFiles:
    """Image files of one size.

    Raises:
        ConfigError: on reading, if one is damaged or of another size than the first.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.size = self._read(files[0]).shape

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: Tensor) -> Tensor:
        return torch.stack([self._read(self.files[j]) for j in i.tolist()])

    def _read(self, file: Path) -> Tensor:
        try:
            pixels = torch.from_numpy(np.array(read_image(file, "RGB"))).permute(2, 0, 1)
        except UnknownScale as error:
            raise ConfigError(str(error), key=str(file)) from None
        except DAMAGE as error:
            raise ConfigError(f"{file}: damaged, or no image ({error})") from None

        if hasattr(self, "size") and pixels.shape != self.size:
            size = "×".join(map(str, pixels.shape[1:]))
            first = "×".join(map(str, self.size[1:]))
            raise ConfigError(
                f"{file}: is {size}, and the others {first}; name a recipe, whose data are"
                " cropped alike"
            )

        return pixels


def image_set_of_folder(path: Path) -> ImageSet:
    """Open the images of a folder, identified by names, sizes and times of change."""
    with located(path, (OSError, ValueError)):
        files = sorted(map(path.joinpath, image_files(path)))
    if not files:
        raise ConfigError(f"{path}: holds no {', '.join(ENDINGS)}")
    for file in files:
        if not file.is_file():
            raise ConfigError(
                f"{file}: a link to a missing file; fetch the file, or remove the link"
            )

    names = [str(file.relative_to(path)) for file in files]
    known_by = files_fingerprint(zip(names, files, strict=True))
    return ImageSet(EqualSizeFiles(files), path.resolve().name, known_by=known_by)


def image_set_of_npz(path: Path) -> ImageSet:
    """Open the images of an npz in ADM's layout."""
    content = read_npz(path, ("arr_0",))
    if "arr_0" not in content:
        raise ConfigError(f"{path}: has no arr_0, which holds the images of an npz")
    images = content["arr_0"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ConfigError(f"{path}: arr_0 is {images.dtype} {images.shape}, not bytes [n, H, W, 3]")
    stored = torch.from_numpy(images).permute(0, 3, 1, 2)
    return ImageSet(stored, path.stem, known_by=tensors_fingerprint(torch.from_numpy(images)))


def image_set_of_recipe(path: Path, part: str, overrides: list[str]) -> ImageSet:
    """Open the images of a recipe's data, `train` or `held_out`."""
    from ..config.files import merge, read_overrides, read_recipe
    from ..config.sections import parse_recipe

    source = parse_recipe(merge(read_recipe(path), read_overrides(overrides))).data()
    if not source.pictures:
        raise ConfigError(f"{path}: its data are no images")
    name = path.stem if part == "train" else f"{path.stem}-{part}"
    with located(path), prefixed("data"):
        return image_set_of_source(source, part, name)


def image_set_of_source(source: Source, part: str, name: str) -> ImageSet:
    """Open the images of a part of the data, identified by labels and by pixels or their store."""
    images, labels = getattr(source, part)
    known_by = images.fingerprint if isinstance(images, LazyImages) else tensors_fingerprint(images)
    return ImageSet(images, name, source.levels, f"{known_by} {tensors_fingerprint(labels)}")


def open_image_set(path: Path, part: str = "train", overrides: list[str] | None = None) -> ImageSet:
    """Open the images at a path; overrides change a recipe.

    Raises:
        ConfigError: if it holds none.
    """
    if path.is_dir():
        return image_set_of_folder(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file or folder")
    if path.suffix == ".npz":
        return image_set_of_npz(path)
    if path.suffix == ".yaml":
        return image_set_of_recipe(path, part, overrides or [])

    raise ConfigError(f"{path}: neither a folder of images, an npz nor a recipe")
