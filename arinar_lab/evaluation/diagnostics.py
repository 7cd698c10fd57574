"""Diagnostics of a trained model. Part of every report, as far as the head supports them:

    by_feature, by_token    bits/dim on held-out data, split by feature and by token; the mean of
                            each is val/bits_per_dim
    pit                     histogram of F(x | preceding values) over held-out data: flat where
                            the densities are right
    components              of a mixture: the effective number exp(entropy of the mean
                            weights), and the dead ones
    memorisation            likelihood of training against held-out images, and distance of samples
                            from training images

and by `arinar diagnose RUN`, which generates:

    prefix                  tokens after a share of true ones are drawn: Fréchet distance, and
                            bits/dim of drawn continuations against those of the true ones. A good
                            density whose samples are bad accumulates errors; one that is bad from
                            the start is a bad density
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
from .classifier_distance import features_of, frechet_distance
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
    """Yield batches (x, y, noise, log_det) of a part of the data, or of its first items."""
    device = experiment.device
    for i in torch.arange(len(part[0]) if first is None else first).split(recipe.evaluation.batch):
        image = part[0][i].to(device)
        y = part[1][i].to(device)
        noise = Noise.of(i.to(device), stream).at(Stream.FIRST_DRAW)
        x, log_det = experiment.codec.encode(image, noise.at(Stream.CODEC))
        yield x, y, noise.at(Stream.MODEL), log_det


@dataclass(frozen=True)
class HeldOut:
    """Measurements of one walk over the held-out data, given the true tokens.

    Arguments:
        nats: log p of each feature given the preceding ones, [n, N, D], or None.
        u: Probability integral transform of each feature, [n, N, D], or None.
        weights: Weights of a mixture's components, the mean over each item, [n, K], or None.
        log_det: Log-determinant of the codec, the mean over items.
    """

    nats: Tensor | None
    u: Tensor | None
    weights: Tensor | None
    log_det: float


@torch.no_grad()
def held_out(recipe: Recipe, experiment: Experiment) -> HeldOut:
    """Walk once over the held-out data."""
    model = experiment.model
    has_features = "pit" in model.inner.capabilities
    nats = []
    u = []
    weights = []
    log_dets = []
    for x, y, noise, log_det in _batches(
        recipe, experiment, experiment.source.held_out, "held out"
    ):
        item_nats = torch.zeros_like(x)
        item_u = torch.zeros_like(x)
        item_weights = []
        for z, where in model.outer.conditions(x, model.labels(y), noise, recipe.sampler.steps):
            density = model.inner(z)
            t = take(x, where)
            if has_features:
                item_nats = put(item_nats, where, density.by_feature(t).to(x.dtype))
                item_u = put(item_u, where, density.pit(t).to(x.dtype))
            step_weights = density.given(t).weights()
            if step_weights is not None:
                item_weights.append(step_weights.flatten(1, -2).double())

        if item_weights:
            weights.append(torch.cat(item_weights, 1).mean(1).cpu())
        nats.append(item_nats.cpu())
        u.append(item_u.cpu())
        log_dets.append(log_det.cpu())

    return HeldOut(
        torch.cat(nats).double() if has_features else None,
        torch.cat(u).double() if has_features else None,
        torch.cat(weights) if weights else None,
        torch.cat(log_dets).double().mean().item(),
    )


def bits_by_place(walk: HeldOut) -> dict[str, Any]:
    """Return bits/dim by feature [D] and by token [N]; the codec's share is spread evenly."""
    if walk.nats is None:
        return {}
    bits = -(walk.nats.mean(0) + walk.log_det / walk.nats[0].numel()) / math.log(2)
    return {"by_feature": bits.mean(0).tolist(), "by_token": bits.mean(1).tolist()}


def calibration(walk: HeldOut) -> dict[str, Any]:
    """Return the histogram of the probability integral transform and its distance from uniform.

    The distance is the largest one, over all features and of each.
    """
    if walk.u is None:
        return {}

    u = walk.u.flatten(0, 1)
    shares = torch.histc(u, BINS, 0, 1) / u.numel()
    return {
        "pit": shares.tolist(),
        "pit_distance": ks_from_uniform(u.flatten()),
        "pit_distance_by_feature": list(map(ks_from_uniform, u.unbind(-1))),
    }


def components(walk: HeldOut) -> tuple[dict[str, float], dict[str, float]]:
    """Count a mixture's effective and dead components (see `component_usage`).

    The half-width is the effective number's: to first order an item of weights w moves e^entropy(p)
    by -e^entropy(p) Σ (w - p) log p. A count has no such width.
    """
    if walk.weights is None:
        return {}, {}
    effective, dead = component_usage(walk.weights)
    mean = walk.weights.mean(0)
    shifts = -effective * (walk.weights - mean) @ mean.clamp(min=1e-300).log()
    values = {"components/effective": effective, "components/dead": dead}
    return values, {"components/effective": half_width(shifts)}


@torch.no_grad()
def memorisation(
    recipe: Recipe, experiment: Experiment, generated: Tensor | None, bits: Tensor | None
) -> tuple[dict[str, float], dict[str, float]]:
    """Compare training with held-out likelihood, and samples' distances to training images.

    Arguments:
        recipe: The run's recipe.
        experiment: Its data and trained model.
        generated: Images [n, …] or None where nothing was generated.
        bits: Bits/dim of each held-out image, or None where the model has no likelihood.

    Returns:
        bits/dim of as many training images as are held out, held-out minus training bits/dim, and
        the mean distance to the nearest training image of samples over that of held-out images (1:
        no nearer; towards 0: copies), in grey levels; and the half-width of each over images.
    """
    source = experiment.source
    n = min(len(source.train[0]), len(source.held_out[0]))

    values: dict[str, float] = {}
    noise: dict[str, float] = {}
    if bits is not None:
        nats = []
        for x, y, streams, log_det in _batches(recipe, experiment, source.train, "trained on", n):
            log_prob = experiment.model.log_prob(x, y, streams, recipe.sampler.steps) + log_det
            nats.append(log_prob.cpu().double())
        trained = -torch.cat(nats) / (experiment.codec.dims * math.log(2))
        values["train/bits_per_dim"] = trained.mean().item()
        values["train/gap_bits_per_dim"] = (bits.mean() - trained.mean()).item()
        noise["train/bits_per_dim"] = half_width(trained)
        noise["train/gap_bits_per_dim"] = math.hypot(half_width(bits), half_width(trained))

    if generated is not None and source.classifier:
        distances = _nearest(generated[:n], source.train[0])
        baseline = _nearest(source.held_out[0], source.train[0])
        values["quality/nearest_train_ratio"] = (distances.mean() / baseline.mean()).item()
        noise["quality/nearest_train_ratio"] = half_width_of_ratio(distances, baseline)

    return values, noise


def _nearest(images: Tensor, train: Tensor) -> Tensor:
    """Return each image's Euclidean distance to its nearest training image, in grey levels: [n]."""
    flat = train.flatten(1).float()
    parts = images.flatten(1).float().split(256)
    return torch.cat([torch.cdist(part, flat).amin(1) for part in parts])


@torch.no_grad()
def prefix(recipe: Recipe, experiment: Experiment) -> list[dict[str, float]]:
    """Measure the tokens that the model draws after each share of true ones.

    Returns:
        for each share: `share`; `distance` of the completed held-out images under the recipe's
        sampler, where a classifier knows them; bits/dim of the tokens after the prefix, `true` ones
        and the model's `own` (drawn without guidance at temperature 1), both teacher-forced under
        the same model: where the density is right they are alike.
    """
    source = experiment.source
    rows = []
    for share in SHARES:
        row = {"share": share}
        if source.classifier:
            features = features_of(_completed(recipe, experiment, share), source.classifier)
            target = features_of(source.train[0], source.classifier)
            row["distance"] = frechet_distance(features, target)
        if "pit" in experiment.model.inner.capabilities:
            row |= _bits_after(recipe, experiment, share)
        rows.append(row)

    return rows


def _completed(recipe: Recipe, experiment: Experiment, share: float) -> Tensor:
    """Complete held-out images after a share of true tokens: [n, …]."""
    images = []
    for x, y, noise, _ in _batches(recipe, experiment, experiment.source.held_out, "prefix"):
        tokens, _ = experiment.model.generate(y, noise, recipe.sampler, (x, share))
        images.append(experiment.codec.decode(tokens).cpu())
    return torch.cat(images)


def _bits_after(recipe: Recipe, experiment: Experiment, share: float) -> dict[str, float]:
    """Return bits/dim of `true` and drawn (`own`) tokens after a share of true ones."""
    model = experiment.model
    codec = experiment.codec
    steps = recipe.sampler.steps
    bits = {"true": 0.0, "own": 0.0}
    count = 0
    for x, y, noise, log_det in _batches(recipe, experiment, experiment.source.held_out, "prefix"):
        drawn = DrawnTokens(x.shape[:2], x.device)
        completed, _ = model.generate(y, noise, Sampler(steps=steps), (x, share), observe=drawn)
        even = log_det.double().mean() / codec.dims
        for name, tokens in (("true", x), ("own", completed)):
            nats = model.by_place(tokens, y, noise, steps, lambda density, t: density.by_feature(t))
            bits[name] -= (nats[drawn.at].double() + even).sum().item() / math.log(2)
        count += int(drawn.at.sum()) * codec.features

    return {name: value / count for name, value in bits.items()} if count else {}


class DrawnTokens(Observer):
    """Notes which tokens a generation draws: `at` [B, N] is false for those of the prefix."""

    def __init__(self, shape: torch.Size, device: torch.device) -> None:
        self.at = torch.zeros(shape, dtype=torch.bool, device=device)

    def after_draw(self, z: Tensor, where: Tensor, drawn_from: Density, x: Tensor) -> None:
        self.at.scatter_(1, where, True)


class GuidedSteps(Observer):
    """Compares, at each step, the density that tokens are drawn from with the conditional.

    Attributes:
        shift: Mean of log drawn_from(x) - log conditional(x) by feature [D], for each step.
        truncated: Share of truncated conditionals by feature [D], for each step.
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
    """Measure KL(drawn ‖ conditional) in nats and truncated conditionals, by step and by feature.

    `drawn` is the conditional as the recipe's sampler guides and tempers it. The divergence is the
    mean of log drawn(x) - log conditional(x) over the drawn tokens.
    """
    model = experiment.model
    sampler = recipe.sampler
    if "pit" not in model.inner.capabilities or sampler.candidates:
        return {}
    seeds = torch.arange(images, device=experiment.device)
    y = seeds % experiment.source.classes
    steps = GuidedSteps(model)
    model.generate(y, Noise.of(seeds, "sample"), sampler, observe=steps)

    kl = torch.stack(steps.shift).cpu()
    truncated = torch.stack(steps.truncated).cpu()
    return {
        "kl_by_step": kl.sum(1).tolist(),
        "kl_by_feature": kl.mean(0).tolist(),
        "truncated_by_step": truncated.mean(1).tolist(),
        "truncated_by_feature": truncated.mean(0).tolist(),
    }
