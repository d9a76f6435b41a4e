"""Training images: finding, reading, splitting and tiling them."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from ardmzip.errors import ImageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".jxl"})
SHEETS = {"div2k-crops": 128}
"""Folders whose files are sheets of independent square crops, and the side of a crop."""


def list_images(folders: Sequence[Path]) -> list[Path]:
    """All image files below ``folders`` (a folder may also be a single file), sorted, each once."""
    found: set[Path] = set()
    for folder in map(Path, folders):
        if not folder.exists():
            raise ImageError(f"{folder}: no such file or folder")
        candidates = [folder] if folder.is_file() else folder.rglob("*")
        found.update(path for path in candidates if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(found)


def read_rgb(path: Path) -> np.ndarray:
    """Read an 8-bit gray or RGB image as contiguous ``uint8[H, W, 3]``; anything else is an ``ImageError``."""
    path = Path(path)
    pixels = _read_jxl(path) if path.suffix.lower() == ".jxl" else _read_pil(path)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ImageError(f"{path}: not an 8-bit gray or RGB image ({pixels.dtype}, shape {pixels.shape})")
    return np.ascontiguousarray(pixels)


def _read_pil(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            # PIL cuts 16-bit RGB down to 8 bits without a word; only the raw mode of its tiles tells.
            deep = any("16" in str(tile[3]) for tile in image.tile)
            if image.mode not in ("L", "RGB") or deep or "transparency" in image.info:
                raise ImageError(f"{path}: not an 8-bit gray or RGB image (mode {image.mode}{', 16 bits' * deep})")
            return np.array(image)
    except ImageError:
        raise
    except Exception as error:  # PIL's plugins raise nearly anything on damaged files
        raise ImageError(f"{path}: cannot be read: {error}") from error


def _read_jxl(path: Path) -> np.ndarray:
    try:
        from imagecodecs import jpegxl_decode
    except ImportError as error:
        raise ImageError(f"{path}: reading JPEG XL needs imagecodecs (pip install 'ardmzip[train]')") from error
    try:
        return np.asarray(jpegxl_decode(path.read_bytes()))
    except Exception as error:  # OSError, or imagecodecs' own RuntimeErrors
        raise ImageError(f"{path}: cannot be read: {error}") from error


def tiles(image: np.ndarray, size: int = 128) -> list[np.ndarray]:
    """Cut ``image`` along a grid into its whole ``size`` x ``size`` tiles (views, row-major)."""
    height, width = image.shape[:2]
    return [
        image[y : y + size, x : x + size]
        for y in range(0, height - size + 1, size)
        for x in range(0, width - size + 1, size)
    ]


def load_images(paths: Sequence[Path], threads: int = 2, max_bytes: int | None = None) -> list[np.ndarray]:
    """Read ``paths`` in order as ``uint8[H, W, 3]``; sheets (``SHEETS``) come as their tiles.

    With ``max_bytes`` it stops before the first file that would exceed it, so shuffle ``paths`` first.
    """
    images: list[np.ndarray] = []
    total = 0
    for path, image in zip(paths, _read_ahead(paths, max(1, threads)), strict=True):
        if max_bytes is not None and total + image.nbytes > max_bytes:
            break
        total += image.nbytes
        side = SHEETS.get(Path(path).parent.name)
        images.extend([image] if side is None else tiles(image, side))
    return images


def _read_ahead(paths: Sequence[Path], threads: int) -> Iterator[np.ndarray]:
    """Images in order, with at most ``2 * threads`` read ahead."""
    pending: deque[Future[np.ndarray]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for path in paths:
            pending.append(pool.submit(read_rgb, path))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def split(paths: Sequence[Path], every: int = 25) -> tuple[list[Path], list[Path]]:
    """Fixed (train, validation) split: about one file in ``every``, chosen by a hash of its name.

    Two or more paths give at least one of each; a single path goes to train.
    """
    if every < 2:
        raise ValueError("every must be at least 2")
    ranked = sorted(paths, key=lambda path: (_crc(path) % every != 0, _crc(path), str(path)))
    count = sum(_crc(path) % every == 0 for path in paths)
    count = min(max(count, 1), len(ranked) - 1) if len(ranked) > 1 else 0
    held_out = set(ranked[:count])
    return [path for path in paths if path not in held_out], [path for path in paths if path in held_out]


def _crc(path: Path) -> int:
    return zlib.crc32(Path(path).name.encode())
