"""Training images: finding, reading, splitting and tiling them.

A *source* is a file or a URL that fsspec can open: an image, a sheet of images, or a shard, which is a tar archive of
images as WebDataset makes them. Shards are read from front to back, so they may be of any size and anywhere.
"""

from __future__ import annotations

import io
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from ardmzip.errors import ImageError
from ardmzip.sources import places, shards

SHARD = ".tar"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".jxl"})
SHEETS = {"div2k-crops": 128}
"""Folders whose files are sheets of independent square crops, and the side of a crop."""
ROWS = {"cifar10": 32}
"""Folders each row of whose files holds the pixels of a square image in raster order, and the side of an image."""


def list_images(where: Sequence[str | Path]) -> list[str]:
    """All images and shards in some places, sorted, each once. A place is a folder, a file or a pattern (``*.tar``)."""
    found: set[str] = set()
    for place in map(str, where):
        names = places.expand(place)
        if names == [place]:
            place = places.absolute(place)
            names = [places.join(place, name) for name in places.below(place)] if places.is_folder(place) else [place]
        if not names:
            raise ImageError(f"{place}: an empty folder")
        found.update(places.absolute(name) for name in names if PurePath(name).suffix.lower() in SUFFIXES | {SHARD})
    return sorted(found)


def read_rgb(source: str | Path) -> np.ndarray:
    """Read an 8-bit gray or RGB image as contiguous ``uint8[H, W, 3]``; anything else is an ``ImageError``."""
    return decode_rgb(places.read(str(source)), str(source))


def decode_rgb(data: bytes, name: str) -> np.ndarray:
    """The same for the bytes of a file called ``name``."""
    pixels = _decode_jxl(data, name) if name.lower().endswith(".jxl") else _decode_pil(data, name)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ImageError(f"{name}: not an 8-bit gray or RGB image ({pixels.dtype}, shape {pixels.shape})")
    return np.ascontiguousarray(pixels)


def _decode_pil(data: bytes, name: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as image:
            # PIL cuts 16-bit RGB down to 8 bits without a word; only the raw mode of its tiles tells.
            deep = any("16" in str(tile[3]) for tile in image.tile)
            if image.mode not in ("L", "RGB") or deep or "transparency" in image.info:
                raise ImageError(f"{name}: not an 8-bit gray or RGB image (mode {image.mode}{', 16 bits' * deep})")
            return np.array(image)
    except ImageError:
        raise
    except Exception as error:  # PIL's plugins raise nearly anything on damaged files
        raise ImageError(f"{name}: cannot be read: {error}") from error


def _decode_jxl(data: bytes, name: str) -> np.ndarray:
    try:
        from imagecodecs import jpegxl_decode
    except ImportError as error:
        raise ImageError(f"{name}: reading JPEG XL needs imagecodecs (pip install 'ardmzip[train]')") from error
    try:
        return np.asarray(jpegxl_decode(data))
    except Exception as error:  # OSError, or imagecodecs' own RuntimeErrors
        raise ImageError(f"{name}: cannot be read: {error}") from error


def tiles(image: np.ndarray, size: int = 128) -> list[np.ndarray]:
    """Cut ``image`` along a grid into its whole ``size`` x ``size`` tiles (views, row-major)."""
    height, width = image.shape[:2]
    return [
        image[y : y + size, x : x + size]
        for y in range(0, height - size + 1, size)
        for x in range(0, width - size + 1, size)
    ]


def is_sheet(source: str) -> bool:
    """Whether a source holds many independent small images."""
    return PurePath(source).parent.name in SHEETS | ROWS


def parts(source: str, image: np.ndarray) -> list[np.ndarray]:
    """The independent images that an image file holds."""
    folder = PurePath(source).parent.name
    if folder in SHEETS:
        return tiles(image, SHEETS[folder])
    if folder in ROWS:
        if image.shape[1] != ROWS[folder] ** 2:
            raise ImageError(
                f"{source}: rows of {image.shape[1]} pixels are not images of {ROWS[folder]}x{ROWS[folder]}"
            )
        return list(image.reshape(-1, ROWS[folder], ROWS[folder], 3))
    return [image]


def _chosen(source: str, image: np.ndarray, held_out: bool) -> list[np.ndarray]:
    """The image of a file; of a sheet the parts that are held out, or the others."""
    found = parts(source, image)
    return [part for i, part in enumerate(found) if (i % HELD_OUT == 0) == held_out] if is_sheet(source) else found


def load_images(sources: Sequence[str], threads: int = 2) -> list[np.ndarray]:
    """The training images of image files, in order, as ``uint8[H, W, 3]``; sheets come as their parts."""
    images = zip(sources, _read_ahead(sources, threads), strict=True)
    return [part for source, image in images for part in _chosen(source, image, held_out=False)]


def _read_ahead(sources: Sequence[str], threads: int) -> Iterator[np.ndarray]:
    """Images in order, with at most ``2 * threads`` read ahead."""
    pending: deque[Future[np.ndarray]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for source in sources:
            pending.append(pool.submit(read_rgb, source))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def stream_images(sources: Sequence[str], held_out: bool) -> Iterator[np.ndarray]:
    """The images of files, sheets and shards, one after the other; of sheets and shards those that are ``held_out``, or
    the others."""
    for source in sources:
        if not is_shard(source):
            yield from _chosen(source, read_rgb(source), held_out)
            continue
        for name, read in shards.members(source):
            if PurePath(name).suffix.lower() in SUFFIXES and (_crc(name) % HELD_OUT == 0) == held_out:
                yield decode_rgb(read(), f"{source}: {name}")


def is_shard(source: str) -> bool:
    """Whether a source is a tar archive of images."""
    return PurePath(source).suffix.lower() == SHARD


#: One image in so many is held out of training.
HELD_OUT = 25


def split(sources: Sequence[str]) -> tuple[list[str], list[str]]:
    """Fixed (train, validation) split: about one file in HELD_OUT, chosen by a hash of its name.

    Two or more files give at least one of each; a single one goes to train. Sheets and shards are in both lists:
    stream_images splits what they hold.
    """
    mixed = [source for source in sources if is_shard(source) or is_sheet(source)]
    files = [source for source in sources if not (is_shard(source) or is_sheet(source))]
    ranked = sorted(files, key=lambda source: (_crc(source) % HELD_OUT != 0, _crc(source), source))
    count = sum(_crc(source) % HELD_OUT == 0 for source in files)
    count = min(max(count, 1), len(ranked) - 1) if len(ranked) > 1 else 0
    held_out = set(ranked[:count])
    return [s for s in files if s not in held_out] + mixed, [s for s in files if s in held_out] + mixed


def _crc(source: str) -> int:
    return zlib.crc32(PurePath(source).name.encode())
