"""A finished study, opened in Python: what the notebooks read, and any script may.

    open_study("studies/gmm_k")      → Analysis, of a study's folder or file; of the newest finished
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

from .analysis.analyse import Analysis, analyse
from .config.files import read_overrides
from .config.sections import parse_recipe
from .errors import ConfigError
from .evaluation.trained_model import TrainedModel, open_run
from .files.workspace import Workspace
from .report.tables import plain_table, runs_csv
from .runs.folder import RunFolder
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


def open_study(name: str | Path = "") -> Analysis:
    """Results of the finished runs of a study, and what follows from them.

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

    return analyse(results)


def missing(study: Analysis) -> list[str]:
    """The runs that are not finished, by name."""
    return [f"{arm.name} seed {seed}" for arm, seed in study.results.missing]


def table(study: Analysis) -> pd.DataFrame:
    """The report's table, as text: an arm a row."""
    headings, body = plain_table(study, study.columns)
    return pd.DataFrame(body, columns=headings).set_index("arm")


def runs(study: Analysis) -> pd.DataFrame:
    """The report's table.csv: a row a run, with arm, the axes' values, seed and every metric."""
    return pd.read_csv(
        io.StringIO(runs_csv(study, literal=True)), keep_default_na=False, na_values=[""]
    )


def summaries(study: Analysis) -> pd.DataFrame:
    """A row for each arm and metric: its mean over n seeds, and the half-widths of
    both 95 % intervals.

    `seeds` is training noise, `images` evaluation noise; NaN for one seed, or where
    nothing was measured.
    """
    lines = []
    for arm in study.results.arms:
        for column in study.columns:
            if summary := arm.summary(column.metric):
                half = summary.half if summary.n > 1 else None
                images = arm.evaluation_noise(column.metric)
                lines.append(
                    (arm.name, column.metric, column.heading, summary.mean, half, images, summary.n)
                )

    frame = pd.DataFrame(
        lines, columns=["arm", "metric", "heading", "mean", "seeds", "images", "n"]
    )

    return frame.astype({"seeds": float, "images": float})


def curves(study: Analysis) -> pd.DataFrame:
    """What was logged in training: a row for each arm, seed, step and name, with its value."""
    lines = []
    for arm, seed, _ in study.results.runs:
        history = read_metrics(arm.folders[seed].run / "metrics.csv")
        lines += [(arm.name, seed, *line) for line in history]
    return pd.DataFrame(lines, columns=["arm", "seed", "step", "name", "value"])


def breakdown(study: Analysis, by: str) -> pd.DataFrame:
    """Bits/dim of each arm, the mean over its seeds, split `by` "feature" or "token": an arm a
    row, a place a column.
    """
    means = {}
    for arm in study.results.arms:
        parts = [report.get("diagnosis", {}).get(f"by_{by}") for report in arm.reports.values()]
        if measured := [part for part in parts if part]:
            means[arm.name] = np.mean(measured, 0)
    return pd.DataFrame(means).T.rename_axis(index="arm", columns=by)


def open_runs(study: Analysis, *arms: str) -> dict[str, TrainedModel]:
    """The trained models of some arms (of all, if none is named), each of its first seed
    whose weights are here.

    An arm without such a seed is left out.

    Raises:
        ConfigError: if an arm is unknown, weights are damaged, or none are here.
    """
    results = study.results
    by_name = {arm.name: arm for arm in results.arms}
    if unknown := [name for name in arms if name not in by_name]:
        raise ConfigError(
            f"{unknown[0]!r} is no arm of {results.name}; one of {', '.join(by_name)}"
        )

    models = {}
    workspace = Workspace(results.folder.parents[1])
    for name in arms or by_name:
        arm = by_name[name]
        for seed in arm.reports:
            folder = RunFolder(arm.folders[seed].run)
            if folder.done and folder.weights.is_file():
                recipe = parse_recipe({**arm.settings, "seed": seed}, workspace)
                models[name] = open_run(recipe, folder)
                break
    if not models:
        raise ConfigError(f"{results.name}: no weights of {', '.join(arms) or 'its arms'} are here")
    return models
