"""The laws as a user measures them: shipped heads pass, and each way to be wrong is found
by the law it breaks.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from arinar_lab.model.checks import check, ks_from_uniform
from arinar_lab.model.density import Factorised
from arinar_lab.model.heads import HEADS
from arinar_lab.model.heads.shapes import Mixture1D
from arinar_lab.model.noise import Noise

LAWS = ["∫ p - 1", "∫ p up to x", "samples", "temperature", "guidance", "guided", "gradient"]


class Wrong(HEADS["logistic"]):
    """A mixture whose row is replaced."""

    row = Mixture1D

    def forward(self, h, index=0):
        mixture = super().forward(h, index).every
        return Factorised(
            self.row(mixture.mean, mixture.log_std, mixture.log_weight, mixture.shape)
        )


def broken(**methods):
    """A head whose row has other methods."""
    row = type("Row", (Mixture1D,), methods)
    return partial(type("Broken", (Wrong,), {"row": row}), components=2)


def failed(maker):
    return [law.name for law in check(maker) if not law.holds]


@pytest.mark.parametrize("kind", ["gmm", "discrete"])
def test_shipped_heads_obey_the_laws(kind):
    laws = check(HEADS[kind])
    assert [law.name for law in laws if not law.holds] == []
    assert all(word in law.name for word, law in zip(LAWS, laws, strict=True))


def test_a_density_that_is_too_high_does_not_integrate_to_one():
    high = broken(log_prob=lambda self, x: Mixture1D.log_prob(self, x) + 0.1)
    laws = {law.name: law.measured for law in check(high)}
    assert laws["largest |∫ p - 1|"] == pytest.approx(0.105, abs=0.001)


def test_a_cdf_of_another_density_is_found():
    wide = broken(cdf=lambda self, x: Mixture1D.cdf(replace(self, log_std=self.log_std + 0.2), x))
    assert "largest |F(x) - ∫ p up to x|" in failed(wide)


def test_samples_of_another_density_are_found():
    shifted = broken(sample=lambda self, noise: Mixture1D.sample(self, noise) + 0.5)
    failures = failed(shifted)
    assert any("samples from p" in name for name in failures) and not any(
        "∫" in name for name in failures
    )


def test_a_temperature_that_does_nothing_to_the_samples_is_found():
    def tempered(self, t):
        cold = Mixture1D.tempered(self, t)
        return type(
            "Cold", (Mixture1D,), {"sample": lambda cold, noise: Mixture1D.sample(self, noise)}
        )(cold.mean, cold.log_std, cold.log_weight, cold.shape)

    assert failed(broken(tempered=tempered)) == ["the same at temperature 0.5"]


def test_parameters_that_learn_nothing_are_counted():
    class Idle(HEADS["gmm"]):
        def __init__(self, *words, **names):
            super().__init__(*words, **names)
            self.idle = torch.nn.Parameter(torch.zeros(3))

    assert failed(Idle) == ["parameters without a gradient"]


def test_a_density_of_a_whole_token_has_no_such_laws():
    with pytest.raises(
        ValueError, match="Diffusion: its density is not walked one feature at a time"
    ):
        check(partial(HEADS["diffusion"], width=8, depth=1, sampling_steps=2))


def test_the_distance_from_uniform_is_scipys():
    from scipy.stats import kstest

    for power in (1, 2):
        u = Noise.of(torch.tensor(0)).uniform(500) ** power
        assert ks_from_uniform(u) == pytest.approx(
            kstest(u.numpy(), "uniform").statistic, abs=1e-12
        )
