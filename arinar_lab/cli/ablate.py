"""An ablation from its file to its report: plan → workers → speed → table, figure, dashboard.

This process watches the workers while they train. Once they have ended it measures speed, alone,
and writes the report. The same command resumes an interrupted study.
"""

from __future__ import annotations

import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

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
from ..analysis.verdict import verdict_of
from ..config.sections import Recipe
from ..errors import ConfigError, StorageUnusable
from ..evaluation.evaluate import is_timed, measure_speed
from ..metrics import BITS, CLASSIFIER_DISTANCES, HEADINGS
from ..output.names import breakable_name
from ..output.terminal import description_column, failure_line
from ..quality.measure import named_reference
from ..report.report import write_report
from ..report.screen import print_verdict
from ..report.statements import notes
from ..report.tables import terminal_table
from ..runs.folder import RunFolder, read_state, write_json
from ..significance.looks import schedule
from ..study.baselines import baseline_bits
from ..study.collect import collect
from ..study.cost import Cost, format_count, probe_or_reason
from ..study.plan import Arm, Job, Plan
from ..study.processes import Worker, all_ended, run_workers
from ..study.worker import changes, open_board, prepare
from .forecast import print_unknown, resolution_lines, timed_costs
from .growth import grow, look_counts, next_look, record_look
from .mlflow_sync import fetch, send_study

_LINES = 24  # differences beyond which the terminal shows their sum


def run_study(
    plan: Plan, command: list[str], workers: int, console: Console, verbose: bool = False
) -> int:
    """Run a study to its end; returns the exit status: 0, 1 where cells failed, 130 where
    the user stopped it.

    Arguments:
        command: The words that start one worker of this study.
        workers: The number of processes that train at the same time.
        verbose: Whether the whole report is printed, and not its verdict alone.
    """
    _print_other_workers(plan, console)
    show_plan(plan, workers, console)
    larger: Plan | None = plan
    while larger is not None:
        plan = larger
        console.print(f"Phase 1 of 3: {len(plan.jobs)} runs, {workers} at a time.")
        if not _train(plan, command, workers, console):
            console.print("Stopped. The same command goes on where it stopped.")
            return 130
        larger = _next_look(plan, console)

    console.print("Phase 2 of 3: the speed of each run, one after the other.")
    faults = _measure(plan, console)
    console.print("Phase 3 of 3: the report and its figures.")
    status = fetch_and_report(plan, console, verbose)
    for line in faults:
        console.print(line, soft_wrap=True)

    return 1 if faults else status


def _train(plan: Plan, command: list[str], workers: int, console: Console) -> bool:
    """Do the runs of a plan; False where the user stopped them."""
    todo = prepare(plan)
    done = len(plan.jobs) - len(todo)
    if done:
        console.print(f"{done} of {len(plan.jobs)} runs are finished already and stay as they are.")
    while todo:
        if not _work(plan, todo, command, min(workers, len(todo)), console):
            return False
        todo = _left_by_a_lost_server(plan, todo, console)

    return True


def _next_look(plan: Plan, console: Console) -> Plan | None:
    """Look at a study that grows; returns its plan with more seeds, None where it has enough."""
    if plan.growth is None:
        return None
    analysis = analyse(_collect(plan, console))
    record_look(plan, analysis)
    larger = next_look(plan, analysis)
    if larger is not None:
        grow(larger)
        counts = ", ".join(f"{count} {answer}" for answer, count in look_counts(analysis).items())
        console.print(
            f"Look at {len(plan.seeds)} seeds: {counts}. The study grows to {len(larger.seeds)} "
            f"seeds, {plan.growth.at_most} at most."
        )

    return larger


def _left_by_a_lost_server(plan: Plan, todo: list[Job], console: Console) -> list[Job]:
    """Return the remaining jobs where a server's tables were deleted during the work; else none."""
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
    """Refuse a study whose arms name a reference that is missing or does not fit.

    Raises:
        ConfigError: naming it.
    """
    recipes = {str(arm.recipe.evaluation): arm.recipe for arm in plan.arms}
    for recipe in recipes.values():
        named_reference(recipe)


def _print_other_workers(plan: Plan, console: Console) -> None:
    """Print that the study's file has changed since its workers were started, and that other
    workers are at work.
    """
    board = open_board(plan)
    changed = changes(board)
    workers = board.at_work()
    if changed:
        console.print(
            f"The study's file has changed since its workers were started: {'; '.join(changed)}."
        )
        console.print(
            "What was edited is run anew in folders of its own; what was removed is no "
            "longer in the report."
        )
        if workers:
            console.print(
                "Workers that began with the old file end after the run that they are at."
            )

    if workers:
        console.print(
            f"Others work on this study, too: {', '.join(workers)}. Each run is done by one of all."
        )


def fetch_and_report(plan: Plan, console: Console, verbose: bool = False) -> int:
    """Fetch the reports that other machines have sent to MLflow, then `report_study`."""
    return report_study(plan, _collect(plan, console), console, verbose)


def _collect(plan: Plan, console: Console) -> Results:
    """The results of a study, with the reports that other machines have sent to MLflow."""
    results = collect(plan)
    fetched = fetch(plan, results)
    for folder in fetched:
        console.print(f"fetched from MLflow: {folder.path}", soft_wrap=True)
    return collect(plan) if fetched else results


def report_study(plan: Plan, results: Results, console: Console, verbose: bool = False) -> int:
    """Write the report of a study's results, send it to MLflow, and print its verdict; returns 1
    where a run failed or is missing.

    verbose: whether the table, the differences, the notes and all paths are printed, too.
    """
    analysis = analyse(results)
    record_look(plan, analysis)
    if verbose:
        _print_whole(analysis, console)

    with console.status("drawing figures, and telling MLflow"):
        paths = write_report(analysis)
        link, unsent = send_study(plan, analysis, paths)

    if verbose:
        _print_paths(plan, results, paths, console)
        if link:
            console.print(f"Dashboard (the local one by make mlflow): {link}", soft_wrap=True)
        for path in unsent:
            console.print(f"not sent to MLflow (arinar sync {path}): {path}", soft_wrap=True)
        console.print()

    print_verdict(verdict_of(analysis), str(paths[0]), _program(), console)
    if unsent and not verbose:
        runs = "1 run is" if len(unsent) == 1 else f"{len(unsent)} runs are"
        console.print(f"{runs} not sent to MLflow; arinar sync sends what is missing there.")
    return _print_unreported(plan, results, console)


def _print_whole(analysis: Analysis, console: Console) -> None:
    """Print the table, the differences and the notes of a report."""
    console.print(terminal_table(analysis, console.width))
    paragraphs = (
        _differences(analysis),
        analysis.against_speed + analysis.ranking,
        notes(analysis),
    )
    for lines in paragraphs:
        for line in lines:
            console.print(line)
        console.print()


def _print_paths(plan: Plan, results: Results, paths: Sequence[Path], console: Console) -> None:
    """Print where the files of a report are."""
    pictures = 0
    for path in paths:
        if path.suffix in (".png", ".pdf"):
            pictures += 1
        else:
            console.print(str(path), soft_wrap=True)
    if pictures:
        console.print(f"{pictures // 2} figures beside them, each as PNG and PDF")

    grid = results.baseline_arm.folders[plan.seeds[0]].evaluation / "samples" / "grid.png"
    if grid.is_file():
        console.print(f"{grid}  (samples of {plan.baseline})", soft_wrap=True)


def _program() -> str:
    """How a shell of this folder starts arinar: by its name, or by the path of its environment."""
    if shutil.which("arinar"):
        return "arinar"

    script = Path(sys.executable).with_name("arinar")
    here = Path.cwd()
    if script.is_file():
        return shlex.quote(str(script.relative_to(here) if script.is_relative_to(here) else script))
    return shlex.join([sys.executable, "-m", "arinar_lab"])


def _differences(analysis: Analysis) -> list[str]:
    """Each difference in a line, or their sum where the terminal would not hold them."""
    if len(analysis.differences) <= _LINES:
        return analysis.differences
    return [*analysis.verdicts, "Each difference with its interval: in report.html."]


def _print_unreported(plan: Plan, results: Results, console: Console) -> int:
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


def _seeds(plan: Plan, arm: Arm) -> str:
    """`0, 1, 2`."""
    return ", ".join(map(str, plan.seeds_of(arm)))


def show_plan(plan: Plan, workers: int, console: Console) -> None:
    """Print the arms, and how long they will take by a few timed steps."""
    unfinished = [job for job in plan.jobs if not job.done]
    signatures = [job.recipes[0].training_signature for job in unfinished]
    arms = [arm for arm in plan.arms if arm.recipe.training_signature in signatures]
    costs = timed_costs([arm.recipe for arm in arms], console)
    measured = {name: cost for name, cost in costs.items() if isinstance(cost, Cost)}
    seconds = {name: cost.seconds for name, cost in measured.items()}
    speed_seconds = (
        statistics.fmean(cost.speed_seconds for cost in measured.values()) if measured else 0
    )

    title = f"{plan.name}: {plan.question}"
    table = Table("arm", "parameters", "seeds", "seconds a run", title=title, title_justify="left")
    for arm in plan.arms:
        signature = arm.recipe.training_signature
        if signature not in signatures:
            expected = "finished"
        elif signature in seconds:
            expected = f"about {seconds[signature]:.0f}"
        else:
            expected = "unknown" if signature in costs else "not timed"
        table.add_row(_title(plan, arm), f"{arm.parameters:,}", _seeds(plan, arm), expected)

    console.print(table)
    by_arm = {}
    for arm in arms:
        if arm.recipe.training_signature in costs:  # arms that share a training share one line
            by_arm[arm.name] = costs.pop(arm.recipe.training_signature)
    _print_notes(plan, by_arm, console)
    if unfinished:
        mean = statistics.fmean(seconds.values()) if seconds else 0.0
        total = sum(seconds.get(signature, mean) for signature in signatures)
        minutes = (total / workers + len(unfinished) * speed_seconds) / 60
        console.print(
            f"{len(unfinished)} runs by {workers} workers, then the speed of each: about"
            f" {minutes:.1f} minutes by a few timed steps."
        )


def _print_notes(plan: Plan, costs: dict[str, Cost | str], console: Console) -> None:
    """Print what of the study is in vain, and why costs are unknown.

    Arguments:
        costs: Name of an arm → its cost, or why it is unknown.
    """
    for line in plan.cautions:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    print_unknown(costs, console)


def dry_run(plan: Plan, workers: int, console: Console, verbose: bool = False) -> int:
    """Print every arm with its cost; nothing is written. verbose: whether every run is printed."""
    costs: dict[str, Cost | str] = {}
    with console.status("timing a few steps of each arm"):
        for arm in plan.arms:
            try:
                costs[arm.name] = probe_or_reason(arm.recipe)
            except ConfigError as error:
                costs[arm.name] = str(error)

    states = _run_states(plan)
    hours = 0.0
    for (name, _), state in states.items():
        cost = costs[name]
        if isinstance(cost, Cost) and not state:
            hours += cost.seconds / 3600

    table = _runs_table(plan, costs, states) if verbose else _arms_table(plan, costs, states)
    console.print(table)
    _print_notes(plan, costs, console)
    console.print(
        f"{len(plan.jobs)} runs by {workers} workers: about {format_count(hours / workers)} hours "
        "on this machine."
    )
    if plan.growth:
        looks = schedule(plan.growth.first, plan.growth.at_most)
        most = hours * looks[-1] / len(plan.seeds)
        console.print(
            f"It looks at {', '.join(map(str, looks))} seeds; with all of them it takes about"
            f" {format_count(most / workers)} hours."
        )
    for line in resolution_lines(plan):
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    return 0


def _run_states(plan: Plan) -> dict[tuple[str, int], str]:
    """Arm and seed → `finished`, `shares a training`, or nothing where a run is to do."""
    jobs = {job.key: job for job in plan.jobs}
    states = {}
    for arm, seed in plan.cells:
        # arms that share a training pay it once
        job = jobs.pop(f"{arm.recipe.training_signature}/seed_{seed}", None)
        state = "shares a training"
        if job is not None:
            state = "finished" if job.done else ""
        states[arm.name, seed] = state
    return states


def _arms_table(
    plan: Plan, costs: Mapping[str, Cost | str], states: Mapping[tuple[str, int], str]
) -> Table:
    """A row for each arm, for a terminal of 80 columns: numbers keep their line."""
    table = Table("arm", title=f"{plan.name}: {plan.question}", title_justify="left")
    for heading in ("parameters", "GFLOPs/image", "hours a run", "runs to do"):
        table.add_column(heading, justify="right", no_wrap=True)

    for arm in plan.arms:
        cost = costs[arm.name]
        numbers = ["unknown"] * 2
        if isinstance(cost, Cost):
            numbers = list(map(format_count, (cost.image, cost.seconds / 3600)))
        of_arm = [states[arm.name, seed] for seed in plan.seeds_of(arm)]
        to_do = "0 (shared)" if "shares a training" in of_arm else "finished"
        if "" in of_arm:
            to_do = str(of_arm.count(""))
        table.add_row(breakable_name(_title(plan, arm)), f"{arm.parameters:,}", *numbers, to_do)
    return table


def _runs_table(
    plan: Plan, costs: Mapping[str, Cost | str], states: Mapping[tuple[str, int], str]
) -> Table:
    """A row for each run, with all that is known of its cost."""
    headings = ("arm", "seed", "parameters", "GFLOPs/image", "GFLOPs/step", "hours", "")
    table = Table(*headings, title=f"{plan.name}: {plan.question}", title_justify="left")
    for arm, seed in plan.cells:
        cost = costs[arm.name]
        numbers = ["unknown"] * 3
        if isinstance(cost, Cost):
            numbers = list(map(format_count, (cost.image, cost.step, cost.seconds / 3600)))
        state = states[arm.name, seed]
        table.add_row(_title(plan, arm), str(seed), f"{arm.parameters:,}", *numbers, state)
    return table


def _title(plan: Plan, arm: Arm) -> str:
    """An arm in a table: its name, whether it is the baseline, and its solved width."""
    baseline = " (baseline)" if arm.name == plan.baseline else ""
    matched = f", {arm.matched}" if arm.matched else ""
    return f"{arm.name}{baseline}{matched}"


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
    total = len(plan.jobs)
    open_jobs = {job.key: job for job in todo}
    begun = time.time()
    with Progress(*columns, console=console, transient=True) as bars:
        study = bars.add_task(plan.name, total=total, completed=total - len(todo))
        tasks: dict[str, TaskID] = {}
        while True:
            ended = all_ended(crew)
            for key, job in list(open_jobs.items()):
                progress = read_state(job.folder.path / "progress.json")
                is_live = progress.get("time", 0) > begun
                name = f"{job.arm} seed {job.recipes[0].seed}"

                if job.done or (is_live and (job.folder.path / "FAILED").is_file()):
                    open_jobs.pop(key)
                    if key in tasks:
                        bars.remove_task(tasks.pop(key))
                    bars.advance(study)
                    count = Text(f"{total - len(open_jobs)}/{total}  ")
                    bars.console.print(count + _outcome(job, name))
                elif is_live:
                    if key not in tasks:
                        tasks[key] = bars.add_task(name, total=None)
                    bars.update(
                        tasks[key],
                        description=f"  {name}: {progress['phase']}",
                        completed=progress["step"],
                        total=progress["steps"] or None,
                    )

            if ended:
                return
            time.sleep(0.5)


def _outcome(job: Job, name: str) -> Text:
    """A line about a run that has ended."""
    if not job.done:
        return failure_line(f"{name}: {job.folder.failure}")

    metrics = job.folder.report(job.recipes[0])["metrics"]
    bits = f"{metrics[BITS]:.3f}" if BITS in metrics else "n/a"
    distance = ""
    for metric in filter(metrics.__contains__, CLASSIFIER_DISTANCES.values()):
        distance = f", {HEADINGS[metric]} {metrics[metric]:.1f}"
    return Text(
        f"{name}: {bits} bits/dim{distance}, trained in {metrics['time/train_seconds']:.0f} s"
    )


def _measure(plan: Plan, console: Console) -> list[str]:
    """Measure the speed of every finished cell, one after the other and without workers, and fit
    the outside references.

    Returns:
        why some cells could not be measured, which does not stop the others.
    """
    faults = []
    columns = [description_column(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=console, transient=True) as bars:
        title = "measuring speed, one run after the other"
        for folder, recipe in bars.track(_untimed(plan), description=title):
            try:
                measure_speed(recipe, folder)
            except Exception as error:  # weights that were edited, out of memory, …
                reason = " ".join(str(error).split())[:400]
                faults.append(f"The speed of {folder.path} is not measured: {reason}")

        file = plan.folder / "references.json"
        if plan.references and not file.is_file():
            task = bars.add_task("fitting scikit-learn's estimators", total=1)
            write_json(file, baseline_bits(plan.arms[0].recipe))
            bars.advance(task)

    return faults


def _untimed(plan: Plan) -> list[tuple[RunFolder, Recipe]]:
    """The finished cells whose speed is not measured."""
    cells = []
    for arm, seed in plan.cells:
        folder, recipe = plan.cell(arm, seed)
        if folder.done:
            report = folder.report(recipe)
            if report and not is_timed(report, recipe.machine):
                cells.append((folder, recipe))
    return cells
