"""The constructor's signature is the schema: plain values from YAML, checked against annotations.

A section is a dataclass. A part (`{kind: name, **arguments}`) is a registered class whose
keyword-only arguments are what YAML may say; its positional arguments are widths that its parent
knows. So a part that is read is not built yet: it is a `Component`, a maker that its parent calls.
An annotation such as `HeadFactory` says which registry a value is looked up in.

Every fault is a `ConfigError`: one line with the key, the value, what is allowed and
the nearest valid name.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

from ..data.image_datasets import IMAGES
from ..data.latent_cache import LatentCacheSource
from ..data.sources import SOURCES, SourceFactory
from ..errors import ConfigError, did_you_mean
from ..files.workspace import HERE, Workspace
from ..model.codecs.codec import CODECS, CodecFactory
from ..model.heads import HEADS
from ..model.inner.head import HeadFactory
from ..model.layers import NORMS, Block, BlockOptions, NormFactory
from ..model.outer import OUTERS, OuterFactory
from .yaml_reader import to_flow_yaml

COMPONENTS: dict[Any, dict[str, Any]] = {
    HeadFactory: HEADS,
    OuterFactory: OUTERS,
    NormFactory: NORMS,
    CodecFactory: CODECS,
    SourceFactory: {**SOURCES, **IMAGES, "cache": LatentCacheSource},
}
FILES = ("path", "weights")  # arguments of parts that name a file or a folder
UNWRITTEN = {"unwritten": True}  # marks a field that no file may hold
OPTIONS: dict[Any, Any] = {BlockOptions: Block}
"""Typed dicts that a maker takes as `**options: Unpack[…]`, and the class whose arguments
and defaults they are.
"""


@dataclass(frozen=True)
class Component:
    """A registered class and its keyword arguments, to be called with what its parent knows.

    Arguments:
        kind: its name; maker: the class; arguments: checked; path: where it stands
            in the configuration.
    """

    kind: str
    factory: Any
    arguments: dict[str, Any]
    path: str

    def __call__(self, *known: Any) -> Any:
        return self.made(HERE, *known)

    def made(self, workspace: Workspace, *known: Any) -> Any:
        """Call the class. Files that its arguments name lie in the workspace."""
        arguments = {
            name: _located(name, value, workspace) for name, value in self.arguments.items()
        }
        try:
            return self.factory(*known, **arguments)
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"{self.path}.{error}") from None


def _located(name: str, value: Any, workspace: Workspace) -> Any:
    return str(workspace.path(value)) if name in FILES and workspace != HERE else value


def to_plain(value: Any) -> Any:
    """A recipe, section or part as plain data, with every default written out."""
    return _plain(value, frozenset())


def signature_fields(value: Any) -> Any:
    """The same for a signature: an option that came later counts only where it
    is not at its default.

    A section marks such a field by `LATER_FIELD`, a part's constructor its argument by
    `Annotated[…, "later"]`.
    """
    return _plain(value, frozenset({"later"}))


def _plain(value: Any, omitted: frozenset[str]) -> Any:
    """Plain data without the options that bear a mark of `omitted` and are at their default."""
    if isinstance(value, Component):
        defaults, marked = _defaults(value.factory), _marked(value.factory, omitted)
        said = {**defaults, **value.arguments}
        kept = {n: a for n, a in said.items() if n not in marked or a != defaults[n]}
        arguments = {name: _plain(argument, omitted) for name, argument in kept.items()}
        return {"kind": value.kind, **arguments} if arguments else value.kind

    if dataclasses.is_dataclass(value):
        fields = {
            f.name: getattr(value, f.name)
            for f in dataclasses.fields(value)
            if "unwritten" not in f.metadata
            and (not omitted & f.metadata.keys() or getattr(value, f.name) != f.default)
        }
        return {name: _plain(item, omitted) for name, item in fields.items()}

    if isinstance(value, tuple | list):
        return [_plain(item, omitted) for item in value]
    if callable(value):  # a maker that is a constructor's default
        return next(
            name
            for registry in COMPONENTS.values()
            for name, maker in registry.items()
            if maker is value
        )

    return value


def _defaults(maker: Any) -> dict[str, Any]:
    return {name: p.default for name, p in _parameters(maker).items()}


def _marked(maker: Any, marks: frozenset[str]) -> set[str]:
    """The arguments of a maker that are annotated with one of `marks`."""
    if not marks:
        return set()
    annotated = _hints(maker, extras=True)
    return {n for n, hint in annotated.items() if marks & set(getattr(hint, "__metadata__", ()))}


def _parameters(maker: Any) -> dict[str, inspect.Parameter]:
    """What YAML may say to a maker: its keyword-only arguments, or a dataclass's fields."""
    found: dict[str, inspect.Parameter] = {}
    fields = dataclasses.fields(maker) if dataclasses.is_dataclass(maker) else ()
    unwritten = {field.name for field in fields if "unwritten" in field.metadata}

    for name, p in inspect.signature(maker).parameters.items():
        if name in unwritten:
            continue
        if p.kind is p.VAR_KEYWORD:
            passed_on = _passed_on(maker, name)
            found |= {
                n: q
                for n, q in _parameters(OPTIONS[passed_on]).items()
                if n in passed_on.__annotations__
            }
        elif dataclasses.is_dataclass(maker) or p.kind is p.KEYWORD_ONLY:
            found[name] = p

    return found


def _hints(maker: Any, extras: bool = False) -> dict[str, Any]:
    """The annotation of every name that `_parameters` knows; `extras` keeps
    what `Annotated` adds.
    """
    init = maker if inspect.isfunction(maker) or dataclasses.is_dataclass(maker) else maker.__init__
    hints = typing.get_type_hints(init, include_extras=extras)
    for name, p in inspect.signature(maker).parameters.items():
        if p.kind is p.VAR_KEYWORD:
            hints |= typing.get_type_hints(_passed_on(maker, name), include_extras=extras)
    return hints


def _passed_on(maker: Any, name: str) -> Any:
    """The typed dict of a maker's `**name`."""
    return typing.get_args(typing.get_type_hints(maker.__init__)[name])[0]


def _arguments(maker: Any, spec: dict[str, Any], path: str, owner: str) -> dict[str, Any]:
    """The values of a dict, each checked against the maker's annotation of that name."""
    parameters = _parameters(maker)
    hints = _hints(maker)
    for key in spec:
        if key not in parameters:
            valid = sorted(parameters)
            takes = f"{owner} takes {', '.join(valid) if valid else 'no arguments'}"
            raise ConfigError(f"{_join(path, key)}: unknown key; {takes}{did_you_mean(key, valid)}")

    missing = [
        n
        for n, p in parameters.items()
        if p.default is p.empty and not _has_factory(maker, n) and n not in spec
    ]
    if missing:
        raise ConfigError(f"{_join(path, missing[0])}: missing; {owner} needs it")

    return {key: _parse(hints[key], value, _join(path, key)) for key, value in spec.items()}


def _has_factory(maker: Any, name: str) -> bool:
    return dataclasses.is_dataclass(maker) and any(
        f.name == name and f.default_factory is not dataclasses.MISSING
        for f in dataclasses.fields(maker)
    )


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _parse(hint: Any, value: Any, path: str) -> Any:
    """A plain value as the annotation wants it: a part, a section, or a checked
    number, string or list.
    """
    if hint in COMPONENTS:
        return _part(COMPONENTS[hint], value, path)

    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: {_as_written(value)} is not a section; write keys below it")
        return parse_dataclass(hint, value, path)

    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in options:
            names = ", ".join(map(str, options))
            raise ConfigError(
                f"{path}: {_as_written(value)} is not one of "
                f"{names}{did_you_mean(value, [str(o) for o in options])}"
            )
        return value

    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        return _parse(next(option for option in options if option is not type(None)), value, path)

    if origin is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(options):
            raise ConfigError(f"{path}: {_as_written(value)} is not a list of {len(options)}")
        return tuple(
            _parse(h, v, f"{path}.{i}") for i, (h, v) in enumerate(zip(options, value, strict=True))
        )

    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path}: {_as_written(value)} is not a finite number")
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[
            hint
        ]
        raise ConfigError(f"{path}: {_as_written(value)} is not {wanted}")

    return value


def _as_written(value: Any) -> str:
    """A value as a message shows it: null, true and false as YAML has them, a text in quotes."""
    return to_flow_yaml(value) if value is None or isinstance(value, bool) else repr(value)


def _part(registry: dict[str, Any], spec: Any, path: str) -> Component:
    spec = {"kind": spec} if isinstance(spec, str) else spec
    names = ", ".join(registry)
    if not isinstance(spec, dict) or not isinstance(spec.get("kind"), str):
        raise ConfigError(f"{_join(path, 'kind')}: missing; write kind: with one of {names}")
    kind = spec["kind"]
    if kind not in registry:
        raise ConfigError(
            f"{_join(path, 'kind')}: unknown kind {kind!r}; one of "
            f"{names}{did_you_mean(kind, list(registry))}"
        )

    arguments = _arguments(
        registry[kind], {k: v for k, v in spec.items() if k != "kind"}, path, kind
    )

    return Component(kind, registry[kind], arguments, path)


def parse_dataclass(cls: Any, spec: dict[str, Any], path: str) -> Any:
    """A dict as a dataclass, everything in it checked.

    Raises:
        ConfigError: with the first fault, in one line.
    """
    arguments = _arguments(cls, spec, path, path or "a recipe")
    try:
        return cls(**arguments)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(_join(path, error)) from None


def flatten(content: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as {"outer.width": 64, …}."""
    if not isinstance(content, dict):
        return {prefix: content}
    return {
        k: v
        for key, value in content.items()
        for k, v in flatten(value, f"{prefix}.{key}" if prefix else key).items()
    }
