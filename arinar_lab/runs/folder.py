"""The run folder, which is the truth: MLflow and Optuna are views of it.

    runs/<what differs>-<training signature>/seed_<n>/
      config.yaml  metrics.csv  log.txt  progress.json  DONE | FAILED
      checkpoints/  {step=*.ckpt, final.safetensors}
      evaluations/<evaluation signature>/  report.json  samples/{grid.png, images.npy}

Files are written whole or not at all. `metrics.csv` is long: step,name,value.
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

from filelock import FileLock

from ..config.schema import to_plain
from ..config.sections import Recipe
from ..config.yaml_reader import to_yaml
from ..errors import ConfigError
from ..files.atomic import (
    MAX_NAME_BYTES,
    append_text,
    disk_full_guard,
    sync_to_disk,
    write_atomically,
)
from ..files.locks import hold_lock
from ..output.text import say

_FINAL = ("config.yaml", "metrics.csv")  # once a run is done


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file, or an empty dict where there is none.

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
    """A name as a folder's. Of a long one the beginning and a hash: systems take 255 bytes, and
    more is put behind it.
    """
    plain = re.sub(r"[^\w.,=+-]+", "_", name).strip("_")
    plain = plain if plain.strip(".") else ""  # `.` and `..` are folders that exist
    if len(plain.encode()) <= MAX_NAME_BYTES:
        return plain
    begin = plain.encode()[:80].decode(errors="ignore")
    return f"{begin}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"


def _arm(recipe: Recipe, own: Path) -> Path:
    """The folder that holds the seeds of a training: `own` where it exists, or the only
    one with its signature.

    Raises:
        ConfigError: if several folders have its signature, as after a copy, and none is `own`.
    """
    folders = sorted(own.parent.glob(f"*-{recipe.training_signature}"))
    if own in folders or not folders:
        return own

    if len(folders) > 1:
        names = ", ".join(map(str, folders))
        raise ConfigError(
            f"{own}: {names} hold the same training; keep one of them, and move the "
            "others elsewhere"
        )

    return folders[0]


def read_state(path: Path) -> dict[str, Any]:
    """A JSON file that is made anew while its run goes on; empty where there is
    none, or it is damaged.
    """
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
            f"{path}: damaged or edited (its sha256 differs); delete it, and it is made again"
        )
    return content


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@cache
def _say_damaged(line: str, written: int) -> None:
    """Say it once for each state of a file."""
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
        """The folder, made; or the one that the same training has got meanwhile under another name.

        Two studies that begin at once, with one arm under two names, thus train it once.

        Raises:
            ConfigError: if it holds something else where a file belongs.
        """
        arm = self.path.parent
        arm.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(arm.parent / ".names")
        with disk_full_guard(arm.parent), hold_lock(lock, "names a run folder"):
            folder = RunFolder(_arm(recipe, arm) / self.path.name)
            folder.path.mkdir(parents=True, exist_ok=True)

        names = (*_FINAL, "DONE", "log.txt", "progress.json")
        for file in (
            *(folder.path / name for name in names),
            folder.evaluation(recipe) / "report.json",
        ):
            refuse_other_than_file(file)

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
        """Held while somebody works on the run; the system frees it when its holder dies."""
        self.path.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path / ".lock")

    def evaluation(self, recipe: Recipe) -> Path:
        """Folder of the evaluation that the recipe asks for."""
        return self.path / "evaluations" / recipe.evaluation_signature

    @property
    def failure(self) -> str:
        """Why the run failed; empty where it did not."""
        file = self.path / "FAILED"
        return file.read_text(encoding="utf-8").strip() if file.is_file() else ""

    def report(self, recipe: Recipe) -> dict[str, Any]:
        """The evaluation's report.json; empty before it exists, and where it is damaged, so
        that it is made again.

        Raises:
            ConfigError: if something else stands in its place.
        """
        path = self.evaluation(recipe) / "report.json"
        refuse_other_than_file(path)
        try:
            found = read_sealed(path)
        except ConfigError as error:
            _say_damaged(str(error), path.stat().st_mtime_ns)
            return {}
        return found if found.get("metrics") else {}

    def write_report(self, recipe: Recipe, report: dict[str, Any]) -> None:
        """Write the evaluation's report.json."""
        write_sealed(self.evaluation(recipe) / "report.json", report)

    def update_report(
        self, recipe: Recipe, change: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> dict[str, Any]:
        """Change the evaluation's report.json beside others who do the same, and return it.

        Where there is none, nothing is written and the result is empty.
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
        final = [self.path / name for name in _FINAL if (self.path / name).is_file()]
        for file in final:
            sync_to_disk(file)
        sums = {file.name: _sum(file) for file in final}
        write_sealed(self.path / "DONE", {**content, "files": sums})

    def refuse_edited(self, name: str) -> None:
        """Refuse a file of a finished run that was edited or damaged since it ended.

        Raises:
            ConfigError: naming it.
        """
        noted = read_sealed(self.path / "DONE").get("files", {}).get(name)
        if noted and (self.path / name).is_file() and _sum(self.path / name) != noted:
            raise ConfigError(
                f"{self.path / name}: damaged or edited since the run ended (its sha256 differs"
                " from that in DONE); restore it, or delete DONE to train the run again from its"
                " last checkpoint"
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
        """Tell whoever watches how far the run is."""
        content = {"phase": phase, "step": step, "steps": steps, "time": time.time(), **numbers}
        write_atomically(self.path / "progress.json", json.dumps(content), durable=False)


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def open_run_folder(path: Path) -> RunFolder:
    """The run folder that the user names: `runs/<arm>/seed_<n>`, or an arm's folder with one seed.

    Raises:
        ConfigError: if it is none.
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
    """Commit of the code and whether it was modified; empty outside a checkout."""

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
    """Versions and hardware that a number depends on."""
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
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
