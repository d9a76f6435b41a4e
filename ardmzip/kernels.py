"""numba kernels for the CPU: the same integers as the torch code in features.py and mixture.py, several times faster;
and the steps of learning heads, which are made here whatever the device.

They serve training and coding alike. Pixels are independent, so threads and batch splits cannot change a result. The
coding kernels are serial and release the GIL: codec.py gives each thread its own chunk of pixels.

After changing constants in tables.py, mixture.py, features.py, network.py or learning.py: ``make clean``, since
numba's cache looks at this file only.
"""

from __future__ import annotations

import numba
import numpy as np

from ardmzip import learning, mixture, network, tables
from ardmzip.features import LEVELS, SCALARS, Layout


def _jit(function):
    """Compile on first use, and keep the machine code where numba finds a folder for it."""
    # error_model: no test for division by zero in inner loops. fastmath stays off: floats follow IEEE, and nothing is
    # contracted or reordered.
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor a home can be written: compile in every process
        return numba.njit(**options)(function)


# numba treats module globals as compile-time constants
_UNIT = tables.UNIT
_TOTAL, _FLOOR, _MEAN_LIMIT = mixture.TOTAL, mixture.FLOOR, mixture.MEAN_LIMIT
_MU_MIN, _MU_MAX = mixture.MU_MIN, mixture.MU_MAX
_SCALE_ZERO, _CLASS_STEPS = mixture.SCALE_ZERO, mixture.CLASS_STEPS
_SCALE_ENTRIES, _LOGISTIC_ENTRIES, _EXP_ENTRIES = mixture.SCALE_ENTRIES, mixture.LOGISTIC_ENTRIES, mixture.EXP_ENTRIES
_HEAD_SPLIT, _HEAD_SHIFT = network.HEAD_SPLIT, network.HEAD_SHIFT
_WEIGHT_BITS = tables.WEIGHT_BITS
_CLASS_UNKNOWN = tables.CLASS_UNKNOWN
_DIFFERENCES = tables.DIFFERENCES
_ONE = tables.INPUT_ONE
_DECAY, _EPSILON = learning.DECAY, learning.EPSILON
_HALVES_MAX, _WEIGHT_ONE, _STEP_MAX = float(learning.HALVES_MAX), float(learning.WEIGHT_ONE), float(learning.STEP_MAX)
_GRADIENT_FLOOR, _MEAN_GRADIENT = learning.GRADIENT_FLOOR, learning.MEAN_GRADIENT


@_jit
def _pixel_features(q, at, offsets, weights, known, channel, level, side, class_of, compand, values, seen, x):
    """Inputs of one pixel into the row ``x``; returns the mixture centre (1/64 grey level) and the activity class.

    ``offsets``: flat offsets of the taps; ``values`` and ``seen`` are scratch. Loops are free of branches, so that
    the compiler can vectorise them: a tap that is not known has weight 0. All fits int32: the weights of a layout sum
    to at most 660 and differences are at most 510 * 64 = 32640, so ``spread`` is at most 2.2e7.
    """
    first = np.int32(0)
    reference_g = np.int32(0)
    centre = np.int32(0)
    own_class = np.int32(0)
    scalars = 3 * known + channel * (len(offsets) - known)
    for plane in range(3):
        taps = len(offsets) if plane < channel else known
        total = np.int32(0)
        weight = np.int32(0)
        full = np.int32(0)
        for k in range(taps):
            a = at + offsets[k]
            v = np.int32(q[a + plane])
            w = np.int32(weights[k])
            full += w
            w = w if v >= 0 else np.int32(0)
            if plane > 0:  # R and B are only known where G is
                v -= np.int32(q[a])
            values[k] = v
            seen[k] = w
            total += np.int32(w * v)
            weight += w
        here = np.int32(q[at + plane])
        here_known = plane < channel and here >= 0
        if here_known:
            reference = np.int32(_UNIT * (here - np.int32(q[at]) if plane > 0 else here))
        elif weight > 0:
            reference = np.int32((total * _UNIT + (weight >> 1)) // weight)
        else:
            reference = np.int32(128 * _UNIT) if plane == 0 else np.int32(0)
        cls = np.int32(_CLASS_UNKNOWN)
        if weight > 0:
            spread = np.int32(0)
            for k in range(taps):
                d = np.int32(np.int32(values[k] * _UNIT) - reference)
                values[k] = d
                spread += np.int32(seen[k] * abs(d))
            cls = np.int32(class_of[min((spread // weight) >> 2, 8191)])
        row = cls * _DIFFERENCES
        for k in range(taps):
            d = values[k]
            entry = compand[row + min(abs(d) >> 4, _DIFFERENCES - 1)]
            entry = entry if d >= 0 else -entry
            x[first + k] = entry if seen[k] > 0 else 0
        first += taps
        x[scalars + plane] = 4 * cls - 64
        x[scalars + 3 + plane] = ((reference >> 6) - 128) >> 1 if plane == 0 else (reference >> 6) >> 2
        x[scalars + 6 + plane] = (weight * _ONE) // full
        if plane < 2:
            x[scalars + 9 + plane] = _ONE if here_known else 0
        if plane == 0:
            reference_g = reference
        if plane == channel:
            own_class = cls
            centre = reference if plane == 0 else reference + reference_g
    for i in range(LEVELS):
        x[scalars + 11 + i] = _ONE if level >= i + 1 else 0
    x[scalars + 11 + LEVELS : scalars + SCALARS] = side
    x[scalars + SCALARS :] = 0
    return min(max(centre, 0), 255 * _UNIT), own_class


@_jit
def _features(q, at, offsets, weights, known, channel, level, side, class_of, compand, x, centre, cls):
    values = np.empty(64, np.int32)
    seen = np.empty(64, np.int32)
    for i in range(len(at)):
        centre[i], cls[i] = _pixel_features(
            q, at[i], offsets, weights, known, channel, level, side, class_of, compand, values, seen, x[i]
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
    offsets = (layout.offsets[:, 0] * stride + layout.offsets[:, 1]) * 3
    _features(
        q, at, offsets, layout.weights, layout.known, layout.channel, level, side, tabs["class_of"], tabs["compand"],
        x, centre, cls,
    )  # fmt: skip


@_jit
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


@_jit
def training_features(
    q, at, stride, row, col, level, gap, dy, dx, weights, known, channel, kind, side, side_index, class_of, compand,
    x, centre, cls, target,
):  # fmt: skip
    """As ``window_features`` for samples of many crops, with later atoms hidden as in a merged network call.

    ``gap`` int64 [n]: how many atoms before the sample's own are unknown too (0: all before it are known).
    """
    values = np.empty(64, np.int32)
    seen = np.empty(64, np.int32)
    offsets = np.empty(len(dy), np.int64)
    patch = np.empty(7 * 7 * 3, np.int16)
    for i in range(len(at)):
        target[i] = q[at[i] + channel]
        s = side[side_index[i]]
        columns = stride[i] if gap[i] == 0 else 7
        for k in range(len(dy)):
            offsets[k] = (dy[k] * columns + dx[k]) * 3
        if gap[i] == 0:
            centre[i], cls[i] = _pixel_features(
                q, at[i], offsets, weights, known, channel, level[i], s, class_of, compand, values, seen, x[i]
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
                patch, 24 * 3, offsets, weights, known, channel, level[i], s, class_of, compand, values, seen, x[i]
            )


@_jit
def requantise(acc, bias, shift, out):
    """``clamp((acc + bias) >> shift, 0, 127)``: int32 [n, m] -> int8 [n, m]."""
    rows, columns = acc.shape
    for i in range(rows):
        for j in range(columns):
            out[i, j] = min(max(np.int32(acc[i, j] + bias[j]) >> shift[j], np.int32(0)), np.int32(127))


@_jit
def join_halves(acc, bias, out):
    """Head sums of the high and the low weight halves, int32 [n, 2 * padded], -> outputs int32 [n, m] in 1/256."""
    outputs = np.empty(len(bias), np.int32)
    for i in range(len(acc)):
        _join(acc, i, bias, outputs)
        for j in range(len(bias)):
            out[i, j] = outputs[j]


@_jit
def _join(acc, i, bias, out):
    """One row of ``join_halves``."""
    padded = acc.shape[1] // 2
    for j in range(len(out)):
        total = np.int32(np.int32(acc[i, j] << _HEAD_SPLIT) + acc[i, padded + j] + bias[j])
        out[j] = np.int32(total + (1 << (_HEAD_SHIFT - 1))) >> _HEAD_SHIFT


@_jit
def _mixture(p, centre, cls, class_scale, inv_mantissa, inv_shift, exp2, weight, mean, mantissa, shift):
    """mixture.mixture for one pixel: fills int32 rows of K.

    All fits int32 (model.py checks the tables): the mean is at most 2**14 times a class scale of at most 2**14, which
    is 2**28, and 2**14 components of at most 2**16 each make ``total`` at most 2**30.
    """
    k_count = len(weight)
    top = p[0]
    for k in range(1, k_count):
        top = max(top, p[k])
    total = np.int32(0)
    best = 0
    for k in range(k_count - 1, -1, -1):
        best = k if p[k] == top else best
        e = exp2[min((np.int64(top) - np.int64(p[k])) >> 2, _EXP_ENTRIES - 1)]
        weight[k] = e
        total += e
    whole = np.float64(total)
    rest = np.int32(1 << _WEIGHT_BITS)
    for k in range(k_count):
        # an exact floor: see _rescale
        w = np.int32(np.float64(weight[k]) * np.float64(1 << _WEIGHT_BITS) / whole)
        weight[k] = w
        rest -= w
    weight[best] += rest
    scale = class_scale[cls]
    zero = np.int32(np.int32(_CLASS_STEPS) * np.int32(cls) + np.int32(_SCALE_ZERO))
    for k in range(k_count):
        m = np.int32(min(max(p[k_count + k], np.int32(-_MEAN_LIMIT)), np.int32(_MEAN_LIMIT)) * scale)
        m = np.int32(centre + (m >> np.int32(8)))
        mean[k] = min(max(m, np.int32(_MU_MIN)), np.int32(_MU_MAX))
        s = np.int32((p[2 * k_count + k] >> np.int32(2)) + zero)
        s = np.uint32(min(max(s, np.int32(0)), np.int32(_SCALE_ENTRIES - 1)))
        mantissa[k] = inv_mantissa[s]
        shift[k] = inv_shift[s]


@_jit
def _cumulative(x, weight, mean, mantissa, shift, logistic, c, z):
    """mixture.cumulative for one pixel at the boundaries ``x``: fills ``c``, both int32 [b]; ``z`` is scratch.

    The first inner loop is what the compiler vectorises; the look-up is not. All fits int32 (model.py checks the
    tables): distances are at most 64 * 256 - 32 + 4096 = 20448 and mantissas below 2**15 (32591 in the shipped
    tables), so their product is at most 6.7e8; the weights sum to 2**14, so ``c`` is at most 2**14 * 2**16 = 2**30.
    """
    c[:] = 0
    n = len(x)
    for k in range(len(weight)):
        w, m, s, u = weight[k], mean[k], shift[k], mantissa[k]
        for i in range(n):
            distance = np.int32(np.int32(_UNIT * x[i]) - np.int32(_UNIT // 2) - m)
            entry = np.int32(np.int32(distance * u) >> s) + np.int32(_LOGISTIC_ENTRIES // 2)
            z[i] = min(max(entry, np.int32(0)), np.int32(_LOGISTIC_ENTRIES - 1))
        for i in range(n):
            c[i] = c[i] + np.int32(w * logistic[np.uint32(z[i])])
    for i in range(len(x)):
        q = c[i] >> np.int32(6)
        q = np.int32(q - (q >> np.int32(12)) + np.int32(_FLOOR * x[i]))
        c[i] = np.int32(0) if x[i] == 0 else (np.int32(_TOTAL) if x[i] == 256 else q)


@_jit
def _rescale(part, whole):
    """mixture.rescale: an exact floor, since a correctly rounded double quotient below 2**24 keeps it."""
    return np.int64(np.float64(part * (_TOTAL - 16)) / np.float64(whole))


@_jit
def _pixel_intervals(weight, mean, mantissa, shift, value, logistic, x, c, z, start, width, i):
    v = np.int32(value)
    x[0], x[1], x[2], x[3] = v & ~15, v, v + 1, (v & ~15) + 16
    _cumulative(x, weight, mean, mantissa, shift, logistic, c, z)
    whole = np.int64(c[3] - c[0])
    low, above = _rescale(np.int64(c[1] - c[0]), whole), _rescale(np.int64(c[2] - c[0]), whole)
    start[0, i] = c[0]
    width[0, i] = whole
    start[1, i] = low + (v & 15)
    width[1, i] = above - low + 1


@_jit
def _pixel_rows(weight, mean, mantissa, shift, high, logistic, x, c, z, row):
    """Row of the high nibble where ``high`` is negative, else of the low nibble given ``high``."""
    for s in range(17):
        x[s] = 16 * s if high < 0 else 16 * high + s
    _cumulative(x, weight, mean, mantissa, shift, logistic, c, z)
    if high < 0:
        for s in range(16):
            row[s] = c[s + 1] - c[s] - 1
    else:
        whole = np.int64(c[16] - c[0])
        before = np.int64(0)
        for s in range(16):
            after = _rescale(np.int64(c[s + 1] - c[0]), whole)
            row[s] = after - before
            before = after


@_jit
def _intervals(p, centre, cls, value, class_scale, inv_mantissa, inv_shift, exp2, logistic, start, width):
    weight, mean, mantissa, shift = np.empty((4, p.shape[1] // 3), np.int32)
    x, c, z = np.empty(4, np.int32), np.empty(4, np.int32), np.empty(4, np.int32)
    for i in range(len(p)):
        _mixture(p[i], centre[i], cls[i], class_scale, inv_mantissa, inv_shift, exp2, weight, mean, mantissa, shift)
        _pixel_intervals(weight, mean, mantissa, shift, value[i], logistic, x, c, z, start, width, i)


@_jit
def _rows(p, centre, cls, high, class_scale, inv_mantissa, inv_shift, exp2, logistic, rows):
    """Rows of the high nibble where ``high`` is empty, else of the low nibble given ``high``."""
    weight, mean, mantissa, shift = np.empty((4, p.shape[1] // 3), np.int32)
    x, c, z = np.empty(17, np.int32), np.empty(17, np.int32), np.empty(17, np.int32)
    for i in range(len(p)):
        _mixture(p[i], centre[i], cls[i], class_scale, inv_mantissa, inv_shift, exp2, weight, mean, mantissa, shift)
        nibble = high[i] if len(high) > 0 else np.int32(-1)
        _pixel_rows(weight, mean, mantissa, shift, nibble, logistic, x, c, z, rows[i])


def intervals(p, centre, cls, value, tabs, start, width) -> None:
    """mixture.intervals: fills ``start``, ``width`` uint32 [2, n]: the high and the low nibbles."""
    _intervals(
        p, centre, cls, value, tabs["class_scale"], tabs["inv_mantissa"], tabs["inv_shift"], tabs["exp2"],
        tabs["logistic"], start, width,
    )  # fmt: skip


def rows(p, centre, cls, high, tabs, out) -> None:
    """mixture.high_rows (``high`` empty) or mixture.low_rows into float32 [n, 16]."""
    _rows(
        p, centre, cls, high, tabs["class_scale"], tabs["inv_mantissa"], tabs["inv_shift"], tabs["exp2"],
        tabs["logistic"], out,
    )  # fmt: skip


# --- the learning head (learning.py) --------------------------------------------------------------------------------


@_jit
def _mixtures(acc, bias, centre, cls, class_scale, inv_mantissa, inv_shift, exp2, mix):
    y = np.empty(len(bias), np.int32)
    weight, mean, mantissa, shift = np.empty((4, len(bias) // 3), np.int32)
    for i in range(len(acc)):
        _join(acc, i, bias, y)
        _mixture(y, centre[i], cls[i], class_scale, inv_mantissa, inv_shift, exp2, weight, mean, mantissa, shift)
        for k in range(len(weight)):
            mix[i, 0, k], mix[i, 1, k], mix[i, 2, k], mix[i, 3, k] = weight[k], mean[k], mantissa[k], shift[k]


def mixtures(acc, bias, centre, cls, tabs, mix) -> None:
    """Mixtures of a batch from the head's sums by halves (as ``join_halves``): fills ``mix`` int32 [n, 4, K] with
    weights, means, mantissas and shifts of the components."""
    _mixtures(
        acc, bias, centre, cls, tabs["class_scale"], tabs["inv_mantissa"], tabs["inv_shift"], tabs["exp2"], mix
    )  # fmt: skip


@_jit
def mixture_intervals(mix, value, logistic, start, width):
    """As ``intervals``, from the results of ``mixtures``."""
    x, c, z = np.empty(4, np.int32), np.empty(4, np.int32), np.empty(4, np.int32)
    weight, mean, mantissa, shift = np.empty((4, mix.shape[2]), np.int32)
    for i in range(len(mix)):
        _components(mix, i, weight, mean, mantissa, shift)
        _pixel_intervals(weight, mean, mantissa, shift, value[i], logistic, x, c, z, start, width, i)


@_jit
def mixture_rows(mix, high, logistic, out):
    """As ``rows``, from the results of ``mixtures``."""
    x, c, z = np.empty(17, np.int32), np.empty(17, np.int32), np.empty(17, np.int32)
    weight, mean, mantissa, shift = np.empty((4, mix.shape[2]), np.int32)
    for i in range(len(mix)):
        nibble = high[i] if len(high) > 0 else np.int32(-1)
        _components(mix, i, weight, mean, mantissa, shift)
        _pixel_rows(weight, mean, mantissa, shift, nibble, logistic, x, c, z, out[i])


@_jit
def _components(mix, i, weight, mean, mantissa, shift):
    """Parameters of one pixel's mixture, copied: views of arrays cost more than these few numbers."""
    for k in range(len(weight)):
        weight[k], mean[k], mantissa[k], shift[k] = mix[i, 0, k], mix[i, 1, k], mix[i, 2, k], mix[i, 3, k]


def gradient(mix, cls, value, tabs, halves) -> None:
    """Gradient of the code length by the head's outputs, in units of 1/1024 bit per octave (weights, scales) or class
    scale (means), -16383 to 16383: fills ``halves`` int8 [2 * padded, n], 128 * high + low by output and pixel.

    One rounded float64 operation after another on integers, so every machine gets the same (docs/FORMAT.md,
    "Learning").
    """
    _gradient(mix, cls, value, tabs["class_scale"], tabs["logistic"], halves)


@_jit
def _gradient(mix, cls, value, class_scale, logistic, halves):
    k_count = mix.shape[2]
    below, above = np.empty((2, k_count), np.int64)
    z_below, z_above = np.empty((2, k_count), np.int64)
    for i in range(len(mix)):
        v = np.int32(value[i])
        total = np.int64(0)
        for k in range(k_count):
            m, u, s = mix[i, 1, k], mix[i, 2, k], mix[i, 3, k]
            distance = np.int32(np.int32(_UNIT * v) - np.int32(_UNIT // 2) - m)
            low = np.int32(np.int32(distance * u) >> s) + np.int32(_LOGISTIC_ENTRIES // 2)
            high = np.int32(np.int32((distance + np.int32(_UNIT)) * u) >> s) + np.int32(_LOGISTIC_ENTRIES // 2)
            low = min(max(low, np.int32(0)), np.int32(_LOGISTIC_ENTRIES - 1))
            high = min(max(high, np.int32(0)), np.int32(_LOGISTIC_ENTRIES - 1))
            z_below[k], z_above[k] = low, high
            below[k] = 0 if v == 0 else logistic[np.uint32(low)]
            above[k] = 1 << 16 if v == 255 else logistic[np.uint32(high)]
            total += mix[i, 0, k] * (above[k] - below[k])
        inverse = 1.0 / np.float64(total + _GRADIENT_FLOOR)
        for k in range(k_count):
            w = np.int64(mix[i, 0, k])
            share = w * (above[k] - below[k]) - ((w * total) >> np.int64(_WEIGHT_BITS))
            slope_below = (below[k] * (65536 - below[k])) >> np.int64(16)
            slope_above = (above[k] * (65536 - above[k])) >> np.int64(16)
            ratio = np.int64(class_scale[cls[i]]) * np.int64(mix[i, 2, k]) >> np.int64(mix[i, 3, k])
            by_mean = w * (slope_above - slope_below) * ratio
            by_scale = w * ((2 * z_above[k] - 4095) * slope_above - (2 * z_below[k] - 4095) * slope_below)
            _store(halves, i, k, np.float64(-share) * inverse * 1024.0)
            _store(halves, i, k_count + k, np.float64(by_mean) * inverse * _MEAN_GRADIENT)
            _store(halves, i, 2 * k_count + k, np.float64(by_scale) * inverse * 4.0)


@_jit
def _store(halves, i, output, value):
    whole = np.int32(min(max(np.rint(value), -_HALVES_MAX), _HALVES_MAX))
    halves[output, i] = whole >> _HEAD_SPLIT
    halves[len(halves) // 2 + output, i] = whole & ((1 << _HEAD_SPLIT) - 1)


@_jit
def join_gradient(sums, out):
    """Gradient sums by halves, int32 [2 * padded, inputs] -> float64 [outputs, inputs]."""
    padded = len(sums) // 2
    for o in range(len(out)):
        for f in range(out.shape[1]):
            out[o, f] = np.float64(np.int64(sums[o, f]) * (1 << _HEAD_SPLIT) + sums[padded + o, f])


@_jit
def steps(projected, pixels, mix, rate, settled, square, out):
    """Steps along the directions of a basis, float64 [outputs, directions]: fills ``out`` with whole numbers.

    ``projected``: the gradient sums of a batch of ``pixels`` in these directions; ``square``: the running mean square,
    ``settled`` of which is settled.
    """
    outputs, directions = projected.shape
    step = np.empty((outputs, directions))
    _combine(mix, projected, step)
    count = np.float64(pixels)
    for o in range(outputs):
        for d in range(directions):
            z = step[o, d] / count
            square[o, d] = _DECAY * square[o, d] + (1.0 - _DECAY) * (z * z)
            step[o, d] = rate[d] * z / (np.sqrt(square[o, d] / settled) + _EPSILON)
    _combine(mix, step, out)
    for o in range(outputs):
        for d in range(directions):
            out[o, d] = np.rint(min(max(out[o, d], -_STEP_MAX), _STEP_MAX))


@_jit
def _combine(matrix, rows, out):
    """``out = matrix @ rows``, summed in ascending order of the rows."""
    out[:] = 0.0
    for p in range(len(matrix)):
        for o in range(len(matrix)):
            c = matrix[p, o]
            for d in range(rows.shape[1]):
                out[p, d] += c * rows[o, d]


@_jit
def descend(change, exact, halves):
    """``exact -= change``, float64 [outputs, inputs] in units of 1/WEIGHT_ONE; ``halves`` int8 [2 * padded, inputs]
    become the nearest weights."""
    padded = len(halves) // 2
    for o in range(len(exact)):
        for f in range(exact.shape[1]):
            w = min(max(exact[o, f] - change[o, f], -_HALVES_MAX * _WEIGHT_ONE), _HALVES_MAX * _WEIGHT_ONE)
            exact[o, f] = w
            whole = np.int32(np.rint(w / _WEIGHT_ONE))
            halves[o, f] = whole >> _HEAD_SPLIT
            halves[padded + o, f] = whole & ((1 << _HEAD_SPLIT) - 1)
