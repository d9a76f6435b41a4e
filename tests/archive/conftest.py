"""Archives of tiny images, which a general coder stores at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ardmzip import formats
from ardmzip.archive import format as layout
from ardmzip.archive import packing
from ardmzip.archive.writer import Writer
from ardmzip.batches import Options
from ardmzip.sources import Item


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch) -> None:
    """Blocks of 8 images, so that small archives have several."""
    monkeypatch.setattr(layout, "BLOCK_IMAGES", 8)


def picture(i: int) -> formats.Picture:
    return formats.from_array(np.random.default_rng(i).integers(0, 256, (4, 3, 3), dtype=np.uint8))


def made(count: int, **changed: Callable) -> Iterator[Item]:
    """Items, of which one in five is the same as another; ``changed``: other ways to read images, by name."""
    for i in range(count):
        name = f"{'a' if i < 20 else 'b'}/{i:03}.png"
        label, metadata = ("ab"[i % 2], {"number": i}) if i % 3 else (None, None)
        yield Item(name, label, metadata, changed.get(name, lambda i=i: picture(i - 3 if i % 5 == 4 else i)))


@pytest.fixture
def items() -> Callable[..., Iterator[Item]]:
    return made


@pytest.fixture
def options() -> Options:
    return Options()


@pytest.fixture
def archive_file(tmp_path, options) -> Path:
    """42 images in six blocks."""
    path = tmp_path / "made.ardmz"
    with Writer.create(path, packing.settings(options)) as writer:
        packing.pack(made(42), writer, options, batch=5)
    return path
