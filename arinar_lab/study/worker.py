"""A worker goes through the jobs of a study in order, until each is done or has failed.

    done or failed?     the next job
    lock held?          another worker has the job; try again later
    otherwise           lock → count the attempt → train and evaluate → unlock

Any number of processes run `run_worker`. The lock is that of the run folder, which the system frees
when its holder dies. The run folder's attempts.json names the worker of the job, and those that
died during it; it is deleted when the job is done or has failed. After four deaths a job counts as
failed. The next `arinar ablate` tries failed jobs (FAILED) again, and no worker does before.

Machines that share no files share a PostgreSQL server, see `ServerBoard`.
"""

from __future__ import annotations

import math
import os
import platform
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

import optuna
import sqlalchemy
from filelock import FileLock, Timeout

from ..errors import ConfigError, StorageUnusable
from ..files.atomic import write_atomically
from ..files.locks import is_lock_free
from ..output.text import say
from ..pipeline import perform_locked
from ..runs.folder import read_state, write_json
from .optuna_storage import (
    FAULTS,
    AbandonedLocks,
    free_locks,
    is_shared,
    open_storage,
    retry_while_unavailable,
    shared_lock,
    storage_address,
)
from .plan import Job, Plan

_DEATHS = 4  # of its workers after which a job is set aside
_ATTEMPTS = "attempts.json"  # in a run folder
_ARMS = "arms.json"  # in the study's folder


class WorkersLost(Exception):
    """The workers of a job died, again and again."""


class Board:
    """The shared state of a study's jobs, for workers that share the run folders.

    The record of a job is {attempts: the workers that died during it, and the current one; since:
    the start of the current one}; it is empty between attempts.

    Raises:
        ConfigError: if a sweep of the study's name has its folder.
    """

    def __init__(self, plan: Plan) -> None:
        if (plan.folder / "trials").is_dir():
            raise _name_taken(plan)
        self.plan = plan
        self.jobs = plan.jobs

    def refresh(self) -> None:
        """Read the state that a server holds; the run folders need no refresh."""

    def arms(self) -> dict[str, Any]:
        """Return `study_signatures` of the plan that workers run; empty before `prepare`."""
        return read_state(self.plan.folder / _ARMS)

    def write_arms(self) -> None:
        """Make this plan the one that workers run."""
        write_json(self.plan.folder / _ARMS, study_signatures(self.plan))

    def outcome(self, job: Job) -> str | None:
        """Return why a job has failed, an empty text where it is done, or None where it
        is still to be done.
        """
        return "" if job.done else job.folder.failure or None

    def reopen(self, job: Job) -> None:
        """Let a failed job be tried again, and a job be done again whose files were lost."""
        (job.folder.path / "FAILED").unlink(missing_ok=True)

    def claim(self, job: Job) -> ExitStack | None:
        """Return the locks of a job, taken; None where another worker holds one."""
        with suppress(Timeout), ExitStack() as locks:
            for lock in self.locks(job):
                locks.enter_context(lock)
            return locks.pop_all()
        return None

    def locks(self, job: Job) -> Iterator[AbstractContextManager[Any]]:
        """Take the locks of a job, one after the other."""
        yield job.folder.lock.acquire(timeout=0)

    def is_held(self, job: Job) -> bool:
        """Whether a worker holds a job that was begun."""
        return not is_lock_free(job.folder.lock)

    def record(self, job: Job) -> dict[str, Any]:
        """Return the record of a job."""
        record = read_state(job.folder.path / _ATTEMPTS)
        return record if isinstance(record.get("attempts"), list) else {}

    def write(self, job: Job, record: dict[str, Any]) -> None:
        """Write the record of a job."""
        if record.get("attempts"):
            write_json(job.folder.path / _ATTEMPTS, record)
        else:
            (job.folder.path / _ATTEMPTS).unlink(missing_ok=True)

    def end(self, job: Job, reason: str) -> None:
        """Record that a job is done, or why it has failed."""
        self.write(job, {"failed": reason} if reason else {})

    def at_work(self) -> list[str]:
        """Return the host and process of each worker that holds a job."""
        workers = set()
        for job in self.jobs:
            record = self.record(job)
            if "since" in record and self.is_held(job):
                workers.add(str(record["attempts"][-1]))
        return sorted(workers)


class ServerBoard(Board):
    """The same for machines that share a PostgreSQL server: an Optuna study on it has an attribute
    for each job.

    A worker takes the server's lock of a job, then that of its run folder, since machines may share
    files as well. Where its connection breaks, the server frees the lock, and the worker takes it
    again. A job that was begun is therefore taken over only once its lock was free for the grace. A
    job that a machine without our files has finished is done; a job that was finished among our
    files and has lost them is not.

    Raises:
        ConfigError: if the server does not answer, or a sweep has the study's name.
    """

    def __init__(self, plan: Plan, url: sqlalchemy.URL) -> None:
        super().__init__(plan)
        self.url = url
        self.study = optuna.create_study(
            study_name=plan.name, storage=open_storage(url), load_if_exists=True
        )
        self.abandoned_locks = AbandonedLocks()
        self.place = study_folder_name(plan)

        self.refresh()
        if "fingerprint" in self.records:
            raise _name_taken(plan)

    def refresh(self) -> None:
        self.records = self.study.user_attrs
        begun = {}
        for job in self.jobs:
            if "since" in self.record(job):
                begun[self._lock(job)] = job.folder.path
        self.free = free_locks(self.url, begun)
        self.abandoned = self.abandoned_locks.among(self.free)

    def arms(self) -> dict[str, Any]:
        return dict(self.records.get("file", {}))

    def write_arms(self) -> None:
        self.study.set_user_attr("file", study_signatures(self.plan))

    def outcome(self, job: Job) -> str | None:
        record = self.record(job)
        is_elsewhere = record.get("place") != self.place
        if job.done or (record.get("evaluations") == evaluation_signatures(job) and is_elsewhere):
            return ""
        return record.get("failed")

    def reopen(self, job: Job) -> None:
        super().reopen(job)
        record = self.record(job)
        is_ours = record.get("place") == self.place or record.get("host") == platform.node()
        if job.done and record.get("evaluations") != evaluation_signatures(job):
            self.end(job, "")  # finished before the server was named
        elif "failed" in record or ("evaluations" in record and is_ours and not job.done):
            self.write(job, {})

    def claim(self, job: Job) -> ExitStack | None:
        if "since" in self.record(job) and self._lock(job) not in self.abandoned:
            return None
        return super().claim(job)

    def locks(self, job: Job) -> Iterator[AbstractContextManager[Any]]:
        yield shared_lock(self.url, self._lock(job), wait=False)
        yield from super().locks(job)

    def is_held(self, job: Job) -> bool:
        return self._lock(job) not in self.free

    def record(self, job: Job) -> dict[str, Any]:
        return dict(self.records.get(job.key, {}))

    def write(self, job: Job, record: dict[str, Any]) -> None:
        self.study.set_user_attr(job.key, record)
        self.records[job.key] = record

    def end(self, job: Job, reason: str) -> None:
        if reason:
            self.write(job, {"failed": reason})
            return
        signatures = evaluation_signatures(job)
        done = {"evaluations": signatures, "place": self.place, "host": platform.node()}
        self.write(job, done)

    def _lock(self, job: Job) -> str:
        return f"arinar: {self.plan.name} {job.key}"


def _name_taken(plan: Plan) -> ConfigError:
    return ConfigError(
        f"{plan.folder}: holds a sweep of this name; rename the file, or delete what is there"
    )


def server_of(plan: Plan) -> sqlalchemy.URL | None:
    """Return the address of the study's server; None where its workers share files.

    Raises:
        ConfigError: if it is no address, or of a database that is not supported.
    """
    url = storage_address(plan.storage, plan.folder / "queue.db")
    return url if is_shared(url) else None


def open_board(plan: Plan) -> Board:
    """Return the shared state of a study's jobs.

    Raises:
        ConfigError: if its server does not answer, or a sweep has its name.
    """
    url = server_of(plan)
    return Board(plan) if url is None else ServerBoard(plan, url)


def prepare(plan: Plan) -> list[Job]:
    """Let workers run this plan, and try failed jobs again; returns the jobs that are not done.

    Raises:
        ConfigError: if its server does not answer, or a sweep has its name.
    """
    board = open_board(plan)
    for job in board.jobs:
        board.reopen(job)
    board.write_arms()
    return [job for job in board.jobs if board.outcome(job) is None]


def ensure_prepared(plan: Plan) -> None:
    """Prepare a study that is not prepared, so that a worker may be the first process.

    Raises:
        ConfigError: if its server does not answer.
    """
    if not open_board(plan).arms():
        prepare(plan)


def study_folder_name(plan: Plan) -> str:
    """Return a unique name of the study's folder, which all machines that share the files share."""
    file = plan.folder / ".place"
    plan.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(plan.folder / ".place.lock"):
        if not file.is_file():
            write_atomically(file, uuid.uuid4().hex)
        return file.read_text(encoding="utf-8")


def evaluation_signatures(job: Job) -> list[str]:
    """Return the signatures of a job's evaluations."""
    return sorted(recipe.evaluation_signature for recipe in job.recipes)


def study_signatures(plan: Plan) -> dict[str, Any]:
    """Return the signatures of the arms by name, and the seeds."""
    arms = {}
    for arm in plan.arms:
        recipe = arm.recipe
        arms[arm.name] = f"{recipe.training_signature}/{recipe.evaluation_signature}"
    return {"arms": arms, "seeds": list(plan.all_seeds)}


def changes(board: Board) -> list[str]:
    """Return the differences of the study's file from the one that workers run."""
    before = board.arms()
    now = study_signatures(board.plan)
    if before.keys() != now.keys() or before == now:
        return []

    old = before["arms"]
    new = now["arms"]
    arms: dict[str, list[str]] = {"added": [], "removed": [], "edited": []}
    for name in {**new, **old}:
        if name not in old:
            arms["added"].append(name)
        elif name not in new:
            arms["removed"].append(name)
        elif new[name] != old[name]:
            arms["edited"].append(name)

    lines = [f"{change}: {', '.join(names)}" for change, names in arms.items() if names]
    if before["seeds"] != now["seeds"]:
        lines.append(f"seeds: {before['seeds']} became {now['seeds']}")
    return lines


def run_worker(plan: Plan) -> list[str]:
    """Do jobs until each is done or has failed, in any worker; returns the failed ones with their
    reasons.

    Raises:
        ConfigError: if workers run by another version of the study's file, also from now on.
    """
    board = retry_while_unavailable(lambda: open_board(plan))
    if plan.growth and (seeds := board.arms().get("seeds")):
        plan = replace(plan, seeds=tuple(seeds))  # a machine without our files knows the first ones
        board = retry_while_unavailable(lambda: open_board(plan))
    outcomes: dict[str, str] = {}
    with exit_on_sigterm():
        while len(outcomes) < len(board.jobs):
            retry_while_unavailable(board.refresh)
            _refuse_other_file(board)
            if not _go_through(board, outcomes):
                time.sleep(1)

    failed = [job for job in board.jobs if outcomes[job.key]]
    return [f"{job.arm} {job.key}: {outcomes[job.key]}" for job in failed]


def _go_through(board: Board, outcomes: dict[str, str]) -> bool:
    """Note the jobs that have ended, and do the first free one; returns False where other workers
    hold all open jobs.
    """
    for job in board.jobs:
        outcome = None if job.key in outcomes else board.outcome(job)
        if outcome is not None:
            outcomes[job.key] = outcome

    waiting = [job for job in board.jobs if job.key not in outcomes]
    for job in waiting:
        outcome = _take(board, job)
        if outcome is not None:
            outcomes[job.key] = outcome
            return True
    return not waiting


def _refuse_other_file(board: Board) -> None:
    changed = retry_while_unavailable(lambda: changes(board))
    if changed:
        raise ConfigError(
            f"{board.plan.name}: its workers run by another version of the study's file"
            f" ({'; '.join(changed)}); arinar ablate with the file as it shall be, then start the"
            " workers again"
        )


def _take(board: Board, job: Job) -> str | None:
    """Do a job; returns its outcome, see `Board.outcome`, or None where another worker has it."""
    try:
        job = retry_while_unavailable(job.claim_name)
        locks = retry_while_unavailable(lambda: board.claim(job))
    except (ConfigError, OSError) as error:
        return _fail(board, job, error)

    if locks is None:
        return None
    with locks:
        retry_while_unavailable(board.refresh)
        outcome = board.outcome(job)  # another worker may have been quicker
        return _attempt(board, job) if outcome is None else outcome


def _attempt(board: Board, job: Job) -> str:
    """Do a job whose locks are held; returns its outcome. An error is its reason of failure; a
    request to end hands it back.
    """
    dead_workers = board.record(job).get("attempts", [])
    if len(dead_workers) >= _DEATHS:
        last = f"the last time as {dead_workers[-1]}; see log.txt"
        return _fail(board, job, WorkersLost(f"its worker died {len(dead_workers)} times, {last}"))

    say(f"{time.strftime('%T')} {job.arm} {job.key}")
    worker = f"{platform.node()} {os.getpid()}"
    attempt = {"attempts": [*dead_workers, worker], "since": time.strftime("%F %T")}
    try:
        retry_while_unavailable(lambda: board.write(job, attempt))
        value = run_job(job, board.plan)
        if not math.isfinite(value):
            raise ValueError(f"{board.plan.criterion} is {value}")
        retry_while_unavailable(lambda: board.end(job, ""))
    except StorageUnusable:
        raise
    except Exception as error:
        return _fail(board, job, error)
    except BaseException:
        with suppress(*FAULTS, OSError):  # then it counts as an attempt whose worker died
            board.write(job, {"attempts": dead_workers})
        raise
    return ""


def _fail(board: Board, job: Job, error: Exception) -> str:
    """Record why a job has failed, and return the reason."""
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
    say(f"{time.strftime('%T')} failed: {reason}")
    with suppress(OSError):  # a folder that may not be written
        if not job.done and not job.folder.failure:
            retry_while_unavailable(lambda: job.folder.fail(error))
        retry_while_unavailable(lambda: board.end(job, reason))
    return reason


def run_job(job: Job, plan: Plan) -> float:
    """Train and evaluate one run whose folder is locked; returns its value of the criterion."""
    arm = next(arm for arm in plan.arms if arm.name == job.arm)
    reports, _ = perform_locked(job.recipes, job.folder, plan.name, job.arm, plan.factors(arm))
    return float(reports[0]["metrics"][plan.criterion_of(arm)])


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Raise SystemExit on SIGTERM, so that the current job is handed back. (Lightning saves a
    training first.)
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
