"""The table of metrics: their units, and their headings and directions in tables and searches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

BITS = "val/bits_per_dim"
ERROR = "val/bits_per_dim_error"
LEVEL = "val/bits_per_dim_at_level"
RESOLUTION = "val/bits_per_dim_at_resolution"
MEDIAN = "val/bits_per_dim_median"
INSURED = "val/bits_per_dim_insured"
GAP = "val/gap_bits_per_dim"
DISTANCE = "quality/fd_digits"
FASHION_DISTANCE = "quality/fd_fashion"
FID = "quality/fid"
TRUNCATED = "quality/truncated_share"
SPEED = "speed/images_per_second"
CLASSIFIER_DISTANCES = {"digits": DISTANCE, "fashion": FASHION_DISTANCE}
"""Classifier → the Fréchet distance in its features."""
FEW = "_few"  # ends the name of a distance of as many generated images as its floor
DISTANCES = (
    *CLASSIFIER_DISTANCES.values(),
    FID,
    "quality/fd_dinov2",
    "quality/fd_inception64",
    "quality/fd_inception192",
    "quality/fd_inception768",
)


@dataclass(frozen=True)
class Metric:
    """A number that a report may hold.

    Arguments:
        name: The key in the report.
        unit: The unit in words, where `{extractor}` stands for the extractor of the features.
        heading: The heading of the column in a study's table; empty where it has no column.
        digits: The digits after the point, in tables.
        less: Whether less is better; None where neither direction is.
        published: Whether the published protocol alone measures it (`quality/measure.py`).
        classifier: The classifier that measures it; empty where any or none does.
    """

    name: str
    unit: str
    heading: str = ""
    digits: int = 3
    less: bool | None = None
    published: bool = False
    classifier: str = ""


_BITS = "bits per raw dimension"
_DOUBLED = "|difference| when the integration's steps are doubled"
_RESOLUTION = "at a resolution of evaluation.resolution raw units"
_INSURED = "each conditional mixed with 0.1 % of a broad density"
_FEWER = "of as many images as its floor"
_DENSITY = "reference balls that hold an image, over 5"
_COVERAGE = "share of reference balls that hold an image"
_FEATURES = "squared distance of features of {extractor}"
_KERNEL = "squared MMD of the extractor's features"
_SHARE_TRUNCATED = "share of the guided 1-D conditionals that had to be truncated"
_NEAREST = "distance to the nearest training image, of samples over that of held-out images"


def _in_features_of(classifier: str) -> tuple[Metric, ...]:
    """The distances in the features of a classifier."""
    features = f"the {classifier} classifier's features"
    frechet = f"squared distance of {features}"
    mmd = f"squared MMD of {features}"
    sliced = f"sliced Wasserstein distance of {features}, squared"
    fd, kid, sw = (f"quality/{name}_{classifier}" for name in ("fd", "kid", "sliced"))
    heading = f"FD {classifier}"
    of_codec = f"{frechet}, of images that the codec has encoded and decoded"
    return (
        Metric(fd, frechet, heading, 2, True, classifier=classifier),
        Metric(f"{fd}_floor", frechet, classifier=classifier),
        Metric(f"{fd}_codec", of_codec, classifier=classifier),
        Metric(fd + FEW, f"{frechet}, {_FEWER}", f"{heading} (few)", 2, True, False, classifier),
        Metric(kid, mmd, f"KID {classifier}", 3, True, classifier=classifier),
        Metric(f"{kid}_floor", mmd, classifier=classifier),
        Metric(sw, sliced, less=True, classifier=classifier),
        Metric(f"{sw}_floor", sliced, classifier=classifier),
        Metric(sw + FEW, f"{sliced}, {_FEWER}", less=True, classifier=classifier),
    )


_ALL = (
    Metric(BITS, _BITS, "bits/dim", 3, True),
    Metric(ERROR, f"{_BITS}, {_DOUBLED}", "error of the estimate", 4),
    Metric(LEVEL, f"{_BITS}, at a resolution of one grey level", "bits/dim at Δ", 3, True),
    Metric(RESOLUTION, f"{_BITS}, {_RESOLUTION}", "bits/dim at stated Δ", 3, True),
    Metric(INSURED, f"{_BITS}, {_INSURED}", "bits/dim insured", 3, True),
    Metric(MEDIAN, f"{_BITS}, of the median held-out image"),
    Metric(GAP, "bits per dimension, mean of log p_true - log p_model", "gap to truth", 4, True),
    Metric("val/gap_standard_error", "bits per dimension"),
    Metric("train/bits_per_dim", f"{_BITS}, on training images"),
    Metric("train/gap_bits_per_dim", f"{_BITS}, held-out minus training"),
    *_in_features_of("digits"),
    *_in_features_of("fashion"),
    Metric(FID, _FEATURES, "FID", 2, True, published=True),
    Metric("quality/inception_score", "e^nats", "Inception score", 1, False, published=True),
    Metric("quality/kid", _KERNEL, "KID", 4, True, published=True),
    Metric("quality/fd_dinov2", _FEATURES, "FD DINOv2", 1, True, published=True),
    Metric("quality/kid_dinov2", _KERNEL, "KID DINOv2", 3, True, published=True),
    Metric("quality/fd_inception64", _FEATURES, "FD Inception 64", 3, True, published=True),
    Metric("quality/fd_inception192", _FEATURES, "FD Inception 192", 3, True, published=True),
    Metric("quality/fd_inception768", _FEATURES, "FD Inception 768", 3, True, published=True),
    Metric("quality/precision", "share", "precision", 3, False),
    Metric("quality/precision_floor", "share"),
    Metric("quality/recall", "share", "recall", 3, False),
    Metric("quality/recall_floor", "share"),
    Metric("quality/density", _DENSITY),
    Metric("quality/density_floor", _DENSITY),
    Metric("quality/coverage", _COVERAGE, less=False),
    Metric("quality/coverage_floor", _COVERAGE),
    Metric("quality/coverage_few", f"{_COVERAGE}, {_FEWER}", less=False),
    Metric(TRUNCATED, _SHARE_TRUNCATED, "truncated", 4),
    Metric("quality/nearest_train_ratio", _NEAREST),
    Metric(SPEED, "images per second", "images/s", 0, False),
    Metric("speed/latency_ms_b1", "milliseconds", "latency ms", 1, True),
    Metric("cost/gflops_per_image", "10^9 floating-point operations", "GFLOPs/image", 4, True),
    Metric("cost/parameters", "parameters", "parameters", 0),
    Metric("cost/peak_memory_gb", "10^9 bytes"),
    Metric("components/effective", "components, e^entropy of their mean weights"),
    Metric("components/dead", "components whose mean weight is below a tenth of its share"),
    Metric("time/train_seconds", "seconds"),
    Metric("time/evaluate_seconds", "seconds"),
)
METRICS = {metric.name: metric for metric in _ALL}


@dataclass(frozen=True)
class Column:
    """A column of a study's table: some of a metric's fields, see `Metric`."""

    metric: str
    heading: str
    digits: int = 3
    less: bool | None = None


COLUMNS = {m.name: Column(m.name, m.heading, m.digits, m.less) for m in _ALL if m.heading}
HEADINGS = {metric: column.heading for metric, column in COLUMNS.items()}
MATTERS = {BITS: 0.02, LEVEL: 0.02, RESOLUTION: 0.02, DISTANCE: 0.5, FASHION_DISTANCE: 0.5}
"""Metric → the difference that matters where a study says nothing."""


def distance_of(classifier: str | None) -> str:
    """The Fréchet distance in a classifier's features; of digits where no classifier is known."""
    return CLASSIFIER_DISTANCES.get(classifier or "", DISTANCE)


def ranking_metric(likelihoods: Iterable[str], distance: str) -> str:
    """The metric that ranks arms: bits/dim, or a distance where one has no likelihood."""
    return distance if "none" in likelihoods else BITS
