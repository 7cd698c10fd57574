"""Heads: a module that is called with a context and returns a density. `HEADS` names them for YAML (`inner.kind`)."""

from __future__ import annotations

from ..head import Head
from ..inner import FeatureAR
from .bins import Discrete
from .mixture import GMM, FixedGaussian, FullGMM, Gaussian
from .shapes import Logistic, StudentT

HEADS: dict[str, type[Head]] = {
    "feature_ar": FeatureAR,
    "gmm": GMM,
    "fixed_gaussian": FixedGaussian,
    "discrete": Discrete,
    "gaussian": Gaussian,
    "gmm_full": FullGMM,
    "logistic": Logistic,
    "student_t": StudentT,
}
