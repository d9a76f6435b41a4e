"""Changes of a model that a file carries (docs/FORMAT.md, "Changes"): how they are coded, and what they do.

They are small integers: steps of the biases of the layers before the head, and of the points from which heads set out
to learn. Each moves the network by exact integer arithmetic, so that a changed model is as exact as any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
#: Directions of a head whose steps are coded with one distribution.
DIRECTIONS = 8
#: Distributions: all zero, or the steps fall off by the factor ratio / RATIO_ONE.
RATIOS, RATIO_ONE = 16, 18
#: Frequencies sum to this (mixture.TOTAL).
_TOTAL = 1 << 24
#: Unit of the pace of learning heads, and the most.
PACE_ONE, PACE_MAX = 16, 255
#: A step of a bias is 2 units of the next layer's inputs: 2**(shift + BIAS_BITS).
BIAS_BITS = 1


@dataclass(frozen=True, eq=False)
class Changes:
    """Steps by group, int8 [...] each: those of ``groups`` that are not all zero. pace: of learning heads, in parts of
    PACE_ONE of the model's rates."""

    steps: Mapping[str, np.ndarray] = field(default_factory=dict)
    pace: int = PACE_ONE


def groups(model: Model) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all groups of steps that a model can have, in the order in which they are coded.

    ``E.I``: the biases of layer I of expert E; ``E.head``: those of its head's outputs in the directions of its basis.
    """
    from ardmzip.features import EXPERTS

    found: dict[str, tuple[int, ...]] = {}
    for e in range(EXPERTS):
        layer = 0
        while f"expert.{e}.{layer}.bias" in model.tensors:
            found[f"{e}.{layer}"] = model.tensors[f"expert.{e}.{layer}.bias"].shape
            layer += 1
        if model.learns:
            found[f"{e}.head"] = len(model.tensors[f"learning.{e}.mix"]), len(model.tensors[f"learning.{e}.basis"])
    return found


def _blocks(model: Model) -> Iterator[tuple[str, tuple[slice, ...]]]:
    """The parts of all groups that have a distribution of their own."""
    for name, shape in groups(model).items():
        for first in range(0, shape[-1], shape[-1] if len(shape) == 1 else DIRECTIONS):
            part = slice(None) if len(shape) == 1 else slice(first, first + DIRECTIONS)
            yield name, (slice(None),) * (len(shape) - 1) + (part,)


@cache
def _ratio_row() -> np.ndarray:
    """Frequencies less one, float32 [1 + RATIOS]: half of all blocks are taken to be zero."""
    frequencies = [_TOTAL // 2] + [_TOTAL // 2 // RATIOS] * RATIOS
    return np.array(frequencies, np.float32) - 1


@cache
def step_frequencies(ratio: int) -> tuple[int, ...]:
    """Frequencies of the steps -STEP_MAX to STEP_MAX in a block of some ratio, 1 to RATIOS.

    >>> row = step_frequencies(2)
    >>> sum(row) == 2**24, row[15] > 8 * row[16] > 64 * row[17]
    (True, True)
    """
    steps = range(-STEP_MAX, STEP_MAX + 1)
    weights = [ratio ** abs(step) * RATIO_ONE ** (STEP_MAX - abs(step)) for step in steps]
    below, bounds = 0, [0]
    for i, weight in enumerate(weights, 1):
        below += weight
        bounds.append(below * (_TOTAL - len(weights)) // sum(weights) + i)
    return tuple(b - a for a, b in pairwise(bounds))


@cache
def _step_row(ratio: int) -> np.ndarray:
    return np.array(step_frequencies(ratio), np.float32) - 1


def _best_ratio(steps: np.ndarray) -> int:
    """The ratio that codes steps in the fewest bits; 0 if all are zero."""
    if not steps.any():
        return 0
    count = np.bincount(steps.ravel().astype(np.int64) + STEP_MAX, minlength=2 * STEP_MAX + 1)
    bits = [-(count * np.log2(step_frequencies(ratio))).sum() for ratio in range(1, RATIOS + 1)]
    return 1 + int(np.argmin(bits))


def pack(changes: Changes, model: Model) -> bytes:
    """As bytes: the pace and rANS words."""
    import constriction

    family = constriction.stream.model.Categorical(perfect=False)
    coder = constriction.stream.stack.AnsCoder()
    for name, part in reversed(list(_blocks(model))):
        steps = changes.steps[name][part] if name in changes.steps else np.zeros(1, np.int8)
        ratio = _best_ratio(steps)
        if ratio:
            symbols = np.ascontiguousarray(steps.ravel(), np.int32) + STEP_MAX
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
    found = {name: np.zeros(shape, np.int8) for name, shape in groups(model).items()}
    for name, part in _blocks(model):
        ratio = int(coder.decode(family, _ratio_row()[None])[0])
        if ratio:
            into = found[name][part]
            steps = coder.decode(family, np.tile(_step_row(ratio), (into.size, 1)))
            into[...] = (steps - STEP_MAX).reshape(into.shape)
    if not coder.is_empty():
        raise FormatError("damaged changes: they do not end where the model does")
    return Changes({name: steps for name, steps in found.items() if steps.any()}, pace)


def bias_unit(shift: np.ndarray) -> np.ndarray:
    """What a step adds to a bias, int64 [outputs]: twice what makes one unit of the layer's output."""
    return np.int64(1) << (shift.astype(np.int64) + BIAS_BITS)


def apply(changes: Changes, model: Model) -> Model:
    """The changed model; raises FormatError if a sum of it would leave 32 bits."""
    from ardmzip.model import sums_fit

    tensors, starts = dict(model.tensors), {}
    if changes.pace != PACE_ONE:
        for name in [name for name in tensors if name.endswith(".rate")]:
            rate = (tensors[name].astype(np.int64) * changes.pace) >> 4
            tensors[name] = np.minimum(rate, 2**31 - 1).astype(np.int32)
    for name, steps in changes.steps.items():
        expert, layer = name.split(".")
        if layer == "head":
            starts[int(expert)] = steps
            continue
        prefix = f"expert.{name}"
        bias = tensors[f"{prefix}.bias"] + bias_unit(tensors[f"{prefix}.shift"]) * steps
        if not sums_fit(tensors[f"{prefix}.weight"], bias):
            raise FormatError(f"damaged changes: the sums of {prefix} leave 32 bits")
        tensors[f"{prefix}.bias"] = bias.astype(np.int32)
    return replace(model, tensors=tensors, starts=starts)
