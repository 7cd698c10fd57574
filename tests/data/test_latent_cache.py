"""The latent cache: what it holds, who makes it, who may read it, and that
training does not notice.
"""

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from command import arinar
from safetensors.torch import load_file
from tiny import content, tiny

from arinar_lab.cli import main
from arinar_lab.config import schema
from arinar_lab.config.build import build, prepare_experiment
from arinar_lab.config.files import merge, read_overrides
from arinar_lab.config.sections import parse_recipe
from arinar_lab.data.latent_cache import LatentCacheSource
from arinar_lab.data.loader import EpochOrder
from arinar_lab.data.sources import Digits
from arinar_lab.errors import ConfigError
from arinar_lab.files.checksums import save_tensors
from arinar_lab.files.shards import damaged_shards
from arinar_lab.model.noise import Noise
from arinar_lab.quality import latent_cache_builder
from arinar_lab.quality.latent_cache_builder import CacheBuilder, write_cache
from arinar_lab.runs.folder import RunFolder
from arinar_lab.runs.history import read_metrics
from arinar_lab.training.datamodule import DataModule
from arinar_lab.training.train import train

pytestmark = pytest.mark.usefixtures("alone")
VAE = "codec={kind: vae, normalise: scale}"
QUIET = lambda done, total: None  # noqa: E731


class Mirrored(Digits):
    """Digits of which training mirrors half, and few of them."""

    flip = True

    def __init__(self):
        super().__init__()
        self.train, self.held_out = (
            (x[:n], y[:n]) for n, (x, y) in zip((150, 50), (self.train, self.held_out), strict=True)
        )


@pytest.fixture(autouse=True, scope="module")
def mirrored():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(schema.COMPONENTS[schema.SourceFactory], "mirrored", Mirrored)
        patch.setattr(latent_cache_builder, "SHARD_SIZE", 40)
        yield


def recipe(*overrides):
    return parse_recipe(merge(content("data=mirrored", VAE), read_overrides([*overrides])))


def made(root="caches", progress=QUIET):
    plan = CacheBuilder.of(recipe(), "digits", Path(root))
    write_cache(plan, 16, progress)
    return plan


@pytest.fixture(scope="module")
def plan(mirrored, tmp_path_factory):
    """A cache that is made once, to be read only."""
    return made(tmp_path_factory.mktemp("straight"))


@pytest.fixture
def copy(plan):
    """A copy of it, to be changed."""
    return Path(shutil.copytree(plan.folder, Path("caches") / plan.folder.name))


def content_of(folder):
    return {
        file.name: file.read_bytes()
        for file in sorted(folder.iterdir())
        if not file.name.startswith(".")
    }


def test_a_cache_holds_the_moments_of_each_image_and_of_its_mirror_image(plan):
    source, codec = LatentCacheSource(path=str(plan.folder)), plan.codec
    images, y = Mirrored().train
    assert source.counts == (150, 50) and (source.shape, source.levels, source.classes) == (
        (1, 8, 8),
        17,
        10,
    )
    subset, n = torch.tensor([0, 39, 40, 149]), 150
    with torch.no_grad():
        straight, mirrored = codec.moments(images[subset]), codec.moments(images[subset].flip(-1))

    assert torch.allclose(source.train[0][subset].float(), straight, rtol=1e-3, atol=1e-3)
    assert torch.allclose(source.train[0][subset + n].float(), mirrored, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(straight, mirrored, atol=0.1)
    assert torch.equal(source.train[1], y)
    assert source.train[0][subset].dtype == torch.float16
    assert torch.equal(source.train[0][7], source.train[0][torch.tensor([7])][0])
    assert len(source.train[0][:20]) == 20


def test_tokens_are_drawn_from_a_cache_with_the_noise_of_the_images(plan):
    images, noise = Mirrored().held_out[0], Noise.of(torch.arange(50), "any")
    with torch.no_grad():
        x, log_det = plan.codec.encode(images, noise)
        cached, same = plan.codec.encode(
            LatentCacheSource(path=str(plan.folder)).held_out[0][:], noise
        )
        other, _ = plan.codec.encode(
            LatentCacheSource(path=str(plan.folder)).held_out[0][:], noise.at(1)
        )

    assert (x - cached).abs().max() < 5e-3 and torch.equal(log_det, same)
    assert (other - cached).abs().mean() > 0.05  # another epoch, another sample


@pytest.mark.parametrize("words", [(), ("validation.share=0.2",)], ids=["whole", "split"])
def test_training_reads_the_same_numbers_with_a_cache_and_without(plan, words):
    losses = []
    for data in ("data=mirrored", f"data={{kind: cache, path: {plan.folder}}}"):
        run = recipe(data, "training.steps=4", *words)
        folder = RunFolder(Path(f"runs/{len(losses)}"))
        folder.path.mkdir(parents=True)
        train(run, folder)
        losses.append(
            [
                value
                for _, name, value in read_metrics(folder.path / "metrics.csv")
                if name == "val/loss"
            ]
        )

    assert losses[0] and losses[0] == pytest.approx(losses[1], abs=2e-3)


@pytest.mark.parametrize("words", [(), ("validation.share=0.2",)], ids=["whole", "split"])
def test_a_run_outlives_its_cache(plan, copy, capsys, words):
    run = recipe(f"data={{kind: cache, path: {copy}}}", "training.steps=2", *words)
    folder = RunFolder(Path("run"))
    train(run, folder)
    drawn = []
    for name in ("before", "after"):
        assert arinar("sample", "run", "--count", 3, "--out", f"{name}.npz") == 0
        drawn.append(np.load(f"{name}.npz")["arr_0"])
        shutil.rmtree(copy, ignore_errors=True)

    assert np.array_equal(*drawn) and drawn[0].std() > 0
    assert arinar("evaluate", "run") == 2  # a likelihood asks for the held-out moments
    assert f"data.path: {str(copy)!r} holds no finished latent cache" in capsys.readouterr().err


def test_a_cache_that_was_stopped_goes_on_and_ends_alike(plan):
    whole = content_of(plan.folder)

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(progress=stop)
    folder = next(Path("caches").iterdir())
    before = {file: file.stat().st_mtime_ns for file in folder.glob("*.safetensors")}
    assert len(before) == 3 and not (folder / "cache.json").exists()
    with pytest.raises(ConfigError, match=r"data\.path: .* holds no finished latent cache"):
        recipe(f"data={{kind: cache, path: {folder}}}").data()
    made()
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())
    assert content_of(folder) == whole


def _help(delay):
    encoded = latent_cache_builder._encode
    latent_cache_builder._encode = lambda *a: (time.sleep(delay), encoded(*a))[1]
    made()


def _until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_two_processes_make_the_cache_of_one_and_one_that_is_killed_is_no_loss(plan):
    whole = content_of(plan.folder)
    fork = multiprocessing.get_context("fork")
    slow, quick = (fork.Process(target=_help, args=(delay,)) for delay in (60, 0.2))
    slow.start()
    _until(lambda: list(Path("caches").glob("*/.*.lock")))  # it holds the first shard
    quick.start()
    _until(lambda: len(list(Path("caches").glob("*/*.safetensors"))) >= 3)
    os.kill(slow.pid, signal.SIGKILL)
    quick.join(30)

    assert quick.exitcode == 0
    assert content_of(next(Path("caches").iterdir())) == whole
    assert not list(Path("caches").glob("*/.*"))


@pytest.mark.parametrize("change", ["codec.normalise=channel", "codec.weights=other.safetensors"])
def test_a_cache_of_another_codec_is_refused_and_gets_another_name(plan, change):
    weights = load_file(Path(schema.__file__).parents[1] / "assets" / "digits_vae.safetensors")
    weights["encoder.0.bias"] += 1e-3
    save_tensors(Path("other.safetensors"), weights)
    other = recipe(change)
    assert CacheBuilder.of(other, "digits", Path("caches")).folder != plan.folder
    with pytest.raises(ConfigError, match=r"data\.path: .* was made with another codec"):
        build(recipe(change, f"data={{kind: cache, path: {plan.folder}}}"))
    build(recipe(f"data={{kind: cache, path: {plan.folder}}}"))


def test_a_cache_of_the_same_codec_elsewhere_is_the_same(plan):
    weights = Path(schema.__file__).parents[1] / "assets" / "digits_vae.safetensors"
    shutil.copy(weights, "copy.safetensors")
    build(recipe("codec.weights=copy.safetensors", f"data={{kind: cache, path: {plan.folder}}}"))


def test_other_data_have_another_cache(plan, monkeypatch):
    name = plan.folder.name
    monkeypatch.setattr(Mirrored, "flip", False)
    assert CacheBuilder.of(recipe(), "digits", Path("caches")).folder.name != name
    monkeypatch.setattr(Mirrored, "flip", True)
    assert CacheBuilder.of(recipe(), "digits", Path("caches")).folder.name == name
    assert CacheBuilder.of(recipe("data=digits"), "digits", Path("caches")).folder.name != name


def test_bad_caches_are_told_in_one_line(copy):
    path = f"data={{kind: cache, path: {copy}}}"
    with pytest.raises(ConfigError, match=r"data\.kind: cache is a cache already"):
        CacheBuilder.of(recipe(path), "digits", Path("caches"))
    with pytest.raises(ConfigError, match=r"codec\.kind: pixels .* nothing to cache"):
        CacheBuilder.of(tiny(), "digits", Path("caches"))
    (copy / "train-00001.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"data\.path: .* lacks train-00001\.safetensors"):
        prepare_experiment(build(recipe(path)))
    shutil.copy(copy / "train-00000.safetensors", copy / "train-00001.safetensors")
    prepare_experiment(build(recipe(path)))
    (copy / "train-00001.safetensors").write_bytes(
        (copy / "train-00001.safetensors").read_bytes()[:-9]
    )
    with pytest.raises(
        ConfigError, match=r"data\.path: .*train-00001\.safetensors is damaged .*--verify"
    ):
        prepare_experiment(build(recipe(path)))

    with pytest.raises(
        ValueError, match=r"^path: .*train-00001\.safetensors is missing or damaged .*--verify"
    ):
        _ = recipe(path).data().train  # as notebooks read it, which check nothing before

    # the last one, which is shorter
    shutil.copy(copy / "train-00003.safetensors", copy / "train-00001.safetensors")
    with pytest.raises(
        ConfigError, match=r"train-00001\.safetensors holds 30 items in 2 views, .* says 40 in 2"
    ):
        prepare_experiment(build(recipe(path)))

    for content_, lack in [("{}", "shape"), ("[]", "shape")]:
        (copy / "cache.json").write_text(content_)
        with pytest.raises(
            ConfigError, match=rf"data\.path: .* damaged cache\.json, without {lack}"
        ):
            recipe(path).data()

    (copy / "cache.json").write_text("{")
    with pytest.raises(ConfigError, match=r"data\.path: .* damaged cache\.json"):
        recipe(path).data()


def test_damage_is_found_and_made_anew(copy, capsys):
    words = ["cache", "digits.yaml", "--batch", "16"]
    Path("digits.yaml").write_text(json.dumps(content("data=mirrored", VAE)))
    folder = copy
    whole = content_of(folder)
    file = folder / "train-00001.safetensors"
    file.write_bytes(whole[file.name][:-1] + b"\x7f")

    assert damaged_shards([file]) == [file]
    assert _run([*words, "--verify"]) == 0
    assert f"{file}: damaged, made anew" in capsys.readouterr().out
    assert content_of(folder) == whole


def _run(words):
    with pytest.raises(SystemExit) as left:
        main(words)
    return left.value.code


# Reading


def test_half_of_the_images_are_mirrored_and_others_in_each_epoch(plan):
    loader = DataModule(LatentCacheSource(path=str(plan.folder)), 30, 0).train_dataloader()
    epochs = [[index for batch in loader for index in batch[2].tolist()] for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(150)) and epochs[0] != epochs[1]
    order = EpochOrder(1000, 0, flip=True)
    first = list(order)
    order.epoch = 1
    mirrored = [{i - 1000 for i in epoch if i >= 1000} for epoch in (first, list(order))]

    assert all(400 < len(subset) < 600 for subset in mirrored) and mirrored[0] != mirrored[1]
    assert [i % 1000 for i in first] == list(EpochOrder(1000, 0))


def test_mirrored_images_are_those_of_a_cache(plan):
    straight, cached = (
        DataModule(source, 30, 3).train_dataloader()
        for source in (Mirrored(), LatentCacheSource(path=str(plan.folder)))
    )
    for (image, y, index), (moments, same, again) in zip(straight, cached, strict=True):
        assert torch.equal(index, again) and torch.equal(y, same)
        with torch.no_grad():
            assert torch.allclose(plan.codec.moments(image), moments.float(), rtol=1e-3, atol=1e-3)


def test_another_process_maps_the_files_by_itself(plan):
    moments = LatentCacheSource(path=str(plan.folder)).train[0]
    mapped = moments[torch.tensor([3, 100])]
    packed = pickle.dumps(moments)
    assert len(packed) < 3000
    assert torch.equal(pickle.loads(packed)[torch.tensor([3, 100])], mapped)
