"""The laws of tests/laws.py over the whole registry: every head on z and inside feature_ar,
every outer, every norm.
"""

from __future__ import annotations

import math
from functools import partial

import laws
import pytest
import torch
from laws import CONTEXT, FEATURES, TOKENS, images, labels, make_head, make_model, normal_numbers

from arinar_lab.model.arinar import Arinar
from arinar_lab.model.density import FeaturewiseDensity, Grid
from arinar_lab.model.heads import HEADS
from arinar_lab.model.heads.mixture import Mixture
from arinar_lab.model.heads.shapes import Mixture1D
from arinar_lab.model.layers import NORMS
from arinar_lab.model.noise import Noise
from arinar_lab.model.outer import OUTERS
from arinar_lab.model.sampler import Sampler

ROWS = [
    kind
    for kind in HEADS
    if isinstance(make_head(kind, False)(normal_numbers(1, CONTEXT)), FeaturewiseDensity)
]
PLACES = pytest.mark.parametrize("inside", [False, True], ids=["on z", "inside feature_ar"])
each_head = pytest.mark.parametrize("kind", HEADS)
each_row_head = pytest.mark.parametrize("kind", ROWS)
each_outer = pytest.mark.parametrize("outer", OUTERS)
PAIRS = [
    (outer, kind, (i + j) % 2 == 1, ("plain", "guided", "candidates")[(i + j) % 3])
    for i, kind in enumerate(HEADS)
    for j, outer in enumerate(OUTERS)
]
"""Every head with every outer, in both places and under all samplers, each two of these
together at least once.
"""
each_pair = pytest.mark.parametrize(("outer", "kind", "inside", "sampler"), PAIRS)
each_evaluated_pair = pytest.mark.parametrize(
    ("outer", "kind", "inside"),
    [pair[:3] for pair in PAIRS if "log_prob" in make_head(pair[1], False).capabilities],
)


@pytest.fixture(autouse=True)
def no_gradients():
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


def density_of(kind: str, n: int = 3, seed: int = 0) -> FeaturewiseDensity:
    return make_head(kind, False)(normal_numbers(n, CONTEXT, seed=seed))


# One dimension: densities are densities


@each_row_head
def test_every_conditional_integrates_to_one_and_its_cdf_is_the_integral(kind):
    for row in laws.rows_of(density_of(kind), normal_numbers(3, FEATURES, seed=5)):
        total, difference = laws.integral(row)
        assert (total - 1).abs().max() < 1e-4
        assert difference.max() < 2e-3


@each_row_head
def test_log_prob_is_the_sum_of_the_rows(kind):
    density, x = density_of(kind), normal_numbers(3, FEATURES, seed=5)
    rows = [row.log_prob(x[:, f : f + 1]) for f, row in enumerate(laws.rows_of(density, x))]
    assert torch.allclose(density.log_prob(x), torch.cat(rows, -1).sum(-1), atol=1e-10)


@each_row_head
def test_an_interval_is_the_difference_of_the_cdf(kind):
    density, x = density_of(kind), normal_numbers(3, FEATURES, seed=5)
    low, high = x - 0.1, x + 0.3

    mass = [
        row.cdf(high[:, f : f + 1]) - row.cdf(low[:, f : f + 1])
        for f, row in enumerate(laws.rows_of(density, x))
    ]
    assert torch.allclose(
        density.log_interval(x, low, high).exp(), torch.cat(mass, -1).prod(-1), rtol=1e-6
    )


@each_row_head
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_agree_with_the_density(kind, temperature):
    density = make_head(kind, False)(normal_numbers(1, CONTEXT).expand(2000, -1)).tempered(
        temperature
    )
    assert laws.ks_distance(density) < 0.043  # critical value at 0.1 % for 2,000 draws


@each_row_head
@pytest.mark.parametrize("weight", [0.5, 2.0, 4.0])
def test_guided_samples_agree_with_the_guided_density(kind, weight):
    head = make_head(kind, False)
    density, null = (head(normal_numbers(1, CONTEXT, seed=s).expand(2000, -1)) for s in (0, 1))
    assert laws.ks_distance(density.guided(null, weight)) < 0.043


@pytest.mark.parametrize("ratio", [30, 300, 3000])
def test_inverse_cdf_is_exact_however_much_the_widths_differ(ratio):
    """A narrow component beside a wide one: a uniform grid misses it, the
    union of knots does not.
    """
    mean, std = torch.tensor([[-0.3, 1.0]]), torch.tensor([[1.0, 1.0 / ratio]])
    row = Mixture1D(mean.double(), std.double().log(), torch.tensor([[0.5, 0.5]]).double().log())
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    x = Grid.of(row)._inverse(u[None])
    assert (row.cdf(x) - u).abs().max() < 2e-3


@pytest.mark.parametrize("weight", [1.0, 4.0])
@pytest.mark.parametrize("narrow", [1e-1, 1e-4, 1e-9])
def test_the_points_of_a_grid_ascend(narrow, weight):
    """Those that are put where the mass is lie between their neighbours, in spikes narrower
    than the numbers too.
    """
    mean, log_std = (
        normal_numbers(2, 300, 4, dtype=torch.float32),
        normal_numbers(2, 300, 4, seed=1, dtype=torch.float32),
    )
    log_std[..., 0] += math.log(narrow)
    p, q = (
        Mixture1D(*each, normal_numbers(300, 4, seed=2).float().log_softmax(-1))
        for each in zip(mean, log_std, strict=True)
    )
    grid = Grid.product(p, q, weight)

    assert (grid.points.diff() >= 0).all()
    assert (grid.cumulative.diff() >= 0).all()
    assert torch.isfinite(grid.icdf(torch.linspace(0, 1, 300))).all()


def test_a_product_that_cannot_be_normalised_is_cut_and_counted():
    """A null narrower than √((w-1)/w) times the conditional: kept within 3.3
    σ of the conditional.
    """
    mean, weight = torch.zeros(50, 1, 1), torch.zeros(50, 1)
    wide, narrow = (Mixture(mean, mean + math.log(s), weight) for s in (1.0, 0.5))
    x, cut = wide.guided(narrow, 3.0).draw(images(50))
    assert (cut == 1).all()
    assert (x.abs() <= 3.3).all()
    _, cut = narrow.guided(wide, 3.0).draw(images(50))
    assert (cut == 0).all()


# Guidance


@each_head
@PLACES
def test_weight_one_is_the_density_itself(kind, inside):
    head, x, noise = make_head(kind, inside), normal_numbers(3, FEATURES, seed=5), images(3)
    density, null = head(normal_numbers(3, CONTEXT)), head(normal_numbers(3, CONTEXT, seed=1))
    guided = density.guided(null, 1.0)
    if "log_prob" in head.capabilities:
        assert torch.allclose(guided.log_prob(x, noise), density.log_prob(x, noise), atol=1e-12)
    assert torch.allclose(guided.sample(noise), density.sample(noise), atol=1e-12)


@each_row_head
@pytest.mark.parametrize("weight", [0.5, 1.5, 3.0])
def test_guided_is_the_normalised_product_block_by_block(kind, weight):
    p, q = density_of(kind, 20), density_of(kind, 20, seed=1)
    assert laws.guided_error(p, q, weight, normal_numbers(20, FEATURES, seed=5)) < 0.02


@each_row_head
def test_a_guided_chain_is_guided_block_by_block(kind):
    """Inside feature_ar, each block given the true past is the guided block of the head."""
    head, x = make_head(kind, True), normal_numbers(3, FEATURES, seed=5)
    p, q = head(normal_numbers(3, CONTEXT)), head(normal_numbers(3, CONTEXT, seed=1))
    groups, blocks = p._teacher_force(x)
    _, nulls = q._teacher_force(x)
    expected = blocks.guided(nulls, 2.0).log_prob(groups).sum(-1)
    assert torch.allclose(p.guided(q, 2.0).log_prob(x), expected, atol=1e-9)


@each_head
@PLACES
def test_temperature_and_guidance_commute_and_change_samples(kind, inside):
    head, noise = make_head(kind, inside), images(50)
    p, q = head(normal_numbers(50, CONTEXT)), head(normal_numbers(50, CONTEXT, seed=1))
    cold = p.guided(q, 2.0).tempered(0.5).sample(noise)
    assert torch.allclose(
        cold, p.tempered(0.5).guided(q.tempered(0.5), 2.0).sample(noise), atol=1e-9
    )
    assert not torch.allclose(cold, p.guided(q, 2.0).sample(noise))


# Autoregression: no leak, train = generate


@each_head
@pytest.mark.parametrize("order", ["identity", "reversed", "variance"])
@pytest.mark.parametrize("norm", NORMS)
def test_no_feature_leaks_into_the_terms_before_it(kind, order, norm):
    head = HEADS["feature_ar"](
        CONTEXT,
        FEATURES,
        head=laws.maker_of(kind),
        group=2 if kind == "nested" else 1,
        **laws.INSIDE,
        order=order,
        norm=NORMS[norm],
    )
    head.fit(
        normal_numbers(500, 1, FEATURES, seed=1, dtype=torch.float32)
        * torch.tensor([1.0, 3.0, 2.0, 0.5])
    )
    # little: without a norm more would send the bound of a diffusion to -inf
    laws.randomise(head.double(), 0.1).eval()
    for place, j in enumerate(head.order_index[0].tolist()):
        moves = laws.feature_leak(head, j)
        assert (moves[: place // head.group] == 0).all()
        assert (moves[place // head.group :] > 0).all()


@each_head
def test_features_drawn_one_by_one_follow_the_teacher_forced_density(kind):
    """The cached walk over features computes the conditionals that training does."""
    head = make_head(kind, True)
    density, noise = head(normal_numbers(4, CONTEXT)), images(4)
    x = density.sample(noise)
    groups, blocks = density._teacher_force(x)
    at = torch.arange(head.groups).expand(4, -1)
    assert torch.allclose(blocks.sample(noise.at(at)), groups, atol=1e-9)


@each_outer
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("qk_norm", [False, True])
def test_no_token_leaks_into_the_conditions_before_it(outer, norm, qk_norm):
    model = make_model(outer, "gmm", False, norm=NORMS[norm], qk_norm=qk_norm)
    x = normal_numbers(1, TOKENS, FEATURES)

    before = laws.walked(model, x)
    for s, (_, where) in enumerate(before):
        moved = x.clone()
        moved[:, where[0]] += 1.0
        changes = [
            (z - z0).abs().max()
            for (z, _), (z0, _) in zip(laws.walked(model, moved), before, strict=True)
        ]
        assert all(change == 0 for change in changes[: s + 1])
        assert all(change > 0 for change in changes[s + 1 :])


@each_outer
def test_training_conditions_do_not_see_what_they_predict(outer):
    model, noise = make_model(outer, "gmm", False), images(2)
    x, c = normal_numbers(2, TOKENS, FEATURES), model.labels(labels(2))
    z, where = model.outer(x, c, noise)
    for i in range(where.shape[1]):
        moved = x.clone()
        moved[torch.arange(2), where[:, i]] += 1.0
        assert torch.equal(model.outer(moved, c, noise)[0][:, i], z[:, i])


@each_evaluated_pair
def test_likelihood_in_one_pass_equals_the_cached_walk(outer, kind, inside):
    model, x, noise = (
        make_model(outer, kind, inside),
        normal_numbers(3, TOKENS, FEATURES),
        images(3).at(1),
    )
    steps = laws.walked(model, x)

    walk = sum(
        model.inner(z).log_prob(laws.take(x, where), noise.at(where)).sum(-1) for z, where in steps
    )
    assert torch.allclose(model.log_prob(x, labels(3), images(3)), walk, atol=1e-9)


def test_masked_training_equals_a_step_of_the_walk():
    """With the walk's first step masked in training, too, the conditions agree."""
    model, x, noise = (
        make_model("masked", "gmm", True),
        normal_numbers(3, TOKENS, FEATURES),
        images(3),
    )
    c, order = model.labels(labels(3)), images(3).at(0).permutation(TOKENS)
    (_, _), (z, where), *_ = laws.walked(model, x)
    known_at = order[:, :1]
    assert torch.equal(where, order[:, 1:2])
    every = model.outer._condition(x, c, known_at, order[:, 1:])

    assert torch.allclose(every[:, :1], z, atol=1e-10)
    assert noise.key.shape == (3,)


# A sample is a function of (weights, sampler, label, its own seed)

SAMPLERS = {
    "plain": Sampler(),
    "guided": Sampler(guidance=2.5, temperature=0.8),
    "candidates": Sampler(guidance=2.5, candidates=20),
}


@each_pair
def test_a_sample_depends_on_its_own_seed_alone(outer, kind, inside, sampler):
    sampler = SAMPLERS[sampler]
    if sampler.candidates and "pit" not in make_head(kind, inside).capabilities:
        sampler = SAMPLERS["guided"]
    model, seeds = make_model(outer, kind, inside), torch.tensor([7, 3, 11, 5])
    together = laws.samples(model, seeds, sampler)
    alone = torch.cat([laws.samples(model, seed[None], sampler) for seed in seeds])

    assert torch.allclose(together, alone, atol=1e-9)
    assert torch.allclose(laws.samples(model, seeds.flip(0), sampler).flip(0), together, atol=1e-9)
    assert not torch.allclose(together[0], together[1])


@each_outer
def test_single_precision_changes_few_samples_with_the_batch(outer):
    model, seeds = make_model(outer, "gmm", True, torch.float32), torch.arange(200)
    sampler = Sampler(guidance=2.0)
    whole = laws.samples(model, seeds, sampler)
    parts = torch.cat([laws.samples(model, part, sampler) for part in seeds.split(7)])
    difference = (whole - parts).abs().flatten(1).amax(1)
    assert difference.median() < 1e-3
    assert (difference > 1e-2).float().mean() < 0.01


@each_outer
def test_guidance_weight_one_costs_and_changes_nothing(outer):
    model, seeds = make_model(outer, "gmm", True), torch.arange(3)
    calls = []
    handle = model.inner.trunk.register_forward_hook(
        lambda module, inputs, output: calls.append(inputs[1].shape[0])
    )
    plain = laws.samples(model, seeds, Sampler())
    assert max(calls) == 3  # the null branch would make it 6
    handle.remove()

    assert torch.equal(
        plain, laws.samples(model, seeds, Sampler(guidance=1.0, schedule="constant"))
    )


# Training


def masked_share(model: Arinar, seed: int) -> float:
    """Of the batch whose first image has this seed; 0 for an outer model that masks nothing."""
    return model.mask_ratio(Noise.of(torch.tensor([seed]))) or 0.0


@each_pair
def test_gradients_reach_every_trained_parameter(outer, kind, inside, sampler):
    model = make_model(outer, kind, inside, torch.float32)
    x, y = normal_numbers(64, TOKENS, FEATURES, dtype=torch.float32), labels(64)
    noise = next(Noise.of(torch.arange(64) + s) for s in range(99) if masked_share(model, s) < 0.8)

    with torch.enable_grad():
        model.loss(x, y, noise).backward()

    still = [
        n
        for n, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or p.grad.abs().max() == 0)
    ]
    assert not still


@each_head
@PLACES
def test_half_precision_changes_the_loss_little(kind, inside):
    """Under automatic mixed precision the maps are in bfloat16, and what is sensitive is not."""
    model = make_model("causal", kind, inside, torch.float32)
    x, y = normal_numbers(64, TOKENS, FEATURES, dtype=torch.float32), labels(64)
    whole = model.loss(x, y, images(64))
    with torch.autocast("cpu", torch.bfloat16):
        half = model.loss(x, y, images(64))
    assert abs(half / whole - 1) < 0.05


def test_dropped_labels_are_the_share_asked_for_and_teach_the_null():
    model = make_model("causal", "gmm", False, torch.float32)
    y = torch.ones(4000, dtype=torch.long)
    hidden = (model.labels(y, images(4000))[:, 0] == model.labels.null(4000)[:, 0]).all(-1)
    assert abs(hidden.float().mean() - 0.1) < 0.02
    assert not (model.labels(y)[:, 0] == model.labels.null(4000)[:, 0]).all(-1).any()


def test_masked_share_follows_the_published_distribution():
    outer = make_model("masked", "gmm", False).outer
    ratios = torch.tensor([outer.mask_ratio(Noise.of(torch.tensor([i]))) for i in range(2000)])
    assert ratios.min() >= 0.7
    assert ratios.max() <= 1.0
    assert abs(ratios.mean() - 0.8675) < 0.005  # of a normal(1, 0.25) truncated to [0.7, 1]


@each_outer
def test_arms_share_their_initial_weights(outer):
    """Another head leaves every parameter of the other parts as it was; another seed does not."""

    def weights(kind: str, seed: int = 0) -> dict[str, torch.Tensor]:
        inner = partial(HEADS["feature_ar"], head=HEADS[kind])
        return Arinar(TOKENS, FEATURES, 3, OUTERS[outer], inner, seed=seed).state_dict()

    one, other, seeded = weights("gmm"), weights("discrete"), weights("gmm", seed=1)
    common = [name for name in one if name in other]
    assert len(common) > 20
    assert all(torch.equal(one[name], other[name]) for name in common)
    matrices = [name for name in common if one[name].dim() > 1 and one[name].float().std() > 0]
    assert not any(
        torch.equal(one[name], seeded[name]) for name in matrices if "order_index" not in name
    )


def test_nothing_touches_the_global_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model = make_model("masked", "gmm", True)
    model.log_prob(normal_numbers(2, TOKENS, FEATURES), labels(2), images(2))
    laws.samples(model, torch.arange(2), Sampler(guidance=2.0))
    model.train().loss(normal_numbers(2, TOKENS, FEATURES), labels(2), images(2))
    assert torch.equal(before, torch.get_rng_state())
