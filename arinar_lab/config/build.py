"""Building a recipe: its data, codec and model, checked against each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.overrides import TorchFunctionMode

from ..data.latent_cache import LatentCacheSource
from ..data.sources import Source
from ..data.validation import ValidationSource
from ..errors import ConfigError, prefixed
from ..metrics import METRICS
from ..model.arinar import Arinar
from ..model.codecs.codec import Codec, Pixels
from ..model.inner.feature_ar import FeatureAR
from ..model.inner.head import Head
from ..model.outer import OUTERS
from ..model.pretrained.initialisation import initialise_as_published
from ..model.sampler import Sampler
from .schema import Component, flatten, to_plain
from .sections import Recipe

_DEEPEST = 1000  # blocks of a model


@dataclass(frozen=True)
class Experiment:
    """The data, codec and model of a recipe: untrained from `build`, trained from `train`."""

    source: Source
    codec: Codec
    model: Arinar

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    @property
    def parameters(self) -> int:
        """Number of the model's parameters, without the codec's."""
        return sum(p.numel() for p in self.model.parameters())


class MetaParameters(TorchFunctionMode):
    """A context in which new parameters have shapes but no values; buffers have both.

    `torch.device("meta")` would also put the buffers, which are computed, on the meta device. Most
    operations there are written in Python and first import torch's compiler: seven seconds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func is torch.nn.init.normal_:
            return (*args, *options.values())[0]  # the tensor, as it is
        return func(*args, **(options | {"device": "meta"} if func is torch.empty else options))


def _check_depth(recipe: Recipe) -> None:
    """Refuse more than 1000 blocks before they are built: each takes a millisecond.

    Raises:
        ConfigError: with the key.
    """
    for key, value in flatten(to_plain(recipe)).items():
        if key.endswith("depth") and isinstance(value, int) and value > _DEEPEST:
            raise ConfigError(f"{key}: {value} is more than {_DEEPEST} blocks")


def build(recipe: Recipe, device: str = "cpu", checked: Experiment | None = None) -> Experiment:
    """Build a recipe and refuse parts that do not fit each other.

    Arguments:
        device: Device of the model; on `meta` its parameters have no values.
        checked: The same recipe built on `meta`, after `prepare_experiment`; its data and codec
            are used again.

    Raises:
        ConfigError: with the key.
    """
    _check_depth(recipe)
    source, codec = _data_and_codec(recipe) if checked is None else (checked.source, checked.codec)
    try:
        with MetaParameters() if device == "meta" else torch.device(device):
            model = Arinar(
                codec.tokens,
                codec.features,
                source.classes,
                recipe.outer,
                recipe.inner,
                recipe.labels.drop,
                recipe.init_seed,
            )
    except (RuntimeError, OverflowError, TypeError) as error:
        if "overflow" not in str(error).lower():
            raise
        raise ConfigError(
            "outer: the model is too large for any memory; choose smaller numbers"
        ) from None

    if recipe.training.initialisation == "published":
        initialise_as_published(model, recipe.init_seed)
    _check_counts(recipe, source)
    _check_mask_group(recipe, model)
    _check_levels(codec, model.inner)
    check_sampler(recipe.sampler, model)

    return Experiment(source, codec, model)


def _data_and_codec(recipe: Recipe) -> tuple[Source, Codec]:
    source = cast(Component, recipe.data).made(recipe.workspace)
    codec = cast(Component, recipe.codec).made(recipe.workspace, source.shape, source.levels)
    _check_cache(recipe, source, codec)
    if recipe.validation is not None:
        source = ValidationSource(source, recipe.validation)
    return source, codec


def _check_cache(recipe: Recipe, source: Source, codec: Codec) -> None:
    if isinstance(source, LatentCacheSource):
        with prefixed("data"):
            source.check(codec, to_plain(recipe.codec))


def prepare_experiment(experiment: Experiment, data: bool = True) -> None:
    """Read the files that `build` leaves unread: a codec's own weights, and the data.

    Raises:
        ConfigError: with the key.
    """
    with prefixed("codec"):
        experiment.codec.prepare()
    if data:
        with prefixed("data"):
            experiment.source.prepare()


def check_resolution(recipe: Recipe, experiment: Experiment) -> None:
    """Refuse a resolution of a single run without likelihood at a resolution.

    Arms of a study are not checked: some may lack a metric that the others have.

    Raises:
        ConfigError: with the key.
    """
    inner, whitened = experiment.model.inner, experiment.codec.normalise == "whiten"
    if recipe.evaluation.resolution is not None and ("pit" not in inner.capabilities or whitened):
        what = "whitened tokens have" if whitened else f"{_described(inner)} has"
        raise ConfigError(
            f"evaluation.resolution: is asked for, and {what} no likelihood at a resolution; "
            "leave it out"
        )


def produces(recipe: Recipe, experiment: Experiment, metric: str) -> bool:
    """Whether evaluation reports a metric of this experiment, which may be on the device `meta`."""
    source, model = experiment.source, experiment.model
    if METRICS[metric].published:
        return recipe.evaluation.reference is not None
    if metric.startswith("quality/"):
        needed = METRICS[metric].classifier
        return source.classifier is not None and needed in ("", source.classifier)
    if metric.startswith("val/gap"):
        images, labels = source.held_out
        return model.likelihood != "none" and source.log_prob(images[:1], labels[:1]) is not None
    if metric == "val/bits_per_dim_error":
        return model.inner.likelihood == "estimate"
    if metric.startswith("val/bits_per_dim_at_"):
        delta = recipe.evaluation.resolution
        if "pit" not in model.inner.capabilities:
            return False
        if metric.endswith("_level"):
            return delta is None and experiment.codec.box(source.held_out[0][:1]) is not None
        return delta is not None
    if metric.startswith("components/"):
        return _mixes(experiment)
    return not metric.startswith(("val/", "train/")) or model.likelihood != "none"


def _mixes(experiment: Experiment) -> bool:
    """Whether the inner model's densities are mixtures, whose component weights are reported."""
    model, d = experiment.model, experiment.codec.features
    z = torch.zeros(1, model.outer.context, device=experiment.device)
    density = model.inner(z).given(torch.zeros(1, d, device=experiment.device))
    return density.weights() is not None


def _check_counts(recipe: Recipe, source: Source) -> None:
    with prefixed("data"):
        train, _ = source.counts or (recipe.training.batch, 0)
    if (batch := recipe.training.batch) > train:
        part = "" if recipe.validation is None else ", without the validation part"
        raise ConfigError(f"training.batch: {batch} exceeds the {train} training images{part}")


def _check_mask_group(recipe: Recipe, model: Arinar) -> None:
    batch, size = recipe.training.batch, model.outer.mask_group
    if 0 < size < batch and batch % size:
        raise ConfigError(
            f"outer.mask_group: {size} does not divide training.batch, {batch}; use 0 for one "
            "ratio a batch"
        )


def _check_levels(codec: Codec, inner: Head) -> None:
    """Refuse a codec and an inner model whose integer levels differ."""
    if inner.integers is None:
        if isinstance(codec, Pixels) and not codec.dequantise:
            raise ConfigError(
                "codec.dequantise: false gives integers, on which a density of real numbers grows"
                " without end; leave it out, or use an inner model of integer levels (colour)"
            )
        return

    levels, placed = inner.integers
    if not isinstance(codec, Pixels) or codec.placed != placed:
        placement = codec.placed if isinstance(codec, Pixels) else type(codec).__name__
        raise ConfigError(
            f"codec.normalise: {placement}, and the inner model's levels are placed by "
            f"normalise: {placed}"
        )

    if not codec.dequantise and codec.levels != levels:
        raise ConfigError(
            f"codec.dequantise: false gives {codec.levels} levels, and the inner model has {levels}"
        )


def _described(inner: Head) -> str:
    """The class of an inner model, and of the head inside it."""
    name = type(inner).__name__
    return f"{name} of {_described(inner.head)}" if isinstance(inner, FeatureAR) else name


def check_sampler(sampler: Sampler, model: Arinar) -> None:
    """Refuse a sampler that asks for guidance, temperature or steps that a model cannot do.

    Raises:
        ConfigError: with the key.
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
        with prefixed("sampler"):
            model.outer.check_steps(sampler.steps)
