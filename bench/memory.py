"""Peak memory of ``ardmzip compress`` and ``decompress`` on a large photograph, each in a process of its own.

    python -m bench.memory [IMAGE...] [--megapixels 12] [--model photo]

The photograph is made from the given ones (default: demo/sample.png) by mirroring them in both directions and tiling.
Peak memory is the largest resident set of the child process as the system accounts for it (POSIX only); the seconds are
wall clock of the whole command: starting Python, reading or writing the PNG file, and for compress the verification.

This process stays small on purpose and makes images in others: on Linux the peak of a child counts from the peak of
its parent.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SAMPLE = Path(__file__).resolve().parent.parent / "demo" / "sample.png"
CLI = [sys.executable, "-c", "from ardmzip.cli import main; main()"]


@dataclass(frozen=True)
class Run:
    """What a command took."""

    seconds: float
    peak_bytes: int


def measured(command: list[str]) -> Run:
    """Run a command to its end; CalledProcessError unless it succeeds."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(time.perf_counter() - begin, usage.ru_maxrss * unit)


def mirrored_mosaic(images: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """``uint8[height, width, 3]``: bands of the images, each continued by its mirror images until it is wide enough."""
    import numpy as np

    bands: list[np.ndarray] = []
    rows = 0
    while rows < height:
        image = images[len(bands) % len(images)]
        repeats = -(-width // image.shape[1])
        parts = [image if i % 2 == 0 else image[:, ::-1] for i in range(repeats)]
        band = np.concatenate(parts, axis=1)[:, :width]
        bands.append(band if len(bands) // len(images) % 2 == 0 else band[::-1])
        rows += len(band)
    return np.concatenate(bands)[:height]


def _make_photograph(sources: list[Path], height: int, width: int, path: Path) -> None:
    import numpy as np
    from PIL import Image

    images = []
    for source in sources:
        with Image.open(source) as image:
            images.append(np.asarray(image.convert("RGB")))
    Image.fromarray(mirrored_mosaic(images, height, width)).save(path, compress_level=1)


def _compare(a: Path, b: Path) -> None:
    import numpy as np
    from PIL import Image

    with Image.open(a) as first, Image.open(b) as second:
        sys.exit(0 if first.mode == second.mode and np.array_equal(np.asarray(first), np.asarray(second)) else 1)


def _elsewhere(function, *args) -> bool:
    """Call a function in a new process; whether it succeeded."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=args)
    process.start()
    process.join()
    return process.exitcode == 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description="Peak memory of ardmzip.")
    parser.add_argument("images", nargs="*", type=Path, default=[SAMPLE], help="photographs to make the large one from")
    parser.add_argument("--megapixels", type=float, default=12.0, metavar="X", help="size in 10^6 pixels, 4:3")
    parser.add_argument(
        "--model",
        default="photo",
        metavar="M",
        help="ardmzip's model, a name or a file; not auto by default,"
        " as general coders notice that a mosaic of few photographs repeats itself",
    )
    names = ["compress", "compress --no-verify", "decompress"]
    parser.add_argument("--commands", nargs="+", choices=names, default=names, help="some, one that compresses first")
    args = parser.parse_args(argv)
    height = max(1, round((args.megapixels * 1e6 * 3 / 4) ** 0.5))
    width = max(1, round(args.megapixels * 1e6 / height))
    options = [] if args.model == "auto" else ["-m", args.model]
    with tempfile.TemporaryDirectory() as folder:
        image, packed, restored = (Path(folder) / name for name in ("image.png", "image.ardm", "restored.png"))
        if not _elsewhere(_make_photograph, args.images, height, width, image):
            return 2
        print(f"{width} x {height} pixels", file=sys.stderr)
        runs = {}
        try:
            for name, command in {
                "compress": ["compress", "-q", *options, str(image), "-o", str(packed)],
                "compress --no-verify": ["compress", "-qf", "--no-verify", *options, str(image), "-o", str(packed)],
                "decompress": ["decompress", "-q", *options, str(packed), "-o", str(restored)],
            }.items():
                if name not in args.commands:
                    continue
                print(f"ardmzip {name} ...", file=sys.stderr)
                runs[name] = measured(CLI + command)
        except subprocess.CalledProcessError as error:
            print(f"ardmzip {name} failed with exit code {error.returncode}", file=sys.stderr)
            return 1
        bits = 8 * packed.stat().st_size / (3 * width * height)
        same = _elsewhere(_compare, image, restored)
    print(f"{width} x {height} pixels, {bits:.3f} bits per sub-pixel, pixels {'equal' if same else 'DIFFER'}\n")
    print("| command | peak memory, MB | seconds | s/MP |\n|---|---:|---:|---:|")
    for name, run in runs.items():
        print(f"| {name} | {run.peak_bytes / 1e6:.0f} | {run.seconds:.1f} | {run.seconds / args.megapixels:.2f} |")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
