"""A real PostgreSQL server of Debian's package: in a temporary folder, on 127.0.0.1, started
by an ordinary user.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

PASSWORD = "not-for-any-log"
DRIVER = os.environ.get("ARINAR_TEST_DRIVER", "psycopg")  # of Python, as SQLAlchemy names it


def programs() -> Path:
    """The folder of initdb and postgres, which Debian does not put on the path."""
    initdb = shutil.which("initdb")
    folders = (
        [Path(initdb).resolve().parent]
        if initdb
        else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    )
    if not folders:
        pytest.skip("no PostgreSQL here; on Debian, apt-get install postgresql")

    return folders[-1]


class Server:
    """A server that can be stopped and started again."""

    def __init__(self) -> None:
        pytest.importorskip(DRIVER, reason=f"the Python package {DRIVER} is not installed")
        self.programs = programs()
        self.folder = Path(tempfile.mkdtemp(prefix="arinar_postgresql_"))
        self.user = "nobody" if os.getuid() == 0 else None  # the server refuses to be root's
        if self.user:
            shutil.chown(self.folder, self.user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        login = ("-U", "arinar", "-A", "scram-sha-256", f"--pwfile={secret}")
        self._run("initdb", "-D", self.data, *login, "--encoding=UTF8", "--locale=C", "--no-sync")
        self.start()

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    def url(self, database: str = "postgres", password: str = PASSWORD) -> str:
        return f"postgresql+{DRIVER}://arinar:{password}@127.0.0.1:{self.port}/{database}"

    def _run(self, program: str, *words: str) -> None:
        subprocess.run(
            [self.programs / program, *words],
            user=self.user,
            cwd=self.folder,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"]},
        )

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c fsync=off"
        self._run(
            "pg_ctl", "-D", self.data, "-w", "-l", str(self.folder / "log"), "-o", options, "start"
        )

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self.data, "-w", "-m", "immediate", "stop")

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
