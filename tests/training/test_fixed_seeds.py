"""Seeds of parts of a training's randomness: what each moves, and what it leaves alone."""

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny, write_study

from arinar_lab.config.build import build
from arinar_lab.errors import ConfigError
from arinar_lab.runs.folder import RunFolder
from arinar_lab.study.plan import read_plan
from arinar_lab.training.module import ArinarModule
from arinar_lab.training.train import train

pytestmark = pytest.mark.usefixtures("alone")

PARTS = ("init", "data", "noise")
DRAWN = ("outer.dropout=0.1", "labels.drop=0.3", "training.steps=3")


class Seen(Exception):
    """Ends a training whose draws are seen."""


def weights_of(*overrides):
    recipe = tiny(*DRAWN, *overrides)
    folder = RunFolder.of(recipe, "tiny")
    train(recipe, folder)
    return load_file(folder.weights)


def are_equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_seed_equals_the_same_seed_of_each_part_bit_by_bit():
    plain = weights_of("seed=3")
    of_parts = weights_of("seed=0", *(f"fixed_seeds.{part}=3" for part in PARTS))
    assert are_equal(plain, of_parts)

    # and none of the three may be left out
    for part in PARTS:
        overrides = [f"fixed_seeds.{name}=3" for name in PARTS if name != part]
        assert not are_equal(plain, weights_of("seed=0", *overrides))


def test_init_moves_the_initial_weights_alone():
    recipes = {part: tiny(f"fixed_seeds.{part}=1") for part in PARTS}
    initial = {part: build(recipe).model.state_dict() for part, recipe in recipes.items()}
    plain = build(tiny()).model.state_dict()
    assert not are_equal(initial["init"], plain)
    assert are_equal(initial["data"], plain) and are_equal(initial["noise"], plain)


@pytest.mark.parametrize(("part", "moved"), [("data", {"order", "codec"}), ("noise", {"model"})])
def test_data_and_noise_move_their_own_draws_alone(monkeypatch, part, moved):
    def draws_of(*overrides):
        recipe = tiny("training.steps=1", *overrides)
        drawn = {}
        index = torch.arange(5)

        def loss(module, batch, ratio):
            def encode(images, noise):
                drawn["codec"] = noise.key
                return images, 0.0

            monkeypatch.setattr(module.codec, "encode", encode)
            monkeypatch.setattr(
                module.model, "loss", lambda x, y, noise, ratio: drawn.update(model=noise.key)
            )
            drawn["order"] = module.trainer.train_dataloader.order.of_all()
            loss_of(module, (torch.zeros(5), index, index), ratio)
            raise Seen

        loss_of = ArinarModule.loss_of
        with monkeypatch.context() as patch, pytest.raises(Seen):
            patch.setattr(ArinarModule, "loss_of", loss)
            train(recipe, RunFolder.of(recipe, "tiny"))
        return drawn

    plain, other = draws_of(), draws_of(f"fixed_seeds.{part}=1")
    assert {name for name in plain if not torch.equal(plain[name], other[name])} == moved


def test_a_recipe_without_fixed_seeds_keeps_its_signature_and_one_with_them_has_its_own():
    plain = tiny()
    assert tiny("fixed_seeds={init: null}").training_signature == plain.training_signature
    signatures = {plain.training_signature}
    for part in PARTS:
        for seed in (0, 1):
            signatures.add(tiny(f"fixed_seeds.{part}={seed}").training_signature)
    assert len(signatures) == 7


@pytest.mark.parametrize("seed", ["-1", str(2**32)])
def test_a_seed_out_of_range_is_refused_with_its_key(seed):
    with pytest.raises(ConfigError, match=rf"^fixed_seeds\.data: {seed} is outside"):
        tiny(f"fixed_seeds.data={seed}")


def test_a_seed_of_parts_is_told_where_parts_stand():
    with pytest.raises(ConfigError, match=r"^seed: is one whole number; .* below fixed_seeds$"):
        tiny("seed.init=0")
    for key in ("seed", "seed.init"):
        with pytest.raises(ConfigError, match=rf"{key}: a study repeats .* fixed_seeds\.init"):
            read_plan(write_study(axes={key: [0, 1]}, seeds=[0]))


def test_parts_are_axes_of_a_study():
    plan = read_plan(write_study(axes={f"fixed_seeds.{part}": [0, 1] for part in PARTS}, seeds=[0]))
    assert [arm.name for arm in plan.arms][:2] == [
        "init=0,data=0,noise=0",
        "init=0,data=0,noise=1",
    ]
    assert len({job.folder.path for job in plan.jobs}) == 8


def test_several_seeds_of_an_arm_without_randomness_are_refused():
    axes = {f"fixed_seeds.{part}": [0, 1] for part in PARTS}
    with pytest.raises(ConfigError, match=r"seeds: arm init=0,data=0,noise=0 fixes .*use seeds"):
        read_plan(write_study(axes=axes, seeds=[0, 1]))
    del axes["fixed_seeds.noise"]
    assert len(read_plan(write_study(axes=axes, seeds=[0, 1])).jobs) == 8
