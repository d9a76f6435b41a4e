"""Packing: batches, copies, failures."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_images import made, picture

from ardmzip import Archive, formats
from ardmzip.archive import packing
from ardmzip.archive.writer import Writer
from ardmzip.batches import Options
from ardmzip.errors import ArdmError, ImageError
from ardmzip.sources import Item


def packed(path, items, options, **how) -> bytes:
    with Writer.create(path, packing.settings(options), overwrite=True) as writer:
        packing.pack(items, writer, options, **how)
    return path.read_bytes()


def test_the_archive_does_not_depend_on_batches(tmp_path, options):
    path = tmp_path / "x.ardmz"
    whole = packed(path, made(30), options)
    assert all(packed(path, made(30), options, batch=batch) == whole for batch in (1, 2, 7, 30))

    def elsewhere(works):
        return iter([packing.code(work, options) for work in works])  # all of them are read before the first is there

    assert packed(path, made(30), options, batch=4, coder=elsewhere) == whole


def test_identical_images_are_stored_once(tmp_path, options):
    packed(tmp_path / "x.ardmz", made(30), options)
    archive = Archive(tmp_path / "x.ardmz")
    names = archive.names()
    for i, entry in enumerate(archive.entries()):
        assert entry.copy_of == (names[i - 3] if i % 5 == 4 else None)
    # the same samples that mean something else are another image
    samples = picture(0).samples[:, :, :1]
    described = [formats.described("gray", 8), formats.described("palette", 8, bytes(range(9)))]
    items = [Item(d.layout, None, None, lambda d=d: formats.Picture(samples, d)) for d in described]
    packed(tmp_path / "y.ardmz", items, options)
    assert [entry.copy_of for entry in Archive(tmp_path / "y.ardmz").entries()] == [None, None]


def fail() -> formats.Picture:
    raise ImageError("bad")


def test_a_failure_ends_it_or_is_passed_over(tmp_path, options):
    told: list[tuple[str, bool]] = []

    def report(name, error):
        told.append((name, error is None))

    with pytest.raises(ArdmError, match=r"a/013\.png: bad"):
        packed(tmp_path / "x.ardmz", made(20, **{"a/013.png": fail}), options)
    packed(tmp_path / "x.ardmz", made(20, **{"a/013.png": fail}), options, go_on=True, report=report)
    assert sorted(told) == sorted((item.name, item.name != "a/013.png") for item in made(20))
    assert "a/013.png" not in Archive(tmp_path / "x.ardmz")
    assert len(Archive(tmp_path / "x.ardmz")) == 19


def test_one_that_cannot_be_coded_does_not_touch_the_others(tmp_path, options):
    huge = formats.Picture(np.zeros((1, 1001, 1), np.uint8), formats.described("gray", 8))
    items = [*made(3), Item("huge", None, None, lambda: huge), Item("huge too", None, None, lambda: huge)]
    told: dict[str, object] = {}

    def limited(works):
        return ([_too_large(p) or packing.code([p], options)[0] for p in work] for work in works)

    packed(tmp_path / "x.ardmz", items, options, go_on=True, report=told.__setitem__, coder=limited)
    assert "over the limit" in str(told["huge"])
    assert "could not be packed" in str(told["huge too"])
    assert len(Archive(tmp_path / "x.ardmz")) == 3


def _too_large(picture: formats.Picture) -> ArdmError | None:
    return ImageError("over the limit") if picture.width > 1000 else None


def test_going_on_after_failures(tmp_path, options):
    whole = packed(tmp_path / "x.ardmz", made(30, **{"a/003.png": fail}), options, go_on=True)
    path = tmp_path / "y.ardmz"

    def stop() -> formats.Picture:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packed(path, made(30, **{"a/003.png": fail, "b/020.png": stop}), options, go_on=True, batch=3)
    writer = Writer.create(path, packing.settings(options), resume=True)
    assert len(writer.resumed) == 16
    told: dict[str, object] = {}
    with writer:
        packing.pack(made(30), writer, options, go_on=True, report=told.__setitem__)
    assert "before the interruption" in str(told["a/003.png"])
    assert path.read_bytes() == whole


def test_the_same_name_twice(tmp_path, options):
    items = [*made(3), *made(2)]
    with pytest.raises(ArdmError, match="name already"):
        packed(tmp_path / "x.ardmz", items, options)
    packed(tmp_path / "x.ardmz", items, options, go_on=True)
    assert len(Archive(tmp_path / "x.ardmz")) == 3


def test_strip(tmp_path):
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "t")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    from ardmzip.sources import open_source

    for strip in (False, True):
        packed(tmp_path / "x.ardmz", open_source(str(tmp_path / "a.png")), Options(strip=strip))
        assert Archive(tmp_path / "x.ardmz")[0].info == ({} if strip else {"Title": "t"})
