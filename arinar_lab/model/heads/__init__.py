"""Heads: a module that is called with a context and returns a density. `HEADS` names them for YAML (`inner.kind`)."""

from __future__ import annotations

from ..head import Head
from ..inner import FeatureAR
from .bins import Discrete
from .byte import Byte
from .mixture import GMM, FixedGaussian, FullGMM, Gaussian
from .shapes import Logistic, StudentT
from .spline import Spline

HEADS: dict[str, type[Head]] = {
    "feature_ar": FeatureAR,
    "gmm": GMM,
    "fixed_gaussian": FixedGaussian,
    "discrete": Discrete,
    "byte": Byte,
    "gaussian": Gaussian,
    "gmm_full": FullGMM,
    "logistic": Logistic,
    "spline": Spline,
    "student_t": StudentT,
}
