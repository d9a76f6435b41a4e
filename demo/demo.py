"""Compress the sample photograph, restore it, compare the pixels, print the sizes: ``python -m demo.demo``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from ardmzip.benchmark import codecs

HERE = Path(__file__).resolve().parent
OTHERS = ("png", "webp", "jxl-e9")


def command_line() -> list[str]:
    """ardmzip as installed beside this Python."""
    for name in ("ardmzip", "ardmzip.exe"):
        script = Path(sys.executable).with_name(name)
        if script.exists():
            return [str(script)]
    return [sys.executable, "-c", "from ardmzip.cli import main; main()"]


def ardmzip(*arguments: str) -> None:
    """Run the command line, shown as it would be typed in the folder above."""
    print("$ ardmzip", *arguments, flush=True)
    subprocess.run([*command_line(), *arguments], cwd=HERE.parent, check=True)


def sizes(pixels: np.ndarray) -> list[tuple[str, int | None]]:
    """Bytes of the other codecs' files; None where a codec is not installed."""
    found: list[tuple[str, int | None]] = []
    for name in OTHERS:
        try:
            found.append((codecs.LABELS[name], len(codecs.make(name).encode(pixels))))
        except codecs.MissingCodec:
            found.append((codecs.LABELS[name], None))
    return found


def main() -> int:
    (HERE / "out").mkdir(exist_ok=True)
    sample, packed, restored = HERE / "sample.png", HERE / "out" / "sample.ardm", HERE / "out" / "sample.png"
    for old in (packed, restored):
        old.unlink(missing_ok=True)
    try:
        ardmzip("compress", "demo/sample.png", "-o", "demo/out/sample.ardm")
        ardmzip("decompress", "demo/out/sample.ardm", "-o", "demo/out/sample.png")
    except subprocess.CalledProcessError as error:
        print(f"demo: ardmzip failed with exit code {error.returncode}", file=sys.stderr)
        return 1

    with Image.open(sample) as before, Image.open(restored) as after:
        pixels = np.asarray(before)
        same = before.mode == after.mode and np.array_equal(pixels, np.asarray(after))
        width, height = before.size
    print(f"\n{width}x{height} pixels, {'all equal after restoring' if same else 'DIFFERENT after restoring'}\n")

    print(f"{'':<16}{'bytes':>10}{'bits per sub-pixel':>22}")
    for label, size in [("raw pixels", pixels.size), *sizes(pixels), ("ardmzip", packed.stat().st_size)]:
        if size is None:
            print(f"{label:<16}{'not installed':>32}")
        else:
            print(f"{label:<16}{size:>10,}{8 * size / pixels.size:>22.3f}")
    if not same:
        print("demo: the restored pixels differ", file=sys.stderr)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
