"""Data: the fixed split of the digits, batches in a resumable order, tokens whose true density
is known, and files.
"""

import math

import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import kstest
from sklearn.datasets import load_digits
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader

from arinar_lab.data.loader import BatchDataset, EpochOrder, ResumableLoader
from arinar_lab.data.sources import Digits, ImageTensors, LatentTensors, Source, Synthetic
from arinar_lab.training.datamodule import DataModule


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
        return [
            (*image.flatten().tolist(), label)
            for image, label in zip(images, y.tolist(), strict=True)
        ]

    data = load_digits()
    everything = sorted(
        (*map(int, row), int(label)) for row, label in zip(data.data, data.target, strict=True)
    )
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


def test_images_of_more_grey_levels_are_no_digits(digits):
    """The digits classifier knows 17 levels, and would see 256 of them as
    sixteen times too bright.
    """
    images = ImageTensors(path="nowhere", channels=1, size=8, classes=10)
    assert (digits.classifier, images.classifier) == ("digits", None)


def test_nobody_knows_the_density_of_digits(digits):
    assert digits.log_prob(*digits.held_out) is None
    assert Source().log_prob(torch.zeros(1), torch.zeros(1)) is None


# Order


def order(seed, epoch, n=40):
    sampler = EpochOrder(n, seed)
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
    """The items of so many batches, taken as Lightning does: iter() once an epoch,
    its end never reached.
    """
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
    joint = (
        synthetic.log_prob(many, y.repeat_interleave(len(grid))).exp().unflatten(0, (len(x), -1))
    )
    # the same process, one step less
    shorter = Synthetic(tokens=1, features=15, train=1, held_out=1)

    before = shorter.log_prob(x.flatten(1)[:, :-1].unsqueeze(1), y).exp()
    assert torch.allclose(torch.trapezoid(joint, grid), before, rtol=1e-6)


@pytest.mark.parametrize("side", [-1, 1])
def test_samples_follow_the_documented_process(side):
    """Their probability integral transform is uniform, given a past on one side (on both,
    errors would cancel).
    """
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
    assert synthetic.train[0].shape == (20_000, 4, 4) and synthetic.held_out[0].shape == (
        1_000,
        4,
        4,
    )
    assert synthetic.train[1].bincount().min() > 6_000
    assert (
        len(torch.cat([synthetic.train[0], synthetic.held_out[0]]).flatten(1).unique(dim=0))
        == 21_000
    )


@pytest.mark.parametrize(
    ("name", "value"), [("tokens", 0), ("train", 0), ("classes", 0), ("std", 0.0), ("std", -1.0)]
)
def test_synthetic_data_refuse_numbers_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"^{name}: {value}"):
        Synthetic(**{"train": 10, "held_out": 10, name: value})


# Stored


def store(place, **tensors):
    """Training and held-out files of 6 images 3×4×4, or of other tensors."""
    numbers = torch.Generator().manual_seed(0)
    images = torch.randint(256, (6, 3, 4, 4), generator=numbers, dtype=torch.uint8)
    content = {
        "images": images,
        "latents": images.float(),
        "labels": torch.arange(6) % 3,
        **tensors,
    }

    for part in ("train", "held_out"):
        save_file(content, place / f"{part}.safetensors")

    return content


def stored(kind, place):
    return kind(path=str(place), channels=3, size=4, classes=3)


LABELS = torch.arange(6) % 3


@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        LABELS[:, None],
        one_hot(LABELS),
        one_hot(LABELS).float(),
        LABELS.to(torch.uint8),
        LABELS.float(),
    ],
    ids=["labels", "column", "one_hot", "one_hot_floats", "bytes", "floats"],
)
def test_labels_may_be_a_column_or_one_hot(tmp_path, labels):
    store(tmp_path, labels=labels.contiguous())
    _, y = stored(ImageTensors, tmp_path).train
    assert y.dtype == torch.int64 and torch.equal(y, LABELS)


def changed(tensor, i, value):
    tensor = tensor.clone()
    tensor[i] = value
    return tensor


SHAPES = r"they have to be \[6\], or one-hot \[6, 3\]"
BAD_LABELS = {
    "two columns": (LABELS[:, None].expand(6, 2), rf"labels are \(6, 2\); {SHAPES}"),
    "one-hot of other classes": (one_hot(LABELS, 4), rf"labels are \(6, 4\); {SHAPES}"),
    "shares": (torch.full((6, 3), 1 / 3), rf"labels are \(6, 3\); {SHAPES}"),
    "fewer": (LABELS[:5], rf"labels are \(5,\); {SHAPES}"),
    "one number": (torch.tensor(1), rf"labels are \(\); {SHAPES}"),
    "negative": (changed(LABELS, 4, -1), r"1 labels outside 0 … 2; that of item 4 is -1"),
    "beyond the classes": (LABELS + 1, r"2 labels outside 0 … 2; that of item 2 is 3"),
    "fractions": (
        changed(LABELS.float(), 3, 0.5),
        r"1 labels that are no whole numbers; that of item 3 is 0\.5",
    ),
    "NaN": (
        changed(LABELS.float(), 5, math.nan),
        r"1 labels that are no whole numbers; that of item 5 is nan",
    ),
}


@pytest.mark.parametrize("what", BAD_LABELS)
def test_labels_of_other_shapes_and_values_are_refused(tmp_path, what):
    labels, words = BAD_LABELS[what]
    store(tmp_path, labels=labels.contiguous())
    with pytest.raises(ValueError, match=rf"^path: .*train\.safetensors.*{words}") as caught:
        stored(ImageTensors, tmp_path).prepare()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
def test_images_of_another_type_are_refused_with_how_to_save_them(tmp_path, dtype):
    images = store(tmp_path)["images"]
    store(tmp_path, images=(images / 255).to(dtype))
    with pytest.raises(
        ValueError, match=r"train\.safetensors': its images are \w+, not uint8; .*\(255 \* images\)"
    ):
        stored(ImageTensors, tmp_path).prepare()


def test_latents_have_to_be_finite_floats(tmp_path):
    latents = store(tmp_path)["latents"]
    assert torch.equal(stored(LatentTensors, tmp_path).train[0], latents)
    latents[1, 0, 0, 0], latents[4, 2] = math.nan, math.inf
    store(tmp_path, latents=latents)
    with pytest.raises(
        ValueError,
        match=r"train\.safetensors': 2 of 6 latents hold NaN or infinity; the first is item 1",
    ):
        stored(LatentTensors, tmp_path).prepare()

    store(tmp_path, latents=latents.nan_to_num(0, 0).long())
    with pytest.raises(ValueError, match=r"its latents are int64, not float32 or"):
        stored(LatentTensors, tmp_path).prepare()


def test_missing_damaged_and_misshapen_files_are_refused_in_one_line(tmp_path):
    def refused(words):
        with pytest.raises(ValueError, match=words) as caught:
            stored(ImageTensors, tmp_path).prepare()
        assert str(caught.value).startswith("path: ") and "\n" not in str(caught.value)

    refused("is not there")
    store(tmp_path, images=torch.zeros(6, 3, 5, 4, dtype=torch.uint8))
    refused(r"its images are \(6, 3, 5, 4\), not \[n, \(3, 4, 4\)\]")
    file = tmp_path / "train.safetensors"
    save_file({"pixels": torch.zeros(3)}, file)
    refused("lacks images; it holds pixels")
    store(tmp_path)
    whole = file.read_bytes()
    for raw in (
        b"",
        b"text",
        whole[:100],
        whole[:-1],
        b"\xff" * 8 + whole[8:],
        whole[:8] + b"[" * len(whole),
    ):
        file.write_bytes(raw)
        refused(r"train\.safetensors: damaged")
    file.unlink()
    file.mkdir()
    refused("is not there")


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), EOFError()])
def test_a_reader_that_died_is_named(monkeypatch, error):
    """What a killed process of a DataLoader looks like from outside."""

    def read(_):
        raise error

    loader = ResumableLoader(BatchDataset((torch.arange(10), torch.zeros(10))), 2, 0)
    monkeypatch.setattr(DataLoader, "__iter__", read)
    with pytest.raises(RuntimeError, match=r"reads images ahead \(machine.workers\) has died"):
        next(iter(loader))


def test_examples_are_training_images_of_the_labels_in_turn(digits):
    """Of the training images' own labels they are the training images."""
    images, labels = digits.train
    assert torch.equal(digits.examples(labels[:50]), images[:50])
    threes = images[labels == 3]
    assert torch.equal(digits.examples(torch.tensor([3, 3])), threes[:2])
    wrapped = digits.examples(torch.full((len(threes) + 1,), 3))
    assert torch.equal(wrapped[-1], threes[0])
    with pytest.raises(ValueError, match="label 10 has no training item"):
        digits.examples(torch.tensor([10]))
