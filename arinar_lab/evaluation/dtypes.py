"""In which numbers a recipe's likelihood and images are computed: `evaluation.precision`, see `hardware/precision.py`."""

from __future__ import annotations

from ..config.build import Experiment
from ..config.sections import Recipe
from ..hardware.precision import quicker
from ..hardware.profiling import Precision

WIDE = 256  # width of an outer model below which products are too small to gain


def of_likelihood(recipe: Recipe) -> Precision:
    """What log p is computed in."""
    return "bfloat16" if recipe.evaluation.precision == "bfloat16" else "float32"


def of_generation(recipe: Recipe, experiment: Experiment) -> Precision:
    """What images are drawn in."""
    asked = recipe.evaluation.precision
    if asked != "auto":
        return asked
    return quicker(experiment.device) if experiment.model.outer.width >= WIDE else "float32"
