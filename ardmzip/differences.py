"""Differences between models that an archive brings with it (docs/FORMAT.md, "Differences"): how they are coded, and
what they make of the model that they begin with.

They are small integers, steps of weights and biases. The model that comes out is as exact as any other, and has an id
of its own, by which files name it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ardmzip.changes import geometric_frequencies
from ardmzip.container import MODEL_ID_BYTES
from ardmzip.errors import FormatError, ModelError

if TYPE_CHECKING:
    from ardmzip.model import Model

#: No step is larger.
STEP_MAX = 31
#: How fast the frequencies of a row's steps fall off with their size: by RATIOS[i] / RATIO_ONE.
RATIOS, RATIO_ONE = (1, 2, 4, 7, 12, 20, 32, 48, 72, 104, 152, 216, 304, 424, 576, 768), 1024
#: No weight before a head becomes larger.
WEIGHT_MAX = 127
#: Sizes of a step, and the most products that are added to the weights of a layer.
UNITS = RANKS = 16
#: The smallest step of a bias before the head is 2**-BIAS_BITS units of the layer's output, but at least 1.
BIAS_BITS = 4
#: Half of all tensors and rows are taken not to change.
_TOTAL = 1 << 24
_NUMBERS = (_TOTAL // 2, *[_TOTAL // 2 // len(RATIOS)] * len(RATIOS))


@dataclass(frozen=True, eq=False)
class Steps:
    """How a tensor changes.

    unit: what stands for the size of a step, 0 to UNITS - 1. steps: int8 of the shape of the tensor; but of weights
    before the head [rank, inputs + outputs], as to these is added the sum of outer products (low_rank).
    """

    unit: int
    steps: np.ndarray


def names(model: Model) -> Iterator[str]:
    """The tensors that may change, in the order in which they are coded: of each expert its layers and its head, of
    each of these bias and weights."""
    from ardmzip.features import EXPERTS

    for e in range(EXPERTS):
        i = 0
        while f"expert.{e}.{i}.bias" in model.tensors:
            yield from (f"expert.{e}.{i}.bias", f"expert.{e}.{i}.weight")
            i += 1
        yield from (f"expert.{e}.head.bias", f"expert.{e}.head.weight")


def is_low_rank(name: str) -> bool:
    """Whether outer products are added to a tensor: to the weights before the head, which are too many to be changed
    one by one."""
    return name.endswith(".weight") and ".head." not in name


def step_size(name: str, unit: int, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """What a step adds to the numbers of a tensor that is not ``is_low_rank``: int64 [] or [outputs]."""
    if name.endswith(".bias") and ".head." not in name:
        shift = tensors[name.removesuffix("bias") + "shift"].astype(np.int64)
        return np.int64(1) << np.maximum(0, shift + unit - BIAS_BITS)
    return np.array(1 << unit, np.int64)


def low_rank(change: Steps, shift: np.ndarray, inputs: int) -> np.ndarray:
    """What is added to the weights of a layer, int64 [outputs, inputs]. shift: of its outputs."""
    steps = change.steps.astype(np.int64)
    product = steps[:, inputs:].T @ steps[:, :inputs]
    return ((product << shift.astype(np.int64)[:, None]) + (1 << change.unit >> 1)) >> change.unit


# Coding


@cache
def _frequencies(ratio: int) -> np.ndarray:
    return np.array(geometric_frequencies(ratio, RATIO_ONE, STEP_MAX), np.float64)


@cache
def _number_model() -> Any:
    return _categorical(_NUMBERS)


@cache
def _step_model(number: int) -> Any:
    return _categorical(geometric_frequencies(RATIOS[number - 1], RATIO_ONE, STEP_MAX))


def _categorical(frequencies: Sequence[int]) -> Any:
    """constriction adds one unit to each class, and takes our integers as they are."""
    import constriction

    return constriction.stream.model.Categorical(np.array(frequencies, np.float32) - 1, perfect=False)


@cache
def _code_lengths() -> np.ndarray:
    """Bits of a step by each of the ratios: float64 [ratios, steps]."""
    return np.stack([24 - np.log2(_frequencies(ratio)) for ratio in RATIOS])


def _rows(steps: np.ndarray, inputs: int | None) -> list[np.ndarray]:
    """Steps that share a distribution, as views: all of a bias, those of an output of a head, and of each of the outer
    products, whose layer has so many inputs, the two vectors."""
    if steps.ndim == 1:
        return [steps]
    if inputs is None:
        return [*steps]
    return [part for row in steps for part in (row[:inputs], row[inputs:])]


def _inputs(name: str, base: Model) -> int | None:
    return base.tensors[name].shape[1] if is_low_rank(name) else None


def _best_ratio(row: np.ndarray) -> tuple[int, float]:
    """The number, from 1 on, of the ratio that codes a row of steps in the fewest bits, and these bits; 0 if all steps
    are 0."""
    if not row.any():
        return 0, 1.0
    bits = _code_lengths() @ np.bincount(row.astype(np.int64) + STEP_MAX, minlength=2 * STEP_MAX + 1)
    best = int(bits.argmin())
    return 1 + best, 5 + float(bits[best])


def cost(name: str, change: Steps, base: Model) -> float:
    """About how many bits the change of a tensor takes."""
    if not change.steps.any():
        return 1.0
    return 10 + sum(_best_ratio(row)[1] for row in _rows(change.steps, _inputs(name, base)))


def pack(found: Mapping[str, Steps], base: Model) -> bytes:
    """The payload by which ``base`` becomes another model: two ids and rANS words."""
    import constriction

    coder = constriction.stream.stack.AnsCoder()
    for name in reversed([*names(base)]):
        change = found.get(name)
        if change is None or not change.steps.any():
            coder.encode_reverse(np.zeros(1, np.int32), _number_model())
            continue
        for row in reversed(_rows(change.steps, _inputs(name, base))):
            number, _ = _best_ratio(row)
            if number:
                coder.encode_reverse(row.astype(np.int32) + STEP_MAX, _step_model(number))
            coder.encode_reverse(np.array([number], np.int32), _number_model())
        if is_low_rank(name):
            coder.encode_reverse(np.array([len(change.steps)], np.int32), _number_model())
        coder.encode_reverse(np.array([1 + change.unit], np.int32), _number_model())
    return base.id + apply(found, base).id + coder.get_compressed().astype("<u4").tobytes()


def ids(payload: bytes) -> tuple[bytes, bytes]:
    """The ids of the model that a payload begins with, and of the one that comes out; raises FormatError."""
    if len(payload) < 2 * MODEL_ID_BYTES:
        raise FormatError(f"damaged difference of models: {len(payload)} bytes")
    return payload[:MODEL_ID_BYTES], payload[MODEL_ID_BYTES : 2 * MODEL_ID_BYTES]


def unpack(payload: bytes, base: Model) -> dict[str, Steps]:
    """The steps that ``pack`` made a payload of; raises FormatError."""
    import constriction

    ids(payload)
    words = payload[2 * MODEL_ID_BYTES :]
    if len(words) % 4:
        raise FormatError(f"damaged difference of models: {len(payload)} bytes")
    try:
        coder = constriction.stream.stack.AnsCoder(np.frombuffer(words, "<u4").astype(np.uint32))
    except ValueError as error:  # the last word is 0
        raise FormatError(f"damaged difference of models: {error}") from error
    found = {}
    for name in names(base):
        unit = int(coder.decode(_number_model(), 1)[0]) - 1
        if unit >= 0:
            shape, inputs = base.tensors[name].shape, _inputs(name, base)
            if inputs is not None:
                shape = int(coder.decode(_number_model(), 1)[0]), sum(shape)
            steps = np.zeros(shape, np.int8)
            for row in _rows(steps, inputs):
                number = int(coder.decode(_number_model(), 1)[0])
                if number:
                    row[:] = coder.decode(_step_model(number), len(row)) - STEP_MAX
            found[name] = Steps(unit, steps)
    if not coder.is_empty():
        raise FormatError("damaged difference of models: it does not end where the model does")
    return found


# What they do


def apply(found: Mapping[str, Steps], base: Model) -> Model:
    """The model that comes out; raises FormatError if it would not be a valid one."""
    from ardmzip import model

    tensors = dict(base.tensors)
    for name, change in found.items():
        before = tensors[name]
        if is_low_rank(name):
            shift = tensors[name.removesuffix("weight") + "shift"]
            after = (before + low_rank(change, shift, before.shape[1])).clip(-WEIGHT_MAX, WEIGHT_MAX)
        else:
            after = before + step_size(name, change.unit, tensors) * change.steps.astype(np.int64)
        limits = np.iinfo(before.dtype)
        if after.min() < limits.min or after.max() > limits.max:
            raise FormatError(f"damaged difference of models: {name} leaves its range")
        tensors[name] = after.astype(before.dtype)
    try:
        model.check(tensors)
    except ModelError as error:
        raise FormatError(f"damaged difference of models: {error}") from error
    return replace(base, name=f"{base.name}, fitted", id=model.model_id(tensors), tensors=tensors)


#: Models that were made lately, by the payload: the same for every image of an archive.
_made: dict[bytes, Model] = {}
_MOST_MADE = 4


def load(payload: bytes, base: Model) -> Model:
    """The model that comes out of a payload which begins with ``base``; kept for the next call. Raises FormatError."""
    payload = bytes(payload)
    made = _made.get(payload)
    if made is None:
        if base.random_order:
            raise FormatError(f"damaged difference of models: {base.name} codes in a random order")
        made = apply(unpack(payload, base), base)
        if made.id != ids(payload)[1]:
            raise FormatError("damaged difference of models: another model comes out than it says")
        while len(_made) >= _MOST_MADE:
            _made.pop(next(iter(_made)), None)
        _made[payload] = made
    return made


def find(payloads: Sequence[bytes], identity: bytes, name: str | Path | None = None) -> Model | None:
    """The model of this id, if one of some payloads gives it. name: name or path of the model that it begins with, if
    that is not installed. Raises ArdmError."""
    from ardmzip import model

    fitting = [payload for payload in payloads if ids(payload)[1].startswith(identity)]
    if len(fitting) > 1:
        raise ModelError(f"the archive has {len(fitting)} models that may be {identity.hex()}")
    for payload in fitting:
        first, _ = ids(payload)
        base = model.find(first) if name is None else model.load(name)
        if base.id != first:
            raise ModelError(f"the archive needs model {first.hex()}, not {base.name} ({base.id.hex()})")
        return load(payload, base)
    return None


def instead(model: Model, payloads: Sequence[bytes]) -> Model:
    """What comes out of the first of some payloads that begins with a model; the model itself if none does."""
    for payload in payloads:
        if ids(payload)[0] == model.id:
            return load(payload, model)
    return model
