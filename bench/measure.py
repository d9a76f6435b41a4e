"""Running codecs on images: sizes, seconds, and whether every pixel came back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.codecs import Codec, network_calls, same_pixels
from bench.images import ImageSet, UnsupportedImage


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

    @property
    def subpixels(self) -> int:
        return self.width * self.height * self.channels

    @property
    def bits_per_subpixel(self) -> float:
        return 8 * self.bytes / self.subpixels


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


@dataclass
class SetResult:
    """What was measured on a set: per image and codec, and the images that were left out, with the reason."""

    name: str
    measurements: list[Measurement] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def of(self, codec: str) -> list[Measurement]:
        return [m for m in self.measurements if m.codec == codec]


Report = Callable[[int, int, str], None]


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
        encode_s, decode_s, encode_cpu_s, decode_cpu_s, calls, error,
    )  # fmt: skip


def _timed(function, argument):
    cpu, wall = time.process_time(), time.perf_counter()
    result = function(argument)
    return result, time.perf_counter() - wall, time.process_time() - cpu


def run_set(images: ImageSet, codecs: Sequence[Codec], report: Report = lambda done, of, text: None) -> SetResult:
    """All codecs on every image, image after image, so that a change in the machine's load meets all of them."""
    result = SetResult(images.name)
    for i, name in enumerate(images.files):
        try:
            pixels = np.ascontiguousarray(images.load(i))
        except UnsupportedImage as error:
            result.skipped.append(f"{name}: {error}")
            continue
        for codec in codecs:
            report(i, len(images.files), f"{name} {codec.label}")
            result.measurements.append(run_one(codec, name, pixels))
    report(len(images.files), len(images.files), "done")
    return result


def summarise(codec: Codec, measurements: Sequence[Measurement], startup_s: float = 0.0) -> Summary:
    """Totals over the images on which the codec succeeded; the others are named in ``failures``."""
    good = [m for m in measurements if not m.error]
    bits, subpixels = 8 * sum(m.bytes for m in good), sum(m.subpixels for m in good)
    megapixels = sum(m.width * m.height for m in good) / 1e6
    calls = [m.network_calls for m in good if m.network_calls is not None]

    def per_mp(seconds: float) -> float:
        return seconds / megapixels if good else float("nan")

    return Summary(
        codec.name,
        codec.label,
        codec.version,
        images=len(good),
        bytes=bits // 8,
        bits_per_subpixel=bits / subpixels if good else float("nan"),
        mean_bits_per_subpixel=float(np.mean([m.bits_per_subpixel for m in good])) if good else float("nan"),
        encode_s_per_mp=per_mp(sum(m.encode_s for m in good)),
        decode_s_per_mp=per_mp(sum(m.decode_s for m in good)),
        encode_cpu_s_per_mp=per_mp(sum(m.encode_cpu_s for m in good)),
        decode_cpu_s_per_mp=per_mp(sum(m.decode_cpu_s for m in good)),
        startup_s=startup_s,
        mean_network_calls=float(np.mean(calls)) if calls else None,
        failures=tuple(f"{m.image}: {m.error}" for m in measurements if m.error),
    )
