"""Running codecs on images: sizes, seconds, and whether every pixel came back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ardmzip.benchmark.codecs import Codec, network_calls, same_pixels


@dataclass(frozen=True)
class Measurement:
    """One codec on one image. ``error`` is empty where the pixels came back unchanged."""

    codec: str
    image: str
    width: int
    height: int
    channels: int
    bytes: int = 0
    encode_s: float = 0.0
    decode_s: float = 0.0
    encode_cpu_s: float = 0.0
    decode_cpu_s: float = 0.0
    network_calls: int | None = None
    error: str = ""
    #: Bytes of a sub-pixel.
    sample_bytes: int = 1

    @property
    def subpixels(self) -> int:
        return self.width * self.height * self.channels

    @property
    def bits_per_subpixel(self) -> float:
        return 8 * self.bytes / self.subpixels

    @property
    def raw_bytes(self) -> int:
        return self.subpixels * self.sample_bytes


@dataclass
class Totals:
    """Sums over the images on which a codec succeeded, and the failures of the others."""

    images: int = 0
    bytes: int = 0
    pixels: int = 0
    subpixels: int = 0
    raw_bytes: int = 0
    encode_s: float = 0.0
    decode_s: float = 0.0
    encode_cpu_s: float = 0.0
    decode_cpu_s: float = 0.0
    #: Of the bits per sub-pixel of each image.
    bits: float = 0.0
    calls: int = 0
    called: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, m: Measurement) -> None:
        if m.error:
            self.failures.append(f"{m.image}: {m.error}")
            return
        self.images += 1
        self.bytes += m.bytes
        self.pixels += m.width * m.height
        self.subpixels += m.subpixels
        self.raw_bytes += m.raw_bytes
        self.encode_s += m.encode_s
        self.decode_s += m.decode_s
        self.encode_cpu_s += m.encode_cpu_s
        self.decode_cpu_s += m.decode_cpu_s
        self.bits += m.bits_per_subpixel
        if m.network_calls is not None:
            self.calls += m.network_calls
            self.called += 1

    @property
    def bits_per_subpixel(self) -> float:
        return 8 * self.bytes / self.subpixels if self.subpixels else float("nan")

    @property
    def mean_calls(self) -> float | None:
        return self.calls / self.called if self.called else None


@dataclass(frozen=True)
class Summary:
    """One codec on a whole set. Bits per sub-pixel are the bits of all files over the sub-pixels of all images."""

    codec: str
    label: str
    version: str
    images: int
    bytes: int
    bits_per_subpixel: float
    mean_bits_per_subpixel: float
    encode_s_per_mp: float
    decode_s_per_mp: float
    encode_cpu_s_per_mp: float
    decode_cpu_s_per_mp: float
    startup_s: float
    mean_network_calls: float | None = None
    failures: tuple[str, ...] = ()


def run_one(codec: Codec, image: str, pixels: np.ndarray) -> Measurement:
    """Encode, decode, compare. Nothing that a codec raises ends the comparison: it becomes the error."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    try:
        data, encode_s, encode_cpu_s = _timed(codec.encode, pixels)
        decoded, decode_s, decode_cpu_s = _timed(codec.decode, data)
        calls = network_calls(data) if codec.name == "ardmzip" else None
    except Exception as problem:
        return Measurement(codec.name, image, width, height, channels, error=f"{type(problem).__name__}: {problem}")
    error = "" if same_pixels(decoded, pixels) else "the decoded pixels differ"
    return Measurement(
        codec.name, image, width, height, channels, len(data),
        encode_s, decode_s, encode_cpu_s, decode_cpu_s, calls, error, pixels.itemsize,
    )  # fmt: skip


def _timed(function: Callable[[Any], Any], argument: Any) -> tuple[Any, float, float]:
    """Its result, and the seconds of the wall clock and of the processor."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = function(argument)
    return result, time.perf_counter() - wall, time.process_time() - cpu


def summarise(codec: Codec, measurements: Sequence[Measurement], startup_s: float = 0.0) -> Summary:
    """Totals over the images on which the codec succeeded; the others are named in ``failures``."""
    totals = Totals()
    for measurement in measurements:
        totals.add(measurement)

    def per_mp(seconds: float) -> float:
        return seconds / totals.pixels * 1e6 if totals.images else float("nan")

    return Summary(
        codec.name,
        codec.label,
        codec.version,
        images=totals.images,
        bytes=totals.bytes,
        bits_per_subpixel=totals.bits_per_subpixel,
        mean_bits_per_subpixel=totals.bits / totals.images if totals.images else float("nan"),
        encode_s_per_mp=per_mp(totals.encode_s),
        decode_s_per_mp=per_mp(totals.decode_s),
        encode_cpu_s_per_mp=per_mp(totals.encode_cpu_s),
        decode_cpu_s_per_mp=per_mp(totals.decode_cpu_s),
        startup_s=startup_s,
        mean_network_calls=totals.mean_calls,
        failures=tuple(totals.failures),
    )
