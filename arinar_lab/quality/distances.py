"""The published protocol of sample quality: features of the Inception network of 2015 against a
reference, on torch-fidelity.

    FID                  |μ - μ'|² + tr(Σ + Σ' - 2 (Σ Σ')^½)          arXiv 1706.08500
    Inception score      exp E KL(p(y | x) ‖ p(y))                    arXiv 1606.03498
    KID *                squared MMD, cubic kernel                    arXiv 1801.01401
    precision, recall *  share inside the other's 3-neighbour balls   arXiv 1904.06991

FID takes features [n, 2048], the inception score logits; * only where the reference has features.

A reference is an npz with mu [D] and sigma [D, D], such as the published adm_in256_stats.npz, or
one of `arinar reference`: references/<data>-<hash of data, size and extractor>.npz, which holds
features of at most 10,000 images, too. References of another extractor or with other dimensions are
refused.

Distances of other features are no FID: they, their KID, precision and recall have the features'
name (`fd_inception64`, `kid_dinov2`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from ..errors import ConfigError, located
from ..files.arrays import read_npz
from .extractors import INCEPTION, Extractor

KEPT_FEATURES = 10_000  # of a reference, and of generated images for precision, recall and KID
KID_SUBSET = 1000
KEY = "evaluation.reference"  # where a recipe names a reference

Statistics = dict[str, np.ndarray]
"""mu [D] and sigma [D, D], in double precision."""


def check_image_count(n: int, d: int) -> None:
    """Refuse n images whose features [n, D] have no covariance of full rank.

    Raises:
        ConfigError: with the number that is needed.
    """
    if n <= d:
        raise ConfigError(
            f"{n} images give {d} features a covariance of rank {max(n - 1, 0)}, and a"
            f" Fréchet distance that means nothing; take at least {d + 1} images, or"
            " earlier features by --layer"
        )


def statistics(features: Tensor) -> Statistics:
    """Compute mean and covariance of features [n, D]."""
    check_image_count(*features.shape)
    return _double(fid_features_to_statistics(features))


def _double(stats: Any) -> Statistics:
    return {name: np.asarray(stats[name], np.float64) for name in ("mu", "sigma")}


def frechet(images: Statistics, reference: Statistics) -> float:
    """Return the Fréchet distance of two Gaussians."""
    return float(fid_statistics_to_metric(images, reference, False)["frechet_inception_distance"])


@dataclass(frozen=True)
class Reference:
    """Reference statistics that generated images are compared with.

    Arguments:
        path: File of the reference.
        stats: mu and sigma.
        features: Features [m, D] of some of its images, or None.
        images: Number of its images, or None where the file lacks it.
        key: Key that names the file, for messages.
    """

    path: Path
    stats: Statistics
    features: Tensor | None = None
    images: int | None = None
    key: str = KEY

    @classmethod
    def read(cls, path: Path, extractor: Extractor, key: str = KEY) -> Reference:
        """Read the reference in an npz.

        Raises:
            ConfigError: if it is missing, damaged, lacks mu or sigma, or was made
                with another extractor.
        """
        content = _content(path, _NAMES, key)
        with located(key, ValueError):
            _check_content(path, content, extractor)

        features = None
        if "features" in content:
            features = torch.from_numpy(content["features"].astype(np.float32))
        images = int(content["images"].item()) if "images" in content else None

        return cls(path, _double(content), features, images, key)

    def check(self, dims: int) -> None:
        """Refuse a reference whose features have other dimensions, or with no true covariance.

        Raises:
            ConfigError: naming file and fault.
        """
        mu = self.stats["mu"]
        sigma = self.stats["sigma"]
        if mu.shape != (dims,) or sigma.shape != (dims, dims):
            raise ConfigError(
                f"{self.path} has mu {mu.shape} and sigma {sigma.shape}, and the features "
                f"are of {dims}",
                key=self.key,
            )

        if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
            raise ConfigError(f"{self.path} holds numbers that are not finite", key=self.key)
        tolerance = 1e-6 * np.abs(sigma).max()
        is_symmetric = np.allclose(sigma, sigma.T, rtol=1e-3, atol=tolerance)
        if (np.diagonal(sigma) < 0).any() or not is_symmetric:
            raise ConfigError(
                f"{self.path} has a sigma that is no covariance: symmetric, with variances above 0",
                key=self.key,
            )

        shape = (0, dims) if self.features is None else tuple(self.features.shape)
        if len(shape) != 2 or shape[1] != dims:
            raise ConfigError(
                f"{self.path} has features {shape}, and those of images are of {dims}",
                key=self.key,
            )


_NAMES = ("mu", "sigma", "features", "images", "extractor")


def _content(path: Path, names: tuple[str, ...], key: str) -> dict[str, np.ndarray]:
    """Read those of some arrays that the npz of a reference holds.

    Raises:
        ConfigError: if it is missing or damaged.
    """
    if not path.exists():
        raise ConfigError(f"{path} is not there", key=key)
    with located(key):
        return read_npz(path, names)


def _check_content(path: Path, content: dict[str, np.ndarray], extractor: Extractor) -> None:
    """Refuse arrays that are no reference of an extractor.

    Raises:
        ValueError: naming file and array.
    """
    missing = [name for name in ("mu", "sigma") if name not in content]
    if missing:
        names = " and ".join(missing)
        raise ValueError(f"{path} lacks {names}; it has to hold mu [D] and sigma [D, D]")

    signature = str(content.get("extractor", extractor.signature))
    if signature != extractor.signature:
        raise ValueError(f"{path} was made with {signature}, and this is {extractor.signature}")

    for name in ("mu", "sigma", "features", "images"):
        if name in content and content[name].dtype.kind not in "fiu":
            dtype = content[name].dtype
            raise ValueError(f"{path} has {name} of {dtype}, which are no real numbers")

    if "images" in content and content["images"].size != 1:
        shape = content["images"].shape
        raise ValueError(f"{path} has images {shape}, which is not their number")
    if "features" in content and not np.isfinite(content["features"]).all():
        raise ValueError(f"{path} has features that are not finite")


def extractor_of_reference(path: Path, key: str = KEY) -> tuple[str, str | None]:
    """Read name and layer of a reference's extractor; the default is Inception's last layer.

    Raises:
        ConfigError: if the file is missing or damaged.
    """
    signature = str(_content(path, ("extractor",), key).get("extractor", INCEPTION))
    name, layer = f"{signature}/".split("/")[:2]
    return name, layer or None


def write_reference(path: Path, features: Tensor, extractor: Extractor) -> None:
    """Write mean, covariance and some of the features [n, D] of a reference.

    Raises:
        ConfigError: if there are too few for a covariance of full rank.
    """
    stats = statistics(features)
    n = len(features)
    kept = torch.linspace(0, n - 1, min(KEPT_FEATURES, n)).long()
    origin = {"images": np.array(n), "extractor": np.array(extractor.signature)}
    with path.open("wb") as file:
        np.savez(file, **stats, **origin, features=features[kept].numpy())  # type: ignore[arg-type]


def distances(
    outputs: dict[str, Tensor], reference: Reference, name: str = "fid"
) -> dict[str, float]:
    """Compare features and logits of generated images with a reference.

    Arguments:
        outputs: Features [n, D] and, for the inception score, logits [n, classes].
        reference: The reference.
        name: Name of the Fréchet distance.

    Returns:
        the Fréchet distance first; inception_score; where the reference has features, kid,
        precision and recall, named after the features where those are not FID's.
    """
    features = outputs["features"]
    reference.check(features.shape[1])
    values = {name: frechet(statistics(features), reference.stats)}
    if "logits" in outputs:
        score = isc_features_to_metric(outputs["logits"])
        values["inception_score"] = score["inception_score_mean"]
    if reference.features is None:
        return values

    features = features[:KEPT_FEATURES]
    subset = min(KID_SUBSET, len(features), len(reference.features))
    kid = kid_features_to_metric(
        features, reference.features, kid_subset_size=subset, verbose=False
    )
    shares = prc_features_to_metric(features, reference.features, save_cpu_ram=True, verbose=False)
    suffix = "" if name == "fid" else name.removeprefix("fd")
    values[f"kid{suffix}"] = cast(float, kid["kernel_inception_distance_mean"])
    values[f"precision{suffix}"] = float(shares["precision"])
    values[f"recall{suffix}"] = float(shares["recall"])
    return values
