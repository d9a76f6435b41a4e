"""Image files from and to bytes. Imported by commands only when they need Pillow."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator

from PIL import Image

from ardmzip.container import MAX_PIXELS, is_ardm
from ardmzip.errors import ImageError
from ardmzip.files import IMAGE_FORMATS
from ardmzip.image import read_image

# Pillow's names for what an image file may carry beside its pixels
_METADATA = {"exif": "EXIF data", "icc_profile": "colour profile", "xmp": "XMP data", "XML:com.adobe.xmp": "XMP data"}


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image of a file's bytes; one of more pixels is refused before they are read."""
    if is_ardm(data):
        raise ImageError("this is an .ardm file already")
    try:
        with _pillow_limit(max_pixels):
            return read_image(io.BytesIO(data))
    except ImageError as error:
        if isinstance(error.__cause__, Image.DecompressionBombError):
            raise ImageError(f"the image is over the limit of {max_pixels} pixels (--max-pixels)") from error
        raise


@contextlib.contextmanager
def _pillow_limit(pixels: int | None) -> Iterator[None]:
    """Our limit instead of Pillow's, which is lower, and without its warning: large images are welcome."""
    usual = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None if pixels is None else pixels / 2  # type: ignore[assignment]  # it allows twice that
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = usual


def metadata(image: Image.Image) -> list[str]:
    """What the image carries that an .ardm file cannot hold yet."""
    return list(dict.fromkeys(text for key, text in _METADATA.items() if image.info.get(key)))


def encode(image: Image.Image, suffix: str) -> bytes:
    """An image file, complete in memory, so that a failure leaves nothing behind."""
    if suffix == ".pgm" and image.mode != "L":
        raise ImageError("a .pgm file holds gray only, and this image is RGB: use .ppm")
    options = {"lossless": True} if suffix == ".webp" else {}
    buffer = io.BytesIO()
    try:
        image.save(buffer, IMAGE_FORMATS[suffix], **options)
    except (ValueError, OSError) as error:
        raise ImageError(f"cannot be written as {suffix}: {error}") from error
    return buffer.getvalue()


def holds(file: bytes, image: Image.Image) -> bool:
    """Whether an image file gives back the pixels; gray in a format without gray counts."""
    with _pillow_limit(None), Image.open(io.BytesIO(file)) as restored:
        return restored.size == image.size and restored.convert(image.mode).tobytes() == image.tobytes()
