"""Pages of the documentation that are generated from the code, as a hook of mkdocs.

Keys of recipes, studies and sweeps come from the constructors' signatures and docstrings, commands
from the parser of the command line, metrics and environment variables from their tables. A range is
measured: the constructor is called with values on both sides of each bound.

    python scripts/reference.py FOLDER      writes the same pages as files
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from arinar_lab.cli.parser import parser
from arinar_lab.config import recipe as recipes
from arinar_lab.config import schema
from arinar_lab.metrics import COLUMNS, UNITS

ROOT = Path(__file__).parent.parent
REGISTRIES = {
    "inner": ("Inner models and heads", schema.HeadMaker, (16, 4, 1)),
    "outer": ("Outer models", schema.OuterMaker, (16, 4)),
    "norm": ("Norms", schema.NormMaker, (16, True)),
    "codec": ("Codecs", schema.CodecMaker, ((3, 8, 8), 256)),
    "data": ("Data", schema.SourceMaker, ()),
}
"""Key → heading, registry, and what a parent passes by position when a range is measured."""
NAMES = {int: "whole number", float: "number", bool: "true or false", str: "text"}


@dataclasses.dataclass(frozen=True)
class Key:
    """One key: what it takes, what it is by itself, and what it means."""

    name: str
    type: str
    default: str
    range: str
    meaning: str


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to the site."""
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def pages() -> dict[str, str]:
    """Path of each generated page below the documentation's folder → its Markdown."""
    return {
        "reference/recipe.md": _recipe_page(),
        "reference/commands.md": _commands_page(),
        "reference/metrics.md": _metrics_page(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    }


def keys_of(maker: Any, parents: tuple[Any, ...] = ()) -> list[Key]:
    """The keys that a class takes from YAML, in the order of its signature."""
    hints = schema._hints(maker)
    keys = []
    for name, parameter in schema._parameters(maker).items():
        keys.append(
            Key(
                name,
                type_name(hints[name]),
                _default(maker, parameter),
                _range(maker, name, hints[name], parents),
                meaning(maker, name),
            )
        )
    return keys


def type_name(hint: Any) -> str:
    """An annotation in words: `whole number`, `a · b · c`, `list of number`."""
    for key, (_, registry, _) in REGISTRIES.items():
        if hint == registry:
            return f"[{key}](#{key})"
    if hint in NAMES:
        return NAMES[hint]
    origin = typing.get_origin(hint)
    options = typing.get_args(hint)
    if origin is Literal:
        return " · ".join(f"`{option}`" for option in options)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if o is type(None) else type_name(o) for o in options)
    if origin is tuple:
        return f"{len(options)} of {type_name(options[0])}"
    if origin is list:
        return f"list of {type_name(options[0])}"
    if origin is dict:
        return f"section of {type_name(options[1])}"
    if dataclasses.is_dataclass(hint):
        return f"[section](#{hint.__name__.lower()})"
    return str(getattr(hint, "__name__", hint))


def meaning(maker: Any, name: str) -> str:
    """What a docstring says of an argument: the class's own, or that of the class it points to."""
    for owner in _owners(maker):
        text = _entries(inspect.getdoc(owner) or "").get(name, "")
        if text and not re.fullmatch(r"(of|see) `\w+`\.?", text):
            return text
    return ""


def _owners(maker: Any) -> Iterator[Any]:
    """A class, its bases, the options it passes on, and classes its docstring names."""
    yield maker
    yield from inspect.getmro(maker)[1:-1] if inspect.isclass(maker) else ()
    for parameter in inspect.signature(maker).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            yield schema.OPTIONS[schema._passed_on(maker, parameter.name)]
    module = inspect.getmodule(maker)
    for name in re.findall(r"`(\w+)`", inspect.getdoc(maker) or ""):
        if inspect.isclass(getattr(module, name, None)):
            yield getattr(module, name)


def _entries(doc: str) -> dict[str, str]:
    """Argument → its text in `Arguments:`; `a, b: text` and `a: text; b: text` are both read."""
    block = re.search(r"^Arguments:\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    if block is None:
        return {}
    entries: dict[str, str] = {}
    names: list[str] = []
    for line in re.split(r"\n|; (?=[a-z_0-9, ]+: )", inspect.cleandoc(block[1])):
        start = re.match(r"([a-z_0-9]+(?:, [a-z_0-9]+)*): (.*)", line)
        if start and not line.startswith(" "):
            names = start[1].split(", ")
            entries |= dict.fromkeys(names, start[2])
        else:
            for name in names:
                entries[name] += " " + line.strip()
    return {name: text.strip()[:1].upper() + text.strip()[1:] for name, text in entries.items()}


def _default(maker: Any, parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return "a section" if schema._has_factory(maker, parameter.name) else "**needed**"
    if parameter.default is None:
        return "`null`"
    value = schema.resolved(parameter.default)
    if not isinstance(value, str | int | float | bool | list):
        return "a section"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _range(maker: Any, name: str, hint: Any, parents: tuple[Any, ...]) -> str:
    """The bounds of a number, as the constructor holds them; empty where there are none."""
    numbers = [option for option in (hint, *typing.get_args(hint)) if option in (int, float)]
    if not numbers or typing.get_origin(hint) is tuple:
        return ""

    def is_accepted(value: float) -> bool:
        try:
            maker(*parents, **{**_needed(maker), name: numbers[0](value)})
        except ValueError:
            return False
        except (RuntimeError, TypeError, ZeroDivisionError):
            return True
        return True

    lower = _lower(is_accepted, numbers[0])
    upper = "" if numbers[0] is int else _upper(is_accepted)
    return ", ".join(bound for bound in (lower, upper) if bound)


def _lower(is_accepted: Callable[[float], bool], kind: type) -> str:
    if is_accepted(-1):
        return ""
    if is_accepted(0):
        return "≥ 0"
    if kind is float:
        return "> 0" if is_accepted(1e-4) or is_accepted(1.0) else ""
    least = next((value for value in range(1, 33) if is_accepted(value)), None)
    return "" if least is None else f"≥ {least}"


def _upper(is_accepted: Callable[[float], bool]) -> str:
    if is_accepted(1.5) or not is_accepted(0.999):
        return ""
    return "≤ 1" if is_accepted(1.0) else "< 1"


def _needed(maker: Any) -> dict[str, Any]:
    """Values for the arguments that have no default, so that a range of another can be measured."""
    values: dict[str, Any] = {}
    for name, parameter in schema._parameters(maker).items():
        if parameter.default is parameter.empty and not schema._has_factory(maker, name):
            hint = schema._hints(maker)[name]
            values[name] = schema.PARTS[hint][_FIRST[hint]] if hint in schema.PARTS else "random"
    return values


_FIRST: dict[Any, str] = {
    schema.HeadMaker: "gmm", schema.OuterMaker: "causal", schema.CodecMaker: "pixels",
    schema.SourceMaker: "digits", schema.NormMaker: "layer",
}  # fmt: skip


def table(keys: list[Key]) -> str:
    """Keys as a Markdown table."""
    rows = ["| key | type | default | range | meaning |", "|---|---|---|---|---|"]
    for key in keys:
        cells = (f"`{key.name}`", key.type, key.default, key.range, key.meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _summary(maker: Any) -> str:
    """The opening paragraph of a docstring."""
    return " ".join((inspect.getdoc(maker) or "").split("\n\n")[0].split())


def _recipe_page() -> str:
    parts = [
        "# Keys of a recipe",
        "A recipe is a YAML file. A key with `kind` names a part; its other keys are the part's "
        "own. On the command line a key is written with dots: `inner.head.components=8`. "
        "`extends: other.yaml` lays a recipe over another one.",
        "## The whole recipe",
        table(keys_of(recipes.Recipe)),
    ]
    for section in (
        recipes.Labels,
        recipes.Training,
        recipes.Sampler,
        recipes.Evaluation,
        recipes.Machine,
    ):
        parts += [f"## {section.__name__}", _summary(section), table(keys_of(section))]
    for key, (heading, registry, parents) in REGISTRIES.items():
        parts.append(f"## {heading} {{#{key}}}")
        for kind, maker in schema.PARTS[registry].items():
            keys = keys_of(maker, parents)
            parts += [f"### `{kind}` {{#{key}-{kind}}}", _summary(maker)]
            parts += [table(keys)] if keys else []
    return "\n\n".join(parts) + "\n"


def _commands_page() -> str:
    whole = parser()
    parts = ["# Commands", "`arinar VERB --help` prints the same."]
    for action in whole._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb, words in action.choices.items():
                parts += [f"## arinar {verb}", f"```text\n{words.format_help().strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def _metrics_page() -> str:
    columns = {column.metric: column for column in COLUMNS}
    rows = ["| metric | heading | unit | better |", "|---|---|---|---|"]
    for name, unit in UNITS.items():
        column = columns.get(name)
        better = {True: "less", False: "more", None: ""}[column.less if column else None]
        rows.append(f"| `{name}` | {column.heading if column else ''} | {unit} | {better} |")
    return "# Metrics\n\n" + "\n".join(rows) + "\n"


def main() -> None:
    """Write the pages below a folder."""
    folder = Path(sys.argv[1])
    for name, text in pages().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
