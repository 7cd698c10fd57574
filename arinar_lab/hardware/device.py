"""The device of a process, its threads, and the memory that it frees.

The C library returns large freed blocks to the system, which clears them page by page when they are
allocated again. A training step of ARINAR-B frees gigabytes; keeping them makes it 1.15 times as
fast (docs/profiles).
"""

from __future__ import annotations

import ctypes
from typing import Protocol

import torch

from ..errors import ConfigError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_LARGEST = 2**31 - 1


class DeviceOptions(Protocol):
    """The machine section's settings of one process: CPU threads (0: torch's) and accelerator."""

    @property
    def threads(self) -> int: ...

    @property
    def accelerator(self) -> str: ...


def configure_cpu(machine: DeviceOptions) -> None:
    """Set torch's threads, and keep freed memory."""
    if machine.threads > 0:
        torch.set_num_threads(machine.threads)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Keep freed blocks of any size in this process, where the C library is glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _LARGEST)


def accelerator(machine: DeviceOptions) -> str:
    """Return Lightning's accelerator; `auto` is a CUDA GPU or the CPU (Apple's has no float64)."""
    if machine.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError(
            "machine.accelerator: 'gpu' is asked for, and torch finds none here; use auto or cpu"
        )
    if machine.accelerator != "auto":
        return machine.accelerator
    return "gpu" if torch.cuda.is_available() else "cpu"


def device_of(machine: DeviceOptions) -> torch.device:
    """Return the device that one process computes on."""
    return torch.device("cuda" if accelerator(machine) in ("gpu", "cuda") else "cpu")
