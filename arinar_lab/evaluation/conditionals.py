"""Conditional densities of the features of one token, each given the true preceding values.

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
    """Compute the learned `conditionals` of the most varied token, for the first held-out items.

    `token` is that token's number; its variance is taken over training images.
    """
    token = int(_reference(experiment).var(0).sum(-1).argmax())
    learned = replace(recipe, sampler=Sampler(steps=recipe.sampler.steps))
    first = range(min(items, len(experiment.source.held_out[1])))
    return {**conditionals(learned, experiment, first, token, points), "token": np.asarray(token)}


@torch.no_grad()
def conditionals(
    recipe: Recipe, experiment: Experiment, items: range, token: int, points: int = 300
) -> dict[str, np.ndarray]:
    """Compute the density of each feature of one token, under the recipe's sampler.

    Guidance acts at its full weight, wherever the schedule would put this token. Published guidance
    (`candidates`) estimates the same density, and is computed as that.

    Arguments:
        recipe: Recipe whose sampler counts.
        experiment: Data, codec and trained model.
        items: Numbers of held-out items.
        token: Number of the token.
        points: M.

    Returns:
        `grid` [D, M] over the training range and a tenth beyond, in units of the tokens; `density`
        [n, D, M]; `true` [n, D]; `bits` [n, D], the cost of the true values, in bits/dim of the raw
        data. For draws `drawn` is 1 and `bits` is absent.

    Raises:
        IndexError: if there are no such items, or no such token.
    """
    model = experiment.model
    source = experiment.source
    device = experiment.device
    count = len(source.held_out[0])
    tokens = experiment.codec.tokens
    if not 0 <= token < tokens or not 0 <= items.start < items.stop <= count:
        raise IndexError(f"{items} of {count}, token {token} of {tokens}: out of range")

    i = torch.tensor(items)
    noise = Noise.of(i.to(device), "held out").at(Stream.FIRST_DRAW)
    images = source.held_out[0][i].to(device)
    x, log_det = experiment.codec.encode(images, noise.at(Stream.CODEC))
    true = x[:, token]
    grid = _range(_reference(experiment)[:, token], points)

    sampler = replace(recipe.sampler, candidates=0)
    walk = (noise.at(Stream.MODEL), token, recipe.sampler.steps)
    labels = model.labels(source.held_out[1][i].to(device))
    z = _condition_of(experiment, x, labels, *walk)
    null = None
    if sampler.guidance != 1:
        null = _condition_of(experiment, x, model.labels.null(len(x)), *walk)

    def conditional(z: Tensor, null: Tensor | None) -> Density:
        unlabelled = None if null is None else model.inner(null)
        return sampler.apply(model.inner(z), unlabelled, progress=sampler.guided_to)

    values = {"grid": grid, "true": true}
    is_drawn = "pit" not in model.inner.capabilities
    if is_drawn:
        values["density"] = _histograms(conditional, z, null, grid)
    else:
        values["density"] = _curves(conditional, z, null, true, grid)
        even = (log_det / experiment.codec.dims).unsqueeze(-1)
        values["bits"] = -(conditional(z, null).by_feature(true) + even) / math.log(2)

    arrays = {name: value.float().cpu().numpy() for name, value in values.items()}
    return {**arrays, "drawn": np.asarray(int(is_drawn))}


def _reference(experiment: Experiment) -> Tensor:
    """Encode up to 1,000 training items: [n, N, D]."""
    items = torch.arange(min(1000, len(experiment.source.train[0])))
    images = experiment.source.train[0][items].to(experiment.device)
    return experiment.codec.encode(images, Noise.of(items.to(experiment.device), "beliefs"))[0]


def _range(reference: Tensor, points: int) -> Tensor:
    """Spread points over each feature's range in reference [n, D], and a tenth beyond: [D, M]."""
    lowest = reference.amin(0)
    highest = reference.amax(0)
    low = lowest - 0.1 * (highest - lowest)
    high = highest + 0.1 * (highest - lowest)
    steps = torch.linspace(0, 1, points, device=low.device)
    return low.unsqueeze(-1) + (high - low).unsqueeze(-1) * steps


def _condition_of(
    experiment: Experiment, x: Tensor, c: Tensor, noise: Noise, token: int, steps: int | None
) -> Tensor:
    """Return z [n, E] of one token under the walk over the true tokens, given c [n, C, E]."""
    condition = x.new_zeros(len(x), experiment.model.outer.context)
    for z, where in experiment.model.outer.conditions(x, c, noise, steps):
        is_token = where == token
        condition[is_token.any(1)] = z[is_token].to(condition.dtype)
    return condition


def _repeat(z: Tensor, times: int) -> Tensor:
    """[n, E] → [n, times, E]."""
    return z.unsqueeze(1).expand(-1, times, -1)


def _curves(
    conditional: ConditionalFunction, z: Tensor, null: Tensor | None, true: Tensor, grid: Tensor
) -> Tensor:
    """Compute p(x_f = grid | true x before f) of each feature: [n, D, M]."""
    points = grid.shape[-1]
    density = conditional(_repeat(z, points), None if null is None else _repeat(null, points))
    curves = []
    for f in range(true.shape[-1]):
        x = true.unsqueeze(1).repeat(1, points, 1)
        x[..., f] = grid[f]
        curves.append(density.by_feature(x)[..., f].exp())
    return torch.stack(curves, 1)


def _histograms(
    conditional: ConditionalFunction, z: Tensor, null: Tensor | None, grid: Tensor
) -> Tensor:
    """Estimate each feature's density by a histogram of draws given z: [n, D, M]."""
    noise = Noise.of(torch.arange(CURVE_DRAWS, device=z.device), "beliefs")
    result = grid.new_zeros(len(z), *grid.shape)
    for b in range(len(z)):
        null_b = None if null is None else null[b].expand(CURVE_DRAWS, -1)
        x = conditional(z[b].expand(CURVE_DRAWS, -1), null_b).sample(noise)
        for f, points in enumerate(grid):
            low = points[0].item()
            high = points[-1].item()
            bar = ((points - low) / (high - low) * BARS).long().clamp(max=BARS - 1)
            counts = torch.histc(x[:, f].float(), BARS, low, high)
            result[b, f] = counts[bar] / (CURVE_DRAWS * (high - low) / BARS)

    return result
