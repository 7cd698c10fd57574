"""The tutorial's head, one class and one line of a registry, passes the laws, trains, is guided
and reported.
"""

import re
from functools import partial
from pathlib import Path

import laws
import pytest
import torch
from laws import CONTEXT, FEATURES, TOKENS, images, labels, make_head, make_model, normal_numbers
from tiny import finished, tiny

from arinar_lab.model.heads import HEADS
from arinar_lab.model.sampler import Sampler

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorials" / "your_own_head.md"


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    blocks = re.findall(
        r"```python[^\n]*\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL
    )
    code = next(block for block in blocks if "class Laplace" in block)
    assert code.count("\n") <= 30
    names = {"__name__": "example"}
    exec(code, names)
    monkeypatch.setitem(HEADS, "laplace", names["Laplace"])


@pytest.fixture
def pair():
    """A conditional and its null, 2,000 times."""
    with torch.no_grad():
        head = make_head("laplace", False)
        yield tuple(head(normal_numbers(1, CONTEXT, seed=s).expand(2000, -1)) for s in (0, 1))


@torch.no_grad()
def test_it_is_a_density():
    density = make_head("laplace", False)(normal_numbers(3, CONTEXT))
    for row in laws.rows_of(density, normal_numbers(3, FEATURES, seed=5)):
        total, difference = laws.integral(row)
        assert (total - 1).abs().max() < 1e-4
        assert difference.max() < 2e-3


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_agree_with_it(pair, temperature):
    assert laws.ks_distance(pair[0].tempered(temperature)) < 0.043


@pytest.mark.parametrize("weight", [0.5, 2.0, 4.0])
def test_it_is_guided(pair, weight):
    assert laws.ks_distance(pair[0].guided(pair[1], weight)) < 0.043
    p, q = (make_head("laplace", False)(normal_numbers(20, CONTEXT, seed=s)) for s in (0, 1))
    assert laws.guided_error(p, q, weight, normal_numbers(20, FEATURES, seed=5)) < 0.02


def test_no_feature_leaks_and_gradients_arrive():
    head = HEADS["feature_ar"](CONTEXT, FEATURES, head=HEADS["laplace"], **laws.INSIDE).double()
    laws.randomise(head)
    for j in range(FEATURES):
        moves = laws.feature_leak(head, j)
        assert (moves[:j] == 0).all()
        assert (moves[j:] > 0).all()

    model = make_model("causal", "laplace", True)
    model.loss(normal_numbers(8, TOKENS, FEATURES), labels(8), images(8)).backward()

    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.inner.parameters())


@torch.no_grad()
@pytest.mark.parametrize("inside", [False, True])
def test_the_cached_walk_computes_its_likelihood_and_seeds_decide_samples(inside):
    model, x = make_model("causal", "laplace", inside), normal_numbers(3, TOKENS, FEATURES)
    walk = sum(
        model.inner(z).log_prob(laws.take(x, where)).sum(-1) for z, where in laws.walked(model, x)
    )
    assert torch.allclose(model.log_prob(x, labels(3), images(3)), walk, atol=1e-9)

    draw, seeds = (
        partial(laws.samples, model, sampler=Sampler(guidance=2.5, temperature=0.8)),
        torch.tensor([7, 3, 11]),
    )
    assert torch.allclose(draw(seeds), torch.cat([draw(seed[None]) for seed in seeds]), atol=1e-9)


def test_it_trains_on_digits_is_guided_evaluated_and_reported(alone):
    overrides = ["inner.head={kind: laplace, components: 2}", "sampler.guidance=2"]
    recipe = tiny(*overrides)
    folder = finished(recipe)
    report = folder.report(recipe)
    assert report["likelihood"]["kind"] == "exact"
    assert 0 < report["metrics"]["val/bits_per_dim"] < 20
    assert 0 < report["metrics"]["val/bits_per_dim_at_level"] < 20
    assert report["metrics"]["speed/images_per_second"] > 0
