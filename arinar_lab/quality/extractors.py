"""Feature extractors of torch-fidelity and their weights: Inception of 2015 and DINOv2.

The weights are the user's file, else torch.hub's own one, which is downloaded once. No code in it
is run. Each extractor has a signature that hashes its weights; results of different signatures are
never compared.

A distance has its extractor's name: `fid` is of Inception's last features alone, `fd_inception64`
of earlier ones, and `fd_dinov2` of DINOv2's ViT-L/14.
"""

from __future__ import annotations

import os
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch_fidelity
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY
from torch_fidelity.utils import create_feature_extractor

from ..errors import ConfigError
from ..files.checksums import file_digest
from . import dinov2

INCEPTION, DINOV2 = "inception-v3-compat", "dinov2"


@dataclass(frozen=True)
class Weights:
    """A published file of weights.

    Arguments:
        url: Its address.
        sha: First digits of its SHA-256; empty where none is published.
    """

    url: str
    sha: str = ""

    @property
    def place(self) -> Path:
        """The file in torch.hub's folder."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.url.rsplit("/", 1)[1]

    def find(self, path: Path | None = None) -> Path:
        """Return `path`, else torch.hub's file, which is downloaded if it is missing.

        Raises:
            ConfigError: naming the missing file, its address and its hash.
        """
        if path is not None:
            if not path.is_file():
                raise ConfigError(f"--weights: {path} is not there")
            return path

        if self.place.is_file():
            return self.place
        try:
            self.place.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                self.url, str(self.place), self.sha or None, progress=False
            )
        except (OSError, urllib.error.URLError, RuntimeError) as error:
            note = "no hash of it is published"
            if self.sha:
                note = f"its SHA-256 begins with {self.sha}"
            raise ConfigError(
                f"{self.place}: these weights are not there, and could not be downloaded"
                f" ({error}); put {self.url} there ({note}), or name the file by --weights"
            ) from None

        return self.place


WEIGHTS: dict[str, Weights | None] = {
    INCEPTION: Weights(URL_INCEPTION_V3, Path(URL_INCEPTION_V3).stem.rsplit("-", 1)[1]),
    DINOV2: Weights(
        "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth"
    ),
}
"""Extractor's name → its published weights, or None for an extractor with its own."""


@contextmanager
def _weights_only() -> Iterator[None]:
    """Load torch files weights-only inside; torch-fidelity alone would run their code."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


@dataclass(frozen=True)
class Extractor:
    """A feature extractor, by its registered name.

    Arguments:
        name: Its registered name.
        layer: Layer whose activations are the features; None is the metric's own.
        weights: File of its weights; None for an extractor that has its own.
        device: Device that it runs on, `cpu` or `cuda`.

    Raises:
        ConfigError: if the weights are damaged, hold code or do not fit.
    """

    name: str = INCEPTION
    layer: str | None = None
    weights: Path | None = None
    device: str = "cpu"

    @classmethod
    def of(cls, name: str, layer: str | None, path: Path | None, device: str) -> Extractor:
        """Build an extractor with the weights of a file, or with those of torch.hub.

        Raises:
            ConfigError: if extractor, layer or weights do not exist.
        """
        if name not in WEIGHTS:
            raise ConfigError(f"--features: {name!r} is not one of {', '.join(WEIGHTS)}")
        layers = FEATURE_EXTRACTORS_REGISTRY[name].get_provided_features_list()
        if layer is not None and layer not in layers:
            raise ConfigError(f"--layer: {name} has {', '.join(layers)}, and no {layer}")
        published = WEIGHTS[name]
        return cls(name, layer, published.find(path) if published else path, device)

    @property
    def layers(self) -> list[str]:
        """Layers of the features and, where the features are the metric's own, of the logits."""
        features = self._default_layer("fid")
        if self.layer not in (None, features):
            return [self.layer]
        return list(dict.fromkeys([features, self._default_layer("isc")]))

    def _default_layer(self, metric: str) -> str:
        return FEATURE_EXTRACTORS_REGISTRY[self.name].get_default_feature_layer_for_metric(metric)

    @property
    def distance(self) -> str:
        """Name of its Fréchet distance."""
        if self.name == DINOV2:
            width = self.network.model.width
            return "fd_dinov2" if width == dinov2.LARGE else f"fd_dinov2_{width}"
        layer = "" if self.layers[0] == self._default_layer("fid") else self.layers[0]
        if self.name == INCEPTION:
            return f"fd_inception{layer}" if layer else "fid"
        return f"fd_{self.name}{layer}"

    @cached_property
    def signature(self) -> str:
        """Sixteen hexadecimal digits of the weights, with the extractor's name and layer."""
        weights = file_digest(self.weights)[:16] if self.weights else torch_fidelity.__version__
        return f"{self.name}/{self.layers[0]}/{weights}"

    @cached_property
    def network(self) -> Any:
        """The network with its weights."""
        options = {"cuda": self.device == "cuda", "verbose": False}
        try:
            with _weights_only():
                return create_feature_extractor(
                    self.name, self.layers, feature_extractor_weights_path=self.weights, **options
                )

        except Exception as error:  # a file of anything else may fail anywhere in torch
            reason = " ".join(str(error).split())[:160]
            raise ConfigError(
                f"{self.weights}: no weights of {self.name}, or damaged: {reason}"
            ) from None

    @property
    def dims(self) -> int:
        """Number D of features."""
        probe = self.network.get_dummy_input_for_compile().to(self.device)
        return self(probe)["features"].shape[1]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B, 3, H, W] of bytes → features [B, D] and, for some layers, logits."""
        outputs = self.network(images.to(self.device))
        return dict(zip(("features", "logits"), (value.cpu() for value in outputs), strict=False))
