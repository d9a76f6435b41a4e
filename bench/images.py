"""Sets of images to measure on: folders of image files, and CIFAR-10 sheets (bench/cifar.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SUFFIXES = (".png", ".ppm", ".pgm", ".pnm", ".bmp", ".tif", ".tiff", ".webp", ".jxl", ".jpg", ".jpeg")


class UnsupportedImage(Exception):
    """An image that is left out of the comparison; the text says why."""


@dataclass(frozen=True)
class ImageSet:
    """Named images that are loaded one at a time; ``load(i)`` gives the pixels of ``files[i]``."""

    name: str
    files: tuple[str, ...]
    load: Callable[[int], np.ndarray]

    def first(self, limit: int | None) -> ImageSet:
        """The set of the first ``limit`` images, or of all."""
        return ImageSet(self.name, self.files[:limit], self.load)


def read(path: Path) -> np.ndarray:
    """8-bit RGB or gray pixels of a file. Palettes are written out and an opaque alpha channel is dropped."""
    if path.suffix.lower() == ".jxl":
        return _read_jxl(path)
    with Image.open(path) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise UnsupportedImage("several frames")
        if image.mode.startswith(("I", "F")):
            raise UnsupportedImage(f"not 8 bits a channel (mode {image.mode})")
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            rgba = image.convert("RGBA")
            if rgba.getchannel("A").getextrema() != (255, 255):
                raise UnsupportedImage("transparency")
            return np.asarray(rgba.convert("RGB"))
        if image.mode not in ("RGB", "L", "P", "1"):
            raise UnsupportedImage(f"mode {image.mode}")
        return np.asarray(image.convert({"P": "RGB", "1": "L"}.get(image.mode, image.mode)))


def _read_jxl(path: Path) -> np.ndarray:
    import imagecodecs

    pixels = imagecodecs.jpegxl_decode(path.read_bytes())
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise UnsupportedImage(f"{pixels.dtype} of shape {pixels.shape}")
    return pixels


def folder_sets(folders: Iterable[Path]) -> list[ImageSet]:
    """One set a folder of images. A folder that holds folders of images only stands for these."""
    sets: list[ImageSet] = []
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder")
        found = [_folder_set(f) for f in (folder, *sorted(p for p in folder.iterdir() if p.is_dir()))]
        found = found[:1] if found[0].files else [s for s in found if s.files]
        if not found:
            raise FileNotFoundError(f"no images in {folder}")
        for one in found:
            taken = sum(s.name == one.name or s.name.startswith(f"{one.name}-") for s in sets)
            sets.append(ImageSet(f"{one.name}-{taken + 1}" if taken else one.name, one.files, one.load))
    return sets


def _folder_set(folder: Path) -> ImageSet:
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    return ImageSet(folder.resolve().name, tuple(p.name for p in paths), lambda i: read(paths[i]))
