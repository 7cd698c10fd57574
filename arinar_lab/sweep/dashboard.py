"""optuna-dashboard over the trials of a sweep, or over all that a server holds:
`arinar dashboard FILE`.

This process serves it and opens the storage itself. The command line of another process would show
the address, and its password, to everybody on the machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import optuna

from ..config.files import read_overrides
from ..config.yaml_reader import read_yaml
from ..errors import ConfigError
from ..files.workspace import HERE
from ..output.text import say
from ..study.optuna_storage import is_absent, open_storage, storage_address
from ..tracking.server import refuse_taken
from .sweep_file import read_file

_LOCAL = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?")


def open_queue_of_file(file: Path | None, words: list[str]) -> optuna.storages.RDBStorage:
    """Open the storage of a sweep.

    Arguments:
        file: The sweep's file; None where ARINAR_STORAGE names a server.
        words: The overrides of the file.

    Raises:
        ConfigError: if there is no such storage, it does not answer, or the file is not a sweep.
    """
    address = ""
    queue = HERE.studies / "queue.db"
    absence = "name a sweep's file"
    if file:
        overrides = read_overrides(words)
        if "search" not in read_yaml(file):
            raise ConfigError(
                f"dashboard: {file}: is no sweep, and has no trials; look at it by arinar "
                f"status {file}"
            )
        content, _, name = read_file(file, overrides)
        address = content.storage
        queue = HERE.studies / name / "queue.db"
        absence = f"{queue}: is not there; run the sweep first: arinar sweep {file}"

    url = storage_address(address, queue)
    if is_absent(url):
        raise ConfigError(f"dashboard: {absence}")
    return open_storage(url)


def serve_dashboard(queue: optuna.storages.RDBStorage, port: int) -> None:
    """Serve the dashboard on 127.0.0.1 until it is stopped.

    Raises:
        ConfigError: if optuna-dashboard is not installed, or the port is taken.
    """
    try:
        from optuna_dashboard import wsgi
    except ModuleNotFoundError:
        raise ConfigError(
            "dashboard: needs optuna-dashboard; pip install optuna-dashboard"
        ) from None

    refuse_taken(port)
    with make_server("127.0.0.1", port, local_only(wsgi(queue)), handler_class=_Silent) as server:
        say(f"http://127.0.0.1:{port}")
        with suppress(KeyboardInterrupt):
            server.serve_forever()


class _Silent(WSGIRequestHandler):
    """Logs no requests."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def local_only(application: WSGIApplication) -> WSGIApplication:
    """The application, with answer 403 to requests for another host or from another site's page.

    A page of another site can reach this machine under its own name (DNS rebinding) and delete
    studies. Every port is accepted, because an SSH tunnel changes the port.
    """

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "").lower()
        # browsers send the origin with every request that changes the state
        origin = environ.get("HTTP_ORIGIN", f"http://{host}").lower()
        if _LOCAL.fullmatch(host) and origin == f"http://{host}":
            return application(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"This dashboard answers to 127.0.0.1 and localhost only.\n"]

    return answer
