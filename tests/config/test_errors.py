"""Reported errors: the key before the message, composed by callers, and the exit status."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from arinar_lab.errors import ConfigError, DiskFull, located, prefixed


@pytest.mark.parametrize(
    "key, error, line",
    [
        ("data", ConfigError("no such file"), "data: no such file"),
        ("data", ConfigError("no such file", key="path"), "data.path: no such file"),
        ("data", ValueError("path: a: no such file"), "data.path: a: no such file"),
        (
            "inner",
            ConfigError("too few", key="inner.head.components"),
            "inner.head.components: too few",
        ),
        ("inner", ConfigError("too few", key="innermost"), "inner.innermost: too few"),
        ("", ValueError("freeze: nothing"), "freeze: nothing"),
    ],
)
def test_a_key_is_put_before_the_key_of_an_error(key, error, line):
    with pytest.raises(ConfigError) as raised, prefixed(key):
        raise error
    assert str(raised.value) == line
    assert str(pickle.loads(pickle.dumps(raised.value))) == line


def test_a_place_is_named_once():
    line = r"^study\.yaml: seeds\.0: negative$"
    with (
        pytest.raises(ConfigError, match=line) as raised,
        located("study.yaml"),
        located("study.yaml"),
        prefixed("seeds"),
    ):
        raise ConfigError("negative", key="0")

    assert raised.value.exit_status == 2


def test_other_errors_pass():
    with (
        pytest.raises(DiskFull, match=r"^full$") as raised,
        located("study.yaml"),
        prefixed("data"),
    ):
        raise DiskFull("full")
    assert raised.value.exit_status == 1


def test_errors_are_imported_without_torch():
    code = (
        "import sys, arinar_lab.errors; sys.exit('torch' in sys.modules or 'lightning' in "
        "sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
