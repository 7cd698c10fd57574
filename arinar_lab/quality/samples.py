"""Images of a run in any number: `arinar sample RUN --count 50000 --out FOLDER | FILE.npz`.

Image i is drawn from seed i with label i modulo the classes, whatever the batch, the device or the
number of processes. Images are made in shards: the same command resumes, and several processes
share the work.

    FOLDER      000000.png, …; samples.json names run, sampler and seeds
    FILE.npz    arr_0 [n, H, W, 3] bytes, arr_1 [n] labels: ADM's layout; FILE.json names the same,
                FILE.parts holds its shards
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ..config.build import Experiment
from ..config.schema import signature_fields
from ..config.sections import Recipe
from ..data.latent_cache import shard_ranges
from ..errors import ConfigError
from ..evaluation.dtypes import generation_dtype
from ..evaluation.evaluate import generate_images, save_grid
from ..files.atomic import atomic_draft, write_atomically
from ..files.checksums import file_digest
from ..files.shards import ProgressCallback, assemble, make_shards, refuse_foreign
from ..runs.folder import RunFolder, read_json, write_json
from .image_sets import colour_bytes
from .reference import compute_in_shards

PNG_SHARD = 256  # images in a shard of PNGs
MAX_PICTURE = 10_000  # most images in one picture
_END = b"\0\0\0\0IEND\xaeB`\x82"  # the last chunk of a PNG


def write_samples(
    recipe: Recipe,
    folder: RunFolder,
    experiment: Experiment,
    seeds: range,
    out: Path,
    progress: ProgressCallback,
) -> None:
    """Draw the images of some seeds into a folder or an npz, shared with other processes.

    Raises:
        ConfigError: if `out` holds images of another run, sampler, precision or range of seeds.
    """
    origin = {
        "training_signature": recipe.training_signature,
        "seed": recipe.seed,
        "weights_sha256": file_digest(folder.weights),
        "sampler": signature_fields(recipe.sampler),
        "seeds": [seeds.start, seeds.stop],
        "precision": generation_dtype(recipe, experiment),
    }
    folder_of_shards = out
    note = out / "samples.json"
    is_archive = out.suffix == ".npz"
    if is_archive:
        folder_of_shards = out.with_suffix(".parts")
        note = out.with_suffix(".json")
    if read_json(note) not in ({}, origin) or (_is_occupied(out) and not note.exists()):
        raise ConfigError(
            f"--out: {str(out)!r} holds something else, or images of another run, sampler, "
            "precision or range of seeds"
        )
    if is_archive:
        refuse_foreign(folder_of_shards, out)
    folder_of_shards.mkdir(parents=True, exist_ok=True)
    write_json(note, origin)

    def draw(i: Tensor) -> dict[str, Tensor]:
        i = seeds.start + i
        y = i % experiment.source.classes
        images, _ = generate_images(recipe, experiment, y, i)
        pixels = colour_bytes(images, experiment.source.levels)
        return {"images": pixels.permute(0, 2, 3, 1), "labels": y}

    batch = recipe.evaluation.batch
    if not is_archive:
        _write_pngs(out, seeds, draw, batch, progress)
    elif not out.exists():
        shards = compute_in_shards(folder_of_shards, len(seeds), draw, batch, progress)
        assemble(out, lambda draft: _write_npz(draft, shards), folder_of_shards)


def _is_occupied(out: Path) -> bool:
    """Whether a file exists, or a folder holds files that are not hidden."""
    if not out.is_dir():
        return out.exists()
    return any(not file.name.startswith(".") for file in out.iterdir())


def _write_npz(path: Path, shards: list[Path]) -> None:
    """Write ADM's layout, one shard at a time: 50,000 images of 256×256 are 9.8 GB."""
    labels = torch.cat([load_file(shard)["labels"] for shard in shards]).numpy()
    size = load_file(shards[0])["images"].shape[1:]
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(labels), *size)}

    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for shard in shards:
                member.write(load_file(shard)["images"].numpy().tobytes())
        with archive.open("arr_1.npy", "w") as member:
            np.lib.format.write_array(member, labels, allow_pickle=False)


def _write_pngs(
    out: Path,
    seeds: range,
    draw: Callable[[Tensor], dict[str, Tensor]],
    batch: int,
    progress: ProgressCallback,
) -> None:
    """Write PNGs, and an empty hidden file for each finished shard of them."""
    spans = shard_ranges(len(seeds), PNG_SHARD)
    marks = [out / f".{seeds[span.start]:06}.done" for span in spans]
    for mark, span in zip(marks, spans, strict=True):
        if not all(_is_complete(out / f"{seeds[i]:06}.png") for i in span):
            mark.unlink(missing_ok=True)

    def make(k: int) -> None:
        writes = []
        with ThreadPoolExecutor(1) as thread:  # files are written while the next batch is drawn
            for i in torch.tensor(spans[k]).split(batch):
                images = draw(i)["images"].numpy()
                writes.append(thread.submit(_save, out, (seeds.start + i).tolist(), images))
        for write in writes:
            write.result()
        write_atomically(marks[k], "")

    make_shards(marks, make, progress)


def _is_complete(png: Path) -> bool:
    """Whether an image file exists and ends as a PNG."""
    if not png.is_file() or png.stat().st_size < len(_END):
        return False
    with png.open("rb") as file:
        file.seek(-len(_END), os.SEEK_END)
        return file.read() == _END


def _save(out: Path, seeds: list[int], images: np.ndarray) -> None:
    from PIL import Image

    for seed, image in zip(seeds, images, strict=True):
        with atomic_draft(out / f"{seed:06}.png") as draft:
            Image.fromarray(image).save(draft)


def draw_grid(recipe: Recipe, experiment: Experiment, seeds: range, out: Path) -> None:
    """Draw a picture with a row for each class."""
    source = experiment.source
    i = torch.tensor(seeds)
    y = (i - seeds.start) % source.classes

    parts = []
    for k in torch.arange(len(i)).split(recipe.evaluation.batch):
        batch, _ = generate_images(recipe, experiment, y[k], i[k])
        parts.append(batch)

    columns = math.ceil(len(y) / source.classes)
    save_grid(torch.cat(parts), y, source.levels, source.classes, out, columns=columns)
