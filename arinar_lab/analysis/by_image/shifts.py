"""What images make of a difference in bits/dim: all alike, or a few.

    mean           the difference of the table, with its interval over seeds × images (`crossed.py`)
    median         of the images' differences, each the mean over seeds
    worst 1 %      the share of the difference that the ⌈n/100⌉ images make which add most to it;
                   1 % where all images are alike, and above 100 % where the others make the
                   opposite difference
    insured        the difference of insured bits/dim (`evaluation/insurance.py`), tested as
                   bits/dim are, with the same margin

A mean that a few images make is the model's true mean all the same: likelihood punishes a value
that a model holds impossible without limit. What it does not say is that images in general are
modelled worse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import t as student

from ...metrics import BITS, INSURED
from ...significance.outliers import Run
from ...significance.statistics import ALPHA
from ..comparison import Effect, compare_arms
from ..results import ArmResult, Results
from .crossed import crossed_half_width, residual_square


@dataclass(frozen=True)
class ImageShift:
    """The difference of one arm to the baseline in bits/dim, image by image.

    Arguments:
        effect: The difference in bits/dim.
        insured: That in insured bits/dim.
        by_image: Each image's difference, the mean over seeds, [n].
        half: Half the width of the interval of the mean over seeds × images, at the level of
            the effect's own interval.
    """

    effect: Effect
    insured: Effect
    by_image: np.ndarray
    half: float

    @property
    def mean(self) -> float:
        return self.effect.difference

    @property
    def median(self) -> float:
        """The difference of the median image."""
        return float(np.median(self.by_image))

    @property
    def worst_count(self) -> int:
        """1 % of the images, rounded up."""
        return math.ceil(len(self.by_image) / 100)

    @property
    def worst_share(self) -> float:
        """The share of the difference that the worst 1 % of the images make; nan where it is 0."""
        total = float(self.by_image.sum())
        if total == 0:
            return math.nan
        parts = np.sort(self.by_image / total)
        return float(parts[-self.worst_count :].sum())

    @property
    def is_split(self) -> bool:
        """Whether mean and median have opposite signs, and one of them is as large as matters."""
        matters = self.effect.margin or 0.0
        return self.mean * self.median < 0 and max(abs(self.mean), abs(self.median)) > matters

    @property
    def is_turned(self) -> bool:
        """Whether one of bits/dim and insured bits/dim concludes what the other does not."""
        answers = {self.effect.answer, self.insured.answer}
        return len(answers) > 1 and bool(answers & {"better", "worse"})

    @property
    def texts(self) -> list[str]:
        """Arm, mean with its interval, median, insured with its interval, share of the worst."""
        share = self.worst_share
        percent = f"{100 * share:.0f} %" if self.effect.resolved else "–"
        return [
            self.effect.arm,
            f"{self.mean:+.3f}" + (f" ± {self.half:.3f}" if math.isfinite(self.half) else ""),
            f"{self.median:+.3f}",
            self.insured.difference_text,
            "above 999 %" if self.effect.resolved and share > 9.99 else percent,
        ]

    @property
    def notes(self) -> list[str]:
        """Sentences where mean and median disagree, or insurance turns the answer."""
        pair = f"{self.effect.arm} against {self.effect.baseline}"
        notes = []
        if self.is_split:
            notes.append(
                f"Bits/dim of {pair}: the mean is {_direction(self.mean)} ({self.mean:+.3f}), the"
                f" median image {_direction(self.median)} ({self.median:+.3f}). A few images decide"
                " the mean."
            )
        if self.is_turned:
            notes.append(
                f"Bits/dim of {pair}: {self.effect.answer} ({self.mean:+.3f}); insured"
                f" {self.insured.answer} ({self.insured.difference:+.3f}). The answer may rest on"
                " rare values that a model holds nearly impossible."
            )
        return notes


def _direction(difference: float) -> str:
    return "better" if difference < 0 else "worse"


IMAGE_HEADINGS = ("arm", "mean", "median image", "insured", "made by the worst 1 %")


def image_shifts(
    results: Results, effects: Sequence[Effect], outlying: Mapping[str, Sequence[Run]]
) -> list[ImageShift]:
    """Every difference in bits/dim of the effects, image by image; without those of arms whose
    bits/dim of images were not kept, or are of other images.

    outlying: as `compare_arms` takes it, of insured bits/dim.
    """
    matters = {INSURED: results.matters[BITS]} if BITS in results.matters else {}
    insured_effects = compare_arms(replace(results, matters=matters), [INSURED], outlying)
    insured = {effect.arm: effect for effect in insured_effects}

    shifts = []
    for effect in effects:
        if effect.metric == BITS and effect.arm in insured:
            arm = results.by_name[effect.arm]
            baseline = results.by_name[effect.baseline]
            shift = _shift(effect, insured[effect.arm], arm, baseline)
            if shift is not None:
                shifts.append(shift)
    return shifts


def _shift(
    effect: Effect, insured: Effect, arm: ArmResult, baseline: ArmResult
) -> ImageShift | None:
    seeds = set(arm.values(BITS))
    baseline_seeds = set(baseline.values(BITS))
    is_paired = effect.test.counts is None
    if is_paired:
        seeds = baseline_seeds = seeds & baseline_seeds

    table = image_table(arm, seeds)
    baseline_table = image_table(baseline, baseline_seeds)
    if table is None or baseline_table is None or table.shape[1] != baseline_table.shape[1]:
        return None

    if is_paired:
        residual = residual_square(table - baseline_table)
    else:
        residual = residual_square(table) + residual_square(baseline_table)
    by_image = table.mean(0) - baseline_table.mean(0)

    error = effect.test.error
    df = effect.spread.df if effect.spread else math.nan
    level = 2 * float(student.sf(effect.half / error, df)) if error > 0 else ALPHA
    half = crossed_half_width(by_image, residual, error, df, level)
    return ImageShift(effect, insured, by_image, half)


def image_table(arm: ArmResult, seeds: set[int]) -> np.ndarray | None:
    """Bits/dim of an arm's seeds × images, [S, n]; None where a seed kept none, or of other
    images than the others.
    """
    rows = [arm.image_bits[seed] for seed in sorted(seeds) if seed in arm.image_bits]
    if len(rows) < len(seeds) or len(set(map(len, rows))) != 1:
        return None
    return np.stack(rows)
