"""Evaluation of a trained run: likelihood · quality · speed → report.json.

val/bits_per_dim               of the raw data, on held-out images (`exact`, a `bound` with its
                               steps, or an `estimate`); absent where the model has no likelihood
val/bits_per_dim_error         of an estimate: the change of its mean when the steps of its
                               integration are doubled
val/bits_per_dim_at_level      the same at a resolution of Δ = one grey level: the probability of
                               a pixel's level (its centre ± Δ/2). Bits/dim rewards a density that
                               fills a level's box evenly, as uniform dequantisation does; this
                               metric takes the mass in the box alone. `_at_resolution` is the
                               same of x ± Δ/2 at a stated Δ
val/bits_per_dim_median        the same of the median held-out image
val/bits_per_dim_insured       the same with each conditional mixed with 0.1 % of a broad density,
                               so that a few pixels cannot decide it (see `insurance.py`)
quality/fd_digits, …           generated against the reference, which is the training images of
                               digits and the held-out images of Fashion-MNIST; `_floor` is the
                               other part against it, as many as were generated, or all; `_codec`
                               is the reference, encoded and decoded by an autoencoder
quality/…_few                  the same of as many generated images as the floor has, for
                               comparison with it: of those distances that depend on their number
speed/…, cost/…                measured in a pass of its own, alone on the machine

Beside the report lies `bits.npz`: `bits` [n] and `insured` [n], bits/dim of each held-out image.

The report's `noise` holds the half-width over images of each metric that is a function of a set of
images (see `uncertainty.py`).
"""

from __future__ import annotations

import math
import os
import statistics
import time
import weakref
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..config.build import Experiment, build, prepare_experiment
from ..config.schema import Component
from ..config.sections import Machine, Recipe
from ..data.latent_cache import held_out_fingerprint
from ..data.sources import Source
from ..errors import ConfigError
from ..files.atomic import atomic_draft
from ..files.locks import speed_lock
from ..hardware.device import configure_cpu, device_of
from ..hardware.memory import oom_guard
from ..hardware.precision import autocast_to, matmul_flops
from ..hardware.profiling import flops_of, seconds_to_run
from ..metrics import BITS, FEW, INSURED, MEDIAN, METRICS, distance_of
from ..model.noise import Noise, Stream
from ..output.text import say
from ..runs.folder import RunFolder, environment, git_state, read_sealed
from ..training.block_transforms import compiled_draws
from ..training.train import load_weights
from . import diagnostics
from .classifier_distance import (
    classifier_distances,
    features_of,
    frechet_distance,
    means_of_parts,
)
from .conditionals import most_varied_conditionals
from .dtypes import generation_dtype, likelihood_dtype
from .insurance import broad_density, insured_log_prob
from .speed import seconds_by_phase
from .uncertainty import half_width, half_widths_of_sets

KID = "over all images"  # what a report says of its estimator
SHOWN = 20  # training images that stand beside the samples in figures
_SPEED = "speed/images_per_second"


def load_trained(recipe: Recipe, folder: RunFolder, data: bool = False) -> Experiment:
    """Load a trained run for evaluation on the recipe's machine.

    Arguments:
        recipe: The run's recipe.
        folder: Its folder.
        data: Whether its data are loaded, too, as likelihoods need them.

    Raises:
        ConfigError: if weights, or data that are needed, are missing, damaged or do not fit.
    """
    if not folder.done:
        raise ConfigError(f"{folder.path}: has not finished training; train it to its end first")
    configure_cpu(recipe.machine)
    experiment = build(recipe if data else _without_cache(recipe, folder))
    load_weights(folder.weights, experiment)
    prepare_experiment(experiment, data)
    return on_device(experiment, recipe.machine)


def on_device(experiment: Experiment, machine: Machine) -> Experiment:
    """Move a trained codec and model, in place, to their device and into evaluation mode."""
    device = device_of(machine)
    experiment.codec.to(device).eval()
    experiment.model.to(device).eval()
    return experiment


def _without_cache(recipe: Recipe, folder: RunFolder) -> Recipe:
    """The recipe; of a run whose latent cache is gone, with the run's own account of it."""
    data = cast(Component, recipe.data)
    if (
        data.kind != "cache"
        or (recipe.workspace.path(data.arguments["path"]) / "cache.json").is_file()
    ):
        return recipe

    kept = (folder.path / "cache.json").is_file()
    return (
        replace(recipe, data=replace(data, arguments={"path": str(folder.path)}))
        if kept
        else recipe
    )


def evaluate_run(
    recipe: Recipe,
    folder: RunFolder,
    published: dict[str, Any] | None = None,
    trained: Experiment | None = None,
) -> dict[str, Any]:
    """Measure likelihood and quality, once for each evaluation signature, and write the report.

    Arguments:
        recipe: The run's recipe.
        folder: Its folder.
        published: Report of `quality/measure.py`, which is merged into this one.
        trained: The run's trained model and its data; None loads them.

    Raises:
        ConfigError: if the weights are missing, damaged or do not fit.
    """
    report = folder.report(recipe)
    if report:
        return report

    begun = time.perf_counter()
    experiment = trained or load_trained(recipe, folder, data=True)
    metrics, noise, diagnosis = _measure(recipe, experiment, folder)
    done = read_sealed(folder.path / "DONE")
    metrics |= {
        "cost/parameters": experiment.parameters,
        "time/train_seconds": done["seconds"],
        "time/evaluate_seconds": round(time.perf_counter() - begun, 1),
    }

    report = {
        "metrics": metrics,
        "units": _units(metrics),
        "noise": {name: half for name, half in noise.items() if math.isfinite(half)},
        **_settings(recipe, experiment),
        "diagnosis": diagnosis,
        "image_bits": folder.image_bits_digest(recipe),
        "training_signature": recipe.training_signature,
        "evaluation_signature": recipe.evaluation_signature,
        "seed": recipe.seed,
        "steps": done["steps"],
        "git": git_state(),
        "environment": environment(),
    }
    if published:
        report = with_distances(report, published)
    folder.write_report(recipe, report)
    return report


def _measure(
    recipe: Recipe, experiment: Experiment, folder: RunFolder
) -> tuple[dict[str, float], dict[str, float], dict[str, Any]]:
    """Measure a trained run, and write its samples and conditionals.

    Returns:
        metrics, their half-widths over images, and the diagnosis.
    """
    evaluation = folder.evaluation(recipe)
    folder.progress("likelihood")
    images = metrics_by_image(recipe, experiment)
    if images:
        folder.write_image_bits(recipe, images[BITS].numpy(), images[INSURED].numpy())
    metrics = mean_metrics(images)
    noise = {name: half_width(values) for name, values in images.items()}

    generated = None
    if experiment.source.levels:
        folder.progress("generate")
    if experiment.source.classifier:
        values, halves, generated = evaluate_samples(
            recipe, experiment, evaluation / "samples", folder
        )
        metrics |= values
        noise |= halves
    elif experiment.source.levels:  # other images are compared by arinar evaluate --quality
        save_sample_grid(recipe, experiment, evaluation / "samples")

    bits = images.get("val/bits_per_dim")
    held_out = diagnostics.held_out(recipe, experiment)
    for values, halves in (
        diagnostics.memorisation(recipe, experiment, generated, bits),
        diagnostics.components(held_out),
    ):
        metrics |= values
        noise |= halves

    evaluation.mkdir(parents=True, exist_ok=True)
    densities = most_varied_conditionals(recipe, experiment)
    with atomic_draft(evaluation / "beliefs.npz", durable=True) as draft:
        np.savez_compressed(draft, **densities)  # type: ignore[arg-type]

    diagnosis = diagnostics.bits_by_place(held_out) | diagnostics.calibration(held_out)
    return metrics, noise, diagnosis


def _units(metrics: dict[str, float]) -> dict[str, str]:
    return {name: METRICS[name].unit for name in metrics}


def _settings(recipe: Recipe, experiment: Experiment) -> dict[str, Any]:
    """Return the report's settings of likelihood and quality."""
    source = experiment.source
    (reference, _), (other, _) = compared_parts(source)
    return {
        "likelihood": {
            "kind": experiment.model.likelihood,
            "unit": experiment.codec.unit,
            "steps": _bound_steps(recipe, experiment),
            "images": len(source.held_out[0]),
            **({"held_out": held_out_fingerprint(source)[:8]} if source.pictures else {}),
            **({} if recipe.validation is None else {"part": f"validation: {recipe.validation}"}),
            "draws": recipe.evaluation.draws,
            "resolution": recipe.evaluation.resolution,
            "precision": likelihood_dtype(recipe),
        },
        "quality": {
            "images": recipe.evaluation.images,
            "reference": len(reference),
            "part": {"train": "training", "held_out": "held-out"}[source.reference],
            "floor_images": min(len(other), recipe.evaluation.images),
            "kid": KID,
            "precision": generation_dtype(recipe, experiment),
        },
    }


def compared_parts(source: Source) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images and labels of the part that generated images are compared with, and of the other."""
    parts = (source.train, source.held_out)
    return parts if source.reference == "train" else parts[::-1]


def with_distances(report: dict[str, Any], quality: dict[str, Any]) -> dict[str, Any]:
    """Merge a report of `quality/measure.py` into that of an evaluation."""
    names = ("images", "reference", "reference_sha256", "extractor", "ranges", "floor_images")
    return report | {
        "metrics": report["metrics"] | quality["metrics"],
        "units": report["units"] | quality["units"],
        "fidelity": {name: quality[name] for name in names if name in quality},
    }


def _bound_steps(recipe: Recipe, experiment: Experiment) -> int | None:
    """Return the steps on which the likelihood's bound depends; None for a fixed order."""
    outer = experiment.model.outer
    return None if outer.likelihood == "exact" else recipe.sampler.steps or outer.steps


def likelihood(recipe: Recipe, experiment: Experiment) -> dict[str, float]:
    """Measure bits/dim on held-out data, also at a resolution, and the gap to the true density.

    Metrics that the model or the data do not have are absent.
    """
    return mean_metrics(metrics_by_image(recipe, experiment))


def mean_metrics(images: dict[str, Tensor]) -> dict[str, float]:
    """Average `metrics_by_image` over images; bits/dim get a median, the gap a standard error.

    An estimate's error is the absolute value of its mean.
    """
    values = {name: bits.mean().item() for name, bits in images.items()}
    if "val/bits_per_dim_error" in values:
        values["val/bits_per_dim_error"] = abs(values["val/bits_per_dim_error"])
    if BITS in images:
        values[MEDIAN] = images[BITS].quantile(0.5).item()
    gap = images.get("val/gap_bits_per_dim")
    if gap is not None:
        values["val/gap_standard_error"] = (gap.std() / len(gap) ** 0.5).item()
    return values


@torch.no_grad()
def metrics_by_image(recipe: Recipe, experiment: Experiment) -> dict[str, Tensor]:
    """Measure each likelihood metric of every held-out image, in bits/dim: {name: [n]}.

    A value is the mean over the image's draws. Draws are no images of their own: where the model's
    order is fixed and the data are not dequantised, they are the same number.
    """
    if experiment.model.likelihood == "none":
        return {}

    source = experiment.source
    codec = experiment.codec
    model = experiment.model
    device = experiment.device
    n = len(source.held_out[0])
    draws = recipe.evaluation.draws
    delta = recipe.evaluation.resolution
    box_name = "val/bits_per_dim_at_" + ("level" if delta is None else "resolution")
    broad = broad_density(experiment, recipe.evaluation.batch)
    bits: dict[str, Tensor] = {}

    def add(name: str, i: Tensor, nats: Tensor) -> None:
        share = nats.cpu().double() / (-draws * codec.dims * math.log(2))
        bits.setdefault(name, torch.zeros(n, dtype=torch.float64))[i] += share

    def measure(i: Tensor, draw: int, limit: int | None = None) -> None:
        i = i[:limit]
        image = source.held_out[0][i].to(device)
        y = source.held_out[1][i].to(device)
        noise = Noise.of(i.to(device), "held out").at(draw)
        x, log_det = codec.encode(image, noise.at(Stream.CODEC))
        walk = (noise.at(Stream.MODEL), recipe.sampler.steps)
        terms = model.log_prob_terms(x, y, *walk).double()
        log_prob = terms.sum((1, 2)) + log_det
        add(BITS, i, log_prob)
        add(INSURED, i, insured_log_prob(terms, x, broad) + log_det)
        if model.inner.likelihood == "estimate":
            finer = model.log_prob(x, y, *walk, refined=True) + log_det
            add("val/bits_per_dim_error", i, finer.double() - log_prob.double())

        box = codec.box(image) if delta is None else codec.around(x, delta)
        if box is not None and "pit" in model.inner.capabilities:
            add(box_name, i, model.log_interval(x, y, *box, *walk))
        truth = source.log_prob(image, y)
        if truth is not None:
            add("val/gap_bits_per_dim", i, log_prob - truth)

    batches = torch.arange(n).split(recipe.evaluation.batch)
    for draw, i in product(range(draws), batches):
        with (
            oom_guard("evaluation.batch", len(i), partial(measure, i, draw)),
            autocast_to(likelihood_dtype(recipe), device),
        ):
            measure(i, draw)
    return bits


@torch.no_grad()
def generate_images(
    recipe: Recipe, experiment: Experiment, y: Tensor, seeds: Tensor, key: str = "evaluation.batch"
) -> tuple[Tensor, Tensor]:
    """Generate and decode images of labels y [B] and seeds [B], and count truncated conditionals.

    Raises:
        OutOfMemory: if they do not fit, naming the `key` of their number and one that would.
    """

    def draw(n: int) -> tuple[Tensor, Tensor]:
        noise = Noise.of(seeds[:n].to(experiment.device), "sample")
        with (
            autocast_to(generation_dtype(recipe, experiment), experiment.device),
            compiled_draws(recipe.machine, experiment.device),
        ):
            x, truncated = experiment.model.generate(
                y[:n].to(experiment.device), noise, recipe.sampler
            )

        return experiment.codec.decode(x).cpu(), truncated.cpu()

    with oom_guard(key, len(y), draw):
        return draw(len(y))


def evaluate_samples(
    recipe: Recipe, experiment: Experiment, samples: Path, folder: RunFolder
) -> tuple[dict[str, float], dict[str, float], Tensor]:
    """Generate images with the labels of the training images, compare the two, and save them.

    Returns:
        the metrics, their half-widths over images, and the images [n, …].
    """
    e = recipe.evaluation
    source = experiment.source
    (reference, labels), (other, other_labels) = compared_parts(source)
    y = labels[torch.arange(e.images) % len(labels)]

    images = []
    truncated = []
    for i in torch.arange(e.images).split(e.batch):
        batch, counts = generate_images(recipe, experiment, y[i], e.seed + i)
        images.append(batch)
        truncated.append(counts)
        folder.progress("generate", int(i[-1]) + 1, e.images)

    generated = torch.cat(images)
    samples.mkdir(parents=True, exist_ok=True)
    with atomic_draft(samples / "images.npy", durable=True) as draft:
        np.save(draft, generated.numpy())
    save_grid(generated, y, source.levels, source.classes, samples / "grid.png")
    shown = y[:SHOWN]
    with atomic_draft(samples / "real.npz", durable=True) as draft:
        np.savez_compressed(draft, images=source.examples(shown).numpy(), labels=shown.numpy())

    classifier = cast(str, source.classifier)
    values, halves = _compare(generated, y, reference, classifier, "quality/{}")
    other = other[: e.images]
    floor, floor_halves = _compare(
        other, other_labels[: e.images], reference, classifier, "quality/{}_floor"
    )
    values |= floor
    halves |= floor_halves
    if len(other) < len(generated):
        means = means_of_parts(generated, reference, len(other), classifier)
        for name, mean in means.items():
            values[f"quality/{name}{FEW}"] = mean
    if experiment.codec.unit == "latent":
        restored = encoded_and_decoded(experiment, reference)
        values[f"{distance_of(classifier)}_codec"] = frechet_distance(
            features_of(restored, classifier), features_of(reference, classifier)
        )
    share = torch.cat(truncated).double() / (experiment.codec.tokens * experiment.codec.features)
    values["quality/truncated_share"] = share.mean().item()
    halves["quality/truncated_share"] = half_width(share)

    return values, halves, generated


@torch.no_grad()
def encoded_and_decoded(experiment: Experiment, images: Tensor) -> Tensor:
    """Encode images [n, …] by the codec, and decode them."""
    parts = []
    for i in torch.arange(len(images)).split(256):
        noise = Noise.of(i.to(experiment.device), "codec")
        x, _ = experiment.codec.encode(images[i].to(experiment.device), noise)
        parts.append(experiment.codec.decode(x).cpu())
    return torch.cat(parts)


def _compare(
    images: Tensor, y: Tensor, reference: Tensor, classifier: str, name: str
) -> tuple[dict[str, float], dict[str, float]]:
    """Return distances of images and their half-widths; `name` is the pattern of their names."""
    values = classifier_distances(images, reference, classifier)
    halves = half_widths_of_sets(images, y, reference, classifier)
    return (
        {name.format(key): value for key, value in values.items()},
        {name.format(key): half for key, half in halves.items()},
    )


def save_sample_grid(
    recipe: Recipe, experiment: Experiment, samples: Path, classes: int = 8, columns: int = 8
) -> None:
    """Save a grid of the first seeds' images, with a row for each of some classes."""
    e = recipe.evaluation
    y = torch.arange(min(classes, experiment.source.classes)).repeat_interleave(columns)

    parts = []
    for i in torch.arange(min(len(y), e.images)).split(e.batch):
        batch, _ = generate_images(recipe, experiment, y[i], e.seed + i)
        parts.append(batch)
    images = torch.cat(parts)

    samples.mkdir(parents=True, exist_ok=True)
    save_grid(images, y[: len(images)], experiment.source.levels, classes, samples / "grid.png")


def save_grid(
    images: Tensor, y: Tensor, levels: int, classes: int, path: Path, columns: int = 12
) -> None:
    """Save a PNG with a row for each of up to 20 classes; grey images are drawn dark on light."""
    from torchvision.utils import make_grid, save_image

    rows = [images[y == c][:columns] for c in range(min(classes, 20))]
    width = min(len(row) for row in rows)
    shown = torch.cat([row[:width] for row in rows])
    if width == 0:  # too few images to show every class
        shown = images[:96]
        width = min(12, len(images))
    tiles = shown.float() / (levels - 1)
    if tiles.shape[1] == 1:
        tiles = 1 - tiles

    grid = make_grid(tiles, nrow=width, padding=1, pad_value=0.8)
    zoom = max(1, 32 // tiles.shape[-1])
    picture = grid.repeat_interleave(zoom, -1).repeat_interleave(zoom, -2)
    with atomic_draft(path) as draft:
        save_image(picture, draft)


def measure_speed(
    recipe: Recipe, folder: RunFolder, trained: Experiment | None = None
) -> dict[str, Any]:
    """Time generation alone on the machine, and add the medians after a warm-up to the report.

    A speed that was measured under other settings of the machine is replaced.

    Arguments:
        recipe: The run's recipe.
        folder: Its folder.
        trained: The run's trained model; None loads it.

    Raises:
        ConfigError: if the weights are missing, damaged or do not fit.
    """
    report = folder.report(recipe)
    if is_timed(report, recipe.machine):
        return report
    with speed_lock():
        report = folder.report(recipe)
        if is_timed(report, recipe.machine):
            return report
        if _SPEED in report["metrics"]:
            say(
                f"{folder.path}: the speed was measured under other settings of machine; "
                "measured anew"
            )
        experiment = trained or load_trained(recipe, folder)
        timings = _time_all(recipe, experiment)

    values = {
        "speed/images_per_second": statistics.median(timings["images_per_second"]),
        "speed/latency_ms_b1": statistics.median(timings["latency_ms_b1"]),
        "cost/peak_memory_gb": peak_memory(recipe, experiment) / 1e9,
        "cost/gflops_per_image": count_flops(recipe, experiment) / 1e9,
    }
    memory = "tensors alive, weights included"
    if experiment.device.type == "cuda":
        memory = "device allocations"
    speed = timings | {
        "device": environment()["device"],
        "device_type": experiment.device.type,
        "threads": recipe.machine.threads or torch.get_num_threads(),
        "compile": recipe.machine.compile,
        "precision": generation_dtype(recipe, experiment),
        "load_average": os.getloadavg()[0],
        "memory": memory,
    }

    def with_speed(report: dict[str, Any]) -> dict[str, Any]:
        return report | {
            "metrics": report["metrics"] | values,
            "units": report["units"] | _units(values),
            "speed": speed,
        }

    return folder.update_report(recipe, with_speed)


def is_timed(report: dict[str, Any], machine: Machine) -> bool:
    """Whether a report holds the speed under these settings of the machine."""
    if _SPEED not in report.get("metrics", {}):
        return False

    speed = report["speed"]
    kinds = {"cpu": "cpu", "gpu": "cuda", "auto": speed["device_type"]}
    return (
        machine.threads in (0, speed["threads"])
        and machine.compile == speed["compile"]
        and kinds[machine.accelerator] == speed["device_type"]
    )


def _time_all(recipe: Recipe, experiment: Experiment) -> dict[str, Any]:
    """Time batches, single images, phases, and a matrix product before and after them."""
    e = recipe.evaluation
    before = matmul_flops(experiment.device, "float32")
    batches = np.array(_time(recipe, experiment, e.speed_batch, e.speed_repeats))
    images = np.array(_time(recipe, experiment, 1, e.speed_repeats))
    phases = seconds_by_phase(recipe, experiment, min(3, e.speed_repeats))
    after = matmul_flops(experiment.device, "float32")

    return {
        "batch": e.speed_batch,
        "repeats": e.speed_repeats,
        "images_per_second": (e.speed_batch / batches).tolist(),
        "latency_ms_b1": (1000 * images).tolist(),
        "seconds_by_part": phases,
        # of a matrix product at that time, which tells a slow model from a slow machine
        "gflops": min(before, after) / 1e9,
    }


def _time(recipe: Recipe, experiment: Experiment, batch: int, repeats: int) -> list[float]:
    """Measure the seconds of each repeat, after one warm-up."""
    seeds = torch.arange(batch)
    y = seeds % experiment.source.classes

    def generate() -> None:
        generate_images(recipe, experiment, y, seeds, "evaluation.speed_batch")

    seconds = [seconds_to_run(generate, experiment.device) for _ in range(repeats + 1)]
    return seconds[1:]


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of living tensors that operations make inside; `peak` is their maximum.

    The resident set of a process is no measure on the CPU, where freed memory is kept.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self.alive: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {t.untyped_storage() for t in _with_storage((args, kwargs))}
        for tensor in _with_storage(result):
            storage = tensor.untyped_storage()
            if storage not in inputs and storage not in self.alive:
                self.alive.add(storage)
                self._add(storage, storage.nbytes())

        # weights in the layout of `model/packed_linear.py` have no storage
        for packed in tree_leaves(result):
            if isinstance(packed, Tensor) and packed.is_mkldnn:
                self._add(packed, packed.numel() * packed.element_size())

        self.peak = max(self.peak, self.now)
        return result

    def _add(self, owner: Any, size: int) -> None:
        """Count bytes until their owner is freed."""
        self.now += size
        weakref.finalize(owner, self._remove, size)

    def _remove(self, size: int) -> None:
        self.now -= size


def _with_storage(content: Any) -> list[Tensor]:
    return [t for t in tree_leaves(content) if isinstance(t, Tensor) and not t.is_mkldnn]


def peak_memory(recipe: Recipe, experiment: Experiment) -> int:
    """Measure the highest memory of generating one batch, weights included, in bytes.

    On a GPU it is the allocator's, on the CPU that of living tensors.
    """
    seeds = torch.arange(recipe.evaluation.speed_batch)
    y = seeds % experiment.source.classes
    if experiment.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        generate_images(recipe, experiment, y, seeds)
        return torch.cuda.max_memory_allocated()

    with PeakMemory() as memory:
        generate_images(recipe, experiment, y, seeds)
    weights = 0
    for module in (*experiment.codec.networks, experiment.model):
        weights += sum(tensor.nbytes for tensor in module.state_dict().values())
    return memory.peak + weights


def count_flops(recipe: Recipe, experiment: Experiment) -> float:
    """Count the floating-point operations of one image (matrix products and attention)."""
    first = torch.zeros(1, dtype=torch.long)
    return flops_of(lambda: generate_images(recipe, experiment, first, first))
