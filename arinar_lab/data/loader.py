"""Batches (image, label, index) of a part of the data, in an order that resumes.

The order is a function of (seed, epoch); checkpoints save its state.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..model.noise import Noise, Stream


class BatchDataset(Dataset):
    """(images, labels, indices) of a part of the data, a batch at a time.

    Item i + n is item i mirrored.

    Arguments:
        part: (images, labels).
        flip: Whether mirrored items are read.
    """

    def __init__(self, part: tuple[Tensor, Tensor], flip: bool = False) -> None:
        self.images, self.labels = part
        self.flip = flip

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lazy(self) -> bool:
        """Whether images are read on demand."""
        return not isinstance(self.images, Tensor)

    def check(self) -> None:
        """Refuse data with too many damaged images, see `image_datasets.py`."""
        if hasattr(self.images, "check"):
            self.images.check()

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        i = torch.tensor(indices)
        index = i % len(self)
        if self.lazy:
            return self.images[i], self.labels[index], index
        images = self.images[index]
        if self.flip:
            mirrored = (i >= len(self)).reshape(-1, *(1,) * (images.dim() - 1))
            images = torch.where(mirrored, images.flip(-1), images)

        return images, self.labels[index], index


def identity_collate(batch: Any) -> Any:
    """Return a batch unchanged: `BatchDataset` reads whole batches."""
    return batch


class EpochOrder(Sampler[int]):
    """A permutation of n items, keyed by (seed, epoch) and dealt out to processes in turn.

    Arguments:
        n: Number of items.
        seed: Seed of the permutation.
        share: (rank, world) of this process.
        end: Number of items of an epoch that are dealt out.
        flip: Whether i + n, item i mirrored, replaces i for half of the items.

    Attributes:
        epoch: Number of the epoch.
        start: Place of the first item that is dealt out.
    """

    def __init__(
        self,
        n: int,
        seed: int,
        share: tuple[int, int] = (0, 1),
        end: int | None = None,
        flip: bool = False,
    ) -> None:
        self.n = n
        self.seed = seed
        self.share = share
        self.flip = flip
        self.epoch = 0
        self.start = 0
        self.end = n if end is None else end

    def __iter__(self) -> Iterator[int]:
        rank, world = self.share
        yield from self.of_all()[rank::world].tolist()

    def of_all(self) -> Tensor:
        """Return the items from `start` on, of all processes."""
        noise = Noise.of(torch.tensor(self.seed), "order").at(self.epoch)
        order = noise.permutation(self.n)
        if self.flip:
            order = order + self.n * (noise.at(Stream.MIRRORED).uniform(self.n)[order] < 0.5)
        return order[self.start : self.end]

    def __len__(self) -> int:
        return -(-(self.end - self.share[0]) // self.share[1])


class ResumableLoader(DataLoader):
    """A loader whose state is (epoch, batches read), so that training resumes in mid-epoch.

    Lightning saves and loads the state of any loader that has these two methods. It calls iter()
    once an epoch and never exhausts the iterator, therefore the epoch is advanced at its start.

    Arguments:
        dataset: The data.
        batch: Images of a step, of all processes.
        seed: Seed of the order.
        share: (rank, world) of this process.
        workers: Number of processes that read ahead.

    Attributes:
        epoch: Number of the epoch.
        done: Number of its batches that were read.
        first: First index of this process's part of a batch → first index of the whole batch.
    """

    def __init__(
        self,
        dataset: BatchDataset,
        batch: int,
        seed: int,
        share: tuple[int, int] = (0, 1),
        workers: int = 0,
    ) -> None:
        end = len(dataset) // batch * batch  # so that every rank has equally many batches
        self.order = EpochOrder(len(dataset), seed, share, end, dataset.flip)
        self.epoch = 0
        self.done = 0
        self.batch = batch
        self.items = dataset
        self.first: dict[int, int] = {}

        super().__init__(
            dataset,
            batch_size=batch // share[1],
            sampler=self.order,
            drop_last=True,
            collate_fn=identity_collate,
            generator=torch.Generator().manual_seed(seed),
            num_workers=workers,
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if self.done >= len(self):
            self.epoch += 1
            self.done = 0
        self.order.epoch = self.epoch
        self.order.start = self.done * self.batch
        firsts: list[int] = []
        if self.order.share[1] > 1:
            firsts = (self.order.of_all()[:: self.batch] % len(self.items)).tolist()

        for k, batch in enumerate(self._read()):
            self.done += 1
            self.items.check()
            if firsts:
                self.first[int(batch[2][0])] = firsts[k]
            yield batch

    def _read(self) -> Iterator[Any]:
        try:
            yield from super().__iter__()
        except (ConnectionError, EOFError) as error:
            raise RuntimeError(
                "a process that reads images ahead (machine.workers) has died, for want of memory"
                " perhaps; the same command goes on, machine.workers=0 needs none"
            ) from error

    def first_of(self, index: Tensor) -> Tensor:
        """Return the first index [1] of the whole batch, given this process's indices [B]."""
        if not self.first:
            return index[:1]
        return index.new_tensor([self.first.pop(int(index[0]))])

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch = state["epoch"]
        self.done = state["done"]
