"""The command line as the tests call it."""

import pytest

from arinar_lab import cli


def arinar(*words):
    """The exit status of a command."""
    with pytest.raises(SystemExit) as leave:
        cli.main([str(word) for word in words])
    return leave.value.code
