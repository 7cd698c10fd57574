"""Approximate accelerators of generation: what each leaves out, and what must hold all the same."""

import laws
import pytest
import torch
from laws import FEATURES, TOKENS, images, labels, make_model, numbers

from arinar_lab.model.guidance import Sampler
from arinar_lab.model.noise import Noise
from arinar_lab.model.outer import OUTERS, Outer, take

TRUNKS = ["transformer", "recurrent", "masked_mlp"]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def visits(model, sampler, batch=2):
    """(z, z_null, where, progress) of each step of a guided walk that is answered with the same tokens."""
    x, seen = numbers(batch, TOKENS, FEATURES), []

    def visit(*told):
        seen.append(told)
        return take(x, told[2])

    c = model.labels(labels(batch))
    model.outer.walk(c, model.labels.null(batch), visit, images(batch), sampler)
    return seen


@pytest.mark.parametrize(
    ("outer", "settings"),
    [
        ("masked", {"mask_schedule": "linear", "steps": 3}),
        ("masked", {"guided_from": 0.3, "guided_to": 0.8}),
        ("causal", {"guided_from": 0.3, "guided_to": 0.8, "together": 2}),
        ("masked_stack", {"guided_to": 0.5, "mask_schedule": "square"}),
        ("masked", {"together": 2}),
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
        assert torch.allclose(laws.samples(model, seeds, never), laws.samples(model, seeds, Sampler()), atol=1e-9)
    else:
        assert torch.equal(laws.samples(model, seeds, never), laws.samples(model, seeds, Sampler()))


def test_a_masked_outer_computes_no_null_branch_outside_the_interval():
    model = make_model("masked", "gmm", False)
    seen, whole = (visits(model, Sampler(guidance=2.0, **say)) for say in ({"guided_from": 0.3, "guided_to": 0.7}, {}))
    guided = [null is not None for _, null, _, _ in seen]
    assert guided == [0.3 <= progress <= 0.7 for *_, progress in seen]
    assert 0 < sum(guided) < len(guided)
    for (z, null, *_), (z_whole, null_whole, *_) in zip(seen, whole, strict=True):
        assert torch.allclose(z, z_whole, atol=1e-12)
        assert null is None or torch.allclose(null, null_whole, atol=1e-12)


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_the_weight_is_one_outside_the_interval_and_untouched_inside(schedule):
    bounded = Sampler(guidance=4.5, schedule=schedule, guided_from=0.25, guided_to=0.75)
    for progress in (0.0, 0.2499, 0.25, 0.5, 0.75, 0.7501, 1.0):
        inside = 0.25 <= progress <= 0.75
        assert bounded.weight(progress) == (Sampler(guidance=4.5, schedule=schedule).weight(progress) if inside else 1)


# Several groups of features from one context


def make_chain(trunk, order="identity"):
    head = laws.HEADS["feature_ar"](8, 6, head=laws.HEADS["gmm"], width=16, depth=2, heads=2, trunk=trunk, order=order)
    laws.initialise(head, 0)
    return laws.randomise(head.double()).eval()


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("together", [2, 4, 6])
def test_groups_drawn_together_are_told_zeros_for_each_other(trunk, together):
    """Each group's draw is that of its own conditional, given what was drawn before its bunch and zeros in the bunch."""
    head, noise = make_chain(trunk), images(7)
    p, q = (head(numbers(7, 8, seed=seed)) for seed in (0, 1))
    for density in (p, p.guided(q, 2.0).tempered(0.9)):
        x = density.hastened(together).sample(noise)
        for g in range(6):
            told = x.clone()
            told[:, g - g % together :] = 0
            _, blocks = density._teach(told)
            alone = blocks.sample(Noise(noise.at(torch.arange(6).expand(7, -1)).key))[:, g, 0]
            assert torch.allclose(x[:, g], alone, atol=1e-9)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_one_group_at_a_time_is_exact_and_likelihood_never_changes(trunk):
    density, x = make_chain(trunk, "reversed")(numbers(5, 8)), numbers(5, 6)
    assert torch.equal(density.hastened(1).sample(images(5)), density.sample(images(5)))
    assert torch.equal(density.hastened(3).log_prob(x), density.log_prob(x))


def test_likelihood_is_that_of_the_steps_whatever_the_accelerators():
    model, x = make_model("masked", "gmm", True), numbers(3, TOKENS, FEATURES)
    for steps in (2, 4):
        taught = model.outer.conditions(x, model.labels(labels(3)), images(3), steps)
        walked = Outer.conditions(model.outer, x, model.labels(labels(3)), images(3), steps)
        assert len(taught) == len(walked) == steps
