"""Small images and archives, and what a source gives of them."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ardmzip.sources import Source


@pytest.fixture(scope="session")
def pixels() -> Callable:
    def make(seed: int, height: int = 6, width: int = 5, channels: int = 3) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)

    return make


@pytest.fixture(scope="session")
def png(pixels) -> Callable:
    """The bytes of a PNG file."""

    def make(seed: int, kind: str = "PNG") -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels(seed)).save(file, kind)
        return file.getvalue()

    return make


@pytest.fixture(scope="session")
def write_tar() -> Callable:
    def write(path: Path, members: Mapping[str, bytes], mode: str = "w") -> Path:
        with tarfile.open(path, mode) as tar:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return path

    return write


@pytest.fixture(scope="session")
def content() -> Callable:
    """What a source gives, checked for what holds for every source: names, length, items that can be pickled."""

    def read(source: Source) -> dict[str, tuple[str | int | None, dict | None, np.ndarray]]:
        items = list(source)
        names = [item.name for item in items]
        assert len(set(names)) == len(names)
        assert [item.name for item in source] == names, "a second iteration gives something else"
        assert source.length() in (None, len(items))
        found = {}
        for item in items:
            picture = item.image()
            again = pickle.loads(pickle.dumps(item))
            assert (again.name, again.label, again.metadata) == (item.name, item.label, item.metadata)
            assert np.array_equal(again.image().samples, picture.samples)
            found[item.name] = (item.label, item.metadata, picture.array())
        return found

    return read
