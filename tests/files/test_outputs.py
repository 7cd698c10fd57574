"""Where files are written: what is not ours stays, what cannot be written is refused at once, and
readers see whole files.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from command import arinar

from arinar_lab.errors import ConfigError, DiskFull
from arinar_lab.files.atomic import atomic_draft, check_output, disk_full_guard, write_atomically


@pytest.mark.parametrize("name", ["x.png", "x.npz", "字" * 85, "a" * 255, "noise"])
def test_a_file_is_written_whole_or_not_at_all(alone, name):
    path = Path(name)
    write_atomically(path, "before")
    with pytest.raises(RuntimeError), atomic_draft(path) as draft:
        assert draft.name.endswith(path.suffix) and draft != path
        draft.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before" and list(Path().iterdir()) == [path]


def test_text_is_utf_8_and_keeps_names_that_are_not(alone):
    write_atomically(Path("a"), "σ " + os.fsdecode(b"\xff"))
    assert Path("a").read_bytes() == "σ ".encode() + b"\xff"


def test_a_full_place_is_named(monkeypatch, alone):
    shared = Path("/dev/shm")
    monkeypatch.setattr(
        "arinar_lab.files.atomic.free_megabytes", lambda place: 0.0 if place == shared else 1e6
    )
    with (
        pytest.raises(DiskFull, match=r"^/dev/shm: shared memory is full"),
        disk_full_guard(Path("runs")),
    ):
        raise OSError(28, "No space left on device")

    with (
        pytest.raises(DiskFull, match=r"^elsewhere: the disk is full"),
        disk_full_guard(Path("runs")),
    ):
        raise OSError(28, "No space left on device", "elsewhere")


@pytest.mark.parametrize("name", ["a" * 300, "字" * 80, "loop", "loop/x", "/proc/1/x", "file/x"])
def test_a_place_that_cannot_be_written_is_refused(alone, name):
    Path("loop").symlink_to("loop")
    Path("file").touch()
    before = sorted(Path().iterdir())
    with pytest.raises((ConfigError, OSError)):
        check_output(Path(name))
    assert sorted(Path().iterdir()) == before


def test_parts_that_are_not_ours_are_refused_and_those_that_are_go(a_run, capsys):
    foreign = Path("x.parts/thesis.txt")
    foreign.parent.mkdir()
    foreign.write_text("mine")
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert arinar("sample", a_run.path, "--count", 4, "--out", "x.npz") == 2
    stderr = capsys.readouterr().err

    assert "x.parts: holds 'thesis.txt'" in stderr and stderr.count("\n") == 1
    assert sorted(Path().rglob("*")) == before and foreign.read_text() == "mine"
    assert arinar("sample", a_run.path, "--count", 4, "--out", "y.npz") == 0
    assert not Path("y.parts").exists() and len(np.load("y.npz")["arr_0"]) == 4


def test_what_comes_into_the_folder_of_parts_later_stays(alone):
    from arinar_lab.files.shards import assemble, block_name

    Path("x.parts").mkdir()
    Path("x.parts", block_name(range(4))).touch()
    assemble(
        Path("x.npz"), lambda draft: (draft.touch(), Path("x.parts/late").touch()), Path("x.parts")
    )
    assert Path("x.npz").is_file() and [file.name for file in Path("x.parts").iterdir()] == ["late"]


def test_a_folder_may_have_a_point_in_its_name(a_run):
    Path("samples_v.new").mkdir()
    for folder in ("samples_v.new", "samples_cfg1.5"):
        assert arinar("sample", a_run.path, "--count", 2, "--out", folder) == 0
        assert len(list(Path(folder).glob("*.png"))) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "a" * 300 + ".png"], "is too long: 304 bytes"),
        (["--out", "/proc/1/x.png"], "--out: nothing can be written into '/proc/1'"),
        (["--out", "loop.png"], "is a link that leads nowhere"),
        (["--out", "runs.png"], "is a folder, and has the name of a file"),
        (["--out", "a\0b.png"], "a word holds a NUL"),
        (["--count", "1000000"], "do not fit into a picture"),
        (["--count", "1" * 30], "is not a whole number of 1 … 10^9"),
        (["--count", "9" * 5000], "is not a whole number of 1 … 10^9"),
        (["--seed", str(2**32 - 1)], "beyond 2^32 - 1"),
    ],
)
def test_a_word_of_sample_is_refused_in_one_line(a_run, capsys, words, message):
    Path("loop.png").symlink_to("loop.png")
    Path("runs.png").mkdir()
    before = sorted(Path().rglob("*"))
    assert arinar("sample", a_run.path, *words) == 2
    stderr = capsys.readouterr().err
    assert message in stderr and stderr.count("\n") == 1 and len(stderr) < 400
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    "verb", ["train", "ablate", "status", "cache", "check", "work", "report", "slurm", "sweep"]
)
@pytest.mark.parametrize("file", ["loop.yaml", "", "a" * 300, "file/x.yaml"])
def test_a_path_that_is_none_is_one_line(alone, capsys, verb, file):
    Path("loop.yaml").symlink_to("loop.yaml")
    Path("file").touch()
    before = sorted(Path().rglob("*"))
    assert arinar(verb, file) == 2
    assert capsys.readouterr().err.count("\n") == 1 and sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("verb", ["mlflow", "dashboard"])
@pytest.mark.parametrize("port", ["0", "70000", "9" * 5000, "１"])
def test_a_port_that_is_none_is_one_line(alone, capsys, verb, port):
    assert arinar(verb, "--port", port) == 2
    stderr = capsys.readouterr().err
    assert (
        "is not a whole number of 1 … 65535" in stderr
        and stderr.count("\n") == 1
        and not list(Path().iterdir())
    )
