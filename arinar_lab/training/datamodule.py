"""A LightningDataModule over a source. It stands alone, so that a recipe is checked without
importing Lightning.
"""

from __future__ import annotations

import os

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Subset

from ..data.loader import BatchDataset, ResumableLoader, identity_collate
from ..data.sources import Source


class DataModule(LightningDataModule):
    """A source as Lightning wants it.

    Arguments:
        source: the data; batch: images a step; seed: of the order.
        workers: processes that read ahead what is not in memory, no more than there are processors.
        held_out: images of a validation at a time.
    """

    def __init__(
        self, source: Source, batch: int, seed: int, workers: int = 0, held_out: int = 512
    ) -> None:
        super().__init__()
        self.at_a_time = held_out
        self.source, self.batch, self.seed = source, batch, seed
        self.workers = min(
            workers, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else workers
        )

    @property
    def share(self) -> tuple[int, int]:
        """(rank, world): this process's, of those that train together."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> ResumableLoader:
        part = BatchDataset(self.source.train, self.source.flip)
        return ResumableLoader(part, self.batch, self.seed, self.share, self.workers * part.lazy)

    def val_dataloader(self) -> DataLoader:
        rank, world = self.share
        part = BatchDataset(self.source.held_out)
        mine, workers = Subset(part, range(rank, len(part), world)), self.workers * part.lazy
        return DataLoader(
            mine, batch_size=self.at_a_time, collate_fn=identity_collate, num_workers=workers
        )
