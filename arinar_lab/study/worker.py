"""Workers take jobs from an Optuna study until none is left: train → evaluate → DONE.

The run folder and its DONE are the truth; the queue only says who does what. Any number of processes run `work`. SQLite
hands out the same trial twice unless the write lock is taken when a transaction begins, so that is done here. Neither
GridSampler nor BruteForceSampler would do: they repeat arms that are still running, or lose those of a killed worker.

A job is lost when its trial runs and nobody holds the lock of its run folder: the system frees that lock when a process
dies, however it dies. Lost jobs go back into the queue.
"""

from __future__ import annotations

import contextlib
import datetime
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from filelock import BaseFileLock, FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState

from ..run.perform import perform
from .plan import Job, Plan

warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
optuna.logging.set_verbosity(optuna.logging.ERROR)
_CLAIM_SECONDS = 15  # a worker that has taken a trial holds its folder's lock well before this


def storage(path: Path) -> optuna.storages.RDBStorage:
    """Optuna's storage in a SQLite file, safe for several workers."""
    result = optuna.storages.RDBStorage(f"sqlite:///{path.absolute()}", engine_kwargs={"connect_args": {"timeout": 60}})

    @sqlalchemy.event.listens_for(result.engine, "connect")
    def _no_implicit_begin(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(result.engine, "begin")
    def _lock_at_begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    result.engine.dispose()  # drop connections opened before the hooks
    return result


def open_queue(plan: Plan) -> optuna.Study:
    """The study's queue, made if it is not there. One process makes it before the workers start."""
    return optuna.create_study(
        study_name=plan.name,
        storage=storage(plan.folder / "queue.db"),
        load_if_exists=True,
        direction="minimize",
    )


def enqueue(plan: Plan) -> list[Job]:
    """Put every unfinished job into the queue that is not in it, the failed ones again; returns the unfinished jobs."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(plan.folder / ".lock"):
        study = open_queue(plan)
        open_states = (TrialState.WAITING, TrialState.RUNNING)
        queued = {t.user_attrs.get("key") for t in study.get_trials(deepcopy=False, states=open_states)}
        unfinished = [job for job in plan.jobs if not job.done]
        for job in unfinished:
            if job.key not in queued:
                study.enqueue_trial({}, user_attrs={"key": job.key, "arm": job.arm})
    return unfinished


def requeue_lost(study: optuna.Study, jobs: dict[str, Job]) -> None:
    """Fail every running trial whose run folder nobody holds, and enqueue its job again."""
    now = datetime.datetime.now()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        job = jobs.get(trial.user_attrs.get("key", ""))
        claimed = trial.datetime_start and (now - trial.datetime_start).total_seconds() > _CLAIM_SECONDS
        if job and claimed and is_free(job.folder.lock):
            hand_back(study, trial, trial.user_attrs)


def hand_back(study: optuna.Study, trial: FrozenTrial, attributes: dict[str, Any]) -> None:
    """Fail a lost trial, and enqueue its parameters again under these attributes."""
    with contextlib.suppress(Exception):  # another worker may have been quicker
        if study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL):
            study.enqueue_trial(trial.params, user_attrs=attributes)


def is_free(lock: BaseFileLock) -> bool:
    """Whether nobody holds a lock."""
    try:
        with lock.acquire(timeout=0):
            return True
    except Timeout:
        return False


def run_job(job: Job, plan: Plan) -> float:
    """Train and evaluate one run; returns its value of the study's criterion."""
    reports = perform(job.recipes, job.folder, plan.name, job.arm)
    return float(reports[0]["metrics"][plan.criterion])


def work(plan: Plan) -> None:
    """Take jobs until the queue is empty and nobody works on one any more."""
    study, jobs = open_queue(plan), {job.key: job for job in plan.jobs}

    def objective(trial: optuna.Trial) -> float:
        key = trial.user_attrs.get("key")
        if key not in jobs:  # lost the race for the last entry, or the job is no longer in the study's file
            raise optuna.TrialPruned
        print(f"{time.strftime('%T')} {jobs[key].arm} {key}", flush=True)
        return run_job(jobs[key], plan)

    while True:
        requeue_lost(study, jobs)
        states = Counter(trial.state for trial in _of(study, jobs))
        if states[TrialState.WAITING]:
            study.optimize(objective, n_trials=1, catch=(Exception,))
        elif states[TrialState.RUNNING]:
            time.sleep(1)
        else:
            return


def _of(study: optuna.Study, jobs: dict[str, Job]) -> list[FrozenTrial]:
    return [t for t in study.get_trials(deepcopy=False) if t.user_attrs.get("key") in jobs]
