"""Codes: side information for images that are too small to carry their own.

A model may bring vectors of side information with it, its codes, and the stream of a small image begins with the
number of one. How an encoder chooses it is its own affair: choice.best_codes takes a few codes whose keys are near the
image's statistics (training/codes.py says how both are made), and then the one by which a sample of the image's pixels
is shortest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ardmzip import sideinfo

if TYPE_CHECKING:
    from ardmzip.model import Model

#: A number is a byte.
MAX_CODES = 256
#: In place of a number: none.
NO_CODE = -1
#: Pixels of an image that names a code: at most as many as a larger one needs to carry side information of its own,
#: and sides for which statistics are defined.
MAX_CODED_PIXELS, MIN_SIDE = 1 << 14, 8
#: Smaller images hardly save what the number takes: they are coded without.
LEAST_PIXELS = 256
#: What the number of a code takes in the stream.
BITS = 8.0


@dataclass(frozen=True)
class Search:
    """How a code is chosen. tried: how many of the nearest; rounds: in each, by how many pixels of each atom of the
    finest level they are compared, and how many are left then."""

    tried: int
    rounds: tuple[tuple[int, int], ...]


#: The second one takes about five times as long as the first, which takes about as long as coding the image.
QUICK, THOROUGH = Search(8, ((32, 1),)), Search(16, ((32, 4), (256, 1)))


@dataclass(frozen=True)
class Keys:
    """Where codes belong. keys: float64 [n, SIDE]; root: float64 [SIDE, SIDE], which takes side information to their
    coordinates."""

    keys: np.ndarray
    root: np.ndarray

    def nearest(self, side: np.ndarray, count: int) -> np.ndarray:
        """The nearest keys of side information int8 [..., SIDE], nearest first: int64 [..., count]."""
        points = side @ self.root
        distances = (self.keys**2).sum(1) - 2 * points @ self.keys.T
        return np.argsort(distances, -1, kind="stable")[..., :count]


def suits(height: int, width: int) -> bool:
    """Whether an image of a size may name a code."""
    return min(height, width) >= MIN_SIDE and height * width <= MAX_CODED_PIXELS


def nearest(planes: np.ndarray, model: Model, count: int) -> np.ndarray:
    """Codes for small images uint8 [images, channels, height, width], nearest first: int64 [images, count], where the
    model has so many."""
    assert model.keys is not None
    stats = [sideinfo.quantise(sideinfo.measure(own), model.side_mean, model.side_std) for own in planes]
    return model.keys.nearest(np.stack(stats), count)


def inputs(numbers: np.ndarray, model: Model) -> np.ndarray:
    """Network inputs int8 [images, SIDE + 1] that tell of codes int64 [images], or of none: NO_CODE."""
    return np.stack([sideinfo.inputs(None if n == NO_CODE else model.codes[n]) for n in numbers.tolist()])
