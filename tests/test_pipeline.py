"""One run from its recipe to its reports: how often it builds its model, and
what training hands on.
"""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from command import arinar
from tiny import tiny

from arinar_lab import pipeline
from arinar_lab.config import build as config
from arinar_lab.config.schema import to_plain
from arinar_lab.data.sources import Source
from arinar_lab.evaluation.evaluate import load_trained, measure_speed, peak_memory
from arinar_lab.model.arinar import Arinar
from arinar_lab.runs.folder import RunFolder, open_run_folder, read_json
from arinar_lab.training.module import ArinarModule

pytestmark = pytest.mark.usefixtures("alone")

MASKED = (
    "outer={kind: masked, width: 16, encoder_depth: 1, decoder_depth: 1, heads: 2, steps: 8, "
    "dropout: 0.1}"
)
CASES = {
    "guided": ["sampler.guidance=2"],
    "recomputed": [MASKED, "machine.recompute=true", "machine.accumulate=2"],
    "bf16": ["training.precision=bf16-mixed"],
    "bins": ["inner.head=discrete"],
    "fixed": ["inner.head={kind: fixed_gaussian, learned: false}"],
    "vae": ["codec={kind: vae, normalise: whiten}"],
}


@pytest.fixture
def builds(monkeypatch):
    """Devices of the parameters of each model as it is made, and how often data are looked for."""
    made = {"models": [], "data": 0}
    build, look = Arinar.__init__, Source.prepare

    def note_model(self, *words, **options):
        build(self, *words, **options)
        made["models"].append(next(self.parameters()).device.type)

    def note_data(self):
        made["data"] += 1
        look(self)

    monkeypatch.setattr(Arinar, "__init__", note_model)
    monkeypatch.setattr(Source, "prepare", note_data)
    return made


def write(recipe) -> Path:
    Path("tiny.yaml").write_text(yaml.safe_dump(to_plain(recipe)))
    return Path("tiny.yaml")


def numbers(report):
    """A report without times."""
    metrics = {
        name: value
        for name, value in report["metrics"].items()
        if not name.startswith(("time/", "speed/"))
    }
    parts = ("noise", "likelihood", "quality", "diagnosis", "steps")
    return {"metrics": metrics} | {part: report[part] for part in parts}


def test_a_training_builds_its_model_once_for_the_check_and_once_for_the_run(builds):
    path = write(tiny())
    assert arinar("train", path) == 0
    assert builds == {"models": ["meta", "cpu"], "data": 1}
    (report,) = Path().glob("runs/*/seed_0/evaluations/*/report.json")
    assert read_json(report)["metrics"]["speed/images_per_second"] > 0


def test_an_evaluation_and_a_diagnosis_build_it_once(builds, a_run):
    shutil.rmtree(a_run.path / "evaluations")
    builds["models"].clear()
    assert arinar("evaluate", a_run.path) == 0
    assert builds["models"] == ["cpu"]
    assert arinar("diagnose", a_run.path, "sampler.temperature=0.9") == 0
    assert builds["models"] == ["cpu", "cpu"]


@pytest.mark.parametrize("words", CASES.values(), ids=CASES)
def test_what_is_handed_on_is_what_the_folder_holds(words):
    """Every tensor, every flag, every number of the report and every pixel; and the
    memory that drawing takes.
    """
    recipe = tiny(*words)
    folder = RunFolder.of(recipe, "tiny")
    (report,), trained = pipeline.train_and_evaluate([recipe], folder, "tiny", "tiny")
    timed = measure_speed(recipe, folder, trained)
    images = np.load(folder.evaluation(recipe) / "samples" / "images.npy")
    shutil.rmtree(folder.path / "evaluations")

    loaded = load_trained(recipe, folder, data=True)
    (again,), _ = pipeline.train_and_evaluate([recipe], folder, "tiny", "tiny")
    assert numbers(again) == numbers(report)
    assert numbers(measure_speed(recipe, folder)) == numbers(timed)
    assert np.array_equal(np.load(folder.evaluation(recipe) / "samples" / "images.npy"), images)
    assert peak_memory(recipe, trained) == peak_memory(recipe, loaded)

    for actual, expected in ((trained.model, loaded.model), (trained.codec, loaded.codec)):
        tensors = dict(expected.named_parameters()) | dict(expected.named_buffers())
        for name, tensor in (
            dict(actual.named_parameters()) | dict(actual.named_buffers())
        ).items():
            other = tensors.pop(name)
            assert (
                torch.equal(tensor, other)
                and tensor.dtype == other.dtype
                and tensor.stride() == other.stride()
            )
            assert (tensor.requires_grad, tensor.device) == (other.requires_grad, other.device)
            assert tensor.grad is None
        assert not tensors
        for actual_value, other in zip(actual.modules(), expected.modules(), strict=True):
            assert (
                actual_value.training == other.training
                and vars(actual_value).keys() == vars(other).keys()
            )
            assert not actual_value._forward_hooks and not actual_value._forward_pre_hooks


def test_a_frozen_outer_model_is_handed_on_as_any_other():
    base = tiny()
    folder = RunFolder.of(base, "base")
    pipeline.train_and_evaluate([base], folder, "base", "base")
    recipe = tiny(f"init_from={folder.path}", "freeze=outer", "inner.head.components=2")
    own = RunFolder.of(recipe, "frozen")
    (report,), trained = pipeline.train_and_evaluate([recipe], own, "frozen", "frozen")
    assert trained is not None and all(p.requires_grad for p in trained.model.parameters())
    shutil.rmtree(own.path / "evaluations")

    (again,), _ = pipeline.train_and_evaluate([recipe], own, "frozen", "frozen")
    assert numbers(again) == numbers(report)


def test_double_precision_is_loaded_since_the_folder_is_read_in_single():
    recipe = tiny("training.precision=64-true")
    folder = RunFolder.of(recipe, "tiny")
    (report,), trained = pipeline.train_and_evaluate([recipe], folder, "tiny", "tiny")
    assert trained is None and report["metrics"]["val/bits_per_dim"] > 0


def test_nothing_of_the_optimiser_is_left_when_the_evaluation_begins(monkeypatch):
    modules, left, measured = [], [], pipeline.evaluate_with_reference
    init = ArinarModule.__init__

    def note(self, *words, **options):
        modules.append(weakref.ref(self))
        init(self, *words, **options)

    def look(*words):
        left.append([ref() for ref in modules if ref() is not None])
        left.append([x for x in gc.get_objects() if isinstance(x, torch.optim.AdamW) and x.state])
        return measured(*words)

    monkeypatch.setattr(ArinarModule, "__init__", note)
    monkeypatch.setattr(pipeline, "evaluate_with_reference", look)
    recipe = tiny()
    pipeline.train_and_evaluate([recipe], RunFolder.of(recipe, "tiny"), "tiny", "tiny")
    assert len(modules) == 1 and left == [[], []]


def test_data_and_codec_of_a_check_are_those_of_the_run():
    recipe = tiny()
    checked = pipeline.check_recipe(recipe)
    experiment = config.build(recipe, checked=checked.experiment)
    assert (
        experiment.source is checked.experiment.source
        and experiment.codec is checked.experiment.codec
    )
    assert experiment.device.type == "cpu" and checked.experiment.device.type == "meta"


def test_a_finished_run_is_left_alone(a_run, builds):
    recipe = tiny()
    _, trained = pipeline.train_and_evaluate([recipe], open_run_folder(a_run.path), "tiny", "tiny")
    assert trained is None and builds["models"] == []
