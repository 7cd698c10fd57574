"""A published checkpoint becomes a run folder of ours: config.yaml, checkpoints/final.safetensors, DONE.

What is converted is then sampled, evaluated and built upon (`init_from`) like any run.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from ..model.files import read_torch
from ..model.published import translate
from .checkpoint import save_tensors
from .config import Experiment, Recipe, build
from .folder import RunFolder
from .schema import ConfigError

_GIVEN_ORDERS = ("identity", "reversed")
STATES = ("model_ema", "model", "state_dict")


def read_checkpoint(path: Path, which: str = "model_ema") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict `which` of a published checkpoint, and what else the file says. No code of the file is run.

    Raises:
        ConfigError: if the file is missing, damaged, holds anything but tensors and plain values, or lacks that state.
    """
    try:
        content = read_torch(path, argparse.Namespace)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if not isinstance(content, dict) or not isinstance(content.get(which), dict):
        there = [key for key in STATES if isinstance(content, dict) and isinstance(content.get(key), dict)]
        hint = f"it has {', '.join(there)}; name one by --weights" if there else "it is no published checkpoint"
        raise ConfigError(f"{path}: holds no weights named {which}; {hint}")
    return content[which], {key: value for key, value in content.items() if key not in STATES}


def convert(path: Path, recipe: Recipe, out: Path, which: str = "model_ema") -> RunFolder:
    """Write a published checkpoint as the run folder `out`, whole or not at all.

    Raises:
        ConfigError: if the file cannot be read, does not fit the recipe (naming the first keys), or `out` exists.
    """
    if out.exists():
        raise ConfigError(f"{out}: exists already; name another folder by --out, or delete it")
    state, rest = read_checkpoint(path, which)
    experiment = build(recipe)
    _refuse_what_is_measured(recipe, experiment)
    try:
        weights = translate(state, experiment.model)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error})") from None
    with tempfile.TemporaryDirectory(dir=out.parent) as draft:
        folder = RunFolder(Path(draft) / "run")
        folder.checkpoints.mkdir(parents=True)
        folder.write_config(recipe)
        named = {f"model.{key}": value for key, value in weights.items()}
        named |= {f"codec.{key}": value for key, value in experiment.codec.state_dict().items()}
        save_tensors(folder.weights, named)
        epoch = rest.get("epoch")
        origin = {"converted": path.name, "weights": which, "epoch": epoch if isinstance(epoch, int) else None}
        folder.mark_done({"steps": 0, "seconds": 0.0, **origin})
        shutil.move(folder.path, out)
    return RunFolder(out)


def _refuse_what_is_measured(recipe: Recipe, experiment: Experiment) -> None:
    """A checkpoint holds no statistics of training data, so nothing that is measured on them can be converted."""
    if recipe.init_from is not None:
        raise ConfigError("init_from: a checkpoint is converted by itself; leave it out")
    if experiment.codec.normalise != "none":
        raise ConfigError(
            f"codec.normalise: {experiment.codec.normalise} is measured on training data, which no checkpoint holds; use none"
        )
    if experiment.model.inner.measures and getattr(experiment.model.inner, "order", "identity") not in _GIVEN_ORDERS:
        raise ConfigError(
            "inner.order: is measured on training data, which no checkpoint holds; use identity or reversed"
        )
