"""MLflow as a view of the run folders: study = experiment, arm = parent run, seed = child run.

Written to directly (a local SQLite store by default; the server is only a viewer). No fault of tracking stops a run: the
first is told, the rest are silent, and what is missing can be sent again from the run folders.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from .config import Recipe
from .folder import RunFolder, git_state, read_json
from .schema import flatten, resolved

ROOT = Path("tracking")
_UNITS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or a SQLite file in tracking/."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{ROOT.absolute()}/mlflow.db"


class Tracker:
    """Writes the runs of one experiment. Every method returns quietly when MLflow fails.

    Arguments:
        experiment: its name, as a rule the study's or the recipe's.
    """

    def __init__(self, experiment: str) -> None:
        self.experiment, self.run_id = experiment, ""
        self.warned = False
        self._client: Any = None
        self._experiment_id = ""

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a view may fail in any way; the run goes on
            if not self.warned:
                print(
                    f"MLflow: {' '.join(str(error).split())[:160]} (the run goes on; its folder holds everything)",
                    flush=True,
                )
            self.warned = True

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """The client, with the experiment made under a lock: MLflow's own creation is not safe among processes."""
        if self._client is None:
            os.environ.update({name: os.environ.get(name, value) for name, value in _UNITS.items()})
            ROOT.mkdir(exist_ok=True)
            with FileLock(ROOT / ".lock"):
                from mlflow import MlflowClient

                for name in ("mlflow", "alembic"):
                    logging.getLogger(name).setLevel(logging.WARNING)
                client = MlflowClient(tracking_uri())
                there = client.get_experiment_by_name(self.experiment)
                local = tracking_uri().startswith("sqlite")
                place = (ROOT / "artifacts" / self.experiment).absolute().as_uri() if local else None
                self._experiment_id = there.experiment_id if there else client.create_experiment(self.experiment, place)
                self._client = client
        yield self._client

    def _get_or_create(self, name: str, tags: dict[str, str], extra: dict[str, str]) -> tuple[str, bool]:
        """The id of the run with these tags, and whether it is new."""
        with self._connected() as client, FileLock(ROOT / ".lock"):
            key = hashlib.sha256(json.dumps(tags, sort_keys=True).encode()).hexdigest()[:16]  # names may hold quotes
            found = client.search_runs([self._experiment_id], f"tags.`arinar.key` = '{key}'", max_results=1)
            if found:
                return found[0].info.run_id, False
            run = client.create_run(self._experiment_id, tags={**tags, **extra, "arinar.key": key}, run_name=name)
            return run.info.run_id, True

    def start(self, recipe: Recipe, arm: str, parent: bool = True) -> None:
        """Open the run of one seed (below its arm's), made if it is not there."""
        with self._guard():
            signature, config = recipe.training_signature, flatten(resolved(recipe))
            config.pop("seed")
            state = {f"git.{key}": str(value) for key, value in git_state().items()}
            arm_tags = {"arinar.role": "arm", "arinar.signature": signature, "arinar.arm": arm}
            above = {}
            if parent:
                arm_id, new = self._get_or_create(arm, arm_tags, state)
                above = {"mlflow.parentRunId": arm_id}
                if new:
                    self._parameters(arm_id, config)
            tags = {
                "arinar.role": "seed",
                "arinar.signature": signature,
                "arinar.arm": arm,
                "arinar.seed": str(recipe.seed),
            }
            self.run_id, new = self._get_or_create(f"{arm} seed {recipe.seed}", tags, {**state, **above})
            if new:
                self._parameters(self.run_id, {**config, "seed": recipe.seed})
            self._client.update_run(self.run_id, status="RUNNING")

    def _parameters(self, run_id: str, values: dict[str, Any]) -> None:
        from mlflow.entities import Param

        self._client.log_batch(run_id, params=[Param(key, str(value)) for key, value in values.items()])

    def log(self, values: dict[str, float], step: int = 0, run_id: str = "") -> None:
        """Metrics of the open run, or of another."""
        self._log([(step, name, value) for name, value in values.items()], run_id or self.run_id)

    def _log(self, rows: list[tuple[int, str, float]], run_id: str) -> None:
        with self._guard():
            if run_id and rows:
                from mlflow.entities import Metric

                now = int(time.time() * 1000)
                metrics = [Metric(name, value, now, step) for step, name, value in rows]
                with self._connected() as client:
                    for i in range(0, len(metrics), 1000):
                        client.log_batch(run_id, metrics=metrics[i : i + 1000])

    def finish(self, status: str = "FINISHED") -> None:
        """Close the open run: FINISHED, FAILED or KILLED."""
        with self._guard():
            if self.run_id:
                self._client.set_terminated(self.run_id, status)

    def publish(
        self,
        recipe: Recipe,
        arm: str,
        folder: RunFolder,
        history: Callable[[Path], list[tuple[int, str, float]]],
    ) -> None:
        """Send a finished run's evaluation, once for each state of its report; its history too if the run is new here."""
        with self._guard():
            report = folder.evaluation(recipe) / "report.json"
            content = read_json(report)
            self.start(recipe, arm)
            if not self.run_id or not content:
                return
            run = self._client.get_run(self.run_id)
            stamp = f"{recipe.evaluation_signature} {report.stat().st_mtime_ns}"
            if run.data.tags.get("arinar.published") != stamp:
                self._log(self._missing(history(folder.path / "metrics.csv")), self.run_id)
                self.log(content["metrics"], int(content["steps"]))
                for path in (folder.path / "config.yaml", report):
                    self._client.log_artifact(self.run_id, str(path))
                for path in sorted((report.parent / "samples").glob("*.png")):
                    self._client.log_artifact(self.run_id, str(path), "samples")
                self._client.set_tag(self.run_id, "arinar.published", stamp)
            self.finish()

    def _missing(self, rows: list[tuple[int, str, float]]) -> list[tuple[int, str, float]]:
        """Those rows of a history that the open run does not have."""
        there = {
            (metric.step, name)
            for name in {name for _, name, _ in rows}
            for metric in self._client.get_metric_history(self.run_id, name)
        }
        return [row for row in rows if (row[0], row[1]) not in there]

    def publish_arm(self, recipe: Recipe, arm: str, metrics: dict[str, float]) -> None:
        """Means over seeds, as metrics of the arm's run."""
        with self._guard():
            tags = {"arinar.role": "arm", "arinar.signature": recipe.training_signature, "arinar.arm": arm}
            run_id, _ = self._get_or_create(arm, tags, {})
            self.log(metrics, run_id=run_id)
            self._client.set_terminated(run_id)

    def publish_study(self, files: list[Path]) -> None:
        """The study's table and figures, as artifacts of a run of their own."""
        with self._guard():
            run_id, _ = self._get_or_create("report", {"arinar.role": "report"}, {})
            for path in files:
                self._client.log_artifact(run_id, str(path))
            self._client.set_terminated(run_id)

    def link(self, local: str = "http://127.0.0.1:5000") -> str:
        """Where the dashboard shows the experiment, in its view for training runs: at the server, or at `make mlflow`."""
        host = tracking_uri().rstrip("/") if tracking_uri().startswith("http") else local
        with self._guard(), self._connected():
            return f"{host}/#/experiments/{self._experiment_id}?workflowType=machine_learning"
        return host
