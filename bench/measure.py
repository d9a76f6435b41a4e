"""Running codecs on sets of images: sizes, seconds, and whether every pixel came back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ardmzip.benchmark.codecs import Codec
from ardmzip.benchmark.measure import Measurement, run_one
from bench.images import ImageSet, UnsupportedImage


@dataclass
class SetResult:
    """What was measured on a set: per image and codec, and the images that were left out, with the reason."""

    name: str
    measurements: list[Measurement] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def of(self, codec: str) -> list[Measurement]:
        return [m for m in self.measurements if m.codec == codec]


Report = Callable[[int, int, str], None]


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
