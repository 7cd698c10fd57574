"""Reference statistics: `arinar reference DATA` writes references/<data>-<hash of data,
size and extractor>.npz.

The name tells what is in it, so that statistics of other images, of another size or of other
weights are never taken for it; `own_reference` finds those of a run's training images by it.
Features are kept in blocks until all are there: what is stopped goes on, and several
processes share the work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
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
    """The file of the reference statistics of some images."""
    return root / f"{images.name}-{_signature(images.fingerprint, extractor)}.npz"


def _signature(images: str, extractor: Extractor) -> str:
    """Eight hexadecimal digits of images, their number and size among them, and an extractor."""
    return hashlib.sha256(f"{images} {extractor.signature}".encode()).hexdigest()[:8]


def own_reference(source: Source, extractor: Extractor, root: Path = HERE.references) -> Path:
    """The reference statistics of the images that a run was trained on, also where it read them
    from a latent cache.

    Raises:
        ConfigError: if there is none for these images, their size and this extractor, or
            nobody knows the images.
    """
    try:
        images = (
            source.about.get("images")
            if isinstance(source, LatentCacheSource)
            else image_set_of_source(source, "train", "").fingerprint
        )
    except ValueError as error:
        raise ConfigError(
            "--reference: missing, and the run's training images are not there to tell "
            f"theirs: {error}"
        ) from None

    found = sorted(root.glob(f"*-{_signature(images, extractor)}.npz")) if images else []
    if not found:
        raise ConfigError(
            f"--reference: missing, and {root}/ holds none of the run's training images for"
            f" {extractor.signature}; name an npz with mu and sigma, or make one by arinar"
            " reference RECIPE, whose data are these images"
        )

    return found[0]


def make_reference(
    images: ImageSet, extractor: Extractor, root: Path, batch: int, told: ProgressCallback
) -> Path:
    """Make the reference statistics of some images, beside others who do the same; nothing
    where they are there.

    Raises:
        ConfigError: if there are too few for a covariance of full rank.
    """
    path = reference_path(images, extractor, root)
    if path.is_file():
        return path

    check_image_count(len(images), extractor.dims)
    parts = path.with_suffix(".parts")
    refuse_foreign(parts, path)
    blocks = compute_in_shards(
        parts, len(images), lambda i: extractor(images[i]), batch, told, "--batch"
    )
    assemble(
        path,
        lambda draft: write_reference(draft, concatenate_shards(blocks)["features"], extractor),
        parts,
    )

    return path


def compute_in_shards(
    folder: Path,
    n: int,
    found: Callable[[Tensor], dict[str, Tensor]],
    batch: int,
    told: ProgressCallback,
    key: str = "evaluation.batch",
) -> list[Path]:
    """Make tensors about n images in blocks that are kept in a folder.

    Arguments:
        found: what is found of the images of indices i [B]; batch: B; key: the option that says so.

    Raises:
        OutOfMemory: if a batch does not fit the device; the blocks that are finished stay,
            but for damaged ones.
    """
    spans = shard_ranges(n, FEATURE_SHARD)
    blocks = [folder / block_name(span) for span in spans]
    discard(damaged_shards(blocks))

    def fitting(i: Tensor) -> dict[str, Tensor]:
        with oom_guard(key, len(i), lambda n: found(i[:n])):
            return found(i)

    def make(k: int) -> None:
        batches = [fitting(i) for i in torch.tensor(spans[k]).split(batch)]
        save_tensors(
            blocks[k], {name: torch.cat([part[name] for part in batches]) for name in batches[0]}
        )

    make_shards(blocks, make, told)
    return blocks


def concatenate_shards(blocks: list[Path]) -> dict[str, Tensor]:
    """The tensors of all blocks, one after the other."""
    parts = [load_file(block) for block in blocks]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
