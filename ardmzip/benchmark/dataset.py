"""``ardmzip bench``: all codecs on the images of a source, one image after the other."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Any

import numpy as np

from ardmzip.benchmark import solid
from ardmzip.benchmark.codecs import Codec, ardmzip_codec, make, warm_up
from ardmzip.benchmark.measure import Measurement, Totals, run_one
from ardmzip.benchmark.solid import Solid
from ardmzip.benchmark.stages import codec_stages
from ardmzip.errors import ArdmError
from ardmzip.formats import Picture
from ardmzip.sources import Item

#: The curve of network calls and the split of times are measured on so many first images, or squares of so many pixels
#: a side from the middle of larger ones.
SAMPLE_IMAGES, SAMPLE_SIDE = 8, 512
BUDGETS = (5, 10, 20, 40)
#: Codecs that the others are compared with, image by image: the first of these that takes part.
REFERENCES = ("jxl-e9", "jxl-e7")
#: Problems that are kept as texts; more are counted.
_MOST = 20


@dataclass
class Problems:
    """What went wrong with images, told at once and kept for the report."""

    tell: Callable[[str], None]
    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.tell(text)
        self.count += 1
        if len(self.first) < _MOST:
            self.first.append(text)


@dataclass(frozen=True)
class Row:
    """A codec on the whole dataset."""

    name: str
    label: str
    version: str
    images: int
    bytes: int
    bits_per_subpixel: float
    #: Bytes over those of the reference on the same images, None where there is no reference.
    relative: float | None
    encode_images_per_s: float
    encode_mb_per_s: float
    decode_images_per_s: float
    decode_mb_per_s: float


@dataclass(frozen=True)
class Point:
    """Bits per sub-pixel of the sample with a budget of network calls; None is none."""

    budget: int | None
    calls: float
    bits_per_subpixel: float


@dataclass
class Result:
    """What was measured."""

    rows: list[Row]
    images: int
    pixels: int
    raw_bytes: int
    reference: str | None
    #: By how many per cent the file of ardmzip is smaller than that of the reference, for each image.
    gains: array
    problems: Problems
    #: Codecs and why they took part in nothing, or not in all.
    notes: list[str]
    sample: int = 0
    curve: list[Point] = field(default_factory=list)
    #: Label of a codec -> bits per sub-pixel of the sample.
    sample_references: dict[str, float] = field(default_factory=dict)
    #: Stage -> nanoseconds a sub-pixel, of the encoder and of the decoder.
    split: dict[str, dict[str, float]] = field(default_factory=dict)


def pixels_of(picture: Picture) -> np.ndarray:
    """The samples of a picture as every codec can take them: palettes written out, gray of 1 to 4 bits as 8."""
    if picture.format.layout != "palette":
        return np.ascontiguousarray(picture.scaled())
    colours = np.zeros((256, 4), np.uint8)
    colours[:, 3] = 255
    table = np.frombuffer(picture.format.palette, np.uint8).reshape(-1, 3)
    colours[: len(table), :3] = table
    alpha = picture.format.transparency
    colours[: len(alpha), 3] = alpha
    return np.ascontiguousarray(colours[picture.samples[:, :, 0]][:, :, : 4 if alpha else 3])


#: Name and pixels.
Image = tuple[str, np.ndarray]
#: The measurements of each image, in order.
Measure = Callable[[Iterable[Image]], Iterable[list[Measurement]]]


def measure_image(image: Image, codecs: Sequence[Codec]) -> list[Measurement]:
    """All codecs that can hold an image on it."""
    name, pixels = image
    return [run_one(codec, name, pixels) for codec in codecs if codec.holds(pixels)]


@dataclass(frozen=True)
class Contest:
    """Which codecs take part: what another process needs to make them."""

    names: tuple[str, ...]
    #: Options of api.compress.
    options: tuple[tuple[str, Any], ...]
    #: Of JPEG XL.
    threads: int

    def ardmzip(self, steps: int | None = None) -> Codec:
        """ardmzip, with at most ``steps`` network calls if that is not None."""
        return ardmzip_codec(**dict(self.options) | ({} if steps is None else {"steps": steps}))

    def codecs(self) -> list[Codec]:
        """ardmzip and the others, warmed up; made once in a process."""
        return _codecs(self)

    def measure(self, image: Image) -> list[Measurement]:
        return measure_image(image, self.codecs())


@cache
def _codecs(contest: Contest) -> list[Codec]:
    made = [contest.ardmzip(), *(make(name, contest.threads) for name in contest.names)]
    for codec in made:
        warm_up(codec)
    return made


class Bench:
    """All codecs on every image, image after image, so that a change in the machine's load meets all of them."""

    def __init__(self, codecs: Sequence[Codec], solids: Sequence[Solid], tell: Callable[[str], None]) -> None:
        self._codecs, self._solids = codecs, solids
        names = [codec.name for codec in codecs]
        self.reference = next((name for name in REFERENCES if name in names), None)
        self._totals = {name: Totals() for name in names}
        #: Bytes of a codec and of the reference, on the images that both took.
        self._pairs = {name: [0, 0] for name in names}
        self._refused = dict.fromkeys(names, 0)
        self._gains = array("d")
        self._images = self._pixels = self._raw_bytes = 0
        self._problems = Problems(tell)
        self._sample: list[tuple[str, np.ndarray]] = []

    def run(
        self,
        items: Iterable[Item],
        limit: int | None = None,
        done: Callable[[int], None] = lambda count: None,
        measure: Measure | None = None,
    ) -> None:
        """Measure on the first ``limit`` items of a source. Images that cannot be read are told, and left out.

        measure: does ``measure_image`` elsewhere, in order.
        """
        images = self._read(islice(items, limit))
        found = measure(images) if measure else (measure_image(image, self._codecs) for image in images)
        for count, measurements in enumerate(found, 1):
            self._account(measurements)
            done(count)

    def _read(self, items: Iterable[Item]) -> Iterator[Image]:
        for item in items:
            try:
                pixels = pixels_of(item.image())
            except ArdmError as error:
                self._problems.add(str(error))
                continue
            self._images += 1
            self._pixels += pixels.shape[0] * pixels.shape[1]
            self._raw_bytes += pixels.nbytes
            for codec in self._codecs:
                self._refused[codec.name] += not codec.holds(pixels)
            for compressor in self._solids:
                compressor.add(pixels)
            if len(self._sample) < SAMPLE_IMAGES:
                self._sample.append((item.name, _middle(pixels, SAMPLE_SIDE)))
            yield item.name, pixels

    def _account(self, measurements: Sequence[Measurement]) -> None:
        good = {}
        for measurement in measurements:
            self._totals[measurement.codec].add(measurement)
            if measurement.error:
                label = next(codec.label for codec in self._codecs if codec.name == measurement.codec)
                self._problems.add(f"{measurement.image}: {label}: {measurement.error}")
            else:
                good[measurement.codec] = measurement
        if self.reference in good:
            reference = good[self.reference].bytes
            for taken, measurement in good.items():
                self._pairs[taken][0] += measurement.bytes
                self._pairs[taken][1] += reference
            if "ardmzip" in good:
                self._gains.append(100 * (1 - good["ardmzip"].bytes / reference))

    def result(self) -> Result:
        """The totals."""
        notes = []
        rows = []
        for codec in self._codecs:
            totals, (ours, theirs) = self._totals[codec.name], self._pairs[codec.name]
            rows.append(_row(codec, totals, ours / theirs if theirs else None))
            if self._refused[codec.name]:
                notes.append(f"{codec.label} cannot hold {self._refused[codec.name]} of the images")
        whole = self._totals[self.reference] if self.reference else None
        for compressor in self._solids:
            compressor.finish()
            for failure in compressor.failures:
                self._problems.add(f"{compressor.label}: {failure}")
            comparable = whole is not None and whole.images == compressor.images and whole.bytes
            rows.append(_row(compressor, compressor, compressor.bytes / whole.bytes if whole and comparable else None))
        label = next((codec.label for codec in self._codecs if codec.name == self.reference), None)
        return Result(rows, self._images, self._pixels, self._raw_bytes, label, self._gains, self._problems, notes)

    def measure_sample(self, result: Result, ardmzip: Callable[[int | None], Codec]) -> None:
        """Measure curve and time split on the sample; ``ardmzip`` makes the codec for a budget of network calls."""
        result.sample = len(self._sample)
        for budget in (*BUDGETS, None):
            totals = self._sampled(ardmzip(budget))
            if totals.images:
                result.curve.append(Point(budget, totals.mean_calls or 0.0, totals.bits_per_subpixel))
        for codec in self._codecs:
            if codec.name != "ardmzip" and all(codec.holds(pixels) for _, pixels in self._sample):
                result.sample_references[codec.label] = self._sampled(codec).bits_per_subpixel
        result.split = split([pixels for _, pixels in self._sample], ardmzip(None))

    def _sampled(self, codec: Codec) -> Totals:
        totals = Totals()
        for name, pixels in self._sample:
            totals.add(run_one(codec, name, pixels))
        for failure in totals.failures:
            self._problems.add(f"sample: {codec.label}: {failure}")
        return totals


def _middle(pixels: np.ndarray, side: int) -> np.ndarray:
    """At most side x side pixels around the middle."""
    top, left = (max(0, (length - side) // 2) for length in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def _row(codec: Codec | Solid, totals: Totals | Solid, relative: float | None) -> Row:
    def rate(amount: float, seconds: float) -> float:
        return amount / seconds if seconds > 0 else float("nan")

    megabytes = totals.raw_bytes / 1e6
    return Row(
        codec.name, codec.label, codec.version, totals.images, totals.bytes,
        8 * totals.bytes / totals.subpixels if totals.subpixels else float("nan"), relative,
        rate(totals.images, totals.encode_s), rate(megabytes, totals.encode_s),
        rate(totals.images, totals.decode_s), rate(megabytes, totals.decode_s),
    )  # fmt: skip


def split(images: Sequence[np.ndarray], codec: Codec) -> dict[str, dict[str, float]]:
    """Nanoseconds a sub-pixel by stage of ardmzip's encoder and decoder, on one thread, over some images."""
    subpixels = sum(pixels.size for pixels in images)
    files: list[bytes] = []
    found = {}
    if not images:
        return {}
    for name in ("encode", "decode"):
        with codec_stages() as stages:
            begin = time.perf_counter()
            if name == "encode":
                files = [codec.encode(pixels) for pixels in images]
            else:
                for file in files:
                    codec.decode(file)
            whole = time.perf_counter() - begin
            rest = max(0.0, whole - sum(stages.seconds.values()))
            times = dict(sorted(stages.seconds.items(), key=lambda stage: -stage[1])) | {"the rest": rest}
            found[name] = {stage: 1e9 * seconds / subpixels for stage, seconds in times.items()}
    return found


def make_solids(names: Sequence[str]) -> list[Solid]:
    """The general compressors among some names that are there."""
    made = (solid.make(name) for name in names if name in solid.LABELS)
    return [compressor for compressor in made if compressor is not None]
