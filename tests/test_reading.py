"""Image files to pictures and back: every format with all its bits, or one clear line."""

import io
import struct
import zlib
from pathlib import Path

import netpbmfile
import numpy as np
import pytest
import tifffile
from PIL import Image

from ardmzip import pngfile, writing
from ardmzip.errors import ImageError
from ardmzip.files import IMAGE_FORMATS
from ardmzip.formats import Picture, from_image
from ardmzip.pixelformat import PixelFormat
from ardmzip.reading import read

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GRAY = RGB[:, :, 0].copy()
ALPHA = RNG.integers(0, 2, (5, 7), dtype=np.uint8) * np.uint8(255)
RGBA = np.dstack([RGB, ALPHA])  # with colours under transparent pixels
DEEP = RNG.integers(0, 65536, (5, 7, 4), dtype=np.uint16)
SUITE = Path(__file__).parent.parent.parent / "shared" / "data" / "pngsuite"


def saved(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def palette_image(colours: int, kind: str = "P") -> Image.Image:
    image = Image.fromarray((GRAY % colours).astype(np.uint8), "L")
    image = Image.frombytes(kind, image.size, image.tobytes())
    image.putpalette(RNG.integers(0, 256, 3 * colours, np.uint8).tobytes())
    return image


def png(samples: np.ndarray, depth: int, layout: str, *others: tuple[bytes, bytes], interlaced: bool = False) -> bytes:
    """A PNG file by this test's own hands: rows without filter, or the seven passes."""
    height, width = samples.shape[:2]
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b""
    for top, left, down, right in passes:
        for row in samples[top::down, left::right]:
            if row.size:
                bits = "".join(format(int(sample), f"0{depth}b") for sample in row.ravel())
                bits += "0" * (-len(bits) % 8)
                rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    types = {"gray": 0, "RGB": 2, "palette": 3, "gray+alpha": 4, "RGB+alpha": 6}
    head = struct.pack(">IIBBBBB", width, height, depth, types[layout], 0, 0, interlaced)
    parts = [(b"IHDR", head), *others, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return pngfile.build(pngfile.Chunk(*part) for part in parts)


def tiff16(samples: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, metadata=None, software=False, **options)
    return buffer.getvalue()


def pnm16(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    netpbmfile.imwrite(buffer, samples, maxval=65535)
    return buffer.getvalue()


LOSSLESS = {"lossless": True, "exact": True}
FILES = {
    "PNG 1": (lambda: saved(Image.fromarray(GRAY > 99), "PNG"), "gray", 1, GRAY > 99),
    "TIFF 1": (lambda: saved(Image.fromarray(GRAY > 99), "TIFF", compression="group4"), "gray", 1, GRAY > 99),
    "PBM": (lambda: saved(Image.fromarray(GRAY > 99), "PPM"), "gray", 1, GRAY > 99),
    "TIFF 4": (lambda: tiff16(GRAY % 16, bitspersample=4, photometric="minisblack"), "gray", 4, GRAY % 16),
    **{
        f"{kind} L": (lambda kind=kind: saved(GRAY, kind), "gray", 8, GRAY)
        for kind in ("PNG", "BMP", "TIFF", "PPM", "TGA")
    },
    **{
        f"{kind} RGB": (
            lambda kind=kind: saved(RGB, kind, **(LOSSLESS if kind == "WEBP" else {})), "RGB", 8, RGB,
        )
        for kind in ("PNG", "BMP", "TIFF", "PPM", "TGA", "WEBP")
    },
    **{
        f"{kind} RGBA": (
            lambda kind=kind: saved(RGBA, kind, **(LOSSLESS if kind == "WEBP" else {})), "RGB+alpha", 8, RGBA,
        )
        for kind in ("PNG", "TIFF", "TGA", "WEBP")
    },
    **{
        f"{kind} LA": (lambda kind=kind: saved(RGBA[:, :, 2:], kind), "gray+alpha", 8, RGBA[:, :, 2:])
        for kind in ("PNG", "TIFF", "TGA")
    },
    "TIFF RGBX": (
        lambda: saved(Image.frombytes("RGBX", (7, 5), RGBA.tobytes()), "TIFF"), "RGB+padding", 8, RGBA,
    ),
    "PNG 16 L": (lambda: saved(DEEP[:, :, 0], "PNG"), "gray", 16, DEEP[:, :, 0]),
    **{
        f"PNG 16 {layout}{' interlaced' * interlaced}": (
            lambda c=c, layout=layout, i=interlaced: png(DEEP[:, :, :c], 16, layout, interlaced=i),
            layout, 16, DEEP[:, :, :c] if c > 1 else DEEP[:, :, 0],
        )
        for c, layout in ((1, "gray"), (2, "gray+alpha"), (3, "RGB"), (4, "RGB+alpha"))
        for interlaced in (False, True)
    },
    "PPM 16": (lambda: pnm16(DEEP[:, :, :3]), "RGB", 16, DEEP[:, :, :3]),
    "PGM 16": (lambda: pnm16(DEEP[:, :, 0]), "gray", 16, DEEP[:, :, 0]),
    "PGM 16 plain": (lambda: b"P2 2 1 65535 1 65535", "gray", 16, np.array([[1, 65535]])),
    "PPM plain": (lambda: b"P3 1 1 255 1 2 255", "RGB", 8, np.array([[[1, 2, 255]]])),
    "TIFF 16 L": (lambda: tiff16(DEEP[:, :, 0], photometric="minisblack"), "gray", 16, DEEP[:, :, 0]),
    "TIFF 16 RGB": (
        lambda: tiff16(DEEP[:, :, :3], photometric="rgb", compression="lzw"), "RGB", 16, DEEP[:, :, :3],
    ),
    "TIFF 16 planar": (
        lambda: tiff16(DEEP[:, :, :3].transpose(2, 0, 1), photometric="rgb", planarconfig="separate", byteorder=">"),
        "RGB", 16, DEEP[:, :, :3],
    ),
    "TIFF 16 LA": (
        lambda: tiff16(DEEP[:, :, :2], photometric="minisblack", extrasamples=["unassalpha"], planarconfig="contig"),
        "gray+alpha", 16, DEEP[:, :, :2],
    ),
    "TIFF 16 RGBA": (
        lambda: tiff16(DEEP, photometric="rgb", extrasamples=["unassalpha"]), "RGB+alpha", 16, DEEP,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_samples_of_a_file(name):
    make, layout, depth, expected = FILES[name]
    picture = read(make())
    assert (picture.format.layout, picture.format.depth) == (layout, depth)
    assert picture.samples.dtype == (np.uint16 if depth == 16 else np.uint8)
    np.testing.assert_array_equal(picture.array(), expected)
    assert picture.lost == ()


def same(one: Picture, two: Picture) -> bool:
    return one.format == two.format and np.array_equal(one.samples, two.samples) and one.metadata == two.metadata


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("interlaced", [False, True])
def test_small_depths_and_palettes_of_png(depth, interlaced):
    samples = (GRAY >> (8 - depth))[:, :, None]
    picture = read(png(samples, depth, "gray", (b"tRNS", b"\0\1"), interlaced=interlaced))
    assert picture.format == PixelFormat("gray", depth, transparency=(1,))
    np.testing.assert_array_equal(picture.samples, samples)
    assert same(read(writing.write(picture, ".png")[0]), picture)

    palette = RNG.bytes(3 * (1 << depth) - 3)  # one colour less than there could be
    samples = samples % max(1, (1 << depth) - 1)
    picture = read(png(samples, depth, "palette", (b"PLTE", palette), (b"tRNS", b"\7"), interlaced=interlaced))
    assert picture.format == PixelFormat("palette", depth, palette, (7,))
    np.testing.assert_array_equal(picture.samples, samples)
    assert same(read(writing.write(picture, ".png")[0]), picture)


def test_palette_of_other_formats():
    for kind in ("TIFF", "BMP", "GIF", "TGA"):
        image = palette_image(5)
        picture = read(saved(image, kind, **({"optimize": False} if kind == "GIF" else {})))
        assert picture.format.layout == "palette"
        colours = np.frombuffer(picture.format.palette, np.uint8).reshape(-1, 3)[picture.array()]
        np.testing.assert_array_equal(colours, np.asarray(image.convert("RGB")))
    transparent = read(saved(palette_image(4), "GIF", transparency=2, optimize=False))
    assert transparent.format.transparency == (255, 255, 0)


PICTURES = [
    *(
        Picture(np.ascontiguousarray(array), PixelFormat(layout, depth))
        for layout, depth, array in (
            ("gray", 1, RGB[:, :, :1] & 1), ("gray", 2, RGB[:, :, :1] & 3), ("gray", 4, RGB[:, :, :1] & 15),
            ("gray", 8, RGB[:, :, :1]), ("gray", 16, DEEP[:, :, :1]), ("gray+alpha", 8, RGBA[:, :, 2:]),
            ("gray+alpha", 16, DEEP[:, :, :2]), ("RGB", 8, RGB), ("RGB", 16, DEEP[:, :, :3]), ("RGB+alpha", 8, RGBA),
            ("RGB+alpha", 16, DEEP), ("RGB+padding", 8, RGBA), ("RGB+padding", 16, DEEP),
        )
    ),
    Picture(RGB[:, :, :1] % 5, PixelFormat("palette", 8, bytes(range(15)))),
    Picture(RGB[:, :, :1] % 5, PixelFormat("palette", 4, bytes(range(15)), (0, 255, 9))),
    Picture(RGB, PixelFormat("RGB", 8, transparency=tuple(int(v) for v in RGB[2, 3]))),
    Picture(DEEP[:, :, :1].copy(), PixelFormat("gray", 16, transparency=(int(DEEP[1, 1, 0]),))),
]  # fmt: skip


@pytest.mark.parametrize("suffix", IMAGE_FORMATS)
@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.format.title)
def test_every_output_format_is_lossless_or_refuses(suffix, picture):
    try:
        file, lost = writing.write(picture, suffix)
    except ImageError as error:
        told = str(error)
    else:
        told = ""
    if told:
        assert suffix not in (".png", ".tif") or picture.format.transparency or "padding" in picture.format.layout
        assert "\n" not in told
        return
    kept = picture.format.depth >= 8 or suffix == ".png" or (picture.format.depth == 1 and suffix != ".webp")
    assert [text.startswith(f"samples of {picture.format.depth} bit") for text in lost] == [] if kept else [True]
    assert (read(file).format.depth == picture.format.depth) == kept
    assert writing.holds(file, picture)
    other = picture.samples.copy()
    other[-1, -1] ^= 1
    assert not writing.holds(file, Picture(other, picture.format))
    if suffix == ".png":
        assert same(read(file), picture)


def test_image_too_large_for_the_format():
    with pytest.raises(ImageError, match=r"cannot be written as \.webp"):
        writing.write(Picture(np.zeros((1, 16384, 3), np.uint8), PixelFormat("RGB")), ".webp")


def frames(kind: str, **options) -> bytes:
    return saved(RGB, kind, save_all=True, append_images=[Image.fromarray(RGB[::-1].copy())], **options)


def broken_checksum() -> bytes:
    data = bytearray(saved(RGB, "PNG"))
    data[data.index(b"IDAT") + 6] ^= 1
    return bytes(data)


REFUSED = {
    "CMYK": (lambda: saved(Image.fromarray(RGB).convert("CMYK"), "TIFF"), "mode CMYK"),
    "LAB": (lambda: saved(Image.new("LAB", (2, 2)), "TIFF"), "mode LAB"),
    "float": (lambda: saved(GRAY.astype(np.float32), "TIFF"), "mode F"),
    "32 bits": (lambda: saved(GRAY.astype(np.int32), "TIFF"), "mode I"),
    "signed 16 bits": (lambda: tiff16(DEEP[:, :, 0].astype(np.int16)), "mode I"),
    "premultiplied": (lambda: tiff16(RGBA, photometric="rgb", extrasamples=["assocalpha"]), "premultiplied"),
    "white is 0": (lambda: tiff16(DEEP[:, :, 0], photometric="miniswhite"), "MINISWHITE"),
    "deep palette": (
        lambda: tiff16(GRAY, photometric="palette", colormap=RNG.integers(0, 65536, (3, 256), np.uint16)),
        "palettes of more than 8 bits",
    ),
    "JPEG": (lambda: saved(RGB, "JPEG"), "--force-jpeg"),
    "MPO": (lambda: frames("MPO"), "--force-jpeg"),
    "JPEG 2000": (lambda: saved(RGB, "JPEG2000"), "JPEG2000 format"),
    "SGI": (lambda: saved(RGB, "SGI"), "SGI format"),
    "100 levels": (lambda: b"P6 2 1 100\n" + bytes(6), "maximum of 100"),
    "1023 levels": (lambda: b"P5 2 1 1023\n" + bytes(4), "maximum of 1023"),
    "two PGM": (lambda: 2 * saved(GRAY, "PPM"), "several frames"),
    "two pages": (lambda: frames("TIFF"), "several frames"),
    "animated PNG": (lambda: frames("PNG"), "several frames"),
    "animated WebP": (lambda: frames("WEBP"), "several frames"),
    "animated GIF": (lambda: frames("GIF"), "several frames"),
    "ardm": (lambda: b"\x9aARD\1", "already"),
    "text": (lambda: b"hello, this is not an image", "not an image"),
    "nothing": (lambda: b"", "not an image"),
    "checksum": (broken_checksum, "wrong checksum of the PNG chunk IDAT"),
    "no palette": (lambda: png(RGB[:, :, :1], 8, "palette"), "damaged image"),
    "long tRNS": (
        lambda: png(RGB[:, :, :1] * 0, 8, "palette", (b"PLTE", b"abc"), (b"tRNS", b"de")), "damaged image",
    ),
    "odd tRNS": (lambda: png(RGB, 8, "RGB", (b"tRNS", b"12345")), "damaged image"),
    "depth 3": (lambda: png(RGB[:, :, :1] & 7, 3, "gray"), "damaged image"),
    "critical": (lambda: png(RGB, 8, "RGB", (b"ABCD", b"")), "unknown critical PNG chunk ABCD"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_files(name):
    make, message = REFUSED[name]
    with pytest.raises(ImageError, match=message) as caught:
        read(make())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_truncated_files_are_refused(name):
    data = FILES[name][0]()
    if "plain" in name:
        pytest.skip("a plain number may end anywhere")
    if name.startswith("TGA"):
        data = data[:-26]  # a footer that readers may ignore
    for length in sorted({*range(0, min(len(data), 40), 3), len(data) // 2, len(data) * 3 // 4}):
        with pytest.raises(ImageError) as caught:
            read(data[:length])
        assert "\n" not in str(caught.value)


def test_tiff_file_without_a_directory_is_truncated():
    for data in (saved(RGB, "TIFF")[:8], b"II*\0\0\0\0\0"):
        with pytest.raises(ImageError, match="damaged image: the TIFF file is truncated"):
            read(data)


def test_sources_compressed_with_loss():
    for image in (RGB, RGBA):
        assert read(saved(image, "WEBP", quality=30)).lossy
        assert not read(saved(image, "WEBP", **LOSSLESS)).lossy
    assert read(saved(RGB, "JPEG"), force_jpeg=True).lossy
    assert read(saved(RGB, "TIFF", compression="jpeg")).lossy
    for kind in ("TIFF", "PNG", "BMP", "GIF"):
        assert not read(saved(RGB, kind)).lossy


def test_jpeg_by_force():
    picture = read(saved(RGB, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"), force_jpeg=True)
    assert picture.format == PixelFormat("RGB")
    assert b"eXIf" in [chunk.kind for chunk in picture.metadata]
    with pytest.raises(ImageError, match="several frames"):
        read(frames("MPO"), force_jpeg=True)
    with pytest.raises(ImageError, match="mode CMYK"):
        read(saved(Image.fromarray(RGB).convert("CMYK"), "JPEG"), force_jpeg=True)


def test_limit_of_pixels(monkeypatch):
    """Pillow refuses images of 179 million pixels by itself; here its limit is smaller than the images."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    pixels = RGB.shape[0] * RGB.shape[1]
    files = [saved(RGB, kind) for kind in ("PNG", "TIFF", "PPM", "BMP", "WEBP")]
    for file in (*files, tiff16(DEEP[:, :, :3], photometric="rgb")):
        picture = read(file)
        assert picture.width * picture.height == read(file, max_pixels=pixels).samples[:, :, 0].size == pixels
        with pytest.raises(ImageError, match=rf"over the limit of {pixels - 1} pixels \(--max-pixels\)"):
            read(file, max_pixels=pixels - 1)
        assert writing.holds(file, picture)
    assert Image.MAX_IMAGE_PIXELS == 10


def suite() -> list[str]:
    return sorted(path.name for path in SUITE.glob("*.png"))


@pytest.mark.skipif(not suite(), reason="PngSuite is not there")
@pytest.mark.parametrize("name", suite())
def test_png_suite(name):
    import ardmzip
    from ardmzip import api

    data = (SUITE / name).read_bytes()
    if name.startswith("x"):
        with pytest.raises(ImageError) as caught:
            read(data)
        assert "\n" not in str(caught.value)
        return
    picture = read(data)
    restored = api.restore(ardmzip.compress(picture))
    assert same(restored, picture)
    file, lost = writing.write(restored, ".png")
    assert lost == []
    # chunk by chunk, apart from their order, the coded pixels and the marks of interlacing
    before, after = ({(c.kind, c.data) for c in pngfile.chunks(png) if c.kind != b"IDAT"} for png in (data, file))
    head = pngfile.header(pngfile.chunks(data))
    assert pngfile.header(pngfile.chunks(file)) == pngfile.Header(head.width, head.height, head.depth, head.layout)
    assert {item for item in before if item[0] != b"IHDR"} == {item for item in after if item[0] != b"IHDR"}
    with Image.open(io.BytesIO(data)) as one, Image.open(io.BytesIO(file)) as two:
        one.load()
        two.load()
        assert (one.mode, one.size, one.tobytes()) == (two.mode, two.size, two.tobytes())
        assert one.info | {"interlace": 0} == two.info | {"interlace": 0}


def test_odd_tiff_files_are_refused_in_one_line():
    """Of a kind that nobody knows; and with a sample that no tag explains."""
    good = tiff16(np.zeros((3, 4), np.uint16), photometric="minisblack")
    tag = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
    assert good.count(tag) == 1
    four = tiff16(np.zeros((3, 4, 4), np.uint16), photometric="rgb", extrasamples=["unassalpha"])
    extra = struct.pack("<HHIHH", 338, 3, 1, 2, 0)
    assert four.count(extra) == 1
    for file in (
        good.replace(tag, struct.pack("<HHIHH", 262, 3, 1, 9999, 0)),
        four.replace(extra, struct.pack("<HHIHH", 60000, 3, 1, 2, 0)),
    ):
        with pytest.raises(ImageError) as caught:
            read(file)
        assert "\n" not in str(caught.value)


def test_metadata_that_cannot_be_kept_is_refused():
    image = Image.new("RGB", (3, 2))
    image.info["gamma"] = -1.0
    with pytest.raises(ImageError, match="metadata that cannot be kept"):
        from_image(image)
