"""The properties that every registered member must have, as functions of a
density, a head or a model.

A new member passes them by being registered: tests/test_laws.py runs them over the whole of
HEADS, OUTERS and NORMS.
"""

from __future__ import annotations

from functools import partial

import torch
from scipy.stats import ks_2samp
from torch import Tensor

from arinar_lab.model.arinar import Arinar
from arinar_lab.model.checks import (  # noqa: F401
    guided_error,
    integral,
    ks_distance,
    normal_numbers,
    randomise,
    rows_of,
)
from arinar_lab.model.heads import HEADS
from arinar_lab.model.inner.head import Head, HeadFactory
from arinar_lab.model.layers import initialise
from arinar_lab.model.noise import Noise
from arinar_lab.model.outer import OUTERS, Outer, take  # noqa: F401
from arinar_lab.model.sampler import Sampler

CONTEXT, FEATURES, TOKENS, CLASSES = 8, 4, 6, 3
INSIDE = {"width": 16, "depth": 2, "heads": 2}
ARGUMENTS = {
    "feature_ar": lambda: {"head": HEADS["gmm"], **INSIDE},
    "nested": lambda: {"outer": partial(OUTERS["causal"], **INSIDE), "inner": HEADS["gmm"]},
}
"""What a head that is built from others needs to be told: called for its arguments."""
_NETWORK = {"width": 16, "depth": 2}
SMALL: dict[str, dict[str, int]] = {
    "byte": {"exponents": 4, "bits": 2, "width": 16},
    "diffusion": {**_NETWORK, "sampling_steps": 5, "repeats": 2},
    "flow": {**_NETWORK, "steps": 3, "repeats": 2},
    "energy": {**_NETWORK, "noise": 5, "draws": 3},
}
"""Arguments that make the costlier heads small."""


def maker_of(kind: str, **arguments: int) -> HeadFactory:
    """A small head of this kind, with what it is built from."""
    return partial(
        HEADS[kind], **ARGUMENTS.get(kind, dict)(), **{**SMALL.get(kind, {}), **arguments}
    )


def make_head(
    kind: str,
    inside: bool,
    features: int = FEATURES,
    dtype: torch.dtype = torch.float64,
    **arguments,
) -> Head:
    """A head of this kind, directly on z or inside a feature_ar, with random
    weights and fitted buffers.
    """
    maker = maker_of(kind, **arguments)
    head = (
        HEADS["feature_ar"](CONTEXT, features, head=maker, **INSIDE, group=2)
        if inside
        else maker(CONTEXT, features)
    )
    initialise(head, 0)
    head.fit(normal_numbers(500, 1, features, seed=1, dtype=torch.float32))

    return randomise(head.to(dtype)).eval()


def make_model(
    outer: str,
    kind: str,
    inside: bool,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    **arguments,
) -> Arinar:
    """A small bi-level model with random weights; `arguments` go to the outer model."""
    depth = {"encoder_depth": 1, "decoder_depth": 1} if outer == "masked" else {"depth": 2}
    head = maker_of(kind)
    # an AR over one feature would have parts that nothing uses
    group = 2 if kind in ARGUMENTS else 1
    inner = partial(HEADS["feature_ar"], head=head, group=group, **INSIDE) if inside else head
    maker = partial(OUTERS[outer], width=16, heads=2, **depth, **arguments)
    model = Arinar(TOKENS, FEATURES, CLASSES, maker, inner, seed=seed)
    model.inner.fit(normal_numbers(500, 1, FEATURES, seed=1, dtype=torch.float32))

    return randomise(model.to(dtype)).eval()


def feature_leak(head: Head, j: int) -> Tensor:
    """How much each term of log p, or of the loss where there is none, moves when feature j does:
    [G], in their order.
    """
    density, x = head(normal_numbers(5, CONTEXT)), normal_numbers(5, FEATURES, seed=2)
    moved = x.clone()
    moved[:, j] += 1.0
    if "log_prob" in head.capabilities:
        before, after = (density.terms(value, images(5)) for value in (x, moved))
    else:
        at = torch.arange(head.groups).expand(5, -1)
        before, after = (
            b.loss(g, images(5).at(at))
            for g, b in (density._teacher_force(value) for value in (x, moved))
        )

    return (after - before).abs().amax(0)


def walked(model: Arinar, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(z, where) of the sampler's own walk, step by step and cached, answered
    with the true tokens.
    """
    return Outer.conditions(model.outer, x, model.labels(labels(len(x))), images(len(x)))


def labels(n: int) -> Tensor:
    return torch.arange(n) % CLASSES


def images(n: int) -> Noise:
    return Noise.of(torch.arange(n))


def samples(model: Arinar, seeds: Tensor, sampler: Sampler) -> Tensor:
    """Generated tokens of each seed, whose label is the seed's too."""
    return model.generate(seeds % CLASSES, Noise.of(seeds), sampler)[0]


def learns(head: Head, steps: int = 400, batch: int = 256) -> None:
    """A head of context 1 and two features is shown x₁ ~ ±z ± 0.15 with a fair sign and
    x₂ = x₁ + 0.3·ε, and must draw it.
    """

    def truth(n: int, seed: int) -> tuple[Tensor, Tensor]:
        noise = Noise.of(torch.arange(n), f"truth {seed}")
        z = 0.5 + noise.at(0).uniform(1, torch.float32)
        sign = torch.where(noise.at(1).uniform(1) < 0.5, 1.0, -1.0)
        first = sign * z + 0.15 * noise.at(2).normal(1)
        return z, torch.cat([first, first + 0.3 * noise.at(3).normal(1)], -1)

    initialise(head, 0)
    head.fit(truth(1000, -2)[1].unsqueeze(1))
    optimiser = torch.optim.Adam(head.parameters(), lr=3e-3)
    with torch.enable_grad():
        for step in range(steps):
            z, x = truth(batch, step)
            optimiser.zero_grad()
            head(z).loss(x, Noise.of(torch.arange(batch), f"step {step}")).mean().backward()
            optimiser.step()
    with torch.no_grad():
        z, x = truth(4000, -1)
        drawn = head(z).sample(Noise.of(torch.arange(4000), "drawn"))
    for part in (z.squeeze(-1) < 1, z.squeeze(-1) > 1):  # the condition is read
        for direction in (torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])):
            distance = ks_2samp(
                (drawn[part] @ direction).numpy(), (x[part] @ direction).numpy()
            ).statistic
            assert distance < 0.15  # untrained, three of the four are above 0.3
