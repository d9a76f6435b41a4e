"""Archives of tiny images, which a general coder stores at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_images import made

from ardmzip.archive import format as layout
from ardmzip.archive import packing
from ardmzip.archive.writer import Writer
from ardmzip.batches import Options
from ardmzip.sources import Item


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch) -> None:
    """Blocks of 8 images, so that small archives have several."""
    monkeypatch.setattr(layout, "BLOCK_IMAGES", 8)


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
