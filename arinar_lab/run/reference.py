"""Reference statistics: `arinar reference DATA` writes references/<data>-<hash of data, size and extractor>.npz.

The name tells what is in it, so that statistics of other images, of another size or of other weights are never taken for
it. Features are kept in blocks until all are there: what is stopped goes on, and several processes share the work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from .blocks import Told, conclude, share, write_block
from .cached import shards
from .collection import Collection
from .fidelity import Extractor, enough, write_reference

BLOCK = 1024  # images


def reference_path(images: Collection, extractor: Extractor, root: Path) -> Path:
    """The file of the reference statistics of some images."""
    size = tuple(images[torch.tensor([0])].shape[1:])
    signature = hashlib.sha256(f"{images.print} {size} {extractor.signature}".encode()).hexdigest()[:8]
    return root / f"{images.name}-{signature}.npz"


def make_reference(images: Collection, extractor: Extractor, root: Path, batch: int, told: Told) -> Path:
    """Make the reference statistics of some images, beside others who do the same; nothing where they are there.

    Raises:
        ConfigError: if there are too few for a covariance of full rank.
    """
    path = reference_path(images, extractor, root)
    if path.is_file():
        return path
    enough(len(images), extractor.dims)
    parts = path.with_suffix(".parts")
    blocks = in_blocks(parts, len(images), lambda i: extractor(images[i]), batch, told)
    conclude(path, lambda draft: write_reference(draft, joined(blocks)["features"], extractor), parts)
    return path


def in_blocks(folder: Path, n: int, found: Callable[[Tensor], dict[str, Tensor]], batch: int, told: Told) -> list[Path]:
    """Make tensors about n images in blocks that are kept in a folder.

    Arguments:
        found: what is found of the images of indices i [B]; batch: B.
    """
    spans = shards(n, BLOCK)
    blocks = [folder / f"{span.start:08}-{span.stop - 1:08}.safetensors" for span in spans]

    def make(k: int) -> None:
        batches = [found(i) for i in torch.tensor(spans[k]).split(batch)]
        write_block(blocks[k], {name: torch.cat([part[name] for part in batches]) for name in batches[0]})

    share(blocks, make, told)
    return blocks


def joined(blocks: list[Path]) -> dict[str, Tensor]:
    """The tensors of all blocks, one after the other."""
    parts = [load_file(block) for block in blocks]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
