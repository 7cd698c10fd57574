"""Throughput: the rows, what their numbers are, and that nothing of the
training depends on them.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny
from torch.utils.flop_counter import FlopCounterMode

from arinar_lab.config.build import build
from arinar_lab.hardware.precision import matmul_flops
from arinar_lab.model.noise import Noise
from arinar_lab.runs.folder import RunFolder
from arinar_lab.runs.history import read_metrics
from arinar_lab.training import throughput
from arinar_lab.training.module import ArinarModule
from arinar_lab.training.throughput import Throughput, flops_of_an_image
from arinar_lab.training.train import train

pytestmark = pytest.mark.usefixtures("alone")

MASKED = "outer={kind: masked, width: 16, encoder_depth: 1, decoder_depth: 1, heads: 2, prefix: 2}"
RECURRENT = "inner={kind: feature_ar, trunk: recurrent, width: 8, head: gmm, qk_norm: false}"
NAMES = ("images_per_second", "peak_memory_gb", "mfu")


def made(*overrides):
    """A module, and a batch of it."""
    recipe = tiny(*overrides)
    experiment = build(recipe)
    index = torch.arange(8)
    images, y = (part[index] for part in experiment.source.train)
    return ArinarModule(experiment, recipe.training, 0), (images, y, index)


@pytest.mark.parametrize(
    "part",
    ["inner.head=gmm", "inner.head=discrete", RECURRENT],
    ids=["gmm", "discrete", "recurrent"],
)
def test_flops_are_those_of_torchs_own_counter(part):
    """Three times a forward pass, to a thousandth: the counter also sees the products of a head
    that are no linear map.
    """
    module, batch = made(part)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.model.loss(
            module.codec.encode(batch[0], Noise.of(batch[2]))[0], batch[1], Noise.of(batch[2])
        )
    assert flops_of_an_image(module, batch) == pytest.approx(
        3 * counter.get_total_flops() / 8, rel=1e-3
    )


def test_flops_of_a_masked_model_are_those_of_the_mean_share():
    module, batch = made(MASKED)
    x, counts = module.codec.encode(batch[0], Noise.of(batch[2]))[0], []
    for i in range(16):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module.model.loss(x[:1], batch[1][:1], Noise.of(torch.tensor([i])))
        counts.append(3 * counter.get_total_flops())
    assert min(counts) < max(counts)
    assert flops_of_an_image(module, batch) == pytest.approx(sum(counts) / len(counts), rel=0.08)


def test_counting_draws_nothing_from_the_global_generator():
    module, batch = made("outer.dropout=0.5")
    before = torch.get_rng_state()
    flops_of_an_image(module.train(), batch)
    matmul_flops(torch.device("cpu"), "float32")
    assert torch.equal(before, torch.get_rng_state())


def test_throughput_is_logged_with_the_metrics():
    run = RunFolder(Path("run"))
    run.path.mkdir()
    train(tiny("training.steps=20"), run)
    rows = [
        row
        for row in read_metrics(run.path / "metrics.csv")
        if row[1].startswith(throughput.PREFIX)
    ]
    assert [(step, name.removeprefix(throughput.PREFIX)) for step, name, _ in rows] == [
        (s, n) for s in (9, 19) for n in NAMES
    ]

    values = {
        name.removeprefix(throughput.PREFIX): value for step, name, value in rows if step == 19
    }
    assert (
        values["images_per_second"] > 0
        and 0 < values["mfu"] < 1
        and values["peak_memory_gb"] > 0.05
    )


def test_images_a_second_leave_out_what_is_no_training(monkeypatch):
    """Ten steps of 32 images take ten seconds here; the five of a checkpoint and a
    validation are not counted.
    """
    now = [100.0]
    monkeypatch.setattr(throughput, "synchronised_time", lambda device: now[0])
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])
    watch, module = (
        Throughput(tiny(), 10),
        SimpleNamespace(device=torch.device("cpu"), log=lambda *_, **__: None),
    )
    watch._begin(module.device, 10)
    for step in range(11, 21):
        watch.on_train_batch_start(None, module, None)
        now[0] += 1.0
        watch.on_train_batch_end(SimpleNamespace(global_step=step if step < 20 else 19), module)
        if step == 15:
            watch.on_save_checkpoint(None, module, {})
            now[0] += 3.0
            watch.on_validation_start(None, module)
            now[0] += 2.0

    assert watch._metrics(module.device, 20)["images_per_second"] == pytest.approx(32)
