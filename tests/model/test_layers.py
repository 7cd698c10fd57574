"""Dropout and attention with it on a CPU, and what densities read under autocast."""

from __future__ import annotations

import laws
import pytest
import torch

from arinar_lab.model import layers
from arinar_lab.model.arinar import Arinar
from arinar_lab.model.layers import GELU, Attention, Block, DensityParameters, dropout
from arinar_lab.model.sampler import Sampler


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_that_share_and_keeps_the_mean(p):
    # not a multiple of the four numbers that a word decides of
    x = torch.ones(1000, 401, requires_grad=True)
    y = dropout(x, p)
    dropped = (y == 0).double().mean().item()
    assert dropped == pytest.approx(p, abs=5 * (p * (1 - p) / x.numel()) ** 0.5)
    assert y.max().item() == pytest.approx(1 / (1 - p), rel=1e-3)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_dropout_drops_each_number_on_its_own():
    """Neighbours, which share a word, are dropped together as often as others."""
    dropped = (dropout(torch.ones(400_000), 0.3) == 0).double()
    for distance in (1, 2, 3, 4, 5):
        both = (dropped[distance:] * dropped[:-distance]).mean().item()
        assert both == pytest.approx(0.09, abs=0.003)


def test_without_dropout_nothing_is_drawn():
    before, x = torch.get_rng_state(), torch.ones(3)
    assert dropout(x, 0.0) is x or torch.equal(dropout(x, 0.0), x)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("causal", [False, True])
def test_attention_with_dropout_is_the_fused_one_where_nothing_is_dropped(causal, monkeypatch):
    monkeypatch.setattr(layers, "dropout", lambda x, p: x)
    attention = Attention(32, 4, dropout=0.1)
    q, k, v = (laws.normal_numbers(2, 4, 9, 8, seed=s) for s in range(3))
    mask = None if causal else torch.rand(9, 9) < 0.7
    mask = None if mask is None else mask | torch.eye(9, dtype=torch.bool)
    plain, fused = (attention._attend(q, k, v, mask, drop, causal) for drop in (0.1, 0.0))
    assert torch.allclose(plain, fused, atol=1e-6)


@pytest.mark.parametrize("kind", ["gmm", "discrete", "byte", "spline"])
@torch.no_grad()
def test_densities_are_single_precision_under_autocast(kind):
    model: Arinar = laws.make_model("masked", kind, True, torch.float32)
    recorded: list[torch.dtype] = []
    for module in model.modules():
        if isinstance(module, DensityParameters):
            module.register_forward_hook(lambda *words: recorded.append(words[-1].dtype))

    with torch.autocast("cpu", torch.bfloat16):
        x, _ = model.generate(laws.labels(2), laws.images(2), Sampler(guidance=2.0))

    assert recorded and set(recorded) == {torch.float32}
    assert x.dtype == torch.float32 and x.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("parts", [[2, *[1] * 8], [2, 1, 4, 1, 1, 1], [1] * 10])
def test_a_full_cache_begins_another_piece_and_loses_nothing(parts, monkeypatch):
    monkeypatch.setattr(layers, "PIECE", 3)
    attention, x = laws.randomise(Attention(8, 2), 0.3), laws.normal_numbers(2, 10, 8)
    attention.double()
    expected, _ = attention(x, causal=True)
    cache, rows = attention.cache(2, 2), []
    for part in x.split(parts, 1):
        y, cache = attention(part, causal=True, cache=cache)
        rows.append(y)

    assert torch.allclose(torch.cat(rows, 1), expected, atol=1e-12)
    assert len(cache.before) >= 2 and sum(k.shape[2] for k, _ in cache.before) + cache.length == 10


@pytest.mark.parametrize("outer", ["causal", "random_causal"])
@pytest.mark.parametrize(
    "sampler", [Sampler(), Sampler(guidance=2.0), Sampler(guidance=2.0, guided_to=0.4)]
)
def test_a_walk_over_pieces_draws_what_one_piece_draws(outer, sampler, monkeypatch):
    model, drawn = laws.make_model(outer, "gmm", False), []
    for piece in (64, 2):
        monkeypatch.setattr(layers, "PIECE", piece)
        drawn.append(model.generate(laws.labels(3), laws.images(3), sampler)[0])
    assert torch.allclose(*drawn, atol=1e-8) and drawn[0].std() > 0.1


@pytest.mark.parametrize("form", ["none", "tanh"])
def test_gelu_is_that_of_torch_with_a_gradient_and_without(form):
    """Numbers of every size; without a gradient and with tanh it is computed by a sigmoid."""
    x = torch.cat(
        [
            torch.linspace(-12, 12, 4001),
            torch.tensor([0.0, -1e-20, 1e-20, 1e15, -1e15, 1e30, -1e30]),
        ]
    )
    expected = torch.nn.functional.gelu(x.double(), approximate=form)
    inputs = x.clone().requires_grad_()
    y = GELU(form)(inputs)

    with torch.no_grad():
        drawn = GELU(form)(inputs)
    for output in (y, drawn):
        assert torch.allclose(output.double(), expected, rtol=1e-6, atol=1e-6)

    assert y.requires_grad
    assert torch.equal(inputs.detach(), x)


def test_dropout_acts_behind_gelu_too_where_it_is_asked_for(monkeypatch):
    """A dropout that triples tells how often a number passed it."""
    monkeypatch.setattr(layers.Dropout, "forward", lambda self, x: 3 * x)
    torch.manual_seed(0)
    x = torch.randn(2, 5, 16)
    once, twice = (
        Block(16, 2, dropout=0.1, dropout_hidden=hidden).feed_forward for hidden in (False, True)
    )
    twice.load_state_dict(once.state_dict())

    assert torch.allclose(twice(x), 3 * once(x), atol=1e-5)
    assert torch.allclose(once(x), 3 * once[2](once[1](once[0](x))), atol=1e-5)
