"""What single heads promise beyond the laws of tests/laws.py."""

import math
from functools import partial

import laws
import pytest
import scipy.stats
import torch
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from arinar_lab.model.density import Density1D, Factorised
from arinar_lab.model.heads import HEADS
from arinar_lab.model.heads.bins import Discrete
from arinar_lab.model.heads.byte import Byte
from arinar_lab.model.heads.mixture import GMM, FixedGaussian, FullGMM, Gaussian, component_usage
from arinar_lab.model.heads.shapes import (
    LOGISTIC,
    NORMAL,
    Logistic,
    Mixture1D,
    StudentT,
    log_interval,
    student_shape,
)
from arinar_lab.model.heads.spline import Spline
from arinar_lab.model.inner.feature_ar import FeatureAR
from arinar_lab.model.noise import Noise
from arinar_lab.model.sampler import Sampler


def test_gmm_agrees_with_the_mixture_of_torch():
    density = GMM(8, 3, components=5, min_std=0.0)(torch.randn(7, 8))
    parts = Independent(
        Normal(density.mean.movedim(-1, -2), density.log_std.exp().movedim(-1, -2)), 1
    )
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
    _, blocks = model(torch.zeros(5, 8))._teacher_force(torch.zeros(5, 4))
    assert torch.equal(blocks.log_std[0, :, :, 0], model.head.log_std)


def test_quantile_edges_hold_equal_shares_of_the_training_data():
    x = torch.randn(4000, 1, 2) ** 3
    head = Discrete(8, 2, bins=8, edges="quantile")
    head.fit(x)
    shares = [
        torch.histogram(x[:, 0, f], head.edges[0, f].contiguous()).hist / 4000 for f in range(2)
    ]
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
    resampled = (
        Sampler(guidance=1.5, schedule="constant", candidates=200).apply(p, q, 1.0).sample(noise)
    )

    assert abs(exact.mean() - resampled.mean()) < 5 * exact.std() / math.sqrt(1500)
    assert resampled.std().item() == pytest.approx(exact.std().item(), rel=0.1)


def test_temperature_multiplies_deviations_and_divides_logits_by_its_square():
    density = GMM(8, 1)(torch.randn(3, 8))
    assert torch.allclose(density.tempered(0.5).log_std, density.log_std + math.log(0.5))
    histogram = Discrete(8, 1)(torch.randn(3, 8))
    assert torch.allclose(
        histogram.tempered(0.5).log_mass, (4 * histogram.log_mass).log_softmax(-1)
    )


# Shapes of mixtures

SHAPES = {
    "normal": (NORMAL, scipy.stats.norm),
    "logistic": (LOGISTIC, scipy.stats.logistic),
    "t2.5": (student_shape(2.5), scipy.stats.t(2.5)),
    "t4": (student_shape(4.0), scipy.stats.t(4)),
    "t30": (student_shape(30.0), scipy.stats.t(30)),
    "t100": (student_shape(100.0), scipy.stats.t(100)),
}
each_shape = pytest.mark.parametrize("name", SHAPES)


@each_shape
def test_a_shape_agrees_with_scipy_far_into_its_tails(name):
    shape, reference = SHAPES[name]
    s = torch.cat(
        [torch.linspace(-12, 12, 401), torch.tensor([0.0, -shape.reach, 1e-9, -1e-9])]
    ).double()
    assert shape.log_prob(s).numpy() == pytest.approx(
        reference.logpdf(s.numpy()), rel=1e-9, abs=1e-9
    )
    assert shape.log_cdf(s).numpy() == pytest.approx(
        reference.logcdf(s.numpy()), rel=1e-9, abs=1e-12
    )
    assert shape.std == pytest.approx(reference.std())
    assert reference.sf(shape.reach) < 2e-9


@each_shape
def test_a_shape_is_drawn_as_its_cdf_says(name):
    shape, _ = SHAPES[name]
    s = shape.draw(Noise.of(torch.arange(20_000)).uniform(2))
    assert scipy.stats.kstest(shape.log_cdf(s).exp().numpy(), "uniform").pvalue > 1e-3


@each_shape
@pytest.mark.parametrize("low", [-9.0, -0.5, 8.0])
def test_a_narrow_interval_keeps_its_digits(name, low):
    """Where the CDF has long saturated, P(low < s < low + 1e-6) is still the density times 1e-6."""
    shape, low = SHAPES[name][0], torch.tensor([low], dtype=torch.float64)
    expected = shape.log_prob(low + 5e-7) + math.log(1e-6)
    assert log_interval(shape.log_cdf, low, low + 1e-6).item() == pytest.approx(
        expected.item(), abs=1e-6
    )


def test_a_mixture_of_logistics_is_a_sum_of_sigmoids():
    density = Logistic(8, 1, components=3).double()(torch.randn(5, 8).double())
    x, row = torch.randn(5, 4).double(), density.row(0, torch.zeros(5, 0))
    each = torch.sigmoid(
        (x.unsqueeze(-1) - row.mean.unsqueeze(-2)) / row.log_std.exp().unsqueeze(-2)
    )
    assert torch.allclose(
        row.cdf(x), (row.log_weight.exp().unsqueeze(-2) * each).sum(-1), atol=1e-12
    )


def test_guidance_of_heavy_tails_needs_no_cut_where_normal_ones_do():
    """With equal ν the product of polynomial tails has their power, however narrow the null."""

    def cut(maker):
        with torch.no_grad():
            wide, narrow = maker(8, 1, components=1), maker(8, 1, components=1)
            torch.nn.init.zeros_(wide.parameters_of.weight)
            narrow.load_state_dict(wide.state_dict())
            # of a variance, or of a scale
            narrow.parameters_of.bias[1] = math.log(0.6) * (2 if maker is GMM else 1)
            h = torch.zeros(20, 8)
            return wide(h).guided(narrow(h), 3.0).draw(Noise.of(torch.arange(20)))[1].sum().item()

    assert cut(StudentT) == 0
    assert cut(GMM) == 20


@pytest.mark.parametrize("head", [GMM, FullGMM, Gaussian, Spline, Logistic, StudentT])
def test_scales_keep_their_bounds(head):
    name = "scale" if head in (Logistic, StudentT) else "std"
    bounded = partial(head, 8, 1, **{f"min_{name}": 0.05, f"max_{name}": 2.0})
    for value, bound in ((-30.0, 0.05), (30.0, 2.0)):
        model = bounded()
        torch.nn.init.constant_(model.parameters_of.bias, value)
        row = model(torch.zeros(1, 8)).row(0, torch.zeros(1, 0))
        scale = row.log_scale if head is Spline else row.log_std
        assert scale.exp().max().item() == pytest.approx(bound, rel=1e-3)

    with pytest.raises(ValueError, match=f"^max_{name}: 0.01 is not above"):
        head(8, 1, **{f"min_{name}": 0.05, f"max_{name}": 0.01})
    with pytest.raises(ValueError, match=f"^min_{name}: -1"):
        head(8, 1, **{f"min_{name}": -1.0})


# Several features


def test_full_covariance_agrees_with_the_mixture_of_torch():
    density = FullGMM(8, 3, components=5)(torch.randn(7, 8))
    parts = MultivariateNormal(density.mean, scale_tril=density.factor)
    reference = MixtureSameFamily(Categorical(logits=density.log_weight), parts)
    x = torch.randn(7, 3)
    assert torch.allclose(density.log_prob(x), reference.log_prob(x), atol=1e-5)


def test_full_covariance_is_that_of_its_samples():
    density = FullGMM(8, 3, components=1)(torch.randn(1, 8).expand(20_000, -1)).tempered(0.5)
    factor = density.factor[0, 0]
    assert torch.allclose(
        density.sample(Noise.of(torch.arange(20_000))).T.cov(),
        factor @ factor.T,
        rtol=0.1,
        atol=0.03,
    )


@pytest.mark.parametrize(
    "kind", ["gaussian", "logistic", "student_t", "spline", "byte", "discrete", "gmm"]
)
def test_a_head_on_one_feature_factorises_over_several(kind):
    arguments = {"joint": False} if kind == "gmm" else {}
    density = HEADS[kind](8, 3, **arguments)(torch.randn(5, 8))
    x = torch.rand(5, 1)
    for past in (torch.zeros(5, 1), torch.ones(5, 1)):
        assert torch.equal(
            density.row(1, past).log_prob(x), density.row(1, torch.zeros(5, 1)).log_prob(x)
        )
    assert not torch.allclose(density.row(0, x[:, :0]).log_prob(x), density.row(1, x).log_prob(x))


def test_a_joint_mixture_does_not_factorise():
    density = GMM(8, 2, components=3)(torch.randn(5, 8) * 3)
    x = torch.rand(5, 1)
    assert not torch.allclose(density.row(1, x - 2).log_prob(x), density.row(1, x + 2).log_prob(x))


@torch.no_grad()
def test_a_mixture_that_is_not_joint_obeys_the_laws():
    head = laws.make_head("gmm", False, joint=False)
    h, x = (laws.normal_numbers(10, n, seed=s) for n, s in ((laws.CONTEXT, 0), (laws.FEATURES, 5)))
    p, q = head(h), head(laws.normal_numbers(10, laws.CONTEXT, seed=1))
    rows = [row.log_prob(x[:, f : f + 1]) for f, row in enumerate(laws.rows_of(p, x))]
    assert torch.allclose(p.log_prob(x), torch.cat(rows, -1).sum(-1), atol=1e-10)
    assert laws.ks_distance(head(h[:1].expand(2000, -1))) < 0.043
    assert laws.guided_error(p, q, 2.0, x) < 0.02


def test_components_used_and_dead_are_counted():
    assert component_usage(torch.full((7, 2, 4), 0.25)) == (pytest.approx(4), 0)
    effective, dead = component_usage(torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.5, 0.49, 0.01, 0.0]]))
    assert effective == pytest.approx(2, rel=0.05)
    assert dead == 2
    inner = FeatureAR(8, 4, head=partial(GMM, components=3))
    weights = inner(torch.randn(5, 8)).given(torch.randn(5, 4)).weights()

    assert weights.shape == (5, 4, 3)
    assert torch.allclose(weights.sum(-1), torch.ones(5, 4))
    assert Discrete(8, 1)(torch.randn(5, 8)).weights() is None
    assert Logistic(8, 2, components=3)(torch.randn(5, 8)).weights().shape == (5, 2, 3)


# Spline


def test_a_float32_spline_is_read_at_float64_points():
    """Likelihood at a resolution takes its differences in double precision,
    whatever the weights are in.
    """
    density, x = Spline(8, 2)(torch.randn(5, 8)), torch.randn(5, 2)
    interval = density.log_interval(x, x - 0.05, x + 0.05)
    assert torch.allclose(interval.float(), density.log_prob(x) + 2 * math.log(0.1), atol=0.1)


@torch.no_grad()
def spline_row(seed=0, n=50, **arguments):
    torch.manual_seed(seed)
    head = Spline(8, 1, **arguments).double()
    return head(4 * torch.randn(n, 8).double()).row(0, torch.zeros(n, 0))


def test_a_spline_is_inverted_and_its_slope_is_the_derivative():
    row = spline_row()
    x = (row.back(3 * torch.randn(50, 40).double()) + 0.1).requires_grad_()
    y, log_slope = row.forth(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(row.back(y), x, atol=1e-8)
    assert torch.allclose(slope.log(), log_slope, atol=1e-8)


def test_a_spline_bends_only_between_its_bounds():
    row = spline_row(bound=2.0)
    far = row.shift + row.log_scale.exp() * torch.tensor([[-5.0, 5.0]])
    assert torch.allclose(row.forth(far)[0], torch.tensor([[-5.0, 5.0]]).double().expand(50, -1))
    assert (row.forth(row.shift)[1] + row.log_scale).abs().max() > 0.1


def test_temperature_of_a_straight_spline_multiplies_its_deviation():
    head = Spline(8, 1).double()
    torch.nn.init.zeros_(head.parameters_of.weight)
    row = head(torch.zeros(1, 8).double()).row(0, torch.zeros(1, 0)).tempered(0.5)
    x = torch.linspace(-3, 3, 50)[None].double()
    assert torch.allclose(row.log_prob(x), Normal(0.0, 0.5).log_prob(x), atol=1e-9)


# Floating-point symbols


@torch.no_grad()
def test_the_leaves_of_a_byte_are_what_its_walk_finds():
    torch.manual_seed(0)
    density = Byte(8, 2, exponents=3, symbols=2, bits=2).double()(3 * torch.randn(6, 8).double())
    table, x = (
        density.leaves(),
        torch.cat(
            [4 * torch.rand(6, 500).double() - 2, torch.tensor([[0.0, 0.5, -1.0]]).expand(6, -1)],
            -1,
        ),
    )
    for f in range(2):
        walk, row = density.row(f, x), table.row(f, x)
        assert torch.allclose(walk.log_prob(x), row.log_prob(x), atol=1e-12)
        assert torch.allclose(walk.cdf(x), row.cdf(x), atol=1e-12)

    assert table.log_mass.exp().sum(-1).sub(1).abs().max() < 1e-12
    assert table.edges.shape[-1] == (2 * 3 + 1) * 2**4 + 1


def test_a_byte_is_finer_near_zero_and_never_impossible():
    head = Byte(8, 1, exponents=4, symbols=1, bits=3)
    head.fit(torch.tensor([0.1, -2.7, 1.0])[:, None, None])
    assert head.scale.item() == 4
    widths = head(torch.zeros(1, 8)).leaves().edges.diff().flatten()

    assert widths.max().item() == 2 / 8
    assert widths.min().item() == 4 / 2**4 / 8
    assert (
        head(torch.zeros(3, 8)).log_prob(torch.tensor([[100.0], [-100.0], [0.0]])).isfinite().all()
    )


def test_temperature_of_a_byte_raises_its_density_to_a_power():
    density = Byte(8, 1).double()(torch.randn(1, 8).double())
    x = torch.rand(1, 50).double() - 0.5
    warm, cold = density.row(0, x).log_prob(x), density.tempered(0.5).row(0, x).log_prob(x)
    difference = cold - 4 * warm
    assert torch.allclose(difference, difference[:, :1].expand(-1, 50), atol=1e-9)


@pytest.mark.parametrize(
    ("head", "arguments", "name"),
    [
        (StudentT, {"freedom": 2.0}, "freedom"),
        (StudentT, {"freedom": 101.0}, "freedom"),
        (Logistic, {"components": 0}, "components"),
        (FullGMM, {"components": 0}, "components"),
        (GMM, {"joint": False, "loss_constant": False}, "loss_constant"),
        (Spline, {"bins": 0}, "bins"),
        (Spline, {"bound": 0.0}, "bound"),
        (Spline, {"bins": 8, "min_bin": 0.2}, "min_bin"),
        (Byte, {"exponents": 0}, "exponents"),
        (Byte, {"symbols": 3, "bits": 8}, "bits"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(head, arguments, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        head(8, 1, **arguments)


@torch.no_grad()
@pytest.mark.parametrize("std", [4.5e-5, 6e-6, 3e-7, 1e-9])
def test_guided_spikes_are_numbers(std):
    def spike(mean):
        each = (
            torch.full((200, 1, 1), mean),
            torch.full((200, 1, 1), math.log(std)),
            torch.zeros(200, 1, 1),
        )
        return Factorised(Mixture1D(*each))

    x = spike(1.0).guided(spike(1.0 + std / 2), 2.0).sample(laws.images(200))
    assert x.isfinite().all() and (x - 1).abs().max() < 1e-3


@torch.no_grad()
def test_a_row_without_a_sigma_of_its_own_is_tempered_about_its_median():
    mean, log_std = laws.normal_numbers(50, 1, 1), 0.3 * laws.normal_numbers(50, 1, 1, seed=3)
    row = Mixture1D(mean, log_std, torch.zeros_like(mean))
    # of one component both are the same
    by_formula, drawn = row.tempered(0.5), Density1D.tempered(row, 0.5)
    x = mean + laws.normal_numbers(50, 1, 7, seed=4)

    for name in ("log_prob", "cdf", "knots", "span", "tail"):
        actual, reference = (
            getattr(r, name)(*({"knots": [9], "span": [3.0], "tail": []}.get(name, [x])))
            for r in (by_formula, drawn)
        )
        for one, other in zip(
            *((v if isinstance(v, tuple) else (v,)) for v in (actual, reference)), strict=True
        ):
            assert torch.allclose(one, other, atol=1e-3)
    assert torch.allclose(
        by_formula.log_interval(x, x + 0.1), drawn.log_interval(x, x + 0.1), atol=1e-2
    )

    total, _ = laws.integral(drawn)
    assert (total - 1).abs().max() < 1e-4
