"""numba kernels of these models: requantisation, and the dynamic programme of the schedule."""

from __future__ import annotations

import numpy as np

from ardmzip.kernels import _jit as jit


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
