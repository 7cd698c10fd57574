"""Batches of a part of the data, (image, label, index), in an order that resumes.

The order is a function of (seed, epoch), and its state is saved with the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..model.noise import Noise, Stream


class BatchDataset(Dataset):
    """(images, labels, indices) of a part of the data, a batch at a time; item i + n
    is item i, mirrored.

    Arguments:
        part: (images, labels); flip: whether training asks for mirrored ones.
    """

    def __init__(self, part: tuple[Tensor, Tensor], flip: bool = False) -> None:
        (self.images, self.labels), self.flip = part, flip

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lazy(self) -> bool:
        """Whether images are read when they are asked for."""
        return not isinstance(self.images, Tensor)

    def check(self) -> None:
        """Refuse images of which too many were damaged (see `image_datasets.py`), whichever
        process has read them.
        """
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
    """`BatchDataset` are read as batches, so that nothing is left to collate."""
    return batch


class EpochOrder(Sampler[int]):
    """A permutation of n items, keyed by (seed, epoch), from item `start` on, dealt out in turn to
    those that train together.

    Arguments:
        n: items; seed: of the permutation; share: (rank, world); end: items of an
            epoch that are dealt out.
        flip: whether i + n stands for half of the items i: the same, mirrored.
    """

    def __init__(
        self,
        n: int,
        seed: int,
        share: tuple[int, int] = (0, 1),
        end: int | None = None,
        flip: bool = False,
    ) -> None:
        self.n, self.seed, self.share, self.flip, self.epoch, self.start = (
            n,
            seed,
            share,
            flip,
            0,
            0,
        )
        self.end = n if end is None else end

    def __iter__(self) -> Iterator[int]:
        rank, world = self.share
        yield from self.of_all()[rank::world].tolist()

    def of_all(self) -> Tensor:
        """What is dealt out from here on, to all."""
        noise = Noise.of(torch.tensor(self.seed), "order").at(self.epoch)
        order = noise.permutation(self.n)
        if self.flip:
            order = order + self.n * (noise.at(Stream.MIRRORED).uniform(self.n)[order] < 0.5)
        return order[self.start : self.end]

    def __len__(self) -> int:
        return -(-(self.end - self.share[0]) // self.share[1])


class ResumableLoader(DataLoader):
    """A loader whose state is (epoch, batches handed out), so that training resumes in mid-epoch
    with the same batches.

    Lightning saves and loads the state of any loader that has these two methods. It calls iter()
    once an epoch and never exhausts the iterator, therefore the epoch is advanced at its start.

    Arguments:
        batch: images a step, of all processes; share: (rank, world) of this one; workers:
            processes that read ahead.

    Attributes:
        first: the first index of each batch of this process that is on its way, by
            its own first index.
    """

    def __init__(
        self,
        dataset: BatchDataset,
        batch: int,
        seed: int,
        share: tuple[int, int] = (0, 1),
        workers: int = 0,
    ) -> None:
        whole = len(dataset) // batch * batch  # so that every rank has equally many batches
        self.order = EpochOrder(len(dataset), seed, share, whole, dataset.flip)
        self.epoch, self.done, self.batch, self.items = 0, 0, batch, dataset
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
            self.epoch, self.done = self.epoch + 1, 0
        self.order.epoch, self.order.start = self.epoch, self.done * self.batch
        firsts = (
            (self.order.of_all()[:: self.batch] % len(self.items)).tolist()
            if self.order.share[1] > 1
            else []
        )
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
        """The first index [1] of the batch of all processes, given those of this
        process's share [B].
        """
        if not self.first:
            return index[:1]
        return index.new_tensor([self.first.pop(int(index[0]))])

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.done = state["epoch"], state["done"]
