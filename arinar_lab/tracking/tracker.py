"""MLflow as a view of the run folders: study = experiment, arm = parent run, seed = child run.

The store is written directly (a local SQLite file by default; the server is only a viewer). No
fault of tracking stops a run, and none makes it wait: a run spends at most `PATIENCE` seconds and a
hundredth of its time on MLflow. One request waits `TIMEOUT` seconds for each byte, and a call that
takes longer than the budget is left behind in a thread. After a failure no call is made for `QUIET`
seconds. Missing rows are sent from the run folders when the run is published, or by `arinar sync`;
sending twice adds nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from filelock import FileLock

from ..config.schema import flatten, signature_fields, to_plain
from ..config.sections import Recipe, parse_recipe
from ..output.address import conceal_password
from ..output.text import say
from ..runs.folder import RunFolder, git_state, read_state, write_json
from .connection import _T, PATIENCE, TRACKING_FOLDER, call_within, is_off, set_limits, tracking_uri

AFTERWARDS = 10.0  # seconds more, to send the results of a finished run
QUIET = 30.0  # seconds without a request after one that failed
MetricRows = list[tuple[int, str, float]]
"""Rows of a history: step, name, value."""


class Unavailable(Exception):
    """Raised instead of a call: MLflow is off, has just failed, or the budget is spent."""


class BudgetedClient:
    """An MLflow client whose calls together take at most a budget of time.

    Arguments:
        patience: Seconds for all calls; a hundredth of the elapsed time is added.

    Raises:
        Unavailable: instead of a call, once the budget is spent, and for `QUIET` seconds
            after a call that failed.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.spent = 0.0
        self.begun = time.monotonic()
        self.quiet_until = -math.inf
        self.client = None

    @property
    def left(self) -> float:
        """Seconds that are left of the budget."""
        now = time.monotonic()
        if is_off() or now < self.quiet_until:
            return 0.0
        return self.patience + 0.01 * (now - self.begun) - self.spent

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Charge the time that is spent inside to the budget."""
        if self.left <= 0:
            raise Unavailable

        begun = time.monotonic()
        try:
            yield
        except Exception:
            self.quiet_until = time.monotonic() + QUIET
            raise
        finally:
            self.spent += time.monotonic() - begun

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            return self.within(lambda: getattr(self.client, name)(*arguments, **options))

        return call

    def within(self, act: Callable[[], _T]) -> _T:
        """Return the result of a call, if it comes within the budget."""
        with self.waiting():
            return call_within(min(self.left, PATIENCE), act)


class Tracker:
    """Writes the runs of one experiment. Every method returns quietly when MLflow fails.

    Arguments:
        experiment: Name of the experiment, as a rule the study's or the recipe's.
        patience: Seconds of the budget for MLflow.
    """

    def __init__(self, experiment: str, patience: float = PATIENCE) -> None:
        self.experiment = experiment
        self.run_id = ""
        self.warned = False
        self._open = ""
        self._client: Any = BudgetedClient(patience)
        self._experiment_id = ""

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Suppress any failure of MLflow, and report the first one."""
        try:
            yield
        except Unavailable:
            pass
        except Exception as error:  # a view may fail in any way; the run continues
            if not self.warned:
                reason = conceal_password(str(error), tracking_uri())[:160]
                say(
                    f"MLflow: {reason} (the run goes on; its folder holds everything, and"
                    " arinar sync sends it)"
                )
            self.warned = True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock under which things are made: MLflow's own creation is not
        safe among processes.
        """
        TRACKING_FOLDER.mkdir(exist_ok=True)
        lock = FileLock(TRACKING_FOLDER / ".lock")
        with self._client.waiting():
            lock.acquire(timeout=min(self._client.left, 3600))
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """Yield the client, once the experiment exists."""
        if not self._experiment_id:
            set_limits()
            with self._alone():
                from mlflow import MlflowClient

                client, local = self._client, tracking_uri().startswith("sqlite")
                client.client = client.within(lambda: MlflowClient(tracking_uri()))
                existing = client.get_experiment_by_name(self.experiment)
                place = (
                    (TRACKING_FOLDER / "artifacts" / self.experiment).absolute().as_uri()
                    if local
                    else None
                )
                self._experiment_id = (
                    existing.experiment_id
                    if existing
                    else client.create_experiment(self.experiment, place)
                )
        yield self._client

    def _get_or_create(
        self, name: str, tags: dict[str, str], extra: dict[str, str]
    ) -> tuple[str, bool]:
        """Return the id of the run with these tags, and whether it is new."""
        # a hash, since names may hold quotes
        key = hashlib.sha256(json.dumps(tags, sort_keys=True).encode()).hexdigest()[:16]
        query = f"tags.`arinar.key` = '{key}'"

        with self._connected() as client, self._alone():
            runs = client.search_runs([self._experiment_id], query, max_results=1)
            if runs:
                return runs[0].info.run_id, False
            tags = {**tags, **extra, "arinar.key": key}
            run = client.create_run(self._experiment_id, tags=tags, run_name=name)
            return run.info.run_id, True

    def start(
        self, recipe: Recipe, arm: str, factors: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Open or create the run of one seed, below its arm's; factors as for `publish`."""
        with self._guard():
            self._start(recipe, arm, factors)

    def _start(
        self,
        recipe: Recipe,
        arm: str,
        factors: Mapping[str, Any],
        git: dict[str, Any] | None = None,
    ) -> None:
        """Open the run of one seed. git: state of the code that trained it; None is this code."""
        identity = repr((recipe.training_signature, recipe.seed, arm, dict(factors)))
        if self._open == identity:
            return

        config = {**factors, **flatten(to_plain(recipe)), "arm": arm}
        config.pop("seed")
        state = {f"git.{key}": str(value) for key, value in (git or git_state()).items()}
        tags = _arm_tags(recipe, arm)

        arm_id, _ = self._get_or_create(arm, tags, state)
        self._add_parameters(arm_id, config)
        tags |= {"arinar.role": "seed", "arinar.seed": str(recipe.seed)}
        state["mlflow.parentRunId"] = arm_id
        run_id, _ = self._get_or_create(f"{arm} seed {recipe.seed}", tags, state)
        self._add_parameters(run_id, {**config, "seed": recipe.seed})

        self._client.update_run(run_id, status="RUNNING")
        self.run_id = run_id
        self._open = identity

    def _add_parameters(self, run_id: str, values: dict[str, Any]) -> None:
        """Set the parameters that the run lacks: all of a new one, or those that a cut lost."""
        from mlflow.entities import Param

        stored = self._client.get_run(run_id).data.params
        missing = [Param(key, str(value)) for key, value in values.items() if key not in stored]
        for i in range(0, len(missing), 100):
            self._client.log_batch(run_id, params=missing[i : i + 100])

    def log(self, values: dict[str, float], step: int = 0, run_id: str = "") -> None:
        """Send metrics of the open run, or of the run with that id."""
        with self._guard():
            self._log([(step, *item) for item in values.items()], run_id or self.run_id)

    def _log(self, rows: MetricRows, run_id: str) -> None:
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
        history: Callable[[Path], MetricRows],
        factors: Mapping[str, Any] = MappingProxyType({}),
        content: Mapping[str, Any] | None = None,
    ) -> bool:
        """Send a run's history, and its evaluation once for each state of its report.

        Arguments:
            recipe: The run's recipe.
            arm: Name of its arm.
            folder: Its folder.
            history: Reads the rows of a metrics.csv.
            factors: Values by which the arm differs, as parameters that charts group by.
            content: Content of the report; None reads it.

        Returns:
            whether the store now holds all results of the run folder.
        """
        with self._guard():
            report = folder.evaluation(recipe) / "report.json"
            content = folder.report(recipe) if content is None else content
            self._start(recipe, arm, factors, content.get("git"))
            rows = history(folder.path / "metrics.csv")
            stamp = report_stamp(recipe, folder) or f"{len(rows)} rows"
            if self._client.get_run(self.run_id).data.tags.get("arinar.published") != stamp:
                steps = int(content.get("steps", 0))
                rows += [(steps, *item) for item in content.get("metrics", {}).items()]
                self._log(self._missing(rows), self.run_id)
                self._log_artifacts(folder, report)
                self._client.set_tag(self.run_id, "arinar.published", stamp)

            failed = (folder.path / "FAILED").is_file()
            self._client.set_terminated(
                self.run_id, "FINISHED" if content else "FAILED" if failed else "KILLED"
            )
            self._open = ""

            return True

        return False

    def _log_artifacts(self, folder: RunFolder, report: Path) -> None:
        """Send configuration, bits/dim of images, report and pictures of samples, as far as they
        exist.
        """
        for path in (folder.path / "config.yaml", report.with_name("bits.npz"), report):
            if path.is_file():
                self._client.log_artifact(self.run_id, str(path))
        for path in sorted((report.parent / "samples").glob("*.png")):
            self._client.log_artifact(self.run_id, str(path), "samples")

    def published(self) -> dict[tuple[str, str, str], set[str]]:
        """Return the parameters' names of every finished run of a seed, by (arm, seed, stamp)."""
        parameters: dict[tuple[str, str, str], set[str]] = {}
        query = "tags.`arinar.role` = 'seed' and attributes.status = 'FINISHED'"
        page = None

        with self._guard(), self._connected() as client:
            while page != "":
                runs = client.search_runs(
                    [self._experiment_id], query, max_results=1000, page_token=page
                )
                for run in runs:
                    tags = run.data.tags
                    key = tags["arinar.arm"], tags["arinar.seed"], tags.get("arinar.published", "")
                    parameters[key] = set(run.data.params)
                page = runs.token or ""

        return parameters

    def _missing(self, rows: MetricRows) -> MetricRows:
        """Return the rows of a history that the open run lacks."""
        stored = set()
        names = {name for _, name, _ in rows}
        for name in names.intersection(self._client.get_run(self.run_id).data.metrics):
            for metric in self._client.get_metric_history(self.run_id, name):
                stored.add(_row_key(metric.step, name, metric.value))
        return [row for row in rows if _row_key(*row) not in stored]

    def fetch(self, recipe: Recipe, folder: RunFolder) -> bool:
        """Download an evaluation that another machine has published; return whether it exists."""
        query = (
            f"tags.`arinar.signature` = '{recipe.training_signature}'"
            f" and tags.`arinar.seed` = '{recipe.seed}' and tags.`arinar.role` = 'seed'"
        )
        with self._guard(), self._connected() as client:
            for run in client.search_runs([self._experiment_id], query):
                stamp = run.data.tags.get("arinar.published", "")
                if stamp.startswith(f"{recipe.evaluation_signature} "):
                    self._download(run.info.run_id, folder, folder.evaluation(recipe))
                    return True

        return False

    def _download(self, run_id: str, folder: RunFolder, evaluation: Path) -> None:
        """Move configuration, samples, bits/dim of images and report of a published run into its
        folder.
        """
        folder.path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.path) as draft:
            artifacts = [item.path for item in self._client.list_artifacts(run_id)]
            for name in ("config.yaml", "bits.npz", "report.json", "samples"):
                if name in artifacts:
                    self._client.download_artifacts(run_id, name, draft)

            evaluation.mkdir(parents=True, exist_ok=True)
            if not (folder.path / "config.yaml").exists():
                Path(draft, "config.yaml").replace(folder.path / "config.yaml")
            if Path(draft, "samples").is_dir() and not (evaluation / "samples").exists():
                Path(draft, "samples").replace(evaluation / "samples")
            if Path(draft, "bits.npz").is_file():
                Path(draft, "bits.npz").replace(evaluation / "bits.npz")
            # the report is last: an evaluation that has one is complete
            Path(draft, "report.json").replace(evaluation / "report.json")

    def publish_arm(
        self,
        recipe: Recipe,
        arm: str,
        metrics: dict[str, float],
        samples: Path | None = None,
        note: str = "",
    ) -> None:
        """Send an arm's means over seeds and their intervals, a picture of samples, and a note."""
        with self._guard():
            run_id, _ = self._get_or_create(arm, _arm_tags(recipe, arm), {})
            stored = self._client.get_run(run_id).data.metrics
            rows = [(0, *item) for item in metrics.items() if item not in stored.items()]
            self._log(rows, run_id)

            self._client.set_tag(run_id, "mlflow.note.content", note)
            if samples:
                self._client.log_artifact(run_id, str(samples))
            self._client.set_terminated(run_id)

    def publish_study(
        self, files: list[Path], tags: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Send the study's files as artifacts of a run, and its views as the experiment's tags."""
        with self._guard():
            with self._connected() as client:
                for name, value in tags.items():
                    client.set_experiment_tag(self._experiment_id, name, value)
            run_id, _ = self._get_or_create("report", {"arinar.role": "report"}, {})
            for path in files:
                self._client.log_artifact(run_id, str(path))
            self._client.set_terminated(run_id)

    def link(self, view: str = "") -> str:
        """Return the address of the experiment at the server, or at `make mlflow`."""
        from .server import experiment_link, server_address

        with self._guard(), self._connected():
            return experiment_link(self._experiment_id, view)
        return server_address()


def _arm_tags(recipe: Recipe, arm: str) -> dict[str, str]:
    """Return the tags by which the run of an arm is searched."""
    signature = recipe.training_signature
    return {"arinar.role": "arm", "arinar.signature": signature, "arinar.arm": arm}


def _row_key(step: int, name: str, value: float) -> tuple[int, str, float | None]:
    """Return a row with None for a value that MLflow clips as infinite."""
    return (step, name, value if math.isfinite(value) and abs(value) < 1e300 else None)


def report_stamp(recipe: Recipe, folder: RunFolder) -> str:
    """Identify the state of a run's report; empty where there is none."""
    report = folder.evaluation(recipe) / "report.json"
    return f"{recipe.evaluation_signature} {report.stat().st_mtime_ns}" if report.is_file() else ""


def note_view(recipe: Recipe, arm: str, folder: RunFolder, experiment: str) -> None:
    """Note in tracking.json the experiment and arm under which MLflow shows an evaluation."""
    file = folder.path / "tracking.json"
    views = read_state(file).get("views", [])
    view = {"experiment": experiment, "arm": arm}
    view |= {name: signature_fields(getattr(recipe, name)) for name in ("sampler", "evaluation")}
    if view not in views:
        write_json(file, {"views": [*views, view]})


def noted_views(recipe: Recipe, folder: RunFolder) -> list[tuple[str, str, Recipe]]:
    """List (experiment, arm, recipe) of each evaluation of the run that MLflow is to show."""
    plain = to_plain(recipe)
    views = []
    for view in read_state(folder.path / "tracking.json").get("views", []):
        settings = {"sampler": view["sampler"], "evaluation": view["evaluation"]}
        views.append((view["experiment"], view["arm"], parse_recipe({**plain, **settings})))
    return views
