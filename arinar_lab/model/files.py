"""Files of weights, read without running any code that stands in them.

safetensors holds tensors alone. torch's own files are pickles: they are read weights-only, which builds tensors and plain
values and refuses everything else.
"""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def read_torch(path: Path, *allowed: type) -> Any:
    """The content of a torch file: tensors, plain values, and objects of the allowed classes.

    Raises:
        ValueError: in one line, if the file is missing, damaged or holds anything else.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with torch.serialization.safe_globals([*allowed]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats: what they hold is checked all the same
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|global:?|Unsupported class) ([\w.]+)", str(error))
        reason = f"it asks for {named[1]}" if named else f"{type(error).__name__}"
        raise ValueError(f"{path}: refused, it is no file of weights alone or is damaged ({reason})") from None
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
