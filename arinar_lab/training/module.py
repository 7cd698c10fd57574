"""The LightningModule: an Arinar model and its codec, optimised by AdamW with averaged weights.

Logs `train/loss` (a predicted token's; nats where it is a likelihood), `train/grad_norm` (before
clipping), `train/lr`, and of the averaged weights on held-out data `val/loss` and, where the model
has a likelihood, `val/bits_per_dim`.

No step synchronises the device: metrics are read when they are due, and the loss is checked to be
finite then, before a validation and before weights are saved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics import Metric

from ..config.build import Experiment
from ..config.sections import Decayed, Training
from ..data.loader import ResumableLoader
from ..data.sources import subsample
from ..errors import Diverged
from ..model.layers import LearnedVectors
from ..model.noise import Noise, Stream, training_noise
from .block_transforms import undo_transforms
from .divergence import FiniteCheck
from .sharding import full_tensor, shard_model
from .warm_start import FrozenOuterCache


class BitsPerDim(Metric):
    """Mean bits per raw dimension over images: -log p / (dims · ln 2), with log p in nats.

    Arguments:
        dims: Raw dimensions of an image.
    """

    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.scale = -1 / (dims * math.log(2))
        self.add_state("total", torch.zeros((), dtype=torch.float64), "sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), "sum")

    def update(self, log_prob: Tensor) -> None:
        """Add images, given log p of their raw data in nats, [B]."""
        self.total += log_prob.double().sum()
        self.count += log_prob.numel()

    def compute(self) -> Tensor:
        return self.scale * self.total / self.count


LOG_EVERY = 10  # steps


class ArinarModule(LightningModule):
    """Trains `experiment.model` on tokens of `experiment.codec`.

    Randomness is keyed: dequantisation, masks and dropped labels are functions of (seed, step,
    image), those of validation of the image alone. So arms and resumed runs draw the same numbers.

    Arguments:
        experiment: Source, codec and model.
        optimisation: The training section.
        seed: Seed of masks, labels and dequantisation.
        parts: Parts of a batch, one after the other, whose gradients add up to one step.
        data_seed: Seed of dequantisation where that has its own.
    """

    def __init__(
        self,
        experiment: Experiment,
        optimisation: Training,
        seed: int,
        parts: int = 1,
        data_seed: int | None = None,
    ) -> None:
        super().__init__()
        self.codec = experiment.codec
        self.model = experiment.model
        self.optimisation = optimisation
        self.seed = seed
        self.data_seed = seed if data_seed is None else data_seed
        self.parts = parts
        self.bits_per_dim = BitsPerDim(self.codec.dims)

        self.groups = [0]
        self.ratios: list[float | None] = [None] * parts
        self.frozen: list[nn.Parameter] = []
        self.conditions: FrozenOuterCache | None = None
        self._compute: Callable[[torch.device], FrozenOuterCache | None] | None = None
        self._finite = FiniteCheck()
        self._begun = 0

    @torch.no_grad()
    def fit_to(self, images: Tensor, codec: bool = True) -> None:
        """Fit latent normalisation (if `codec`), bin edges and feature order to training images."""
        codec = codec and self.codec.normalise != "none"
        if not codec and not self.model.inner.needs_fit:
            return

        images = subsample(images)
        noise = Noise.of(torch.arange(len(images)), "fit")
        if codec:
            self.codec.fit(images, noise)
        if self.model.inner.needs_fit:
            x, _ = self.codec.encode(images, noise)
            self.model.inner.fit(x.reshape(-1, 1, self.codec.features))

    def freeze_outer(self, compute: Callable[[torch.device], FrozenOuterCache | None]) -> None:
        """Train the inner model alone, on conditions that `compute` makes when training starts."""
        self._compute = compute
        parameters = [*self.model.outer.parameters(), *self.model.labels.parameters()]
        self.frozen = [p for p in parameters if p.requires_grad]
        for p in self.frozen:
            p.requires_grad_(False)

    def release(self) -> None:
        """Leave codec and model as loading their weights from a file would give them."""
        self.zero_grad()
        for p in self.frozen:
            p.requires_grad_(True)
        undo_transforms(self.model)

    def on_fit_start(self) -> None:
        """Split the batch so that the images of a part share a masked ratio.

        Images are dealt out to the groups in turn, as they are to processes. So with as many
        processes as groups each process has one, as in the published code, and the number of
        processes changes no result.
        """
        size, batch = self.model.outer.mask_group, self.optimisation.batch
        if self._compute is None and 0 < size < batch:
            groups = batch // size
            world = self.trainer.world_size
            count = groups // math.gcd(groups, world)
            self.groups = [(k * world + self.trainer.global_rank) % groups for k in range(count)]
            self.parts = math.lcm(self.parts, count)

    def on_train_start(self) -> None:
        self._begun = self.global_step
        if self._compute is not None:
            self.conditions = self._compute(self.device)

    def train(self, mode: bool = True) -> ArinarModule:
        super().train(mode)
        if self._compute is not None:  # a frozen model has no dropout
            self.model.outer.eval()
        return self

    def configure_model(self) -> None:
        if self.device_mesh is not None:
            shard_model(self.model, self.device_mesh["data_parallel"])

    def on_before_batch_transfer(
        self, batch: tuple[Tensor, ...], dataloader_idx: int
    ) -> tuple[Tensor, ...]:
        """Draw the masked ratios of the whole batch while that is on the host: nothing waits."""
        if self.trainer.training:
            loader = self.trainer.train_dataloader
            first = batch[2][:1]
            if isinstance(loader, ResumableLoader):
                first = loader.first_of(batch[2])
            noise = training_noise(self.seed, self.global_step, first).at(Stream.MODEL)

            self.ratios = []
            for group in self.groups:
                ratio = self.model.mask_ratio(noise, group)
                self.ratios += [ratio] * (self.parts // len(self.groups))

        return batch

    def parts_of(self, batch: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
        """Split the batch of a step into equal parts; the parts of a masking group are adjacent."""
        tensors = batch if self.conditions is None else self.conditions.at(self.global_step)
        return zip(*map(self._chunks, tensors), strict=True)

    def _chunks(self, x: Tensor) -> list[Tensor]:
        """Split one tensor of a batch along its first axis."""
        chunks: list[Tensor] = []
        for k in range(len(self.groups)):
            chunks += x[k :: len(self.groups)].chunk(self.parts // len(self.groups))
        return chunks

    def loss_of(self, part: tuple[Tensor, ...], ratio: float | None) -> Tensor:
        """Return the mean loss of a part of the batch.

        Arguments:
            part: (images, labels, indices) or, with a frozen outer model, (z, tokens, places,
                indices).
            ratio: Masked share of the part, where one is drawn for many images.
        """
        index = part[-1]
        noise = training_noise(self.seed, self.global_step, index)

        if self.conditions is not None:
            z, x, where, _ = part
            return self.model.inner_loss(z, x, where, noise.at(Stream.MODEL))

        image, y, _ = part
        data_noise = training_noise(self.data_seed, self.global_step, index)
        x, _ = self.codec.encode(image, data_noise.at(Stream.CODEC))
        return self.model.loss(x, y, noise.at(Stream.MODEL), ratio)

    def training_step(self, batch: tuple[Tensor, ...], batch_index: int) -> Tensor:
        """Return the loss of the batch's last part; the gradients of the parts before are added."""
        if self.parts > 1:
            self.zero_grad()
        losses: list[Tensor] = []
        for part, ratio in zip(self.parts_of(batch), self.ratios, strict=True):
            if losses:
                with torch.autocast(self.device.type, enabled=False):
                    self.trainer.strategy.backward(losses[-1], None)
                losses[-1] = losses[-1].detach()
            loss = self.loss_of(part, ratio)
            losses.append(loss / self.parts if self.parts > 1 else loss)

        self._batch_loss = torch.stack(losses).detach().sum()
        if self._due:
            self.log("train/loss", self._batch_loss, sync_dist=True)

        return losses[-1]

    def optimizer_zero_grad(
        self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer
    ) -> None:
        """Keep the gradients of earlier parts: this runs after the last part's loss."""
        if self.parts == 1:
            optimizer.zero_grad()

    @property
    def _due(self) -> bool:
        """Whether the metrics of the current step are logged."""
        return (self.global_step + 1) % LOG_EVERY == 0

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm of all gradients, which is computed once for log and divergence too."""
        parameters: list[nn.Parameter] = []
        for group in optimizer.param_groups:
            parameters += group["params"]
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = full_tensor(nn.utils.get_total_norm(gradients))

        if self.optimisation.clip:
            nn.utils.clip_grads_with_norm_(parameters, self.optimisation.clip, norm)
        if self.optimisation.precision == "16-mixed":  # a step whose gradients overflow is left out
            self._finite.see(self._batch_loss)
        else:
            self._finite.see(self._batch_loss, norm)

        if self._due:
            self.log("train/grad_norm", norm)
            self.log("train/lr", optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, *_: Any) -> None:
        if self.global_step % LOG_EVERY == 0:
            self._check()

    def on_validation_start(self) -> None:
        self._check()

    def on_train_end(self) -> None:
        self._check()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._check()

    def _check(self) -> None:
        """Refuse to continue where loss or gradients are no longer finite.

        Raises:
            Diverged: naming the step, the loss or the gradient's norm, and what to change.
        """
        fault = self._finite.fault()
        if fault is None:
            return

        (loss, *norm), count = fault
        event = f"the loss became {loss}"
        if math.isfinite(loss):
            event = f"the gradient's norm became {norm[0]}"
        o = self.optimisation
        clip = f"training.clip (now {o.clip:g})" if o.clip else "set training.clip, as to 1"
        advice = f"lower training.lr (now {o.peak:g}) or {clip}"
        raise Diverged(f"{event} at step {self._begun + count}; {advice}")

    def validate(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
        """Return the mean loss of held-out images, with one masked share, and log p [B] in nats.

        Log p is None where the model has no likelihood.
        """
        image, y, index = batch
        noise = Noise.of(index, "held out").at(Stream.FIRST_DRAW)
        first = Noise.of(torch.zeros_like(index[:1]), "held out").at(Stream.FIRST_DRAW)
        ratio = self.model.mask_ratio(first.at(Stream.VALIDATION_LOSS))

        x, log_det = self.codec.encode(image, noise.at(Stream.CODEC))
        loss = self.model.loss(x, y, noise.at(Stream.VALIDATION_LOSS), ratio)
        if self.model.likelihood == "none":
            return loss, None
        return loss, self.model.log_prob(x, y, noise.at(Stream.MODEL)) + log_det

    def validation_step(self, batch: tuple[Tensor, ...], batch_index: int) -> None:
        loss, log_prob = self.validate(batch)
        self.log("val/loss", loss, sync_dist=True)
        if log_prob is not None:
            self.bits_per_dim.update(log_prob)
            self.log("val/bits_per_dim", self.bits_per_dim, prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        o = self.optimisation
        decay, keep = decay_groups(self.model, o.weight_decay_on)
        groups = [
            {"params": decay, "weight_decay": o.weight_decay},
            {"params": keep, "weight_decay": 0.0},
        ]
        # a fused optimiser unscales by itself, after the clipping
        scaled = o.precision == "16-mixed"
        optimizer = torch.optim.AdamW(groups, lr=o.peak, betas=o.betas, fused=not scaled)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, o)
        )

        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def decay_groups(
    model: nn.Module, on: Decayed = "matrices"
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the trained parameters with and without decay, as `Training.weight_decay_on` says."""
    decay: list[nn.Parameter] = []
    keep: list[nn.Parameter] = []
    for path, module in model.named_modules():
        for name, p in module.named_parameters(recurse=False):
            if p.requires_grad:
                matrix = name == "weight" and not isinstance(module, LearnedVectors)
                outer = path.split(".")[0] != "inner"
                decays = p.dim() > 1 and {"matrices": matrix, "outer": outer, "all": True}[on]
                (decay if decays else keep).append(p)

    return decay, keep


def learning_rate_factor(step: int, o: Training) -> float:
    """Return a step's learning rate over its peak: linear warm-up, then constant or cosine."""
    if step < o.warmup:
        return (step if o.warmup_from_zero else step + 1) / o.warmup
    if o.schedule == "constant":
        return 1.0
    progress = min(1.0, (step - o.warmup) / max(1, o.steps - o.warmup))
    return 0.5 * (1 + math.cos(math.pi * progress))
