"""Image data: what is cropped, mirrored, skipped and refused; CIFAR-10 and MNIST from files in
their formats; a hub's.
"""

import hashlib
import os
import pickle
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from arinar_lab.config.build import build, prepare_experiment
from arinar_lab.config.sections import parse_recipe
from arinar_lab.data.image_datasets import (
    CIFAR10,
    ENDINGS,
    MNIST,
    Damaged,
    Hub,
    ImageFolder,
    centre_crop,
    damaged_names,
    read_image,
)
from arinar_lab.data.sources import Digits
from arinar_lab.data.validation import Validation, ValidationSource
from arinar_lab.errors import ConfigError
from arinar_lab.quality.image_sets import image_set_of_folder
from arinar_lab.training.datamodule import DataModule

CLASSES = 4


def picture(seed, width=40, height=40):
    """Smooth colours, so that a crop can be told from another."""
    grid = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    """train/ with 3 and val/ with 2 images in each of 4 classes, PNG and JPEG, of several sizes."""
    for part, count in (("train", 3), ("val", 2)):
        for c in range(CLASSES):
            place = tmp_path / "data" / part / f"class_{c}"
            place.mkdir(parents=True)
            for k in range(count):
                ending = "JPEG" if k == 1 else "png"
                picture(100 * c + k, 40 + 9 * k, 48 - 4 * c).save(place / f"{k}.{ending}")
    return tmp_path / "data"


def source(folder, **arguments):
    return ImageFolder(**{"path": str(folder), "size": 16, "classes": CLASSES, **arguments})


# Cropping


def adm(image, size):
    """`center_crop_arr` as ADM released it (guided_diffusion/image_datasets.py), the reference."""
    while min(*image.size) >= 2 * size:
        image = image.resize(tuple(x // 2 for x in image.size), resample=Image.BOX)
    scale = size / min(*image.size)
    image = image.resize(tuple(round(x * scale) for x in image.size), resample=Image.BICUBIC)
    array = np.array(image)
    y, x = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
    return array[y : y + size, x : x + size]


@pytest.mark.parametrize("shape", [(16, 16), (31, 32), (100, 37), (37, 100), (70, 65), (9, 12)])
def test_images_are_cropped_as_adm_does(shape):
    image = picture(3, *shape)
    assert (np.array(centre_crop(image, 16)) == adm(image, 16)).all()


# Folders


def test_a_folder_gives_images_and_labels_in_the_order_of_names(folder):
    (images, y), (held_out, y_held_out) = source(folder).train, source(folder).held_out
    assert (len(images), len(held_out)) == (12, 8)
    assert y.tolist() == [c for c in range(CLASSES) for _ in range(3)]
    assert y_held_out.tolist() == [c for c in range(CLASSES) for _ in range(2)]
    with Image.open(folder / "train" / "class_2" / "1.JPEG") as image:
        expected = torch.from_numpy(adm(image.convert("RGB"), 16).copy()).permute(2, 0, 1)
    assert torch.equal(images[7], expected) and images[7].dtype == torch.uint8


def test_images_are_taken_by_number_slice_and_tensor_and_mirrored_beyond_the_last(folder):
    images, _ = source(folder).train
    whole = images[:]
    assert whole.shape == (12, 3, 16, 16) and images[:0].shape == (0, 3, 16, 16)
    assert torch.equal(images[torch.tensor([5, 2])], whole[[5, 2]])
    assert torch.equal(images[torch.tensor([17])], whole[5:6].flip(-1))


def test_grey_images_have_one_channel(folder):
    grey, colour = source(folder, channels=1).train[0][3], source(folder).train[0][3]
    assert grey.shape == (1, 16, 16)
    assert (
        grey[0].float()
        - (colour.float() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
    ).abs().max() <= 2


def test_fewer_held_out_images_are_spread_over_the_classes(folder):
    images, y = source(folder, held_out=4).held_out
    assert len(images) == 4 and sorted(set(y.tolist())) == [0, 1, 2, 3]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_reads_each_image_once_an_epoch_half_of_them_mirrored(folder, workers):
    data = source(folder)
    whole = data.train[0][:]
    loader = DataModule(data, 4, 0, workers).train_dataloader()

    epochs = [list(loader) for _ in range(2 if workers else 4)]
    mirrored = 0
    for batches in epochs:
        assert sorted(int(i) for _, _, index in batches for i in index) == list(range(12))
        for image, y, index in batches:
            assert torch.equal(y, data.train[1][index])
            straight = [
                torch.equal(pixels, whole[i])
                for pixels, i in zip(image, index.tolist(), strict=True)
            ]
            turned = [
                torch.equal(pixels.flip(-1), whole[i])
                for pixels, i in zip(image, index.tolist(), strict=True)
            ]
            assert all(a != b for a, b in zip(straight, turned, strict=True))
            mirrored += sum(turned)

    assert 3 * len(epochs) < mirrored < 9 * len(epochs)


def test_no_more_workers_than_processors_are_started(folder):
    processors = len(os.sched_getaffinity(0))
    assert DataModule(source(folder), 4, 0, 1000).train_dataloader().num_workers == processors
    assert DataModule(Digits(), 4, 0, 1000).train_dataloader().num_workers == 0


def test_a_loader_with_workers_goes_on_where_its_state_was_saved(folder):
    def taken(loader, count):
        result = []
        while len(result) < count:
            for image, _, index in loader:
                result.append((index.tolist(), image.sum().item()))
                if len(result) == count or loader.done == len(loader):
                    break
        return result

    loaders = [
        DataModule(source(folder), 4, 0, workers).train_dataloader() for workers in (0, 2, 2)
    ]
    straight, before = taken(loaders[0], 5), taken(loaders[1], 2)
    loaders[2].load_state_dict(loaders[1].state_dict())
    assert before + taken(loaders[2], 3) == straight


FAULTS = [
    ({"path": "nowhere"}, "nowhere/train' is not a folder"),
    ({"classes": 5}, "has 4 folders of classes, and classes says 5"),
]


@pytest.mark.parametrize(("arguments", "words"), FAULTS)
def test_missing_folders_and_another_number_of_classes_are_refused(folder, arguments, words):
    with pytest.raises(ValueError, match=words):
        source(folder, **arguments).prepare()


def test_other_classes_in_val_and_empty_classes_are_refused(folder):
    (folder / "val" / "class_3").rename(folder / "val" / "else")
    with pytest.raises(ValueError, match="other classes than train: class_3"):
        source(folder).prepare()
    shutil.rmtree(folder / "val" / "else")
    (folder / "val" / "class_3").mkdir()
    with pytest.raises(ValueError, match="class_3"):
        source(folder).prepare()


OUT_OF_RANGE = [
    ("size", 0),
    ("classes", 0),
    ("channels", 2),
    ("damaged", 1.0),
    ("damaged", -0.1),
    ("held_out", 0),
]


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_numbers_out_of_range_are_refused(folder, name, value):
    with pytest.raises(ValueError, match=f"^{name}: {value}"):
        source(folder, **{name: value})


# Damaged images


def damage(folder, *names):
    for name in names:
        file = folder / "train" / name
        file.write_bytes(file.read_bytes()[:60])


def test_a_damaged_image_is_named_and_another_of_its_class_stands_in(folder, capsys):
    whole = source(folder).train[0][:]
    damage(folder, "class_1/2.png")
    data = source(folder, damaged=0.1)
    assert torch.equal(data.train[0][5], whole[3])
    assert torch.equal(data.train[0][5], whole[3])
    assert torch.equal(data.train[0][17], whole[3].flip(-1))
    stderr = capsys.readouterr().err

    assert stderr.count("class_1/2.png") == 1 and stderr.count("\n") == 1
    assert [name.endswith("class_1/2.png") for name in damaged_names(data)] == [True]


def test_a_validation_part_holds_images_of_each_class_and_names_damaged_ones(folder):
    damage(folder, "class_0/0.png")
    whole = source(folder, damaged=0.1)
    split = ValidationSource(whole, Validation(share=0.34))
    split.prepare()
    assert split.counts == (8, 4) and split.held_out[1].tolist() == list(range(CLASSES))

    parts = torch.cat([split.train[0][:], split.held_out[0][:]])
    sums = parts.flatten(1).long().sum(1).sort().values
    assert sums.equal(whole.train[0][:].flatten(1).long().sum(1).sort().values)
    assert split.train[0][8].equal(split.train[0][0].flip(-1))  # the mirror image of the first
    assert [name.endswith("class_0/0.png") for name in damaged_names(split)] == [True]


@pytest.mark.parametrize("workers", [0, 2])
def test_more_damaged_images_than_allowed_end_it_whoever_reads_them(folder, workers):
    damage(folder, "class_0/0.png", "class_1/2.png", "class_3/1.JPEG")
    allowed = DataModule(source(folder, damaged=0.25), 4, 0, workers).train_dataloader()
    assert sum(len(index) for _, _, index in allowed) == 12
    refused = DataModule(source(folder, damaged=0.2), 4, 0, workers).train_dataloader()
    with pytest.raises(
        Damaged, match=r"3 of 12 images are damaged, and data.damaged allows a share of 0.2"
    ) as caught:
        for _ in range(2):
            list(refused)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_class_without_a_whole_image_ends_it_in_one_line_whoever_reads_it(folder, workers):
    damage(folder, "class_0/0.png", "class_0/1.JPEG", "class_0/2.png")
    with pytest.raises(Damaged, match="and so are all of its class") as caught:
        list(DataModule(source(folder, damaged=0.9), 12, 0, workers).train_dataloader())
    assert "\n" not in str(caught.value)


def test_text_and_empty_files_are_damaged_images(folder):
    (folder / "train" / "class_0" / "0.png").write_text("no image")
    (folder / "train" / "class_0" / "1.JPEG").write_bytes(b"")
    data = source(folder, damaged=0.5)
    data.train[0][:]
    assert len(damaged_names(data)) == 2


# What an image file may hold


def grey(place, ending, dtype=np.uint8):
    """A ramp of grey, 16×16, in 8 bits or stretched to 16."""
    ramp = np.tile(np.linspace(3, 250, 16).astype(np.uint8), (16, 1))
    pixels = ramp.astype(dtype) * (257 if dtype == np.uint16 else 1)
    Image.fromarray(pixels).save(place / f"{np.dtype(dtype).itemsize}{ending}")
    return torch.from_numpy(ramp)


def alone(folder, channels=1):
    """One class, whose images are in a folder."""
    for part in ("train", "val"):
        (folder / part).mkdir()
        (folder / part / "only").symlink_to(folder / "images")
    return ImageFolder(path=str(folder), channels=channels, size=16, classes=1)


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ending", [".png", ".tif", ".pgm"])
def test_sixteen_bits_are_scaled_to_eight(images, ending, channels):
    ramp = grey(images, ending, np.uint16)
    assert torch.equal(alone(images.parent, channels).train[0][0], ramp.expand(channels, -1, -1))
    assert torch.equal(image_set_of_folder(images)[torch.tensor([0])][0], ramp.expand(3, -1, -1))


def test_sixteen_bits_of_colour_keep_the_upper_eight(images):
    ramp = grey(images, ".png")
    (images / "1.png").unlink()
    colours = np.repeat(ramp.numpy().astype(">u2")[..., None] * 257, 3, -1)
    (images / "colour.ppm").write_bytes(b"P6 16 16 65535\n" + colours.astype(">u2").tobytes())
    assert torch.equal(alone(images.parent, 3).train[0][0], ramp.expand(3, -1, -1))


def test_values_between_two_levels_are_rounded(images):
    values = np.array([[0, 128, 129, 65406, 65407, 65535]], np.uint16)
    Image.fromarray(values).save(images / "0.png")
    assert np.asarray(read_image(images / "0.png", "L")).tolist() == [[0, 0, 1, 254, 255, 255]]


UNKNOWN = {
    "floats": (np.float32, {}, "are floats"),
    "integers": (np.int32, {}, "are integers of unknown range"),
    "white is zero": (np.uint16, {"tiffinfo": {262: 0}}, "are integers of unknown range"),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_an_unknown_scale_is_refused_before_training(images, what):
    dtype, options, words = UNKNOWN[what]
    Image.fromarray(np.zeros((16, 16), dtype)).save(images / "0.tif", **options)
    with pytest.raises(
        ValueError, match=rf"^kind: .*0\.tif: its pixels {words}.*save it with 8 or 16 bits"
    ):
        alone(images.parent).prepare()
    with pytest.raises(ConfigError, match=rf"0\.tif: its pixels {words}"):
        image_set_of_folder(images)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unknown_scale_ends_training_in_one_line_whoever_reads_it(folder, workers):
    Image.fromarray(np.zeros((16, 16), np.float32)).save(folder / "train" / "class_1" / "0.tif")
    with pytest.raises(Damaged, match=r"class_1/0\.tif: its pixels are floats") as caught:
        list(DataModule(source(folder, damaged=0.9), 13, 0, workers).train_dataloader())
    assert "\n" not in str(caught.value)


def test_frames_transparency_orientation_and_palettes_are_read_as_adm_does(images):
    first, second = picture(1, 16, 24), picture(2, 16, 24)
    turned = Image.Exif()
    turned[0x0112] = 6

    first.save(images / "frames.png", save_all=True, append_images=[second])
    first.save(images / "frames.tif", save_all=True, append_images=[second])
    first.save(images / "frames.webp", save_all=True, append_images=[second], lossless=True)
    first.save(images / "turned.png", exif=turned)
    clear = first.convert("RGBA")
    clear.putalpha(0)
    clear.save(images / "clear.png")
    for file in images.iterdir():
        assert np.array_equal(np.asarray(read_image(file, "RGB")), np.asarray(first)), file
    first.convert("P").save(images / "palette.png")
    assert np.array_equal(
        np.asarray(read_image(images / "palette.png", "RGB")), first.convert("P").convert("RGB")
    )
    first.convert("CMYK").save(images / "cmyk.jpg")
    with Image.open(images / "cmyk.jpg") as cmyk:
        assert np.array_equal(
            np.asarray(read_image(images / "cmyk.jpg", "RGB")), cmyk.convert("RGB")
        )


def _cut(file):
    picture(0).save(file)
    file.write_bytes(file.read_bytes()[:100])


DAMAGE = {
    "cut": _cut,
    "empty": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("no image"),
    "too large for Pillow": lambda file: picture(0, 400, 400).save(file),
    "a link to a missing file": lambda file: file.symlink_to("missing.png"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_file_is_replaced_in_training_and_refused_in_a_reference(
    images, monkeypatch, capsys, what
):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    DAMAGE[what](images / "0.png")
    picture(1).save(images / "1.png")
    data = alone(images.parent, 3)
    data.allowed = 0.5
    data.prepare()
    assert torch.equal(data.train[0][0], data.train[0][1]) and data.train[0].fingerprint
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(
        ConfigError, match=r"images/0\.png: (damaged|a link to a missing file)"
    ) as caught:
        image_set_of_folder(images)

    assert "\n" not in str(caught.value)


# Which files are images


def test_the_files_of_a_folder_and_their_order_are_torchvisions(folder):
    assert ENDINGS == IMG_EXTENSIONS
    for name in ("sub/0.png", "0/9.bmp", "sub-0/1.png", "b.PNG", "z.webp"):
        file = folder / "train" / "class_1" / name
        file.parent.mkdir(exist_ok=True)
        picture(0).save(file)

    (folder / "train" / "class_1" / "notes.txt").write_text("")
    picture(0).save(folder / "train" / "class_1" / "0.gif")
    store, labels = source(folder)._part("train")
    names = {f"class_{c}": c for c in range(CLASSES)}

    expected = make_dataset(str(folder / "train"), names, IMG_EXTENSIONS)
    assert [(store.name(i), int(y)) for i, y in enumerate(labels)] == expected


def test_links_are_followed_alike_by_training_and_references(folder):
    (folder / "train" / "class_1").rename(folder / "pool")
    (folder / "train" / "class_1").symlink_to("../pool")
    (folder / "pool" / "2.png").rename(folder / "kept.png")
    (folder / "pool" / "2.png").symlink_to("../kept.png")
    assert len(source(folder).train[0]) == len(image_set_of_folder(folder / "train")) == 12


@pytest.mark.parametrize("target", [".", ".."])
def test_a_link_to_a_folder_that_holds_it_is_refused(folder, target):
    (folder / "train" / "class_1" / "loop").symlink_to(target)
    with pytest.raises(
        ValueError, match=r"^path: '.*class_1/loop.*' leads back to a folder that holds it"
    ):
        source(folder).prepare()
    with pytest.raises(ConfigError, match="leads back to a folder that holds it"):
        image_set_of_folder(folder / "train")


def test_a_link_to_itself_is_a_damaged_image(folder):
    (folder / "train" / "class_1" / "self.png").symlink_to("self.png")
    (folder / "train" / "class_1" / "self").symlink_to("self")
    assert len(source(folder).train[0]) == 13


def test_hidden_names_and_folders_named_like_images_are_no_images(folder):
    for name in (".DS_Store", "._0.png", ".hidden.png", "Thumbs.db"):
        (folder / "train" / "class_1" / name).write_bytes(b"no image")
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    (folder / "train" / "class_1" / "folder.png").mkdir()
    data = source(folder)
    data.prepare()

    assert len(data.train[0][:]) == len(
        image_set_of_folder(folder / "train")
    ) == 12 and not damaged_names(data)


def test_two_classes_in_one_folder_are_refused(folder):
    shutil.rmtree(folder / "train" / "class_3")
    (folder / "train" / "class_3").symlink_to("class_0")
    with pytest.raises(ValueError, match=r"the classes class_0 and class_3 of .* are one folder"):
        source(folder).prepare()


# Recipes


def recipe(data, codec):
    return parse_recipe(
        {
            "data": data,
            "codec": codec,
            "outer": {"kind": "causal", "width": 8, "depth": 1, "heads": 1},
            "inner": {"kind": "gmm", "components": 1},
            "training": {"batch": 2},
            "sampler": {"guidance": 1},
        }
    )


def test_a_recipe_is_checked_without_data_and_refused_when_they_are_needed(folder):
    here = {"kind": "image_folder", "path": str(folder), "size": 16, "classes": CLASSES}
    prepare_experiment(build(recipe(here, {"kind": "pixels", "patch": 4})))
    missing = build(recipe({**here, "path": "nowhere"}, {"kind": "pixels", "patch": 4}))
    with pytest.raises(ConfigError, match=r"^data.path: 'nowhere/train' is not a folder"):
        prepare_experiment(missing)
    without = build(recipe(here, {"kind": "kl", "weights": "nowhere.ckpt"}))
    with pytest.raises(ConfigError, match=r"^codec.weights: nowhere.ckpt: no such file"):
        prepare_experiment(without)


# MNIST and CIFAR-10, in the formats of their files


def write_mnist(root, n=20):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (n, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">4i", 2051, n, 28, 28) + images.tobytes()
        )
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">2i", 2049, n) + bytes(i % 10 for i in range(n))
        )

    return images


def test_mnist_is_read_from_its_files(tmp_path):
    images = write_mnist(tmp_path)
    data = MNIST(path=str(tmp_path))
    assert data.counts is None
    data.prepare()
    assert data.counts == (20, 20) and not data.flip
    assert torch.equal(data.train[0], torch.from_numpy(images).unsqueeze(1))
    assert data.train[1].tolist() == [i % 10 for i in range(20)]


def test_cifar10_is_read_from_its_files_if_their_checksum_is_known(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10 as Published

    place = tmp_path / "cifar-10-batches-py"
    place.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    contents = {
        "data_batch_1": {"data": pixels, "labels": [0, 1, 2, 3, 4, 9]},
        "test_batch": {"data": pixels[:2], "labels": [5, 6]},
        "batches.meta": {"label_names": [str(i) for i in range(10)]},
    }
    sums = {}
    for name, content in contents.items():
        (place / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((place / name).read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="path: CIFAR10 is not in"):
        # with the published checksums, nothing of these files is opened
        CIFAR10(path=str(tmp_path)).prepare()
    monkeypatch.setattr(Published, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(Published, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(Published, "meta", {**Published.meta, "md5": sums["batches.meta"]})
    data = CIFAR10(path=str(tmp_path))
    assert torch.equal(data.train[0], torch.from_numpy(pixels.reshape(6, 3, 32, 32)))
    assert data.train[1].tolist() == [0, 1, 2, 3, 4, 9] and data.held_out[1].tolist() == [5, 6]
    assert data.flip and tuple(data.train[0].shape[1:]) == data.shape


@pytest.mark.parametrize("expected", [False, True])
def test_an_archive_writes_nothing_outside_its_folder(tmp_path, monkeypatch, expected):
    """torchvision unpacks what it downloads: only what has the published checksum, and
    even that nowhere else.
    """
    from torchvision.datasets import CIFAR10 as Published

    (tmp_path / "evil").write_text("outside")
    with tarfile.open(tmp_path / "archive", "w:gz") as archive:
        archive.add(tmp_path / "evil", "../outside")
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr(
        "torchvision.datasets.utils._urlretrieve",
        lambda _, to: shutil.copy(tmp_path / "archive", to),
    )
    if expected:
        monkeypatch.setattr(
            Published, "tgz_md5", hashlib.md5((tmp_path / "archive").read_bytes()).hexdigest()
        )
    with pytest.raises(ValueError, match=r"path: CIFAR10 is not in"):
        CIFAR10(path=str(tmp_path / "data"), download=True).prepare()
    assert (tmp_path / "data" / "cifar-10-python.tar.gz").is_file() and not (
        tmp_path / "outside"
    ).exists()


@pytest.mark.parametrize("kind", [MNIST, CIFAR10])
def test_what_is_not_there_is_told_with_how_to_fetch_it(tmp_path, kind):
    with pytest.raises(ValueError, match=r"data.download=true fetches it") as caught:
        kind(path=str(tmp_path)).prepare()
    assert "\n" not in str(caught.value)


# A hub's data set


def test_the_hub_says_what_to_install_where_its_package_is_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"^kind: hub needs the package datasets; pip install 'arinar_lab\[hub\]'"
    ):
        Hub(name="anybody/anything")


@pytest.fixture
def hub(tmp_path, folder, monkeypatch):
    """A data set as the library writes it to a folder of Parquet files."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for part, split in (("train", "train"), ("val", "validation")):
        files = sorted(str(file) for file in (folder / part).rglob("*.*"))
        rows = {
            "image": [{"bytes": Path(f).read_bytes(), "path": None} for f in files],
            "label": [int(f.split("class_")[1][0]) for f in files],
        }
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=CLASSES)}
        )
        datasets.Dataset.from_dict(rows, features=features).to_parquet(
            tmp_path / "hub" / f"{split}-00000-of-00001.parquet"
        )

    return tmp_path / "hub"


def test_a_hubs_data_set_gives_the_images_of_the_folder_it_was_made_of(hub, folder):
    data = Hub(name=str(hub), size=16, classes=CLASSES)
    data.prepare()
    for actual, expected in (
        (source(folder).train, data.train),
        (source(folder).held_out, data.held_out),
    ):
        assert torch.equal(actual[0][:], expected[0][:]) and torch.equal(actual[1], expected[1])


def test_words_as_labels_and_rows_without_an_image_of_a_hubs_data_set_are_named(
    tmp_path, monkeypatch, capsys
):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    kinds = {
        "image": datasets.Image(),
        "label": datasets.Value("int64"),
        "word": datasets.Value("string"),
    }
    rows = {"image": [None, picture(0)], "label": [0, 0], "word": ["cat", "dog"]}
    for split in ("train", "validation"):
        made = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
        made.to_parquet(tmp_path / "hub" / f"{split}-00000-of-00001.parquet")

    arguments = {"name": str(tmp_path / "hub"), "size": 16, "classes": 1, "damaged": 0.5}
    with pytest.raises(ValueError, match="column 'word' is of string, not of whole numbers"):
        Hub(**arguments, label="word").prepare()
    data = Hub(**arguments)
    data.prepare()

    assert torch.equal(data.train[0][0], data.train[0][1])
    assert "damaged (the row has no image)" in capsys.readouterr().err


def test_faults_of_a_hubs_data_set_are_told_in_one_line(hub):
    faults = {
        "nowhere": {"name": "./nowhere"},
        "no column 'y', but image, label": {"label": "y"},
        "test": {"held_out": "test"},
    }
    for words, arguments in {**faults, "labels outside 0 … 2": {"classes": 3}}.items():
        with pytest.raises(ValueError, match=words) as caught:
            Hub(**{"name": str(hub), "size": 16, "classes": CLASSES, **arguments}).prepare()
        assert "\n" not in str(caught.value)
