"""The codecs of the comparison, each a pair of functions: pixels -> bytes and bytes -> pixels.

Pixels are ``uint8[height, width, 3]`` (RGB) or ``uint8[height, width]`` (gray), and where a codec ``holds`` them also
uint16, or with alpha. Every codec is set to its lossless mode, and to the same number of threads where it can use more
than one.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Codec:
    """A lossless image codec. ``version`` names the library behind it."""

    name: str
    label: str
    version: str
    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes], np.ndarray]
    holds: Callable[[np.ndarray], bool] = lambda pixels: True


class MissingCodec(Exception):
    """The package behind a codec is not installed, or ardmzip has no such model; the text says which."""


#: Name on the command line -> name in the tables.
LABELS = {
    "ardmzip": "ardmzip",
    "ardmzip-frozen": "ardmzip --no-learn",
    "ardmzip-fast": "ardmzip -m fast",
    "ardmzip-fast-learn": "ardmzip -m fast --learn",
    "png": "PNG, optimised",
    "webp": "WebP lossless",
    "jpeg-ls": "JPEG-LS",
    "jxl-e7": "JPEG XL e7",
    "jxl-e9": "JPEG XL e9",
}

#: The same of efforts; 4 is for small images.
EFFORTS = {f"ardmzip-e{effort}": f"ardmzip --effort {effort}" for effort in (0, 3, 4, 6, 9)} | {
    "jxl-e7": LABELS["jxl-e7"],
    "jxl-e9": LABELS["jxl-e9"],
    "jxl-e10": "JPEG XL e10",
}


#: Whether ardmzip's heads learn; None is what the model says.
_LEARNS = {"ardmzip": None, "ardmzip-frozen": False, "ardmzip-fast": None, "ardmzip-fast-learn": True}


def make(name: str, threads: int = 1, *, model: str = "auto", steps: int | None = None, device: str = "cpu") -> Codec:
    """The codec called ``name`` (a key of LABELS or EFFORTS) on ``threads`` threads. The keywords matter to ardmzip
    only."""
    if name in _LEARNS or name.startswith("ardmzip-e"):
        return _ardmzip(name, "fast" if name.startswith("ardmzip-fast") else model, steps, device)
    if name == "png":
        return Codec(name, LABELS[name], _pillow("zlib"), encode_png, _decode_png)
    if name == "webp":
        return Codec(name, LABELS[name], _pillow("webp"), encode_webp, _decode_pillow, _is_8_bit)
    try:
        import imagecodecs
    except ImportError as error:
        raise MissingCodec("the package imagecodecs is not installed") from error
    if name == "jpeg-ls":
        version = imagecodecs.jpegls_version()
        return Codec(name, LABELS[name], version, _encode_jpegls, imagecodecs.jpegls_decode)
    if name in ("jxl-e7", "jxl-e9", "jxl-e10"):
        # numthreads: imagecodecs reads 0 as "all cores" and takes at most 32
        encode = partial(_encode_jxl, effort=int(name.removeprefix("jxl-e")), threads=threads)
        decode = partial(imagecodecs.jpegxl_decode, numthreads=threads)
        return Codec(name, (LABELS | EFFORTS)[name], imagecodecs.jpegxl_version(), encode, decode)
    raise ValueError(f"no codec is called {name!r}; there are {', '.join(LABELS | EFFORTS)}")


def _is_8_bit(pixels: np.ndarray) -> bool:
    return pixels.dtype == np.uint8


def encode_png(pixels: np.ndarray) -> bytes:
    """PNG with adaptive row filters and zlib at level 9 (Pillow's ``optimize``); 16 bits by libpng."""
    if _is_8_bit(pixels):
        return _save(pixels, format="PNG", optimize=True)
    import imagecodecs

    return bytes(imagecodecs.png_encode(pixels, level=9))


def _decode_png(data: bytes) -> np.ndarray:
    if data[24] <= 8:  # bits a sample
        return _decode_pillow(data)
    import imagecodecs

    return imagecodecs.png_decode(data)


def encode_webp(pixels: np.ndarray) -> bytes:
    """Lossless WebP; method 5 is as small as the slowest one (to four digits), and six times faster.

    It has no gray mode: gray is stored as three equal channels.
    """
    return _save(pixels, format="WEBP", lossless=True, quality=100, method=5, exact=True)


def _encode_jpegls(pixels: np.ndarray) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.jpegls_encode(pixels))


def _encode_jxl(pixels: np.ndarray, effort: int, threads: int) -> bytes:
    """Lossless JPEG XL, a bare code stream: the smallest form of the file."""
    import imagecodecs

    data = imagecodecs.jpegxl_encode(pixels, lossless=True, effort=effort, numthreads=threads, usecontainer=False)
    return bytes(data)


def _save(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def _decode_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def _pillow(feature: str) -> str:
    import PIL
    from PIL import features

    version = features.version(feature)
    if version is None:
        raise MissingCodec(f"this Pillow was built without {feature}")
    return f"{feature} {version}, Pillow {PIL.__version__}"


def _ardmzip(name: str, model: str, steps: int | None, device: str) -> Codec:
    effort = int(name.removeprefix("ardmzip-e")) if name in EFFORTS else None
    return ardmzip_codec(name, model=model, steps=steps, learn=_LEARNS.get(name), effort=effort, device=device)


def ardmzip_codec(
    name: str = "ardmzip", *, model: str = "auto", device: str = "auto", backend: str = "auto", **options: object
) -> Codec:
    """ardmzip with options of ``compress``; raises MissingCodec where it has no such model."""
    import ardmzip
    from ardmzip.api import AUTO, compress, decompress_array
    from ardmzip.choice import candidates, relatives
    from ardmzip.errors import ModelError
    from ardmzip.model import load

    try:
        models = candidates() if model == AUTO else [load(model)]
        if model == AUTO and options.get("effort"):
            models += [relative for candidate in models for relative in relatives(candidate)]
    except ModelError as error:
        raise MissingCodec(str(error)) from error
    # verification is decoding, which is measured by itself
    encode = partial(compress, model=model, device=device, backend=backend, verify=False, **options)  # type: ignore[arg-type]
    decode = partial(decompress_array, model=None if model == AUTO else model, device=device, backend=backend)
    names = " or ".join(f"{m.name} ({m.id.hex()})" for m in models)
    return Codec(name, (LABELS | EFFORTS)[name], f"ardmzip {ardmzip.__version__}, model {names}", encode, decode)


def same_pixels(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays show the same picture.

    Gray equals RGB with three equal channels, which is WebP's gray, and an alpha channel that is missing equals one
    that is opaque throughout, which some decoders leave out.

    >>> gray = np.array([[1, 2]], np.uint8)
    >>> same_pixels(gray, np.stack([gray] * 3, axis=-1)), same_pixels(gray, gray + 1)
    (True, False)
    >>> same_pixels(np.stack([gray, gray], axis=-1), gray)
    False
    """
    if a.dtype != b.dtype or a.shape[:2] != b.shape[:2]:
        return False
    return bool((_rgba(a) == _rgba(b)).all())


def _rgba(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    colours, alpha = pixels[:, :, : (pixels.shape[2] + 1) // 2 * 2 - 1], np.iinfo(pixels.dtype).max
    whole = np.full((*pixels.shape[:2], 4), alpha, pixels.dtype)
    whole[:, :, :3] = colours
    if pixels.shape[2] > colours.shape[2]:
        whole[:, :, 3] = pixels[:, :, -1]
    return whole


def available_threads() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def network_calls(data: bytes) -> int:
    """How many network calls a ``.ardm`` file takes to decode."""
    from ardmzip.container import unpack

    return unpack(data).network_calls


def warm_up(codec: Codec) -> float:
    """Run a codec once on a tiny RGB and a tiny gray image; returns the seconds of the first, start-up included.

    What is loaded or compiled on first use (a model, just-in-time compiled code) is thus not counted to an image.
    """
    y, x = np.mgrid[:48, :48]
    # smooth with some noise, so that ardmzip takes its network
    smooth = np.stack([90 + 60 * np.sin(x / 9 + channel) + 50 * np.cos(y / 13) for channel in range(3)], -1)
    image = (smooth + np.random.default_rng(0).normal(0, 3, smooth.shape)).clip(0, 255).astype(np.uint8)
    begin = time.perf_counter()
    codec.decode(codec.encode(image))
    seconds = time.perf_counter() - begin
    codec.decode(codec.encode(np.ascontiguousarray(image[:, :, 0])))
    return seconds
