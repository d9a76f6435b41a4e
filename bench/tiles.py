"""What tiles cost: ``python -m bench.tiles FOLDER... [--tiles 512 1024] [--mosaic 2]``.

Every image is compressed in one piece and in tiles of about so many pixels a side, and decoded again. Images of the
size that is cut into tiles by default are rare; a mosaic of smaller ones stands for them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import ardmzip
from bench.images import ImageSet, folder_sets


def _images(sets: list[ImageSet]) -> Iterator[tuple[str, np.ndarray]]:
    for images in sets:
        for i, file in enumerate(images.files):
            yield str(file), images.load(i)


def _mosaics(sets: list[ImageSet], columns: int) -> Iterator[tuple[str, np.ndarray]]:
    """The images of each set in so many columns, turned to lie on their longer side and cropped to a rectangle."""
    for images in sets:
        pictures = [np.rot90(p) if p.shape[0] > p.shape[1] else p for _, p in _images([images])]
        width = min(picture.shape[1] for picture in pictures)
        piles = [np.concatenate([p[:, :width] for p in pictures[i::columns]]) for i in range(columns)]
        height = min(len(pile) for pile in piles)
        yield f"mosaic of {images.name}", np.concatenate([pile[:height] for pile in piles], axis=1)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tiles", description="What tiles cost.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--tiles", nargs="+", type=int, default=[512, 1024], metavar="N", help="sides of tiles")
    parser.add_argument("--mosaic", type=int, metavar="N", help="make one image of each folder, in N columns")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images of each folder")
    args = parser.parse_args(argv)
    sets = [images.first(args.limit) for images in folder_sets(args.folders)]
    sides: list[int | None] = [None, *args.tiles]
    sizes, encoding, decoding = np.zeros((3, len(sides)))
    values = 0
    for name, pixels in _mosaics(sets, args.mosaic) if args.mosaic else _images(sets):
        values += pixels.size
        for i, side in enumerate(sides):
            begun = time.perf_counter()
            file = ardmzip.compress(pixels, tile=side, verify=False)
            coded = time.perf_counter()
            if not np.array_equal(ardmzip.decompress_array(file), pixels):
                print(f"{name}: tiles of {side} do not decode to the image", file=sys.stderr)
                return 1
            sizes[i] += len(file)
            encoding[i] += coded - begun
            decoding[i] += time.perf_counter() - coded
    print("| tiles | bits per sub-pixel | cost | encode, s/MP | decode, s/MP |\n|---|---:|---:|---:|---:|")
    for side, size, *seconds in zip(sides, sizes, encoding, decoding, strict=True):
        rates = " | ".join(f"{3e6 * s / values:.2f}" for s in seconds)
        print(f"| {side or 'none'} | {8 * size / values:.4f} | {100 * (size / sizes[0] - 1):+.2f} % | {rates} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
