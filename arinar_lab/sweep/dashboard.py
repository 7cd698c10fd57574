"""optuna-dashboard over the queue of a study, or over all that a server holds:
`arinar dashboard FILE`.

It is served from this process, which opens the queue itself: on a command line everybody on the
machine could read the address, and the password in it.
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

from ..config.recipe import read_overrides
from ..errors import ConfigError
from ..files.workspace import HERE
from ..output.text import say
from ..study.optuna_storage import is_shared, open_storage, storage_address
from ..study.plan import queue_address, study_name, study_requested
from ..tracking.server import refuse_taken
from .sweep_file import sweep_requested

_LOCAL = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?")


def open_queue_of_file(file: Path | None, words: list[str]) -> optuna.storages.RDBStorage:
    """The queue of a study or sweep.

    Arguments:
        file: the study's; None where ARINAR_STORAGE names a server. words: its overrides.

    Raises:
        ConfigError: if there is no such queue, or it does not answer.
    """
    given, queue = "", HERE.studies / "queue.db"
    if file:
        overrides = read_overrides(words)
        content, _, named_by = study_requested(file, overrides)
        if "search" in content:
            named_by = sweep_requested(file, overrides).named_by
        given = queue_address(content.get("storage", ""))
        queue = HERE.studies / study_name(file.stem, named_by) / "queue.db"

    url = storage_address(given, queue)
    if not is_shared(url) and not Path(url.database or "").is_file():
        named = (
            f"{queue}: is not there; run the study first: arinar ablate {file}"
            if file
            else "name a study's file"
        )
        raise ConfigError(f"dashboard: {named}")

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
    """The application, which answers 403 to requests that were meant for another host, or come from
    another site's page.

    A page of another site reaches this machine under its own name (DNS rebinding), and could delete
    studies. Any port is accepted, for it is another one at the near end of an SSH tunnel.
    """

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "").lower()
        origin = environ.get(
            "HTTP_ORIGIN", f"http://{host}"
        ).lower()  # browsers send it with whatever changes the state
        if _LOCAL.fullmatch(host) and origin == f"http://{host}":
            return application(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"This dashboard answers to 127.0.0.1 and localhost only.\n"]

    return answer
