import torch
from scipy.stats import kstest

from arinar_lab.model.noise import Noise, Stream

MANY = Noise.of(torch.arange(20_000))


def test_numbers_have_their_distribution_along_seeds_and_along_draws():
    one = Noise.of(torch.tensor(3))
    assert kstest(MANY.uniform(1).flatten(), "uniform").pvalue > 1e-3
    assert kstest(one.uniform(20_000), "uniform").pvalue > 1e-3
    assert kstest(MANY.normal(1).flatten(), "norm").pvalue > 1e-3
    assert kstest(one.at(torch.arange(20_000)).uniform(1).flatten(), "uniform").pvalue > 1e-3


def test_streams_derived_keys_and_draws_are_uncorrelated():
    columns = [
        MANY.uniform(2),
        MANY.at(0).uniform(2),
        MANY.at(1).uniform(2),
        MANY.at(0).at(1).uniform(2),
    ]
    columns.append(Noise.of(torch.arange(20_000), "other").uniform(2))

    correlation = torch.corrcoef(torch.cat(columns, -1).T)
    assert (correlation - torch.eye(len(correlation))).abs().max() < 0.035  # five standard errors


def test_keys_do_not_collide():
    keys = torch.cat(
        [MANY.at(torch.arange(50)[None]).key.flatten(), MANY.key, MANY.at(1).at(0).key]
    )
    assert keys.unique().numel() == keys.numel()


def test_a_number_depends_on_its_key_alone():
    assert torch.equal(
        Noise.of(torch.tensor([5, 9])).at(2).uniform(7)[1],
        Noise.of(torch.tensor(9)).at(2).uniform(7),
    )
    assert torch.equal(MANY.uniform(3), MANY.uniform(5)[:, :3])


def test_a_tensor_of_places_equals_each_place():
    where = torch.tensor([[4, 0], [2, 2]])
    noise = Noise.of(torch.tensor([1, 2]))
    assert torch.equal(noise.at(where).key[1, 0], Noise.of(torch.tensor(2)).at(2).key)
    assert torch.equal(noise.at(where).key[0, 0], noise.at(4).key[0])


def test_uniform_numbers_stay_inside_the_open_interval():
    extreme = Noise(torch.tensor([0, -1, 2**63 - 1, -(2**63)])).uniform(10_000)
    assert extreme.min() > 0
    assert extreme.max() < 1


def test_a_permutation_holds_every_place_once():
    order = MANY.permutation(6)
    assert torch.equal(order.sort(-1).values, torch.arange(6).expand(20_000, -1))
    assert (
        torch.stack([order[:, 0] == i for i in range(6)]).float().mean(1).sub(1 / 6).abs().max()
        < 0.015
    )


def test_the_numbers_of_the_streams_never_change():
    """Every order, mask and sample depends on them; names with one number stand
    below different keys.
    """
    zero = {"CODEC", "FIRST_DRAW", "ORDER", "CHOICE", "TIME", "LABEL"}
    one = {"MODEL", "TOKENS", "PLACE", "START", "MIRRORED", "ITEM"}
    two = {"VALIDATION_LOSS", "LABELS", "GUIDE", "MASKED_SHARE"}
    names = [{name for name, stream in Stream.__members__.items() if stream == k} for k in range(3)]
    assert names == [zero, one, two] and len(Stream.__members__) == len(zero | one | two)
    assert torch.equal(MANY.at(Stream.LABELS).key, MANY.at(2).key)
