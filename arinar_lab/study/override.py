"""Overrides of a study or sweep: which of them change its file, and which the base recipe.

    training.steps=100                        a key of the base recipe, for every arm that
                                              does not set it itself
    inner.head.components=[1,16,64]           a varied key (in axes, vary or search): other
                                              values; 1,16,64 is the same
    axes.outer.width=[32,64]                  one more axis, or other values of an axis
    arms.wide.outer.width=48                  a key of one arm
    search.training.lr={log: [1e-4, 1e-2]}    another range, or one more searched key
    search.training.lr=null                   not searched any more; an axis likewise
    baseline=components=1                     a key of the study

No override is without effect in silence: one that reaches no arm is refused, and one that misses
some is told with their names (`unused_overrides`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from ..analysis.text import short_value
from ..config import schema
from ..config.files import STUDY_SECTIONS, merge, unflatten
from ..config.schema import flatten
from ..config.yaml_reader import read_value, to_flow_yaml
from ..errors import ConfigError, did_you_mean, located
from ..runs.folder import slug

File = TypeVar("File")
"""`StudyFile` or `SweepFile`."""
MISSING: Any = object()
_VARIED = ("axes", "vary", "search")
_IN_NAMES = {"algorithm": "sampler"}  # a key's former word, by which folders that resume are named


class Request(NamedTuple, Generic[File]):
    """A study or sweep as it is asked for.

    Arguments:
        file: checked, with the overrides of its own keys; changes: what is left
            for the base recipe.
        name: of the study, and of its folder.
    """

    file: File
    changes: dict[str, Any]
    name: str


def read_request(
    path: Path,
    content: dict[str, Any],
    overrides: Mapping[str, Any] | None,
    kind: type[File],
    owner: str,
) -> Request[File]:
    """The content of a study's or sweep's file under overrides. owner: what a message calls it.

    Raises:
        ConfigError: if it is at fault, or an override would be in vain.
    """
    keys = tuple(f.name for f in fields(kind))  # type: ignore[arg-type]  # a dataclass
    own, changes = split_overrides(overrides or {}, keys)
    _refuse_two_words(own, changes)
    with located(path):
        changed, changes = override_search(*override_axes(apply_overrides(content, own), changes))
        file = schema.parse_dataclass(kind, changed, "", owner)

    return Request(file, changes, study_name(path.stem, _named_by(content, changed, own, changes)))


def _named_by(
    before: dict[str, Any], after: dict[str, Any], own: Mapping[str, Any], changes: dict[str, Any]
) -> dict[str, Any]:
    """What tells the study's folder from that of the file alone."""
    named_by = {
        _IN_NAMES.get(key, key): value
        for key, value in {**changes, **own}.items()
        if key != "storage"
    }
    for name in _VARIED:
        if name in own:
            continue  # replaced as a whole, and named by that
        former, now = _mapping(before.get(name)), _mapping(after.get(name))
        prefix = "" if name == "axes" else f"{name}."
        named_by = {key: value for key, value in named_by.items() if not key.startswith(f"{name}.")}
        named_by |= {
            f"{prefix}{key}": value
            for key, value in now.items()
            if former.get(key, MISSING) != value
        }
        named_by |= {f"{name}.{key}": None for key in former if key not in now}

    return named_by


def _refuse_two_words(own: Mapping[str, Any], changes: dict[str, Any]) -> None:
    """Refuse `axes.KEY=…` beside `KEY=…`, of which one would be in vain.

    Raises:
        ConfigError: naming both.
    """
    for name in own:
        section, _, key = name.partition(".")
        if key and section in ("axes", "search") and value_at(changes, key) is not MISSING:
            raise ConfigError(f"{name} and {key} are both overridden; leave one of the two out")


def split_overrides(
    overrides: Mapping[str, Any], keys: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Overrides of the file's own keys, and those of the base recipe."""
    own: dict[str, Any] = {}
    changes: dict[str, Any] = {}
    for key, value in overrides.items():
        section, dot, _ = key.partition(".")
        is_own = section in keys and (not dot or section in STUDY_SECTIONS)
        (own if is_own else changes)[key] = value
    return own, changes


def apply_overrides(content: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A file's content with overrides of its own keys: `axes=…` replaces a section, `axes.KEY=…`
    one entry of it, which null takes out.

    Raises:
        ConfigError: if there is no mapping that could hold the entry, or nothing to take out.
    """
    result = {**content, **{key: value for key, value in own.items() if "." not in key}}
    if "seeds" in result:
        result["seeds"] = listed_values("seeds", result["seeds"]) or result["seeds"]
    for key, value in own.items():
        section, dot, entry = key.partition(".")
        if not dot:
            continue
        before = result.get(section) or {}
        if not isinstance(before, dict):
            raise ConfigError(f"{key}: {section} is {before!r}, which holds no keys")

        if value is None and section != "arms":
            if entry not in before:
                raise ConfigError(
                    f"{key}: null takes out what is not there{did_you_mean(entry, list(before))}"
                )
            result[section] = {name: kept for name, kept in before.items() if name != entry}
            continue

        if section == "arms":
            entry, value = _of_arm(before, entry, value)
        elif section == "search" and isinstance(value, dict):
            value = {**_conditions(before.get(entry)), **value}
        elif section == "search":
            value = _with_choices(entry, before.get(entry), value)
        elif section in ("axes", "vary"):
            values = listed_values(key, value)
            if values is None:
                raise ConfigError(_one_value(key, value, before.get(entry, [])))
            value = values

        result[section] = {**before, entry: value}

    return result


def _of_arm(arms: dict[str, Any], entry: str, value: Any) -> tuple[str, Any]:
    """The arm that `arms.NAME.KEY` is of, whose name may hold dots, and what it changes then."""
    names = [name for name in arms if entry.startswith(f"{name}.")]
    if entry in arms or (not names and "." not in entry):
        return entry, value
    name = max(names, key=len, default=entry.partition(".")[0])
    return name, {**_mapping(arms.get(name)), entry[len(name) + 1 :]: value}


def _conditions(spec: Any) -> dict[str, Any]:
    return {"when": spec["when"]} if isinstance(spec, dict) and "when" in spec else {}


def listed_values(key: str, value: Any) -> list[Any] | None:
    """The values that `[1, 16]` or `1,16` name; None where one value is given.

    Raises:
        ConfigError: if one of them cannot be read.
    """
    if isinstance(value, list):
        return value
    if isinstance(value, str) and "," in value:
        with located(key):
            listed = read_value(f"[{value}]")
        return listed if isinstance(listed, list) else None
    return None


def value_at(content: Any, key: str) -> Any:
    """The value of a dotted key in nested dicts; ABSENT where it has none."""
    for part in key.split("."):
        if not isinstance(content, dict) or part not in content:
            return MISSING
        content = content[part]
    return content


def remove_key(content: dict[str, Any], key: str) -> dict[str, Any]:
    """Nested dicts less the value of a dotted key, and less what is empty then."""
    first, dot, inner = key.partition(".")
    rest = remove_key(content[first], inner) if dot else {}
    return {**{k: v for k, v in content.items() if k != first}, **({first: rest} if rest else {})}


def shell_word(key: str, value: Any) -> str:
    """An override as the shell wants it."""
    return shlex.quote(f"{key}={to_flow_yaml(value)}")


def override_axes(
    content: dict[str, Any], changes: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A study's content with the values that overrides give to its axes, and the
    overrides that are left.

    Raises:
        ConfigError: if an axis is given one value, which the base recipe would have in vain.
    """
    for section in ("axes", "vary"):
        for key, values in _mapping(content.get(section)).items():
            value = value_at(changes, key)
            part_of_it = isinstance(value, dict) and "kind" not in value
            listed = listed_values(key, value)
            if value is MISSING or part_of_it or (listed is None and section == "vary"):
                continue  # under `vary`, one value is that of the arm that is varied
            if listed is None:
                raise ConfigError(_one_value(key, value, values))
            content = {**content, section: {**content[section], key: listed}}
            changes = remove_key(changes, key)

    return content, changes


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _one_value(key: str, value: Any, values: Any) -> str:
    """What is said of one value for an axis, with the words that work."""
    values = values if isinstance(values, list) else [values]
    said = (
        f"{key}: is varied by this study, in {to_flow_yaml(values)}; "
        if values
        else f"{key}: is a list of values; "
    )
    if value in values:
        return (
            said + f"leave the word out, or write {shell_word(key, [value])} for "
            f"{to_flow_yaml(value)} alone"
        )

    return (
        said + f"write {shell_word(key, [*values, value])} to add {to_flow_yaml(value)}, or "
        "any other list"
    )


def override_search(
    content: dict[str, Any], changes: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A sweep's content with the choices that overrides give to what it searches, and the
    overrides that are left.

    Raises:
        ConfigError: if a searched key is given one value, or a range is given a list.
    """
    for key, spec in _mapping(content.get("search")).items():
        value = value_at(changes, key)
        if value is MISSING or (isinstance(value, dict) and "kind" not in value):
            continue

        if isinstance(spec, dict) and "categorical" not in spec:
            bounds = {shape: range_ for shape, range_ in spec.items() if shape != "when"}
            raise ConfigError(
                f"{key}: is searched in {to_flow_yaml(bounds)}; write"
                f" {shell_word(f'search.{key}', bounds)} for another range, or"
                f" {shell_word(f'search.{key}', listed_values(key, value) or [value])} for choices"
            )

        content = {**content, "search": {**content["search"], key: _with_choices(key, spec, value)}}
        changes = remove_key(changes, key)

    return content, changes


def _with_choices(key: str, spec: Any, value: Any) -> dict[str, Any]:
    """A searched key's entry with other choices, of which there may be one.

    Raises:
        ConfigError: if they are no list, or not among the names that the choices have.
    """
    named = _mapping(spec).get("categorical")
    listed = listed_values(key, value)
    if listed is None:
        choice = next(iter(named)) if isinstance(named, dict) and str(value) not in named else value
        raise ConfigError(
            f"{key}: is searched; write {shell_word(f'search.{key}', [choice])} for one choice, "
            "or a longer list"
        )

    if not isinstance(named, dict):
        return {**_conditions(spec), "categorical": listed}
    names = [str(name) for name in listed]
    if unknown := [name for name in names if name not in named]:
        raise ConfigError(
            f"{key}: {unknown[0]!r} is none of its choices, which are {', '.join(named)}"
        )

    return {**_mapping(spec), "categorical": {name: named[name] for name in names}}


def unused_overrides(
    base: dict[str, Any], changes: dict[str, Any], variants: Mapping[str, dict[str, Any]]
) -> dict[str, list[str]]:
    """For each overridden key of the base recipe the variants that do not have it
    from there, by name.

    Arguments:
        base: the recipe with the overrides; variants: name → what it changes of the
            recipe, by dotted keys.
    """
    missed: dict[str, list[str]] = {}
    for key in flatten(changes):
        leaf = f"{key}.kind" if isinstance(value_at(base, key), dict) else key
        mark = object()
        marked = merge(base, unflatten({leaf: mark}))
        missed[key] = [
            name
            for name, change in variants.items()
            if value_at(merge(marked, unflatten(change)), leaf) is not mark
        ]

    return missed


def study_name(stem: str, changes: dict[str, Any]) -> str:
    """The study's name: its file's, and what was overridden; different
    overrides never share a name.

    A hash stands for what is too long for a folder, and behind what the name does not tell exactly.
    """
    values = sorted(flatten(changes).items())
    suffix = "".join(f"-{key}={short_value(value)}" for key, value in values)
    full = stem + suffix
    name = slug(full)
    is_exact = name == full and all(_is_exact(value) for _, value in values)
    if is_exact and len(name) <= 120:
        return name

    if len(name) > 120:
        name = slug(stem)[:80]
    hashed = stem + json.dumps(values, default=str)
    digest = hashlib.sha256(os.fsencode(hashed)).hexdigest()[:8]

    return f"{name or 'study'}-{digest}"


def _is_exact(value: Any) -> bool:
    """Whether a value in a name is no other value's, too, as `1+2` is of [1, 2] and of a text."""
    if isinstance(value, list):
        return all(not isinstance(item, list | dict) and _is_exact(item) for item in value)
    if isinstance(value, str):
        odd = "+" in value or value in ("None", "True", "False") or slug(value) != value
        return not odd and not _is_other(value)
    return True


def _is_other(text: str) -> bool:
    """Whether a text without quotes would be no text, as 1 is."""
    try:
        return not isinstance(read_value(text), str)
    except ConfigError:
        return True
