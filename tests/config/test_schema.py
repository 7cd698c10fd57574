"""The schema: lists, mappings, alternatives and nested sections, each fault with its full key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from arinar_lab.config.schema import GATHERED, parse_dataclass
from arinar_lab.errors import ConfigError


@dataclass(frozen=True)
class Point:
    x: float
    colour: Literal["red", "green"] = "red"


@dataclass(frozen=True)
class Row:
    name: str
    numbers: dict[str, float] = field(metadata={GATHERED: ("bits/dim", "FID")})


@dataclass(frozen=True)
class Page:
    """A section with a field of every shape."""

    points: tuple[Point, ...] = ()
    pair: tuple[int, int] = (0, 1)
    words: list[str] = field(default_factory=list)
    table: dict[str, list[int]] = field(default_factory=dict)
    nearest: Point | None = None
    shown: bool | list[Row] = True
    anything: Any = None
    address: str = field(default="", repr=False)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            {"points": [{"x": 1}, {"x": 2.5, "colour": "green"}]},
            Page(points=(Point(1.0), Point(2.5, "green"))),
        ),
        ({"table": {"a.b": [1, 2], "c": []}}, Page(table={"a.b": [1, 2], "c": []})),
        ({"words": ["a"], "pair": [3, 4]}, Page(words=["a"], pair=(3, 4))),
        ({"nearest": None}, Page()),
        ({"nearest": {"x": 1}}, Page(nearest=Point(1.0))),
        ({"shown": False}, Page(shown=False)),
        ({"shown": [{"name": "GIVT", "FID": 2}]}, Page(shown=[Row("GIVT", {"FID": 2.0})])),
        ({"anything": [{"x": None}]}, Page(anything=[{"x": None}])),
    ],
    ids=str,
)
def test_plain_data_becomes_a_section(content, expected):
    assert parse_dataclass(Page, content, "", "a page") == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"points": 3}, "points: 3 is not a list"),
        ({"points": [3]}, "points.0: 3 is not a section; write keys below it"),
        ({"points": [{"x": 1}, {}]}, "points.1.x: missing; points.1 needs it"),
        (
            {"points": [{"x": 1, "color": "red"}]},
            "points.0.color: unknown key; points.0 takes colour, x; did you mean colour?",
        ),
        (
            {"points": [{"x": 1, "colour": "gren"}]},
            "points.0.colour: 'gren' is not one of red, green; did you mean green?",
        ),
        ({"points": [{"x": float("nan")}]}, "points.0.x: nan is not a finite number"),
        ({"pair": [1]}, "pair: [1] is not a list of 2"),
        ({"pair": [1, 2.5]}, "pair.1: 2.5 is not a whole number"),
        ({"words": ["a", None]}, "words.1: null is not a text"),
        ({"table": [1]}, "table: [1] is not a mapping; write keys below it"),
        ({"table": {"a.b": [1, True]}}, "table.a.b.1: true is not a whole number"),
        ({"nearest": 1}, "nearest: 1 is not a section; write keys below it"),
        ({"shown": "no"}, "shown: 'no' is neither true or false nor a list"),
        ({"shown": [{"FID": 2}]}, "shown.0.name: missing; shown.0 needs it"),
        ({"shown": [{"name": "GIVT", "FID": "low"}]}, "shown.0.FID: 'low' is not a number"),
        (
            {"shown": [{"name": "GIVT", "FD": 2}]},
            "shown.0.FD: unknown key; shown.0 takes FID, bits/dim, name; did",
        ),
        (
            {"address": {"postgresql://me:secret@host": 1}},
            "address: not a text, which is not shown here",
        ),
        (
            {"pages": 1},
            (
                "pages: unknown key; a page takes address, anything, nearest, pair, points, "
                "shown, table, words"
            ),
        ),
    ],
    ids=str,
)
def test_a_fault_is_one_line_with_its_key(content, message):
    with pytest.raises(ConfigError) as error:
        parse_dataclass(Page, content, "", "a page")
    assert str(error.value).startswith(message)
