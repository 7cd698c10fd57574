"""Reference statistics: `arinar reference DATA` writes references/<data>-<hash>.npz.

The hash is of data, size and extractor, so statistics of other images, of another size or of other
weights are never mistaken for them; `own_reference` finds those of a run's training images by it.
Features are stored in shards until all exist: the same command resumes, and several processes share
the work.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..data.latent_cache import LatentCacheSource, shard_ranges
from ..data.sources import Source
from ..errors import ConfigError
from ..files.checksums import save_tensors
from ..files.shards import (
    ProgressCallback,
    assemble,
    block_name,
    damaged_shards,
    discard,
    make_shards,
    refuse_foreign,
)
from ..files.workspace import HERE
from ..hardware.memory import oom_guard
from .distances import check_image_count, write_reference
from .extractors import Extractor
from .image_sets import ImageSet, image_set_of_source

FEATURE_SHARD = 1024  # images


def reference_path(images: ImageSet, extractor: Extractor, root: Path) -> Path:
    """Return the file of the reference statistics of some images."""
    return root / f"{images.name}-{_signature(images.fingerprint, extractor)}.npz"


def _signature(images: str, extractor: Extractor) -> str:
    """Return eight hexadecimal digits for images, with their number and size, and an extractor."""
    return hashlib.sha256(f"{images} {extractor.signature}".encode()).hexdigest()[:8]


def own_reference(source: Source, extractor: Extractor, root: Path = HERE.references) -> Path:
    """The reference statistics of the images that a run was trained on, also where it read them
    from a latent cache.

    Raises:
        ConfigError: if there is none for these images, their size and this extractor, or
            nobody knows the images.
    """
    try:
        if isinstance(source, LatentCacheSource):
            images = source.about.get("images")
        else:
            images = image_set_of_source(source, "train", "").fingerprint
    except ValueError as error:
        raise ConfigError(
            "--reference: missing, and the run's training images are not there to tell "
            f"theirs: {error}"
        ) from None

    files = sorted(root.glob(f"*-{_signature(images, extractor)}.npz")) if images else []
    if not files:
        raise ConfigError(
            f"--reference: missing, and {root}/ holds none of the run's training images for"
            f" {extractor.signature}; name an npz with mu and sigma, or make one by arinar"
            " reference RECIPE, whose data are these images"
        )

    return files[0]


def make_reference(
    images: ImageSet, extractor: Extractor, root: Path, batch: int, progress: ProgressCallback
) -> Path:
    """Make the reference statistics of some images, unless they exist, shared with other processes.

    Raises:
        ConfigError: if there are too few for a covariance of full rank.
    """
    path = reference_path(images, extractor, root)
    if path.is_file():
        return path

    check_image_count(len(images), extractor.dims)
    parts = path.with_suffix(".parts")
    refuse_foreign(parts, path)
    shards = compute_in_shards(
        parts, len(images), lambda i: extractor(images[i]), batch, progress, "--batch"
    )

    def write(draft: Path) -> None:
        write_reference(draft, concatenate_shards(shards)["features"], extractor)

    assemble(path, write, parts)
    return path


def compute_in_shards(
    folder: Path,
    n: int,
    compute: Callable[[Tensor], dict[str, Tensor]],
    batch: int,
    progress: ProgressCallback,
    key: str = "evaluation.batch",
) -> list[Path]:
    """Compute tensors of n images in shards of a folder, and return the shards.

    Arguments:
        folder: Folder of the shards.
        n: Number of images.
        compute: Computes the tensors of the images of indices i [B].
        batch: B.
        progress: Called whenever a shard is finished.
        key: Key of the batch, for messages.

    Raises:
        OutOfMemory: if a batch does not fit the device; finished shards stay, except for
            damaged ones.
    """
    spans = shard_ranges(n, FEATURE_SHARD)
    shards = [folder / block_name(span) for span in spans]
    discard(damaged_shards(shards))

    def guarded_compute(i: Tensor) -> dict[str, Tensor]:
        with oom_guard(key, len(i), lambda n: compute(i[:n])):
            return compute(i)

    def make(k: int) -> None:
        batches = torch.tensor(spans[k]).split(batch)
        save_tensors(shards[k], _concatenate(map(guarded_compute, batches)))

    make_shards(shards, make, progress)
    return shards


def concatenate_shards(shards: list[Path]) -> dict[str, Tensor]:
    """Read the tensors of all shards, one after the other."""
    return _concatenate(map(load_file, shards))


def _concatenate(parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Concatenate tensors of the same name along their first axis."""
    lists: defaultdict[str, list[Tensor]] = defaultdict(list)
    for part in parts:
        for name, value in part.items():
            lists[name].append(value)
    return {name: torch.cat(values) for name, values in lists.items()}
