"""The address of MLflow, and limits of the time that calls to it take."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from ..files.workspace import HERE
from ..variables import TRACKING, TRACKING_URI

TRACKING_FOLDER = HERE.tracking
_T = TypeVar("_T")
PATIENCE = 30.0  # seconds that a run waits for MLflow in total, and at most for one call
TIMEOUT = 5.0  # seconds that one request may wait for a byte
LIMITS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(round(TIMEOUT)),
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # the study has a bar of its own
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # it tells of errors by tracebacks; we do, in a line
}
_LEVELS = {"mlflow": logging.CRITICAL, "alembic": logging.WARNING}
"""Where MLflow is imported already, which reads its level then."""


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or a SQLite file in tracking/."""
    return TRACKING_URI.read() or f"sqlite:///{TRACKING_FOLDER.absolute()}/mlflow.db"


def set_limits() -> None:
    """Let MLflow neither retry nor talk much, unless the user has asked for it."""
    for name, value in LIMITS.items():
        os.environ.setdefault(name, value)
    for name, level in _LEVELS.items():
        logging.getLogger(name).setLevel(level)


def call_within(seconds: float, act: Callable[[], _T]) -> _T:
    """Return the result of a call to MLflow; a call that takes longer is left in its thread.

    A timeout of a request is not enough: it begins anew with each byte, and stores in a database
    retry by themselves.

    Raises:
        TimeoutError: after `seconds`.
    """
    answer: Future[_T] = Future()

    def call() -> None:
        try:
            answer.set_result(act())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError as error:
        if answer.done():  # a timeout of its own
            raise
        raise TimeoutError(f"does not answer within {seconds:.1f} s") from error


def is_off() -> bool:
    """Whether ARINAR_TRACKING=off: nothing is told to MLflow, and nothing counts as unsent."""
    return TRACKING.read().lower() == "off"
