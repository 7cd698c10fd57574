"""Fashion-MNIST: the extract that ships, the whole set where it is installed, and files that are
missing, cut, changed or of another data set.
"""

import gzip
import hashlib
import shutil
from pathlib import Path

import fashion_extract
import fetch_fashion
import pytest
import torch
from command import arinar
from tiny import EXPERIMENTS, SMALL

from arinar_lab.config.files import merge, read_overrides, read_recipe
from arinar_lab.config.sections import parse_recipe
from arinar_lab.data import fashion
from arinar_lab.data.fashion import EXTRACT_FOLDER, FULL_FOLDERS, PARTS, Fashion, halved, read_part
from arinar_lab.data.latent_cache import held_out_fingerprint
from arinar_lab.data.validation import Validation, ValidationSource

EXTRACT = PARTS["extract"]
FULL = PARTS["full"]
DEBIAN = FULL_FOLDERS[-1]
IMAGES = "train-images-idx3-ubyte"
needs_all = pytest.mark.skipif(not DEBIAN.is_dir(), reason="dataset-fashion-mnist is missing")


def whole_files(folder):
    """Copy the extract's files into a folder, the pieces of a file as one."""
    shutil.copytree(EXTRACT_FOLDER, folder)
    pieces = sorted(folder.glob(f"{IMAGES}.gz.*"))
    (folder / f"{IMAGES}.gz").write_bytes(b"".join(map(Path.read_bytes, pieces)))
    for piece in pieces:
        piece.unlink()
    return folder


@pytest.fixture
def folder(tmp_path):
    """A folder with the extract's files, each in one piece, to be damaged."""
    return whole_files(tmp_path / "files")


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """A machine without the whole set."""
    monkeypatch.setattr(fashion, "FULL_FOLDERS", (tmp_path / "data", tmp_path / "share"))


# The extract


def test_the_extract_is_balanced_and_as_large_as_it_says():
    data = Fashion()
    (train, y), (held_out, y_held_out) = data.train, data.held_out
    assert data.counts == (len(train), len(held_out)) == (10_000, 2_000)
    assert train.shape[1:] == held_out.shape[1:] == data.shape == (1, 28, 28)
    assert train.dtype == torch.uint8 and (int(train.min()), int(train.max())) == (0, 255)
    assert y.bincount().tolist() == [1_000] * 10 and y_held_out.bincount().tolist() == [200] * 10


def test_the_extract_is_fixed():
    """Numbers on held-out images compare only while nobody draws other ones."""
    data = Fashion()
    assert data.train[1][:12].tolist() == [0, 2, 7, 9, 0, 6, 7, 0, 0, 3, 0, 1]
    assert data.held_out[1][:12].tolist() == [2, 1, 4, 5, 4, 8, 2, 5, 2, 2, 3, 3]
    assert int(data.held_out[0].long().sum()) == 113_628_405


def test_the_extract_ships_with_its_licence_in_five_megabytes():
    sizes = [file.stat().st_size for file in EXTRACT_FOLDER.glob("*.gz*")]
    assert len({file.name.partition(".")[0] for file in EXTRACT_FOLDER.glob("*.gz*")}) == 4
    assert max(sizes) <= 1e6 and sum(sizes) < 5.3e6
    assert "Zalando" in (EXTRACT_FOLDER / "LICENSE").read_text(encoding="utf-8")
    assert "1708.07747" in (EXTRACT_FOLDER / "NOTICE").read_text(encoding="utf-8")


def test_half_the_size_is_the_mean_of_four_pixels_rounded():
    image = torch.tensor([[[[0, 1, 255, 255], [0, 1, 255, 254], [0, 0, 9, 7], [0, 1, 8, 9]]]])
    assert halved(image.byte()).tolist() == [[[[1, 255], [0, 8]]]]
    small, whole = Fashion(size=14), Fashion()
    assert small.shape == (1, 14, 14) and tuple(small.train[0].shape) == (10_000, 1, 14, 14)
    difference = small.held_out[0].float() - torch.nn.functional.avg_pool2d(
        whole.held_out[0].float(), 2
    )
    assert difference.min() >= -0.25 and difference.max() <= 0.5
    assert torch.equal(small.held_out[1], whole.held_out[1])


def test_a_validation_part_is_of_each_class_alike():
    data = ValidationSource(Fashion(), Validation())
    assert data.counts == (8_000, 2_000)
    assert data.held_out[1].bincount().tolist() == [200] * 10


# The whole set


@needs_all
def test_all_images_are_read_from_debians_folder(monkeypatch):
    monkeypatch.setattr(fashion, "FULL_FOLDERS", (DEBIAN,))
    data = Fashion(source="full")
    data.prepare()
    assert data.counts == (len(data.train[1]), len(data.held_out[1])) == (60_000, 10_000)
    assert data.train[1].bincount().tolist() == [6_000] * 10
    assert data.train[1][:5].tolist() == [9, 0, 0, 3, 0]


@needs_all
@pytest.mark.parametrize("part", ["train", "held_out"])
def test_the_extract_is_what_its_script_makes_of_all_images(part):
    chosen = fashion_extract.extract(DEBIAN, part)
    for made, shipped in zip(chosen, read_part(EXTRACT_FOLDER, EXTRACT[part]), strict=True):
        assert torch.equal(made, shipped)


@needs_all
def test_debians_content_is_that_of_the_files_whose_md5_torchvision_publishes():
    """Debian's gz files have no name and another time in their header: with those of the published
    files they are these, byte for byte.
    """
    from torchvision.datasets import FashionMNIST

    seconds = {"train-images": 606, "train-labels": 606, "t10k-images": 627, "t10k-labels": 627}
    for name, md5 in FashionMNIST.resources:
        packed = (DEBIAN / name).read_bytes()
        time = 1_504_176_000 + seconds[name.partition("-idx")[0]]  # 2017-08-31
        header = b"\x1f\x8b\x08\x08" + time.to_bytes(4, "little") + packed[8:10]
        published = header + name.removesuffix(".gz").encode() + b"\0" + packed[10:]
        assert hashlib.md5(published).hexdigest() == md5


@needs_all
def test_torchvisions_folder_is_read_gzipped_or_not(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in DEBIAN.glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    data = Fashion(source="full", path=str(tmp_path))
    data.prepare()
    assert torch.equal(data.held_out[0], read_part(DEBIAN, FULL["held_out"])[0])


def test_where_the_whole_set_is_missing_the_extract_never_stands_in(elsewhere):
    with pytest.raises(ValueError, match=r"^source: full: Fashion-MNIST's files are in none of"):
        Fashion(source="full").prepare()


def test_the_signature_tells_the_extract_from_all_images_and_one_size_from_the_other():
    base = read_recipe(EXPERIMENTS / "fashion_pixels.yaml")
    signatures = set()
    for data in ("fashion", "{kind: fashion, source: full}", "{kind: fashion, size: 14}"):
        recipe = parse_recipe(merge(base, read_overrides([f"data={data}"])))
        signatures.add(recipe.training_signature)
    assert len(signatures) == 3


def test_reports_tell_held_out_images_of_one_set_and_size_from_others():
    """So a study compares no bits/dim of the two."""
    digests = {held_out_fingerprint(Fashion(size=size)) for size in (28, 14, 14)}
    assert len(digests) == 2
    assert held_out_fingerprint(Fashion(flip=True)) in digests


@needs_all
def test_reports_tell_the_extract_from_all_images(monkeypatch):
    monkeypatch.setattr(fashion, "FULL_FOLDERS", (DEBIAN,))
    assert held_out_fingerprint(Fashion()) != held_out_fingerprint(Fashion(source="full"))


# Faults


def refusal(folder, part=EXTRACT["train"]):
    """The one line that a damaged part is refused with."""
    with pytest.raises(ValueError) as caught:
        read_part(folder, part)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewritten(folder, change, name=IMAGES):
    """Replace a file by its changed content."""
    file = folder / f"{name}.gz"
    file.write_bytes(gzip.compress(change(bytearray(gzip.decompress(file.read_bytes()))), 1))


def test_a_truncated_archive_is_damaged(folder):
    file = folder / f"{IMAGES}.gz"
    file.write_bytes(file.read_bytes()[:100_000])
    assert f"{IMAGES}.gz' is damaged (Compressed file ended" in refusal(folder)


def test_a_changed_byte_of_an_archive_is_damage(folder):
    file = folder / f"{IMAGES}.gz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    assert "is damaged" in refusal(folder)


@pytest.mark.parametrize("piece", [1, 4])
def test_a_lost_piece_is_damage(tmp_path, piece):
    folder = Path(shutil.copytree(EXTRACT_FOLDER, tmp_path / "files"))
    assert len(read_part(folder, EXTRACT["train"])[0]) == 10_000
    (folder / f"{IMAGES}.gz.{piece}").unlink()
    assert f"{IMAGES}.gz.0' is damaged" in refusal(folder)


def test_a_file_that_is_no_archive_is_damaged(folder):
    (folder / f"{IMAGES}.gz").write_text("<html>not found</html>")
    assert "is damaged (Not a gzipped file" in refusal(folder)


def test_cut_and_long_contents_are_told(folder):
    rewritten(folder, lambda content: content[:-1])
    assert "is damaged: it has 7,839,999 bytes, not the 7,840,000 of its header" in refusal(folder)
    rewritten(folder, lambda content: content + b"ab")
    assert "is damaged: it has more bytes, not the 7,840,000" in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"\0\0\x0c\x03", b"\0\0\x08\x01\0\0\x27\x10", b"PNG" * 9])
def test_a_foreign_file_is_no_idx_file(folder, content):
    rewritten(folder, lambda _: content)
    assert "is no idx file of bytes in 3 dimensions" in refusal(folder)


def test_another_number_or_size_of_images_is_told(folder):
    rewritten(folder, lambda content: content[:6] + b"\x20\0" + content[8:])
    assert "holds 8192×28×28 bytes, not 10000×28×28" in refusal(folder)
    assert "holds 8192×28×28 bytes, not 60000×28×28" in refusal(folder, FULL["train"])


def test_images_of_another_set_in_the_same_format_are_told_by_their_checksum(folder):
    rewritten(folder, lambda content: content[:-1] + bytes([content[-1] ^ 1]))
    assert "is not Fashion-MNIST's, or is damaged: the SHA-256" in refusal(folder)


def test_labels_are_checked_alike(folder):
    name = EXTRACT["train"].label_file
    rewritten(folder, lambda content: content[:-1] + bytes([content[-1] ^ 1]), name)
    assert f"{name}.gz' is not Fashion-MNIST's" in refusal(folder)
    (folder / f"{name}.gz").unlink()
    assert refusal(folder).endswith(f"lacks {name}.gz; make fashion fetches it")


def test_a_file_without_gzip_is_read_like_one_with(folder):
    file = folder / f"{IMAGES}.gz"
    (folder / IMAGES).write_bytes(gzip.decompress(file.read_bytes()))
    file.unlink()
    assert torch.equal(read_part(folder, EXTRACT["train"])[0], Fashion().train[0])


def test_arguments_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match=r"^size: 20 is neither 28 nor 14"):
        Fashion(size=20)
    with pytest.raises(ValueError, match=r"^path: 'x' is given, and the extract ships"):
        Fashion(path="x")


RECIPE = str(EXPERIMENTS / "fashion_pixels_14.yaml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("source: full", "data.source: full: Fashion-MNIST's files are in none of"),
        ("source: full, path: nowhere", "data.path: 'nowhere' is not a folder"),
        ("source: full, path: empty", "data.path: 'empty' lacks train-images-idx3-ubyte.gz"),
        ("source: full, path: files", "holds 10000×28×28 bytes, not 60000×28×28"),
        ("path: files", "data.path: 'files' is given, and the extract ships with the package"),
        ("source: half", "data.source: 'half' is not one of extract, full"),
        ("size: 20", "data.size: 20 is not one of 28, 14"),
        ("size: 28.0", "data.size: 28.0 is not one of 28, 14"),
    ],
)
def test_a_fault_is_one_line_and_status_2_before_anything_is_trained(
    words, message, folder, elsewhere, monkeypatch, capsys
):
    monkeypatch.chdir(folder.parent)
    Path("empty").mkdir()
    assert arinar("train", RECIPE, f"data={{kind: fashion, {words}}}") == 2
    output = capsys.readouterr()
    assert message in output.err and output.err.count("\n") == 1
    assert not list(Path().glob("runs/*/seed_0/checkpoints"))


# Fetching


def test_files_that_cannot_be_fetched_are_one_line(tmp_path, monkeypatch, capsys):
    def fails(folder):
        raise RuntimeError("no network\nat all")

    monkeypatch.setattr(fetch_fashion, "WAYS", {"apt-get": fails, "torchvision": fails})
    monkeypatch.setattr("sys.argv", ["fetch_fashion.py", str(tmp_path / "a" / "b")])
    assert fetch_fashion.main() == 1
    assert capsys.readouterr().err.startswith(
        "arinar: Fashion-MNIST could not be fetched (apt-get: no network at all; torchvision: no"
    )
    assert list((tmp_path / "a").iterdir()) == []


def test_files_that_are_fetched_are_compared_before_they_are_kept(tmp_path, monkeypatch):
    def damaged(folder):
        return whole_files(folder / "files")

    monkeypatch.setattr(fetch_fashion, "WAYS", {"apt-get": damaged})
    with pytest.raises(RuntimeError, match=r"apt-get: the files are not the published ones"):
        fetch_fashion.fetch(tmp_path / "fetched")
    assert list(tmp_path.iterdir()) == []


@needs_all
def test_the_first_way_that_works_brings_files_that_are_found(tmp_path, monkeypatch):
    def fails(folder):
        raise OSError("apt-get is missing")

    def copies(folder):
        return Path(shutil.copytree(DEBIAN, folder / "files"))

    monkeypatch.setattr(fetch_fashion, "WAYS", {"apt-get": fails, "torchvision": copies})
    target = tmp_path / "data" / "fashion-mnist"
    assert fetch_fashion.fetch(target) == "torchvision"
    assert len(list(target.iterdir())) == 4 and len(list(target.parent.iterdir())) == 1
    monkeypatch.setattr(fashion, "FULL_FOLDERS", (target,))
    assert len(Fashion(source="full").held_out[1]) == 10_000


# Recipes

LEVEL = ("width=20", "depth=1", "heads=2", "steps=2")
SMALL_FRACTAL = [f"{outer}.{word}" for outer in ("outer", "inner.outer") for word in LEVEL]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("fashion_pixels", "exact"), ("fashion_pixels_14", "exact"), ("fashion_fractal", "bound")],
)
def test_a_recipe_trains_and_is_evaluated(name, kind, alone, monkeypatch):
    """On a part of the held-out images, which would take a minute."""
    from arinar_lab.evaluation.evaluate import evaluate_run
    from arinar_lab.runs.folder import RunFolder
    from arinar_lab.training.train import train

    read = Fashion._read_part
    monkeypatch.setattr(
        Fashion, "_read_part", lambda self, part: tuple(x[:64] for x in read(self, part))
    )
    small = SMALL
    if name == "fashion_fractal":
        measures = [word for word in SMALL if word.startswith(("training", "evaluation"))]
        small = [*measures, *SMALL_FRACTAL, "sampler.guidance=1"]
    words = [word for word in small if not word.startswith("evaluation.images")]
    words.append("evaluation.images=8")
    recipe = parse_recipe(merge(read_recipe(EXPERIMENTS / f"{name}.yaml"), read_overrides(words)))
    folder = RunFolder.of(recipe, name)
    folder.path.mkdir(parents=True)
    train(recipe, folder)
    report = evaluate_run(recipe, folder)
    assert 4 < report["metrics"]["val/bits_per_dim"] < 12
    assert report["likelihood"]["kind"] == kind and report["likelihood"]["unit"] == "pixel"
    distances = {"fd_fashion", "fd_fashion_floor", "kid_fashion", "sliced_fashion"}
    assert {f"quality/{name}" for name in distances} <= report["metrics"].keys()
    assert not [metric for metric in report["metrics"] if "digits" in metric]
    assert all(metric in report["units"] for metric in report["metrics"])
    assert (report["quality"]["reference"], report["quality"]["part"]) == (64, "held-out")
    assert report["quality"]["floor_images"] == 8
    assert (folder.evaluation(recipe) / "samples" / "grid.png").is_file()
