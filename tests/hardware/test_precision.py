"""Which numbers a model is evaluated in, and where that is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command import arinar
from tiny import tiny

from arinar_lab.config.build import build
from arinar_lab.evaluation.dtypes import generation_dtype, likelihood_dtype
from arinar_lab.evaluation.evaluate import generate_images, likelihood
from arinar_lab.hardware import precision
from arinar_lab.hardware.precision import faster_dtype


@pytest.fixture
def rates(monkeypatch):
    """Set how fast products of a device seem."""

    def seem(**flops):
        faster_dtype.cache_clear()
        monkeypatch.setattr(precision, "has_native_matmul", lambda device, numbers: True)
        monkeypatch.setattr(precision, "matmul_flops", lambda _, kind: flops[kind])

    yield seem
    faster_dtype.cache_clear()


@pytest.mark.parametrize(
    ("precision", "width", "bfloat16", "drawn", "likely"),
    [
        ("auto", 256, 2.0, "bfloat16", "float32"),
        ("auto", 256, 1.2, "float32", "float32"),
        ("auto", 16, 2.0, "float32", "float32"),
        ("float32", 256, 2.0, "float32", "float32"),
        ("bfloat16", 16, 0.5, "bfloat16", "bfloat16"),
    ],
)
def test_precision_follows_the_device_and_the_width(
    precision, width, bfloat16, drawn, likely, rates
):
    rates(float32=1.0, bfloat16=bfloat16)
    recipe = tiny(f"evaluation.precision={precision}", f"outer.width={width}")
    assert generation_dtype(recipe, build(recipe, "meta")) == drawn
    assert likelihood_dtype(recipe) == likely


def test_the_default_is_no_part_of_a_signature_and_a_choice_is():
    assert tiny("evaluation.precision=auto").evaluation_signature == tiny().evaluation_signature
    assert tiny("evaluation.precision=bfloat16").evaluation_signature != tiny().evaluation_signature


def test_images_at_a_time_are_no_part_of_a_signature():
    assert tiny("evaluation.batch=7").evaluation_signature == tiny().evaluation_signature


def test_half_precision_changes_images_and_likelihood_little():
    recipe, half = tiny(), tiny("evaluation.precision=bfloat16")
    experiment = build(recipe)
    full, rounded = (likelihood(each, experiment)["val/bits_per_dim"] for each in (recipe, half))
    assert full != rounded and full == pytest.approx(rounded, abs=0.02)
    y = torch.arange(8)
    drawn = [generate_images(each, experiment, y, y)[0].float() for each in (recipe, half)]
    assert not torch.equal(*drawn)


def test_a_report_says_it_and_samples_of_another_precision_are_refused(a_run, capsys):
    assert arinar("evaluate", a_run.path, "evaluation.precision=bfloat16") == 0
    content = [
        json.loads(file.read_text()) for file in a_run.path.glob("evaluations/*/report.json")
    ]
    assert {each["likelihood"].get("precision") for each in content} >= {"bfloat16"}
    assert {each["quality"]["precision"] for each in content if "precision" in each["quality"]} >= {
        "bfloat16"
    }
    assert arinar("sample", a_run.path, "--count", 4, "--out", "some") == 0
    assert json.loads(Path("some/samples.json").read_text())["precision"] == "float32"
    assert (
        arinar("sample", a_run.path, "--count", 4, "--out", "some", "evaluation.precision=bfloat16")
        == 2
    )
    assert "another run, sampler, precision or range of seeds" in capsys.readouterr().err
