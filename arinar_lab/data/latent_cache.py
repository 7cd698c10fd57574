"""Reading a latent cache, which holds moments of a posterior in place of images.

`quality/latent_cache_builder.py` makes it. A cache has fingerprints of its images and its codec,
and is opened only with that codec.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..model.codecs.codec import Codec
from .sources import Source

SPLITS = ("train", "held_out")
# of cache.json
_KEYS = ("shape", "levels", "classes", "train", "held_out", "shard", "views", "codec")
_PROBED = 64  # images of a part whose pixels go into its fingerprint


def tensors_fingerprint(*tensors: Tensor) -> str:
    """Hash types, shapes and bytes of tensors by SHA-256."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def shard_ranges(n: int, size: int) -> list[range]:
    """Split items 0 … n-1 into shards of `size`, of which the last may be smaller."""
    return [range(start, min(start + size, n)) for start in range(0, n, size)]


def data_fingerprint(source: Source) -> str:
    """Hash all labels and the pixels of 64 items of each part, spread evenly, but no path."""
    return tensors_fingerprint(*_probed(source.train), *_probed(source.held_out))


def held_out_fingerprint(source: Source) -> str:
    """Hash the held-out part alike."""
    return tensors_fingerprint(*_probed(source.held_out))


def _probed(part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The pixels of 64 items of a part, spread evenly, and all labels."""
    images, labels = part
    probe = torch.linspace(0, len(labels) - 1, min(_PROBED, len(labels))).long()
    return images[probe], labels


def codec_fingerprint(codec: Codec, spec: dict[str, Any]) -> str:
    """Hash a codec's weights and buffers, and its arguments in the recipe, but no path."""
    codec.prepare()
    arguments = {key: value for key, value in spec.items() if key != "weights"}
    weights = [value for _, value in sorted(codec.state_dict().items())]
    text = json.dumps(arguments, sort_keys=True) + tensors_fingerprint(*weights)
    return hashlib.sha256(text.encode()).hexdigest()


class Moments:
    """The moments of a part of the data, in shards that are read by memory map.

    moments[i] are those [*, 2D, H, W] of items i [*]. With two views i + n is item i mirrored.

    Arguments:
        files: The shards.
        n: Number of items.
        shard: Number of items in a shard.
        views: 1, or 2 with mirror images.
    """

    def __init__(self, files: list[Path], n: int, shard: int, views: int) -> None:
        self.files = files
        self.n = n
        self.shard = shard
        self.views = views
        self.maps: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: Any) -> Tensor:
        i = torch.arange(self.views * self.n)[: self.n if isinstance(i, slice) else None][i]
        return torch.stack(list(map(self._item, i.tolist()))) if i.dim() else self._item(int(i))

    def _item(self, j: int) -> Tensor:
        view, item = divmod(j, self.n)
        k, row = divmod(item, self.shard)
        if k not in self.maps:
            with safe_open(self.files[k], "pt") as shard:
                self.maps[k] = shard.get_tensor("moments")
        return self.maps[k][row, view]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "maps": {}}  # another process maps the files by itself


class LatentCacheSource(Source):
    """The moments of a latent cache in place of its images; see `arinar cache`.

    The cache.json of a cache describes its images, and is enough to draw new ones. A run that was
    trained from a cache keeps a copy of it, so it can be sampled without the cache.

    Arguments:
        path: Folder of the cache.

    Raises:
        ValueError: if the cache is missing or unfinished; on reading, if it lacks a
            shard, or one is damaged.
    """

    pictures = False

    def __init__(self, *, path: str) -> None:
        self.path = Path(path)
        file = self.path / "cache.json"
        if not file.is_file():
            raise ValueError(
                f"path: {path!r} holds no finished latent cache; arinar cache RECIPE makes one, "
                "and the same command goes on"
            )

        try:
            self.about = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"path: {path!r} has a damaged cache.json ({error})") from None

        for key in _KEYS:
            if not isinstance(self.about, dict) or key not in self.about:
                raise ValueError(
                    f"path: {path!r} has a damaged cache.json, without {key}; arinar cache "
                    "RECIPE writes it"
                )

        self.shape = tuple(self.about["shape"])
        self.levels = self.about["levels"]
        self.classes = self.about["classes"]
        self.flip = self.about["views"] == 2

    def prepare(self) -> None:
        """Check every shard.

        Raises:
            ValueError: if one is missing, damaged or of another size.
        """
        for part in SPLITS:
            self._check(part)
        super().prepare()

    @property
    def counts(self) -> tuple[int, int]:
        return self.about["train"], self.about["held_out"]

    def check(self, codec: Codec, spec: dict[str, Any]) -> None:
        """Refuse a codec that has not made this cache.

        Raises:
            ValueError: naming it.
        """
        if codec_fingerprint(codec, spec) != self.about["codec"]:
            raise ValueError(
                f"path: {str(self.path)!r} was made with another codec: other weights, kind, "
                "scale or normalisation; arinar cache RECIPE makes one for this codec"
            )

    def _files(self, part: str) -> list[Path]:
        count = len(shard_ranges(self.about[part], self.about["shard"]))
        return [self.path / f"{part}-{k:05}.safetensors" for k in range(count)]

    def _check(self, part: str) -> None:
        """Refuse shards that are missing, cut or of other sizes; `--verify` compares bytes."""
        views = self.about["views"]
        spans = shard_ranges(self.about[part], self.about["shard"])
        for file, items in zip(self._files(part), spans, strict=True):
            if not file.is_file():
                raise ValueError(
                    f"path: {str(self.path)!r} lacks {file.name}; the same arinar cache "
                    "makes it again"
                )

            try:
                with safe_open(file, "pt") as shard:
                    shape = shard.get_slice("moments").get_shape()[:2]
            except (SafetensorError, OSError) as error:
                raise ValueError(
                    f"path: {file} is damaged ({error}); arinar cache RECIPE --verify makes it anew"
                ) from None

            if shape != [len(items), views]:
                raise ValueError(
                    f"path: {file} holds {shape[0]} items in {shape[1]} views, and cache.json says"
                    f" {len(items)} in {views}; arinar cache RECIPE writes cache.json"
                )

    def _read_part(self, part: str) -> tuple[Any, Tensor]:
        files = self._files(part)
        labels = []
        for file in files:
            try:
                with safe_open(file, "pt") as shard:
                    labels.append(shard.get_tensor("labels").clone())
            except (SafetensorError, OSError) as error:
                raise ValueError(
                    f"path: {file} is missing or damaged ({error}); arinar cache RECIPE --verify "
                    "makes it anew"
                ) from None

        moments = Moments(files, self.about[part], self.about["shard"], self.about["views"])
        return moments, torch.cat(labels)
