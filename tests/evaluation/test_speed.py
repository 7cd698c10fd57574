"""The time of generation by its parts: a part is charged for itself alone, and all parts
for what a batch takes.
"""

import time

import pytest
import torch
from tiny import tiny

from arinar_lab.config.build import build
from arinar_lab.evaluation import speed
from arinar_lab.evaluation.evaluate import generate_images, load_trained
from arinar_lab.evaluation.speed import PhaseTimer, seconds_by_phase


def experiment_of(*overrides):
    recipe = tiny("evaluation.speed_batch=8", *overrides)
    experiment = build(recipe)
    experiment.model.eval()
    return recipe, experiment


def test_a_part_is_charged_less_what_runs_inside_it(monkeypatch):
    now = iter([0.0, 1.0, 4.0, 6.0, 100.0, 101.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock = PhaseTimer(torch.device("cpu"))
    with clock.part("outer"), clock.part("head"):
        pass
    with clock.part("codec"):
        pass
    assert clock.seconds == {"outer": 3.0, "head": 3.0, "codec": 1.0}


def test_all_parts_take_what_the_batch_takes(one_run, monkeypatch):
    recipe, experiment = tiny("evaluation.speed_batch=64"), load_trained(tiny(), one_run)
    y = torch.arange(64) % 10
    generate_images(recipe, experiment, y, y)
    begun = time.perf_counter()
    clock = speed._generate(recipe, experiment)
    whole = time.perf_counter() - begun
    assert all(clock.seconds[name] > 0 for name in speed.PHASES)
    assert 0.5 * whole < sum(clock.seconds.values()) <= whole


def test_what_is_timed_is_what_is_generated(one_run):
    """The same tokens as generate draws: the parts are those of the real path."""
    recipe, experiment = (
        tiny("evaluation.speed_batch=4", "sampler.guidance=2"),
        load_trained(tiny(), one_run),
    )
    recorded = []
    decode = experiment.codec.decode
    experiment.codec.decode = lambda x: recorded.append(x) or decode(x)
    speed._generate(recipe, experiment)
    generate_images(recipe, experiment, torch.arange(4), torch.arange(4))

    assert torch.equal(recorded[0], recorded[1])


@pytest.mark.parametrize(
    ("inner", "idle"),
    [
        ("inner={kind: gmm, components: 2}", "inner"),
        (
            (
                "inner={kind: nested, tokens: 2, outer: {kind: causal, width: 16, depth: 1, "
                "heads: 2}, inner: gmm}"
            ),
            "head",
        ),
    ],
    ids=["on z", "nested"],
)
def test_a_model_without_a_part_spends_nothing_on_it(inner, idle):
    result = seconds_by_phase(*experiment_of(inner), 1)
    assert result[idle] == 0
    assert all(seconds > 0 for name, seconds in result.items() if name != idle)


def test_no_hook_is_left_behind():
    recipe, experiment = experiment_of()
    seconds_by_phase(recipe, experiment, 1)
    trunk = experiment.model.inner.trunk
    assert not trunk._forward_hooks and not trunk._forward_pre_hooks
