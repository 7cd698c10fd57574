"""What an inner model believes about the features of one token, each given what truly precedes it.

    p(x_f | x_<f, z)                                      as it was learned
    ∝ p(x_f | x_<f, z)^w · p(x_f | x_<f, z_null)^(1-w)    as it is drawn from: guided, then tempered

Where a model is not walked one feature at a time (diffusion, flow, energy) a curve is a histogram
of draws given z alone.

Letters: n items, N tokens, D features, E width of z, M points.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..config.build import Experiment
from ..config.sections import Recipe
from ..model.density import Density
from ..model.noise import Noise, Stream
from ..model.sampler import Sampler

CURVE_DRAWS, BARS = 2000, 30
ConditionalFunction = Callable[[Tensor, Tensor | None], Density]
"""(z, z of the null label) → density; both [*, E]."""


def most_varied_conditionals(
    recipe: Recipe, experiment: Experiment, items: int = 3, points: int = 300
) -> dict[str, np.ndarray]:
    """`conditionals`, as learned, of the first held-out items, and `token`: the one that varies
    most in training images.
    """
    token = int(_reference(experiment).var(0).sum(-1).argmax())
    learned = replace(recipe, sampler=Sampler(steps=recipe.sampler.steps))
    first = range(min(items, len(experiment.source.held_out[1])))
    return {**conditionals(learned, experiment, first, token, points), "token": np.asarray(token)}


@torch.no_grad()
def conditionals(
    recipe: Recipe, experiment: Experiment, items: range, token: int, points: int = 300
) -> dict[str, np.ndarray]:
    """The density of each feature of one token of some held-out items, under the guidance and
    temperature of the recipe.

    Guidance acts at its full weight, wherever the schedule would put this token. Published guidance
    (`candidates`) is an estimate of the same density, and is drawn as that.

    Returns:
        `grid` [D, M] over the training range and a tenth beyond, in units of the tokens; `density`
        [n, D, M]; `true` [n, D]; `bits` [n, D], what the true values cost, in bits/dim of the raw
        data. For draws `drawn` is 1 and `bits` is absent.

    Raises:
        IndexError: if there are no such items, or no such token.
    """
    model, source, device = experiment.model, experiment.source, experiment.device
    if not 0 <= token < experiment.codec.tokens or not 0 <= items.start < items.stop <= len(
        source.held_out[0]
    ):
        raise IndexError(
            f"{items} of {len(source.held_out[0])}, token {token} of {experiment.codec.tokens}: "
            "out of range"
        )
    i = torch.tensor(items)
    noise = Noise.of(i.to(device), "held out").at(Stream.FIRST_DRAW)
    images = source.held_out[0][i].to(device)
    x, log_det = experiment.codec.encode(images, noise.at(Stream.CODEC))
    true, grid = x[:, token], _range(_reference(experiment)[:, token], points)
    sampler = replace(recipe.sampler, candidates=0)
    walk = (noise.at(Stream.MODEL), token, recipe.sampler.steps)
    z, null = (
        _condition_of(experiment, x, model.labels(source.held_out[1][i].to(device)), *walk),
        None,
    )
    if sampler.guidance != 1:
        null = _condition_of(experiment, x, model.labels.null(len(x)), *walk)

    def ask(z: Tensor, null: Tensor | None) -> Density:
        return sampler.apply(
            model.inner(z), None if null is None else model.inner(null), progress=sampler.guided_to
        )

    found = {"grid": grid, "true": true}
    if drawn := "pit" not in model.inner.capabilities:
        found["density"] = _histograms(ask, z, null, grid)
    else:
        found["density"] = _curves(ask, z, null, true, grid)
        even = (log_det / experiment.codec.dims).unsqueeze(-1)
        found["bits"] = -(ask(z, null).by_feature(true) + even) / math.log(2)
    return {name: value.float().cpu().numpy() for name, value in found.items()} | {
        "drawn": np.asarray(int(drawn))
    }


def _reference(experiment: Experiment) -> Tensor:
    """Tokens of up to 1,000 training items: [n, N, D]."""
    some = torch.arange(min(1000, len(experiment.source.train[0])))
    images = experiment.source.train[0][some].to(experiment.device)
    return experiment.codec.encode(images, Noise.of(some.to(experiment.device), "beliefs"))[0]


def _range(reference: Tensor, points: int) -> Tensor:
    """Points over the range of each feature of reference [n, D], and a tenth beyond: [D, M]."""
    low, high = reference.amin(0), reference.amax(0)
    low, high = low - 0.1 * (high - low), high + 0.1 * (high - low)
    return low.unsqueeze(-1) + (high - low).unsqueeze(-1) * torch.linspace(
        0, 1, points, device=low.device
    )


def _condition_of(
    experiment: Experiment, x: Tensor, c: Tensor, noise: Noise, token: int, steps: int | None
) -> Tensor:
    """z [n, E] of one token under the walk answered with the true tokens, given c [n, C, E]."""
    found = x.new_zeros(len(x), experiment.model.outer.context)
    for z, where in experiment.model.outer.conditions(x, c, noise, steps):
        hit = where == token
        found[hit.any(1)] = z[hit].to(found.dtype)
    return found


def _repeated(z: Tensor, times: int) -> Tensor:
    """[n, E] → [n, times, E]."""
    return z.unsqueeze(1).expand(-1, times, -1)


def _curves(
    ask: ConditionalFunction, z: Tensor, null: Tensor | None, true: Tensor, grid: Tensor
) -> Tensor:
    """p(x_f = grid | true x before f) of each feature: [n, D, M]."""
    points, curves = grid.shape[-1], []
    density = ask(_repeated(z, points), None if null is None else _repeated(null, points))
    for f in range(true.shape[-1]):
        x = true.unsqueeze(1).repeat(1, points, 1)
        x[..., f] = grid[f]
        curves.append(density.by_feature(x)[..., f].exp())
    return torch.stack(curves, 1)


def _histograms(ask: ConditionalFunction, z: Tensor, null: Tensor | None, grid: Tensor) -> Tensor:
    """The same shape from draws given z: a histogram of each feature."""
    noise = Noise.of(torch.arange(CURVE_DRAWS, device=z.device), "beliefs")
    result = grid.new_zeros(len(z), *grid.shape)
    for b in range(len(z)):
        alike = ask(
            _repeated(z, CURVE_DRAWS)[b], None if null is None else _repeated(null, CURVE_DRAWS)[b]
        )
        x = alike.sample(noise)
        for f, points in enumerate(grid):
            low, high = points[0].item(), points[-1].item()
            counts = torch.histc(x[:, f].float(), BARS, low, high) / (
                CURVE_DRAWS * (high - low) / BARS
            )
            result[b, f] = counts[((points - low) / (high - low) * BARS).long().clamp(max=BARS - 1)]

    return result
