"""Training of the weights that ship with the package: `arinar retrain NAME`.

Only the digits' training split is used.

digits_classifier   features of fd_digits, precision and recall
digits_vae          the KL autoencoder of experiments/digits_latent.yaml
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..data.sources import Digits
from ..model.codecs.codec import ASSETS, Autoencoder
from .classifier_distance import DigitsClassifier


def _batches(count: int, batch: int, steps: int) -> Iterator[Tensor]:
    for _ in range(steps):
        yield torch.randint(count, (batch,))


def _shifted(images: Tensor) -> Tensor:
    """Shift images by at most one pixel."""
    across, down = torch.randint(-1, 2, (2,)).tolist()
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    return padded[..., 1 + down : 9 + down, 1 + across : 9 + across]


def train_classifier(steps: int = 3000) -> tuple[nn.Module, str]:
    """Train a classifier of digits; return it and a line with its held-out accuracy."""
    data = Digits()
    model = DigitsClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)

    for i in _batches(len(data.train[0]), 128, steps):
        _, logits = model(_shifted(data.train[0][i]))
        loss = nn.functional.cross_entropy(logits, data.train[1][i], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    with torch.no_grad():
        right = (model(data.held_out[0])[1].argmax(-1) == data.held_out[1]).float().mean()

    return model, f"accuracy on {len(data.held_out[0])} held-out digits: {right:.4f}"


def train_vae(steps: int = 6000, kl_weight: float = 3e-3) -> tuple[nn.Module, str]:
    """Train an autoencoder of digits; return it and a line with its held-out error.

    The loss is the squared error per pixel + kl_weight · KL(posterior ‖ N(0, 1)) per latent.
    """
    data = Digits()
    model = Autoencoder(1, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)

    for i in _batches(len(data.train[0]), 128, steps):
        image = data.train[0][i].float() / 8 - 1
        mean, std = model.posterior(image)
        restored = model.decoder(mean + std * torch.randn_like(std))
        kl = (mean**2 + std**2 - 1).mean() / 2 - std.log().mean()
        loss = nn.functional.mse_loss(restored, image) + kl_weight * kl
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    with torch.no_grad():
        image = data.held_out[0].float() / 8 - 1
        mean, std = model.posterior(image)
        error = (model.decoder(mean) - image).square().mean().sqrt() * 8

    return model, (
        f"held-out error {error:.3f} grey levels of 16; latents: deviation {mean.std():.3f}, "
        f"posterior's own {std.mean():.3f}"
    )


TRAINERS: dict[str, Callable[[], tuple[nn.Module, str]]] = {
    "digits_classifier": train_classifier,
    "digits_vae": train_vae,
}


def retrain_weights(name: str, folder: Path = ASSETS) -> str:
    """Train the named weights from seed 0, save them, and return their size and quality."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, quality = TRAINERS[name]()
    path = folder / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    return f"{path}: {path.stat().st_size / 1e6:.2f} MB, {quality}"
