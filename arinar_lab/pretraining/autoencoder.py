"""Training of an autoencoder of images: `arinar train-codec FILE`.

    file ─AutoencoderRecipe→ data, Autoencoder ─steps→ codecs/<name>-<signature>/
      autoencoder.safetensors     what `codec: {kind: vae, weights: …}` reads
      restored.png                held-out images above what it makes of them
      report.json                 its errors on held-out images, and the recipe
      checkpoint.pt               of a training that has not ended; the same command goes on

    loss = mean (x̂ - x)² + kl_weight · mean KL(q ‖ N(0, 1)) + perceptual · LPIPS(x̂, x)
           - adversarial · mean critic(x̂)

with x in [-1, 1] and the means over pixels and over latents: Rombach et al., 2022 (arXiv
2112.10752), section 3.1. The critic looks at patches and is trained on the hinge loss from the
middle of the training on.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..config.schema import to_plain
from ..config.sections import Machine, check_seed
from ..data.sources import Source, SourceFactory, subsample
from ..errors import ConfigError, Diverged, prefixed
from ..evaluation.classifier_distance import classifier_distances
from ..files.atomic import atomic_draft
from ..files.checksums import save_tensors
from ..hardware.device import configure_cpu, device_of
from ..model.codecs.autoencoder import Autoencoder
from ..model.codecs.codec import from_grey_levels, to_grey_levels
from ..model.layers import require_at_least
from ..model.weight_files import read_torch
from ..output.text import say
from ..runs.folder import slug, write_json

WEIGHTS = "autoencoder.safetensors"
_REPORT_EVERY = 100  # steps
_CHECKPOINT_EVERY = 500
_SHOWN = 16  # images of the picture
_SMALLEST = 16  # pixels that VGG-16 leaves one of


@dataclass(frozen=True)
class AutoencoderRecipe:
    """An autoencoder and its training.

    Arguments:
        data: The images; held-out ones are only measured.
        latents: D, channels of the latents, ≥ 1.
        widths: Channels of each level, from the image to the latents, ≥ 1; each level after the
            first halves height and width, rounded up.
        kl_weight: Weight of the KL divergence from N(0, 1), mean of the latents, ≥ 0.
        perceptual: Weight of LPIPS in features of VGG-16, ≥ 0, which torchvision downloads once.
        adversarial: Weight of the critic's judgement, ≥ 0.
        steps: Optimiser steps, ≥ 1.
        batch: Images in each step, ≥ 1.
        lr: Peak learning rate of AdamW, > 0, of one cycle.
        weight_decay: Weight decay of AdamW, ≥ 0.
        half: Whether the weights are saved in half precision, in half the room.
        seed: Seed of weights and batches, in 0 … 2^32 - 1.
        machine: Hardware of the training, of which accelerator and threads are used.

    Raises:
        ValueError: if a number is out of range.
    """

    data: SourceFactory
    latents: int = 4
    widths: tuple[int, ...] = (48, 48)
    kl_weight: float = 3e-3
    perceptual: float = 0.0
    adversarial: float = 0.0
    steps: int = 6000
    batch: int = 128
    lr: float = 2e-3
    weight_decay: float = 0.01
    half: bool = False
    seed: int = 0
    machine: Machine = field(default_factory=Machine)

    def __post_init__(self) -> None:
        require_at_least(1, latents=self.latents, steps=self.steps, batch=self.batch)
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths: {list(self.widths)} is no list of numbers of channels")
        for name in ("kl_weight", "perceptual", "adversarial", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} is negative")
        if not self.lr > 0:
            raise ValueError(f"lr: {self.lr} is not above 0")
        check_seed(self.seed)

    @cached_property
    def signature(self) -> str:
        """Eight hexadecimal digits of all that decides the weights."""
        content = to_plain(self)
        del content["machine"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]

    def source(self) -> Source:
        """The images.

        Raises:
            ConfigError: with the key, if they are missing, damaged or no images.
        """
        with prefixed("data"):
            source = self.data()
            source.prepare()
            if not source.pictures or len(source.shape) != 3:
                raise ValueError("kind: holds no images, which an autoencoder needs")
        if self.perceptual and min(source.shape[1:]) < _SMALLEST:
            raise ConfigError(
                f"perceptual: VGG-16 sees no images below {_SMALLEST}×{_SMALLEST}; leave it out"
            )
        return source


class Critic(nn.Sequential):
    """Judges patches of images [B, C, H, W]: high for true ones, [B, 1, H/4, W/4]."""

    def __init__(self, channels: int, width: int = 32) -> None:
        super().__init__(
            nn.Conv2d(channels, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 3, 1, 1),
        )


class Perceptual(nn.Module):
    """LPIPS of torchmetrics, of grey images or coloured ones [B, C, H, W] in [-1, 1]: a scalar.

    Raises:
        ConfigError: if its weights are not there and cannot be downloaded.
    """

    def __init__(self) -> None:
        super().__init__()
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        try:
            metric = LearnedPerceptualImagePatchSimilarity(net_type="vgg")
        except OSError as error:
            raise ConfigError(
                f"perceptual: the weights of VGG-16 could not be downloaded ({error}); leave it out"
            ) from None
        self.network = metric.net.requires_grad_(False)

    def forward(self, restored: Tensor, image: Tensor) -> Tensor:
        shape = (-1, 3, -1, -1)
        return self.network(restored.expand(shape), image.expand(shape)).mean()


class Optimised:
    """A module with its optimiser and its learning rate, which rises and falls once."""

    def __init__(self, module: nn.Module, recipe: AutoencoderRecipe, steps: int) -> None:
        self.module = module
        self.optimizer = torch.optim.AdamW(
            module.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, recipe.lr, steps)

    def descend(self, loss: Tensor) -> None:
        """Take a step down the gradient of a loss."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()

    def state(self) -> dict[str, Any]:
        """The state of all three."""
        return {name: part.state_dict() for name, part in vars(self).items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take a state of all three."""
        for name, part in vars(self).items():
            part.load_state_dict(state[name])


class AutoencoderTraining:
    """An autoencoder in training.

    Arguments:
        recipe: The recipe.
        source: Its images.
    """

    def __init__(self, recipe: AutoencoderRecipe, source: Source) -> None:
        self.recipe = recipe
        self.source = source
        self.device = device_of(recipe.machine)
        self.step = 0
        torch.manual_seed(recipe.seed)
        model = Autoencoder(source.shape, recipe.latents, recipe.widths)
        self.model = model.to(self.device)
        self.training = Optimised(self.model, recipe, recipe.steps)
        self.critic: Optimised | None = None
        if recipe.adversarial:
            critic = Critic(source.shape[0]).to(self.device)
            self.critic = Optimised(critic, recipe, recipe.steps - recipe.steps // 2)
        self.perceptual = Perceptual().to(self.device) if recipe.perceptual else None

    def advance(self) -> dict[str, float]:
        """Take a step; return the terms of its loss."""
        recipe = self.recipe
        image = self._batch()
        mean, std = self.model.posterior(image)
        noise = torch.randn(std.shape).to(self.device)  # of the random state that is saved
        restored = self.model.decoder(mean + std * noise)
        error = functional.mse_loss(restored, image)
        kl = (mean**2 + std**2 - 1).mean() / 2 - std.log().mean()
        loss = error + recipe.kl_weight * kl
        if self.perceptual is not None:
            loss = loss + recipe.perceptual * self.perceptual(restored, image)
        is_judged = self.critic is not None and self.step >= recipe.steps // 2
        if self.critic is not None and is_judged:
            loss = loss - recipe.adversarial * self.critic.module(restored).mean()

        self.training.descend(loss)
        if self.critic is not None and is_judged:
            true = self.critic.module(image)
            made = self.critic.module(restored.detach())
            self.critic.descend((1 - true).relu().mean() + (1 + made).relu().mean())
        self.step += 1
        return {"error": error.item(), "kl": kl.item()}

    def _batch(self) -> Tensor:
        """Random training images, in [-1, 1]."""
        images = self.source.train[0]
        i = torch.randint(len(images), (self.recipe.batch,))
        image = images[i]
        if self.source.flip:
            mirrored = torch.rand(len(i)) < 0.5
            image = torch.where(mirrored[:, None, None, None], image.flip(-1), image)
        return from_grey_levels(image, self.source.levels).to(self.device)

    def keep(self, path: Path) -> None:
        """Save all that the next step depends on."""
        state = {
            "step": self.step,
            "training": self.training.state(),
            "critic": self.critic.state() if self.critic else None,
            "random": torch.get_rng_state(),
        }
        with atomic_draft(path, durable=True) as draft:
            torch.save(state, draft)

    def restore(self, path: Path) -> None:
        """Go on where a training that was saved stood.

        Raises:
            ConfigError: in one line, if the file is damaged or is of another training.
        """
        try:
            state = read_torch(path)
            self.training.restore(state["training"])
            if self.critic is not None:
                self.critic.restore(state["critic"])
            torch.set_rng_state(state["random"])
            self.step = state["step"]
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ConfigError(
                f"{path}: no training goes on from it ({reason}); remove it to train anew"
            ) from None


def train_autoencoder(recipe: AutoencoderRecipe, name: str, root: Path) -> Path:
    """Train an autoencoder, or go on with its training, and return the folder of its files.

    Arguments:
        recipe: The recipe.
        name: Its name, the first part of the folder's.
        root: The folder of all autoencoders.

    Raises:
        ConfigError: with the key, if the images are missing or damaged.
    """
    folder = root / f"{slug(name)}-{recipe.signature}"
    if (folder / "report.json").is_file():
        say(f"{folder} is trained already.")
        return folder

    configure_cpu(recipe.machine)
    source = recipe.source()
    checkpoint = folder / "checkpoint.pt"
    with torch.random.fork_rng():
        training = AutoencoderTraining(recipe, source)
        if checkpoint.is_file():
            training.restore(checkpoint)
            say(f"Going on at step {training.step:,}.")
        _train(training, checkpoint)
        _write(training, folder)
    checkpoint.unlink(missing_ok=True)
    return folder


def _train(training: AutoencoderTraining, checkpoint: Path) -> None:
    """Take the steps that are left."""
    steps = training.recipe.steps
    while training.step < steps:
        terms = training.advance()
        if not math.isfinite(sum(terms.values())):
            raise Diverged(f"step {training.step:,}: the loss is not finite; choose a smaller lr")
        if training.step % _REPORT_EVERY == 0 or training.step == steps:
            text = ", ".join(f"{name} {value:.4f}" for name, value in terms.items())
            say(f"step {training.step:,} of {steps:,}: {text}")
        if training.step % _CHECKPOINT_EVERY == 0:
            training.keep(checkpoint)


def _write(training: AutoencoderTraining, folder: Path) -> None:
    """Write weights, picture and report."""
    recipe = training.recipe
    model = training.model.eval()
    state = model.state_dict()
    if recipe.half:
        state = {key: value.half() for key, value in state.items()}
        model.load_state_dict(state)
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / WEIGHTS, {key: value.contiguous() for key, value in state.items()})

    images = subsample(training.source.held_out[0])
    restored = restored_images(model, images, training.source.levels, recipe.batch)
    _draw(images[:_SHOWN], restored[:_SHOWN], training.source.levels, folder / "restored.png")
    report = measures(model, images, restored, training.source, recipe.batch)
    write_json(folder / "report.json", {"metrics": report, "recipe": to_plain(recipe)})


@torch.no_grad()
def restored_images(model: Autoencoder, images: Tensor, levels: int, batch: int) -> Tensor:
    """Encode images [n, C, H, W] to the means of their latents, and decode them: grey levels."""
    device = next(model.parameters()).device
    parts = []
    for part in images.split(batch):
        mean, _ = model.posterior(from_grey_levels(part, levels).to(device))
        parts.append(to_grey_levels(model.decoder(mean), levels).cpu())
    return torch.cat(parts)


@torch.no_grad()
def measures(
    model: Autoencoder, images: Tensor, restored: Tensor, source: Source, batch: int
) -> dict[str, float]:
    """Measure an autoencoder on held-out images [n, C, H, W].

    Returns:
        error: root mean square error, in grey levels.
        deviation: standard deviation of the latents' means.
        posterior: mean standard deviation of a latent's posterior.
        fd_…, …: distances of restored images to the images, where a classifier knows these.
    """
    device = next(model.parameters()).device
    x = from_grey_levels(images[:batch], source.levels).to(device)
    mean, std = model.posterior(x)
    values = {
        "error": (restored.float() - images.float()).square().mean().sqrt().item(),
        "deviation": mean.std().item(),
        "posterior": std.mean().item(),
    }
    if source.classifier is not None:
        values |= classifier_distances(restored, images, source.classifier)
    return values


def _draw(images: Tensor, restored: Tensor, levels: int, path: Path) -> None:
    """Draw images above what became of them; grey images are drawn dark on light."""
    from torchvision.utils import make_grid, save_image

    tiles = torch.cat([images, restored]).float() / (levels - 1)
    if tiles.shape[1] == 1:
        tiles = 1 - tiles
    grid = make_grid(tiles, nrow=len(images), padding=1, pad_value=0.8)
    zoom = max(1, 56 // tiles.shape[-1])
    with atomic_draft(path) as draft:
        save_image(grid.repeat_interleave(zoom, -1).repeat_interleave(zoom, -2), draft)
