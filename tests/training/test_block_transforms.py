"""What makes a step smaller or faster leaves its numbers: parts of a batch, blocks computed
again, blocks compiled.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import laws
import pytest
import torch
from safetensors.torch import load_file
from tiny import logged, tiny

from arinar_lab.config.build import build
from arinar_lab.config.sections import Machine
from arinar_lab.errors import ConfigError
from arinar_lab.evaluation.evaluate import generate_images
from arinar_lab.model import density
from arinar_lab.model.heads.shapes import Mixture1D
from arinar_lab.model.noise import Noise
from arinar_lab.runs.folder import RunFolder
from arinar_lab.training import block_transforms
from arinar_lab.training.block_transforms import compiled_draws
from arinar_lab.training.train import train

pytestmark = pytest.mark.usefixtures("alone")

MASKED = "outer={kind: masked, width: 16, encoder_depth: 1, decoder_depth: 1, heads: 2, prefix: 2}"
DIFFUSION = "inner={kind: diffusion, width: 16, depth: 2, sampling_steps: 4}"
CPU = torch.device("cpu")


def trained(name, *overrides):
    folder = RunFolder(Path(name))
    folder.path.mkdir()
    train(tiny(*overrides), folder)
    return folder


def differ(a, b):
    """The largest relative difference of two runs' metrics, and the largest of their weights."""
    actual, expected = map(logged, (a, b))
    assert [row[:2] for row in actual] == [row[:2] for row in expected] and actual
    weights, expected_weights = load_file(a.weights), load_file(b.weights)
    return (
        max(abs(x / y - 1) for (_, _, x), (_, _, y) in zip(actual, expected, strict=True)),
        max(
            (weights[name].double() - expected_weights[name].double()).abs().max().item()
            for name in expected_weights
        ),
    )


@pytest.mark.parametrize("outer", ["outer.dropout=0", MASKED], ids=["causal", "masked"])
def test_a_batch_in_parts_gives_the_numbers_of_the_whole(outer):
    """The masked share is drawn once for all parts."""
    numbers, weights = differ(
        trained("parts", outer, "machine.accumulate=4"), trained("whole", outer)
    )
    assert numbers < 1e-5 and weights < 1e-4


def test_a_batch_is_shared_in_equal_parts():
    with pytest.raises(
        ConfigError, match=r"^machine.accumulate: 3 parts of 32 images cannot be equal$"
    ):
        train(tiny("machine.accumulate=3"), RunFolder(Path("run")))
    assert not Path("run").exists()


def gradients(recipe, machine):
    """Of one training loss, with dropout."""
    experiment = build(recipe)
    model = experiment.model.train()
    block_transforms.transform_blocks(model, machine, CPU, pytest.fail)
    torch.manual_seed(0)
    index = torch.arange(16)
    images, y = (part[index] for part in experiment.source.train)
    x, _ = experiment.codec.encode(images, Noise.of(index).at(0))
    model.loss(x, y, Noise.of(index).at(1)).backward()

    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "parts", [["outer.dropout=0.1"], [MASKED], [DIFFUSION]], ids=["causal", "masked", "diffusion"]
)
def test_blocks_computed_again_give_the_same_gradients_bit_for_bit(parts):
    recipe = tiny(*parts)
    plain, again = (gradients(recipe, Machine(recompute=recompute)) for recompute in (False, True))
    assert plain.keys() == again.keys() and all(
        torch.equal(again[name], plain[name]) for name in plain
    )


def test_blocks_computed_again_remember_less():
    """Counted in the tensors that autograd keeps for the way back."""
    recipe, kept = tiny("outer.depth=4"), []
    for recompute in (False, True):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=sizes: s.append(t.nbytes) or t, lambda t: t
        ):
            gradients(recipe, Machine(recompute=recompute))
        kept.append(sum(sizes))

    assert kept[1] < 0.7 * kept[0]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles for the CPU by g++")
def test_compiled_blocks_give_the_gradients_of_the_others():
    plain, compiled = (gradients(tiny(), Machine(compile=compile_)) for compile_ in (False, True))
    assert plain.keys() == compiled.keys()
    assert all(torch.allclose(compiled[name], plain[name], rtol=1e-4, atol=1e-6) for name in plain)


@pytest.fixture
def asked_anew():
    """Whether something can be compiled is asked once in a process: here again, and afterwards."""
    for function in (block_transforms._obstacle, density._compiled):
        function.cache_clear()
    yield
    for function in (block_transforms._obstacle, density._compiled):
        function.cache_clear()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles for the CPU by g++")
@pytest.mark.parametrize("head", ["gmm", "student_t", "spline", "discrete"])
@pytest.mark.usefixtures("asked_anew")
def test_compiled_draws_are_the_others_but_for_rounding(head):
    """Under a weight that changes from token to token."""
    drawn = []
    for compiled in ("false", "true"):
        recipe = tiny(
            f"inner.head={head}",
            "sampler={guidance: 3, schedule: linear}",
            f"machine.compile={compiled}",
        )
        experiment = build(recipe)
        laws.randomise(experiment.model, 0.05)
        with compiled_draws(recipe.machine, CPU):
            noise = Noise.of(torch.arange(12), "sample")
            drawn.append(experiment.model.generate(torch.arange(12) % 10, noise, recipe.sampler)[0])

    off = (drawn[0] - drawn[1]).abs()
    assert off.max() < 5e-3 and off.median() < 1e-5 and drawn[0].std() > 0.1


@pytest.mark.parametrize("spread", [1.0, 0.1])
def test_a_guided_draw_is_one_graph_and_the_same_numbers(spread, monkeypatch):
    """Nothing in it waits for numbers, whether the null is wide or so narrow
    that the product is cut.
    """
    mean, log_std = laws.normal_numbers(9, 4), laws.normal_numbers(9, 4) / 4
    p, q = (
        Mixture1D(mean * s, log_std + math.log(s), torch.full((9, 4), -math.log(4.0)))
        for s in (1.0, spread)
    )
    u = Noise.of(torch.arange(9)).uniform(1).squeeze(-1)
    expected = density.invert(p, q, 3.0, u)
    assert bool(expected[1].all()) == (spread < 1)
    torch._dynamo.reset()
    assert torch._dynamo.explain(density.invert)(p, q, 3.0, u).graph_count == 1
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)

    assert all(
        torch.equal(*pair) for pair in zip(density.invert(p, q, 3.0, u), expected, strict=True)
    )


@pytest.mark.usefixtures("asked_anew")
def test_guided_features_alone_are_drawn_by_what_was_compiled(monkeypatch):
    calls = []
    monkeypatch.setattr(
        torch,
        "compile",
        lambda function: lambda *words: calls.append(len(words)) or function(*words),
    )
    for words, count in [(["machine.compile=false"], 0), (["sampler.guidance=1"], 0), ([], 4 * 16)]:
        recipe = tiny("machine.compile=true", "sampler.guidance=2", *words)
        calls.clear()
        with torch.no_grad():
            generate_images(recipe, build(recipe), torch.arange(2), torch.arange(2))
        assert [n for n in calls if n == 4] == [4] * count


@pytest.mark.usefixtures("asked_anew")
def test_without_a_compiler_drawing_goes_on_and_says_so(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: 1 / 0)
    recipe, plain = (
        tiny(f"machine.compile={it}", "sampler.guidance=2") for it in ("true", "false")
    )
    with pytest.warns(
        UserWarning,
        match=r"machine.compile: nothing can be compiled for cpu here .* drawing goes on without",
    ):
        actual = generate_images(recipe, build(recipe), torch.arange(2), torch.arange(2))[0]

    assert torch.equal(
        actual, generate_images(plain, build(plain), torch.arange(2), torch.arange(2))[0]
    )


@pytest.mark.usefixtures("asked_anew")
def test_without_a_compiler_training_goes_on_and_says_so(monkeypatch, capsys):
    def refuse(function):
        raise RuntimeError("no C++ compiler\nand a long trace")

    monkeypatch.setattr(torch, "compile", refuse)
    run = trained("run", "machine.compile=true")
    line = (
        "machine.compile: nothing can be compiled for cpu here (no C++ compiler); training goes "
        "on without\n"
    )
    assert (
        line in capsys.readouterr().out and run.done and line in (run.path / "log.txt").read_text()
    )


def test_how_a_step_is_computed_is_no_part_of_a_runs_signature():
    economical = tiny("machine.accumulate=2", "machine.recompute=true", "machine.compile=true")
    assert economical.training_signature == tiny().training_signature
