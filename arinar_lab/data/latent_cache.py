"""Reading a latent cache: moments of a posterior in place of the images they were made from.

`quality/latent_cache_builder.py` makes it.

A cache is known by fingerprints of what it was made of. It is opened only with
the codec that made it.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..model.codecs.codec import Codec
from .sources import Source

SPLITS = ("train", "held_out")
# in cache.json
_SAID = ("shape", "levels", "classes", "train", "held_out", "shard", "views", "codec")
_LOOKED_AT = 64  # images of a part whose pixels go into its fingerprint


def tensors_fingerprint(*tensors: Tensor) -> str:
    """SHA-256 of tensors' types, shapes and bytes."""
    seen = hashlib.sha256()
    for tensor in tensors:
        seen.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        seen.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return seen.hexdigest()


def shard_ranges(n: int, size: int) -> list[range]:
    """Items 0 … n-1 in shards of `size`, the last one smaller."""
    return [range(start, min(start + size, n)) for start in range(0, n, size)]


def data_fingerprint(source: Source) -> str:
    """What tells data from other data: all labels, and the pixels of 64 items of each
    part, spread evenly.

    Its path is no part of it: data that were moved are the same.
    """
    seen = []
    for images, labels in (source.train, source.held_out):
        some = torch.linspace(0, len(labels) - 1, min(_LOOKED_AT, len(labels))).long()
        seen += [images[some], labels]
    return tensors_fingerprint(*seen)


def codec_fingerprint(codec: Codec, spec: dict[str, Any]) -> str:
    """What tells a codec from another one: its weights, its buffers, and its arguments in the
    recipe but for paths.
    """
    codec.prepare()
    arguments = json.dumps(
        {key: value for key, value in spec.items() if key != "weights"}, sort_keys=True
    )
    weights = [value for _, value in sorted(codec.state_dict().items())]
    return hashlib.sha256((arguments + tensors_fingerprint(*weights)).encode()).hexdigest()


class Moments:
    """The moments of a part of the data, in shards that are read by memory map.

    moments[i] are those [*, 2D, H, W] of items i [*]; i + n is the mirror image of item i
    where there are any.

    Arguments:
        files: the shards; n: items; shard: items in one; views: 1 or 2.
    """

    def __init__(self, files: list[Path], n: int, shard: int, views: int) -> None:
        self.files, self.n, self.shard, self.views = files, n, shard, views
        self.maps: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: Any) -> Tensor:
        i = torch.arange(self.views * self.n)[: self.n if isinstance(i, slice) else None][i]
        return torch.stack([self._one(j) for j in i.tolist()]) if i.dim() else self._one(int(i))

    def _one(self, j: int) -> Tensor:
        view, item = divmod(j, self.n)
        k, row = divmod(item, self.shard)
        if k not in self.maps:
            with safe_open(self.files[k], "pt") as shard:
                self.maps[k] = shard.get_tensor("moments")
        return self.maps[k][row, view]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "maps": {}}  # another process maps the files by itself


class LatentCacheSource(Source):
    """The moments of a latent cache in place of the images they were made from; see `arinar cache`.

    What the cache is of stands in its cache.json, which is all that drawing images asks for. A run
    that was trained from it keeps a copy, and outlives it.

    Arguments:
        path: its folder.

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

        if lacks := [
            name for name in _SAID if not isinstance(self.about, dict) or name not in self.about
        ]:
            raise ValueError(
                f"path: {path!r} has a damaged cache.json, without {lacks[0]}; arinar cache "
                "RECIPE writes it"
            )

        self.shape, self.levels = tuple(self.about["shape"]), self.about["levels"]
        self.classes, self.flip = self.about["classes"], self.about["views"] == 2

    def prepare(self) -> None:
        """Look at every shard.

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
        """Refuse shards that are missing, cut or of other sizes; bytes that differ only
        `arinar cache --verify` finds.
        """
        n, size, views = (self.about[name] for name in (part, "shard", "views"))
        for file, items in zip(self._files(part), shard_ranges(n, size), strict=True):
            if not file.is_file():
                raise ValueError(
                    f"path: {str(self.path)!r} lacks {file.name}; the same arinar cache "
                    "makes it again"
                )

            try:
                with safe_open(file, "pt") as shard:
                    found = shard.get_slice("moments").get_shape()[:2]
            except (SafetensorError, OSError) as error:
                raise ValueError(
                    f"path: {file} is damaged ({error}); arinar cache RECIPE --verify makes it anew"
                ) from None

            if found != [len(items), views]:
                raise ValueError(
                    f"path: {file} holds {found[0]} items in {found[1]} views, and cache.json says"
                    f" {len(items)} in {views}; arinar cache RECIPE writes cache.json"
                )

    def _part(self, part: str) -> tuple[Any, Tensor]:
        files, labels = self._files(part), []
        for file in files:
            try:
                with safe_open(file, "pt") as shard:
                    labels.append(shard.get_tensor("labels").clone())
            except (SafetensorError, OSError) as error:
                raise ValueError(
                    f"path: {file} is missing or damaged ({error}); arinar cache RECIPE --verify "
                    "makes it anew"
                ) from None

        return Moments(
            files, self.about[part], self.about["shard"], self.about["views"]
        ), torch.cat(labels)

    @cached_property
    def train(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self._part("train")

    @cached_property
    def held_out(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self._part("held_out")
