"""Twenty steps of our training are twenty steps of ARINAR's released training loop.

`tests/data/arinar_train_*.npz` hold what that loop read and made, in float32 on a CPU: initial
weights, batches, orders, masked ratios and hidden labels; losses, weights and averaged weights
after 20 steps. The small model has dropout 0.

Adam divides a gradient by its own size, so where that is near zero it enlarges rounding. Hence a
mean over all numbers is held to 1e-5 of the largest move, and the largest difference to 1e-3; in
double precision our own loop is as far from the released one. The bias of outer keys is left out:
it changes no output, and its gradient is rounding alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from released import read_shapes, read_tensors
from safetensors.torch import load_file, save_file
from tiny import EXPERIMENTS
from torch import Tensor

from arinar_lab.config.build import build
from arinar_lab.config.files import merge, read_overrides, read_recipe
from arinar_lab.config.sections import parse_recipe
from arinar_lab.data import loader
from arinar_lab.model.layers import Block
from arinar_lab.model.noise import Noise
from arinar_lab.model.pretrained.names import parameter_names, translate_state
from arinar_lab.runs.folder import RunFolder
from arinar_lab.training import module as lightning_module
from arinar_lab.training import train

STEPS = 20
SMALL = [
    "data={kind: latents, path: data, size: 4, classes: 10}",
    "codec={kind: latents, scale: 0.2325}",
    "outer.width=48",
    "outer.heads=3",
    "outer.encoder_depth=2",
    "outer.decoder_depth=2",
    "outer.prefix=8",
    "outer.steps=16",
    "outer.dropout=0",
    "inner.width=64",
    "training.batch=16",
    f"training.steps={STEPS}",
    "training.lr_per_256=null",
    "training.lr=1e-3",
    "training.precision=32-true",
    "evaluation.images=5",
    "evaluation.kid_subset=2",
    "machine={accelerator: cpu, threads: 1, workers: 0}",
]
CASES = {
    "plain": ["training.warmup=0", "training.ema=0.9999"],
    "warmup": [f"training.warmup={STEPS}", "training.ema=0.9"],
}


class Recorded:
    """The random numbers of the released loop in the place of `Noise`, by the path of
    `at` that leads to them.
    """

    def __init__(self, record: dict[str, Tensor], path: tuple[object, ...], images: Tensor) -> None:
        self.record, self.path, self.images = record, path, images

    @property
    def key(self) -> Tensor:
        return self.images

    def at(self, i: int | Tensor) -> Recorded:
        if isinstance(i, Tensor):  # of images, then of tokens
            return Recorded(self.record, (*self.path, "image"), i if i.dim() == 1 else self.images)
        return Recorded(self.record, (*self.path, i), self.images)

    def permutation(self, n: int) -> Tensor:
        assert self.path[1:] == ("image", 1, 0, 0)
        return self.record["orders"].flatten(0, 1)[self._place()]

    def uniform(self, n: int) -> Tensor:
        if self.path[1:] == ("image", 1, 2):  # of labels
            return self.record["label_uniforms"].flatten()[self._place()].unsqueeze(-1)
        # the inverse of what the masked ratio is made of
        assert self.path[1:] == ("image", 1, 0, 2) and n == 1
        ratio = self.record["mask_ratios"][self.path[0]]
        low = torch.special.ndtr(torch.tensor(-0.3 / 0.25, dtype=torch.float64))
        return ((torch.special.ndtr((ratio - 1) / 0.25) - low) / (0.5 - low)).reshape(1, 1)

    def _place(self) -> Tensor:
        """Where the images stand among those of all batches."""
        return self.record["batch_indices"].flatten().argsort()[self.images]


class Watched(Callback):
    """The loss of each step, and the weights after the last."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.weights: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer, module, *_):
        self.losses.append(module._batch_loss.item())
        if trainer.global_step == STEPS:
            self.weights = {name: p.detach().clone() for name, p in module.model.named_parameters()}


def load(name: str) -> dict[str, Tensor]:
    return {
        key: value if value.is_floating_point() else value.long()
        for key, value in read_tensors(f"{name}.npz").items()
    }


def train_as_recorded(
    monkeypatch, record: dict[str, Tensor], start: dict[str, Tensor], *overrides: str
):
    """The preset, made small, trained by `train` with what was recorded: (watched,
    averaged weights, names).
    """
    Path("data").mkdir()
    items = {"latents": record["latents"], "labels": record["labels"]}
    save_file(items, "data/train.safetensors")
    save_file(
        {name: value[:8].clone() for name, value in items.items()}, "data/held_out.safetensors"
    )
    watched, our_names = Watched(), {}
    make_trainer = train._trainer

    def make_watched(*words):
        trainer = make_trainer(*words)
        trainer.callbacks.append(watched)
        return trainer

    def start_as_released(recipe, experiment):
        experiment.model.load_state_dict(translate_state(start, experiment.model))
        our_names.update(parameter_names(experiment.model))
        return []

    class Drawn(Noise):
        @classmethod
        def of(cls, seeds, stream=""):
            return Recorded(record, (), seeds) if stream == "train" else Noise.of(seeds, stream)

    monkeypatch.setattr(train, "_trainer", make_watched)
    monkeypatch.setattr(train, "load_initial_weights", start_as_released)
    monkeypatch.setattr(lightning_module, "Noise", Drawn)
    monkeypatch.setattr(
        loader.EpochOrder,
        "of_all",
        lambda self: record["batch_indices"].flatten()[self.start : self.end],
    )
    preset = read_recipe(EXPERIMENTS / "imagenet256_arinar_b.yaml")
    folder = RunFolder(Path("run"))
    train.train(parse_recipe(merge(preset, read_overrides([*SMALL, *overrides]))), folder)
    averaged = {
        name.removeprefix("model."): value for name, value in load_file(folder.weights).items()
    }
    return watched, averaged, our_names


def without_key_bias(name: str, difference: Tensor, size: int) -> Tensor:
    """Differences at every `stride`-th number of a parameter, without those of
    an outer model's keys.
    """
    if not name.endswith("attn.qkv.bias"):
        return difference
    place = torch.arange(size)[:: stride(size)]
    return difference[(place < size // 3) | (place >= 2 * size // 3)]


def stride(size: int) -> int:
    """Of the numbers of a parameter that the file holds: odd, so that all rows
    and columns have some.
    """
    return max(1, size // 64) | 1


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_are_those_of_the_released_loop(monkeypatch, case):
    record, start = load("arinar_train_expected"), load("arinar_train_start")
    watched, averaged, names = train_as_recorded(monkeypatch, record, start, *CASES[case])
    assert np.abs(np.array(watched.losses) - record[f"{case}/losses"].numpy()).max() < 2e-6
    largest = record[f"{case}/largest_move"].item()
    for kind, actual in (("weights", watched.weights), ("ema", averaged)):
        differences = []
        for published, name in names.items():
            values = actual[name].flatten()
            difference = values[:: stride(len(values))] - record[f"{case}/{kind}/{published}"]
            differences.append(without_key_bias(published, difference, len(values)))
        all_of_them = torch.cat(differences).double().abs() / largest
        assert len(all_of_them) > 4500
        assert all_of_them.square().mean().sqrt() < 1e-5, kind
        assert (all_of_them <= 1e-5).double().mean() > 0.95, kind
        assert all_of_them.max() < 1e-3, kind

    for published, name in names.items():  # every number counts here
        move = (watched.weights[name].flatten() - start[published].flatten()).double().norm()
        assert move.item() == pytest.approx(record[f"{case}/move/{published}"].item(), rel=2e-3), (
            published
        )


# What the presets say


def preset(name: str):
    return parse_recipe(read_recipe(EXPERIMENTS / f"imagenet256_{name}.yaml"))


PINNED = {  # batch, peak, steps, warm-up, schedule, decay, clip, average
    "arinar_b": (256, 1e-4, 400 * 5004, 100 * 5004, "constant", 0.02, 3.0, 0.9999),
    "arinar_b_causal": (256, 1e-4, 400 * 5004, 100 * 5004, "constant", 0.02, 3.0, 0.9999),
    "arinar_b_fast": (256, 1e-4, 400 * 5004, 100 * 5004, "constant", 0.02, 3.0, 0.9999),
    "mar_b": (2048, 8e-4, 800 * 625, 100 * 625, "constant", 0.02, 3.0, 0.9999),
    "fractalmar_b": (1024, 2e-4, 800 * 1251, 40 * 1251, "cosine", 0.05, 3.0, 0.0),
}


@pytest.mark.parametrize("name", PINNED)
def test_a_preset_is_trained_as_released(name):
    t = preset(name).training
    assert (
        t.batch,
        t.peak,
        t.steps,
        t.warmup,
        t.schedule,
        t.weight_decay,
        t.clip,
        t.ema,
    ) == PINNED[name]
    assert t.steps % (1_281_167 // t.batch) == 0  # whole epochs of ImageNet
    assert t.betas == (0.9, 0.95) and t.warmup_from_zero and t.initialisation == "published"
    assert t.ema == 0 or t.ema_from_initial


DECAYING = {"arinar_b": 200_240_640, "mar_b": 171_929_088, "fractalmar_b": 185_999_808}
HEADS = {"arinar_b": "arhead.", "mar_b": "diffloss.", "fractalmar_b": "no head"}


@pytest.mark.parametrize("name", DECAYING)
def test_what_decays_is_what_the_release_lets_decay(name):
    """By the released rule on the released names and shapes: no vector, no bias, nothing of
    ARINAR's and MAR's heads.
    """
    recipe = preset(name)
    model = build(recipe, "meta").model
    shapes = read_shapes(name, "param")
    released = {
        key for key, shape in shapes.items() if len(shape) > 1 and not key.endswith(".bias")
    }
    released -= {key for key in released if key.startswith(HEADS[name])}
    decay, keep = lightning_module.decay_groups(model, recipe.training.weight_decay_on)
    our_names, actual = parameter_names(model), dict(model.named_parameters())

    assert {id(p) for p in decay} == {id(actual[our_names[key]]) for key in released}
    assert len(decay) + len(keep) == len(actual)
    assert sum(p.numel() for p in decay) == DECAYING[name]


@pytest.mark.parametrize(
    ("name", "blocks"), [("arinar_b", 28), ("mar_b", 24), ("fractalmar_b", 33)]
)
def test_dropout_is_that_of_the_released_blocks(name, blocks):
    """Twice in the feed-forward of each masked level's blocks; none in the
    heads and colour models.
    """
    parts = [
        part for part in build(preset(name), "meta").model.modules() if isinstance(part, Block)
    ]
    dropped = [part for part in parts if part.attention.dropout]
    assert len(dropped) == blocks
    for part in parts:
        twice = part in dropped
        assert part.feed_forward[3].p == part.attention.dropout == (0.1 if twice else 0.0)
        assert part.feed_forward.drops_hidden == twice


def test_a_process_of_the_release_holds_the_images_that_share_a_masked_ratio():
    assert [
        build(preset(name), "meta").model.outer.mask_group for name in ("arinar_b", "mar_b")
    ] == [64, 64]


def test_initial_weights_have_the_released_scales():
    """Of each tensor, its deviation, within what chance does to so many numbers;
    and biases are zero.
    """
    start = load("arinar_train_start")
    overrides = ["training.initialisation=published", *SMALL]
    recipe = parse_recipe(
        merge(read_recipe(EXPERIMENTS / "imagenet256_arinar_b.yaml"), read_overrides(overrides))
    )
    model = build(recipe).model
    actual = dict(model.named_parameters())

    for published, name in parameter_names(model).items():
        expected, computed = (
            start[published].flatten().double(),
            actual[name].detach().flatten().double(),
        )
        # gates are not of the scale of the others
        if "ada_lin" in published and published.endswith("weight"):
            third = len(computed) // 3
            assert computed[:third].std().item() == pytest.approx(
                expected[:third].std().item(), rel=0.1
            ), published
        spread = expected.square().mean().sqrt().item()
        assert computed.square().mean().sqrt().item() == pytest.approx(
            spread, rel=6 / len(computed) ** 0.5
        ), published


def test_mar_heads_start_their_time_embedding_as_released():
    recipe = parse_recipe(
        merge(
            read_recipe(EXPERIMENTS / "imagenet256_mar_b.yaml"),
            read_overrides([*SMALL, "inner.depth=1"]),
        )
    )
    network = build(recipe).model.inner.network
    assert network.time[0].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert network.time[2].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not network.output.weight.any()
