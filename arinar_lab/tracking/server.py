"""MLflow's dashboard, opened at the newest study: its arms in a table, best first.

A new browser opens MLflow in its mode for language models, with a table without a metric. So a
study stores two views in its experiment, as the dashboard's own "share" button does, and links
name them:

    arms        the arms, sorted by the study's criterion, with mean, half-width of the
                95 % interval, and n
    charts      every seed's curves and numbers, averaged by arm
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..output.address import conceal_password, without_login
from ..output.text import say
from .connection import PATIENCE, TRACKING_FOLDER, call_within, set_limits, tracking_uri

LOCAL = "http://127.0.0.1:5000"
VIEW = "mlflow.sharedViewState."  # of an experiment's tag, followed by the view's name in a link
REPORTED = "arinar.reported"  # when the study was last reported, in seconds


def server_address(port: int = 5000) -> str:
    """Return the dashboard's address: the user's server without its login, or the local one."""
    uri = without_login(tracking_uri()).rstrip("/")
    return uri if uri.startswith("http") else LOCAL.replace("5000", str(port))


def experiment_link(experiment_id: str, view: str = "", where: str = "") -> str:
    """Return the address of an experiment among training runs, under one of its views."""
    under = f"&viewStateShareKey={view}" if view else ""
    under += "&compareRunsMode=CHART" if view == "charts" else ""
    page = f"{where or server_address()}/#/experiments/{experiment_id}/runs"
    return f"{page}?workflowType=machine_learning{under}"


def experiment_views(
    criterion: str, metrics: Sequence[str], factors: Sequence[str]
) -> dict[str, str]:
    """Return the views of a study, as tags of its experiment.

    Arguments:
        criterion: Metric by which arms are sorted, lower first.
        metrics: Metrics that are shown, each with its interval.
        factors: Parameters by which the arms differ.
    """
    numbers: list[str] = []
    for metric in metrics:
        numbers += [f"metrics.`{metric}`", f"metrics.`{metric}.half95`"]
    parameters = [f"params.`{name}`" for name in factors]
    columns = [*parameters, *numbers, "metrics.`n`"]

    arms = {
        "searchFilter": "tags.`arinar.role` = 'arm'",
        "orderByKey": f"metrics.`{criterion}`",
        "orderByAsc": True,
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": dict.fromkeys(numbers, 140),
        "runListHidden": False,
    }
    charts = {
        "searchFilter": "tags.`arinar.role` = 'seed'",
        "orderByKey": f"metrics.`{criterion}`",
        "orderByAsc": True,
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "param", "groupByData": "arm"}],
        },
    }

    return {f"{VIEW}arms": json.dumps(arms), f"{VIEW}charts": json.dumps(charts)}


def studies() -> list[tuple[str, str]]:
    """List name and id of the experiments that hold a reported study, the newest first.

    Raises:
        ConfigError: if the store does not answer.
    """
    set_limits()
    from mlflow import MlflowClient

    uri = tracking_uri()
    try:
        experiments = call_within(PATIENCE, lambda: MlflowClient(uri).search_experiments())
    except Exception as error:  # of the server, of its database, or of the driver
        reason = conceal_password(str(error), uri)[:160]
        raise ConfigError(f"{without_login(uri)}: {reason}") from None

    reported = [e for e in experiments if REPORTED in e.tags]
    reported.sort(key=lambda e: -float(e.tags[REPORTED]))
    return [(e.name, e.experiment_id) for e in reported]


def welcome(port: int = 5000) -> list[str]:
    """List links to the newest study's views, and to the arms of up to eight older ones."""
    where = server_address(port)
    lines = []
    for name, number in studies()[:9]:
        lines.append(f"{name}, arms:    {experiment_link(number, 'arms', where)}")
        if len(lines) == 1:
            lines.append(f"{name}, charts:  {experiment_link(number, 'charts', where)}")

    empty = f"{where}/#/experiments?workflowType=machine_learning  (no study is reported yet)"
    return lines or [empty]


def refuse_taken(port: int) -> None:
    """Refuse a port of 127.0.0.1 on which this process cannot listen.

    Raises:
        ConfigError: naming the port.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(f"--port: {port}: {error.strerror}; name another one") from None


def serve_mlflow(port: int) -> None:
    """Print what to open, and become MLflow's server where the store is a local one.

    Raises:
        ConfigError: if the port is taken.
    """
    own = dict(os.environ)  # before our limits, which are not the server's
    if not tracking_uri().startswith("http"):
        refuse_taken(port)
    TRACKING_FOLDER.mkdir(exist_ok=True)
    for line in welcome(port):
        say(line)
    if tracking_uri().startswith("http"):
        return
    environment: dict[str, Any] = {
        **own,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # not among the words: it may be a database's, with a password
        "MLFLOW_BACKEND_STORE_URI": tracking_uri(),
    }
    words = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    mlflow = [sys.executable, "-m", "mlflow", "server", *words]
    os.execve(Path(sys.executable), mlflow, environment)
