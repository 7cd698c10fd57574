"""The names of metrics, their units, and the columns of a study's table."""

from __future__ import annotations

from dataclasses import dataclass

UNITS = {
    "val/bits_per_dim": "bits per raw dimension",
    "val/bits_per_dim_error": (
        "bits per raw dimension, |difference| when the integration's steps are doubled"
    ),
    "val/bits_per_dim_at_level": "bits per raw dimension, at a resolution of one grey level",
    "val/bits_per_dim_at_resolution": (
        "bits per raw dimension, at a resolution of evaluation.resolution raw units"
    ),
    "val/gap_bits_per_dim": "bits per dimension, mean of log p_true - log p_model",
    "val/gap_standard_error": "bits per dimension",
    "quality/fd_digits": "squared distance of the digits classifier's features",
    "quality/fd_digits_floor": "squared distance of the digits classifier's features",
    "quality/fd_digits_few": (
        "squared distance of the digits classifier's features, of as many images as its floor"
    ),
    "quality/kid_digits": "squared MMD of the digits classifier's features",
    "quality/kid_digits_floor": "squared MMD of the digits classifier's features",
    "quality/precision": "share",
    "quality/recall": "share",
    "quality/precision_floor": "share",
    "quality/recall_floor": "share",
    "quality/truncated_share": "share of the guided 1-D conditionals that had to be truncated",
    "speed/images_per_second": "images per second",
    "speed/latency_ms_b1": "milliseconds",
    "components/effective": "components, e^entropy of their mean weights",
    "components/dead": "components whose mean weight is below a tenth of its share",
    "train/bits_per_dim": "bits per raw dimension, on training images",
    "train/gap_bits_per_dim": "bits per raw dimension, held-out minus training",
    "quality/nearest_train_ratio": (
        "distance to the nearest training image, of samples over that of held-out images"
    ),
    "cost/peak_memory_gb": "10^9 bytes",
    "cost/gflops_per_image": "10^9 floating-point operations",
    "cost/parameters": "parameters",
    "time/train_seconds": "seconds",
    "time/evaluate_seconds": "seconds",
}

BITS, ERROR = "val/bits_per_dim", "val/bits_per_dim_error"
LEVEL, GAP = "val/bits_per_dim_at_level", "val/gap_bits_per_dim"
RESOLUTION = "val/bits_per_dim_at_resolution"
DISTANCE, FID, SPEED = "quality/fd_digits", "quality/fid", "speed/images_per_second"
FEW = "quality/fd_digits_few"
DISTANCES = (
    DISTANCE,
    FID,
    "quality/fd_dinov2",
    *(f"quality/fd_inception{layer}" for layer in (64, 192, 768)),
)


@dataclass(frozen=True)
class Column:
    """A column of the table: the metric, its heading and digits, and whether less is
    better (None: neither).
    """

    metric: str
    heading: str
    digits: int = 3
    less: bool | None = None


COLUMNS = (
    Column(BITS, "bits/dim", 3, True),
    Column(ERROR, "error of the estimate", 4),
    Column(LEVEL, "bits/dim at Δ", 3, True),
    Column(RESOLUTION, "bits/dim at stated Δ", 3, True),
    Column(GAP, "gap to truth", 4, True),
    Column(DISTANCE, "FD digits", 2, True),
    Column(FEW, "FD digits (few)", 2, True),
    Column("quality/kid_digits", "KID digits", 3, True),
    Column(FID, "FID", 2, True),
    Column("quality/inception_score", "Inception score", 1, False),
    Column("quality/kid", "KID", 4, True),
    Column("quality/fd_dinov2", "FD DINOv2", 1, True),
    Column("quality/kid_dinov2", "KID DINOv2", 3, True),
    *(
        Column(metric, f"FD Inception {metric.removeprefix('quality/fd_inception')}", 3, True)
        for metric in DISTANCES[3:]
    ),
    Column("quality/precision", "precision", 3, False),
    Column("quality/recall", "recall", 3, False),
    Column("quality/truncated_share", "truncated", 4),
    Column(SPEED, "images/s", 0, False),
    Column("speed/latency_ms_b1", "latency ms", 1, True),
    Column("cost/gflops_per_image", "GFLOPs/image", 4, True),
    Column("cost/parameters", "parameters", 0),
)

HEADINGS = {column.metric: column.heading for column in COLUMNS}
