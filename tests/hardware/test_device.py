"""What a process does with the CPU's memory."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

CODE = """
import resource, torch
from arinar_lab.hardware.device import keep_freed_memory
{call}
faults = [0] * 12
for i in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(2**26, dtype=torch.uint8).fill_(1)
    faults[i] = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(faults))
"""


def faults(call: str) -> int:
    """Pages that are asked of the system for a tensor of 64 MiB after others like it were
    freed: the fewest of some.

    A small block that was put where one of them lay makes the next go elsewhere, now and then.
    """
    made = subprocess.run(
        [sys.executable, "-c", CODE.format(call=call)], capture_output=True, text=True, check=True
    )
    return int(made.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_not_asked_for_again():
    pages = 2**26 // resource.getpagesize()
    kept, given_back = faults("keep_freed_memory()"), faults("")
    assert kept < pages / 100
    assert given_back > 2 * kept
