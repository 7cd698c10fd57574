"""The verbs for studies and sweeps. Each verb imports everything heavy itself."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ..output.text import say
from ..variables import PARENT, RUN_VARIABLE, STORAGE
from .processes import end_with_parent
from .runs import _recipe


def _settle(arguments: argparse.Namespace) -> None:
    """Put a study's file and words in place of its folder, and take `storage=…` out of the words.

    The words are kept, shown and handed on, and an address may hold a password. It counts as
    ARINAR_STORAGE instead, here and in the workers, whose environment nobody else can read.
    """
    if arguments.file is not None and arguments.file.is_dir():
        from arinar_lab.study.status import study_file

        arguments.file, words = study_file(arguments.file)
        arguments.overrides = [*words, *arguments.overrides]
    for word in arguments.overrides:
        if word.startswith("storage="):
            os.environ[STORAGE.name] = word.removeprefix("storage=")
    arguments.overrides = [word for word in arguments.overrides if not word.startswith("storage=")]


def _plan(arguments: argparse.Namespace) -> Any:
    from arinar_lab.config.files import read_overrides
    from arinar_lab.study.plan import read_plan
    from arinar_lab.study.status import refuse_other_file

    _settle(arguments)
    plan = read_plan(arguments.file, read_overrides(arguments.overrides))
    refuse_other_file(plan.folder, arguments.file)
    return plan


def _begin(plan: Any, arguments: argparse.Namespace) -> None:
    """Make the study's folder, once the references and the server's address have been accepted."""
    from arinar_lab.cli.ablate import check_references
    from arinar_lab.cli.growth import save_growth
    from arinar_lab.study.status import save_cells
    from arinar_lab.study.worker import server_of

    check_references(plan)
    server_of(plan)
    save_growth(plan)
    save_cells(plan, arguments.file, arguments.overrides)


def ablate(arguments: argparse.Namespace) -> int:
    plan = _plan(arguments)
    from arinar_lab.cli.ablate import dry_run, run_study
    from arinar_lab.cli.growth import until_resolved
    from arinar_lab.errors import ConfigError
    from arinar_lab.output.terminal import Terminal

    if arguments.until_resolved:
        plan = until_resolved(plan, arguments.at_most)
    elif arguments.at_most is not None:
        raise ConfigError("--at-most: only with --until-resolved")
    if arguments.dry_run:
        return dry_run(plan, arguments.workers, Terminal(), verbose=arguments.verbose)
    _begin(plan, arguments)
    return run_study(
        plan, _worker(arguments), arguments.workers, Terminal(), verbose=arguments.verbose
    )


def status(arguments: argparse.Namespace) -> int:
    from arinar_lab.study.status import print_status

    if _is_sweep(arguments):
        from arinar_lab.sweep import status as sweep_status

        return sweep_status.print_sweep_status(
            _read_sweep(arguments), arguments.watch, arguments.json
        )
    return print_status(
        arguments.file,
        arguments.overrides,
        lambda: _plan(arguments),
        arguments.watch,
        arguments.json,
    )


def _is_sweep(arguments: argparse.Namespace) -> bool:
    """Whether the file (or the study whose folder is named) is a sweep: a file
    with a search space.
    """
    from arinar_lab.config.yaml_reader import read_yaml

    _settle(arguments)
    return "search" in read_yaml(arguments.file)


def _read_sweep(arguments: argparse.Namespace) -> Any:
    from arinar_lab.config.files import read_overrides
    from arinar_lab.sweep.sweep import read_sweep

    _settle(arguments)
    return read_sweep(arguments.file, read_overrides(arguments.overrides))


def sweep(arguments: argparse.Namespace) -> int:
    plan = _read_sweep(arguments)
    from arinar_lab.cli.sweep import print_forecast, run_sweep
    from arinar_lab.output.terminal import Terminal

    if arguments.dry_run:
        return print_forecast(plan, arguments.workers, Terminal())
    return run_sweep(plan, _worker(arguments), arguments.workers, Terminal())


def work(arguments: argparse.Namespace) -> int:
    from arinar_lab.config.files import read_recipe
    from arinar_lab.config.sections import parse_recipe
    from arinar_lab.runs.folder import RunFolder
    from arinar_lab.study import worker
    from arinar_lab.sweep import trials
    from arinar_lab.training.distributed import ignore_launchers
    from arinar_lab.training.train import train

    run = RUN_VARIABLE.read()
    parent = str(os.getppid()) if run else PARENT.read()
    if parent:
        end_with_parent(int(parent))
    if run:  # started by the worker that has claimed the run
        folder = RunFolder(Path(run))
        train(parse_recipe(read_recipe(folder.path / "config.yaml")), folder)
        return 0
    ignore_launchers()  # a worker starts the processes of its runs itself
    if _is_sweep(arguments):
        trials.run_sweep_worker(_read_sweep(arguments))
        return 0
    plan = _plan(arguments)
    if not parent:
        worker.ensure_prepared(plan)
    failed = worker.run_worker(plan)
    for line in failed:
        say(f"failed: {line}")
    return 1 if failed else 0


def report(arguments: argparse.Namespace) -> int:
    from arinar_lab.output.terminal import Terminal

    if _is_sweep(arguments):
        from arinar_lab.sweep.report import report_sweep
        from arinar_lab.sweep.trials import refuse_unstarted

        sweep = _read_sweep(arguments)
        refuse_unstarted(sweep)
        return report_sweep(sweep, Terminal())
    from arinar_lab.cli.ablate import fetch_and_report

    return fetch_and_report(_plan(arguments), Terminal(), arguments.verbose)


def compare(arguments: argparse.Namespace) -> int:
    from arinar_lab.cli.compare import print_comparison
    from arinar_lab.output.terminal import Terminal

    print_comparison(arguments.words, Terminal(), arguments.markdown)
    return 0


def mlflow(arguments: argparse.Namespace) -> int:
    from arinar_lab.tracking.server import serve_mlflow

    serve_mlflow(arguments.port)
    return 0


def dashboard(arguments: argparse.Namespace) -> int:
    from arinar_lab.sweep.dashboard import open_queue_of_file, serve_dashboard

    _settle(arguments)
    serve_dashboard(open_queue_of_file(arguments.file, arguments.overrides), arguments.port)
    return 0


def slurm(arguments: argparse.Namespace) -> int:
    from arinar_lab.study.slurm import Options, quoted, write_script
    from arinar_lab.study.worker import prepare
    from arinar_lab.sweep.trials import open_search

    options = Options(arguments.array, arguments.time, arguments.gpus, arguments.partition)
    if _is_sweep(arguments):
        verb, plan = "sweep", _read_sweep(arguments)
        for target in plan.targets:
            open_search(plan, target)
        work = f"{plan.trials * len(plan.targets)} trials"
        threads = plan.recipe(plan.targets[0], {}).machine.threads
    else:
        verb, plan = "ablate", _plan(arguments)
        _begin(plan, arguments)
        work = f"{len(prepare(plan))} runs"
        threads = plan.arms[0].recipe.machine.threads

    report = ["arinar", verb, *_subject(arguments)]
    path = write_script(plan, work, threads, _worker(arguments), report, options)
    say(f"{path}: {work} for {options.array} workers; submit it with: sbatch {quoted([str(path)])}")
    say(f"When they have ended: {quoted(report)} measures speed and writes the report")
    return 0


def _worker(arguments: argparse.Namespace) -> list[str]:
    """The words that start one worker of a study, once its plan is read (they
    hold no address then).
    """
    return [sys.executable, "-m", "arinar_lab", "work", *_subject(arguments)]


def _subject(arguments: argparse.Namespace) -> list[str]:
    """A study's file and overrides as words of another command. A file named `-x.yaml` is
    written `./-x.yaml`.
    """
    file = str(arguments.file)
    return [f"./{file}" if file.startswith("-") else file, *arguments.overrides]


def sync(arguments: argparse.Namespace) -> int:
    from arinar_lab.analysis.analyse import analyse
    from arinar_lab.cli import mlflow_sync
    from arinar_lab.config.files import read_overrides
    from arinar_lab.study.collect import collect
    from arinar_lab.study.plan import read_plan

    words = arguments.words
    if words and words[0].endswith(".yaml"):
        plan = read_plan(Path(words[0]), read_overrides(words[1:]))
        files = sorted((plan.folder / "report").glob("*"))
        analysis = analyse(collect(plan))
        _, unsent = mlflow_sync.send_study(plan, analysis, files, float("inf"))
        finished = [arm.folders[seed].run for arm, seed, _ in analysis.results.runs]
        sent = [path for path in finished if path not in unsent]
    else:
        sent, unsent = mlflow_sync.send_runs(list(map(Path, words)) or mlflow_sync.all_runs())
    say(f"MLflow holds {len(sent)} of {len(sent) + len(unsent)} runs")
    for path in unsent:
        say(f"not sent: {path}")
    return 1 if unsent else 0


def check_files(arguments: argparse.Namespace) -> int:
    from arinar_lab.config.build import build, check_resolution
    from arinar_lab.config.files import read_overrides
    from arinar_lab.config.yaml_reader import read_yaml
    from arinar_lab.errors import ConfigError
    from arinar_lab.study.plan import read_plan
    from arinar_lab.training.warm_start import matching_weights

    files = [word for word in arguments.words if "=" not in word]
    overrides = [word for word in arguments.words if "=" in word]
    if not files:
        raise ConfigError("check: name at least one recipe or study file")
    for file in map(Path, files):
        content = read_yaml(file)
        if "search" in content:
            # and Optuna, which studies are checked without
            from arinar_lab.sweep.sweep import read_sweep

            sweep = read_sweep(file, read_overrides(overrides))
            say(
                f"{file}: {len(sweep.parameters)} parameters to search, {len(sweep.targets)} × "
                f"{sweep.trials} trials"
            )
            for line in sweep.unreached:
                say(f"  {line}")
        elif {"base", "axes", "arms", "vary"} & content.keys():
            plan = read_plan(file, read_overrides(overrides))
            more = f" of {plan.baseline_seeds} seeds" if plan.baseline_seeds else ""
            say(
                f"{file}: {len(plan.arms)} arms × {len(plan.seeds)} seeds, baseline "
                f"{plan.baseline}{more}"
            )
            for arm in plan.arms:
                say(
                    f"  {arm.name:<40} {arm.parameters:>12,} parameters  "
                    f"{arm.recipe.training_signature}{arm.matched and '  ' + arm.matched}"
                )
            for line in plan.cautions:
                say(f"  {line}")
        else:
            recipe = _recipe(file, overrides)
            experiment = build(recipe, "meta")
            check_resolution(recipe, experiment)
            matching_weights(recipe, experiment)
            parameters = experiment.parameters
            say(f"{file}: {parameters:,} parameters  {recipe.training_signature}")
            say(f"  {recipe.training}")
    return 0


def notebooks(arguments: argparse.Namespace) -> int:
    from arinar_lab.cli.ablate import run_study
    from arinar_lab.cli.notebooks import execute_notebooks
    from arinar_lab.output.terminal import Terminal

    return execute_notebooks(arguments.study, Terminal(), run_study)


def bench(arguments: argparse.Namespace) -> int:
    from arinar_lab.benchmark import presets
    from arinar_lab.benchmark import report as bench_report
    from arinar_lab.benchmark.generation import BenchmarkOptions
    from arinar_lab.config.sections import Machine
    from arinar_lab.errors import ConfigError
    from arinar_lab.files.atomic import check_output
    from arinar_lab.hardware.device import device_of
    from arinar_lab.output.terminal import Terminal

    out: Path = arguments.out
    if out.suffix != ".json" or not out.parent.is_dir() or out.is_dir():
        raise ConfigError(f"--out: {str(out)!r} is no .json file in a folder that is there")
    check_output(out)
    device = device_of(Machine(arguments.device))
    options = BenchmarkOptions(device, None if arguments.full else 4, arguments.repeats)
    if arguments.profile:
        for path in presets.write_profiles(arguments.preset, options):
            say(path)
        return 0
    console, picture = Terminal(), arguments.out.with_suffix(".png")
    record = presets.run_benchmark(arguments.preset, options, arguments.out, console)
    bench_report.print_benchmark(record, console)
    bench_report.draw_throughput(record, picture)
    for path in (arguments.out, picture):
        say(path)
    return 0
