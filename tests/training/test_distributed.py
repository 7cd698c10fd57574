"""Several processes train one run: the same numbers as one process with the same global batch."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from command import arinar
from lightning.fabric.utilities.rank_zero import rank_zero_only
from safetensors.torch import load_file
from tiny import logged, tiny, write_study

from arinar_lab.config.schema import to_plain
from arinar_lab.data.loader import BatchDataset, ResumableLoader
from arinar_lab.errors import ConfigError
from arinar_lab.pipeline import train_and_evaluate
from arinar_lab.runs.folder import RunFolder, read_json
from arinar_lab.study.plan import read_plan
from arinar_lab.training.distributed import check_share
from arinar_lab.training.distributed import is_follower as follows
from arinar_lab.training.train import Saver, train

pytestmark = pytest.mark.usefixtures("alone")

STEPS = [
    "training.steps=20",
    "training.batch=32",
    "training.validate_every=10",
    "training.checkpoint_every=8",
]
# relative, of float32 sums taken in another order over 20 steps (measured: 1.2e-7)
TOLERANCE = 1e-5


def trained(name, *overrides):
    folder = RunFolder(Path(name))
    folder.path.mkdir()
    train(tiny(*STEPS, *overrides), folder)
    return folder


def by_two(name, *overrides, ends=0, at_step=None):
    """Train in two forks of this process, by gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    children = [_fork(name, rank, port, overrides, at_step) for rank in (0, 1)]
    try:
        for child in children:
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == ends
    except BaseException:
        for child in children:
            os.kill(child, signal.SIGKILL)
        raise

    return RunFolder(Path(name))


def _fork(name, rank, port, overrides, at_step):
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.alarm(600)
        world = {
            "LOCAL_RANK": rank,
            "NODE_RANK": 0,
            "WORLD_SIZE": 2,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        os.environ.update({key: str(value) for key, value in world.items()})
        folder = RunFolder(Path(name))
        folder.path.mkdir(exist_ok=True)
        if at_step:
            progress = Saver.on_train_batch_start

            def act(saver, trainer, *words):
                at_step(rank, trainer.global_step)
                progress(saver, trainer, *words)

            Saver.on_train_batch_start = act
        train(tiny(*STEPS, "machine.devices=2", "machine.strategy=ddp", *overrides), folder)
        status = 0
    except SystemExit as leave:
        status = leave.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The run of one process, without dropout."""
    return trained(tmp_path_factory.mktemp("one") / "run")


def weights(run):
    """Averaged weights, without the keys' biases.

    Attention does not depend on those: their gradient is what rounding leaves, of which AdamW makes
    steps of full length.
    """
    tensors = load_file(run.weights)
    for name, bias in tensors.items():
        if name.endswith("attention.qkv.bias"):
            bias.chunk(3)[1].zero_()
    return tensors


def alike(two, one, steps=20):
    """The same rows of metrics and the same averaged weights, but for the order of sums."""
    actual, expected = map(logged, (two, one))
    assert [row[:2] for row in actual] == [row[:2] for row in expected]
    assert {
        "val/loss",
        "val/bits_per_dim",
        *(["train/loss", "train/grad_norm"] if steps > 9 else []),
    } <= {n for _, n, _ in actual}
    for (step, name, a), (_, _, b) in zip(actual, expected, strict=True):
        assert a == pytest.approx(b, rel=TOLERANCE), (step, name)
    a, b = weights(two), weights(one)

    assert a.keys() == b.keys() and all(
        torch.allclose(a[name], b[name], rtol=1e-3, atol=1e-4) for name in b
    )
    assert two.done and read_json(two.path / "DONE")["steps"] == steps


@pytest.mark.parametrize(
    "machine",
    ["machine.strategy=ddp", pytest.param("machine.strategy=fsdp2", marks=pytest.mark.slow)],
)
def test_two_processes_reach_the_loss_of_one(one, machine):
    alike(by_two("two", machine), one)


@pytest.mark.parametrize("group", [8, pytest.param(0, marks=pytest.mark.slow)])
def test_two_processes_mask_what_one_does(group):
    """A masked share is drawn for the images of all, or for groups of them, whichever
    processes these are in.
    """
    masked = (
        "outer={kind: masked, width: 16, encoder_depth: 1, decoder_depth: 1, heads: 2, prefix: 2,"
        f" mask_group: {group}}}"
    )
    alike(by_two("two", masked), trained("one", masked))


@pytest.mark.parametrize("strategy", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp2"])
def test_two_processes_reach_it_in_parts_too(strategy):
    """With every block computed again on the way back."""
    short = [
        "training.steps=3",
        "training.validate_every=3",
        "machine.accumulate=2",
        "machine.recompute=true",
    ]
    two, one = by_two("two", f"machine.strategy={strategy}", *short), trained("one", *short[:2])
    alike(two, one, steps=3)


def stopped(folder, name):
    """A copy of a finished run, as if it had been killed after step 8."""
    shutil.copytree(folder.path, name)
    copy = RunFolder(Path(name))
    for path in (copy.path / "DONE", copy.weights, *copy.checkpoints.glob("step=16*")):
        path.unlink()
    return copy


@pytest.mark.slow
def test_a_sharded_run_resumes_on_shards_and_on_one_process(one):
    two = by_two("two", "machine.strategy=fsdp2")
    again = stopped(two, "again")
    by_two("again", "machine.strategy=fsdp2")
    assert "resumed from step=8.ckpt" in (again.path / "log.txt").read_text()
    a, b = load_file(again.weights), load_file(two.weights)
    assert all(torch.equal(a[name], b[name]) for name in b)
    assert logged(again) == logged(two)
    alone = stopped(two, "alone")
    train(tiny(*STEPS), alone)
    alike(alone, one)


def test_shards_are_the_global_batches_dealt_out_in_turn():
    part = (torch.arange(100), torch.zeros(100))
    one = ResumableLoader(BatchDataset(part), 16, 3)
    ranks = [ResumableLoader(BatchDataset(part), 16, 3, (rank, 4)) for rank in range(4)]

    for _ in range(2):  # epochs
        whole, shares = (
            [batch[2] for batch in one],
            [[batch[2] for batch in loader] for loader in ranks],
        )
        assert len(whole) == 6 and all(len(share) == 6 for share in shares)
        assert len({i for batch in whole for i in batch.tolist()}) == 96
        for step, batch in enumerate(whole):
            for rank, share in enumerate(shares):
                assert torch.equal(share[step], batch[rank::4])


SRUN = {
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_NNODES": "1",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_JOB_ID": "71",
    "SLURM_JOB_NAME": "job",
}
STRAY = [
    {"RANK": "1"},
    {"LOCAL_RANK": "1", "NODE_RANK": "1"},
    SRUN,
    SRUN | {"SLURM_JOB_NAME": "bash"},
]


def launched(monkeypatch, variables):
    """Set variables of a launcher that has started nobody to train with; Lightning has read them
    when it was imported.
    """
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)


@pytest.mark.parametrize(
    ("variables", "strategy"),
    [*((variables, "auto") for variables in STRAY), (SRUN, "ddp")],
    ids=["RANK", "LOCAL_RANK", "srun", "salloc", "srun with ddp"],
)
def test_a_run_of_one_process_ignores_the_variables_of_launchers(monkeypatch, variables, strategy):
    launched(monkeypatch, variables)
    recipe = tiny("training.steps=2", f"machine.strategy={strategy}", "evaluation.images=20")
    (report,), _ = train_and_evaluate([recipe], RunFolder.of(recipe, "tiny"), "tiny", "tiny")
    folder = RunFolder.of(recipe, "tiny")
    assert folder.done and folder.report(recipe) == report
    assert (folder.path / "config.yaml").is_file() and logged(folder)


def test_a_worker_ignores_them_too(monkeypatch, capfd):
    launched(monkeypatch, SRUN)
    path = write_study(
        base=tiny("training.steps=2", "evaluation.images=20"), arms={"one": {}}, seeds=[0]
    )
    monkeypatch.delenv("ARINAR_PARENT", raising=False)
    assert arinar("work", path) == 0
    assert all(job.reported for job in read_plan(path).jobs)


@pytest.mark.parametrize(
    ("variables", "is_follower"),
    [
        ({}, False),
        ({"RANK": "1"}, False),  # of nobody: Lightning starts the others itself
        ({"LOCAL_RANK": "1"}, True),
        ({"NODE_RANK": "1"}, True),
        (SRUN, True),
        (SRUN | {"SLURM_PROCID": "0"}, False),
        ({"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "4"}, True),
    ],
)
def test_processes_of_one_run_know_who_leads(monkeypatch, variables, is_follower):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert follows(tiny("machine.devices=4").machine) is is_follower
    assert not follows(tiny().machine)


def test_a_job_of_other_tasks_than_the_recipe_needs_is_told_in_one_line(monkeypatch):
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ConfigError, match=r"^machine.devices: You set `devices=2` in Lightning, but .*=4`[^\n]*$"
    ):
        check_share(tiny("machine.devices=2"))


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step():
    """Whichever of them is asked to."""

    def stop(rank, step):
        if (rank, step) == (1, 9):
            os.kill(os.getpid(), signal.SIGTERM)

    folder = by_two("two", "training.checkpoint_every=100", ends=143, at_step=stop)
    assert [path.name for path in folder.checkpoints.glob("*.ckpt")] == ["step=10.ckpt"]
    assert not folder.done


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_is_written():
    with pytest.raises(
        ConfigError, match=r"^training.batch: 32 images cannot be shared by 3 processes evenly$"
    ):
        train(tiny("machine.devices=3"), RunFolder(Path("run")))
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "training.precision=64-true",
            "training.precision: 64-true is not for fsdp2; use 32-true or bf16-mixed",
        ),
        (
            "outer.norm=dyt",
            (
                "machine.strategy: fsdp2 cannot cut outer.blocks.0.norm1.alpha, a single number "
                "(of dyt); use"
            ),
        ),
    ],
)
def test_what_cannot_be_sharded_is_refused_before_anything_is_written(override, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        train(tiny("machine.strategy=fsdp2", override), RunFolder(Path("run")))
    assert not Path("run").exists()


def test_a_frozen_outer_model_is_not_sharded():
    recipe = replace(tiny("machine.strategy=fsdp2"), init_from="runs/other", freeze="outer")
    with pytest.raises(
        ConfigError, match=r"^freeze: outer trains a small inner model alone, which needs no fsdp2"
    ):
        train(recipe, RunFolder(Path("run")))


@pytest.mark.parametrize(("here", "all_", "nodes"), [(2, 2, 1), (2, 4, 2)])
def test_torchrun_and_the_recipe_must_agree(monkeypatch, here, all_, nodes):
    world = {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": str(here), "WORLD_SIZE": str(all_)}
    for name, value in world.items():
        monkeypatch.setenv(name, value)
    text = (
        rf"^machine.devices: torchrun has started {here} .* machine.devices={here} "
        rf"machine.num_nodes={nodes}$"
    )
    with pytest.raises(ConfigError, match=text):
        train(tiny(), RunFolder(Path("run")))
    check_share(tiny(f"machine.devices={here}", f"machine.num_nodes={nodes}"))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_torchrun_starts_the_processes(strategy):
    """They write one run, and the first evaluates it."""
    Path("recipe.yaml").write_text(
        yaml.safe_dump(to_plain(tiny("training.steps=4", f"machine.strategy={strategy}")))
    )
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "arinar_lab",
    ]
    command = [*words, "train", "recipe.yaml", "machine.devices=2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)

    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        len(list(Path("runs").glob("*/seed_0/DONE")))
        == len(list(Path("runs").glob("*/seed_0/evaluations/*/report.json")))
        == 1
    )


@pytest.mark.slow
def test_the_real_command_starts_its_own_processes():
    """Workers of a study do, too: the second cell follows the first in the same worker."""
    base = tiny("training.steps=4", "machine.devices=2", "machine.strategy=ddp")
    write_study(base=base, axes={"inner.head.components": [1, 2]}, seeds=[0])
    words = [sys.executable, "-m", "arinar_lab", "ablate", "study.yaml", "--workers", "1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(Path("runs").glob("*/seed_0/DONE"))) == 2
