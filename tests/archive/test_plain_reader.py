"""docs/FORMAT.md is enough to read an archive, and archives of today can be read for ever."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import plain_reader
import pytest
from PIL import Image

from ardmzip import Archive
from ardmzip.archive import format as layout
from ardmzip.archive import packing
from ardmzip.archive.writer import Writer

GOLDEN = Path(__file__).parent.parent / "golden"


def same(path: Path) -> int:
    archive = Archive(path)
    found = plain_reader.read(path.read_bytes())
    assert list(found) == archive.names()
    for entry in archive.entries():
        assert found[entry.name] == (archive.file(entry.name), entry.label, entry.metadata)
    return len(found)


def test_an_archive_read_by_the_page_alone(archive_file, items, options):
    assert same(archive_file) == 42
    with Writer.append(archive_file) as writer:
        packing.pack((item for item in items(50) if item.name > "b/041.png"), writer, options)
    assert same(archive_file) == 50


@pytest.mark.parametrize("images", [1, 7, 1024])
def test_blocks_of_any_size(tmp_path, monkeypatch, options, items, images):
    monkeypatch.setattr(layout, "BLOCK_IMAGES", images)
    with Writer.create(tmp_path / "x.ardmz") as writer:
        packing.pack(items(20), writer, options)
    assert same(tmp_path / "x.ardmz") == 20
    assert len(Archive(tmp_path / "x.ardmz").blocks) == -(-20 // images)


def test_the_golden_archive():
    path = GOLDEN / "archive.ardmz"
    assert same(path) == len(Archive(path)) == 10
    for entry, image in zip(Archive(path).entries(), Archive(path), strict=True):
        with Image.open(GOLDEN / f"{Path(entry.name).stem.removeprefix('copy-')}.png") as want:
            assert image.mode == want.mode
            assert np.array_equal(np.asarray(image), np.asarray(want))
    assert [entry.copy_of for entry in Archive(path).entries()][-1] == "gray.png"
    assert Archive(path).entry(0).label == "golden"
    assert Archive(path).entry(1).metadata == {"number": 1}
