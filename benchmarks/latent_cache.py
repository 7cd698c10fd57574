"""How fast latents are read, and whether reading resumes exactly: memory map (ours),
litdata, webdataset.

    python benchmarks/latent_cache.py FOLDER [ENTRIES]      needs pip install litdata webdataset

Entries have KL-16's shape: 32×16×16 moments in half precision, 16 KB each, of random bits. Every
format has shards of 16 MB, is read in batches of 256 by the training process itself, shuffled, over
one epoch; the first epoch after its pages were dropped from memory (cold) and the second (warm).
"Resumes exactly": after 50 batches a new loader that is given the state of the first hands out the
batches that the first would have handed out next.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arinar_lab.data.latent_cache import LatentCacheSource, shard_ranges
from arinar_lab.files.checksums import save_tensors
from arinar_lab.training.datamodule import DataModule

SHAPE, SHARD, BATCH, STOP = (32, 16, 16), 1024, 256, 50


def entry(i: int) -> np.ndarray:
    """Moments of entry i; the first two numbers tell i."""
    # finite as half precision
    bits = np.random.default_rng(i).integers(0, 30_000, SHAPE, dtype=np.uint16)
    bits[0, 0, :2] = i % 30_000, i // 30_000
    return bits.view(np.float16)


def write_ours(folder: Path, n: int) -> None:
    for k, span in enumerate(shard_ranges(n, SHARD)):
        moments = torch.from_numpy(np.stack([entry(i) for i in span])).unsqueeze(1)
        save_tensors(
            folder / f"train-{k:05}.safetensors",
            {"moments": moments, "labels": torch.tensor(span) % 1000},
        )

    save_tensors(
        folder / "held_out-00000.safetensors",
        {"moments": moments[:1], "labels": torch.zeros(1).long()},
    )
    about = {
        "shape": [3, 256, 256],
        "levels": 256,
        "classes": 1000,
        "train": n,
        "held_out": 1,
        "shard": SHARD,
        "views": 1,
    }
    (folder / "cache.json").write_text(json.dumps({**about, "codec": "", "data": ""}))


def read_ours(folder: Path) -> Any:
    return DataModule(LatentCacheSource(path=str(folder)), BATCH, 0).train_dataloader()


def write_litdata(folder: Path, n: int) -> None:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(folder), chunk_bytes=SHARD * 16 * 1024)
    for i in range(n):
        writer[i] = {"moments": torch.from_numpy(entry(i)), "label": i % 1000}
    writer.done()
    writer.merge()


def read_litdata(folder: Path) -> Any:
    from litdata import StreamingDataLoader, StreamingDataset

    return StreamingDataLoader(
        StreamingDataset(str(folder), shuffle=True, seed=0), batch_size=BATCH, num_workers=0
    )


def write_webdataset(folder: Path, n: int) -> None:
    from webdataset import ShardWriter

    with ShardWriter(str(folder / "train-%05d.tar"), maxcount=SHARD, verbose=0) as writer:
        for i in range(n):
            writer.write({"__key__": f"{i:07}", "moments.npy": entry(i), "label.cls": i % 1000})


def read_webdataset(folder: Path) -> Any:
    from webdataset import WebDataset, WebLoader

    files = [str(file) for file in sorted(folder.glob("*.tar"))]
    data = (
        WebDataset(files, shardshuffle=len(files), seed=0, empty_check=False)
        .shuffle(5000, seed=0)
        .decode()
    )
    return WebLoader(
        data.to_tuple("moments.npy", "label.cls").batched(BATCH), batch_size=None, num_workers=0
    )


def told(batch: Any) -> list[int]:
    """Which entries a batch holds."""
    moments = batch["moments"] if isinstance(batch, dict) else batch[0]
    first = torch.as_tensor(
        np.ascontiguousarray(moments)[:, 0, 0, :2].view(np.uint16).astype(np.int64)
    )
    return (first[:, 0] + 30_000 * first[:, 1]).tolist()


def forget(folder: Path) -> None:
    """Let the system drop the folder's pages."""
    os.sync()
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def timed(loader: Iterable[Any], n: int) -> tuple[float, int]:
    """Samples a second over one epoch, and how many different entries came."""
    begun, recorded = time.perf_counter(), []
    for batch in loader:
        recorded += told(batch)
        if len(recorded) + BATCH > n:
            break
    return len(recorded) / (time.perf_counter() - begun), len(set(recorded))


def resumes(read: Callable[[Path], Any], folder: Path) -> bool | None:
    """Whether a loader goes on exactly where its state was saved; None where it has no state."""
    first, ahead, state = read(folder), [], None
    for i, batch in enumerate(first):
        if i + 1 == STOP:
            state = first.state_dict() if hasattr(first, "state_dict") else None
        if i >= STOP:
            ahead.append(told(batch))
        if i + 1 == STOP + 10:
            break

    if state is None:
        return None
    second = read(folder)
    second.load_state_dict(state)

    return [told(batch) for _, batch in zip(range(10), second, strict=False)] == ahead


def anonymous() -> float:
    """Memory of this process that is no file's, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon"))


def main(root: Path, n: int) -> None:
    torch.set_num_threads(1)
    ways = {
        "memory map": (write_ours, read_ours),
        "litdata": (write_litdata, read_litdata),
        "webdataset": (write_webdataset, read_webdataset),
    }
    for name, (write, read) in ways.items():
        folder = root / name.replace(" ", "_")
        if not folder.exists():
            folder.mkdir(parents=True)
            begun = time.perf_counter()
            write(folder, n)
            print(f"{name}: written in {time.perf_counter() - begun:.0f} s", flush=True)

        forget(folder)
        before = anonymous()
        loader = read(folder)
        (cold, entries), (warm, _) = timed(loader, n), timed(loader, n)
        row = {
            "cold": round(cold),
            "warm": round(warm),
            "entries": entries,
            "resumes": resumes(read, folder),
            "memory_mb": round(anonymous() - before),
            "load": os.getloadavg()[0],
            "gb": sum(file.stat().st_size for file in folder.iterdir()) / 1e9,
        }
        print(name, json.dumps(row), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100_000)
