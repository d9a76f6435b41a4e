"""Make the files of tests/golden with the shipped model: python -m tests.make_golden

They must decode to the same pixels for ever, so this is run once for a model, and never replaces a file: delete the
files of a model that was never released before running it again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import ardmzip

FOLDER = Path(__file__).parent / "golden"
SAMPLE = Path(__file__).parent.parent / "demo" / "sample.png"


def waves(height: int, width: int, channels: int, noise: float) -> np.ndarray:
    """A smooth picture with some noise: uint8 [height, width, channels]."""
    rng = np.random.default_rng(height * width)
    y, x = np.mgrid[:height, :width]
    planes = [np.sin(y / (9 + 3 * c) + c) + np.cos(x / (13 + 2 * c) - c) for c in range(channels)]
    pixels = 120 + 55 * np.stack(planes, -1) + rng.normal(0, noise, (height, width, channels))
    return pixels.clip(0, 255).astype(np.uint8)


def images() -> dict[str, tuple[np.ndarray, dict]]:
    """Pixels and options by name; files whose heads learn are named learn-*."""
    photo = waves(96, 80, 3, 3.0)
    if SAMPLE.exists():
        with Image.open(SAMPLE) as image:
            photo = np.asarray(image.convert("RGB"))[100:196, 140:220]
    small, one = photo[:32, :24], np.array([[[200, 17, 3]]], np.uint8)
    gray, side = waves(11, 17, 1, 2.0)[:, :, 0], waves(64, 144, 1, 0.5)[:, :, 0]
    frozen: dict = {"learn": False}
    return {
        "one": (one, frozen),
        "gray": (gray, frozen),
        "photo": (small, frozen),
        "steps": (waves(30, 40, 3, 1.0), frozen | {"steps": 5}),
        "side": (side, frozen | {"steps": 20}),
        "learn-one": (one, {}),
        "learn-gray": (gray, {}),
        "learn-photo": (photo, {}),
        "learn-steps": (waves(30, 40, 3, 1.0), {"steps": 5}),
        "learn-side": (side, {"steps": 20}),
        "learn-batches": (photo, {"steps": 20, "batches": 12}),
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, (pixels, options) in images().items():
        file, original = FOLDER / f"{name}.ardm", FOLDER / f"{name}.png"
        if file.exists() or original.exists():
            print(f"{file} is kept")
            continue
        data = ardmzip.compress(np.ascontiguousarray(pixels), **options)
        Image.fromarray(pixels).save(original, optimize=True)
        file.write_bytes(data)
        print(f"{file}: {len(data)} bytes")


if __name__ == "__main__":
    main()
