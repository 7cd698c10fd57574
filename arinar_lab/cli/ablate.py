"""An ablation from its file to its report: plan → workers → speed → table, figure, dashboard.

This process only watches while the workers train. When they are done it measures speed, alone, and
writes the report. Interrupted and run again it goes on where it stopped.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ..analysis.analyse import Analysis, analyse
from ..analysis.results import Results
from ..errors import ConfigError, StorageUnusable
from ..evaluation.evaluate import is_timed, measure_speed
from ..output.terminal import description_column, failure_line
from ..quality.measure import named_reference
from ..report.report import write_report
from ..report.statements import notes
from ..report.tables import terminal_table
from ..runs.folder import read_state, write_json
from ..study.baselines import baseline_bits
from ..study.collect import collect
from ..study.cost import Cost, format_count, probe_or_reason
from ..study.plan import Arm, Job, Plan
from ..study.processes import Worker, all_ended, run_workers
from ..study.worker import changes, open_board, prepare
from .mlflow_sync import fetch, send_study

_LINES = 24  # differences beyond which the terminal shows their sum
_TIMING_SECONDS = 20  # beyond it the arms that are not timed yet are taken to be like the others


def run_study(plan: Plan, command: list[str], workers: int, console: Console) -> int:
    """Run a study to its end; returns the exit status: 0, 1 where cells failed, 130 where
    the user stopped it.

    Arguments:
        command: the words that start one worker of this study.
        workers: processes that train side by side.
    """
    _tell_of_others(plan, console)
    show_plan(plan, workers, console)
    todo = prepare(plan)
    done = len(plan.jobs) - len(todo)
    if done:
        console.print(f"{done} of {len(plan.jobs)} runs are finished already and stay as they are.")
    while todo:
        if not _work(plan, todo, command, min(workers, len(todo)), console):
            console.print("Stopped. The same command goes on where it stopped.")
            return 130
        todo = _left_by_a_lost_server(plan, todo, console)

    faults = _measure(plan, console)
    status = fetch_and_report(plan, console)
    for line in faults:
        console.print(line, soft_wrap=True)

    return 1 if faults else status


def _left_by_a_lost_server(plan: Plan, todo: list[Job], console: Console) -> list[Job]:
    """Return what is left to do where the tables of a server were deleted under the
    workers; else nothing.
    """
    if all(job.done for job in todo):
        return []

    try:
        if open_board(plan).arms():
            return []
        console.print(
            "What the workers ran by was deleted. It is made anew; what is finished stays."
        )
        return prepare(plan)
    except (ConfigError, StorageUnusable) as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return []


def check_references(plan: Plan) -> None:
    """Refuse a study whose arms are compared with a reference that is not to be had.

    Raises:
        ConfigError: naming it.
    """
    for recipe in {str(arm.recipe.evaluation): arm.recipe for arm in plan.arms}.values():
        named_reference(recipe)


def _tell_of_others(plan: Plan, console: Console) -> None:
    """Say that the study's file has changed since workers were started by it, and that another
    command works on it, too.
    """
    board = open_board(plan)
    changed = changes(board)
    others = board.at_work()
    if changed:
        console.print(
            f"The study's file has changed since its workers were started: {'; '.join(changed)}."
        )
        console.print(
            "What was edited is run anew in folders of its own; what was removed is no "
            "longer in the report."
        )
        if others:
            console.print(
                "Workers that began with the old file end after the run that they are at."
            )

    if others:
        console.print(
            f"Others work on this study, too: {', '.join(others)}. Each run is done by one of all."
        )


def fetch_and_report(plan: Plan, console: Console) -> int:
    """Fetch what other machines have finished and sent to MLflow, then `report_study`."""
    results = collect(plan)
    fetched = fetch(plan, results)
    for folder in fetched:
        console.print(f"fetched from MLflow: {folder.path}", soft_wrap=True)
    return report_study(plan, collect(plan) if fetched else results, console)


def report_study(plan: Plan, results: Results, console: Console) -> int:
    """Write and print the report of some results, and send it to MLflow; returns 1 where a run
    failed or is missing.
    """
    analysis = analyse(results)
    console.print(terminal_table(analysis, console.width))
    for line in [
        *_differences(analysis),
        "",
        *analysis.against_speed,
        *analysis.ranking,
        "",
        *notes(analysis),
    ]:
        console.print(line, soft_wrap=True)
    console.print()
    with console.status("drawing figures, and telling MLflow"):
        paths = write_report(analysis)
        link, unsent = send_study(plan, analysis, paths)

    pictures = [path for path in paths if path.suffix in (".png", ".pdf")]
    for path in paths:
        if path not in pictures:
            console.print(f"{path}", soft_wrap=True)
    if pictures:
        console.print(f"{len(pictures) // 2} figures beside them, each as PNG and PDF")
    grid = results.baseline_arm.folders[plan.seeds[0]].evaluation / "samples" / "grid.png"
    if grid.is_file():
        console.print(f"{grid}  (samples of {plan.baseline})", soft_wrap=True)
    if link:
        console.print(f"Dashboard (the local one by make mlflow): {link}", soft_wrap=True)
    for path in unsent:
        console.print(f"not sent to MLflow (arinar sync {path}): {path}", soft_wrap=True)
    return _tell_unreported(plan, results, console)


def _differences(analysis: Analysis) -> list[str]:
    """Each difference in a line, or their sum where the terminal would not hold them."""
    if len(analysis.differences) <= _LINES:
        return analysis.differences
    return [*analysis.verdicts, "Each difference with its interval: in report.html."]


def _tell_unreported(plan: Plan, results: Results, console: Console) -> int:
    """Print which runs have no report, and why; returns 1 where there is one."""
    missing = {arm.folders[seed].run for arm, seed in results.missing}
    unreported = [job.folder for job in plan.jobs if job.folder.path in missing]
    for folder in unreported:
        reason = folder.failure
        line = failure_line(f"{folder.path}: {reason}") if reason else f"not run: {folder.path}"
        console.print(line, soft_wrap=True)

    if unreported:
        if any(plan.folder.glob("worker_*.log")):
            console.print(f"Logs of the workers: {plan.folder}/worker_*.log", soft_wrap=True)
        console.print("arinar ablate, with the same file and words, goes on.")

    return 1 if unreported else 0


def show_plan(plan: Plan, workers: int, console: Console) -> None:
    """Print the arms, and how long they will take by a few timed steps."""
    unfinished = [job for job in plan.jobs if not job.done]
    waiting = {job.recipes[0].training_signature for job in unfinished}
    timed = _timed([arm for arm in plan.arms if arm.recipe.training_signature in waiting], console)
    known = {signature: cost.seconds for signature, cost in timed.items() if isinstance(cost, Cost)}
    title = f"{plan.name}: {plan.question}"
    table = Table("arm", "parameters", "seeds", "seconds a run", title=title, title_justify="left")

    for arm in plan.arms:
        signature = arm.recipe.training_signature
        asked = "unknown" if signature in timed else "not timed"
        seconds = f"about {known[signature]:.0f}" if signature in known else asked
        expected = seconds if signature in waiting else "finished"
        table.add_row(
            _title(plan, arm), f"{arm.parameters:,}", ", ".join(map(str, plan.seeds)), expected
        )

    console.print(table)
    for line in plan.unreached:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for arm in plan.arms:
        _tell_unknown(arm, timed.pop(arm.recipe.training_signature, None), console)
    mean = statistics.fmean(known.values()) if known else 0.0
    total = sum(known.get(job.recipes[0].training_signature, mean) for job in unfinished) / workers
    if unfinished:
        console.print(
            f"{len(unfinished)} runs by {workers} workers: about {total / 60:.1f} minutes by a few"
            " timed steps, then the speed of each."
        )


def _timed(arms: list[Arm], console: Console) -> dict[str, Cost | str]:
    """Training signature → cost of a run, or why it is unknown, of as many arms as can be
    timed in a short while.
    """
    timed: dict[str, Cost | str] = {}
    begun = time.monotonic()
    with console.status("timing a few steps of each arm"):
        for arm in arms:
            if (
                arm.recipe.training_signature not in timed
                and time.monotonic() - begun < _TIMING_SECONDS
            ):
                timed[arm.recipe.training_signature] = probe_or_reason(arm.recipe)

    return timed


def _tell_unknown(arm: Arm, cost: Cost | str | None, console: Console) -> None:
    if isinstance(cost, str):
        console.print(f"The cost of {arm.name} is unknown: {cost}", soft_wrap=True)


def dry_run(plan: Plan, workers: int, console: Console) -> int:
    """Print every cell with what it costs; nothing is written."""
    costs: dict[str, Cost | str] = {}
    with console.status("timing a few steps of each arm"):
        for arm in plan.arms:
            try:
                costs[arm.name] = probe_or_reason(arm.recipe)
            except ConfigError as error:
                costs[arm.name] = str(error)

    headings = ("arm", "seed", "parameters", "GFLOPs/image", "GFLOPs/step", "hours", "")
    table = Table(*headings, title=f"{plan.name}: {plan.question}", title_justify="left")
    hours, jobs = 0.0, {job.key: job for job in plan.jobs}

    for seed, arm in itertools.product(plan.seeds, plan.arms):
        cost = costs[arm.name]
        # arms that share a training pay it once
        job = jobs.pop(f"{arm.recipe.training_signature}/seed_{seed}", None)
        row = ["unknown"] * 3
        if isinstance(cost, Cost):
            row = [format_count(value) for value in (cost.image, cost.step, cost.seconds / 3600)]
            hours += cost.seconds / 3600 if job and not job.done else 0.0
        state = "shares a training" if job is None else "finished" if job.done else ""
        table.add_row(_title(plan, arm), str(seed), f"{arm.parameters:,}", *row, state)

    console.print(table)
    for line in plan.unreached:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for arm in plan.arms:
        _tell_unknown(arm, costs[arm.name], console)
    console.print(
        f"{len(plan.jobs)} runs by {workers} workers: about {format_count(hours / workers)} hours "
        "on this machine."
    )

    return 0


def _title(plan: Plan, arm: Arm) -> str:
    """An arm in a table: its name, whether it is the baseline, and the width
    that was solved for it.
    """
    baseline = " (baseline)" if arm.name == plan.baseline else ""
    return f"{arm.name}{baseline}{f', {arm.matched}' if arm.matched else ''}"


def _work(plan: Plan, todo: list[Job], command: list[str], workers: int, console: Console) -> bool:
    threads = plan.arms[0].recipe.machine.threads

    def watch(crew: Sequence[Worker]) -> None:
        _watch(plan, todo, crew, console)

    return run_workers(plan.folder, command, workers, threads, watch, console)


def _watch(plan: Plan, todo: list[Job], crew: Sequence[Worker], console: Console) -> None:
    """A bar for the study and one for each run under way, until every worker has ended."""
    columns = [
        description_column(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    open_jobs, begun = {job.key: job for job in todo}, time.time()
    with Progress(*columns, console=console, transient=True) as bars:
        study = bars.add_task(plan.name, total=len(plan.jobs), completed=len(plan.jobs) - len(todo))
        tasks: dict[str, TaskID] = {}
        while True:
            ended = all_ended(crew)
            for key, job in list(open_jobs.items()):
                now = read_state(job.folder.path / "progress.json")
                live = now.get("time", 0) > begun
                name = f"{job.arm} seed {job.recipes[0].seed}"

                if job.done or (live and (job.folder.path / "FAILED").is_file()):
                    open_jobs.pop(key)
                    if key in tasks:
                        bars.remove_task(tasks.pop(key))
                    bars.advance(study)
                    bars.console.print(
                        Text(f"{len(plan.jobs) - len(open_jobs)}/{len(plan.jobs)}  ")
                        + _outcome(job, name)
                    )
                elif live:
                    if key not in tasks:
                        tasks[key] = bars.add_task(name, total=None)
                    bars.update(
                        tasks[key],
                        description=f"  {name}: {now['phase']}",
                        completed=now["step"],
                        total=now["steps"] or None,
                    )

            if ended:
                return
            time.sleep(0.5)


def _outcome(job: Job, name: str) -> Text:
    if not job.done:
        return failure_line(f"{name}: {job.folder.failure}")

    metrics = job.folder.report(job.recipes[0])["metrics"]
    distance = (
        f", FD digits {metrics['quality/fd_digits']:.1f}" if "quality/fd_digits" in metrics else ""
    )
    bits = f"{metrics['val/bits_per_dim']:.3f}" if "val/bits_per_dim" in metrics else "n/a"

    return Text(
        f"{name}: {bits} bits/dim{distance}, trained in {metrics['time/train_seconds']:.0f} s"
    )


def _measure(plan: Plan, console: Console) -> list[str]:
    """Speed of every finished cell, one after the other, with no worker beside it; and
    the outside references.

    Returns:
        why some could not be measured; one bad run keeps no other from its report.
    """
    faults = []
    cells = [plan.cell(arm, seed) for seed in plan.seeds for arm in plan.arms]
    waiting = [
        (f, r)
        for f, r in cells
        if f.done and (report := f.report(r)) and not is_timed(report, r.machine)
    ]

    columns = [description_column(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=console, transient=True) as bars:
        for folder, recipe in bars.track(
            waiting, description="measuring speed, one run after the other"
        ):
            try:
                measure_speed(recipe, folder)
            except Exception as error:  # weights that were edited, out of memory, …
                faults.append(
                    f"The speed of {folder.path} is not measured: "
                    f"{' '.join(str(error).split())[:400]}"
                )

        file = plan.folder / "references.json"
        if plan.references and not file.is_file():
            task = bars.add_task("fitting scikit-learn's estimators", total=1)
            write_json(file, baseline_bits(plan.arms[0].recipe))
            bars.advance(task)

    return faults
