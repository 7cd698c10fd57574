"""What single heads promise beyond the laws of tests/laws.py."""

import math
from functools import partial

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from arinar_lab.model.guidance import Sampler
from arinar_lab.model.heads.bins import Discrete
from arinar_lab.model.heads.mixture import GMM, FixedGaussian
from arinar_lab.model.inner import FeatureAR
from arinar_lab.model.noise import Noise


def test_gmm_agrees_with_the_mixture_of_torch():
    density = GMM(8, 3, components=5, min_std=0.0)(torch.randn(7, 8))
    parts = Independent(Normal(density.mean.movedim(-1, -2), density.log_std.exp().movedim(-1, -2)), 1)
    reference = MixtureSameFamily(Categorical(logits=density.log_weight), parts)
    x = torch.randn(7, 3)
    assert torch.allclose(density.log_prob(x), reference.log_prob(x), atol=1e-5)


def test_min_std_is_a_floor():
    head = GMM(8, 1, components=2, min_std=0.05)
    torch.nn.init.constant_(head.parameters_of.bias, -30.0)
    assert head(torch.zeros(1, 8)).log_std.exp().min().item() == pytest.approx(0.05, rel=1e-4)


def test_a_fixed_gaussian_learns_its_deviation_only_when_asked():
    fixed, learned = FixedGaussian(8, 2, 3, std=0.2), FixedGaussian(8, 2, 3, std=0.2, learned=True)
    assert not fixed.log_std.requires_grad
    assert learned.log_std.requires_grad
    assert learned.log_std.shape == (3, 2)
    assert learned(torch.zeros(4, 8), 1).log_std.exp().mean().item() == pytest.approx(0.2)


def test_each_group_of_a_feature_ar_has_its_own_constants():
    model = FeatureAR(8, 4, head=partial(FixedGaussian, learned=True), group=2)
    with torch.no_grad():
        model.head.log_std.copy_(torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
    _, blocks = model(torch.zeros(5, 8))._teach(torch.zeros(5, 4))
    assert torch.equal(blocks.log_std[0, :, :, 0], model.head.log_std)


def test_quantile_edges_hold_equal_shares_of_the_training_data():
    x = torch.randn(4000, 1, 2) ** 3
    head = Discrete(8, 2, bins=8, edges="quantile")
    head.fit(x)
    shares = [torch.histogram(x[:, 0, f], head.edges[0, f].contiguous()).hist / 4000 for f in range(2)]
    assert torch.stack(shares).sub(1 / 8).abs().max() < 0.01


def test_quantile_edges_of_repeated_values_stay_apart():
    head = Discrete(8, 1, bins=8, edges="quantile")
    head.fit(torch.cat([torch.zeros(1000, 1, 1), torch.rand(1000, 1, 1)]))
    assert (head.edges.diff(dim=-1) > 0).all()


def test_uniform_bins_of_dequantised_levels_are_the_levels():
    levels = torch.randint(0, 17, (20_000, 1, 1)) + torch.rand(20_000, 1, 1)
    head = Discrete(8, 1, bins=17)
    head.fit(levels)
    assert torch.allclose(head.edges.flatten(), torch.arange(18.0), atol=5e-3)


def test_a_value_beyond_the_training_range_is_improbable_not_impossible():
    head = Discrete(8, 1, bins=4)
    head.fit(torch.rand(1000, 1, 1))
    assert head(torch.zeros(1, 8)).log_prob(torch.tensor([[3.0]])).isfinite().all()


def test_feature_order_by_variance_follows_the_data():
    model = FeatureAR(8, 3, head=GMM, order="variance")
    model.fit(torch.randn(1000, 1, 3) * torch.tensor([1.0, 3.0, 2.0]))
    assert model.order_index[0].tolist() == [1, 2, 0]


def test_candidates_approach_exact_guidance():
    """The published resampling and the inverse CDF draw from the same density where both can."""
    torch.manual_seed(0)
    head = GMM(4, 1, components=3)
    p, q = head(torch.randn(1, 4).expand(3000, -1)), head(torch.randn(1, 4).expand(3000, -1))
    noise = Noise.of(torch.arange(3000))
    exact = Sampler(guidance=1.5, schedule="constant").apply(p, q, 1.0).sample(noise)
    resampled = Sampler(guidance=1.5, schedule="constant", candidates=200).apply(p, q, 1.0).sample(noise)
    assert abs(exact.mean() - resampled.mean()) < 5 * exact.std() / math.sqrt(1500)
    assert resampled.std().item() == pytest.approx(exact.std().item(), rel=0.1)


def test_temperature_multiplies_deviations_and_divides_logits_by_its_square():
    density = GMM(8, 1)(torch.randn(3, 8))
    assert torch.allclose(density.tempered(0.5).log_std, density.log_std + math.log(0.5))
    histogram = Discrete(8, 1)(torch.randn(3, 8))
    assert torch.allclose(histogram.tempered(0.5).log_mass, (4 * histogram.log_mass).log_softmax(-1))
