"""Files of numpy arrays, read without running any code that stands in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import ConfigError


def read_npz(path: Path, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an npz by name; of those in `names` alone, where names are given.

    Raises:
        ConfigError: in one line, if the file is missing, damaged or encrypted, or holds
            anything but plain arrays.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is no file")

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if names is None or name in names}
    except Exception as error:  # a damaged archive may fail anywhere in zipfile, zlib or numpy
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ConfigError(f"{path} is no npz of arrays, or damaged ({reason})") from None

    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # numpy gives a member that is no array as bytes
            raise ConfigError(f"{path} is no npz of arrays: {name} is none")

    return arrays


def map_array(path: Path) -> np.ndarray:
    """The array of an npy file, read from it where it is used.

    Raises:
        ConfigError: in one line, if the file is missing or damaged.
    """
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # as above
        raise ConfigError(
            f"{path} is no file of an array, or damaged ({' '.join(str(error).split())[:160]})"
        ) from None
    return array
