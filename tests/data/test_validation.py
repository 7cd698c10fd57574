"""The validation part: disjoint from training, alike by class, repeatable, and of every kind
of data.
"""

import pickle

import pytest
import torch
from tiny import tiny

from arinar_lab.config.build import build
from arinar_lab.config.sections import parse_recipe
from arinar_lab.data.latent_cache import Moments
from arinar_lab.data.loader import BatchDataset
from arinar_lab.data.sources import Digits, Synthetic
from arinar_lab.data.validation import (
    SelectedImages,
    Validation,
    ValidationSource,
    split_items,
)
from arinar_lab.errors import ConfigError


def test_the_parts_are_disjoint_and_together_are_the_training_images():
    whole = Digits()
    split = ValidationSource(whole, Validation(share=0.2, seed=3))
    assert split.counts == (1150, 287) == (len(split.train[1]), len(split.held_out[1]))

    indices = torch.cat(split_items(whole.train[1], 287, seed=3))
    assert indices.sort().values.equal(torch.arange(1437))
    train, held_out = split_items(whole.train[1], 287, seed=3)
    assert split.train[0].equal(whole.train[0][train])
    assert split.held_out[0].equal(whole.train[0][held_out])
    assert split.held_out[1].equal(whole.train[1][held_out])


def test_a_class_gives_its_share_but_for_one_image():
    labels = torch.tensor([0] * 500 + [1] * 50 + [2] * 5)[torch.randperm(555)]
    _, held_out = split_items(labels, 111, seed=0)
    counts = labels[held_out].bincount(minlength=3)
    assert (counts - torch.tensor([100, 10, 1])).abs().max() <= 1


def test_each_class_keeps_an_image_to_train_on():
    labels = torch.tensor([0, 1, 1, 2, 2, 2])
    train, held_out = split_items(labels, 3, seed=0)
    assert labels[train].unique().tolist() == [0, 1, 2] and len(held_out) == 3
    with pytest.raises(ValueError, match="6 training images are too few to set 4 aside"):
        split_items(labels, 4, seed=0)


def test_a_seed_repeats_its_split_and_another_has_another():
    labels = Digits().train[1]
    first, again, other = (split_items(labels, 287, seed)[1] for seed in (1, 1, 2))
    assert first.equal(again) and not first.equal(other)


def test_the_part_is_never_larger_than_what_is_held_out():
    source = Synthetic(train=1000, held_out=30)
    assert ValidationSource(source, Validation(share=0.5)).counts == (970, 30)
    assert len(ValidationSource(source, Validation(share=0.5)).held_out[1]) == 30


def test_synthetic_tokens_are_split_and_keep_their_true_density():
    source = Synthetic(train=100, held_out=50)
    split = ValidationSource(source, Validation())
    x, y = split.held_out
    assert split.counts == (80, 20) and not split.pictures
    assert split.log_prob(x, y).equal(source.log_prob(x, y))


class Lazy:
    """Images that are read on demand, as a latent cache has them: item i + n is mirrored."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return torch.arange(2 * self.n)[i]


def test_images_that_are_read_on_demand_are_selected_and_mirrored_by_index():
    selected = SelectedImages(Lazy(10), torch.tensor([2, 5, 9]))
    assert len(selected) == 3 and selected[:2].tolist() == [2, 5] and int(selected[1]) == 5
    assert selected[torch.tensor([2, 3, 4])].tolist() == [9, 12, 15]  # 3 and 4 are 0 and 1 mirrored
    assert selected[torch.tensor([], dtype=torch.long)].tolist() == []

    data = BatchDataset((pickle.loads(pickle.dumps(selected)), torch.tensor([7, 8, 9])), flip=True)
    images, labels, index = data.__getitems__([0, 5])
    assert (images.tolist(), labels.tolist(), index.tolist()) == ([2, 19], [7, 9], [0, 2])


def test_a_part_that_cannot_be_split_is_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"^data: 4 training images are too few to set a share"):
        build(
            parse_recipe(
                {
                    "data": {"kind": "synthetic", "train": 4},
                    "codec": "tokens",
                    "outer": "causal",
                    "inner": {"kind": "feature_ar", "head": "gmm"},
                    "training": {"batch": 1},
                    "validation": {},
                }
            ),
            "meta",
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("validation={share: 0}", "validation.share: 0 is not between 0 and 1"),
        ("validation={share: 1}", "validation.share: 1 is not between 0 and 1"),
        ("validation={seed: -1}", "validation.seed: -1 is outside"),
        ("validation={part: 0.2}", "validation.part: unknown key"),
        ("validation=0.2", "validation: 0.2 is not a section"),
    ],
)
def test_bad_numbers_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        tiny(words)


def test_a_batch_must_fit_what_is_left_to_train_on():
    with pytest.raises(ConfigError, match="1200 exceeds the 1150 training images, without the val"):
        build(tiny("training.batch=1200", "validation.share=0.2"), "meta")
    build(tiny("training.batch=1200"), "meta")


def test_a_recipe_is_signed_by_its_split_and_only_where_it_has_one():
    plain, split = tiny(), tiny("validation={}")
    signatures = {plain.training_signature, split.training_signature}
    signatures |= {tiny(f"validation.{w}").training_signature for w in ("seed=1", "share=0.1")}
    assert len(signatures) == 4 and tiny("validation=null").training_signature in signatures
    assert tiny("validation=null").training_signature == plain.training_signature
    assert split.evaluation_signature == plain.evaluation_signature


def test_moments_of_a_latent_cache_are_split_by_index(monkeypatch):
    moments = Moments([], 4, 2, views=2)
    monkeypatch.setattr(Moments, "_item", lambda self, j: torch.tensor(j))
    selected = SelectedImages(moments, torch.tensor([1, 3]))
    assert selected[torch.tensor([0, 1, 2, 3])].tolist() == [1, 3, 5, 7]
