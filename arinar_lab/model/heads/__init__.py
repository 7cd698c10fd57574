"""Heads: a module that is called with a context and returns a density. `HEADS` names them for YAML (`inner.kind`)."""

from __future__ import annotations

from ..head import Head
from ..inner import FeatureAR
from .bins import Discrete
from .colour import ColourAR
from .diffusion import Diffusion
from .energy import Energy
from .flow import Flow
from .mixture import GMM, FixedGaussian
from .nested import Nested

HEADS: dict[str, type[Head]] = {
    "feature_ar": FeatureAR,
    "gmm": GMM,
    "fixed_gaussian": FixedGaussian,
    "discrete": Discrete,
    "colour": ColourAR,
    "nested": Nested,
    "diffusion": Diffusion,
    "flow": Flow,
    "energy": Energy,
}
