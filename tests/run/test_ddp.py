"""Several processes train one run: the same numbers as one process with the same global batch."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny, write_study

from arinar_lab.run.config import ConfigError
from arinar_lab.run.folder import RunFolder, read_json
from arinar_lab.run.loader import Items, ResumableLoader
from arinar_lab.run.train import read_metrics, train

pytestmark = pytest.mark.usefixtures("alone")

STEPS = ["training.steps=20", "training.batch=32", "training.validate_every=10", "training.checkpoint_every=8"]
TOLERANCE = 1e-5  # relative, of float32 sums taken in another order over 20 steps (measured: 1.2e-7)


def trained(name, *overrides):
    folder = RunFolder(Path(name))
    folder.path.mkdir()
    train(tiny(*STEPS, *overrides), folder)
    return folder


def by_two(name, *overrides):
    """Train in two forks of this process, by gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [_fork(name, rank, port, overrides) for rank in (0, 1)]
    try:
        for child in children:
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
    except BaseException:
        for child in children:
            os.kill(child, signal.SIGKILL)
        raise
    return RunFolder(Path(name))


def _fork(name, rank, port, overrides):
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.alarm(100)
        world = {"LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({key: str(value) for key, value in world.items()})
        folder = RunFolder(Path(name))
        folder.path.mkdir(exist_ok=True)
        train(tiny(*STEPS, "machine.devices=2", "machine.strategy=ddp", *overrides), folder)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def test_two_processes_reach_the_loss_of_one():
    one, two = trained("one"), by_two("two")
    ours, theirs = (read_metrics(folder.path / "metrics.csv") for folder in (two, one))
    assert [row[:2] for row in ours] == [row[:2] for row in theirs]
    assert {"train/loss", "val/loss", "val/bits_per_dim", "train/grad_norm"} <= {name for _, name, _ in ours}
    for (step, name, a), (_, _, b) in zip(ours, theirs, strict=True):
        assert a == pytest.approx(b, rel=TOLERANCE), (step, name)
    a, b = load_file(two.weights), load_file(one.weights)
    assert all(torch.allclose(a[name], b[name], rtol=1e-3, atol=1e-4) for name in b)
    assert two.done and read_json(two.path / "DONE")["steps"] == 20


def test_shards_are_the_global_batches_dealt_out_in_turn():
    part = (torch.arange(100), torch.zeros(100))
    one = ResumableLoader(Items(part), 16, 3)
    ranks = [ResumableLoader(Items(part), 16, 3, (rank, 4)) for rank in range(4)]
    for _ in range(2):  # epochs
        whole, shares = [batch[2] for batch in one], [[batch[2] for batch in loader] for loader in ranks]
        assert len(whole) == 6 and all(len(share) == 6 for share in shares)
        assert len({i for batch in whole for i in batch.tolist()}) == 96
        for step, batch in enumerate(whole):
            for rank, share in enumerate(shares):
                assert torch.equal(share[step], batch[rank::4])


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_is_written():
    with pytest.raises(ConfigError, match=r"^training.batch: 32 images cannot be shared by 3 processes evenly$"):
        train(tiny("machine.devices=3"), RunFolder(Path("run")))
    assert not Path("run").exists()


@pytest.mark.slow
def test_the_real_command_starts_its_own_processes():
    """Workers of a study do, too: the second cell follows the first in the same worker."""
    base = tiny("training.steps=4", "machine.devices=2", "machine.strategy=ddp")
    write_study(base=base, axes={"inner.head.components": [1, 2]}, seeds=[0])
    words = [sys.executable, "-m", "arinar_lab", "ablate", "study.yaml", "--workers", "1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(Path("runs").glob("*/seed_0/DONE"))) == 2
