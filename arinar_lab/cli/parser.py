"""The words of the command line: which verbs there are, and what each takes."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

from ..files.workspace import HERE
from ..output.text import one_line, say
from ..variables import listing
from . import runs, studies

EPILOG = """\
examples:
  arinar ablate experiments/ablations/gmm_k.yaml            run a study; the same command resumes it
  arinar status experiments/ablations/gmm_k.yaml --watch    how far it is, and what failed
  arinar sweep sweeps/fid_speed.yaml                        search designs; the same command resumes
  arinar check experiments/*.yaml                           build everything, train nothing
  arinar train experiments/digits.yaml inner.head.components=8 seed=1
  arinar evaluate runs/digits-…/seed_1 sampler.guidance=2   another sampler, no training
  arinar cache experiments/imagenet256_arinar_b.yaml        encode every image once
  arinar sample runs/imagenet-…/seed_0 --per-class 50 --out samples.npz
  arinar evaluate runs/imagenet-…/seed_0 --quality --reference adm_in256_stats.npz
  arinar sample runs/digits-…/seed_1 sampler.temperature=0.9
  arinar compare runs/components=4-… runs/components=8-…    what differs, and whether it is resolved
"""


ABLATE = """\
overrides:
  training.steps=100                     a key of the base recipe, for arms that do not set it
  'inner.head.components=[1,16,64]'      other values of a varied key; 1,16,64 is the same
  baseline=components=1                  the arm to compare with, if the file's is gone
  'axes.outer.width=[32,64]'             one more axis, or other values; null takes an axis out
  arms.wide.outer.width=48               a key of one arm
  'seeds=[0,1,2,3]'                      any other key of the study

examples:
  arinar ablate experiments/ablations/gmm_k.yaml
  arinar ablate experiments/ablations/gmm_k.yaml inner.head.components=1,16,64 baseline=components=1
"""
SWEEP = """\
overrides:
  training.steps=100                     a key of the base recipe, for every trial
  'inner.head.components=[1,16]'         other choices of a searched key; one value as [16]
  'search.training.lr={log: [1e-4, 1e-2]}'   another range, or one more searched key
  search.training.lr=null                not searched any more
  trials=20                              any other key of the sweep

examples:
  arinar sweep sweeps/fid_speed.yaml
  arinar sweep sweeps/fid_speed.yaml 'inner.head.components=[1,16]' trials=20
"""

Verbs = Any
"""What argparse calls subparsers."""


class Parser(argparse.ArgumentParser):
    """A parser, and those of its verbs, that refuses bad words in one line."""

    def error(self, message: str) -> NoReturn:
        say(
            f"{self.prog}: {one_line(message)}; {self.prog} --help says what it takes",
            file=sys.stderr,
        )
        sys.exit(2)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line. `verb` of what it parses is the function to call."""
    variables = f"\nenvironment variables:\n{listing()}\n"
    whole = Parser(
        prog="arinar",
        description="Ablations of bi-level autoregressive image models.",
        epilog=EPILOG + variables,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = whole.add_subparsers(metavar="verb", required=True)

    for add in (_runs, _studies, _views, _checks, _speed, _images, _tools):
        add(verbs)

    return whole


def _verb(
    verbs: Verbs, name: str, function: Any, summary: str, *, many: bool = False
) -> argparse.ArgumentParser:
    """A verb that takes a file and overrides, or with `many` any number of both."""
    sub: argparse.ArgumentParser = verbs.add_parser(name, help=summary, description=summary)
    sub.set_defaults(verb=function)
    if many:
        sub.add_argument("words", nargs="+", metavar="FILE… key=value…")
    else:
        sub.add_argument("file", type=Path)
        _overrides(sub)

    return sub


def _runs(verbs: Verbs) -> None:
    """One run: train, evaluate, sample."""
    _verb(
        verbs,
        "train",
        runs.train_recipe,
        "train one recipe and evaluate it; the same command resumes",
    )

    evaluate = _verb(
        verbs,
        "evaluate",
        runs.evaluate,
        "evaluate a finished run, under its own or another sampler",
    )
    evaluate.add_argument(
        "--quality",
        action="store_true",
        help="measure FID and its kin against a reference, nothing else",
    )
    evaluate.add_argument(
        "--reference",
        type=Path,
        metavar="FILE",
        help=(
            "npz with mu and sigma (default: what arinar reference has made of the run's "
            "training images)"
        ),
    )
    evaluate.add_argument(
        "--ranges",
        type=_count,
        default=1,
        metavar="N",
        help="of seeds, for an interval (default 1)",
    )
    _protocol(evaluate)

    sample = _verb(
        verbs,
        "sample",
        runs.sample,
        "draw images from a finished run: a picture of all, a folder of PNGs, or an npz",
    )
    sample.add_argument("--count", type=_count, metavar="N", help="images to draw (default 100)")
    sample.add_argument(
        "--per-class", type=_count, metavar="N", help="of each class, in place of --count"
    )
    _helpers(sample)
    sample.add_argument("--seed", type=_seed, default=0, help="seed of the first image (default 0)")
    sample.add_argument(
        "--out",
        type=Path,
        default=Path("samples.png"),
        help="picture.png (default samples.png), images.npz or a folder",
    )


def _studies(verbs: Verbs) -> None:
    """Many runs: ablations and sweeps, their workers and reports."""
    ablate = _verb(
        verbs,
        "ablate",
        studies.ablate,
        "run a study to its verdict and report; the same command resumes",
    )
    ablate.epilog, ablate.formatter_class = ABLATE, argparse.RawDescriptionHelpFormatter
    ablate.add_argument(
        "--workers",
        type=_processes,
        default=2,
        metavar="N",
        help="processes that train side by side (default 2)",
    )
    ablate.add_argument(
        "--dry-run",
        action="store_true",
        help="print every arm with its cost and what the study can resolve, and write nothing",
    )
    ablate.add_argument(
        "--until-resolved",
        action="store_true",
        help="add seeds until each arm is better, worse or equivalent; every look is counted",
    )
    ablate.add_argument(
        "--at-most",
        type=_processes,
        metavar="N",
        help="seeds to which --until-resolved may go (default 12)",
    )
    _verbose(ablate)

    sweep = _verb(
        verbs,
        "sweep",
        studies.sweep,
        "search a space by Optuna, re-run the best and report; the same command resumes",
    )
    sweep.epilog, sweep.formatter_class = SWEEP, argparse.RawDescriptionHelpFormatter
    sweep.add_argument(
        "--workers",
        type=_processes,
        default=2,
        metavar="N",
        help="processes side by side (default 2)",
    )
    sweep.add_argument(
        "--dry-run",
        action="store_true",
        help="print trials, re-runs and the hours that they take, and write nothing",
    )

    _verb(
        verbs,
        "work",
        studies.work,
        "be one worker of a study or sweep (ablate and sweep start these)",
    )

    status = _verb(
        verbs,
        "status",
        studies.status,
        "say which runs of a study are done, running, waiting, failed or lost",
    )
    status.add_argument("--watch", action="store_true", help="until every run has ended")
    status.add_argument("--json", action="store_true", help="for machines")

    report = _verb(
        verbs,
        "report",
        studies.report,
        "write the report of what a study or sweep has finished, here or (by MLflow) elsewhere",
    )
    _verbose(report)


def _verbose(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--verbose",
        action="store_true",
        help="print the whole report of a study: table, differences, notes and paths; of a dry run "
        "every single run",
    )


def _views(verbs: Verbs) -> None:
    """Readers of what is finished, and the ways to other machines."""
    compare = verbs.add_parser(
        "compare", help="put finished runs or arms side by side: what differs, and is it resolved"
    )
    compare.add_argument(
        "words",
        nargs="+",
        metavar="RUN or STUDY:ARM",
        help="two or more; the first is the baseline",
    )
    compare.add_argument("--markdown", action="store_true", help="print Markdown")
    compare.set_defaults(verb=studies.compare)

    slurm = _verb(
        verbs,
        "slurm",
        studies.slurm,
        "write a Slurm job array whose tasks are workers of a study; submit it yourself",
    )
    slurm.add_argument(
        "--array", type=_count, default=4, metavar="N", help="tasks, each a worker (default 4)"
    )
    slurm.add_argument(
        "--time",
        default="24:00:00",
        metavar="LIMIT",
        help="of a task, as in sbatch (default 24:00:00)",
    )
    slurm.add_argument(
        "--gpus", type=_processes, default=0, metavar="N", help="of a task (default none)"
    )
    slurm.add_argument(
        "--partition", default="", metavar="NAME", help="Slurm's (default: its own choice)"
    )

    sync = verbs.add_parser(
        "sync", help="send to MLflow what is missing there, from the run folders"
    )
    sync.add_argument(
        "words",
        nargs="*",
        metavar="RUN… or FILE key=value…",
        help="runs, or one study (default: all runs)",
    )
    sync.set_defaults(verb=studies.sync)

    mlflow = verbs.add_parser(
        "mlflow", help="open the dashboard, at the newest study; it runs until you stop it"
    )
    mlflow.add_argument(
        "--port", type=_port, default=5000, metavar="N", help="on 127.0.0.1 (default 5000)"
    )
    mlflow.set_defaults(verb=studies.mlflow)

    dashboard = verbs.add_parser(
        "dashboard", help="open optuna-dashboard over a sweep's trials; it runs until you stop it"
    )
    dashboard.add_argument(
        "file", type=Path, nargs="?", help="of the sweep (default: all that ARINAR_STORAGE holds)"
    )
    _overrides(dashboard)
    dashboard.add_argument(
        "--port", type=_port, default=8080, metavar="N", help="on 127.0.0.1 (default 8080)"
    )
    dashboard.set_defaults(verb=studies.dashboard)


def _checks(verbs: Verbs) -> None:
    """Checks without training."""
    _verb(
        verbs,
        "diagnose",
        runs.diagnose,
        "say where a finished run goes wrong: by token, by feature, with true prefixes, "
        "under guidance",
    )

    _verb(
        verbs,
        "check",
        studies.check_files,
        "build recipes and every arm of studies without training",
        many=True,
    )


def _speed(verbs: Verbs) -> None:
    """The speed of the presets."""
    bench = verbs.add_parser(
        "bench", help="time the presets beside this machine's peak and the published algorithm"
    )
    bench.add_argument(
        "--preset",
        action="append",
        default=[],
        metavar="NAME",
        help="a recipe, shipped or a file; may be repeated",
    )
    bench.add_argument(
        "--device",
        choices=("auto", "cpu", "gpu"),
        default="auto",
        help="(default auto: a GPU if any)",
    )
    bench.add_argument(
        "--full", action="store_true", help="time every step of a walk, not a few of them"
    )
    bench.add_argument(
        "--repeats", type=_count, default=3, metavar="N", help="of each walk (default 3)"
    )
    bench.add_argument(
        "--profile", action="store_true", help="write docs/profiles/NAME.txt, and nothing else"
    )
    bench.add_argument(
        "--out",
        type=Path,
        default=Path("benchmarks.json"),
        help="record; a .png beside it (default benchmarks.json)",
    )
    bench.set_defaults(verb=studies.bench)


def _images(verbs: Verbs) -> None:
    """What images are turned into once: latents, reference statistics."""
    cache = _verb(
        verbs,
        "cache",
        runs.cache,
        "encode each image once, for training; the same command resumes, or helps one that runs",
    )
    cache.add_argument(
        "--out", type=Path, default=HERE.caches, help="folder of caches (default caches)"
    )
    cache.add_argument(
        "--batch", type=_count, default=32, metavar="N", help="images at a time (default 32)"
    )
    _helpers(cache)
    cache.add_argument(
        "--verify", action="store_true", help="read it all, and make anew what is damaged"
    )

    reference = verbs.add_parser(
        "reference", help="mean and covariance of features of images, to evaluate against"
    )
    reference.add_argument(
        "data", type=Path, metavar="DATA", help="a folder of images, an npz with arr_0, or a recipe"
    )
    _overrides(reference, "of a recipe")
    reference.add_argument(
        "--part", choices=("train", "held_out"), default="train", help="of a recipe (default train)"
    )
    reference.add_argument(
        "--out", type=Path, default=HERE.references, help="folder (default references)"
    )
    reference.add_argument(
        "--batch", type=_count, default=64, metavar="N", help="images at a time (default 64)"
    )
    _protocol(reference)
    reference.set_defaults(verb=runs.reference)


def _tools(verbs: Verbs) -> None:
    """Published checkpoints, notebooks, weights that ship."""
    convert = verbs.add_parser(
        "convert", help="write a published checkpoint as a run folder of ours"
    )
    convert.add_argument("checkpoint", type=Path)
    _overrides(convert, "where the checkpoint differs from the preset")
    convert.add_argument(
        "--preset",
        required=True,
        help="a recipe: imagenet256_arinar_b, imagenet256_mar_b, or a file",
    )
    convert.add_argument(
        "--weights",
        metavar="NAME",
        help="of the file, such as model (default: model_ema where it is, else model)",
    )
    convert.add_argument(
        "--out", type=Path, help="the run folder to write (default runs/CHECKPOINT/seed_0)"
    )
    convert.set_defaults(verb=runs.convert)

    notebooks = verbs.add_parser(
        "notebooks", help="execute the notebooks over a study, into studies/notebooks/"
    )
    notebooks.add_argument(
        "study", nargs="?", default="", help="its folder or file (default: the newest finished one)"
    )
    notebooks.set_defaults(verb=studies.notebooks)

    codec = _verb(
        verbs,
        "train-codec",
        runs.train_codec,
        "train an autoencoder of images; the same command goes on where it stopped",
    )
    codec.add_argument(
        "--out", type=Path, default=HERE.codecs, help="folder of autoencoders (default codecs)"
    )

    retrain = verbs.add_parser(
        "retrain", help="retrain the classifier in whose features distances are taken"
    )
    retrain.add_argument("name", choices=("digits", "fashion"))
    retrain.set_defaults(verb=runs.retrain)


def _overrides(sub: argparse.ArgumentParser, purpose: str | None = None) -> None:
    """Overrides after the file. purpose: their help; None shows none."""
    sub.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=purpose)


def _helpers(sub: argparse.ArgumentParser) -> None:
    """The number of processes that share a job."""
    sub.add_argument(
        "--workers", type=_processes, metavar="N", help="processes (default: one a GPU, or one)"
    )


def _protocol(sub: argparse.ArgumentParser) -> None:
    """The network of features, and the processes that share its work."""
    sub.add_argument(
        "--features",
        choices=("inception", "dinov2"),
        help="whose (default: the reference's, else inception: FID)",
    )
    sub.add_argument(
        "--weights", type=Path, metavar="FILE", help="of that network (default: downloaded once)"
    )
    sub.add_argument(
        "--layer",
        choices=("64", "192", "768", "2048"),
        help="of inception (default 2048: what FID is of)",
    )
    _helpers(sub)


def _whole(text: str, least: int, most: int, described: str) -> int:
    number = int(text) if re.fullmatch("[0-9]{1,18}", text) else -1
    if not least <= number <= most:
        shown = text if len(text) <= 40 else f"{text[:40]}…"
        raise argparse.ArgumentTypeError(f"{shown!r} is not a whole number of {described}")
    return number


def _count(text: str) -> int:
    return _whole(text, 1, 10**9, "1 … 10^9")


def _processes(text: str) -> int:
    return _whole(text, 1, 1024, "1 … 1024")


def _port(text: str) -> int:
    return _whole(text, 1, 65535, "1 … 65535")


def _seed(text: str) -> int:
    return _whole(text, 0, 2**32 - 1, "0 … 2^32 - 1")
