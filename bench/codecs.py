"""The codecs of the comparison, each a pair of functions: pixels -> bytes and bytes -> pixels.

Pixels are ``uint8[height, width, 3]`` (RGB) or ``uint8[height, width]`` (gray). Every codec is set to its lossless
mode, and to the same number of threads where it can use more than one.
"""

from __future__ import annotations

import io
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

#: The same of bench.effort.
EFFORTS = {f"ardmzip-e{effort}": f"ardmzip --effort {effort}" for effort in (0, 3, 6, 9)} | {
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
        return Codec(name, LABELS[name], _pillow("zlib"), encode_png, _decode_pillow)
    if name == "webp":
        return Codec(name, LABELS[name], _pillow("webp"), encode_webp, _decode_pillow)
    try:
        import imagecodecs
    except ImportError as error:
        raise MissingCodec("the package imagecodecs is not installed (pip install 'ardmzip[bench]')") from error
    if name == "jpeg-ls":
        version = imagecodecs.jpegls_version()
        return Codec(name, LABELS[name], version, _encode_jpegls, imagecodecs.jpegls_decode)
    if name in ("jxl-e7", "jxl-e9", "jxl-e10"):
        # numthreads: imagecodecs reads 0 as "all cores" and takes at most 32
        encode = partial(_encode_jxl, effort=int(name.removeprefix("jxl-e")), threads=threads)
        decode = partial(imagecodecs.jpegxl_decode, numthreads=threads)
        return Codec(name, (LABELS | EFFORTS)[name], imagecodecs.jpegxl_version(), encode, decode)
    raise ValueError(f"no codec is called {name!r}; there are {', '.join(LABELS | EFFORTS)}")


def encode_png(pixels: np.ndarray) -> bytes:
    """PNG with adaptive row filters and zlib at level 9 (Pillow's ``optimize``)."""
    return _save(pixels, format="PNG", optimize=True)


def encode_webp(pixels: np.ndarray) -> bytes:
    """Lossless WebP; method 5 is as small as the slowest one (to four digits), and six times faster.

    It has no gray mode: gray is stored as three equal channels.
    """
    return _save(pixels, format="WEBP", lossless=True, quality=100, method=5)


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
    try:
        import ardmzip
        from ardmzip.api import AUTO, compress, decompress
        from ardmzip.choice import candidates
        from ardmzip.errors import ModelError
        from ardmzip.model import load
    except ImportError as error:
        raise MissingCodec(f"ardmzip cannot be imported: {error}") from error
    try:
        models = candidates() if model == AUTO else [load(model)]
    except ModelError as error:
        raise MissingCodec(str(error)) from error
    effort = int(name.removeprefix("ardmzip-e")) if name in EFFORTS else None
    # verification is decoding, which is measured by itself
    return Codec(
        name,
        (LABELS | EFFORTS)[name],
        f"ardmzip {ardmzip.__version__}, model {' or '.join(f'{m.name} ({m.id.hex()})' for m in models)}",
        partial(
            compress, model=model, steps=steps, learn=_LEARNS.get(name), effort=effort, device=device, verify=False
        ),
        lambda data: np.asarray(decompress(data, model=None if model == AUTO else model, device=device)),
    )


def same_pixels(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays show the same picture. Gray equals RGB with three equal channels, which is WebP's gray.

    >>> gray = np.array([[1, 2]], np.uint8)
    >>> same_pixels(gray, np.stack([gray] * 3, axis=-1)), same_pixels(gray, gray + 1)
    (True, False)
    """
    a, b = (x[:, :, None] if x.ndim == 2 else x for x in (a, b))
    return a.dtype == b.dtype and a.shape[:2] == b.shape[:2] and bool((a == b).all())


def network_calls(data: bytes) -> int:
    """How many network calls a ``.ardm`` file takes to decode."""
    from ardmzip.container import unpack

    return unpack(data).network_calls


def warm_up(codec: Codec) -> float:
    """Run a codec once on a tiny RGB and a tiny gray image; returns the seconds of the first, start-up included.

    What is loaded or compiled on first use (a model, just-in-time compiled code) is thus not counted to an image.
    """
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    begin = time.perf_counter()
    codec.decode(codec.encode(noise))
    seconds = time.perf_counter() - begin
    codec.decode(codec.encode(np.ascontiguousarray(noise[:, :, 0])))
    return seconds
