"""The published protocol of quality: distances equal torch-fidelity's, references are never stale,
bad files are one line.
"""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
import urllib.error
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from extractor import FEW, TINY
from PIL import Image
from tiny import tiny
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import KEY_METRIC_FID

from arinar_lab.cli import main
from arinar_lab.config.schema import to_plain
from arinar_lab.data.image_datasets import ImageFolder
from arinar_lab.data.latent_cache import LatentCacheSource
from arinar_lab.data.sources import Source
from arinar_lab.errors import ConfigError, OutOfMemory
from arinar_lab.evaluation.classifier_distance import ByteImages
from arinar_lab.quality import reference, samples
from arinar_lab.quality.distances import Reference, distances, frechet, statistics
from arinar_lab.quality.extractors import DINOV2, INCEPTION, WEIGHTS, Extractor
from arinar_lab.quality.image_sets import ImageSet, image_set_of_source, open_image_set
from arinar_lab.quality.measure import evaluate_with_reference, measure_quality
from arinar_lab.quality.reference import make_reference, own_reference, reference_path
from arinar_lab.quality.samples import write_samples
from arinar_lab.runs.folder import write_sealed

pytestmark = pytest.mark.usefixtures("alone")
QUIET = lambda done, total: None  # noqa: E731


def drawn(n, seed, low=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, 256, (n, 3, 12, 12), dtype=torch.uint8, generator=generator)


A, B = drawn(60, 0), drawn(50, 1, low=60)


def theirs(one, other, **options):
    everything = {
        "fid": True,
        "isc": True,
        "kid": True,
        "prc": True,
        "kid_subset_size": 50,
        "cuda": False,
    }
    quiet = {"verbose": False, "cache": False, "save_cpu_ram": True, "feature_extractor": "tiny"}

    return torch_fidelity.calculate_metrics(
        input1=one, input2=other, **(everything | quiet | options)
    )


def write_folder(images, name):
    Path(name).mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(f"{name}/{i:03}.png")
    return Path(name)


def write_npz(images, name):
    np.savez(name, images.permute(0, 2, 3, 1).numpy())
    return Path(name)


def refer(images, name="b", progress=QUIET):
    return make_reference(ImageSet(images, name), TINY, Path("references"), 20, progress)


def test_the_distances_are_those_of_torch_fidelity():
    distances_of_set = distances(TINY(A), Reference.read(refer(B), TINY), TINY.distance)
    expected = theirs(ByteImages(A), ByteImages(B))
    assert distances_of_set.keys() == {
        "fd_tiny",
        "inception_score",
        "kid_tiny",
        "precision_tiny",
        "recall_tiny",
    }
    assert (
        distances_of_set["fd_tiny"] == pytest.approx(expected[KEY_METRIC_FID], rel=1e-6)
        and distances_of_set["fd_tiny"] > 0.1
    )
    assert distances_of_set["inception_score"] == pytest.approx(expected["inception_score_mean"])
    assert distances_of_set["kid_tiny"] == pytest.approx(
        expected["kernel_inception_distance_mean"], rel=1e-5
    )
    assert (distances_of_set["precision_tiny"], distances_of_set["recall_tiny"]) == (
        expected["precision"],
        expected["recall"],
    )


@pytest.mark.parametrize("form", ["folder", "npz"])
def test_images_come_from_a_folder_or_an_npz_alike(form):
    path = write_folder(B, "images") if form == "folder" else write_npz(B, "images.npz")
    made = make_reference(open_image_set(path), TINY, Path("references"), 20, QUIET)
    actual = frechet(statistics(TINY(A)["features"]), Reference.read(made, TINY).stats)
    folder = str(path) if form == "folder" else ByteImages(B)
    assert actual == pytest.approx(theirs(ByteImages(A), folder)[KEY_METRIC_FID], rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_published_statistics_are_a_reference(dtype):
    """Such as adm_in256_stats.npz: arrays mu and sigma, in whatever precision."""
    stats = statistics(TINY(B)["features"])
    np.savez("stats.npz", mu=stats["mu"].astype(dtype), sigma=stats["sigma"].astype(dtype))
    distances_of_set = distances(TINY(A), Reference.read(Path("stats.npz"), TINY), "fd_tiny")
    assert distances_of_set["fd_tiny"] == pytest.approx(
        theirs(ByteImages(A), ByteImages(B))[KEY_METRIC_FID], rel=1e-6
    )
    assert distances_of_set.keys() == {"fd_tiny", "inception_score"}  # the others need features


# Inception


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """A file of random weights in the format of the published one."""
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url",
            lambda *_, **__: {},
        )
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        torch.save(FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).state_dict(), path)

    return path


def test_inception_is_read_from_a_local_file_and_is_torch_fidelitys(inception):
    extractor = Extractor(weights=inception)
    actual = extractor(A[:1])
    network = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], str(inception)
    )
    features, logits = network(A[:1])

    assert actual["features"].shape == (1, 2048) and actual["features"].std() > 0
    assert torch.equal(actual["features"], features) and torch.equal(actual["logits"], logits)
    assert (extractor.distance, Extractor(layer="64", weights=inception).distance) == (
        "fid",
        "fd_inception64",
    )
    assert extractor.signature != Extractor(layer="64", weights=inception).signature


def test_weights_that_hold_code_or_are_damaged_are_refused_in_one_line(inception, capsys):
    class Code:
        def __reduce__(self):
            return print, ("executed",)

    Path("code.pth").write_bytes(pickle.dumps(Code()))
    torch.save({"weights": Code()}, "code_too.pth")
    Path("half.pth").write_bytes(inception.read_bytes()[:1_000_000])
    torch.save({"fc.weight": torch.zeros(3)}, "misfit.pth")
    torch.save([torch.zeros(3)], "list.pth")
    torch.save({1: torch.zeros(3)}, "number.pth")
    for name in ("code", "code_too", "half", "misfit", "list", "number"):
        with pytest.raises(
            ConfigError, match=f"^{name}.pth: no weights of inception-v3-compat"
        ) as caught:
            _ = Extractor(weights=Path(f"{name}.pth")).network
        assert "\n" not in str(caught.value)
    assert "executed" not in capsys.readouterr().out


def test_missing_weights_are_named_with_their_place_and_hash(monkeypatch):
    def no_network(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", "home")
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    place = r"home/hub/checkpoints/weights-inception-2015-12-05-6726825d\.pth"
    with pytest.raises(
        ConfigError, match=rf"^{place}: .*no network.* https://.* begins with 6726825d.*--weights"
    ):
        WEIGHTS[INCEPTION].find()
    place = r"home/hub/checkpoints/dinov2_vitl14_pretrain\.pth"
    with pytest.raises(
        ConfigError, match=rf"^{place}: .* put https://.*no hash of it is published.*--weights"
    ):
        WEIGHTS[DINOV2].find()
    with pytest.raises(ConfigError, match=r"^--weights: other\.pth is not there"):
        WEIGHTS[INCEPTION].find(Path("other.pth"))


# References


def test_a_reference_is_named_by_data_size_and_extractor():
    path = refer(B)
    changed = B.clone()
    changed[0, 0, 0, 0] += 1
    other_values = [ImageSet(changed, "b"), ImageSet(B[:49], "b"), ImageSet(B[..., :11], "b")]
    names = {reference_path(other, TINY, path.parent).name for other in other_values} | {path.name}
    assert len(names) == 4
    assert reference_path(ImageSet(B.clone(), "b"), TINY, path.parent) == path
    folder = write_folder(B, "images")
    before = reference_path(open_image_set(folder), TINY, path.parent)
    assert reference_path(open_image_set(folder), TINY, path.parent) == before
    Image.fromarray(A[0].permute(1, 2, 0).numpy()).save("images/017.png")

    assert reference_path(open_image_set(folder), TINY, path.parent) != before


def test_a_reference_that_was_stopped_goes_on(monkeypatch):
    monkeypatch.setattr(reference, "FEATURE_SHARD", 20)
    straight = np.load(refer(B))

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refer(B, "again", stop)
    (parts,) = Path("references").glob("again-*.parts")
    assert len(list(parts.glob("*.safetensors"))) == 2
    recorded = []
    monkeypatch.setattr(
        Extractor,
        "__call__",
        lambda self, images: recorded.append(len(images)) or CALL(self, images),
    )
    resumed = np.load(refer(B, "again"))
    assert sum(recorded) == 10 + 1  # the third block, and one image to count the features
    assert all(np.array_equal(straight[name], resumed[name]) for name in straight.files)
    assert not parts.exists()


CALL = Extractor.__call__


def test_too_large_a_batch_is_told_with_one_that_fits(monkeypatch):
    def small(self, images):
        if len(images) > 12:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return CALL(self, images)

    monkeypatch.setattr(Extractor, "__call__", small)
    with pytest.raises(
        OutOfMemory, match=r"^--batch: 20 images at a time do not fit .* say --batch=10$"
    ):
        refer(B)


def test_a_damaged_block_of_features_is_made_anew(monkeypatch):
    monkeypatch.setattr(reference, "FEATURE_SHARD", 16)
    folder, request = Path("parts"), []

    def found(i):
        request.append(len(i))
        return TINY(B[i])

    whole = reference.concatenate_shards(reference.compute_in_shards(folder, 50, found, 16, QUIET))[
        "features"
    ]
    block = folder / "00000016-00000031.safetensors"
    block.write_bytes(block.read_bytes()[:100])
    request.clear()
    assert torch.equal(
        reference.concatenate_shards(reference.compute_in_shards(folder, 50, found, 16, QUIET))[
            "features"
        ],
        whole,
    )
    assert request == [16]


def test_bad_references_are_told_in_one_line():
    features = TINY(B)["features"]
    stats = statistics(features)
    np.savez("no_sigma.npz", mu=stats["mu"])
    np.savez("objects.npz", mu=np.array([None]), sigma=np.zeros(1))
    np.savez("other.npz", **stats, extractor=np.array("tiny/features/other"))
    Path("damaged.npz").write_bytes(refer(B).read_bytes()[:500])
    for name, reason in {
        "none": "is not there",
        "no_sigma": "lacks sigma",
        "objects": "no npz of arrays",
        "damaged": "no npz of arrays",
        "other": "was made with tiny/features/other, and this is tiny/features/",
    }.items():
        with pytest.raises(ConfigError, match=rf"^--reference: {name}\.npz.*{reason}"):
            Reference.read(Path(f"{name}.npz"), TINY, "--reference")

    for name, more, reason in [
        ("texts", {"mu": np.array(["a"])}, "has mu of <U1"),
        ("sizes", {"images": np.arange(3)}, r"has images \(3,\)"),
    ]:
        np.savez(f"{name}.npz", **stats | more)
        with pytest.raises(ConfigError, match=rf"^--reference: {name}\.npz {reason}"):
            Reference.read(Path(f"{name}.npz"), TINY, "--reference")

    for name, more, reason in [
        ("negative", {"sigma": -stats["sigma"]}, "no covariance"),
        ("skewed", {"sigma": stats["sigma"] + np.triu(np.ones((16, 16)), 1)}, "no covariance"),
        (
            "shorter",
            {"features": features[:5, :7].numpy()},
            r"has features \(5, 7\), and those of images are of 16",
        ),
    ]:
        np.savez(f"{name}.npz", **stats | more)
        with pytest.raises(ConfigError, match=reason):
            Reference.read(Path(f"{name}.npz"), TINY).check(16)

    np.savez("narrow.npz", mu=stats["mu"][:8], sigma=stats["sigma"][:8, :8])
    with pytest.raises(
        ConfigError,
        match=r"narrow\.npz has mu \(8,\) and sigma \(8, 8\), and the features are of 16",
    ):
        distances(TINY(A), Reference.read(Path("narrow.npz"), TINY))

    with pytest.raises(
        ConfigError, match=r"^16 images give 16 features a covariance of rank 15.* at least 17"
    ):
        refer(B[:16])

    assert not list(Path("references").glob("*.parts"))


def test_bad_images_are_told_in_one_line():
    folder = write_folder(B[:3], "images")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save("images/other.png")
    with pytest.raises(ConfigError, match=r"images/other\.png: is 9×9, and the others 12×12"):
        _ = open_image_set(folder)[torch.arange(4)]
    Path("images/other.png").write_bytes(b"no image")
    with pytest.raises(ConfigError, match=r"images/other\.png: damaged"):
        _ = open_image_set(folder)[torch.arange(4)]
    Path("empty").mkdir()
    np.savez("floats.npz", np.zeros((2, 3, 4, 4)))
    for path, reason in {
        "empty": "holds no .jpg",
        "floats.npz": "arr_0 is float64",
        "nothing": "no such file",
    }.items():
        with pytest.raises(ConfigError, match=f"^{path}: {reason}"):
            open_image_set(Path(path))


# Runs


@pytest.fixture
def digits(a_run):
    """A run of digits, and a reference of their training images."""
    recipe = tiny("evaluation.images=20", "evaluation.batch=8", "evaluation.kid_subset=10")
    images = ImageSet(recipe.data().train[0][:300], "digits", 17)
    return (
        a_run,
        recipe,
        Reference.read(make_reference(images, TINY, Path("references"), 64, QUIET), TINY),
    )


def test_a_run_is_measured_over_ranges_of_seeds_and_goes_on_where_it_stopped(digits, monkeypatch):
    folder, recipe, against = digits
    monkeypatch.setattr(reference, "FEATURE_SHARD", 8)

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_quality(recipe, folder, against, TINY, 2, stop)
    write_sealed(
        folder.evaluation(recipe) / "report.json",
        {"metrics": {"val/bits_per_dim": 2.0}, "units": {}},
    )
    report = measure_quality(recipe, folder, against, TINY, 2, QUIET)
    whole = folder.report(recipe)
    assert whole["metrics"] == {"val/bits_per_dim": 2.0, **report["metrics"]}
    assert whole["units"].keys() == report["metrics"].keys() and whole["fidelity"]["images"] == 20
    values, each = report["metrics"], [subset["fd_tiny"] for subset in report["ranges"]]
    assert values["quality/fd_tiny"] == pytest.approx(np.mean(each)) and each[0] != each[1]
    assert values["quality/fd_tiny_interval"] == pytest.approx(
        12.706 * abs(each[0] - each[1]) / 2, rel=1e-3
    )
    assert 0 < values["quality/fd_tiny_floor"] < values["quality/fd_tiny"]  # six steps of training
    assert {
        "quality/precision_tiny",
        "quality/recall_tiny",
        "quality/kid_tiny",
        "quality/inception_score",
    } <= values.keys()
    assert report["images"] == 20 and report["reference"]["images"] == 300
    images = np.load(_sampled(folder, recipe, range(20), Path("all.npz")))["arr_0"]
    straight = distances(TINY(torch.from_numpy(images).permute(0, 3, 1, 2)), against, "fd_tiny")
    assert straight["fd_tiny"] == pytest.approx(each[0], rel=1e-4)


def test_a_recipe_that_names_a_reference_is_compared_with_it_when_it_is_evaluated(a_run):
    recipe = tiny(
        "evaluation.images=20",
        "evaluation.batch=20",
        "evaluation.kid_subset=10",
        f"evaluation.reference={refer(B)}",
    )
    assert tiny("evaluation.reference=null").evaluation_signature == tiny().evaluation_signature
    assert (
        recipe.evaluation_signature
        != tiny("evaluation.images=20", "evaluation.kid_subset=10").evaluation_signature
    )
    report = evaluate_with_reference(recipe, a_run)

    assert (
        report["metrics"]["quality/fd_tiny"] > 0 and report["metrics"]["quality/fd_tiny_floor"] > 0
    )
    assert report["metrics"]["quality/fd_digits"] > 0 and report["fidelity"]["floor_images"] == 20
    assert (
        report.keys() > {"likelihood", "quality", "fidelity"}
        and report["units"].keys() == report["metrics"].keys()
    )
    assert a_run.report(recipe) == report == evaluate_with_reference(recipe, a_run)


def test_a_recipe_with_a_bad_reference_is_refused_before_it_is_trained(a_run, capsys):
    np.savez("narrow.npz", mu=np.zeros(8), sigma=np.eye(8), extractor=np.array(TINY.signature))
    np.savez("unknown.npz", mu=np.zeros(8), sigma=np.eye(8), extractor=np.array("vgg/fc/123"))
    good = refer(B)
    for named, images, text in (
        ("none.npz", 20, "none.npz is not there"),
        ("narrow.npz", 20, "narrow.npz has mu"),
        ("unknown.npz", 20, "'vgg' is not one of"),
        (good, 16, "16 images give 16 features a covariance of rank 15"),
    ):
        content = to_plain(
            tiny(
                f"evaluation.reference={named}",
                f"evaluation.images={images}",
                "evaluation.kid_subset=5",
            )
        )
        Path("recipe.yaml").write_text(json.dumps(content))
        assert _run(["train", "recipe.yaml", "training.steps=7"]) == 2

        stderr = capsys.readouterr().err
        assert (
            stderr.startswith("arinar: evaluation.reference: ")
            and text in stderr
            and stderr.count("\n") == 1
        )

    assert len(list(Path("runs").iterdir())) == 1


# The run's own reference


def test_the_reference_of_a_runs_own_images_is_found_by_its_hash(a_run, capsys, monkeypatch):
    monkeypatch.setattr("arinar_lab.cli.runs._extractor", lambda *_: TINY)
    few = ["evaluation.images=20", "evaluation.kid_subset=10", "evaluation.batch=20"]
    evaluate = ["evaluate", str(a_run.path), "--quality", *few]
    assert _run(["reference", str(a_run.path / "config.yaml"), "--part", "held_out"]) == 0
    assert _run(evaluate) == 2  # there is one of other images alone
    assert (
        "--reference: missing, and references/ holds none of the run's training images"
        in capsys.readouterr().err
    )
    assert _run(["reference", str(a_run.path / "config.yaml")]) == 0
    path = capsys.readouterr().out.partition(":")[0]
    assert _run(evaluate) == 0
    assert f"against {Path(path).name}" in capsys.readouterr().out
    source = tiny().data()
    assert own_reference(source, TINY) == Path(path)
    with pytest.raises(ConfigError, match="holds none"):
        own_reference(source, FEW)
    source.train = (source.train[0].clone(), source.train[1])
    source.train[0][701, 0, 3, 3] += 1  # one grey level of one image that no sample of 64 has
    with pytest.raises(ConfigError, match="holds none"):
        own_reference(source, TINY)


def test_the_images_behind_a_cache_are_known_and_a_changed_file_is_seen():
    for c in range(2):
        for k in range(2):
            folder = Path(f"images/train/{c}")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(A[2 * c + k].permute(1, 2, 0).numpy()).save(folder / f"{k}.png")

    pictures = lambda: ImageFolder(path="images", size=12, classes=2)  # noqa: E731
    expected = image_set_of_source(pictures(), "train", "").fingerprint
    assert image_set_of_source(pictures(), "train", "other name").fingerprint == expected
    os.utime("images/train/1/0.png", ns=(1, 1))
    assert image_set_of_source(pictures(), "train", "").fingerprint != expected
    path = Path("references/any-").with_name(f"any-{reference._signature(expected, TINY)}.npz")
    path.parent.mkdir()
    path.touch()
    cached = LatentCacheSource.__new__(LatentCacheSource)
    cached.about = {"images": expected}
    assert own_reference(cached, TINY) == path
    cached.about = {}
    with pytest.raises(ConfigError, match="--reference: missing"):
        own_reference(cached, TINY)


def _sampled(folder, recipe, seeds, out, progress=QUIET):
    from arinar_lab.evaluation.evaluate import load_trained

    write_samples(recipe, folder, load_trained(recipe, folder), seeds, out, progress)
    return out


def test_a_run_is_measured_without_the_data_it_was_trained_on(digits):
    class Gone(Source):
        shape, levels, classes, counts = (1, 8, 8), 17, 10, None

        @property
        def held_out(self):
            raise ValueError("path: the images are gone")

        train = held_out

    folder, recipe, against = digits
    without = replace(recipe, data=replace(recipe.data, factory=Gone))
    metrics = measure_quality(without, folder, against, TINY, 1, QUIET)["metrics"]
    assert metrics["quality/fd_tiny"] > 0 and "quality/fd_tiny_floor" not in metrics


def test_too_few_images_and_other_dimensions_are_refused_before_anything_is_drawn(
    digits, monkeypatch
):
    folder, _, against = digits
    monkeypatch.setattr(
        "arinar_lab.quality.measure.load_trained", lambda *_: pytest.fail("something was drawn")
    )
    few = tiny("evaluation.images=16", "evaluation.kid_subset=10")
    with pytest.raises(ConfigError, match=r"^16 images give 16 features .* at least 17"):
        measure_quality(few, folder, against, TINY, 1, QUIET)
    stats = {"mu": np.zeros(8), "sigma": np.eye(8)}
    with pytest.raises(ConfigError, match="the features are of 16"):
        measure_quality(
            tiny("evaluation.images=40"), folder, Reference(against.path, stats), TINY, 1, QUIET
        )


@pytest.mark.parametrize("form", ["images", "images.npz"])
def test_sampling_that_was_stopped_ends_with_the_same_set(digits, form, monkeypatch):
    folder, recipe, _ = digits
    monkeypatch.setattr(reference, "FEATURE_SHARD", 8)
    monkeypatch.setattr("arinar_lab.quality.samples.PNG_SHARD", 8)

    def stop(done, total):
        if done == 1:
            raise KeyboardInterrupt

    def content(out):
        if out.is_dir():
            return {file.name: file.read_bytes() for file in out.glob("*.png")}
        with np.load(out) as file:
            return {name: file[name].tobytes() for name in file.files}

    straight = content(_sampled(folder, recipe, range(5, 25), Path(f"straight_{form}")))
    with pytest.raises(KeyboardInterrupt):
        _sampled(folder, recipe, range(5, 25), Path(form), stop)
    assert content(_sampled(folder, recipe, range(5, 25), Path(form))) == straight
    assert len(straight) == (20 if form == "images" else 2)
    if form == "images":  # what is lost or cut is drawn again
        Path("images/000007.png").unlink()
        Path("images/000020.png").write_bytes(Path("images/000020.png").read_bytes()[:60])
    assert content(_sampled(folder, recipe, range(5, 25), Path(form))) == straight
    with pytest.raises(
        ConfigError, match=r"^--out: .* another run, sampler, precision or range of seeds"
    ):
        _sampled(folder, recipe, range(5, 26), Path(form))


def _help(folder, recipe, delay):
    """A process that draws slowly."""
    drawn = samples.generate_images
    samples.generate_images = lambda *arguments: (time.sleep(delay), drawn(*arguments))[1]
    _sampled(folder, recipe, range(24), Path("two"))


def _until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_two_processes_draw_the_images_of_one_and_one_that_is_killed_is_no_loss(
    digits, monkeypatch
):
    folder, recipe, _ = digits
    monkeypatch.setattr(samples, "PNG_SHARD", 8)
    one = {
        file.name: file.read_bytes()
        for file in _sampled(folder, recipe, range(24), Path("one")).glob("*.png")
    }
    fork, two = multiprocessing.get_context("fork"), Path("two")
    slow, quick = (fork.Process(target=_help, args=(folder, recipe, delay)) for delay in (60, 0.2))
    slow.start()
    _until(lambda: list(two.glob("*.lock")))  # it holds the first block
    quick.start()
    _until(lambda: list(two.glob("*.done")))
    os.kill(slow.pid, signal.SIGKILL)
    quick.join(60)

    assert quick.exitcode == 0 and len(one) == 24
    assert {file.name: file.read_bytes() for file in two.glob("*.png")} == one
    assert not list(two.glob("*.lock"))


def test_an_image_belongs_to_its_seed_whatever_the_batch(digits):
    folder, recipe, _ = digits
    with np.load(_sampled(folder, recipe, range(20), Path("a.npz"))) as file:
        one, y = file["arr_0"], file["arr_1"]
    with np.load(
        _sampled(folder, tiny("evaluation.batch=7"), range(10, 20), Path("b.npz"))
    ) as file:
        other = file["arr_0"]

    assert one.shape == (20, 8, 8, 3) and one.dtype == np.uint8 and (y == np.arange(20) % 10).all()
    assert (
        one.max() == 255 and (one[10:20] != other).mean() < 0.01
    )  # an inverse CDF in single precision is steep in gaps


def commands(a_run, words, capsys):
    """The README's commands, and what they print; the images are 10 × 7, which 64 features need."""
    assert _run(["sample", str(a_run.path), "--per-class", "7", "--out", "images"]) == 0
    assert len(list(Path("images").glob("*.png"))) == 70
    assert _run(["reference", "images", *words]) == 0
    (path,) = Path("references").glob("images-*.npz")
    assert str(path) in capsys.readouterr().out
    few = ["evaluation.images=66", "evaluation.kid_subset=10", "evaluation.batch=33"]
    assert (
        _run(["evaluate", str(a_run.path), "--quality", "--reference", str(path), *words, *few])
        == 0
    )

    return capsys.readouterr().out


def test_the_commands_measure_a_run_against_a_reference_they_make(a_run, capsys, monkeypatch):
    monkeypatch.setattr("arinar_lab.cli.runs._extractor", lambda *_: TINY)
    text = commands(a_run, [], capsys)
    assert "quality/fd_tiny" in text and "66 images a range" in text
    assert _run(["sample", str(a_run.path), "--per-class", "7", "--count", "50"]) == 2
    assert "--count: 50 is not 7 of each of 10 classes" in capsys.readouterr().err


@pytest.mark.slow
def test_the_commands_do_so_with_inception(a_run, inception, capsys):
    text = commands(a_run, ["--weights", str(inception), "--layer", "64"], capsys)
    assert "quality/fd_inception64" in text and "KID" not in text


@pytest.mark.slow
def test_two_processes_draw_the_images_of_one(a_run):
    def content(*words):
        command = [
            sys.executable,
            "-m",
            "arinar_lab",
            "sample",
            str(a_run.path),
            "evaluation.batch=50",
            *words,
        ]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

        return {file.name: file.read_bytes() for file in Path(words[-1]).glob("*.png")}

    one = content("--count", "600", "--out", "one")
    two = content("--count", "600", "--workers", "2", "--out", "two")
    assert len(one) == 600 and one == two


def _run(words):
    with pytest.raises(SystemExit) as left:
        main(words)
    return left.value.code
