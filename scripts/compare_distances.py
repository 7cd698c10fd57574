"""Measures which distance of digits resolves most: real digits against damaged ones.

    python scripts/compare_distances.py [--draws 100] [--seed 0]

prints Markdown tables; no training, under two minutes of one core. Two kinds of pairs of sets:

    halves      two disjoint random halves of the 1,797 digits, one of which may be damaged
    bootstrap   1,437 of the training digits, drawn with replacement and maybe damaged, against
                all of them

A cell is (mean distance of damaged sets - mean of undamaged ones) / SD of undamaged ones, at
three strengths; positive is worse. A second table sets the strengths against each other: (middle -
weak) and (strong - middle), over the SD of such sets, as two models are compared. Damaged sets are
a quarter of the draws. A bootstrap repeats images, and all of them are the reference's: precision
is one there. 5,000 images are left out: repeated or jittered digits are no 5,000 digits.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from arinar_lab.data.sources import Digits
from arinar_lab.evaluation.classifier_distance import (
    balls_with_images,
    coverage,
    density_of_images,
    features_of,
    frechet_distance,
    kernel_distance,
    sliced_distance,
)
from arinar_lab.evaluation.uncertainty import is_inside

NAMES = ("FD", "KID", "sliced", "precision", "recall", "density", "coverage")
SIGNS = torch.tensor([1, 1, 1, -1, -1, -1, -1])  # 1 where less is better
UNDAMAGED = 0.0


def distances(features: Tensor, reference: Tensor) -> Tensor:
    """Return the distances `NAMES` of features [n, F] and [m, F]: [7]."""
    balls = balls_with_images(features, reference)
    values = [
        frechet_distance(features, reference),
        kernel_distance(features, reference),
        sliced_distance(features, reference),
        is_inside(features, reference, reference).double().mean().item(),
        is_inside(reference, features, features).double().mean().item(),
        density_of_images(balls).mean().item(),
        coverage(balls),
    ]
    return torch.tensor(values, dtype=torch.float64)


def blurred(images: Tensor, share: float) -> Tensor:
    """Mix images with their means over 3 × 3 pixels, and round them to grey levels."""
    smooth = avg_pool2d(images.float(), 3, 1, 1)
    return ((1 - share) * images + share * smooth).round()


def noisy(images: Tensor, deviation: float) -> Tensor:
    """Add Gaussian noise, its deviation in grey levels, and round to grey levels 0 … 16."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return (images + deviation * noise).round().clamp(0, 16)


def without_classes(indices: Tensor, y: Tensor, classes: float) -> Tensor:
    """Drop the first classes, and of the next one a share, from indices; fill up by repeating."""
    whole = int(classes)
    of_next = (y[indices] == whole).nonzero()[:, 0]
    keep = y[indices] >= whole
    keep[of_next[: round((classes - whole) * len(of_next))]] = False
    return indices[keep].repeat(3)[: len(indices)]


def copies(reference: Tensor, n: int, parts: float) -> Tensor:
    """Repeat one image in so many of the reference's: [n], what a model learned by heart."""
    return reference[: round(len(reference) / parts)].repeat(n)[:n]


@dataclass(frozen=True)
class Damage:
    """A way to damage a set, and its three strengths."""

    name: str
    strengths: tuple[float, float, float]


BLUR = Damage("blur", (0.1, 0.2, 0.4))
NOISE = Damage("noise", (0.5, 1.0, 2.0))
CLASSES = Damage("classes dropped", (0.5, 1.0, 3.0))
COPIES = Damage("one in … copied", (2.0, 4.0, 8.0))
DAMAGES = (BLUR, NOISE, CLASSES, COPIES)


class Digit:
    """Features of all digits, undamaged and damaged in each way that changes images."""

    def __init__(self) -> None:
        source = Digits()
        images = torch.cat([source.train[0], source.held_out[0]])
        self.y = torch.cat([source.train[1], source.held_out[1]])
        self.training = len(source.train[0])
        self.features = features_of(images, "digits")
        self.damaged = {}
        for strength in BLUR.strengths:
            self.damaged[BLUR, strength] = features_of(blurred(images, strength), "digits")
        for strength in NOISE.strengths:
            self.damaged[NOISE, strength] = features_of(noisy(images, strength), "digits")

    def pair(self, kind: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw indices of a set and of its reference."""
        if kind == "bootstrap":
            reference = torch.arange(self.training)
            return torch.randint(self.training, (self.training,), generator=generator), reference

        order = torch.randperm(len(self.y), generator=generator)
        half = len(order) // 2
        return order[:half], order[half : 2 * half]

    def compare(self, indices: Tensor, reference: Tensor, damage: Damage, by: float) -> Tensor:
        """Return the distances of a set, damaged by some strength, to its reference: [7]."""
        if damage is CLASSES:
            indices = without_classes(indices, self.y, by)
        elif damage is COPIES and by:
            indices = copies(reference, len(indices), by)
        features = self.damaged.get((damage, by), self.features)
        return distances(features[indices], self.features[reference])


def measure(digit: Digit, kind: str, damage: Damage, by: float, draws: int, seed: int) -> Tensor:
    """Return distances of random pairs, the same pairs for each damage: [draws, 7]."""
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(draws):
        values.append(digit.compare(*digit.pair(kind, generator), damage, by))
    return torch.stack(values)


def effects(sets: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return effects of distances [draws, 7] of undamaged, weakly, … strongly damaged sets.

    Returns:
        against undamaged sets [3, 7], and of neighbouring strengths [2, 7].
    """
    undamaged = sets[0]
    means = torch.stack([values.mean(0) for values in sets])
    variances = torch.stack([values.var(0) for values in sets])
    shifts = SIGNS * (means[1:] - means[0]) / undamaged.std(0)
    steps = SIGNS * means[1:].diff(dim=0) / ((variances[1:-1] + variances[2:]) / 2).sqrt()
    return shifts, steps


def cell(effect: float) -> str:
    """Write an effect; a dash where sets do not scatter, so that there is none."""
    return f"{effect:.1f}" if math.isfinite(effect) else "–"


def table(title: str, damages: tuple[Damage, ...], columns: list[Tensor]) -> str:
    """Write a Markdown table of effects: a row for each distance, a column for each damage."""
    heads = [damage.name for damage in damages]
    lines = [f"{title}\n", "| | " + " | ".join(heads) + " |", "|:--" * (len(heads) + 1) + "|"]
    for row, name in enumerate(NAMES):
        cells = [" / ".join(map(cell, column[:, row].tolist())) for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def tables(digit: Digit, kind: str, draws: int, seed: int) -> str:
    """Measure all damages of a kind of pairs; a bootstrap is of copies already."""
    damages = DAMAGES if kind == "halves" else DAMAGES[:-1]
    undamaged = measure(digit, kind, BLUR, UNDAMAGED, draws, seed)
    shifts = []
    steps = []
    for damage in damages:
        print(kind, damage.name, file=sys.stderr, flush=True)
        sets = [undamaged]
        for strength in damage.strengths:
            sets.append(measure(digit, kind, damage, strength, max(2, draws // 4), seed))
        shift, step = effects(sets)
        shifts.append(shift)
        steps.append(step)

    ranges = []
    for damage in damages:
        ranges.append(f"{damage.name} " + " / ".join(f"{s:g}" for s in damage.strengths))
    means = []
    for name, mean, deviation in zip(NAMES, undamaged.mean(0), undamaged.std(0), strict=True):
        means.append(f"{name} {mean:.3f} ± {deviation:.3f}")

    return "\n".join(
        [
            f"{kind}, undamaged: {', '.join(means)}\n",
            table(f"Shift over SD of undamaged sets: {', '.join(ranges)}", damages, shifts),
            table("Middle less weak / strong less middle, over their SD", damages, steps),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--draws", type=int, default=100, metavar="N", help="(default 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
    arguments = parser.parse_args()
    if arguments.draws < 2:
        parser.error(f"--draws {arguments.draws}: a deviation needs two or more")

    digit = Digit()
    for kind in ("halves", "bootstrap"):
        print(tables(digit, kind, arguments.draws, arguments.seed), flush=True)


if __name__ == "__main__":
    main()
