"""The run folder, which holds all results: MLflow and Optuna are views of it.

    runs/<what differs>-<training signature>/seed_<n>/
      config.yaml  metrics.csv  log.txt  progress.json  DONE | FAILED
      checkpoints/  {step=*.ckpt, final.safetensors}
      evaluations/<evaluation signature>/  report.json  bits.npz  beliefs.npz
                                            samples/{grid.png, images.npy, real.npz}

Files are written atomically. `metrics.csv` is in long format: step,name,value.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from ..config.schema import to_plain
from ..config.sections import Recipe
from ..config.yaml_reader import to_yaml
from ..errors import ConfigError
from ..files.arrays import read_npz
from ..files.atomic import (
    MAX_NAME_BYTES,
    append_text,
    atomic_draft,
    disk_full_guard,
    sync_to_disk,
    write_atomically,
)
from ..files.checksums import file_digest
from ..files.locks import hold_lock
from ..output.text import say

_FINAL = ("config.yaml", "metrics.csv")  # once a run is done


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file; without the file the result is empty.

    Raises:
        ConfigError: if it is damaged.
    """
    refuse_other_than_file(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if not isinstance(content, dict):
            raise ValueError("its top level is no mapping")
        return content
    except ValueError as error:
        raise ConfigError(f"{path}: damaged ({error}); delete it, and it is made again") from None


def refuse_other_than_file(path: Path) -> None:
    """Refuse a folder, a pipe or a device in a file's place; no file at all is accepted.

    Raises:
        ConfigError: naming it.
    """
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: a file belongs there, and this is none; remove it")


def slug(name: str) -> str:
    """Make a folder's name of any name; a long one is cut and hashed."""
    plain = re.sub(r"[^\w.,=+-]+", "_", name).strip("_")
    plain = plain if plain.strip(".") else ""  # `.` and `..` are folders that exist
    if len(plain.encode()) <= MAX_NAME_BYTES:
        return plain
    begin = plain.encode()[:80].decode(errors="ignore")
    return f"{begin}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"


def _arm(recipe: Recipe, default: Path) -> Path:
    """Find the folder that holds the seeds of a training.

    It is `default` where that exists or nothing has the signature, else the one that has it.

    Raises:
        ConfigError: if several folders have the signature, as after a copy.
    """
    folders = sorted(default.parent.glob(f"*-{recipe.training_signature}"))
    if default in folders or not folders:
        return default

    if len(folders) > 1:
        names = ", ".join(map(str, folders))
        raise ConfigError(
            f"{default}: {names} hold the same training; keep one of them, and move the "
            "others elsewhere"
        )

    return folders[0]


def read_state(path: Path) -> dict[str, Any]:
    """Read a JSON file that a run rewrites; empty where it is missing or damaged."""
    try:
        return read_json(path)
    except ConfigError:
        return {}


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically, with the SHA-256 of its content in it."""
    write_json(path, {**content, "sha256": _digest(content)})


def read_sealed(path: Path) -> dict[str, Any]:
    """A JSON file that `write_sealed` has written, without its SHA-256; empty where there is none.

    Raises:
        ConfigError: if it is damaged or edited.
    """
    content = read_json(path)
    if content and content.pop("sha256", None) != _digest(content):
        raise ConfigError(
            f"{path}: damaged or edited (its sha256 differs); put a copy back, or delete it, and it"
            " is made again"
        )
    return content


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@cache
def say_damaged(line: str, written: int) -> None:
    """Print a line to the standard error, once for each state of a file (0 where it is missing)."""
    say(line, sys.stderr)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run. path: the `seed_<n>` folder."""

    path: Path

    @classmethod
    def of(cls, recipe: Recipe, name: str) -> RunFolder:
        """The folder of a recipe; a run that exists under another name keeps it, so
        that studies share runs.
        """
        arm = _arm(recipe, recipe.workspace.runs / f"{slug(name)}-{recipe.training_signature}")
        return cls(arm / f"seed_{recipe.seed}")

    def claim_name(self, recipe: Recipe) -> RunFolder:
        """Make the folder, unless the same training has one under another name by now.

        So two studies that start together and name an arm differently train it once.

        Raises:
            ConfigError: if it holds a folder or a device in the place of a file.
        """
        arm = self.path.parent
        arm.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(arm.parent / ".names")
        with disk_full_guard(arm.parent), hold_lock(lock, "names a run folder"):
            folder = RunFolder(_arm(recipe, arm) / self.path.name)
            folder.path.mkdir(parents=True, exist_ok=True)

        for name in (*_FINAL, "DONE", "log.txt", "progress.json"):
            refuse_other_than_file(folder.path / name)
        refuse_other_than_file(folder.evaluation(recipe) / "report.json")

        return folder

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        """The averaged weights after training."""
        return self.checkpoints / "final.safetensors"

    @property
    def done(self) -> bool:
        """Whether training has finished."""
        return (self.path / "DONE").is_file()

    @property
    def lock(self) -> FileLock:
        """The lock that a process holds while it works on the run."""
        self.path.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path / ".lock")

    def evaluation(self, recipe: Recipe) -> Path:
        """Return the folder of the recipe's evaluation."""
        return self.path / "evaluations" / recipe.evaluation_signature

    @property
    def failure(self) -> str:
        """Why the run failed; empty where it did not."""
        file = self.path / "FAILED"
        return file.read_text(encoding="utf-8").strip() if file.is_file() else ""

    def report(self, recipe: Recipe) -> dict[str, Any]:
        """Read the evaluation's report.json; a missing or damaged one is empty, and is made again.

        Raises:
            ConfigError: if a folder or a device is in its place.
        """
        path = self.evaluation(recipe) / "report.json"
        refuse_other_than_file(path)
        try:
            report = read_sealed(path)
        except ConfigError as error:
            say_damaged(str(error), path.stat().st_mtime_ns)
            return {}
        return report if report.get("metrics") else {}

    def write_report(self, recipe: Recipe, report: dict[str, Any]) -> None:
        """Write the evaluation's report.json."""
        write_sealed(self.evaluation(recipe) / "report.json", report)

    def write_image_bits(self, recipe: Recipe, bits: np.ndarray, insured: np.ndarray) -> None:
        """Write bits/dim of each held-out image, plain and insured, [n], into bits.npz."""
        path = self._image_bits(recipe)
        with atomic_draft(path, durable=True) as draft:
            np.savez_compressed(draft, bits=bits, insured=insured)

    def image_bits_digest(self, recipe: Recipe) -> str:
        """The SHA-256 of bits.npz, which the report keeps; empty where there is none."""
        path = self._image_bits(recipe)
        return file_digest(path) if path.is_file() else ""

    def image_bits(self, recipe: Recipe, report: dict[str, Any]) -> dict[str, np.ndarray]:
        """Read bits.npz: `bits` [n] and `insured` [n]; empty where the evaluation kept none.

        Raises:
            ConfigError: if it is missing, or was edited or damaged since the report was written.
        """
        path = self._image_bits(recipe)
        noted = report.get("image_bits")
        if not noted:
            return {}

        fault = "missing"
        if path.is_file():
            if file_digest(path) == noted:
                return read_npz(path)
            fault = "damaged or edited since its report was written (its sha256 differs)"
        raise ConfigError(
            f"{path}: {fault}; delete report.json beside it, and arinar evaluate {self.path} makes"
            " both again"
        )

    def _image_bits(self, recipe: Recipe) -> Path:
        return self.evaluation(recipe) / "bits.npz"

    def update_report(
        self, recipe: Recipe, change: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> dict[str, Any]:
        """Change the evaluation's report.json under a lock, and return it.

        Without a report nothing is written and the result is empty.
        """
        where = self.evaluation(recipe)
        where.mkdir(parents=True, exist_ok=True)
        with hold_lock(FileLock(where / ".report.lock"), "writes report.json"):
            report = self.report(recipe)
            if report:
                report = change(report)
                self.write_report(recipe, report)

        return report

    def mark_done(self, content: dict[str, Any]) -> None:
        """Write DONE, with the SHA-256 of the files that are final now."""
        sums = {}
        for name in _FINAL:
            if (self.path / name).is_file():
                sync_to_disk(self.path / name)
                sums[name] = file_digest(self.path / name)
        write_sealed(self.path / "DONE", {**content, "files": sums})

    def refuse_edited(self, name: str) -> None:
        """Refuse a file of a finished run that was edited, damaged or removed since it ended.

        Raises:
            ConfigError: naming it.
        """
        path = self.path / name
        noted = read_sealed(self.path / "DONE").get("files", {}).get(name)
        if not noted or (path.is_file() and file_digest(path) == noted):
            return
        fault = "missing"
        if path.is_file():
            fault = "damaged or edited since the run ended (its sha256 differs from that in DONE)"
        raise ConfigError(
            f"{path}: {fault}; restore it, or delete DONE to train the run again from its last"
            " checkpoint"
        )

    def write_config(self, recipe: Recipe) -> None:
        write_atomically(self.path / "config.yaml", to_yaml(to_plain(recipe)))

    def log(self, text: str) -> None:
        """Append to log.txt, with the time."""
        append_text(self.path / "log.txt", f"{time.strftime('%F %T')} {text}\n")

    def fail(self, error: Exception) -> None:
        """Mark the run failed: the reason in a line in FAILED, the traceback in log.txt."""
        write_atomically(
            self.path / "FAILED", f"{type(error).__name__}: {' '.join(str(error).split())}\n"
        )
        self.log("failed\n" + "".join(traceback.format_exception(error)))

    def progress(self, phase: str, step: int = 0, steps: int = 0, **numbers: float) -> None:
        """Write the run's progress to progress.json."""
        content = {"phase": phase, "step": step, "steps": steps, "time": time.time(), **numbers}
        write_atomically(self.path / "progress.json", json.dumps(content), durable=False)


def open_run_folder(path: Path) -> RunFolder:
    """Open the user's run folder: `runs/<arm>/seed_<n>`, or an arm's folder with one seed.

    Raises:
        ConfigError: if it is no run folder.
    """
    seeds = sorted(path.glob("seed_*"))
    folder = seeds[0] if len(seeds) == 1 else path
    if (folder / "config.yaml").is_file():
        RunFolder(folder).refuse_edited("config.yaml")
        return RunFolder(folder)
    if seeds:
        raise ConfigError(f"{path}: holds several seeds; name one, as in {seeds[0]}")
    raise ConfigError(f"{path}: not a run folder; it holds no config.yaml")


@cache
def git_state() -> dict[str, Any]:
    """Read the commit of the code and whether it is modified; empty outside a checkout."""

    def git(*words: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.CalledProcessError):
        return {}


@cache
def environment() -> dict[str, Any]:
    """Return the versions and the hardware that results depend on."""
    import lightning
    import torch

    from .. import __version__

    cuda = torch.cuda.is_available()
    return {
        "arinar_lab": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "system": platform.platform(terse=True),
        "device": torch.cuda.get_device_name() if cuda else _processor(),
        "cpus": os.cpu_count(),
    }


def _processor() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
