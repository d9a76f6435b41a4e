"""Where the codec's time goes: ``python -m bench.stages IMAGE [--model photo]``.

One thread, nanoseconds a sub-pixel for each stage of encoding and decoding, with and without learning; the share of the
int8 matrix products, and how fast they are beside the fastest product of this machine, whose factors stay in the cache.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ardmzip.benchmark.stages import Stages, wrap_codec


def peak(multiply: Any) -> float:
    """Most multiply-accumulates a second of int8 products, over some sizes of factors that fit a core's cache."""
    import torch

    best = 0.0
    for rows, inner, columns in ((256, 1024, 256), (512, 512, 512), (1024, 256, 256), (4096, 256, 256)):
        a = torch.ones(rows, inner, dtype=torch.int8)
        b = torch.ones(columns, inner, dtype=torch.int8).t()
        out = torch.empty(rows, columns, dtype=torch.int32)
        for _ in range(7):
            begin = time.perf_counter()
            for _ in range(20):
                multiply(a, b, out=out)
            best = max(best, 20 * rows * inner * columns / (time.perf_counter() - begin))
    return best


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.stages", description="Where the codec's time goes.")
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument("--model", default="photo")
    args = parser.parse_args(argv)

    import torch

    from ardmzip import codec, model, network
    from ardmzip.image import to_planes

    torch.set_num_threads(1)
    loaded, backend = model.load(args.model), network.backend("cpu")
    with Image.open(args.image) as image:
        planes = to_planes(image)
    multiply, fastest = torch._int_mm, peak(torch._int_mm)
    macs = 0

    def counted(a: Any, b: Any, **options: Any) -> Any:
        nonlocal macs
        macs += a.shape[0] * a.shape[1] * b.shape[1]
        return multiply(a, b, **options)

    torch._int_mm = counted  # type: ignore[assignment]
    stages = Stages()
    wrap_codec(stages)

    small = np.ascontiguousarray(planes[:, :64, :64])
    columns: dict[str, dict[str, float]] = {}
    for learn in (True, False):
        codec.decode(codec.encode(small, loaded, backend, learn=learn), loaded, backend)  # compiles
        container = None
        for label in ("encode", "decode"):
            stages.seconds.clear()
            macs, begin = 0, time.perf_counter()
            if container is None:
                container = codec.encode(planes, loaded, backend, learn=learn)
            else:
                codec.decode(container, loaded, backend)
            seconds = time.perf_counter() - begin
            found = {stage: 1e9 * s / planes.size for stage, s in stages.seconds.items()}
            found["the rest"] = 1e9 * seconds / planes.size - sum(found.values())
            found["all"] = 1e9 * seconds / planes.size
            products = stages.seconds["int8 products"]
            found["share of products, %"] = 100 * products / seconds
            found["products, % of the peak"] = 100 * macs / products / fastest
            columns[label + ("" if learn else " --no-learn")] = found
    rows = dict.fromkeys(row for found in columns.values() for row in found)
    last = ("the rest", "all", "share of products, %", "products, % of the peak")
    print(f"| ns a sub-pixel | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for row in [*(row for row in rows if row not in last), *last]:
        cells = (f"{found[row]:.0f}" if row in found else "" for found in columns.values())
        print(f"| {row} | {' | '.join(cells)} |")
    print(f"\nOne thread, {args.image.name}; fastest int8 product: {fastest / 1e9:.0f} G multiply-accumulates/s.")


if __name__ == "__main__":
    main()
