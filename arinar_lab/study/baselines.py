"""Density estimators of scikit-learn on the same dequantised pixels: what the
neural models must beat.

Each is fitted class by class (our models know the label too) on one dequantisation of the training
images; its one setting is chosen by cross-validation on them, and it is scored on the very draws
that our models are scored on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity

from ..config.build import build
from ..config.sections import Recipe
from ..model.noise import Noise, Stream


def _mixture() -> GridSearchCV:
    grid = {"n_components": [1, 2, 3], "reg_covar": [1e-3, 3e-3, 1e-2, 3e-2]}
    return GridSearchCV(GaussianMixture(covariance_type="full", random_state=0), grid, cv=3)


def _kernel() -> GridSearchCV:
    return GridSearchCV(KernelDensity(), {"bandwidth": np.geomspace(0.05, 0.5, 10)}, cv=3)


ESTIMATORS: dict[str, Callable[[], GridSearchCV]] = {
    "scikit-learn GaussianMixture": _mixture,
    "scikit-learn KernelDensity": _kernel,
}


def baseline_bits(recipe: Recipe) -> dict[str, float]:
    """Bits/dim of each estimator on the recipe's held-out images, under the same
    dequantisation as our models.
    """
    experiment = build(recipe)
    source, codec = experiment.source, experiment.codec
    indices = torch.arange(len(source.train[0]))
    codec.fit(source.train[0], Noise.of(indices, "fit"))
    x, _ = codec.encode(source.train[0], Noise.of(indices, "fit"))
    draws = []
    for draw in range(recipe.evaluation.draws):
        noise = Noise.of(torch.arange(len(source.held_out[0])), "held out").at(draw)
        draws.append(codec.encode(source.held_out[0], noise.at(Stream.CODEC)))

    held_out, log_det = (
        torch.cat([d[0] for d in draws]).flatten(1).numpy(),
        torch.cat([d[1] for d in draws]).numpy(),
    )
    y_train, y_held_out = source.train[1].numpy(), source.held_out[1].repeat(len(draws)).numpy()
    results = {}
    for name, make in ESTIMATORS.items():
        log_prob = _by_class(make, x.flatten(1).numpy(), y_train, held_out, y_held_out)
        results[name] = float(-(log_prob + log_det).mean() / (codec.dims * math.log(2)))

    return results


def _by_class(
    make: Callable[[], Any], x: np.ndarray, y: np.ndarray, x_new: np.ndarray, y_new: np.ndarray
) -> np.ndarray:
    """log p(x_new | y_new) in nats, [n]."""
    log_prob = np.empty(len(x_new))
    for c in np.unique(y):
        model = make().fit(x[y == c].astype(np.float64)).best_estimator_
        log_prob[y_new == c] = model.score_samples(x_new[y_new == c].astype(np.float64))
    return log_prob
