"""The verbs for one run. Each verb imports everything heavy itself."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..files.workspace import HERE
from ..output.text import say


def _recipe(path: Path, overrides: list[str]) -> Any:
    from arinar_lab.config.files import merge, read_overrides, read_recipe
    from arinar_lab.config.sections import parse_recipe
    from arinar_lab.errors import located

    content = merge(read_recipe(path), read_overrides(overrides))
    with located(path):
        return parse_recipe(content)


def train_recipe(arguments: argparse.Namespace) -> int:
    recipe = _recipe(arguments.file, arguments.overrides)
    from arinar_lab.evaluation.evaluate import measure_speed
    from arinar_lab.pipeline import check_recipe, train_and_evaluate
    from arinar_lab.runs.folder import RunFolder
    from arinar_lab.runs.history import read_metrics
    from arinar_lab.tracking.tracker import AFTERWARDS, Tracker

    checked = check_recipe(recipe)
    name = arguments.file.stem
    folder = RunFolder.of(recipe, name)
    say(f"run folder: {folder.path}")
    bar = sys.stdout.isatty()
    reports, trained = train_and_evaluate([recipe], folder, name, name, bar=bar, checked=checked)
    if not reports:
        return 0
    report = measure_speed(recipe, folder, trained)
    if not Tracker(name, AFTERWARDS).publish(recipe, name, folder, read_metrics):
        say(f"not sent to MLflow: {folder.path}; arinar sync {folder.path} sends it")
    _show(report, folder.evaluation(recipe))
    return 0


_QUALITY_DEFAULTS = {
    "reference": None,
    "ranges": 1,
    "features": None,
    "layer": None,
    "weights": None,
    "workers": None,
}
"""Options of `evaluate` that need --quality → their values where they are not set."""


def evaluate(arguments: argparse.Namespace) -> int:
    from arinar_lab.errors import ConfigError
    from arinar_lab.evaluation.evaluate import is_timed, load_trained, measure_speed
    from arinar_lab.files.locks import hold_lock
    from arinar_lab.quality.measure import evaluate_with_reference

    folder, recipe = _trained(arguments)
    if arguments.quality:
        return _quality(arguments, folder, recipe)
    for name, default in _QUALITY_DEFAULTS.items():
        if getattr(arguments, name, default) != default:
            raise ConfigError(f"--{name}: goes with --quality")

    report = folder.report(recipe)
    if not is_timed(report, recipe.machine):
        with hold_lock(folder.lock, f"works on {folder.path}"):
            trained = load_trained(recipe, folder, data=not report)
            evaluate_with_reference(recipe, folder, trained)
            report = measure_speed(recipe, folder, trained)
    _show(report, folder.evaluation(recipe))
    return 0


def _quality(arguments: argparse.Namespace, folder: Any, recipe: Any) -> int:
    from arinar_lab.files.shards import helper_processes, progress_bar
    from arinar_lab.quality.distances import Reference
    from arinar_lab.quality.measure import measure_quality
    from arinar_lab.quality.reference import own_reference

    path = arguments.reference or recipe.evaluation.reference
    extractor = _extractor(arguments, recipe.machine, path and Path(path))
    file = Path(path or own_reference(recipe.data(), extractor))
    reference = Reference.read(file, extractor, "--reference")
    with helper_processes(arguments.workers, extractor.device), progress_bar("images") as advance:
        report = measure_quality(recipe, folder, reference, extractor, arguments.ranges, advance)
    _show(report, folder.evaluation(recipe))
    return 0


def _extractor(arguments: argparse.Namespace, machine: Any, reference: Path | None = None) -> Any:
    """The extractor of the options, else the one that made a reference, else Inception."""
    from arinar_lab.hardware.device import device_of
    from arinar_lab.quality.distances import extractor_of_reference
    from arinar_lab.quality.extractors import DINOV2, INCEPTION, Extractor

    name = {"dinov2": DINOV2}.get(arguments.features, INCEPTION)
    layer = arguments.layer
    if reference and not (arguments.features or layer):
        name, layer = extractor_of_reference(reference, "--reference")
    return Extractor.of(name, layer, arguments.weights, device_of(machine).type)


def reference(arguments: argparse.Namespace) -> int:
    from arinar_lab.config.sections import Machine
    from arinar_lab.files.atomic import check_output
    from arinar_lab.files.shards import helper_processes, progress_bar
    from arinar_lab.quality.image_sets import open_image_set
    from arinar_lab.quality.reference import make_reference

    check_output(arguments.out)
    images = open_image_set(arguments.data, arguments.part, arguments.overrides)
    extractor = _extractor(arguments, Machine())
    with (
        helper_processes(arguments.workers, extractor.device),
        progress_bar(str(arguments.data)) as advance,
    ):
        path = make_reference(images, extractor, arguments.out, arguments.batch, advance)
    say(f"{path}: {len(images):,} images, features of {extractor.signature}")
    return 0


def _trained(arguments: argparse.Namespace) -> Any:
    """The named run folder, and its recipe under overrides that do not concern training."""
    from arinar_lab.errors import ConfigError
    from arinar_lab.runs.folder import open_run_folder

    folder = open_run_folder(arguments.file)
    recipe = _recipe(folder.path / "config.yaml", arguments.overrides)
    trained = _recipe(folder.path / "config.yaml", [])
    if (recipe.training_signature, recipe.seed) != (trained.training_signature, trained.seed):
        raise ConfigError(
            f"{folder.path}: was trained otherwise; only sampler, evaluation and machine may be "
            "overridden here"
        )
    if not folder.done:
        raise ConfigError(f"{folder.path}: has not finished training; train it to its end first")
    return folder, recipe


def _show(report: dict[str, Any], folder: Path) -> None:
    """Print the numbers of a report with their units, and the files of its folder."""
    from rich.table import Table

    from arinar_lab.analysis.conditions import NO_DISTANCES, lacks_distances
    from arinar_lab.output.terminal import Terminal

    table = Table("metric", "value", "unit")
    for name, value in report["metrics"].items():
        text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
        table.add_row(name, text, report["units"][name])

    console = Terminal()
    console.print(table)
    likelihood = report.get("likelihood")
    if likelihood:
        steps = f", {likelihood['steps']} steps" if likelihood["steps"] else ""
        console.print(
            f"likelihood: {likelihood['kind']}, {likelihood['unit']}{steps}, "
            f"{likelihood['images']} held-out items",
        )
        if lacks_distances(report):
            console.print(NO_DISTANCES)
    else:
        reference = report["reference"]
        console.print(
            f"{report['images']} images a range, seeds from {report['seed']} on, against "
            f"{reference['file']}"
        )
        console.print(_floor_note(report))
        if "kid_subset" not in reference:
            console.print(
                "KID, precision and recall need the reference's features, and it has none"
            )

    for path in (folder / report.get("file", "report.json"), folder / "samples" / "grid.png"):
        if path.exists():
            console.print(str(path), soft_wrap=True)


def _floor_note(report: dict[str, Any]) -> str:
    """The meaning of a distance's floor, or the reason why there is none."""
    n = report["floor_images"]
    if any(name.endswith("_floor") for name in report["metrics"]):
        return f"floor: {n} held-out images, encoded and decoded by the codec, against the same"
    if n:
        return f"no floor: {n} held-out images are too few for it"
    return "no floor: the held-out images are not there"


def sample(arguments: argparse.Namespace) -> int:
    from arinar_lab.errors import ConfigError
    from arinar_lab.evaluation.evaluate import load_trained
    from arinar_lab.files.atomic import check_output
    from arinar_lab.files.shards import helper_processes, progress_bar
    from arinar_lab.quality.samples import MAX_PICTURE, draw_grid, write_samples

    folder, recipe = _trained(arguments)
    check_output(arguments.out)
    out, picture = arguments.out, arguments.out.suffix.lower() in (".png", ".jpg")
    # as in samples_cfg1.5
    folder_of_images = out.is_dir() or not out.suffix.lstrip(".").strip("0123456789")
    if folder_of_images and (picture or out.suffix == ".npz"):
        raise ConfigError(f"--out: {str(out)!r} is a folder, and has the name of a file")
    if not (picture or folder_of_images or out.suffix == ".npz"):
        raise ConfigError(f"--out: {str(out)!r} is not a .png, .jpg or .npz file, nor a folder")
    if not out.parent.is_dir():
        raise ConfigError(f"--out: {str(out.parent)!r} is not a folder; make it first")
    experiment = load_trained(recipe, folder)
    if not experiment.source.levels:
        raise ConfigError(f"{folder.path}: models tokens, which have no picture")
    count = arguments.count or 100
    if arguments.per_class:
        count = arguments.per_class * experiment.source.classes
        if arguments.count not in (None, count):
            raise ConfigError(
                f"--count: {arguments.count} is not {arguments.per_class} of each of "
                f"{experiment.source.classes} classes"
            )
    seeds = range(arguments.seed, arguments.seed + count)
    if seeds.stop > 2**32:
        raise ConfigError(
            f"--seed: the last of {count:,} images would have seed {seeds[-1]:,}, beyond 2^32 - 1"
        )
    if picture and count > MAX_PICTURE:
        raise ConfigError(
            f"--count: {count:,} images do not fit into a picture ({MAX_PICTURE:,} do); name an "
            "npz or a folder"
        )
    if picture:
        draw_grid(recipe, experiment, seeds, out)
    else:
        with (
            helper_processes(arguments.workers, experiment.device.type),
            progress_bar(str(out)) as advance,
        ):
            write_samples(recipe, folder, experiment, seeds, out, advance)
    say(out)
    return 0


def diagnose(arguments: argparse.Namespace) -> int:
    from arinar_lab.evaluation.diagnostics import guidance, prefix
    from arinar_lab.evaluation.evaluate import load_trained
    from arinar_lab.files.locks import hold_lock
    from arinar_lab.quality.measure import evaluate_with_reference
    from arinar_lab.report.run_figures import draw_diagnosis
    from arinar_lab.runs.folder import write_json

    folder, recipe = _trained(arguments)
    with hold_lock(folder.lock, f"works on {folder.path}"):
        evaluation = folder.evaluation(recipe)
        experiment = load_trained(recipe, folder, data=not folder.report(recipe))
        report = evaluate_with_reference(recipe, folder, experiment)
        diagnosis = {"prefix": prefix(recipe, experiment), "guidance": guidance(recipe, experiment)}
        write_json(evaluation / "diagnosis.json", diagnosis)
        draw_diagnosis(report, diagnosis, evaluation / "diagnosis.png")
    say(evaluation / "diagnosis.json")
    say(evaluation / "diagnosis.png")
    return 0


def cache(arguments: argparse.Namespace) -> int:
    recipe = _recipe(arguments.file, arguments.overrides)
    from arinar_lab.files.atomic import check_output
    from arinar_lab.files.shards import damaged_shards, discard, helper_processes, progress_bar
    from arinar_lab.quality.latent_cache_builder import CacheBuilder, write_cache

    check_output(arguments.out)
    plan = CacheBuilder.of(recipe, arguments.file.stem, arguments.out)
    files = [file for file, _, _ in plan.files]
    if arguments.verify:
        for file in damaged_shards(files):
            say(f"{file}: damaged, made anew")
            discard([file])
    with (
        helper_processes(arguments.workers, plan.codec.mean.device.type),
        progress_bar(str(plan.folder)) as advance,
    ):
        write_cache(plan, arguments.batch, advance)
    size = sum(file.stat().st_size for file in files)
    room = f"{size / 1e9:,.2f} GB" if size > 1e9 else f"{size / 1e6:,.2f} MB"
    say(
        f"{plan.folder}: {plan.items:,} images, {room}; 'data={{kind: cache, path: "
        f"{plan.folder}}}' trains on it"
    )
    return 0


def convert(arguments: argparse.Namespace) -> int:
    from arinar_lab.config.files import preset_path
    from arinar_lab.config.schema import flatten, to_plain
    from arinar_lab.runs.convert import AVERAGED_KEYS, convert_checkpoint
    from arinar_lab.runs.folder import read_json

    recipe = _recipe(preset_path(arguments.preset), arguments.overrides)
    out = arguments.out or HERE.runs / arguments.checkpoint.stem / f"seed_{recipe.seed}"
    folder = convert_checkpoint(arguments.checkpoint, recipe, out, arguments.weights)
    origin = read_json(folder.path / "DONE")
    kind = "averaged weights" if origin["weights"] in AVERAGED_KEYS else "weights"
    say(folder.path)
    say(f"{kind.capitalize()}: {origin['weights']}")

    unconfirmed = []
    for key, value in flatten(to_plain(recipe)).items():
        if key.endswith(".heads") and key not in origin["confirmed"]:
            unconfirmed.append(f"{key}={value}")
    if unconfirmed:
        say(
            "The checkpoint does not tell these attention heads; the recipe says "
            f"{', '.join(unconfirmed)}."
        )
    return 0


def train_codec(arguments: argparse.Namespace) -> int:
    from arinar_lab.config.files import merge, read_overrides, read_recipe
    from arinar_lab.config.schema import parse_dataclass
    from arinar_lab.errors import located
    from arinar_lab.files.atomic import check_output
    from arinar_lab.pretraining.autoencoder import (
        WEIGHTS,
        AutoencoderRecipe,
        train_autoencoder,
    )
    from arinar_lab.runs.folder import read_json

    check_output(arguments.out)
    content = merge(read_recipe(arguments.file), read_overrides(arguments.overrides))
    with located(arguments.file):
        recipe = parse_dataclass(AutoencoderRecipe, content, "", "an autoencoder's file")
    folder = train_autoencoder(recipe, arguments.file.stem, arguments.out)
    for name, value in read_json(folder / "report.json")["metrics"].items():
        say(f"{name}: {value:.4g}")
    say(folder / "restored.png")
    say(f"'codec={{kind: vae, latents: {recipe.latents}, weights: {folder / WEIGHTS}}}' uses it.")
    return 0


def retrain(arguments: argparse.Namespace) -> int:
    from arinar_lab.errors import prefixed
    from arinar_lab.pretraining.classifier import retrain_classifier

    with prefixed("data"):
        line = retrain_classifier(arguments.name)
    say(line)
    return 0
