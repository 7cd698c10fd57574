"""A study as a Slurm job array: a script whose tasks are workers that run the same command.

A worker ends when no cell is left. Before the time limit (SIGUSR1 to the script) and on preemption
(SIGTERM) the script sends SIGTERM to the worker. The worker writes a checkpoint and hands its cell
back, and the task returns to Slurm's queue; any worker can resume the cell. The package writes the
script, and the user submits it.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
from pathlib import Path
from typing import Protocol

from ..errors import ConfigError
from ..files.atomic import write_atomically
from ..output.text import one_line
from ..variables import STORAGE

WARNING = 120  # seconds before the time limit at which the worker is asked to end
_TIME = re.compile(r"\d{1,9}(:\d\d){0,2}|\d{1,9}-\d{1,9}(:\d\d){0,2}", re.ASCII)  # as in sbatch(1)

_SCRIPT = """\
#!/bin/bash
{options}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@{warning}
# {summary}
# Submit it with: sbatch {path}
# When the tasks have ended: {report}    measures speed, alone on its machine, and writes the report

cd {here} || exit 2{address}
unset ARINAR_PARENT SLURM_NTASKS  # the worker starts its own processes where a run needs several
export OMP_NUM_THREADS={threads}

hand_back() {{
    trap '' USR1 TERM
    kill -TERM "$worker" 2>/dev/null
    wait "$worker"
    job="${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}"
    scontrol requeue "$job${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}"
    exit 0
}}
trap hand_back USR1 TERM

{command} &
worker=$!
wait "$worker"
"""


_ADDRESS = (
    '\n: "${ARINAR_STORAGE:?is not set: export the address of the queue before sbatch, '
    'as it was when this was written}"'
)


@dataclass(frozen=True)
class Options:
    """The resources of the job array.

    Arguments:
        array: The number of tasks, each a worker.
        time: The time limit of a task, as sbatch reads it.
        gpus: The GPUs of a task.
        partition: The name of the partition; empty for Slurm's default.

    Raises:
        ConfigError: if the time or the partition is malformed, or the time limit is not above the
            warning, in one line.
    """

    array: int = 4
    time: str = "24:00:00"
    gpus: int = 0
    partition: str = ""

    def __post_init__(self) -> None:
        if not _TIME.fullmatch(self.time):
            raise ConfigError(
                f"--time: {self.time!r} is no time limit; write it as in 90, 24:00:00 or 2-12:00"
            )

        if 0 < parse_time_limit(self.time) <= WARNING:  # sbatch takes 0 for no limit
            raise ConfigError(
                f"--time: {self.time!r} is no more than the {WARNING} s before the limit at which "
                "a worker is asked to end"
            )

        if not re.fullmatch(r"(\w[\w.,-]*)?", self.partition, re.ASCII):
            raise ConfigError(f"--partition: {self.partition!r} is not the name of a partition")

    def lines(self, name: str, log: Path) -> str:
        """The options as the script's comments."""
        values = {
            "job-name": f"arinar-{name}",
            "array": f"1-{self.array}",
            "time": self.time,
            "output": log,
        }
        if self.gpus:
            values["gpus"] = str(self.gpus)
        if self.partition:
            values["partition"] = self.partition
        for key, value in values.items():  # sbatch reads a line of them word by word
            if not re.fullmatch(r"[\w.,:=+%/-]+", str(value)):
                raise ConfigError(
                    f"slurm: --{key}: {str(value)!r} cannot stand in an #SBATCH line; rename the "
                    "study's file"
                )

        return "\n".join(f"#SBATCH --{key}={value}" for key, value in values.items())


def quoted(words: Sequence[str]) -> str:
    r"""Words as bash reads them, in one line: a word with a newline or another control character is
    written as `$'…\n…'`.
    """
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    if one_line(word) == word:
        return shlex.quote(word)
    return f"$'{''.join(map(_escaped, os.fsencode(word)))}'"


def _escaped(byte: int) -> str:
    """A byte within `$'…'`."""
    letter = chr(byte)
    if letter in "'\\":
        return f"\\{letter}"
    return letter if 32 <= byte < 127 else f"\\x{byte:02x}"


def parse_time_limit(limit: str) -> int:
    """Seconds of a time limit as sbatch reads it: m, m:s, h:m:s, d-h, d-h:m or d-h:m:s."""
    days, dash, clock = limit.rpartition("-")
    numbers = list(map(int, clock.split(":")))
    units = (3600, 60, 1) if dash or len(numbers) == 3 else (60, 1)
    return 86400 * int(days or 0) + sum(map(mul, numbers, units))


class NamedFolder(Protocol):
    """A study or a sweep: its name, and its folder."""

    @property
    def name(self) -> str: ...

    @property
    def folder(self) -> Path: ...


def write_script(
    plan: NamedFolder,
    work: str,
    threads: int,
    command: Sequence[str],
    report: Sequence[str],
    options: Options,
) -> Path:
    """Write the job array of a study or sweep into its folder; returns its path.

    Arguments:
        work: The work of the array, as in "12 runs".
        threads: The threads of each worker.
        command: The words that start one worker, in the current folder.
        report: The words that report the study once the workers have ended.
    """
    path = plan.folder / "slurm.sh"
    text = _SCRIPT.format(
        options=options.lines(plan.name, plan.folder / "slurm-%A_%a.log"),
        warning=WARNING,
        summary=f"{plan.name}: {work} by {options.array} workers",
        path=path,
        here=quoted([str(Path.cwd())]),
        threads=max(1, threads),
        command=quoted(command),
        report=quoted(report),
        address=_ADDRESS if STORAGE.read() else "",
    )
    write_atomically(path, text)

    return path
