"""Where a model is right and where it goes wrong. Part of every report, as far as the head can:

    by_feature, by_token    bits/dim on held-out data, split by feature and by token; the mean of
                            each is val/bits_per_dim
    pit                     histogram of F(x | what precedes) over held-out data: flat where
                            the densities are right
    components              of a mixture: the effective number exp(entropy of the mean
                            weights), and the dead ones
    memorisation            likelihood of training against held-out images, and how near samples
                            lie to training images

and by `arinar diagnose RUN`, which generates:

    prefix                  the true tokens are given up to a share, the rest is drawn: Fréchet
                            distance, and bits/dim of the model's own continuations against those of
                            the true ones. A good density whose samples are bad accumulates errors;
                            one that is bad from the start is a bad density
    guidance                KL(drawn ‖ conditional) and the share of truncated conditionals,
                            by step and by feature
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..config.build import Experiment
from ..config.sections import Recipe
from ..model.arinar import Arinar
from ..model.bilevel import Observer
from ..model.checks import ks_from_uniform
from ..model.density import Density
from ..model.heads.mixture import component_usage
from ..model.noise import Noise, Stream
from ..model.outer import put, take
from ..model.sampler import Sampler
from .classifier_distance import digits_distances
from .uncertainty import half_width, half_width_of_ratio

BINS = 20
SHARES = (0.0, 0.25, 0.5, 0.75)


def _batches(
    recipe: Recipe,
    experiment: Experiment,
    part: tuple[Tensor, Tensor],
    stream: str,
    first: int | None = None,
) -> Any:
    """(x, y, noise, log_det) of a part of the data, or its first items, batch by batch,
    on the model's device.
    """
    device = experiment.device
    for i in torch.arange(len(part[0]) if first is None else first).split(recipe.evaluation.batch):
        image, y = part[0][i].to(device), part[1][i].to(device)
        noise = Noise.of(i.to(device), stream).at(Stream.FIRST_DRAW)
        x, log_det = experiment.codec.encode(image, noise.at(Stream.CODEC))
        yield x, y, noise.at(Stream.MODEL), log_det


@dataclass(frozen=True)
class HeldOut:
    """What one walk over the held-out data, answered with the truth, sees.

    Arguments:
        nats: log p of each feature given what precedes it; u: its probability integral transform;
            both [n, N, D], or None.
        weights: of a mixture's components, the mean over each item, [n, K], or None.
        log_det: of the codec, the mean over items.
    """

    nats: Tensor | None
    u: Tensor | None
    weights: Tensor | None
    log_det: float


@torch.no_grad()
def held_out(recipe: Recipe, experiment: Experiment) -> HeldOut:
    """Walk once over the held-out data."""
    model, walked = experiment.model, "pit" in experiment.model.inner.capabilities
    nats, u, weights, log_dets = [], [], [], []
    for x, y, noise, log_det in _batches(
        recipe, experiment, experiment.source.held_out, "held out"
    ):
        placed, uses = [torch.zeros_like(x), torch.zeros_like(x)], []
        for z, where in model.outer.conditions(x, model.labels(y), noise, recipe.sampler.steps):
            density, t = model.inner(z), take(x, where)
            if walked:
                terms = (density.by_feature(t), density.pit(t))
                placed = [
                    put(whole, where, term.to(x.dtype))
                    for whole, term in zip(placed, terms, strict=True)
                ]
            if (used := density.given(t).weights()) is not None:
                uses.append(used.flatten(1, -2).double())

        if uses:
            weights.append(torch.cat(uses, 1).mean(1).cpu())
        nats.append(placed[0].cpu())
        u.append(placed[1].cpu())
        log_dets.append(log_det.cpu())

    return HeldOut(
        torch.cat(nats).double() if walked else None,
        torch.cat(u).double() if walked else None,
        torch.cat(weights) if weights else None,
        torch.cat(log_dets).double().mean().item(),
    )


def bits_by_place(seen: HeldOut) -> dict[str, Any]:
    """Bits/dim by feature [D] and by token [N]. The log-determinant of the
    codec is spread evenly.
    """
    if seen.nats is None:
        return {}
    bits = -(seen.nats.mean(0) + seen.log_det / seen.nats[0].numel()) / math.log(2)
    return {"by_feature": bits.mean(0).tolist(), "by_token": bits.mean(1).tolist()}


def calibration(seen: HeldOut) -> dict[str, Any]:
    """Histogram of the probability integral transform, and its largest distance from uniform, over
    features and of each.
    """
    if seen.u is None:
        return {}

    u = seen.u.flatten(0, 1)
    shares = torch.histc(u, BINS, 0, 1) / u.numel()
    each = [ks_from_uniform(column) for column in u.unbind(-1)]

    return {
        "pit": shares.tolist(),
        "pit_distance": ks_from_uniform(u.flatten()),
        "pit_distance_by_feature": each,
    }


def components(seen: HeldOut) -> tuple[dict[str, float], dict[str, float]]:
    """Of a mixture: the effective number of components, and how many are dead (see
    `component_usage`); and the former's half-width.

    To first order an item of weights w moves e^entropy(p) by -e^entropy(p) Σ (w - p) log p. A
    count has no such width.
    """
    if seen.weights is None:
        return {}, {}
    effective, dead = component_usage(seen.weights)
    mean = seen.weights.mean(0)
    moved = -effective * (seen.weights - mean) @ mean.clamp(min=1e-300).log()
    values = {"components/effective": effective, "components/dead": dead}
    return values, {"components/effective": half_width(moved)}


@torch.no_grad()
def memorisation(
    recipe: Recipe, experiment: Experiment, generated: Tensor | None, bits: Tensor | None
) -> tuple[dict[str, float], dict[str, float]]:
    """The gap of training to held-out likelihood, and whether samples lie nearer to training images
    than held-out ones do.

    Arguments:
        generated: images [n, …] or None where nothing was generated.
        bits: bits/dim of each held-out image, or None where the model has no likelihood.

    Returns:
        bits/dim of as many training images as are held out, held-out minus training bits/dim, and
        the mean distance to the nearest training image of samples over that of held-out images (1:
        no nearer; towards 0: copies), in grey levels; and the half-width of each over images.
    """
    source, codec = experiment.source, experiment.codec
    n = min(len(source.train[0]), len(source.held_out[0]))

    values: dict[str, float] = {}
    noise: dict[str, float] = {}
    if bits is not None:
        nats = [
            (experiment.model.log_prob(x, y, streams, recipe.sampler.steps) + log_det)
            .cpu()
            .double()
            for x, y, streams, log_det in _batches(
                recipe, experiment, source.train, "trained on", n
            )
        ]
        trained = -torch.cat(nats) / (codec.dims * math.log(2))
        values["train/bits_per_dim"] = trained.mean().item()
        values["train/gap_bits_per_dim"] = (bits.mean() - trained.mean()).item()
        noise["train/bits_per_dim"] = half_width(trained)
        noise["train/gap_bits_per_dim"] = math.hypot(half_width(bits), half_width(trained))

    if generated is not None and source.digits:
        near, usual = (
            _nearest(images, source.train[0]) for images in (generated[:n], source.held_out[0])
        )
        values["quality/nearest_train_ratio"] = (near.mean() / usual.mean()).item()
        noise["quality/nearest_train_ratio"] = half_width_of_ratio(near, usual)

    return values, noise


def _nearest(images: Tensor, train: Tensor) -> Tensor:
    """Euclidean distance of each image to its nearest training image, in grey levels: [n]."""
    flat = train.flatten(1).float()
    return torch.cat(
        [torch.cdist(part.flatten(1).float(), flat).amin(1) for part in images.split(256)]
    )


@torch.no_grad()
def prefix(recipe: Recipe, experiment: Experiment) -> list[dict[str, float]]:
    """For each share of true tokens: what the free-running rest is worth.

    Returns:
        `share`; `fd_digits` of the completed held-out images under the recipe's sampler (images
        only); bits/dim of the tokens after the prefix, `true` ones and the model's `own` (drawn
        without guidance at temperature 1), both teacher-forced
        under the same model: where the density is right they are alike.
    """
    source, codec, model = experiment.source, experiment.codec, experiment.model
    steps, rows = recipe.sampler.steps, []
    for share in SHARES:
        row, images, bits = {"share": share}, [], {"true": 0.0, "own": 0.0}
        count = 0
        for x, y, noise, log_det in _batches(recipe, experiment, source.held_out, "prefix"):
            if source.digits:
                images.append(
                    codec.decode(model.generate(y, noise, recipe.sampler, (x, share))[0]).cpu()
                )
            if "pit" in model.inner.capabilities:
                drawn = DrawnTokens(x.shape[:2], x.device)
                own, _ = model.generate(y, noise, Sampler(steps=steps), (x, share), observe=drawn)
                free = drawn.at
                for name, tokens in (("true", x), ("own", own)):
                    nats = model.by_place(
                        tokens, y, noise, steps, lambda density, t: density.by_feature(t)
                    )
                    even = log_det.double().mean() / codec.dims
                    bits[name] -= (nats[free].double() + even).sum().item() / math.log(2)
                count += int(free.sum()) * codec.features

        if images:
            row["fd_digits"] = digits_distances(torch.cat(images), source.train[0])["fd_digits"]
        rows.append(
            {**row, **({name: value / count for name, value in bits.items()} if count else {})}
        )

    return rows


class DrawnTokens(Observer):
    """Notes which tokens a generation draws: `at` [B, N] is false where a prefix gives them."""

    def __init__(self, shape: torch.Size, device: torch.device) -> None:
        self.at = torch.zeros(shape, dtype=torch.bool, device=device)

    def after_draw(self, z: Tensor, where: Tensor, drawn_from: Density, x: Tensor) -> None:
        self.at.scatter_(1, where, True)


class GuidedSteps(Observer):
    """Compares, at each step, the density that tokens are drawn from with the conditional.

    Attributes:
        shift: the mean of log drawn_from(x) - log conditional(x), by feature [D], of each step.
        cut: the share of truncated conditionals, likewise.
    """

    def __init__(self, model: Arinar) -> None:
        self.model = model
        self.shift: list[Tensor] = []
        self.truncated: list[Tensor] = []

    def after_draw(self, z: Tensor, where: Tensor, drawn_from: Density, x: Tensor) -> None:
        conditional = self.model.inner(z)
        self.shift.append((drawn_from.by_feature(x) - conditional.by_feature(x)).mean((0, 1)))
        self.truncated.append(drawn_from.truncated(x).double().mean((0, 1)))


@torch.no_grad()
def guidance(recipe: Recipe, experiment: Experiment, images: int = 256) -> dict[str, list[float]]:
    """KL(drawn ‖ conditional) in nats and the share of truncated conditionals, by step of the
    walk and by feature.

    `drawn` is the conditional as the recipe's sampler guides and tempers it. The divergence is the
    mean of log drawn(x) - log conditional(x) over what is drawn.
    """
    model, sampler = experiment.model, recipe.sampler
    if "pit" not in model.inner.capabilities or sampler.candidates:
        return {}
    seeds = torch.arange(images, device=experiment.device)
    steps = GuidedSteps(model)
    model.generate(
        seeds % experiment.source.classes, Noise.of(seeds, "sample"), sampler, observe=steps
    )

    kl, truncated = torch.stack(steps.shift).cpu(), torch.stack(steps.truncated).cpu()
    return {
        "kl_by_step": kl.sum(1).tolist(),
        "kl_by_feature": kl.mean(0).tolist(),
        "truncated_by_step": truncated.mean(1).tolist(),
        "truncated_by_feature": truncated.mean(0).tolist(),
    }
