"""Archives: what they cost beside the rANS words, and very many tiny images.

    python -m bench.archives --cifar SHEET [--subsampled] [--limit N] [--model M] [--fit MINUTES]
    python -m bench.archives --scans N [--model M] [--fit MINUTES]
    python -m bench.archives [--images 100000] [--side 8] [--model thumb]

The first packs the images of a CIFAR-10 sheet (bench.cifar), models and coders chosen by the encoder unless a model is
named, compares every pixel, and tells the size of the archive, all of it, and how many bytes are read for one image.
With --subsampled their colours are averaged over 2x2 pixels first, as JPEG does. With --fit a model is fitted to them
first, as ``ardmzip pack --fit`` does. The second does the same with N made images, 32x32 and gray: soft ellipses with
multiplicative noise, like an ultrasonic scan.

The third tells memory and time of packing, listing and reading one. The images, gradients with noise, are made while
they are packed, by a process of its own, with the given model and without verification. Then ``ardmzip list`` runs on
the archive, and one image is read, counting bytes. Peak memory is the largest resident set of each process, as in
bench.memory.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.memory import CLI, measured


class Counting(io.FileIO):
    """A file that counts the bytes that are read."""

    total = 0

    def read(self, size: int | None = -1) -> bytes:  # type: ignore[override]
        data = super().read(-1 if size is None else size) or b""
        self.total += len(data)
        return data


def _items(count: int, side: int) -> Iterator:
    from ardmzip import formats
    from ardmzip.sources import Item

    y, x = np.mgrid[:side, :side][:, :, :, None]

    def image(i: int) -> formats.Picture:
        rng = np.random.default_rng(i)
        slopes = rng.uniform(-12, 12, (2, 1, 1, 3))
        pixels = 128 + slopes[0] * (y - side / 2) + slopes[1] * (x - side / 2) + rng.normal(0, 4, (side, side, 3))
        return formats.from_array(pixels.clip(0, 255).astype(np.uint8))

    for i in range(count):
        yield Item(f"tiny/{i:06}.png", None, None, lambda i=i: image(i))  # type: ignore[misc]


def _pack(path: Path, count: int, side: int, model: str) -> None:
    from ardmzip.archive import packing
    from ardmzip.archive.writer import Writer
    from ardmzip.batches import Options

    options = Options(model=model, verify=False)
    with Writer.create(path, packing.settings(options)) as writer:
        packing.pack(_items(count, side), writer, options, batch=4096)


def _subsampled(images: np.ndarray) -> np.ndarray:
    """RGB images with colours that are the same in 2x2 pixels (but for rounding): uint8 [n, height, width, 3]."""
    n, height, width, _ = images.shape
    luma = images @ np.array([0.299, 0.587, 0.114])
    blue, red = (images[..., i] - luma for i in (2, 0))
    means = [one.reshape(n, height // 2, 2, width // 2, 2).mean((2, 4)) for one in (blue, red)]
    blue, red = (one.repeat(2, 1).repeat(2, 2) for one in means)
    green = luma - (0.299 * red + 0.114 * blue) / 0.587
    return np.rint(np.stack([luma + red, green, luma + blue], -1)).clip(0, 255).astype(np.uint8)


def _scans(count: int, side: int = 32) -> np.ndarray:
    """Soft ellipses with multiplicative noise: uint8 [count, side, side]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    images = np.full((count, side, side), 20.0)
    for image in images:
        for _ in range(6):
            (row, column), (long, short) = rng.uniform(0, side, 2), rng.uniform(3, 12, 2)
            angle, height = rng.uniform(0, np.pi), rng.uniform(10, 80)
            u = ((x - column) * np.cos(angle) + (y - row) * np.sin(angle)) / long
            v = ((y - row) * np.cos(angle) - (x - column) * np.sin(angle)) / short
            image += height / (1 + np.exp(np.minimum(8 * (u * u + v * v - 1), 50)))
        image *= rng.gamma(16, 1 / 16, image.shape)
    return images.clip(0, 255).astype(np.uint8)


def _images(images: np.ndarray, model: str, minutes: float | None) -> int:
    from ardmzip import Archive, formats
    from ardmzip.archive import packing
    from ardmzip.batches import Options
    from ardmzip.cli._archives import fitted
    from ardmzip.container import unpack
    from ardmzip.sources import Item, Source

    class Made(Source):
        def __iter__(self) -> Iterator[Item]:
            for i, image in enumerate(images):
                picture = formats.from_array(np.ascontiguousarray(image))
                yield Item(f"{i:04}.png", None, None, lambda p=picture: p)  # type: ignore[misc]

        def length(self) -> int:
            return len(images)

    options = Options(model=model, verify=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cifar.ardmz"
        begin = time.perf_counter()
        writer, fit = packing.begin(path, Made(), options, minutes=minutes)
        fitting = time.perf_counter() - begin
        begin = time.perf_counter()
        with writer:
            packing.pack(Made(), writer, options)
        packed = time.perf_counter() - begin
        with Counting(path) as file:
            archive = Archive(file)  # type: ignore[arg-type]
            number = min(517, len(images) - 1)
            same = np.array_equal(archive.array(f"{number:04}.png"), images[number])
            cost, record = file.total, archive.entry(number).length
        archive = Archive(path)
        files = [unpack(archive.file(i)) for i in range(len(archive))]
        words = sum(sum(words.nbytes for words in c.segments) + len(c.stored or b"") for c in files)
        begin = time.perf_counter()
        found = (one for part in archive.batches(range(len(archive))) for one in archive.arrays(part))
        same = same and all(map(np.array_equal, found, images))
        restored = time.perf_counter() - begin
        size = os.path.getsize(path)
    dimensions = images.size
    print(f"{len(images)} images, pixels {'equal' if same else 'DIFFER'}\n")
    print(f"archive: {size} bytes, {8 * size / dimensions:.4f} bits per dimension")
    print(f"rANS words: {words} bytes, {8 * words / dimensions:.4f} bits per dimension")
    above = size - words
    if fit is not None:
        print(f"{fitted(fit.settings())} ({fit.held_out} images held out, {fitting:.0f} s)")
        above -= sum(map(len, writer.differences))
    print(f"beside them: {above / len(images):.2f} bytes an image, {8 * above / dimensions:.4f} bits per dimension")
    print(f"image {number}: {cost} bytes read, {record} of them its record")
    print(f"pack {len(images) / packed:.0f} images a second, restore {len(images) / restored:.0f}")
    return 0 if same else 1


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.archives", description="An archive of very many images.")
    parser.add_argument("--images", type=int, default=100_000, metavar="N")
    parser.add_argument("--side", type=int, default=8, metavar="PIXELS")
    parser.add_argument("--model", metavar="M", help="default: thumb for tiny images, auto for others")
    parser.add_argument("--pack", type=Path, help=argparse.SUPPRESS)  # what the process of its own does
    parser.add_argument("--cifar", type=Path, metavar="SHEET", help="the images of a CIFAR-10 sheet instead")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images of the sheet")
    parser.add_argument("--subsampled", action="store_true", help="with colours that are the same in 2x2 pixels")
    parser.add_argument("--scans", type=int, metavar="N", help="N made images like scans instead")
    parser.add_argument("--fit", type=float, metavar="MINUTES", help="fit a model to the images of a sheet, or scans")
    args = parser.parse_args(argv)
    if args.cifar is not None:
        from bench.cifar import cut
        from bench.images import read

        images = cut(read(args.cifar))[: args.limit]
        return _images(_subsampled(images) if args.subsampled else images, args.model or "auto", args.fit)
    if args.scans is not None:
        return _images(_scans(args.scans), args.model or "auto", args.fit)
    args.model = args.model or "thumb"
    if args.pack is not None:
        _pack(args.pack, args.images, args.side, args.model)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.ardmz"
        own = [sys.executable, "-m", "bench.archives", "--pack", str(path)]
        own += ["--images", str(args.images), "--side", str(args.side), "--model", args.model]
        try:
            packing = measured(own)
            listing = measured([*CLI, "list", str(path)])
            extracting = measured([*CLI, "extract", "-q", str(path), str(args.images // 2), "-o", f"{folder}/one.png"])
        except subprocess.CalledProcessError as error:
            print(f"archives: exit code {error.returncode}", file=sys.stderr)
            return 1
        from ardmzip import Archive

        with Counting(path) as file:
            begin = time.perf_counter()
            archive = Archive(file)  # type: ignore[arg-type]
            archive.file(f"tiny/{args.images // 2:06}.png")
            seconds, read = time.perf_counter() - begin, file.total
        size, records = os.path.getsize(path), sum(block.records for block in archive.blocks)
    print(f"{args.images} images of {args.side} x {args.side} pixels, model {args.model}\n")
    print(f"archive {size} bytes, {(size - records) / args.images:.2f} an image beside the records")
    print(f"one record: {read} bytes read, {1000 * seconds:.1f} ms\n")
    print("| command | seconds | peak memory, MB |\n|---|---:|---:|")
    for name, run in (("pack", packing), ("list", listing), ("extract", extracting)):
        print(f"| {name} | {run.seconds:.1f} | {run.peak_bytes / 1e6:.0f} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
