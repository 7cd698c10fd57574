"""Data: the fixed split of the digits, batches in a resumable order, and tokens whose true density is known."""

import math

import pytest
import torch
from scipy.stats import kstest
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

from arinar_lab.run.data import Digits, Source, Synthetic
from arinar_lab.run.datamodule import DataModule
from arinar_lab.run.loader import Items, Order, ResumableLoader


@pytest.fixture(scope="module")
def digits():
    return Digits()


@pytest.fixture(scope="module")
def synthetic():
    return Synthetic(train=20_000, held_out=1_000)


# Digits


def test_the_split_is_disjoint_and_complete(digits):
    (train, y_train), (held_out, y_held_out) = digits.train, digits.held_out
    assert (len(train), len(held_out)) == (1437, 360)

    def rows(images, y):
        return [(*image.flatten().tolist(), label) for image, label in zip(images, y.tolist(), strict=True)]

    data = load_digits()
    everything = sorted((*map(int, row), int(label)) for row, label in zip(data.data, data.target, strict=True))
    assert sorted(rows(train, y_train) + rows(held_out, y_held_out)) == everything


def test_the_split_is_fixed(digits):
    """Numbers on held-out digits compare only while nobody moves the split."""
    assert digits.held_out[1][:12].tolist() == [9, 9, 4, 6, 5, 9, 6, 4, 9, 3, 0, 1]
    assert digits.train[1][:12].tolist() == [4, 4, 7, 3, 9, 0, 9, 6, 1, 9, 9, 0]
    assert int(digits.held_out[0].long().sum()) == 112_509


def test_digits_are_grey_levels_of_the_shape_they_claim(digits):
    images, y = digits.train
    assert images.dtype == torch.uint8 and tuple(images.shape[1:]) == digits.shape
    assert (int(images.min()), int(images.max())) == (0, digits.levels - 1)
    assert set(y.tolist()) == set(range(digits.classes))


def test_nobody_knows_the_density_of_digits(digits):
    assert digits.log_prob(*digits.held_out) is None
    assert Source().log_prob(torch.zeros(1), torch.zeros(1)) is None


# Order


def order(seed, epoch, n=40):
    sampler = Order(n, seed)
    sampler.epoch = epoch
    return list(sampler)


def test_the_order_is_a_permutation_fixed_by_seed_and_epoch():
    assert sorted(order(3, 5)) == list(range(40))
    assert order(3, 5) == order(3, 5)


def test_the_order_differs_between_seeds_and_epochs():
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def loader(digits, seed=0, batch=200):
    return DataModule(digits, batch, seed).train_dataloader()


def indices(loader, batches):
    """The items of so many batches, taken as Lightning does: iter() once an epoch, its end never reached."""
    taken = []
    while len(taken) < batches:
        for _, _, index in loader:
            taken.append(index.tolist())
            if len(taken) == batches or loader.done == len(loader):
                break
    return taken


def test_an_epoch_holds_each_item_once_and_no_rest(digits):
    epoch = indices(loader(digits), 7)
    assert [len(batch) for batch in epoch] == [200] * 7
    assert len({i for batch in epoch for i in batch}) == 1400


def test_a_batch_is_image_label_and_index(digits):
    image, y, index = next(iter(loader(digits)))
    assert torch.equal(image, digits.train[0][index]) and torch.equal(y, digits.train[1][index])


def test_every_epoch_has_an_order_of_its_own(digits):
    taken = indices(loader(digits), 21)
    assert taken[0] != taken[7] != taken[14] != taken[0]


def test_two_loaders_of_one_seed_hand_out_the_same(digits):
    assert indices(loader(digits), 10) == indices(loader(digits), 10)
    assert indices(loader(digits), 10) != indices(loader(digits, seed=1), 10)


@pytest.mark.parametrize("stop", [1, 4, 7, 9, 14])
def test_a_loader_goes_on_where_its_state_was_saved(digits, stop):
    straight = indices(loader(digits), 20)
    first, second = loader(digits), loader(digits)
    before = indices(first, stop)
    second.load_state_dict(first.state_dict())
    assert before + indices(second, 20 - stop) == straight


def test_exhausted_iterators_advance_the_epoch_too(digits):
    a = loader(digits)
    epochs = [[batch[2].tolist() for batch in a] for _ in range(2)]
    assert epochs[0] + epochs[1] == indices(loader(digits), 14)


def test_the_order_does_not_touch_the_global_generator(digits):
    torch.manual_seed(1)
    first = indices(loader(digits), 3)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert indices(loader(digits), 3) == first
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_held_out_data_come_whole_and_in_order(digits):
    index = torch.cat([batch[2] for batch in DataModule(digits, 32, 0).val_dataloader()])
    assert index.tolist() == list(range(360))


def test_the_loader_is_one_lightning_saves(digits):
    assert isinstance(loader(digits), ResumableLoader)
    assert set(loader(digits).state_dict()) == {"epoch", "done"}


# Synthetic


def test_the_true_density_integrates_to_one_in_its_last_feature(synthetic):
    x, y = synthetic.held_out[0][:20].double(), synthetic.held_out[1][:20]
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    many = x.repeat_interleave(len(grid), 0)
    many[:, -1, -1] = grid.repeat(len(x))
    joint = synthetic.log_prob(many, y.repeat_interleave(len(grid))).exp().unflatten(0, (len(x), -1))
    shorter = Synthetic(tokens=1, features=15, train=1, held_out=1)  # the same process, one step less
    before = shorter.log_prob(x.flatten(1)[:, :-1].unsqueeze(1), y).exp()
    assert torch.allclose(torch.trapezoid(joint, grid), before, rtol=1e-6)


@pytest.mark.parametrize("side", [-1, 1])
def test_samples_follow_the_documented_process(side):
    """Their probability integral transform is uniform, given a past on one side (on both, errors would cancel)."""
    data = Synthetic(tokens=1, features=3, classes=3, train=8_000, held_out=1)
    normal = torch.distributions.Normal(0.0, data.std)
    row, y = data.train[0].double().flatten(1), data.train[1]
    s, x = row[:, 1], row[:, 2]
    a = torch.sigmoid(2 * s + y - 1)
    u = a * normal.cdf(x - 0.6 * s - 1) + (1 - a) * normal.cdf(x - 0.6 * s + 1)
    assert kstest(u[side * s > 0].numpy(), "uniform").pvalue > 1e-3


def test_the_true_density_is_that_of_the_documented_process(synthetic):
    x, y = synthetic.held_out[0][:50].double(), synthetic.held_out[1][:50]
    row = x.flatten(1)
    s = torch.cat([torch.zeros(50, 1, dtype=torch.float64), row[:, :-1]], 1)
    a = torch.sigmoid(2 * s + y.unsqueeze(-1) - 1)
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.stack([a, 1 - a], -1)),
        torch.distributions.Normal(torch.stack([0.6 * s + 1, 0.6 * s - 1], -1), 0.3),
    )
    assert torch.allclose(synthetic.log_prob(x, y), mixture.log_prob(row).sum(-1))


def test_the_mean_of_the_true_density_is_minus_the_entropy():
    """Of one step, whose entropy is had by quadrature."""
    data = Synthetic(tokens=1, features=1, classes=1, train=40_000, held_out=1, std=0.5)
    x, y = data.train
    grid = torch.linspace(-8, 8, 8001, dtype=torch.float64)
    log_p = data.log_prob(grid.reshape(-1, 1, 1), torch.zeros(len(grid), dtype=torch.long))
    entropy = -torch.trapezoid(log_p.exp() * log_p, grid)
    measured = data.log_prob(x, y)
    assert abs(measured.mean() + entropy) < 4 * measured.std() / math.sqrt(len(x))


def test_the_label_matters_to_the_true_density(synthetic):
    x, y = synthetic.held_out
    right, wrong = synthetic.log_prob(x, y).mean(), synthetic.log_prob(x, (y + 1) % 3).mean()
    assert right > wrong + 0.05


def test_synthetic_data_depend_on_their_seed_alone():
    def draw(**kw):
        return Synthetic(train=50, held_out=10, **kw).train[0]

    assert torch.equal(draw(seed=1), draw(seed=1))
    assert not torch.equal(draw(seed=1), draw(seed=2))


def test_synthetic_parts_differ_and_have_the_sizes_asked_for(synthetic):
    assert synthetic.train[0].shape == (20_000, 4, 4) and synthetic.held_out[0].shape == (1_000, 4, 4)
    assert synthetic.train[1].bincount().min() > 6_000
    assert len(torch.cat([synthetic.train[0], synthetic.held_out[0]]).flatten(1).unique(dim=0)) == 21_000


@pytest.mark.parametrize(("name", "value"), [("tokens", 0), ("train", 0), ("classes", 0), ("std", 0.0), ("std", -1.0)])
def test_synthetic_data_refuse_numbers_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"^{name}: {value}"):
        Synthetic(**{"train": 10, "held_out": 10, name: value})


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), EOFError()])
def test_a_reader_that_died_is_named(monkeypatch, error):
    """What a killed process of a DataLoader looks like from outside."""

    def read(_):
        raise error

    loader = ResumableLoader(Items((torch.arange(10), torch.zeros(10))), 2, 0)
    monkeypatch.setattr(DataLoader, "__iter__", read)
    with pytest.raises(RuntimeError, match=r"reads images ahead \(machine.workers\) has died"):
        next(iter(loader))
