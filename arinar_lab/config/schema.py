"""The constructor's signature is the schema: plain values from YAML, checked against annotations.

A section is a dataclass: of a recipe, of a study's file, of a sweep's. A part
(`{kind: name, **arguments}`) is a registered class whose keyword-only arguments are what YAML
may say; its positional arguments are widths that its parent knows. So a part that is read is not
built yet: it is a `Component`, a maker that its parent calls. An annotation such as
`HeadFactory` says which registry a value is looked up in. The other annotations are numbers,
`str`, `bool`, `Literal`, `list[T]`, `tuple[T, ...]`, `tuple[A, B]`, `dict[str, T]`, `A | B`, and
`Any`, which is taken as it is.

Two marks of a dataclass's field: `repr=False` keeps a value (an address with its password) out
of messages, and `field(metadata={GATHERED: names})` makes a dict of the section's keys that
bear one of these names.

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
from itertools import chain
from typing import Any, Literal

from ..data.image_datasets import IMAGES
from ..data.latent_cache import LatentCacheSource
from ..data.sources import SOURCES, SourceFactory
from ..errors import ConfigError, did_you_mean, prefixed
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
GATHERED = "gathered"
FILES = ("path", "weights")  # arguments of parts that name a file or a folder
UNWRITTEN = {"unwritten": True}  # marks a field that no file may hold
OPTIONS: dict[Any, Any] = {BlockOptions: Block}
"""Typed dicts that a maker takes as `**options: Unpack[…]`, and the class whose arguments
and defaults they are.
"""


@dataclass(frozen=True)
class Component:
    """A registered class and its keyword arguments; its parent calls it with the sizes it knows.

    Arguments:
        kind: Name in the registry.
        factory: The class.
        arguments: Checked keyword arguments.
        path: Key of the part in the configuration.
    """

    kind: str
    factory: Any
    arguments: dict[str, Any]
    path: str

    def __call__(self, *from_parent: Any) -> Any:
        return self.made(HERE, *from_parent)

    def made(self, workspace: Workspace, *from_parent: Any) -> Any:
        """Call the class. Files that its arguments name lie in the workspace."""
        arguments = {
            name: _located(name, value, workspace) for name, value in self.arguments.items()
        }
        with prefixed(self.path):
            return self.factory(*from_parent, **arguments)


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
        values = {**defaults, **value.arguments}
        kept = {n: a for n, a in values.items() if n not in marked or a != defaults[n]}
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
        makers = chain.from_iterable(registry.items() for registry in COMPONENTS.values())
        return next(name for name, maker in makers if maker is value)

    return value


def _defaults(maker: Any) -> dict[str, Any]:
    return {name: p.default for name, p in yaml_parameters(maker).items()}


def _marked(maker: Any, marks: frozenset[str]) -> set[str]:
    """The arguments of a maker that are annotated with one of `marks`."""
    if not marks:
        return set()
    annotated = yaml_hints(maker, extras=True)
    return {n for n, hint in annotated.items() if marks & set(getattr(hint, "__metadata__", ()))}


def yaml_parameters(maker: Any) -> dict[str, inspect.Parameter]:
    """The parameters that YAML sets: keyword-only arguments of a maker, or a dataclass's fields."""
    parameters: dict[str, inspect.Parameter] = {}
    fields = dataclasses.fields(maker) if dataclasses.is_dataclass(maker) else ()
    unwritten = {field.name for field in fields if "unwritten" in field.metadata}

    for name, p in inspect.signature(maker).parameters.items():
        if name in unwritten:
            continue
        if p.kind is p.VAR_KEYWORD:
            options = options_dict(maker, name)
            parameters |= {
                n: q
                for n, q in yaml_parameters(OPTIONS[options]).items()
                if n in options.__annotations__
            }
        elif dataclasses.is_dataclass(maker) or p.kind is p.KEYWORD_ONLY:
            parameters[name] = p

    return parameters


def yaml_hints(maker: Any, extras: bool = False) -> dict[str, Any]:
    """The annotation of each of `yaml_parameters`; `extras` keeps what `Annotated` adds."""
    init = maker if inspect.isfunction(maker) or dataclasses.is_dataclass(maker) else maker.__init__
    hints = typing.get_type_hints(init, include_extras=extras)
    for name, p in inspect.signature(maker).parameters.items():
        if p.kind is p.VAR_KEYWORD:
            hints |= typing.get_type_hints(options_dict(maker, name), include_extras=extras)
    return hints


def options_dict(maker: Any, name: str) -> Any:
    """The typed dict of a maker's `**name`."""
    return typing.get_args(typing.get_type_hints(maker.__init__)[name])[0]


def _arguments(maker: Any, spec: dict[str, Any], path: str, owner: str) -> dict[str, Any]:
    """The values of a dict, each checked against the maker's annotation of that name."""
    parameters = yaml_parameters(maker)
    hints = yaml_hints(maker)
    gatherer, gathered_names = _gathered(maker)
    valid = sorted({*parameters, *gathered_names} - {gatherer})

    for key in spec:
        if key not in valid:
            takes = f"{owner} takes {', '.join(valid) if valid else 'no arguments'}"
            raise ConfigError(f"{_join(path, key)}: unknown key; {takes}{did_you_mean(key, valid)}")
    for name, parameter in parameters.items():
        is_needed = parameter.default is parameter.empty
        if is_needed and name not in spec and name != gatherer:
            raise ConfigError(
                f"{_join(path, name)}: missing; {owner} needs it{_choices(hints[name])}"
            )
    for name in _hidden(maker):
        if not isinstance(spec.get(name, ""), str):
            raise ConfigError(f"{_join(path, name)}: not a text, which is not shown here")

    own = {key: value for key, value in spec.items() if key not in gathered_names}
    arguments = {key: _parse(hints[key], value, _join(path, key)) for key, value in own.items()}
    if gatherer:
        gathered = {key: value for key, value in spec.items() if key in gathered_names}
        arguments[gatherer] = _parse(hints[gatherer], gathered, path)
    return arguments


def _fields(maker: Any) -> tuple[dataclasses.Field[Any], ...]:
    """The fields of a section; a part has none."""
    return dataclasses.fields(maker) if dataclasses.is_dataclass(maker) else ()


def _gathered(maker: Any) -> tuple[str, tuple[str, ...]]:
    """The field that gathers further keys of a section, and their names; empty
    where no field does.
    """
    for field in _fields(maker):
        if GATHERED in field.metadata:
            return field.name, tuple(field.metadata[GATHERED])
    return "", ()


def _hidden(maker: Any) -> list[str]:
    """The keys whose values no message shows."""
    return [field.name for field in _fields(maker) if not field.repr]


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _parse(hint: Any, value: Any, path: str) -> Any:
    """A plain value as the annotation wants it: a part, a section, a list, a mapping, or a
    checked number or text.
    """
    if hint is Any:
        return value
    if hint in COMPONENTS:
        return _part(COMPONENTS[hint], value, path)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: {_as_written(value)} is not a section; write keys below it")
        return parse_dataclass(hint, value, path)

    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _parse(_option(options, value, path), value, path)
    if origin in (list, tuple):
        return origin(_items(origin, options, value, path))
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: {_as_written(value)} is not a mapping; write keys below it")
        return {str(key): _parse(options[1], item, _join(path, key)) for key, item in value.items()}
    if origin is Literal:
        if not _is_option(value, options):
            hint_at = did_you_mean(value, [str(option) for option in options])
            raise ConfigError(f"{path}: {_as_written(value)} is not {_wanted(hint)}{hint_at}")
        return value

    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path}: {_as_written(value)} is not a finite number")
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{path}: {_as_written(value)} is not {_wanted(hint)}")
    return value


def _items(origin: Any, options: tuple[Any, ...], value: Any, path: str) -> list[Any]:
    """The checked items of a list, of any number or of a fixed one."""
    is_fixed = origin is tuple and options[-1] is not Ellipsis
    length = f" of {len(options)}" if is_fixed else ""
    if not isinstance(value, list | tuple) or (is_fixed and len(value) != len(options)):
        raise ConfigError(f"{path}: {_as_written(value)} is not a list{length}")

    hints = options if is_fixed else options[:1] * len(value)
    return [
        _parse(hint, item, f"{path}.{i}")
        for i, (hint, item) in enumerate(zip(hints, value, strict=True))
    ]


def _option(options: tuple[Any, ...], value: Any, path: str) -> Any:
    """The one of several annotations that a value is meant for, by its shape."""
    fitting = [option for option in options if _fits(option, value)]
    several = [option for option in options if option is not type(None)]
    if not fitting and len(several) > 1:
        wanted = " nor ".join(map(_wanted, several))
        raise ConfigError(f"{path}: {_as_written(value)} is neither {wanted}")
    return fitting[0] if fitting else several[0]


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value has the shape that an annotation wants, whatever is in it."""
    origin = typing.get_origin(hint) or hint
    if origin is Literal:
        return _is_option(value, typing.get_args(hint))
    if origin in (list, tuple):
        return isinstance(value, list | tuple)
    if origin is dict or dataclasses.is_dataclass(hint):
        return isinstance(value, dict)
    return type(value) is hint


def _is_option(value: Any, options: tuple[Any, ...]) -> bool:
    """Whether a value is one of a few, and of its type: 28.0 is not 28."""
    return any(type(value) is type(option) and value == option for option in options)


def _wanted(hint: Any) -> str:
    """What an annotation wants, in words."""
    origin = typing.get_origin(hint) or hint
    if origin is Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"

    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a text",
        type(None): "null",
    }
    lists = dict.fromkeys((list, tuple), "a list")

    return (words | lists).get(origin, "a mapping")


def _choices(hint: Any) -> str:
    """The names that a missing key may have as its value, where it is one of some."""
    return f", {_wanted(hint)}" if typing.get_origin(hint) is Literal else ""


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


def parse_dataclass(cls: Any, spec: dict[str, Any], path: str, owner: str = "a recipe") -> Any:
    """A dict as a dataclass, everything in it checked. owner: what a message calls it
    where it has no path.

    Raises:
        ConfigError: with the first fault, in one line.
    """
    arguments = _arguments(cls, spec, path, path or owner)
    with prefixed(path):
        return cls(**arguments)


def flatten(content: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as {"outer.width": 64, …}."""
    if not isinstance(content, dict):
        return {prefix: content}

    dotted: dict[str, Any] = {}
    for key, value in content.items():
        dotted |= flatten(value, f"{prefix}.{key}" if prefix else key)
    return dotted
