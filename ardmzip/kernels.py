"""numba kernels for the CPU: the same integers as the torch code in features.py and mixture.py, several times faster.

They serve training and coding alike. Pixels are independent, so threads and batch splits cannot change a result.
"""

from __future__ import annotations

import numba
import numpy as np

from ardmzip import tables
from ardmzip.features import CHANNELS, LEVELS, Layout, SCALARS, SIDE

UNIT = tables.UNIT
_CLASS_UNKNOWN = tables.CLASS_UNKNOWN
_DIFFERENCES = tables.DIFFERENCES
_ONE = tables.INPUT_ONE


@numba.njit(cache=True, nogil=True, inline="always")
def _pixel_features(q, at, stride, dy, dx, weights, known, channel, level, side, class_of, compand, values, x):
    """Inputs of one pixel into the row ``x``; returns the mixture centre (1/64 grey level) and the activity class."""
    n = 0
    here_g = np.int64(q[at])
    ref_g = np.int64(0)
    centre = np.int64(0)
    cls_own = np.int64(0)
    scalars = 3 * known + min(channel, 1) * (len(dy) - known) + max(channel - 1, 0) * (len(dy) - known)
    for plane in range(3):
        taps = len(dy) if plane < channel else known
        total = np.int64(0)
        weight = np.int64(0)
        full = np.int64(0)
        for k in range(taps):
            a = at + (dy[k] * stride + dx[k]) * 3
            w = weights[k]
            full += w
            v = np.int64(q[a + plane])
            if v >= 0 and plane > 0:
                # R and B are only known where G is
                v -= np.int64(q[a])
                values[k] = v * UNIT
                total += w * v
                weight += w
            elif v >= 0:
                values[k] = v * UNIT
                total += w * v
                weight += w
            else:
                values[k] = -(1 << 30)
        here = np.int64(q[at + plane])
        here_known = plane < channel and here >= 0
        if here_known:
            if plane > 0:
                here -= here_g
            ref = here * UNIT
        elif weight > 0:
            ref = (total * UNIT + (weight >> 1)) // weight
        else:
            ref = np.int64(128 * UNIT) if plane == 0 else np.int64(0)
        cls = np.int64(_CLASS_UNKNOWN)
        if weight > 0:
            spread = np.int64(0)
            for k in range(taps):
                if values[k] != -(1 << 30):
                    values[k] -= ref
                    spread += weights[k] * abs(values[k])
            cls = np.int64(class_of[min((spread // weight) >> 2, 8191)])
            row = cls * _DIFFERENCES
            for k in range(taps):
                d = values[k]
                if d == -(1 << 30):
                    x[n + k] = 0
                elif d >= 0:
                    x[n + k] = compand[row + min(d >> 4, _DIFFERENCES - 1)]
                else:
                    x[n + k] = -compand[row + min((-d) >> 4, _DIFFERENCES - 1)]
        else:
            for k in range(taps):
                x[n + k] = 0
        n += taps
        x[scalars + plane] = 4 * cls - 64
        x[scalars + 3 + plane] = ((ref >> 6) - 128) >> 1 if plane == 0 else (ref >> 6) >> 2
        x[scalars + 6 + plane] = (weight * _ONE) // full
        if plane < 2:
            x[scalars + 9 + plane] = _ONE if here_known else 0
        if plane == 0:
            ref_g = ref
        if plane == channel:
            cls_own = cls
            centre = ref if plane == 0 else ref + ref_g
    for i in range(LEVELS):
        x[scalars + 11 + i] = _ONE if level >= i + 1 else 0
    for i in range(SIDE + 1):
        x[scalars + 11 + LEVELS + i] = side[i]
    for i in range(scalars + SCALARS, len(x)):
        x[i] = 0
    return min(max(centre, 0), 255 * UNIT), cls_own


@numba.njit(cache=True, nogil=True, parallel=True)
def _features(q, at, stride, dy, dx, weights, known, channel, level, side, class_of, compand, x, centre, cls):
    n = len(at)
    chunk = 512
    for block in numba.prange((n + chunk - 1) // chunk):
        values = np.empty(64, np.int64)
        for i in range(block * chunk, min(n, (block + 1) * chunk)):
            centre[i], cls[i] = _pixel_features(
                q, at[i], stride, dy, dx, weights, known, channel, level, side, class_of, compand, values, x[i]
            )


def window_features(
    q: np.ndarray,
    at: np.ndarray,
    stride: int,
    layout: Layout,
    level: int,
    side: np.ndarray,
    tabs: dict[str, np.ndarray],
    x: np.ndarray,
    centre: np.ndarray,
    cls: np.ndarray,
) -> None:
    """Fill ``x`` int8 [n, inputs], ``centre`` int32 [n], ``cls`` uint8 [n] for the pixels at flat offsets ``at``."""
    _features(
        q, at, stride, layout.offsets[:, 0], layout.offsets[:, 1], layout.weights, layout.known, layout.channel,
        level, side, tabs["class_of"], tabs["compand"], x, centre, cls,
    )  # fmt: skip


@numba.njit(cache=True, nogil=True, inline="always")
def _rank(i, j, level, channel):
    """Rank from the end of the atom that codes pixel (i, j) of a level array (phase 0); -1 for the base pixel."""
    if i == 0 and j == 0:
        return -1
    while i % 2 == 0 and j % 2 == 0:
        i //= 2
        j //= 2
        level += 1
    kind = 0 if i % 2 == 1 and j % 2 == 1 else (1 if i % 2 == 0 else 2)
    return 9 * level + 8 - 3 * kind - channel


@numba.njit(cache=True, nogil=True, parallel=True)
def training_features(
    q, at, stride, row, col, level, gap, dy, dx, weights, known, channel, kind, side, side_index, class_of, compand,
    x, centre, cls, target,
):  # fmt: skip
    """As ``window_features`` for samples of many crops, with later atoms hidden as in a merged network call.

    ``gap`` int64 [n]: how many atoms before the sample's own are unknown too (0: all before it are known).
    """
    n = len(at)
    chunk = 256
    for block in numba.prange((n + chunk - 1) // chunk):
        values = np.empty(64, np.int64)
        patch = np.empty(7 * 7 * 3, np.int16)
        for i in range(block * chunk, min(n, (block + 1) * chunk)):
            target[i] = q[at[i] + channel]
            s = side[side_index[i]]
            if gap[i] == 0:
                centre[i], cls[i] = _pixel_features(
                    q, at[i], stride[i], dy, dx, weights, known, channel, level[i], s, class_of, compand, values, x[i]
                )
            else:
                first_hidden = 9 * level[i] + 8 - 3 * kind - channel + gap[i]
                for py in range(7):
                    for px in range(7):
                        for c in range(3):
                            v = q[at[i] + ((py - 3) * stride[i] + px - 3) * 3 + c]
                            if v >= 0:
                                r = _rank(row[i] + py - 3, col[i] + px - 3, level[i], c)
                                if r >= 0 and r <= first_hidden:
                                    v = -1
                            patch[(py * 7 + px) * 3 + c] = v
                centre[i], cls[i] = _pixel_features(
                    patch, 24 * 3, 7, dy, dx, weights, known, channel, level[i], s, class_of, compand, values, x[i]
                )
