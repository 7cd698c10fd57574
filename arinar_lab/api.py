"""A finished study, opened in Python: what the notebooks read, and any script may.

    open_study("studies/gmm_k")      → Results, of a study's folder or file; of the newest finished
                                     study without a name
    table, runs, summaries           → frames: the report's table; a row a run; a row
                                     for each arm and metric
    curves, breakdown                → frames: what was logged in training; bits/dim
                                     by feature or by token
    open_runs(study)                 → arm → Trained: a model that can be asked and sampled

Frames are pandas' (which MLflow brings): they show themselves in a notebook, and group, pivot and
draw in one line. Nothing here trains or writes.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd

from .analysis.results import Results
from .config.recipe import read_overrides
from .errors import ConfigError
from .evaluation.trained_model import TrainedModel, open_run
from .files.workspace import Workspace
from .report.tables import plain_table, runs_csv
from .runs.history import read_metrics
from .study.collect import collect
from .study.plan import read_plan
from .study.status import read_status_file, run_statuses, study_file


def nearest_workspace() -> Workspace:
    """Where commands are run: the nearest folder, here or above, that holds
    `studies/`; else this one.
    """
    here = Path.cwd()
    above = [Workspace(folder) for folder in (here, *here.parents)]
    return next((workspace for workspace in above if workspace.studies.is_dir()), above[0])


def newest(workspace: Workspace) -> Path | None:
    """The folder of the ablation whose report was written last, of those that are finished; None
    where there is none.
    """
    tables = sorted(
        workspace.studies.glob("*/report/table.csv"),
        key=lambda table: table.stat().st_mtime,
        reverse=True,
    )
    for table in tables:
        folder = table.parent.parent
        content = read_status_file(folder / "cells.json")
        if content and all(
            cell.state == "done" for cell in run_statuses(content, workspace=workspace)
        ):
            return folder

    return None


def open_study(name: str | Path = "") -> Results:
    """What the finished cells of a study say.

    Arguments:
        name: a folder `studies/<name>`, or a study's file, from where commands are run; empty for
            the newest finished one.

    Raises:
        ConfigError: if there is no such study, or nothing of it is finished.
    """
    workspace, words = nearest_workspace(), list[str]()
    path = workspace.root / name if name else newest(workspace)
    if path is None:
        raise ConfigError(
            f"{workspace.studies}: holds no finished study; make one, as in make ablation-gmm-k"
        )

    file = path
    if path.suffix != ".yaml":
        workspace = Workspace(path.resolve().parents[1])
        file, words = study_file(path, workspace)

    plan = read_plan(file, read_overrides(words), workspace)
    results = collect(plan)
    if not results.any_report:
        raise ConfigError(
            f"{plan.folder}: nothing of this study is finished; run it first: arinar ablate {file}"
        )

    return results


def missing(results: Results) -> list[str]:
    """The cells that are not finished, by name."""
    every = [(arm.name, seed) for arm in results.plan.arms for seed in results.plan.seeds]
    return [f"{arm} seed {seed}" for arm, seed in every if seed not in results.reports[arm]]


def table(results: Results) -> pd.DataFrame:
    """The report's table, as text: an arm a row."""
    headings, body = plain_table(results, results.columns)
    return pd.DataFrame(body, columns=headings).set_index("arm")


def runs(results: Results) -> pd.DataFrame:
    """The report's table.csv: a row a run, with arm, the axes' values, seed and every metric."""
    return pd.read_csv(
        io.StringIO(runs_csv(results, literal=True)), keep_default_na=False, na_values=[""]
    )


def summaries(results: Results) -> pd.DataFrame:
    """A row for each arm and metric: its mean over n seeds, and the half-widths of
    both 95 % intervals.

    `seeds` is training noise, `images` evaluation noise; NaN where one seed, or no
    measurement, says nothing of it.
    """
    found = []
    for arm in results.plan.arms:
        for column in results.columns:
            if s := results.summary(arm, column.metric):
                seeds, images = (
                    s.half if s.n > 1 else None,
                    results.evaluation_noise(arm, column.metric),
                )
                found.append((arm.name, column.metric, column.heading, s.mean, seeds, images, s.n))

    frame = pd.DataFrame(
        found, columns=["arm", "metric", "heading", "mean", "seeds", "images", "n"]
    )

    return frame.astype({"seeds": float, "images": float})


def curves(results: Results) -> pd.DataFrame:
    """What was logged in training: a row for each arm, seed, step and name, with its value."""
    found = []
    for arm in results.plan.arms:
        for seed in results.reports[arm.name]:
            folder, _ = results.plan.cell(arm, seed)
            found += [(arm.name, seed, *line) for line in read_metrics(folder.path / "metrics.csv")]
    return pd.DataFrame(found, columns=["arm", "seed", "step", "name", "value"])


def breakdown(results: Results, by: str) -> pd.DataFrame:
    """Bits/dim of each arm, the mean over its seeds, split `by` "feature" or "token": an arm a
    row, a place a column.
    """
    found = {}
    for arm in results.plan.arms:
        parts = [
            report.get("diagnosis", {}).get(f"by_{by}")
            for report in results.reports[arm.name].values()
        ]
        if there := [part for part in parts if part]:
            found[arm.name] = np.mean(there, 0)

    return pd.DataFrame(found).T.rename_axis(index="arm", columns=by)


def open_runs(results: Results, *arms: str) -> dict[str, TrainedModel]:
    """The trained models of some arms (of all, if none is named), each of its first seed
    whose weights are here.

    An arm without such a seed is left out.

    Raises:
        ConfigError: if an arm is unknown, weights are damaged, or none are here.
    """
    known = {arm.name: arm for arm in results.plan.arms}
    if unknown := [name for name in arms if name not in known]:
        raise ConfigError(
            f"{unknown[0]!r} is no arm of {results.plan.name}; one of {', '.join(known)}"
        )

    found = {}
    for name in arms or known:
        cells = [results.plan.cell(known[name], seed) for seed in results.reports[name]]
        here = next(
            (
                (recipe, folder)
                for folder, recipe in cells
                if folder.done and folder.weights.is_file()
            ),
            None,
        )
        if here:
            found[name] = open_run(*here)

    if not found:
        raise ConfigError(
            f"{results.plan.name}: no weights of {', '.join(arms) or 'its arms'} are here"
        )

    return found
