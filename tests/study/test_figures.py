"""Figures: each is drawn from what it needs, left out and named without it, and can be read by everyone."""

import itertools

import matplotlib.colors
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image
from reports import BITS, FD, full_report, report_of, study, whole, whole_and_full

from arinar_lab.study.anatomy import samples
from arinar_lab.study.curves import learning_curves, where_the_bits_go
from arinar_lab.study.figures import FIGURES
from arinar_lab.study.outcome import against_factor, against_speed, cost_breakdown
from arinar_lab.study.results import collect
from arinar_lab.study.style import BLACK, FACET, PALE, facets, looks

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def many(count, seeds=(0, 1), **keys):
    """A study of so many arms by name."""
    arms = {f"arm {i}": {"outer.width": 16 + 2 * i} for i in range(count)}
    reports = {
        (name, seed): full_report(2.0 + i / 10 + seed / 100, distance=10.0 - i / 5)
        for (i, name), seed in itertools.product(enumerate(arms), seeds)
    }
    return study(reports, seeds=seeds, axes=None, arms=arms, **keys)


def ink(path):
    """Share of a picture that is not white."""
    return (np.asarray(Image.open(path).convert("RGB")) != 255).any(-1).mean()


# Which are drawn


def test_every_figure_is_drawn_as_png_and_as_pdf(alone):
    results = collect(study(whole_and_full(), full=True))
    for figure in FIGURES:
        png, pdf = figure.write(results, alone)
        assert png.name == f"{figure.name}.png" and pdf.read_bytes().startswith(b"%PDF")
        image = Image.open(png)
        assert 3.2 < image.width / 220 < 7.6, (figure.name, image.size)  # inches: no wider than a page
        assert 0.005 < ink(png) < 0.6, figure.name


def test_reports_of_older_versions_have_the_figures_that_they_can():
    results = collect(study(whole()))
    drawn = {figure.name for figure in FIGURES if figure.draw(results) is not None}
    assert drawn == {"factor", "speed"}


def test_nothing_finished_draws_nothing_and_removes_what_was_there(alone):
    (alone / "factor.png").write_bytes(b"of an earlier state")
    results = collect(study({}))
    assert not any(figure.write(results, alone) for figure in FIGURES)
    assert not (alone / "factor.png").exists()


def test_a_study_of_one_arm_and_one_seed_is_drawn():
    reports = {("components=1", 0): full_report(2.0)}
    results = collect(study(reports, seeds=(0,), full=True, axes={"inner.head.components": [1]}))
    assert all(figure.draw(results) is not None for figure in FIGURES)


def test_a_study_without_its_baseline_is_drawn():
    reports = {cell: report for cell, report in whole_and_full().items() if cell[0] != "components=1"}
    results = collect(study(reports, full=True))
    assert all(figure.draw(results) is not None for figure in FIGURES)


def test_an_arm_without_likelihood_is_drawn_where_it_can():
    reports = whole_and_full()
    for seed in (0, 1, 2):
        report = reports["components=2", seed]
        report["likelihood"]["kind"], report["diagnosis"] = "none", {}
        for name in (BITS, "val/bits_per_dim_at_level"):
            del report["metrics"][name]
    results = collect(study(reports, full=True))
    assert all(figure.draw(results) is not None for figure in FIGURES)
    bits, distance = against_speed(results).axes
    assert _offsets(bits) == 2 and _offsets(distance) == 3


def _offsets(ax):
    """Arms in a panel of quality against speed."""
    return len([c for c in ax.containers if c.lines[0] is not None])


# What they show


def test_both_error_bars_are_drawn_apart():
    """Of an arm with s = 0.25 over three seeds and ± 0.004 over images: caps at the one, a broad bar over the other."""
    ax = against_factor(collect(study(whole_and_full()))).axes[0]
    bars = {}
    for container in ax.containers:
        segments = container.lines[2][0].get_segments()
        bars[round(container.lines[2][0].get_linewidth()[0], 1)] = np.ptp(segments[0][:, 1])
    assert bars[5.0] == pytest.approx(0.008)
    assert bars[0.9] > 1.0  # 2 × 4.303 × 0.252 / √3


def test_one_seed_has_no_bar_of_training_noise():
    reports = {cell: report for cell, report in whole_and_full().items() if cell[1] == 0}
    ax = against_factor(collect(study(reports, seeds=(0,)))).axes[0]
    thin = [c.lines[2][0] for c in ax.containers if c.lines[2][0].get_linewidth()[0] < 1]
    assert all(np.ptp(segment[:, 1]) == 0 for bar in thin for segment in bar.get_segments())


def test_a_numeric_factor_is_an_axis_and_names_are_rows():
    numeric = against_factor(collect(study(whole()))).axes[0]
    assert numeric.get_xlabel() == "inner.head.components"
    assert [text.get_text() for text in numeric.get_xticklabels()] == ["1", "2", "4"]
    rows = against_factor(collect(many(3))).axes[0]
    assert [text.get_text() for text in rows.get_yticklabels()] == ["arm 0 (baseline)", "arm 1", "arm 2"]


def test_dominated_arms_are_grey_and_the_front_is_drawn():
    speeds = {"components=1": 10.0, "components=2": 5.0, "components=4": 1.0}
    quality = {
        "components=1": 3.0,
        "components=2": 4.0,
        "components=4": 1.0,
    }  # the second is worse than the first in both
    reports = {(name, seed): report_of(2.0, distance=quality[name]) for name in speeds for seed in (0, 1)}
    for (name, _), report in reports.items():
        report["metrics"]["speed/images_per_second"] = speeds[name]
    ax = against_speed(collect(study(reports, seeds=(0, 1)))).axes[1]
    colours = [c.lines[0].get_color() for c in ax.containers]
    assert [colour == PALE for colour in colours] == [False, True, False]
    front = next(line for line in ax.lines if line.get_linestyle() == "--" and line.get_color() == BLACK)
    assert front.get_xydata().tolist() == [[1.0, 1.0], [10.0, 3.0]]


def test_a_learning_curve_is_the_mean_over_seeds_with_a_band():
    figure = learning_curves(collect(study(whole_and_full(), full=True)))
    line = figure.axes[0].lines[0]
    assert line.get_xydata().tolist() == pytest.approx(np.array([[1, 2.5], [2, 2.4], [3, 2.3]]).tolist())
    band = figure.axes[0].collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((2.2, 2.6))


def test_where_the_bits_go_is_what_the_reports_say():
    features, tokens = where_the_bits_go(collect(study(whole_and_full()))).axes
    bits = np.mean([2.5, 2.8, 2.3])
    assert features.lines[0].get_ydata() == pytest.approx([bits] * 4)
    assert tokens.lines[0].get_ydata() == pytest.approx([bits - 1, bits + 1])


def test_the_parts_of_the_cost_add_up():
    (ax,) = cost_breakdown(collect(study(whole_and_full()))).axes
    ends = [max(bar[i].get_x() + bar[i].get_width() for bar in ax.containers) for i in range(3)]
    assert ends == pytest.approx([1000 * 0.61 / 4] * 3)


def test_samples_stand_side_by_side_under_one_seed(alone):
    """The image at a place is that of the arm's file, at the same index for all arms."""
    plan = study(whole_and_full(), full=True)
    figure = samples(collect(plan))
    assert len(figure.axes) == 3
    for ax, arm in zip(figure.axes, plan.arms, strict=True):
        folder, recipe = plan.cell(arm, 0)
        images = np.load(folder.evaluation(recipe) / "samples" / "images.npy")
        strip, white = np.asarray(ax.images[0].get_array()), images.max()
        assert np.allclose(strip[:, 9:17], images[1, 0] / white)


def test_arms_under_another_sampling_seed_are_not_put_beside():
    plan = study(whole_and_full(), full=True, axes=None, baseline="one",
                 arms={"one": {}, "two": {"evaluation.seed": 5000}})  # fmt: skip
    reports = {(name, seed): full_report(2.0) for name in ("one", "two") for seed in (0, 1, 2)}
    plan = study(reports, full=True, axes=None, arms={"one": {}, "two": {"evaluation.seed": 5000}})
    assert len(samples(collect(plan)).axes) == 1


# Who can read them


@pytest.mark.parametrize("count", [1, 2, 7, 8, 20])
def test_no_panel_has_more_lines_than_can_be_told_apart(count):
    plan = many(count)
    groups = facets(plan)
    assert all(len(group) <= FACET + 1 and group[0].name == "arm 0" for group in groups)
    assert {arm.name for group in groups for arm in group} == {arm.name for arm in plan.arms}
    for group in groups:
        drawn = [looks(plan)[arm.name] for arm in group]
        assert len({look.colour for look in drawn}) == len({look.marker for look in drawn}) == len(drawn)


def test_twenty_arms_are_drawn(alone):
    results = collect(many(20, seeds=(0,)))
    for figure in FIGURES:
        if figure.name in ("factor", "speed", "bits"):
            png, _ = figure.write(results, alone)
            image = Image.open(png)
            assert image.width / 220 < 7.6 and image.height / 220 < 9.5, (figure.name, image.size)


def test_grey_tells_the_two_readings_of_a_panel_apart():
    """Luminance, and where that is near, marker and line."""
    found = list(looks(many(7)).values())
    for one, other in itertools.combinations(found, 2):
        apart = abs(_luminance(one.colour) - _luminance(other.colour)) > 0.1
        assert apart or (one.marker != other.marker and one.line != other.line)


def _luminance(colour):
    return float(np.dot(matplotlib.colors.to_rgb(colour), (0.2126, 0.7152, 0.0722)))


def test_no_letter_is_smaller_than_seven_points():
    results = collect(study(whole_and_full(), full=True))
    for figure in FIGURES:
        drawn = figure.draw(results)
        texts = [t for t in drawn.findobj(plt.Text) if t.get_text().strip() and t.get_visible()]
        assert min(t.get_fontsize() for t in texts) >= 7, figure.name
        assert drawn.get_figwidth() <= 6.9


def test_distances_have_their_floor():
    ax = against_factor(collect(study(whole()))).axes[-1]
    floor = next(line for line in ax.lines if line.get_label() == "held-out images")
    assert list(floor.get_ydata()) == [2.17, 2.17] and FD in whole()["components=1", 0]["metrics"]
