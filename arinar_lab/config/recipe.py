"""Configuration: a YAML file becomes a checked `Recipe`, and a recipe becomes
data, codec and model.

    recipe.yaml ─extends, overrides (key=value)→ plain dict ─schema→ Recipe
                ─build→ source, codec, model

The sections are dataclasses; the parts are described by the constructors of the classes
they name (`schema.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import torch
import yaml
from torch.overrides import TorchFunctionMode

from ..data.latent_cache import LatentCacheSource
from ..data.sources import Source, SourceFactory
from ..errors import ConfigError, did_you_mean
from ..files.workspace import HERE, Workspace
from ..model.arinar import Arinar
from ..model.codecs.codec import Codec, CodecFactory, Pixels
from ..model.inner.feature_ar import FeatureAR
from ..model.inner.head import Head, HeadFactory
from ..model.layers import require_at_least
from ..model.outer import OUTERS, OuterFactory
from ..model.pretrained.initialisation import initialise_as_published
from ..model.sampler import LATER_FIELD, Sampler
from .schema import UNWRITTEN, Component, flatten, parse_dataclass, signature_fields, to_plain
from .yaml_reader import read_value
from .yaml_reader import read_yaml as read_yaml

STUDY_SECTIONS = (
    "axes",
    "vary",
    "arms",
    "match",
    "budget",
    "search",
    "constraints",
    "early_stopping",
)
"""What a study or sweep says in mappings, and a recipe never."""
_DEPTH = 50  # levels of a key


_DEEPEST = 1000  # blocks of a model


def check_seed(seed: int) -> None:
    """Refuse a seed that a generator cannot take.

    Raises:
        ValueError: naming it.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: {seed} is outside 0 … 2^32 - 1")


@dataclass(frozen=True)
class Labels:
    """Class labels. drop: share of labels hidden in training, so that the null
    condition is learned.
    """

    drop: float = 0.1


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


def merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """base with change laid over it. Where a part changes its kind, the arguments of the
    former kind are dropped.
    """
    result = dict(base)
    for key, value in change.items():
        before = result.get(key)
        if isinstance(value, str) and isinstance(before, dict):
            value = {"kind": value}
        former = {"kind": before} if isinstance(before, str) and isinstance(value, dict) else before
        switched = (
            isinstance(value, dict)
            and "kind" in value
            and _kind(before) not in (None, value["kind"])
        )
        if isinstance(value, dict) and isinstance(former, dict) and not switched:
            result[key] = merge(former, value)
        else:
            result[key] = value

    return result


def _kind(value: Any) -> str | None:
    return value.get("kind") if isinstance(value, dict) else None


def absolute_path(path: Path) -> Path:
    """The absolute path without links; unlike `Path.resolve`, it raises nothing
    where links form a loop.
    """
    return Path(os.path.realpath(path))


def read_recipe(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe file as plain data, laid over the recipe that it `extends` (a path beside it)."""
    if absolute_path(path) in above:
        raise ConfigError(f"{path}: extends itself, by way of {above[-1].name}")

    content = read_yaml(path)
    base = content.pop("extends", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise ConfigError(f"{path}: extends: {base!r} is not the name of a recipe file")

    return merge(read_recipe(path.parent / base, (*above, absolute_path(path))), content)


def source_files(path: Path) -> list[Path]:
    """A recipe or study file and all that it rests on: its `base`, and what recipes `extends`."""
    content = read_yaml(path)
    below = [
        path.parent / content[key]
        for key in ("base", "extends")
        if isinstance(content.get(key), str)
    ]
    return [absolute_path(path), *(source for file in below for source in source_files(file))]


def preset_path(name: str) -> Path:
    """The recipe file of a shipped preset, or the file itself.

    Raises:
        ConfigError: if there is neither.
    """
    shipped = Workspace(Path(__file__).parents[2]).experiments
    for path in (Path(name), HERE.experiments / f"{name}.yaml", shipped / f"{name}.yaml"):
        if path.suffix == ".yaml" and path.is_file():
            return path

    there = sorted(path.stem for path in shipped.glob("*.yaml"))
    raise ConfigError(
        f"--preset: {name!r} is neither a file nor one of "
        f"{', '.join(there)}{did_you_mean(name, there)}"
    )


def unflatten(dotted: dict[str, Any]) -> dict[str, Any]:
    """{"inner.head.components": 4} as {"inner": {"head": {"components": 4}}}.

    Raises:
        ConfigError: if a key is nested more deeply than any configuration.
    """
    result: dict[str, Any] = {}
    for path, value in dotted.items():
        if str(path).count(".") > _DEPTH:
            raise ConfigError(
                f"{str(path)[:60]}…: no key; it is nested more than {_DEPTH} levels deep"
            )
        for key in reversed(str(path).split(".")):
            value = {key: value}
        result = merge(result, value)

    return result


def read_overrides(words: list[str]) -> dict[str, Any]:
    """`key=value` words of the command line as plain data; values are read as YAML.

    A word into a section of a study (`axes.outer.width=[32]`) keeps its dotted key:
    `study/override.py` lays it over the file.

    Raises:
        ConfigError: naming the word.
    """
    result: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if key.count(".") > _DEPTH:
            raise ConfigError(
                f"{_short(word)}: no key; it is nested more than {_DEPTH} levels deep"
            )
        if not equals or not all(key.split(".")):
            raise ConfigError(
                f"{_short(word)}: not an override; write key=value, as in inner.head.components=8"
            )

        try:
            value = read_value(text)
        except ConfigError as error:
            raise ConfigError(f"{_short(word)}: {error}") from None

        if key.partition(".")[0] in STUDY_SECTIONS:
            result[key] = value
        else:
            result = merge(result, unflatten({key: value}))

    return result


def _short(word: str) -> str:
    """A word for a message, in one line."""
    line = " ".join(word.split())
    return line if len(line) <= 200 else f"{line[:200]}…"


def parse_recipe(content: dict[str, Any], workspace: Workspace = HERE) -> Recipe:
    """Plain data as a checked recipe, whose files lie in a workspace.

    Raises:
        ConfigError: with the first fault, in one line.
    """
    recipe: Recipe = parse_dataclass(Recipe, content, "")
    return recipe if workspace == HERE else replace(recipe, workspace=workspace)


@dataclass(frozen=True)
class Experiment:
    """What a recipe builds: the data, the codec and the model (not yet fitted or trained)."""

    source: Source
    codec: Codec
    model: Arinar

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def parameters(self) -> int:
        """How many the model has (a codec's are not ours)."""
        return sum(p.numel() for p in self.model.parameters())


class MetaParameters(TorchFunctionMode):
    """Parameters made inside have shapes and no values; buffers, which are computed, have both.

    `torch.device("meta")` would put those on the meta device, too, where most operations are
    written in Python and import torch's compiler first: seven seconds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func is torch.nn.init.normal_:
            return (*args, *options.values())[0]  # the tensor, as it is
        return func(*args, **(options | {"device": "meta"} if func is torch.empty else options))


def _check_depth(recipe: Recipe) -> None:
    """Refuse more blocks than anybody stacks, before they are built: even without values, each
    takes a millisecond.

    Raises:
        ConfigError: naming the key.
    """
    for key, value in flatten(to_plain(recipe)).items():
        if key.endswith("depth") and isinstance(value, int) and value > _DEEPEST:
            raise ConfigError(f"{key}: {value} is more than {_DEEPEST} blocks")


def build(recipe: Recipe, device: str = "cpu") -> Experiment:
    """Build a recipe, and refuse what its parts cannot do together. On the device `meta`
    parameters have no values.

    Raises:
        ConfigError: naming the key.
    """
    _check_depth(recipe)
    source = cast(Component, recipe.data).made(recipe.workspace)
    codec = cast(Component, recipe.codec).made(recipe.workspace, source.shape, source.levels)
    _check_cache(recipe, source, codec)
    try:
        with MetaParameters() if device == "meta" else torch.device(device):
            model = Arinar(
                codec.tokens,
                codec.features,
                source.classes,
                recipe.outer,
                recipe.inner,
                recipe.labels.drop,
                recipe.seed,
            )
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"labels.{error}") from None
    except (RuntimeError, OverflowError, TypeError) as error:
        if "overflow" not in str(error).lower():
            raise
        raise ConfigError(
            "outer: the model is too large for any memory; choose smaller numbers"
        ) from None

    if recipe.training.initialisation == "published":
        initialise_as_published(model, recipe.seed)
    _check_counts(recipe, source)
    _check_mask_group(recipe, model)
    _check_levels(codec, model.inner)
    check_sampler(recipe.sampler, model)

    return Experiment(source, codec, model)


def _check_cache(recipe: Recipe, source: Source, codec: Codec) -> None:
    if isinstance(source, LatentCacheSource):
        try:
            source.check(codec, to_plain(recipe.codec))
        except ValueError as error:
            raise ConfigError(f"data.{error}") from None


def prepare_experiment(experiment: Experiment, data: bool = True) -> None:
    """Read what a recipe can be checked without: a codec's own weights and the data.

    Raises:
        ConfigError: naming the key.
    """
    try:
        experiment.codec.prepare()
    except ValueError as error:
        raise ConfigError(f"codec.{error}") from None

    try:
        if data:
            experiment.source.prepare()
    except ValueError as error:
        raise ConfigError(f"data.{error}") from None


def check_resolution(recipe: Recipe, experiment: Experiment) -> None:
    """Refuse a resolution at which a run has no likelihood. (Arms of a study may lack a
    reading that others have.)

    Raises:
        ConfigError: naming the key.
    """
    inner, whitened = experiment.model.inner, experiment.codec.normalise == "whiten"
    if recipe.evaluation.resolution is not None and ("pit" not in inner.capabilities or whitened):
        what = "whitened tokens have" if whitened else f"{_described(inner)} has"
        raise ConfigError(
            f"evaluation.resolution: is asked for, and {what} no likelihood at a resolution; "
            "leave it out"
        )


def _check_counts(recipe: Recipe, source: Source) -> None:
    try:
        train, _ = source.counts or (recipe.training.batch, 0)
    except ValueError as error:
        raise ConfigError(f"data.{error}") from None
    if (batch := recipe.training.batch) > train:
        raise ConfigError(f"training.batch: {batch} exceeds the {train} training images")


def _check_mask_group(recipe: Recipe, model: Arinar) -> None:
    batch, size = recipe.training.batch, model.outer.mask_group
    if 0 < size < batch and batch % size:
        raise ConfigError(
            f"outer.mask_group: {size} does not divide training.batch, {batch}; use 0 for one "
            "ratio a batch"
        )


def _check_levels(codec: Codec, inner: Head) -> None:
    """Integers need a model of integers, and one of the levels that the codec gives,
    where it gives them.
    """
    if inner.integers is None:
        if isinstance(codec, Pixels) and not codec.dequantise:
            raise ConfigError(
                "codec.dequantise: false gives integers, on which a density of real numbers grows"
                " without end; leave it out, or use an inner model of integer levels (colour)"
            )
        return

    levels, placed = inner.integers
    if not isinstance(codec, Pixels) or codec.placed != placed:
        given = codec.placed if isinstance(codec, Pixels) else type(codec).__name__
        raise ConfigError(
            f"codec.normalise: {given}, and the inner model's levels are placed by "
            f"normalise: {placed}"
        )

    if not codec.dequantise and codec.levels != levels:
        raise ConfigError(
            f"codec.dequantise: false gives {codec.levels} levels, and the inner model has {levels}"
        )


def _described(inner: Head) -> str:
    """The class of an inner model, and of the head in it that decides what it can do."""
    name = type(inner).__name__
    return f"{name} of {_described(inner.head)}" if isinstance(inner, FeatureAR) else name


def check_sampler(sampler: Sampler, model: Arinar) -> None:
    """Refuse what a model cannot do: be guided, tempered, or drawn in that many steps.

    Raises:
        ConfigError: naming the key.
    """
    kind = _described(model.inner)
    if sampler.guidance != 1 and "guide" not in model.inner.capabilities:
        raise ConfigError(
            f"sampler.guidance: {sampler.guidance} is asked for, and {kind} cannot be guided; use 1"
        )
    if sampler.guidance != 1 and model.labels.drop == 0:
        raise ConfigError(
            f"sampler.guidance: {sampler.guidance} is asked for, and labels.drop: 0 never trains "
            "the null label; use 1"
        )

    if sampler.temperature != 1 and "temper" not in model.inner.capabilities:
        raise ConfigError(
            f"sampler.temperature: {sampler.temperature} is asked for, and {kind} cannot be "
            "tempered; use 1"
        )

    if sampler.candidates and "pit" not in model.inner.capabilities:
        raise ConfigError(
            f"sampler.candidates: {sampler.candidates} is asked for, and {kind} cannot be guided "
            "by drawing them; use 0"
        )

    able = {"guided_from", "guided_to"} | model.outer.capabilities | model.inner.capabilities
    for name, value in sampler.accelerators.items():
        if name not in able:
            inner = "discrete and colour" if name == "filter_threshold" else "feature_ar"
            who = (
                ", ".join(outer for outer, maker in OUTERS.items() if name in maker.capabilities)
                or inner
            )
            raise ConfigError(
                f"sampler.{name}: {value} is asked for, and neither {type(model.outer).__name__}"
                f" nor {kind} can do that ({who} can); leave it out"
            )

    if isinstance(model.inner, FeatureAR) and sampler.together > model.inner.groups:
        raise ConfigError(
            f"sampler.together: {sampler.together} exceeds the {model.inner.groups} "
            "groups of a token"
        )

    if sampler.steps is not None:
        try:
            model.outer.check_steps(sampler.steps)
        except ValueError as error:
            raise ConfigError(f"sampler.{error}") from None
