"""The README's example head is what it says: one class, and it passes the laws, trains, and is guided."""

import re
from pathlib import Path

import laws
import pytest
import torch
from laws import CONTEXT, FEATURES, TOKENS, images, labels, make_head, make_model, numbers

from arinar_lab.model.guidance import Sampler
from arinar_lab.model.heads import HEADS
from arinar_lab.run.config import build, merge, parse, read_recipe

README = (Path(__file__).parent.parent / "README.md").read_text()


@pytest.fixture(autouse=True)
def laplace(monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {"__name__": "example"}
    monkeypatch.setitem(__import__("sys").modules, "example", type(re)("example"))
    exec(code, names)
    monkeypatch.setitem(HEADS, "laplace", names["Laplace"])


def test_it_is_a_density():
    with torch.no_grad():
        density = make_head("laplace", False)(numbers(2000, CONTEXT))
        for row in laws.rows_of(density, numbers(2000, FEATURES)):
            total, difference = laws.integral(row)
            assert (total - 1).abs().max() < 1e-3
            assert difference.max() < 5e-3
        assert laws.ks(density) < 0.043
        assert laws.ks(density.guided(make_head("laplace", False)(numbers(2000, CONTEXT, seed=1)), 2.0)) < 0.043


def test_it_does_not_leak_trains_and_is_sampled():
    head = HEADS["feature_ar"](CONTEXT, FEATURES, head=HEADS["laplace"], **laws.INSIDE).double()
    for j in range(FEATURES):
        assert (laws.feature_leak(head, j)[:j] == 0).all()
    model = make_model("causal", "laplace", True)
    model.loss(numbers(8, TOKENS, FEATURES), labels(8), images(8)).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert laws.samples(model, torch.arange(3), Sampler(guidance=2.0, temperature=0.9)).isfinite().all()


def test_yaml_knows_it_by_its_name():
    content = merge(read_recipe(Path("experiments/digits.yaml")), {"inner": {"head": {"kind": "laplace"}}})
    assert type(build(parse(content)).model.inner.head).__name__ == "Laplace"
