"""Images of a run in any number: `arinar sample RUN --count 50000 --out FOLDER | FILE.npz`.

Image i is drawn from seed i with label i modulo the classes, whatever the batch, the device or the
number of processes. They are made in blocks: what is stopped goes on, and the same command in
several processes shares the work.

    FOLDER      000000.png, …; samples.json says which run, sampler and seeds
    FILE.npz    arr_0 [n, H, W, 3] bytes, arr_1 [n] labels: ADM's layout; FILE.json says the same,
                FILE.parts are its blocks
"""

from __future__ import annotations

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
from .distances import colour_bytes
from .reference import compute_in_shards

PNG_SHARD = 256  # images in a block of PNGs
MAX_PICTURE = 10_000  # most images in one picture
_END = b"\0\0\0\0IEND\xaeB`\x82"  # the last chunk of a PNG


def write_samples(
    recipe: Recipe,
    folder: RunFolder,
    experiment: Experiment,
    seeds: range,
    out: Path,
    told: ProgressCallback,
) -> None:
    """Draw the images of some seeds into a folder or an npz, beside others who do the same.

    Raises:
        ConfigError: if there are images of another run, sampler, precision or range of seeds.
    """
    about = {
        "training_signature": recipe.training_signature,
        "seed": recipe.seed,
        "weights_sha256": file_digest(folder.weights),
        "sampler": signature_fields(recipe.sampler),
        "seeds": [seeds.start, seeds.stop],
        "precision": generation_dtype(recipe, experiment),
    }
    archive = out.suffix == ".npz"
    place, note = (
        (out.with_suffix(".parts"), out.with_suffix(".json"))
        if archive
        else (out, out / "samples.json")
    )
    if read_json(note) not in ({}, about) or (_occupied(out) and not note.exists()):
        raise ConfigError(
            f"--out: {str(out)!r} holds something else, or images of another run, sampler, "
            "precision or range of seeds"
        )
    if archive:
        refuse_foreign(place, out)
    place.mkdir(parents=True, exist_ok=True)
    write_json(note, about)

    def drawn(i: Tensor) -> dict[str, Tensor]:
        i = seeds.start + i
        y = i % experiment.source.classes
        images, _ = generate_images(recipe, experiment, y, i)
        return {
            "images": colour_bytes(images, experiment.source.levels).permute(0, 2, 3, 1),
            "labels": y,
        }

    batch = recipe.evaluation.batch
    if not archive:
        _write_pngs(out, seeds, drawn, batch, told)
    elif not out.exists():
        blocks = compute_in_shards(place, len(seeds), drawn, batch, told)
        assemble(out, lambda draft: _write_npz(draft, blocks), place)


def _occupied(out: Path) -> bool:
    return (
        any(not file.name.startswith(".") for file in out.iterdir())
        if out.is_dir()
        else out.exists()
    )


def _write_npz(path: Path, blocks: list[Path]) -> None:
    """ADM's layout, block by block: 50,000 images of 256×256 are 9.8 GB."""
    labels = torch.cat([load_file(block)["labels"] for block in blocks]).numpy()
    size = load_file(blocks[0])["images"].shape[1:]
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(labels), *size)}

    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for block in blocks:
                member.write(load_file(block)["images"].numpy().tobytes())
        with archive.open("arr_1.npy", "w") as member:
            np.lib.format.write_array(member, labels, allow_pickle=False)


def _write_pngs(
    out: Path,
    seeds: range,
    drawn: Callable[[Tensor], dict[str, Tensor]],
    batch: int,
    told: ProgressCallback,
) -> None:
    spans = shard_ranges(len(seeds), PNG_SHARD)
    done = [out / f".{seeds[span.start]:06}.done" for span in spans]
    for mark, span in zip(done, spans, strict=True):
        if not all(_whole(out / f"{seeds[i]:06}.png") for i in span):
            mark.unlink(missing_ok=True)

    def make(k: int) -> None:
        with ThreadPoolExecutor(1) as thread:  # files are written while the next batch is drawn
            saved = [
                thread.submit(_save, out, (seeds.start + i).tolist(), drawn(i)["images"].numpy())
                for i in torch.tensor(spans[k]).split(batch)
            ]
        for each in saved:
            each.result()
        write_atomically(done[k], "")

    make_shards(done, make, told)


def _whole(png: Path) -> bool:
    """Whether an image is there, to its end."""
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
    """A picture with a row for each class."""
    i, source = torch.tensor(seeds), experiment.source
    y = (i - seeds.start) % source.classes
    drawn = [
        generate_images(recipe, experiment, y[k], i[k])[0]
        for k in torch.arange(len(i)).split(recipe.evaluation.batch)
    ]
    save_grid(
        torch.cat(drawn),
        y,
        source.levels,
        source.classes,
        out,
        columns=-(-len(y) // source.classes),
    )
