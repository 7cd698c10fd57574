"""Files of weights, read without running any code that stands in them.

safetensors holds tensors alone. torch's own files are pickles: they are read weights-only, which builds tensors and plain
values and refuses everything else.
"""

from __future__ import annotations

import pickle
import zipfile
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
        with torch.serialization.safe_globals([*allowed]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise ValueError(f"{path}: refused, it is no file of weights alone or is damaged ({reason})") from None
    except (RuntimeError, EOFError, ValueError, zipfile.BadZipFile, KeyError, OSError) as error:
        raise ValueError(f"{path}: damaged ({' '.join(str(error).split())[:160]})") from None


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
