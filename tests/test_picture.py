"""Image files <-> pictures: exact for every kind and depth, one clear line for everything else."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, PngImagePlugin

from ardmzip import picture as module
from ardmzip.errors import FormatError, ImageError
from ardmzip.picture import (
    CHANNELS,
    JpegError,
    Metadata,
    Picture,
    Record,
    from_array,
    from_image,
    read,
    to_image,
    write,
)

PNGSUITE = Path("/work/shared/data/pngsuite")
DEPTHS = module._DEPTHS
KINDS = [(kind, bits) for kind, depths in DEPTHS.items() for bits in depths]
SUFFIXES = (".png", ".tif", ".webp", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".tga")
PROFILE = b"not quite a profile " * 9
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"


def exif(orientation: int = 1) -> bytes:
    data = Image.Exif()
    data[270], data[274], data[271] = "a description", orientation, "maker"
    data[34665] = {37510: b"a comment", 33434: 0.5}
    return data.tobytes().removeprefix(b"Exif\0\0")


def colours(entries: int) -> bytes:
    """A palette that is no gray scale."""
    return bytes((index * 37 + 11) % 256 for index in range(3 * entries))


def samples(kind: str, bits: int, height: int = 5, width: int = 7, below: int | None = None) -> np.ndarray:
    generator = np.random.default_rng([height, width, bits, CHANNELS[kind]])
    values = generator.integers(0, below or 1 << bits, (height, width, CHANNELS[kind]))
    return values.astype(np.uint16 if bits == 16 else np.uint8)


def picture(kind: str, bits: int, height: int = 5, width: int = 7, **options) -> Picture:
    if kind == "palette":
        options.setdefault("palette", colours(1 << bits))
    return Picture(samples(kind, bits, height, width), kind, bits, **options)


# A PNG writer of its own, so that reading is not tested with writing


def one_line(error: Exception, start: str = "") -> None:
    assert str(error).startswith(start)
    assert "\n" not in str(error)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def rows(array: np.ndarray, bits: int) -> bytes:
    """Unfiltered rows, each with its filter byte."""
    result = []
    for row in array.reshape(len(array), -1):
        values = "".join(f"{value:0{bits}b}" for value in row)
        values += "0" * (-len(values) % 8)
        result.append(b"\0" + int(values, 2).to_bytes(len(values) // 8, "big"))
    return b"".join(result)


PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png(array, kind, bits, before=(), between=(), after=(), palette=None, interlaced=False) -> bytes:
    colour = {"gray": 0, "rgb": 2, "palette": 3, "gray+alpha": 4, "rgb+alpha": 6}[kind]
    height, width = array.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    if interlaced:
        parts = [array[top::down, left::across] for left, top, across, down in PASSES]
        stream = b"".join(rows(part, bits) for part in parts if part.size)
    else:
        stream = rows(array, bits)
    stream = zlib.compress(stream)
    chunks = [(b"IHDR", header), *before]
    if palette is not None:
        chunks.append((b"PLTE", palette))
    half = len(stream) // 2
    chunks += [*between, (b"IDAT", stream[:half]), (b"IDAT", stream[half:]), *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*item) for item in chunks)


# A TIFF writer of its own


def tiff(array, photometric=1, bits=8, order="<", pages=1, tags=(), packed=None, without=()) -> bytes:
    """Uncompressed; ``tags``: (number, type, values) in addition."""
    height, width, channels = array.shape
    raster = packed if packed is not None else array.astype(f"{order}u{max(bits, 8) // 8}").tobytes()
    base = {
        256: (4, (width,)),
        257: (4, (height,)),
        258: (3, (bits,) * channels),
        259: (3, (1,)),
        262: (3, (photometric,)),
        273: (4, (8,)),
        277: (3, (channels,)),
        278: (4, (height,)),
        279: (4, (len(raster),)),
        284: (3, (1,)),
    }
    base = {number: field for number, field in base.items() if number not in without}
    base.update({number: (kind, tuple(values)) for number, kind, values in tags})
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(raster) + len(raster) % 2)
    file = head + raster + b"\0" * (len(raster) % 2)
    for page in range(pages):
        extra = b""
        entries = []
        after = len(file) + 2 + 12 * len(base) + 4
        for number, (kind, values) in sorted(base.items()):
            form = {1: "B", 3: "H", 4: "I", 7: "B"}[kind]
            data = struct.pack(f"{order}{len(values)}{form}", *values)
            if len(data) > 4:
                field = struct.pack(f"{order}I", after + len(extra))
                extra += data + b"\0" * (len(data) % 2)
            else:
                field = data.ljust(4, b"\0")
            entries.append(struct.pack(f"{order}HHI", number, kind, len(values)) + field)
        following = after + len(extra) if page + 1 < pages else 0
        file += struct.pack(f"{order}H", len(base)) + b"".join(entries) + struct.pack(f"{order}I", following) + extra
    return file


def saved(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def loaded(file: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(file))
    image.load()
    return image


def info(image: Image.Image) -> dict:
    """Interlacing belongs to the file, not to the picture: it is not kept."""
    return {key: value for key, value in image.info.items() if key != "interlace"}


def check_like_original(file: bytes) -> Picture:
    """A PNG file comes back: to us and to Pillow it is the same."""
    original = read(file)
    written = write(original, ".png")
    restored = read(written)
    assert restored.same_pixels(original)
    assert (restored.mode, restored.format, restored.metadata) == (original.mode, "PNG", original.metadata)
    assert Metadata.from_bytes(original.metadata.to_bytes()) == original.metadata
    ours, theirs = loaded(written), loaded(file)
    assert (ours.mode, ours.size, info(ours)) == (theirs.mode, theirs.size, info(theirs))
    assert ours.tobytes() == theirs.tobytes()
    assert ours.getpalette() == theirs.getpalette()
    assert original.mode == theirs.mode
    if original.bits == 16 and original.kind != "gray":
        with pytest.raises(ImageError, match="Pillow has no mode for 16-bit"):
            to_image(original)
    else:
        image = to_image(original)
        assert (image.mode, image.size, image.info) == (theirs.mode, theirs.size, info(theirs))
        assert image.tobytes() == theirs.tobytes()
        assert image.getpalette() == theirs.getpalette()
    return original


# PNG


@pytest.mark.skipif(not PNGSUITE.is_dir(), reason="PngSuite is not on this machine")
def test_pngsuite():
    files = sorted(PNGSUITE.glob("*.png"))
    assert len(files) > 100
    for path in files:
        data = path.read_bytes()
        if path.name.startswith("x"):
            with pytest.raises(ImageError) as caught:
                read(data)
            assert "\n" not in str(caught.value)
        else:
            check_like_original(data)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (1, 1), (1, 40), (40, 1), (9, 9), (17, 33)])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("kind", "bits"), KINDS)
def test_png_of_every_kind_and_depth(kind, bits, interlaced, height, width):
    array = samples(kind, bits, height, width)
    palette = colours(1 << bits) if kind == "palette" else None
    result = check_like_original(png(array, kind, bits, palette=palette, interlaced=interlaced))
    assert (result.kind, result.bits, result.palette, result.transparency) == (kind, bits, palette, None)
    assert result.samples.dtype == array.dtype
    assert np.array_equal(result.samples, array)


@pytest.mark.parametrize(("bits", "entries"), [(1, 1), (2, 3), (4, 5), (4, 16), (8, 1), (8, 17), (8, 255), (8, 256)])
@pytest.mark.parametrize("transparency", [None, b"\0", b"\x80", b"\xff\0"])
def test_png_palettes(bits, entries, transparency):
    if transparency is not None and len(transparency) > entries:
        pytest.skip("more transparencies than colours")
    palette = colours(entries)
    array = samples("palette", bits, 6, 9, below=entries)
    between = [(b"tRNS", transparency)] if transparency else []
    result = check_like_original(png(array, "palette", bits, between=between, palette=palette))
    assert (result.palette, result.transparency) == (palette, transparency)


@pytest.mark.parametrize(("kind", "bits"), [("gray", 1), ("gray", 2), ("gray", 4), ("gray", 8), ("gray", 16)])
@pytest.mark.parametrize("value", [0, 1])
def test_png_with_a_transparent_gray(kind, bits, value):
    file = png(samples(kind, bits), kind, bits, between=[(b"tRNS", struct.pack(">H", value))])
    assert check_like_original(file).transparency == struct.pack(">H", value)


@pytest.mark.parametrize("bits", [8, 16])
def test_png_with_a_transparent_colour(bits):
    transparency = struct.pack(">HHH", 1, 200, (1 << bits) - 1)
    file = png(samples("rgb", bits), "rgb", bits, between=[(b"tRNS", transparency)])
    assert check_like_original(file).transparency == transparency


def test_colours_under_zero_alpha_are_kept():
    array = samples("rgb+alpha", 8)
    array[:, :4, 3] = 0
    result = check_like_original(png(array, "rgb+alpha", 8))
    assert np.array_equal(result.samples, array)
    assert np.array_equal(read(write(result, ".webp")).samples, array)


TEXTS = [
    (b"tEXt", b"Title\0a title"),
    (b"zTXt", b"Comment\0\0" + zlib.compress(b"a comment " * 20)),
    (b"iTXt", b"Author\0\0\0de\0Autor\0" + "Müller".encode()),
    (b"iTXt", b"Description\0\1\0en\0\0" + zlib.compress("größer".encode())),
    (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    (b"tEXt", b"Title\0another title"),
]
ANCILLARY = [
    (b"gAMA", struct.pack(">I", 45455)),
    (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)),
    (b"sRGB", b"\1"),
    (b"iCCP", b"a profile\0\0" + zlib.compress(PROFILE)),
    (b"sBIT", b"\5\6\5"),
    (b"pHYs", struct.pack(">IIB", 2835, 5670, 1)),
    (b"tIME", struct.pack(">HBBBBB", 2024, 2, 29, 23, 59, 60)),
    (b"eXIf", exif(6)),
    (b"prVt", b"a private one"),
]


@pytest.mark.parametrize("place", ["before", "between", "after"])
def test_png_metadata_comes_back_in_order(place):
    chunks = [*TEXTS[:3], *ANCILLARY, *TEXTS[3:]]
    file = png(samples("rgb", 8), "rgb", 8, **{place: chunks})
    metadata = check_like_original(file).metadata
    number = 2 if place == "after" else 0  # without a palette there is no place between
    assert metadata.records == tuple(Record(number, *item) for item in chunks)
    assert metadata.icc_profile == PROFILE
    assert metadata.exif == exif(6)
    assert metadata.xmp == XMP
    assert metadata.dpi == pytest.approx((72.009, 144.018))
    assert metadata.describe() == [
        "colour profile", "EXIF data", "XMP data", "resolution", "text",
        "gAMA chunk", "cHRM chunk", "sRGB chunk", "sBIT chunk", "tIME chunk", "prVt chunk",
    ]  # fmt: skip


def test_png_chunks_around_the_palette():
    palette = bytes(range(12))
    before, between, after = [TEXTS[0], ANCILLARY[0]], [(b"hIST", bytes(8)), (b"bKGD", b"\1")], [TEXTS[1]]
    file = png(samples("palette", 2), "palette", 2, before, between, after, palette)
    result = check_like_original(file)
    assert [record.place for record in result.metadata.records] == [0, 0, 1, 1, 2]
    assert write(result, ".png").index(b"gAMA") < write(result, ".png").index(b"PLTE")


def test_suggested_palette_of_an_rgb_file():
    file = png(samples("rgb", 8), "rgb", 8, before=[(b"PLTE", bytes(range(30))), (b"bKGD", bytes(6))])
    assert check_like_original(file).palette is None


def test_png_metadata_that_says_nothing():
    chunks = [
        (b"iCCP", b"broken\0\0not zlib"),
        (b"pHYs", struct.pack(">IIB", 3, 4, 0)),
        (b"iTXt", b"XML:com.adobe.xmp\0"),
    ]
    metadata = read(png(samples("gray", 8), "gray", 8, before=chunks)).metadata
    assert (metadata.icc_profile, metadata.dpi, metadata.xmp, metadata.exif) == (None, None, None, None)


def test_odd_but_readable_png():
    array = samples("palette", 8)
    result = read(png(array, "palette", 8, palette=b"abc"))  # indices beyond the palette
    assert np.array_equal(result.samples, array)
    assert np.array_equal(read(write(result, ".png")).samples, array)
    good = png(array, "gray", 8)
    assert read(good + b"something appended").same_pixels(read(good))


def broken() -> list[tuple[str, bytes]]:
    gray, rgb = samples("gray", 8), samples("rgb", 8)
    good = png(gray, "gray", 8)
    header = struct.pack(">IIBBBBB", 7, 5, 8, 0, 0, 0, 0)
    signature = good[:8]
    pixels = chunk(b"IDAT", zlib.compress(rows(gray, 8)))
    end = chunk(b"IEND", b"")

    def with_pixels(data: bytes) -> bytes:
        return signature + chunk(b"IHDR", header) + data + end

    raw = zlib.compress(rows(gray, 8))
    return [
        ("truncated", good[:-1]),
        ("truncated", good[:40]),
        ("begin with its header", signature + pixels + end),
        ("begin with its header", signature + chunk(b"IHDR", header[:-1]) + pixels + end),
        ("no pixels", with_pixels(b"")),
        ("incomplete", with_pixels(chunk(b"IDAT", b""))),
        ("incomplete", with_pixels(chunk(b"IDAT", raw[:-4]))),  # without the checksum at the end
        ("incomplete", with_pixels(chunk(b"IDAT", zlib.compress(rows(gray[:4], 8))))),
        ("incorrect data check", with_pixels(chunk(b"IDAT", raw[:-1] + bytes([raw[-1] ^ 1])))),
        ("more pixels", with_pixels(chunk(b"IDAT", zlib.compress(rows(gray, 8) + b"\0")))),
        ("damaged", with_pixels(chunk(b"IDAT", zlib.compress(b"\7" + rows(gray, 8)[1:])))),  # no such filter
        ("one piece", with_pixels(pixels + chunk(b"tEXt", b"a\0b") + pixels)),
        ("XYZA chunk", with_pixels(chunk(b"XYZA", b"") + pixels)),
        ("IHDR chunk", with_pixels(chunk(b"IHDR", header) + pixels)),
        ("animated", with_pixels(chunk(b"acTL", struct.pack(">II", 1, 0)) + pixels)),
        ("impossible type", with_pixels(chunk(b"a1b2", b"") + pixels)),
        ("transparency", with_pixels(chunk(b"tRNS", b"\0") + pixels)),
        ("wrong place", with_pixels(pixels + chunk(b"tRNS", b"\0\0"))),
        ("checksum", good.replace(b"IDAT", b"IDAt")),
        ("no palette", png(gray, "palette", 8)),
        ("wrong place", png(gray, "palette", 8, before=[(b"PLTE", b"abc")], palette=b"abc")),
        ("palette of", png(gray, "palette", 8, palette=b"abcd")),
        ("palette of", png(gray & 1, "palette", 1, palette=b"abcdefghi")),
        ("palette of", png(gray, "palette", 8, palette=b"")),
        ("wrong place", png(gray, "palette", 8, before=[(b"tRNS", b"a")], palette=b"abc")),
        ("transparency of", png(rgb, "rgb", 8, before=[(b"tRNS", b"ab")])),
    ]


@pytest.mark.parametrize(("message", "data"), broken())
def test_broken_png(message, data):
    with pytest.raises(ImageError, match=message) as caught:
        read(data)
    assert "\n" not in str(caught.value)


def test_size_limit_is_checked_before_decoding():
    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match="too large: 2147483647x2147483647"):
        read(file)
    for suffix in SUFFIXES:
        kind, bits = ("rgb", 8) if suffix in (".png", ".tif", ".webp", ".bmp", ".ppm", ".tga") else ("gray", 1)
        file = write(picture(kind, bits, 5, 7), suffix)
        assert read(file, max_pixels=35).same_pixels(picture(kind, bits, 5, 7))
        with pytest.raises(ImageError, match="too large"):
            read(file, max_pixels=34)
        with pytest.raises(ImageError, match="too large"):
            read(file, max_pixels=10)


def test_a_small_file_of_many_pixels_is_no_bomb(monkeypatch):
    """Pillow's own limits neither refuse an image nor are they changed for others."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for suffix in (".png", ".tif", ".webp", ".bmp", ".ppm", ".tga"):
        file = write(picture("rgb", 8, 20, 30), suffix)
        assert read(file).width == 30
        with pytest.raises(ImageError):
            read(file[:-40] if suffix != ".tif" else file[:-8])
    assert Image.MAX_IMAGE_PIXELS == 10
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


# Other formats, as Pillow writes them


def modes() -> list[tuple[str, str, dict]]:
    return [
        *[("TIFF", mode, {}) for mode in ("1", "L", "LA", "RGB", "RGBA", "I;16", "I;16B", "P")],
        *[("TIFF", mode, {"compression": "tiff_lzw"}) for mode in ("1", "L", "LA", "RGB", "RGBA", "I;16", "P")],
        ("TIFF", "RGB", {"compression": "packbits"}),
        ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
        *[("BMP", mode, {}) for mode in ("1", "L", "RGB", "P")],
        *[("PPM", mode, {}) for mode in ("1", "L", "RGB", "I;16")],
        *[("TGA", mode, {}) for mode in ("1", "L", "LA", "RGB", "RGBA", "P")],
        *[("TGA", mode, {"compression": "tga_rle"}) for mode in ("L", "LA", "RGB", "RGBA", "P")],
        ("WEBP", "RGB", {"lossless": True}),
        ("WEBP", "RGBA", {"lossless": True, "exact": True}),
        ("WEBP", "RGB", {"quality": 50}),
        ("GIF", "P", {"optimize": False}),
        ("GIF", "P", {"optimize": False, "interlace": 1}),
        ("GIF", "L", {"optimize": False}),
    ]


def image_of(mode: str, height: int = 21, width: int = 19) -> Image.Image:
    kind = {"1": "gray", "L": "gray", "LA": "gray+alpha", "RGB": "rgb", "RGBA": "rgb+alpha", "P": "palette"}
    if mode.startswith("I;16"):
        array = samples("gray", 16, height, width)
        return Image.frombytes(mode, (width, height), array.astype(">u2" if mode.endswith("B") else "<u2").tobytes())
    array = samples(kind[mode], 1 if mode == "1" else 8, height, width)
    if mode == "1":
        return Image.fromarray(array[:, :, 0] * 255).convert("1")
    image = Image.frombytes(mode, (width, height), array.tobytes())
    if mode == "P":
        image.putpalette(colours(256))
    return image


@pytest.mark.parametrize(("format", "mode", "options"), modes())
def test_what_pillow_writes(format, mode, options):
    source = image_of(mode)
    file = saved(source, format, **options)
    theirs = loaded(file)
    result = read(file)
    assert (result.format, result.mode) == (format, theirs.mode)
    assert result.bits == {"1": 1, "I": 16, "I;16": 16, "I;16B": 16}.get(theirs.mode, 8)
    image = to_image(result)
    assert (image.mode, image.size) == (theirs.mode, theirs.size)
    assert image.tobytes() == theirs.tobytes()
    assert image.getpalette() == theirs.getpalette()
    if "quality" not in options and theirs.mode == mode:
        assert image.tobytes() == source.tobytes()
    # and all of it survives in a PNG file
    assert read(write(result, ".png")).same_pixels(result)
    # as does the image in memory
    if image.mode != "I":
        assert from_image(image).same_pixels(result)


def test_metadata_of_other_formats():
    image = image_of("RGB")
    file = saved(image, "WEBP", lossless=True, exif=exif(3), icc_profile=PROFILE, xmp=XMP)
    metadata = read(file).metadata
    assert (metadata.exif, metadata.icc_profile, metadata.xmp) == (exif(3), PROFILE, XMP)
    assert read(write(read(file), ".webp")).metadata == metadata
    through = read(write(read(file), ".png")).metadata
    assert (through.exif, through.icc_profile, through.xmp) == (exif(3), PROFILE, XMP)
    assert through.describe() == metadata.describe() == ["colour profile", "EXIF data", "XMP data"]
    metadata = read(saved(image, "BMP", dpi=(300, 150))).metadata
    assert metadata.dpi == pytest.approx((300, 150), rel=1e-3)
    assert read(write(read(file), ".bmp")).metadata == Metadata()
    metadata = read(saved(image_of("P"), "GIF", comment=b"hello", optimize=False)).metadata
    assert (metadata.comment, metadata.describe()) == (b"hello", ["comment"])
    assert read(saved(image, "TGA", id_section=b"name")).metadata.comment == b"name"


def test_tiff_metadata():
    tags = {700: XMP, 305: "program", 270: "a description", 274: 1, 34665: {37510: b"a comment"}}
    result = read(saved(image_of("RGB"), "TIFF", dpi=(300, 150), icc_profile=PROFILE, tiffinfo=tags))
    metadata = result.metadata
    assert (metadata.dpi, metadata.icc_profile, metadata.xmp) == ((300, 150), PROFILE, XMP)
    kept = Image.Exif()
    kept.load(metadata.exif)
    assert (kept[270], kept[305], kept.get_ifd(34665)) == ("a description", "program", {37510: b"a comment"})
    assert 274 not in kept  # the pixels are upright
    again = read(write(result, ".tif"))
    assert again.metadata == metadata
    written = loaded(write(result, ".png"))
    assert written.getexif()[270] == "a description"
    assert written.info["dpi"] == pytest.approx((300, 150), rel=1e-3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("alpha", [False, True])
def test_tiff_orientation_turns_the_pixels_as_in_pillow(orientation, bits, alpha):
    if alpha and bits == 16:
        pytest.importorskip("imagecodecs")
    array = samples("gray+alpha" if alpha else "rgb", bits)
    tags = [(274, 3, (orientation,)), *([(338, 3, (2,))] if alpha else [])]
    result = read(tiff(array, 1 if alpha else 2, bits, tags=tags))
    theirs = loaded(tiff(array.astype(np.uint8), 1 if alpha else 2, tags=tags))
    assert np.array_equal(result.samples.astype(np.uint8), np.asarray(theirs))
    assert result.metadata.exif is None


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "photometric"), [("gray", 1), ("gray+alpha", 1), ("rgb", 2), ("rgb+alpha", 2)])
def test_sixteen_bit_tiff(kind, photometric, order):
    if kind == "gray+alpha":
        pytest.importorskip("imagecodecs")
    array = samples(kind, 16)
    tags = [(338, 3, (2,))] if "alpha" in kind else []
    result = read(tiff(array, photometric, 16, order, tags=tags))
    assert (result.kind, result.bits) == (kind, 16)
    assert np.array_equal(result.samples, array)
    assert read(write(result, ".png")).same_pixels(result)
    again = read(write(result, ".tif"))  # compressed, so it goes through another decoder
    assert again.same_pixels(result)


@pytest.mark.parametrize("kind", ["gray", "rgb"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiled_tiff(kind, bits, order):
    array = samples(kind, bits, 20, 40)
    full = np.zeros((32, 48, array.shape[2]), array.dtype)
    full[:20, :40] = array
    tiles = [full[top : top + 16, left : left + 16] for top in (0, 16) for left in (0, 16, 32)]
    packed = b"".join(tile.astype(f"{order}u{bits // 8}").tobytes() for tile in tiles)
    size = len(packed) // 6
    offsets = [8 + size * number for number in range(6)]
    tags = [(322, 4, (16,)), (323, 4, (16,)), (324, 4, offsets), (325, 4, (size,) * 6)]
    file = tiff(array, 2 if kind == "rgb" else 1, bits, order, tags=tags, packed=packed, without=(273, 278, 279))
    assert np.array_equal(read(file).samples, array)


def test_compressed_big_endian_tiff():
    image = image_of("I;16B")
    result = read(saved(image, "TIFF", compression="tiff_adobe_deflate"))
    assert np.array_equal(result.samples[:, :, 0], np.frombuffer(image.tobytes(), ">u2").reshape(21, 19))


@pytest.mark.parametrize("kind", [kind for kind in CHANNELS if kind != "palette"])
@pytest.mark.parametrize("bits", [8, 16])
def test_another_library_reads_what_we_write(kind, bits):
    imagecodecs = pytest.importorskip("imagecodecs")
    source = picture(kind, bits, 30, 20)
    for file in (write(source, ".png"), write(source, ".tif")):
        theirs = imagecodecs.imread(file)
        assert np.array_equal(theirs.reshape(source.samples.shape), source.samples)


def test_sixteen_bit_tiff_in_planes():
    imagecodecs = pytest.importorskip("imagecodecs")
    assert imagecodecs
    array = samples("rgb", 16)
    size = array[:, :, 0].nbytes
    tags = [(284, 3, (2,)), (273, 4, (8, 8 + size, 8 + 2 * size)), (279, 4, (size,) * 3)]
    file = tiff(array, 2, 16, tags=tags, packed=array.transpose(2, 0, 1).astype("<u2").tobytes())
    assert np.array_equal(read(file).samples, array)


@pytest.mark.parametrize(
    ("kind", "bits"), [("gray", 1), ("gray", 2), ("gray", 4), ("palette", 1), ("palette", 2), ("palette", 4)]
)
@pytest.mark.parametrize("inverted", [False, True])
def test_tiff_of_few_bits(kind, bits, inverted):
    if kind == "palette" and inverted:
        pytest.skip("palettes are not inverted")
    array = samples(kind, bits)
    stored = (1 << bits) - 1 - array if inverted else array
    packed = np.frombuffer(rows(stored, bits), np.uint8).reshape(len(array), -1)[:, 1:].tobytes()
    palette = colours(1 << bits)
    tags = [(320, 3, [int(value) * 257 for value in np.frombuffer(palette, np.uint8).reshape(-1, 3).T.ravel()])]
    photometric = 3 if kind == "palette" else 0 if inverted else 1
    result = read(tiff(array, photometric, bits, tags=tags if kind == "palette" else (), packed=packed))
    assert (result.kind, result.bits) == (kind, bits)
    assert result.palette == (palette if kind == "palette" else None)
    assert np.array_equal(result.samples, array)
    assert read(write(result, ".tif")).same_pixels(result)
    assert read(write(result, ".png")).same_pixels(result)


def odd_tiffs() -> list[tuple[str, bytes]]:
    gray, rgb, rgba = (samples(kind, 8) for kind in ("gray", "rgb", "rgb+alpha"))
    deep = samples("gray", 16)
    ramp = [value * 257 for value in range(256)] * 3
    return [
        ("CMYK", tiff(rgba, 5)),
        ("YCbCr", tiff(rgb, 6)),
        ("LAB", tiff(rgb, 8)),
        ("float or signed", tiff(gray, 1, tags=[(339, 3, (2,))])),
        ("float or signed", tiff(gray, 1, 32, tags=[(339, 3, (3,))])),
        ("32-bit", tiff(gray, 1, 32)),
        ("12-bit", tiff(gray, 1, 12, packed=bytes(99))),
        ("several", tiff(gray, 1, pages=2)),
        ("several", tiff(gray, 1, tags=[(330, 4, (8,))])),
        ("premultiplied", tiff(rgba, 2, tags=[(338, 3, (1,))])),
        ("4 channels", tiff(rgba, 2, tags=[(338, 3, (0,))])),
        ("16-bit images where 0 is white", tiff(deep, 0, 16)),
        ("palettes with 16 bits", tiff(gray, 3, tags=[(320, 3, [*ramp[:-1], 1])])),
        ("wrong size", tiff(gray, 3, tags=[(320, 3, ramp[:-1])])),
        ("different depths", tiff(rgb, 2, tags=[(258, 3, (5, 6, 5))])),
        ("no pixels", tiff(gray, 1, tags=[(256, 4, (0,))])),
        ("too large", tiff(gray, 1, tags=[(256, 4, (2**31,))])),
        ("does not tell its size", tiff(gray, 1)[:20]),
        ("1 strips or tiles instead of 3", tiff(gray, 1, tags=[(278, 4, (2,))])),
        ("damaged", tiff(rgb, 2, tags=[(273, 4, (10**6,))])),
    ]


@pytest.mark.parametrize(("message", "data"), odd_tiffs())
def test_odd_tiff(message, data):
    with pytest.raises(ImageError, match=message) as caught:
        read(data)
    assert "\n" not in str(caught.value)


def test_jpeg_needs_to_be_asked_for():
    file = saved(image_of("RGB"), "JPEG", dpi=(72, 72), comment=b"hi")
    with pytest.raises(JpegError, match="more room"):
        read(file)
    result = read(file, jpeg=True)
    assert result.format == "JPEG"
    assert np.array_equal(result.samples, np.asarray(loaded(file)))
    assert (result.metadata.dpi, result.metadata.comment) == ((72, 72), b"hi")
    inside = saved(image_of("RGB"), "TIFF", compression="jpeg")
    with pytest.raises(JpegError, match="TIFF"):
        read(inside)
    assert np.array_equal(read(inside, jpeg=True).samples, np.asarray(loaded(inside)))
    with pytest.raises(ImageError, match="mode CMYK"):
        read(saved(Image.new("CMYK", (8, 8)), "JPEG"), jpeg=True)


def test_several_frames_are_refused():
    frames = [Image.new("P", (9, 9), index) for index in (0, 1)]
    for frame in frames:
        frame.putpalette(bytes(range(6)))
    first, *others = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    files = [
        saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        saved(first, "WEBP", save_all=True, append_images=others, lossless=True),
        saved(first, "TIFF", save_all=True, append_images=others),
    ]
    for file in files:
        with pytest.raises(ImageError, match="several frames"):
            read(file)
    with pytest.raises(ImageError, match="animated"):
        read(saved(first, "PNG", save_all=True, append_images=others))


def test_gif_transparency_and_frame():
    image = image_of("P")
    file = saved(image, "GIF", transparency=5, optimize=False)
    result = read(file)
    assert result.transparency == b"\xff" * 5 + b"\0"
    assert to_image(result).info["transparency"] == 5
    assert loaded(write(result, ".png")).info["transparency"] == 5
    smaller = bytearray(file)
    smaller[6:8] = struct.pack("<H", image.width + 1)  # a wider screen
    with pytest.raises(ImageError, match="fill the screen"):
        read(bytes(smaller))
    few = Image.new("P", (4, 4), 2)
    few.putpalette(bytes(range(9)))
    result = read(saved(few, "GIF", optimize=False))
    assert (result.bits, len(result.palette)) == (2, 12)  # a GIF palette has a power of two


@pytest.mark.parametrize(("bits", "entries"), [(1, 2), (4, 16), (4, 5), (8, 200), (8, 256)])
def test_bmp_palettes(bits, entries):
    palette = colours(entries)
    source = Picture(samples("palette", bits, below=entries), "palette", bits, palette)
    file = write(source, ".bmp")
    assert read(file).same_pixels(source)
    assert np.array_equal(np.asarray(loaded(file)), source.samples[:, :, 0])
    assert loaded(file).getpalette() == list(palette)


@pytest.mark.parametrize("alphas", [None, bytes(range(0, 60, 3))])
def test_tga_palettes(alphas):
    source = Picture(samples("palette", 8, below=20), "palette", 8, bytes(range(60)), alphas)
    file = write(source, ".tga")
    result = read(file)
    assert result.same_pixels(source)
    image, theirs = to_image(result), loaded(file)
    assert image.getpalette("RGBA") == theirs.getpalette("RGBA")
    assert image.convert("RGBA").tobytes() == theirs.convert("RGBA").tobytes()
    assert from_image(image).same_pixels(source)


def test_32_bit_bmp_with_unused_bytes():
    image = image_of("RGB").convert("RGBA")
    image.putalpha(0)
    assert read(saved(image, "BMP")).same_pixels(from_image(image.convert("RGB")))


def test_one_pixel_tga_without_footer():
    file = write(Picture(samples("rgb+alpha", 8, 1, 1), "rgb+alpha", 8), ".tga")[:22]
    assert np.array_equal(read(file).samples, samples("rgb+alpha", 8, 1, 1))
    with pytest.raises(ImageError, match="truncated"):
        read(file[:21])


@pytest.mark.parametrize("maximum", [1, 3, 15, 255, 65535])
def test_pgm_maxima(maximum):
    bits = maximum.bit_length()
    array = samples("gray", bits)
    data = array.astype(">u2" if bits == 16 else np.uint8).tobytes()
    file = f"P5\n# a comment\n7 # another\n5 {maximum}\n".encode() + data
    result = read(file)
    assert (result.kind, result.bits) == ("gray", bits)
    assert np.array_equal(result.samples, array)
    plain = f"P2 7 5 {maximum}\n" + " ".join(str(value) for value in array.ravel())
    assert read(plain.encode()).same_pixels(result)
    assert read(write(result, ".pgm")).same_pixels(result)
    assert to_image(result).tobytes() == loaded(file).tobytes()
    assert read(write(result, ".png")).same_pixels(result)


def test_plain_and_binary_pnm():
    array = samples("gray", 1)
    digits = "".join(str(1 - value) for value in array.ravel())
    result = read(f"P1\n7 5\n{digits[:10]}\n# in between\n{digits[10:]}\n".encode())
    assert np.array_equal(result.samples, array)
    assert np.array_equal(np.asarray(loaded(write(result, ".pbm"))), array[:, :, 0])
    array = samples("rgb", 16)
    result = read(b"P6 7 5 65535\n" + array.astype(">u2").tobytes())
    assert (result.kind, result.bits) == ("rgb", 16)
    assert np.array_equal(result.samples, array)
    assert read(write(result, ".ppm")).same_pixels(result)
    text = " ".join(str(value) for value in array.ravel())
    assert read(f"P3 7 5 65535 {text}".encode()).same_pixels(result)


@pytest.mark.parametrize(
    ("message", "data"),
    [
        ("maximum of 100", b"P5 1 1 100\n\1"),
        ("maximum of 15", b"P6 1 1 15\n\1\1\1"),
        ("maximum of 0", b"P5 1 1 0\n\1"),
        ("header", b"P5 1 1"),
        ("header", b"P5 1 1 255"),
        ("header", b"P5 1 -1 255\n\0"),
        ("truncated", b"P5 2 2 255\n\0\0\0"),
        ("truncated", b"P2 2 2 255\n0 0 0"),
        ("truncated", b"P2 2 2 255\n0 0 0 # 0"),
        ("several images", b"P5 1 1 255\n\0P5 1 1 255\n\0"),
        ("above the maximum", b"P5 1 1 3\n\4"),
        ("above the maximum", b"P2 1 1 255\n256"),
        ("something else", b"P2 1 1 255\nx"),
        ("something else", b"P2 1 1 255\n1 1"),
        ("something else", b"P1 1 1\n2"),
        ("no pixels", b"P5 0 1 255\n"),
        ("too large", b"P4 4000000000 4000000000\n"),
    ],
)
def test_odd_pnm(message, data):
    with pytest.raises(ImageError, match=message):
        read(data)


def odd_files() -> list[tuple[str, bytes]]:
    rgb = saved(image_of("RGB"), "BMP")
    deep = bytearray(rgb)
    deep[28:30] = struct.pack("<H", 16)
    few = bytearray(saved(image_of("P"), "BMP"))  # two colours, black and white, with 8-bit indices
    few[46:50] = struct.pack("<I", 2)
    few[54:62] = b"\0\0\0\0\xff\xff\xff\0"
    return [
        ("not an image", b""),
        ("not an image", b"some text"),
        ("not an image", bytes(100)),
        ("16-bit BMP", bytes(deep)),
        ("few grays", bytes(few)),
        ("32-bit BMP", saved(image_of("RGBA"), "BMP")),
        ("damaged", rgb[:200]),
        ("damaged", saved(image_of("RGB"), "WEBP", lossless=True)[:100]),
        ("damaged", saved(image_of("P"), "GIF")[:900]),
        ("truncated", saved(image_of("RGB"), "TGA")[:100]),
        ("16-bit TGA", struct.pack("<BBBHHB4xHHBB", 0, 0, 2, 0, 0, 0, 1, 1, 16, 0) + bytes(20)),
        ("5 bits", struct.pack("<BBBHHB4xHHBB", 0, 1, 1, 0, 4, 16, 1, 1, 8, 0) + bytes(20)),
        ("wrong signature", b"\x89PNG\n\x1a\n" + bytes(30)),
        ("not an image", b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(30)),
    ]


@pytest.mark.parametrize(("message", "data"), odd_files())
def test_odd_files(message, data):
    with pytest.raises(ImageError, match=message) as caught:
        read(data)
    assert "\n" not in str(caught.value)


# Writing


HOLDS = {
    ".tif": {(kind, bits) for kind, bits in KINDS},
    ".webp": {("gray", 8), ("rgb", 8), ("rgb+alpha", 8)},
    ".bmp": {("gray", 1), ("gray", 8), ("palette", 1), ("palette", 4), ("palette", 8), ("rgb", 8), ("rgb+alpha", 8)},
    ".ppm": {*[("gray", bits) for bits in DEPTHS["gray"]], ("rgb", 8), ("rgb", 16)},
    ".pnm": {*[("gray", bits) for bits in DEPTHS["gray"]], ("rgb", 8), ("rgb", 16)},
    ".pgm": {("gray", bits) for bits in DEPTHS["gray"]},
    ".pbm": {("gray", 1)},
    ".tga": {(kind, 8) for kind in CHANNELS},
}


@pytest.mark.parametrize("suffix", HOLDS)
@pytest.mark.parametrize(("kind", "bits"), KINDS)
def test_formats_hold_a_picture_or_say_why_not(kind, bits, suffix):
    if suffix == ".tif" and (kind, bits) == ("gray+alpha", 16):
        pytest.importorskip("imagecodecs")
    for height, width in ((5, 7), (1, 1), (3, 50), (50, 3)):
        source = picture(kind, bits, height, width)
        if (kind, bits) in HOLDS[suffix]:
            restored = read(write(source, suffix))
            if suffix == ".webp" and kind == "gray":
                assert np.array_equal(restored.samples, np.repeat(source.samples, 3, axis=2))
            else:
                assert restored.same_pixels(source)
        else:
            with pytest.raises(ImageError, match=f"cannot be written as {suffix}: .*{bits}"):
                write(source, suffix)


@pytest.mark.parametrize("suffix", HOLDS)
def test_transparent_colours_need_png(suffix):
    for source in (picture("gray", 8, transparency=b"\0\1"), picture("rgb", 8, transparency=bytes(6))):
        with pytest.raises(ImageError, match=f"cannot be written as {suffix}"):
            write(source, suffix)


@pytest.mark.parametrize(
    ("message", "suffix", "source"),
    [
        ("256 colours", ".tif", picture("palette", 8, palette=bytes(30))),
        ("exactly the same", ".bmp", picture("palette", 1, palette=b"\0\0\0\xff\xff\xff")),
        ("opaque everywhere", ".webp", Picture(np.full((2, 2, 4), 255, np.uint8), "rgb+alpha", 8)),
        ("16383", ".webp", picture("rgb", 8, 1, 16384)),
        ("65535", ".tga", picture("rgb", 8, 1, 65536)),
        ("every colour", ".tga", picture("palette", 8, palette=bytes(30), transparency=b"\0")),
        ("gray only", ".pgm", picture("rgb", 8)),
        ("known are .png", ".gif", picture("palette", 8)),
        ("without suffix", "", picture("palette", 8)),
    ],
)
def test_what_a_format_cannot_hold(message, suffix, source):
    with pytest.raises(ImageError, match=message):
        write(source, suffix)


def test_large_png_is_filtered_in_blocks():
    """Rows of several blocks: the filter of a block's first row looks at the last row of the block before."""
    ramp = np.add.outer(np.arange(700), np.arange(900))
    array = np.stack([ramp, ramp // 2, ramp // 3], axis=2).astype(np.uint8)
    file = write(from_array(array), ".png")
    assert np.array_equal(np.asarray(loaded(file)), array)
    assert len(file) < array.size / 20  # filters do their work
    deep = (ramp * 40).astype(np.uint16)[:, :, None].repeat(4, axis=2)
    assert np.array_equal(read(write(from_array(deep), ".png")).samples, deep)
    assert np.array_equal(read(write(from_array(deep), ".tif")).samples, deep)


# Images and arrays in memory


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B"])
def test_images_in_memory(mode):
    image = image_of(mode)
    result = from_image(image)
    assert (result.format, result.mode) == ("", mode)
    again = to_image(result)
    assert (again.mode, again.tobytes(), again.getpalette()) == (mode, image.tobytes(), image.getpalette())
    assert read(write(result, ".png")).same_pixels(result)


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("1", 255, b"\0\1"),
        ("L", 7, b"\0\7"),
        ("RGB", (1, 2, 3), b"\0\1\0\2\0\3"),
        ("I;16", 258, b"\1\2"),
        ("P", 2, b"\xff\xff\0"),
        ("P", b"\1\2", b"\1\2"),
    ],
)
def test_transparency_in_memory(mode, value, expected):
    image = image_of(mode)
    image.info["transparency"] = value
    result = from_image(image)
    assert result.transparency == expected
    assert to_image(result).info["transparency"] == value
    assert loaded(write(result, ".png")).info["transparency"] == value


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV", "F", "I", "PA", "La", "RGBa", "RGBX"])
def test_modes_that_are_refused(mode):
    with pytest.raises(ImageError, match=f"mode {mode}"):
        from_image(Image.new(mode, (3, 3)))


def test_images_that_would_lose_bits():
    file = png(samples("rgb", 16), "rgb", 16)
    with pytest.raises(ImageError, match="reduced to 8 bits"):
        from_image(Image.open(io.BytesIO(file)))
    with pytest.raises(ImageError, match="reduced to 8 bits"):
        from_image(Image.open(io.BytesIO(b"P6 1 1 100\nabc")))
    assert from_image(Image.open(io.BytesIO(png(samples("gray", 16), "gray", 16)))).bits == 16


def test_metadata_in_memory():
    image = image_of("RGB")
    image.info.update(icc_profile=PROFILE, exif=b"Exif\0\0" + exif(), dpi=(96, 96), xmp=XMP, comment="text")
    metadata = from_image(image).metadata
    assert (metadata.icc_profile, metadata.exif, metadata.dpi, metadata.xmp) == (PROFILE, exif(), (96, 96), XMP)
    assert metadata.comment == b"text"
    assert to_image(from_image(image)).info["exif"] == b"Exif\0\0" + exif()
    text = loaded(write(from_image(image), ".png"))
    assert isinstance(text, PngImagePlugin.PngImageFile)
    assert text.text["Comment"] == "text"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2"])
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 2), (4, 6, 3), (4, 6, 4)])
def test_arrays(shape, dtype):
    array = np.random.default_rng(1).integers(0, 256, shape).astype(dtype)
    result = from_array(array)
    assert np.array_equal(result.samples.reshape(shape), array)
    assert result.bits == array.dtype.itemsize * 8
    assert read(write(result, ".png")).same_pixels(result)


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2)), np.zeros((2, 2, 5), np.uint8), np.zeros(3, np.uint8), np.zeros((0, 2), np.uint8)]
)
def test_arrays_that_are_no_image(array):
    with pytest.raises(ImageError):
        from_array(array)


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "cmyk"},
        {"bits": 4},
        {"bits": 16},
        {"samples": np.zeros((2, 2), np.uint8)},
        {"palette": b"abc"},
        {"transparency": b"abc"},
        {"kind": "gray", "samples": np.full((2, 2, 1), 4, np.uint8), "bits": 2},
        {"kind": "palette", "samples": np.zeros((2, 2, 1), np.uint8)},
        {"kind": "rgb+alpha", "samples": np.zeros((2, 2, 4), np.uint8), "transparency": bytes(6)},
    ],
)
def test_inconsistent_pictures(options):
    with pytest.raises(ImageError):
        Picture(**{"samples": np.zeros((2, 2, 3), np.uint8), "kind": "rgb", "bits": 8, **options})


# Metadata as bytes


def test_metadata_bytes_are_small():
    assert Metadata().to_bytes() == b""
    assert Metadata.from_bytes(b"") == Metadata()
    assert len(Metadata.of(dpi=(72, 72)).to_bytes()) <= 30
    assert len(Metadata.of(xmp=b"word " * 2000).to_bytes()) < 100


def test_too_much_metadata(monkeypatch):
    large = Metadata.of(xmp=bytes(100_000))
    packed = large.to_bytes()
    monkeypatch.setattr(module, "MAX_METADATA", 1000)
    with pytest.raises(FormatError):
        Metadata.from_bytes(packed)
    with pytest.raises(ImageError, match="too much metadata"):
        large.to_bytes()
    file = png(samples("gray", 8), "gray", 8, before=[(b"tEXt", b"a\0" + bytes(2000))])
    with pytest.raises(ImageError, match="too much metadata"):
        read(file)


@pytest.mark.parametrize("codec", [0, 1, 2])
def test_damaged_metadata(codec):
    packed = struct.pack(">B4sI", 0, b"tEXt", 5) + b"a\0bcd"
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = [
        packed,
        deflate.compress(packed) + deflate.flush(),
        module.lzma.compress(packed, module.lzma.FORMAT_RAW, filters=module._LZMA_FILTERS),
    ][codec]
    good = struct.pack(">BI", 16 + codec, zlib.crc32(packed)) + body
    assert Metadata.from_bytes(good).records == (Record(0, b"tEXt", b"a\0bcd"),)
    for data in (good[:-1], good[:4], good + b"\0", b"\x20" + good[1:], b"\x13" + good[1:], good[:5]):
        with pytest.raises(FormatError):
            Metadata.from_bytes(data)
    for record in (
        struct.pack(">B4sI", 3, b"tEXt", 0),
        struct.pack(">B4sI", 0, b"t\0Xt", 0),
        b"\0tEXt\0\0\0\1",
        b"\0tE",
    ):
        with pytest.raises(FormatError, match="record"):
            Metadata.from_bytes(struct.pack(">BI", 16, zlib.crc32(record)) + record)


TYPES = st.sampled_from([b"tEXt", b"iTXt", b"gAMA", b"prVt", b"pHYs", b"ICCP", b"EXIF", b"XMP ", b"DPI ", b"COMM"])
METADATA = st.lists(st.builds(Record, st.integers(0, 2), TYPES, st.binary(max_size=60)), max_size=4).map(
    lambda records: Metadata(tuple(records))
)


@given(METADATA)
def test_metadata_round_trip(metadata):
    assert Metadata.from_bytes(metadata.to_bytes()) == metadata


@given(METADATA, st.data())
def test_mutated_metadata(metadata, data):
    packed = bytearray(metadata.to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        if packed:
            packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    del packed[data.draw(st.integers(0, len(packed))) :]
    try:
        Metadata.from_bytes(bytes(packed))
    except FormatError as error:
        one_line(error)


@given(st.binary(max_size=80))
def test_random_metadata(data):
    for head in (b"", b"\x10", b"\x11", b"\x12"):
        try:
            Metadata.from_bytes(head + data)
        except FormatError as error:
            one_line(error)


# Random pictures, and files with random damage


@st.composite
def pictures(draw) -> Picture:
    kind, bits = draw(st.sampled_from(KINDS))
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    palette = transparency = None
    below = 1 << bits
    if kind == "palette":
        below = draw(st.integers(1, 1 << bits))
        palette = generator.integers(0, 256, 3 * below, np.uint8).tobytes()
        if draw(st.booleans()):
            transparency = generator.integers(0, 256, draw(st.integers(1, below)), np.uint8).tobytes()
    elif kind in ("gray", "rgb") and draw(st.booleans()):
        transparency = generator.integers(0, 256, 2 * CHANNELS[kind], np.uint8).tobytes()
    values = generator.integers(0, below, (height, width, CHANNELS[kind]))
    if draw(st.booleans()):
        values[:] = values[0, 0]
    array = values.astype(np.uint16 if bits == 16 else np.uint8)
    records = draw(st.lists(st.sampled_from([*TEXTS, *ANCILLARY]), max_size=3))
    metadata = Metadata(tuple(Record(0, *record) for record in records))
    return Picture(array, kind, bits, palette, transparency, "PNG", metadata=metadata)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pictures(), st.sampled_from(SUFFIXES))
def test_random_pictures(source, suffix):
    try:
        file = write(source, suffix)
    except ImageError as error:
        assert suffix != ".png"
        one_line(error, f"cannot be written as {suffix}: ")
        return
    restored = read(file)
    if suffix == ".webp" and source.kind == "gray":
        assert (restored.samples == source.samples).all()
        return
    assert restored.same_pixels(source)
    if suffix == ".png":
        assert restored.metadata == source.metadata
        assert restored.mode == source.mode


def seeds() -> list[bytes]:
    gray, rgb = picture("gray", 8), picture("rgb", 8)
    metadata = Metadata.of(PROFILE, exif(), XMP, (72, 72), b"comment")
    rich = Picture(rgb.samples, "rgb", 8, metadata=metadata)
    files = [
        write(source, suffix)
        for source, suffix in itertools.product((gray, rich), (".tif", ".bmp", ".ppm", ".tga", ".webp"))
    ]
    files += [write(picture(kind, bits), ".png") for kind, bits in KINDS]
    files += [png(samples("rgb", 8), "rgb", 8, before=TEXTS, after=ANCILLARY, interlaced=True)]
    files += [saved(image_of(mode), format, **options) for format, mode, options in modes()]
    files += [tiff(samples("rgb", 16), 2, 16), tiff(samples("gray+alpha", 16), 1, 16, tags=[(338, 3, (2,))])]
    files += [write(picture("palette", 8, palette=bytes(30)), ".bmp"), b"P2 2 2 255\n1 2 3 4", b"P1 2 2\n1010"]
    files += [saved(image_of("RGB"), "JPEG"), saved(image_of("RGB"), "TIFF", compression="jpeg")]
    return files


SEEDS = seeds()


def check_refused_or_read(data: bytes) -> None:
    try:
        result = read(data, jpeg=True, max_pixels=2**20)
    except ImageError as error:
        one_line(error)
    else:
        assert read(write(result, ".png")).same_pixels(result)


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(SEEDS), st.data())
def test_mutated_files(file, data):
    changed = bytearray(file)
    for _ in range(data.draw(st.integers(1, 5))):
        # mostly the head, where lengths and offsets are
        position = data.draw(st.one_of(st.integers(0, min(len(file), 200) - 1), st.integers(0, len(file) - 1)))
        changed[position] = data.draw(st.integers(0, 255))
    check_refused_or_read(bytes(changed))


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(SEEDS), st.data())
def test_truncated_files(file, data):
    check_refused_or_read(file[: data.draw(st.integers(0, len(file) - 1))])


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_mutated_png_with_right_checksums(data):
    """Damage that the checksums do not show."""
    kind, bits = data.draw(st.sampled_from(KINDS))
    palette = bytes(3 << bits) if kind == "palette" else None
    file = png(samples(kind, bits), kind, bits, before=ANCILLARY[:2], palette=palette)
    changed = bytearray(file)
    position = data.draw(st.integers(8, len(file) - 1))
    changed[position] = data.draw(st.integers(0, 255))
    start = 8
    while start + 12 <= len(changed):
        end = start + 8 + struct.unpack_from(">I", changed, start)[0]
        if end + 4 > len(changed):
            break
        changed[end : end + 4] = struct.pack(">I", zlib.crc32(changed[start + 4 : end]))
        start = end + 4
    check_refused_or_read(bytes(changed))


@given(st.binary(max_size=120))
def test_random_bytes(data):
    for head in (
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"II*\0",
        b"MM\0*",
        b"BM",
        b"GIF89a",
        b"P5 ",
        b"\xff\xd8\xff",
        b"RIFFxxxxWEBPVP8 ",
    ):
        check_refused_or_read(head + data)
