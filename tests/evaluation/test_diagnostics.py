"""The diagnosis of a run: its numbers where they are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny

from arinar_lab.cli import main
from arinar_lab.config.build import build
from arinar_lab.evaluation import diagnostics
from arinar_lab.evaluation.evaluate import likelihood
from arinar_lab.model.heads.mixture import component_usage
from arinar_lab.model.noise import Noise
from arinar_lab.runs.folder import read_json


def experiment_of(*overrides: str):
    """A tiny recipe and what it builds, with random weights."""
    recipe = tiny(*overrides)
    experiment = build(recipe)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in experiment.model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return recipe, experiment


@pytest.mark.parametrize(
    "outer", ["causal", "{kind: masked, width: 16, encoder_depth: 1, decoder_depth: 1, heads: 2}"]
)
def test_features_and_tokens_add_up_to_the_bits_per_dim(outer):
    overrides = [] if outer == "causal" else [f"outer={outer}"]
    recipe, experiment = experiment_of(*overrides, "inner.order=reversed")
    result = diagnostics.bits_by_place(diagnostics.held_out(recipe, experiment))
    whole = likelihood(recipe, experiment)["val/bits_per_dim"]
    assert np.mean(result["by_feature"]) == pytest.approx(whole, abs=1e-4)
    assert np.mean(result["by_token"]) == pytest.approx(whole, abs=1e-4)
    assert len(result["by_feature"]) == 4 and len(result["by_token"]) == 16


def test_the_transform_of_a_model_s_own_samples_is_uniform_and_of_others_is_not():
    recipe, experiment = experiment_of(
        "data={kind: synthetic, held_out: 400, train: 400}", "codec=tokens"
    )
    y = torch.arange(400) % experiment.source.classes
    x, _ = experiment.model.generate(y, Noise.of(torch.arange(400)), recipe.sampler)
    truth = experiment.source.held_out
    experiment.source.held_out = (x, y)
    own = diagnostics.calibration(diagnostics.held_out(recipe, experiment))
    assert own["pit_distance"] < 1.95 / math.sqrt(400 * 16)  # critical value at 0.1 %
    assert sum(own["pit"]) == pytest.approx(1)

    experiment.source.held_out = truth
    assert (
        diagnostics.calibration(diagnostics.held_out(recipe, experiment))["pit_distance"]
        > 3 * own["pit_distance"]
    )


def test_copies_of_training_images_are_found_out():
    recipe, experiment = experiment_of()
    bits = torch.full((360,), 5.0)
    copies, _ = diagnostics.memorisation(recipe, experiment, experiment.source.train[0][:100], bits)
    assert copies["quality/nearest_train_ratio"] == 0
    honest, noise = diagnostics.memorisation(
        recipe, experiment, experiment.source.held_out[0], bits
    )

    assert honest["quality/nearest_train_ratio"] == pytest.approx(1)
    assert honest["train/gap_bits_per_dim"] == pytest.approx(5.0 - honest["train/bits_per_dim"])
    assert set(noise) == set(honest) and 0 < noise["quality/nearest_train_ratio"] < 0.2
    # all held-out bits are alike
    assert noise["train/gap_bits_per_dim"] == pytest.approx(noise["train/bits_per_dim"])


def test_components_are_counted_where_there_are_any():
    recipe, experiment = experiment_of("inner.head.components=8")
    head = experiment.model.inner.head
    with torch.no_grad():
        head.parameters_of.weight[-8:] = 0
        head.parameters_of.bias[-8:] = torch.tensor(
            [0.0, 0.0, 0.0, 0.0, -20.0, -20.0, -20.0, -20.0]
        )
    result, noise = diagnostics.components(diagnostics.held_out(recipe, experiment))

    assert result["components/effective"] == pytest.approx(4, abs=1e-3)
    assert result["components/dead"] == 4
    assert noise["components/effective"] == pytest.approx(0, abs=1e-6)  # every item uses them alike
    assert diagnostics.components(diagnostics.held_out(*experiment_of("inner.head=discrete"))) == (
        {},
        {},
    )


def test_the_half_width_of_the_effective_number_is_a_bootstrap_s():
    weights = (
        torch.rand(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    )
    weights *= torch.tensor([1.0, 0.7, 0.3, 0.1, 0.1])
    weights /= weights.sum(1, keepdim=True)
    _, noise = diagnostics.components(diagnostics.HeldOut(None, None, weights, 0.0))
    generator = torch.Generator().manual_seed(1)

    drawn = [
        component_usage(weights[torch.randint(200, (200,), generator=generator)])[0]
        for _ in range(1000)
    ]
    assert noise["components/effective"] == pytest.approx(1.97 * np.std(drawn), rel=0.1)


def test_a_prefix_is_kept_and_the_rest_is_drawn():
    recipe, experiment = experiment_of()
    x, y, noise, _ = next(
        diagnostics._batches(recipe, experiment, experiment.source.held_out, "prefix")
    )
    tokens = diagnostics.DrawnTokens(x.shape[:2], x.device)
    drawn, _ = experiment.model.generate(y, noise, recipe.sampler, (x, 0.5), observe=tokens)
    is_prefix = ~tokens.at
    assert is_prefix.sum(1).eq(8).all()
    assert torch.equal(drawn[is_prefix], x[is_prefix])
    assert not (drawn[~is_prefix] == x[~is_prefix]).any()
    rows = diagnostics.prefix(recipe, experiment)

    assert [row["share"] for row in rows] == [0.0, 0.25, 0.5, 0.75]
    assert rows[-1]["distance"] < rows[0]["distance"]  # random weights: the truer the better
    assert rows[0]["true"] == pytest.approx(
        np.mean(diagnostics.bits_by_place(diagnostics.held_out(recipe, experiment))["by_token"]),
        rel=0.02,
    )


def test_the_divergence_of_a_temperature_is_the_closed_form():
    """KL(N(m, t²σ²) ‖ N(m, σ²)) = (t² - 1)/2 - ln t for each feature."""
    recipe, experiment = experiment_of("inner.head=fixed_gaussian", "sampler.temperature=0.5")
    result = diagnostics.guidance(recipe, experiment)
    expected = (0.25 - 1) / 2 - math.log(0.5)
    # four standard errors
    assert result["kl_by_feature"] == pytest.approx([expected] * 4, abs=0.034)
    assert result["kl_by_step"] == pytest.approx([4 * expected] * 16, abs=0.27)
    assert not any(result["truncated_by_step"])

    plain, _ = experiment_of("inner.head=fixed_gaussian")
    assert diagnostics.guidance(plain, experiment)["kl_by_step"] == [0.0] * 16


def test_diagnose_writes_its_numbers_and_its_picture(tmp_path, monkeypatch, capsys):
    from tiny import finished

    monkeypatch.chdir(tmp_path)
    folder = finished(tiny("sampler.guidance=2"))
    with pytest.raises(SystemExit) as left:
        main(["diagnose", str(folder.path)])
    assert left.value.code == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines() if "diagnosis" in line]
    assert [path.name for path in written] == ["diagnosis.json", "diagnosis.png"]
    content = read_json(written[0])
    assert len(content["prefix"]) == 4 and max(content["guidance"]["kl_by_step"]) > 0
    assert written[1].stat().st_size > 20_000
