"""`arinar bench`: some steps stand for all, and what is measured is whole, finite,
shown, drawn and written.
"""

import io
import json
import math
import statistics
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import yaml
from command import arinar
from PIL import Image

from arinar_lab.benchmark import components, presets, released_arinar, report
from arinar_lab.benchmark.generation import (
    BenchmarkOptions,
    Case,
    StepMeasurements,
    benchmark_model,
    package_step_seconds,
    released_step_seconds,
    spaced_steps,
    sum_over_steps,
)
from arinar_lab.model.noise import Noise
from arinar_lab.output.terminal import Terminal

pytestmark = pytest.mark.usefixtures("alone")

TINY = {
    "data": "digits",
    "codec": {"kind": "pixels", "patch": 2},
    "outer": {
        "kind": "masked",
        "width": 8,
        "encoder_depth": 1,
        "decoder_depth": 1,
        "heads": 2,
        "prefix": 2,
        "steps": 8,
    },
    "inner": {
        "kind": "feature_ar",
        "width": 8,
        "heads": 2,
        "head": {"kind": "gmm", "components": 2},
    },
    "sampler": {"guidance": 2.0},
}
CAUSAL = {**TINY, "outer": {"kind": "causal", "width": 8, "depth": 1, "heads": 2}}


@pytest.fixture
def preset():
    """A published model, made tiny: the recipe's file."""
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    return "tiny.yaml"


def two_images():
    """Labels and noise of the two images that a benchmark of batch 2 draws."""
    return torch.arange(2), Noise.of(torch.arange(2), "sample")


def counted():
    """A clock that goes on by one each time it is read."""
    readings = iter(range(1000))
    return lambda: float(next(readings))


def test_a_few_steps_stand_for_all():
    assert (
        spaced_steps(64, 4) == [0, 21, 42, 63]
        and spaced_steps(3, 4) == [0, 1, 2]
        and spaced_steps(5, None) == [0, 1, 2, 3, 4]
    )
    measurements = StepMeasurements(7.0, {s: 2.0 + 3 * s for s in spaced_steps(64, 4)})
    assert sum_over_steps(measurements, 64) == pytest.approx(
        7 + sum(2.0 + 3 * s for s in range(64))
    )


def test_steps_that_are_passed_over_are_not_computed(preset, monkeypatch):
    case = Case(preset, 2)
    model, sampler = benchmark_model(case.recipe(), torch.device("cpu")), case.recipe().sampler
    y, noise = two_images()
    before, calls = model.generate(y, noise, sampler)[0], []
    condition = type(model.outer)._condition

    def told(self, x, c, known_at, where):
        calls.append(known_at.shape[1])
        return condition(self, x, c, known_at, where)

    monkeypatch.setattr(type(model.outer), "_condition", told)
    assert package_step_seconds(model, sampler, 2, [2, 5], counted()) == StepMeasurements(
        1.0, {2: 1.0, 5: 1.0}
    )
    steps_before = list(calls)
    assert len(steps_before) == 2 and 0 < steps_before[0] < steps_before[1] < 16
    assert torch.equal(model.generate(y, noise, sampler)[0], before)  # nothing of it stays
    assert len(calls) == 2 + 8


def test_the_published_algorithm_draws_as_many_tokens_of_a_step(preset, monkeypatch):
    case, draw, drawn, walked = Case(preset, 2), released_arinar.draw_token, [], []
    model, sampler = benchmark_model(case.recipe(), torch.device("cpu")), case.recipe().sampler
    monkeypatch.setattr(
        released_arinar, "draw_token", lambda *words: drawn.append(draw(*words)) or drawn[-1]
    )
    assert released_step_seconds(model, sampler, 2, [0, 3, 7], counted()) == StepMeasurements(
        0.0, {0: 1.0, 3: 1.0, 7: 1.0}
    )

    def visit(z, z_null, where, progress):
        walked.append(where.shape[1])
        return z.new_zeros(*where.shape, 4)

    y, noise = two_images()
    with torch.no_grad():
        model.outer.walk(model.labels(y), None, visit, noise)
    assert [len(x) for x in drawn] == [2 * walked[step] for step in (0, 3, 7)]


def test_a_causal_walk_is_measured_as_a_whole():
    Path("causal.yaml").write_text(yaml.safe_dump(CAUSAL))
    case = Case("causal.yaml", 2, guidance=1.0)
    row = presets.generation(
        case,
        benchmark_model(case.recipe(), torch.device("cpu")),
        BenchmarkOptions(torch.device("cpu"), 4, 1),
    )
    assert (row.timed, row.steps, row.others) == (16, 16, []) and row.flops > 0 and row.memory > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "imagenet256_arinar"], "neither a file nor one of"),
        (["--out", "benchmarks.txt"], "is no .json file"),
        (["--out", "nowhere/benchmarks.json"], "is no .json file"),
    ],
    ids=["no preset", "no json", "no folder"],
)
def test_bad_words_are_refused_before_anything_is_measured(capsys, words, message):
    assert arinar("bench", *words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert list(Path().iterdir()) == []


def numbers(content):
    """Every number in nested lists and dicts."""
    if isinstance(content, dict | list):
        return [
            n
            for part in (content.values() if isinstance(content, dict) else content)
            for n in numbers(part)
        ]
    return [content] if isinstance(content, int | float) else []


def test_a_preset_is_measured_shown_drawn_and_written(preset, capsys, monkeypatch):
    monkeypatch.setattr(presets, "peak_flops", lambda device, precision: 1e11)
    monkeypatch.setattr(
        components, "compiled_quantiles", nullcontext
    )  # half a minute, and its numbers are not looked at
    monkeypatch.setenv("COLUMNS", "120")
    assert (
        arinar("bench", "--preset", preset, "--repeats", "2", "--device", "cpu", "--out", "b.json")
        == 0
    )
    stdout, record = capsys.readouterr().out, json.loads(Path("b.json").read_text())
    assert (
        record["complete"]
        and record["git"]["commit"]
        and record["machine"]["threads"] > 0
        and record["date"]
    )
    assert all(math.isfinite(n) for n in numbers(record))
    timed = {row["precision"] for row in record["rows"] if row["what"] != "generation"}
    assert timed == set(record["peak_gflops"]) == set(presets.precisions(torch.device("cpu")))
    assert [row["compiled"] for row in record["rows"]].count(True) == len(
        timed
    ) and ", w 2, compiled" in stdout
    rows = {
        (row["what"], row["batch"], row["guidance"]): row
        for row in record["rows"]
        if not row["compiled"]
    }
    assert set(rows) == {
        ("generation", 1, 2.0),
        ("generation", 4, 2.0),
        ("inner loop", 64, 1.0),
        ("inner loop", 64, 2.0),
        ("training step", 4, 1.0),
    }
    for row in rows.values():
        assert (
            len(row["seconds"]) == len(row["others"]) == len(row["ratios"]) == 2
            and row["flops"] > 0
        )
        assert row["share_of_peak"] == pytest.approx(row["flops"] / row["seconds_median"] / 1e11)
        assert row["a_second"] == pytest.approx(row["batch"] / row["seconds_median"])
        assert row["ratio_at_most"] == pytest.approx(
            statistics.median(row["others"]) * 1e11 / row["flops"]
        )

    assert rows["generation", 4, 2.0]["flops"] == pytest.approx(
        4 * rows["generation", 1, 2.0]["flops"]
    )
    (memory,) = record["memory"]

    assert memory["bytes_an_image"] > 0 and memory["largest_deviation"] < 0.05
    assert (
        "inner loop, 64 tokens, w 1" in stdout
        and stdout.count("×") == 2 * (2 + 4 * len(timed))
        and "Memory of tiny" in stdout
    )
    assert Image.open("b.png").width > 1000 and "b.png" in stdout


@pytest.mark.parametrize("width", [30, 80, 120])
def test_a_narrow_terminal_keeps_the_names_and_is_told_of_the_rest(width):
    row = presets.Result(
        "inner loop", "tiny", 64, 4.5, 1, [0.25, 0.3], [0.5, 0.9], "published algorithm", 1e10
    )
    record, out = (
        presets.Record(BenchmarkOptions(torch.device("cpu")), {"float32": 1e11}, [row]),
        io.StringIO(),
    )
    report.print_benchmark(record, Terminal(file=out, width=width))
    text = " ".join(out.getvalue().split())

    assert "inner loop, 64 tokens, w 4.5" in text or width < 40
    assert ("×2.50 (2.00–3.00) ×7.00" in text) == (width > 40)
    assert ("In the record, too: of peak, per s, GB, TFLOP." in text) == (width == 80)


def test_other_models_are_told_beside_arinar_at_its_own_guidance():
    def row(preset, steps, guidance, seconds, what="generation", batch=4):
        return presets.Result(what, preset, batch, guidance, steps, [seconds], flops=1e9)

    rows = [
        row(presets.ARINAR, 64, 1.0, 50.0),
        row(presets.ARINAR, 64, 4.5, 100.0),
        row(presets.ARINAR, 1, 4.5, 1.0, "inner loop"),
        row(presets.MAR, 256, 2.9, 500.0),
        row(presets.FRACTAL, 64, 1.0, 140.0),
        row(presets.MAR, 64, 2.9, 9.0, batch=64),
    ]
    record = presets.Record(BenchmarkOptions(torch.device("cpu"), None), {"float32": 1e11}, rows)
    sentences = report.footnotes(record)
    assert not any("load average" in line for line in sentences)
    record.load = 99.97
    assert "Caution: the load average was 100.0 when this began" in "\n".join(
        report.footnotes(record)
    )
    assert sentences[-2:] == [
        (
            "imagenet256_mar_b in 256 steps, guidance 2.9, takes 5.00 times as long as"
            " imagenet256_arinar_b in 64, guidance 4.5 (batch 4)."
        ),
        (
            "imagenet256_fractalmar_b in 64 steps, guidance 1, takes 1.40 times as long as"
            " imagenet256_arinar_b in 64, guidance 4.5 (batch 4)."
        ),
    ]


def test_a_profile_is_a_table_of_operations(preset):
    (path,) = presets.write_profiles(
        [preset], BenchmarkOptions(torch.device("cpu")), Path("profiles")
    )
    assert path == Path("profiles/tiny.txt") and "aten::addmm" in path.read_text()


@pytest.mark.parametrize("recipe", [TINY, CAUSAL], ids=["masked", "causal"])
def test_a_profile_is_of_the_middle_step_alone_and_all_of_it(recipe, monkeypatch):
    Path("some.yaml").write_text(yaml.safe_dump(recipe))
    case = Case("some.yaml", 3)
    model = benchmark_model(case.recipe(), torch.device("cpu"))
    drawn, profiled, begin = [], [], torch.profiler.profile.start
    model.inner.trunk.register_forward_hook(lambda *_: drawn.append(1))
    monkeypatch.setattr(
        torch.profiler.profile, "start", lambda it: profiled.append(len(drawn)) or begin(it)
    )
    table = components.profile(case, model, BenchmarkOptions(torch.device("cpu")))
    middle, features = 4 if recipe is TINY else 8, 4  # of 8 and of 16 steps
    assert f"batch 3, guidance 2, step {middle}, float32" in table
    before = 1 if recipe is TINY else middle - 1  # a masked walk computes the step before alone

    assert profiled == [features * before]
    assert len(drawn) - profiled[0] == features
