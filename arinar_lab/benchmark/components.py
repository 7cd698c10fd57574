"""Measurements of parts: the inner loop, a training step, memory by batch, a profile.

inner loop        64 tokens drawn at random conditions, feature after feature
training step     loss, gradients and optimiser, on tokens of random numbers
memory            peak bytes by batch: bytes at rest + batch · bytes an image
profile           operations of one step of a walk, by torch's profiler
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
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
    CANDIDATES,
    PUBLISHED,
    BenchmarkOptions,
    Case,
    Result,
    has_independent_steps,
    is_published,
    last_two,
    package_step_seconds,
    peak_bytes,
    time_alternately,
)

OPERATIONS = 25  # of a profile


@torch.no_grad()
def inner_loop(case: Case, model: Arinar, how: BenchmarkOptions) -> Result:
    """Time the drawing of as many tokens as the case has images, under its guidance.

    Our weights are packed, as in a generation; the published algorithm runs in float32, as released
    for a CPU.
    """
    sampler = case.recipe().sampler
    device = how.device
    tokens = case.batch
    is_guided = sampler.guidance != 1
    z = torch.randn((1 + is_guided) * tokens, model.outer.context, device=device)
    noise = Noise.of(torch.arange(tokens, device=device), "sample")
    generator = torch.Generator(device)
    published = replace(sampler, candidates=CANDIDATES)

    def draw() -> Tensor:
        null: Density | None = model.inner(z[tokens:]) if is_guided else None
        return sampler.apply(model.inner(z[:tokens]), null, 1.0).draw(noise)[0]

    def draw_compiled() -> Tensor:
        with compiled_quantiles():
            return draw()

    def draw_released() -> Tensor:
        with torch.autocast(device.type, enabled=False):
            return released_arinar.draw_token(model, z, noise, published, 1.0, generator)

    other = partial(seconds_to_run, draw_released, device) if is_published(model) else None
    with autocast_to(case.precision, device), packed_weights(model):
        flops = flops_of(draw)
        timed = draw_compiled if case.compiled else draw
        timed()
        package = partial(seconds_to_run, timed, device)
        seconds, other_seconds = time_alternately(package, other, how.repeats)

    return Result(
        "inner loop",
        case.preset,
        tokens,
        sampler.guidance,
        1,
        seconds,
        other_seconds,
        PUBLISHED if other else "",
        flops,
        precision=case.precision,
        compiled=case.compiled,
    )


def training_step(case: Case, how: BenchmarkOptions) -> Result:
    """Time loss, gradients and optimiser of a batch, for our loss and for the published one.

    Both have the same precision, optimiser and masks in a repeat. Their first steps do not count.
    """
    recipe = case.recipe()
    device = how.device
    experiment = build(recipe)
    module = ArinarModule(experiment, recipe.training, recipe.seed).to(device).train()
    optimizer: Any = module.configure_optimizers()["optimizer"]
    y = torch.arange(case.batch, device=device) % len(module.model.labels.classes())
    noise = Noise.of(y, "bench")
    shape = (experiment.codec.tokens, experiment.codec.features)
    x = noise.at(Stream.CODEC).normal(shape[0] * shape[1]).unflatten(-1, shape)

    def step(loss: Callable[..., Tensor], repeat: int) -> float:
        begun = synchronised_time(device)
        optimizer.zero_grad()
        with autocast_to(case.precision, device):
            nats = loss(x, y, noise.at(Stream.MODEL + repeat))
        nats.backward()
        optimizer.step()
        return synchronised_time(device) - begun

    def steps(loss: Callable[..., Tensor]) -> Callable[[], float]:
        """A function that takes the step of the next repeat."""
        return map(partial(step, loss), range(how.repeats)).__next__

    flops = flops_of(lambda: step(module.model.loss, 0))
    other: Callable[[], float] | None = None
    if is_published(module.model):
        released = partial(released_arinar.loss, module.model)
        step(released, 0)
        other = steps(released)
    seconds, other_seconds = time_alternately(steps(module.model.loss), other, how.repeats)

    return Result(
        "training step",
        case.preset,
        case.batch,
        1.0,
        1,
        seconds,
        other_seconds,
        PUBLISHED if other else "",
        flops,
        precision=case.precision,
    )


def memory_by_batch(
    case: Case, model: Arinar, batches: tuple[int, ...] = (1, 2, 4)
) -> dict[str, Any]:
    """Peak bytes of generation by batch, and the line through them."""
    sampler = case.recipe().sampler
    peaks = [peak_bytes(model, sampler, batch) for batch in batches]
    slope, base = np.polyfit(batches, peaks, 1)
    deviations = np.abs(base + slope * np.array(batches) - peaks) / peaks

    return {
        "preset": case.preset,
        "guidance": sampler.guidance,
        "bytes": dict(zip(map(str, batches), peaks, strict=True)),
        "bytes_an_image": round(slope),
        "bytes_at_rest": round(base),
        "largest_deviation": float(deviations.max()),
    }


def profile(case: Case, model: Arinar, how: BenchmarkOptions) -> str:
    """A table of the operations in the middle step of a walk with packed weights, slowest first."""
    sampler = case.recipe().sampler
    device = how.device
    middle = (model.outer.check_steps(sampler.steps) - 1) // 2
    steps = last_two(middle) if has_independent_steps(model, sampler) else range(middle + 1)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    profiler = torch.profiler.profile(activities=activities)
    readings = count(-1)  # two before the first step

    def clock() -> float:
        now = synchronised_time(device)
        if next(readings) == len(steps) - 1:
            profiler.start()
        return now

    with packed_weights(model), autocast_to(case.precision, device):
        package_step_seconds(model, sampler, case.batch, steps, clock)
    profiler.stop()

    operations = profiler.key_averages()
    order = f"self_{device.type}_time_total"
    table = operations.table(sort_by=order, row_limit=OPERATIONS, max_name_column_width=48)
    table = "\n".join(map(str.rstrip, table.splitlines()))
    machine = environment()
    return (
        f"{case.preset}: batch {case.batch}, guidance {sampler.guidance:g}, step {middle + 1}, "
        f"{case.precision}\n"
        f"{time.strftime('%F')}, {machine['device']}, {torch.get_num_threads()} threads, torch "
        f"{machine['torch']}\n\n{table}"
    )
