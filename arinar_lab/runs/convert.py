"""A published checkpoint becomes a run folder of ours: config.yaml,
checkpoints/final.safetensors, DONE.

What is converted is then sampled, evaluated and built upon (`init_from`) like any run.
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

_GIVEN_ORDERS = ("identity", "reversed")
AVERAGED_KEYS = ("model_ema", "ema")
STATE_KEYS = (*AVERAGED_KEYS, "model", "state_dict")
BARE_TENSORS = "the file's own tensors"
# of DistributedDataParallel, torch.compile and Lightning
_PREFIXES = ("module.", "_orig_mod.", "model.")


def read_checkpoint(
    path: Path, which: str | None = None
) -> tuple[dict[str, Tensor], str, dict[str, Any]]:
    """A state dict of a published checkpoint, its name, and what else the file says. No
    code of the file is run.

    Without a name it is the first of `STATE_KEYS` that the file has: averaged weights, where it has
    any. A file that is a state dict itself is read as one. Prefixes that training wrappers put
    before every key are dropped.

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
    states = {key: value for key, value in content.items() if isinstance(value, dict)}
    usable = [key for key in (*STATE_KEYS, BARE_TENSORS) if key in states]
    name = which or next(iter(usable), AVERAGED_KEYS[0])
    if name not in states:
        advice = (
            f"it has {', '.join(usable)}; name one by --weights"
            if usable
            else "it is no published checkpoint"
        )
        if usable == [BARE_TENSORS]:
            advice = "it is a bare state dict; leave --weights out"
        raise ConfigError(f"{path}: holds no weights named {name}; {advice}")

    others = {key: value for key, value in content.items() if key not in STATE_KEYS}
    return _without_prefix(states[name]), name, others


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without the wrappers' prefixes that all of its keys share."""
    for prefix in _PREFIXES:
        if state and all(str(key).startswith(prefix) for key in state):
            return _without_prefix(
                {key.removeprefix(prefix): value for key, value in state.items()}
            )
    return state


def convert_checkpoint(
    path: Path, recipe: Recipe, out: Path, which: str | None = None
) -> RunFolder:
    """Write a published checkpoint as the run folder `out`, whole or not at all.

    Raises:
        ConfigError: if the file cannot be read, does not fit the recipe (naming the first keys),
            was trained by other settings, or `out` exists.
    """
    if out.exists():
        raise ConfigError(f"{out}: exists already; name another folder by --out, or delete it")

    check_output(out)
    state, name, others = read_checkpoint(path, which)
    with located(path):
        confirmed = check_arguments(others.get("args"), recipe)
    experiment = build(recipe)
    _refuse_what_is_measured(recipe, experiment)
    with located(path, ValueError):
        weights = translate_state(state, experiment.model)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as draft:
        folder = RunFolder(Path(draft) / "run")
        folder.checkpoints.mkdir(parents=True)
        folder.write_config(recipe)
        named = {f"model.{key}": value for key, value in weights.items()}
        named |= {f"codec.{key}": value for key, value in experiment.codec.state_dict().items()}
        save_tensors(folder.weights, named)
        epoch = others.get("epoch")
        origin = {
            "converted": path.name,
            "weights": name,
            "epoch": epoch if isinstance(epoch, int) else None,
        }
        folder.mark_done({"steps": 0, "seconds": 0.0, **origin, "confirmed": confirmed})
        shutil.move(folder.path, out)

    return RunFolder(out)


def _refuse_what_is_measured(recipe: Recipe, experiment: Experiment) -> None:
    """A checkpoint holds no statistics of training data, so nothing that is measured on
    them can be converted.
    """
    if recipe.init_from is not None:
        raise ConfigError("init_from: a checkpoint is converted by itself; leave it out")
    if experiment.codec.normalise != "none":
        raise ConfigError(
            f"codec.normalise: {experiment.codec.normalise} is measured on training data, which "
            "no checkpoint holds; use none"
        )

    if (
        experiment.model.inner.needs_fit
        and getattr(experiment.model.inner, "order", "identity") not in _GIVEN_ORDERS
    ):
        raise ConfigError(
            "inner.order: is measured on training data, which no checkpoint holds; use "
            "identity or reversed"
        )
