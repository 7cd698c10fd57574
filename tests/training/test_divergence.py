"""No step waits for the device, and a run that diverges is noticed all the same before
anything of it is saved.
"""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from tiny import logged, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from arinar_lab.errors import Diverged
from arinar_lab.model.arinar import Arinar
from arinar_lab.runs.folder import RunFolder
from arinar_lab.training.divergence import FiniteCheck
from arinar_lab.training.train import train

pytestmark = pytest.mark.usefixtures("alone")


def started():
    run = RunFolder(Path("run"))
    run.path.mkdir()
    return run


class Waits(TorchDispatchMode):
    """Counts the numbers that are read from tensors, but for those of AdamW's, which are the
    host's on any device.
    """

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count += not any(
                frame.name == "_single_tensor_adam" for frame in traceback.extract_stack()
            )
        return func(*args, **(kwargs or {}))


def test_no_step_waits_but_where_metrics_are_due(monkeypatch):
    advance, waits = _TrainingEpochLoop.advance, {}

    def counted(self, *words):
        with Waits() as mode:
            advance(self, *words)
        waits[self.global_step] = mode.count

    monkeypatch.setattr(_TrainingEpochLoop, "advance", counted)
    train(
        tiny("training.steps=11", "training.validate_every=11", "training.checkpoint_every=11"),
        started(),
    )
    assert waits.pop(10) > 0
    waits.pop(1)  # counts the model's operations and sets up the optimiser
    assert len(waits) == 9 and set(waits.values()) == {0}


def test_the_first_number_that_is_not_finite_is_remembered():
    series = FiniteCheck()
    assert series.fault() is None
    for loss, norm in [
        (1.0, 2.0),
        (3.0, 4.0),
        (5.0, float("inf")),
        (float("nan"), 1.0),
        (1.0, 1.0),
    ]:
        series.see(torch.tensor(loss), torch.tensor(norm))

    assert series.fault() == ([5.0, float("inf")], 2)


class NanBehind(torch.autograd.Function):
    """Zero, whose gradient is NaN."""

    @staticmethod
    def forward(context, value):
        return torch.zeros_like(value)

    @staticmethod
    def backward(context, gradient):
        return gradient * float("nan")


def spoil(monkeypatch, step, what):
    """Let the loss, or its gradient alone, be NaN at one step."""
    whole, calls = Arinar.loss, []

    def loss(self, *words, **named):
        value = whole(self, *words, **named)
        if torch.is_grad_enabled():
            calls.append(None)
            if len(calls) == step + 1:
                value = value * float("nan") if what == "loss" else value + NanBehind.apply(value)
        return value

    monkeypatch.setattr(Arinar, "loss", loss)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("loss", "the loss became nan at step 4"),
        ("gradient", "the gradient's norm became nan at step 4"),
    ],
)
def test_a_checkpoint_of_a_diverged_run_is_not_written(monkeypatch, what, message):
    run = started()
    spoil(monkeypatch, 4, what)
    with pytest.raises(Diverged, match=f"^{message}; lower training.lr"):
        train(tiny("training.validate_every=6"), run)
    newest = max(run.checkpoints.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    weights = torch.load(newest, weights_only=True)["state_dict"]

    assert newest.name == "step=4.ckpt" and all(
        value.isfinite().all() for value in weights.values()
    )
    assert not run.weights.exists() and logged(run) == []


def test_a_run_that_diverges_in_its_last_step_has_no_weights(monkeypatch):
    run = started()
    spoil(monkeypatch, 6, "loss")
    with pytest.raises(Diverged, match=r"^the loss became nan at step 6"):
        train(
            tiny(
                "training.steps=7", "training.validate_every=100", "training.checkpoint_every=100"
            ),
            run,
        )

    assert not run.weights.exists() and not run.done
