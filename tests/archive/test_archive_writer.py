"""Writing archives: what is complete is kept, whatever ends the writing; and repairing them."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from tiny_images import made, picture

import ardmzip
from ardmzip import Archive
from ardmzip.archive import packing
from ardmzip.archive.writer import PARTIAL, Writer, repair
from ardmzip.errors import ArdmError, FormatError


def contents(source) -> dict[str, bytes]:
    archive = Archive(source)
    return {name: archive.array(name).tobytes() for name in archive.names()}


@pytest.fixture
def part(archive_file):
    """The partial file of an interrupted writer, before the index."""
    data = archive_file.read_bytes()
    archive_file.unlink()
    path = archive_file.with_name(archive_file.name + PARTIAL)
    end = Archive(io.BytesIO(data)).blocks[-1].end
    path.write_bytes(data[:end])
    return path, data


def test_nothing_stands_under_its_name_before_it_is_complete(tmp_path):
    path = tmp_path / "x.ardmz"
    file = ardmzip.compress(np.zeros((2, 2), np.uint8))
    with Writer.create(path) as writer:
        for i in range(20):
            writer.add(str(i), file)
            assert not path.exists()
    assert len(Archive(path)) == 20
    assert [p.name for p in tmp_path.iterdir()] == ["x.ardmz"]
    with pytest.raises(OSError, match="exists already"):
        Writer.create(path)


def test_an_error_leaves_complete_blocks_only(tmp_path):
    file = ardmzip.compress(np.zeros((2, 2), np.uint8))
    for count, left in ((5, False), (20, True)):
        path = tmp_path / f"{count}.ardmz"

        def fail(path=path, count=count):
            with Writer.create(path) as writer:
                for i in range(count):
                    writer.add(str(i), file)
                raise RuntimeError("stop")

        with pytest.raises(RuntimeError):
            fail()
        assert path.with_name(path.name + PARTIAL).exists() == left
        assert not path.exists()


def test_names_are_unique_and_not_empty(tmp_path):
    file = ardmzip.compress(np.zeros((2, 2), np.uint8))
    with Writer.create(tmp_path / "x.ardmz") as writer:
        writer.add("a", file)
        writer.add_copy("b", "a")
        writer.add_copy("c", "b")
        for name, what in (("a", "already"), ("", "name")):
            with pytest.raises(ArdmError, match=what):
                writer.add(name, file)
        with pytest.raises(ArdmError, match="no image z"):
            writer.add_copy("d", "z")
    archive = Archive(tmp_path / "x.ardmz")
    assert [entry.copy_of for entry in archive.entries()] == [None, "a", "a"]


def test_it_goes_on_from_any_cut_and_makes_the_same_file(part, options):
    path, data = part
    target = path.with_suffix("")
    cut_off = path.read_bytes()
    rng = random.Random(1)
    for cut in [0, 3, 60, len(cut_off), *(rng.randrange(len(cut_off)) for _ in range(12))]:
        path.write_bytes(cut_off[:cut])
        with Writer.create(target, packing.settings(options), resume=True) as writer:
            packing.pack(made(42), writer, options)
        assert target.read_bytes() == data
        target.unlink()
    # also when the bytes at the end are damaged
    path.write_bytes(cut_off[:-5] + b"wrong")
    with Writer.create(target, packing.settings(options), resume=True) as writer:
        packing.pack(made(42), writer, options)
    assert target.read_bytes() == data


def test_what_others_made_is_not_taken_up(part, options):
    path, _ = part
    target = path.with_suffix("")
    with pytest.raises(ArdmError, match="other options"):
        Writer.create(target, {"model": "other"}, resume=True)
    # nor gone on with unless asked for
    with Writer.create(target, packing.settings(options)) as writer:
        assert writer.resumed == []
        packing.pack(made(3), writer, options)
    assert len(Archive(target)) == 3


def test_images_that_have_changed_are_noticed(part, options):
    path, _ = part
    target = path.with_suffix("")
    with (
        pytest.raises(ArdmError, match=r"a/005\.png has changed"),
        Writer.create(target, packing.settings(options), resume=True) as writer,
    ):
        packing.pack(made(42, **{"a/005.png": lambda: picture(500)}), writer, options)
    assert path.exists()


def test_two_writers_do_not_meet(tmp_path):
    pytest.importorskip("fcntl")
    with Writer.create(tmp_path / "x.ardmz") as writer:
        writer.add("a", ardmzip.compress(np.zeros((2, 2), np.uint8)))
        with pytest.raises(ArdmError, match="another process"):
            Writer.create(tmp_path / "x.ardmz", resume=True)


def more(count):
    from ardmzip.sources import Item

    for i in range(count):
        yield Item(f"more/{i}.png", None, None, lambda i=i: picture(20 + 2 * i))


def test_appending_and_its_interruptions(archive_file, options):
    before = archive_file.read_bytes()
    with Writer.append(archive_file) as writer:
        packing.pack(more(30), writer, options)
    whole = archive_file.read_bytes()
    assert whole.startswith(before)
    archive = Archive(archive_file)
    assert archive.names()[42:] == [f"more/{i}.png" for i in range(30)]
    assert {entry.copy_of for entry in archive.entries()} >= {"b/020.png"}  # images of before count as well
    everything = contents(archive_file)
    assert len(everything) == 72
    rng = random.Random(2)
    for cut in [len(before), len(before) + 1, *(rng.randrange(len(before), len(whole)) for _ in range(10))]:
        archive_file.write_bytes(whole[:cut])
        assert len(Archive(archive_file)) == 42  # readers see what was there
        with Writer.append(archive_file) as writer:
            packing.pack(more(30), writer, options)
        assert archive_file.read_bytes() == whole
    archive_file.write_bytes(whole[: archive.blocks[-1].offset])
    with pytest.raises(ArdmError, match="other images"), Writer.append(archive_file) as writer:
        packing.pack(made(2), writer, options)


def test_repair_finds_the_images_again(archive_file, tmp_path):
    data = archive_file.read_bytes()
    images = contents(archive_file)
    archive = Archive(archive_file)
    blocks = archive.blocks
    broken, mended = tmp_path / "broken.ardmz", tmp_path / "mended.ardmz"

    broken.write_bytes(data[: blocks[-1].end + 3])  # the index is lost
    found = repair(broken, mended)
    assert (found.images, found.notes) == (42, ())
    assert mended.read_bytes() == data

    entry = archive.entry(33)  # cut within a record: those before it are there
    broken.write_bytes(data[: entry.offset + entry.length - 1])
    found = repair(broken, mended, overwrite=True)
    names = archive.names()[:33]
    assert found.images == 33
    assert names[-1] in found.notes[0]
    assert contents(mended) == {name: images[name] for name in names}

    damaged = bytearray(data)
    damaged[blocks[1].offset + 30] ^= 1  # the directory of a block
    damaged[archive.entry(3).offset] ^= 1  # a record of another
    broken.write_bytes(damaged)
    found = repair(broken, mended, overwrite=True)
    assert found.images == 42 - 8
    assert "test tells which" in found.notes[0]
    mended_archive = Archive(mended)
    for i, name in enumerate(mended_archive.names()):
        (picture,) = mended_archive.read([name])
        lost = mended_archive.described(i)[0] == "a/003.png" or archive.entry(name).copy_of in archive.names()[8:16]
        assert isinstance(picture, ArdmError) == lost
        if not lost:
            assert picture.samples.tobytes() == images[name]

    broken.write_bytes(b"\0" + data[1:])
    with pytest.raises(FormatError):
        repair(broken, tmp_path / "none.ardmz")
    assert not (tmp_path / "none.ardmz").exists()


def test_repair_of_an_interrupted_append(archive_file, options, tmp_path):
    with Writer.append(archive_file) as writer:
        packing.pack(more(30), writer, options)
    data = archive_file.read_bytes()
    cut = Archive(archive_file).blocks[-2].end
    archive_file.write_bytes(data[:cut])
    found = repair(archive_file, tmp_path / "y.ardmz")
    assert found.images == 42 + 24
    assert len(contents(tmp_path / "y.ardmz")) == 66
