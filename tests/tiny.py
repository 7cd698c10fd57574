"""A recipe that trains in a second, and what the tests do with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from arinar_lab.config.files import merge, read_overrides, read_recipe
from arinar_lab.config.schema import to_plain
from arinar_lab.config.sections import Recipe, parse_recipe
from arinar_lab.evaluation.evaluate import evaluate_run, measure_speed
from arinar_lab.runs.folder import RunFolder, write_sealed
from arinar_lab.runs.history import read_metrics
from arinar_lab.study.plan import Job
from arinar_lab.training.throughput import PREFIX
from arinar_lab.training.train import train

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
WIDTHS = ["outer.width=16", "outer.depth=1", "outer.heads=2", "inner.width=8", "inner.heads=2"]
MEASURES = [
    "evaluation.images=100",
    "evaluation.kid_subset=10",
    "evaluation.draws=1",
    "evaluation.speed_batch=4",
    "evaluation.speed_repeats=1",
]
STEPS = [
    "training.steps=6",
    "training.batch=32",
    "training.warmup=2",
    "training.checkpoint_every=2",
    "training.validate_every=3",
]
SMALL = [*WIDTHS, *STEPS, *MEASURES, "sampler.guidance=1", "machine.accelerator=cpu"]


def content(*overrides: str) -> dict[str, Any]:
    """experiments/digits.yaml made small, with overrides, as plain data."""
    recipe = merge(read_recipe(EXPERIMENTS / "digits.yaml"), read_overrides(SMALL))
    return merge(recipe, read_overrides(list(overrides)))


def tiny(*overrides: str) -> Recipe:
    return parse_recipe(content(*overrides))


def finished(recipe: Recipe, folder: RunFolder | None = None) -> RunFolder:
    """A run folder that is trained, evaluated and timed."""
    folder = folder or RunFolder.of(recipe, "tiny")
    folder.path.mkdir(parents=True, exist_ok=True)
    train(recipe, folder)
    evaluate_run(recipe, folder)
    measure_speed(recipe, folder)
    return folder


def pretend(job: Job) -> None:
    """Leave what a worker leaves of a job: DONE, and a report for each evaluation."""
    write_sealed(job.folder.path / "DONE", {"steps": 6, "seconds": 1.0})
    for recipe in job.recipes:
        write_sealed(
            job.folder.evaluation(recipe) / "report.json", {"metrics": {"val/bits_per_dim": 1.0}}
        )


def logged(folder: RunFolder) -> list[tuple[int, str, float]]:
    """The rows of metrics.csv but for times, which no two runs share."""
    return [
        row for row in read_metrics(folder.path / "metrics.csv") if not row[1].startswith(PREFIX)
    ]


def write_study(name: str = "study", base: Recipe | None = None, **keys: Any) -> Path:
    """A study file beside its base recipe, in the folder the test works in."""
    Path("base.yaml").write_text(yaml.safe_dump(to_plain(base or tiny())))
    path = Path(f"{name}.yaml")
    path.write_text(yaml.safe_dump({"base": "base.yaml", **keys}, sort_keys=False))
    return path
