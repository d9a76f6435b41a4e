"""Changes of a model that a file carries (docs/FORMAT.md, "Changes"): how they are coded, and what they do.

They are small integers, steps of the biases of the layers before the head. A changed model is as exact as any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ardmzip.errors import FormatError

if TYPE_CHECKING:
    from ardmzip.model import Model

#: No step is larger.
STEP_MAX = 15
#: How fast the frequencies of a layer's steps fall off with their size: by RATIOS[i] / RATIO_ONE.
RATIOS, RATIO_ONE = (1, 2, 3, 4, 5, 7, 9, 12, 15, 19, 24, 30, 36, 43, 50, 57), 64
#: Frequencies sum to this (mixture.TOTAL).
_TOTAL = 1 << 24
#: Unit of the pace of learning heads, and the most.
PACE_ONE, PACE_MAX = 16, 255
#: A step of a bias makes 2**BIAS_BITS units of the layer's output.
BIAS_BITS = 2


@dataclass(frozen=True, eq=False)
class Changes:
    """Steps of biases, int8 [outputs], by the names of layers (``layers``), of those that change. pace: of learning
    heads, in 1/PACE_ONE of the model's rates."""

    steps: Mapping[str, np.ndarray] = field(default_factory=dict)
    pace: int = PACE_ONE


def are_some(changes: Changes) -> bool:
    """Whether a file has to carry them."""
    return bool(changes.steps) or changes.pace != PACE_ONE


def layers(model: Model) -> dict[str, int]:
    """Names and outputs of all layers before the heads, in the order in which their steps are coded: ``E.I`` is layer I
    of expert E."""
    from ardmzip.features import EXPERTS

    found: dict[str, int] = {}
    for e in range(EXPERTS):
        i = 0
        while f"expert.{e}.{i}.bias" in model.tensors:
            found[f"{e}.{i}"] = len(model.tensors[f"expert.{e}.{i}.bias"])
            i += 1
    return found


@cache
def _ratio_row() -> np.ndarray:
    """Frequencies less one, float32 [17], of no change and the ratios: half of all layers are taken not to change."""
    frequencies = [_TOTAL // 2] + [_TOTAL // 2 // len(RATIOS)] * len(RATIOS)
    return np.array(frequencies, np.float32) - 1


def geometric_frequencies(ratio: int, one: int, most: int) -> tuple[int, ...]:
    """Frequencies of the steps -most to most that fall off by ratio / one with their size; each is at least 1."""
    steps = range(-most, most + 1)
    weights = [ratio ** abs(step) * one ** (most - abs(step)) for step in steps]
    whole, below, bounds = sum(weights), 0, [0]
    for i, weight in enumerate(weights, 1):
        below += weight
        bounds.append(below * (_TOTAL - len(weights)) // whole + i)
    return tuple(b - a for a, b in pairwise(bounds))


@cache
def step_frequencies(ratio: int) -> tuple[int, ...]:
    """Frequencies of the steps -STEP_MAX to STEP_MAX in a layer of some ratio.

    >>> row = step_frequencies(4)
    >>> sum(row) == 2**24, row[15] > 15 * row[16] > 225 * row[17]
    (True, True)
    """
    return geometric_frequencies(ratio, RATIO_ONE, STEP_MAX)


@cache
def _step_row(number: int) -> np.ndarray:
    return np.array(step_frequencies(RATIOS[number - 1]), np.float32) - 1


def _costs(steps: np.ndarray) -> np.ndarray:
    """Bits of steps by each of the ratios."""
    count = np.bincount(steps.astype(np.int64) + STEP_MAX, minlength=2 * STEP_MAX + 1)
    return np.array([-(count * np.log2(step_frequencies(ratio))).sum() + 24 * count.sum() for ratio in RATIOS])


def cost(steps: np.ndarray) -> float:
    """About how many bits the steps of a layer take."""
    return 4 + float(_costs(steps).min()) if steps.any() else 0.0


def _best_ratio(steps: np.ndarray) -> int:
    """Number, from 1 on, of the ratio that codes steps in the fewest bits; 0 if all are zero."""
    return 1 + int(_costs(steps).argmin()) if steps.any() else 0


def pack(changes: Changes, model: Model) -> bytes:
    """As bytes: the pace and rANS words."""
    import constriction

    family = constriction.stream.model.Categorical(perfect=False)
    coder = constriction.stream.stack.AnsCoder()
    for name in reversed(layers(model)):
        steps = changes.steps.get(name, np.zeros(1, np.int8))
        ratio = _best_ratio(steps)
        if ratio:
            symbols = steps.astype(np.int32) + STEP_MAX
            coder.encode_reverse(symbols, family, np.tile(_step_row(ratio), (len(symbols), 1)))
        coder.encode_reverse(np.array([ratio], np.int32), family, _ratio_row()[None])
    return bytes([changes.pace]) + coder.get_compressed().astype("<u4").tobytes()


def unpack(data: bytes, model: Model) -> Changes:
    """The changes that ``pack`` made bytes of; raises FormatError."""
    import constriction

    pace, words = data[0] if data else 0, data[1:]
    if pace == 0 or len(words) % 4:
        raise FormatError(f"damaged changes: {len(data)} bytes, pace {pace}")
    family = constriction.stream.model.Categorical(perfect=False)
    try:
        coder = constriction.stream.stack.AnsCoder(np.frombuffer(words, "<u4").astype(np.uint32))
    except ValueError as error:  # the last word is 0
        raise FormatError(f"damaged changes: {error}") from error
    found = {}
    for name, outputs in layers(model).items():
        ratio = int(coder.decode(family, _ratio_row()[None])[0])
        if ratio:
            symbols = coder.decode(family, np.tile(_step_row(ratio), (outputs, 1)))
            found[name] = (symbols - STEP_MAX).astype(np.int8)
    if not coder.is_empty():
        raise FormatError("damaged changes: they do not end where the model does")
    return Changes(found, pace)


def bias_unit(shift: np.ndarray) -> np.ndarray:
    """What a step adds to a bias, int64 [outputs]: four units of the layer's output."""
    return np.int64(1) << (shift.astype(np.int64) + BIAS_BITS)


def apply(changes: Changes, model: Model) -> Model:
    """The changed model; raises FormatError if a sum of it would leave 32 bits."""
    from ardmzip.model import sums_fit

    tensors = dict(model.tensors)
    if changes.pace != PACE_ONE:
        for name in [name for name in tensors if name.endswith(".rate")]:
            rate = (tensors[name].astype(np.int64) * changes.pace) >> 4
            tensors[name] = np.minimum(rate, 2**31 - 1).astype(np.int32)
    for name, steps in changes.steps.items():
        prefix = f"expert.{name}"
        bias = tensors[f"{prefix}.bias"] + bias_unit(tensors[f"{prefix}.shift"]) * steps
        if not sums_fit(tensors[f"{prefix}.weight"], bias):
            raise FormatError(f"damaged changes: the sums of {prefix} leave 32 bits")
        tensors[f"{prefix}.bias"] = bias.astype(np.int32)
    return replace(model, tensors=tensors)
