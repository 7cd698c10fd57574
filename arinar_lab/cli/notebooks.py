"""The notebooks, executed over a study: each becomes one HTML page in `studies/notebooks/`.

They read what is finished and train nothing. Where no study is finished, a small one is made first
(`notebooks/small.yaml`).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from ..api import nearest_workspace, newest, open_study
from ..errors import ConfigError
from ..files.atomic import write_atomically
from ..files.workspace import HERE
from ..study.plan import read_plan
from ..study.status import save_cells
from ..variables import STUDY
from .ablate import run_study

ATTEMPTS = 2  # of a notebook whose kernel falls silent
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def execute_notebooks(
    name: str, console: Console, source: Path = NOTEBOOKS, seconds: int = 300
) -> int:
    """Execute every notebook; returns 1 where one failed, 130 where the user
    stopped the small study.

    Arguments:
        name: the study, see `api.open_study`; empty for the newest finished one, or a small
            one that is made first.
        source: folder of the notebooks; seconds: that a cell may take.

    Raises:
        ConfigError: if the study cannot be read, or what executes notebooks is not installed.
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
    if (
        not name
        and newest(nearest_workspace()) is None
        and (status := _make_small(source / "small.yaml", console))
    ):
        return status

    study = open_study(name)
    os.environ[STUDY.name] = name or str(study.results.folder)
    console.print(f"reading {study.results.folder}", soft_wrap=True)

    return max(
        _execute(file, HERE.studies / "notebooks" / f"{file.stem}.html", seconds, console)
        for file in files
    )


def _executed(notebook: Any, seconds: int) -> tuple[str, bool]:
    """Why a notebook failed, empty where it did not; and whether its kernel died or was
    silent for that long.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    # it warns of its loopback ports
    where, quiet = {"metadata": {"path": str(Path.cwd())}}, ["--log-level=CRITICAL"]
    client = NotebookClient(
        notebook, timeout=seconds, kernel_name="python3", resources=where, extra_arguments=quiet
    )
    try:
        client.execute()
    except CellExecutionError as error:
        return f"{error.ename}: {error.evalue}", False
    except (CellTimeoutError, DeadKernelError) as error:
        return str(error).splitlines()[0], True
    return "", False


def _make_small(file: Path, console: Console) -> int:
    """Run the small study as `arinar ablate` would."""
    console.print("No study is finished here, so a small one is made first: minutes.")
    plan = read_plan(file)
    save_cells(plan, file, [])
    return run_study(plan, [sys.executable, "-m", "arinar_lab", "work", str(file)], 2, console)


def _execute(file: Path, page: Path, seconds: int, console: Console) -> int:
    """One notebook in a kernel of its own, as a page; where a cell fails, the page shows
    it and 1 is returned.

    A kernel that does not answer any more is given up, and another one begins anew: messages
    between the two are lost at times.
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
    body, _ = HTMLExporter(
        exclude_input_prompt=True, exclude_output_prompt=True
    ).from_notebook_node(notebook)
    write_atomically(page, body)
    said = f"failed: {failed}" if failed else f"{time.perf_counter() - begun:.0f} s"
    console.print(f"{page}  ({said})", soft_wrap=True)
    return int(bool(failed))
