"""How far a study is: `arinar status FILE`, answered from the run folders in a moment.

    done       trained, and every evaluation reported
    running    a worker holds the lock of its run folder (on a server: the server's lock of it)
    waiting    not begun, or trained and to be evaluated
    failed     with its reason, and the last line of its log
    lost       begun, and without a worker: the next one resumes from its last checkpoint

Building every arm of a large study takes seconds, and so does importing torch. The commands that
build a study therefore write its cells into `studies/<name>/cells.json`. This module reads that
file while none of its sources is newer. A damaged file (a report, or the cells of a study) counts
as missing, and is made again.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from rich.live import Live

from ..files.locks import is_lock_free
from ..files.workspace import HERE, Workspace
from ..output.terminal import Terminal
from ..output.text import say
from ..variables import STORAGE

if TYPE_CHECKING:
    from .plan import Job, Plan
    from .worker import ServerBoard

STATES = ("done", "running", "waiting", "failed", "lost")


@dataclass(frozen=True)
class RunStatus:
    """One run of a study.

    Arguments:
        arm, seed, folder: The run.
        state: One of STATES.
        phase, step, steps: Its progress.
        where, since: Its worker, and the time when that began.
        reason, log: The reason of its failure, and the last line of its log.
    """

    arm: str
    seed: int
    folder: str
    state: str
    phase: str = ""
    step: int = 0
    steps: int = 0
    where: str = ""
    since: str = ""
    reason: str = ""
    log: str = ""


def study_file(folder: Path, workspace: Workspace = HERE) -> tuple[Path, list[str]]:
    """The file of the study that owns a folder, and the words that it was run with.

    Raises:
        ConfigError: if the folder is not a study's.
    """
    from ..errors import ConfigError
    from ..runs.folder import read_json

    content = read_json(folder / "cells.json")
    if not content:
        raise ConfigError(
            f"{folder}: not a study's folder; it holds no cells.json. Name the study's file instead"
        )
    return workspace.path(content["file"]), content["words"]


def save_cells(plan: Plan, file: Path, words: list[str]) -> dict[str, Any]:
    """Write the cells of a study to its cells.json, without the storage's address; returns them."""
    from ..config.files import source_files
    from ..runs.folder import write_json

    content = {
        "name": plan.name,
        "file": _from_here(file),
        "sources": list(map(str, source_files(file))),
        "words": words,
        "cells": list(map(_cell, plan.jobs)),
    }
    write_json(plan.folder / "cells.json", content)
    return content


def _cell(job: Job) -> dict[str, Any]:
    """One job as JSON."""
    return {
        "arm": job.arm,
        "seed": job.recipes[0].seed,
        "key": job.key,
        "folder": str(job.folder.path),
        "evaluations": [recipe.evaluation_signature for recipe in job.recipes],
    }


def _from_here(file: Path) -> str:
    """A file's path relative to the working directory, which can then be moved or copied whole."""
    return os.path.relpath(os.path.realpath(file))


def refuse_other_file(folder: Path, file: Path) -> None:
    """Refuse a study whose folder belongs to another file of the same name.

    Raises:
        ConfigError: naming the other file.
    """
    from ..errors import ConfigError

    owner = read_status_file(folder / "cells.json").get("file", "")
    if owner and os.path.exists(owner) and not os.path.samefile(owner, file):
        raise ConfigError(
            f"{file}: {folder} belongs to {owner}, a file of the same name; rename one of the two"
        )


def load_cells(file: Path, words: list[str], root: Path = HERE.studies) -> dict[str, Any] | None:
    """The saved cells of a study; None where one of their source files is newer, or gone."""
    for path in sorted(root.glob("*/cells.json")):
        content = read_status_file(path)
        if (content.get("file"), content.get("words")) == (_from_here(file), words):
            changed = max(map(_changed, content.get("sources", [""])))
            return content if changed < path.stat().st_mtime else None

    return None


def _changed(source: str) -> float:
    """The time when a file was changed; infinity where it is gone."""
    return Path(source).stat().st_mtime if Path(source).is_file() else math.inf


def run_statuses(
    content: dict[str, Any], server: ServerBoard | None = None, workspace: Workspace = HERE
) -> list[RunStatus]:
    """The status of each cell; a server, if one is named, decides which are running."""
    states = _states(server) if server else {}
    return [run_status(cell, states.get(cell["key"]), workspace) for cell in content["cells"]]


def run_status(
    cell: dict[str, Any], server_state: dict[str, Any] | None = None, workspace: Workspace = HERE
) -> RunStatus:
    """The status of one cell of `save_cells`, by its run folder and a server's state of it."""
    path = workspace.root / cell["folder"]
    base = {"arm": cell["arm"], "seed": cell["seed"], "folder": cell["folder"]}
    trained = (path / "DONE").is_file()
    if trained and all(_is_reported(path, signature) for signature in cell["evaluations"]):
        return RunStatus(**base, state="done")

    lines = _lines(path / "log.txt")
    state = server_state or _local_state(path, lines, trained)
    if state["state"] == "failed":
        file = path / "FAILED"
        reason = state.get("reason", "")
        if file.is_file():
            reason = file.read_text(encoding="utf-8").strip()
        return RunStatus(**base, state="failed", reason=reason, log=lines[-1] if lines else "")

    steps = progress(path) if state["state"] in ("running", "lost") else {}
    return RunStatus(**base, **steps, **state)


def _is_reported(path: Path, signature: str) -> bool:
    """Whether the report of an evaluation holds metrics."""
    report = read_status_file(path / "evaluations" / signature / "report.json")
    return bool(report.get("metrics"))


def _local_state(path: Path, lines: list[str], trained: bool) -> dict[str, Any]:
    """The state of a run by its folder and the lines of its log, and where and since when."""
    if _held(path):
        state = "running"
    elif (path / "FAILED").is_file():
        state = "failed"
    else:
        state = "lost" if lines and not trained else "waiting"

    starts = [line for line in lines if ", process " in line]
    if not starts:
        return {"state": state}
    return {"state": state, "since": starts[-1][:19], "where": starts[-1].rpartition(", ")[2]}


def progress(path: Path) -> dict[str, Any]:
    """The progress of a run: phase, step and steps."""
    content = read_status_file(path / "progress.json")
    return {name: content[name] for name in ("phase", "step", "steps") if name in content}


def _held(path: Path) -> bool:
    return (path / ".lock").is_file() and not is_lock_free(FileLock(path / ".lock"))


def _lines(path: Path) -> list[str]:
    """The lines of a file that are not empty; none where the file is missing."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return list(filter(None, text.splitlines()))


def read_status_file(path: Path) -> dict[str, Any]:
    """A JSON file; empty where it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _states(server: ServerBoard) -> dict[str, dict[str, Any]]:
    """A server's state of each begun cell by its key, with its worker or the reason of failure."""
    server.refresh()
    states: dict[str, dict[str, Any]] = {}
    for job in server.jobs:
        record = server.record(job)
        outcome = server.outcome(job)
        if outcome:
            states[job.key] = {"state": "failed", "reason": outcome}
        elif outcome is not None:
            states[job.key] = {"state": "done"}
        elif "since" in record:
            state = "running" if server.is_held(job) else "lost"
            worker = record["attempts"][-1]
            states[job.key] = {"state": state, "where": worker, "since": record["since"]}

    return states


def as_json(name: str, cells: list[RunStatus]) -> str:
    """The study, the number of cells in each state, and every cell, as JSON."""
    count = dict.fromkeys(STATES, 0) | Counter(cell.state for cell in cells)
    content = {"study": name, "states": count, "cells": list(map(asdict, cells))}
    return json.dumps(content, indent=2)


def as_text(name: str, cells: list[RunStatus]) -> str:
    """One line of counts, and a line for each cell that is neither done nor waiting."""
    count = Counter(cell.state for cell in cells)
    counts = ", ".join(f"{count[state]} {state}" for state in STATES if count[state])
    lines = [f"{name}: {len(cells)} runs: {counts}"]
    for cell in cells:
        if cell.state in ("running", "failed", "lost"):
            lines.append(f"{cell.state:<8} {cell.arm} seed {cell.seed}: {_detail(cell)}")
    return "\n".join(lines)


def _detail(cell: RunStatus) -> str:
    if cell.state == "failed":
        return f"{cell.reason}\n         {cell.folder}/log.txt: {cell.log}"
    step = f"{cell.phase} {cell.step} of {cell.steps}" if cell.steps else cell.phase
    worker = f"{cell.where}, since {cell.since}" if cell.since else cell.where
    return ", ".join(filter(None, (step, worker)))


def print_status(
    file: Path, words: list[str], plan: Callable[[], Plan], watch: bool, machine: bool
) -> int:
    """Print the status of a study, see `print_statuses`; `plan` reads its file, where the saved
    cells are out of date.
    """
    content = None if _shared(file) else load_cells(file, words)
    server = None
    if content is None:
        study = plan()
        content = save_cells(study, file, words)
        server = _server(study)
    return print_statuses(content["name"], lambda: _look_patiently(content, server), watch, machine)


def print_statuses(
    name: str, look: Callable[[], list[RunStatus]], watch: bool, machine: bool, seconds: float = 2.0
) -> int:
    """Print the status of cells; returns 1 where one has failed.

    Arguments:
        look: Reads the cells.
        watch: Whether to print until every cell has ended, every few seconds.
        machine: Whether to print JSON.
    """
    cells = look()
    console = Terminal()
    if machine:
        say(as_json(name, cells))
    elif not watch:
        console.print(as_text(name, cells), soft_wrap=True)
    else:
        with Live(as_text(name, cells), console=console, transient=False) as live:
            while any(cell.state in ("running", "waiting", "lost") for cell in cells):
                time.sleep(seconds)
                cells = look()
                live.update(as_text(name, cells))

    return int(any(cell.state == "failed" for cell in cells))


def _server(plan: Plan) -> ServerBoard | None:
    """The study's server; None where its workers share files."""
    from .worker import ServerBoard, server_of

    url = server_of(plan)
    return ServerBoard(plan, url) if url is not None else None


def _look_patiently(content: dict[str, Any], server: ServerBoard | None) -> list[RunStatus]:
    """The same while a server is restarted."""
    if server is None:
        return run_statuses(content)
    from .optuna_storage import retry_while_unavailable

    return retry_while_unavailable(lambda: run_statuses(content, server))


def _shared(file: Path) -> bool:
    """Whether ARINAR_STORAGE, or else the study's file, names a server."""
    from ..config.yaml_reader import read_yaml

    address = STORAGE.read() or read_yaml(file).get("storage", "")
    return str(address).startswith("postgresql")
