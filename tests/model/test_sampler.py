from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from arinar_lab.model.sampler import LATER_FIELD, Sampler, masked_counts

# Computed by the published code: tokens that stay masked, and guidance weights at 4.5, linear
KEPT_16_8 = [15, 14, 13, 11, 8, 6, 3, 0]
WEIGHT_16_8 = [1.21875, 1.4375, 1.65625, 2.09375, 2.75, 3.1875, 3.84375, 4.28125]
KEPT_256_64 = [
    255,
    254,
    253,
    252,
    251,
    250,
    249,
    248,
    247,
    246,
    245,
    244,
    243,
    241,
    238,
    236,
    234,
    231,
    228,
    225,
    222,
    219,
    216,
    212,
    209,
    205,
    201,
    197,
    193,
    189,
    185,
    181,
    176,
    171,
    167,
    162,
    157,
    152,
    147,
    142,
    136,
    131,
    126,
    120,
    115,
    109,
    103,
    97,
    92,
    86,
    80,
    74,
    68,
    62,
    56,
    49,
    43,
    37,
    31,
    25,
    18,
    12,
    6,
    0,
]


def test_the_cosine_schedule_is_the_published_one():
    assert masked_counts(16, 8) == KEPT_16_8
    assert masked_counts(256, 64) == KEPT_256_64


@pytest.mark.parametrize("tokens", [1, 4, 16, 49])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "square", "cubic"])
def test_every_step_draws_at_least_one_token(tokens, schedule):
    for steps in range(1, tokens + 1):
        plan = [tokens, *masked_counts(tokens, steps, schedule)]
        assert len(plan) == steps + 1
        assert plan[-1] == 0
        assert all(before > after for before, after in pairwise(plan))


def test_the_schedules_differ_in_where_the_tokens_are_drawn():
    drawn = {
        name: [a - b for a, b in pairwise([64, *masked_counts(64, 8, name)])]
        for name in ("linear", "square", "cubic")
    }
    assert drawn["linear"] == [8] * 8
    assert drawn["square"] == [1, 3, 5, 7, 9, 11, 13, 15]  # 64 - (s + 1)² are left
    assert drawn["cubic"][-1] > drawn["square"][-1]


def test_the_linear_weight_is_the_published_one():
    sampler = Sampler(guidance=4.5, schedule="linear")
    assert [sampler.weight(1 - max(left, 1) / 16) for left in KEPT_16_8] == pytest.approx(
        WEIGHT_16_8
    )


def test_the_constant_weight_stays():
    assert {Sampler(guidance=3.0, schedule="constant").weight(p) for p in (0.0, 0.5, 1.0)} == {3.0}


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"guidance": -1.0}, "guidance"),
        ({"steps": 0}, "steps"),
        ({"candidates": -1}, "candidates"),
        ({"guided_from": 0.5, "guided_to": 0.5}, "guided_from"),
        ({"guided_to": 1.5}, "guided_from"),
        ({"together": 0}, "together"),
        ({"filter_threshold": 1.0}, "filter_threshold"),
        ({"filter_threshold": 0.1, "candidates": 10}, "filter_threshold"),
    ],
)
def test_a_number_outside_its_range_is_refused(arguments, key):
    with pytest.raises(ValueError, match=f"^{key}: "):
        Sampler(**arguments)


def test_accelerators_are_those_of_the_list_away_from_their_defaults():
    assert Sampler(temperature=0.9, guidance=2.0).accelerators == {}
    assert Sampler(together=2, guided_to=0.5).accelerators == {"guided_to": 0.5, "together": 2}


def test_a_setting_that_came_later_is_no_accelerator_by_that():
    """The mark keeps signatures as they are and says nothing of what a setting does."""

    @dataclass(frozen=True)
    class Warmer(Sampler):
        warmth: float = field(default=0.0, metadata=LATER_FIELD)

    assert Warmer(warmth=1.0).accelerators == {}
