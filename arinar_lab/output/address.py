"""Addresses of servers as texts for people, without passwords.

A password is before the host (http://me:secret@host) or in the query (?password=secret), and may
hold any characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote


def without_login(address: str) -> str:
    """Return an address without its login and its query: http://me:secret@host?x=1 is http://host.

    An @ behind a question mark may be of a login or of a query. Only the scheme of such
    an address is shown.
    """
    scheme, login, place = _parts(address)

    if "?" in login:
        return f"{scheme}***"
    return scheme + place.partition("?")[0]


def conceal_password(text: str, address: str) -> str:
    """Return a message about an address in one line, without the address's password."""
    line = " ".join(text.split()).replace(address, without_login(address))
    line = re.sub(r"://\S*@", "://", line)

    for secret in _secrets(address):
        whole_word = rf"(?<!\w){re.escape(secret)}(?!\w)"
        if re.search(whole_word, line) or re.search(whole_word, unquote(line)):
            return "(its message is not shown: a part of it is a part of the password)"
    return line


def _parts(address: str) -> tuple[str, str, str]:
    """Split an address into scheme://, login and place. The last @ ends the login."""
    before, separator, after = address.partition("://")
    scheme, body = (before + separator, after) if separator else ("", address)
    login, _, place = body.rpartition("@")
    return scheme, login, place


def _secrets(address: str) -> Iterator[str]:
    """Yield the passwords of an address, and the pieces into which a parser may break them."""
    _, login, _ = _parts(address)
    passwords = [login.partition(":")[2]]
    query = parse_qsl(address.partition("?")[2])
    passwords += [value for name, value in query if "pass" in name.lower()]

    for password in passwords:
        for form in (password, unquote(password)):
            yield from filter(None, {form, *re.split(r"[@/?#:\s]", form)})
