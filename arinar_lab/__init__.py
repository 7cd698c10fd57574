"""arinar_lab: ablations of bi-level autoregressive image models (ARINAR, arXiv 2503.02883).

    open_study("studies/gmm_k")     a finished study, for the functions of `api.py`
    open_runs(study)                arm → its trained model
    open_run(recipe, folder)        the trained model of one run folder
    build(recipe)                   a recipe's model, codec and data, untrained
    laws.check(Head)                what every head must satisfy, measured

Each name is imported when it is first asked for, so that `import arinar_lab`
imports nothing of weight.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import open_runs, open_study
    from .config.build import build
    from .evaluation.trained_model import open_run
    from .model import checks as laws

__version__ = "0.1.0"
__all__ = ["build", "laws", "open_run", "open_runs", "open_study"]

_PLACES = {
    "build": "config.build",
    "laws": "model.checks",
    "open_run": "evaluation.trained_model",
    "open_runs": "api",
    "open_study": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_PLACES[name]}")
    return module if name == "laws" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
