"""The storage of a sweep, and the locks of a server.

    ARINAR_STORAGE=postgresql+psycopg://user:password@host/database    or `storage:` in the study's
                                                                       file

A sweep keeps its trials in a SQLite file, or on a PostgreSQL server for many machines. SQLite gives
out the same trial twice unless a transaction begins with the write lock; this module takes it.

A connection holds a lock of the server, which is freed when the connection ends. The holder sends a
statement every 30 s; the server closes the connection after 300 s of silence (ARINAR_HEARTBEAT and
ARINAR_GRACE change these seconds). Where the connection breaks, the holder takes the lock again. A
lock is therefore abandoned only once it was free for the grace (`AbandonedLocks`).

Errors of the database become one of two: `StorageUnavailable` heals by waiting
(`retry_while_unavailable` waits), `StorageUnusable` does not. No password leaves this module:
`without_password` shows addresses.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError

from ..errors import ConfigError, DiskFull, StorageUnavailable, StorageUnusable
from ..files.atomic import free_megabytes
from ..files.locks import is_lock_free
from ..output.address import conceal_password
from ..output.text import say
from ..variables import GRACE, HEARTBEAT, STORAGE, Variable

warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
optuna.logging.set_verbosity(optuna.logging.ERROR)
_T = TypeVar("_T")
_ANSWER_SECONDS = 10  # after which a server that accepts no connection counts as silent
_PATIENCE_SECONDS = 900  # to wait for a server that is restarted
# of a connection that says nothing: dead after a minute
_PROBES = {"idle": 30, "interval": 10, "count": 3}
_RESUME = "mend it, and the same command goes on: what is finished is in the run folders"
_ANEW = (
    "the same command makes it anew and goes on: what is finished is in the run folders"
    " (a sweep forgets its trials, and keeps their trainings)"
)
_CLOSED_WHEN_IDLE = "25P03"  # SQLSTATE: a frozen process is back, and connects again

UNAVAILABLE = (DBAPIError, optuna.exceptions.StorageInternalError, StorageUnavailable)
FAULTS = (*UNAVAILABLE, StorageUnusable)


def storage_address(address: str, file: Path) -> sqlalchemy.URL:
    """The address of a storage: ARINAR_STORAGE, else the address of the study's file, else a
    SQLite file.

    Raises:
        ConfigError: if it is malformed, or of a database that is not supported.
    """
    text = STORAGE.read() or address or f"sqlite:///{file.absolute()}"
    try:
        url = sqlalchemy.make_url(text)
    except (ArgumentError, ValueError):  # their text holds the address
        raise ConfigError(
            "storage: not an address, as in postgresql+psycopg://user@host/database"
        ) from None

    # where does the password end?
    if is_shared(url) and (text.count("@") > 1 or "@" in f"{url.host}{url.database}"):
        raise ConfigError(
            "storage: the address has an @ too many; write one of a name or a password as %40"
        )
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigError(
            f"storage: {without_password(url)}: {url.get_backend_name()!r} is neither "
            "postgresql nor sqlite"
        )

    if not url.database:
        raise ConfigError(
            f"storage: {without_password(url)}: names no database, as in sqlite:///queue.db"
        )

    return url


def without_password(url: sqlalchemy.URL) -> str:
    """An address without its password, wherever in it that stands."""
    return url.set(query={}).render_as_string(hide_password=True)


def is_shared(url: sqlalchemy.URL) -> bool:
    """Whether machines without a common file system may share the storage."""
    return url.get_backend_name() != "sqlite"


def is_absent(url: sqlalchemy.URL) -> bool:
    """Whether a storage is a file that does not exist."""
    return not is_shared(url) and not Path(url.database or "").is_file()


def open_storage(url: sqlalchemy.URL) -> optuna.storages.RDBStorage:
    """Optuna's storage, safe for several workers.

    Raises:
        ConfigError: in one line, if it does not answer.
    """
    return _on_server(url) if is_shared(url) else _on_file(url)


def _on_file(url: sqlalchemy.URL) -> optuna.storages.RDBStorage:
    result = _opened(url, {"connect_args": {"timeout": 60}})

    @sqlalchemy.event.listens_for(result.engine, "connect")
    def _no_implicit_begin(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(result.engine, "begin")
    def _lock_at_begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    result.engine.dispose()  # drop connections opened before the hooks
    return result


def _on_server(url: sqlalchemy.URL) -> optuna.storages.RDBStorage:
    grace = heartbeat_seconds()[1]
    with shared_lock(url, "arinar: making the tables"):  # several at once would fail
        waiting = {"lock_timeout": 1000 * grace, "statement_timeout": 1000 * grace}
        engine = {"connect_args": _connecting(url, waiting), "pool_pre_ping": True}
        return _opened(url, engine)


def _connecting(
    url: sqlalchemy.URL, settings: Mapping[str, int] = MappingProxyType({})
) -> dict[str, Any]:
    """Return the driver's options that let each side notice within a grace that the other is gone.

    Arguments:
        settings: Further settings of the session on the server. Options in the address override
            all of them.
    """
    if url.get_driver_name() not in ("psycopg", "psycopg2"):
        return {}
    client = {f"keepalives_{name}": value for name, value in _PROBES.items()}
    client |= {"connect_timeout": _ANSWER_SECONDS, "tcp_user_timeout": 60_000}
    server = {f"tcp_keepalives_{name}": value for name, value in _PROBES.items()}
    server |= {"idle_in_transaction_session_timeout": 1000 * heartbeat_seconds()[1], **settings}

    words = [f"-c {name}={value}" for name, value in server.items()]
    options = " ".join([*words, str(url.query.get("options", ""))]).strip()
    defaults = {name: value for name, value in client.items() if name not in url.query}
    return {**defaults, "options": options}


def heartbeat_seconds() -> tuple[int, int]:
    """Seconds between two signs of life, and of silence after which a worker is lost.

    Raises:
        ConfigError: if one late heartbeat would make a living worker a lost one.
    """
    beat = _seconds(HEARTBEAT)
    grace = _seconds(GRACE)
    if grace < 2 * beat:
        raise ConfigError(
            f"ARINAR_GRACE: {grace} s is less than twice ARINAR_HEARTBEAT ({beat} s): the living "
            "count as lost"
        )
    return beat, grace


def _seconds(variable: Variable) -> int:
    text = variable.read()
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{variable.name}: {text!r} is not a whole number of seconds")
    return int(text)


def _opened(url: sqlalchemy.URL, engine: dict[str, Any]) -> optuna.storages.RDBStorage:
    with _answering(url):
        address = url.render_as_string(hide_password=False)
        result = optuna.storages.RDBStorage(address, engine_kwargs=engine)

    @sqlalchemy.event.listens_for(result.engine, "handle_error")
    def _translate(context: Any) -> None:
        # None for what is no error of the database: a SystemExit, say
        error = context.sqlalchemy_exception
        # by SQLAlchemy, and by Optuna
        handled = context.is_pre_ping or isinstance(error, IntegrityError)
        if isinstance(error, DBAPIError) and not handled:
            raise _fault(url, error) from None

    return result


@contextmanager
def _answering(url: sqlalchemy.URL) -> Iterator[None]:
    """Raise ConfigError where a storage does not answer.

    Raises:
        ConfigError: in place of every error of the storage.
    """
    try:
        yield
    except (ModuleNotFoundError, ImportError, NoSuchModuleError) as error:
        missing = getattr(error, "name", None) or url.get_driver_name()
        raise ConfigError(
            f"storage: {without_password(url)}: needs the Python package {missing}, which "
            "is not installed"
        ) from None
    except StorageUnavailable:
        raise
    except StorageUnusable as error:
        raise ConfigError(str(error)) from None
    except UNAVAILABLE as error:
        fault = _fault(url, error)
        if isinstance(fault, StorageUnavailable):
            raise fault from None
        raise ConfigError(str(fault)) from None


def _fault(url: sqlalchemy.URL, error: Exception) -> StorageUnavailable | StorageUnusable:
    """Return the meaning of an error of a database, in one line."""
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    original = getattr(cause, "orig", None) or cause or error
    message = conceal_password(str(original), url.render_as_string(hide_password=False))[:200]
    silent = StorageUnavailable(f"storage: {without_password(url)}: does not answer: {message}")

    if not is_shared(url):
        return _fault_of_file(Path(url.database or ""), message) or silent
    connection_lost = getattr(cause, "connection_invalidated", False)
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    lasting = isinstance(cause, sqlalchemy.exc.DatabaseError) and not isinstance(
        cause, sqlalchemy.exc.OperationalError | IntegrityError
    )
    if lasting and not connection_lost and state != _CLOSED_WHEN_IDLE:
        return StorageUnusable(f"storage: {without_password(url)}: {message}; {_RESUME}")
    return silent


def _fault_of_file(file: Path, message: str) -> StorageUnavailable | StorageUnusable | None:
    """Return the meaning of an error of SQLite; None for one that may heal (a held lock, say)."""
    is_full = "disk is full" in message
    if "disk I/O error" in message or "unable to open" in message:
        is_full |= file.parent.is_dir() and free_megabytes(file) < 1
    if is_full:
        return StorageUnavailable(
            f"storage: {file}: the disk is full, {free_megabytes(file):.1f} MB are free; make room"
        )

    if "unable to open" in message:
        return StorageUnusable(
            f"storage: {file}: its folder is not there, or may not be written; {_RESUME}"
        )
    if not file.is_file() or "no such table" in message:
        return StorageUnusable(f"storage: {file}: was deleted while it was in use; {_ANEW}")
    if "malformed" in message or "not a database" in message:
        return StorageUnusable(f"storage: {file}: damaged ({message}); delete it, and {_ANEW}")

    if "readonly" in message:
        writable = os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)
        reason = "was replaced while it was in use" if writable else "it or its folder is read-only"
        return StorageUnusable(f"storage: {file}: {reason}; {_RESUME}")

    return None


@contextmanager
def shared_lock(
    url: sqlalchemy.URL, name: str, file: Path | None = None, wait: bool = True
) -> Iterator[None]:
    """Hold a lock that all machines see: a lock of the server, freed with its holder's connection,
    or of a file.

    The server closes the connection of a dead or frozen holder after the grace of a worker.

    Raises:
        filelock.Timeout: if another holds it, and wait is False.
    """
    if not is_shared(url):
        with FileLock(file or f"{url.database}.lock", timeout=-1 if wait else 0):
            yield
        return

    with _answering(url):
        connection = _connect(url)
        statement = _lock("pg_advisory_lock" if wait else "pg_try_advisory_lock")
        is_taken = connection.execute(statement, {"name": name}).scalar()

    try:
        if is_taken is False:
            raise Timeout(name)
        with _kept_alive(connection, name):
            yield
    finally:
        connection.invalidate()  # closes it, also where the server has gone away
        connection.close()


def _connect(url: sqlalchemy.URL) -> sqlalchemy.Connection:
    return sqlalchemy.create_engine(
        url, poolclass=sqlalchemy.pool.NullPool, connect_args=_connecting(url)
    ).connect()


def _lock(function: str) -> sqlalchemy.TextClause:
    return sqlalchemy.text(f"SELECT {function}(hashtext(:name))")


@contextmanager
def _kept_alive(connection: sqlalchemy.Connection, name: str) -> Iterator[None]:
    """Take a connection's lock once more at every heartbeat, which keeps both. No other code may
    use the connection meanwhile.

    A broken connection is opened again, with an attempt each second until the server answers.
    """
    stop = threading.Event()
    beat, _ = heartbeat_seconds()

    def speak() -> None:
        pause = beat
        while not stop.wait(pause):
            try:
                connection.execute(_lock("pg_try_advisory_lock"), {"name": name})
                pause = beat
            except sqlalchemy.exc.SQLAlchemyError:
                with suppress(sqlalchemy.exc.SQLAlchemyError):
                    connection.rollback()
                pause = 1

    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_ANSWER_SECONDS)


_HELD = """
SELECT name FROM unnest(CAST(:names AS text[])) AS name
JOIN pg_locks ON locktype = 'advisory' AND granted
    AND objid = CAST(CAST(hashtext(name) AS bigint) & 4294967295 AS oid)
JOIN pg_database ON pg_database.oid = database AND datname = current_database()
"""


def free_locks(url: sqlalchemy.URL, files: Mapping[str, Path]) -> set[str]:
    """Return the names of the locks that nobody holds. files: name → the lock's file."""
    if not is_shared(url):
        return {name for name, file in files.items() if is_lock_free(FileLock(file))}
    if not files:
        return set()

    statement = sqlalchemy.text(_HELD)
    with _answering(url), _connect(url) as connection:
        held = connection.execute(statement, {"names": list(files)}).scalars()
        return set(files).difference(held)


class AbandonedLocks:
    """Locks of a server that were free for a grace. A lock that is free for less may have a holder
    that connects again.

    The clock is that of this process, which has to look at least once in a grace.
    """

    def __init__(self) -> None:
        self.since: dict[str, float] = {}
        self.last_look = 0.0

    def among(self, free: set[str]) -> set[str]:
        """Return those of the free locks that were free at every look for a grace."""
        now = time.monotonic()
        _, grace = heartbeat_seconds()
        before = self.since if now - self.last_look < grace else {}
        self.since = {name: before.get(name, now) for name in free}
        self.last_look = now
        return {name for name in free if now - self.since[name] >= grace}


def retry_while_unavailable(act: Callable[[], _T]) -> _T:
    """Call a function again while the storage is away (restarted, say) or a disk is full, for at
    most 15 minutes.

    Raises:
        StorageUnusable: in one line, if the fault does not heal, or lasts longer.
    """
    begun = time.monotonic()
    is_reported = False
    while True:
        try:
            return act()
        except (*UNAVAILABLE, DiskFull) as error:
            fault = f"the storage is away ({type(error.__cause__ or error).__name__})"
            if isinstance(error, StorageUnavailable | DiskFull):
                fault = str(error)
            if time.monotonic() - begun > _PATIENCE_SECONDS:
                raise StorageUnusable(
                    f"{fault}; waited for {_PATIENCE_SECONDS / 60:.0f} minutes; {_RESUME}"
                ) from None

            if not is_reported:
                with suppress(OSError):  # a worker's log may be on the disk that is full
                    say(f"{time.strftime('%T')} {fault}; waiting for it")
            is_reported = True
            time.sleep(1)
