"""The one reader of YAML: every verb reads its files and overrides with it, and every
file is written for it.

It reads YAML 1.2, whose numbers and words are what people mean by them:

    1e-3, 1.0e-3, .001, 1_000, 0x1F      numbers; 1e3 is a whole one
    true, false, null, ~                 themselves
    yes, no, on, off, none, 1:30         texts
    010, 1e400, 1e-400                   refused: other readers take them for 8, infinity and 0

A key of a mapping is always a text, and appears in it once. Tags (`!!int`) are refused.
Interpolations (`${training.batch}`) are OmegaConf's. This module imports neither torch nor
OmegaConf, so that `arinar status` answers in a moment.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError, did_you_mean

_BYTES = 1_000_000  # of a file
_NODES = 10_000  # values of a text, once its aliases are expanded
_DEPTH = 50  # levels of nesting
_LARGEST = 2**63  # whole number that is refused
_LONGEST = 40  # letters of a whole number
_SHOWN = 60  # letters of a text that a message repeats

_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
_WHOLE = r"(?:[0-9]{1,3}(?:_[0-9]{3})+|[0-9]+)"
_INT = re.compile(rf"[-+]?(?:{_WHOLE}|0x[0-9a-fA-F]+|0o[0-7]+)")
_FLOAT = re.compile(rf"[-+]?(?:\.[0-9]+|{_WHOLE}(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_WHOLE_POWER = re.compile(rf"[-+]?{_WHOLE}[eE]\+?[0-9]+")  # a whole number, as 1e3 is
_PADDED = re.compile(r"[-+]?0[0-9_]")

_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # neither knows a number from a text


class _Fault(ValueError):
    """What is wrong with a text, and in which of its lines (from 1 on; 0 where
    no line is to blame).
    """

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__(reason)
        self.line = line


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as plain data, with its interpolations resolved.

    Raises:
        ConfigError: if the file is missing or is no YAML mapping.
    """
    if not path.is_file():
        beside = (
            [str(p) for p in sorted(path.parent.glob("*.yaml"))] if path.parent.is_dir() else []
        )
        what = "a folder, and no YAML file" if path.is_dir() else "no such file"
        raise ConfigError(f"{path}: {what}{did_you_mean(path, beside)}")

    try:
        content = _interpolated(_document(_text(path)))
        if not isinstance(content, dict | None):
            raise _Fault("its top level is no mapping of keys to values")
    except _Fault as fault:
        line = f"line {fault.line}: " if fault.line else ""
        raise ConfigError(f"{path}: not readable as YAML: {line}{fault}") from None

    return content or {}


def read_value(text: str) -> Any:
    """The value of an override, or of another short text, as plain data.

    Raises:
        ConfigError: if it is no YAML, or more than one value.
    """
    source = f"value: {text}"
    try:
        node = _composed(source)
        if node is None:
            raise _Fault("it is empty")
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        behind = source[pairs[0][1].end_mark.index :].strip() if len(pairs) == 1 else text
        if behind:
            raise _Fault(f"{_short(behind)} would not be read; put the whole value in quotes")
        return _interpolated(_Builder().value(node))["value"]
    except _Fault as fault:
        raise ConfigError(f"not readable as YAML: {fault}") from None


def is_yaml_for(text: str, value: Any) -> bool:
    """Whether a text is the value, or YAML for it: "1e-3" means 0.001."""
    try:
        return text == value or bool(read_value(text) == value)
    except ConfigError:
        return False


def to_flow_yaml(value: Any) -> str:
    """A value as YAML in one line."""
    text: str = yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=True,
        sort_keys=False,
        allow_unicode=True,
        width=math.inf,
    )
    return text.removesuffix("\n...\n").strip()


def to_yaml(content: dict[str, Any]) -> str:
    """Plain data as a YAML file, which reads back the same here and, but for very
    odd texts, elsewhere.
    """
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False)
    return text


class _Dumper(yaml.SafeDumper):
    """Puts a text in quotes where either version of YAML would take it for something else."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(rf"{_FLOAT.pattern}$"), list("-+.0123456789")
)
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(rf"{_INT.pattern}$"), list("-+0123456789")
)


def _text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > _BYTES:
            raise _Fault(f"it has {size:,} bytes, and a configuration no more than {_BYTES:,}")
        content = path.read_bytes()
    except OSError as error:
        raise _Fault(error.strerror or str(error)) from None

    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise _Fault("it is not UTF-8; save it as UTF-8", line) from None


def _document(text: str) -> Any:
    node = _composed(text)
    return None if node is None else _Builder().value(node)


def _composed(text: str) -> yaml.Node | None:
    """The nodes of a text, none of them tagged or nested too deeply."""
    try:
        _check_events(text)
        node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = " ".join(part for part in (error.context, error.problem) if part)
        if mark and text[mark.index : mark.index + 1] == "\t":
            reason = "a tab indents it; indent with spaces"
        raise _Fault(reason, mark.line + 1 if mark else 0) from None
    except (yaml.YAMLError, UnicodeError) as error:  # control characters
        raise _Fault(
            " ".join(str(error).replace('in "<unicode string>",', "at").split())[:200]
        ) from None

    return node


def _line(marked: yaml.Node | yaml.Event) -> int:
    """The line in which a node or an event begins, from 1 on."""
    return int(marked.start_mark.line) + 1 if marked.start_mark else 0


def _check_events(text: str) -> None:
    """Refuse what must not be composed, before it is: the composer calls itself for each level."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = _line(event)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1

        if depth > _DEPTH:
            raise _Fault(f"it is nested more than {_DEPTH} levels deep", line)
        if tag := getattr(event, "tag", None):
            tag = tag.replace("tag:yaml.org,2002:", "!!")
            raise _Fault(
                f"the tag {_short(tag)} is not read; write the value alone, a text in quotes", line
            )


class _Builder:
    """Builds plain data of nodes; an alias is built each time that it is used."""

    def __init__(self) -> None:
        self.nodes = 0
        self.depth = 0

    def value(self, node: yaml.Node) -> Any:
        """A node, and all below it.

        Raises:
            _Fault: if that is too much or too deep (an alias may hold itself),
                or a value is refused.
        """
        line = _line(node)
        self.nodes += 1
        self.depth += 1
        if self.nodes > _NODES:
            raise _Fault(
                f"it holds more than {_NODES:,} values, counting what each alias repeats", line
            )
        if self.depth > _DEPTH:
            raise _Fault(
                f"it is nested more than {_DEPTH} levels deep, or an alias stands within "
                "what it names",
                line,
            )

        if isinstance(node, yaml.MappingNode):
            built: Any = self._mapping(node)
        elif isinstance(node, yaml.SequenceNode):
            built = [self.value(item) for item in node.value]
        else:
            built = node.value if getattr(node, "style", None) else _scalar(node.value, line)

        self.depth -= 1
        return built

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, value in node.value:
            line = _line(key)
            if not isinstance(key, yaml.ScalarNode) or len(key.value.splitlines()) != 1:
                raise _Fault("a key is no text of one line", line)
            if key.value == "<<" and not key.style:
                merged = {**self._merged(value, line), **merged}
            elif key.value in own:
                raise _Fault(f"the key {_short(key.value)} appears twice", line)
            else:
                own[key.value] = self.value(value)

        return {**merged, **own}

    def _merged(self, node: yaml.Node, line: int) -> dict[str, Any]:
        """What `<<` takes over: a mapping, or a list of them, the first of which wins."""
        built = self.value(node)
        several = built if isinstance(built, list) else [built]
        merged: dict[str, Any] = {}
        for one in several:
            if not isinstance(one, dict):
                raise _Fault(f"<<: {_short(str(one))} is no mapping", line)
            merged = {**one, **merged}
        return merged


def _scalar(text: str, line: int) -> Any:
    """What a text without quotes stands for."""
    if text in _WORDS:
        return _WORDS[text]
    if not (_INT.fullmatch(text) or _FLOAT.fullmatch(text)):
        return text

    if _PADDED.match(text):
        plain = re.sub(r"^([-+]?)[0_]+(?=[0-9])", r"\1", text)
        raise _Fault(
            f"{_short(text)} begins with 0; write {_short(plain)}, or '{_short(text)}' for a text",
            line,
        )

    digits = text.replace("_", "")
    if _WHOLE_POWER.fullmatch(text) and abs(float(digits)) < _LARGEST:
        value: float = int(float(digits))
    elif not _INT.fullmatch(text):
        value = float(digits)
    else:
        value = int(digits, 0) if len(digits) < _LONGEST else _LARGEST

    if abs(value) >= _LARGEST and (isinstance(value, int) or math.isinf(value)):
        raise _Fault(
            f"{_short(text)} is too large for a number; put it in quotes if it is a text", line
        )
    if value == 0 and re.search(r"[1-9]", re.split("[eE]", text)[0]):
        raise _Fault(f"{_short(text)} is too small for a number; write 0", line)

    return value


def _short(text: str) -> str:
    """A text for a message: one line, and not all of a long one."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


def _interpolated(content: Any) -> Any:
    """Plain data with `${…}` replaced."""
    if not _interpolates(content):
        return content
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(OmegaConf.create(content), resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        raise _Fault(" ".join(str(error).split())[:200]) from None


def _interpolates(content: Any) -> bool:
    if isinstance(content, dict):
        return any(map(_interpolates, content.values()))
    if isinstance(content, list):
        return any(map(_interpolates, content))
    return isinstance(content, str) and "${" in content
