"""PIL images <-> planes in coding order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from ardmzip.errors import ImageError

#: R, G, B -> coding order G, R, B. The permutation is its own inverse.
_CODING_ORDER = [1, 0, 2]


def read_image(source: str | Path | IO[bytes]) -> Image.Image:
    """Open and fully read an 8-bit RGB or gray image; anything else raises ImageError with one clear line."""
    with _image_errors():
        image = Image.open(source)
        check_image(image)
        image.load()
    return image


@contextlib.contextmanager
def _image_errors() -> Iterator[None]:
    """What Pillow raises for a file that holds no good image becomes ImageError."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise ImageError("not an image, or of an unknown format") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"too large: {error}") from error
    except (SyntaxError, ValueError, EOFError) as error:
        raise ImageError(f"damaged image: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ImageError(f"damaged image: {error}") from error


def check_image(image: Image.Image) -> None:
    """Raise ImageError unless the image is a single 8-bit RGB or gray picture without transparency."""
    if getattr(image, "n_frames", 1) > 1:
        raise ImageError("images with several frames or pages are not supported yet")
    if image.mode not in ("RGB", "L"):
        raise ImageError(f"only 8-bit RGB and gray images are supported yet, not mode {image.mode}")
    if "transparency" in image.info:
        raise ImageError("images with a transparent colour are not supported yet")
    _check_depth(image)
    if image.width < 1 or image.height < 1:
        raise ImageError("the image has no pixels")


#: Formats whose depth Pillow tells, None being an image made in memory. JPEG 2000, AVIF, SGI and others may hold more
#: than 8 bits, which Pillow drops without a word.
_FORMATS = (None, "BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")


def _check_depth(image: Image.Image) -> None:
    """Pillow reduces more than 8 bits to 8 on reading some formats: never do that silently."""
    if image.format not in _FORMATS:
        raise ImageError(f"images in {image.format} format are not supported yet")
    # how Pillow will decode a file that is not loaded yet: (codec, box, offset, arguments)
    for tile in getattr(image, "tile", []):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if image.format == "PPM":
            if len(arguments) > 1 and isinstance(arguments[-1], int) and arguments[-1] != 255:
                raise ImageError("only 8-bit images with a maximum of 255 are supported yet")
        elif image.format != "BMP" and any(isinstance(argument, str) and "16" in argument for argument in arguments):
            raise ImageError("only 8-bit images are supported yet, not 16 bits a channel")


def to_planes(image: Image.Image | np.ndarray) -> np.ndarray:
    """uint8 [3, height, width] in coding order (G, R, B), or [1, height, width] for gray.

    ``image``: a PIL image of mode RGB or L, or a uint8 array [height, width], [height, width, 1] or
    [height, width, 3] (RGB). Raises ImageError for anything else.
    """
    if isinstance(image, Image.Image):
        with _image_errors():  # it need not be loaded yet
            check_image(image)
            image.load()
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise ImageError(f"only 8-bit images are supported yet, not {array.dtype}")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3):
        raise ImageError(f"only RGB and gray images are supported yet, not an array of shape {array.shape}")
    if 0 in array.shape:
        raise ImageError("the image has no pixels")
    planes = array.transpose(2, 0, 1)
    return np.ascontiguousarray(planes[_CODING_ORDER] if len(planes) == 3 else planes)


def from_planes(planes: np.ndarray) -> Image.Image:
    """The PIL image (mode RGB or L) of planes in coding order."""
    return Image.fromarray(interleaved(planes))


def interleaved(planes: np.ndarray) -> np.ndarray:
    """uint8 [height, width, 3] RGB or [height, width]: the raster whose CRC-32 is the file's pixel checksum."""
    if len(planes) == 1:
        return np.ascontiguousarray(planes[0])
    return np.ascontiguousarray(planes[_CODING_ORDER].transpose(1, 2, 0))
