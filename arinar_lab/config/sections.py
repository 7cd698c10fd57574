"""The sections of a recipe, as a YAML file says them: data, codec, model, training, sampler,
evaluation, machine.

    recipe.yaml ─files→ plain dict ─sections, by the schema→ Recipe ─build→ source, codec, model

The parts are described by the constructors of the classes they name (`schema.py`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import yaml

from ..data.sources import SourceFactory
from ..files.workspace import HERE, Workspace
from ..model.codecs.codec import CodecFactory
from ..model.inner.head import HeadFactory
from ..model.layers import require_at_least
from ..model.outer import OuterFactory
from ..model.sampler import LATER_FIELD, Sampler
from .schema import UNWRITTEN, parse_dataclass, signature_fields, to_plain


def check_seed(seed: int, key: str = "seed") -> None:
    """Refuse a seed that a generator cannot take.

    Raises:
        ValueError: naming it.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"{key}: {seed} is outside 0 … 2^32 - 1")


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Refuse seeds of repeats that are none, or the same, or that a generator cannot take.

    Raises:
        ValueError: naming them.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"seeds: {list(seeds)} is not a list of different whole numbers, as in [0, 1, 2]"
        )
    for seed in seeds:
        check_seed(seed, "seeds")


@dataclass(frozen=True)
class Labels:
    """Class labels. drop: share of labels hidden in training, so that the null
    condition is learned.
    """

    drop: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop: {self.drop} is outside [0, 1)")


Decayed = Literal["matrices", "outer", "all"]


@dataclass(frozen=True)
class Training:
    """Optimisation by AdamW, with averaged weights.

    Arguments:
        steps: optimiser steps; batch: images a step.
        lr: peak learning rate, 2e-3 where neither is said; lr_per_256: the peak is
            lr_per_256 · batch / 256 (arXiv 1706.02677).
        warmup: steps of linear warm-up; schedule: what follows it.
        warmup_from_zero: whether step i of the warm-up, from 0, has lr · i / warmup, as in the
            published models, and not lr · (i + 1) / warmup.
        betas, weight_decay: of AdamW.
        weight_decay_on: what decays: `matrices`, the weights of linear maps; `outer`, every
            parameter of two axes or more that is not in the inner model, as MAR and ARINAR were
            trained (embeddings, positions and mask vectors decay, the inner model's matrices do
            not); or `all` of two axes or more, as FractalMAR was. Biases and norms never do.
        clip: ceiling of the gradient's norm, 0 is none.
        ema: decay of the averaged weights, which are validated, saved and sampled; 0 is no average.
        ema_from_initial: whether the average starts at the initial weights, as in the published
            models, and not at the weights after the first step.
        initialisation: scales of the initial weights, `default` or `published`, see
            `model/pretrained/initialisation.py`.
        precision: Lightning's name of it.
        validate_every, checkpoint_every: in steps.
    """

    steps: int = 400
    batch: int = 128
    lr: float | None = None
    lr_per_256: float | None = field(default=None, metadata=LATER_FIELD)
    warmup: int = 40
    schedule: Literal["constant", "cosine"] = "cosine"
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.02
    clip: float = 1.0
    ema: float = 0.98
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "64-true"] = "32-true"
    validate_every: int = 100
    checkpoint_every: int = 100
    warmup_from_zero: bool = field(default=False, metadata=LATER_FIELD)
    weight_decay_on: Decayed = field(default="matrices", metadata=LATER_FIELD)
    ema_from_initial: bool = field(default=False, metadata=LATER_FIELD)
    initialisation: Literal["default", "published"] = field(default="default", metadata=LATER_FIELD)

    def __post_init__(self) -> None:
        require_at_least(1, steps=self.steps, batch=self.batch)
        require_at_least(
            1, validate_every=self.validate_every, checkpoint_every=self.checkpoint_every
        )
        for name in ("warmup", "weight_decay", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} is negative")

        self._set_lr()
        for name, value in {
            "ema": self.ema,
            "betas.0": self.betas[0],
            "betas.1": self.betas[1],
        }.items():
            if not 0 <= value < 1:
                raise ValueError(f"{name}: {value} is outside [0, 1)")

    def _set_lr(self) -> None:
        given = {"lr": self.lr, "lr_per_256": self.lr_per_256}
        for name, value in given.items():
            if value is not None and not value > 0:
                raise ValueError(f"{name}: {value} is not above 0")

        if None not in given.values():
            raise ValueError(
                f"lr: {self.lr:g} is said, and lr_per_256: {self.lr_per_256:g}, too; leave one "
                "out (null, where a file says it)"
            )

        if self.lr is self.lr_per_256 is None:
            object.__setattr__(self, "lr", 2e-3)

    @property
    def peak(self) -> float:
        """The peak learning rate."""
        return (self.lr_per_256 or 0.0) * self.batch / 256 if self.lr is None else self.lr

    def __str__(self) -> str:
        """As a recipe has it, in one line, with the peak learning rate; without how often
        something is done on the way.
        """
        options = {**to_plain(self), "lr": self.peak}
        for name in ("lr_per_256", "validate_every", "checkpoint_every"):
            del options[name]
        flow = yaml.safe_dump(
            {"training": options}, default_flow_style=True, sort_keys=False, width=10**6
        )
        return flow.strip().removeprefix("{").removesuffix("}")


@dataclass(frozen=True)
class Evaluation:
    """What is measured after training.

    Arguments:
        draws: dequantisation draws a held-out image, for likelihood.
        resolution: Δ in raw units, for the probability of x ± Δ/2 beside the density; None is one
            grey level where there are any, else nothing.
        images: generated for quality; batch: at a time.
        kid_subset: not read, for KID is of all images; it stands in every evaluation signature.
        speed_batch: images at a time when speed is measured; speed_repeats: of
            which the median counts.
        seed: first of the seeds of the generated images.
        reference: a file that generated images are compared with by the published protocol,
            see `quality/measure.py`; None: they are not. What it was made with says whose
            features are compared.
        precision: of matrix products, see `hardware/precision.py`.
    """

    draws: int = 4
    resolution: float | None = None
    images: int = 1437
    batch: int = 256
    kid_subset: int = 100
    speed_batch: int = 64
    speed_repeats: int = 5
    seed: int = 0
    reference: str | None = field(default=None, metadata=LATER_FIELD)
    precision: Literal["auto", "float32", "bfloat16"] = field(default="auto", metadata=LATER_FIELD)

    def __post_init__(self) -> None:
        require_at_least(
            1,
            draws=self.draws,
            batch=self.batch,
            speed_batch=self.speed_batch,
            speed_repeats=self.speed_repeats,
        )
        require_at_least(2, kid_subset=self.kid_subset)
        # precision and recall look at the third nearest neighbour
        require_at_least(5, images=self.images)
        check_seed(self.seed)
        if self.resolution is not None and not self.resolution > 0:
            raise ValueError(f"resolution: {self.resolution} is not above 0")


@dataclass(frozen=True)
class Machine:
    """Where it runs; no part of a run's signature. Passed on to Lightning's Trainer.

    Arguments:
        accelerator: `auto` is a CUDA GPU where there is one, else the CPU.
        devices: processes on a machine, one a device; num_nodes: machines; strategy: see
            `training/distributed.py`.
        accumulate: equal parts that a process takes its share of a batch in, one after the other;
            the batch stays what it is.
        validation_batch: held-out images that a process takes at a time.
        recompute: whether blocks are computed again on the way back, and need not be remembered.
        compile: whether blocks of a training step and draws of guided features are compiled, where
            there is a compiler.
        threads: of torch on the CPU; 0 leaves torch's own choice.
        workers: processes that read images ahead, for each device, no more than processors; 0
            reads them between steps.
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp2"] = "auto"
    accumulate: int = 1
    validation_batch: int = 512
    recompute: bool = False
    compile: bool = False
    threads: int = 1
    workers: int = 0

    def __post_init__(self) -> None:
        require_at_least(1, devices=self.devices, num_nodes=self.num_nodes)
        require_at_least(1, accumulate=self.accumulate, validation_batch=self.validation_batch)
        require_at_least(0, threads=self.threads, workers=self.workers)


@dataclass(frozen=True)
class Recipe:
    """One experiment, checked, all defaults filled in.

    Arguments:
        init_from, freeze: start from another run, see `training/warm_start.py`.
        seed: of weights, data order and noise; no part of a signature.
        workspace: where the files lie that it names; no part of its file.

    Raises:
        ValueError: if the seed is out of range, or freeze is given without init_from.
    """

    data: SourceFactory
    codec: CodecFactory
    outer: OuterFactory
    inner: HeadFactory
    labels: Labels = field(default_factory=Labels)
    training: Training = field(default_factory=Training)
    sampler: Sampler = field(default_factory=Sampler)
    evaluation: Evaluation = field(default_factory=Evaluation)
    machine: Machine = field(default_factory=Machine)
    init_from: str | None = None
    freeze: Literal["none", "outer"] = "none"
    seed: int = 0
    workspace: Workspace = field(default=HERE, metadata=UNWRITTEN)

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.freeze != "none" and self.init_from is None:
            raise ValueError(
                f"freeze: {self.freeze} keeps what init_from brings, and init_from is not given"
            )

    @cached_property
    def training_signature(self) -> str:
        """Eight hexadecimal digits of what decides the trained weights, but for the seed."""
        return _digest(
            self, ("data", "codec", "labels", "outer", "inner", "training", "init_from", "freeze")
        )

    @cached_property
    def evaluation_signature(self) -> str:
        """Eight hexadecimal digits of how the trained model is sampled and measured."""
        return _digest(self, ("sampler", "evaluation"))

    def with_seed(self, seed: int) -> Recipe:
        """The same recipe under another seed, which is no part of the signatures: they
        are not computed again.
        """
        other = replace(self, seed=seed)
        names = ("training_signature", "evaluation_signature")
        vars(other).update({name: getattr(self, name) for name in names})
        return other


def _digest(recipe: Recipe, names: tuple[str, ...]) -> str:
    t, e = recipe.training, recipe.evaluation
    rate, batch = replace(t, lr=t.peak, lr_per_256=None), replace(e, batch=Evaluation.batch)
    sections = replace(
        recipe, training=rate, evaluation=batch
    )  # however the rate is said, and many images are drawn at a time
    text = json.dumps(
        {name: signature_fields(getattr(sections, name)) for name in names}, sort_keys=True
    )

    return hashlib.sha256(text.encode()).hexdigest()[:8]


def parse_recipe(content: dict[str, Any], workspace: Workspace = HERE) -> Recipe:
    """Plain data as a checked recipe, whose files lie in a workspace.

    Raises:
        ConfigError: with the first fault, in one line.
    """
    recipe: Recipe = parse_dataclass(Recipe, content, "")
    return recipe if workspace == HERE else replace(recipe, workspace=workspace)
