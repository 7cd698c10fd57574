"""A trained run that is asked: its samples are those of its evaluation, and what it cannot do is
refused in one line.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_diagnostics import experiment_of
from tiny import tiny

from arinar_lab.errors import ConfigError
from arinar_lab.evaluation.notebook_figures import conditionals_figure, samples_figure
from arinar_lab.evaluation.trained_model import (
    TrainedModel,
    conditionals_of_runs,
    open_run,
    sampler_variants,
)
from arinar_lab.report.style import BASELINE, look_at
from arinar_lab.runs.folder import RunFolder

MASKED = "outer={kind: masked, width: 16, encoder_depth: 1, decoder_depth: 1, heads: 2}"
ENERGY = "inner={kind: energy, width: 8, depth: 1, noise: 4, draws: 2}"


@pytest.fixture(scope="module")
def run(one_run):
    return open_run(tiny(), one_run)


def untrained(*overrides):
    return TrainedModel(*experiment_of(*overrides))


@pytest.fixture
def unable():
    """A model that can be neither guided nor tempered, and is not walked one feature at a time."""
    run = untrained(ENERGY)
    run.experiment.model.inner.capabilities = frozenset()
    return run


def test_samples_are_those_of_the_evaluation(run, one_run):
    saved = np.load(one_run.evaluation(run.recipe) / "samples" / "images.npy")
    images, cut = run.samples(run.experiment.source.train[1][:7].tolist(), range(7))
    assert np.array_equal(images.numpy(), saved[:7]) and cut.shape == (7,)


def test_another_sampler_leaves_the_first_as_it_was(run):
    cool = run.with_sampler(temperature=0.3, guidance=2.0)
    assert (cool.recipe.sampler.temperature, run.recipe.sampler.temperature) == (0.3, 1.0)
    assert (
        cool.experiment is run.experiment
        and cool.recipe.training_signature == run.recipe.training_signature
    )
    assert not torch.equal(cool.samples([0], [0])[0], run.samples([0], [0])[0])


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"temperature": 0}, "sampler.temperature: 0.0 is not above 0"),
        ({"steps": 4}, "steps: 4 does not fit"),
        ({"guidanc": 1}, "sampler.guidanc: unknown key; sampler takes .*did you mean guidance"),
    ],
)
def test_what_it_cannot_do_is_refused(run, settings, word):
    with pytest.raises(ConfigError, match=word):
        run.with_sampler(**settings)


def test_a_run_that_is_not_finished_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="has not finished training"):
        open_run(tiny(), RunFolder(tmp_path))


def test_variants_are_one_setting_at_a_time_and_what_is_refused_is_told():
    result, refused = sampler_variants(untrained(), guidance=[1.0, 2.0], steps=[4])
    assert list(result) == ["guidance 1.0", "guidance 2.0"]
    assert result["guidance 2.0"].recipe.sampler.guidance == 2
    assert len(refused) == 1 and "steps: 4 does not fit" in refused[0]
    result, refused = sampler_variants(untrained(MASKED), steps=[2, 16, 17])
    assert list(result) == ["steps 2", "steps 16"] and len(refused) == 1


def test_each_run_is_asked_as_learned_and_as_it_is_drawn_from(unable):
    runs = {"gmm": untrained(), "energy": unable, "patch": untrained("codec.patch=4")}
    rows = conditionals_of_runs(runs, item=3, token=5, guidance=2.0, temperature=0.5)
    assert {name: list(curves) for name, curves in rows.items()} == {
        "gmm": ["as learned", "guidance 2, temperature 0.5"],
        "energy": ["as learned"],  # can neither; other patches are other tokens
    }
    learned, drawn_from = rows["gmm"].values()

    assert np.array_equal(learned["true"], drawn_from["true"])
    assert not np.allclose(learned["density"], drawn_from["density"], rtol=0.1)


def test_the_picture_of_a_token_has_a_row_for_each_run_and_says_the_bits(unable):
    runs = {"gmm": untrained(), "energy": unable}
    rows = conditionals_of_runs(runs, item=0, token=5, guidance=2.0)
    figure = conditionals_figure(rows, runs["gmm"].experiment.source.held_out[0][0], 5, 16)
    image, *panels = [ax for part in figure.subfigs for ax in part.axes]
    assert len(panels) == 8
    (frame,) = image.patches
    assert frame.get_xy() == (1.5, 1.5) and (frame.get_width(), frame.get_height()) == (2, 2)
    bits = [curves["bits"][0, 0] for curves in rows["gmm"].values()]

    assert panels[0].get_title() == f"feature 0\n{bits[0]:.1f} → {bits[1]:.1f} bits"
    assert [len(panel.get_lines()) for panel in panels] == [3] * 4 + [2] * 4
    assert panels[4].get_title() == "(draws)"


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 4), (4, 6)])
def test_the_picture_of_samples_has_a_row_for_each_setting_and_a_column_for_each_seed(shape):
    images = torch.arange(3 * np.prod(shape)).reshape(3, *shape) % 17
    figure = samples_figure({"one": images, "two": images[:2]}, 17 if len(shape) == 3 else 0)
    assert len(figure.axes) == 4
    shown = np.asarray(figure.axes[1].images[0].get_array())
    assert shown.shape[:2] == shape[-2:]
    if shape[0] == 1:
        assert np.array_equal(shown, images[1, 0])


def test_training_images_and_classes_stand_above_the_samples():
    images = torch.arange(3 * 64).reshape(3, 1, 8, 8) % 17
    figure = samples_figure({"one": images[:2]}, 17, [4, 7], images[1:])
    assert [ax.get_title() for ax in figure.axes] == ["4", "7", "", ""]
    assert [figure.axes[i].get_ylabel() for i in (0, 2)] == ["training images", "one"]
    assert np.array_equal(np.asarray(figure.axes[1].images[0].get_array()), images[2, 0])


def test_the_picture_of_a_token_has_the_colours_of_its_arms():
    runs = {"a": untrained(), "b": untrained()}
    rows = conditionals_of_runs(runs, item=0, token=5, guidance=2.0)
    image = runs["a"].experiment.source.held_out[0][0]
    figure = conditionals_figure(rows, image, 5, 16, looks={"b": look_at(2)})
    _, *panels = [ax for part in figure.subfigs for ax in part.axes]
    for row, colour in ((panels[0], BASELINE.colour), (panels[4], look_at(2).colour)):
        assert [line.get_color() for line in row.get_lines()[:2]] == [colour] * 2
        assert len(row.collections) == 1  # what was learned is filled, what is drawn from is not
