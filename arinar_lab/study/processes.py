"""The workers of a study, as processes that this one starts, replaces and asks to end.

A worker that is killed (by hand, or by the system for want of memory) leaves its cell to the
others. Here another one takes its place, so that a study of a single worker goes on, too; a cell
that kills whoever takes it is set aside by `worker.py`.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from ..files.shards import end_processes
from ..output.text import one_line
from ..variables import PARENT

_SECONDS_TO_SAVE = 60  # a step and a checkpoint, before a worker is killed
# times that one worker is: three cells that kill whoever takes them are set aside by then
MAX_RESTARTS = 12
_TAIL = 10_000  # bytes at the end of a log, in which its last line is looked for
_ASKED = (-signal.SIGTERM, -signal.SIGINT)  # to end


class Worker:
    """A process that is started again where a signal has killed it.

    Arguments:
        command: its words; log: its file; environment: its own.
        tell: is told how it died, and what comes of it.
    """

    def __init__(
        self,
        command: list[str],
        log: Path,
        environment: dict[str, str],
        tell: Callable[[str], None],
    ) -> None:
        self.command, self.log, self.environment, self.tell = command, log, environment, tell
        self.left = MAX_RESTARTS
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.logged = log.tell()  # before it
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """Its exit status; None while it, or who has taken its place, is at work."""
        status = self.process.poll()
        if status is None or status >= 0 or status in _ASKED or self.left < 0:
            return status

        number = -status
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        said = f"Worker {self.process.pid} died of {name}; its log is {self.log}."

        self.left -= 1
        if self.left < 0:
            self.tell(
                f"{said} It was replaced {MAX_RESTARTS} times and is not again; the same "
                "command goes on."
            )
            return status

        self.tell(f"{said} Another one takes its place.")
        self.start()

        return None

    def last_line(self) -> str:
        """The last line that the process has written to its log; empty where it
        has written nothing.
        """
        with self.log.open("rb") as log:
            log.seek(max(self.logged, log.seek(0, os.SEEK_END) - _TAIL))
            lines = log.read().decode("utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def failure(self) -> str:
        """Why the process ended before its work was done; empty where it did not, or a run
        that failed says it.
        """
        status = self.process.poll()
        if not status or status < 0 or self.last_line().startswith("failed: "):
            return ""
        return (
            f"Worker {self.process.pid} ended with status {status}: {self.last_line()} (its log "
            f"is {self.log})"
        )


def all_ended(crew: Sequence[Worker]) -> bool:
    """Whether nobody is at work any more. Each is asked, so that each who has died is replaced."""
    return None not in [worker.poll() for worker in crew]


def run_workers(
    folder: Path,
    command: list[str],
    workers: int,
    threads: int,
    watch: Callable[[Sequence[Worker]], None],
    console: Console,
) -> bool:
    """Start the workers and watch them until all have ended; False where the user interrupted.

    Arguments:
        folder: of the study, where each worker has its log.
        command: the words that start one worker; threads: of each.
        watch: asks again and again whether all have ended.
    """
    environment = {
        **os.environ,
        PARENT.name: str(os.getpid()),
        "OMP_NUM_THREADS": str(max(1, threads)),
    }
    crew: list[Worker] = []

    def tell(line: str) -> None:
        console.print(one_line(line), soft_wrap=True)

    try:
        with _asked_to_end():
            for i in range(workers):
                crew.append(Worker(command, folder / f"worker_{i}.log", environment, tell))
            watch(crew)
        for line in filter(None, [worker.failure() for worker in crew]):
            tell(line)
        return True
    except KeyboardInterrupt:
        console.print("Stopping: each worker saves a checkpoint.")
        return False
    finally:
        end_processes([worker.process for worker in crew], _SECONDS_TO_SAVE)


@contextmanager
def _asked_to_end() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP (unless that is ignored) like Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
