"""Samples <-> planes in coding order."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ardmzip.errors import ImageError

#: R, G, B -> coding order G, R, B. The permutation is its own inverse.
_CODING_ORDER = [1, 0, 2]


def to_planes(image: Image.Image | np.ndarray) -> np.ndarray:
    """uint8 [3, height, width] in coding order (G, R, B), or [1, height, width] for gray.

    ``image``: a PIL image of mode RGB or L, or a uint8 array [height, width], [height, width, 1] or
    [height, width, 3] (RGB). Raises ImageError for anything else.
    """
    if isinstance(image, Image.Image) and image.mode not in ("RGB", "L"):
        raise ImageError(f"planes are made of RGB and gray images, not of mode {image.mode}")
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise ImageError(f"planes are made of 8-bit images, not of {array.dtype}")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3):
        raise ImageError(f"planes are made of RGB and gray images, not of an array of shape {array.shape}")
    if 0 in array.shape:
        raise ImageError("the image has no pixels")
    planes = array.transpose(2, 0, 1)
    return np.ascontiguousarray(planes[_CODING_ORDER] if len(planes) == 3 else planes)


#: Ways to lay out planes: mirrored, upside down, or both, and then transposed.
TURNS = 8
_MIRRORED, _UPSIDE_DOWN, _TRANSPOSED = 1, 2, 4


def turned(planes: np.ndarray, turn: int) -> np.ndarray:
    """Planes [..., height, width] laid out another way; ``turn`` is 0 to TURNS - 1, 0 for as they are.

    >>> turned(np.array([[1, 2], [3, 4]]), _MIRRORED + _TRANSPOSED).tolist()
    [[2, 4], [1, 3]]
    """
    if turn & _MIRRORED:
        planes = planes[..., ::-1]
    if turn & _UPSIDE_DOWN:
        planes = planes[..., ::-1, :]
    return np.ascontiguousarray(planes.swapaxes(-1, -2) if turn & _TRANSPOSED else planes)


def turned_back(planes: np.ndarray, turn: int) -> np.ndarray:
    """The inverse of ``turned``."""
    if turn & _TRANSPOSED:
        planes = planes.swapaxes(-1, -2)
    return turned(planes, turn & ~_TRANSPOSED)


def turns(height: int, width: int) -> int:
    """How many of the ways keep the size of planes: they are the first ones."""
    return TURNS if height == width else _TRANSPOSED


def interleaved(planes: np.ndarray) -> np.ndarray:
    """uint8 [height, width, 3] RGB or [height, width]: the raster of planes in coding order."""
    if len(planes) == 1:
        return np.ascontiguousarray(planes[0])
    return np.ascontiguousarray(planes[_CODING_ORDER].transpose(1, 2, 0))
