"""The command `arinar`. Verbs come first, then a file, then overrides as key=value; dashes are for options of the process.

Everything heavy is imported inside the verb that needs it, so that --help answers at once. Bad input is one line on
standard error and exit status 2, before anything is computed or written.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

EPILOG = """\
examples:
  arinar ablate experiments/ablations/gmm_k.yaml            run a study; the same command resumes it
  arinar status experiments/ablations/gmm_k.yaml --watch    how far it is, who runs what, what failed and why
  arinar sweep sweeps/fid_speed.yaml                        search designs by Optuna; the same command resumes it
  arinar check experiments/*.yaml                           build everything, train nothing
  arinar train experiments/digits.yaml inner.head.components=8 seed=1
  arinar evaluate runs/digits-…/seed_1 sampler.guidance=2   another sampler, no training
  arinar cache experiments/imagenet256_arinar_b.yaml        encode every image once; the same command resumes
  arinar sample runs/imagenet-…/seed_0 --per-class 50 --out samples.npz
  arinar evaluate runs/imagenet-…/seed_0 --quality --reference adm_in256_stats.npz
  arinar sample runs/digits-…/seed_1 sampler.temperature=0.9
  arinar compare runs/components=4-… runs/components=8-…    what differs, in configuration and result, and is it resolved
"""


def main(words: list[str] | None = None) -> None:
    """Run the command line and leave with its exit status."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(words)  # overrides may follow an option, too
    if rest and (not hasattr(arguments, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        if "ARINAR_HELPS" in os.environ:  # see run/blocks.py
            end_with(int(os.environ["ARINAR_HELPS"]))
        status = arguments.verb(arguments)
    except KeyboardInterrupt:
        print("Stopped. The same command goes on where it stopped.", file=sys.stderr)
        status = 130
    except Exception as error:
        from arinar_lab.run.schema import ConfigError

        if not isinstance(error, ConfigError) and type(error).__name__ not in ("Diverged", "Damaged"):
            raise
        print(f"arinar: {error}", file=sys.stderr)
        status = 2 if isinstance(error, ConfigError) else 1
    sys.exit(status or 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="arinar", description="Ablations of bi-level autoregressive image models.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verbs = parser.add_subparsers(metavar="verb", required=True)

    def verb(name: str, function: Any, summary: str, *, many: bool = False) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=summary, description=summary)
        sub.set_defaults(verb=function)
        if many:
            sub.add_argument("words", nargs="+", metavar="FILE… key=value…")
        else:
            sub.add_argument("file", type=Path)
            sub.add_argument("overrides", nargs="*", metavar="key=value")
        return sub

    verb("train", _train, "train one recipe and evaluate it; the same command resumes")
    evaluate = verb("evaluate", _evaluate, "evaluate a finished run, under its own or another sampler")
    evaluate.add_argument(
        "--quality", action="store_true", help="measure FID and its kin against a reference, nothing else"
    )
    evaluate.add_argument(
        "--reference", type=Path, metavar="FILE", help="npz with mu and sigma; arinar reference makes one"
    )
    evaluate.add_argument("--ranges", type=_count, default=1, metavar="N", help="of seeds, for an interval (default 1)")
    _protocol(evaluate)
    sample = verb("sample", _sample, "draw images from a finished run: a picture of all, a folder of PNGs, or an npz")
    sample.add_argument("--count", type=_count, metavar="N", help="images to draw (default 100)")
    sample.add_argument("--per-class", type=_count, metavar="N", help="of each class, in place of --count")
    sample.add_argument(
        "--workers", type=_count, default=1, metavar="N", help="processes, dealt out to the GPUs (default 1)"
    )
    sample.add_argument("--seed", type=_seed, default=0, help="seed of the first image (default 0)")
    sample.add_argument(
        "--out",
        type=Path,
        default=Path("samples.png"),
        help="picture.png (default samples.png), images.npz or a folder",
    )
    ablate = verb("ablate", _ablate, "run a study to its table and figure; the same command resumes")
    ablate.add_argument(
        "--workers", type=_count, default=2, metavar="N", help="processes that train side by side (default 2)"
    )
    ablate.add_argument("--dry-run", action="store_true", help="print every cell with its cost, and write nothing")
    sweep = verb("sweep", _sweep, "search a space by Optuna, re-run the best and report; the same command resumes")
    sweep.add_argument("--workers", type=_count, default=2, metavar="N", help="processes side by side (default 2)")
    verb("work", _work, "be one worker of a study or sweep (ablate and sweep start these)")
    status = verb("status", _status, "say which runs of a study are done, running, waiting, failed or lost")
    status.add_argument("--watch", action="store_true", help="until every run has ended")
    status.add_argument("--json", action="store_true", help="for machines")
    verb("report", _report, "write the report of what a study or sweep has finished, here or (by MLflow) elsewhere")
    compare = verbs.add_parser(
        "compare", help="put finished runs or arms side by side: what differs, and is it resolved"
    )
    compare.add_argument("words", nargs="+", metavar="RUN or STUDY:ARM", help="two or more; the first is the baseline")
    compare.add_argument("--markdown", action="store_true", help="print Markdown")
    compare.set_defaults(verb=_compare)
    slurm = verb("slurm", _slurm, "write a Slurm job array whose tasks are workers of a study; submit it yourself")
    slurm.add_argument("--array", type=_count, default=4, metavar="N", help="tasks, each a worker (default 4)")
    slurm.add_argument("--time", default="24:00:00", metavar="LIMIT", help="of a task, as in sbatch (default 24:00:00)")
    slurm.add_argument("--gpus", type=_count, default=0, metavar="N", help="of a task (default none)")
    slurm.add_argument("--partition", default="", metavar="NAME", help="Slurm's (default: its own choice)")
    sync = verbs.add_parser("sync", help="send to MLflow what is missing there, from the run folders")
    sync.add_argument(
        "words", nargs="*", metavar="RUN… or FILE key=value…", help="runs, or one study (default: all runs)"
    )
    sync.set_defaults(verb=_sync)
    mlflow = verbs.add_parser("mlflow", help="open the dashboard, at the newest study; it runs until you stop it")
    mlflow.add_argument("--port", type=_count, default=5000, metavar="N", help="on 127.0.0.1 (default 5000)")
    mlflow.set_defaults(verb=_mlflow)
    verb(
        "diagnose",
        _diagnose,
        "say where a finished run goes wrong: by token, by feature, with true prefixes, under guidance",
    )
    verb("check", _check, "build recipes and every arm of studies without training", many=True)
    cache = verb(
        "cache", _cache, "encode each image once, for training; the same command resumes, or helps one that runs"
    )
    cache.add_argument("--out", type=Path, default=Path("caches"), help="folder of caches (default caches)")
    cache.add_argument("--batch", type=_count, default=32, metavar="N", help="images at a time (default 32)")
    cache.add_argument(
        "--workers", type=_count, default=1, metavar="N", help="processes, dealt out to the GPUs (default 1)"
    )
    cache.add_argument("--verify", action="store_true", help="read it all, and make anew what is damaged")
    reference = verbs.add_parser("reference", help="mean and covariance of Inception features, to evaluate against")
    reference.add_argument("data", type=Path, metavar="DATA", help="a folder of images, an npz with arr_0, or a recipe")
    reference.add_argument("--part", choices=("train", "held_out"), default="train", help="of a recipe (default train)")
    reference.add_argument("--out", type=Path, default=Path("references"), help="folder (default references)")
    reference.add_argument("--batch", type=_count, default=64, metavar="N", help="images at a time (default 64)")
    _protocol(reference)
    reference.set_defaults(verb=_reference)
    convert = verbs.add_parser("convert", help="write a published checkpoint as a run folder of ours")
    convert.add_argument("checkpoint", type=Path)
    convert.add_argument(
        "overrides", nargs="*", metavar="key=value", help="where the checkpoint differs from the preset"
    )
    convert.add_argument("--preset", required=True, help="a recipe: imagenet256_arinar_b, imagenet256_mar_b, or a file")
    convert.add_argument(
        "--weights", default="model_ema", metavar="NAME", help="model_ema (default: averaged) or model"
    )
    convert.add_argument("--out", type=Path, help="the run folder to write (default runs/CHECKPOINT/seed_0)")
    convert.set_defaults(verb=_convert)
    notebooks = verbs.add_parser("notebooks", help="execute the notebooks over a study, into studies/notebooks/")
    notebooks.add_argument("study", nargs="?", default="", help="its folder or file (default: the newest finished one)")
    notebooks.set_defaults(verb=_notebooks)
    retrain = verbs.add_parser("retrain", help="retrain weights that ship with the package")
    retrain.add_argument("name", choices=("digits_classifier", "digits_vae"))
    retrain.set_defaults(verb=_retrain)
    return parser


def _protocol(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--inception", type=Path, metavar="FILE", help="its weights (default: torch-fidelity's, downloaded once)"
    )
    sub.add_argument(
        "--layer", choices=("64", "192", "768", "2048"), help="its features (default 2048: what FID is of)"
    )
    sub.add_argument(
        "--workers", type=_count, default=1, metavar="N", help="processes, dealt out to the GPUs (default 1)"
    )


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdigit() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 … 2^32 - 1")
    return int(text)


def _recipe(path: Path, overrides: list[str]) -> Any:
    from arinar_lab.run.config import merge, parse, read_overrides, read_recipe
    from arinar_lab.run.schema import ConfigError

    content = merge(read_recipe(path), read_overrides(overrides))
    try:
        return parse(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _train(arguments: argparse.Namespace) -> int:
    recipe = _recipe(arguments.file, arguments.overrides)
    from arinar_lab.run.config import build, check_resolution, ready
    from arinar_lab.run.evaluate import measure_speed
    from arinar_lab.run.folder import RunFolder
    from arinar_lab.run.perform import perform
    from arinar_lab.run.tracking import Tracker
    from arinar_lab.run.train import check_machine, read_metrics
    from arinar_lab.run.transfer import inherited

    check_machine(recipe)
    experiment = build(recipe, "meta")
    check_resolution(recipe, experiment)
    inherited(recipe, experiment)
    ready(experiment)
    name = arguments.file.stem
    folder = RunFolder.of(recipe, name)
    print(f"run folder: {folder.path}")
    if not perform([recipe], folder, name, name, bar=sys.stdout.isatty()):
        return 0
    report = measure_speed(recipe, folder)
    if not Tracker(name).publish(recipe, name, folder, read_metrics):
        print(f"not sent to MLflow: {folder.path}; arinar sync {folder.path} sends it")
    _show(report, folder.evaluation(recipe))
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from arinar_lab.run.evaluate import evaluate, measure_speed

    folder, recipe = _trained(arguments)
    if arguments.quality:
        return _quality(arguments, folder, recipe)
    with folder.lock:
        evaluate(recipe, folder)
        report = measure_speed(recipe, folder)
    _show(report, folder.evaluation(recipe))
    return 0


def _quality(arguments: argparse.Namespace, folder: Any, recipe: Any) -> int:
    from arinar_lab.run.blocks import company, shown
    from arinar_lab.run.fidelity import Reference
    from arinar_lab.run.quality import measure_quality
    from arinar_lab.run.schema import ConfigError

    if arguments.reference is None:
        raise ConfigError("--reference: missing; name an npz with mu and sigma (arinar reference DATA makes one)")
    extractor = _extractor(arguments, recipe.machine)
    reference = Reference.read(arguments.reference, extractor)
    with company(arguments.workers), shown("images") as told:
        report = measure_quality(recipe, folder, reference, extractor, arguments.ranges, told)
    _show(report, folder.evaluation(recipe))
    return 0


def _extractor(arguments: argparse.Namespace, machine: Any) -> Any:
    from arinar_lab.run.fidelity import Extractor, inception_weights
    from arinar_lab.run.train import device_of

    weights = inception_weights(arguments.inception)
    return Extractor(layer=arguments.layer, weights=weights, device=device_of(machine).type)


def _reference(arguments: argparse.Namespace) -> int:
    from arinar_lab.run.blocks import company, shown
    from arinar_lab.run.collection import collection
    from arinar_lab.run.config import Machine
    from arinar_lab.run.reference import make_reference

    images, extractor = collection(arguments.data, arguments.part), _extractor(arguments, Machine())
    with company(arguments.workers), shown(str(arguments.data)) as told:
        path = make_reference(images, extractor, arguments.out, arguments.batch, told)
    print(f"{path}: {len(images):,} images, features of {extractor.signature}")
    return 0


def _trained(arguments: argparse.Namespace) -> Any:
    """The run folder that is named, and its recipe under the overrides, none of which may concern training."""
    from arinar_lab.run.folder import find
    from arinar_lab.run.schema import ConfigError

    folder = find(arguments.file)
    recipe = _recipe(folder.path / "config.yaml", arguments.overrides)
    trained = _recipe(folder.path / "config.yaml", [])
    if (recipe.training_signature, recipe.seed) != (trained.training_signature, trained.seed):
        raise ConfigError(
            f"{folder.path}: was trained otherwise; only sampler, evaluation and machine may be overridden here"
        )
    if not folder.done:
        raise ConfigError(f"{folder.path}: has not finished training; train it to its end first")
    return folder, recipe


def _show(report: dict[str, Any], where: Path) -> None:
    """The numbers of a report, with their units."""
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "value", "unit")
    for name, value in report["metrics"].items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else f"{value:.4g}", report["units"][name])
    console = Console()
    console.print(table)
    if said := report.get("likelihood"):
        steps = f", {said['steps']} steps" if said["steps"] else ""
        console.print(
            f"likelihood: {said['kind']}, {said['unit']}{steps}, {said['images']} held-out items",
            highlight=False,
        )
    else:
        against, n, seed = report["reference"], report["images"], report["seed"]
        console.print(f"{n} images a range, seeds from {seed} on, against {against['file']}", highlight=False)
        if "kid_subset" not in against:
            console.print("KID, precision and recall need the reference's features, and it has none", highlight=False)
    for path in (where / report.get("file", "report.json"), where / "samples" / "grid.png"):
        if path.exists():
            console.print(str(path), soft_wrap=True, highlight=False)


def _sample(arguments: argparse.Namespace) -> int:
    from arinar_lab.run.blocks import company, shown
    from arinar_lab.run.evaluate import load
    from arinar_lab.run.sampling import draw_grid, sample
    from arinar_lab.run.schema import ConfigError

    folder, recipe = _trained(arguments)
    out, picture = arguments.out, arguments.out.suffix.lower() in (".png", ".jpg")
    if out.suffix and not picture and out.suffix != ".npz":
        raise ConfigError(f"--out: {str(out)!r} is not a .png, .jpg or .npz file, nor a folder")
    if not out.parent.is_dir():
        raise ConfigError(f"--out: {str(out.parent)!r} is not a folder")
    experiment = load(recipe, folder)
    if not experiment.source.levels:
        raise ConfigError(f"{folder.path}: models tokens, which have no picture")
    count = arguments.count or 100
    if arguments.per_class:
        count = arguments.per_class * experiment.source.classes
        if arguments.count not in (None, count):
            raise ConfigError(
                f"--count: {arguments.count} is not {arguments.per_class} of each of {experiment.source.classes} classes"
            )
    seeds = range(arguments.seed, arguments.seed + count)
    if picture:
        draw_grid(recipe, experiment, seeds, out)
    else:
        with company(arguments.workers), shown(str(out)) as told:
            sample(recipe, folder, experiment, seeds, out, told)
    print(out)
    return 0


def _plan(arguments: argparse.Namespace) -> Any:
    from arinar_lab.run.config import read_overrides
    from arinar_lab.study.plan import read_plan

    return read_plan(arguments.file, read_overrides(arguments.overrides))


def _ablate(arguments: argparse.Namespace) -> int:
    plan = _plan(arguments)
    from rich.console import Console

    from arinar_lab.study.ablate import ablate, dry_run
    from arinar_lab.study.status import remember

    if arguments.dry_run:
        return dry_run(plan, arguments.workers, Console())
    remember(plan, arguments.file, arguments.overrides)
    return ablate(plan, _worker(arguments), arguments.workers, Console())


def _status(arguments: argparse.Namespace) -> int:
    from arinar_lab.study.status import show

    return show(arguments.file, arguments.overrides, lambda: _plan(arguments), arguments.watch, arguments.json)


def _is_sweep(file: Path) -> bool:
    from arinar_lab.run.config import read_yaml

    return "search" in read_yaml(file)


def _read_sweep(arguments: argparse.Namespace) -> Any:
    from arinar_lab.run.config import read_overrides
    from arinar_lab.study.search import read_sweep

    return read_sweep(arguments.file, read_overrides(arguments.overrides))


def _sweep(arguments: argparse.Namespace) -> int:
    plan = _read_sweep(arguments)
    from rich.console import Console

    from arinar_lab.study.sweep import sweep

    return sweep(plan, _worker(arguments), arguments.workers, Console())


def _work(arguments: argparse.Namespace) -> int:
    from arinar_lab.run.ranks import JOB, follows
    from arinar_lab.run.train import train
    from arinar_lab.study import trials, worker

    parent = str(os.getppid()) if follows() else os.environ.get("ARINAR_PARENT")
    if parent:
        end_with(int(parent))
    if _is_sweep(arguments.file):
        trials.work(_read_sweep(arguments))
        return 0
    plan = _plan(arguments)
    if follows():  # started by the worker that has claimed the run
        job = next(job for job in plan.jobs if job.key == os.environ[JOB])
        train(job.recipes[0], job.folder)
        return 0
    if not parent:
        worker.join(plan)
    failed = worker.work(plan)
    for line in failed:
        print(f"failed: {line}")
    return 1 if failed else 0


def end_with(parent: int) -> None:
    """End this process as by SIGTERM (which saves a checkpoint) when its parent is gone, however that ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _report(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    if _is_sweep(arguments.file):
        from arinar_lab.study import sweep_report

        return sweep_report.finish(_read_sweep(arguments), Console())
    from arinar_lab.study.ablate import finish
    from arinar_lab.study.sync import fetch

    plan = _plan(arguments)
    for folder in fetch(plan):
        print(f"fetched from MLflow: {folder.path}")
    return finish(plan, Console())


def _compare(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from arinar_lab.study.compare import show

    show(arguments.words, Console(), arguments.markdown)
    return 0


def _mlflow(arguments: argparse.Namespace) -> int:
    from arinar_lab.run.dashboard import serve

    serve(arguments.port)
    return 0


def _slurm(arguments: argparse.Namespace) -> int:
    from arinar_lab.study.slurm import Options, write_script
    from arinar_lab.study.worker import enqueue

    options = Options(arguments.array, arguments.time, arguments.gpus, arguments.partition)
    plan = _plan(arguments)
    todo = enqueue(plan)
    path = write_script(plan, _worker(arguments), options)
    print(f"{path}: {len(todo)} runs wait for {options.array} workers; submit it with: sbatch {path}")
    return 0


def _worker(arguments: argparse.Namespace) -> list[str]:
    """The words that start one worker of a study."""
    return [sys.executable, "-m", "arinar_lab", "work", str(arguments.file), *arguments.overrides]


def _sync(arguments: argparse.Namespace) -> int:
    from arinar_lab.run.config import read_overrides
    from arinar_lab.study import sync
    from arinar_lab.study.plan import read_plan

    words = arguments.words
    if words and words[0].endswith(".yaml"):
        plan = read_plan(Path(words[0]), read_overrides(words[1:]))
        files = sorted((plan.folder / "report").glob("*"))
        cells = [plan.cell(arm, seed) for arm in plan.arms for seed in plan.seeds]
        _, unsent = sync.send_study(plan, files, float("inf"))
        there = [folder.path for folder, recipe in cells if folder.report(recipe)]
        sent = [path for path in there if path not in unsent]
    else:
        sent, unsent = sync.send_runs([Path(word) for word in words] or sync.all_runs())
    print(f"MLflow holds {len(sent)} of {len(sent) + len(unsent)} runs")
    for path in unsent:
        print(f"not sent: {path}")
    return 1 if unsent else 0


def _check(arguments: argparse.Namespace) -> int:
    from arinar_lab.run.config import build, check_resolution, read_overrides, read_yaml
    from arinar_lab.run.schema import ConfigError
    from arinar_lab.run.transfer import inherited
    from arinar_lab.study.plan import read_plan
    from arinar_lab.study.search import read_sweep

    files = [word for word in arguments.words if "=" not in word]
    overrides = [word for word in arguments.words if "=" in word]
    if not files:
        raise ConfigError("check: name at least one recipe or study file")
    for file in map(Path, files):
        content = read_yaml(file)
        if "search" in content:
            sweep = read_sweep(file, read_overrides(overrides))
            print(f"{file}: {len(sweep.parameters)} parameters to search, {len(sweep.targets)} × {sweep.trials} trials")
        elif {"base", "axes", "arms", "vary"} & content.keys():
            plan = read_plan(file, read_overrides(overrides))
            print(f"{file}: {len(plan.arms)} arms × {len(plan.seeds)} seeds, baseline {plan.baseline}")
            for arm in plan.arms:
                print(
                    f"  {arm.name:<40} {arm.parameters:>12,} parameters  {arm.recipe.training_signature}"
                    f"{arm.matched and '  ' + arm.matched}"
                )
        else:
            recipe = _recipe(file, overrides)
            experiment = build(recipe, "meta")
            check_resolution(recipe, experiment)
            inherited(recipe, experiment)
            parameters = experiment.parameters
            print(f"{file}: {parameters:,} parameters  {recipe.training_signature}")
    return 0


def _diagnose(arguments: argparse.Namespace) -> int:
    from arinar_lab.run.diagnose import guidance, prefix
    from arinar_lab.run.evaluate import evaluate, load
    from arinar_lab.run.figures import draw_diagnosis
    from arinar_lab.run.folder import write_json

    folder, recipe = _trained(arguments)
    with folder.lock:
        report, where = evaluate(recipe, folder), folder.evaluation(recipe)
        experiment = load(recipe, folder)
        found = {"prefix": prefix(recipe, experiment), "guidance": guidance(recipe, experiment)}
        write_json(where / "diagnosis.json", found)
        draw_diagnosis(report, found, where / "diagnosis.png")
    for path in (where / "diagnosis.json", where / "diagnosis.png"):
        print(path)
    return 0


def _cache(arguments: argparse.Namespace) -> int:
    recipe = _recipe(arguments.file, arguments.overrides)
    from arinar_lab.run.blocks import company, damaged, forget, shown
    from arinar_lab.run.cache import Plan, write_cache

    plan = Plan.of(recipe, arguments.file.stem, arguments.out)
    files = [file for file, _, _ in plan.files]
    if arguments.verify:
        for file in damaged(files):
            print(f"{file}: damaged, made anew")
            forget([file])
    with company(arguments.workers), shown(str(plan.folder)) as told:
        write_cache(plan, arguments.batch, told)
    size = sum(file.stat().st_size for file in files) / 1e6
    print(
        f"{plan.folder}: {plan.items:,} images, {size:,.1f} MB; 'data={{kind: cache, path: {plan.folder}}}' trains on it"
    )
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from arinar_lab.run.config import preset
    from arinar_lab.run.convert import convert
    from arinar_lab.run.schema import flatten, resolved

    recipe = _recipe(preset(arguments.preset), arguments.overrides)
    out = arguments.out or Path("runs") / arguments.checkpoint.stem / f"seed_{recipe.seed}"
    print(convert(arguments.checkpoint, recipe, out, arguments.weights).path)
    heads = [f"{key}={value}" for key, value in flatten(resolved(recipe)).items() if key.endswith(".heads")]
    print(
        f"A checkpoint does not tell how many attention heads it was trained with; the recipe says {', '.join(heads)}."
    )
    return 0


def _notebooks(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from arinar_lab.study.notebooks import execute

    return execute(arguments.study, Console())


def _retrain(arguments: argparse.Namespace) -> int:
    from arinar_lab.run.assets import retrain

    print(retrain(arguments.name))
    return 0
