"""Archives: what they cost beside the rANS words, and very many tiny images.

    python -m bench.archives --cifar SHEET [--limit N]
    python -m bench.archives [--images 100000] [--side 8] [--model thumb]

The first packs the images of a CIFAR-10 sheet (bench.cifar), models and coders chosen by the encoder, compares every
pixel, and tells the size of the archive, all of it, and how many bytes are read for one image.

The second tells memory and time of packing, listing and reading one. The images, gradients with noise, are made while
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

from bench.memory import CLI, measured


class Counting(io.FileIO):
    """A file that counts the bytes that are read."""

    total = 0

    def read(self, size: int | None = -1) -> bytes:  # type: ignore[override]
        data = super().read(-1 if size is None else size) or b""
        self.total += len(data)
        return data


def _items(count: int, side: int) -> Iterator:
    import numpy as np

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


def _cifar(sheet: Path, limit: int | None) -> int:
    import numpy as np

    from ardmzip import Archive, formats
    from ardmzip.archive import packing
    from ardmzip.archive.writer import Writer
    from ardmzip.batches import Options
    from ardmzip.container import unpack
    from ardmzip.sources import Item
    from bench.cifar import cut
    from bench.images import read

    images = cut(read(sheet))[:limit]
    pictures = [formats.from_array(np.ascontiguousarray(image)) for image in images]
    items = [Item(f"{i:04}.png", None, None, lambda p=p: p) for i, p in enumerate(pictures)]  # type: ignore[misc]
    options = Options(verify=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cifar.ardmz"
        begin = time.perf_counter()
        with Writer.create(path, packing.settings(options)) as writer:
            packing.pack(items, writer, options)
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
    print(f"beside them: {above / len(images):.2f} bytes an image, {8 * above / dimensions:.4f} bits per dimension")
    print(f"image {number}: {cost} bytes read, {record} of them its record")
    print(f"pack {len(images) / packed:.0f} images a second, restore {len(images) / restored:.0f}")
    return 0 if same else 1


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.archives", description="An archive of very many images.")
    parser.add_argument("--images", type=int, default=100_000, metavar="N")
    parser.add_argument("--side", type=int, default=8, metavar="PIXELS")
    parser.add_argument("--model", default="thumb", metavar="M")
    parser.add_argument("--pack", type=Path, help=argparse.SUPPRESS)  # what the process of its own does
    parser.add_argument("--cifar", type=Path, metavar="SHEET", help="the images of a CIFAR-10 sheet instead")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images of the sheet")
    args = parser.parse_args(argv)
    if args.cifar is not None:
        return _cifar(args.cifar, args.limit)
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
