"""Approximate accelerators of generation: what each leaves out, and what must hold all the same."""

from itertools import pairwise

import laws
import pytest
import torch
from laws import FEATURES, TOKENS, images, labels, make_model, normal_numbers

from arinar_lab.model.noise import Noise
from arinar_lab.model.outer import OUTERS, Outer, take
from arinar_lab.model.sampler import Sampler

TRUNKS = ["transformer", "recurrent", "masked_mlp"]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def visits(model, sampler, batch=2):
    """(z, z_null, where, progress) of each step of a guided walk that is answered
    with the same tokens.
    """
    x, recorded = normal_numbers(batch, TOKENS, FEATURES), []

    def visit(*step):
        recorded.append(step)
        return take(x, step[2])

    c = model.labels(labels(batch))
    model.outer.walk(c, model.labels.null(batch), visit, images(batch), sampler)
    return recorded


@pytest.mark.parametrize(
    ("outer", "settings"),
    [
        ("masked", {"mask_schedule": "linear", "steps": 3}),
        ("causal", {"guided_from": 0.3, "guided_to": 0.8, "together": 2}),
        ("masked_stack", {"null_refresh": 2}),
        ("masked", {"token_refresh": 2, "null_refresh": 3, "together": 2}),
    ],
)
def test_a_sample_stays_a_function_of_its_own_seed(outer, settings):
    model, seeds = make_model(outer, "gmm", True), torch.tensor([7, 3, 11])
    sampler = Sampler(guidance=2.5, **settings)
    together = laws.samples(model, seeds, sampler)
    alone = torch.cat([laws.samples(model, seed[None], sampler) for seed in seeds])
    assert torch.allclose(together, alone, atol=1e-9)
    assert (together - laws.samples(model, seeds, Sampler(guidance=2.5))).abs().max() > 1e-3


# Guidance in an interval


@pytest.mark.parametrize("outer", OUTERS)
def test_guidance_in_no_step_is_no_guidance(outer):
    model, seeds = make_model(outer, "gmm", True), torch.arange(4)
    never = Sampler(guidance=3.0, schedule="constant", guided_from=0.999, guided_to=0.9999)
    if outer in ("causal", "random_causal"):  # its last step has progress 1
        assert torch.allclose(
            laws.samples(model, seeds, never), laws.samples(model, seeds, Sampler()), atol=1e-9
        )
    else:
        assert torch.equal(laws.samples(model, seeds, never), laws.samples(model, seeds, Sampler()))


@pytest.mark.parametrize("outer", ["masked", "causal", "random_causal"])
def test_no_null_branch_is_computed_outside_the_interval(outer):
    """A causal one is carried along before the interval, where its weight is one."""
    model = make_model(outer, "gmm", False)
    recorded, whole = (
        visits(model, Sampler(guidance=2.0, **say))
        for say in ({"guided_from": 0.3, "guided_to": 0.7}, {})
    )
    guided = [null is not None for _, null, _, _ in recorded]
    least = 0.3 if outer == "masked" else 0.0

    assert guided == [least <= progress <= 0.7 for *_, progress in recorded]
    assert 0 < sum(guided) < len(guided)
    for (z, null, *_), (z_whole, null_whole, *_) in zip(recorded, whole, strict=True):
        assert torch.allclose(z, z_whole, atol=1e-12)
        assert null is None or torch.allclose(null, null_whole, atol=1e-12)


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_the_weight_is_one_outside_the_interval_and_untouched_inside(schedule):
    bounded = Sampler(guidance=4.5, schedule=schedule, guided_from=0.25, guided_to=0.75)
    for progress in (0.0, 0.2499, 0.25, 0.5, 0.75, 0.7501, 1.0):
        inside = 0.25 <= progress <= 0.75
        assert bounded.weight(progress) == (
            Sampler(guidance=4.5, schedule=schedule).weight(progress) if inside else 1
        )


# Several groups of features from one context


def make_chain(trunk, order="identity"):
    head = laws.HEADS["feature_ar"](
        8, 6, head=laws.HEADS["gmm"], width=16, depth=2, heads=2, trunk=trunk, order=order
    )
    laws.initialise(head, 0)
    return laws.randomise(head.double()).eval()


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("together", [2, 4, 6])
def test_groups_drawn_together_are_told_zeros_for_each_other(trunk, together):
    """Each group's draw is that of its own conditional, given what was drawn before its bunch
    and zeros in the bunch.
    """
    head, noise = make_chain(trunk), images(7)
    p, q = (head(normal_numbers(7, 8, seed=seed)) for seed in (0, 1))
    for density in (p, p.guided(q, 2.0).tempered(0.9)):
        x = density.with_parallel_groups(together).sample(noise)
        for g in range(6):
            visible = x.clone()
            visible[:, g - g % together :] = 0
            _, blocks = density._teacher_force(visible)
            alone = blocks.sample(Noise(noise.at(torch.arange(6).expand(7, -1)).key))[:, g, 0]
            assert torch.allclose(x[:, g], alone, atol=1e-9)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_one_group_at_a_time_is_exact_and_likelihood_never_changes(trunk):
    density, x = make_chain(trunk, "reversed")(normal_numbers(5, 8)), normal_numbers(5, 6)
    assert torch.equal(density.with_parallel_groups(1).sample(images(5)), density.sample(images(5)))
    assert torch.equal(density.with_parallel_groups(3).log_prob(x), density.log_prob(x))


def test_likelihood_is_that_of_the_steps_whatever_the_accelerators():
    model, x = make_model("masked", "gmm", True), normal_numbers(3, TOKENS, FEATURES)
    for steps in (2, 4):
        taught = model.outer.conditions(x, model.labels(labels(3)), images(3), steps)
        walked = Outer.conditions(model.outer, x, model.labels(labels(3)), images(3), steps)
        assert len(taught) == len(walked) == steps


# Caches of the masked outer


def recompute(blocks, stale, fresh, rows):
    """Blocks at some rows: of the others each block reads what it read before, `stale`
    [depth] of [B, T, W].
    """
    for block, before in zip(blocks, stale, strict=True):
        before[:, rows] = fresh
        fresh = block(before)[0][:, rows]
    return fresh


def plain_token_cache(outer, x, c, order, plan, refresh):
    """z of each step, by whole sequences in the order of the walk: the oracle of the cached
    one. plan: tokens known.
    """
    start, tokens, recorded = outer.prefix, outer.tokens, []
    at = torch.cat([torch.arange(start).expand(len(x), -1), start + order], 1)
    inputs = torch.cat([c, outer.token_of(take(x, order))], 1) + outer.encoder_positions()[at]

    for s, (count_before, until) in enumerate(pairwise(plan)):
        if s % refresh == 0:
            first, last = 0, start + tokens
            encoder = [
                torch.zeros(len(x), start + tokens, outer.width).double() for _ in outer.encoder
            ]
            decoder = [torch.zeros_like(encoder[0]) for _ in outer.decoder]
        else:
            first, last = start + plan[s - 1], start + until

        rows = torch.arange(first, start + count_before)
        visible = [layer[:, : start + count_before] for layer in encoder]
        y = outer.embed(
            outer.encoder_norm(
                recompute(outer.encoder, visible, outer.input_norm(inputs[:, rows]), rows)
            )
        )
        y = torch.cat([y, outer.mask().expand(len(x), last - start - count_before, -1)], 1)
        rows = torch.arange(first, last)
        y = recompute(outer.decoder, decoder, y + outer.decoder_positions()[at[:, rows]], rows)
        z = outer.decoder_norm(y[:, start + count_before - first : start + until - first])
        recorded.append(z + outer.output_positions()[order[:, count_before:until]])

    return recorded


@pytest.mark.parametrize("refresh", [2, 3, 6])
def test_a_token_cache_recomputes_new_rows_against_old_ones(refresh):
    outer = OUTERS["masked"](TOKENS, FEATURES, width=16, heads=2, encoder_depth=2, decoder_depth=3)
    laws.initialise(outer, 0)
    laws.randomise(outer.double())
    x, c, order = (
        normal_numbers(2, TOKENS, FEATURES),
        normal_numbers(2, outer.prefix, 16),
        images(2).at(0).permutation(TOKENS),
    )
    plan, memory = [0, 1, 2, 4, 5, 6], None
    for z, (first, until) in zip(
        plain_token_cache(outer, x, c, order, plan, refresh), pairwise(plan), strict=True
    ):
        cached, memory = outer._cached_condition(x, c, order, first, until, memory, refresh)
        assert torch.allclose(cached, z, atol=1e-10)
        exact = outer._condition(x, c, order[:, :first], order[:, first:until])
        assert torch.allclose(cached, exact, atol=1e-10) == (memory.age == 1)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_a_step_that_computes_all_rows_is_exact_although_rows_stand_in_another_order(positions):
    model = make_model("masked", "gmm", False, positions=positions)
    recorded = visits(model, Sampler(guidance=2.0, token_refresh=2))
    exact = visits(model, Sampler(guidance=2.0))
    apart = [
        max((z - e).abs().max().item() for z, e in zip(step[:2], true[:2], strict=True))
        for step, true in zip(recorded, exact, strict=True)
    ]

    assert max(apart[::2]) < 1e-10
    assert min(apart[1::2]) > 1e-6


def test_a_null_branch_that_begins_or_returns_has_all_its_rows_computed():
    model = make_model("masked", "gmm", False)
    exact = visits(model, Sampler(guidance=2.0))
    for settings, whole in (({"guided_from": 0.4}, 2), ({"null_refresh": 4}, 4)):
        recorded = visits(model, Sampler(guidance=2.0, token_refresh=TOKENS, **settings))
        (z, null, *_), (z_exact, null_exact, *_) = recorded[whole], exact[whole]
        assert torch.allclose(z, z_exact, atol=1e-10)
        assert torch.allclose(null, null_exact, atol=1e-10)


@pytest.mark.parametrize("outer", ["masked", "masked_stack"])
def test_between_two_null_branches_z_null_keeps_its_distance(outer):
    model = make_model(outer, "gmm", False)
    recorded, exact = (visits(model, Sampler(guidance=2.0, null_refresh=n)) for n in (3, 1))
    for s, ((z, null, where, _), (z_exact, null_exact, *_)) in enumerate(
        zip(recorded, exact, strict=True)
    ):
        assert torch.allclose(z, z_exact, atol=1e-12)  # the conditional branch is not touched
        assert torch.allclose(null, null_exact, atol=1e-9) == (s % 3 == 0)
        if s % 3:  # the difference is that of this position when both branches were computed
            x, order = normal_numbers(2, TOKENS, FEATURES), images(2).at(0).permutation(TOKENS)
            known_at = order[:, : s - s % 3]
            both = [
                model.outer._condition(x, c, known_at, where)
                for c in (model.labels.null(2), model.labels(labels(2)))
            ]
            assert torch.allclose(null - z, both[0] - both[1], atol=1e-9)
