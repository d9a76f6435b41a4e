"""``ardmzip bench``: all codecs on the images of a source, one image after the other."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from ardmzip.benchmark import solid
from ardmzip.benchmark.codecs import Codec
from ardmzip.benchmark.measure import Totals, run_one
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
        self, items: Iterable[Item], limit: int | None = None, done: Callable[[int], None] = lambda n: None
    ) -> None:
        """Measure on the first ``limit`` items of a source. Images that cannot be read are told, and left out."""
        for count, item in enumerate(islice(items, limit), 1):
            try:
                pixels = pixels_of(item.image())
            except ArdmError as error:
                self._problems.add(str(error))
            else:
                self._image(item.name, pixels)
            done(count)

    def _image(self, name: str, pixels: np.ndarray) -> None:
        self._images += 1
        self._pixels += pixels.shape[0] * pixels.shape[1]
        self._raw_bytes += pixels.nbytes
        found = {}
        for codec in self._codecs:
            if not codec.holds(pixels):
                self._refused[codec.name] += 1
                continue
            found[codec.name] = run_one(codec, name, pixels)
            self._totals[codec.name].add(found[codec.name])
            if found[codec.name].error:
                self._problems.add(f"{name}: {codec.label}: {found[codec.name].error}")
        for compressor in self._solids:
            compressor.add(pixels)
        good = {taken: measurement for taken, measurement in found.items() if not measurement.error}
        if self.reference in good:
            for taken, measurement in good.items():
                self._pairs[taken][0] += measurement.bytes
                self._pairs[taken][1] += good[self.reference].bytes
            if "ardmzip" in good:
                self._gains.append(100 * (1 - good["ardmzip"].bytes / good[self.reference].bytes))
        if len(self._sample) < SAMPLE_IMAGES:
            self._sample.append((name, _middle(pixels, SAMPLE_SIDE)))

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
