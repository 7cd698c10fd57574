"""Heads map a context to a density. `HEADS` has their names in YAML (`inner.kind`)."""

from __future__ import annotations

from ..inner.feature_ar import FeatureAR
from ..inner.head import Head
from .bins import Discrete
from .byte import Byte
from .colour import ColourAR
from .diffusion import Diffusion
from .energy import Energy
from .flow import Flow
from .mixture import GMM, FixedGaussian, FullGMM, Gaussian
from .nested import Nested
from .shapes import Logistic, StudentT
from .spline import Spline

HEADS: dict[str, type[Head]] = {
    "feature_ar": FeatureAR,
    "gmm": GMM,
    "fixed_gaussian": FixedGaussian,
    "discrete": Discrete,
    "logistic": Logistic,
    "student_t": StudentT,
    "gaussian": Gaussian,
    "byte": Byte,
    "spline": Spline,
    "colour": ColourAR,
    "gmm_full": FullGMM,
    "diffusion": Diffusion,
    "flow": Flow,
    "energy": Energy,
    "nested": Nested,
}
