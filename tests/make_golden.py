"""Make the files of tests/golden and tests/odd with the shipped model: python -m tests.make_golden

They must decode to the same pixels for ever, so this is run once for a model, and never replaces a file: delete the
files of a model that was never released before running it again. Small files from before there was a short form (gray,
photo, one, ...) are kept as they are: readers take both.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

import ardmzip
from ardmzip import api, changes, codec, model, network, trials
from ardmzip.archive.writer import Writer
from ardmzip.body import Encoder
from ardmzip.changes import Changes
from ardmzip.container import pack
from ardmzip.efforts import Effort
from ardmzip.fitting import fit
from ardmzip.formats import Picture
from ardmzip.image import to_planes
from ardmzip.pixelformat import PixelFormat
from ardmzip.pngfile import Chunk
from ardmzip.writing import write

FOLDER = Path(__file__).parent / "golden"
#: Other pixel formats, and general coders; with metadata.
ODD = Path(__file__).parent / "odd"
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
    large = waves(210, 209, 3, 3.0)
    if SAMPLE.exists():
        with Image.open(SAMPLE) as image:
            large = np.asarray(image.convert("RGB"))[40:250, 100:309]
    photo = large[60:156, 40:120]
    small, one = photo[:32, :24], np.array([[[200, 17, 3]]], np.uint8)
    rgba = np.dstack([large[:100, :110], large[60:160, 50:160, 1]])
    gray, side = waves(11, 17, 1, 2.0)[:, :, 0], waves(64, 144, 1, 0.5)[:, :, 0]
    frozen: dict = {"learn": False}
    return {
        "one": (one, frozen),
        "gray": (gray, frozen),
        "photo": (small, frozen),
        "steps": (waves(30, 40, 3, 1.0), frozen | {"steps": 5}),
        "side": (side, frozen | {"steps": 20}),
        "short": (small, {"model": "thumb"}),
        "turned": (photo[:32, :32], {"model": "thumb", "effort": 4}),
        "code-alpha": (rgba[:40, :30], {"model": "thumb"}),
        "learn-short": (photo[:64, :64], {"model": "photo"}),
        "learn-one": (one, {}),
        "learn-gray": (gray, {}),
        "learn-photo": (photo, {}),
        "learn-photo-cd": (photo, {"model": "photo-cd"}),
        "learn-steps": (waves(30, 40, 3, 1.0), {"steps": 5}),
        "learn-side": (side, {"steps": 20}),
        "learn-batches": (photo, {"steps": 20, "batches": 12}),
        "learn-cuts": (large, {}),
        "learn-tiles": (rgba, {"model": "photo", "tile": 64}),
    }


def alike(height: int, width: int, noise: float) -> np.ndarray:
    """Gray waves as RGB; no photograph is like that in all channels."""
    y, x = np.mgrid[:height, :width]
    gray = 120 + 50 * np.sin(x / 5) * np.cos(y / 7) + np.random.default_rng(0).normal(0, noise, (height, width))
    return np.repeat(gray.clip(0, 255)[:, :, None].astype(np.uint8), 3, 2)


def with_pace(pixels: np.ndarray) -> bytes:
    """The file of an image whose heads learn twice as fast, whether that pays or not."""
    photo, made = model.load("photo"), Changes(pace=32)
    coded = codec.encode(to_planes(pixels), changes.apply(made, photo), network.backend("cpu"))
    return pack(replace(coded, changes=changes.pack(made, photo), saved=9))


def with_biases(pixels: np.ndarray) -> bytes:
    """The file of an image to which biases are fitted though it is small."""
    picture, effort = Picture(pixels, PixelFormat("RGB")), Effort(samples=6000, passes=3)
    with patch.object(fit, "MIN_SAMPLES", 256), patch.object(fit, "BATCH", 128):
        coded = trials.encode(pixels, picture.format, Encoder(model.load("photo")), None, effort)
    return api.packed(coded, picture, None)[0]


def odd_pictures() -> dict[str, tuple[Picture, dict]]:
    """Pictures and options by name; those called model-* have parts that the model codes."""
    rgba = waves(30, 26, 4, 2.0)
    deep = (rgba.astype(np.uint16) << 8) | waves(30, 26, 4, 9.0)
    cross = np.zeros((30, 26, 1), np.uint8)
    cross[10:14] = cross[:, 8:12] = 1
    tiles = np.tile(np.random.default_rng(6).integers(0, 65536, (9, 40, 1), np.uint16), (9, 2, 1))
    text = Chunk(b"tEXt", b"Title\0an odd picture"), Chunk(b"gAMA", (45455).to_bytes(4, "big"))
    forced = {"model": "photo"}
    return {
        "model-rgba": (Picture(rgba, PixelFormat("RGB+alpha"), text), forced),
        "model-deep-rgba": (Picture(deep, PixelFormat("RGB+alpha", 16)), forced),
        "model-deep-gray": (Picture(deep[:, :, :1] >> 4, PixelFormat("gray", 16), text[:1]), forced),
        "model-key": (Picture(rgba[:, :, :3].copy(), PixelFormat("RGB", transparency=(1, 2, 3))), forced),
        "deep-copied": (Picture(cross.astype(np.uint16) * 65535, PixelFormat("gray", 16)), {}),
        "deep-tiles": (Picture(tiles, PixelFormat("gray", 16)), {}),
        "one-bit": (Picture(cross, PixelFormat("gray", 1)), {}),
        "palette": (Picture(3 * cross, PixelFormat("palette", 2, bytes(range(12)), (0, 99)), text), {}),
        "flat-rgba": (Picture(np.repeat(200 * cross, 4, axis=2), PixelFormat("RGB+alpha")), {}),
        "noise": (Picture(np.random.default_rng(5).integers(0, 256, (9, 7, 3), np.uint8), PixelFormat("RGB")), {}),
    }


def make_archive(path: Path) -> None:
    """An archive of files of tests/golden, with what an archive can have: labels, JSON, a copy, an index amid it."""
    names = ["photo", "steps", "side", "one", "gray", "learn-side", "learn-steps", "learn-one", "learn-photo"]
    with Writer.create(path, {"model": "auto"}) as writer:
        for i, name in enumerate(names[:5]):
            file = (FOLDER / f"{name}.ardm").read_bytes()
            writer.add(f"{name}.png", file, "golden" if i % 2 == 0 else None, {"number": i} if i % 2 else None)
    with Writer.append(path) as writer:
        for i, name in enumerate(names[5:]):
            writer.add(f"{name}.png", (FOLDER / f"{name}.ardm").read_bytes(), i)
        writer.add_copy("copy-gray.png", "gray.png")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    ODD.mkdir(exist_ok=True)
    for name, (picture, options) in odd_pictures().items():
        file, original = ODD / f"{name}.ardm", ODD / f"{name}.png"
        if file.exists() or original.exists():
            print(f"{file} is kept")
            continue
        data = ardmzip.compress(picture, **options)
        original.write_bytes(write(picture, ".png")[0])
        file.write_bytes(data)
        print(f"{file}: {len(data)} bytes")
    ways = {name: (pixels, partial(ardmzip.compress, **options)) for name, (pixels, options) in images().items()}
    ways["learn-pace"] = alike(96, 100, 4.0), with_pace
    ways["learn-changes"] = alike(160, 160, 1.0), with_biases
    for name, (pixels, make) in ways.items():
        file, original = FOLDER / f"{name}.ardm", FOLDER / f"{name}.png"
        if file.exists() or original.exists():
            print(f"{file} is kept")
            continue
        data = make(np.ascontiguousarray(pixels))
        Image.fromarray(pixels).save(original, optimize=True)
        file.write_bytes(data)
        print(f"{file}: {len(data)} bytes")
    archive = FOLDER / "archive.ardmz"
    if archive.exists():
        print(f"{archive} is kept")
    else:
        make_archive(archive)


if __name__ == "__main__":
    main()
