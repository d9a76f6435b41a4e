"""Images of 32x32 a second, coded one by one and in lock-step, by the size of the batch.

    python -m bench.batches [SHEET] [--model thumb] [--sizes 1 16 256 4096]

SHEET is a CIFAR-10 sheet (see bench.cifar), whose images are repeated where a batch is larger; without it, images are
made. Coding is by one model without learning, from pixels to rANS words and back, and every pixel is compared; choosing
a model and trying general coders, which ``ardmzip pack`` does unless a model is given, are not in it. Batch 1 is the
codec of single images.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from ardmzip import codec, lockstep, model, network
from ardmzip.image import to_planes
from ardmzip.model import Model
from ardmzip.network import Backend
from bench.cifar import SIDE, cut
from bench.images import read

#: About so many images are coded for each size, at least one batch.
IMAGES = 512
#: Fewer one by one, as that takes long.
ALONE = 48


def made(count: int) -> np.ndarray:
    """Gradients with noise: uint8 [count, 32, 32, 3].

    >>> made(2).shape
    (2, 32, 32, 3)
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE][:, None, :, :, None]
    slopes = rng.uniform(-3, 3, (2, count, 1, 1, 3))
    noise = rng.normal(0, 5, (count, SIDE, SIDE, 3))
    return (128 + slopes[0] * (y - 16) + slopes[1] * (x - 16) + noise).clip(0, 255).astype(np.uint8)


def rates(planes: np.ndarray, size: int, chosen: Model, backend: Backend) -> tuple[float, float]:
    """Images a second, encoded and decoded, of planes uint8 [images, 3, 32, 32] in batches of ``size``."""
    encoding = decoding = 0.0
    for start in range(0, len(planes), size):
        batch = planes[start : start + size]
        begin = time.perf_counter()
        if size == 1:
            coded = [codec.encode(batch[0], chosen, backend, learn=False)]
        else:
            coded = lockstep.encode(batch, chosen, backend)
        between = time.perf_counter()
        found = [codec.decode(coded[0], chosen, backend)] if size == 1 else lockstep.decode(coded, chosen, backend)
        decoding += time.perf_counter() - between
        encoding += between - begin
        if not all(map(np.array_equal, found, batch)):
            raise SystemExit("batches: decoded pixels differ")
    return len(planes) / encoding, len(planes) / decoding


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.batches", description="Images a second by batch size.")
    parser.add_argument("sheet", nargs="?", type=Path, help="CIFAR-10 sheet")
    parser.add_argument("--model", default="thumb", metavar="M")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[1, 16, 256, 4096], metavar="N")
    args = parser.parse_args(argv)
    images = made(IMAGES) if args.sheet is None else cut(read(args.sheet))
    chosen, backend = model.load(args.model), network.backend(args.device)
    planes = np.stack([to_planes(image) for image in images])
    for size in (1, 16):
        rates(planes[:16], size, chosen, backend)  # compiles, and takes memory
    print(f"{SIDE}x{SIDE} images a second, model {chosen.name}, {backend.name}\n")
    print("| batch | encode | decode |\n|---:|---:|---:|")
    for size in args.sizes:
        count = ALONE if size == 1 else max(size, IMAGES // size * size)
        numbers = np.arange(count) % len(planes)
        encoded, decoded = rates(planes[numbers], size, chosen, backend)
        print(f"| {size} | {encoded:.0f} | {decoded:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
