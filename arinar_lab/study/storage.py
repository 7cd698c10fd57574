"""Where the queue of a study is kept: a SQLite file by default, a PostgreSQL server for many machines.

    ARINAR_STORAGE=postgresql+psycopg://user:password@host/database    or `storage:` in the study's file

SQLite hands out the same trial twice unless the write lock is taken when a transaction begins, so that is done here. On a
server, Optuna's heartbeats tell which workers live: one every 30 s, and who has been silent for 300 s is lost
(ARINAR_HEARTBEAT and ARINAR_GRACE change these seconds). On a file, the lock of a run folder tells it at once.

No password leaves this module: addresses are shown by `shown`.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from ..run.disk import free
from ..run.schema import ConfigError
from ..run.text import say

warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used")  # the worker has its own, more patient
optuna.logging.set_verbosity(optuna.logging.ERROR)
T = TypeVar("T")
_ANSWER_SECONDS = 10  # a server that takes longer to let us in does not answer
_PATIENCE_SECONDS = 900  # a server that is restarted is waited for


class Silent(ConfigError):
    """A storage that does not answer: whoever begins is told so, and whoever is at work waits for it."""


AWAY = (DBAPIError, optuna.exceptions.StorageInternalError, Silent)


def address(given: str, file: Path) -> sqlalchemy.URL:
    """The address of a queue: ARINAR_STORAGE, what the study's file says, or a SQLite file.

    Raises:
        ConfigError: if it is none, or of a database that is not supported.
    """
    text = os.environ.get("ARINAR_STORAGE") or given or f"sqlite:///{file.absolute()}"
    try:
        url = sqlalchemy.make_url(text)
    except (ArgumentError, ValueError):  # their text holds the address
        raise ConfigError("storage: not an address, as in postgresql+psycopg://user@host/database") from None
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigError(f"storage: {shown(url)}: {url.get_backend_name()!r} is neither postgresql nor sqlite")
    if not url.database:
        raise ConfigError(f"storage: {shown(url)}: names no database, as in sqlite:///queue.db")
    return url


def shown(url: sqlalchemy.URL) -> str:
    """An address without its password, wherever in it that stands."""
    return url.set(query={}).render_as_string(hide_password=True)


def shared(url: sqlalchemy.URL) -> bool:
    """Whether machines without a common file system may share the queue."""
    return url.get_backend_name() != "sqlite"


def storage(url: sqlalchemy.URL) -> optuna.storages.RDBStorage:
    """Optuna's storage, safe for several workers.

    Raises:
        ConfigError: in one line, if it does not answer.
    """
    return _on_server(url) if shared(url) else _on_file(url)


def _on_file(url: sqlalchemy.URL) -> optuna.storages.RDBStorage:
    result = _opened(url, {"connect_args": {"timeout": 60}})

    @sqlalchemy.event.listens_for(result.engine, "connect")
    def _no_implicit_begin(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(result.engine, "begin")
    def _lock_at_begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    @sqlalchemy.event.listens_for(result.engine, "handle_error")
    def _tell(context: Any) -> None:
        if told := _fault_of_file(url, str(context.original_exception)):
            raise told from None

    result.engine.dispose()  # drop connections opened before the hooks
    return result


def _on_server(url: sqlalchemy.URL) -> optuna.storages.RDBStorage:
    beat, grace = rhythm()
    with alone(url, "arinar: making the tables"):  # several at once would fail
        return _opened(url, _connecting(url) | {"pool_pre_ping": True}, heartbeat_interval=beat, grace_period=grace)


def _connecting(url: sqlalchemy.URL) -> dict[str, Any]:
    asked = "connect_timeout" in url.query or url.get_driver_name() not in ("psycopg", "psycopg2")
    return {} if asked else {"connect_args": {"connect_timeout": _ANSWER_SECONDS}}


def rhythm() -> tuple[int, int]:
    """Seconds between two heartbeats, and of silence after which a worker is lost.

    Raises:
        ConfigError: if one late heartbeat would make a living worker a lost one.
    """
    beat, grace = _seconds("ARINAR_HEARTBEAT", 30), _seconds("ARINAR_GRACE", 300)
    if grace < 2 * beat:
        raise ConfigError(
            f"ARINAR_GRACE: {grace} s is less than twice ARINAR_HEARTBEAT ({beat} s): the living count as lost"
        )
    return beat, grace


def _seconds(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{name}: {text!r} is not a whole number of seconds")
    return int(text)


def _opened(url: sqlalchemy.URL, engine: dict[str, Any], **options: Any) -> optuna.storages.RDBStorage:
    with _answering(url):
        return optuna.storages.RDBStorage(url.render_as_string(hide_password=False), engine_kwargs=engine, **options)


@contextmanager
def _answering(url: sqlalchemy.URL) -> Iterator[None]:
    """Tell in one line that a storage does not answer."""
    try:
        yield
    except (ModuleNotFoundError, ImportError, NoSuchModuleError) as error:
        missing = getattr(error, "name", None) or url.get_driver_name()
        raise ConfigError(
            f"storage: {shown(url)}: needs the Python package {missing}, which is not installed"
        ) from None
    except Silent:
        raise
    except AWAY as error:
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        said = " ".join(str(getattr(cause, "orig", cause)).split())
        said = said.replace(url.password, "***") if url.password else said
        silent = Silent(f"storage: {shown(url)}: does not answer: {said[:200]}")
        raise _fault_of_file(url, said) or silent from None


def _fault_of_file(url: sqlalchemy.URL, said: str) -> ConfigError | None:
    """What SQLite means by an error: no room (which is waited for, as a server is), or a damaged file; None for others."""
    if shared(url):
        return None
    file = Path(url.database or "")
    unwritten = "disk I/O error" in said or "unable to open" in said
    if "disk is full" in said or (unwritten and file.parent.is_dir() and free(file) < 1):
        return Silent(f"storage: {file}: the disk is full, {free(file):.1f} MB are free; make room")
    if "malformed" in said or "not a database" in said:
        return ConfigError(
            f"storage: {file}: damaged ({said}); delete it, and the same command goes on: what is finished is in the run"
            " folders (a sweep forgets its trials, and keeps their trainings)"
        )
    return None


@contextmanager
def alone(url: sqlalchemy.URL, name: str, file: Path | None = None, wait: bool = True) -> Iterator[None]:
    """Hold a lock that all machines see: the server's, freed with its holder's connection, or one of a file.

    Raises:
        filelock.Timeout: if it is held by another, and that is not waited for.
    """
    if not shared(url):
        with FileLock(file or f"{url.database}.lock", timeout=-1 if wait else 0):
            yield
        return
    with _answering(url):
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool, **_connecting(url))
        connection = engine.connect()
        lock = "pg_advisory_lock" if wait else "pg_try_advisory_lock"
        held = connection.execute(sqlalchemy.text(f"SELECT {lock}(hashtext(:name))"), {"name": name}).scalar()
    try:
        if held is False:
            raise Timeout(name)
        yield
    finally:
        connection.invalidate()  # closes it, also where the server has gone away
        connection.close()


def patiently(act: Callable[[], T]) -> T:
    """Do what needs the storage, again and again while that is away (restarted, say), for at most 15 minutes."""
    begun, told = time.monotonic(), False
    while True:
        try:
            return act()
        except AWAY as error:
            if time.monotonic() - begun > _PATIENCE_SECONDS:
                raise
            if not told:
                said = str(error) if isinstance(error, Silent) else f"the storage is away ({type(error).__name__})"
                with suppress(OSError):  # a worker's log may be on the disk that is full
                    say(f"{time.strftime('%T')} {said}; waiting for it")
            told = True
            time.sleep(1)
