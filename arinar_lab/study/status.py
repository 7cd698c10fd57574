"""How far a study is, at a glance: `arinar status FILE`, answered from the run folders in a moment.

    done       trained, and every evaluation reported
    running    somebody holds the lock of its run folder (on a server: the server's lock of it)
    waiting    not begun, or trained and to be evaluated
    failed     with its reason, and the last line of its log
    lost       begun, and nobody is at it: the next worker goes on from its last checkpoint

Building every arm of a large study takes seconds, and so does importing torch. So the commands that
build a study write its cells into `studies/<name>/cells.json`, and this module reads that as long
as none of the files it came from is newer. What is damaged, be it a report or the cells of a study,
counts as not there: it is made again.
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
    from .plan import Plan
    from .worker import ServerBoard

STATES = ("done", "running", "waiting", "failed", "lost")


@dataclass(frozen=True)
class RunStatus:
    """One run of a study.

    Arguments:
        arm, seed, folder: which one; state: one of STATES.
        phase, step, steps: how far it is; where, since: of its worker.
        reason, log: why it failed, and the last line of its log.
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
    """The file of the study whose folder this is, in its workspace, and the words
    that it was run with.

    Raises:
        ConfigError: if it is no study's folder.
    """
    from ..errors import ConfigError
    from ..runs.folder import read_json

    known = read_json(folder / "cells.json")
    if not known:
        raise ConfigError(
            f"{folder}: not a study's folder; it holds no cells.json. Name the study's file instead"
        )
    return workspace.path(known["file"]), known["words"]


def save_cells(plan: Plan, file: Path, words: list[str]) -> dict[str, Any]:
    """Write the cells of a study where `status` finds them; returns them. The storage's
    address is not among them.
    """
    from ..config.files import source_files
    from ..runs.folder import write_json

    cells = [
        {
            "arm": job.arm,
            "seed": job.recipes[0].seed,
            "key": job.key,
            "folder": str(job.folder.path),
            "evaluations": [recipe.evaluation_signature for recipe in job.recipes],
        }
        for job in plan.jobs
    ]
    content = {
        "name": plan.name,
        "file": _from_here(file),
        "sources": [str(source) for source in source_files(file)],
        "words": words,
        "cells": cells,
    }
    write_json(plan.folder / "cells.json", content)
    return content


def _from_here(file: Path) -> str:
    """A file's path from the folder of work, so that this may be moved or copied
    with all that is in it.
    """
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
    """The cells of a study as they were written last; None where a file that they came
    from is newer, or gone.
    """
    for path in sorted(root.glob("*/cells.json")):
        content = read_status_file(path)
        if (content.get("file"), content.get("words")) == (_from_here(file), words):
            changed = [
                Path(s).stat().st_mtime if Path(s).is_file() else math.inf
                for s in content.get("sources", [""])
            ]
            return content if max(changed) < path.stat().st_mtime else None

    return None


def run_statuses(
    content: dict[str, Any], server: ServerBoard | None = None, workspace: Workspace = HERE
) -> list[RunStatus]:
    """What is known of each cell. A server, if one is named, says who is running."""
    states = _states(server) if server else {}
    return [run_status(cell, states.get(cell["key"]), workspace) for cell in content["cells"]]


def run_status(
    cell: dict[str, Any], said: dict[str, Any] | None = None, workspace: Workspace = HERE
) -> RunStatus:
    """What is known of one cell, given as `save_cells` writes it, by its run folder and
    by what a server says.
    """
    path = workspace.root / cell["folder"]
    reports = [path / "evaluations" / name / "report.json" for name in cell["evaluations"]]
    base = {"arm": cell["arm"], "seed": cell["seed"], "folder": cell["folder"]}

    trained = (path / "DONE").is_file()
    if trained and all(read_status_file(report).get("metrics") for report in reports):
        return RunStatus(**base, state="done")
    lines = _lines(path / "log.txt")
    if said is None:
        begun_and_left = "lost" if lines and not trained else "waiting"
        state = (
            "running"
            if _held(path)
            else "failed"
            if (path / "FAILED").is_file()
            else begun_and_left
        )
        begun = [line for line in lines if ", process " in line]
        said = (
            {"state": state, "since": begun[-1][:19], "where": begun[-1].rpartition(", ")[2]}
            if begun
            else {"state": state}
        )

    if said["state"] == "failed":
        file = path / "FAILED"
        reason = (
            file.read_text(encoding="utf-8").strip() if file.is_file() else said.get("reason", "")
        )
        return RunStatus(**base, state="failed", reason=reason, log=lines[-1] if lines else "")

    return RunStatus(
        **base, **(progress(path) if said["state"] in ("running", "lost") else {}), **said
    )


def progress(path: Path) -> dict[str, Any]:
    """How far a run is: phase, step and steps."""
    now = read_status_file(path / "progress.json")
    return {name: now[name] for name in ("phase", "step", "steps") if name in now}


def _held(path: Path) -> bool:
    return (path / ".lock").is_file() and not is_lock_free(FileLock(path / ".lock"))


def _lines(path: Path) -> list[str]:
    return (
        [line for line in path.read_text(encoding="utf-8").splitlines() if line]
        if path.is_file()
        else []
    )


def read_status_file(path: Path) -> dict[str, Any]:
    """A JSON file; empty where there is none, or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _states(server: ServerBoard) -> dict[str, dict[str, Any]]:
    """What a server says of the cells that were begun: key → state, where and since
    when; or why it failed.
    """
    server.refresh()
    states = {}
    for job in server.jobs:
        record = server.record(job)
        outcome = server.outcome(job)
        if outcome is not None:
            states[job.key] = (
                {"state": "failed", "reason": outcome} if outcome else {"state": "done"}
            )
        elif "since" in record:
            state = "running" if server.is_held(job) else "lost"
            states[job.key] = {
                "state": state,
                "where": record["attempts"][-1],
                "since": record["since"],
            }

    return states


def as_json(name: str, cells: list[RunStatus]) -> str:
    """For machines: the study, how many cells are in each state, and every cell."""
    count = Counter(cell.state for cell in cells)
    told = {"study": name, "states": {state: count[state] for state in STATES}}
    return json.dumps({**told, "cells": [asdict(cell) for cell in cells]}, indent=2)


def as_text(name: str, cells: list[RunStatus]) -> str:
    """For people: one line of counts, and a line for each cell that is not done and not waiting."""
    count = Counter(cell.state for cell in cells)
    first = ", ".join(f"{count[state]} {state}" for state in STATES if count[state])
    told = [cell for cell in cells if cell.state in ("running", "failed", "lost")]
    lines = [f"{cell.state:<8} {cell.arm} seed {cell.seed}: {_detail(cell)}" for cell in told]
    return "\n".join([f"{name}: {len(cells)} runs: {first}", *lines])


def _detail(cell: RunStatus) -> str:
    if cell.state == "failed":
        return f"{cell.reason}\n         {cell.folder}/log.txt: {cell.log}"
    far = f"{cell.phase} {cell.step} of {cell.steps}" if cell.steps else cell.phase
    whose = f"{cell.where}, since {cell.since}" if cell.since else cell.where
    return ", ".join(word for word in (far, whose) if word)


def print_status(
    file: Path, words: list[str], plan: Callable[[], Plan], watch: bool, machine: bool
) -> int:
    """Print the status of a study, see `print_statuses`; `plan` reads its file,
    where that is needed.
    """
    content = None if _shared(file) else load_cells(file, words)
    server = None
    if content is None:
        built = plan()
        content = save_cells(built, file, words)
        server = _server(built)
    return print_statuses(content["name"], lambda: _look_patiently(content, server), watch, machine)


def print_statuses(
    name: str, look: Callable[[], list[RunStatus]], watch: bool, machine: bool, seconds: float = 2.0
) -> int:
    """Print cells, once or until everything has ended; returns 1 where something
    failed. machine: as JSON.
    """
    cells, console = look(), Terminal()
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
    """Whether a server is named: then it is asked. ARINAR_STORAGE comes
    before what the file says.
    """
    from ..config.yaml_reader import read_yaml

    address = STORAGE.read() or read_yaml(file).get("storage", "")
    return str(address).startswith("postgresql")
