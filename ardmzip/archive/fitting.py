"""Fitting a model to the images of an archive, which then brings the difference with it (docs/FITTING.md)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ardmzip import api, batches, choice, differences, model, network, raster
from ardmzip.batches import Options
from ardmzip.body import share_of
from ardmzip.errors import ArdmError
from ardmzip.fitting import finetune
from ardmzip.fitting.pool import Pool
from ardmzip.formats import Picture
from ardmzip.model import Model
from ardmzip.sources import Source

Progress = Callable[[float], None]

#: Images, and pixels of them, that are looked at, at most. Of large images, squares of CROP pixels a side.
IMAGES, PIXELS, CROP = 8192, 1 << 23, 256
#: One in so many of these is held out to find out which changes pay, and another to find out whether all of them do.
HELD_OUT = 10
#: Pixels of the latter, at most: they are coded twice.
CODED_PIXELS = 1 << 19
#: Fewer images tell nothing.
LEAST = 10
#: Share of the time after which no more images are read, and which is for training.
_READING, _TRAINING = 0.25, 0.9
#: Images by which the model is chosen.
_CHOOSING = 64


@dataclass(frozen=True)
class Fit:
    """What came of fitting.

    minutes: what it was allowed to take. base: the name of the model that it begins with. changes: bytes of the
    difference, also of one that does not pay. images: those that were looked at, and held_out: of them, those that tell
    what is gained. before, after: bytes of the latter. saved: by how much of its size the whole archive becomes
    smaller, with the difference in it, as far as they tell; 0 if that does not pay.
    """

    minutes: float
    base: str
    changes: int = 0
    images: int = 0
    held_out: int = 0
    before: int = 0
    after: int = 0
    saved: float = 0.0

    @property
    def gain(self) -> float:
        """By how much of their size images that were held out become smaller."""
        return 1 - self.after / self.before if self.before else 0.0

    def settings(self) -> dict[str, Any]:
        """For the head of an archive."""
        return asdict(self)


def read(settings: dict[str, Any]) -> Fit | None:
    """What ``Fit.settings`` gave to the head of an archive, if anything did."""
    try:
        return Fit(**settings["fit"])
    except (KeyError, TypeError):
        return None


def fit(
    source: Source, options: Options, minutes: float, progress: Progress | None = None, seed: int = 0
) -> tuple[Fit, bytes | None]:  # fmt: skip
    """Fit a model to a sample of a source's images; returns what came of it, and the difference of models if it pays.

    minutes: about how long it may take. Raises ArdmError for models that cannot be fitted.
    """
    begin, seconds = time.monotonic(), 60 * minutes
    fixed = None if options.model == api.AUTO else model.load(options.model)
    if fixed is not None and fixed.random_order:
        raise ArdmError(f"model {fixed.name} codes in a random order: it cannot be fitted")
    random = np.random.default_rng(seed)
    sample = _sample(source, random, begin + _READING * seconds)
    pictures = sample.pictures
    if not pictures:
        return Fit(minutes, "auto" if fixed is None else fixed.name), None
    planes = [raster.colour_planes(picture.samples, picture.format) for picture in pictures]
    base = _best(planes[:_CHOOSING], options) if fixed is None else fixed
    if len(pictures) < LEAST:
        return Fit(minutes, base.name, images=len(pictures)), None
    choosing, coded = slice(0, None, HELD_OUT), slice(1, None, HELD_OUT)
    training = [one for i, one in enumerate(planes) if i % HELD_OUT > 1]
    steps = finetune.fit(
        Pool(training, base), Pool(planes[choosing], base), base, sum(one[0].size for one in training) / sample.pixels,
        _TRAINING * seconds - (time.monotonic() - begin), progress=share_of(progress, 0, _TRAINING), seed=seed,
    )  # fmt: skip
    if not steps:
        return Fit(minutes, base.name, images=len(pictures)), None
    payload = differences.pack(steps, base)
    tested = _within(pictures[coded])
    sizes = [sum(map(len, batches.compress(tested, replace(options, verify=False, brought=brought))))
             for brought in ((), (payload,))]  # fmt: skip
    if progress:
        progress(1.0)
    before, after = sizes
    whole = before * sample.pixels / _pixels(tested)
    saved = round(1 - after / before - len(payload) / whole, 6)
    pays = saved > 0
    found = Fit(minutes, base.name, len(payload), len(pictures), len(tested), before, after, saved if pays else 0.0)
    return found, payload if pays else None


@dataclass
class _Sample:
    """Random images of a source, of large ones squares. pixels: of the whole source, about."""

    pictures: list[Picture]
    pixels: float


def _sample(source: Source, random: np.random.Generator, until: float) -> _Sample:
    """A random sample of the images that a network codes. until: when to stop reading."""
    count = source.length()
    if count is None:
        count = sum(1 for _ in source)
    ranks = random.permutation(count)
    found: list[Picture] = []
    seen = whole = kept = 0
    for item, rank in zip(source, ranks.tolist(), strict=False):
        # of large images there is room for fewer
        if rank >= min(IMAGES, PIXELS * len(found) // kept if kept else IMAGES):
            continue
        try:
            picture = item.image()
        except (ArdmError, OSError):
            continue  # which is told when it is packed
        seen += 1
        if picture.format.depth >= 8 and picture.format.layout != "palette":
            found.append(_cropped(picture, random))
            whole += picture.height * picture.width
            kept += found[-1].height * found[-1].width
        if kept >= 2 * PIXELS or (time.monotonic() > until and len(found) >= LEAST):
            break
    return _Sample([found[i] for i in random.permutation(len(found))], count * whole / max(seen, 1))


def _cropped(picture: Picture, random: np.random.Generator) -> Picture:
    height, width = (min(side, CROP) for side in (picture.height, picture.width))
    top, left = random.integers(picture.height - height + 1), random.integers(picture.width - width + 1)
    return replace(picture, samples=np.ascontiguousarray(picture.samples[top : top + height, left : left + width]))


def _best(planes: list[np.ndarray], options: Options) -> Model:
    """The installed model by which images take the fewest bits."""
    backend = network.backend(options.device, options.backend)
    return min(
        choice.candidates(),
        key=lambda candidate: sum(
            choice.sampled_bits(one, candidate, backend) for one in planes if one[0].size > 1
        ),
    )  # fmt: skip


def _within(pictures: list[Picture]) -> list[Picture]:
    """The first pictures, of CODED_PIXELS pixels in all, but one at least."""
    found, left = pictures[:1], CODED_PIXELS - _pixels(pictures[:1])
    for picture in pictures[1:]:
        left -= picture.height * picture.width
        if left < 0:
            break
        found.append(picture)
    return found


def _pixels(pictures: list[Picture]) -> int:
    return sum(picture.height * picture.width for picture in pictures)
