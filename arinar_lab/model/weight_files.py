"""Readers of weight files that run no code of the file.

safetensors holds tensors alone. torch's own files are pickles, read weights-only: that builds
tensors and plain values and refuses everything else. Training code also leaves numpy numbers and
paths in them; a `StandIn` takes their place.
"""

from __future__ import annotations

import pickle
import re
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ASSETS = Path(__file__).parents[1] / "assets"  # what ships
_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
_HARMLESS = [
    *product(["numpy"], ["dtype", "ndarray"]),
    *product(["numpy.core.multiarray", "numpy._core.multiarray"], ["scalar", "_reconstruct"]),
    *product(["pathlib", "pathlib._local"], _PATHS),
]


class StandIn:
    """An empty object in place of a numpy value or a path of a torch file."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


_STAND_INS = [(StandIn, f"{module}.{name}") for module, name in _HARMLESS]


def read_torch(path: Path, *allowed: type) -> Any:
    """The content of a torch file: tensors, plain values, allowed classes and stand-ins.

    Raises:
        ValueError: in one line, if the file is missing, damaged or holds anything else.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")

    try:
        with torch.serialization.safe_globals([*allowed, *_STAND_INS]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats, whose content is checked as well
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(error))
        reason = f"it asks for {named[1]}" if named else f"{type(error).__name__}"
        raise ValueError(
            f"{path}: refused, it is no file of weights alone or is damaged ({reason})"
        ) from None
    except Exception as error:  # a damaged file may fail anywhere in torch
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ValueError(f"{path}: damaged ({reason})") from None


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: in one line, if the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged ({error})") from None
