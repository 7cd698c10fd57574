"""The LightningModule: an Arinar model and its codec, optimised by AdamW with averaged weights.

Logs `train/loss` (a predicted token's; nats where it is a likelihood), `train/grad_norm` (before clipping), `train/lr`, and
of the averaged weights on held-out data `val/loss` and, where the model has a likelihood, `val/bits_per_dim`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from ..model.layers import Vectors
from ..model.noise import Noise
from .config import Experiment, Training
from .data import some
from .metrics import BitsPerDim
from .transfer import Conditions


class Diverged(RuntimeError):
    """The loss is no longer finite."""


class ArinarModule(LightningModule):
    """Trains `experiment.model` on tokens of `experiment.codec`.

    Randomness is keyed: dequantisation, masks and dropped labels are functions of (seed, step, image), validation's of the
    image alone, so that arms and resumed runs see the same.

    Arguments:
        experiment: source, codec and model.
        optimisation: the training section.
        seed: of masks, labels and dequantisation.
    """

    def __init__(self, experiment: Experiment, optimisation: Training, seed: int) -> None:
        super().__init__()
        self.codec, self.model = experiment.codec, experiment.model
        self.optimisation, self.seed = optimisation, seed
        self.bits_per_dim = BitsPerDim(self.codec.dims)
        self.conditions: Conditions | None = None
        self._compute: Callable[[torch.device], Conditions | None] | None = None

    @torch.no_grad()
    def fit_to(self, images: Tensor, codec: bool = True) -> None:
        """Measure on training images what is measured once: latent normalisation (`codec`), bin edges, feature order."""
        codec = codec and self.codec.normalise != "none"
        if not codec and not self.model.inner.measures:
            return
        images = some(images)
        noise = Noise.of(torch.arange(len(images)), "fit")
        if codec:
            self.codec.fit(images, noise)
        if self.model.inner.measures:
            x, _ = self.codec.encode(images, noise)
            self.model.inner.fit(x.reshape(-1, 1, self.codec.features))

    def freeze_outer(self, compute: Callable[[torch.device], Conditions | None]) -> None:
        """Train the inner model alone, on conditions that `compute` makes when training starts."""
        self._compute = compute
        for part in (self.model.outer, self.model.labels):
            part.requires_grad_(False)

    def on_train_start(self) -> None:
        if self._compute is not None:
            self.conditions = self._compute(self.device)

    def train(self, mode: bool = True) -> ArinarModule:
        super().train(mode)
        if self._compute is not None:  # a frozen model has no dropout
            self.model.outer.eval()
        return self

    def _loss(self, image: Tensor, y: Tensor, index: Tensor) -> Tensor:
        noise = Noise.of(torch.full_like(index, self.seed), "train").at(self.global_step)
        if self.conditions is not None:
            z, x, where, index = self.conditions.at(self.global_step)
            return self.model.inner(z).loss(x, noise.at(index).at(1).at(1).at(where)).mean()
        noise = noise.at(index)
        x, _ = self.codec.encode(image, noise.at(0))
        return self.model.loss(x, y, noise.at(1))

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_index: int) -> Tensor:
        loss = self._loss(*batch)
        if not torch.isfinite(loss):
            advice = (
                f"lower training.lr (now {self.optimisation.lr:g}) or training.clip (now {self.optimisation.clip:g})"
            )
            raise Diverged(f"the loss became {loss.item()} at step {self.global_step}; {advice}")
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_index: int) -> None:
        image, y, index = batch
        noise = Noise.of(index, "held out").at(0)
        x, log_det = self.codec.encode(image, noise.at(0))
        self.log("val/loss", self.model.loss(x, y, noise.at(2)), sync_dist=True)
        if self.model.likelihood != "none":
            self.bits_per_dim.update(self.model.log_prob(x, y, noise.at(1)) + log_det)
            self.log("val/bits_per_dim", self.bits_per_dim, prog_bar=True)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        self.log("train/grad_norm", nn.utils.get_total_norm(gradients))
        self.log("train/lr", optimizer.param_groups[0]["lr"])

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        o = self.optimisation
        decay, keep = decayed(self.model)
        groups = [{"params": decay, "weight_decay": o.weight_decay}, {"params": keep, "weight_decay": 0.0}]
        scaled = o.precision == "16-mixed"  # there Lightning clips no gradients of a fused optimiser
        optimizer = torch.optim.AdamW(groups, lr=o.lr, betas=o.betas, fused=not scaled)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, o))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def decayed(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trained parameters that decay (matrices of linear maps) and that do not (biases, norms, embeddings, constants)."""
    decay: list[nn.Parameter] = []
    keep: list[nn.Parameter] = []
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            if p.requires_grad:
                matrix = p.dim() > 1 and name == "weight" and not isinstance(module, Vectors)
                (decay if matrix else keep).append(p)
    return decay, keep


def rate(step: int, o: Training) -> float:
    """The learning rate of a step over its peak: linear warm-up, then constant, or a cosine down to zero."""
    if step < o.warmup:
        return (step + 1) / o.warmup
    if o.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - o.warmup) / max(1, o.steps - o.warmup))))


def averaging(decay: float) -> EMAWeightAveraging:
    """Lightning's averaged weights. Buffers are copied: averaging would corrupt integers."""
    return EMAWeightAveraging(decay=decay, use_buffers=False)
