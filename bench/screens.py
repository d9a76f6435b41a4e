"""Screenshots and other synthetic graphics: ardmzip against lossless WebP at its slowest, file by file.

    python -m bench.screens FOLDER

Prints a table, and fails if the total of ardmzip is more than half a per cent above that of WebP. Nothing is removed
from the images: alpha and palettes are stored as they are.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from ardmzip import api, reading
from ardmzip.cli._common import coding
from ardmzip.container import unpack

#: What ardmzip may be larger than WebP, in all.
ALLOWED = 0.005


def webp_bytes(path: Path) -> int:
    """Lossless WebP as small as Pillow makes it; palettes are written out, as WebP makes its own."""
    with Image.open(path) as image:
        transparent = image.mode in ("RGBA", "LA") or "transparency" in image.info
        buffer = io.BytesIO()
        image.convert("RGBA" if transparent else "RGB").save(
            buffer, "WEBP", lossless=True, quality=100, method=6, exact=True
        )
    return len(buffer.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    paths = sorted(path for path in parser.parse_args().folder.iterdir() if path.suffix.lower() == ".png")
    if not paths:
        sys.exit("there are no PNG files")
    print(f"{'file':<24} {'WebP':>9} {'ardmzip':>9} {'':>8} {'s':>6}  coded by")
    totals = [0, 0]
    for path in paths:
        picture = reading.read(path.read_bytes())
        begin = time.perf_counter()
        data = api.compress(picture, strip=True, verify=False)
        seconds = time.perf_counter() - begin
        if not np.array_equal(api.restore(data).samples, picture.samples):
            sys.exit(f"{path}: the pixels are not restored")
        sizes = webp_bytes(path), len(data)
        totals = [total + size for total, size in zip(totals, sizes, strict=True)]
        print(f"{path.stem[:24]:<24} {row(*sizes)} {seconds:>6.1f}  {coding(unpack(data))}", flush=True)
    print(f"{'all':<24} {row(*totals)}")
    if totals[1] > (1 + ALLOWED) * totals[0]:
        sys.exit(f"ardmzip is more than {100 * ALLOWED} % above WebP")


def row(webp: int, ours: int) -> str:
    """Two sizes and the change.

    >>> row(1000, 900)
    '     1000       900  -10.0 %'
    """
    return f"{webp:>9} {ours:>9} {100 * (ours / webp - 1):>+6.1f} %"


if __name__ == "__main__":
    main()
