"""In which numbers a recipe's likelihood and images are computed: `evaluation.precision`, see
`hardware/precision.py`.
"""

from __future__ import annotations

from ..config.build import Experiment
from ..config.sections import Recipe
from ..hardware.precision import faster_dtype
from ..hardware.profiling import MatmulDtype

MIN_WIDTH = 256  # width of an outer model below which products are too small to gain


def likelihood_dtype(recipe: Recipe) -> MatmulDtype:
    """What log p is computed in."""
    return "bfloat16" if recipe.evaluation.precision == "bfloat16" else "float32"


def generation_dtype(recipe: Recipe, experiment: Experiment) -> MatmulDtype:
    """What images are drawn in."""
    asked = recipe.evaluation.precision
    if asked != "auto":
        return asked
    return (
        faster_dtype(experiment.device) if experiment.model.outer.width >= MIN_WIDTH else "float32"
    )
