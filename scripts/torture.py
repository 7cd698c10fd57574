"""Tries to make the command line fail: malformed inputs by the thousand, and real faults.

    .venv/bin/python scripts/torture.py fuzz [--cases 2500] [--seed 0] [--out fuzz.csv]
    .venv/bin/python scripts/torture.py faults [NAME…] [--repetitions 5]
    .venv/bin/python scripts/torture.py soak [--arms 200]

`fuzz` runs cases of `malformed.py`, each in a fork of this process and in a fresh copy of a small
workspace that holds a finished study. It counts those refused in one line, and prints each other
one: a traceback, several lines, a file written before the refusal, or a command that had not ended
at the time limit. The exit status is 1 where there is any.

`faults` does each fault of `faults.py` to a study of its own, and prints what it cost.
`soak` runs a study of many short runs, and prints what its processes hold.
All take minutes; none is part of the tests.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from faults import FAULTS, HEADING, soak, torture
from malformed import Case, cases, make_workspace

REFUSED, FAILED, ACCEPTED = "refused in one line", "failed in one line", "accepted"
BAD = ("traceback", "several lines", "written before refused", "not ended", "silent")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    verbs = parser.add_subparsers(required=True)
    fuzz_verb = verbs.add_parser("fuzz", help="malformed inputs over all verbs")

    fuzz_verb.add_argument(
        "--cases", type=int, default=2500, metavar="N", help="at most (default 2500)"
    )
    fuzz_verb.add_argument(
        "--seed", type=int, default=0, help="of the choice and the order (default 0)"
    )
    fuzz_verb.add_argument(
        "--workers", type=int, default=2, metavar="N", help="commands side by side (default 2)"
    )
    fuzz_verb.add_argument(
        "--seconds", type=float, default=60, help="limit of a command (default 60)"
    )
    fuzz_verb.add_argument("--verb", help="cases of this verb only")
    fuzz_verb.add_argument(
        "--out", type=Path, default=Path("fuzz.csv"), help="every outcome (default fuzz.csv)"
    )
    fuzz_verb.set_defaults(act=fuzz)
    faults_verb = verbs.add_parser("faults", help="faults that are really done to a study")
    faults_verb.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(FAULTS)} (default: all)"
    )
    faults_verb.add_argument(
        "--repetitions", type=int, default=5, metavar="N", help="of each (default 5)"
    )
    faults_verb.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    faults_verb.set_defaults(act=do_faults)
    soak_verb = verbs.add_parser("soak", help="a study of many short runs")
    soak_verb.add_argument("--arms", type=int, default=200, metavar="N", help="(default 200)")
    soak_verb.set_defaults(act=do_soak)
    arguments = parser.parse_args()
    sys.exit(arguments.act(arguments))


def do_faults(arguments: argparse.Namespace) -> int:
    """Do the faults and print a row of each. Returns 1 where one cost anything."""
    if unknown := [name for name in arguments.names if name not in FAULTS]:
        sys.exit(f"{unknown[0]!r} is no fault; there are: {', '.join(FAULTS)}")
    rows = []
    print(HEADING, flush=True)
    with tempfile.TemporaryDirectory() as place:
        for row in torture(
            arguments.names or list(FAULTS), arguments.repetitions, arguments.seed, Path(place)
        ):
            rows.append(row)
            print(row, flush=True)

    return int(not all(row.is_clean for row in rows))


def do_soak(arguments: argparse.Namespace) -> int:
    """Run the long study and print what it holds."""
    with tempfile.TemporaryDirectory() as place:
        for line in soak(arguments.arms, Path(place)):
            print(line, flush=True)
    return 0


def fuzz(arguments: argparse.Namespace) -> int:
    """Run the cases and print the table. Returns the exit status."""
    out = arguments.out.absolute()
    with tempfile.TemporaryDirectory() as place:
        template = Path(place, "template")
        run = finished_workspace(template)

        chosen = [
            case for case in cases(run, arguments.seed) if arguments.verb in (None, case.verb)
        ][: arguments.cases]
        outcomes = []
        for outcome in run_cases(
            chosen, template, Path(place), arguments.workers, arguments.seconds
        ):
            outcomes.append(outcome)
            if outcome.verdict in BAD:
                print(outcome, flush=True)
            elif len(outcomes) % 250 == 0:
                print(f"{len(outcomes)} of {len(chosen)}", flush=True)

    write_csv(out, outcomes)
    counts = Counter(outcome.verdict for outcome in outcomes)
    verbs = len({outcome.case.verb for outcome in outcomes})
    print(f"\n{len(outcomes)} malformed inputs over {verbs} verbs, every outcome in {out}")
    for verdict, count in counts.most_common():
        print(f"  {count:>6} {verdict}")

    return int(any(counts[verdict] for verdict in BAD))


def finished_workspace(folder: Path) -> str:
    """Make a workspace with a finished study. Returns its first run folder, relative to it."""
    folder.mkdir()
    make_workspace(folder)
    os.environ.update(
        ARINAR_TRACKING="off", OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", MPLBACKEND="Agg"
    )
    for name in ("ARINAR_STORAGE", "MLFLOW_TRACKING_URI", "ARINAR_PARENT"):
        os.environ.pop(name, None)
    import_everything()
    for words in (("train", "recipe.yaml"), ("ablate", "study.yaml", "--workers", "1")):
        child = start(words, folder, folder / ".output")
        if (status := wait(child, 300)) != 0:
            errors = (folder / ".output").read_text()
            sys.exit(f"arinar {' '.join(words)}: exit status {status}\n{errors}")

    (folder / ".output").unlink()
    return str(next((folder / "runs").glob("recipe-*/seed_0")).relative_to(folder))


def import_everything() -> None:
    """Import what the verbs import, so that a fork need not."""
    import torch

    import arinar_lab.cli.ablate
    import arinar_lab.cli.compare
    import arinar_lab.cli.parser
    import arinar_lab.cli.sweep
    import arinar_lab.pipeline  # noqa: F401

    torch.set_num_threads(1)


@dataclass(frozen=True)
class Outcome:
    """What became of a case. errors: what it printed on standard error."""

    case: Case
    verdict: str
    status: int | None
    seconds: float
    errors: str

    def __str__(self) -> str:
        words = " ".join(
            word if len(word) < 80 else f"{word[:60]}… ({len(word)})" for word in self.case.words
        )
        tail = "\n    ".join(self.errors.strip().splitlines()[-4:])
        case = f"[{self.case.kind}, seed {self.case.seed}]"
        return f"{self.verdict}: arinar {words!r} {case}: {self.status}\n    {tail}"


def run_cases(
    chosen: list[Case], template: Path, place: Path, workers: int, seconds: float
) -> Iterator[Outcome]:
    """Run cases side by side, each in a copy of the workspace, and judge each."""
    waiting = list(reversed(chosen))
    running: dict[int, tuple[Case, Path, set[tuple[str, int]], Path, float]] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            case = waiting.pop()
            folder = place / f"case_{len(waiting)}"
            shutil.copytree(template, folder, symlinks=True)
            if case.spoil:
                case.spoil(folder, random.Random(case.seed))
            before = listing(folder)
            output = place / f"output_{len(waiting)}"
            running[start(case.words, folder, output)] = (
                case,
                folder,
                before,
                output,
                time.monotonic(),
            )
        for child, (case, folder, before, output, begun) in list(running.items()):
            status = wait(child, 0.005)
            spent = time.monotonic() - begun
            if status is None and spent < seconds:
                continue
            if status is None:
                kill(child)
            del running[child]
            errors = output.read_text(errors="replace")
            yield Outcome(
                case, judge(status, errors, listing(folder) - before), status, spent, errors
            )
            shutil.rmtree(folder)
            output.unlink()


def judge(status: int | None, errors: str, written: set[tuple[str, int]]) -> str:
    """The verdict on a command that has ended, or was ended at the limit (status None).

    A refusal is one line; lines that name a damaged file may stand before it.
    """
    lines = [line for line in errors.splitlines() if line.strip() and ": damaged" not in line]
    if "Traceback (most recent call last)" in errors or (
        status is not None and status not in (0, 1, 2)
    ):
        return "traceback"
    if status is None:
        return "not ended"
    if status == 0:
        return ACCEPTED
    if status == 2 and written:
        return "written before refused"
    if not errors.strip():
        return "silent" if status == 2 else FAILED
    if len(lines) > 1:
        return "several lines" if status == 2 else FAILED

    return REFUSED if status == 2 else FAILED


def listing(folder: Path) -> set[tuple[str, int]]:
    """Every file below a folder with its time of change, but for locks, which are no results."""
    files = (path for path in folder.rglob("*") if not path.name.endswith("lock"))
    return {
        (str(path.relative_to(folder)), 0 if path.is_dir() else path.lstat().st_mtime_ns)
        for path in files
    }


def start(words: tuple[str, ...], folder: Path, output: Path) -> int:
    """Run a command in a fork, in a folder, standard error to a file. Returns its process id."""
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        os.setsid()
        os.chdir(folder)
        quiet = os.open(os.devnull, os.O_RDWR)
        os.dup2(quiet, 0)
        os.dup2(quiet, 1)
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace")
        from arinar_lab import cli

        cli.main(list(words))
    except SystemExit as leave:
        status = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def wait(child: int, seconds: float) -> int | None:
    """The exit status of a process, or None where it has not ended within some seconds."""
    end = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.01)


def kill(child: int) -> None:
    """End a process and all that it started."""
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)


def write_csv(path: Path, outcomes: list[Outcome]) -> None:
    """Write one row for each case."""
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        table = csv.writer(file)
        table.writerow(
            ("verb", "kind", "words", "seed", "verdict", "status", "seconds", "standard error")
        )
        for outcome in outcomes:
            words = " ".join(word[:200] for word in outcome.case.words)
            row = (outcome.case.verb, outcome.case.kind, words, outcome.case.seed, outcome.verdict)
            table.writerow(
                (*row, outcome.status, f"{outcome.seconds:.2f}", outcome.errors.strip()[-500:])
            )


if __name__ == "__main__":
    main()
