"""Advice on the batch where a step or a validation of a training does not fit into the memory.

The advised number is measured next to the weights and all else that takes memory (see
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
    """Measures how many images at a time fit, when a step or a validation does not.

    Arguments:
        recipe: The run's recipe.
        source: Its data.

    Attributes:
        message: The advice; empty until the memory is too small.
    """

    def __init__(self, recipe: Recipe, source: Source) -> None:
        self.recipe = recipe
        self.source = source
        self.message = ""

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        if is_out_of_memory(exception):
            traceback.clear_frames(exception.__traceback__)
            module.zero_grad()
            advise = self._of_validation if trainer.validating else self._of_step
            self.message = advise(trainer, cast(ArinarModule, module))

    def _of_step(self, trainer: pl.Trainer, module: ArinarModule) -> str:
        """Advise how many parts a step of this process needs."""
        m = self.recipe.machine
        share = self.recipe.training.batch // (m.devices * m.num_nodes)
        part = share // module.parts
        fault = f"machine.accumulate: {part} images at a time do not fit into the memory;"
        if m.strategy == "fsdp2":  # one process alone cannot try
            return f"{fault} say more parts than {module.parts}, or machine.recompute=true"

        smaller = [n for n in range(part, 0, -1) if share % n == 0 and share // n > module.parts]
        largest = largest_that_fits(lambda n: self._step(trainer, module, n), smaller)
        if not largest:
            return f"{fault} nor does a single one"
        parts = share // largest
        return (
            f"{fault} {largest} would: say machine.accumulate={parts}; the batch stays what it is"
        )

    def _step(self, trainer: pl.Trainer, module: ArinarModule, n: int) -> None:
        """Compute loss and gradients of n images, with the optimiser's state allocated."""
        trained = [p for p in module.parameters() if p.requires_grad]
        if trainer.optimizers[0].state:
            trained = []  # its state is allocated already
        state = list(map(torch.empty_like, trained * 2))

        images = (
            module.conditions.at(0) if module.conditions else self._images(self.source.train, n)
        )
        part = tuple(tensor[:n].to(module.device) for tensor in images)
        with trainer.precision_plugin.train_step_context():
            loss = module.loss_of(part, module.ratios[0])
        loss.backward()
        del state
        module.zero_grad()

    def _of_validation(self, trainer: pl.Trainer, module: ArinarModule) -> str:
        """Advise how many images of a validation fit."""
        batch = min(self.recipe.machine.validation_batch, len(self.source.held_out[1]))

        @torch.no_grad()
        def attempt(n: int) -> None:
            part = tuple(t.to(module.device) for t in self._images(self.source.held_out, n))
            with trainer.precision_plugin.val_step_context():
                module.validate(part)

        largest = 0
        if self.recipe.machine.strategy != "fsdp2":  # one process alone cannot try
            largest = largest_that_fits(attempt, halves(batch))
        fault = f"machine.validation_batch: {batch} images at a time do not fit into the memory;"
        if not largest:
            return f"{fault} say fewer"
        return f"{fault} {largest} would: say machine.validation_batch={largest}"

    def _images(self, part: tuple[Tensor, Tensor], n: int) -> tuple[Tensor, Tensor, Tensor]:
        return BatchDataset(part).__getitems__(list(range(n)))
