"""What the learning head gains and costs: ``python -m bench.learning FOLDER... [--model photo]``.

Three tables over the images of the folders: the gain against the frozen head by image size (the largest centred square
of so many pixels a side), by the number of pixels a head has learned from, and the seconds of both on one thread, with
the share of the trunk. Gains are of ideal code lengths, without header.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from bench.images import folder_sets

SIZES = (32, 64, 128, 256, 512)
SEEN = (0, 1000, 4000, 16_000, 64_000, 256_000)


def squares(images: list[np.ndarray], side: int) -> Iterable[np.ndarray]:
    """Centred squares of the images that are large enough."""
    for image in images:
        y, x = ((n - side) // 2 for n in image.shape[:2])
        if min(y, x) >= 0:
            yield np.ascontiguousarray(image[y : y + side, x : x + side])


def gain(records: np.ndarray) -> str:
    """Per cent of the frozen head's bits: records float64 [n, 5], learning.Gain."""
    return f"{100 * (1 - records[:, 4].sum() / records[:, 3].sum()):.2f} %" if len(records) else "-"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.learning", description="Gain and cost of the learning head.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--model", default="photo")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images of each folder")
    args = parser.parse_args(argv)

    import torch

    from ardmzip import codec, model, network
    from ardmzip.image import to_planes
    from ardmzip.predictor import Predictor

    loaded, backend = model.load(args.model), network.backend("cpu")
    sets = [images.first(args.limit) for images in folder_sets(args.folders)]
    images = [images.load(i) for images in sets for i in range(len(images.files))]

    def records(image: np.ndarray) -> np.ndarray:
        gains: list[Any] = []
        codec.encode(to_planes(image), loaded, backend, gains=gains)
        return np.array(gains)

    print("| pixels | images | gain |\n|---|---:|---:|")
    for side in SIZES:
        found = [records(square) for square in squares(images, side)]
        if found:
            print(f"| {side}x{side} | {len(found)} | {gain(np.concatenate(found))} |")
    everything = np.concatenate([records(image) for image in images])
    print(f"| whole images | {len(images)} | {gain(everything)} |")
    print("\n| pixels a head has learned from | gain |\n|---|---:|")
    for low, high in zip(SEEN, (*SEEN[1:], np.inf), strict=True):
        print(f"| from {low} | {gain(everything[(everything[:, 1] >= low) & (everything[:, 1] < high)])} |")

    torch.set_num_threads(1)
    for learn in (True, False):  # compile what the first use compiles
        codec.decode(codec.encode(to_planes(images[0][:32, :32]), loaded, backend, learn=learn), loaded, backend)
    planes = to_planes(max(images, key=lambda image: image.size))
    trunk = Timer()
    Predictor.activations = trunk.wrap(Predictor.activations)  # type: ignore[method-assign]
    seconds = {}
    for learn in (True, False):
        begin = time.perf_counter()
        container = codec.encode(planes, loaded, backend, learn=learn)
        middle = time.perf_counter()
        encoding = trunk.take()
        codec.decode(container, loaded, backend)
        seconds[learn] = np.array([middle - begin, time.perf_counter() - middle])
        if learn:
            share = 1 - np.array([encoding, trunk.take()]) / seconds[learn]
    print("\n| one thread | encode | decode |\n|---|---:|---:|")
    for learn, label in ((True, "learning"), (False, "frozen")):
        encode, decode = seconds[learn] / (planes.shape[1] * planes.shape[2] / 1e6)
        print(f"| {label}, s/MP | {encode:.2f} | {decode:.2f} |")
    print("| ratio | {:.2f} | {:.2f} |".format(*(seconds[True] / seconds[False])))
    print("| share of head, mixtures, learning and entropy coding | {:.0%} | {:.0%} |".format(*share))


class Timer:
    """Adds up the seconds of a function."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, function: Any) -> Any:
        def timed(*args: Any) -> Any:
            begin = time.perf_counter()
            result = function(*args)
            self.seconds += time.perf_counter() - begin
            return result

        return timed

    def take(self) -> float:
        """Seconds since the last call."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


if __name__ == "__main__":
    main()
