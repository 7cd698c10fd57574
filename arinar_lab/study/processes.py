"""The worker processes of a study, which this process starts, replaces and ends.

A worker that is killed (by hand, or by the system for want of memory) leaves its cell to the
others. A new worker replaces it, so that a study of a single worker continues, too. `worker.py`
sets aside a cell that kills every worker.
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
# of one worker: three cells that kill every worker are set aside by then
MAX_RESTARTS = 12
_TAIL = 10_000  # bytes at the end of a log that hold its last line
_ENDED = (-signal.SIGTERM, -signal.SIGINT)  # exit statuses of a worker that was asked to end


class Worker:
    """A process that is started again where a signal has killed it.

    Arguments:
        command: The words of the command.
        log: The file of its output.
        environment: The environment of the process.
        tell: Called with a sentence when the process was killed.
    """

    def __init__(
        self,
        command: list[str],
        log: Path,
        environment: dict[str, str],
        tell: Callable[[str], None],
    ) -> None:
        self.command = command
        self.log = log
        self.environment = environment
        self.tell = tell
        self.left = MAX_RESTARTS
        self.start()

    def start(self) -> None:
        """Start the process; its output is appended to the log."""
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
        """Its exit status; None while it, or the process that replaces it, is at work."""
        status = self.process.poll()
        if status is None or status >= 0 or status in _ENDED or self.left < 0:
            return status

        number = -status
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        death = f"Worker {self.process.pid} died of {name}; its log is {self.log}."
        self.left -= 1
        if self.left < 0:
            self.tell(
                f"{death} It was replaced {MAX_RESTARTS} times and is not again; the same "
                "command goes on."
            )
            return status

        self.tell(f"{death} Another one takes its place.")
        self.start()
        return None

    def last_line(self) -> str:
        """The last line that the process has written to its log; empty before it writes one."""
        with self.log.open("rb") as log:
            log.seek(max(self.logged, log.seek(0, os.SEEK_END) - _TAIL))
            text = log.read().decode("utf-8", errors="replace")
        return text.strip().rpartition("\n")[2].strip()

    def failure(self) -> str:
        """Why the process ended before its work was done; empty where it did not, or where its
        log reports a failed run.
        """
        status = self.process.poll()
        if not status or status < 0 or self.last_line().startswith("failed: "):
            return ""
        return (
            f"Worker {self.process.pid} ended with status {status}: {self.last_line()} (its log "
            f"is {self.log})"
        )


def all_ended(crew: Sequence[Worker]) -> bool:
    """Whether every worker has ended. Polls each of them, so that each killed one is replaced."""
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
        folder: The study's folder, which gets a log of each worker.
        command: The words that start one worker.
        workers: The number of workers.
        threads: The threads of each worker.
        watch: Returns once all workers have ended.
    """
    environment = dict(os.environ)
    environment[PARENT.name] = str(os.getpid())
    environment["OMP_NUM_THREADS"] = str(max(1, threads))
    crew: list[Worker] = []

    def tell(line: str) -> None:
        console.print(one_line(line), soft_wrap=True)

    try:
        with _interruptible():
            for i in range(workers):
                crew.append(Worker(command, folder / f"worker_{i}.log", environment, tell))
            watch(crew)
        for worker in crew:
            if failure := worker.failure():
                tell(failure)
        return True
    except KeyboardInterrupt:
        console.print("Stopping: each worker saves a checkpoint.")
        return False
    finally:
        end_processes([worker.process for worker in crew], _SECONDS_TO_SAVE)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP (unless that is ignored) like Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = dict(zip(numbers, map(signal.getsignal, numbers), strict=True))
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
