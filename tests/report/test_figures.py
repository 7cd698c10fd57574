"""Figures: each is drawn from what it needs, left out and named without it, and can
be read by everyone.
"""

import io
import itertools
from contextlib import chdir
from copy import deepcopy
from dataclasses import replace

import matplotlib.colors
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image
from reports import BITS, FD, analysed, full_report, study, whole, whole_and_full, with_reports

from arinar_lab.analysis.analyse import analyse
from arinar_lab.files.workspace import Workspace
from arinar_lab.report.density_figures import calibration_histograms, sample_grid
from arinar_lab.report.diagnostic_figures import where_the_bits_go
from arinar_lab.report.figures import DPI, FIGURES
from arinar_lab.report.result_figures import against_factor, against_speed
from arinar_lab.report.style import (
    FACET,
    GREY,
    IntervalBar,
    facets,
    look_at,
    looks,
    mark_off_scale,
    paper_pyplot,
)
from arinar_lab.study.collect import collect

# which is of studies with regimes, see test_regimes.py
HERE = [figure for figure in FIGURES if figure.name != "ranks"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A whole study of three numbers of components, with all that its runs leave."""
    home = tmp_path_factory.mktemp("study")
    with chdir(home):
        return collect(study(whole_and_full(), full=True, workspace=Workspace(home)))


@pytest.fixture(scope="module")
def drawn(results):
    """Figure's name → the figure of that study."""
    return {figure.name: figure.draw(analyse(results)) for figure in HERE}


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


def test_every_figure_is_written_as_png_and_as_pdf(results, tmp_path):
    for figure in HERE:
        png, pdf = figure.write(analyse(results), tmp_path)
        assert png.name == f"{figure.name}.png" and pdf.read_bytes().startswith(b"%PDF")
        image = Image.open(png)
        # inches: no wider than a page
        assert 3.2 < image.width / DPI < 7.6, (figure.name, image.size)
        assert 0.005 < ink(png) < 0.8, figure.name


@pytest.mark.usefixtures("alone")
def test_reports_without_diagnoses_have_the_figures_that_they_can():
    analysis = analysed(study(whole()))
    drawn = {figure.name for figure in FIGURES if figure.draw(analysis) is not None}
    assert drawn == {"factor", "speed"}


def test_nothing_finished_draws_nothing_and_removes_what_was_there(results, tmp_path):
    (tmp_path / "factor.png").write_bytes(b"of an earlier state")
    results = analyse(with_reports(results, {name: {} for name in results.reports}))
    assert not any(figure.write(results, tmp_path) for figure in FIGURES)
    assert not (tmp_path / "factor.png").exists()


@pytest.mark.usefixtures("alone")
def test_a_study_of_one_arm_and_one_seed_is_drawn():
    reports = {("components=1", 0): full_report(2.0)}
    results = analysed(study(reports, seeds=(0,), full=True, axes={"inner.head.components": [1]}))
    assert all(figure.draw(results) is not None for figure in HERE)


@pytest.mark.slow
def test_a_study_without_its_baseline_is_drawn(results):
    results = analyse(with_reports(results, {**results.reports, "components=1": {}}))
    assert all(figure.draw(results) is not None for figure in HERE)


def test_an_arm_without_likelihood_is_drawn_where_it_can(results):
    reports = deepcopy(results.reports)
    for report in reports["components=2"].values():
        report["likelihood"]["kind"], report["diagnosis"] = "none", {}
        for name in (BITS, "val/bits_per_dim_at_level"):
            del report["metrics"][name]

    results = analyse(with_reports(results, reports))
    assert len(calibration_histograms(results).get_axes()) == 2
    assert "components=2" not in str(where_the_bits_go(results).findobj(plt.Text))

    bits, distance = against_speed(results).axes
    assert _offsets(bits) == 2 and _offsets(distance) == 3


def _offsets(ax):
    """Arms in a panel of quality against speed."""
    return len([c for c in ax.containers if c.lines[0] is not None])


# What they show


def test_both_error_bars_are_drawn_apart(drawn):
    """Of an arm with s = 0.2517 over three seeds and ± 0.004 over images: thin for the one,
    broad for the other.
    """
    broad, thin = (container.lines[2][0] for container in drawn["factor"].axes[0].containers[:2])
    assert broad.get_linewidth()[0] > 3 * thin.get_linewidth()[0]
    assert np.ptp(broad.get_segments()[0][:, 1]) == pytest.approx(0.008)
    assert np.ptp(thin.get_segments()[0][:, 1]) == pytest.approx(
        2 * 4.3027 * 0.25166 / np.sqrt(3), rel=1e-3
    )


def test_one_seed_has_no_bar_of_training_noise(results):
    reports = {name: {0: by_seed[0]} for name, by_seed in results.reports.items()}
    ax = against_factor(analyse(with_reports(results, reports))).axes[0]
    thin = [c.lines[2][0] for c in ax.containers if c.lines[2][0].get_linewidth()[0] < 1]
    assert all(np.ptp(segment[:, 1]) == 0 for bar in thin for segment in bar.get_segments())


@pytest.mark.usefixtures("alone")
def test_a_numeric_factor_is_an_axis_and_names_are_rows(drawn):
    numeric = drawn["factor"].axes[0]
    assert numeric.get_xlabel() == "inner.head.components"
    assert [text.get_text() for text in numeric.get_xticklabels()] == ["1", "2", "4"]
    rows = against_factor(analysed(many(2))).axes[0]
    assert [text.get_text() for text in rows.get_yticklabels()] == ["arm 0 (baseline)", "arm 1"]


def test_dominated_arms_are_hollow_in_their_own_colour_and_the_front_is_drawn(results):
    speeds = {"components=1": 10.0, "components=2": 5.0, "components=4": 1.0}
    quality = {
        "components=1": 3.0,
        "components=2": 4.0,
        "components=4": 1.0,
    }  # the second is worse than the first in both

    reports = deepcopy(results.reports)
    for name, by_seed in reports.items():
        for report in by_seed.values():
            report["metrics"] |= {"speed/images_per_second": speeds[name], FD: quality[name]}

    ax = against_speed(analyse(with_reports(results, reports))).axes[1]
    points = [container.lines[0] for container in ax.containers]
    assert [_is_hollow(point) for point in points] == [False, True, False]
    assert [point.get_color() for point in points] == [
        look.colour for look in looks(results).values()
    ]

    front = next(
        line for line in ax.lines if line.get_linestyle() == "--" and line.get_color() == GREY
    )
    assert front.get_xydata().tolist() == [[1.0, 1.0], [10.0, 3.0]]


def test_unreliable_speeds_draw_no_front_and_no_arm_hollow(results):
    reports = deepcopy(results.reports)
    reports["components=2"][0]["speed"]["load_average"] = 5.5
    figure = against_speed(analyse(with_reports(results, reports)))
    assert figure.get_suptitle() == "unreliable speeds: no front"
    for ax in figure.axes:
        assert not any(_is_hollow(container.lines[0]) for container in ax.containers)
        assert "--" not in [line.get_linestyle() for line in ax.lines]


def _is_hollow(point):
    return point.get_markerfacecolor() == "white"


def test_a_learning_curve_is_the_mean_over_seeds_with_a_band(drawn):
    ax = drawn["curves"].axes[0]
    assert np.allclose(ax.lines[0].get_xydata(), [[1, 2.5], [2, 2.4], [3, 2.3]])
    band = ax.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((2.2, 2.6))


def test_where_the_bits_go_is_what_the_reports_say(drawn):
    features, tokens = drawn["bits"].axes
    bits = np.mean([2.5, 2.8, 2.3])
    assert features.lines[0].get_ydata() == pytest.approx([bits] * 4)
    assert tokens.lines[0].get_ydata() == pytest.approx([bits - 1, bits + 1])


def test_the_parts_of_the_cost_add_up_to_the_time_of_an_image(results, drawn):
    (ax,) = drawn["cost"].axes
    ends = [max(bar[i].get_x() + bar[i].get_width() for bar in ax.containers) for i in range(3)]
    speeds = [arm.summary("speed/images_per_second").mean for arm in results.arms]
    assert ends == pytest.approx(
        [1000 / speed for speed in speeds], rel=0.02
    )  # the mean of a rate is not quite that of its inverse
    outer, inner = (container[0].get_width() for container in ax.containers[:2])
    assert outer == pytest.approx(2 * inner)


def test_an_interval_that_leaves_the_axes_ends_in_an_arrow(results):
    reports = {
        name: {seed: by_seed[seed] for seed in (0, 1)}
        for name, by_seed in deepcopy(results.reports).items()
    }
    ax = against_speed(analyse(with_reports(results, reports))).axes[-1]

    arrows = [text.arrow_patch.get_arrowstyle() for text in ax.texts if text.arrow_patch]
    assert arrows and all(type(arrow).__name__ == "CurveB" for arrow in arrows)  # `->`, open
    written = {text.get_text() for text in ax.texts if text.get_text()}
    ends = set()
    for arm in analyse(with_reports(results, reports)).results.arms:
        speed = arm.summary("speed/images_per_second")
        ends |= {_value(speed.mean - speed.half), _value(speed.mean + speed.half)}
    assert written and written <= ends


def _value(number):
    return f"{number:.3g}".replace("-", "−")


def test_no_arm_has_the_mark_of_what_is_off_the_scale_or_of_an_answer():
    assert {"^", "v", "<", ">"}.isdisjoint(look_at(place).marker for place in range(42))


def test_each_end_beyond_the_axes_has_an_arrow_there_and_its_value():
    with paper_pyplot():
        figure, ax = plt.subplots(figsize=(3.3, 2.2))
        ax.set(xlim=(0, 10), ylim=(0, 10))
        figure.draw_without_rendering()
        bars = [IntervalBar((5, 4), (12, 1), "red"), IntervalBar((3, 7), (1, 9), "blue")]
        mark_off_scale(ax, bars)

    arrows = [text for text in ax.texts if text.arrow_patch]
    assert [text.xy for text in arrows] == [(0, 4), (10, 4), (3, 0), (3, 10)]
    values = {text.get_text(): text.get_color() for text in ax.texts if text.get_text()}
    assert values == {"−7": "red", "17": "red", "−2": "blue", "16": "blue"}


def test_a_value_without_room_beside_its_arrow_is_left_out():
    with paper_pyplot():
        figure, ax = plt.subplots(figsize=(3.3, 2.2))
        ax.set(xlim=(0, 10), ylim=(0, 10))
        figure.draw_without_rendering()
        mark_off_scale(ax, [IntervalBar((5, 5 + i / 100), (12, 0), "red") for i in range(30)])
    assert len([text for text in ax.texts if text.arrow_patch]) == 60
    assert 2 <= len([text for text in ax.texts if text.get_text()]) < 30
    assert _overlapping(figure) == []


def _overlapping(figure):
    """Pairs of texts that share an area, and texts that leave the figure."""
    figure.canvas.draw()
    boxes = []
    hidden = _labels_of_ticks_beyond(figure)
    for text in figure.findobj(plt.Text):
        if text.get_text().strip() and text.get_visible() and text not in hidden:
            # the arrow of an annotation has no text
            boxes.append((text.get_text(), plt.Text.get_window_extent(text)))
    boxes = [(text, box) for text, box in boxes if box.width > 0 and box.height > 0]

    wrong = []
    for (text, box), (other_text, other) in itertools.combinations(boxes, 2):
        width = min(box.x1, other.x1) - max(box.x0, other.x0)
        height = min(box.y1, other.y1) - max(box.y0, other.y0)
        if width > 1 and height > 1:
            wrong.append((text, other_text))
    for text, box in boxes:
        if box.x0 < -1 or box.y0 < -1 or box.x1 > figure.bbox.x1 + 1:
            wrong.append((text, "beyond the figure"))
    return wrong


def _labels_of_ticks_beyond(figure):
    """Labels of ticks outside their axes, which are not drawn."""
    labels = set()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low <= tick.get_loc() <= high:
                    labels |= {tick.label1, tick.label2}
    return labels


def test_texts_do_not_overlap_and_stay_in_the_figure(results):
    analysis = analyse(results)
    for figure in HERE:
        assert _overlapping(figure.draw(analysis)) == [], figure.name


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("count", [5, 12])
def test_texts_of_many_arms_with_wild_intervals_do_not_overlap(count):
    plan = many(count)
    results = collect(plan)
    reports = deepcopy(results.reports)
    for i, by_seed in enumerate(reports.values()):
        for seed, report in by_seed.items():
            report["metrics"] |= {
                BITS: 2.0 + i / 20 + seed / 5,
                FD: 3.0 * 1.2**i * 1.5**seed,
                "speed/images_per_second": 50.0 + 30 * i + 40 * seed,
            }
    analysis = analyse(with_reports(results, reports))
    for draw in (against_factor, against_speed):
        figure = draw(analysis)
        assert _overlapping(figure) == []
        assert any(text.arrow_patch for ax in figure.axes for text in ax.texts), draw


def test_distances_have_a_logarithmic_axis_beyond_a_factor_of_ten(results):
    for factor, scale in ((1.0, "linear"), (30.0, "log")):
        reports = deepcopy(results.reports)
        for report in reports["components=4"].values():
            report["metrics"][FD] *= factor
            report["metrics"][BITS] *= factor
        bits, distance = against_factor(analyse(with_reports(results, reports))).axes
        assert (bits.get_yscale(), distance.get_yscale()) == ("linear", scale)


def test_samples_stand_side_by_side_under_one_seed(results, drawn):
    """The image at a place is that of the arm's file, at the same index for all arms."""
    assert len(drawn["samples"].axes) == 4
    for ax, arm in zip(drawn["samples"].axes[1:], results.arms, strict=True):
        assert ax.get_ylabel() == arm.name
        images = np.load(arm.folders[0].evaluation / "samples" / "images.npy")
        strip, white = np.asarray(ax.images[0].get_array()), images.max()
        assert np.allclose(strip[:, 9:17], images[1, 0] / white)


def test_training_images_of_the_same_classes_stand_above_the_samples(results, drawn):
    ax = drawn["samples"].axes[0]
    file = results.arms[0].folders[0].evaluation / "samples" / "real.npz"
    with np.load(file) as content:
        images, labels = content["images"], content["labels"]
    strip = np.asarray(ax.images[0].get_array())
    assert ax.get_ylabel() == "training images"
    assert np.allclose(strip[:, 9:17], images[1, 0] / images.max())
    assert [text.get_text() for text in ax.get_xticklabels()] == list(map(str, labels.tolist()))
    middle = drawn["samples"].axes[0].get_xticks()[1]
    assert middle == 9 + 3.5  # the middle of the second image


def test_evaluations_without_training_images_show_samples_alone(results, monkeypatch):
    monkeypatch.setattr("pathlib.Path.with_name", lambda path, name: path / name)
    assert len(sample_grid(analyse(results)).axes) == 3


@pytest.mark.usefixtures("alone")
def test_arms_under_another_sampling_seed_are_not_put_beside():
    reports = {(name, 0): full_report(2.0) for name in ("one", "two")}
    plan = study(
        reports,
        seeds=(0,),
        full=True,
        axes=None,
        arms={"one": {}, "two": {"evaluation.seed": 5000}},
    )
    assert len(sample_grid(analysed(plan)).axes) == 2  # training images, and one arm


# Who can read them


def test_an_arm_has_one_colour_and_one_marker_in_every_figure(results, drawn):
    """The colours of each figure in the order of its arms, against those of `looks`."""
    look_of = looks(results)
    colours = [look.colour for look in look_of.values()]
    markers = [look.marker for look in look_of.values()]
    names = list(look_of)
    assert colours[0] == "#000000" and len(set(colours)) == len(set(markers)) == 3

    for ax in drawn["speed"].axes:
        assert [c.lines[0].get_color() for c in ax.containers] == colours
        assert [c.lines[0].get_marker() for c in ax.containers] == markers
    for name in ("curves", "bits"):
        lines = {line.get_label(): line for line in drawn[name].axes[0].lines}
        assert [lines[name].get_color() for name in names] == colours
        assert [lines[name].get_marker() for name in names] == markers
    points = [
        line
        for line in drawn["factor"].axes[1].lines
        if line.get_marker() in markers and line.get_markersize() > 3
    ]
    assert [(point.get_color(), point.get_marker()) for point in points] == list(
        zip(colours, markers, strict=True)
    )
    fills = [ax.patches[0].get_facecolor()[:3] for ax in drawn["calibration"].axes]
    assert fills == [matplotlib.colors.to_rgb(colour) for colour in colours]
    rows = drawn["beliefs"].axes[::2]
    assert [ax.lines[0].get_color() for ax in rows] == colours


def test_the_first_forty_two_looks_differ():
    result = [(look_at(place).colour, look_at(place).marker) for place in range(43)]
    assert len(set(result[:42])) == 42 and result[42] == result[0]


def test_a_design_looks_the_same_at_every_budget_and_facets_keep_budgets_apart(results):
    arms = []
    for regime in ("steps×1", "steps×4"):
        for name in "abc":
            arms.append(replace(results.arms[0], name=f"{name} @ {regime}", regime=regime))
    plan = replace(
        results, arms=tuple(arms), baseline="b @ steps×1", regimes=("steps×1", "steps×4")
    )
    result = looks(plan)
    assert [result[f"{name} @ steps×4"] for name in "abc"] == list(result.values())[:3]
    assert [[arm.name for arm in facet] for facet in facets(plan)] == [
        ["b @ steps×1", "a @ steps×1", "c @ steps×1"],
        ["b @ steps×4", "a @ steps×4", "c @ steps×4"],
    ]


def named(results, count):
    """The results, with so many arms instead of their own."""
    arms = tuple(replace(results.arms[0], name=f"arm {i}") for i in range(count))
    return replace(results, arms=arms, baseline="arm 0")


@pytest.mark.parametrize("count", [1, 2, 7, 8, 20])
def test_no_panel_has_more_lines_than_can_be_told_apart(results, count):
    plan = named(results, count)
    groups = facets(plan)
    assert all(len(group) <= FACET + 1 and group[0].name == "arm 0" for group in groups)
    assert {arm.name for group in groups for arm in group} == {arm.name for arm in plan.arms}
    for group in groups:
        drawn = [looks(plan)[arm.name] for arm in group]
        assert (
            len({look.colour for look in drawn})
            == len({look.marker for look in drawn})
            == len(drawn)
        )


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_twenty_arms_are_drawn(tmp_path):
    results = analysed(many(20, seeds=(0,)))
    for figure in FIGURES:
        if figure.name in ("factor", "speed", "bits"):
            png, _ = figure.write(results, tmp_path)
            image = Image.open(png)
            assert image.width / DPI < 7.6 and image.height / DPI < 9.5, (figure.name, image.size)


def test_grey_tells_the_lines_of_a_panel_apart(results):
    """Luminance, and where that is near, marker and line."""
    result = list(looks(named(results, 7)).values())
    for one, other in itertools.combinations(result, 2):
        apart = abs(_luminance(one.colour) - _luminance(other.colour)) > 0.1
        assert apart or (one.marker != other.marker and one.line != other.line)


def _luminance(colour):
    return float(np.dot(matplotlib.colors.to_rgb(colour), (0.2126, 0.7152, 0.0722)))


def test_no_letter_is_smaller_than_seven_points(drawn):
    for name, figure in drawn.items():
        texts = [t for t in figure.findobj(plt.Text) if t.get_text().strip() and t.get_visible()]
        assert min(t.get_fontsize() for t in texts) >= 7, name
        assert figure.get_figwidth() <= 6.9


def floors(figure):
    """Heights of the dashed lines of a figure's last panel."""
    lines = [line for line in figure.axes[-1].lines if line.get_label() == "held-out images"]
    return [list(line.get_ydata()) for line in lines]


def test_a_floor_is_drawn_only_beside_a_distance_of_as_many_images(results, drawn):
    assert floors(drawn["factor"]) == []  # 100 generated, 360 held out
    reports = deepcopy(results.reports)
    for by_seed in reports.values():
        for report in by_seed.values():
            report["quality"] |= {"images": 1437}
            report["metrics"]["quality/fd_digits_few"] = report["metrics"][FD] + 1.5

    few = against_factor(analyse(with_reports(results, reports)))
    *_, of_all, of_few = few.axes
    assert floors(few) == [[2.17, 2.17]]
    assert of_few.get_ylabel().startswith("FD digits (few)")
    assert not any(line.get_label() == "held-out images" for line in of_all.lines)
    for by_seed in reports.values():
        for report in by_seed.values():
            report["quality"] |= {"floor_images": 1437}
            del report["metrics"]["quality/fd_digits_few"]

    assert floors(against_factor(analyse(with_reports(results, reports)))) == [[2.17, 2.17]]


def test_a_floor_is_named_at_the_end_of_its_line(results):
    reports = deepcopy(results.reports)
    for by_seed in reports.values():
        for report in by_seed.values():
            report["quality"] |= {"floor_images": report["quality"]["images"]}

    along = with_reports(results, reports)
    by_name = replace(along, arms=tuple(replace(arm, factors=()) for arm in along.arms))
    for measured, is_upright in ((along, True), (by_name, False)):
        figure = against_factor(analyse(measured))
        figure.canvas.draw()
        ax = figure.axes[-1]
        (label,) = [text for text in ax.texts if "held-out" in text.get_text()]
        box = label.get_window_extent()
        line = ax.transData.transform((2.17, 2.17))
        assert figure.bbox.contains(box.x0, box.y0) and figure.bbox.contains(box.x1, box.y1)
        if is_upright:
            assert box.x0 >= ax.bbox.x1 and box.y0 < line[1] < box.y1
        else:
            assert box.y0 >= ax.bbox.y1 and box.x0 < line[0] < box.x1


@pytest.mark.usefixtures("alone")
def test_labels_of_panels_side_by_side_lie_in_the_figure_and_apart():
    results = analysed(many(20, seeds=(0,))).results
    reports = deepcopy(results.reports)
    for by_seed in reports.values():
        for report in by_seed.values():
            report["quality"] |= {"images": 1437}
            report["metrics"]["quality/fd_digits_few"] = report["metrics"][FD] + 1.5

    results = with_reports(results, reports)
    long_names = [f"outer.norm=layer, inner.norm=rms {i}" for i in range(len(results.arms))]
    arms = [replace(arm, name=name) for arm, name in zip(results.arms, long_names, strict=True)]
    results = replace(results, arms=tuple(arms), baseline=long_names[0])
    figure = against_factor(analyse(results))
    figure.canvas.draw()
    boxes = [ax.xaxis.label.get_window_extent() for ax in figure.axes]
    assert len(boxes) == 3
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_a_dollar_in_a_name_is_a_letter():
    with paper_pyplot():
        figure, ax = plt.subplots()
        ax.plot([0, 1], label="$_$ of $x$")
        ax.set_title("$_$")
        ax.legend()
    figure.savefig(io.BytesIO())
    plt.close(figure)
