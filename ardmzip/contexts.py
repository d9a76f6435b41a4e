"""Offsets of a learning head's outputs by context (docs/FORMAT.md, "Learning").

Beside its weights a learning head has eight tables of offsets of its outputs. Each table sorts sub-pixels into
contexts: by activity and brightness, by the slopes around the pixel, by which neighbours are brighter than the mean, by
how the planes bend at the pixel, by the activity of the other planes, by colour, and by the block of the image in which
it lies, coarse and fine. They cost no multiplication a pixel, and follow what the weights cannot: tone curves,
interpolation patterns, noise and blur that change from place to place.

All state is of integers; the step between them is of separately rounded float64 operations (kernels.py).
"""

from __future__ import annotations

from functools import cache
from itertools import accumulate

import numpy as np

from ardmzip import features

#: Contexts of a sub-pixel: one in each table. All but the last two tables have a fixed number of contexts.
TABLES, FIXED = 8, 6
#: 8 classes of activity (an octave each) x 8 of brightness (32 grey levels each).
TONES = 64
#: Two slopes and a saddle between the nearest neighbours, each negative, flat or positive.
SLOPES = 27
#: Differences of inputs up to this count as flat: half a neper.
FLAT = 16
#: Which of eight neighbours lie above the reference.
PATTERNS = 256
#: Beside the four nearest places, (dy, dx) in raster order by kind of lattice: the next ring where it has four places,
#: else half of its eight, one in each direction.
FURTHER = (
    ((-3, -1), (-1, 3), (1, -3), (3, 1)),
    ((-2, -1), (-1, 2), (1, -2), (2, 1)),
    ((-1, -1), (-1, 1), (1, -1), (1, 1)),
)
#: Sums of the four nearest taps of G and of R-G, against the reference: where the plane is known at the pixel, how far
#: it lies below its neighbours, else how far these differ from those around them. Sizes are sorted by these limits.
G_BENDS, R_BENDS = (12, 36, 80, 160), (24, 80)
BENDS = (2 * len(G_BENDS) + 1) * (2 * len(R_BENDS) + 1)
#: 8 classes of activity of each of the two other planes.
ACTIVITIES = 64
#: 8 ranges of R-G x 8 of B-G, 16 grey levels each.
COLOURS = 64
#: First context of each fixed table, and of the blocks.
FIRSTS = tuple(accumulate((TONES, SLOPES, PATTERNS, BENDS, ACTIVITIES, COLOURS), initial=0))
#: Blocks are squares of 2**bits pixels of the image: coarse ones learn soon, fine ones know the place better. Larger
#: where a table would have more than MAX_BLOCKS, which bounds its memory.
BLOCK_BITS, MAX_BLOCKS = (7, 5), 1 << 16
#: Pixels after which a context moves half as fast as at first: its step is that of a mean over these and its own.
PATIENCE = (512, 512, 512, 512, 512, 512, 256, 256)
#: Offsets are in 2**-8 of the units of the head's sums (2**-15), at most 16 octaves or class scales.
FINE_BITS, OFFSET_MAX = 8, 1 << 27
#: From a gradient in 1/1024 bit, divided by its mean square, to half a step of a mean in an offset's units.
NEWTON = 2.0**32
#: Added to the mean square, and most that an offset moves at once (an eighth of an octave or class scale). Outputs that
#: hardly matter, as in smooth images, have tiny gradients, by which they would be thrown about.
DAMPING, MOVE_MAX = 2.0**13, 1 << 20


@cache
def context_inputs(expert: int) -> np.ndarray:
    """Which inputs of the network the contexts look at, int64 [20].

    The four nearest taps of the expert's own plane in raster order, which lie around the pixel at equal distances
    (first and last are opposite, and so are the two between them); the four of FURTHER; the four nearest taps of plane
    0 and of plane 1; the activities of the two other planes; the references of planes 1 and 2.
    """
    layout = features.expert_layout(expert)
    places = layout.offsets[: layout.known].tolist()
    distance = (layout.offsets[: layout.known] ** 2).sum(1)
    nearest = np.sort(np.argsort(distance, kind="stable")[:4])
    further = [places.index(list(place)) for place in FURTHER[layout.kind]]
    first = list(accumulate((layout.taps(plane) for plane in range(features.CHANNELS)), initial=0))
    own, scalars = first[layout.channel], first[-1]
    others = [plane for plane in range(features.CHANNELS) if plane != layout.channel]
    return np.array(
        [*(own + nearest), *(own + i for i in further), *nearest, *(first[1] + nearest), *(scalars + i for i in others),
         scalars + 4, scalars + 5],
        np.int64,
    )  # fmt: skip


def block_tables(height: int, width: int) -> np.ndarray:
    """The tables of blocks of an image, int64 [3, 3]: bits, columns and the first context of each; the last row is
    (0, 0, number of all contexts)."""
    rows = []
    first = FIRSTS[-1]
    for least in BLOCK_BITS:
        bits = least
        while _blocks(height, bits) * _blocks(width, bits) > MAX_BLOCKS:
            bits += 1
        rows.append((bits, _blocks(width, bits), first))
        first += _blocks(height, bits) * _blocks(width, bits)
    return np.array([*rows, (0, 0, first)], np.int64)


def _blocks(length: int, bits: int) -> int:
    return ((length - 1) >> bits) + 1


class Offsets:
    """What one head has learned by context.

    values: int32 [contexts, padded outputs], in 2**-23; pixels: int64 [contexts], how many were learned from;
    squares: int64 [padded outputs], sum of the squared gradients of all of them.
    """

    def __init__(self, contexts: int, outputs: int) -> None:
        self.values = np.zeros((contexts, outputs), np.int32)
        self.pixels = np.zeros(contexts, np.int64)
        self.squares = np.zeros(outputs, np.int64)
        # sums of a batch, all 0 between batches
        self._sums, self._fresh = np.zeros((contexts, outputs), np.int32), np.zeros(contexts, np.int32)

    def learn(self, halves: np.ndarray, contexts: np.ndarray, seen: int) -> None:
        """One step. halves: gradient of each pixel of a batch, int8 [2 * padded outputs, n]; contexts: int32 [n,
        TABLES]; seen: pixels that the head has learned from, those of the batch included."""
        from ardmzip import kernels

        kernels.learn_offsets(
            halves, contexts, float(seen), self._sums, self._fresh, self.values, self.pixels, self.squares
        )  # fmt: skip
