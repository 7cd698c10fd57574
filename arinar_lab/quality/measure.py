"""Sample quality of a run by the published protocol:
`arinar evaluate RUN --quality --reference FILE`.

Image i is drawn from seed i, with the label i modulo the classes: 50,000 images are 50 of each of
ImageNet's. They are read by the extractor as they are drawn and not kept; their features are, in
blocks, so that what is stopped goes on and several processes share the work. Over R disjoint ranges
of seeds a distance has a mean and an interval (95 %, Student's t).

The codec's own floor stands beside the distance: the same of held-out images that passed the codec
and back (or whose moments, in a latent cache, pass its decoder), where there are enough of them.

    evaluations/<evaluation signature>/quality-<reference and extractor>.json
    and into report.json, where there is one

A recipe whose `evaluation.reference` names a reference is measured so whenever it is evaluated
(`evaluate_with_reference`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from ..config.build import Experiment
from ..config.sections import Recipe
from ..errors import ConfigError, located
from ..evaluation.dtypes import generation_dtype
from ..evaluation.evaluate import evaluate_run, generate_images, load_trained, with_distances
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
    colour_bytes,
    distances,
    extractor_of_reference,
    frechet,
    statistics,
)
from .extractors import Extractor
from .reference import compute_in_shards, concatenate_shards

NamedReference = tuple[Reference, Extractor]


def evaluate_with_reference(
    recipe: Recipe,
    folder: RunFolder,
    trained: Experiment | None = None,
    reference: NamedReference | None = None,
) -> dict[str, Any]:
    """The report of `evaluate_run`, and in it the distance to the recipe's reference,
    where that names one.

    The distance is measured first, so that a report that exists is complete.

    Arguments:
        trained: the run's trained model and its data; reference: what `named_reference`
            gives; None reads them.
    """
    report = folder.report(recipe)
    if report:
        return report
    reference = reference or named_reference(recipe)
    if reference is None:
        return evaluate_run(recipe, folder, None, trained)

    trained = trained or load_trained(recipe, folder, data=True)
    distance = measure_quality(
        recipe, folder, *reference, 1, lambda done, n: folder.progress("quality", done, n), trained
    )
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
        _fitting(recipe, reference, extractor)

    return reference, extractor


def _fitting(recipe: Recipe, reference: Reference, extractor: Extractor) -> None:
    """Refuse too few images, and a reference of other dimensions."""
    check_image_count(recipe.evaluation.images, extractor.dims)
    reference.check(extractor.dims)


def measure_quality(
    recipe: Recipe,
    folder: RunFolder,
    reference: Reference,
    extractor: Extractor,
    ranges: int,
    told: ProgressCallback,
    trained: Experiment | None = None,
) -> dict[str, Any]:
    """Measure quality against a reference, once for each evaluation signature, reference, extractor
    and number of ranges.

    Arguments:
        trained: the run's trained model; None loads it.

    Returns:
        the report: metrics, units, and what they depend on.

    Raises:
        ConfigError: if the images are too few, the reference has other dimensions, or the
            run models no images.
    """
    where, sums = folder.evaluation(recipe), file_digest(reference.path)
    name = hashlib.sha256(f"{sums} {extractor.signature} {ranges}".encode()).hexdigest()[:8]

    file = where / f"quality-{name}.json"
    if report := read_json(file):
        _add_to(recipe, folder, report)
        return report

    _fitting(recipe, reference, extractor)
    experiment = trained or load_trained(recipe, folder)
    if not experiment.source.levels:
        raise ConfigError(f"{folder.path}: models tokens, which have no picture")
    parts = where / f"features-{hashlib.sha256(extractor.signature.encode()).hexdigest()[:8]}"
    precision = generation_dtype(recipe, experiment)
    drawn = parts if precision == "float32" else parts.with_name(f"{parts.name}-{precision}")
    found = [_drawn(recipe, experiment, extractor, drawn, k, told) for k in range(ranges)]
    each = [distances(some, reference, extractor.distance) for some in found]
    floor, n = _floor(recipe, experiment, reference, extractor, parts, told)
    report = _report(file.name, recipe, _summary(each) | floor, each, reference, extractor)
    report |= {"reference_sha256": sums, "floor_images": n, "precision": precision}
    write_json(file, report)
    _add_to(recipe, folder, report)

    return report


def _drawn(
    recipe: Recipe,
    experiment: Experiment,
    extractor: Extractor,
    parts: Path,
    k: int,
    told: ProgressCallback,
) -> dict[str, Tensor]:
    """Features and logits of the images of the k-th range of seeds."""
    n, first, classes = recipe.evaluation.images, recipe.evaluation.seed, experiment.source.classes

    def found(i: Tensor) -> dict[str, Tensor]:
        images, _ = generate_images(recipe, experiment, i % classes, first + k * n + i)
        return extractor(colour_bytes(images, experiment.source.levels))

    return concatenate_shards(
        compute_in_shards(parts / f"range_{k}-of-{n}", n, found, recipe.evaluation.batch, told)
    )


@torch.no_grad()
def _floor(
    recipe: Recipe,
    experiment: Experiment,
    reference: Reference,
    extractor: Extractor,
    parts: Path,
    told: ProgressCallback,
) -> tuple[dict[str, float], int]:
    """The distance of held-out images that passed the codec, and their number; no distance
    where they are too few.
    """
    source, codec = experiment.source, experiment.codec
    try:
        n = min(len(source.held_out[0]), recipe.evaluation.images)
    except ValueError:  # a published checkpoint is measured without the data it was trained on
        return {}, 0
    if n <= len(reference.stats["mu"]):
        return {}, n

    def found(i: Tensor) -> dict[str, Tensor]:
        x, _ = codec.encode(
            source.held_out[0][i].to(experiment.device), Noise.of(i.to(experiment.device), "floor")
        )
        return extractor(colour_bytes(codec.decode(x).cpu(), source.levels))

    passed = concatenate_shards(
        compute_in_shards(parts / f"floor-of-{n}", n, found, recipe.evaluation.batch, told)
    )
    return {
        f"{extractor.distance}_floor": frechet(statistics(passed["features"]), reference.stats)
    }, n


def _summary(each: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each value over the ranges, and the half width of the distance's interval
    where there are several.
    """
    values = {name: float(np.mean([some[name] for some in each])) for name in each[0]}
    if (r := len(each)) > 1:
        name = next(iter(values))
        spread = float(np.std([some[name] for some in each], ddof=1))
        values[f"{name}_interval"] = float(student.ppf(0.975, r - 1)) * spread / r**0.5
    return values


def _report(
    file: str,
    recipe: Recipe,
    values: dict[str, float],
    each: list[dict[str, float]],
    reference: Reference,
    extractor: Extractor,
) -> dict[str, Any]:
    e, kept = recipe.evaluation, min(KEPT_FEATURES, recipe.evaluation.images)
    compared = (
        {}
        if reference.features is None
        else {"kid_subset": min(KID_SUBSET, kept, len(reference.features))}
    )

    return {
        "file": file,
        "metrics": {f"quality/{name}": value for name, value in values.items()},
        "units": {
            f"quality/{name}": _unit(name).format(extractor=extractor.signature) for name in values
        },
        "ranges": each,
        "images": e.images,
        "seed": e.seed,
        "reference": {"file": reference.path.name, "images": reference.images, **compared},
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
    for known in (f"quality/{name}", f"quality/{name.partition('_')[0]}"):
        if known in METRICS:
            return METRICS[known].unit
    return METRICS[FID].unit


def _add_to(recipe: Recipe, folder: RunFolder, compared: dict[str, Any]) -> None:
    """Into the evaluation's report, where there is one."""
    folder.update_report(recipe, lambda report: with_distances(report, compared))
