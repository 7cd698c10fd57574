"""What Lightning's loop, logging and progress cost a training step, beside a bare loop
over the same module.

    .venv/bin/python benchmarks/loop_overhead.py [--steps 200] [--repeats 5] [key=value …]

Both do what a step is: a batch of the loader, its loss and gradients, clipping, AdamW, the learning
rate, averaged weights. The bare loop does nothing else; the other is `arinar train`
(experiments/digits.yaml) as it is, from its eleventh step to its last, validation and the saving of
weights left out. They take turns; printed are milliseconds a step, and the median of their ratios,
of the clock and (where other processes disturb the clock) of the processor's time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from arinar_lab.config.build import build
from arinar_lab.config.files import merge, read_overrides, read_recipe
from arinar_lab.config.sections import Recipe, parse_recipe
from arinar_lab.data.loader import BatchDataset, ResumableLoader
from arinar_lab.hardware.device import configure_cpu
from arinar_lab.runs.folder import RunFolder
from arinar_lab.training import train
from arinar_lab.training.module import ArinarModule, learning_rate_factor

DIGITS = Path(__file__).parents[1] / "experiments" / "digits.yaml"
WARM = 10  # steps that are not timed
Times = tuple[float, float]
"""Seconds of the clock and of the processor."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    words = parser.parse_args()
    steps = words.steps + WARM
    arguments = {
        "training": {"steps": steps, "validate_every": steps, "checkpoint_every": steps + 1}
    }
    recipe = parse_recipe(
        merge(merge(read_recipe(DIGITS), arguments), read_overrides(words.overrides))
    )
    configure_cpu(recipe.machine)
    result: list[tuple[Times, Times]] = []
    for repeat in range(words.repeats):
        ways: list[Callable[[Recipe], Times]] = [lightning, bare]
        recorded = {way: way(recipe) for way in (ways if repeat % 2 == 0 else ways[::-1])}
        result.append((recorded[lightning], recorded[bare]))

    for i, what in enumerate(("clock", "processor")):
        actual, least = ([1000 * pair[way][i] / words.steps for pair in result] for way in (0, 1))
        ratios = [a / b for a, b in zip(actual, least, strict=True)]
        print(
            f"{what:<9}  Lightning {statistics.median(actual):.2f} ms a step, bare"
            f" {statistics.median(least):.2f} ms: {statistics.median(ratios):.3f} times"
            f" ({min(ratios):.3f} to {max(ratios):.3f})"
        )


def now() -> Times:
    return time.perf_counter(), time.process_time()


def between(begun: Times) -> Times:
    return time.perf_counter() - begun[0], time.process_time() - begun[1]


class Timer(Callback):
    """Times the steps behind the first `WARM`."""

    def __init__(self) -> None:
        self.begun, self.times = now(), (0.0, 0.0)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == WARM:
            self.begun = now()
        self.times = between(self.begun)


def lightning(recipe: Recipe) -> Times:
    """`train`, in a folder that goes again."""
    timer, made = Timer(), train._trainer

    def with_timer(
        recipe: Recipe, folder: RunFolder, logger: Any, more: list[Callback], bar: bool
    ) -> Any:
        return made(recipe, folder, logger, [*more, timer], bar)

    with patch.object(train, "_trainer", with_timer), tempfile.TemporaryDirectory() as folder:
        train.train(recipe, RunFolder(Path(folder)))
    return timer.times


def bare(recipe: Recipe) -> Times:
    """The same steps without Lightning's loop."""
    t = recipe.training
    torch.manual_seed(recipe.seed)
    experiment = build(recipe)
    module = ArinarModule(experiment, t, recipe.seed)
    module.fit_to(experiment.source.train[0])
    optimizer: Any = module.configure_optimizers()["optimizer"]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, t)
    )
    weights = [p for p in module.parameters() if p.requires_grad]
    averages: list[Any] = [p.detach().clone() for p in weights]
    loader = ResumableLoader(BatchDataset(experiment.source.train), t.batch, recipe.seed)
    batches, begun = iter(loader), now()
    module.train()
    for step in range(t.steps):
        if step == WARM:
            begun = now()
        batch = next(batches, None)
        if batch is None:
            batches = iter(loader)
            batch = next(batches)

        optimizer.zero_grad()
        module.loss_of(batch, None).backward()
        if t.clip:
            nn.utils.clip_grad_norm_(weights, t.clip)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, list[torch.Tensor](weights), 1 - t.ema)

    return between(begun)


if __name__ == "__main__":
    main()
