"""Images in and out: planes in coding order, and one clear line for each kind that cannot be stored."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from ardmzip.errors import ImageError
from ardmzip.image import from_planes, interleaved, read_image, to_planes

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GRAY = RGB[:, :, 0].copy()


def saved(image: Image.Image, kind: str, **options) -> io.BytesIO:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    buffer.seek(0)
    return buffer


def png16(colour_type: int, samples: int) -> bytes:
    """A 16-bit PNG of 2 x 2 pixels; Pillow cannot write RGB ones."""
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + bytes(range(4 * samples))
    header = struct.pack(">IIBBBBB", 2, 2, 16, colour_type, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(row * 2)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff16() -> bytes:
    """A 16-bit RGB TIFF of 2 x 2 pixels."""
    data = np.arange(12, dtype="<u2").tobytes()
    tags = [
        (256, 3, 1, 2), (257, 3, 1, 2), (258, 3, 3, 122), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 128),
        (277, 3, 1, 3), (278, 3, 1, 2), (279, 4, 1, len(data)),
    ]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    head = b"II*\0" + struct.pack("<I", 8) + directory
    assert len(head) == 122
    return head + struct.pack("<HHH", 16, 16, 16) + data


def sgi16() -> bytes:
    """A 16-bit RGB SGI image of 2 x 2 pixels."""
    header = struct.pack(">HBBHHHHll", 474, 0, 2, 3, 2, 2, 3, 0, 65535)
    return header + bytes(512 - len(header)) + np.arange(12, dtype=">u2").tobytes()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
@pytest.mark.parametrize("pixels", [RGB, GRAY], ids=["rgb", "gray"])
def test_lossless_formats(kind, pixels):
    if kind == "WEBP" and pixels.ndim == 2:
        pytest.skip("WebP has no gray images")
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    image = read_image(saved(Image.fromarray(pixels), kind, **options))
    planes = to_planes(image)
    restored = from_planes(planes)
    assert restored.mode == image.mode == ("RGB" if pixels.ndim == 3 else "L")
    np.testing.assert_array_equal(np.asarray(restored), pixels)


def test_planes():
    planes = to_planes(RGB)
    assert planes.flags.c_contiguous
    np.testing.assert_array_equal(planes, RGB.transpose(2, 0, 1)[[1, 0, 2]])  # G, R, B
    np.testing.assert_array_equal(interleaved(planes), RGB)
    np.testing.assert_array_equal(to_planes(Image.fromarray(RGB)), planes)
    for gray in (GRAY, GRAY[:, :, None], Image.fromarray(GRAY), np.asfortranarray(GRAY)):
        np.testing.assert_array_equal(to_planes(gray), GRAY[None])
    np.testing.assert_array_equal(interleaved(GRAY[None]), GRAY)
    np.testing.assert_array_equal(to_planes(RGB[::-1, ::2]), planes[:, ::-1, ::2])
    assert to_planes(RGB[:1, :1]).shape == (3, 1, 1)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (RGB.astype(np.uint16), "only 8-bit"),
        (RGB.astype(float), "only 8-bit"),
        (GRAY > 3, "only 8-bit"),
        (RGB[:, :, :2], "only RGB and gray"),
        (np.dstack([RGB, GRAY]), "only RGB and gray"),
        (RGB[None], "only RGB and gray"),
        (RGB[0, 0], "only RGB and gray"),
        (np.uint8(3), "only RGB and gray"),
        (RGB[:0], "no pixels"),
        (GRAY[:, :0], "no pixels"),
    ],
)
def test_refused_arrays(array, message):
    with pytest.raises(ImageError, match=message) as caught:
        to_planes(array)
    assert "\n" not in str(caught.value)


MODES = ["1", "P", "PA", "LA", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F"]


@pytest.mark.parametrize("mode", MODES)
def test_refused_modes(mode):
    with pytest.raises(ImageError, match=f"not mode {mode}$"):
        to_planes(Image.new(mode, (3, 2)))


FILES = {
    "palette": (lambda: saved(Image.fromarray(GRAY).convert("P"), "PNG"), "mode P"),
    "one bit": (lambda: saved(Image.fromarray(GRAY).convert("1"), "PNG"), "mode 1"),
    "alpha": (lambda: saved(Image.fromarray(RGB).convert("RGBA"), "PNG"), "mode RGBA"),
    "gray with alpha": (lambda: saved(Image.fromarray(GRAY).convert("LA"), "PNG"), "mode LA"),
    "transparent colour": (lambda: saved(Image.fromarray(RGB), "PNG", transparency=(1, 2, 3)), "transparent colour"),
    "transparent gray": (lambda: saved(Image.fromarray(GRAY), "PNG", transparency=7), "transparent colour"),
    "16-bit gray PNG": (lambda: io.BytesIO(png16(0, 1)), "only 8-bit"),
    "16-bit RGB PNG": (lambda: io.BytesIO(png16(2, 3)), "only 8-bit"),
    "16-bit RGB TIFF": (lambda: io.BytesIO(tiff16()), "only 8-bit|format"),
    "16-bit RGB SGI": (lambda: io.BytesIO(sgi16()), "only 8-bit|format"),
    "16-bit gray TIFF": (lambda: saved(Image.fromarray(GRAY.astype(np.uint16)), "TIFF"), "only 8-bit"),
    "float TIFF": (lambda: saved(Image.fromarray(GRAY.astype(np.float32)), "TIFF"), "mode F"),
    "CMYK JPEG": (lambda: saved(Image.fromarray(RGB).convert("CMYK"), "JPEG"), "mode CMYK"),
    "16-bit PPM": (lambda: io.BytesIO(b"P6 2 1 65535\n" + bytes(12)), "only 8-bit"),
    "16-bit PGM": (lambda: io.BytesIO(b"P5 2 1 65535\n" + bytes(4)), "only 8-bit"),
    "PPM of 100 levels": (lambda: io.BytesIO(b"P6 2 1 100\n" + bytes(6)), "only 8-bit"),
    "PGM of 3 levels": (lambda: io.BytesIO(b"P5 2 1 3\n" + bytes(2)), "only 8-bit"),
    "several frames": (
        lambda: saved(Image.fromarray(RGB), "TIFF", save_all=True, append_images=[Image.fromarray(RGB[::-1])]),
        "several frames",
    ),
    "animated PNG": (
        lambda: saved(Image.fromarray(RGB), "PNG", save_all=True, append_images=[Image.fromarray(RGB[::-1].copy())]),
        "several frames",
    ),
    "text": (lambda: io.BytesIO(b"hello, this is not an image"), "not an image"),
    "nothing": (lambda: io.BytesIO(b""), "not an image"),
    "truncated PNG": (lambda: io.BytesIO(saved(Image.fromarray(RGB), "PNG").getvalue()[:-40]), "damaged image"),
    "truncated BMP": (lambda: io.BytesIO(saved(Image.fromarray(RGB), "BMP").getvalue()[:-40]), "damaged image"),
}


@pytest.mark.parametrize("name", list(FILES))
def test_refused_files(name):
    make, message = FILES[name]
    with pytest.raises(ImageError, match=message) as caught:
        read_image(make())
    assert "\n" not in str(caught.value)
    assert str(caught.value)


def test_damaged_pixels_of_a_png():
    data = bytearray(saved(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), "PNG").getvalue())
    data[len(data) // 2] ^= 255
    with pytest.raises(ImageError, match="damaged image"):
        read_image(io.BytesIO(bytes(data)))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_truncated_image_that_is_not_loaded(kind):
    with (
        Image.open(io.BytesIO(saved(Image.fromarray(RGB), kind).getvalue()[:-40])) as image,
        pytest.raises(ImageError),
    ):
        to_planes(image)


def test_too_large(monkeypatch):
    file = saved(Image.fromarray(RGB), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ImageError, match="too large"):
        read_image(file)


def test_missing_file_keeps_its_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "nothing.png")
