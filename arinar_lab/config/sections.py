"""The sections of a recipe: data, codec, model, training, sampler, evaluation, machine.

    recipe.yaml ─files→ plain dict ─sections, by the schema→ Recipe ─build→ source, codec, model

The keys of a part (`kind: …`) are the named arguments of its class (`schema.py`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import yaml

from ..data.sources import SourceFactory
from ..data.validation import Validation
from ..errors import ConfigError
from ..files.workspace import HERE, Workspace
from ..model.codecs.codec import CodecFactory
from ..model.inner.head import HeadFactory
from ..model.layers import require_at_least
from ..model.outer import OuterFactory
from ..model.sampler import LATER_FIELD, Sampler
from .schema import UNWRITTEN, parse_dataclass, signature_fields, to_plain


def check_seed(seed: int, key: str = "seed") -> None:
    """Refuse a seed outside 0 … 2^32 - 1.

    Raises:
        ValueError: with the key and the seed.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"{key}: {seed} is outside 0 … 2^32 - 1")


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Refuse a list of seeds that is empty, repeats a seed, or has one outside 0 … 2^32 - 1.

    Raises:
        ValueError: with the seeds.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"seeds: {list(seeds)} is not a list of different whole numbers, as in [0, 1, 2]"
        )
    for seed in seeds:
        check_seed(seed, "seeds")


@dataclass(frozen=True)
class Labels:
    """Class labels in training.

    Arguments:
        drop: Share of the labels that training replaces by the null condition, so that the model
            learns the null of guidance; in [0, 1).
    """

    drop: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop: {self.drop} is outside [0, 1)")


Decayed = Literal["matrices", "outer", "all"]


@dataclass(frozen=True)
class Training:
    """AdamW optimises the model; an exponential average of its weights is evaluated.

    Arguments:
        steps: Optimiser steps, ≥ 1.
        batch: Images in each step, over all devices, ≥ 1.
        lr: Peak learning rate, > 0; 2e-3 where neither `lr` nor `lr_per_256` is set.
        lr_per_256: Peak learning rate of a batch of 256, > 0: the peak is lr_per_256 · batch / 256
            (arXiv 1706.02677). It excludes `lr`.
        warmup: Steps of linear warm-up, ≥ 0.
        schedule: Learning rate after the warm-up: `constant`, or a `cosine` down to 0.
        betas: Decay rates of AdamW's two moments, each in [0, 1).
        weight_decay: Weight decay of AdamW, ≥ 0.
        clip: Ceiling of the gradient's norm, ≥ 0; 0 does not clip.
        ema: Decay of the averaged weights, in [0, 1); the average is validated, saved and sampled,
            and 0 averages nothing.
        precision: Precision of training, by Lightning's name.
        validate_every: Steps between two validations, ≥ 1.
        checkpoint_every: Steps between two checkpoints, ≥ 1.
        warmup_from_zero: Whether warm-up step i = 0, 1, … has the learning rate lr · i / warmup, as
            in the published models, rather than lr · (i + 1) / warmup.
        weight_decay_on: Parameters that decay. `matrices`: weights of linear maps. `outer`: every
            parameter of two axes or more outside the inner model, so that embeddings, positions and
            mask vectors decay and the inner model's matrices do not (MAR, ARINAR). `all`: every
            parameter of two axes or more (FractalMAR). Biases and norms never decay.
        ema_from_initial: Whether the average starts at the initial weights, as in the published
            models, rather than at the weights after the first step.
        initialisation: Scales of the initial weights: those of the package (`default`) or of the
            `published` models, see `model/pretrained/initialisation.py`.
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
        rates = {"lr": self.lr, "lr_per_256": self.lr_per_256}
        for name, value in rates.items():
            if value is not None and not value > 0:
                raise ValueError(f"{name}: {value} is not above 0")

        if None not in rates.values():
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
        """The section in one line of YAML, with the peak learning rate and without intervals."""
        options = {**to_plain(self), "lr": self.peak}
        for name in ("lr_per_256", "validate_every", "checkpoint_every"):
            del options[name]
        flow = yaml.safe_dump(
            {"training": options}, default_flow_style=True, sort_keys=False, width=10**6
        )
        return flow.strip().removeprefix("{").removesuffix("}")


@dataclass(frozen=True)
class Evaluation:
    """The measurements after training.

    Arguments:
        draws: Dequantisation draws of each held-out image, for likelihood, ≥ 1.
        resolution: Δ in raw units, > 0: the probability of x ± Δ/2 is reported with the density.
            null is one grey level where the data have grey levels, else no such probability.
        images: Images that are generated to measure quality, ≥ 5.
        batch: Images that are generated or scored at a time, ≥ 1.
        kid_subset: Not used, since KID takes all images; it stands in signatures, ≥ 2.
        speed_batch: Images at a time when speed is measured, ≥ 1.
        speed_repeats: Repeats of the speed measurement, ≥ 1; their median is reported.
        seed: First of the consecutive seeds of the generated images, in 0 … 2^32 - 1.
        reference: File of reference features that generated images are compared with by the
            published protocol, see `quality/measure.py`; null skips it. The file names the
            features.
        precision: Precision of matrix products, see `hardware/precision.py`.
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
    """The hardware of a run; no key of it is part of a run's signature.

    Arguments:
        accelerator: Device of the run; `auto` takes a CUDA GPU where there is one, else the CPU.
        devices: Processes on each machine, one a device, ≥ 1.
        num_nodes: Machines, ≥ 1.
        strategy: How several devices share the work, see `training/distributed.py`.
        accumulate: Equal parts into which a process splits its share of a batch, ≥ 1; their
            gradients add up to those of the whole batch.
        validation_batch: Held-out images that a process validates at a time, ≥ 1.
        recompute: Whether the backward pass computes blocks again rather than keeping their
            activations in memory.
        compile: Whether blocks of a training step and draws of guided features are compiled, where
            there is a compiler.
        threads: Threads of torch on the CPU, ≥ 0; 0 is torch's own choice.
        workers: Processes that read images ahead for each device, ≥ 0 and at most the number of
            processors; 0 reads them between steps.
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
class FixedSeeds:
    """Seeds of parts of a training's randomness that stay as they are whatever `seed` is.

    A part without a seed here takes `seed`. A recipe with any of them is another training, so they
    are part of its signature; without them the signature is that of a recipe without this section.

    Arguments:
        init: Seed of the initial weights, in 0 … 2^32 - 1.
        data: Seed of the order of the images, of which are mirrored, and of dequantisation or the
            draw from a codec's posterior, in 0 … 2^32 - 1.
        noise: Seed of all else that a training draws, in 0 … 2^32 - 1: orders of tokens, masks,
            dropped labels, dropout, times and noise of a flow or a diffusion.
    """

    init: int | None = None
    data: int | None = None
    noise: int | None = None

    def __post_init__(self) -> None:
        for name, seed in self.by_part.items():
            check_seed(seed, name)

    @property
    def by_part(self) -> dict[str, int]:
        """Part → its seed, of the parts that have one."""
        parts = {"init": self.init, "data": self.data, "noise": self.noise}
        return {name: seed for name, seed in parts.items() if seed is not None}

    @property
    def free_parts(self) -> list[str]:
        """The parts that take `seed`."""
        return [name for name in ("init", "data", "noise") if name not in self.by_part]


@dataclass(frozen=True)
class Recipe:
    """One experiment, checked, with all defaults filled in.

    Arguments:
        data: Source of the images or tokens.
        codec: Map between images and tokens.
        outer: Outer autoregressive model, over the tokens of an image.
        inner: Inner model or head, over the features of a token.
        labels: Class labels in training.
        training: Optimisation of the model.
        sampler: Setting of the sampler.
        evaluation: Measurements after training.
        machine: Hardware of the run.
        validation: Part of the training images that replaces the held-out images, for choices that
            must not see these; null leaves both as they are. A sweep sets it for its trials.
        init_from: Run folder whose weights training starts from, with `{seed}` for the seed of this
            run, see `training/warm_start.py`; null starts from initial weights.
        freeze: What keeps the weights of `init_from`: nothing (`none`), or outer model, labels and
            codec (`outer`).
        seed: Seed of weights, data order and noise, in 0 … 2^32 - 1; no part of a signature.
        fixed_seeds: Seeds of weights, data order or noise that take the place of `seed`, to tell
            where the spread of runs comes from.
        workspace: Folder of the files that the recipe names; not a key of a file.

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
    validation: Validation | None = None
    init_from: str | None = None
    freeze: Literal["none", "outer"] = "none"
    seed: int = 0
    fixed_seeds: FixedSeeds = field(default_factory=FixedSeeds)
    workspace: Workspace = field(default=HERE, metadata=UNWRITTEN)

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.freeze != "none" and self.init_from is None:
            raise ValueError(
                f"freeze: {self.freeze} keeps what init_from brings, and init_from is not given"
            )

    @cached_property
    def training_signature(self) -> str:
        """Eight hexadecimal digits of all that decides the trained weights except the seed."""
        names = ("data", "codec", "labels", "outer", "inner", "training", "init_from", "freeze")
        split = () if self.validation is None else ("validation",)
        seeds = ("fixed_seeds",) if self.fixed_seeds.by_part else ()
        return _digest(self, (*names, *split, *seeds))

    @cached_property
    def evaluation_signature(self) -> str:
        """Eight hexadecimal digits of the sampler and the measurements."""
        return _digest(self, ("sampler", "evaluation"))

    @property
    def init_seed(self) -> int:
        """Seed of the initial weights."""
        return self.fixed_seeds.by_part.get("init", self.seed)

    @property
    def data_seed(self) -> int:
        """Seed of the order of the images, and of their dequantisation."""
        return self.fixed_seeds.by_part.get("data", self.seed)

    @property
    def noise_seed(self) -> int:
        """Seed of masks, dropped labels, dropout and the noise of a loss."""
        return self.fixed_seeds.by_part.get("noise", self.seed)

    def with_seed(self, seed: int) -> Recipe:
        """The same recipe under another seed. It keeps the signatures, which have no seed."""
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
    if isinstance(content.get("seed"), dict):
        raise ConfigError(
            "seed: is one whole number; seeds of init, data or noise alone stand below fixed_seeds"
        )
    recipe: Recipe = parse_dataclass(Recipe, content, "")
    return recipe if workspace == HERE else replace(recipe, workspace=workspace)
