"""The published protocol of sample quality: features of the Inception network of 2015 against a
reference, on torch-fidelity.

    FID                  |μ - μ'|² + tr(Σ + Σ' - 2 (Σ Σ')^½)          arXiv 1706.08500
    Inception score      exp E KL(p(y | x) ‖ p(y))                    arXiv 1606.03498
    KID *                squared MMD, cubic kernel                    arXiv 1801.01401
    precision, recall *  share inside the other's 3-neighbour balls   arXiv 1904.06991

The first is of features [n, 2048], the second of logits; * only where the reference has features.

A reference is an npz with mu [D] and sigma [D, D], such as the published adm_in256_stats.npz, or
one that `arinar reference` made: references/<data>-<hash of data, size and extractor>.npz, which
has features of at most 10,000 images, too. What was made with another extractor or with other
dimensions is refused.

Distances of other features are no FID: they, their KID, precision and recall are named
(`fd_inception64`, `kid_dinov2`).
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

# features that a reference keeps, and generated images that precision, recall and KID look at
KEPT_FEATURES = 10_000
KID_SUBSET = 1000
KEY = "evaluation.reference"  # where a recipe names a reference

Statistics = dict[str, np.ndarray]
"""mu [D] and sigma [D, D], in double precision."""


def colour_bytes(images: Tensor, levels: int = 256) -> Tensor:
    """Images [B, C, H, W] of so many grey levels as bytes of three colours."""
    if levels != 256:
        images = (images.float() * 255 / (levels - 1)).round().to(torch.uint8)
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def check_image_count(n: int, d: int) -> None:
    """Refuse n images whose features [n, D] have no covariance of full rank.

    Raises:
        ConfigError: saying how many it takes.
    """
    if n <= d:
        raise ConfigError(
            f"{n} images give {d} features a covariance of rank {max(n - 1, 0)}, and a"
            f" Fréchet distance that means nothing; take at least {d + 1} images, or"
            " earlier features by --layer"
        )


def statistics(features: Tensor) -> Statistics:
    """Mean and covariance of features [n, D]."""
    check_image_count(*features.shape)
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
        path: its file; stats: mu and sigma; features [m, D] of some of its images, or None;
            images: how many there were, or None where the file does not say; key: what named
            the file, for messages.
    """

    path: Path
    stats: Statistics
    features: Tensor | None = None
    images: int | None = None
    key: str = KEY

    @classmethod
    def read(cls, path: Path, extractor: Extractor, key: str = KEY) -> Reference:
        """The reference in an npz.

        Raises:
            ConfigError: if it is missing, damaged, lacks mu or sigma, or was made
                with another extractor.
        """
        content = _content(path, _NAMES, key)
        if missing := [name for name in ("mu", "sigma") if name not in content]:
            raise ConfigError(
                f"{path} lacks {' and '.join(missing)}; it has to hold mu [D] and sigma [D, D]",
                key=key,
            )

        made_with = str(content.get("extractor", extractor.signature))
        if made_with != extractor.signature:
            raise ConfigError(
                f"{path} was made with {made_with}, and this is {extractor.signature}", key=key
            )

        for name in ("mu", "sigma", "features", "images"):
            if name in content and content[name].dtype.kind not in "fiu":
                raise ConfigError(
                    f"{path} has {name} of {content[name].dtype}, which are no real numbers",
                    key=key,
                )

        if "images" in content and content["images"].size != 1:
            raise ConfigError(
                f"{path} has images {content['images'].shape}, which is not their number", key=key
            )

        kept = content.get("features")
        if kept is not None and not np.isfinite(kept).all():
            raise ConfigError(f"{path} has features that are not finite", key=key)
        features = None if kept is None else torch.from_numpy(kept.astype(np.float32))
        images = int(content["images"].item()) if "images" in content else None

        return cls(path, _double(content), features, images, key)

    def check(self, dims: int) -> None:
        """Refuse a reference of other dimensions.

        Raises:
            ConfigError: naming both.
        """
        mu, sigma = self.stats["mu"], self.stats["sigma"]
        if mu.shape != (dims,) or sigma.shape != (dims, dims):
            raise ConfigError(
                f"{self.path} has mu {mu.shape} and sigma {sigma.shape}, and the features "
                f"are of {dims}",
                key=self.key,
            )

        if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
            raise ConfigError(f"{self.path} holds numbers that are not finite", key=self.key)
        if (np.diagonal(sigma) < 0).any() or not np.allclose(
            sigma, sigma.T, rtol=1e-3, atol=1e-6 * np.abs(sigma).max()
        ):
            raise ConfigError(
                f"{self.path} has a sigma that is no covariance: symmetric, with variances above 0",
                key=self.key,
            )

        if self.features is not None and (
            self.features.dim() != 2 or self.features.shape[1] != dims
        ):
            raise ConfigError(
                f"{self.path} has features {tuple(self.features.shape)}, and those of "
                f"images are of {dims}",
                key=self.key,
            )


_NAMES = ("mu", "sigma", "features", "images", "extractor")


def _content(path: Path, names: tuple[str, ...], key: str) -> dict[str, np.ndarray]:
    """What there is of some arrays in the npz of a reference.

    Raises:
        ConfigError: if it is missing or damaged.
    """
    if not path.exists():
        raise ConfigError(f"{path} is not there", key=key)
    with located(key):
        return read_npz(path, names)


def extractor_of_reference(path: Path, key: str = KEY) -> tuple[str, str | None]:
    """Name and layer of the extractor that a reference was made with: Inception's last,
    where it does not say.

    Raises:
        ConfigError: if it is missing or damaged.
    """
    signature = str(_content(path, ("extractor",), key).get("extractor", INCEPTION))
    name, _, rest = signature.partition("/")
    return name, rest.partition("/")[0] or None


def write_reference(path: Path, features: Tensor, extractor: Extractor) -> None:
    """Write mean, covariance and some of the features [n, D] of a reference.

    Raises:
        ConfigError: if there are too few for a covariance of full rank.
    """
    stats, n = statistics(features), len(features)
    some = torch.linspace(0, n - 1, min(KEPT_FEATURES, n)).long()
    with path.open("wb") as file:
        about = {"images": np.array(n), "extractor": np.array(extractor.signature)}
        np.savez(file, **stats, **about, features=features[some].numpy())  # type: ignore[arg-type]


def distances(
    found: dict[str, Tensor], reference: Reference, name: str = "fid"
) -> dict[str, float]:
    """What features and logits of generated images say, against a reference.

    Arguments:
        found: features [n, D] and, for the inception score, logits [n, classes]; name: of
            the Fréchet distance.

    Returns:
        the Fréchet distance first; inception_score; where the reference has features, kid,
        precision and recall, which have the name of the features, too, where those are not FID's.
    """
    features, of = found["features"], "" if name == "fid" else name.removeprefix("fd")
    reference.check(features.shape[1])
    values = {name: frechet(statistics(features), reference.stats)}
    if "logits" in found:
        values["inception_score"] = isc_features_to_metric(found["logits"])["inception_score_mean"]
    if reference.features is None:
        return values
    ours, theirs = features[:KEPT_FEATURES], reference.features
    subset = min(KID_SUBSET, len(ours), len(theirs))
    kid = kid_features_to_metric(ours, theirs, kid_subset_size=subset, verbose=False)
    shares = prc_features_to_metric(ours, theirs, save_cpu_ram=True, verbose=False)
    values[f"kid{of}"] = cast(float, kid["kernel_inception_distance_mean"])

    return values | {f"{key}{of}": float(shares[key]) for key in ("precision", "recall")}
