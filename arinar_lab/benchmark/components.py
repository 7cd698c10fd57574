"""What a whole generation hides, measured alone: the inner loop, a training step, memory by batch, operations by name.

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
from ..evaluation.evaluate import flop_counter
from ..hardware.precision import under
from ..hardware.profiling import clock, seconds_of
from ..model.arinar import Arinar
from ..model.density import Density, compiled_quantiles
from ..model.noise import Noise
from ..model.packed_linear import packed
from ..runs.folder import environment
from ..training.module import ArinarModule
from . import released_arinar as plain
from .generation import PUBLISHED, Case, How, Result, each_alone, highest, in_turns, is_published
from .walk import CANDIDATES, ours

OPERATIONS = 25  # of a profile


@torch.no_grad()
def inner_loop(case: Case, model: Arinar, how: How) -> Result:
    """Time the drawing of as many tokens as the case has images, at given conditions and under its guidance.

    Ours is timed as it runs inside a generation, whose weights are packed once for all of its steps; the published algorithm
    in float32, as it is released for a CPU.
    """
    sampler, device, tokens = case.recipe().sampler, how.device, case.batch
    guided = sampler.guidance != 1
    z = torch.randn((1 + guided) * tokens, model.outer.context, device=device)
    noise, generator = Noise.of(torch.arange(tokens, device=device), "sample"), torch.Generator(device)

    def draw() -> Tensor:
        null: Density | None = model.inner(z[tokens:]) if guided else None
        return sampler.apply(model.inner(z[:tokens]), null, 1.0).draw(noise)[0]

    def quick() -> Tensor:
        with compiled_quantiles():
            return draw()

    def released() -> Tensor:
        with torch.autocast(device.type, enabled=False):
            return plain.draw(model, z, noise, replace(sampler, candidates=CANDIDATES), 1.0, generator)

    other = (lambda: seconds_of(released, device)) if is_published(model) else None
    with under(case.precision, device), packed(model):
        with flop_counter() as counter:
            draw()
        mine = quick if case.compiled else draw
        mine()
        seconds, others = in_turns(lambda: seconds_of(mine, device), other, how.repeats)
    return Result(
        "inner loop", case.preset, tokens, sampler.guidance, 1, seconds, others, PUBLISHED if other else "",
        float(counter.get_total_flops()), precision=case.precision, compiled=case.compiled,
    )  # fmt: skip


def training_step(case: Case, how: How) -> Result:
    """Time loss, gradients and optimiser of a batch, beside the published loss in the same precision, under the same optimiser.

    In each repeat both have the same masks. A first step of each is not counted.
    """
    recipe, device = case.recipe(), how.device
    experiment = build(recipe)
    module = ArinarModule(experiment, recipe.training, recipe.seed).to(device).train()
    optimizer: Any = module.configure_optimizers()["optimizer"]
    y = torch.arange(case.batch, device=device) % len(module.model.labels.classes())
    noise, shape = Noise.of(y, "bench"), (experiment.codec.tokens, experiment.codec.features)
    x = noise.at(0).normal(shape[0] * shape[1]).unflatten(-1, shape)

    def step(loss: Callable[..., Tensor], repeat: int) -> float:
        begun = clock(device)
        optimizer.zero_grad()
        with under(case.precision, device):
            nats = loss(x, y, noise.at(1 + repeat))
        nats.backward()
        optimizer.step()
        return clock(device) - begun

    def released(*words: Any) -> Tensor:
        return plain.loss(module.model, *words)

    with flop_counter() as counter:
        step(module.model.loss, 0)
    both = is_published(module.model)
    if both:
        step(released, 0)
    mine, theirs = iter(range(how.repeats)), iter(range(how.repeats))
    other = (lambda: step(released, next(theirs))) if both else None
    seconds, others = in_turns(lambda: step(module.model.loss, next(mine)), other, how.repeats)
    return Result(
        "training step", case.preset, case.batch, 1.0, 1, seconds, others, PUBLISHED if both else "",
        float(counter.get_total_flops()), precision=case.precision,
    )  # fmt: skip


def memory(case: Case, model: Arinar, batches: tuple[int, ...] = (1, 2, 4)) -> dict[str, Any]:
    """Bytes of generation at its highest, by batch, and the line through them."""
    sampler = case.recipe().sampler
    found = [highest(model, sampler, batch) for batch in batches]
    slope, base = np.polyfit(batches, found, 1)
    off = max(abs(base + slope * batch - seen) / seen for batch, seen in zip(batches, found, strict=True))
    return {
        "preset": case.preset,
        "guidance": sampler.guidance,
        "bytes": dict(zip(map(str, batches), found, strict=True)),
        "bytes_an_image": round(slope),
        "bytes_at_rest": round(base),
        "largest_deviation": off,
    }


def profile(case: Case, model: Arinar, how: How) -> str:
    """A table of the operations in the middle step of a walk, those that take most time first; weights are packed already."""
    sampler, device = case.recipe().sampler, how.device
    middle = (model.outer.check_steps(sampler.steps) - 1) // 2
    steps = [middle] if each_alone(model, sampler) else range(middle + 1)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    seen, readings = torch.profiler.profile(activities=activities), count(-1)  # two before the first step

    def reading() -> float:
        now = clock(device)
        if next(readings) == middle:
            seen.start()
        return now

    with packed(model), under(case.precision, device):
        ours(model, sampler, case.batch, steps, reading)
    seen.stop()
    by = f"self_{device.type}_time_total"
    table = seen.key_averages().table(sort_by=by, row_limit=OPERATIONS, max_name_column_width=48)
    table = "\n".join(line.rstrip() for line in table.splitlines())
    about = environment()
    return (
        f"{case.preset}: batch {case.batch}, guidance {sampler.guidance:g}, step {middle + 1}, {case.precision}\n"
        f"{time.strftime('%F')}, {about['device']}, {torch.get_num_threads()} threads, torch {about['torch']}\n\n{table}"
    )
