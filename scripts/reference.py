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
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from arinar_lab.analysis.paper_rows import PaperRow
from arinar_lab.cli.parser import parser
from arinar_lab.config import schema, sections
from arinar_lab.data.sources import SourceFactory
from arinar_lab.data.validation import Validation
from arinar_lab.metrics import METRICS
from arinar_lab.model.codecs.codec import CodecFactory
from arinar_lab.model.inner.head import HeadFactory
from arinar_lab.model.layers import NormFactory
from arinar_lab.model.outer import OuterFactory
from arinar_lab.model.sampler import Sampler
from arinar_lab.pretraining.autoencoder import AutoencoderRecipe
from arinar_lab.study.plan_file import GrowingSeeds, Match, StudyFile
from arinar_lab.sweep.space import Dimension
from arinar_lab.sweep.sweep_file import EarlyStopping, Objective, SweepFile
from arinar_lab.variables import VARIABLES

ROOT = Path(__file__).parent.parent
REGISTRIES = {
    "inner": ("Inner models and heads", HeadFactory, (16, 4, 1)),
    "outer": ("Outer models", OuterFactory, (16, 4)),
    "norm": ("Norms", NormFactory, (16, True)),
    "codec": ("Codecs", CodecFactory, ((3, 8, 8), 256)),
    "data": ("Data", SourceFactory, ()),
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
    return {path: page() for path, page in PAGES.items()}


def keys_of(maker: Any, parents: tuple[Any, ...] = ()) -> list[Key]:
    """The keys that a class takes from YAML, in the order of its signature."""
    hints = schema.yaml_hints(maker)
    keys = []
    for name, parameter in schema.yaml_parameters(maker).items():
        keys.append(
            Key(
                name,
                type_name(hints[name]),
                _default(parameter),
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
    if hint is Any:
        return "any"
    if hint in NAMES:
        return NAMES[hint]
    origin = typing.get_origin(hint)
    options = typing.get_args(hint)
    if origin is Literal:
        return " · ".join(f"`{option}`" for option in options)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if o is type(None) else type_name(o) for o in options)
    if origin is tuple and options[-1] is ...:
        return f"list of {type_name(options[0])}"
    if origin is tuple:
        return f"list of {len(options)} × {type_name(options[0])}"
    if origin is list:
        return f"list of {type_name(options[0])}"
    if origin is dict:
        return f"mapping of names to {type_name(options[1])}"
    if dataclasses.is_dataclass(hint):
        return f"[section](#{getattr(hint, '__name__', '').lower()})"
    return str(getattr(hint, "__name__", hint))


def meaning(maker: Any, name: str) -> str:
    """What a docstring says of an argument: the class's own, or that of the class it points to."""
    for owner in _owners(maker):
        text = _entries(inspect.getdoc(owner) or "").get(name, "")
        if text and not re.fullmatch(r"(?:of|see) `\w+`\.?", text, re.IGNORECASE):
            return text
    return ""


def _owners(maker: Any) -> Iterator[Any]:
    """A class, its bases, the options it passes on, and classes its docstring names."""
    yield maker
    yield from inspect.getmro(maker)[1:-1] if inspect.isclass(maker) else ()
    for parameter in inspect.signature(maker).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            yield schema.OPTIONS[schema.options_dict(maker, parameter.name)]
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


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return "**needed**"
    if parameter.default in (None, ""):
        return "`null`" if parameter.default is None else "empty"
    value = schema.to_plain(parameter.default)
    if not isinstance(value, str | int | float | bool | list):
        return "its defaults"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _range(maker: Any, name: str, hint: Any, parents: tuple[Any, ...]) -> str:
    """The bounds of a number, as the constructor holds them; empty where there are none."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    options = typing.get_args(hint) if is_union else (hint,)
    numbers = [option for option in options if option in (int, float)]
    if not numbers:
        return ""

    def is_accepted(value: float) -> bool:
        try:
            maker(*parents, **{**needed, name: numbers[0](value)})
        except ValueError:
            return False
        except (RuntimeError, TypeError, ZeroDivisionError):
            return True
        return True

    needed = _needed(maker)
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
    values = dict(_EXAMPLES.get(maker, {}))
    hints = schema.yaml_hints(maker)
    for name, parameter in schema.yaml_parameters(maker).items():
        if parameter.default is parameter.empty:
            values.setdefault(name, _example(hints[name]))
    return values


def _example(hint: Any) -> Any:
    """A value that an annotation allows."""
    if hint in schema.COMPONENTS:
        return schema.COMPONENTS[hint][_FIRST[hint]]
    if typing.get_origin(hint) is dict:
        return {}
    if typing.get_origin(hint) in (list, tuple):
        return ()
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)[0]
    return 0.5 if hint is float else "random"


_EXAMPLES: dict[Any, dict[str, Any]] = {
    SweepFile: {
        "base": "recipe.yaml",
        "search": {"training.lr": Dimension(log=(1e-4, 1e-2))},
        "objectives": (Objective("quality/fd_digits", "minimize"),),
    }
}
"""Values of classes whose arguments hang together."""
_FIRST: dict[Any, str] = {
    HeadFactory: "gmm", OuterFactory: "causal", CodecFactory: "pixels",
    SourceFactory: "digits", NormFactory: "layer",
}  # fmt: skip


def table(keys: list[Key]) -> str:
    """Keys as a Markdown table."""
    rows = ["| key | meaning | type | default | range |", "|---|---|---|---|---|"]
    for key in keys:
        cells = (f"`{key.name}`", key.meaning, key.type, key.default, key.range)
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
        table(keys_of(sections.Recipe)),
    ]
    for section in (
        sections.Labels,
        sections.Training,
        Sampler,
        sections.Evaluation,
        sections.Machine,
        sections.FixedSeeds,
        Validation,
    ):
        parts += [f"## {section.__name__}", _summary(section), table(keys_of(section))]
    for key, (heading, registry, parents) in REGISTRIES.items():
        parts.append(f"## {heading} {{#{key}}}")
        for kind, maker in schema.COMPONENTS[registry].items():
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
    rows = ["| metric | heading | unit | better |", "|---|---|---|---|"]
    words = {True: "less", False: "more", None: ""}
    for metric in METRICS.values():
        unit = metric.unit.replace("|", "\\|").format(extractor="the extractor")
        rows.append(f"| `{metric.name}` | {metric.heading} | {unit} | {words[metric.less]} |")
    return f"# Metrics\n\n{_METRICS_TEXT}\n\n" + "\n".join(rows) + "\n"


def _environment_page() -> str:
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for variable in VARIABLES:
        if not variable.internal:
            rows.append(f"| `{variable.name}` | {variable.default} | {variable.meaning} |")
    return "# Environment variables\n\n" + "\n".join(rows) + "\n"


def _file_page(name: str, text: str, whole: Any, *parts: Any) -> str:
    """The page of a file, as `a study`: its keys, then the keys of its sections."""
    pieces = [f"# Keys of {name}", text, table(keys_of(whole))]
    for part in parts:
        heading = f"## {part.__name__} {{#{part.__name__.lower()}}}"
        pieces += [heading, _summary(part), table(keys_of(part))]
    return "\n\n".join(pieces) + "\n"


_STUDY_TEXT = (
    "A study is a YAML file that says what varies around a base recipe. "
    "[First ablation](../tutorials/first_ablation.md) writes one."
)
_SWEEP_TEXT = (
    "A sweep is a YAML file that says what is searched, and by what it is judged. "
    "[First sweep](../tutorials/first_sweep.md) writes one."
)
_AUTOENCODER_TEXT = (
    "The file of `arinar train-codec`: the images, the network and its training. "
    "[Train an autoencoder](../how_to/train_an_autoencoder.md) writes one. `data` and `machine` "
    "are those of [a recipe](recipe.md)."
)
_METRICS_TEXT = (
    "Names are those of `report.json`, of MLflow and of `table.csv`. "
    "A metric with a heading is a column of a study's table."
)


def _study_page() -> str:
    return _file_page("a study", _STUDY_TEXT, StudyFile, GrowingSeeds, Match, PaperRow)


def _sweep_page() -> str:
    return _file_page(
        "a sweep", _SWEEP_TEXT, SweepFile, Dimension, Objective, EarlyStopping, Validation
    )


def _autoencoder_page() -> str:
    page = _file_page("an autoencoder", _AUTOENCODER_TEXT, AutoencoderRecipe)
    return page.replace("](#", "](recipe.md#")  # its parts stand there


def _changelog_page() -> str:
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


PAGES: dict[str, Callable[[], str]] = {
    "reference/recipe.md": _recipe_page,
    "reference/study.md": _study_page,
    "reference/sweep.md": _sweep_page,
    "reference/autoencoder.md": _autoencoder_page,
    "reference/commands.md": _commands_page,
    "reference/environment.md": _environment_page,
    "reference/metrics.md": _metrics_page,
    "changelog.md": _changelog_page,
}
"""Path of each generated page below the documentation's folder → what makes its Markdown."""


def main() -> None:
    """Write the pages below a folder."""
    arguments = argparse.ArgumentParser(description="Write the generated pages into a folder.")
    arguments.add_argument("folder", type=Path)
    folder = arguments.parse_args().folder
    for name, text in pages().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
