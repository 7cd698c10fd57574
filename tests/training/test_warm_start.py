"""A run that starts from another: what it takes over, what stays frozen, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import finished, tiny

from arinar_lab.config.build import build
from arinar_lab.errors import ConfigError
from arinar_lab.runs.folder import RunFolder
from arinar_lab.training.train import train
from arinar_lab.training.warm_start import cache_frozen_outer, load_initial_weights


@pytest.fixture
def base(tmp_path, monkeypatch) -> RunFolder:
    monkeypatch.chdir(tmp_path)
    return finished(tiny(), RunFolder(Path("runs/base/seed_0")))


def trained(recipe, name: str) -> dict[str, torch.Tensor]:
    folder = RunFolder(Path("runs") / name / "seed_0")
    folder.path.mkdir(parents=True)
    train(recipe, folder)
    return load_file(folder.weights)


def test_a_frozen_outer_model_stays_bit_for_bit_and_a_new_inner_learns(base):
    before = load_file(base.weights)
    recipe = tiny("init_from=runs/base/seed_0", "freeze=outer", "inner.head.components=2")
    after = trained(recipe, "frozen")
    fresh = build(recipe).model.state_dict()
    kept = [name for name in after if not name.startswith("model.inner.")]
    assert len(kept) > 20
    assert all(torch.equal(after[name], before[name]) for name in kept)

    moved = [name for name in after if name.startswith("model.inner.") and name.endswith("weight")]
    assert all(not torch.equal(after[name], fresh[name.removeprefix("model.")]) for name in moved)


def test_the_kept_conditions_are_those_of_the_first_steps(base):
    """While no pass is repeated, training on kept conditions is training with
    a frozen outer model.
    """
    recipe = tiny("init_from=runs/base/seed_0", "freeze=outer", "labels.drop=0.5")
    experiment = build(recipe)
    load_initial_weights(recipe, experiment)
    kept = cache_frozen_outer(recipe, experiment, torch.device("cpu"))
    assert kept is not None and len(kept.batches) == recipe.training.steps
    z, x, where, index = kept.at(1)
    assert z.shape[0] == recipe.training.batch and torch.equal(kept.at(7)[3], index)
    from arinar_lab.model.noise import Noise
    from arinar_lab.training.datamodule import DataModule

    loader = iter(
        DataModule(experiment.source, recipe.training.batch, recipe.seed).train_dataloader()
    )
    next(loader)
    image, y, positions = next(loader)
    assert torch.equal(positions, index)
    noise = Noise.of(torch.full_like(index, recipe.seed), "train").at(1).at(index)
    tokens, _ = experiment.codec.encode(image, noise.at(0))
    with torch.no_grad():
        expected, _ = experiment.model.outer(
            tokens, experiment.model.labels(y, noise.at(1).at(2)), noise.at(1).at(0)
        )
    assert torch.allclose(z, expected, atol=1e-6)
    assert torch.equal(x, tokens.gather(1, where.unsqueeze(-1).expand_as(x)))


def test_without_freezing_everything_that_fits_is_the_start_and_all_of_it_learns(base):
    before = load_file(base.weights)
    recipe = tiny("init_from=runs/base/seed_{seed}", "outer.depth=2")
    experiment = build(recipe)
    assert sorted(load_initial_weights(recipe, experiment)) == sorted(before)
    assert torch.equal(
        experiment.model.outer.token_of.weight, before["model.outer.token_of.weight"]
    )

    after = trained(recipe, "longer")
    assert not torch.equal(
        after["model.outer.token_of.weight"], before["model.outer.token_of.weight"]
    )


def test_statistics_of_another_codec_are_measured_anew(base):
    recipe = tiny("init_from=runs/base/seed_0", "codec.normalise=channel")
    taken = load_initial_weights(recipe, build(recipe))
    assert taken and not [name for name in taken if name.startswith("codec.")]
    after = trained(recipe, "scaled")
    assert after["codec.std"].max() < 1  # measured: afresh it is 1


def test_a_resumed_frozen_run_ends_as_if_it_had_not_stopped(base):
    recipe = tiny("init_from=runs/base/seed_0", "freeze=outer")
    whole = trained(recipe, "whole")
    folder = RunFolder(Path("runs/parts/seed_0"))
    folder.path.mkdir(parents=True)
    train(recipe, folder)
    (folder.path / "DONE").unlink()
    folder.weights.unlink()
    newest = sorted(
        folder.checkpoints.glob("step=*.ckpt"), key=lambda path: int(path.stem.split("=")[1])
    )
    if len(newest) > 1:
        newest[-1].unlink()
    train(recipe, folder)

    again = load_file(folder.weights)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["init_from=runs/none", "freeze=outer"], "init_from: runs/none: not a run folder"),
        (
            ["init_from=runs/base/seed_0", "freeze=outer", "outer.width=24", "outer.heads=2"],
            "freeze: outer keeps runs/base/seed_0 as it is, where outer.width is 16; here it is 24",
        ),
        (
            ["init_from=runs/base/seed_0", "freeze=outer", "codec.patch=4"],
            "where codec.patch is 2; here it is 4",
        ),
        (
            ["init_from=runs/base/seed_0", "freeze=outer", "outer.positions=sine"],
            "outer.positions is learned",
        ),
        (
            ["init_from=runs/base/seed_0", "freeze=outer", "outer.qk_norm=false"],
            "outer.qk_norm is True",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(base, overrides, message):
    recipe = tiny(*overrides)
    with pytest.raises(ConfigError, match=message):
        train(recipe, RunFolder(Path("runs/new/seed_0")))
    assert not Path("runs/new").exists()


def test_an_unfinished_or_damaged_source_is_refused(base):
    recipe = tiny("init_from=runs/base/seed_0")
    base.weights.write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="damaged"):
        load_initial_weights(recipe, build(recipe))
    base.weights.unlink()
    with pytest.raises(ConfigError, match="has not finished training"):
        load_initial_weights(recipe, build(recipe))
    with pytest.raises(ConfigError, match="freeze"):
        tiny("freeze=outer")
