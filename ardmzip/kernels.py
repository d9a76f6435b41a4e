"""numba kernels for the CPU: the same integers as the torch code in features.py and mixture.py, several times faster;
and the steps of learning heads, which are made here whatever the device.

They serve training and coding alike. Outside the steps of learning, pixels are independent, so threads and batch splits
cannot change a result. The coding kernels are serial and release the GIL: codec.py gives each thread its own atom or
chunk of pixels.

After changing constants in tables.py, mixture.py, features.py, network.py, learning.py or contexts.py: ``make clean``,
since numba's cache looks at this file only.
"""

from __future__ import annotations

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from ardmzip import learning, mixture, network, tables
from ardmzip.contexts import (
    DAMPING,
    FINE_BITS,
    FIRSTS,
    FIXED,
    FLAT,
    G_BENDS,
    MOVE_MAX,
    NEWTON,
    OFFSET_MAX,
    PATIENCE,
    R_BENDS,
    TABLES,
)
from ardmzip.features import LEVELS, RADIUS, SCALARS, Layout


def jit(function):
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
_OFFSET_MAX, _MOVE_MAX, _PATIENCE = float(OFFSET_MAX), float(MOVE_MAX), np.array(PATIENCE, np.float64)
#: Mixtures are computed for so many pixels at a time, operation by operation: loops over pixels are what the compiler
#: vectorises (look-ups apart, which stand in loops of their own), and scratch arrays stay in the first-level cache.
_BLOCK = 128
#: The same for features, which need more scratch: 64 pixels times 48 taps are 12 KiB.
_FEATURES_BLOCK = 64


@jit
def _block_features(q, at, offsets, weights, known, channel, class_of, compand, scratch, x, centre, cls):
    """Taps, activities and references of up to _FEATURES_BLOCK pixels into ``x``; fills ``centre`` and ``cls``, too.

    ``offsets``: flat offsets of the taps; ``scratch``: _scratch(). Loops over pixels are free of branches, so that the
    compiler can vectorise them: a tap that is not known has weight 0. All fits int32: the weights of a layout sum to at
    most 660 and differences are at most 510 * 64 = 32640, so ``spread`` is at most 2.2e7. Quotients of such numbers
    are exact once rounded down, as no quotient comes nearer to a whole number than 1/660 without being one.
    """
    taps_of_g, taps_of_plane, seen_taps, rows = scratch
    total, weight, reference, reference_g = rows[0], rows[1], rows[2], rows[3]
    spread, here, here_known, index = rows[4], rows[5], rows[6], rows[7]
    n = len(at)
    first = 0
    scalars = 3 * known + channel * (len(offsets) - known)
    for plane in range(3):
        taps = len(offsets) if plane < channel else known
        full = np.int32(0)
        total[:n] = 0
        weight[:n] = 0
        spread[:n] = 0
        for k in range(taps):
            offset, w = offsets[k] + plane, np.int32(weights[k])
            full += w
            g, values, seen = taps_of_g[k], taps_of_plane[k], seen_taps[k]
            for i in range(n):
                values[i] = q[at[i] + offset]
            if plane == 0:
                for i in range(n):
                    v = values[i]
                    g[i] = v
                    known_weight = w if v >= 0 else np.int32(0)
                    seen[i] = known_weight
                    total[i] += known_weight * v
                    weight[i] += known_weight
            else:  # R and B are only known where G is
                for i in range(n):
                    v = values[i]
                    known_weight = w if v >= 0 else np.int32(0)
                    v = v - g[i]
                    values[i] = v
                    seen[i] = known_weight
                    total[i] += known_weight * v
                    weight[i] += known_weight
        for i in range(n):
            here[i] = q[at[i] + plane]
        for i in range(n):
            here_known[i] = np.int32(1) if plane < channel and here[i] >= 0 else np.int32(0)
        if plane > 0:
            for i in range(n):
                here[i] -= np.int32(q[at[i]])
        for i in range(n):
            w = weight[i]
            dividend = np.float64(total[i] * np.int32(_UNIT) + (w >> 1))
            mean = np.int32(np.floor(dividend / np.float64(max(w, np.int32(1)))))
            otherwise = np.int32(128 * _UNIT) if plane == 0 else np.int32(0)
            mean = mean if w > 0 else otherwise
            reference[i] = np.int32(_UNIT) * here[i] if here_known[i] > 0 else mean
        for k in range(taps):
            values, seen = taps_of_plane[k], seen_taps[k]
            for i in range(n):
                d = values[i] * np.int32(_UNIT) - reference[i]
                values[i] = d
                spread[i] += seen[i] * abs(d)
        for i in range(n):
            mean = np.int32(np.float64(spread[i]) / np.float64(max(weight[i], np.int32(1))))
            index[i] = min(mean >> 2, np.int32(8191))
        for i in range(n):
            spread[i] = class_of[index[i]] if weight[i] > 0 else _CLASS_UNKNOWN  # the class from here on
        for i in range(n):
            r = reference[i] >> 6
            x[i, scalars + plane] = 4 * spread[i] - 64
            x[i, scalars + 3 + plane] = (r - 128) >> 1 if plane == 0 else r >> 2
            x[i, scalars + 6 + plane] = np.int32(np.float64(weight[i] * np.int32(_ONE)) / np.float64(full))
            if plane < 2:
                x[i, scalars + 9 + plane] = here_known[i] * _ONE
        if plane == 0:
            reference_g[:n] = reference[:n]
        if plane == channel:
            for i in range(n):
                cls[i] = spread[i]
                c = reference[i] if plane == 0 else reference[i] + reference_g[i]
                centre[i] = min(max(c, np.int32(0)), np.int32(255 * _UNIT))
        for k in range(taps):
            values, seen = taps_of_plane[k], seen_taps[k]
            for i in range(n):
                d = values[i]
                index[i] = spread[i] * np.int32(_DIFFERENCES) + min(abs(d) >> 4, np.int32(_DIFFERENCES - 1))
                sign = np.int32(1) if d >= 0 else np.int32(-1)
                seen[i] = sign if seen[i] > 0 else np.int32(0)
            for i in range(n):
                x[i, first + k] = np.int32(compand[index[i]]) * seen[i]
        first += taps


@jit
def _scratch():
    """What _block_features needs: three int32 arrays [taps, _FEATURES_BLOCK], and one of single numbers."""
    taps = np.empty((3, 64, _FEATURES_BLOCK), np.int32)
    return taps[0], taps[1], taps[2], np.empty((8, _FEATURES_BLOCK), np.int32)


@jit
def _place(x, scalars, level, side):
    """The inputs that tell of level and side information, into the row ``x``, and zeros for the padding."""
    for i in range(LEVELS):
        x[scalars + 11 + i] = _ONE if level >= i + 1 else 0
    x[scalars + 11 + LEVELS : scalars + SCALARS] = side
    x[scalars + SCALARS :] = 0


@intrinsic
def _prefetch(context, array, index):
    """Ask the processor to fetch an element of an array into its cache; changes nothing."""

    def generate(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        pointer = builder.bitcast(builder.gep(data, [values[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, *[ir.IntType(32)] * 3])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(prefetch, [pointer, *(ir.Constant(ir.IntType(32), n) for n in (0, 3, 1))])
        return context.get_dummy_value()

    return numba.types.void(array, index), generate


@jit
def _features(q, at, row, apart, offsets, weights, known, channel, level, side, class_of, compand, x, centre, cls):
    """``row``: numbers in a row of the level array; ``apart``: and in all that has one ``side``."""
    scratch = _scratch()
    scalars = 3 * known + channel * (len(offsets) - known)
    for first in range(0, len(at), _FEATURES_BLOCK):
        end = min(first + _FEATURES_BLOCK, len(at))
        # in the order of learning heads each window lies somewhere else, mostly outside the cache
        for i in range(end, min(end + _FEATURES_BLOCK, len(at))):
            for dy in range(-RADIUS, RADIUS + 1):
                _prefetch(q, at[i] + dy * row - 3 * RADIUS)
                _prefetch(q, at[i] + dy * row + 3 * RADIUS)
        part = slice(first, end)
        _block_features(
            q, at[part], offsets, weights, known, channel, class_of, compand, scratch, x[part], centre[part], cls[part]
        )  # fmt: skip
        for i in range(first, end):
            _place(x[i], scalars, level, side[at[i] // apart])


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
    """Fill ``x`` int8 [n, inputs], ``centre`` int32 [n], ``cls`` uint8 [n] for the pixels at flat offsets ``at``.

    side: int8 [images, SIDE + 1], of each image whose level array ``q`` is made of, or one for all.
    """
    offsets = (layout.offsets[:, 0] * stride + layout.offsets[:, 1]) * 3
    _features(
        q, at, 3 * stride, len(q) // len(side), offsets, layout.weights, layout.known, layout.channel, level, side,
        tabs["class_of"], tabs["compand"], x, centre, cls,
    )  # fmt: skip


@jit
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


@jit
def training_features(
    q, at, stride, row, col, level, gap, dy, dx, weights, known, channel, kind, side, side_index, class_of, compand,
    x, centre, cls, target,
):  # fmt: skip
    """As ``window_features`` for samples of many crops, with later atoms hidden as in a merged network call.

    ``gap`` int64 [n]: how many atoms before the sample's own are unknown too (0: all before it are known).
    """
    # every window is copied, so that all have rows of the same length, and atoms can be hidden
    side_length = 2 * RADIUS + 1
    size = side_length * side_length * 3
    windows = np.empty(_FEATURES_BLOCK * size, np.int16)
    centres = np.arange(_FEATURES_BLOCK) * size + size // 2 // 3 * 3
    offsets = (dy * side_length + dx) * 3
    scratch = _scratch()
    scalars = 3 * known + channel * (len(dy) - known)
    for first in range(0, len(at), _FEATURES_BLOCK):
        end = min(first + _FEATURES_BLOCK, len(at))
        for i in range(first, end):
            target[i] = q[at[i] + channel]
            first_hidden = 9 * level[i] + 8 - 3 * kind - channel + gap[i]
            place = (i - first) * size
            for py in range(-RADIUS, RADIUS + 1):
                for px in range(-RADIUS, RADIUS + 1):
                    for c in range(3):
                        v = q[at[i] + (py * stride[i] + px) * 3 + c]
                        if gap[i] > 0 and v >= 0:
                            r = _rank(row[i] + py, col[i] + px, level[i], c)
                            if r >= 0 and r <= first_hidden:
                                v = -1
                        windows[place] = v
                        place += 1
        part = slice(first, end)
        _block_features(
            windows, centres[: end - first], offsets, weights, known, channel, class_of, compand, scratch, x[part],
            centre[part], cls[part],
        )  # fmt: skip
        for i in range(first, end):
            _place(x[i], scalars, level[i], side[side_index[i]])


@jit
def requantise(acc, bias, shift, out, stride):
    """``clamp((acc + bias) >> shift, 0, 127)``: int32 [n, m] -> int8 [n, m], whose rows lie ``stride`` apart in ``out``
    int8 [...]."""
    rows, columns = acc.shape
    for i in range(rows):
        row = out[i * stride : i * stride + columns]
        for j in range(columns):
            row[j] = min(max(np.int32(acc[i, j] + bias[j]) >> shift[j], np.int32(0)), np.int32(127))


@jit
def _mixture_block(
    part, sums, bias, contexts, offsets, centre, cls, class_scale, inv_mantissa, inv_shift, exp2, y, scratch, mix
):  # fmt: skip
    """Fills ``part`` of ``mix``; ``y`` int32 [3 K, b] and ``scratch`` int32 [4, b] are overwritten.

    All fits int32 (model.py checks the tables): outputs are below 2**24, the mean is at most 2**14 times a class scale
    of at most 2**14, which is 2**28, and 2**14 components of at most 2**16 each make ``total`` at most 2**30.
    """
    padded = len(sums) // 2
    k_count = mix.shape[1]
    centre, cls = centre[part], cls[part]
    n = len(cls)
    if len(offsets) > 0:
        for i in range(n):
            at = contexts[part.start + i]
            a, b, c, d = offsets[at[0]], offsets[at[1]], offsets[at[2]], offsets[at[3]]
            e, f, g, h = offsets[at[4]], offsets[at[5]], offsets[at[6]], offsets[at[7]]
            for o in range(3 * k_count):
                total_offset = np.int32(a[o] + b[o] + c[o] + d[o] + e[o] + f[o] + g[o] + h[o])
                y[o, i] = total_offset >> np.int32(FINE_BITS)
    else:
        y[:] = 0
    for o in range(3 * k_count):
        high, low, b, out = sums[o, part], sums[padded + o, part], bias[o], y[o]
        for i in range(n):
            total = np.int32(np.int32(high[i] << _HEAD_SPLIT) + low[i] + b + out[i])
            out[i] = np.int32(total + np.int32(1 << (_HEAD_SHIFT - 1))) >> np.int32(_HEAD_SHIFT)

    top, total, rest, entry = scratch[0], scratch[1], scratch[2], scratch[3]
    top[:] = y[0]
    total[:] = 0
    for k in range(1, k_count):
        logit = y[k]
        for i in range(n):
            top[i] = max(top[i], logit[i])
    for k in range(k_count):
        logit, weight = y[k], mix[0, k, part]
        for i in range(n):
            entry[i] = min((top[i] - logit[i]) >> np.int32(2), np.int32(_EXP_ENTRIES - 1))
        for i in range(n):
            weight[i] = exp2[np.uint32(entry[i])]
        for i in range(n):
            total[i] += weight[i]
    rest[:] = 1 << _WEIGHT_BITS
    for k in range(k_count):
        weight = mix[0, k, part]
        for i in range(n):
            # an exact floor: see _rescale
            weight[i] = np.int32(np.float64(weight[i]) * np.float64(1 << _WEIGHT_BITS) / np.float64(total[i]))
            rest[i] -= weight[i]
    for k in range(k_count):  # the first largest component takes what is left over
        logit, weight = y[k], mix[0, k, part]
        for i in range(n):
            weight[i] += rest[i] if logit[i] == top[i] else np.int32(0)
            rest[i] = np.int32(0) if logit[i] == top[i] else rest[i]

    scale, zero = rest, total
    for i in range(n):
        scale[i] = class_scale[cls[i]]
        zero[i] = np.int32(_CLASS_STEPS) * np.int32(cls[i]) + np.int32(_SCALE_ZERO)
    for k in range(k_count):
        mean, mantissa, shift = mix[1, k, part], mix[2, k, part], mix[3, k, part]
        deviation, log_scale = y[k_count + k], y[2 * k_count + k]
        for i in range(n):
            m = min(max(deviation[i], np.int32(-_MEAN_LIMIT)), np.int32(_MEAN_LIMIT))
            m = np.int32(centre[i] + (np.int32(m * scale[i]) >> np.int32(8)))
            mean[i] = min(max(m, np.int32(_MU_MIN)), np.int32(_MU_MAX))
        for i in range(n):
            s = np.int32((log_scale[i] >> np.int32(2)) + zero[i])
            entry[i] = min(max(s, np.int32(0)), np.int32(_SCALE_ENTRIES - 1))
        for i in range(n):
            mantissa[i] = inv_mantissa[np.uint32(entry[i])]
            shift[i] = inv_shift[np.uint32(entry[i])]


@jit
def _mixtures(sums, bias, contexts, offsets, centre, cls, class_scale, inv_mantissa, inv_shift, exp2, mix):
    y, scratch = np.empty((len(bias), _BLOCK), np.int32), np.empty((4, _BLOCK), np.int32)
    for first in range(0, len(cls), _BLOCK):
        part = slice(first, min(first + _BLOCK, len(cls)))
        _mixture_block(
            part, sums, bias, contexts, offsets, centre, cls, class_scale, inv_mantissa, inv_shift, exp2, y, scratch,
            mix,
        )  # fmt: skip


def mixtures(sums, bias, contexts, offsets, centre, cls, tabs, mix) -> None:
    """mixture.mixture of n pixels: the head's sums int32 [2 * padded, n] by halves of its weights (network.split_head)
    -> ``mix`` int32 [4, K, n]: weights, means, mantissas and shifts of the components.

    ``contexts`` int32 [n, TABLES] and ``offsets`` int32 [contexts, padded] of the outputs (contexts.py); none if
    ``offsets`` has no rows.
    """
    _mixtures(
        sums, bias, contexts, offsets, centre, cls, tabs["class_scale"], tabs["inv_mantissa"], tabs["inv_shift"],
        tabs["exp2"], mix,
    )  # fmt: skip


@jit
def _logistic_entries(x, mean, mantissa, shift, entry):
    """Entries of the logistic table at the boundaries ``x``: fills ``entry``.

    All fits int32 (model.py checks the tables): distances are at most 64 * 256 - 32 + 4096 = 20448 and mantissas below
    2**15 (32591 in the shipped tables), so their product is at most 6.7e8.
    """
    for i in range(len(x)):
        distance = np.int32(np.int32(_UNIT * x[i]) - np.int32(_UNIT // 2) - mean[i])
        z = np.int32(np.int32(distance * mantissa[i]) >> shift[i]) + np.int32(_LOGISTIC_ENTRIES // 2)
        entry[i] = min(max(z, np.int32(0)), np.int32(_LOGISTIC_ENTRIES - 1))


@jit
def _cumulative(x, mix, part, logistic, c, entry):
    """mixture.cumulative of a block of pixels, each at one boundary: fills ``c``; ``x``, ``c`` and the scratch
    ``entry`` are int32 [b]. The weights sum to 2**14, so ``c`` is at most 2**14 * 2**16 = 2**30.

    ``part`` cuts the block out of ``mix``. Only rows are cut: slices of several rows have a stride, which would keep
    the compiler from vectorising.
    """
    n = len(x)
    c[:] = 0
    for k in range(mix.shape[1]):
        weight = mix[0, k, part]
        _logistic_entries(x, mix[1, k, part], mix[2, k, part], mix[3, k, part], entry)
        for i in range(n):
            entry[i] = logistic[np.uint32(entry[i])]
        for i in range(n):
            c[i] += np.int32(weight[i] * entry[i])
    for i in range(n):
        q = c[i] >> np.int32(6)
        q = np.int32(q - (q >> np.int32(12)) + np.int32(_FLOOR * x[i]))
        q = np.int32(0) if x[i] == 0 else q
        c[i] = np.int32(_TOTAL) if x[i] == 256 else q


@jit
def _rescale(part, whole):
    """mixture.rescale: an exact floor, since a correctly rounded double quotient below 2**24 keeps it."""
    return np.int32(np.float64(part) * np.float64(_TOTAL - 16) / np.float64(whole))


@jit
def intervals(mix, value, logistic, start, width):
    """mixture.intervals: fills ``start``, ``width`` uint32 [2, n]: the high and the low nibbles of ``value``."""
    x, entry = np.empty(_BLOCK, np.int32), np.empty(_BLOCK, np.int32)
    c = np.empty((4, _BLOCK), np.int32)
    for first in range(0, len(value), _BLOCK):
        n = min(_BLOCK, len(value) - first)
        part = slice(first, first + n)
        v = value[part]
        for boundary in range(4):
            for i in range(n):
                u = np.int32(v[i])
                nibble = u & np.int32(~15)
                if boundary == 0:
                    x[i] = nibble
                elif boundary == 1:
                    x[i] = u
                elif boundary == 2:
                    x[i] = u + np.int32(1)
                else:
                    x[i] = nibble + np.int32(16)
            _cumulative(x[:n], mix, part, logistic, c[boundary, :n], entry[:n])
        high_start, low_start, high_width, low_width = start[0, part], start[1, part], width[0, part], width[1, part]
        for i in range(n):
            whole = c[3, i] - c[0, i]
            low, above = _rescale(c[1, i] - c[0, i], whole), _rescale(c[2, i] - c[0, i], whole)
            high_start[i], high_width[i] = c[0, i], whole
            low_start[i], low_width[i] = low + (np.int32(v[i]) & np.int32(15)), above - low + np.int32(1)


@jit
def rows(mix, high, logistic, out):
    """mixture.high_rows (``high`` empty) or mixture.low_rows into float32 [n, 16]."""
    x, entry = np.empty(_BLOCK, np.int32), np.empty(_BLOCK, np.int32)
    c = np.empty((17, _BLOCK + 16), np.int32)  # not a power of two: such rows share the same lines of the cache
    low = len(high) > 0
    for first in range(0, len(out), _BLOCK):
        n = min(_BLOCK, len(out) - first)
        part = slice(first, first + n)
        for i in range(n):
            x[i] = np.int32(16) * high[first + i] if low else np.int32(0)
        for s in range(17):
            _cumulative(x[:n], mix, part, logistic, c[s, :n], entry[:n])
            for i in range(n):
                x[i] += np.int32(1) if low else np.int32(16)
        if low:
            for s in range(16, -1, -1):
                for i in range(n):
                    c[s, i] -= c[0, i]
            for s in range(1, 17):  # the last becomes _TOTAL - 16, when it is no longer needed
                for i in range(n):
                    c[s, i] = _rescale(c[s, i], c[16, i])
        for i in range(n):
            for s in range(16):
                width = np.int32(c[s + 1, i] - c[s, i])
                out[first + i, s] = np.float32(width if low else np.int32(width - np.int32(1)))


@jit
def interval_rows(start, width, symbols, rows):
    """rans.py: intervals uint32 [n] as rows float32 [n, 3] of classes less one unit, none of them empty, and which of
    the three is the interval's: int32 [n]."""
    for i in range(len(start)):
        s, w = np.int32(start[i]), np.int32(width[i])
        above = np.int32(_TOTAL) - s - w
        # Where nothing lies below (above) the symbol, the class above (below) is split in two, one a single unit.
        if s == 0:
            symbols[i], rows[i, 0], rows[i, 1], rows[i, 2] = 0, w - 1, above - 2, 0
        elif above == 0:
            symbols[i], rows[i, 0], rows[i, 1], rows[i, 2] = 2, s - 2, 0, w - 1
        else:
            symbols[i], rows[i, 0], rows[i, 1], rows[i, 2] = 1, s - 1, w - 1, above - 1


# --- the learning head (learning.py) --------------------------------------------------------------------------------


def gradient(mix, cls, value, tabs, halves) -> None:
    """Gradient of the code length by the head's outputs, in units of 1/1024 bit per octave (weights, scales) or class
    scale (means), -16383 to 16383: fills ``halves`` int8 [2 * padded, n], 128 * high + low by output and pixel.

    One rounded float64 operation after another on integers, so every machine gets the same (docs/FORMAT.md,
    "Learning").
    """
    _gradient(mix, cls, value, tabs["class_scale"], tabs["logistic"], halves)


@jit
def _gradient(mix, cls, value, class_scale, logistic, halves):
    k_count = mix.shape[1]
    padded = len(halves) // 2
    x, scale, total = np.empty(_BLOCK, np.int32), np.empty(_BLOCK, np.int32), np.empty(_BLOCK, np.int32)
    # below and above the value
    entries, cdf = np.empty((2, k_count, _BLOCK), np.int32), np.empty((2, k_count, _BLOCK), np.int32)
    inverse, g = np.empty(_BLOCK, np.float64), np.empty(_BLOCK, np.float64)
    for first in range(0, len(value), _BLOCK):
        n = min(_BLOCK, len(value) - first)
        part = slice(first, first + n)
        v = value[part]
        total[:] = 0
        for i in range(n):
            scale[i] = class_scale[cls[first + i]]
        for side in range(2):
            for i in range(n):
                x[i] = np.int32(v[i]) + np.int32(side)
            for k in range(k_count):
                entry, f, weight = entries[side, k], cdf[side, k], mix[0, k, part]
                _logistic_entries(x[:n], mix[1, k, part], mix[2, k, part], mix[3, k, part], entry)
                for i in range(n):
                    f[i] = logistic[np.uint32(entry[i])]
                for i in range(n):
                    f[i] = np.int32(0) if x[i] == 0 else (np.int32(1 << 16) if x[i] == 256 else f[i])
                    total[i] += np.int32(weight[i] * f[i]) if side else -np.int32(weight[i] * f[i])
        for i in range(n):
            inverse[i] = 1.0 / np.float64(total[i] + np.int32(_GRADIENT_FLOOR))
        for k in range(k_count):
            weight, mantissa, shift = mix[0, k, part], mix[2, k, part], mix[3, k, part]
            below, above, z_below, z_above = cdf[0, k], cdf[1, k], entries[0, k], entries[1, k]
            for i in range(n):
                w = np.int64(weight[i])
                share = w * np.int64(above[i] - below[i]) - ((w * np.int64(total[i])) >> np.int64(_WEIGHT_BITS))
                g[i] = np.float64(-share) * inverse[i] * 1024.0
            _store(g[:n], halves[k, part], halves[padded + k, part])
            for i in range(n):
                ratio = np.int64(scale[i]) * np.int64(mantissa[i]) >> np.int64(shift[i])
                change = _slope(above[i]) - _slope(below[i])
                g[i] = np.float64(np.int64(weight[i]) * change * ratio) * inverse[i] * _MEAN_GRADIENT
            _store(g[:n], halves[k_count + k, part], halves[padded + k_count + k, part])
            for i in range(n):
                # twice the logistic's argument at the middle of an entry of its table
                change = _argument(z_above[i]) * _slope(above[i]) - _argument(z_below[i]) * _slope(below[i])
                g[i] = np.float64(np.int64(weight[i]) * change) * inverse[i] * 4.0
            _store(g[:n], halves[2 * k_count + k, part], halves[padded + 2 * k_count + k, part])


@jit
def _slope(f):
    """Derivative of the logistic where its CDF is ``f``, both in 2**-16."""
    return (np.int64(f) * np.int64(65536 - f)) >> np.int64(16)


@jit
def _argument(entry):
    return np.int64(2 * entry - (_LOGISTIC_ENTRIES - 1))


@jit
def _store(slope, high, low):
    for i in range(len(slope)):
        whole = np.int32(min(max(np.rint(slope[i]), -_HALVES_MAX), _HALVES_MAX))
        high[i] = whole >> np.int32(_HEAD_SPLIT)
        low[i] = whole & np.int32((1 << _HEAD_SPLIT) - 1)


@jit
def _third(difference):
    return np.int32(2) if difference > FLAT else (np.int32(0) if difference < -FLAT else np.int32(1))


@jit
def _bend(total, limits):
    """A sum of inputs sorted by its sign and by how many of the limits its size exceeds: 0 to 2 * len(limits)."""
    size = np.int32(0)
    for limit in limits:
        size += np.int32(1) if abs(total) > limit else np.int32(0)
    return np.int32(len(limits)) + (size if total > 0 else -size)


@jit
def find_contexts(x, columns, centre, cls, at, stride, radius, level, blocks, out):
    """Contexts of n pixels (contexts.py): fills ``out`` int32 [n, TABLES].

    ``x`` int8 [n, inputs], with ``columns`` int64 [20] as contexts.context_inputs gives them; ``at`` and ``stride`` as
    for ``window_features``, ``radius`` being the border of the level array; ``blocks`` as contexts.block_tables gives
    it.
    """
    for i in range(len(at)):
        out[i, 0] = 8 * min(np.int32(cls[i]) >> 2, 7) + (centre[i] >> 11)
        a, b = np.int32(x[i, columns[0]]), np.int32(x[i, columns[1]])
        c, d = np.int32(x[i, columns[2]]), np.int32(x[i, columns[3]])
        out[i, 1] = FIRSTS[1] + 9 * _third(a - d) + 3 * _third(b - c) + _third(a + d - b - c)
        pattern = np.int32(0)
        for j in range(8):
            pattern = 2 * pattern + (np.int32(1) if x[i, columns[j]] > 0 else np.int32(0))
        out[i, 2] = FIRSTS[2] + pattern
        g, r = np.int32(0), np.int32(0)
        for j in range(4):
            g += np.int32(x[i, columns[8 + j]])
            r += np.int32(x[i, columns[12 + j]])
        out[i, 3] = FIRSTS[3] + (2 * len(R_BENDS) + 1) * _bend(g, G_BENDS) + _bend(r, R_BENDS)
        first, second = (np.int32(x[i, columns[16]]) + 64) >> 4, (np.int32(x[i, columns[17]]) + 64) >> 4
        out[i, 4] = FIRSTS[4] + 8 * min(max(first, 0), 7) + min(max(second, 0), 7)
        red, blue = (np.int32(x[i, columns[18]]) + 16) >> 2, (np.int32(x[i, columns[19]]) + 16) >> 2
        out[i, 5] = FIRSTS[5] + 8 * min(max(red, 0), 7) + min(max(blue, 0), 7)
        row, column = divmod(at[i] // 3, stride)
        for j in range(2):
            bits, across, begin = blocks[j]
            block = (((row - radius) << level) >> bits) * across + (((column - radius) << level) >> bits)
            out[i, FIXED + j] = begin + block


@jit
def learn_offsets(halves, contexts, seen, sums, fresh, values, pixels, squares):
    """A step of contexts.Offsets by a batch's gradient int8 [2 * padded, n]. ``sums`` int32 [contexts, padded] and
    ``fresh`` int32 [contexts] are scratch: all 0 before and after."""
    padded, n = len(halves) // 2, halves.shape[1]
    g = np.empty(padded, np.int32)
    for i in range(n):
        for o in range(padded):
            g[o] = np.int32(halves[o, i]) * np.int32(1 << _HEAD_SPLIT) + np.int32(halves[padded + o, i])
        for o in range(padded):
            squares[o] += np.int64(g[o]) * np.int64(g[o])
        for t in range(TABLES):
            context = contexts[i, t]
            fresh[context] += np.int32(1)
            total = sums[context]
            for o in range(padded):
                total[o] += g[o]
    factor = np.empty(padded)
    for o in range(padded):
        factor[o] = NEWTON * seen / (np.float64(squares[o]) + DAMPING * seen)
    for i in range(n):
        for t in range(TABLES):
            context = contexts[i, t]
            if fresh[context] > 0:
                pixels[context] += fresh[context]
                fresh[context] = 0
                weight = _PATIENCE[t] + np.float64(pixels[context])
                total, value = sums[context], values[context]
                for o in range(padded):
                    move = min(max(np.float64(total[o]) * factor[o] / weight, -_MOVE_MAX), _MOVE_MAX)
                    moved = np.float64(value[o]) - np.rint(move)
                    value[o] = np.int32(min(max(moved, -_OFFSET_MAX), _OFFSET_MAX))
                    total[o] = 0


@jit
def join_gradient(sums, out):
    """Gradient sums by halves, int32 [2 * padded, inputs] -> float64 [outputs, inputs]."""
    padded = len(sums) // 2
    for o in range(len(out)):
        for f in range(out.shape[1]):
            out[o, f] = np.float64(np.int64(sums[o, f]) * (1 << _HEAD_SPLIT) + sums[padded + o, f])


@jit
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


@jit
def _combine(matrix, rows, out):
    """``out = matrix @ rows``, summed in ascending order of the rows."""
    out[:] = 0.0
    for p in range(len(matrix)):
        for o in range(len(matrix)):
            c = matrix[p, o]
            for d in range(rows.shape[1]):
                out[p, d] += c * rows[o, d]


@jit
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
