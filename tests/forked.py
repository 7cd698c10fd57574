"""Workers as forks of the test's process: separate processes that can be killed, without the
seconds of importing torch.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from typing import Any

from arinar_lab import cli


class Forked:
    """What arinar_lab.study.processes needs of subprocess.Popen, for
    `python -m arinar_lab …` commands.
    """

    def __init__(
        self,
        command: list[str],
        *,
        stdout: Any,
        stderr: int,
        env: dict[str, str],
        start_new_session: bool,
    ):
        assert (
            command[:3] == [sys.executable, "-m", "arinar_lab"]
            and stderr == subprocess.STDOUT
            and start_new_session
        )
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _become(command[3:], stdout.fileno(), env)

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def wait(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("worker", timeout)
            time.sleep(0.02)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _become(words: list[str], output: int, environment: dict[str, str]) -> None:
    """Be the command, and leave without the test's own clean-up."""
    status: Any = 1
    try:
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ.update(environment)
        cli.main(words)
    except SystemExit as leave:
        status = leave.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status if isinstance(status, int) else 1)
