"""Files of arrays: what is no npz of plain arrays is refused in one line that names it,
wherever an npz is read.
"""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from extractor import TINY

from arinar_lab.errors import ConfigError
from arinar_lab.files.arrays import map_array, read_npz
from arinar_lab.quality.distances import Reference, extractor_of_reference
from arinar_lab.quality.image_sets import open_image_set


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def archive(**members):
    """An npz of raw members."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, raw in members.items():
            file.writestr(name, raw)
    return content.getvalue()


def npy(shape, body=b""):
    """An npy whose header says `shape`, whatever is in it."""
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        content, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return content.getvalue() + body


def npz(**arrays):
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def single(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def altered(raw, offset, value):
    """An archive with 16 bits changed in the headers of its first member, at the start
    and in the directory.
    """
    changed = bytearray(raw)
    for signature, shift in ((b"PK\3\4", 0), (b"PK\1\2", 2)):
        struct.pack_into("<H", changed, changed.index(signature) + offset + shift, value)
    return bytes(changed)


def spoiled(raw):
    """An archive with zeros in place of compressed numbers."""
    start = raw.index(b".npy") + 40
    return raw[:start] + bytes(20) + raw[start + 20 :]


def good(name):
    return npz(**{name: np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)})


BAD = {
    "empty": lambda name: b"",
    "text": lambda name: b"no archive",
    "cut": lambda name: good(name)[:1000],
    "spoiled": lambda name: spoiled(good(name)),
    "encrypted": lambda name: altered(good(name), 6, 1),
    "unknown_compression": lambda name: altered(good(name), 8, 99),
    "too_large": lambda name: archive(**{f"{name}.npy": npy((2**60, 8, 8, 3))}),
    "too_short": lambda name: archive(**{f"{name}.npy": npy((9, 8, 8, 3))}),
    "objects": lambda name: npz(**{name: np.array([None])}),
    "no_array": lambda name: archive(**{name: b"text"}),
    "one_array": lambda name: single(np.zeros((2, 8, 8, 3), np.uint8)),
}
READERS = {
    "arr_0": open_image_set,
    "mu": lambda path: Reference.read(path, TINY),
    "extractor": extractor_of_reference,
    "anything": read_npz,
}


@pytest.mark.parametrize("array", READERS)
@pytest.mark.parametrize("fault", BAD)
def test_a_file_that_is_no_npz_of_arrays_is_refused_in_one_line(fault, array):
    path = Path(f"{fault}.npz")
    path.write_bytes(BAD[fault](array))
    with pytest.raises(ConfigError, match=rf"{fault}\.npz is no npz of arrays") as caught:
        READERS[array](path)
    assert "\n" not in str(caught.value)


def test_a_folder_named_like_a_file_is_refused():
    Path("folder.npz").mkdir()
    for read in (read_npz, extractor_of_reference, open_image_set):
        with pytest.raises(ConfigError, match=r"folder\.npz(: holds no| is no file)"):
            read(Path("folder.npz"))


def test_arrays_are_read_by_name_and_an_npz_of_other_arrays_is_named():
    Path("good.npz").write_bytes(npz(arr_0=np.zeros(2), mu=np.zeros(3)))
    assert read_npz(Path("good.npz")).keys() == {"arr_0", "mu"}
    assert read_npz(Path("good.npz"), ("mu", "sigma")).keys() == {"mu"}
    np.savez("other.npz", images=np.zeros(3))
    with pytest.raises(ConfigError, match=r"^other\.npz: has no arr_0"):
        open_image_set(Path("other.npz"))


@pytest.mark.parametrize("dtype", [">f4", np.float64, np.longdouble, np.uint16])
def test_features_of_a_reference_may_have_any_type_of_real_numbers(dtype):
    features = np.arange(40).reshape(20, 2)
    np.savez("reference.npz", mu=np.zeros(2), sigma=np.eye(2), features=features.astype(dtype))
    assert Reference.read(Path("reference.npz"), TINY).features.tolist() == features.tolist()


def test_features_that_are_not_finite_are_refused():
    np.savez("reference.npz", mu=np.zeros(2), sigma=np.eye(2), features=np.full((20, 2), np.nan))
    with pytest.raises(ConfigError, match="features that are not finite"):
        Reference.read(Path("reference.npz"), TINY)


def test_an_array_is_mapped_and_what_is_none_is_refused_in_one_line():
    np.save("array.npy", np.arange(5))
    assert map_array(Path("array.npy")).tolist() == [0, 1, 2, 3, 4]
    for content in (b"", b"text", npy((9,))):
        Path("bad.npy").write_bytes(content)
        with pytest.raises(ConfigError, match=r"^bad\.npy is no file of an array") as caught:
            map_array(Path("bad.npy"))
        assert "\n" not in str(caught.value)
