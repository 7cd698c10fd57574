"""The notebooks, executed over a study: each becomes one HTML page in `studies/notebooks/`.

They read what is finished and train nothing. Where no study is finished, a small one is made first
(`notebooks/small.yaml`).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from ..api import nearest_workspace, newest, open_study
from ..errors import ConfigError
from ..files.atomic import write_atomically
from ..files.workspace import HERE
from ..study.plan import Plan, read_plan
from ..study.status import save_cells
from ..variables import STUDY

StudyRunner = Callable[[Plan, list[str], int, Console], int]
"""(plan, command of a worker, workers, console) → exit status."""
ATTEMPTS = 2  # of a notebook whose kernel falls silent
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def execute_notebooks(
    name: str,
    console: Console,
    run: StudyRunner,
    source: Path = NOTEBOOKS,
    seconds: int = 300,
) -> int:
    """Execute every notebook; returns 1 where one failed, 130 where the user stopped the small
    study.

    Arguments:
        name: The study, see `api.open_study`; empty for the newest finished one, or a small one
            that is run first.
        run: Runs a study, as `ablate.run_study` does.
        source: The folder of the notebooks.
        seconds: The time limit of a cell.

    Raises:
        ConfigError: if the study cannot be read, or nbclient or nbconvert is not installed.
    """
    try:
        from nbclient import NotebookClient  # noqa: F401
        from nbconvert import HTMLExporter  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"notebooks: {error.name} is not installed: pip install 'arinar_lab[notebooks]'"
        ) from None

    files = sorted(source.glob("*.ipynb"))
    if not files:
        raise ConfigError(
            f"{source}: holds no notebooks; they come with the repository, not with the package"
        )
    if not name and newest(nearest_workspace()) is None:
        status = _make_small(source / "small.yaml", console, run)
        if status:
            return status

    study = open_study(name)
    os.environ[STUDY.name] = name or str(study.results.folder)
    console.print(f"reading {study.results.folder}", soft_wrap=True)

    status = 0
    for file in files:
        page = HERE.studies / "notebooks" / f"{file.stem}.html"
        status = max(status, _execute(file, page, seconds, console))
    return status


def _executed(notebook: Any, seconds: int) -> tuple[str, bool]:
    """Why a notebook failed, empty where it did not; and whether its kernel died or timed out."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    client = NotebookClient(
        notebook,
        timeout=seconds,
        kernel_name="python3",
        resources={"metadata": {"path": str(Path.cwd())}},
        extra_arguments=["--log-level=CRITICAL"],  # it warns of its loopback ports
    )
    try:
        client.execute()
    except CellExecutionError as error:
        return f"{error.ename}: {error.evalue}", False
    except (CellTimeoutError, DeadKernelError) as error:
        return str(error).splitlines()[0], True
    return "", False


def _make_small(file: Path, console: Console, run: StudyRunner) -> int:
    """Run the small study as `arinar ablate` would."""
    console.print("No study is finished here, so a small one is made first: minutes.")
    plan = read_plan(file)
    save_cells(plan, file, [])
    return run(plan, [sys.executable, "-m", "arinar_lab", "work", str(file)], 2, console)


def _execute(file: Path, page: Path, seconds: int, console: Console) -> int:
    """Execute one notebook in its own kernel and write its page; returns 1 where a cell failed,
    which the page shows.

    A new kernel replaces one that does not answer: messages between the two processes are lost at
    times.
    """
    import nbformat
    from nbconvert import HTMLExporter

    begun = time.perf_counter()
    for attempt in range(ATTEMPTS):
        notebook = nbformat.read(file, 4)
        failed, silent = _executed(notebook, seconds)
        if not silent or attempt == ATTEMPTS - 1:
            break
        console.print(f"{file}: {failed}; once more", soft_wrap=True)

    exporter = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(notebook)
    write_atomically(page, body)
    outcome = f"failed: {failed}" if failed else f"{time.perf_counter() - begun:.0f} s"
    console.print(f"{page}  ({outcome})", soft_wrap=True)
    return int(bool(failed))
