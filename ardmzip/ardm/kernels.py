"""numba kernels of these models: requantisation, the schedule's dynamic programme, and inputs.py on the CPU."""

from __future__ import annotations

import numpy as np

from ardmzip import tables
from ardmzip.ardm import inputs
from ardmzip.kernels import jit as jit


@jit
def requantise(acc, bias, rows, pixels, shift, out):
    """``clamp((acc + bias) >> shift, 0, 127)``: int32 [n, m] -> int8 [n, m]; every ``pixels`` rows of acc are a state
    with its own row of bias int32 [., m]."""
    for i in range(len(acc)):
        own = bias[rows[i // pixels]]
        for j in range(acc.shape[1]):
            out[i, j] = min(max(np.int32(acc[i, j] + own[j]) >> shift[j], np.int32(0)), np.int32(127))


@jit
def requantise_sum(acc, bias, rows, pixels, shift, before, out):
    """The same for ``acc + (before << shift)``, where ``before`` int8 [n, m] goes around the layers of a block."""
    for i in range(len(acc)):
        own = bias[rows[i // pixels]]
        for j in range(acc.shape[1]):
            total = np.int32(acc[i, j] + own[j]) + (np.int32(before[i, j]) << shift[j])
            out[i, j] = min(max(total >> shift[j], np.int32(0)), np.int32(127))


@jit
def next_layer(before, loss, best, last):
    """best[u] = the least ``before[t] + (u - t) * loss[t]`` of all t < u, and last[u] the first such t; int64 [D + 1].

    ``loss`` does not rise, so the first such t does not fall with u: halving finds all of them in D log D steps.
    """
    size = len(loss)
    stack = np.empty((64, 4), np.int64)
    stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3] = 1, size + 1, 0, size
    count = 1
    while count:
        count -= 1
        low, high, first, end = stack[count, 0], stack[count, 1], stack[count, 2], stack[count, 3]
        u = (low + high) // 2
        least, place = np.int64(1) << 62, first
        for t in range(first, min(end, u)):
            cost = before[t] + (u - t) * loss[t]
            if cost < least:
                least, place = cost, t
        best[u], last[u] = least, place
        if low < u:
            stack[count, 0], stack[count, 1], stack[count, 2], stack[count, 3] = low, u, first, place + 1
            count += 1
        if u + 1 < high:
            stack[count, 0], stack[count, 1], stack[count, 2], stack[count, 3] = u + 1, high, place, end
            count += 1


@jit
def share(before, stage, best, last):
    """best[m] = the least ``before[m - n] + stage[n]`` of all n, and last[m] the first such n; int64. What cannot be is
    2**61 or more."""
    for m in range(len(best)):
        least, place = np.int64(1) << 62, 0
        for n in range(max(1, m - len(before) + 1), min(len(stage), m + 1)):
            cost = before[m - n] + stage[n]
            if cost < least:
                least, place = cost, n
        best[m], last[m] = least, place


# numba treats module globals as compile-time constants
_UNIT, _DIFFERENCES = tables.UNIT, tables.DIFFERENCES
_GRAY, _ACTIVITY, _PRIOR, _SHARED, _ROUNDS = inputs.GRAY, inputs.ACTIVITY, inputs.PRIOR, inputs.SHARED, inputs.ROUNDS
_DENSITY_SHIFT, _DENSITIES = inputs.WIDE_BITS - 9, inputs.DENSITIES


@jit
def first_guesses(low, mask, span, finer, near_sums, wide_sums, near, wide, value, first, den, errors):
    """inputs.py up to the errors of the first guesses. low uint8, mask bool [n, 3, p]; sums float64 [2, n, 3, p];
    near, wide, value, first, den int32 [n, 3, p] and errors float64 [n, p] are filled."""
    count, _, pixels = low.shape
    for i in range(count):
        for c in range(3):
            for p in range(pixels):
                known = mask[i, c, p]
                value[i, c, p] = _UNIT // 2 * (2 * np.int32(low[i, c, p]) + (finer if known else span) - 1)
                a, b = np.int64(near_sums[0, i, c, p]), np.int64(near_sums[1, i, c, p])
                near[i, c, p] = (_UNIT // 2 * b + _PRIOR * _GRAY) // (a + _PRIOR)
                a, b = np.int64(wide_sums[0, i, c, p]), np.int64(wide_sums[1, i, c, p])
                wide[i, c, p] = (_UNIT // 2 * b + _PRIOR * _GRAY) // (a + _PRIOR)
                den[i, c, p] = a
        for p in range(pixels):
            total, count_known = np.int32(0), np.int32(0)
            for c in range(3):
                if mask[i, c, p] or span < 256:
                    total += value[i, c, p] - near[i, c, p]
                    count_known += 1
            weighted = np.int32(0)
            for c in range(3):
                known = mask[i, c, p] or span < 256
                others = total - (value[i, c, p] - near[i, c, p] if known else 0)
                n = max(count_known - (1 if known else 0), 1)
                first[i, c, p] = near[i, c, p] + (_SHARED * others) // (8 * n)
                if known:
                    error = min(abs(value[i, c, p] - first[i, c, p]) >> 4, _DIFFERENCES - 1)
                    weighted += error * (1 if span == 256 else 1 + mask[i, c, p])
            errors[i, p] = weighted


@jit
def relax(x, least, most, wanted):
    """inputs.relaxed of one state: x int32 [3, h, w] moves in place, ``wanted`` is filled."""
    _, height, width = x.shape
    middle = np.empty_like(x)
    for _ in range(_ROUNDS):
        for c in range(3):
            for y in range(height):
                up, down = max(y - 1, 0), min(y + 1, height - 1)
                for z in range(width):
                    left, right = max(z - 1, 0), min(z + 1, width - 1)
                    sides = x[c, up, z] + x[c, down, z] + x[c, y, left] + x[c, y, right]
                    corners = x[c, up, left] + x[c, up, right] + x[c, down, left] + x[c, down, right]
                    middle[c, y, z] = (3 * sides - corners) >> 3
        for y in range(height):
            for z in range(width):
                rough = np.int32(0)
                for c in range(3):
                    rough += x[c, y, z] - middle[c, y, z]
                for c in range(3):
                    wish = middle[c, y, z] + ((15 * (rough - x[c, y, z] + middle[c, y, z])) >> 5)
                    moved = x[c, y, z] + ((7 * (wish - x[c, y, z])) >> 4)
                    wanted[c, y, z] = wish
                    middle[c, y, z] = min(max(moved, least[c, y, z]), most[c, y, z])
        x[:] = middle


@jit
def network_inputs(
    low, mask, span, finer, near, wide, value, first, den, errors, class_of, class_scale, compand, density, out, centre,
    cls,
):  # fmt: skip
    """The rest of inputs.py: errors int64-valued float64 [n, p], summed around every pixel; first int32 [n, 3, h, w] is
    overwritten; out int8 [n, h, w, INPUTS], centre int32 [n, 3, h, w] and cls uint8 [n, h, w] are filled."""
    count, _, height, width = low.shape
    least, most, wanted = np.empty((3, 3, height, width), np.int32)
    for i in range(count):
        for c in range(3):
            for y in range(height):
                for z in range(width):
                    least[c, y, z] = _UNIT * np.int32(low[i, c, y, z])
                    most[c, y, z] = least[c, y, z] + _UNIT * ((finer if mask[i, c, y, z] else span) - 1)
                    first[i, c, y, z] = min(max(first[i, c, y, z], least[c, y, z]), most[c, y, z])
        relax(first[i], least, most, wanted)
        for y in range(height):
            for z in range(width):
                total = np.int64(0)
                for c in range(3):
                    total += den[i, c, y, z]
                activity = (4 * np.int64(errors[i, y, z]) + _PRIOR * _ACTIVITY) // (total + _PRIOR)
                own = class_of[min(activity, len(class_of) - 1)]
                cls[i, y, z] = own
                scale = class_scale[own]
                row = out[i, y, z]
                for c in range(3):
                    x = first[i, c, y, z]
                    centre[i, c, y, z] = x
                    v = value[i, c, y, z]
                    row[c] = 64 if mask[i, c, y, z] else 0
                    row[3 + c] = row[12 + c] = 0
                    if mask[i, c, y, z] or span < 256:
                        row[3 + c] = min(max((16 * (v - wide[i, c, y, z])) // scale, -127), 127)
                        off = v - wanted[c, y, z]
                        entry = compand[np.int64(own) * _DIFFERENCES + min(abs(off) >> 4, _DIFFERENCES - 1)]
                        row[12 + c] = entry if off > 0 else -entry if off < 0 else 0
                    row[6 + c] = min(max((16 * (x - wide[i, c, y, z])) // scale, -127), 127)
                    row[9 + c] = min(max((32 * (near[i, c, y, z] - x)) // scale, -127), 127)
                    row[15 + c] = density[min(den[i, c, y, z] >> _DENSITY_SHIFT, _DENSITIES - 1)]
                    row[18 + c] = min(max(x >> 7, 0), 127) - 64
                row[21] = 3 * np.int32(own) - 54
                row[22] = density[min((total >> 1) >> _DENSITY_SHIFT, _DENSITIES - 1)]
                row[23] = 64
