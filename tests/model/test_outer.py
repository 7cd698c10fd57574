"""Outer models and their blocks: positions, the random order with a told target, and the
options of attention.
"""

import math

import laws
import pytest
import torch
from laws import FEATURES, TOKENS, images, labels, make_model, normal_numbers

from arinar_lab.model.layers import (
    NORMS,
    Attention,
    Block,
    FixedVectors,
    initialise,
    rotate,
    sine_positions,
)
from arinar_lab.model.noise import Noise
from arinar_lab.model.outer import OUTERS, CausalAR, Outer, take
from arinar_lab.model.sampler import Sampler

PLACES = ["learned", "sine", "rotary"]
each_outer = pytest.mark.parametrize("outer", OUTERS)
PAIRWISE = [  # every outer meets every norm, every norm both placements and both qk_norms
    (outer, norm, placement, qk_norm, positions)
    for i, outer in enumerate(OUTERS)
    for j, norm in enumerate(NORMS)
    for placement, qk_norm, positions in [
        (["pre", "sandwich"][(i + j) % 2], bool((i + j // 2) % 2), PLACES[(i + j) % 3]),
        (["sandwich", "pre"][(i + j) % 2], bool((i + j // 2 + 1) % 2), PLACES[(i + j + 1) % 3]),
    ]
]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def leaks(model, x):
    """Changes of the conditions of each step when the tokens of one step move: before
    and at it, behind it.
    """
    before = laws.walked(model, x)
    for s, (_, where) in enumerate(before):
        moved = x.clone()
        moved[:, where[0]] += 1.0
        after = laws.walked(model, moved)
        changes = [
            (z - z0).abs().max().item() for (z, _), (z0, _) in zip(after, before, strict=True)
        ]
        yield changes[: s + 1], changes[s + 1 :]


@pytest.mark.parametrize(("outer", "norm", "placement", "qk_norm", "positions"), PAIRWISE)
def test_no_leak_and_training_equals_the_walk_whatever_the_block(
    outer, norm, placement, qk_norm, positions
):
    model = make_model(
        outer,
        "gmm",
        False,
        norm=NORMS[norm],
        placement=placement,
        qk_norm=qk_norm,
        positions=positions,
    )
    x, c, noise = normal_numbers(3, TOKENS, FEATURES), model.labels(labels(3)), images(3)
    for before, behind in leaks(model, x[:1]):
        assert max(before) == 0
        assert all(change > 0 for change in behind)

    taught, walked = model.outer.conditions(x, c, noise), Outer.conditions(model.outer, x, c, noise)
    for part in zip(*[zip(*steps, strict=True) for steps in (taught, walked)], strict=True):
        one, other = (torch.cat(list(tensors), 1) for tensors in part)
        assert torch.allclose(one, other, atol=1e-10)


@each_outer
@pytest.mark.parametrize("positions", PLACES[1:])
def test_other_positions_train_every_parameter_and_keep_a_sample_its_own(outer, positions):
    model, seeds = make_model(outer, "gmm", False, positions=positions), torch.tensor([7, 3, 11])
    for sampler in (Sampler(), Sampler(guidance=2.5)):
        together = laws.samples(model, seeds, sampler)
        alone = torch.cat([laws.samples(model, seed[None], sampler) for seed in seeds])
        assert torch.allclose(together, alone, atol=1e-9)

    noise = Noise.of(torch.arange(64) + 1)  # a batch of which a masked model knows some tokens
    with torch.enable_grad():
        model.loss(normal_numbers(64, TOKENS, FEATURES), labels(64), noise).backward()

    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@each_outer
def test_learned_positions_keep_their_names_and_the_others_have_no_parameters(outer):
    learned, sines, rotary = (
        make_model(outer, "gmm", False, positions=kind).outer for kind in PLACES
    )
    parameters = {name for name, _ in learned.named_parameters() if "positions" in name}
    assert parameters == (
        {f"{part}_positions.weight" for part in ("encoder", "decoder", "output")}
        if outer == "masked"
        else {"positions.weight"}
    )
    for other in (sines, rotary):
        assert set(learned.state_dict()) - set(other.state_dict()) == parameters


@each_outer
@pytest.mark.parametrize("positions", PLACES)
def test_z_differs_from_position_to_position(outer, positions):
    """Also where all tokens are alike, and for a masked model that knows none of them."""
    model = make_model(outer, "gmm", False, positions=positions)
    x, recorded = torch.zeros(2, TOKENS, FEATURES).double(), []

    def visit(z, null, where, progress):
        recorded.append(z)
        return take(x, where)

    one_step = Sampler(steps=1) if outer == "masked" else Sampler()
    model.outer.walk(model.labels(labels(2)), None, visit, images(2), one_step)
    z = torch.cat(recorded, 1)
    apart = (z.unsqueeze(1) - z.unsqueeze(2)).abs().amax(-1) + torch.eye(TOKENS)
    assert apart.min() > 1e-4


@each_outer
def test_a_rotary_head_of_odd_size_is_refused(outer):
    with pytest.raises(ValueError, match=r"^positions: rotary .* size 5 is odd"):
        OUTERS[outer](TOKENS, FEATURES, width=10, heads=2, positions="rotary")
    with pytest.raises(ValueError, match=r"^heads: 0 does not divide"):
        OUTERS[outer](TOKENS, FEATURES, width=10, heads=0, positions="rotary")


# Rotation and sines


def test_a_rotated_product_depends_on_the_distance_and_lengths_stay():
    q, k = normal_numbers(1, 1, 1, 8), normal_numbers(1, 1, 1, 8, seed=1)

    def product(i, j):
        return (rotate(q, torch.tensor([i])) * rotate(k, torch.tensor([j]))).sum().item()

    assert product(7, 4) == pytest.approx(product(103, 100), abs=1e-12)
    assert abs(product(7, 4) - product(7, 5)) > 1e-3
    assert torch.equal(rotate(q, torch.tensor([0])), q)
    assert rotate(q, torch.tensor([9])).norm().item() == pytest.approx(q.norm().item(), abs=1e-12)


def test_a_rotation_is_the_one_of_the_paper():
    """Pair i turns by at·10,000^(-2i/S): by complex multiplication."""
    x, at = normal_numbers(2, 3, 5, 8), torch.tensor([[0, 4, 2, 9, 1], [3, 3, 8, 0, 7]])
    pairs = torch.complex(x[..., :4], x[..., 4:])
    turn = torch.exp(1j * at[:, None, :, None] * 10_000.0 ** (-torch.arange(0, 8, 2).double() / 8))
    turned = pairs * turn
    assert torch.allclose(rotate(x, at), torch.cat([turned.real, turned.imag], -1), atol=1e-12)


def test_rotary_attention_is_blind_to_a_common_shift_and_sees_order():
    attention = laws.randomise(Attention(16, 2, qk_norm=True).double())
    x, at = normal_numbers(2, 5, 16), torch.tensor([3, 0, 4, 1, 2])
    y, _ = attention(x, at=at)
    assert torch.allclose(attention(x, at=at + 50)[0], y, atol=1e-10)
    assert (attention(x, at=torch.arange(5))[0] - y).abs().max() > 1e-3
    shuffle = torch.tensor([4, 2, 0, 1, 3])
    assert torch.allclose(attention(x[:, shuffle], at=at[shuffle])[0], y[:, shuffle], atol=1e-10)


@pytest.mark.parametrize("width", [6, 7])
def test_sines_tell_every_place_apart_and_are_as_long_as_learned_vectors(width):
    table = sine_positions(50, width)
    assert torch.allclose(table.norm(dim=-1), torch.tensor(2.0))
    assert (torch.cdist(table, table) + torch.eye(50)).min() > 1e-3
    # the first pair has the frequency 1
    angle = math.atan2(table[17, 0], table[17, (width + 1) // 2])
    assert angle % (2 * math.pi) == pytest.approx(17 % (2 * math.pi), abs=1e-4)
    assert not list(FixedVectors(table).parameters())


# The random order


def test_every_image_has_its_own_order_and_the_walk_visits_every_token_once():
    model = make_model("random_causal", "gmm", False)
    _, order = model.outer(normal_numbers(5, TOKENS, FEATURES), model.labels(labels(5)), images(5))
    assert (order.sort(-1).values == torch.arange(TOKENS)).all()
    assert len({tuple(row) for row in order.tolist()}) > 1
    assert model.likelihood == "bound"


def test_the_target_is_told():
    """With the same tokens known, another target gives another condition."""
    outer = make_model("random_causal", "gmm", False).outer
    y, order = normal_numbers(1, 1, 16), torch.tensor([[0, 1, 2, 3, 4, 5]])
    rows = [outer._placed(y, order[:, [0, target, *range(2, TOKENS)]], 1)[0] for target in (1, 5)]
    assert torch.allclose(rows[1] - rows[0], outer.targets()[5] - outer.targets()[1])


def test_tokens_drawn_in_a_random_order_stand_where_they_belong():
    outer = make_model("random_causal", "gmm", False).outer
    x, c, noise = normal_numbers(3, TOKENS, FEATURES), torch.zeros(3, 1, 16).double(), images(3)
    assert torch.equal(
        outer.walk(c, None, lambda z, null, where, progress: take(x, where), noise), x
    )


# Options of a block


def test_keys_need_no_bias():
    """The softmax cancels it: without one the layer computes what it does with a bias of zero."""
    x, with_bias, without = (
        normal_numbers(2, 5, 8),
        Attention(8, 2).double(),
        Attention(8, 2, k_bias=False).double(),
    )
    laws.randomise(with_bias)
    q, k, v = with_bias.qkv.bias.chunk(3)
    with torch.no_grad():
        k.zero_()
        without.load_state_dict(
            {n: p for n, p in with_bias.state_dict().items() if n != "qkv.bias"}
            | {"q_bias": q, "v_bias": v}
        )

    y, _ = with_bias(x, causal=True)
    assert torch.allclose(without(x, causal=True)[0], y, atol=1e-12)
    k += 3.0

    assert torch.allclose(with_bias(x, causal=True)[0], y, atol=1e-12)
    assert (
        sum(p.numel() for p in with_bias.parameters())
        - sum(p.numel() for p in without.parameters())
        == 8
    )


def block(**options):
    module = Block(8, 2, **options)
    initialise(module, 0)
    return module.double().eval()


@pytest.mark.parametrize("options", [{"gelu": "tanh"}, {"softmax_scale": 0.25}, {"qk_norm": True}])
def test_an_option_of_a_block_changes_its_output(options):
    x = normal_numbers(2, 5, 8)
    plain, other = block(), block(**options)
    assert set(plain.state_dict()) <= set(other.state_dict())
    assert (plain(x)[0] - other(x)[0]).abs().max() > 1e-6


def test_the_tanh_of_gelu_is_near_the_exact_one():
    x = normal_numbers(2, 5, 8)
    assert (block()(x)[0] - block(gelu="tanh")(x)[0]).abs().max() < 5e-3


def test_the_softmax_scale_multiplies_the_queries():
    x, halved = normal_numbers(2, 5, 8), block(softmax_scale=0.5).attention
    scaled = block().attention
    scaled.load_state_dict(halved.state_dict())
    scaled.qkv.weight[:8] *= 0.5
    assert torch.allclose(scaled(x)[0], halved(x)[0], atol=1e-12)


def test_a_sandwich_normalises_what_the_layers_add():
    x, module = 100 * normal_numbers(2, 5, 8), block(placement="sandwich")
    added, _ = module.attention(module.norm1(x))
    y = x + module.after1(added)
    expected = y + module.after2(module.feed_forward(module.norm2(y)))
    assert torch.allclose(module(x)[0], expected, atol=1e-12)
    assert torch.allclose((y - x).std(-1, unbiased=False), torch.ones(2, 5).double(), atol=1e-3)
    assert (module(x)[0] - block()(x)[0]).abs().max() > 1e-2


@pytest.mark.parametrize("norm", NORMS)
def test_an_adaptive_sandwich_starts_as_the_identity(norm):
    module, x = block(placement="sandwich", norm=NORMS[norm], context=4), normal_numbers(2, 5, 8)
    assert torch.equal(module(x, normal_numbers(2, 4))[0], x)


@pytest.mark.parametrize("kind", ["masked", "masked_stack", "causal"])
def test_every_outer_model_runs_under_autocast(kind):
    """Half precision is how the presets train: what linear maps give is then narrower than
    what it is put into.
    """
    outer = OUTERS[kind](4, 3, width=16, heads=2)
    noise, c = Noise.of(torch.arange(2)), torch.zeros(2, outer.prefix, 16)
    initialise(outer, 0)
    with torch.autocast("cpu", torch.bfloat16):
        z, _ = outer(torch.zeros(2, 4, 3), c, noise)
    assert z.isfinite().all() and z.shape[-1] == outer.context


@torch.no_grad()
def test_a_causal_walk_is_guided_up_to_the_last_step_that_says_so():
    """0.57 is the progress of a step, and the sum of the one before and of a
    step is a little more.
    """
    outer, c, recorded = CausalAR(100, 1, width=8, depth=1, heads=2), torch.zeros(1, 1, 8), []

    def visit(z, null, where, progress):
        recorded.append((progress, null is not None))
        return torch.zeros(1, 1, 1)

    outer.walk(c, c, visit, laws.images(1), Sampler(guidance=2.0, guided_to=0.57))
    assert (
        [guided for _, guided in recorded]
        == [progress <= 0.57 for progress, _ in recorded]
        == [True] * 57 + [False] * 43
    )
