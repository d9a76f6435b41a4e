"""Tags of TIFF files and EXIF blocks: kept byte for byte, from files and into files of either byte order."""

import io
import struct

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ardmzip import metadata, tags, writing
from ardmzip.errors import ImageError
from ardmzip.formats import Picture
from ardmzip.pixelformat import PixelFormat
from ardmzip.pngfile import Chunk
from ardmzip.reading import read

RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
#: Number, type and value: IPTC, GeoTIFF, GDAL, a private one, an EXIF tag out of place, a text that is not ASCII.
EXTRA = [
    (33723, 7, b"\x1c\x02\x00\x00\x02\x00\x02\x1c\x02\x05\x00\x01a"),
    (33550, 12, (0.5, 0.5, 0.0)),
    (33922, 12, (0.0, 0.0, 0.0, 440720.0, 3751320.0, 0.0)),
    (34735, 3, (1, 1, 0, 1, 1024, 0, 1, 1)),
    (34736, 12, (6378137.0,)),
    (34737, 2, b"WGS 84|\0"),
    (42112, 2, b"<GDALMetadata/>\0"),
    (42113, 2, b"-9999\0"),
    (65000, 4, (70000, 5)),
    (65001, 11, (1.5,)),
    (36867, 2, b"2024:01:02 03:04:05\0"),
    (315, 2, "J\u00fcrgen".encode() + b"\0"),
    (318, 5, ((3127, 10000), (329, 1000))),
]


def tiff(samples: np.ndarray = RGB, order: str = "<", big: bool = False) -> bytes:
    """A file with all of EXTRA."""
    extra = []
    for number, kind, value in EXTRA:
        count = len(value)
        flat = value if kind != 5 else [number for pair in value for number in pair]
        extra.append((number, kind, count, value if isinstance(value, bytes) else tuple(flat), True))
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, samples, photometric="rgb", metadata=None, software=False, byteorder=order, extratags=extra,
        resolution=(118.11, 118.11), resolutionunit="centimeter", bigtiff=big,
    )  # fmt: skip
    return buffer.getvalue()


def held(file: bytes) -> dict:
    """The tags of EXTRA in a TIFF file, as another library reads them."""
    with tifffile.TiffFile(io.BytesIO(file)) as opened:
        found = opened.pages[0].tags
        numbers = [number for number, _, _ in EXTRA] + [*tags.RESOLUTION]
        return {n: (found[n].dtype, found[n].count, found[n].value) if n in found else None for n in numbers}


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_all_tags_of_a_tiff_file_come_back(depth, order, big):
    samples = RGB if depth == 8 else RGB.astype(np.uint16) * 257
    file = tiff(samples, order, big)
    picture = read(file)
    assert picture.lost == ()
    assert metadata.titles(picture.metadata) == ["resolution", "EXIF data"]
    written, lost = writing.write(picture, ".tif")
    assert lost == []
    assert held(written) == held(file)
    assert None not in held(written).values()
    again = read(written)
    np.testing.assert_array_equal(again.samples, samples)
    with Image.open(io.BytesIO(writing.write(picture, ".png")[0])) as png:
        assert png.getexif()[33723] == EXTRA[0][2]
        assert png.getexif()[36867] == "2024:01:02 03:04:05"


def test_directories_below_are_kept_and_pointers_told():
    exif = Image.Exif()
    exif.get_ifd(tags.EXIF)[0x9286] = b"ASCII\0\0\0comment"
    exif.get_ifd(tags.EXIF)[tags.INTEROPERABILITY] = {1: "R98"}
    exif.get_ifd(tags.GPS)[1] = "N"
    buffer = io.BytesIO()
    whole = Image.Exif()
    whole.load(exif.tobytes())
    Image.fromarray(RGB).save(buffer, "TIFF", exif=whole)
    picture = read(buffer.getvalue())
    written = writing.write(picture, ".tif")[0]
    with Image.open(io.BytesIO(written)) as image:
        assert image.getexif().get_ifd(tags.EXIF)[0x9286] == b"ASCII\0\0\0comment"
        assert image.getexif().get_ifd(tags.GPS)[1] == "N"
    pointer = tags.Tag(4, 1, b"\x08\0\0\0")
    file = tags.added(written, tags.Directory("<", {330: pointer, 400: pointer, 65002: pointer._replace(type=13)}))
    assert read(file).lost == ("TIFF tag 330", "TIFF tag 400", "TIFF tag 65002")


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_pixels_stay_as_they_are_stored(orientation, compression):
    """Whichever way up the tag says that they are to be shown."""
    exif = Image.Exif()
    exif[tags.ORIENTATION] = orientation
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "TIFF", exif=exif, compression=compression)
    picture = read(buffer.getvalue())
    np.testing.assert_array_equal(picture.samples, RGB)
    written, lost = writing.write(picture, ".tif")
    assert lost == []
    assert writing.holds(written, picture)
    with tifffile.TiffFile(io.BytesIO(written)) as opened:
        assert opened.pages[0].tags[tags.ORIENTATION].value == orientation
    with Image.open(io.BytesIO(written)) as one, Image.open(buffer) as two:
        assert one.tobytes() == two.tobytes()


def test_resolution_of_the_png_chunk_counts_where_the_tags_differ():
    told = struct.pack(">LLB", 11811, 11811, 1)  # 300 dpi
    exif = Image.Exif()
    exif[282], exif[283], exif[296], exif[270] = 72.0, 72.0, 2, "a"
    chunks = (Chunk(b"pHYs", told), Chunk(b"eXIf", exif.tobytes()[6:]))
    file, lost = writing.write(Picture(RGB, PixelFormat("RGB"), chunks), ".tif")
    assert lost == []
    with Image.open(io.BytesIO(file)) as image:
        assert image.info["dpi"] == (300, 300)
        assert image.getexif()[270] == "a"


def test_a_damaged_block_is_told_and_not_held():
    for block in (b"", b"II*\0", b"II*\0\xff\0\0\0", b"MM\0*\0\0\0\x08\0\1\1\x0e\0\2", b"text"):
        file, lost = writing.write(Picture(RGB, PixelFormat("RGB"), (Chunk(b"eXIf", block),)), ".tif")
        assert lost == ["EXIF data"]
        np.testing.assert_array_equal(read(file).samples, RGB)


values = st.one_of(
    st.builds(lambda data: tags.Tag(7, len(data), data), st.binary(min_size=1, max_size=9)),
    st.builds(
        lambda v: tags.Tag(3, len(v), struct.pack(f"<{len(v)}H", *v)),
        st.lists(st.integers(0, 9), min_size=1, max_size=4),
    ),
    st.builds(lambda n, d: tags.Tag(5, 1, struct.pack("<LL", n, d)), st.integers(0, 9), st.integers(0, 9)),
)


@settings(max_examples=30)
@given(
    st.dictionaries(
        st.integers(1, 65535).filter(lambda n: n not in (330, 400, 34665, 34853, 40965)), values, max_size=6
    )
)
def test_blocks_are_parsed_as_they_were_built(found):
    directory = tags.Directory("<", {tags.EXIF: tags.Directory("<", found), **found})
    assert tags.parse(tags.block(directory)) == directory
    other = tags.parse(tags.block(tags.reordered(directory)))
    assert other.order == ">"
    assert tags.reordered(other) == directory


@settings(max_examples=100)
@given(st.data())
def test_damage_is_an_error_or_another_directory(data):
    file = bytearray(tags.block(tags.parse(tiff(), tags.STRUCTURE)))
    for _ in range(3):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = tags.parse(bytes(file[: data.draw(st.integers(0, len(file)))]))
    except ImageError:
        return
    assert tags.parse(tags.block(found)).tags == found.tags


def test_forged_directories_take_no_time():
    """Thousands of pointers to their own directory, and values that overlap."""
    entry = struct.pack("<HHLL", tags.EXIF, 4, 1, 8)
    many = b"II*\0\x08\0\0\0" + struct.pack("<H", 9000) + 9000 * entry + bytes(4)
    assert len(tags.parse(many).tags) == 1
    overlap = [struct.pack("<HHLL", 1000 + i, 1, 60000, 0) for i in range(9000)]
    found = tags.parse(b"II*\0\x08\0\0\0" + struct.pack("<H", 9000) + b"".join(overlap) + bytes(4))
    assert len(found.tags) == 1
    assert len(found.lost) == 8999


def test_large_tags_are_told(monkeypatch):
    monkeypatch.setattr(metadata, "_MOST_OF_TAGS", 100)
    file = tags.added(tiff(), tags.Directory("<", {65100: tags.Tag(7, 101, bytes(101)), 270: tags.Tag(2, 0, b"")}))
    picture = read(file)
    assert "TIFF tag 65100" in picture.lost
    assert "TIFF tag 270" not in picture.lost
