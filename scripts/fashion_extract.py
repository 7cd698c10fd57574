"""Make the extract of Fashion-MNIST that ships with the package.

    python scripts/fashion_extract.py [FOLDER]

writes four idx files into FOLDER, by default that of the package: 10,000 training and 2,000
held-out images, equally many of each class, drawn by seed 0, in their published order. The whole
set has to be there (`make fashion`).

The content is the same on every machine, and its SHA-256 is printed; `data/fashion.py` has it. The
bytes of a gz file depend on the version of zlib.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
from pathlib import Path

from torch import Tensor

from arinar_lab.data.fashion import EXTRACT_FOLDER, PARTS, find_full, idx_header, read_part
from arinar_lab.data.validation import split_items

SEED = 0
PIECE = 10**6  # bytes


def extract(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Choose images [n, 1, 28, 28] and labels [n] of a part of the whole set in a folder."""
    images, labels = read_part(folder, PARTS["full"][part])
    count = PARTS["extract"][part].count
    _, chosen = split_items(labels, count, SEED)
    return images[chosen], labels[chosen]


def idx_bytes(values: Tensor) -> bytes:
    """Return the content of the idx file of bytes."""
    return idx_header(tuple(values.shape)) + values.byte().numpy().tobytes()


def write_gzipped(file: Path, content: bytes) -> None:
    """Write a gz file without a name and a time, so that it does not change with them; in pieces
    `FILE.0`, `FILE.1`, … where it is large.
    """
    packed = gzip.compress(content, 9, mtime=0)
    if len(packed) <= PIECE:
        file.write_bytes(packed)
        return
    for i, start in enumerate(range(0, len(packed), PIECE)):
        file.with_name(f"{file.name}.{i}").write_bytes(packed[start : start + PIECE])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", nargs="?", type=Path, default=EXTRACT_FOLDER)
    folder = parser.parse_args().folder

    folder.mkdir(parents=True, exist_ok=True)
    for name, part in PARTS["extract"].items():
        images, labels = extract(find_full(), name)
        contents = {
            part.image_file: idx_bytes(images.squeeze(1)),
            part.label_file: idx_bytes(labels),
        }
        for file, content in contents.items():
            write_gzipped(folder / f"{file}.gz", content)
            print(hashlib.sha256(content).hexdigest(), f"{file}.gz")


if __name__ == "__main__":
    main()
