"""What names a run or an evaluation stays as published: another signature would train or
measure every run anew.
"""

from pathlib import Path

import pytest

from arinar_lab.config.files import read_recipe
from arinar_lab.config.sections import parse_recipe

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
SIGNATURES = {
    "digits": ("5a7bfb4c", "5944c0d6"),
    "digits_latent": ("9a3c0dcd", "2c9bdf94"),
    "digits_latent_causal": ("008eb467", "2c9bdf94"),
    "digits_masked": ("b438cdd3", "5944c0d6"),
    "digits_masked_short": ("b438cdd3", "14197f33"),
    "digits_short": ("5f1b52c3", "e61e046d"),
    "fashion_fractal": ("41e3e013", "dff7cd2a"),
    "fashion_pixels": ("f0c077a0", "dff7cd2a"),
    "fashion_pixels_14": ("b1a4c7b9", "dff7cd2a"),
    "imagenet256_arinar_b": ("cef85f50", "2010e0ca"),
    "imagenet256_arinar_b_causal": ("967e3d42", "01560a26"),
    "imagenet256_arinar_b_fast": ("cef85f50", "46d4ee66"),
    "imagenet256_fractalmar_b": ("44602b4e", "4002ee99"),
    "imagenet256_mar_b": ("a165cfe9", "7ad8c651"),
    "imagenet64_fractalmar": ("d877c163", "8fcbc68e"),
    "synthetic": ("d795a997", "75b2ea47"),
}


def test_every_shipped_recipe_is_listed():
    assert {path.stem for path in EXPERIMENTS.glob("*.yaml")} == set(SIGNATURES)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_of_training_and_of_evaluation_are_as_published(name):
    recipe = parse_recipe(read_recipe(EXPERIMENTS / f"{name}.yaml"))
    assert (recipe.training_signature, recipe.evaluation_signature) == SIGNATURES[name]
