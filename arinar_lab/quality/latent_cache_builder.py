"""The latent cache: what a codec's posterior says about each image and its flip, so that training
reads it and encodes nothing.

    caches/<recipe>-<signature>/
      cache.json                     what was encoded, with what; written last, so that a cache
                                     that has it is whole
      train-00000.safetensors        moments [n, V, 2D, H, W] in half precision, labels [n]; and
                                     its SHA-256 beside it
      held_out-00000.safetensors

V is 2 where the recipe's data are flipped in training (an image, its mirror image), else 1. Moments
are means, then log-variances: tokens are drawn from them anew in each epoch, with the noise that
would have been drawn without a cache. They are read by memory map, so that what the system does not
need for other things holds them.

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
    """A cache to be written.

    Arguments:
        folder: where; source, codec: what of and with what; views: 1, or 2 with the mirror images.
        prints: the fingerprints of data and codec.
    """

    folder: Path
    source: Source
    codec: Codec
    views: int
    prints: dict[str, str]

    @classmethod
    def of(cls, recipe: Recipe, name: str, root: Path) -> CacheBuilder:
        """The cache of a recipe's data under its codec, both of which are built.

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
        return [
            (self.folder / f"{part}-{k:05}.safetensors", part, span)
            for part in SPLITS
            for k, span in enumerate(shard_ranges(len(getattr(self.source, part)[1]), SHARD_SIZE))
        ]

    @property
    def items(self) -> int:
        """Images, without their mirror images."""
        return sum(len(span) for _, _, span in self.files)

    @property
    def about(self) -> dict[str, Any]:
        """The content of cache.json."""
        source = self.source
        counts = {part: len(getattr(source, part)[1]) for part in SPLITS}

        return {
            "shape": list(source.shape),
            "levels": source.levels,
            "classes": source.classes,
            **counts,
            "shard": SHARD_SIZE,
            "views": self.views,
            **self.prints,
            "images": image_set_of_source(source, "train", "").fingerprint,
        }


def write_cache(plan: CacheBuilder, batch: int, told: ProgressCallback) -> None:
    """Encode what is missing of a cache, `batch` images at a time, beside others who do the same.

    Raises:
        ConfigError: if moments are not finite in half precision.
    """
    files = plan.files

    def make(k: int) -> None:
        file, part, span = files[k]
        save_tensors(file, _encoded(plan, getattr(plan.source, part), span, batch))

    make_shards([file for file, _, _ in files], make, told)
    write_json(plan.folder / "cache.json", plan.about)


@torch.no_grad()
def _encoded(
    plan: CacheBuilder, part: tuple[Tensor, Tensor], span: range, batch: int
) -> dict[str, Tensor]:
    def moments(i: Tensor) -> Tensor:
        image = part[0][i].to(plan.codec.mean.device)
        sides = [image, image.flip(-1)][: plan.views]
        return torch.stack([plan.codec.moments(side) for side in sides], 1).half().cpu()

    def fitting(i: Tensor) -> Tensor:
        with oom_guard("--batch", len(i), lambda n: moments(i[:n])):
            return moments(i)

    whole = torch.cat([fitting(i) for i in torch.tensor(span).split(batch)])
    if not whole.isfinite().all():
        raise ConfigError(
            f"codec.moments: of items {span.start} … {span.stop - 1} are not finite in "
            "half precision"
        )
    return {"moments": whole, "labels": part[1][span.start : span.stop]}
