"""A finished study, opened in Python: for notebooks and scripts.

    open_study("studies/gmm_k")      → Analysis, of a study's folder or file; of the newest finished
                                     study without a name
    table, runs, summaries           → frames: the report's table; a row a run; a row
                                     for each arm and metric
    curves, breakdown                → frames: what was logged in training; bits/dim
                                     by feature or by token
    open_runs(study)                 → arm → TrainedModel: its conditionals and samples

Frames are pandas' (which MLflow brings): they show themselves in a notebook, and group, pivot and
draw in one line. Nothing here trains or writes.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd

from .analysis.analyse import Analysis, analyse
from .analysis.conditions import report_values
from .analysis.results import ArmResult
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
    """The workspace of the nearest folder, here or above, with `studies/`; else of this one."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        workspace = Workspace(folder)
        if workspace.studies.is_dir():
            return workspace
    return Workspace(here)


def newest(workspace: Workspace) -> Path | None:
    """The folder of the finished ablation whose report was written last; None if there is none."""
    tables = sorted(workspace.studies.glob("*/report/table.csv"), key=_modified, reverse=True)
    for table in tables:
        folder = table.parent.parent
        if _is_finished(folder, workspace):
            return folder

    return None


def _modified(file: Path) -> float:
    return file.stat().st_mtime


def _is_finished(folder: Path, workspace: Workspace) -> bool:
    """Whether all runs of a study are done."""
    content = read_status_file(folder / "cells.json")
    if not content:
        return False
    return all(run.state == "done" for run in run_statuses(content, workspace=workspace))


def open_study(name: str | Path = "") -> Analysis:
    """The analysis of the finished runs of a study.

    Arguments:
        name: A folder `studies/<name>`, or a study's file, relative to the workspace; empty for
            the newest finished one.

    Raises:
        ConfigError: if there is no such study, or nothing of it is finished.
    """
    workspace = nearest_workspace()
    path = workspace.root / name if name else newest(workspace)
    if path is None:
        raise ConfigError(
            f"{workspace.studies}: holds no finished study; make one, as in make ablation-gmm-k"
        )

    file = path
    words: list[str] = []
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
    return study.results.missing_names


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
    names = ["arm", "metric", "heading", "mean", "seeds", "images", "n"]
    rows = []
    for arm in study.results.arms:
        for column in study.columns:
            metric = column.metric
            if summary := arm.summary(metric):
                half = summary.half if summary.n > 1 else None
                images = arm.evaluation_noise(metric)
                rows.append(
                    (arm.name, metric, column.heading, summary.mean, half, images, summary.n)
                )

    return pd.DataFrame(rows, columns=names).astype({"seeds": float, "images": float})


def curves(study: Analysis) -> pd.DataFrame:
    """The values logged in training: a row for each arm, seed, step and name."""
    rows = []
    for arm, seed, _ in study.results.runs:
        for step, name, value in read_metrics(arm.folders[seed].run / "metrics.csv"):
            rows.append((arm.name, seed, step, name, value))
    return pd.DataFrame(rows, columns=["arm", "seed", "step", "name", "value"])


def breakdown(study: Analysis, by: str) -> pd.DataFrame:
    """Bits/dim of each arm, the mean over its seeds, split `by` "feature" or "token": an arm a
    row, a place a column.
    """
    means = {}
    for arm in study.results.arms:
        rows = report_values(arm.reports.values(), "diagnosis", f"by_{by}")
        if any(rows):
            means[arm.name] = np.mean(list(filter(None, rows)), 0)
    return pd.DataFrame(means).T.rename_axis(index="arm", columns=by)


def open_runs(study: Analysis, *arms: str) -> dict[str, TrainedModel]:
    """Arm → trained model of its first seed whose weights are here, of these arms, or of all.

    An arm without such a seed is left out.

    Raises:
        ConfigError: if an arm is unknown, weights are damaged, or none are here.
    """
    results = study.results
    for name in arms:
        if name not in results.by_name:
            raise ConfigError(
                f"{name!r} is no arm of {results.name}; one of {', '.join(results.by_name)}"
            )

    models = {}
    workspace = Workspace(results.folder.parents[1])
    for name in arms or results.by_name:
        model = _first_model(results.by_name[name], workspace)
        if model is not None:
            models[name] = model
    if not models:
        raise ConfigError(f"{results.name}: no weights of {', '.join(arms) or 'its arms'} are here")
    return models


def _first_model(arm: ArmResult, workspace: Workspace) -> TrainedModel | None:
    """The trained model of an arm's first seed whose weights are here."""
    for seed in arm.reports:
        folder = RunFolder(arm.folders[seed].run)
        if folder.done and folder.weights.is_file():
            recipe = parse_recipe({**arm.settings, "seed": seed}, workspace)
            return open_run(recipe, folder)
    return None
