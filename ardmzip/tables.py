"""Integer tables of the codec: logarithms, exponentials, logistic CDF.

They are built once, here, in floating point when a model is exported, and travel inside the model file as integers.
Coding only ever looks them up, so no ``libm`` call can influence a frequency.

Units: pixel quantities are in 1/64 of a grey level; scales are in octaves (log2 of grey levels).
"""

from __future__ import annotations

import numpy as np

#: 1/64 grey level is the unit of references, activities and means: fine enough that rounding costs nothing measurable.
UNIT = 64
#: Activity classes: quarter octaves of (activity + 1/2), from 1/2 to 256 grey levels.
CLASSES = 37
CLASSES_PER_OCTAVE = 4
#: Class of a plane of which no neighbour is known: about 64 grey levels, the spread of pixels in a photograph.
CLASS_UNKNOWN = 28
#: |difference| is looked up in quarter grey levels and saturates at 256 grey levels.
DIFFERENCES = 1024
#: int8 inputs are in units of 1/32.
INPUT_ONE = 32
#: Head outputs (logits, means, log-scales) are integers in units of 1/256.
PARAM_ONE = 256
#: Mixture scales: 1/64 octave steps, from 2**SCALE_MIN to 2**SCALE_MAX grey levels.
SCALE_STEPS = 64
SCALE_MIN, SCALE_MAX = -5, 9
#: Logistic CDF argument: 1/128 steps, saturating at +-16.
LOGISTIC_STEPS, LOGISTIC_RANGE = 128, 16
LOGISTIC_BITS, WEIGHT_BITS = 16, 14
#: Mixture weights: 2**-x in 1/64 octave steps over 16 octaves.
EXP_STEPS, EXP_RANGE = 64, 16

#: Every table's type, length and range: what ``build`` gives, and what keeps the sums of kernels.py within int32.
LIMITS = {
    "class_of": (np.uint8, 8192, 0, CLASSES - 1),
    "compand": (np.int8, CLASSES * DIFFERENCES, 0, 127),
    "class_scale": (np.int32, CLASSES, 0, 2**14),
    "inv_mantissa": (np.int32, (SCALE_MAX - SCALE_MIN) * SCALE_STEPS, 0, 2**15 - 1),
    "inv_shift": (np.int32, (SCALE_MAX - SCALE_MIN) * SCALE_STEPS, 0, 31),
    "logistic": (np.int32, 2 * LOGISTIC_RANGE * LOGISTIC_STEPS, 0, 2**LOGISTIC_BITS),
    "exp2": (np.int32, EXP_RANGE * EXP_STEPS, 1, 2**16),
}


def class_scale(cls: np.ndarray) -> np.ndarray:
    """Scale of an activity class in grey levels (float64): the representative of (activity + 1/2)."""
    return 2.0 ** ((np.asarray(cls, np.float64) - CLASSES_PER_OCTAVE) / CLASSES_PER_OCTAVE)


def build() -> dict[str, np.ndarray]:
    """All tables, by the names they have in a model file.

    * ``class_of``: uint8 [8192], activity in 1/16 grey level -> class
    * ``compand``: int8 [CLASSES * DIFFERENCES], class, |d| in 1/4 grey level -> log(1 + |d| / scale) in 1/32
    * ``class_scale``: int32 [CLASSES], scale in 1/64 grey level
    * ``inv_mantissa``, ``inv_shift``: int32 [(SCALE_MAX-SCALE_MIN) * 64], reciprocal scale: the logistic argument in
      1/128 of a distance ``d`` in 1/64 grey level is ``(d * mantissa) >> shift``
    * ``logistic``: int32 [4096], CDF in 2**-16
    * ``exp2``: int32 [1024], 2**-x in 2**-16, at least 1
    """
    activity = (np.arange(8192) + 0.5) / 16
    class_of = np.clip(np.rint(CLASSES_PER_OCTAVE * np.log2(activity + 0.5)) + CLASSES_PER_OCTAVE, 0, CLASSES - 1)
    scale = class_scale(np.arange(CLASSES))
    difference = np.arange(DIFFERENCES) / 4
    compand = np.minimum(np.rint(INPUT_ONE * np.log1p(difference[None, :] / scale[:, None])), 127)

    steps = np.arange((SCALE_MAX - SCALE_MIN) * SCALE_STEPS)
    mixture_scale = 2.0 ** (SCALE_MIN + (steps + 0.5) / SCALE_STEPS)
    ratio = LOGISTIC_STEPS / (UNIT * mixture_scale)  # logistic steps per 1/64 grey level
    shift = 14 - np.floor(np.log2(ratio)).astype(np.int64)
    mantissa = np.minimum(np.rint(ratio * 2.0**shift), 2**15 - 1)

    argument = (np.arange(2 * LOGISTIC_RANGE * LOGISTIC_STEPS) + 0.5) / LOGISTIC_STEPS - LOGISTIC_RANGE
    logistic = np.rint(2**LOGISTIC_BITS / (1 + np.exp(-argument)))
    exp2 = np.maximum(np.rint(2**16 * 2.0 ** -((np.arange(EXP_RANGE * EXP_STEPS)) / EXP_STEPS)), 1)
    return {
        "class_of": class_of.astype(np.uint8),
        "compand": compand.astype(np.int8).ravel(),
        "class_scale": np.rint(UNIT * scale).astype(np.int32),
        "inv_mantissa": mantissa.astype(np.int32),
        "inv_shift": shift.astype(np.int32),
        "logistic": logistic.astype(np.int32),
        "exp2": exp2.astype(np.int32),
    }
