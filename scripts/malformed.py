"""Malformed inputs for every verb of the command line: words, options, files, data and run folders.

A case is a command and what is spoilt before it runs. `cases` makes them all, shuffled by a seed.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from arinar_lab.cli.parser import parser

Spoil = Callable[[Path, random.Random], None]
"""Changes a copy of the workspace."""

RECIPE = """\
data: digits
codec: {kind: pixels, patch: 2}
labels: {drop: 0.1}
outer: {kind: causal, width: 16, depth: 1, heads: 2, norm: layer, qk_norm: true}
inner: {kind: feature_ar, width: 8, depth: 1, heads: 2, head: {kind: gmm, components: 2}}
training: {steps: 2, batch: 32, lr: 3.0e-3, warmup: 1, checkpoint_every: 1, validate_every: 2}
sampler: {guidance: 1.0}
evaluation: {images: 60, draws: 1, kid_subset: 10, speed_batch: 4, speed_repeats: 1}
machine: {accelerator: cpu}
"""
STUDY = """\
question: How many?
base: recipe.yaml
axes: {inner.head.components: [1, 2]}
baseline: components=2
seeds: [0]
"""
SWEEP = """\
question: What does speed cost?
base: recipe.yaml
search:
  inner.head.components: {categorical: [1, 2]}
  sampler.temperature: {float: [0.8, 1.1]}
objectives:
  - {metric: val/bits_per_dim, direction: minimize}
algorithm: random
trials: 2
hours: 0.01
seeds: [1]
"""
VALUES = (
    "",
    " ",
    "-1",
    "0",
    "1e400",
    "-1e400",
    ".inf",
    ".nan",
    "nan",
    "1e-3x",
    "0x",
    "010",
    "08",
    "1:30",
    "1_000",
    "+1",
    "9" * 30,
    "9" * 5000,
    "null",
    "~",
    "true",
    "yes",
    "on",
    "off",
    "abc",
    "[]",
    "{}",
    "[1",
    "{a: b",
    "[1,2,3]",
    "{kind: none}",
    "{kind: gmm, nonsense: 1}",
    "'",
    '"',
    "a: b: c",
    "- x",
    "&a [*a]",
    "*b",
    "!!python/object:os.system x",
    "!!binary aGk=",
    "${nothing}",
    "${oc.env:NOTHING}",
    "${",
    "%",
    "@",
    "`id`",
    "$(id)",
    "a\nb",
    "a\tb",
    "\x1b[31mred",
    "[" * 3000,
    "{a: " * 1500,
    "é",
    "日本",
    "../../etc/passwd",
    "/dev/null",
    "x" * 5000,
    "2020-01-01",
    "1,2",
    "=",
    "==",
    "[bold]x",
    "1.5",
    "1e3",
    "-0",
    "kind",
    "{1: 2}",
    "[[[1]]]",
    "\x7f",
    "\u202e",
    "#",
    "?",
    "|",
    ">",
    "---",
    "...",
)
KEYS = (
    "", ".", "a.", ".a", "a..b", "training", "training.steps", "training.batch", "training.lr",
    "training.warmup", "training.schedule", "training.betas", "training.clip", "training.ema",
    "training.precision", "seed", "seeds", "data", "data.path", "data.kind", "codec",
    "codec.patch", "codec.weights", "codec.normalise", "labels.drop", "outer", "outer.width",
    "outer.heads", "outer.norm", "outer.positions", "inner", "inner.group", "inner.order",
    "inner.trunk", "inner.head", "inner.head.kind", "inner.head.components", "inner.head.min_std",
    "sampler", "sampler.guidance", "sampler.temperature", "sampler.steps", "sampler.schedule",
    "evaluation.images", "evaluation.draws", "evaluation.precision", "evaluation.reference",
    "evaluation.resolution", "evaluation.seed", "machine.threads", "machine.devices",
    "machine.workers", "machine.accelerator", "init_from", "freeze", "extends", "axes",
    "baseline", "arms", "vary", "budget", "question", "base", "search", "trials", "hours",
    "objectives", "constraints", "storage", "references", "algorithm", "axes.inner.head.components",
    "nonsense", "training.nonsense", "inner.head.components.deep", "__class__",
)  # fmt: skip
OPTION_VALUES = (
    "",
    "0",
    "-1",
    "1.5",
    "abc",
    "9" * 30,
    "9" * 5000,
    "٣",
    "²",
    "1e3",
    "nan",
    "/dev/null",
    "/proc/1/x.png",
    "x" * 300,
    ".",
    "..",
    "/",
    "missing/folder/x",
    "recipe.yaml",
    "a\nb",
    "é",
    "$(id)",
    "70000",
    "loop",
    "x.gif",
    "x.npz",
    " ",
    "\x1b[31m",
)
FILE_VERBS = (
    "train",
    "ablate",
    "sweep",
    "work",
    "status",
    "report",
    "slurm",
    "dashboard",
    "check",
    "cache",
    "reference",
    "sync",
    "evaluate",
    "sample",
    "diagnose",
    "compare",
    "notebooks",
)
SERVERS = ("mlflow", "dashboard", "retrain", "bench", "notebooks")
"""Verbs that run on when their words are good: their options are spoilt, and nothing else."""


@dataclass(frozen=True)
class Case:
    """A command on a spoilt copy of the workspace.

    Arguments:
        verb: which; kind: what is malformed, for the table; words: of the command, the verb first.
        spoil: what is done to the copy before; seed: of its random choices.
    """

    verb: str
    kind: str
    words: tuple[str, ...]
    spoil: Spoil | None = None
    seed: int = 0


def make_workspace(folder: Path) -> None:
    """Write the good inputs that cases spoil: recipes, images, arrays, a checkpoint."""
    numbers = np.random.default_rng(0)
    for name, text in {"recipe": RECIPE, "study": STUDY, "sweep": SWEEP}.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")

    for part in ("train", "val"):
        for label in "ab":
            place = folder / "images" / part / label
            place.mkdir(parents=True)
            for number in range(4):
                pixels = numbers.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")

    arrays = folder / "arrays"
    arrays.mkdir()
    for part, count in {"train": 64, "val": 16}.items():
        np.save(
            arrays / f"{part}_images.npy",
            numbers.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8),
        )
        np.save(arrays / f"{part}_labels.npy", numbers.integers(0, 2, count))

    np.savez(folder / "reference.npz", mu=np.zeros(64), sigma=np.eye(64))
    np.savez(folder / "images.npz", arr_0=numbers.integers(0, 256, (20, 16, 16, 3), dtype=np.uint8))
    torch.save({"model": {"weight": torch.zeros(2)}}, folder / "checkpoint.pth")


def cases(run: str, seed: int) -> list[Case]:
    """Every case, shuffled by the seed. run: the run folder of the workspace, relative to it."""
    made = [
        *_overrides(run),
        *_options(run),
        *_files(run),
        *_mutations(run),
        *_data(run),
        *_run_folders(run),
        *_shapes(),
    ]
    random.Random(seed).shuffle(made)

    return made


def _targets(run: str) -> dict[str, str]:
    """A good first word for each verb that takes one."""
    studies = dict.fromkeys(
        ("ablate", "work", "status", "report", "slurm", "dashboard", "sync"), "study.yaml"
    )
    runs = dict.fromkeys(("evaluate", "sample", "diagnose"), run)
    recipes = dict.fromkeys(("train", "check", "cache", "reference"), "recipe.yaml")
    return {**studies, **runs, **recipes, "sweep": "sweep.yaml"}


def _overrides(run: str) -> Iterator[Case]:
    """A key with a value that it cannot take, or cannot be read; words that are no override."""
    targets = _targets(run)
    for number, key in enumerate(KEYS):
        for shift, value in enumerate(VALUES):
            if (number * 7 + shift) % 4:  # a quarter of the pairs
                continue
            verb = list(targets)[(number + shift) % len(targets)]
            if verb != "dashboard":
                yield Case(verb, "override", (verb, targets[verb], f"{key}={value}"))

    del targets["dashboard"]  # it runs on where words after the file are good
    for verb, target in targets.items():
        for word in (
            "=",
            "=1",
            "a",
            "a=b=c",
            "--nonsense",
            "-x",
            "--",
            "a.b",
            "training.steps",
            "\n",
            "é=1",
            "[x]=1",
        ):
            yield Case(verb, "word", (verb, target, word))


def _options(run: str) -> Iterator[Case]:
    """Each option of each verb, as the parser lists them, with values that it cannot take."""
    targets = {**_targets(run), "convert": "checkpoint.pth"}
    (verbs,) = (
        action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    for verb, sub in verbs.choices.items():
        first = (targets[verb],) if verb in targets else ()
        for option in sub._actions:
            if not option.option_strings or option.dest == "help":
                continue
            name = option.option_strings[-1]
            if option.nargs == 0:
                yield Case(verb, "option", (verb, *first, f"{name}=1"))
                continue
            yield Case(verb, "option", (verb, *first, name))
            for value in OPTION_VALUES:
                if verb in SERVERS and value in ("70000", ".", "..", "/", " ") and name == "--port":
                    continue
                yield Case(verb, "option", (verb, *first, f"{name}={value}"), _make_loop)


def _make_loop(folder: Path, _: random.Random) -> None:
    (folder / "loop").symlink_to("loop")


FILES: dict[str, bytes | Callable[[Path], None]] = {
    "empty": b"",
    "blank": b"  \n\n",
    "binary": bytes(range(256)) * 8,
    "zeros": bytes(4096),
    "latin-1": "question: \xe9\nbase: recipe.yaml\n".encode("latin-1"),
    "utf-16": RECIPE.encode("utf-16"),
    "a list": b"- a\n- b\n",
    "a word": b"word\n",
    "a number": b"3\n",
    "null": b"null\n",
    "an open bracket": b"data: [1, 2\n",
    "an open quote": b'data: "digits\n',
    "a tab": b"data:\n\tkind: digits\n",
    "an alias": b"data: *nothing\n",
    "an alias of itself": b"data: &a [*a]\n",
    "many aliases": b"a: &a [x]\n"
    + b"".join(b"%c: &%c [*%c,*%c]\n" % (c, c, c - 1, c - 1) for c in range(98, 123)),
    "a python object": b"data: !!python/object/apply:os.system ['true']\n",
    "a key twice": b"data: digits\ndata: synthetic\n",
    "nesting": b"data: " + b"[" * 3000 + b"]" * 3000 + b"\n",
    "nested keys": b"data: " + b"{a: " * 3000 + b"1" + b"}" * 3000 + b"\n",
    "a long number": b"seed: " + b"9" * 5000 + b"\n",
    "a long line": b"question: " + b"x" * 1_000_000 + b"\n",
    "an unknown key": b"nonsense: 1\n",
    "keys that are no words": b"1: 2\nnull: 3\n[a]: 4\n",
    "an open interpolation": b"data: ${nothing}\n",
    "an endless interpolation": b"data: ${codec}\ncodec: ${data}\n",
    "extends itself": b"extends: spoilt.yaml\n",
    "extends nothing": b"extends: missing.yaml\n",
    "extends a list": b"extends: [recipe.yaml]\n",
    "extends a folder": b"extends: images\n",
    "a base that is missing": b"base: missing.yaml\naxes: {seed: [1]}\n",
    "a base that is itself": b"base: spoilt.yaml\naxes: {training.lr: [1]}\n",
    "an axis of nothing": b"base: recipe.yaml\naxes: {training.lr: []}\n",
    "an axis of words": b"base: recipe.yaml\naxes: {training.lr: [a, b]}\n",
    "an axis that is none": b"base: recipe.yaml\naxes: 3\n",
    "seeds of words": b"base: recipe.yaml\naxes: {training.lr: [0.1]}\nseeds: [a]\n",
    "an axis of seeds": b"base: recipe.yaml\naxes: {seed: %a}\n" % list(range(30)),
    "no such baseline": b"base: recipe.yaml\naxes: {training.lr: [0.1]}\nbaseline: nothing\n",
    "a search of nothing": b"base: recipe.yaml\nsearch: {}\n",
    "a search of words": b"base: recipe.yaml\nsearch: {training.lr: word}\nobjectives: []\n",
    "two documents": b"data: digits\n---\ndata: digits\n",
    "a merge of nothing": b"<<: word\ndata: digits\n",
    "a date": b"seed: 2020-01-01\n",
    "a set": b"data: !!set {digits}\n",
    "a folder": lambda path: path.mkdir(),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a pipe": lambda path: os.mkfifo(path),
    "a device": lambda path: path.symlink_to("/dev/null"),
}


def _files(run: str) -> Iterator[Case]:
    """A broken file, or no file, in the place of the verb's first word."""
    for verb in FILE_VERBS:
        for kind, content in FILES.items():
            yield Case(
                verb, f"file: {kind}", (verb, "spoilt.yaml"), _placed("spoilt.yaml", content)
            )
        for name in (
            "missing.yaml",
            "",
            "x" * 300,
            "x" * 300 + ".yaml",
            "é.yaml",
            "recipe.yaml/",
            "/",
            "..",
            "-",
            "~",
            "a:b",
        ):
            if (verb, name) != ("notebooks", ""):  # that is the newest study
                yield Case(verb, "file: none", (verb, name))

    for kind, content in FILES.items():
        words = ("convert", "checkpoint.pth", "--preset", "spoilt.yaml")
        yield Case("convert", f"preset: {kind}", words, _placed("spoilt.yaml", content))
        words = ("convert", "spoilt.pth", "--preset", "recipe.yaml")
        yield Case("convert", f"checkpoint: {kind}", words, _placed("spoilt.pth", content))


def _placed(name: str, content: bytes | Callable[[Path], None]) -> Spoil:
    def spoil(folder: Path, _: random.Random) -> None:
        path = folder / name
        if path.exists() or path.is_symlink():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        else:
            path.write_bytes(content)

    return spoil


def _mutations(run: str) -> Iterator[Case]:
    """A good file with bytes flipped, cut short, or with lines that are lost, doubled or moved."""
    for verb, target in _targets(run).items():
        if target.endswith(".yaml") and verb != "dashboard":
            for seed in range(25):
                yield Case(verb, "mutated file", (verb, target), _mutated(target), seed)


def _mutated(name: str) -> Spoil:
    def spoil(folder: Path, chance: random.Random) -> None:
        path = folder / name
        content = bytearray(path.read_bytes())
        lines = path.read_bytes().splitlines(keepends=True)
        way = chance.randrange(5)

        if way == 0:
            for _ in range(chance.randint(1, 8)):
                content[chance.randrange(len(content))] = chance.randrange(256)
        elif way == 1:
            del content[chance.randrange(len(content)) :]
        elif way == 2 and lines:
            lines.insert(chance.randrange(len(lines)), chance.choice(lines))
            content = bytearray(b"".join(lines))
        elif way == 3 and lines:
            chance.shuffle(lines)
            content = bytearray(b"".join(lines))
        else:
            place = chance.randrange(len(content))
            content[place:place] = chance.choice(VALUES).encode("utf-8", "surrogateescape")
        path.write_bytes(bytes(content))

    return spoil


def _data(run: str) -> Iterator[Case]:
    """Images, arrays, archives and checkpoints that are none, or damaged."""
    folder_of_images = "data={kind: image_folder, path: images, size: 16, classes: 2}"
    stored = "data={kind: images, path: arrays}"
    image, label = "images/train/a/0.png", "arrays/train_labels.npy"
    pixels = "arrays/train_images.npy"
    for kind, content in _blobs().items():
        for verb in ("train", "cache", "reference"):
            words = (verb, "recipe.yaml", folder_of_images, "training.batch=2")
            yield Case(verb, f"image: {kind}", words, _placed(image, content))

        for verb, part in (
            ("train", pixels),
            ("train", label),
            ("check", pixels),
            ("reference", pixels),
        ):
            yield Case(
                verb, f"array: {kind}", (verb, "recipe.yaml", stored), _placed(part, content)
            )

        reference = ("evaluate", run, "--quality", "--reference", "reference.npz")
        yield Case("evaluate", f"reference: {kind}", reference, _placed("reference.npz", content))
        weights = (
            "evaluate",
            run,
            "--quality",
            "--weights",
            "w.pth",
            "--reference",
            "reference.npz",
        )
        yield Case("evaluate", f"weights: {kind}", weights, _placed("w.pth", content))
        yield Case(
            "reference",
            f"archive: {kind}",
            ("reference", "images.npz"),
            _placed("images.npz", content),
        )
        codec = "codec={kind: kl, layout: sd, weights: w.ckpt}"
        yield Case(
            "train",
            f"codec: {kind}",
            ("train", "recipe.yaml", folder_of_images, codec),
            _placed("w.ckpt", content),
        )
        words = ("convert", "checkpoint.pth", "--preset", "recipe.yaml")
        yield Case("convert", f"checkpoint: {kind}", words, _placed("checkpoint.pth", content))
        start = ("train", "recipe.yaml", "init_from=spoilt")
        yield Case("train", f"start: {kind}", start, _placed("spoilt/seed_0/config.yaml", content))
        cached = ("train", "recipe.yaml", "data={kind: cache, path: made}")
        yield Case("train", f"cache: {kind}", cached, _placed("made/cache.json", content))


def _blobs() -> dict[str, bytes | Callable[[Path], None]]:
    """Files that are damaged archives, arrays, pictures and checkpoints."""
    array, archive, picture, weights = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(array, np.arange(64))
    np.savez_compressed(archive, mu=np.arange(64.0), sigma=np.eye(64))
    Image.new("RGB", (16, 16)).save(picture, "PNG")
    torch.save({"model": {"w": torch.zeros(3)}}, weights)
    whole = {
        "array": array.getvalue(),
        "archive": archive.getvalue(),
        "picture": picture.getvalue(),
        "weights": weights.getvalue(),
    }

    blobs: dict[str, bytes | Callable[[Path], None]] = {
        name: content
        for name, content in FILES.items()
        if name in ("empty", "zeros", "binary", "a folder", "a pipe")
    }
    for name, content in whole.items():
        blobs[name] = content
        blobs[f"half {name}"] = content[: len(content) // 2]
        blobs[f"{name} with a flipped byte"] = (
            content[: len(content) // 2]
            + bytes([content[len(content) // 2] ^ 255])
            + content[len(content) // 2 + 1 :]
        )
    blobs["a lying header"] = (
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 9999), }".ljust(117)
        + b"\n"
    )
    blobs["an object array"] = _saved(np.array([{}, None], dtype=object))
    blobs["words"] = _saved(np.array(["a", "b"]))
    blobs["nan"] = _saved(np.full((64, 1, 8, 8), np.nan))
    blobs["complex"] = _saved(np.zeros(4, dtype=complex))
    blobs["an archive of another method"] = _zipped(zipfile.ZIP_BZIP2)
    blobs["a safetensors header that lies"] = (2**40).to_bytes(8, "little") + b"{}"
    return blobs


def _saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _zipped(method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("mu.npy", b"no array")
    return file.getvalue()


RUN_FILES = ("config.yaml", "metrics.csv", "DONE", "log.txt", "progress.json")


def _run_folders(run: str) -> Iterator[Case]:
    """A finished run with a file that is missing, cut short or something else."""
    blobs = {
        name: FILES[name]
        for name in (
            "empty",
            "binary",
            "zeros",
            "a list",
            "a word",
            "a folder",
            "a link to itself",
            "a pipe",
        )
    }
    for verb in ("evaluate", "sample", "diagnose", "compare", "train", "sync"):
        words = {"compare": (verb, run, run), "train": (verb, "recipe.yaml")}.get(verb, (verb, run))
        for name in RUN_FILES:
            for kind, content in blobs.items():
                yield Case(
                    verb, f"run folder: {name} is {kind}", words, _placed(f"{run}/{name}", content)
                )
            yield Case(verb, f"run folder: {name} is missing", words, _removed(f"{run}/{name}"))

        for pattern in ("evaluations/*/report.json", "checkpoints/*"):
            for kind, content in blobs.items():
                yield Case(
                    verb,
                    f"run folder: {pattern} is {kind}",
                    words,
                    _placed_all(f"{run}/{pattern}", content),
                )
            yield Case(
                verb, f"run folder: {pattern} is missing", words, _removed(f"{run}/{pattern}")
            )


def _removed(pattern: str) -> Spoil:
    def spoil(folder: Path, _: random.Random) -> None:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoil


def _placed_all(pattern: str, content: bytes | Callable[[Path], None]) -> Spoil:
    def spoil(folder: Path, chance: random.Random) -> None:
        for path in sorted(folder.glob(pattern)):
            _placed(str(path.relative_to(folder)), content)(folder, chance)

    return spoil


def _shapes() -> Iterator[Case]:
    """Commands that are none."""
    for words in (
        (),
        ("nonsense",),
        ("",),
        ("--nonsense",),
        ("train",),
        ("compare",),
        ("ablate", "a", "b", "c"),
        ("\n",),
    ):
        yield Case(words[0] if words else "no verb", "command", words)

    for word in (
        "runs/none",
        "study.yaml:none",
        "studies/none:x",
        ":",
        "::",
        "study.yaml:",
        "",
        "x" * 300,
        "recipe.yaml",
        "*",
        "é",
    ):
        yield Case("compare", "name", ("compare", word, "study.yaml:components=1"))
        yield Case("compare", "name", ("compare", word, word))
