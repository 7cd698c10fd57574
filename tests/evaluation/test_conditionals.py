"""What a model believes about one token: densities whose values are known, as
learned and as drawn from.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from test_diagnostics import experiment_of

from arinar_lab.evaluation.conditionals import _condition_of, conditionals, most_varied_conditionals
from arinar_lab.evaluation.evaluate import likelihood
from arinar_lab.model.noise import Noise
from arinar_lab.report.density_figures import density_panel


def under(recipe, **sampler):
    return replace(recipe, sampler=replace(recipe.sampler, **sampler))


def moments(result, item=0):
    """Mass, mean and deviation of each feature's curve."""
    x, p = result["grid"], result["density"][item]
    step = x[:, 1] - x[:, 0]
    mass = p.sum(-1) * step
    p = p * (step / np.maximum(mass, 1e-9))[:, None]
    mean = (p * x).sum(-1)
    return mass, mean, np.sqrt((p * (x - mean[:, None]) ** 2).sum(-1))


def test_beliefs_are_densities_and_know_the_true_value():
    recipe, experiment = experiment_of("sampler.guidance=3")
    densities = most_varied_conditionals(recipe, experiment)
    step = densities["grid"][:, 1] - densities["grid"][:, 0]
    mass = (densities["density"].sum(-1) * step).max()
    assert 0.5 < mass < 1.02
    x, _ = experiment.codec.encode(
        experiment.source.held_out[0][:3], Noise.of(torch.arange(3), "held out").at(0).at(0)
    )
    assert np.allclose(densities["true"], x[:, int(densities["token"])])
    c, token = experiment.model.labels(experiment.source.held_out[1][:3]), int(densities["token"])
    z = _condition_of(experiment, x, c, Noise.of(torch.arange(3)), token, None)

    exact = experiment.model.inner(z).by_feature(x[:, token]).detach().exp()
    for b in range(3):
        for f in range(4):
            near = np.interp(
                densities["true"][b, f], densities["grid"][f], densities["density"][b, f]
            )
            assert near == pytest.approx(exact[b, f].item(), rel=0.05)

    ax = Figure().subplots()
    density_panel(ax, {"one": densities}, feature=1)
    curve, true = ax.lines

    assert np.allclose(curve.get_ydata() ** 2, densities["density"][0, 1])
    assert true.get_xdata()[0] == densities["true"][0, 1]


def test_the_bits_of_all_tokens_add_up_to_the_bits_per_dim():
    recipe, experiment = experiment_of()
    experiment.source.held_out = tuple(part[:20] for part in experiment.source.held_out)
    each = [conditionals(recipe, experiment, range(20), token, 2)["bits"] for token in range(16)]
    assert np.mean(each) == pytest.approx(
        likelihood(recipe, experiment)["val/bits_per_dim"], abs=1e-4
    )


def test_temperature_narrows_what_is_drawn_from():
    recipe, experiment = experiment_of("inner.head={kind: fixed_gaussian, std: 0.2}")
    (mass, mean, std), (cool_mass, cool_mean, cool_std) = (
        moments(conditionals(under(recipe, temperature=t), experiment, range(5, 6), 5, 500))
        for t in (1.0, 0.5)
    )
    inside = (mass > 0.999) & (cool_mass > 0.999)

    assert inside.any()
    assert cool_std[inside] == pytest.approx(std[inside] / 2, rel=0.01)
    assert cool_mean[inside] == pytest.approx(mean[inside], abs=1e-3)


def test_guidance_moves_away_from_the_null_by_its_weight():
    """Of two Gaussians of one width the guided one has its mean at m + (w - 1)(m - m_null)."""
    recipe, experiment = experiment_of("inner.head={kind: fixed_gaussian, std: 0.1}")
    plain, none, guided = (
        moments(conditionals(under(recipe, guidance=w), experiment, range(5, 6), 5, 500))
        for w in (1.0, 0.0, 1.5)
    )
    inside = (plain[0] > 0.999) & (none[0] > 0.999) & (guided[0] > 0.999)

    assert inside.any()
    assert guided[1][inside] == pytest.approx(
        (plain[1] + 0.5 * (plain[1] - none[1]))[inside], abs=2e-3
    )


def test_what_is_not_walked_is_drawn():
    recipe, experiment = experiment_of(
        "inner={kind: energy, width: 8, depth: 1, noise: 4, draws: 2}"
    )
    densities = conditionals(recipe, experiment, range(2), 5)
    mass, _, _ = moments(densities)
    assert densities["drawn"] == 1 and "bits" not in densities
    assert (mass <= 1.02).all()


@pytest.mark.parametrize(("items", "token"), [(range(360, 361), 0), (range(1), 16), (range(1), -1)])
def test_what_is_not_there_is_refused(items, token):
    recipe, experiment = experiment_of()
    with pytest.raises(IndexError, match=r"of 360, token .* of 16: out of range"):
        conditionals(recipe, experiment, items, token)
