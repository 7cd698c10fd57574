"""Faults that are really done to a small study, and what they cost.

Every command here is a process of its own, from its imports to its report. A fault is a function
that harms a `Study` and returns how often it did. Then the same command finishes the study, and
`Row` counts runs lost, runs trained twice and numbers that changed.
"""

from __future__ import annotations

import csv
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from malformed import RECIPE

ARMS, SEEDS = (1, 2, 3), (0, 1)
STUDY = f"""\
question: How many?
base: recipe.yaml
axes: {{inner.head.components: {list(ARMS)}}}
baseline: components=2
seeds: {list(SEEDS)}
"""
COMMAND = ("ablate", "study.yaml")
UNLIKE = ("time/", "speed/", "cost/peak_memory", "commit", "device", "folder", "state")
"""Columns of table.csv that two undisturbed studies do not share."""
PACKAGE = str(Path(__file__).parents[1])


@dataclass
class Study:
    """A study in a folder of its own, and what its commands printed.

    Arguments:
        folder: where it lies.
        environment: of its commands, beside this process's own; limits: resource → limit.
        prefix: words before the command, such as those of faketime.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    limits: dict[int, int] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    printed: list[str] = field(default_factory=list)

    @classmethod
    def make(cls, folder: Path, steps: int = 40, **keys: str) -> Study:
        """Write the study's files into a new folder."""
        folder.mkdir(parents=True)
        recipe = RECIPE.replace("steps: 2,", f"steps: {steps},").replace(
            "checkpoint_every: 1", "checkpoint_every: 10"
        )
        (folder / "recipe.yaml").write_text(
            recipe.replace("validate_every: 2", f"validate_every: {steps}")
        )
        (folder / "study.yaml").write_text(STUDY)

        return cls(folder, dict(keys))

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command in a session of its own; its output goes into output.txt."""
        clean = {
            k: v
            for k, v in os.environ.items()
            if k not in ("ARINAR_STORAGE", "MLFLOW_TRACKING_URI", "ARINAR_PARENT")
        }
        fixed = {
            "PYTHONPATH": PACKAGE,
            "ARINAR_TRACKING": "off",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }

        def limit() -> None:
            for kind, value in self.limits.items():
                resource.setrlimit(kind, (value, value))

        with (self.folder / "output.txt").open("w") as output:
            return subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "arinar_lab", *(words or COMMAND)],
                cwd=self.folder,
                env={**clean, **fixed, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                preexec_fn=limit,
            )

    def wait(self, process: subprocess.Popen[str], seconds: float) -> int | None:
        """The exit status, or None where it had to be ended; what it printed is kept."""
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = None
        self.printed.append((self.folder / "output.txt").read_text(errors="replace"))
        return status

    def run(self, *words: str, seconds: float = 300) -> int | None:
        """A command from its start to its end."""
        return self.wait(self.start(*words), seconds)

    def numbers(self) -> dict[tuple[str, str], dict[str, str]]:
        """The columns of table.csv that every undisturbed study has alike, by arm and seed."""
        path = self.folder / "studies" / "study" / "report" / "table.csv"
        if not path.is_file():
            return {}

        with path.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))

        return {
            (row["arm"], row["seed"]): {k: v for k, v in row.items() if not k.startswith(UNLIKE)}
            for row in rows
        }

    def trainings(self) -> list[int]:
        """How often each run was trained to its end."""
        logs = sorted(self.folder.glob("runs/*/seed_*/log.txt"))
        return [log.read_text(errors="replace").count(" done, ") for log in logs]

    @property
    def tracebacks(self) -> int:
        """How many commands and workers printed one."""
        logs = [
            log.read_text(errors="replace") for log in self.folder.glob("studies/*/worker_*.log")
        ]
        return sum("Traceback (most recent call last)" in text for text in (*self.printed, *logs))


@dataclass(frozen=True)
class Row:
    """What a fault cost.

    Arguments:
        fault: its name; repetitions: how often it was done.
        lost: runs that the report lacks; repeated: trained more than once to their end.
        changed: runs with another number.
        tracebacks: commands that printed one; seconds: from the last fault to the report.
    """

    fault: str
    repetitions: int
    lost: int
    repeated: int
    changed: int
    tracebacks: int
    seconds: float

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.repeated or self.changed or self.tracebacks)

    def __str__(self) -> str:
        numbers = (
            self.repetitions,
            self.lost,
            self.repeated,
            self.changed,
            self.tracebacks,
            f"{self.seconds:.0f}",
        )
        return f"| {self.fault} | {' | '.join(map(str, numbers))} |"


HEADING = (
    "| fault | repetitions | lost | repeated | changed | tracebacks | seconds to the report |\n"
    "|:--|--:|--:|--:|--:|--:|--:|"
)


def torture(names: list[str], repetitions: int, seed: int, place: Path) -> Iterator[Row]:
    """Do each fault to a study of its own, finish it, and compare it with an undisturbed one."""
    calm = Study.make(place / "calm")
    begun = time.monotonic()
    if calm.run() != 0:
        sys.exit(f"the undisturbed study failed\n{calm.printed[-1]}")
    duration, expected = time.monotonic() - begun, calm.numbers()

    for name in names:
        study = Study.make(place / name.replace(" ", "_"))
        done = FAULTS[name](study, random.Random(f"{name} {seed}"), repetitions, duration)
        study.environment, study.limits, study.prefix = {}, {}, ()
        begun = time.monotonic()
        study.run(seconds=600)
        yield row_of(name, done, study, expected, time.monotonic() - begun)


def row_of(
    name: str,
    done: int,
    study: Study,
    expected: dict[tuple[str, str], dict[str, str]],
    seconds: float,
) -> Row:
    """Compare a finished study with the undisturbed one."""
    numbers = study.numbers()
    lost = [
        key for key in expected if key not in numbers or not numbers[key].get("val/bits_per_dim")
    ]
    changed = [
        key
        for key in expected
        if key in numbers and key not in lost and numbers[key] != expected[key]
    ]
    repeated = [count for count in study.trainings() if count > 1]

    return Row(name, done, len(lost), len(repeated), len(changed), study.tracebacks, seconds)


def _signalled(
    *numbers: int, window: float | None = None, apart: float = 0.2, to_all: bool = False
) -> Callable[..., int]:
    """A fault that signals the command at random moments of its life, again and again.

    Arguments:
        numbers: signals, sent one after the other; apart: seconds between them.
        window: seconds of the command's life in which it is signalled; None: all of them.
        to_all: whether its workers are signalled, too, as a terminal does.
    """

    def fault(study: Study, chance: random.Random, repetitions: int, duration: float) -> int:
        done = 0
        for _ in range(repetitions):
            process = study.start()
            time.sleep(chance.uniform(0, window or duration))
            for number in numbers:
                if process.poll() is None:
                    targets = [process.pid, *(children_of(process.pid) if to_all else ())]
                    done += number == numbers[0]
                    for target in targets:
                        _send(target, number)
                    time.sleep(apart)
            study.wait(process, 60)
            _wait_for_workers(study)

        return done

    return fault


def _send(process: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, number)


def children_of(process: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    try:
        words = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return []
    return [child for word in words for child in (int(word), *children_of(int(word)))]


def _wait_for_workers(study: Study, seconds: float = 30) -> None:
    """Wait until no process works in the study's folder; workers end with their parent."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(
        _works_in(entry, study.folder) for entry in Path("/proc").glob("[0-9]*")
    ):
        time.sleep(0.2)


def _works_in(entry: Path, folder: Path) -> bool:
    try:
        return (entry / "cwd").resolve(strict=True) == folder.resolve() and entry.name != str(
            os.getpid()
        )
    except OSError:
        return False


def kill_a_worker(study: Study, chance: random.Random, repetitions: int, duration: float) -> int:
    """Kill one process below the command at a random moment; the command replaces it."""
    done, process = 0, study.start()
    while done < repetitions:
        time.sleep(chance.uniform(0.5, max(1.0, duration / 3)))
        if process.poll() is not None:
            study.wait(process, 1)
            break
        if workers := children_of(process.pid):
            _send(chance.choice(workers), signal.SIGKILL)
            done += 1

    if process.poll() is None:
        study.wait(process, 300)

    return done


def harm_a_file(study: Study, chance: random.Random, repetitions: int, duration: float) -> int:
    """Delete, empty, cut or flip a byte of a file of the finished study, and repeat the command."""
    study.run()
    for _ in range(repetitions):
        files = [
            path
            for folder in ("runs", "studies")
            for path in sorted((study.folder / folder).rglob("*"))
        ]
        files = [
            path
            for path in files
            if path.is_file() and path.suffix not in (".log", ".png", ".pdf", ".lock")
        ]

        path, way = chance.choice(files), chance.choice(["delete", "empty", "cut", "flip"])
        before = path.read_bytes()
        if way == "delete":
            path.unlink()
        elif way == "empty":
            path.write_bytes(b"")
        elif way == "cut":
            path.write_bytes(before[: len(before) // 2])
        elif before:
            place = chance.randrange(len(before))
            path.write_bytes(before[:place] + bytes([before[place] ^ 1]) + before[place + 1 :])

        status = study.run()
        if status not in (0, 1, 2) or (
            status and path.is_file()
        ):  # it was named in one line: put it back
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(before)

        last = study.printed[-1].strip()[-160:]
        print(f"  {way} {path.relative_to(study.folder)}: status {status}, {last!r}")

    return repetitions


def delete_the_records(
    study: Study, chance: random.Random, repetitions: int, duration: float
) -> int:
    """Delete what the workers of a study have noted, while they are at work."""
    done = 0
    for _ in range(repetitions):
        process = study.start()
        time.sleep(chance.uniform(duration / 4, duration))
        for path in [*study.folder.rglob("arms.json"), *study.folder.rglob("attempts.json")]:
            path.unlink(missing_ok=True)
            done = done + 1 if path.name == "arms.json" else done
        study.wait(process, 120)
        _wait_for_workers(study)

    return done


def few_handles(study: Study, chance: random.Random, repetitions: int, duration: float) -> int:
    """Allow 64 open files."""
    study.limits = {resource.RLIMIT_NOFILE: 64}
    study.run()
    return 1


def small_files(study: Study, chance: random.Random, repetitions: int, duration: float) -> int:
    """Allow files of 100 kB: the disk's quota is used up in the middle of each larger one."""
    study.limits = {resource.RLIMIT_FSIZE: 100_000}
    study.run()
    return 1


def full_disk(study: Study, chance: random.Random, repetitions: int, duration: float) -> int:
    """Work on a disk that is too small by a random amount, and then has room."""
    with mounted(study.folder, "1m") as resize:
        for _ in range(repetitions):
            resize(f"{chance.randint(200, 4000)}k")
            study.run()
        resize("500m")
        study.run()
        shutil.copytree(study.folder / "runs", study.folder.with_suffix(".runs"))

    shutil.rmtree(study.folder / "runs", ignore_errors=True)
    shutil.move(study.folder.with_suffix(".runs"), study.folder / "runs")

    return repetitions


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A small disk in place of a folder, with its files; gives a function that changes the size."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)

    def resize(to: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={to}", folder], check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def read_only(study: Study, chance: random.Random, repetitions: int, duration: float) -> int:
    """Give the command in a folder that may not be written."""
    study.run()
    subprocess.run(["mount", "--bind", study.folder, study.folder], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", study.folder], check=True)
    try:
        for words in (("status", "study.yaml"), ("report", "study.yaml"), ("ablate", "study.yaml")):
            command = [sys.executable, "-m", "arinar_lab", *words]
            environment = {**os.environ, "PYTHONPATH": PACKAGE, "ARINAR_TRACKING": "off"}
            done = subprocess.run(
                command,
                cwd=study.folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=300,
            )
            study.printed.append(done.stdout + done.stderr)
    finally:
        subprocess.run(["umount", study.folder], check=True)

    return 3


def clock_back(study: Study, chance: random.Random, repetitions: int, duration: float) -> int:
    """Stop the command in the middle, and set the next one's clock back by a day (faketime)."""
    if not shutil.which("faketime"):
        print("  faketime is not installed: on Debian, apt-get install faketime")
        return 0
    _signalled(signal.SIGTERM)(study, chance, 1, duration)
    study.prefix = ("faketime", "-f", "-1d")
    study.run()
    return 1


class _Answers(BaseHTTPRequestHandler):
    """An MLflow server that is none: `manner` says how it answers."""

    manner = "error"

    def do_GET(self) -> None:
        if self.manner == "error":
            self.send_error(500)
            return

        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        for _ in range(100_000):
            self.wfile.write(b" ")
            self.wfile.flush()
            time.sleep(1)

    do_POST = do_PUT = do_PATCH = do_GET

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def _tracked(manner: str) -> Callable[..., int]:
    """A fault whose MLflow server is away, answers with errors, or a byte a second."""

    def fault(study: Study, chance: random.Random, repetitions: int, duration: float) -> int:
        address = "http://127.0.0.1:9"
        with ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Manner", (_Answers,), {"manner": manner})
        ) as server:
            server.daemon_threads = True
            if manner != "away":
                threading.Thread(target=server.serve_forever, daemon=True).start()
                address = f"http://127.0.0.1:{server.server_port}"
            study.environment = {"ARINAR_TRACKING": "on", "MLFLOW_TRACKING_URI": address}
            study.run(seconds=900)
            if manner != "away":
                server.shutdown()

        return 1

    return fault


FAULTS: dict[str, Callable[[Study, random.Random, int, float], int]] = {
    "kill -9 during imports": _signalled(signal.SIGKILL, window=4),
    "kill -9 of the command": _signalled(signal.SIGKILL),
    "kill -9 of a worker": kill_a_worker,
    "SIGTERM": _signalled(signal.SIGTERM),
    "SIGINT": _signalled(signal.SIGINT, to_all=True),
    "SIGINT twice": _signalled(signal.SIGINT, signal.SIGINT, to_all=True),
    "SIGHUP": _signalled(signal.SIGHUP, to_all=True),
    "SIGTERM during imports": _signalled(signal.SIGTERM, window=4),
    "a file deleted, emptied, cut or flipped": harm_a_file,
    "the records deleted under the workers": delete_the_records,
    "64 open files": few_handles,
    "a quota of 100 kB a file": small_files,
    "a full disk": full_disk,
    "a folder that may not be written": read_only,
    "the clock set back by a day": clock_back,
    "MLflow away": _tracked("away"),
    "MLflow answers 500": _tracked("error"),
    "MLflow sends a byte a second": _tracked("slow"),
}


def soak(arms: int, place: Path) -> Iterator[str]:
    """A study of many short runs: what its processes hold, and what it leaves on the disk."""
    study = Study.make(place / "soak", steps=2)
    rates = [1e-3 + number * 1e-6 for number in range(arms)]
    (study.folder / "study.yaml").write_text(
        f"base: recipe.yaml\naxes: {{training.lr: {rates}}}\nseeds: [0]\n"
    )
    begun, process = time.monotonic(), study.start("ablate", "study.yaml", "--workers", "2")
    yield "seconds, runs done, MB of the largest process, open files of the one with the most"
    while process.poll() is None:
        time.sleep(10)
        done = len(list(study.folder.glob("runs/*/seed_0/DONE")))
        pids = [process.pid, *children_of(process.pid)]
        memory, handles = max(map(_memory, pids)), max(map(_handles, pids))
        yield f"{time.monotonic() - begun:.0f}, {done}, {memory:.0f}, {handles}"

    status = study.wait(process, 1)
    size = (
        sum(path.stat().st_size for path in (study.folder / "runs").rglob("*") if path.is_file())
        / 1e6
    )
    yield f"exit status {status}, {study.tracebacks} tracebacks"
    yield f"runs {size:.1f} MB"


def _memory(process: int) -> float:
    """Megabytes that a process holds."""
    try:
        return (
            int(Path(f"/proc/{process}/statm").read_text().split()[1])
            * resource.getpagesize()
            / 1e6
        )
    except OSError:
        return 0.0


def _handles(process: int) -> int:
    """Files that a process has open."""
    try:
        return len(list(Path(f"/proc/{process}/fd").iterdir()))
    except OSError:
        return 0
