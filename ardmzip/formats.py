"""Pictures: samples, what they mean, and metadata; from and to arrays and PIL images."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from ardmzip import metadata
from ardmzip.errors import ImageError
from ardmzip.pixelformat import PixelFormat
from ardmzip.pngfile import Chunk

#: PIL modes that are taken, and their formats. Of mode P the palette is missing.
_MODES = {
    "1": ("gray", 1), "L": ("gray", 8), "I;16": ("gray", 16), "I;16L": ("gray", 16), "I;16B": ("gray", 16),
    "LA": ("gray+alpha", 8), "RGB": ("RGB", 8), "RGBA": ("RGB+alpha", 8), "RGBX": ("RGB+padding", 8),
    "P": ("palette", 8),
}  # fmt: skip
_MODE_OF = {("gray", 1): "1", ("gray", 16): "I;16"} | {
    (layout, 8): mode for mode, (layout, depth) in _MODES.items() if depth == 8
}
_LAYOUT_OF_CHANNELS = {1: "gray", 2: "gray+alpha", 3: "RGB", 4: "RGB+alpha"}
#: Formats that Pillow reads without loss, None being an image made in memory. JPEG 2000, AVIF, SGI and others may hold
#: more than 8 bits, which Pillow drops without a word.
_FORMATS = (None, "ARDM", "BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")


@dataclass(frozen=True, eq=False)
class Picture:
    """An image as it is stored.

    samples: uint8, or uint16 if there are 16 bits, [height, width, channels], each below 2 ** depth: palettes give
    numbers of colours, and what has fewer than 8 bits is not scaled.
    """

    samples: np.ndarray
    format: PixelFormat
    metadata: tuple[Chunk, ...] = ()
    #: What the source has, and the picture has not, for people.
    lost: tuple[str, ...] = ()
    #: Whether the source was compressed with loss: then it is small, for its pixels.
    lossy: bool = False

    @property
    def height(self) -> int:
        return int(self.samples.shape[0])

    @property
    def width(self) -> int:
        return int(self.samples.shape[1])

    def array(self) -> np.ndarray:
        """The samples, [height, width] if there is one channel."""
        return self.samples if self.format.channels > 1 else self.samples[:, :, 0]

    def scaled(self) -> np.ndarray:
        """``array`` with gray of fewer than 8 bits spread over 0 to 255, as Pillow has it."""
        factor = spread(self.format)
        return self.array() if factor == 1 else self.array() * np.uint8(factor)


def spread(described: PixelFormat) -> int:
    """The factor that spreads gray of fewer than 8 bits over 0 to 255; 1 for all else."""
    if described.layout != "gray" or described.depth > 4:
        return 1
    return 255 // ((1 << described.depth) - 1)


@contextlib.contextmanager
def image_errors() -> Iterator[None]:
    """What Pillow raises for a file that holds no good image becomes ImageError."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise ImageError("not an image, or of an unknown format") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"too large: {error}") from error
    except (SyntaxError, ValueError, EOFError, TypeError, LookupError, OverflowError, struct.error) as error:
        raise ImageError(f"damaged image: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ImageError(f"damaged image: {error}") from error


def check(image: Image.Image) -> None:
    """Raise ImageError unless the image is a single picture that Pillow reads without loss."""
    if getattr(image, "n_frames", 1) > 1:
        raise ImageError("images with several frames or pages are not supported")
    if image.format not in _FORMATS:
        raise ImageError(f"images in {image.format} format are not supported")
    if image.mode not in _MODES:
        raise ImageError(f"images of mode {image.mode} are not supported")
    if image.width < 1 or image.height < 1:
        raise ImageError("the image has no pixels")
    # how Pillow will decode a file that is not loaded yet: (codec, box, offset, arguments)
    for tile in getattr(image, "tile", []):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        reduced = any(isinstance(argument, str) and "16" in argument for argument in arguments)
        if image.format == "PPM":
            reduced = len(arguments) > 1 and isinstance(arguments[-1], int) and arguments[-1] != 255
        if reduced and not image.mode.startswith("I;16") and image.format != "BMP":
            raise ImageError("Pillow reduces this image to 8 bits: give the name of its file, or an array")


def from_image(image: Image.Image, chunks: Sequence[Chunk] | None = None) -> Picture:
    """The picture of a PIL image as it is, with ``chunks`` as its metadata, or that which Pillow tells.

    Raises ImageError for what cannot be stored.
    """
    with image_errors():  # it need not be loaded yet
        check(image)
        image.load()
    check(image)  # some formats know their mode only now
    layout, depth = _MODES[image.mode]
    palette, alpha = _palette(image) if image.mode == "P" else (b"", b"")
    samples = np.asarray(image)
    samples = samples.astype(np.uint16 if depth == 16 else np.uint8)
    return Picture(
        samples.reshape(image.height, image.width, -1),
        described(layout, depth, palette, _transparency(image, layout, alpha)),
        tuple(metadata.of_image(image) if chunks is None else chunks),
    )


def described(layout: str, depth: int, palette: bytes = b"", transparency: tuple[int, ...] = ()) -> PixelFormat:
    """A pixel format; ImageError for what cannot be."""
    try:
        return PixelFormat(layout, depth, palette, transparency)
    except ValueError as error:
        raise ImageError(f"damaged image: {error}") from error


def _palette(image: Image.Image) -> tuple[bytes, bytes]:
    """(colours, alpha of each or nothing) of an image of mode P."""
    colours = image.im.getpalette("RGB", "RGB")
    if image.im.getpalettemode() != "RGBA":
        return colours, b""
    return colours, image.im.getpalette("RGBA", "A")


def _transparency(image: Image.Image, layout: str, alpha: bytes) -> tuple[int, ...]:
    found = image.info.get("transparency")
    if layout == "palette":
        if isinstance(found, int):
            return (255,) * found + (0,)
        return tuple(alpha or found or b"")
    if found is None or layout not in ("gray", "RGB"):
        return ()
    numbers = found if isinstance(found, tuple) else (found,)
    if image.mode == "1" and numbers == (255,):
        return (1,)  # as Pillow has it, white is 255
    if not all(isinstance(number, int) for number in numbers):
        raise ImageError(f"a transparent colour {found!r} does not fit mode {image.mode}")
    return numbers


def from_array(array: np.ndarray) -> Picture:
    """The picture of an array uint8 or uint16, [height, width] or [height, width, 1 to 4]."""
    array = np.asarray(array)
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise ImageError(f"arrays of type {array.dtype} are not supported, only uint8 and uint16")
    samples = array[:, :, None] if array.ndim == 2 else array
    if samples.ndim != 3 or samples.shape[2] not in _LAYOUT_OF_CHANNELS:
        raise ImageError(f"an array of shape {array.shape} is no image: [height, width] or [height, width, 1 to 4]")
    if 0 in samples.shape:
        raise ImageError("the image has no pixels")
    layout = _LAYOUT_OF_CHANNELS[samples.shape[2]]
    depth = 8 * samples.dtype.itemsize
    return Picture(np.ascontiguousarray(samples, np.uint8 if depth == 8 else np.uint16), PixelFormat(layout, depth))


def mode(described: PixelFormat) -> str | None:
    """The PIL mode of a format, None if Pillow has none."""
    depth = 8 if described.layout == "palette" or described.depth in (2, 4) else described.depth
    return _MODE_OF.get((described.layout, depth))


def require_mode(described: PixelFormat) -> str:
    """The PIL mode of a format; raises ImageError if Pillow has none."""
    found = mode(described)
    if found is None:
        raise ImageError(f"Pillow has no mode for {described.title} images: use ardmzip.decompress_array")
    return found


def to_image(picture: Picture) -> Image.Image:
    """The PIL image of a picture, with its metadata in ``info``; raises ImageError if Pillow has no mode for it."""
    found = require_mode(picture.format)
    if found == "1":
        image = Image.fromarray(picture.scaled()).convert("1", dither=Image.Dither.NONE)
    elif found in ("P", "RGBX"):
        image = Image.frombytes(found, (picture.width, picture.height), picture.samples.tobytes())
        if found == "P":
            image.putpalette(picture.format.palette)
    else:
        image = Image.fromarray(np.ascontiguousarray(picture.scaled()))
    image.info.update(info(picture.format, picture.metadata))
    return image


def info(described: PixelFormat, chunks: tuple[Chunk, ...]) -> dict:
    """``Image.info`` of a picture."""
    found = metadata.to_info(chunks) if chunks else {}
    transparency = described.transparency
    if described.layout == "palette" and transparency:
        # as Pillow has it: a single colour that is transparent is given by its number
        simple = transparency.count(0) == 1 and transparency.count(255) == len(transparency) - 1
        found["transparency"] = transparency.index(0) if simple else bytes(transparency)
    elif transparency:
        numbers = tuple(number * spread(described) for number in transparency)
        found["transparency"] = numbers if len(numbers) > 1 else numbers[0]
    return found
