"""A whole bi-level model as a head: its density, its guidance, its parts, and the heads
over integer levels.
"""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from laws import CONTEXT, images, normal_numbers, randomise
from tiny import content
from torch import nn

from arinar_lab.config.sections import parse_recipe
from arinar_lab.errors import ConfigError
from arinar_lab.model.codecs.codec import Pixels
from arinar_lab.model.heads import HEADS
from arinar_lab.model.layers import initialise
from arinar_lab.model.noise import Noise
from arinar_lab.model.outer import OUTERS, MaskedStack


@pytest.fixture(autouse=True)
def no_gradients():
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


def nested(outer="causal", inner=HEADS["gmm"], features=4, seed=0, context=CONTEXT, **arguments):
    depth = {"encoder_depth": 1, "decoder_depth": 1} if outer == "masked" else {"depth": 1}
    maker = partial(OUTERS[outer], width=16, heads=2, **depth, **arguments.pop("of_outer", {}))
    head = HEADS["nested"](context, features, outer=maker, inner=inner, **arguments)
    initialise(head, seed)
    return randomise(head.double(), seed=seed).eval()


@pytest.mark.parametrize("outer", OUTERS)
def test_the_density_of_two_sub_tokens_integrates_to_one(outer):
    head = nested(outer, partial(HEADS["fixed_gaussian"], std=0.5), features=2)
    side = torch.linspace(-10, 10, 101, dtype=torch.float64)
    x = torch.cartesian_prod(side, side)
    h = normal_numbers(1, CONTEXT).expand(len(x), -1)
    total = (
        head(h).log_prob(x, Noise.of(torch.zeros(len(x)))).exp().sum() * (side[1] - side[0]) ** 2
    )
    assert abs(total - 1) < 1e-9


def test_a_causal_pair_has_the_conditionals_of_its_parts_guided_one_by_one():
    """log p = Σ log of the inner density given the outer's z; guided, each of these is guided."""
    head, x, (z, null) = nested(), normal_numbers(5, 4, seed=2), normal_numbers(2, 5, CONTEXT)
    tokens, noise = head.split(x), images(5)
    ((p, where),) = head.outer.conditions(tokens, head.condition(z, None), noise)
    ((q, _),) = head.outer.conditions(tokens, head.condition(null, None), noise)
    parts = head.inner(p, where)
    assert torch.allclose(head(z).log_prob(x), parts.log_prob(tokens).sum(-1), atol=1e-12)
    assert torch.allclose(head(z).loss(x, noise), -head(z).log_prob(x), atol=1e-12)
    expected = parts.guided(head.inner(q, where), 2.0).tempered(0.8).log_prob(tokens).sum(-1)
    got = head(z).guided(head(null), 2.0).tempered(0.8).log_prob(x)
    assert torch.allclose(got, expected, atol=1e-9)
    low, high = x - 0.1, x + 0.2

    expected = parts.log_interval(tokens, head.split(low), head.split(high)).sum(-1)
    assert torch.allclose(head(z).log_interval(x, low, high), expected, atol=1e-9)


@pytest.mark.parametrize("outer", OUTERS)
@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_what_is_drawn_has_the_likelihood_of_its_own_walk(outer, weight):
    """Teacher-forced with the sampler's noise, every sub-token is drawn again: train = generate."""
    head, noise, (z, null) = (
        nested(outer, features=6, tokens=3),
        images(5).at(3),
        normal_numbers(2, 5, CONTEXT),
    )
    density = head(z).guided(head(null), weight)
    x, walked = density.sample(noise), torch.zeros(5, 6, dtype=torch.float64)

    def redrawn(p, part_of, noise):
        places = part_of(torch.arange(6).expand(5, 6))
        walked.scatter_(1, places.flatten(1), p.sample(noise).flatten(1))
        return p.log_prob(part_of(x))

    log_prob = density._sum_over_walk(x, noise, redrawn)
    assert torch.allclose(walked, x, atol=1e-9)
    assert torch.allclose(log_prob, density.log_prob(x, noise), atol=1e-9)


def test_pairs_nest_in_pairs():
    inner = partial(
        HEADS["nested"],
        outer=partial(OUTERS["masked_stack"], width=8, heads=2),
        inner=HEADS["discrete"],
    )
    head = nested("causal", inner, features=8)
    x, z = normal_numbers(2, 3, 8, seed=2), normal_numbers(2, 3, CONTEXT)
    noise = Noise.of(torch.arange(6).reshape(2, 3))
    assert head.likelihood == "bound"
    assert head(z).log_prob(x, noise).shape == head(z).loss(x, noise).shape == (2, 3)
    drawn = head(z).sample(noise)
    assert drawn.shape == (2, 3, 8)
    alone = head(z[1:, 2]).sample(Noise(noise.key[1:, 2]))
    assert torch.allclose(drawn[1:, 2], alone, atol=1e-9)

    one, other = (head(z).log_prob(x, noise.at(i)) for i in range(2))
    assert not torch.allclose(one, other)  # another order of the masked pair


def test_it_is_as_good_as_its_weaker_part():
    assert nested("causal").likelihood == "exact"
    assert nested("masked_stack").likelihood == "bound"
    assert nested("causal").capabilities == HEADS["gmm"](1, 1).capabilities


def test_sub_tokens_of_an_image_are_its_patches():
    head = nested(features=3 * 64, tokens=4, channels=3)
    image = normal_numbers(2, 3, 8, 8)
    patches = nn.functional.unfold(image, 4, stride=4).transpose(1, 2)
    assert torch.equal(head.split(image.flatten(1)), patches)
    assert torch.equal(head.join(patches), image.flatten(1))


def test_the_mean_over_the_masked_is_unbiased_however_many_each_image_has():
    """Every masked position of an image is asked for equally often, over many
    orders; known ones never.
    """
    outer = MaskedStack(6, 1, width=8, heads=2, depth=1)
    n = 20_000
    noise = Noise.of(torch.arange(n))
    _, where = outer(torch.zeros(n, 6, 1), torch.zeros(n, 1, 8), noise)
    counts = (6 * outer.mask_ratios(noise)).ceil()
    share = torch.stack([(where == i).float().mean(1) for i in range(6)], -1)

    assert torch.equal((share > 0).sum(-1), counts.long())
    assert counts.min() <= 2 and counts.max() == 6
    assert ((share.mean(0) - 1 / 6).abs() < 0.005).all()


# Integer levels


def test_the_probabilities_of_all_levels_sum_to_one_and_samples_follow_them():
    head = HEADS["colour"](CONTEXT, 2, levels=4, width=8, heads=2)
    initialise(head, 0)
    head = randomise(head.double(), 0.6)
    levels = torch.linspace(-0.75, 0.75, 4, dtype=torch.float64)
    every = torch.cartesian_prod(levels, levels)
    mass = head(normal_numbers(1, CONTEXT).expand(16, -1)).log_mass(every).exp()
    assert abs(mass.sum() - 1) < 1e-6
    x = head(normal_numbers(1, CONTEXT).expand(20_000, -1)).sample(images(20_000))
    is_drawn = torch.cdist(x, every) < 1e-5
    assert is_drawn.sum() == 20_000  # only centres of levels

    chi2 = ((is_drawn.sum(0) - 20_000 * mass) ** 2 / (20_000 * mass)).sum()
    assert chi2 < 37.7  # critical value at 0.1 % for 15 degrees of freedom


def test_a_codec_that_does_not_dequantise_gives_the_centres_and_a_box_around_each():
    image = torch.randint(
        0, 256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    codec = Pixels((3, 8, 8), 256, patch=4, normalise="imagenet", dequantise=False)
    x, log_det = codec.encode(image, images(2))
    mean, std = (
        torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    expected = nn.functional.unfold((image / 255 - mean) / std, 4, stride=4).transpose(1, 2)
    assert (x - expected).abs().max() < 1e-5
    assert torch.equal(codec.decode(x), image)
    low, high = codec.box(image)

    assert torch.allclose(log_det, (high - low).log().sum((1, 2)), atol=1e-2)
    assert torch.allclose((low + high) / 2, x, atol=1e-6)


# What does not fit is told by its key


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"tokens": 3}, "inner.tokens: 3 does not divide the 4 features"),
        ({"tokens": 4, "channels": 3}, "inner.channels: 4 features are no image of 3 channels"),
        ({"rows": 3}, "inner.rows: 3 does not divide the width 16"),
        ({"guide": "colour"}, "inner.rows: 1 does not divide the width 16 of z and the 0 rows"),
        ({"guide": "gmm", "outer": {"kind": "causal", "prefix": 2}}, "inner.guide: needs channels"),
        (
            {
                "guide": {"kind": "gmm"},
                "outer": {"kind": "causal", "prefix": 2},
                "tokens": 4,
                "channels": 1,
            },
            "inner.guide: must be of kind colour",
        ),
        (
            {"outer": {"kind": "masked_stack", "neighbours": True}},
            "inner.outer.neighbours: true does not fit; 2 tokens",
        ),
        (
            {"inner": {"kind": "colour", "rows": 3}},
            "inner.inner.rows: 3 does not divide the width 64",
        ),
        (
            {"inner": {"kind": "colour", "normalise": "imagenet"}},
            "inner.inner.normalise: imagenet knows three colours",
        ),
    ],
)
def test_what_does_not_fit_is_told_by_its_key(words, message):
    recipe = content()
    recipe["inner"] = {
        "kind": "nested",
        "outer": {"kind": "causal"},
        "inner": {"kind": "gmm"},
        **words,
    }
    with pytest.raises(ConfigError) as error:
        parse_recipe(recipe).inner(16, 4)

    assert message in str(error.value)


def test_a_guided_density_has_no_training_loss():
    head, (z, null) = nested(), normal_numbers(2, 3, CONTEXT)
    with pytest.raises(ValueError, match="no training loss"):
        head(z).guided(head(null), 2.0).loss(normal_numbers(3, 4), images(3))
    assert math.isfinite(head(z).loss(normal_numbers(3, 4), images(3)).sum())


def test_doubling_the_steps_reaches_the_sub_tokens():
    head = nested(inner=partial(HEADS["flow"], width=16, depth=1, steps=2, repeats=1), tokens=2)
    density, x, noise = head(normal_numbers(3, CONTEXT)), normal_numbers(3, 4, seed=5), images(3)
    assert head.likelihood == "estimate"
    assert not torch.equal(density.refined().log_prob(x, noise), density.log_prob(x, noise))
