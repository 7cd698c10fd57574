"""MLflow as a view of the run folders: study = experiment, arm = parent run, seed = child run.

Written to directly (a local SQLite store by default; the server is only a viewer). No fault of
tracking stops a run, and none makes it wait: a run spends at most `PATIENCE` seconds on MLflow, and
a hundredth of its time. One request waits `TIMEOUT` seconds for each byte, and a call that takes
longer than all of that is left behind in a thread. After a failure tracking is quiet for a while.
What is missing is sent from the run folders when the run is published, or by `arinar sync`; sending
again what is there adds nothing.
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

AFTERWARDS = 10.0  # seconds more, to send what is measured once the run is over
QUIET = 30.0  # seconds without a request after one that failed
MetricRows = list[tuple[int, str, float]]
"""Of a history: step, name, value."""


class Unavailable(Exception):
    """Nothing is asked of MLflow now: it is off, has just failed, or the run has
    waited for it long enough.
    """


class BudgetedClient:
    """An MLflow client whose calls together take no longer than was agreed.

    Arguments:
        patience: seconds for all calls; a hundredth of the time that passes is added to them.

    Raises:
        Quiet: instead of a call, once that is spent, and for `QUIET` seconds
            after a call that failed.
    """

    def __init__(self, patience: float) -> None:
        self.patience, self.spent, self.begun = patience, 0.0, time.monotonic()
        self.quiet_until, self.client = -math.inf, None

    @property
    def left(self) -> float:
        """Seconds that may still be waited."""
        now = time.monotonic()
        return (
            0.0
            if is_off() or now < self.quiet_until
            else self.patience + 0.01 * (now - self.begun) - self.spent
        )

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of what is done inside."""
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
        def call(*words: Any, **options: Any) -> Any:
            return self.within(lambda: getattr(self.client, name)(*words, **options))

        return call

    def within(self, act: Callable[[], _T]) -> _T:
        """Return what a call returns, if that does not take longer than may be waited."""
        with self.waiting():
            return call_within(min(self.left, PATIENCE), act)


class Tracker:
    """Writes the runs of one experiment. Every method returns quietly when MLflow fails.

    Arguments:
        experiment: its name, as a rule the study's or the recipe's.
        patience: seconds that may be waited for MLflow.
    """

    def __init__(self, experiment: str, patience: float = PATIENCE) -> None:
        self.experiment, self.run_id = experiment, ""
        self.warned, self._open = False, ""
        self._client: Any = BudgetedClient(patience)
        self._experiment_id = ""

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except Unavailable:
            pass
        except Exception as error:  # a view may fail in any way; the run goes on
            if not self.warned:
                say(
                    f"MLflow: {conceal_password(str(error), tracking_uri())[:160]} (the run goes"
                    " on; its folder holds everything, and arinar sync sends it)",
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
        """The client, with the experiment made."""
        if not self._experiment_id:
            set_limits()
            with self._alone():
                from mlflow import MlflowClient

                client, local = self._client, tracking_uri().startswith("sqlite")
                client.client = client.within(lambda: MlflowClient(tracking_uri()))
                there = client.get_experiment_by_name(self.experiment)
                place = (
                    (TRACKING_FOLDER / "artifacts" / self.experiment).absolute().as_uri()
                    if local
                    else None
                )
                self._experiment_id = (
                    there.experiment_id
                    if there
                    else client.create_experiment(self.experiment, place)
                )
        yield self._client

    def _get_or_create(
        self, name: str, tags: dict[str, str], extra: dict[str, str]
    ) -> tuple[str, bool]:
        """The id of the run with these tags, and whether it is new."""
        with self._connected() as client, self._alone():
            # names may hold quotes
            key = hashlib.sha256(json.dumps(tags, sort_keys=True).encode()).hexdigest()[:16]
            found = client.search_runs(
                [self._experiment_id], f"tags.`arinar.key` = '{key}'", max_results=1
            )
            if found:
                return found[0].info.run_id, False
            run = client.create_run(
                self._experiment_id, tags={**tags, **extra, "arinar.key": key}, run_name=name
            )

            return run.info.run_id, True

    def start(
        self, recipe: Recipe, arm: str, factors: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Open the run of one seed (below its arm's), made if it is not there;
        factors as for `publish`.
        """
        with self._guard():
            self._start(recipe, arm, factors)

    def _start(
        self,
        recipe: Recipe,
        arm: str,
        factors: Mapping[str, Any],
        git: dict[str, Any] | None = None,
    ) -> None:
        """git: of the code that trains or trained; by default of this one."""
        asked = repr((recipe.training_signature, recipe.seed, arm, dict(factors)))
        if self._open == asked:
            return

        signature, config = (
            recipe.training_signature,
            {**factors, **flatten(to_plain(recipe)), "arm": arm},
        )
        config.pop("seed")
        state = {f"git.{key}": str(value) for key, value in (git or git_state()).items()}
        tags = {"arinar.role": "arm", "arinar.signature": signature, "arinar.arm": arm}
        arm_id, _ = self._get_or_create(arm, tags, state)
        self._parameters(arm_id, config)
        tags |= {"arinar.role": "seed", "arinar.seed": str(recipe.seed)}
        run_id, _ = self._get_or_create(
            f"{arm} seed {recipe.seed}", tags, {**state, "mlflow.parentRunId": arm_id}
        )
        self._parameters(run_id, {**config, "seed": recipe.seed})
        self._client.update_run(run_id, status="RUNNING")
        self.run_id, self._open = run_id, asked

    def _parameters(self, run_id: str, values: dict[str, Any]) -> None:
        """Set the parameters that the run lacks: all of them if it is new, or was cut off
        from the store then.
        """
        from mlflow.entities import Param

        there = self._client.get_run(run_id).data.params
        missing = [Param(key, str(value)) for key, value in values.items() if key not in there]
        for i in range(0, len(missing), 100):
            self._client.log_batch(run_id, params=missing[i : i + 100])

    def log(self, values: dict[str, float], step: int = 0, run_id: str = "") -> None:
        """Metrics of the open run, or of another."""
        with self._guard():
            self._log(
                [(step, name, value) for name, value in values.items()], run_id or self.run_id
            )

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
            factors: what tells the arm from the others, by short names, as parameters
                that charts group by.
            content: of the report, if it is read already.

        Returns:
            whether the store holds now all that the run folder does.
        """
        with self._guard():
            report = folder.evaluation(recipe) / "report.json"
            content = folder.report(recipe) if content is None else content
            self._start(recipe, arm, factors, content.get("git"))
            rows = history(folder.path / "metrics.csv")
            stamp = report_stamp(recipe, folder) or f"{len(rows)} rows"
            if self._client.get_run(self.run_id).data.tags.get("arinar.published") != stamp:
                steps = int(content.get("steps", 0))
                rows += [(steps, name, value) for name, value in content.get("metrics", {}).items()]
                self._log(self._missing(rows), self.run_id)
                for path in (folder.path / "config.yaml", report):
                    if path.is_file():
                        self._client.log_artifact(self.run_id, str(path))
                for path in sorted((report.parent / "samples").glob("*.png")):
                    self._client.log_artifact(self.run_id, str(path), "samples")
                self._client.set_tag(self.run_id, "arinar.published", stamp)

            failed = (folder.path / "FAILED").is_file()
            self._client.set_terminated(
                self.run_id, "FINISHED" if content else "FAILED" if failed else "KILLED"
            )
            self._open = ""

            return True

        return False

    def published(self) -> dict[tuple[str, str, str], set[str]]:
        """(arm, seed, stamp) → names of the parameters, of every run of a seed that
        is there and finished.
        """
        found: dict[tuple[str, str, str], set[str]] = {}
        with self._guard(), self._connected() as client:
            query, page = "tags.`arinar.role` = 'seed' and attributes.status = 'FINISHED'", None
            while page != "":
                runs = client.search_runs(
                    [self._experiment_id], query, max_results=1000, page_token=page
                )
                for tags, params in ((run.data.tags, run.data.params) for run in runs):
                    key = tags["arinar.arm"], tags["arinar.seed"], tags.get("arinar.published", "")
                    found[key] = set(params)
                page = runs.token or ""

        return found

    def _missing(self, rows: MetricRows) -> MetricRows:
        """Those rows of a history that the open run does not have."""

        def key(step: int, name: str, value: float) -> tuple[int, str, float | None]:
            return (
                step,
                name,
                value if math.isfinite(value) and abs(value) < 1e300 else None,
            )  # as MLflow stores infinity

        known = self._client.get_run(self.run_id).data.metrics
        there = {
            key(metric.step, name, metric.value)
            for name in {name for _, name, _ in rows if name in known}
            for metric in self._client.get_metric_history(self.run_id, name)
        }
        return [row for row in rows if key(*row) not in there]

    def fetch(self, recipe: Recipe, folder: RunFolder) -> bool:
        """Bring configuration, report and samples of an evaluation that another machine has
        published; whether it was there.
        """
        with self._guard(), self._connected() as client:
            asked = {"signature": recipe.training_signature, "seed": recipe.seed, "role": "seed"}
            query = " and ".join(
                f"tags.`arinar.{name}` = '{value}'" for name, value in asked.items()
            )
            for run in client.search_runs([self._experiment_id], query):
                if run.data.tags.get("arinar.published", "").startswith(
                    f"{recipe.evaluation_signature} "
                ):
                    self._download(run.info.run_id, folder, folder.evaluation(recipe))
                    return True

        return False

    def _download(self, run_id: str, folder: RunFolder, where: Path) -> None:
        folder.path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.path) as draft:
            there = {item.path for item in self._client.list_artifacts(run_id)}
            for name in sorted(there & {"config.yaml", "report.json", "samples"}):
                self._client.download_artifacts(run_id, name, draft)
            where.mkdir(parents=True, exist_ok=True)
            if not (folder.path / "config.yaml").exists():
                Path(draft, "config.yaml").replace(folder.path / "config.yaml")
            if Path(draft, "samples").is_dir() and not (where / "samples").exists():
                Path(draft, "samples").replace(where / "samples")
            # last: what has a report is whole
            Path(draft, "report.json").replace(where / "report.json")

    def publish_arm(
        self,
        recipe: Recipe,
        arm: str,
        metrics: dict[str, float],
        samples: Path | None = None,
        note: str = "",
    ) -> None:
        """Means over seeds and their intervals, as metrics of the arm's run; a picture of samples;
        and its description.
        """
        with self._guard():
            tags = {
                "arinar.role": "arm",
                "arinar.signature": recipe.training_signature,
                "arinar.arm": arm,
            }
            run_id, _ = self._get_or_create(arm, tags, {})
            there = self._client.get_run(run_id).data.metrics
            self._log(
                [(0, name, value) for name, value in metrics.items() if there.get(name) != value],
                run_id,
            )
            self._client.set_tag(run_id, "mlflow.note.content", note)
            if samples:
                self._client.log_artifact(run_id, str(samples))
            self._client.set_terminated(run_id)

    def publish_study(
        self, files: list[Path], tags: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """The study's table and figures, as artifacts of a run of their own; its note and views, as
        tags of the experiment.
        """
        with self._guard():
            with self._connected() as client:
                for name, value in tags.items():
                    client.set_experiment_tag(self._experiment_id, name, value)
            run_id, _ = self._get_or_create("report", {"arinar.role": "report"}, {})
            for path in files:
                self._client.log_artifact(run_id, str(path))
            self._client.set_terminated(run_id)

    def link(self, view: str = "") -> str:
        """Where the dashboard shows the experiment, among training runs: at the server,
        or at `make mlflow`.
        """
        from .server import experiment_link, server_address

        with self._guard(), self._connected():
            return experiment_link(self._experiment_id, view)
        return server_address()


def report_stamp(recipe: Recipe, folder: RunFolder) -> str:
    """What tells one state of a run's report from another; empty where there is none."""
    report = folder.evaluation(recipe) / "report.json"
    return f"{recipe.evaluation_signature} {report.stat().st_mtime_ns}" if report.is_file() else ""


def note_view(recipe: Recipe, arm: str, folder: RunFolder, experiment: str) -> None:
    """Note in tracking.json under which experiment and arm MLflow shows an
    evaluation of the run.
    """
    file = folder.path / "tracking.json"
    views = read_state(file).get("views", [])
    view = {"experiment": experiment, "arm": arm}
    view |= {name: signature_fields(getattr(recipe, name)) for name in ("sampler", "evaluation")}
    if view not in views:
        write_json(file, {"views": [*views, view]})


def noted_views(recipe: Recipe, folder: RunFolder) -> list[tuple[str, str, Recipe]]:
    """(experiment, arm, recipe) of every evaluation of the run that MLflow shows, or should."""
    plain, found = to_plain(recipe), read_state(folder.path / "tracking.json").get("views", [])
    return [
        (
            v["experiment"],
            v["arm"],
            parse_recipe({**plain, **{k: v[k] for k in ("sampler", "evaluation")}}),
        )
        for v in found
    ]
