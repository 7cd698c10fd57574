"""The inner autoregressive model: its trunks, and the order of the features
along principal axes.
"""

from functools import partial

import laws
import pytest
import torch
from laws import CONTEXT, FEATURES, TOKENS, images, labels, normal_numbers

from arinar_lab.model.arinar import Arinar
from arinar_lab.model.heads import HEADS
from arinar_lab.model.inner.feature_ar import principal_axes
from arinar_lab.model.inner.trunks import TRUNKS
from arinar_lab.model.layers import NORMS, initialise
from arinar_lab.model.outer import CausalAR
from arinar_lab.model.sampler import Sampler

ORDERS = ["identity", "reversed", "variance", "principal"]
each_trunk = pytest.mark.parametrize("trunk", TRUNKS)
PAIRWISE = [  # every trunk meets every order, group size and norm
    (trunk, order, [1, 2, 4][(i + j) % 3], norm)
    for i, trunk in enumerate(TRUNKS)
    for j, (order, norm) in enumerate(zip(ORDERS, NORMS, strict=True))
]
each_pair = pytest.mark.parametrize(("trunk", "order", "group", "norm"), PAIRWISE)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def data(n=2000, features=FEATURES):
    """Correlated features of different widths: [n, 1, D]."""
    x = normal_numbers(n, 1, features, seed=1) * torch.linspace(0.5, 3, features)
    return x + 0.7 * x.roll(1, -1) + 1.5


def make(trunk="transformer", order="identity", group=1, norm="layer", head="gmm", **arguments):
    arguments = {"width": 16, "depth": 2, "heads": 2, **arguments}
    made = HEADS["feature_ar"](
        CONTEXT,
        FEATURES,
        head=HEADS[head],
        trunk=trunk,
        order=order,
        group=group,
        norm=NORMS[norm],
        **arguments,
    )
    initialise(made, 0)
    made.double().fit(data())
    # without a norm guided values grow from group to group
    scale = 0.05 if norm == "none" else 0.15

    return laws.randomise(made, scale).eval()


# Laws of every trunk and order


@each_pair
def test_no_feature_leaks_into_the_terms_before_it(trunk, order, group, norm):
    head = make(trunk, order, group, norm)
    x, density = normal_numbers(5, FEATURES, seed=2), head(normal_numbers(5, CONTEXT))
    ordered = head.arranged(x, 0)

    for j in range(FEATURES):
        moved = ordered.flatten(-2).clone()
        moved[:, j] += 1.0
        groups = moved.unflatten(-1, ordered.shape[-2:])
        h, h_moved = (head.trunk(g[:, :-1], density.z)[0] for g in (ordered, groups))
        place = j // group
        assert torch.equal(h_moved[:, : place + 1], h[:, : place + 1])
        assert ((h_moved - h)[:, place + 1 :].abs().amax((0, 2)) > 0).all()
        moves = (density.terms(head.restored(groups, 0)) - density.terms(x)).abs().amax(0)
        assert (moves[:place] < 1e-12).all()
        assert (moves[place:] > 1e-6).all()


@each_pair
def test_groups_drawn_one_by_one_follow_the_teacher_forced_density(trunk, order, group, norm):
    head, noise = make(trunk, order, group, norm), images(4)
    for null in (None, normal_numbers(4, CONTEXT, seed=1)):
        density = head(normal_numbers(4, CONTEXT))
        density = density if null is None else density.guided(head(null), 2.0).tempered(0.8)
        x = density.sample(noise)
        assert x.isfinite().all()
        groups, blocks = density._teacher_force(x)
        at = torch.arange(head.groups).expand(4, -1)
        assert torch.allclose(blocks.sample(noise.at(at)), groups, atol=1e-9)


@each_pair
def test_contexts_in_one_pass_equal_those_step_by_step(trunk, order, group, norm):
    head = make(trunk, order, group, norm)
    x, z = normal_numbers(3, FEATURES // group, group), normal_numbers(3, CONTEXT)
    whole, _ = head.trunk(x[:, :-1], z)
    state, steps = head.trunk.empty(3), []
    for g in range(x.shape[1]):
        h, state = head.trunk(x[:, max(g - 1, 0) : g], z, state)
        steps.append(h)
    assert torch.allclose(torch.cat(steps, 1), whole, atol=1e-12)


@pytest.mark.parametrize(
    ("trunk", "order", "group", "norm"), [p for p in PAIRWISE if p[2] < FEATURES]
)
def test_gradients_reach_every_parameter_and_samples_are_their_own(trunk, order, group, norm):
    inner = partial(
        HEADS["feature_ar"],
        head=HEADS["gmm"],
        trunk=trunk,
        order=order,
        group=group,
        norm=NORMS[norm],
        width=16,
        depth=2,
        heads=2,
    )
    model = Arinar(
        TOKENS, FEATURES, laws.CLASSES, partial(CausalAR, width=16, heads=2), inner
    ).double()
    model.inner.fit(data())
    laws.randomise(model, 0.15).eval()
    seeds, sampler = torch.tensor([7, 3, 11]), Sampler(guidance=2.0)
    together = laws.samples(model, seeds, sampler)
    alone = torch.cat([laws.samples(model, seed[None], sampler) for seed in seeds])
    assert together.isfinite().all()
    assert torch.allclose(together, alone, atol=1e-9)
    with torch.enable_grad():
        model.loss(normal_numbers(64, TOKENS, FEATURES), labels(64), images(64)).backward()

    assert not [n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0]


@each_trunk
def test_one_trunk_reads_the_condition_everywhere(trunk):
    head, x = make(trunk), normal_numbers(3, FEATURES)
    terms = [head(normal_numbers(3, CONTEXT, seed=s)).terms(x) for s in (0, 1)]
    assert ((terms[0] - terms[1]).abs() > 1e-6).all()


@each_trunk
@pytest.mark.parametrize("depth", [1, 3])
def test_depth_is_the_number_of_layers(trunk, depth):
    made = make(trunk, depth=depth).trunk
    layers = {"transformer": "blocks", "recurrent": "cells", "masked_mlp": "layers"}[trunk]
    assert len(getattr(made, layers)) == depth


@each_trunk
def test_a_trunk_of_several_groups_of_tokens_serves_each(trunk):
    """As the head of another feature_ar, a feature_ar stands for several groups."""
    inner = partial(
        HEADS["feature_ar"], head=HEADS["gmm"], trunk=trunk, width=8, heads=2, order="principal"
    )
    head = HEADS["feature_ar"](CONTEXT, FEATURES, head=inner, group=2, width=8, heads=2).double()
    head.fit(data())
    axes = head.head.rotation
    assert axes.shape == (2, 2, 2)
    assert (axes[0] - axes[1]).abs().max() > 1e-3
    density, noise = laws.randomise(head)(normal_numbers(4, CONTEXT)), images(4)

    groups, blocks = density._teacher_force(density.sample(noise))
    assert torch.allclose(blocks.sample(noise.at(torch.arange(2).expand(4, -1))), groups, atol=1e-9)


def test_a_masked_weight_has_no_effect_and_gets_no_gradient():
    trunk = make("masked_mlp").trunk
    x, z, first = normal_numbers(3, FEATURES - 1, 1), normal_numbers(3, CONTEXT), trunk.layers[0]
    h, _ = trunk(x, z)
    with torch.enable_grad():
        trunk(x, z)[0].square().sum().backward()
    assert (first.weight.grad[~first.reads] == 0).all()
    first.weight[~first.reads] = 5.0
    assert torch.equal(trunk(x, z)[0], h)


def test_options_that_a_trunk_does_not_read_are_refused():
    for trunk in ("recurrent", "masked_mlp"):
        with pytest.raises(
            ValueError, match=rf"^qk_norm: True is an option of the transformer, and .* {trunk}"
        ):
            make(trunk, qk_norm=True)
        make(trunk, qk_norm=False, mlp_ratio=4.0)
        with pytest.raises(ValueError, match=r"^depth: 0 is too few"):
            make(trunk, depth=0)

    with pytest.raises(
        ValueError,
        match=r"^width: 3 is too few; a masked_mlp needs a unit for each of the 4 groups",
    ):
        make("masked_mlp", width=3)


# Principal axes


def test_principal_axes_are_orthonormal_and_uncorrelated_widest_first():
    x = data()
    axes = principal_axes(x)[0]
    covariance = (x[:, 0] @ axes).T.cov()
    assert torch.allclose(axes.T @ axes, torch.eye(FEATURES).double(), atol=1e-12)
    assert torch.allclose(covariance, covariance.diag().diag(), atol=1e-10)
    assert (covariance.diag().diff() < 0).all()
    # the direction is no matter of chance
    assert torch.allclose(principal_axes(-x)[0], axes, atol=1e-10)


def test_a_rotation_leaves_the_density_a_density():
    """Two features: the integral over a grid is 1, whatever the axes."""
    wide = partial(HEADS["fixed_gaussian"], std=0.6)
    head = HEADS["feature_ar"](CONTEXT, 2, head=wide, order="principal", width=8, heads=2).double()
    head.fit(data(features=2))
    laws.randomise(head)
    assert (head.rotation[0] - torch.eye(2)).abs().max() > 0.1
    line = torch.linspace(-12, 12, 120, dtype=torch.float64)
    x = torch.cartesian_prod(line, line)

    density = head(normal_numbers(1, CONTEXT).expand(len(x), -1)).log_prob(x).exp()
    assert density.sum().item() * (line[1] - line[0]).item() ** 2 == pytest.approx(1, abs=1e-5)


def test_arranged_and_restored_are_inverse():
    x = normal_numbers(5, FEATURES)
    for order in ORDERS:
        head = make(order=order, group=2)
        assert torch.allclose(head.restored(head.arranged(x, 0), 0), x, atol=1e-12)
    turned = make(order="principal").arranged(x, 0).flatten(1)
    assert torch.allclose(turned.norm(dim=1), x.norm(dim=1), atol=1e-12)


def test_along_principal_axes_an_interval_is_refused():
    head, x = make(order="principal"), normal_numbers(2, FEATURES)
    assert head.capabilities == {"log_prob", "temper", "guide", "together"}
    with pytest.raises(NotImplementedError, match="principal axes"):
        head(normal_numbers(2, CONTEXT)).log_interval(x, x - 0.1, x + 0.1)
    assert "pit" in make(order="variance").capabilities


def test_orders_add_no_state_but_the_principal_one():
    states = {order: set(make(order=order).state_dict()) for order in ORDERS}
    assert states["principal"] - states["identity"] == {"rotation"}
    assert states["identity"] == states["reversed"] == states["variance"]
