"""Averaged weights, which are validated, saved and sampled.

    after step 1    a = w, or where the average starts at the initial weights, as after any other
    after step t    a ← decay · a + (1 - decay) · w    of every trained parameter, on its own device

Buffers are constants and are not averaged. Where weights are sharded (`sharding.py`), every process
averages its own shards. Lightning's callback averages a copy of the whole module, which cannot be
sharded, and waits for the device in every step; this one rounds as it does.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from .sharding import gather_slices, local_slice, shard_of


class EMA(Callback):
    """Exponential moving average of the weights, which replaces them in validation and at the end.

    Arguments:
        decay: Decay of the average.
        from_initial: Whether it starts at the initial weights, as in the published models, or
            at those after step 1.

    Attributes:
        weights: name → trained parameter, or this process's shard of it.
        averages: name → its average, of the same shape.
    """

    def __init__(self, decay: float, from_initial: bool = False) -> None:
        self.decay = decay
        self.from_initial = from_initial
        self.weights: dict[str, Tensor] = {}
        self.averages: dict[str, Tensor] = {}
        self._restored: dict[str, Tensor] | None = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.weights = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.averages = {name: local_slice(p).clone() for name, p in self.weights.items()}
        for name, whole in (self._restored or {}).items():
            self.averages[name].copy_(shard_of(whole, self.weights[name]))
        self._restored = None

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        averages = list(self.averages.values())
        weights = list(map(local_slice, self.weights.values()))

        if trainer.global_step == 1 and not self.from_initial:
            torch._foreach_copy_(averages, weights)
        else:
            torch._foreach_mul_(averages, self.decay)
            torch._foreach_add_(averages, torch._foreach_mul(weights, 1 - self.decay))

    def on_validation_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._swap()

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._swap()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        for name, p in self.weights.items():
            local_slice(p).copy_(self.averages[name])

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["averaged_weights"] = {
            name: gather_slices(a, self.weights[name]) for name, a in self.averages.items()
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._restored = checkpoint.get("averaged_weights")

    def _swap(self) -> None:
        """Exchange weights and averages."""
        for name, p in self.weights.items():
            weight = local_slice(p).clone()
            local_slice(p).copy_(self.averages[name])
            self.averages[name].copy_(weight)
