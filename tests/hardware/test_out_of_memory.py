"""Out of memory: one line that names the batch which would fit, found by trying; what
was computed is kept.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny

from arinar_lab import cli
from arinar_lab.errors import OutOfMemory
from arinar_lab.evaluation.evaluate import evaluate_run, generate_images, load_trained
from arinar_lab.hardware.memory import halves, largest_that_fits
from arinar_lab.model.arinar import Arinar
from arinar_lab.runs.folder import RunFolder
from arinar_lab.training.train import train

pytestmark = pytest.mark.usefixtures("alone")


def small(monkeypatch, owner, name, most, tensor=0, after=0):
    """Let a method fail as a GPU's allocator does where its batch exceeds
    `most`, from some call on.
    """
    whole, calls = getattr(owner, name), []

    def limited(self, *words, **named):
        calls.append(None)
        if len(calls) > after and words[tensor].shape[0] > most:
            torch.empty(2**62 // 4)  # more than any machine has: torch itself says so
        return whole(self, *words, **named)

    monkeypatch.setattr(owner, name, limited)


def started():
    run = RunFolder(Path("run"))
    run.path.mkdir()
    return run


def test_training_names_the_parts_that_would_fit_and_goes_on_with_them(monkeypatch):
    run = started()
    text = (
        r"^machine.accumulate: 32 images at a time do not fit .*; 8 would: say "
        r"machine.accumulate=4; the batch stays"
    )
    with monkeypatch.context() as patch, pytest.raises(OutOfMemory, match=text):
        small(patch, Arinar, "loss", 8, after=4)
        train(tiny("training.validate_every=6"), run)

    assert [path.name for path in run.checkpoints.glob("*.ckpt")] == ["step=2.ckpt"]
    train(tiny("training.validate_every=6", "machine.accumulate=4"), run)

    assert run.done and "resumed from step=2.ckpt" in (run.path / "log.txt").read_text()


def test_where_no_image_fits_that_is_said(monkeypatch):
    small(monkeypatch, Arinar, "loss", 0, after=1)
    with pytest.raises(
        OutOfMemory,
        match=r"^machine.accumulate: 32 images at a time do not fit .*; nor does a single one$",
    ):
        train(tiny(), started())


def test_a_validation_names_its_own_batch(monkeypatch):
    whole = Arinar.log_prob

    def limited(self, x, *words, **named):
        if x.shape[0] > 100:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return whole(self, x, *words, **named)

    monkeypatch.setattr(Arinar, "log_prob", limited)
    text = (
        r"^machine.validation_batch: 360 images at a time do not fit .*; 90 would: say "
        r"machine.validation_batch=90$"
    )
    with pytest.raises(OutOfMemory, match=text):
        train(tiny(), started())
    run = RunFolder(Path("run"))
    train(tiny("machine.validation_batch=90"), run)
    assert run.done


def test_the_command_ends_with_one_line_and_status_1(monkeypatch, a_run, capsys):
    small(monkeypatch, Arinar, "generate", 30)
    with pytest.raises(SystemExit) as left:
        cli.main(["sample", str(a_run.path), "--count", "100", "--out", "samples"])
    stderr = capsys.readouterr().err

    assert left.value.code == 1
    assert stderr == (
        "arinar: evaluation.batch: 100 images at a time do not fit into the memory; 25 would: say "
        "evaluation.batch=25\n"
    )


def test_evaluation_names_its_batch_and_training_is_kept(monkeypatch, a_run):
    small(monkeypatch, Arinar, "log_prob_terms", 100)
    with pytest.raises(
        OutOfMemory, match=r"^evaluation.batch: 256 images .*; 64 would: say evaluation.batch=64$"
    ):
        evaluate_run(tiny("evaluation.draws=2"), a_run)
    assert a_run.done and a_run.weights.is_file()


def test_what_fits_is_not_told(a_run):
    recipe = tiny()
    images, _ = generate_images(
        recipe, load_trained(recipe, a_run), torch.zeros(2, dtype=torch.long), torch.arange(2)
    )
    assert len(images) == 2


def test_other_faults_are_told_as_they_are(monkeypatch, a_run):
    recipe = tiny()
    experiment = load_trained(recipe, a_run)
    monkeypatch.setattr(Arinar, "generate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate_images(recipe, experiment, torch.zeros(2, dtype=torch.long), torch.arange(2))


def test_the_search_halves_and_passes_on_what_is_no_lack_of_memory():
    tried = []

    def attempt(n):
        tried.append(n)
        if n > 5:
            raise MemoryError

    assert largest_that_fits(attempt, halves(40)) == 5 and tried == [20, 10, 5]
    assert largest_that_fits(attempt, halves(1)) == 0
    with pytest.raises(ZeroDivisionError):
        largest_that_fits(lambda n: n / 0, halves(40))
