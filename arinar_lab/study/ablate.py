"""An ablation from its file to its report: plan → workers → speed → table, figure, dashboard.

This process only watches while the workers train. When they are done it measures speed, alone, and writes the report.
Interrupted and run again it goes on where it stopped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ..model.noise import Noise
from ..run.config import Recipe, build
from ..run.evaluate import generate, measure_speed
from ..run.folder import read_json, write_json
from ..run.module import ArinarModule
from ..run.tracking import Tracker
from ..run.train import read_metrics, use_threads
from .plan import Job, Plan
from .references import references
from .report import collect, effects, notes, terminal_table, write_report
from .worker import enqueue

Processes = list["subprocess.Popen[bytes]"]


def ablate(plan: Plan, command: list[str], workers: int, console: Console) -> int:
    """Run a study to its end; returns the exit status: 0, 1 where cells failed, 130 where the user stopped it.

    Arguments:
        command: the words that start one worker of this study.
        workers: processes that train side by side.
    """
    seconds = show_plan(plan, workers, console)
    todo = enqueue(plan)
    done = len(plan.jobs) - len(todo)
    if done:
        console.print(f"{done} of {len(plan.jobs)} runs are finished already and stay as they are.")
    if todo and not _work(plan, todo, command, min(workers, len(todo)), seconds, console):
        console.print("Stopped. The same command goes on where it stopped.")
        return 130
    _measure(plan, console)
    return finish(plan, console)


def finish(plan: Plan, console: Console) -> int:
    """Write and print the report of what is there, and send it to MLflow; returns 1 where something failed or is missing."""
    results = collect(plan)
    paths = write_report(results)
    link = _publish(plan, paths)
    console.print(terminal_table(results))
    for line in [*effects(results), "", *notes(results)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print()
    for path in paths:
        console.print(f"{path}", highlight=False, soft_wrap=True)
    folder, recipe = plan.cell(results.baseline, plan.seeds[0])
    grid = folder.evaluation(recipe) / "samples" / "grid.png"
    if grid.is_file():
        console.print(f"{grid}  (samples of {plan.baseline})", highlight=False, soft_wrap=True)
    console.print(f"Dashboard (the local one by make mlflow): {link}", highlight=False, soft_wrap=True)
    failed = [job for job in plan.jobs if not job.done]
    for job in failed:
        file = job.folder.path / "FAILED"
        said = f"[red]failed[/red] {job.folder.path}: {escape(file.read_text().strip())}" if file.is_file() else ""
        console.print(said or f"not run: {job.folder.path}", highlight=False, soft_wrap=True)
    return 1 if failed else 0


def show_plan(plan: Plan, workers: int, console: Console) -> float:
    """Print the arms, and how long they will take by a few timed steps of each; returns the seconds expected."""
    unfinished = [job for job in plan.jobs if not job.done]
    cost = {}
    with console.status("timing a few steps of each arm"):
        for arm in plan.arms:
            if any(plan.cell(arm, seed)[0].path == job.folder.path for job in unfinished for seed in plan.seeds):
                cost[arm.recipe.training_signature] = _probe(arm.recipe)
    table = Table(
        "arm",
        "parameters",
        "seeds",
        "seconds a run",
        title=escape(f"{plan.name}: {plan.question}"),
        title_justify="left",
    )
    for arm in plan.arms:
        expected = cost.get(arm.recipe.training_signature)
        seconds = "finished" if expected is None else f"about {expected:.0f}"
        name = f"{arm.name}{' (baseline)' if arm.name == plan.baseline else ''}"
        table.add_row(escape(name), f"{arm.parameters:,}", ", ".join(map(str, plan.seeds)), seconds)
    console.print(table)
    total = sum(cost.get(job.recipes[0].training_signature, 0.0) for job in unfinished) / workers
    if unfinished:
        console.print(
            f"{len(unfinished)} runs by {workers} workers: about {total / 60:.1f} minutes by a few timed steps,"
            " then the speed of each."
        )
    return total


def _probe(recipe: Recipe, steps: int = 4) -> float:
    """Seconds that a run will take, by a few steps of training and one generated batch."""
    use_threads(recipe.machine)
    experiment = build(recipe)
    module, source = ArinarModule(experiment, recipe.training, recipe.seed), experiment.source
    module.fit_to(source.train[0])
    index = torch.arange(recipe.training.batch)
    for step in range(steps + 1):
        if step == 1:
            begun = time.perf_counter()
        noise = Noise.of(index).at(step)
        x, _ = experiment.codec.encode(source.train[0][index], noise.at(0))
        experiment.model.loss(x, source.train[1][index], noise.at(1)).backward()
    a_step = (time.perf_counter() - begun) / steps
    begun, few = time.perf_counter(), torch.arange(32)
    generate(recipe, experiment, few % source.classes, few)
    an_image = (time.perf_counter() - begun) / len(few) if source.levels else 0.0
    return 1.3 * recipe.training.steps * a_step + recipe.evaluation.images * an_image + 5


def _work(plan: Plan, todo: list[Job], command: list[str], workers: int, seconds: float, console: Console) -> bool:
    threads = plan.arms[0].recipe.machine.threads

    def watch(processes: Processes) -> None:
        _watch(plan, todo, processes, seconds, console)

    return run_workers(plan.folder, command, workers, threads, watch, console)


def run_workers(
    folder: Path, command: list[str], workers: int, threads: int, watch: Callable[[Processes], None], console: Console
) -> bool:
    """Start the workers and watch them until all have ended; False where the user interrupted.

    Arguments:
        folder: of the study, where each worker has its log.
        command: the words that start one worker; threads: of each.
    """
    environment = {**os.environ, "ARINAR_PARENT": str(os.getpid()), "OMP_NUM_THREADS": str(max(1, threads))}
    processes: Processes = []
    try:
        with _asked_to_end():
            for i in range(workers):
                with (folder / f"worker_{i}.log").open("a") as log:
                    processes.append(
                        subprocess.Popen(
                            command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
                        )
                    )
            watch(processes)
        return True
    except KeyboardInterrupt:
        console.print("Stopping: each worker saves a checkpoint.")
        return False
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def _asked_to_end() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _watch(plan: Plan, todo: list[Job], processes: Processes, seconds: float, console: Console) -> None:
    """A bar for the study and one for each run under way, until every worker has ended."""
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    open_jobs, begun = {job.key: job for job in todo}, time.time()
    with Progress(*columns, console=console, transient=True) as bars:
        study = bars.add_task(escape(plan.name), total=len(plan.jobs), completed=len(plan.jobs) - len(todo))
        tasks: dict[str, TaskID] = {}
        while True:
            ended = all(process.poll() is not None for process in processes)
            for key, job in list(open_jobs.items()):
                now = read_json(job.folder.path / "progress.json")
                live = now.get("time", 0) > begun
                name = f"{job.arm} seed {job.recipes[0].seed}"
                if job.done or (live and (job.folder.path / "FAILED").is_file()):
                    open_jobs.pop(key)
                    if key in tasks:
                        bars.remove_task(tasks.pop(key))
                    bars.advance(study)
                    bars.console.print(
                        f"{len(plan.jobs) - len(open_jobs)}/{len(plan.jobs)}  {_outcome(job, name)}",
                        highlight=False,
                    )
                elif live:
                    if key not in tasks:
                        tasks[key] = bars.add_task(name, total=None)
                    bars.update(
                        tasks[key],
                        description=f"  {escape(name)}: {now['phase']}",
                        completed=now["step"],
                        total=now["steps"] or None,
                    )
            if ended:
                return
            time.sleep(0.5)


def _outcome(job: Job, name: str) -> str:
    if not job.done:
        return f"[red]failed[/red] {escape(name)}: {escape((job.folder.path / 'FAILED').read_text().strip())}"
    metrics = job.folder.report(job.recipes[0])["metrics"]
    distance = f", FD digits {metrics['quality/fd_digits']:.1f}" if "quality/fd_digits" in metrics else ""
    bits = f"{metrics['val/bits_per_dim']:.3f}" if "val/bits_per_dim" in metrics else "n/a"
    return f"{escape(name)}: {bits} bits/dim{distance}, trained in {metrics['time/train_seconds']:.0f} s"


def _measure(plan: Plan, console: Console) -> None:
    """Speed of every finished cell, one after the other, with no worker beside it; and the outside references."""
    cells = [plan.cell(arm, seed) for seed in plan.seeds for arm in plan.arms]
    waiting = [
        (f, r) for f, r in cells if (report := f.report(r)) and "speed/images_per_second" not in report["metrics"]
    ]
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=console, transient=True) as bars:
        for folder, recipe in bars.track(waiting, description="measuring speed, alone on the machine"):
            measure_speed(recipe, folder)
        file = plan.folder / "references.json"
        if plan.references and not file.is_file():
            task = bars.add_task("fitting scikit-learn's estimators", total=1)
            write_json(file, references(plan.arms[0].recipe))
            bars.advance(task)


def _publish(plan: Plan, paths: list[Path]) -> str:
    """Show the study in MLflow as its run folders tell it; returns the dashboard's address."""
    tracker, results = Tracker(plan.name), collect(plan)
    for arm in plan.arms:
        for seed in plan.seeds:
            folder, recipe = plan.cell(arm, seed)
            if folder.report(recipe):
                tracker.publish(recipe, arm.name, folder, read_metrics)
        means = {
            column.metric: summary.mean
            for column in results.columns
            if (summary := results.summary(arm, column.metric))
        }
        if means:
            tracker.publish_arm(arm.recipe, arm.name, means)
    tracker.publish_study(paths)
    return tracker.link()
