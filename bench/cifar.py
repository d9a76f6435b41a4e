"""CIFAR-10 images from sheets: PNG files 1024 pixels wide, in which each row of pixels is one 32x32 image, row-major.

    python -m bench.cifar SHEET OUT_FOLDER [--limit N]

writes the single images as PNG files, for trying out the command line on them. The measurement itself needs no such
files: ``python -m bench.bench --cifar SHEET`` compresses every image of the sheet by itself, header included.
"""

from __future__ import annotations

import argparse
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from bench.images import ImageSet, UnsupportedImage, read

SIDE = 32


def cut(sheet: np.ndarray) -> np.ndarray:
    """``uint8[n, 32, 32, channels]``, the images of a sheet ``uint8[n, 1024, channels]``.

    >>> cut(np.zeros((5, 1024, 3), np.uint8)).shape
    (5, 32, 32, 3)
    """
    if sheet.ndim != 3 or sheet.shape[1] != SIDE * SIDE:
        raise ValueError(f"a sheet of {SIDE}x{SIDE} images is {SIDE * SIDE} pixels wide, not of shape {sheet.shape}")
    return sheet.reshape(len(sheet), SIDE, SIDE, sheet.shape[2])


def sheet_set(paths: list[Path], name: str = "cifar10") -> ImageSet:
    """The images of one or more sheets as a set."""
    with_rows = [(path, row) for path in paths for row in range(_height(path))]
    files = tuple(f"{path.stem}:{row}" for path, row in with_rows)
    images = lru_cache(maxsize=1)(lambda path: cut(read(path)))

    def load(i: int) -> np.ndarray:
        path, row = with_rows[i]
        return images(path)[row]

    return ImageSet(name, files, load)


def _height(path: Path) -> int:
    with Image.open(path) as image:
        return image.height


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cifar", description="Cut a CIFAR-10 sheet into PNG files.")
    parser.add_argument("sheet", type=Path)
    parser.add_argument("out", type=Path, help="folder for the single images")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    args = parser.parse_args(argv)
    try:
        images = cut(read(args.sheet))[: args.limit]
        args.out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError, UnsupportedImage) as error:
        print(f"cifar: {error}", file=sys.stderr)
        return 2
    for i, image in enumerate(images):
        Image.fromarray(image).save(args.out / f"{i:04d}.png")
    print(f"{len(images)} images in {args.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
