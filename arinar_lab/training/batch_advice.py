"""Where a step or a validation of a training does not fit into the memory: which batch would.

The number that is named was measured, beside the weights and whatever else takes room (see
`hardware/memory.py`).
"""

from __future__ import annotations

import traceback
from typing import cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from ..config.sections import Recipe
from ..data.loader import BatchDataset
from ..data.sources import Source
from ..hardware.memory import halves, is_out_of_memory, largest_that_fits
from .module import ArinarModule


class OutOfMemoryAdvisor(Callback):
    """Finds out, where a step or a validation does not fit, with how many
    images at a time it would.

    Arguments:
        recipe, source: what is trained.

    Attributes:
        said: the message, once there is one.
    """

    def __init__(self, recipe: Recipe, source: Source) -> None:
        self.recipe, self.source, self.said = recipe, source, ""

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        if is_out_of_memory(exception):
            traceback.clear_frames(exception.__traceback__)
            module.zero_grad()
            find = self._of_validation if trainer.validating else self._of_step
            self.said = find(trainer, cast(ArinarModule, module))

    def _of_step(self, trainer: pl.Trainer, module: ArinarModule) -> str:
        m = self.recipe.machine
        share = self.recipe.training.batch // (m.devices * m.num_nodes)
        said = (
            f"machine.accumulate: {share // module.parts} images at a time do not fit "
            "into the memory;"
        )

        if m.strategy == "fsdp2":  # one process alone cannot try
            return f"{said} say more parts than {module.parts}, or machine.recompute=true"
        smaller = (
            share // parts for parts in range(module.parts + 1, share + 1) if share % parts == 0
        )
        found = largest_that_fits(lambda n: self._step(trainer, module, n), smaller)
        if not found:
            return f"{said} nor does a single one"

        return (
            f"{said} {found} would: say machine.accumulate={share // found}; the batch "
            "stays what it is"
        )

    def _step(self, trainer: pl.Trainer, module: ArinarModule, n: int) -> None:
        """Forward and backward of n images, beside what the optimiser will remember."""
        trained = [p for p in module.parameters() if p.requires_grad]
        remembered = (
            [torch.empty_like(p) for p in trained * 2] if not trainer.optimizers[0].state else []
        )
        part = module.conditions.at(0) if module.conditions else self._images(self.source.train, n)

        with trainer.precision_plugin.train_step_context():
            loss = module.loss_of(tuple(t[:n].to(module.device) for t in part), module.ratios[0])
        loss.backward()
        del remembered
        module.zero_grad()

    def _of_validation(self, trainer: pl.Trainer, module: ArinarModule) -> str:
        batch = min(self.recipe.machine.validation_batch, len(self.source.held_out[1]))

        @torch.no_grad()
        def attempt(n: int) -> None:
            with trainer.precision_plugin.val_step_context():
                module.validate(
                    tuple(t.to(module.device) for t in self._images(self.source.held_out, n))
                )

        found = (
            0
            if self.recipe.machine.strategy == "fsdp2"
            else largest_that_fits(attempt, halves(batch))
        )
        said = f"machine.validation_batch: {batch} images at a time do not fit into the memory;"
        return (
            f"{said} {found} would: say machine.validation_batch={found}"
            if found
            else f"{said} say fewer"
        )

    def _images(self, part: tuple[Tensor, Tensor], n: int) -> tuple[Tensor, Tensor, Tensor]:
        return BatchDataset(part).__getitems__(list(range(n)))
