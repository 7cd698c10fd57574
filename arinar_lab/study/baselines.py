"""Density estimators of scikit-learn on the same dequantised pixels, as baselines of the models.

Each estimator is fitted class by class (our models have the label too) on one dequantisation of the
training images. Cross-validation on them chooses its setting. Its score uses the same draws of the
held-out images as the score of our models.
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

from ..config.build import Experiment, build
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
    """Bits/dim of each estimator on the recipe's held-out images, under the same dequantisation
    as our models.
    """
    experiment = build(recipe)
    codec = experiment.codec
    images, labels = experiment.source.train
    fit_noise = Noise.of(torch.arange(len(images)), "fit")
    codec.fit(images, fit_noise)
    x_train, _ = codec.encode(images, fit_noise)
    x, y, log_det = _draws(experiment, recipe.evaluation.draws)

    bits = {}
    for name, make in ESTIMATORS.items():
        log_prob = _by_class(make, x_train.flatten(1).numpy(), labels.numpy(), x, y)
        bits[name] = float(-(log_prob + log_det).mean() / (codec.dims * math.log(2)))

    return bits


def _draws(experiment: Experiment, draws: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dequantised held-out images [n·draws, d], their labels, and log |det| of the codec."""
    images, labels = experiment.source.held_out
    noise = Noise.of(torch.arange(len(images)), "held out")
    encoded = []
    log_dets = []
    for draw in range(draws):
        x, log_det = experiment.codec.encode(images, noise.at(draw).at(Stream.CODEC))
        encoded.append(x)
        log_dets.append(log_det)

    x = torch.cat(encoded).flatten(1)
    return x.numpy(), labels.repeat(draws).numpy(), torch.cat(log_dets).numpy()


def _by_class(
    make: Callable[[], Any], x: np.ndarray, y: np.ndarray, x_new: np.ndarray, y_new: np.ndarray
) -> np.ndarray:
    """log p(x_new | y_new) in nats, [n]."""
    log_prob = np.empty(len(x_new))
    for c in np.unique(y):
        model = make().fit(x[y == c].astype(np.float64)).best_estimator_
        log_prob[y_new == c] = model.score_samples(x_new[y_new == c].astype(np.float64))
    return log_prob
