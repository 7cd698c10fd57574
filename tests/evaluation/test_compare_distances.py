"""`scripts/compare_distances.py` damages digits as it says, and computes effects."""

import sys

import compare_distances as script
import pytest
import torch

from arinar_lab.evaluation.classifier_distance import classifier_distances


def test_an_effect_is_a_shift_over_the_spread_of_undamaged_sets():
    """By hand: undamaged sets 0, 2 scatter by √2; a share that falls is worse."""
    ones = torch.ones(2, len(script.NAMES), dtype=torch.float64)
    undamaged = ones * torch.tensor([[0.0], [2.0]])
    weak, middle = undamaged + 2, undamaged * 3 + 4
    shifts, steps = script.effects([undamaged, weak, middle])
    assert shifts[:, 0].tolist() == pytest.approx([2 / 2**0.5, 6 / 2**0.5])
    assert steps[:, 0].tolist() == pytest.approx([4 / 10**0.5])  # variances are 2 and 18
    assert torch.equal(shifts[:, script.NAMES.index("recall")], -shifts[:, 0])
    assert script.cell(shifts[0, 0].item()) == "1.4"
    assert script.cell(float("nan")) == script.cell(float("inf")) == "–"


def test_classes_are_dropped_by_their_number():
    y = torch.arange(10).repeat(4)
    indices = torch.arange(40)
    half = y[script.without_classes(indices, y, 0.5)]
    assert len(half) == 40 and (half[:38] == 0).sum() == 2
    three = y[script.without_classes(indices, y, 3.0)]
    assert len(three) == 40 and set(three.tolist()) == set(range(3, 10))


def test_copies_are_of_one_in_so_many_reference_images():
    copied = script.copies(torch.arange(100, 200), 100, 4.0)
    assert len(copied) == 100 and set(copied.tolist()) == set(range(100, 125))


def test_blur_and_noise_keep_grey_levels():
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    images[0, 0, 4, 4] = 9
    blurred = script.blurred(images, 1.0)
    assert blurred[0, 0, 3:6, 3:6].eq(1).all() and blurred.sum() == 9
    assert torch.equal(script.blurred(images, 0.0), images.float())
    noisy = script.noisy(images, 3.0)
    assert torch.equal(noisy, noisy.round()) and noisy.min() >= 0 and noisy.max() <= 16
    assert torch.equal(noisy, script.noisy(images, 3.0)) and not torch.equal(noisy, images.float())


def test_distances_are_a_reports():
    digit = script.Digit()
    source = script.Digits()
    images, reference = source.held_out[0][:100], source.train[0][:200]
    expected = classifier_distances(images, reference, "digits")
    names = ("fd_digits", "kid_digits", "sliced_digits", *script.NAMES[3:])
    first = digit.training
    values = script.distances(digit.features[first : first + 100], digit.features[:200])
    assert values.tolist() == pytest.approx([expected[name] for name in names], rel=1e-5)


def test_halves_are_disjoint_and_a_bootstrap_is_of_training_digits():
    digit = script.Digit()
    generator = torch.Generator().manual_seed(0)
    half, other = digit.pair("halves", generator)
    assert len(half) == len(other) == 898 and not set(half.tolist()) & set(other.tolist())
    drawn, reference = digit.pair("bootstrap", generator)
    assert len(drawn) == len(reference) == 1437 and drawn.max() < 1437


def test_one_draw_has_no_deviation(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compare_distances.py", "--draws", "1"])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert "--draws 1: a deviation needs two or more" in capsys.readouterr().err


def test_the_tables_have_a_row_for_each_distance():
    """Of two draws: strong noise is worse than none for each of the three distances."""
    tables = script.tables(script.Digit(), "halves", 2, 0)
    for name in script.NAMES:
        assert tables.count(f"| {name} | ") == 2
    noise = [line.split(" | ")[2] for line in tables.splitlines() if line.startswith("| FD")]
    assert float(noise[0].split(" / ")[2]) > 3
