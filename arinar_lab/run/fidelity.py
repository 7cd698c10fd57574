"""The published protocol of sample quality: features of the Inception network of 2015 against a reference, on torch-fidelity.

    FID                 |μ - μ'|² + tr(Σ + Σ' - 2 (Σ Σ')^½)   of features [n, 2048]         arXiv 1706.08500
    Inception score     exp E KL(p(y | x) ‖ p(y))              of logits                     arXiv 1606.03498
    KID                 squared MMD, cubic kernel              where the reference has features: arXiv 1801.01401
    precision, recall   share inside the other's 3-neighbour balls                   likewise: arXiv 1904.06991

A reference is an npz with mu [D] and sigma [D, D], such as the published adm_in256_stats.npz, or one that `arinar reference`
made: references/<data>-<hash of data, size and extractor>.npz, which has features of at most 10,000 images, too. What was
made with another extractor or with other dimensions is refused.

Distances of features other than the last ones are no FID; they are named, as in `fd_inception64`.
"""

from __future__ import annotations

import os
import pickle
import urllib.error
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch_fidelity
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY
from torch_fidelity.utils import create_feature_extractor

from .checkpoint import digest
from .schema import ConfigError

INCEPTION = "inception-v3-compat"
_WEIGHTS = URL_INCEPTION_V3.rsplit("/", 1)[1]
_SHA = Path(_WEIGHTS).stem.rsplit("-", 1)[1]  # how the SHA-256 of the weights begins, by torch.hub's convention
KEPT = 10_000  # features that a reference keeps, and generated images that precision, recall and KID look at
KID_SUBSET = 1000

Statistics = dict[str, np.ndarray]
"""mu [D] and sigma [D, D], in double precision."""


def inception_weights(path: Path | None = None) -> Path:
    """The file of Inception's weights: the one named, else torch-fidelity's own, downloaded where it is not there.

    Raises:
        ConfigError: naming the file, its place and its hash.
    """
    place = path or Path(torch.hub.get_dir()) / "checkpoints" / _WEIGHTS
    if place.is_file():
        return place
    if path is not None:
        raise ConfigError(f"--inception: {path} is not there")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(place), _SHA, progress=False)
    except (OSError, urllib.error.URLError, RuntimeError) as error:
        raise ConfigError(
            f"{place}: Inception's weights are not there, and could not be downloaded ({error}); put {URL_INCEPTION_V3}"
            f" there (its SHA-256 begins with {_SHA}), or name the file by --inception"
        ) from None
    return place


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
    """A feature extractor of torch-fidelity, by its registered name.

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

    @property
    def layers(self) -> list[str]:
        """Of the features and, where those are the metric's own, of the logits."""
        own, logits = self._own("fid"), self._own("isc")
        return [own, logits] if self.layer in (None, own) else [self.layer]

    def _own(self, metric: str) -> str:
        return FEATURE_EXTRACTORS_REGISTRY[self.name].get_default_feature_layer_for_metric(metric)

    @property
    def distance(self) -> str:
        """What its Fréchet distance is called."""
        layer = "" if self.layers[0] == self._own("fid") else self.layers[0]
        if self.name == INCEPTION:
            return f"fd_inception{layer}" if layer else "fid"
        return f"fd_{self.name}{layer}"

    @cached_property
    def signature(self) -> str:
        """Sixteen hexadecimal digits of the weights, with the extractor's name and layer."""
        weights = digest(self.weights)[:16] if self.weights else torch_fidelity.__version__
        return f"{self.name}/{self.layers[0]}/{weights}"

    @cached_property
    def network(self) -> Any:
        """The extractor, loaded."""
        try:
            with _weights_alone():
                return create_feature_extractor(
                    self.name, self.layers, cuda=self.device == "cuda", verbose=False,
                    feature_extractor_weights_path=self.weights,
                )  # fmt: skip
        except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ConfigError(
                f"{self.weights}: no weights of {self.name}, or damaged: {' '.join(str(error).split())[:160]}"
            ) from None

    @property
    def dims(self) -> int:
        """D."""
        probe = self.network.get_dummy_input_for_compile().to(self.device)
        return self(probe)["features"].shape[1]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B, 3, H, W] of bytes → features [B, D] and, if they are to be had, logits [B, classes]."""
        found = self.network(images.to(self.device))
        return {name: value.cpu() for name, value in zip(("features", "logits"), found, strict=False)}


def colour_bytes(images: Tensor, levels: int = 256) -> Tensor:
    """Images [B, C, H, W] of so many grey levels as bytes of three colours."""
    if levels != 256:
        images = (images.float() * 255 / (levels - 1)).round().to(torch.uint8)
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def enough(n: int, d: int) -> None:
    """Refuse n images whose features [n, D] have no covariance of full rank.

    Raises:
        ConfigError: saying how many it takes.
    """
    if n <= d:
        raise ConfigError(
            f"{n} images give {d} features a covariance of rank {max(n - 1, 0)}, and a Fréchet distance that means nothing;"
            f" take at least {d + 1} images, or earlier features by --layer"
        )


def statistics(features: Tensor) -> Statistics:
    """Mean and covariance of features [n, D]."""
    enough(*features.shape)
    return _double(fid_features_to_statistics(features))


def _double(stats: Any) -> Statistics:
    return {name: np.asarray(stats[name], np.float64) for name in ("mu", "sigma")}


def frechet(one: Statistics, other: Statistics) -> float:
    """The Fréchet distance of two Gaussians."""
    return float(fid_statistics_to_metric(one, other, False)["frechet_inception_distance"])


@dataclass(frozen=True)
class Reference:
    """What generated images are compared with.

    Arguments:
        path: its file; stats: mu and sigma; features [m, D] of some of its images, or None; images: how many there were, or
            None where the file does not say.
    """

    path: Path
    stats: Statistics
    features: Tensor | None = None
    images: int | None = None

    @classmethod
    def read(cls, path: Path, extractor: Extractor) -> Reference:
        """The reference in an npz.

        Raises:
            ConfigError: if it is missing, damaged, lacks mu or sigma, or was made with another extractor.
        """
        if not path.is_file():
            raise ConfigError(f"--reference: {path} is not there")
        try:
            with np.load(path, allow_pickle=False) as file:
                content = {name: file[name] for name in file.files if name in _NAMES}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, TypeError) as error:
            raise ConfigError(f"--reference: {path} is no npz of arrays, or damaged ({error})") from None
        if missing := [name for name in ("mu", "sigma") if name not in content]:
            raise ConfigError(
                f"--reference: {path} lacks {' and '.join(missing)}; it has to hold mu [D] and sigma [D, D]"
            )
        made_with = str(content.get("extractor", extractor.signature))
        if made_with != extractor.signature:
            raise ConfigError(f"--reference: {path} was made with {made_with}, and this is {extractor.signature}")
        features = torch.from_numpy(content["features"]) if "features" in content else None
        images = int(content["images"]) if "images" in content else None
        return cls(path, _double(content), features, images)

    def check(self, dims: int) -> None:
        """Refuse a reference of other dimensions.

        Raises:
            ConfigError: naming both.
        """
        mu, sigma = self.stats["mu"], self.stats["sigma"]
        if mu.shape != (dims,) or sigma.shape != (dims, dims):
            raise ConfigError(
                f"--reference: {self.path} has mu {mu.shape} and sigma {sigma.shape}, and the features are of {dims}"
            )
        if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
            raise ConfigError(f"--reference: {self.path} holds numbers that are not finite")


_NAMES = ("mu", "sigma", "features", "images", "extractor")


def write_reference(path: Path, features: Tensor, extractor: Extractor) -> None:
    """Write mean, covariance and some of the features [n, D] of a reference.

    Raises:
        ConfigError: if there are too few for a covariance of full rank.
    """
    stats, n = statistics(features), len(features)
    some = torch.linspace(0, n - 1, min(KEPT, n)).long()
    with path.open("wb") as file:
        about = {"images": np.array(n), "extractor": np.array(extractor.signature)}
        np.savez(file, **stats, **about, features=features[some].numpy())  # type: ignore[arg-type]


def distances(found: dict[str, Tensor], reference: Reference, name: str = "fid") -> dict[str, float]:
    """What features and logits of generated images say, against a reference.

    Arguments:
        found: features [n, D] and, for the inception score, logits [n, classes]; name: of the Fréchet distance.

    Returns:
        the Fréchet distance first; inception_score; where the reference has features, kid, precision and recall.
    """
    features = found["features"]
    reference.check(features.shape[1])
    values = {name: frechet(statistics(features), reference.stats)}
    if "logits" in found:
        values["inception_score"] = isc_features_to_metric(found["logits"])["inception_score_mean"]
    if reference.features is None:
        return values
    ours, theirs = features[:KEPT], reference.features
    subset = min(KID_SUBSET, len(ours), len(theirs))
    kid = kid_features_to_metric(ours, theirs, kid_subset_size=subset, verbose=False)
    shares = prc_features_to_metric(ours, theirs, save_cpu_ram=True, verbose=False)
    values["kid"] = cast(float, kid["kernel_inception_distance_mean"])
    return values | {key: float(shares[key]) for key in ("precision", "recall")}
