"""Metadata: from files and PIL images, through a .ardm file, into files and ``Image.info``."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

import ardmzip
from ardmzip import api, metadata, stored, writing
from ardmzip.container import unpack
from ardmzip.errors import FormatError
from ardmzip.pngfile import Chunk
from ardmzip.reading import read

RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>\xc3\xa4</x:xmpmeta>"


def exif() -> Image.Exif:
    block = Image.Exif()
    block[0x010E], block[0x0112] = "description", 6
    block.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0comment"
    block.get_ifd(0x8825)[1] = "N"
    return block


def saved(kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, kind, **options)
    return buffer.getvalue()


def full_png() -> bytes:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Title", "a title")
    texts.add_text("Comment", "long " * 100, zip=True)
    texts.add_itxt("Author", "\u00e4\u4e16", "de", "Autor", zip=True)
    texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
    texts.add(b"gAMA", (45455).to_bytes(4, "big"))
    texts.add(b"cICP", bytes([9, 16, 0, 1]))
    texts.add(b"tIME", bytes([7, 230, 1, 2, 3, 4, 5]))
    texts.add(b"prVt", b"private, may be copied")
    return saved("PNG", pnginfo=texts, icc_profile=ICC, exif=exif(), dpi=(300, 200))


def info_of(file: bytes) -> dict:
    with Image.open(io.BytesIO(file)) as image:
        image.load()
        return image.info


def test_png_keeps_everything():
    data = full_png()
    picture = read(data)
    restored = api.restore(ardmzip.compress(picture))
    assert restored.metadata == picture.metadata
    file, lost = writing.write(restored, ".png")
    assert lost == []
    assert info_of(file) == info_of(data)
    assert sorted(read(file).metadata) == sorted(picture.metadata)
    assert {"EXIF data", "colour profile", "XMP data", "text", "gamma", "resolution"} <= set(
        metadata.titles(picture.metadata)
    )


def test_strip():
    data = ardmzip.compress(read(full_png()), strip=True)
    assert unpack(data).metadata is None
    assert api.restore(data).metadata == ()
    assert data == ardmzip.compress(RGB)


def test_chunks_that_may_not_be_copied_are_told():
    texts = PngImagePlugin.PngInfo()
    texts.add(b"caBX", b"signed")
    picture = read(saved("PNG", pnginfo=texts))
    assert (picture.metadata, picture.lost) == ((), ("chunk caBX",))


@pytest.mark.parametrize("source", ["TIFF", "WEBP", "JPEG", "PNG"])
@pytest.mark.parametrize("target", [".png", ".tif", ".webp"])
def test_between_formats(source, target):
    options: dict = {"icc_profile": ICC, "exif": exif().tobytes(), "xmp": XMP}
    if source == "TIFF":
        block = Image.Exif()
        block.load(exif().tobytes())
        block[700] = options.pop("xmp")
        del block[0x0112]  # Pillow turns TIFF images
        options["exif"] = block
    if source == "WEBP":
        options |= {"lossless": True, "exact": True}
    else:
        options["dpi"] = (300, 300)
    if source == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", options.pop("xmp").decode())
        options["pnginfo"] = texts
    picture = read(saved(source, **options), force_jpeg=True)
    file, lost = writing.write(api.restore(ardmzip.compress(picture)), target)
    assert lost == (["resolution"] if target == ".webp" and source != "WEBP" else [])
    found = info_of(file)
    assert found["icc_profile"] == ICC
    assert (found.get("xmp") or found["XML:com.adobe.xmp"].encode()).rstrip(b"\0") == XMP
    if target != ".webp" and source != "WEBP":
        assert found["dpi"] == pytest.approx((300, 300), abs=0.01)
    with Image.open(io.BytesIO(file)) as image:
        tags = image.getexif()
        assert tags[0x010E] == "description"
        assert tags.get_ifd(0x8769)[0x9286] == b"ASCII\0\0\0comment"
        assert tags.get_ifd(0x8825)[1] == "N"
        assert target == ".tif" or source == "TIFF" or tags[0x0112] == 6


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_tags_that_pillow_tells(compression):
    block = Image.Exif()
    if compression is None:  # Pillow cannot write these tags otherwise
        block.load(exif().tobytes())
        del block[0x0112]
    block[33723], block[42112], block[65000], block[33550] = b"\x1c\x02\0", "<GDALMetadata/>", 7, (0.5, 0.25, 0.0)
    with Image.open(io.BytesIO(saved("TIFF", exif=block, compression=compression))) as image:
        found = ardmzip.decompress(ardmzip.compress(image)).getexif()
    assert [found[tag] for tag in (33723, 42112, 65000, 33550)] == [
        b"\x1c\x02\0",
        "<GDALMetadata/>",
        7,
        (0.5, 0.25, 0.0),
    ]
    assert compression or found.get_ifd(0x8769)[0x9286] == b"ASCII\0\0\0comment"


def test_what_a_format_cannot_hold_is_told():
    picture = read(full_png())
    everything = metadata.titles(picture.metadata)
    for suffix, held in ((".ppm", set()), (".bmp", {"resolution"})):
        _, lost = writing.write(picture, suffix)
        assert set(lost) == set(everything) - held
    assert "gamma" in writing.write(picture, ".tif")[1]


def test_comments():
    assert read(saved("GIF", comment=b"hello")).metadata == (Chunk(b"tEXt", b"Comment\0hello"),)


def test_info_of_pil_images():
    with Image.open(io.BytesIO(full_png())) as image:
        data = ardmzip.compress(image)
        before = dict(image.info)
    found = ardmzip.decompress(data).info
    for key in ("Title", "Comment", "Author", "icc_profile", "exif", "gamma", "XML:com.adobe.xmp"):
        assert found[key] == before[key]
    assert found["dpi"] == pytest.approx(before["dpi"])
    assert found["Author"].lang == "de"
    again = Image.fromarray(RGB)
    again.info = {"srgb": 1, "chromaticity": (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06), "odd": object(), 5: "x"}
    found = ardmzip.decompress(ardmzip.compress(again)).info
    assert found == {"srgb": 1, "chromaticity": again.info["chromaticity"]}


names = st.sampled_from([b"tEXt", b"iCCP", b"abCd", b"PLTE"])


@given(st.lists(st.tuples(names, st.binary(max_size=200)), min_size=1, max_size=5))
def test_pack(items):
    chunks = [Chunk(*item) for item in items]
    assert metadata.unpack(metadata.pack(chunks)) == chunks
    assert isinstance(metadata.to_info(chunks), dict)  # whatever Pillow says of it


def coded(data: bytes, coder: int = 0, size: int | None = None) -> bytes:
    size = len(data) if size is None else size
    return bytes([coder, size]) + stored.press(coder, data)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "too early"),
        (b"\0\0", "must not be 0"),
        (coded(b"tEXt\1a")[:-1], "others are found"),
        (coded(b"tEXt\1a") + b"x", "others are found"),
        (coded(b"tEXt\2a"), "too early"),
        (coded(b"tE1t\1a"), "no name"),
        (coded(b"tRNS\1a"), "tRNS is no metadata"),
        (coded(b"IDAT\1a"), "IDAT is no metadata"),
        (coded(b"ABCD\1a"), "ABCD is no metadata"),
        (b"\3\1a", "unknown coder 3"),
        (b"\1\1\xff", "damaged Deflate"),
        (b"\2\1\x03\xff\xff", "damaged LZMA2"),
        (b"\1\x81\x80\x80\x80\x01" + stored.press(1, b"a"), "over the limit"),
    ],
)
def test_malformed_metadata(payload, message):
    with pytest.raises(FormatError, match=message) as caught:
        metadata.unpack(payload)
    assert "\n" not in str(caught.value)
