"""Workers take jobs from an Optuna study until none is left: train → evaluate → DONE.

The run folder and its DONE are the truth; the queue only says who does what. Any number of
processes run `run_worker`, on one machine or on many (`optuna_storage.py`). Neither
GridSampler nor BruteForceSampler would do: they repeat arms that are still running, or lose
those of a killed worker.

    WAITING ─claimed→ RUNNING ─┬→ COMPLETE
                               ├→ FAIL with `failed`, its reason: it is told, and not tried again
                               │       by this command
                               └→ FAIL without a reason: its worker was lost, or asked to end;
                                       the job goes back

A worker is lost when the lock of its run folder is free (on one machine: the system frees it when a
process dies, however it dies), or when its heartbeat stops (on a server). A lost job goes back
three times, then it is set aside as failed.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import platform
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Any

import optuna
import sqlalchemy
from filelock import BaseFileLock, FileLock, Timeout
from optuna.storages._heartbeat import BaseHeartbeat, is_heartbeat_enabled
from optuna.storages._rdb.models import TrialHeartbeatModel
from optuna.trial import FrozenTrial, TrialState

from ..errors import ConfigError
from ..files.atomic import write_atomically
from ..output.text import say
from ..pipeline import run_experiment
from .optuna_storage import (
    FAULTS,
    StorageUnusable,
    open_storage,
    retry_while_unavailable,
    shared_lock,
    storage_address,
)
from .plan import Job, Plan

_CLAIM_SECONDS = 15  # a worker that has taken a trial holds its folder's lock well before this
_RETURNS = 3  # times that a lost job goes back into the queue
_OPEN = (TrialState.WAITING, TrialState.RUNNING)


class WorkersLost(Exception):
    """The workers of a job died, again and again."""


def study_queue_address(plan: Plan) -> sqlalchemy.URL:
    """The address of the study's queue.

    Raises:
        ConfigError: if it is none, or of a database that is not supported.
    """
    return storage_address(plan.storage, plan.folder / "queue.db")


def open_queue(plan: Plan) -> optuna.Study:
    """The study's queue, made if it is not there. One process makes it before the workers start.

    Raises:
        ConfigError: if the trials of a sweep have its name.
    """
    study = optuna.create_study(
        study_name=plan.name,
        storage=open_storage(study_queue_address(plan)),
        load_if_exists=True,
        direction="minimize",
    )

    if "fingerprint" in study.user_attrs or (plan.folder / "trials").is_dir():
        raise ConfigError(
            f"{plan.folder}: holds a sweep of this name; rename the file, or delete what is there"
        )

    return study


def queue_lock(plan: Plan) -> AbstractContextManager[None]:
    """Held while jobs are put into the queue, so that nobody puts one in twice."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    return shared_lock(study_queue_address(plan), f"arinar: {plan.name}", plan.folder / ".lock")


def enqueue(plan: Plan, again: bool = True) -> list[Job]:
    """Put every unfinished job into the queue that is not in it; returns the unfinished jobs.

    On a server, what a machine that shares no files with this one has finished is finished,
    wherever its files are.

    Arguments:
        again: the failed ones, too. A worker that joins adds only what the
            queue has never heard of.
    """
    with queue_lock(plan):
        study, jobs = open_queue(plan), {job.key: job for job in plan.jobs}
        trials = study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state == TrialState.WAITING and trial.user_attrs.get("key") not in jobs:
                study._storage.set_trial_state_values(trial._trial_id, TrialState.PRUNED)

        known = {t.user_attrs.get("key") for t in trials if not again or t.state in _OPEN}
        elsewhere = finished_elsewhere(study, jobs, plan)

        unfinished = [job for job in jobs.values() if not job.done and job.key not in elsewhere]
        for job in unfinished:
            if job.key not in known:
                study.enqueue_trial({}, user_attrs={"key": job.key, "arm": job.arm})

        study.set_user_attr("file", study_signatures(plan))

    return unfinished


def finished_elsewhere(study: optuna.Study, jobs: Mapping[str, Job], plan: Plan) -> set[str]:
    """Keys of the jobs that a machine without our files has finished by a server's queue,
    evaluated as they ask.

    What was finished among our files is not among them: the run folder is the truth, also where
    it was damaged since.
    """
    if not is_heartbeat_enabled(study._storage):
        return set()

    here = (study_folder_name(plan), platform.node())
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    elsewhere = [
        t.user_attrs for t in trials if "key" in t.user_attrs and not _finished_at(t, here)
    ]
    evaluated = {attributes["key"]: attributes.get("evaluations") for attributes in elsewhere}

    return {key for key, job in jobs.items() if evaluated.get(key) == evaluation_signatures(job)}


def _finished_at(trial: FrozenTrial, here: tuple[str, str]) -> bool:
    """Whether a trial was finished in this study's folder, or by this machine."""
    folder, machine = here
    host = str(trial.user_attrs.get("worker", "")).rpartition(" ")[0]
    return trial.user_attrs.get("place") == folder or host == machine


def study_folder_name(plan: Plan) -> str:
    """Return the name of the study's folder among those of all machines; made once, and shared by
    who shares the files.
    """
    file = plan.folder / ".place"
    plan.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(plan.folder / ".place.lock"):
        if not file.is_file():
            write_atomically(file, uuid.uuid4().hex)
        return file.read_text(encoding="utf-8")


def evaluation_signatures(job: Job) -> list[str]:
    """The signatures of what is measured of a job."""
    return sorted(recipe.evaluation_signature for recipe in job.recipes)


def study_signatures(plan: Plan) -> dict[str, Any]:
    """What the study's file asks for: signatures by arm, and the seeds."""
    arms = {
        arm.name: f"{arm.recipe.training_signature}/{arm.recipe.evaluation_signature}"
        for arm in plan.arms
    }
    return {"arms": arms, "seeds": list(plan.seeds)}


def changes(study: optuna.Study, plan: Plan) -> list[str]:
    """How the study's file differs from the one by which the queue was filled last;
    empty where it does not.
    """
    before, now = study.user_attrs.get("file"), study_signatures(plan)
    if not before or before == now:
        return []

    then, arms = before["arms"], now["arms"]
    found = {
        "added": [name for name in arms if name not in then],
        "removed": [name for name in then if name not in arms],
        "edited": [name for name in arms if name in then and arms[name] != then[name]],
    }
    lines = [f"{word}: {', '.join(names)}" for word, names in found.items() if names]
    seeds = f"seeds: {before['seeds']} became {now['seeds']}"

    return [*lines, seeds] if before["seeds"] != now["seeds"] else lines


def ensure_queue_filled(plan: Plan) -> None:
    """Fill the queue where that has not been done, so that a worker may be the first on the study.

    Raises:
        ConfigError: if the storage does not answer.
    """
    if is_queue_empty(plan):
        enqueue(plan, again=False)


def is_queue_empty(plan: Plan) -> bool:
    """Whether nobody has filled the queue: it is new, or was deleted under its workers.

    Raises:
        ConfigError: if the storage does not answer.
    """
    with queue_lock(plan):
        return not open_queue(plan).user_attrs.get("file")


def active_workers(study: optuna.Study, plan: Plan) -> list[str]:
    """Who works on the study at the moment: host and process of each."""
    running, jobs = (
        study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)),
        {job.key: job for job in plan.jobs},
    )
    if not is_heartbeat_enabled(study._storage):  # the dead hold no lock
        running = [
            t
            for t in running
            if (job := jobs.get(t.user_attrs.get("key", ""))) and not is_lock_free(job.folder.lock)
        ]

    return sorted({str(t.user_attrs["worker"]) for t in running if "worker" in t.user_attrs})


def requeue_lost(study: optuna.Study, jobs: dict[str, Job], plan: Plan) -> None:
    """Fail every running trial whose worker is lost, and put its job into the queue again,
    three times at most.
    """
    if is_heartbeat_enabled(study._storage):
        begin_heartbeats(study)
        optuna.storages.fail_stale_trials(study)
    else:
        _fail_unlocked(study, jobs)

    if _returning(study, jobs):
        with queue_lock(plan):  # others may see the same
            for trial in _returning(study, jobs):
                lost = trial.user_attrs.get("lost", 0) + ("handed back" not in trial.user_attrs)
                kept = {name: trial.user_attrs[name] for name in ("key", "arm")}
                study.enqueue_trial({}, user_attrs={**kept, "lost": lost} if lost else kept)

    for trial in _newest(study, jobs):
        job = jobs[trial.user_attrs["key"]]
        if _set_aside(trial) and not job.done and not (job.folder.path / "FAILED").is_file():
            who = trial.user_attrs.get("worker", "unknown")
            job.folder.path.mkdir(parents=True, exist_ok=True)
            job.folder.fail(
                WorkersLost(
                    f"its worker died {_RETURNS + 1} times, the last time as {who}; see log.txt"
                )
            )


def _fail_unlocked(study: optuna.Study, jobs: dict[str, Job]) -> None:
    now = datetime.datetime.now()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        job = jobs.get(trial.user_attrs.get("key", ""))
        age = (now - trial.datetime_start).total_seconds() if trial.datetime_start else 0.0
        claimed = abs(age) > _CLAIM_SECONDS  # the clock may have been set back since
        if job and claimed and is_lock_free(job.folder.claim_name(job.recipes[0]).lock):
            # another worker was quicker
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def is_lock_free(lock: BaseFileLock) -> bool:
    """Whether nobody holds a lock."""
    try:
        with lock.acquire(timeout=0):
            return True
    except Timeout:
        return False


def begin_heartbeats(study: optuna.Study) -> None:
    """A worker may die before its first heartbeat, and Optuna would wait for ever: the
    first one is made for it.
    """
    store: Any = study._storage
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        with store._backend.scoped_session() as session:
            there = TrialHeartbeatModel.where_trial_id(trial._trial_id, session)
        if there is None:
            store.record_heartbeat(trial._trial_id)


def _newest(study: optuna.Study, jobs: dict[str, Job]) -> list[FrozenTrial]:
    """The last trial of each job."""
    trials = {t.user_attrs.get("key"): t for t in study.get_trials(deepcopy=False)}
    return [trial for key, trial in trials.items() if key in jobs]


def _set_aside(trial: FrozenTrial) -> bool:
    silent = trial.state == TrialState.FAIL and not {"failed", "handed back"} & set(
        trial.user_attrs
    )
    return silent and trial.user_attrs.get("lost", 0) >= _RETURNS


def _returning(study: optuna.Study, jobs: dict[str, Job]) -> list[FrozenTrial]:
    """Trials that ended without a reason and have no successor. They are found again, should
    this worker die, too.
    """
    ended = [
        t
        for t in _newest(study, jobs)
        if t.state == TrialState.FAIL and "failed" not in t.user_attrs
    ]
    return [trial for trial in ended if not _set_aside(trial)]


def run_job(job: Job, plan: Plan) -> float:
    """Train and evaluate one run; returns its value of the study's criterion."""
    arm = next(arm for arm in plan.arms if arm.name == job.arm)
    reports = run_experiment(job.recipes, job.folder, plan.name, job.arm, plan.factors(arm))
    return float(reports[0]["metrics"][plan.criterion])


def run_worker(plan: Plan) -> list[str]:
    """Take jobs until the queue is empty and nobody works on one any more; returns what
    failed, with its reason.

    Raises:
        ConfigError: if the queue was filled by another version of the study's file, also
            while this worker runs.
    """
    study, jobs = (
        retry_while_unavailable(lambda: open_queue(plan)),
        {job.key: job for job in plan.jobs},
    )
    with exit_on_sigterm():
        while True:
            if changed := retry_while_unavailable(lambda: changes(study, plan)):
                raise ConfigError(
                    f"{plan.name}: the queue was filled by another version of the study's file"
                    f" ({'; '.join(changed)}); arinar ablate with the file as it shall be, then"
                    " start the workers again"
                )
            if retry_while_unavailable(
                lambda: study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            ):
                _take(study, jobs, plan)
                continue
            # when nothing else waits: it reads the whole queue
            retry_while_unavailable(lambda: requeue_lost(study, jobs, plan))
            newest = retry_while_unavailable(lambda: _newest(study, jobs))
            if not any(trial.state in _OPEN for trial in newest):
                return [
                    f"{t.user_attrs['arm']} {t.user_attrs['key']}: {failure_reason(t)}"
                    for t in newest
                    if t.state == TrialState.FAIL
                ]
            if not any(trial.state == TrialState.WAITING for trial in newest):
                time.sleep(1)


def failure_reason(trial: FrozenTrial) -> str:
    """Why a trial failed."""
    return str(trial.user_attrs.get("failed", "its worker died, again and again; see its log"))


def _take(study: optuna.Study, jobs: dict[str, Job], plan: Plan) -> None:
    """Claim the next job and do it. What goes wrong in it is its reason; being asked
    to end hands it back.
    """
    trial = retry_while_unavailable(study.ask)
    job = jobs.get(trial.user_attrs.get("key", ""))
    if job is None:  # lost the race for the last entry
        return report_trial(study, trial, TrialState.PRUNED)
    say(f"{time.strftime('%T')} {job.arm} {job.key}")
    try:
        with heartbeats(study, trial):
            retry_while_unavailable(
                lambda: trial.set_user_attr("worker", f"{platform.node()} {os.getpid()}")
            )
            value = run_job(job, plan)
            if not math.isfinite(value):
                raise ValueError(f"{plan.criterion} is {value}")
    except StorageUnusable:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
        say(f"{time.strftime('%T')} failed: {said}")
        report_trial(study, trial, TrialState.FAIL, said={"failed": said})
    except BaseException:
        with contextlib.suppress(*FAULTS):  # then it counts as lost
            trial.set_user_attr("handed back", True)
            study.tell(trial, state=TrialState.FAIL)
        raise
    else:
        report_trial(
            study,
            trial,
            TrialState.COMPLETE,
            value,
            {"evaluations": evaluation_signatures(job), "place": study_folder_name(plan)},
        )


def report_trial(
    study: optuna.Study,
    trial: optuna.Trial,
    state: TrialState,
    values: float | list[float] | None = None,
    said: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Tell Optuna, with attributes. Who was silent for too long may have been given up
    already, and is not heard.
    """

    def act() -> None:
        for name, value in said.items():
            trial.set_user_attr(name, value)
        study.tell(trial, values, state, skip_if_finished=True)

    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        retry_while_unavailable(act)


@contextmanager
def heartbeats(study: optuna.Study, trial: optuna.Trial) -> Iterator[None]:
    """Tell a server that this worker lives, also when the server was away in between (Optuna's
    own thread would end).
    """
    store, stop = study._storage, threading.Event()
    if not isinstance(store, BaseHeartbeat) or not is_heartbeat_enabled(store):
        yield
        return
    interval = store.get_heartbeat_interval()

    def beat() -> None:
        while not stop.wait(interval):
            with contextlib.suppress(*FAULTS):
                store.record_heartbeat(trial._trial_id)

    retry_while_unavailable(lambda: store.record_heartbeat(trial._trial_id))
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(1)


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """SIGTERM leaves by an exception, so that the job at hand goes back. (While it trains,
    Lightning saves it first.)
    """

    def leave(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(128 + signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except SystemExit:  # Lightning's has no status
        raise SystemExit(128 + signal.SIGTERM) from None
    finally:
        signal.signal(signal.SIGTERM, before)
