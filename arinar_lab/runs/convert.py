"""Conversion of a published checkpoint to a run folder: config.yaml, weights and DONE.

The run is then sampled, evaluated and started from (`init_from`) like any other.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config.build import Experiment, build
from ..config.sections import Recipe
from ..errors import ConfigError, located
from ..files.atomic import check_output
from ..files.checksums import save_tensors
from ..model.pretrained.names import translate_state
from ..model.weight_files import read_torch
from .folder import RunFolder
from .training_args import check_arguments

_FIXED_ORDERS = ("identity", "reversed")
AVERAGED_KEYS = ("model_ema", "ema")
STATE_KEYS = (*AVERAGED_KEYS, "model", "state_dict")
BARE_TENSORS = "the file's own tensors"
_PREFIXES = ("module.", "_orig_mod.", "model.")  # DistributedDataParallel, compile, Lightning


def read_checkpoint(
    path: Path, which: str | None = None
) -> tuple[dict[str, Tensor], str, dict[str, Any]]:
    """Read a state dict of a published checkpoint, its name, and the file's other entries.

    No code of the file is run. The default is the first of `STATE_KEYS` that the file has, so
    averaged weights come first. A file that is a state dict itself is read as one. Prefixes that
    training wrappers put before every key are dropped.

    Raises:
        ConfigError: if the file is missing, damaged, holds anything but tensors and plain values,
            or lacks that state.
    """
    try:
        content = read_torch(path, argparse.Namespace)
    except ValueError as error:
        raise ConfigError(str(error)) from None

    content = content if isinstance(content, dict) else {}
    if content and all(isinstance(value, Tensor) for value in content.values()):
        content = {BARE_TENSORS: content}
    names = [key for key in (*STATE_KEYS, BARE_TENSORS) if isinstance(content.get(key), dict)]
    name = which or (names[0] if names else AVERAGED_KEYS[0])
    state = content.get(name)
    if not isinstance(state, dict):
        raise ConfigError(f"{path}: holds no weights named {name}; {_advice(names)}")

    entries = {key: value for key, value in content.items() if key not in STATE_KEYS}
    return _without_prefix(state), name, entries


def _advice(names: list[str]) -> str:
    """Say which weights a file has, given their names."""
    if not names:
        return "it is no published checkpoint"
    if names == [BARE_TENSORS]:
        return "it is a bare state dict; leave --weights out"
    return f"it has {', '.join(names)}; name one by --weights"


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the wrappers' prefixes that all keys of a state dict share."""
    for prefix in _PREFIXES:
        if state and all(str(key).startswith(prefix) for key in state):
            shorter = {key.removeprefix(prefix): value for key, value in state.items()}
            return _without_prefix(shorter)
    return state


def convert_checkpoint(
    path: Path, recipe: Recipe, out: Path, which: str | None = None
) -> RunFolder:
    """Write a published checkpoint atomically as the run folder `out`.

    Raises:
        ConfigError: if the file cannot be read, does not fit the recipe (naming the first keys),
            was trained by other settings, or `out` exists.
    """
    if out.exists():
        raise ConfigError(f"{out}: exists already; name another folder by --out, or delete it")

    check_output(out)
    state, name, entries = read_checkpoint(path, which)
    with located(path):
        confirmed = check_arguments(entries.get("args"), recipe)
    experiment = build(recipe)
    _refuse_fitted_parts(recipe, experiment)
    with located(path, ValueError):
        weights = translate_state(state, experiment.model)

    tensors = {f"model.{key}": value for key, value in weights.items()}
    tensors |= experiment.codec.state_dict(prefix="codec.")
    epoch = entries.get("epoch")
    origin = {
        "converted": path.name,
        "weights": name,
        "epoch": epoch if isinstance(epoch, int) else None,
    }

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as draft:
        folder = RunFolder(Path(draft) / "run")
        folder.checkpoints.mkdir(parents=True)
        folder.write_config(recipe)
        save_tensors(folder.weights, tensors)
        folder.mark_done({"steps": 0, "seconds": 0.0, **origin, "confirmed": confirmed})
        shutil.move(folder.path, out)

    return RunFolder(out)


def _refuse_fitted_parts(recipe: Recipe, experiment: Experiment) -> None:
    """Refuse parts that are fitted to training data, whose statistics no checkpoint holds."""
    if recipe.init_from is not None:
        raise ConfigError("init_from: a checkpoint is converted by itself; leave it out")
    if experiment.codec.normalise != "none":
        raise ConfigError(
            f"codec.normalise: {experiment.codec.normalise} is measured on training data, which "
            "no checkpoint holds; use none"
        )

    order = getattr(experiment.model.inner, "order", "identity")
    if experiment.model.inner.needs_fit and order not in _FIXED_ORDERS:
        raise ConfigError(
            "inner.order: is measured on training data, which no checkpoint holds; use "
            "identity or reversed"
        )
