"""Feature extractors of torch-fidelity, and where their weights are: Inception of 2015 (FID)
and DINOv2 (FD-DINOv2).

A file of weights is the one that the user names, else torch.hub's own place, where it is downloaded
once. No code in it is run. What was made with other weights is never compared: each extractor has a
signature that hashes them.

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
    """A published file of weights. url: where it is to be had; sha: how its SHA-256 begins, empty
    where none is published.
    """

    url: str
    sha: str = ""

    @property
    def place(self) -> Path:
        """Where torch.hub keeps it."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.url.rsplit("/", 1)[1]

    def find(self, path: Path | None = None) -> Path:
        """The file named, else the one in its place, downloaded where it is not there.

        Raises:
            ConfigError: naming the file, its place and its hash.
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
            known = (
                f"its SHA-256 begins with {self.sha}" if self.sha else "no hash of it is published"
            )
            raise ConfigError(
                f"{self.place}: these weights are not there, and could not be downloaded"
                f" ({error}); put {self.url} there ({known}), or name the file by --weights"
            ) from None

        return self.place


WEIGHTS: dict[str, Weights | None] = {
    INCEPTION: Weights(URL_INCEPTION_V3, Path(URL_INCEPTION_V3).stem.rsplit("-", 1)[1]),
    DINOV2: Weights(
        "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth"
    ),
}
"""By the extractor's name; None has its own."""


@contextmanager
def _weights_alone() -> Iterator[None]:
    """torch-fidelity would run the code in a file of weights; here nothing does."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        os.environ.update({} if before is None else {name: before})


@dataclass(frozen=True)
class Extractor:
    """A feature extractor, by its registered name.

    Arguments:
        layer: whose activations are the features; None is the metric's own.
        weights: its file; None for an extractor that has its own.
        device: where it runs.

    Raises:
        ConfigError: if the weights are damaged, hold code or do not fit.
    """

    name: str = INCEPTION
    layer: str | None = None
    weights: Path | None = None
    device: str = "cpu"

    @classmethod
    def of(cls, name: str, layer: str | None, path: Path | None, device: str) -> Extractor:
        """The extractor with the weights of a file, or with those in their usual place.

        Raises:
            ConfigError: if there is no such extractor or layer, or its weights are not to be had.
        """
        if name not in WEIGHTS:
            raise ConfigError(f"--features: {name!r} is not one of {', '.join(WEIGHTS)}")
        layers = FEATURE_EXTRACTORS_REGISTRY[name].get_provided_features_list()
        if layer is not None and layer not in layers:
            raise ConfigError(f"--layer: {name} has {', '.join(layers)}, and no {layer}")
        known = WEIGHTS[name]
        return cls(name, layer, known.find(path) if known else path, device)

    @property
    def layers(self) -> list[str]:
        """Of the features and, where those are the metric's own and others than the
        logits, of the logits.
        """
        own, logits = self._own("fid"), self._own("isc")
        return list(dict.fromkeys([own, logits])) if self.layer in (None, own) else [self.layer]

    def _own(self, metric: str) -> str:
        return FEATURE_EXTRACTORS_REGISTRY[self.name].get_default_feature_layer_for_metric(metric)

    @property
    def distance(self) -> str:
        """What its Fréchet distance is called."""
        if self.name == DINOV2:
            width = self.network.model.width
            return "fd_dinov2" if width == dinov2.LARGE else f"fd_dinov2_{width}"
        layer = "" if self.layers[0] == self._own("fid") else self.layers[0]
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
        """The extractor, loaded."""
        try:
            with _weights_alone():
                return create_feature_extractor(
                    self.name,
                    self.layers,
                    cuda=self.device == "cuda",
                    verbose=False,
                    feature_extractor_weights_path=self.weights,
                )
        except Exception as error:  # a file of anything else may fail anywhere in torch
            raise ConfigError(
                f"{self.weights}: no weights of {self.name}, or damaged: "
                f"{' '.join(str(error).split())[:160]}"
            ) from None

    @property
    def dims(self) -> int:
        """D."""
        probe = self.network.get_dummy_input_for_compile().to(self.device)
        return self(probe)["features"].shape[1]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B, 3, H, W] of bytes → features [B, D] and, if they are to be had,
        logits [B, classes].
        """
        found = self.network(images.to(self.device))
        return {
            name: value.cpu() for name, value in zip(("features", "logits"), found, strict=False)
        }
