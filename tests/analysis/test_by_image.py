"""Differences image by image: intervals over seeds × images, and means that a few images make."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from reports import analysed, report_of, study

from arinar_lab.analysis.analyse import Analysis, analyse
from arinar_lab.analysis.by_image.crossed import crossed_half_width, residual_square
from arinar_lab.metrics import BITS, INSURED
from arinar_lab.report.report import page
from arinar_lab.report.statements import methods_markdown, notes
from arinar_lab.report.tables import report_markdown
from arinar_lab.runs.folder import write_sealed
from arinar_lab.study.collect import collect
from arinar_lab.study.plan import Plan

SEEDS, IMAGES = 3, 400


def test_the_residual_of_a_table_by_hand():
    """Rows 2 and 5, columns 2, 3 and 5.5, all 3.5: residuals ±(0.5, 0.5, -1)."""
    table = np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 8.0]])
    assert residual_square(table) == pytest.approx(3 / 2 / 2)
    assert residual_square(table[:1]) == 0


def test_the_interval_by_hand():
    """Of seeds alone where images are alike; of images alone where seeds are."""
    alike = np.full(100, 0.5)
    assert crossed_half_width(alike, 0.0, 0.1, 4, 0.05) == pytest.approx(0.1 * 2.7764, rel=1e-4)

    spread = np.tile([0.0, 2.0], 50)
    error = math.sqrt(100 / 99) / 10
    half = crossed_half_width(spread, 0.0, 0.0, 4, 0.05)
    assert half == pytest.approx(1.9842 * error, rel=1e-4)
    assert crossed_half_width(spread, 99.0, 0.0, 4, 0.05) == 0
    assert crossed_half_width(spread, 0.0, math.inf, math.nan, 0.05) == math.inf


@pytest.mark.parametrize("spread_of", [(0.1, 0.1, 0.5), (0.0, 1.0, 0.5), (0.3, 0.0, 0.5)])
@pytest.mark.parametrize("is_paired", [True, False])
def test_the_interval_covers_the_difference_over_new_seeds_and_images(spread_of, is_paired):
    of_seed, of_image, of_both = spread_of
    seeds, images, studies = 5, 60, 2000
    rng = np.random.default_rng(0)
    covered = 0
    alone = 0
    for _ in range(studies):
        image = of_image * rng.normal(size=images)
        tables = []
        for effect in (image, 0 * image):
            seed = of_seed * rng.normal(size=(seeds, 1))
            tables.append(effect + seed + of_both * rng.normal(size=(seeds, images)))

        table = tables[0] - tables[1]
        residual = residual_square(table)
        squares = table.mean(1).var(ddof=1)
        df = seeds - 1
        if not is_paired:
            residual = sum(map(residual_square, tables))
            squares = sum(one.mean(1).var(ddof=1) for one in tables)
            df = 2 * (seeds - 1)
        error = math.sqrt(squares / seeds)
        half = crossed_half_width(table.mean(0), residual, error, df, 0.05)
        covered += abs(table.mean()) < half
        alone += abs(table.mean()) < 2.78 * error

    assert 0.94 < covered / studies < 0.99
    if of_image == 1:
        assert alone / studies < 0.9


def plan_of(shift: np.ndarray, insured: float, kept: bool = True) -> Plan:
    """Three arms; the third differs from the first by `shift` [n] in bits/dim of images, and by
    `insured` in the mean of insured bits/dim; the second by a little.
    """
    rng = np.random.default_rng(1)
    image = rng.normal(size=IMAGES)
    reports = {}
    bits = {}
    for k, effect in ((1, 0 * image), (2, 0.001 * image), (4, shift)):
        for seed in range(SEEDS):
            cell = (f"components={k}", seed)
            bits[cell] = 2 + image + effect + 0.002 * rng.normal() + 0.01 * rng.normal(size=IMAGES)
            values = {INSURED: 2 + (insured if k == 4 else 0) + 0.002 * rng.normal()}
            reports[cell] = report_of(float(bits[cell].mean()), **values)

    plan = study(reports)
    for arm in plan.arms if kept else ():
        for seed in range(SEEDS):
            folder, recipe = plan.cell(arm, seed)
            array = bits[arm.name, seed]
            folder.write_image_bits(recipe, array, array)
            report = folder.report(recipe) | {"image_bits": folder.image_bits_digest(recipe)}
            write_sealed(folder.evaluation(recipe) / "report.json", report)
    return plan


def few_images() -> np.ndarray:
    """Four images of 400 are worse by 20 bits/dim, all others better by 0.05."""
    shift = np.full(IMAGES, -0.05)
    shift[:4] = 20
    return shift


def shift_of(analysis: Analysis):
    (of_two, of_four) = analysis.image_shifts
    assert of_two.effect.arm == "components=2" and of_four.effect.arm == "components=4"
    return of_four


def test_a_mean_that_four_images_make_is_shown_as_that(alone):
    analysis = analysed(plan_of(few_images(), insured=-0.04))
    shift = shift_of(analysis)

    assert shift.mean == pytest.approx(0.1505, abs=0.01)
    assert shift.median == pytest.approx(-0.05, abs=0.005)
    assert shift.worst_count == 4
    assert shift.worst_share == pytest.approx(80 / 60.2, abs=0.1)
    assert shift.effect.answer == "worse" and shift.insured.answer == "better"
    assert shift.half > 0.15 > shift.effect.half
    assert shift.is_split and shift.is_turned

    text = report_markdown(analysis)
    assert "## Bits/dim, image by image" in text
    assert "| components=4 | +0.1" in text and " | -0.0" in text
    (line,) = [line for line in notes(analysis) if "A few images decide" in line]
    assert "components=4 against components=1: the mean is worse (+0.1" in line
    assert "the median image better (-0.0" in line
    (line,) = [line for line in notes(analysis) if "rare values" in line]
    assert "worse (+0.1" in line and "insured better (-0.0" in line
    assert "seeds × images" in methods_markdown(analysis)

    html = page(analysis, {})
    assert "<details><summary>Bits/dim, image by image</summary>" in html
    assert "A few images decide the mean." in html


def test_where_all_images_agree_there_is_no_note(alone):
    shift = shift_of(analysis := analysed(plan_of(np.full(IMAGES, 0.1), insured=0.1)))
    assert shift.worst_share < 0.02 and not shift.notes
    assert not [line for line in notes(analysis) if "A few images" in line or "rare" in line]


def test_signs_that_differ_by_less_than_matters_are_not_noted(alone):
    shift = np.full(IMAGES, -0.004)
    shift[:4] = 1
    of_four = shift_of(analysed(plan_of(shift, insured=0.0)))
    assert of_four.mean > 0 > of_four.median and not of_four.is_split


def test_reports_without_bits_of_images_are_read_and_show_nothing_of_them(alone):
    analysis = analysed(plan_of(few_images(), insured=0.0, kept=False))
    assert not analysis.image_shifts
    assert "image by image" not in report_markdown(analysis).lower()
    assert "image by image" not in page(analysis, {}).lower()


def test_bits_of_other_images_or_of_some_seeds_are_not_compared(alone):
    results = collect(plan_of(few_images(), insured=0.0))
    *first, last = results.arms
    cut = {seed: bits[:300] for seed, bits in last.image_bits.items()}
    without_first = {seed: bits for seed, bits in last.image_bits.items() if seed}
    for image_bits in (cut, without_first):
        arms = (*first, replace(last, image_bits=image_bits))
        (shift,) = analyse(replace(results, arms=arms)).image_shifts
        assert shift.effect.arm == "components=2"


@pytest.mark.parametrize("harm", ["edited", "missing"])
def test_damaged_bits_of_images_cost_their_row_alone_and_are_named(alone, capsys, harm):
    plan = plan_of(few_images(), insured=0.0)
    whole = analysed(plan)
    folder, recipe = plan.cell(plan.arms[2], 0)
    path = folder.evaluation(recipe) / "bits.npz"
    if harm == "edited":
        path.write_bytes(b"edited")
    else:
        path.unlink()

    analysis = analysed(plan)
    assert analysis.differences == whole.differences
    assert [shift.effect.arm for shift in analysis.image_shifts] == ["components=2"]
    (line,) = [text for text in map(str, notes(analysis)) if "bits.npz" in text]
    assert f"{path}: " in line and harm in line and f"arinar evaluate {folder.path}" in line
    assert capsys.readouterr().err.count("bits.npz") == 1


def test_the_mean_over_images_is_the_difference_of_the_table(alone):
    shift = shift_of(analysed(plan_of(few_images(), insured=0.0)))
    assert shift.by_image.mean() == pytest.approx(shift.effect.difference, abs=1e-9)
    assert shift.effect.metric == BITS
