"""How this process uses the CPU: its threads, and memory that is freed.

The C library gives large blocks back to the system when they are freed, and has them cleared page
by page when it asks for them again. A training step of ARINAR-B frees gigabytes; that they are kept
instead makes it 1.15 times as fast (docs/profiles).
"""

from __future__ import annotations

import ctypes
from typing import Protocol

import torch

from ..errors import ConfigError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_LARGEST = 2**31 - 1


class DeviceOptions(Protocol):
    """What a recipe's machine section says of one process: threads on the CPU (0 leaves torch's),
    and the accelerator.
    """

    @property
    def threads(self) -> int: ...

    @property
    def accelerator(self) -> str: ...


def configure_cpu(machine: DeviceOptions) -> None:
    """Set torch's threads, and keep memory that is freed."""
    if machine.threads > 0:
        torch.set_num_threads(machine.threads)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let freed blocks of any size wait in this process for their next use, where
    the C library is glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _LARGEST)


def accelerator(machine: DeviceOptions) -> str:
    """Lightning's name of the accelerator; `auto` is a CUDA GPU or the CPU (Apple's
    lacks double precision).
    """
    if machine.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError(
            "machine.accelerator: 'gpu' is asked for, and torch finds none here; use auto or cpu"
        )
    if machine.accelerator != "auto":
        return machine.accelerator
    return "gpu" if torch.cuda.is_available() else "cpu"


def device_of(machine: DeviceOptions) -> torch.device:
    """The device that one process computes on."""
    return torch.device("cuda" if accelerator(machine) in ("gpu", "cuda") else "cpu")
