"""Memory of generation: caches, packed weights and noise are gone when a batch is drawn."""

from __future__ import annotations

import gc

import laws
import pytest
import torch

from arinar_lab.model.sampler import Sampler


def alive() -> int:
    gc.collect()
    return sum(issubclass(type(value), torch.Tensor) for value in gc.get_objects())


@pytest.mark.parametrize(
    ("outer", "inside", "steps"), [("causal", False, None), ("masked", True, 2)]
)
def test_a_hundred_batches_leave_nothing_behind(outer, inside, steps):
    model, sampler = laws.make_model(outer, "gmm", inside, torch.float32), Sampler(steps=steps)
    laws.samples(model, torch.arange(2), sampler)
    before = alive()
    for seed in range(100):
        laws.samples(model, torch.tensor([seed, seed + 1]), sampler)
    assert alive() == before
