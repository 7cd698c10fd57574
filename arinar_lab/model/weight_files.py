"""Files of weights, read without running any code that stands in them.

safetensors holds tensors alone. torch's own files are pickles: they are read weights-only, which
builds tensors and plain values and refuses everything else. Training code leaves numpy numbers and
paths beside the weights; neither is built, a `StandIn` takes its place.
"""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_MODULES = {
    "numpy": ("dtype", "ndarray"),
    "numpy.core.multiarray": ("scalar", "_reconstruct"),
    "numpy._core.multiarray": ("scalar", "_reconstruct"),
    "pathlib": ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"),
    "pathlib._local": ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"),
}


class StandIn:
    """Stands where a torch file asks for a numpy value or a path. It runs none of their
    code and holds nothing.
    """

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


_STAND_INS = [(StandIn, f"{module}.{name}") for module, names in _MODULES.items() for name in names]


def read_torch(path: Path, *allowed: type) -> Any:
    """The content of a torch file: tensors, plain values, objects of the allowed
    classes, and stand-ins.

    Raises:
        ValueError: in one line, if the file is missing, damaged or holds anything else.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")

    try:
        with torch.serialization.safe_globals([*allowed, *_STAND_INS]), warnings.catch_warnings():
            # of old formats: what they hold is checked all the same
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(error))
        reason = f"it asks for {named[1]}" if named else f"{type(error).__name__}"
        raise ValueError(
            f"{path}: refused, it is no file of weights alone or is damaged ({reason})"
        ) from None
    except Exception as error:  # a damaged file may fail anywhere in torch
        said = " ".join(str(error).split())[:160] or type(error).__name__
        raise ValueError(f"{path}: damaged ({said})") from None


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
