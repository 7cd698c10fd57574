"""Recipe files, the files that they extend, overrides of the command line, shipped presets.

    recipe.yaml ─extends, overrides (key=value)→ plain dict

This module imports no torch.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import ConfigError, did_you_mean, located
from ..files.workspace import HERE, Workspace
from .yaml_reader import read_value, read_yaml

STUDY_SECTIONS = (
    "axes",
    "vary",
    "arms",
    "match",
    "budget",
    "regimes",
    "search",
    "constraints",
    "early_stopping",
)
"""What a study or sweep says in mappings, and a recipe never."""
_DEPTH = 50  # levels of a key


def merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """base with change laid over it; a part of another kind drops the former arguments."""
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
    """The absolute path without links; `Path.resolve` would raise where links form a loop."""
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
    """A recipe or study file, its `base`, and all files that these extend."""
    content = read_yaml(path)
    files = [absolute_path(path)]
    for key in ("base", "extends"):
        if isinstance(content.get(key), str):
            files += source_files(path.parent / content[key])
    return files


def preset_path(name: str) -> Path:
    """The recipe file of a shipped preset, or the file itself.

    Raises:
        ConfigError: if there is neither.
    """
    shipped = Workspace(Path(__file__).parents[2]).experiments
    for path in (Path(name), HERE.experiments / f"{name}.yaml", shipped / f"{name}.yaml"):
        if path.suffix == ".yaml" and path.is_file():
            return path

    names = sorted(path.stem for path in shipped.glob("*.yaml"))
    raise ConfigError(
        f"--preset: {name!r} is neither a file nor one of "
        f"{', '.join(names)}{did_you_mean(name, names)}"
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
        ConfigError: with the word.
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

        with located(_short(word)):
            value = read_value(text)
        if key.partition(".")[0] in STUDY_SECTIONS:
            result[key] = value
        else:
            result = merge(result, unflatten({key: value}))

    return result


def _short(word: str) -> str:
    """A word for a message, in one line."""
    line = " ".join(word.split())
    return line if len(line) <= 200 else f"{line[:200]}…"
