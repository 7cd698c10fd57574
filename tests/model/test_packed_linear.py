"""Packed linear maps compute what the others do, and are gone when the drawing is over."""

from __future__ import annotations

import laws
import pytest
import torch
from torch import nn

from arinar_lab.model import packed_linear
from arinar_lab.model.layers import Block, Linear
from arinar_lab.model.packed_linear import SMALLEST, _available, has_native_matmul, packed_weights
from arinar_lab.model.sampler import Sampler

WIDTH = 128
pytestmark = pytest.mark.skipif(not _available(), reason="this torch has no oneDNN")


def block(**options) -> Block:
    return laws.randomise(Block(WIDTH, 4, **options), 0.02).eval()


@pytest.mark.parametrize("joins", [True, False])
@pytest.mark.parametrize("gelu", ["exact", "tanh"])
@pytest.mark.parametrize("options", [{}, {"k_bias": False}, {"context": WIDTH}])
@torch.no_grad()
def test_a_packed_block_computes_the_same(gelu, options, joins, monkeypatch):
    monkeypatch.setattr(packed_linear, "fuses_gelu", lambda: joins)
    module = block(gelu=gelu, **options)
    x, z = (
        laws.normal_numbers(3, 5, WIDTH, dtype=torch.float32),
        laws.normal_numbers(3, WIDTH, dtype=torch.float32),
    )
    expected = module(x, z)[0]

    with packed_weights(module):
        assert all(m.packed is not None for m in module.modules() if isinstance(m, Linear))
        assert (module(x, z)[0] - expected).abs().max() < 1e-5

    assert torch.equal(module(x, z)[0], expected)


def test_gradients_autocast_and_other_numbers_go_by_the_weights_themselves():
    module, x = block(), laws.normal_numbers(3, 5, WIDTH, dtype=torch.float32)
    expected = module(x)[0]
    with packed_weights(module):
        y = module(x)[0]
        y.sum().backward()
        assert torch.equal(y, expected) and module.attention.qkv.weight.grad is not None
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            by_autocast = module.attention.qkv(x)
        with torch.no_grad(), packed_weights(module), torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(module.attention.qkv(x), by_autocast)

    with packed_weights(module.double()):
        assert not any(getattr(m, "packed", None) is not None for m in module.modules())


@pytest.mark.skipif(
    not has_native_matmul(torch.device("cpu"), torch.bfloat16),
    reason="this processor knows no bfloat16",
)
@torch.no_grad()
def test_under_autocast_weights_of_bfloat16_are_packed():
    module, x = block(), laws.normal_numbers(3, 5, WIDTH, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        expected = module(x)[0]
        with packed_weights(module):
            assert module.attention.qkv.packed.dtype == torch.bfloat16
            assert (module(x)[0] - expected).abs().max() < 0.02 * expected.abs().max()


def test_weights_that_changed_since_are_packed_anew():
    """Averaging writes through `.data`, which no version counter sees."""
    small, big = Linear(8, 8), Linear(WIDTH, WIDTH)
    assert small.weight.numel() < SMALLEST <= big.weight.numel()
    both, x = nn.ModuleList([small, big]), torch.ones(1, WIDTH)
    for value in (1.0, 2.0):
        big.weight.data.fill_(value)
        with packed_weights(both), packed_weights(both), torch.no_grad():
            assert torch.allclose(big(x), torch.full((1, WIDTH), value * WIDTH))
            assert small.packed is None


def test_generation_packs_and_unpacks():
    model = laws.make_model("masked", "gmm", True, torch.float32)
    wide = model.labels.wide = Linear(WIDTH, WIDTH)
    recorded: list[bool] = []
    model.outer.token_of.register_forward_hook(lambda *_: recorded.append(wide.packed is not None))
    model.generate(laws.labels(2), laws.images(2), Sampler())
    assert recorded and all(recorded) and wide.packed is None


@torch.no_grad()
def test_a_processor_without_bfloat16_goes_by_the_weights_themselves(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    module, x = block(), laws.normal_numbers(3, 5, WIDTH, dtype=torch.float32)
    assert has_native_matmul(torch.device("cpu"), torch.float32) and not has_native_matmul(
        torch.device("cpu"), torch.bfloat16
    )
    with torch.autocast("cpu", torch.bfloat16):
        expected = module(x)[0]
        with packed_weights(module):
            assert module.attention.qkv.packed is None
            assert torch.equal(module(x)[0], expected)
