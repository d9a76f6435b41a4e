"""Parts of files, read from no more bytes than they need; what stands behind these may be missing."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_container import levels_example, palette_example, same, tiled_example
from test_raster import RGBA, coded, photo_like

import ardmzip
from ardmzip import CutOffError, FormatError, api, codec, filebytes, order, streams
from ardmzip.container import NO_MODEL, WHOLE, Container, LowBits, Part, outline, pack, unpack
from ardmzip.filebytes import Buffer, Source, source_of
from ardmzip.pixelformat import PixelFormat
from ardmzip.tiling import Rectangle
from ardmzip.varint import Reader


class Counting(io.BytesIO):
    """A file that knows which of its bytes were read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads: list[tuple[int, int]] = []

    def read(self, size: int | None = -1, /) -> bytes:
        start = self.tell()
        data = super().read(size)
        self.reads.append((start, start + len(data)))
        return data

    @property
    def bytes_read(self) -> int:
        return sum(end - start for start, end in self.reads)

    @property
    def last(self) -> int:
        return max(end for _, end in self.reads)


class Pipe(io.RawIOBase):
    """A file that cannot seek, and gives a few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        count = len(self.data) if size < 0 else min(size, 700)
        part = self.data[self.at : self.at + count]
        self.at += len(part)
        return part


def sources(data: bytes) -> list[Source]:
    return [Buffer(data), source_of(Counting(data)), source_of(Pipe(data))]


# How many streams


@settings(max_examples=12)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.booleans(), st.integers(1, 3000), st.data())
def test_number_of_streams(photo, cpu, height, width, channels, learn, limit, data):
    """It follows from the size, and the first ones are enough for a level."""
    planes = np.random.default_rng(height).integers(90, 110, (channels, height, width), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "SYMBOLS", limit)
        patch.setattr(streams, "BATCH", data.draw(st.sampled_from([7, 1 << 16])))
        patch.setattr(order, "CUT", 50)
        c = codec.encode(
            planes, photo, cpu, learn=learn, batches=data.draw(st.sampled_from([None, 3])) if learn else None
        )
        assert streams.count(c.order, c.learning, c.batch_ends) == len(c.segments)
        for level in {c.order.checked_level(level) for level in range(1, c.order.levels)} - {0}:
            enough = streams.count(c.order, c.learning, c.batch_ends, level)
            part = replace(c, segments=c.segments[:enough])
            np.testing.assert_array_equal(
                codec.decode(part, photo, cpu, level=level), planes[:, :: 1 << level, :: 1 << level]
            )
            with pytest.raises(FormatError, match="a stream is missing"):
                codec.decode(replace(c, segments=c.segments[: enough - 1]), photo, cpu, level=level)


# Every length of a file


def words(count: int) -> np.ndarray:
    return np.arange(1, count + 1, dtype=np.uint32)


def alpha_example() -> Container:
    """RGB and alpha of 16 bits, of 512 x 512 pixels in three streams a body; the low bits of alpha are stored."""
    three = words(9), words(50), words(90)
    c = Container(
        512, 512, 3, (0, 0), b"MODL", b"s", None, three, 77, level_crcs=(5, 6), format=PixelFormat("RGB+alpha", 16)
    )
    low = Container(512, 512, 3, (0, 0), b"MODL", b"", None, three, None)
    plain = Container(512, 512, 1, (0, 0), NO_MODEL, b"", None, (), None, stored=b"\0" + bytes(40))
    alpha = Container(512, 512, 1, (0, 0), b"MODL", b"", None, three, None, low=LowBits(8, 0, False, plain))
    return replace(c, low=LowBits(8, 0, True, low), alpha=alpha)


def tiles_of_levels() -> Container:
    """Two tiles of 512 x 512 pixels, of which the second one is stored."""
    first = Container(512, 512, 1, (0, 0), b"MODL", b"", None, (words(9), words(50), words(90)), 1, level_crcs=(5, 6))
    second = Container(512, 512, 1, (0, 0), NO_MODEL, b"", None, (), 2, stored=b"\0" + bytes(60))
    return Container(
        1024, 512, 1, (0, 0), b"MODL", b"", None, (), 3, metadata=bytes(50), tile=(512, 512), tiles=(first, second)
    )


PARTS = [
    (levels_example, Part(level=1)),
    (levels_example, Part(level=2)),
    (levels_example, Part(level=7)),
    (levels_example, Part(side=200)),
    (levels_example, Part(region=Rectangle(0, 0, 5, 5))),
    (alpha_example, Part(level=1)),
    (alpha_example, Part(level=2)),
    (tiled_example, Part(level=2)),
    (tiled_example, Part(region=Rectangle(0, 0, 64, 64))),
    (tiled_example, Part(region=Rectangle(10, 70, 5, 5))),
    (tiled_example, Part(region=Rectangle(66, 60, 1, 9))),
    (tiles_of_levels, Part(level=1)),
    (tiles_of_levels, Part(level=5)),
    (tiles_of_levels, Part(region=Rectangle(0, 511, 3, 1))),
    (tiles_of_levels, Part(region=Rectangle(0, 512, 3, 1))),
]


@pytest.mark.parametrize(("make", "part"), PARTS)
def test_every_length(make, part):
    """From the last byte that is read of a whole file on it is enough, and before it never."""
    data = pack(make())
    file = Counting(data)
    expected = unpack(source_of(file), part=part)
    assert expected.part.side is None
    for length in range(len(data)):
        every = length % 9 == 0 or abs(length - file.last) < 3
        for source in sources(data[:length])[: None if every else 1]:
            if length < file.last:
                with pytest.raises(FormatError, match=r"cut off|empty") as caught:
                    unpack(source, part=part)
                assert isinstance(caught.value, CutOffError) == (length > 0)
            else:
                found = unpack(source, part=part)
                assert same(found, expected)
                assert len(found.segments) == len(expected.segments)
                assert (found.part, found.places) == (expected.part, expected.places)


def test_without_a_checksum_of_the_head_all_of_it_is_needed():
    data = pack(palette_example())
    for length in range(10, len(data)):
        with pytest.raises(CutOffError, match=f"^cut off: the file ends after {length} bytes, and .* are needed$"):
            unpack(data[:length], part=Part(level=1))
    assert same(unpack(data, part=Part(level=1)), unpack(data))
    with pytest.raises(FormatError, match="damaged or truncated: file checksum") as caught:
        unpack(data[:-1] + bytes([data[-1] ^ 1]), part=Part(level=1))
    assert not isinstance(caught.value, CutOffError)


def test_a_preview_of_a_small_image_is_the_whole_of_it():
    data = pack(levels_example())
    assert unpack(data, part=Part(side=512)).part == WHOLE
    for length in (len(data) - 1, len(data) // 2):
        with pytest.raises(CutOffError):
            unpack(data[:length], part=Part(side=512))


def test_a_part_of_a_file_cannot_be_packed():
    c = unpack(pack(levels_example()), part=Part(level=2))
    with pytest.raises(ValueError, match="no file"):
        pack(c)


def test_a_claimed_length_takes_no_memory():
    """A stream of two gigabytes, of which nothing is there."""
    data = pack(levels_example())
    claimed = data[: data.index(b"\x83\x0c")] + b"\x83\xfc\xff\xff\xff\x07" + bytes(100)
    for source in (
        source_of(Counting(claimed)),
        source_of(Pipe(claimed)),
        filebytes.Buffer(claimed),
    ):
        tracemalloc.start()
        try:
            with pytest.raises(CutOffError):
                unpack(source, part=Part(level=2))
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
        finally:
            tracemalloc.stop()


# Pixels


@pytest.fixture(scope="module")
def pictures(photo) -> dict[str, tuple[bytes, np.ndarray]]:
    """Files whose levels 0, 1 and 2 are cut, as of much larger images, and their samples."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "CUT", 500)
        for name, tile, learn in (("one", None, True), ("tiles", (64, 64), False)):
            samples = photo_like(100, 120, RGBA)
            found[name] = coded(samples, RGBA, photo, tile, (1, 0), learn=learn), samples
    return found


def chunk_ends(data: bytes, at: int) -> Iterator[int]:
    """Where chunks from a place on begin and end, and those within tiles and alpha."""
    while kind := data[at]:
        yield at
        reader = Reader(memoryview(data), at + 1)
        end = reader.varint("length") + reader.at
        if kind in (0x8C, 0x86):
            yield from chunk_ends(data, reader.at + 1)
        at = end
    yield at


@pytest.mark.parametrize("name", ["one", "tiles"])
def test_cut_off_at_every_chunk(pictures, monkeypatch, name):
    """The right pixels or CutOffError, by what the part needs."""
    monkeypatch.setattr(order, "CUT", 500)
    data, samples = pictures[name]
    places = {0, 6, len(data), len(data) - 4, len(data) - 8, *chunk_ends(data, outline(data)[0])}
    lengths = sorted({place + step for place in places for step in (-1, 0, 1) if 0 <= place + step <= len(data)})
    assert len(lengths) > 40
    for part in (Part(level=1), Part(level=3), Part(region=Rectangle(3, 70, 9, 20))):
        file = Counting(data)
        unpack(source_of(file), part=part)
        region = part.region and (part.region.left, part.region.top, part.region.width, part.region.height)
        wanted = samples[part.region.slices] if part.region else samples[1 :: 1 << part.level, :: 1 << part.level]
        enough = 0
        # what is enough takes time to decode
        tried = [n for n in lengths if n < file.last + 2] + lengths[-2:]
        for length in tried:
            try:
                found = api.restore(io.BytesIO(data[:length]), level=part.level, region=region)
            except CutOffError:
                assert length < file.last
            except FormatError:
                assert length == 0
            else:
                np.testing.assert_array_equal(found.samples, wanted)
                enough += 1
        assert enough == sum(length >= file.last for length in tried) > 2


def test_bytes_that_are_read(pictures, monkeypatch):
    """Chunk by chunk: of what is not needed only where it ends is looked at."""
    monkeypatch.setattr(order, "CUT", 500)
    data, samples = pictures["one"]
    whole = Counting(data)
    np.testing.assert_array_equal(ardmzip.decompress_array(whole), samples)
    sizes = []
    for level in (1, 2, 3):
        file = Counting(data)
        found = ardmzip.decompress_array(file, level=level)
        np.testing.assert_array_equal(found, samples[1 :: 1 << level, :: 1 << level])
        c = unpack(data, part=Part(level=level))
        needed = sum(words.nbytes for body in c.parts for words in body.segments)
        assert needed < file.bytes_read < needed + 200
        sizes.append(file.bytes_read)
    assert sizes[0] > 1.5 * sizes[1] > 2 * sizes[2]
    data, samples = pictures["tiles"]
    file = Counting(data)
    found = ardmzip.decompress_array(file, region=(70, 3, 20, 9))
    np.testing.assert_array_equal(found, samples[3:12, 70:90])
    tile = unpack(data).tiles[1]
    assert file.bytes_read < sum(words.nbytes for body in tile.parts for words in body.segments) + 250


def test_files_of_many_kinds(pictures, monkeypatch, tmp_path):
    """A name, an open file, also one that does not begin with it, a pipe, and bytes."""
    monkeypatch.setattr(order, "CUT", 500)
    data, samples = pictures["one"]
    path = tmp_path / "x.ardm"
    path.write_bytes(data)
    behind = io.BytesIO(b"something" + data)
    behind.seek(9)
    for options, wanted in (({}, samples), ({"level": 2}, samples[1::4, ::4])):
        with open(path, "rb") as opened, open(path, "rb", buffering=0) as raw:
            for file in (path, opened, raw, behind, Pipe(data), bytearray(data), memoryview(data)):
                np.testing.assert_array_equal(ardmzip.decompress_array(file, **options), wanted)
                behind.seek(9)
