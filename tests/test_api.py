"""What the functions of the library take (ardmzip/api.py); what they make of it is tested elsewhere."""

import io
import mmap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ardmzip
from ardmzip import api
from ardmzip.errors import ArdmError, OptionError

ARRAY = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
RESTORE = (ardmzip.decompress, ardmzip.decompress_array, api.restore)


@pytest.fixture(scope="module")
def data() -> bytes:
    return ardmzip.compress(ARRAY)


class Named:
    """A path of another library."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


@pytest.mark.parametrize("kind", [str, Path, Named])
def test_files_are_taken_by_name(data, tmp_path, kind):
    (tmp_path / "a.ardm").write_bytes(data)
    Image.fromarray(ARRAY).save(tmp_path / "a.png")
    assert ardmzip.compress(kind(tmp_path / "a.png")) == data
    name = kind(tmp_path / "a.ardm")
    np.testing.assert_array_equal(np.asarray(ardmzip.decompress(name)), ARRAY)
    np.testing.assert_array_equal(ardmzip.decompress_array(name, level=1).shape, (3, 3, 3))
    for restore in RESTORE:
        with pytest.raises(FileNotFoundError):
            restore(kind(tmp_path / "missing.ardm"))


def test_bytes_in_any_form(data, tmp_path):
    (tmp_path / "a.ardm").write_bytes(data)
    with open(tmp_path / "a.ardm", "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    for form in (data, bytearray(data), memoryview(data), np.frombuffer(data, np.uint8), mapped):
        np.testing.assert_array_equal(ardmzip.decompress_array(form), ARRAY)


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        (None, {}, "the bytes of an .ardm file, its name or a binary file, not NoneType"),
        (io.StringIO("x"), {}, "not StringIO"),
        (7, {}, "not int"),
        (b"", {"level": "1"}, "level must be a whole number, not '1'"),
        (b"", {"level": 1.0}, "level must be a whole number"),
        (b"", {"level": None}, "level must be a whole number"),
        (b"", {"region": 5}, "a region is"),
        (b"", {"region": (1, 2, 3)}, "a region is"),
        (b"", {"region": (0, 0, 1, 1.5)}, "each number of a region must be a whole number, not 1.5"),
        (b"", {"region": "0123"}, "each number of a region"),
    ],
)
def test_arguments_of_another_kind(file, options, message):
    for restore in RESTORE:
        with pytest.raises(OptionError, match=message) as error:
            restore(file, **options)
        assert isinstance(error.value, ArdmError)
