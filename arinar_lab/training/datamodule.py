"""A LightningDataModule over a source. Checking a recipe does not import this file."""

from __future__ import annotations

import os

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Subset

from ..data.loader import BatchDataset, ResumableLoader, identity_collate
from ..data.sources import Source


class DataModule(LightningDataModule):
    """A source as Lightning reads it.

    Arguments:
        source: The data.
        batch: Images of a step, over all processes.
        seed: Seed of the order.
        workers: Processes that read images ahead, at most as many as there are processors.
        held_out: Images of a validation step.
    """

    def __init__(
        self, source: Source, batch: int, seed: int, workers: int = 0, held_out: int = 512
    ) -> None:
        super().__init__()
        self.source = source
        self.batch = batch
        self.validation_batch = held_out
        self.seed = seed
        self.workers = workers
        if hasattr(os, "sched_getaffinity"):
            self.workers = min(workers, len(os.sched_getaffinity(0)))

    @property
    def share(self) -> tuple[int, int]:
        """(rank, world) of this process among those that train the run."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> ResumableLoader:
        part = BatchDataset(self.source.train, self.source.flip)
        return ResumableLoader(part, self.batch, self.seed, self.share, self.workers * part.lazy)

    def val_dataloader(self) -> DataLoader:
        rank, world = self.share
        part = BatchDataset(self.source.held_out)
        return DataLoader(
            Subset(part, range(rank, len(part), world)),
            batch_size=self.validation_batch,
            collate_fn=identity_collate,
            num_workers=self.workers * part.lazy,
        )
