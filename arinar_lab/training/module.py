"""The LightningModule: an Arinar model and its codec, optimised by AdamW with averaged weights.

Logs `train/loss` (a predicted token's; nats where it is a likelihood), `train/grad_norm` (before
clipping), `train/lr`, and of the averaged weights on held-out data `val/loss` and, where the model
has a likelihood, `val/bits_per_dim`.

No step waits for the device: what is logged is read where it is due, and whether the loss is still
finite is asked there, before a validation and before weights are saved.
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
from ..model.noise import Noise, Stream
from .block_transforms import undo_transforms
from .divergence import FiniteCheck
from .sharding import full_tensor, shard_model
from .warm_start import FrozenOuterCache


class BitsPerDim(Metric):
    """Mean of -log p / (dims · ln 2) over images: bits per raw dimension, from
    log-densities in nats an image.

    Arguments:
        dims: raw dimensions of an image.
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
        """log_prob: of the raw data, nats an image, [B]."""
        self.total += log_prob.double().sum()
        self.count += log_prob.numel()

    def compute(self) -> Tensor:
        return self.scale * self.total / self.count


LOG_EVERY = 10  # steps


class ArinarModule(LightningModule):
    """Trains `experiment.model` on tokens of `experiment.codec`.

    Randomness is keyed: dequantisation, masks and dropped labels are functions of (seed, step,
    image), validation's of the image alone, so that arms and resumed runs see the same.

    Arguments:
        experiment: source, codec and model.
        optimisation: the training section.
        seed: of masks, labels and dequantisation.
        parts: of a batch, one after the other, whose gradients add up to one step.
    """

    def __init__(
        self, experiment: Experiment, optimisation: Training, seed: int, parts: int = 1
    ) -> None:
        super().__init__()
        self.codec, self.model = experiment.codec, experiment.model
        self.optimisation, self.seed, self.parts = optimisation, seed, parts
        self.bits_per_dim = BitsPerDim(self.codec.dims)
        self.conditions: FrozenOuterCache | None = None
        self.frozen: list[nn.Parameter] = []
        self._compute: Callable[[torch.device], FrozenOuterCache | None] | None = None
        self._finite, self._begun = FiniteCheck(), 0
        self.groups = [0]
        self.ratios: list[float | None] = [None] * parts

    @torch.no_grad()
    def fit_to(self, images: Tensor, codec: bool = True) -> None:
        """Measure on training images what is measured once: latent normalisation (`codec`), bin
        edges, feature order.
        """
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
        parts = (self.model.outer, self.model.labels)
        self.frozen = [p for part in parts for p in part.parameters() if p.requires_grad]
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

        Images are dealt out to the groups in turn, as they are to processes. So where there are as
        many processes as groups, each has one, as the published code has it; and how many there
        are changes nothing.
        """
        size, batch = self.model.outer.mask_group, self.optimisation.batch
        if self._compute is None and 0 < size < batch:
            groups, world = batch // size, self.trainer.world_size
            own = groups // math.gcd(groups, world)
            self.groups = [(k * world + self.trainer.global_rank) % groups for k in range(own)]
            self.parts = math.lcm(self.parts, own)

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
        """Draw what is drawn once for a batch, of all processes, while that is on the host: the
        device would be waited for.
        """
        if self.trainer.training:
            loader = self.trainer.train_dataloader
            first = (
                loader.first_of(batch[2]) if isinstance(loader, ResumableLoader) else batch[2][:1]
            )
            noise = (
                Noise.of(torch.full_like(first, self.seed), "train").at(self.global_step).at(first)
            )
            ratios = [self.model.mask_ratio(noise.at(Stream.MODEL), group) for group in self.groups]
            self.ratios = [ratio for ratio in ratios for _ in range(self.parts // len(self.groups))]

        return batch

    def parts_of(self, batch: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
        """The batch of a step in equal parts, one after the other, those of a group of
        `mask_group` together.
        """
        kept = () if self.conditions is None else self.conditions.at(self.global_step)
        groups = len(self.groups)
        split = (
            [p for k in range(groups) for p in x[k::groups].chunk(self.parts // groups)]
            for x in kept or batch
        )
        return zip(*split, strict=True)

    def loss_of(self, part: tuple[Tensor, ...], ratio: float | None) -> Tensor:
        """The mean loss of (images, labels, indices) or, with a frozen outer model, of (z,
        tokens, places, indices).

        With the masked share of the part, where one is drawn for many images.
        """
        index = part[-1]
        seeds = torch.full_like(index, self.seed)
        noise = Noise.of(seeds, "train").at(self.global_step).at(index)

        if self.conditions is not None:
            z, x, where, _ = part
            return self.model.inner_loss(z, x, where, noise.at(Stream.MODEL))

        image, y, _ = part
        x, _ = self.codec.encode(image, noise.at(Stream.CODEC))
        return self.model.loss(x, y, noise.at(Stream.MODEL), ratio)

    def training_step(self, batch: tuple[Tensor, ...], batch_index: int) -> Tensor:
        """The loss of the batch, or of its last part over the number of parts: the gradients of the
        others are added here.
        """
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

        self._seen = torch.stack(losses).detach().sum()
        if self._due:
            self.log("train/loss", self._seen, sync_dist=True)

        return losses[-1]

    def optimizer_zero_grad(
        self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer
    ) -> None:
        """Between the last part's loss and its gradients; those of the others stay."""
        if self.parts == 1:
            optimizer.zero_grad()

    @property
    def _due(self) -> bool:
        """Whether the metrics of the step at hand are logged."""
        return (self.global_step + 1) % LOG_EVERY == 0

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm of all gradients, which is measured once, for the log
        and for divergence too.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = full_tensor(
            nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        )
        if self.optimisation.clip:
            nn.utils.clip_grads_with_norm_(parameters, self.optimisation.clip, norm)
        if self.optimisation.precision == "16-mixed":  # a step whose gradients overflow is left out
            self._finite.see(self._seen)
        else:
            self._finite.see(self._seen, norm)

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
        """Raise what has been noticed since it was asked last.

        Raises:
            Diverged: naming the step, what the loss (or the gradient's norm) became
                there, and what to change.
        """
        if fault := self._finite.fault():
            (loss, *norm), count = fault
            what = (
                f"the gradient's norm became {norm[0]}"
                if math.isfinite(loss)
                else f"the loss became {loss}"
            )
            o, step = self.optimisation, self._begun + count
            advice = f"lower training.lr (now {o.peak:g}) or training.clip (now {o.clip:g})"
            raise Diverged(f"{what} at step {step}; {advice}")

    def validate(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
        """The mean loss of held-out images, all with one masked share, and log p of each in
        nats, where there is one.
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
    """Trained parameters that decay, as `Training.weight_decay_on` says, and that do not."""
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
    """The learning rate of a step over its peak: linear warm-up, then constant, or a
    cosine down to zero.
    """
    if step < o.warmup:
        return (step if o.warmup_from_zero else step + 1) / o.warmup
    if o.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - o.warmup) / max(1, o.steps - o.warmup))))
