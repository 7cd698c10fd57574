"""Checkpoints: cut short, edited, or written on a full disk. The one before is used, and the
message says what to do.
"""

import errno
import hashlib
import resource
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file, save_file
from tiny import tiny

from arinar_lab.config.build import build
from arinar_lab.errors import ConfigError, DiskFull
from arinar_lab.files import atomic
from arinar_lab.files.atomic import write_atomically
from arinar_lab.files.checksums import file_digest, remove_sealed, seal
from arinar_lab.runs.checkpoints import checkpoint_guard, newest_checkpoint
from arinar_lab.runs.folder import RunFolder
from arinar_lab.runs.history import read_metrics
from arinar_lab.training import train as training
from arinar_lab.training.train import train
from arinar_lab.training.warm_start import matching_weights

pytestmark = pytest.mark.usefixtures("alone")


def saved(*steps):
    """A run folder with sealed checkpoints."""
    run = RunFolder(Path("run"))
    run.checkpoints.mkdir(parents=True)
    for step in steps:
        draft = run.checkpoints / f"step={step}.draft"
        torch.save({"weight": torch.arange(1000.0)}, draft)
        seal(draft, run.checkpoints / f"step={step}.ckpt")
    return run


def test_the_checksum_is_what_other_programs_compute():
    run = saved(4)
    path = run.checkpoints / "step=4.ckpt"
    assert file_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    process = subprocess.run(
        ["sha256sum", "-c", "step=4.ckpt.sha256"], cwd=run.checkpoints, capture_output=True
    )
    assert process.returncode == 0


@pytest.mark.parametrize("at", [0.1, 0.5, 0.99])
def test_a_checkpoint_cut_short_gives_way(at, capfd):
    run = saved(4, 8)
    path = run.checkpoints / "step=8.ckpt"
    path.write_bytes(path.read_bytes()[: int(at * path.stat().st_size)])
    assert newest_checkpoint(run).name == "step=4.ckpt"
    assert (
        "step=8.ckpt: damaged (its checksum differs), trying the one before it"
        in capfd.readouterr().out
    )


def test_an_edited_checkpoint_gives_way_though_it_can_be_read():
    run = saved(4, 8)
    path = run.checkpoints / "step=8.ckpt"
    torch.save({"weight": torch.arange(1000.0) + 1}, path)
    assert torch.load(path)["weight"][0] == 1
    assert newest_checkpoint(run).name == "step=4.ckpt"


def test_every_single_bit_counts():
    run = saved(4, 8)
    path = run.checkpoints / "step=8.ckpt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert newest_checkpoint(run).name == "step=4.ckpt"


def test_where_none_is_whole_the_run_does_not_begin_anew_in_silence():
    run = saved(4)
    (run.checkpoints / "step=4.ckpt").write_bytes(b"")
    with pytest.raises(
        ConfigError, match=r"step=4.ckpt: damaged, and no older checkpoint is whole; delete it"
    ):
        newest_checkpoint(run)


def test_a_checkpoint_without_its_checksum_gives_way(capfd):
    run = saved(4, 8)
    (run.checkpoints / "step=8.ckpt.sha256").unlink()
    assert newest_checkpoint(run).name == "step=4.ckpt"
    assert "step=8.ckpt: damaged (its checksum is missing), trying" in capfd.readouterr().out


def test_a_checkpoint_in_shards_has_a_checksum_too():
    run = RunFolder(Path("run"))
    draft = run.checkpoints / "step=4.draft"
    draft.mkdir(parents=True)
    for i in range(2):
        (draft / f"shard_{i}").write_bytes(bytes([i]) * 100)
    path = run.checkpoints / "step=4.ckpt"
    seal(draft, path)
    assert newest_checkpoint(run) == path
    (path / "shard_1").write_bytes(b"other")
    with pytest.raises(ConfigError):
        newest_checkpoint(run)
    remove_sealed(path)

    assert list(run.checkpoints.iterdir()) == []


def test_another_fault_of_the_system_is_told_as_it_is():
    with pytest.raises(PermissionError), checkpoint_guard(Path("step=4.ckpt")):
        raise PermissionError(errno.EACCES, "not yours")


# Disk full


@contextmanager
def small_files(size):
    """No file may grow beyond that many bytes: what a full disk does, without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Then(Callback):
    """Acts after that many steps."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            self.act()


def full(run, monkeypatch, fill, empty):
    """Train until the disk is full at the second checkpoint; then make room,
    and train to the end.
    """
    with monkeypatch.context() as patch:
        patch.setattr(training, "Progress", lambda _: Then(3, fill))
        with pytest.raises(OSError, match="the disk is full") as caught:
            train(tiny(), run)

    empty()
    text = str(caught.value)
    assert (
        str(run.checkpoints / "step=4.ckpt") in text
        and "MB are free" in text
        and "step=2.ckpt is intact" in text
    )
    assert sorted(p.name for p in run.checkpoints.iterdir()) == [
        "step=2.ckpt",
        "step=2.ckpt.sha256",
    ]
    assert newest_checkpoint(run).name == "step=2.ckpt"
    train(tiny(), run)

    assert run.done and "resumed from step=2.ckpt" in (run.path / "log.txt").read_text()


def test_a_file_that_may_not_grow_leaves_the_checkpoint_before_it(monkeypatch):
    run, limit = RunFolder(Path("run")), []

    def fill():
        limit.append(small_files(30_000))
        limit[0].__enter__()

    run.path.mkdir()
    full(run, monkeypatch, fill, lambda: limit[0].__exit__(None, None, None))


def test_a_full_disk_leaves_the_checkpoint_before_it(small_disk, monkeypatch):
    run, filling = RunFolder(small_disk / "run"), small_disk / "filling"

    def fill():
        with filling.open("wb", buffering=0) as file:
            free = shutil.disk_usage(small_disk).free
            file.write(b"\0" * (free - 40_000))

    run.path.mkdir()
    full(run, monkeypatch, fill, filling.unlink)


def test_a_text_is_written_whole_or_not_at_all_on_a_full_disk():
    path = Path("some/report.json")
    write_atomically(path, "before")
    with (
        small_files(10),
        pytest.raises(
            DiskFull, match=r"^some/report.json: the disk is full: .* MB are free"
        ) as result,
    ):
        write_atomically(path, "after, and longer than ten bytes")

    assert "\n" not in str(result.value) and "the same command goes on" in str(result.value)
    assert [file.name for file in path.parent.iterdir()] == [
        "report.json"
    ] and path.read_text() == "before"


def test_logs_that_cannot_grow_are_told_with_their_path():
    run = RunFolder(Path("run"))
    run.path.mkdir()
    with small_files(10), pytest.raises(DiskFull, match=r"^run/log.txt: the disk is full"):
        run.log("more than ten bytes")
    with small_files(10), pytest.raises(DiskFull, match=r"^run/metrics.csv: the disk is full"):
        training.RunLogger(run, None).log_metrics({"train/loss": 1.25}, 100)


def test_the_history_is_rewound_whole_or_not_at_all():
    run = RunFolder(Path("run"))
    run.path.mkdir()
    logger = training.RunLogger(run, None)
    logger.rewind(0)
    for step in range(20):
        logger.log_metrics({"train/loss": 1.5 * step}, step)
    before = logger.file.read_bytes()
    with small_files(100), pytest.raises(DiskFull, match=r"^run/metrics.csv: the disk is full"):
        logger.rewind(15)
    assert logger.file.read_bytes() == before and [path.name for path in run.path.iterdir()] == [
        "metrics.csv"
    ]
    logger.rewind(2)

    assert read_metrics(logger.file) == [(0, "train/loss", 0.0), (1, "train/loss", 1.5)]


def test_what_numpy_says_of_a_full_disk_is_understood():
    with (
        pytest.raises(DiskFull, match=r"^run: the disk is full"),
        atomic.disk_full_guard(Path("run")),
    ):
        raise OSError("1000 requested and 40 written")


# Final weights


def test_final_weights_have_a_checksum_and_edited_ones_are_refused(a_run):
    weights = load_file(a_run.weights)
    assert training.load_weights(a_run.weights, build(tiny())) is None
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, a_run.weights)
    with pytest.raises(
        ConfigError,
        match=r"final.safetensors: damaged or edited [^\n]*; delete the run's DONE to train",
    ):
        training.load_weights(a_run.weights, build(tiny()))

    with pytest.raises(
        ConfigError, match=r"^init_from: [^\n]*final.safetensors: damaged or edited"
    ):
        matching_weights(tiny(f"init_from={a_run.path}"), build(tiny()))


def test_final_weights_without_their_checksum_are_refused(a_run):
    a_run.weights.with_name("final.safetensors.sha256").unlink()
    with pytest.raises(
        ConfigError, match=r"damaged or edited \(its checksum is missing\); delete the run's DONE"
    ):
        training.load_weights(a_run.weights, build(tiny()))


def test_training_again_replaces_edited_weights(a_run):
    good = a_run.weights.read_bytes()
    a_run.weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    (a_run.path / "DONE").unlink()
    train(tiny(), a_run)
    assert a_run.weights.read_bytes() == good
    training.load_weights(a_run.weights, build(tiny()))


def test_what_a_power_cut_must_not_take_is_forced_to_the_disk_before_it_gets_its_name(monkeypatch):
    """File, then name, then folder; what is written anew every half second is not."""
    done = []

    def note(number):
        path = Path(f"/proc/self/fd/{number}").resolve()
        done.append((path.name, Path("place/file").exists()))

    monkeypatch.setattr(atomic.os, "fsync", note)
    write_atomically(Path("place/file"), "text")
    assert [exists for _, exists in done] == [False, True]
    assert done[0][0].startswith(".file") and done[1][0] == "place"
    done.clear()
    RunFolder(Path("run")).path.mkdir()
    RunFolder(Path("run")).progress("train")
    assert done == []


def test_checkpoints_histories_and_done_are_forced_to_the_disk(monkeypatch):
    forced, force = [], atomic.os.fsync

    def note(number):
        forced.append(Path(f"/proc/self/fd/{number}").resolve().name)
        force(number)

    monkeypatch.setattr(atomic.os, "fsync", note)
    run = RunFolder(Path("run"))
    train(tiny("training.steps=4"), run)
    assert {"step=2.draft", "metrics.csv", "config.yaml", "final.draft"} <= set(forced)
    assert any(name.startswith(".DONE") for name in forced) and forced[-1] == "run"
