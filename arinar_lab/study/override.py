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

An override that reaches no arm is refused. One that misses some arms is reported with their names
(`unused_overrides`).
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

from ..config import schema
from ..config.files import STUDY_SECTIONS, merge, unflatten
from ..config.schema import flatten
from ..config.yaml_reader import read_value, to_flow_yaml
from ..errors import ConfigError, did_you_mean, located
from ..files.workspace import HERE
from ..output.names import short_value
from ..runs.folder import slug

File = TypeVar("File")
"""`StudyFile` or `SweepFile`."""
MISSING: Any = object()
_VARIED = ("axes", "vary", "search")
_OF_BOTH = ("validation",)  # sections of a recipe, and of a sweep, which sets them for its trials
_LONGEST = 80  # letters of a study's name
_FORMER_LONGEST = 120  # those of studies that were begun before
_IN_NAMES = {"algorithm": "sampler"}  # a key's former word, by which folders that resume are named


class Request(NamedTuple, Generic[File]):
    """A study or sweep under overrides.

    Arguments:
        file: The checked file, with the overrides of its own keys.
        changes: The other overrides, which change the base recipe.
        name: The name of the study, and of its folder.
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
    studies: Path = HERE.studies,
) -> Request[File]:
    """Read the content of a study's or sweep's file under overrides.

    Arguments:
        owner: What a message calls the file.
        studies: The folder of all studies.

    Raises:
        ConfigError: if the file is at fault, or an override would be in vain.
    """
    keys = tuple(f.name for f in fields(kind))  # type: ignore[arg-type]  # a dataclass
    file_changes, changes = split_overrides(overrides or {}, keys)
    _refuse_two_words(file_changes, changes)
    with located(path):
        changed = apply_overrides(content, file_changes)
        changed, changes = override_axes(changed, changes)
        changed, changes = override_search(changed, changes)
        file = schema.parse_dataclass(kind, changed, "", owner)

    named_by = _named_by(content, changed, file_changes, changes)
    return Request(file, changes, study_name(path.stem, named_by, studies))


def _named_by(
    before: dict[str, Any],
    after: dict[str, Any],
    file_changes: Mapping[str, Any],
    changes: dict[str, Any],
) -> dict[str, Any]:
    """The overrides that the name of the study's folder holds."""
    named_by = {}
    for key, value in {**changes, **file_changes}.items():
        if key != "storage":
            named_by[_IN_NAMES.get(key, key)] = value

    for name in _VARIED:
        if name in file_changes:
            continue  # replaced as a whole, and named by that

        former = _mapping(before.get(name))
        current = _mapping(after.get(name))
        named_by = {key: value for key, value in named_by.items() if not key.startswith(f"{name}.")}
        prefix = "" if name == "axes" else f"{name}."
        for key, value in current.items():
            if former.get(key, MISSING) != value:
                named_by[f"{prefix}{key}"] = value
        for key in former:
            if key not in current:
                named_by[f"{name}.{key}"] = None

    return named_by


def _refuse_two_words(file_changes: Mapping[str, Any], changes: dict[str, Any]) -> None:
    """Refuse `axes.KEY=…` together with `KEY=…`, of which one would be in vain.

    Raises:
        ConfigError: naming both.
    """
    for name in file_changes:
        section, _, key = name.partition(".")
        if key and section in ("axes", "search") and value_at(changes, key) is not MISSING:
            raise ConfigError(f"{name} and {key} are both overridden; leave one of the two out")


def split_overrides(
    overrides: Mapping[str, Any], keys: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Overrides of the file's own keys, and those of the base recipe."""
    file_changes: dict[str, Any] = {}
    changes: dict[str, Any] = {}
    for key, value in overrides.items():
        section, dot, _ = key.partition(".")
        if section in keys and (not dot or section in (*STUDY_SECTIONS, *_OF_BOTH)):
            file_changes[key] = value
        else:
            changes[key] = value
    return file_changes, changes


def apply_overrides(content: dict[str, Any], file_changes: Mapping[str, Any]) -> dict[str, Any]:
    """A file's content with overrides of its own keys: `axes=…` replaces a section, `axes.KEY=…`
    one entry of it, which null removes.

    Raises:
        ConfigError: if no mapping could hold the entry, or there is nothing to remove.
    """
    result = dict(content)
    for key, value in file_changes.items():
        if "." not in key:
            result[key] = value
    if "seeds" in result:
        result["seeds"] = listed_values("seeds", result["seeds"]) or result["seeds"]

    for key, value in file_changes.items():
        section, dot, entry = key.partition(".")
        if dot:
            entries = result.get(section) or {}
            if not isinstance(entries, dict):
                raise ConfigError(f"{key}: {section} is {entries!r}, which holds no keys")
            result[section] = _with_entry(entries, section, entry, value)

    return result


def _with_entry(entries: dict[str, Any], section: str, entry: str, value: Any) -> dict[str, Any]:
    """A section's entries with `section.entry=value`.

    Raises:
        ConfigError: if there is nothing to remove, or an axis has one value.
    """
    key = f"{section}.{entry}"
    if value is None and section not in ("arms", "regimes"):
        if entry not in entries:
            raise ConfigError(
                f"{key}: null takes out what is not there{did_you_mean(entry, list(entries))}"
            )
        return {name: content for name, content in entries.items() if name != entry}

    if section in ("arms", "regimes"):
        entry, value = _of_arm(entries, entry, value)
    elif section == "search" and isinstance(value, dict):
        value = {**_conditions(entries.get(entry)), **value}
    elif section == "search":
        value = _with_choices(entry, entries.get(entry), value)
    elif section in ("axes", "vary"):
        values = listed_values(key, value)
        if values is None:
            raise ConfigError(_one_value(key, value, entries.get(entry, [])))
        value = values

    return {**entries, entry: value}


def _of_arm(arms: dict[str, Any], entry: str, value: Any) -> tuple[str, Any]:
    """The arm of `arms.NAME.KEY`, whose name may hold dots, and its changes with the new value."""
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
    """The value of a dotted key in nested dicts; MISSING where it has none."""
    for part in key.split("."):
        if not isinstance(content, dict) or part not in content:
            return MISSING
        content = content[part]
    return content


def remove_key(content: dict[str, Any], key: str) -> dict[str, Any]:
    """Nested dicts without a dotted key, and without the dicts that its removal empties."""
    first, dot, inner = key.partition(".")
    remaining = dict(content)
    part = remaining.pop(first)
    subtree = remove_key(part, inner) if dot else {}
    return {**remaining, first: subtree} if subtree else remaining


def shell_word(key: str, value: Any) -> str:
    """An override, quoted for the shell."""
    return shlex.quote(f"{key}={to_flow_yaml(value)}")


def override_axes(
    content: dict[str, Any], changes: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A study's content with overridden values of its axes, and the remaining overrides.

    Raises:
        ConfigError: if an axis has one value, which would not reach the base recipe.
    """
    for section in ("axes", "vary"):
        for key, values in _mapping(content.get(section)).items():
            value = value_at(changes, key)
            is_part = isinstance(value, dict) and "kind" not in value
            listed = listed_values(key, value)
            if value is MISSING or is_part or (listed is None and section == "vary"):
                continue  # under `vary`, one value is that of the arm that is varied
            if listed is None:
                raise ConfigError(_one_value(key, value, values))
            content = {**content, section: {**content[section], key: listed}}
            changes = remove_key(changes, key)

    return content, changes


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _one_value(key: str, value: Any, values: Any) -> str:
    """The message about one value for an axis, with overrides that work."""
    values = values if isinstance(values, list) else [values]
    text = to_flow_yaml(value)
    fault = (
        f"is varied by this study, in {to_flow_yaml(values)}" if values else "is a list of values"
    )
    advice = f"write {shell_word(key, [*values, value])} to add {text}, or any other list"
    if value in values:
        advice = f"leave the word out, or write {shell_word(key, [value])} for {text} alone"
    return f"{key}: {fault}; {advice}"


def override_search(
    content: dict[str, Any], changes: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A sweep's content with overridden choices of its searched keys, and the remaining overrides.

    Raises:
        ConfigError: if a searched key has one value, or a range is overridden by a list.
    """
    for key, spec in _mapping(content.get("search")).items():
        value = value_at(changes, key)
        if value is MISSING or (isinstance(value, dict) and "kind" not in value):
            continue

        if isinstance(spec, dict) and "categorical" not in spec:
            bounds = {shape: numbers for shape, numbers in spec.items() if shape != "when"}
            raise ConfigError(
                f"{key}: is searched in {to_flow_yaml(bounds)}; write"
                f" {shell_word(f'search.{key}', bounds)} for another range, or"
                f" {shell_word(f'search.{key}', listed_values(key, value) or [value])} for choices"
            )

        content = {**content, "search": {**content["search"], key: _with_choices(key, spec, value)}}
        changes = remove_key(changes, key)

    return content, changes


def _with_choices(key: str, spec: Any, value: Any) -> dict[str, Any]:
    """A searched key's entry with other choices, one or more.

    Raises:
        ConfigError: if they are no list, or not among the names that the choices have.
    """
    named = _mapping(spec).get("categorical")
    listed = listed_values(key, value)
    if listed is None:
        choice = value
        if isinstance(named, dict) and str(value) not in named:
            choice = next(iter(named))
        raise ConfigError(
            f"{key}: is searched; write {shell_word(f'search.{key}', [choice])} for one choice, "
            "or a longer list"
        )

    if not isinstance(named, dict):
        return {**_conditions(spec), "categorical": listed}

    choices = {}
    for name in map(str, listed):
        if name not in named:
            raise ConfigError(
                f"{key}: {name!r} is none of its choices, which are {', '.join(named)}"
            )
        choices[name] = named[name]
    return {**_mapping(spec), "categorical": choices}


def unused_overrides(
    base: dict[str, Any], changes: dict[str, Any], variants: Mapping[str, dict[str, Any]]
) -> dict[str, list[str]]:
    """Overridden key of the base recipe → names of the variants that do not use its value.

    Arguments:
        base: The recipe with the overrides.
        changes: The overrides.
        variants: Name → changes of the recipe, by dotted keys.
    """
    missed: dict[str, list[str]] = {}
    for key in flatten(changes):
        leaf = f"{key}.kind" if isinstance(value_at(base, key), dict) else key
        mark = object()
        marked = merge(base, unflatten({leaf: mark}))
        missed[key] = []
        for name, change in variants.items():
            if value_at(merge(marked, unflatten(change)), leaf) is not mark:
                missed[key].append(name)

    return missed


def study_name(stem: str, changes: dict[str, Any], studies: Path = HERE.studies) -> str:
    """The study's name: that of its file, and the overrides; different overrides never share one.

    A name of more than 80 letters keeps the overrides that fit, and a hash stands for all. A hash
    follows a name that is not exact, too.

    Arguments:
        studies: The folder of all studies. One that was begun under its former, longer name
            keeps that.
    """
    values = sorted(flatten(changes).items())
    words = [f"{key}={short_value(value)}" for key, value in values]
    full = "-".join([stem, *words])
    name = slug(full)
    is_exact = name == full and all(_is_exact(value) for _, value in values)
    if is_exact and len(name) <= _LONGEST:
        return name

    hashed = stem + json.dumps(values, default=str)
    digest = hashlib.sha256(os.fsencode(hashed)).hexdigest()[:8]
    if len(name) <= _LONGEST:
        return f"{name or 'study'}-{digest}"

    former = name if len(name) <= _FORMER_LONGEST else slug(stem)[:80]
    if not is_exact or len(name) > _FORMER_LONGEST:
        former = f"{former or 'study'}-{digest}"
    return former if (studies / former).is_dir() else f"{_shortened(stem, words)}-{digest}"


def _shortened(stem: str, words: list[str]) -> str:
    """The begin of a name of at most 80 letters that a hash follows: as many words as fit."""
    most = _LONGEST - len("-12345678")
    name = slug(stem)[:most] or "study"
    for word in map(slug, words):
        if len(name) + 1 + len(word) <= most:
            name = f"{name}-{word}"
    return slug(name)


def _is_exact(value: Any) -> bool:
    """Whether a value has a name of its own; `1+2` is the name of [1, 2] and of a text."""
    if isinstance(value, list):
        return all(not isinstance(item, list | dict) and _is_exact(item) for item in value)
    if isinstance(value, str):
        odd = "+" in value or value in ("None", "True", "False") or slug(value) != value
        return not odd and not _is_other(value)
    return True


def _is_other(text: str) -> bool:
    """Whether YAML reads a text without quotes as another type, as it does 1."""
    try:
        return not isinstance(read_value(text), str)
    except ConfigError:
        return True
