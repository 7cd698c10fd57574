"""Addresses: no password is shown, whatever characters it has."""

import pytest

from arinar_lab.output.address import conceal_password, without_login

ADDRESSES = {
    "http://host:5000/mlflow": "http://host:5000/mlflow",
    "http://me:secret@host/mlflow": "http://host/mlflow",
    "http://me:pa@secret@host/mlflow": "http://host/mlflow",
    "http://me:pa/secret@host": "http://host",
    "http://me:pa secret@host": "http://host",
    "http://me:pa?secret@host": "http://***",
    "me:secret@host": "host",
    "http://host/mlflow?password=secret": "http://host/mlflow",
    "postgresql://me@host/db?password=secret": "postgresql://host/db",
    "postgresql://host/db?password=x@secret": "postgresql://***",
    "sqlite:////tmp/mlflow.db": "sqlite:////tmp/mlflow.db",
    "tracking/mlflow.db": "tracking/mlflow.db",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_shown_without_its_password(address):
    assert without_login(address) == ADDRESSES[address]


@pytest.mark.parametrize("address", [address for address in ADDRESSES if "secret" in address])
@pytest.mark.parametrize(
    "text",
    [
        "cannot reach {0}\n  at all",
        "cannot reach {0}/api/2.0",
        "no host 'secret@host'",
        "port: 'secret'",
    ],
)
def test_a_message_holds_no_password(address, text):
    line = conceal_password(text.format(address), address)
    assert "secret" not in line and "\n" not in line and line


def test_a_message_without_a_password_is_kept():
    assert conceal_password("a\n  word", "http://me:secret@host") == "a word"
    assert "pa%20secret" not in conceal_password(
        "sent to me:pa%20secret at host", "http://me:pa secret@host"
    )
    assert conceal_password("the word secretary", "http://me:secret@host") == "the word secretary"
