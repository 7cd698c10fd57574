"""Sample quality of a run by the published protocol: `arinar evaluate RUN --quality`.

Image i is drawn from seed i, with the label i modulo the classes: 50,000 images are 50 of each of
ImageNet's. The extractor reads the images as they are drawn; only their features are stored, in
shards. So the same command resumes, and several processes share the work. Over R disjoint ranges of
seeds a distance has a mean and an interval (95 %, Student's t).

The codec's floor is the same distance of held-out images that are encoded and decoded (or whose
moments, in a latent cache, are decoded), where there are enough of them.

    evaluations/<evaluation signature>/quality-<reference and extractor>.json
    and in report.json, if it exists

The evaluation of a recipe whose `evaluation.reference` names a reference includes this
(`evaluate_with_reference`).
"""

from __future__ import annotations

import hashlib
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config.build import Experiment
from ..config.sections import Recipe
from ..errors import ConfigError, located
from ..evaluation.dtypes import generation_dtype
from ..evaluation.evaluate import evaluate_run, generate_images, load_trained, with_distances
from ..evaluation.uncertainty import half_width
from ..files.checksums import file_digest
from ..files.shards import ProgressCallback
from ..hardware.device import device_of
from ..metrics import FID, METRICS
from ..model.noise import Noise
from ..runs.folder import RunFolder, environment, git_state, read_json, write_json
from .distances import (
    KEPT_FEATURES,
    KEY,
    KID_SUBSET,
    Reference,
    check_image_count,
    distances,
    extractor_of_reference,
    frechet,
    statistics,
)
from .extractors import Extractor
from .image_sets import colour_bytes
from .reference import compute_in_shards, concatenate_shards

NamedReference = tuple[Reference, Extractor]


def evaluate_with_reference(
    recipe: Recipe,
    folder: RunFolder,
    trained: Experiment | None = None,
    reference: NamedReference | None = None,
) -> dict[str, Any]:
    """Evaluate a run, with the distance to the recipe's reference if it names one.

    The distance is measured first, so that a report that exists is complete.

    Arguments:
        recipe: The run's recipe.
        folder: Its folder.
        trained: The run's trained model and its data; None loads them.
        reference: Result of `named_reference`; None reads it.
    """
    report = folder.report(recipe)
    if report:
        return report
    reference = reference or named_reference(recipe)
    if reference is None:
        return evaluate_run(recipe, folder, None, trained)

    trained = trained or load_trained(recipe, folder, data=True)
    progress = partial(folder.progress, "quality")
    distance = measure_quality(recipe, folder, *reference, 1, progress, trained)
    return evaluate_run(recipe, folder, distance, trained)


def named_reference(recipe: Recipe) -> NamedReference | None:
    """The reference that a recipe names, and the extractor that it was made with; None
    where it names none.

    Raises:
        ConfigError: if it is missing, damaged or of other dimensions, the extractor's weights are
            not to be had, or the recipe draws too few images for them.
    """
    if recipe.evaluation.reference is None:
        return None

    path = recipe.workspace.path(recipe.evaluation.reference)
    with located(KEY):
        extractor = Extractor.of(
            *extractor_of_reference(path), None, device_of(recipe.machine).type
        )
        reference = Reference.read(path, extractor)
        _check_fit(recipe, reference, extractor)

    return reference, extractor


def _check_fit(recipe: Recipe, reference: Reference, extractor: Extractor) -> None:
    """Refuse too few images, and a reference of other dimensions."""
    check_image_count(recipe.evaluation.images, extractor.dims)
    reference.check(extractor.dims)


def measure_quality(
    recipe: Recipe,
    folder: RunFolder,
    reference: Reference,
    extractor: Extractor,
    ranges: int,
    progress: ProgressCallback,
    trained: Experiment | None = None,
) -> dict[str, Any]:
    """Measure quality against a reference, once for each evaluation, reference and extractor.

    Arguments:
        recipe: The run's recipe.
        folder: Its folder.
        reference: Statistics of the images to compare with.
        extractor: Extractor of the features.
        ranges: Number of disjoint ranges of seeds.
        progress: Called whenever a shard of features is finished.
        trained: The run's trained model; None loads it.

    Returns:
        the report: metrics, units, and the settings that they depend on.

    Raises:
        ConfigError: if the images are too few, the reference has other dimensions, or the
            run models no images.
    """
    evaluation = folder.evaluation(recipe)
    digest = file_digest(reference.path)
    file = evaluation / f"quality-{_hash(f'{digest} {extractor.signature} {ranges}')}.json"
    report = read_json(file)
    if report:
        _add_to(recipe, folder, report)
        return report

    _check_fit(recipe, reference, extractor)
    experiment = trained or load_trained(recipe, folder)
    if not experiment.source.levels:
        raise ConfigError(f"{folder.path}: models tokens, which have no picture")

    parts = evaluation / f"features-{_hash(extractor.signature)}"
    precision = generation_dtype(recipe, experiment)
    suffix = "" if precision == "float32" else f"-{precision}"
    drawn = parts.with_name(f"{parts.name}{suffix}")
    runs = []
    for k in range(ranges):
        outputs = _generated_outputs(recipe, experiment, extractor, drawn, k, progress)
        runs.append(distances(outputs, reference, extractor.distance))
    floor, n = _floor(recipe, experiment, reference, extractor, parts, progress)

    report = _report(file.name, recipe, _summary(runs) | floor, runs, reference, extractor)
    report |= {"reference_sha256": digest, "floor_images": n, "precision": precision}
    write_json(file, report)
    _add_to(recipe, folder, report)

    return report


def _hash(text: str) -> str:
    """Return eight hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _generated_outputs(
    recipe: Recipe,
    experiment: Experiment,
    extractor: Extractor,
    parts: Path,
    k: int,
    progress: ProgressCallback,
) -> dict[str, Tensor]:
    """Compute features and logits of the images of the k-th range of seeds."""
    e = recipe.evaluation
    classes = experiment.source.classes
    first = e.seed + k * e.images

    def compute(i: Tensor) -> dict[str, Tensor]:
        images, _ = generate_images(recipe, experiment, i % classes, first + i)
        return extractor(colour_bytes(images, experiment.source.levels))

    folder = parts / f"range_{k}-of-{e.images}"
    return concatenate_shards(compute_in_shards(folder, e.images, compute, e.batch, progress))


@torch.no_grad()
def _floor(
    recipe: Recipe,
    experiment: Experiment,
    reference: Reference,
    extractor: Extractor,
    parts: Path,
    progress: ProgressCallback,
) -> tuple[dict[str, float], int]:
    """Measure the distance of held-out images after encoding and decoding, if they are enough.

    Returns:
        the distance by its name, or nothing, and the number of the images.
    """
    source = experiment.source
    codec = experiment.codec
    try:
        n = min(len(source.held_out[0]), recipe.evaluation.images)
    except ValueError:  # a published checkpoint is measured without the data it was trained on
        return {}, 0
    if n <= len(reference.stats["mu"]):
        return {}, n

    def compute(i: Tensor) -> dict[str, Tensor]:
        images = source.held_out[0][i].to(experiment.device)
        x, _ = codec.encode(images, Noise.of(i.to(experiment.device), "floor"))
        return extractor(colour_bytes(codec.decode(x).cpu(), source.levels))

    folder = parts / f"floor-of-{n}"
    outputs = concatenate_shards(
        compute_in_shards(folder, n, compute, recipe.evaluation.batch, progress)
    )
    distance = frechet(statistics(outputs["features"]), reference.stats)
    return {f"{extractor.distance}_floor": distance}, n


def _summary(runs: list[dict[str, float]]) -> dict[str, float]:
    """Average each value over the ranges; several ranges add the distance's half-width."""
    columns = {name: list(map(itemgetter(name), runs)) for name in runs[0]}
    summary = {name: float(np.mean(column)) for name, column in columns.items()}

    if len(runs) > 1:
        distance = next(iter(columns))
        summary[f"{distance}_interval"] = half_width(
            torch.tensor(columns[distance], dtype=torch.float64)
        )
    return summary


def _report(
    file: str,
    recipe: Recipe,
    values: dict[str, float],
    runs: list[dict[str, float]],
    reference: Reference,
    extractor: Extractor,
) -> dict[str, Any]:
    """Put values into the form of a report."""
    e = recipe.evaluation
    metrics: dict[str, float] = {}
    units: dict[str, str] = {}
    for name, value in values.items():
        metrics[f"quality/{name}"] = value
        units[f"quality/{name}"] = _unit(name).format(extractor=extractor.signature)
    source: dict[str, Any] = {"file": reference.path.name, "images": reference.images}
    if reference.features is not None:
        source["kid_subset"] = min(KID_SUBSET, KEPT_FEATURES, e.images, len(reference.features))

    return {
        "file": file,
        "metrics": metrics,
        "units": units,
        "ranges": runs,
        "images": e.images,
        "seed": e.seed,
        "reference": source,
        "extractor": extractor.signature,
        "training_signature": recipe.training_signature,
        "evaluation_signature": recipe.evaluation_signature,
        "git": git_state(),
        "environment": environment(),
    }


def _unit(name: str) -> str:
    """The unit of `name` among the metrics, else of its first word; what has
    neither is a distance.
    """
    for metric in (f"quality/{name}", f"quality/{name.partition('_')[0]}"):
        if metric in METRICS:
            return METRICS[metric].unit
    return METRICS[FID].unit


def _add_to(recipe: Recipe, folder: RunFolder, quality: dict[str, Any]) -> None:
    """Merge a report of quality into the evaluation's, if that exists."""
    folder.update_report(recipe, lambda report: with_distances(report, quality))
