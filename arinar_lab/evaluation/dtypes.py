"""The dtypes of likelihood and images: `evaluation.precision`, see `hardware/precision.py`."""

from __future__ import annotations

from ..config.build import Experiment
from ..config.sections import Recipe
from ..hardware.precision import faster_dtype
from ..hardware.profiling import MatmulDtype

MIN_WIDTH = 256  # width of an outer model below which products are too small to gain


def likelihood_dtype(recipe: Recipe) -> MatmulDtype:
    """Return the dtype of log p's matrix products."""
    return "bfloat16" if recipe.evaluation.precision == "bfloat16" else "float32"


def generation_dtype(recipe: Recipe, experiment: Experiment) -> MatmulDtype:
    """Return the dtype of the matrix products that draw images."""
    precision = recipe.evaluation.precision
    if precision != "auto":
        return precision
    if experiment.model.outer.width < MIN_WIDTH:
        return "float32"
    return faster_dtype(experiment.device)
