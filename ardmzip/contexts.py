"""Offsets of a learning head's outputs by context (docs/FORMAT.md, "Learning").

Beside its weights a learning head has four tables of offsets of its outputs. Each table sorts sub-pixels into contexts:
by activity and brightness, by the slopes around the pixel, and by the block of the image in which it lies, coarse and
fine. They cost no multiplication a pixel, and follow what the weights cannot: tone curves, interpolation patterns,
noise and blur that change from place to place.

All state is of integers; the step between them is of separately rounded float64 operations (kernels.py).
"""

from __future__ import annotations

from functools import cache

import numpy as np

from ardmzip import features

#: Contexts of a sub-pixel: one in each table.
TABLES = 4
#: 8 classes of activity (an octave each) x 8 of brightness (32 grey levels each).
TONES = 64
#: Two slopes and a saddle between the nearest neighbours, each negative, flat or positive.
SLOPES = 27
#: Differences of inputs up to this count as flat: half a neper.
FLAT = 16
#: Blocks are squares of 2**bits pixels of the image: coarse ones learn soon, fine ones know the place better. Larger
#: where a table would have more than MAX_BLOCKS, which bounds its memory.
BLOCK_BITS, MAX_BLOCKS = (7, 5), 1 << 16
#: Pixels after which a context moves half as fast as at first: its step is that of a mean over these and its own.
PATIENCE = (512, 512, 256, 256)
#: Offsets are in 2**-8 of the units of the head's sums (2**-15), at most 32 octaves or class scales.
FINE_BITS, OFFSET_MAX = 8, 1 << 28
#: From a gradient in 1/1024 bit, divided by its mean square, to half a step of a mean in an offset's units.
NEWTON = 2.0**32
#: Added to the mean square, and most that an offset moves at once (a quarter octave or class scale). Outputs that
#: hardly matter, as in smooth images, have tiny gradients, by which they would be thrown about.
DAMPING, MOVE_MAX = 2.0**12, 1 << 21


@cache
def nearest_inputs(expert: int) -> np.ndarray:
    """Which inputs of the network are the four nearest taps of the expert's own plane, int64 [4] in raster order.

    They lie around the pixel at equal distances: first and last are opposite, and so are the two between them.
    """
    layout = features.expert_layout(expert)
    distance = (layout.offsets[: layout.known] ** 2).sum(1)
    first = sum(layout.taps(plane) for plane in range(layout.channel))
    return first + np.sort(np.argsort(distance, kind="stable")[:4])


def block_tables(height: int, width: int) -> np.ndarray:
    """The tables of blocks of an image, int64 [3, 3]: bits, columns and the first context of each; the last row is
    (0, 0, number of all contexts)."""
    rows = []
    first = TONES + SLOPES
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
