"""Fetch all of Fashion-MNIST into a folder where `data: {kind: fashion, source: full}` finds it.

    python scripts/fetch_fashion.py [FOLDER]

Debian's package dataset-fashion-mnist is downloaded by apt-get and unpacked, which needs no root;
where that fails, torchvision downloads the published files and compares their MD5. Either way the
content is compared by SHA-256 before the folder is named. Nothing is fetched twice.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from arinar_lab.data.fashion import FETCHED_FOLDER, FULL_FOLDERS, PARTS, read_part

PACKAGE = "dataset-fashion-mnist"
SECONDS = 60  # that a server may keep silent


def is_complete(folder: Path) -> bool:
    """Whether a folder holds all files of the whole set, undamaged."""
    try:
        for part in PARTS["full"].values():
            read_part(folder, part)
    except ValueError:
        return False
    return True


def fetch_by_apt(folder: Path) -> Path:
    """Unpack Debian's package in a folder, and return the folder of its files."""
    _call("apt-get", "-qq", "download", PACKAGE, folder=folder)
    archives = list(folder.glob("*.deb"))
    if len(archives) != 1:
        raise RuntimeError("it has downloaded nothing")
    _call("dpkg", "-x", str(archives[0]), "package", folder=folder)
    return folder / "package" / "usr" / "share" / "datasets" / "fashion-mnist"


def _call(*words: str, folder: Path) -> None:
    """Run a command, whose last line of errors is the message where it fails."""
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"{words[0]} has failed"]
        raise RuntimeError(lines[-1])


def fetch_by_torchvision(folder: Path) -> Path:
    """Download the published files in a folder, and return the folder of its files."""
    from torchvision.datasets import FashionMNIST

    socket.setdefaulttimeout(SECONDS)
    with contextlib.redirect_stdout(io.StringIO()):
        FashionMNIST(str(folder), download=True)
    return folder / "FashionMNIST" / "raw"


WAYS: dict[str, Callable[[Path], Path]] = {
    "apt-get": fetch_by_apt,
    "torchvision": fetch_by_torchvision,
}


def fetch(target: Path) -> str:
    """Fetch the files into a folder by the first way that works.

    Returns:
        the name of the way.

    Raises:
        RuntimeError: in one line, if none works.
    """
    reasons = []
    target.parent.mkdir(parents=True, exist_ok=True)
    for name, way in WAYS.items():
        with tempfile.TemporaryDirectory(dir=target.parent) as place:
            try:
                folder = way(Path(place).absolute())
                if not is_complete(folder):
                    raise RuntimeError("the files are not the published ones")
            except (RuntimeError, OSError) as error:
                reasons.append(f"{name}: {' '.join(str(error).split())[:200]}")
                continue
            _move(folder, target)
            return name

    raise RuntimeError(
        f"Fashion-MNIST could not be fetched ({'; '.join(reasons)}); apt-get update may help, or"
        f" copy its four gz files into {target}"
    )


def _move(folder: Path, target: Path) -> None:
    """Move the gz files of a folder into another; the first file that is looked for comes last."""
    target.mkdir(exist_ok=True)
    names = []
    for part in reversed(PARTS["full"].values()):
        names += [part.label_file, part.image_file]
    for name in names:
        (folder / f"{name}.gz").replace(target / f"{name}.gz")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", nargs="?", type=Path, default=FETCHED_FOLDER)
    target = parser.parse_args().folder

    places = dict.fromkeys((target, *FULL_FOLDERS)) if target == FETCHED_FOLDER else [target]
    for folder in places:
        if is_complete(folder):
            print(f"Fashion-MNIST is in {folder}")
            return 0

    try:
        name = fetch(target)
    except RuntimeError as error:
        print(f"arinar: {error}", file=sys.stderr)
        return 1
    print(f"Fashion-MNIST is in {target}, fetched by {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
