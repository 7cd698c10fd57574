"""The reader of YAML: numbers and words are what people mean by them, and what would surprise is
refused in one line.
"""

import time
from pathlib import Path

import pytest

from arinar_lab.config.files import read_overrides
from arinar_lab.config.yaml_reader import is_yaml_for, read_value, read_yaml, to_flow_yaml, to_yaml
from arinar_lab.errors import ConfigError

pytestmark = pytest.mark.usefixtures("alone")

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def written(content):
    path = Path("file.yaml")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(call, *words):
    begun = time.process_time()
    with pytest.raises(ConfigError) as error:
        call()
    line = str(error.value)
    assert "\n" not in line and len(line) < 400 and time.process_time() - begun < 2
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100_000),
        ("1e3", 1000),
        ("1.5e3", 1500.0),
        ("1e300", 1e300),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0", 0),
        ("+3", 3),
        ("9223372036854775807", 2**63 - 1),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("OFF", "OFF"),
        ("y", "y"),
        ("none", "none"),
        ("None", "None"),
        ("1:30", "1:30"),
        ("2024_11_30", "2024_11_30"),
        ("2026-11-30", "2026-11-30"),
        ("0b1", "0b1"),
        ("'010'", "010"),
        ("１", "１"),
        ("[on, 1e-3]", ["on", 0.001]),
        ("{on: off, 1: 2}", {"on": "off", "1": 2}),
        ("'a # b'", "a # b"),
    ],
)
def test_a_value_is_what_people_mean(text, value):
    read = read_value(text)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("010", ["010 begins with 0", "write 10, or '010' for a text"]),
        ("-08", ["write -8"]),
        ("00.5", ["write 0.5"]),
        ("1e400", ["1e400 is too large"]),
        ("-1e400", ["-1e400 is too large"]),
        ("1e-400", ["1e-400 is too small"]),
        ("1" * 5000, ["… is too large"]),
        ("0x" + "f" * 5000, ["… is too large"]),
        (str(2**63), ["is too large"]),
        ("!!int 5", ["the tag !!int is not read"]),
        (
            "!!python/object/apply:os.system [ls]",
            ["the tag !!python/object/apply:os.system is not read"],
        ),
        ("[" * 3000, ["more than 50 levels"]),
        ("&a [*a]", ["an alias stands within what it names"]),
        ("{a: 1, a: 2}", ["the key a appears twice"]),
        ("{'a': 1, a: 2}", ["the key a appears twice"]),
        ("{1: 1, '1': 2}", ["the key 1 appears twice"]),
        ("{[a]: 1}", ["a key is no text"]),
        ("5 # steps", ["# steps would not be read"]),
        ("1\nb: 2", ["would not be read"]),
        ("a\0", ["control characters are not allowed"]),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_a_surprise_is_refused(text, words):
    refused(lambda: read_value(text), *words)
    refused(lambda: read_overrides([f"seed={text}"]), "seed=")


@pytest.mark.parametrize("key", [".".join(["a"] * 3000), ".".join(["axes", *["a"] * 3000])])
def test_a_key_of_many_levels_is_refused(key):
    refused(lambda: read_overrides([f"{key}=1"]), "more than 50 levels")


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfsearch: {a: [1]}\nseed: 5\n",
        b"search: {a: [1]}\r\nseed: 5\r\n",
        b"\"search\": {a: [1]}\n'seed': 5\n",
        b'{\n\t"search": {"a": [1]},\n\t"seed": 5}',
        b"search: &s {a: [1]}\nseed: ${search.a.0}5\n".replace(b"${search.a.0}", b""),
    ],
    ids=["a byte-order mark", "CRLF", "quotes around keys", "JSON with tabs", "an anchor"],
)
def test_any_spelling_of_a_file_is_the_same(content):
    assert read_yaml(written(content)) == {"search": {"a": [1]}, "seed": 5}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("question: Was heißt gut?\n".encode("latin-1"), ["line 1: it is not UTF-8"]),
        ("question: a\n".encode("utf-16"), ["line 1: it is not UTF-8"]),
        (bytes(range(256)), ["not readable as YAML"]),
        ("a: 1\nb:\n\tc: 1", ["line 3: a tab indents it; indent with spaces"]),
        ("a: 1\n\nb: 2\na: 3", ["line 4: the key a appears twice"]),
        ("a: " + "[" * 3000 + "]" * 3000, ["line 1: it is nested more than 50 levels deep"]),
        (
            "".join(" " * i + "a:\n" for i in range(300)),
            ["line 51: it is nested more than 50 levels deep"],
        ),
        (BOMB, ["it holds more than 10,000 values"]),
        ("# " + "x" * 10**6, ["a configuration no more than 1,000,000"]),
        ("a: 1\n---\nb: 2", ["another document"]),
        ('"a\\nb": 1', ["a key is no text of one line"]),
        ("- 1", ["its top level is no mapping"]),
        ("a: ${b}", ["Interpolation key 'b' not found"]),
        ("a: ${a}", ["not readable as YAML"]),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_file_that_cannot_be_read_is_told_in_one_line(content, words):
    path = written(content)
    refused(lambda: read_yaml(path), "file.yaml: not readable as YAML: ", *words)


def test_interpolations_anchors_and_merge_keys_work(monkeypatch):
    monkeypatch.setenv("STEPS", "5")
    path = written(
        "a: &a {x: 1e-3, y: [1]}\nb: {<<: *a, y: 2}\nc: ${a.x}\nd: ${a.y}\ne: "
        "s${oc.env:STEPS}\nf: [*a, '<<']"
    )
    a = {"x": 0.001, "y": [1]}
    expected = {"a": a, "b": {"x": 0.001, "y": 2}, "c": 0.001, "d": [1], "e": "s5", "f": [a, "<<"]}
    assert read_yaml(path) == expected


@pytest.mark.parametrize(
    "value",
    [
        "1e-3",
        "010",
        "08",
        "yes",
        "0o17",
        "1_000",
        "1:30",
        "on",
        "a: b",
        "causal, sine",
        "é",
        "=",
        "<<",
        "",
        "None",
        "a # b",
        1e-5,
        1e300,
        -0.5,
        3,
        None,
        True,
        [1, "2", None],
        {"kind": "gmm", "x": "1e5", "1": [0.1]},
    ],
)
def test_what_is_written_reads_back_the_same(value):
    assert read_value(to_flow_yaml(value)) == value
    assert read_yaml(written(to_yaml({"key": value}))) == {"key": value}


@pytest.mark.parametrize(
    ("text", "value", "same"),
    [
        ("1e-3", 0.001, True),
        ("1", 1, True),
        ("on", "on", True),
        ("1", "1", True),
        ("1", 2, False),
        ("010", 10, False),
    ],
)
def test_a_text_means_a_value(text, value, same):
    assert is_yaml_for(text, value) is same
