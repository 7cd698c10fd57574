"""What a whole generation hides, measured alone: the inner loop, a training step, memory by
batch, operations by name.

inner loop        64 tokens drawn at given conditions, feature after feature
training step     loss, gradients and optimiser, on tokens of random numbers
memory            at its highest, by batch: bytes = weights and what is made once + batch · slope
profile           where the time of one step of a walk goes, by torch's profiler
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config.build import build
from ..hardware.precision import autocast_to
from ..hardware.profiling import flops_of, seconds_to_run, synchronised_time
from ..model.arinar import Arinar
from ..model.density import Density, compiled_quantiles
from ..model.noise import Noise, Stream
from ..model.packed_linear import packed_weights
from ..runs.folder import environment
from ..training.module import ArinarModule
from . import released_arinar
from .generation import (
    PUBLISHED,
    BenchmarkOptions,
    Case,
    Result,
    has_independent_steps,
    is_published,
    last_two,
    peak_bytes,
    time_alternately,
)
from .walk import CANDIDATES, package_step_seconds

OPERATIONS = 25  # of a profile


@torch.no_grad()
def inner_loop(case: Case, model: Arinar, how: BenchmarkOptions) -> Result:
    """Time the drawing of as many tokens as the case has images, at given conditions
    and under its guidance.

    Ours is timed as it runs inside a generation, whose weights are packed once for all of its
    steps; the published algorithm in float32, as it is released for a CPU.
    """
    sampler, device, tokens = case.recipe().sampler, how.device, case.batch
    guided = sampler.guidance != 1
    z = torch.randn((1 + guided) * tokens, model.outer.context, device=device)
    noise, generator = (
        Noise.of(torch.arange(tokens, device=device), "sample"),
        torch.Generator(device),
    )

    def draw() -> Tensor:
        null: Density | None = model.inner(z[tokens:]) if guided else None
        return sampler.apply(model.inner(z[:tokens]), null, 1.0).draw(noise)[0]

    def quick() -> Tensor:
        with compiled_quantiles():
            return draw()

    def released() -> Tensor:
        with torch.autocast(device.type, enabled=False):
            return released_arinar.draw_token(
                model, z, noise, replace(sampler, candidates=CANDIDATES), 1.0, generator
            )

    other = (lambda: seconds_to_run(released, device)) if is_published(model) else None
    with autocast_to(case.precision, device), packed_weights(model):
        flops = flops_of(draw)
        mine = quick if case.compiled else draw
        mine()
        seconds, others = time_alternately(lambda: seconds_to_run(mine, device), other, how.repeats)
    return Result(
        "inner loop",
        case.preset,
        tokens,
        sampler.guidance,
        1,
        seconds,
        others,
        PUBLISHED if other else "",
        flops,
        precision=case.precision,
        compiled=case.compiled,
    )


def training_step(case: Case, how: BenchmarkOptions) -> Result:
    """Time loss, gradients and optimiser of a batch, beside the published loss in the same
    precision, under the same optimiser.

    In each repeat both have the same masks. A first step of each is not counted.
    """
    recipe, device = case.recipe(), how.device
    experiment = build(recipe)
    module = ArinarModule(experiment, recipe.training, recipe.seed).to(device).train()
    optimizer: Any = module.configure_optimizers()["optimizer"]
    y = torch.arange(case.batch, device=device) % len(module.model.labels.classes())
    noise, shape = Noise.of(y, "bench"), (experiment.codec.tokens, experiment.codec.features)
    x = noise.at(Stream.CODEC).normal(shape[0] * shape[1]).unflatten(-1, shape)

    def step(loss: Callable[..., Tensor], repeat: int) -> float:
        begun = synchronised_time(device)
        optimizer.zero_grad()
        with autocast_to(case.precision, device):
            nats = loss(x, y, noise.at(Stream.MODEL + repeat))
        nats.backward()
        optimizer.step()
        return synchronised_time(device) - begun

    def released(*words: Any) -> Tensor:
        return released_arinar.loss(module.model, *words)

    flops = flops_of(lambda: step(module.model.loss, 0))
    both = is_published(module.model)
    if both:
        step(released, 0)
    mine, theirs = iter(range(how.repeats)), iter(range(how.repeats))
    other = (lambda: step(released, next(theirs))) if both else None
    seconds, others = time_alternately(
        lambda: step(module.model.loss, next(mine)), other, how.repeats
    )
    return Result(
        "training step",
        case.preset,
        case.batch,
        1.0,
        1,
        seconds,
        others,
        PUBLISHED if both else "",
        flops,
        precision=case.precision,
    )


def memory_by_batch(
    case: Case, model: Arinar, batches: tuple[int, ...] = (1, 2, 4)
) -> dict[str, Any]:
    """Bytes of generation at its highest, by batch, and the line through them."""
    sampler = case.recipe().sampler
    found = [peak_bytes(model, sampler, batch) for batch in batches]
    slope, base = np.polyfit(batches, found, 1)
    off = max(
        abs(base + slope * batch - seen) / seen for batch, seen in zip(batches, found, strict=True)
    )

    return {
        "preset": case.preset,
        "guidance": sampler.guidance,
        "bytes": dict(zip(map(str, batches), found, strict=True)),
        "bytes_an_image": round(slope),
        "bytes_at_rest": round(base),
        "largest_deviation": off,
    }


def profile(case: Case, model: Arinar, how: BenchmarkOptions) -> str:
    """A table of the operations in the middle step of a walk, those that take most time first;
    weights are packed already.
    """
    sampler, device = case.recipe().sampler, how.device
    middle = (model.outer.check_steps(sampler.steps) - 1) // 2
    steps = last_two(middle) if has_independent_steps(model, sampler) else range(middle + 1)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    seen = torch.profiler.profile(activities=activities)
    readings = count(-1)  # two before the first step

    def reading() -> float:
        now = synchronised_time(device)
        if next(readings) == len(steps) - 1:
            seen.start()
        return now

    with packed_weights(model), autocast_to(case.precision, device):
        package_step_seconds(model, sampler, case.batch, steps, reading)
    seen.stop()
    by = f"self_{device.type}_time_total"
    table = seen.key_averages().table(sort_by=by, row_limit=OPERATIONS, max_name_column_width=48)
    table = "\n".join(line.rstrip() for line in table.splitlines())
    about = environment()
    return (
        f"{case.preset}: batch {case.batch}, guidance {sampler.guidance:g}, step {middle + 1}, "
        f"{case.precision}\n"
        f"{time.strftime('%F')}, {about['device']}, {torch.get_num_threads()} threads, torch "
        f"{about['torch']}\n\n{table}"
    )
