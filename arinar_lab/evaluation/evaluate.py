"""Evaluation of a trained run: likelihood · quality · speed → report.json.

val/bits_per_dim               of the raw data, on held-out images (`exact`, a `bound` with its
                               steps, or an `estimate`); absent where the model has no likelihood
val/bits_per_dim_error         of an estimate: how much its mean moves when the steps of its
                               integration are doubled
val/bits_per_dim_at_level      the same at a resolution of Δ = one grey level: the probability of
                               the level that a pixel has (its centre ± Δ/2). A density is rewarded
                               for filling a level's box evenly, as uniform dequantisation does;
                               this reading asks only for the mass in it. `_at_resolution` is the
                               same of x ± Δ/2 at a stated Δ
quality/fd_digits, …           generated against training images; `_floor` is held-out against
                               training images, so many of them as were generated, or all
quality/fd_digits_few          the same distance of as many generated images as that floor has: the
                               one to set against it
speed/…, cost/…                measured in a pass of its own, alone on the machine

The report's `noise` holds, for what is a function of a set of images, the half-width over images
(see `uncertainty.py`).
"""

from __future__ import annotations

import math
import os
import statistics
import time
import weakref
from dataclasses import replace
from functools import partial
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
from ..errors import ConfigError
from ..files.atomic import atomic_draft
from ..files.locks import speed_lock
from ..hardware.device import configure_cpu, device_of
from ..hardware.memory import oom_guard
from ..hardware.precision import autocast_to, matmul_flops
from ..hardware.profiling import flops_of
from ..metrics import METRICS
from ..model.noise import Noise, Stream
from ..output.text import say
from ..runs.folder import RunFolder, environment, git_state, read_sealed
from ..training.block_transforms import compiled_draws
from ..training.train import load_weights
from . import diagnostics
from .classifier_distance import digits_distances, distance_of_parts
from .conditionals import most_varied_conditionals
from .dtypes import generation_dtype, likelihood_dtype
from .speed import seconds_by_phase
from .uncertainty import half_width, half_widths_of_sets

KID = "over all images"  # what a report says of its estimator
_SPEED = "speed/images_per_second"


def load_trained(recipe: Recipe, folder: RunFolder, data: bool = False) -> Experiment:
    """A trained run, ready to be sampled, on the machine that the recipe names.

    Arguments:
        data: whether its data are needed, too, as they are for likelihoods.

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
    """Measure likelihood and quality, once for each evaluation signature; the report is
    written and returned.

    Arguments:
        published: what `quality/measure.py` reports, which becomes a part of it.
        trained: the run's trained model and its data; None loads them.

    Raises:
        ConfigError: if the weights are missing, damaged or do not fit.
    """
    report = folder.report(recipe)
    if report:
        return report

    begun = time.perf_counter()
    experiment = trained or load_trained(recipe, folder, data=True)
    where = folder.evaluation(recipe)
    folder.progress("likelihood")
    images, generated = metrics_by_image(recipe, experiment), None
    metrics, noise = (
        mean_metrics(images),
        {name: half_width(values) for name, values in images.items()},
    )
    if experiment.source.digits:
        folder.progress("generate")
        compared, spread, generated = evaluate_samples(
            recipe, experiment, where / "samples", folder
        )
        metrics, noise = metrics | compared, noise | spread
    elif experiment.source.levels:  # other images are compared by arinar evaluate --quality
        folder.progress("generate")
        save_sample_grid(recipe, experiment, where / "samples")

    memory, spread = diagnostics.memorisation(
        recipe, experiment, generated, images.get("val/bits_per_dim")
    )
    metrics, noise = metrics | memory, noise | spread
    seen = diagnostics.held_out(recipe, experiment)
    used, spread = diagnostics.components(seen)
    metrics, noise = metrics | used, noise | spread
    where.mkdir(parents=True, exist_ok=True)
    densities = most_varied_conditionals(recipe, experiment)
    with atomic_draft(where / "beliefs.npz", durable=True) as draft:
        np.savez_compressed(draft, **densities)  # type: ignore[arg-type]
    done = read_sealed(folder.path / "DONE")
    metrics |= {
        "cost/parameters": experiment.parameters,
        "time/train_seconds": done["seconds"],
        "time/evaluate_seconds": round(time.perf_counter() - begun, 1),
    }
    report = {
        "metrics": metrics,
        "units": {name: METRICS[name].unit for name in metrics},
        "noise": {name: half for name, half in noise.items() if math.isfinite(half)},
        "likelihood": {
            "kind": experiment.model.likelihood,
            "unit": experiment.codec.unit,
            "steps": _steps_of_the_bound(recipe, experiment),
            "images": len(experiment.source.held_out[0]),
            "draws": recipe.evaluation.draws,
            "resolution": recipe.evaluation.resolution,
            "precision": likelihood_dtype(recipe),
        },
        "quality": {
            "images": recipe.evaluation.images,
            "reference": len(experiment.source.train[0]),
            "floor_images": min(len(experiment.source.held_out[0]), recipe.evaluation.images),
            "kid": KID,
            "precision": generation_dtype(recipe, experiment),
        },
        "diagnosis": diagnostics.bits_by_place(seen) | diagnostics.calibration(seen),
        "training_signature": recipe.training_signature,
        "evaluation_signature": recipe.evaluation_signature,
        "seed": recipe.seed,
        "steps": done["steps"],
        "git": git_state(),
        "environment": environment(),
    }
    report = with_distances(report, published) if published else report
    folder.write_report(recipe, report)

    return report


def with_distances(report: dict[str, Any], compared: dict[str, Any]) -> dict[str, Any]:
    """A report with what `quality/measure.py` has found, too."""
    parts = {part: report[part] | compared[part] for part in ("metrics", "units")}
    kept = ("images", "reference", "reference_sha256", "extractor", "ranges", "floor_images")
    return (
        report | parts | {"fidelity": {name: compared[name] for name in kept if name in compared}}
    )


def _steps_of_the_bound(recipe: Recipe, experiment: Experiment) -> int | None:
    """Of the outer model's walk, whose number the likelihood depends on; None for a fixed order."""
    outer = experiment.model.outer
    return None if outer.likelihood == "exact" else recipe.sampler.steps or outer.steps


def likelihood(recipe: Recipe, experiment: Experiment) -> dict[str, float]:
    """Bits/dim on held-out data, at both readings where a grey level has a meaning, and the gap
    to the truth if known.

    Nothing, where the model has no likelihood.
    """
    return mean_metrics(metrics_by_image(recipe, experiment))


def mean_metrics(images: dict[str, Tensor]) -> dict[str, float]:
    """The readings of `metrics_by_image`, over images. An estimate's error is the size of its mean;
    the gap has its standard error.
    """
    values = {name: bits.mean().item() for name, bits in images.items()}
    if "val/bits_per_dim_error" in values:
        values["val/bits_per_dim_error"] = abs(values["val/bits_per_dim_error"])
    if (gap := images.get("val/gap_bits_per_dim")) is not None:
        values["val/gap_standard_error"] = (gap.std() / len(gap) ** 0.5).item()
    return values


@torch.no_grad()
def metrics_by_image(recipe: Recipe, experiment: Experiment) -> dict[str, Tensor]:
    """Each reading of the likelihood, in bits/dim, of every held-out image: the mean
    over its draws, [n].

    Draws of one image are no images of their own: where the model's order is fixed and the data are
    not dequantised, they are the same number.
    """
    if experiment.model.likelihood == "none":
        return {}
    source, codec, model, device = (
        experiment.source,
        experiment.codec,
        experiment.model,
        experiment.device,
    )
    draws, delta, precision = (
        recipe.evaluation.draws,
        recipe.evaluation.resolution,
        likelihood_dtype(recipe),
    )
    reading = "val/bits_per_dim_at_" + ("level" if delta is None else "resolution")
    bits: dict[str, Tensor] = {}

    def add(name: str, i: Tensor, nats: Tensor) -> None:
        share = nats.cpu().double() / (-draws * codec.dims * math.log(2))
        bits.setdefault(name, torch.zeros(len(source.held_out[0]), dtype=torch.float64))[i] += share

    def measure(i: Tensor, draw: int, most: int | None = None) -> None:
        i = i[:most]
        image, y = (part[i].to(device) for part in source.held_out)
        noise = Noise.of(i.to(device), "held out").at(draw)
        x, log_det = codec.encode(image, noise.at(Stream.CODEC))
        walk = (noise.at(Stream.MODEL), recipe.sampler.steps)
        log_prob = model.log_prob(x, y, *walk) + log_det
        add("val/bits_per_dim", i, log_prob)
        if model.inner.likelihood == "estimate":
            finer = model.log_prob(x, y, *walk, refined=True) + log_det
            add("val/bits_per_dim_error", i, finer.double() - log_prob.double())

        box = codec.box(image) if delta is None else codec.around(x, delta)
        if box is not None and "pit" in model.inner.capabilities:
            add(reading, i, model.log_interval(x, y, *box, *walk))
        truth = source.log_prob(image, y)
        if truth is not None:
            add("val/gap_bits_per_dim", i, log_prob - truth)

    for draw in range(draws):
        for i in torch.arange(len(source.held_out[0])).split(recipe.evaluation.batch):
            with (
                oom_guard("evaluation.batch", len(i), partial(measure, i, draw)),
                autocast_to(precision, device),
            ):
                measure(i, draw)
    return bits


@torch.no_grad()
def generate_images(
    recipe: Recipe, experiment: Experiment, y: Tensor, seeds: Tensor, key: str = "evaluation.batch"
) -> tuple[Tensor, Tensor]:
    """Images of labels y [B] and seeds [B], decoded, and the truncated conditionals of each.

    Raises:
        OutOfMemory: if so many do not fit, naming the `key` of their number and one that would.
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
    """Generate images with the labels of the training images and compare them to those;
    save them and a grid.

    Returns:
        the metrics, their half-widths over images, and the images [n, …].
    """
    source, e = experiment.source, recipe.evaluation
    y = source.train[1][torch.arange(e.images) % len(source.train[1])]

    images, truncated = [], []
    for i in torch.arange(e.images).split(e.batch):
        batch, cut = generate_images(recipe, experiment, y[i], e.seed + i)
        images.append(batch)
        truncated.append(cut)
        folder.progress("generate", int(i[-1]) + 1, e.images)

    generated = torch.cat(images)
    samples.mkdir(parents=True, exist_ok=True)
    with atomic_draft(samples / "images.npy", durable=True) as draft:
        np.save(draft, generated.numpy())
    save_grid(generated, y, source.levels, source.classes, samples / "grid.png")
    held_out, classes = (part[: e.images] for part in source.held_out)
    values, floor = (
        digits_distances(generated, source.train[0]),
        digits_distances(held_out, source.train[0]),
    )
    spread, other = (
        half_widths_of_sets(generated, y, source.train[0]),
        half_widths_of_sets(held_out, classes, source.train[0]),
    )
    values |= {f"{name}_floor": value for name, value in floor.items()}
    spread |= {f"{name}_floor": half for name, half in other.items()}

    if len(held_out) < len(generated):
        values["fd_digits_few"] = distance_of_parts(generated, source.train[0], len(held_out))
    share = torch.cat(truncated).double() / (experiment.codec.tokens * experiment.codec.features)
    values["truncated_share"], spread["truncated_share"] = share.mean().item(), half_width(share)
    named = (
        {f"quality/{name}": value for name, value in found.items()} for found in (values, spread)
    )

    return *named, generated  # type: ignore[return-value]


def save_sample_grid(
    recipe: Recipe, experiment: Experiment, samples: Path, classes: int = 8, columns: int = 8
) -> None:
    """Save a grid of the first seeds' images, a row for each of some classes."""
    e, y = (
        recipe.evaluation,
        torch.arange(min(classes, experiment.source.classes)).repeat_interleave(columns),
    )
    parts = [
        generate_images(recipe, experiment, y[i], e.seed + i)[0]
        for i in torch.arange(min(len(y), e.images)).split(e.batch)
    ]
    samples.mkdir(parents=True, exist_ok=True)
    images = torch.cat(parts)
    save_grid(images, y[: len(images)], experiment.source.levels, classes, samples / "grid.png")


def save_grid(
    images: Tensor, y: Tensor, levels: int, classes: int, path: Path, columns: int = 12
) -> None:
    """A PNG with a row for each class, up to 20. Small images are magnified; grey ones are
    drawn dark on light.
    """
    from torchvision.utils import make_grid, save_image

    rows = [images[y == c][:columns] for c in range(min(classes, 20))]
    width = min(len(row) for row in rows)
    shown = torch.cat([row[:width] for row in rows])
    if width == 0:  # too few images to show every class
        shown, width = images[:96], min(12, len(images))
    tiles = shown.float() / (levels - 1)
    grid = make_grid(
        1 - tiles if tiles.shape[1] == 1 else tiles, nrow=width, padding=1, pad_value=0.8
    )
    zoom = max(1, 32 // tiles.shape[-1])
    picture = grid.repeat_interleave(zoom, -1).repeat_interleave(zoom, -2)
    with atomic_draft(path) as draft:
        save_image(picture, draft)


def measure_speed(
    recipe: Recipe, folder: RunFolder, trained: Experiment | None = None
) -> dict[str, Any]:
    """Time generation alone on the machine, and add it to the report: medians after a warm-up,
    device synchronised.

    A speed that was measured under other settings of the machine is replaced.

    Arguments:
        trained: the run's trained model; None loads it.

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
        experiment, e = trained or load_trained(recipe, folder), recipe.evaluation
        before = matmul_flops(experiment.device, "float32")
        throughput = [
            e.speed_batch / s for s in _time(recipe, experiment, e.speed_batch, e.speed_repeats)
        ]
        latency = [1000 * s for s in _time(recipe, experiment, 1, e.speed_repeats)]
        parts = seconds_by_phase(recipe, experiment, min(3, e.speed_repeats))
        machine = min(before, matmul_flops(experiment.device, "float32"))
    values = {
        "speed/images_per_second": statistics.median(throughput),
        "speed/latency_ms_b1": statistics.median(latency),
        "cost/peak_memory_gb": peak_memory(recipe, experiment) / 1e9,
        "cost/gflops_per_image": count_flops(recipe, experiment) / 1e9,
    }
    about = {
        "batch": e.speed_batch,
        "repeats": e.speed_repeats,
        "images_per_second": throughput,
        "latency_ms_b1": latency,
        "seconds_by_part": parts,
        "device": environment()["device"],
        "device_type": experiment.device.type,
        "threads": recipe.machine.threads or torch.get_num_threads(),
        "compile": recipe.machine.compile,
        "precision": generation_dtype(recipe, experiment),
        "load_average": os.getloadavg()[0],
        # of a matrix product, then and there: what tells a slow model from a slow machine
        "gflops": machine / 1e9,
        "memory": "device allocations"
        if experiment.device.type == "cuda"
        else "tensors alive, weights included",
    }

    def with_speed(report: dict[str, Any]) -> dict[str, Any]:
        units = {name: METRICS[name].unit for name in values}
        return report | {
            "metrics": report["metrics"] | values,
            "units": report["units"] | units,
            "speed": about,
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


def _time(recipe: Recipe, experiment: Experiment, batch: int, repeats: int) -> list[float]:
    """Seconds of each repeat, after one warm-up."""
    y, seeds, seconds = torch.arange(batch) % experiment.source.classes, torch.arange(batch), []
    for _ in range(repeats + 1):
        if experiment.device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        generate_images(
            recipe, experiment, y, seeds, "evaluation.speed_batch"
        )  # ends with a copy to the host, which synchronises
        seconds.append(time.perf_counter() - begun)

    return seconds[1:]


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all tensors alive that operations made while it is on; `peak` is
    the most there were.

    The resident set of a process tells little on the CPU, where freed memory is kept for later.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self.alive: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {t.untyped_storage() for t in _with_storage((args, kwargs))}
        for tensor in _with_storage(result):
            storage = tensor.untyped_storage()
            if storage not in inputs and storage not in self.alive:
                self.alive.add(storage)
                self._made(storage, storage.nbytes())

        for packed in tree_leaves(
            result
        ):  # weights in the layout of `model/packed_linear.py` have no storage to look into
            if isinstance(packed, Tensor) and packed.is_mkldnn:
                self._made(packed, packed.numel() * packed.element_size())

        self.peak = max(self.peak, self.now)
        return result

    def _made(self, owner: Any, size: int) -> None:
        self.now += size
        weakref.finalize(owner, self._freed, size)

    def _freed(self, size: int) -> None:
        self.now -= size


def _with_storage(content: Any) -> list[Tensor]:
    return [t for t in tree_leaves(content) if isinstance(t, Tensor) and not t.is_mkldnn]


def peak_memory(recipe: Recipe, experiment: Experiment) -> int:
    """Bytes that generating one batch takes at its highest, weights included: of the allocator on a
    GPU, else of tensors.
    """
    y, seeds = (
        torch.arange(recipe.evaluation.speed_batch) % experiment.source.classes,
        torch.arange(recipe.evaluation.speed_batch),
    )
    if experiment.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        generate_images(recipe, experiment, y, seeds)
        return torch.cuda.max_memory_allocated()

    with PeakMemory() as memory:
        generate_images(recipe, experiment, y, seeds)
    modules = (*experiment.codec.networks, experiment.model)

    return memory.peak + sum(t.nbytes for module in modules for t in module.state_dict().values())


def count_flops(recipe: Recipe, experiment: Experiment) -> float:
    """Floating-point operations of one image's generation (matrix products and attention)."""
    first = torch.zeros(1, dtype=torch.long)
    return flops_of(lambda: generate_images(recipe, experiment, first, first))
