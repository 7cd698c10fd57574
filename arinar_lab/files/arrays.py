"""Files of numpy arrays, read without running any code in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import ConfigError


def read_npz(path: Path, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """Read the arrays of an npz by name; `names` limits which.

    Raises:
        ConfigError: in one line, if the file is missing, damaged or encrypted, or holds
            anything but plain arrays.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is no file")

    try:
        with np.load(path, allow_pickle=False) as file:
            wanted = file.files if names is None else set(file.files).intersection(names)
            arrays = {name: file[name] for name in wanted}
    except Exception as error:  # a damaged archive may fail anywhere in zipfile, zlib or numpy
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ConfigError(f"{path} is no npz of arrays, or damaged ({reason})") from None

    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # numpy gives a member that is no array as bytes
            raise ConfigError(f"{path} is no npz of arrays: {name} is none")

    return arrays


def map_array(path: Path) -> np.ndarray:
    """Map the array of an npy file into memory; parts are read where they are used.

    Raises:
        ConfigError: in one line, if the file is missing or damaged.
    """
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # as above
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"{path} is no file of an array, or damaged ({reason})") from None
    return array
