"""General compressors on the raw samples of all images in one piece, which gives up reading an image alone."""

from __future__ import annotations

import lzma
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

#: Raw bytes that are compressed together. No match reaches further back than that, and memory stays bounded.
BLOCK = 1 << 25
LABELS = {"zstd": "zstd -19, solid", "xz": "xz -9, solid"}
_XZ = ({"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": BLOCK},)


@dataclass
class Solid:
    """A compressor that takes images one after the other: their interleaved samples, little-endian."""

    name: str
    label: str
    version: str
    encode: Callable[[bytes], bytes]
    decode: Callable[[bytes], bytes]
    images: int = 0
    raw_bytes: int = 0
    subpixels: int = 0
    bytes: int = 0
    encode_s: float = 0.0
    decode_s: float = 0.0
    failures: list[str] = field(default_factory=list)
    _waiting: bytearray = field(default_factory=bytearray)

    def add(self, pixels: np.ndarray) -> None:
        self.images += 1
        self.subpixels += pixels.size
        self._waiting += pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
        while len(self._waiting) >= BLOCK:
            self._block()

    def finish(self) -> None:
        while self._waiting:
            self._block()

    def _block(self) -> None:
        raw = bytes(self._waiting[:BLOCK])
        del self._waiting[:BLOCK]
        begin = time.perf_counter()
        coded = self.encode(raw)
        between = time.perf_counter()
        same = self.decode(coded) == raw
        self.decode_s += time.perf_counter() - between
        self.encode_s += between - begin
        self.raw_bytes += len(raw)
        self.bytes += len(coded)
        if not same:
            self.failures.append("the decoded samples differ")


def make(name: str) -> Solid | None:
    """The compressor called ``name``, a key of LABELS; None where it is missing."""
    if name == "xz":
        return Solid(name, LABELS[name], "liblzma", _encode_xz, lzma.decompress)
    import imagecodecs

    if not imagecodecs.ZSTD.available:
        return None
    version = str(imagecodecs.zstd_version())
    return Solid(name, LABELS[name], version, lambda raw: bytes(imagecodecs.zstd_encode(raw, level=19)),
                 lambda coded: bytes(imagecodecs.zstd_decode(coded)))  # fmt: skip


def _encode_xz(raw: bytes) -> bytes:
    return lzma.compress(raw, filters=_XZ)
