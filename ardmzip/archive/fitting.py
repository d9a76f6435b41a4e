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
from ardmzip.container import SHORT_ID_BYTES
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
#: Of the latter, squares of so many pixels a side, as heads learn more from large images; and pixels in all, at most,
#: and for each second that fitting may take: they are coded twice.
CODED_CROP, CODED_PIXELS, CODED_IN_A_SECOND = 512, 1 << 21, 1 << 14
#: Fewer images tell nothing.
LEAST = 10
#: Share of the time, and seconds at least, after which no more images are read; and share that is for training.
_READING, _READING_LEAST, _TRAINING = 0.25, 5.0, 0.85
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
    sample = _sample(source, random, begin + max(_READING * seconds, _READING_LEAST))
    planes = [raster.colour_planes(picture.samples, picture.format) for picture in sample.pictures]
    base = fixed or _best(planes[:: -(-len(planes) // _CHOOSING) or 1], options)
    stays = Fit(minutes, base.name, images=len(planes))
    if len(planes) < LEAST:
        return stays, None
    training = [one for i, one in enumerate(planes) if i % HELD_OUT > 1]
    steps = finetune.fit(
        Pool(training, base), Pool(planes[::HELD_OUT], base), base,
        sum(one[0].size for one in training) / sample.pixels, _TRAINING * seconds - (time.monotonic() - begin),
        progress=share_of(progress, 0, _TRAINING), seed=seed,
    )  # fmt: skip
    if not steps:
        return stays, None
    payload = differences.pack(steps, base)
    if model.named(differences.ids(payload)[1][:SHORT_ID_BYTES]):
        return stays, None  # files in the short form could not tell these models apart
    tested = _within(sample.held_out, min(CODED_PIXELS, round(CODED_IN_A_SECOND * seconds)))
    plain = replace(options, verify=False)
    before, after = (
        sum(map(len, batches.compress(tested, replace(plain, brought=brought)))) for brought in ((), (payload,))
    )
    if progress:
        progress(1.0)
    whole = before * sample.pixels / _pixels(tested)
    saved = max(0.0, round(1 - after / before - len(payload) / whole, 6))
    found = replace(
        stays, changes=len(payload), held_out=len(tested), before=before, after=after, saved=saved
    )  # fmt: skip
    return found, payload if saved else None


@dataclass
class _Sample:
    """Random images of a source, of large ones squares. held_out: those of number 1, 11, and so on, but of large ones
    larger squares, in another order. pixels: of the whole source, about."""

    pictures: list[Picture]
    held_out: list[Picture]
    pixels: float


def _sample(source: Source, random: np.random.Generator, until: float) -> _Sample:
    """A random sample of the images that a network codes. until: when to stop reading."""
    count = source.length()
    if count is None:
        count = sum(1 for _ in source)
    ranks = random.permutation(count)
    found: list[Picture] = []
    held_out: list[Picture] = []
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
            if len(found) % HELD_OUT == 1:
                held_out.append(_cropped(picture, CODED_CROP, random))
            found.append(_cropped(picture, CROP, random))
            whole += picture.height * picture.width
            kept += found[-1].height * found[-1].width
        if kept >= 2 * PIXELS or (time.monotonic() > until and len(found) >= LEAST):
            break
    mixed = [held_out[i] for i in random.permutation(len(held_out))]
    return _Sample(found, mixed, count * whole / max(seen, 1))


def _cropped(picture: Picture, side: int, random: np.random.Generator) -> Picture:
    height, width = min(picture.height, side), min(picture.width, side)
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


def _within(pictures: list[Picture], most: int) -> list[Picture]:
    """The first pictures, of so many pixels in all, but one at least."""
    found, left = pictures[:1], most - _pixels(pictures[:1])
    for picture in pictures[1:]:
        left -= picture.height * picture.width
        if left < 0:
            break
        found.append(picture)
    return found


def _pixels(pictures: list[Picture]) -> int:
    return sum(picture.height * picture.width for picture in pictures)
