"""optuna-dashboard over the queue of a study, or over all that a server holds: `arinar dashboard FILE`.

It is served from this process, which opens the queue itself: on a command line everybody on the machine could read the
address, and the password in it.
"""

from __future__ import annotations

from pathlib import Path

import optuna

from ..run.config import read_overrides, read_yaml
from ..run.schema import ConfigError
from ..run.text import say
from .plan import queue_address, study_name
from .storage import address, shared, storage


def open_board(file: Path | None, words: list[str]) -> optuna.storages.RDBStorage:
    """The queue of a study or sweep.

    Arguments:
        file: the study's; None where ARINAR_STORAGE names a server. words: its overrides.

    Raises:
        ConfigError: if there is no such queue, or it does not answer.
    """
    given = queue_address(read_yaml(file).get("storage", "")) if file else ""
    queue = Path("studies") / (study_name(file.stem, read_overrides(words)) if file else "") / "queue.db"
    url = address(given, queue)
    if not shared(url) and not Path(url.database or "").is_file():
        named = f"{queue}: is not there; run the study first: arinar ablate {file}" if file else "name a study's file"
        raise ConfigError(f"dashboard: {named}")
    return storage(url)


def serve(queue: optuna.storages.RDBStorage, port: int) -> None:
    """Serve the dashboard on 127.0.0.1 until it is stopped.

    Raises:
        ConfigError: if optuna-dashboard is not installed.
    """
    try:
        from optuna_dashboard import run_server
    except ModuleNotFoundError:
        raise ConfigError("dashboard: needs optuna-dashboard; pip install optuna-dashboard") from None
    say(f"http://127.0.0.1:{port}")
    run_server(queue, "127.0.0.1", port)
