"""The latent cache: moments of a codec's posterior for each image and its flip.

Training reads it and encodes nothing.

    caches/<recipe>-<signature>/
      cache.json                     the images and the codec; written last, so that a cache
                                     that has it is complete
      train-00000.safetensors        moments [n, V, 2D, H, W] in half precision, labels [n]; and
                                     a file of its SHA-256
      held_out-00000.safetensors

V is 2 where the recipe's data are flipped in training (an image, its mirror image), else 1. Moments
are means, then log-variances: tokens are drawn from them anew in each epoch, with the same noise as
without a cache. They are read by memory map, so free memory of the system holds them.

ImageNet 256×256 with KL-16: 1,281,167 · 2 · (2·16·16·16) · 2 bytes = 42.0 GB, and 0.8 GB of
50,000 held-out images.

The signature hashes data, codec weights and the codec's arguments (its latent statistic among
them). A cache is opened only with the codec that made it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config.schema import to_plain
from ..config.sections import Recipe
from ..data.latent_cache import (
    SPLITS,
    LatentCacheSource,
    codec_fingerprint,
    data_fingerprint,
    shard_ranges,
)
from ..data.sources import Source
from ..errors import ConfigError, prefixed
from ..files.checksums import save_tensors
from ..files.shards import ProgressCallback, make_shards
from ..hardware.device import configure_cpu, device_of
from ..hardware.memory import oom_guard
from ..model.codecs.codec import Codec
from ..runs.folder import write_json
from .image_sets import image_set_of_source

SHARD_SIZE = 1024  # images


@dataclass(frozen=True)
class CacheBuilder:
    """Data and codec of a cache that is to be written.

    Arguments:
        folder: Folder of the cache.
        source: The images.
        codec: The codec that encodes them.
        views: 1, or 2 with the mirror images.
        prints: Fingerprints of data and codec.
    """

    folder: Path
    source: Source
    codec: Codec
    views: int
    prints: dict[str, str]

    @classmethod
    def of(cls, recipe: Recipe, name: str, root: Path) -> CacheBuilder:
        """Build data and codec of a recipe, and name the cache by their fingerprints.

        Raises:
            ConfigError: if the codec has no posterior, or the data cannot be read or are a cache.
        """
        configure_cpu(recipe.machine)
        source = recipe.data()
        if isinstance(source, LatentCacheSource):
            raise ConfigError("data.kind: cache is a cache already; name the images")
        codec = recipe.codec(source.shape, source.levels).to(device_of(recipe.machine)).eval()
        with prefixed("data"):
            source.prepare()
        with prefixed("codec"):
            codec.moments(source.train[0][torch.tensor([0])].to(codec.mean.device))
        prints = {
            "data": data_fingerprint(source),
            "codec": codec_fingerprint(codec, to_plain(recipe.codec)),
        }
        views = 2 if source.flip else 1
        signature = hashlib.sha256(json.dumps([prints, views]).encode()).hexdigest()[:8]

        return cls(root / f"{name}-{signature}", source, codec, views, prints)

    @property
    def files(self) -> list[tuple[Path, str, range]]:
        """File, part of the data and items of each shard."""
        files = []
        for part, count in self.counts.items():
            for k, span in enumerate(shard_ranges(count, SHARD_SIZE)):
                files.append((self.folder / f"{part}-{k:05}.safetensors", part, span))
        return files

    @property
    def counts(self) -> dict[str, int]:
        """Number of images in each part of the data, without their mirror images."""
        return {part: len(getattr(self.source, part)[1]) for part in SPLITS}

    @property
    def items(self) -> int:
        """Number of all images, without their mirror images."""
        return sum(self.counts.values())

    @property
    def about(self) -> dict[str, Any]:
        """The content of cache.json."""
        source = self.source
        return {
            "shape": list(source.shape),
            "levels": source.levels,
            "classes": source.classes,
            **self.counts,
            "shard": SHARD_SIZE,
            "views": self.views,
            **self.prints,
            "images": image_set_of_source(source, "train", "").fingerprint,
        }


def write_cache(plan: CacheBuilder, batch: int, progress: ProgressCallback) -> None:
    """Encode the missing shards, `batch` images at a time, shared with other processes.

    Raises:
        ConfigError: if moments are not finite in half precision.
    """
    files = plan.files
    paths = [file for file, _, _ in files]

    def make(k: int) -> None:
        file, part, span = files[k]
        save_tensors(file, _encode(plan, getattr(plan.source, part), span, batch))

    make_shards(paths, make, progress)
    write_json(plan.folder / "cache.json", plan.about)


@torch.no_grad()
def _encode(
    plan: CacheBuilder, part: tuple[Tensor, Tensor], span: range, batch: int
) -> dict[str, Tensor]:
    """Compute moments and labels of the images of one shard."""

    def moments(i: Tensor) -> Tensor:
        image = part[0][i].to(plan.codec.mean.device)
        views = [image, image.flip(-1)][: plan.views]
        return torch.stack(list(map(plan.codec.moments, views)), 1).half().cpu()

    def guarded_moments(i: Tensor) -> Tensor:
        with oom_guard("--batch", len(i), lambda n: moments(i[:n])):
            return moments(i)

    batches = torch.tensor(span).split(batch)
    encoded = torch.cat(list(map(guarded_moments, batches)))
    if not encoded.isfinite().all():
        raise ConfigError(
            f"codec.moments: of items {span.start} … {span.stop - 1} are not finite in "
            "half precision"
        )
    return {"moments": encoded, "labels": part[1][span.start : span.stop]}
