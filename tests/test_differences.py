"""Differences between models: coded and read again, applied as docs/FORMAT.md says, and kept within bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ardmzip import differences, model
from ardmzip.differences import STEP_MAX, Steps
from ardmzip.errors import FormatError, ModelError


@pytest.fixture(scope="module")
def base() -> model.Model:
    return model.load("fast")


def some(base: model.Model, seed: int, share: float = 0.3) -> dict[str, Steps]:
    """Random changes of a share of the tensors."""
    random = np.random.default_rng(seed)
    found = {}
    for name in differences.names(base):
        if random.random() < share:
            shape = base.tensors[name].shape
            if differences.is_low_rank(name):
                shape = int(random.integers(1, 5)), sum(shape)
            large = random.random() < 0.2
            steps = random.integers(-STEP_MAX, STEP_MAX + 1, shape) if large else random.integers(-1, 2, shape)
            steps[random.random(shape) < random.random()] = 0
            if steps.any():
                found[name] = Steps(int(random.integers(0, 8)), steps.astype(np.int8))
    return found


def within(found: dict[str, Steps], base: model.Model) -> dict[str, Steps]:
    """Without those by which heads leave their range."""
    return {name: steps for name, steps in found.items() if ".head.weight" not in name or steps.unit < 4}


@pytest.mark.parametrize("seed", range(4))
def test_they_come_back_and_take_what_was_expected(base, seed):
    found = within(some(base, seed), base)
    payload = differences.pack(found, base)
    again = differences.unpack(payload, base)
    assert again.keys() == found.keys()
    for name, steps in found.items():
        assert again[name].unit == steps.unit
        assert np.array_equal(again[name].steps, steps.steps)
    bits = sum(differences.cost(name, steps, base) for name, steps in found.items())
    assert abs(8 * len(payload) - bits) < 0.01 * bits + 400
    made = differences.load(payload, base)
    assert differences.ids(payload) == (base.id, made.id)
    assert made.id == model.model_id(made.tensors) != base.id
    assert differences.load(payload, base) is made


def test_nothing_takes_next_to_nothing_and_changes_nothing(base):
    payload = differences.pack({}, base)
    assert len(payload) <= 24
    assert differences.load(payload, base).id == base.id


def test_what_steps_do_is_what_the_page_says(base):
    found = within(some(base, 7, 0.6), base)
    made = differences.apply(found, base).tensors
    for name, array in base.tensors.items():
        want = array.astype(object)
        if name in found:
            unit, steps = found[name].unit, found[name].steps.astype(object)
            if ".head." in name:
                want = want + steps * 2**unit
            elif name.endswith(".bias"):
                shift = base.tensors[name.replace("bias", "shift")]
                want = want + [int(s) * 2 ** max(0, int(e) + unit - 4) for s, e in zip(steps, shift, strict=True)]
            else:
                outputs, inputs = array.shape
                shift = base.tensors[name.replace("weight", "shift")]
                random = np.random.default_rng(0)
                for o, i in zip(random.integers(0, outputs, 50), random.integers(0, inputs, 50), strict=True):
                    total = sum(int(row[i]) * int(row[inputs + o]) for row in steps)
                    change = (total * 2 ** int(shift[o]) + 2**unit // 2) // 2**unit
                    assert made[name][o, i] == min(127, max(-127, int(array[o, i]) + change))
                continue
        assert made[name].dtype == array.dtype
        assert np.array_equal(made[name], want)


def test_what_leaves_its_range_is_refused(base):
    head = np.zeros(base.tensors["expert.3.head.weight"].shape, np.int8)
    head[0, 0] = STEP_MAX
    for unit, message in ((15, "leaves its range"), (10, "out of its range")):
        with pytest.raises(FormatError, match=message):
            differences.pack({"expert.3.head.weight": Steps(unit, head)}, base)
    bias = np.full(base.tensors["expert.0.0.bias"].shape, STEP_MAX, np.int8)
    tensors = base.tensors | {"expert.0.0.shift": np.full_like(base.tensors["expert.0.0.shift"], 16)}
    with pytest.raises(FormatError, match="leave"):
        differences.apply({"expert.0.0.bias": Steps(15, bias)}, replace(base, tensors=tensors))


def test_forged_payloads_are_refused(base):
    payload = differences.pack(within(some(base, 1), base), base)
    with pytest.raises(FormatError, match="another model"):
        differences.load(payload[:4] + b"abcd" + payload[8:], base)
    for wrong in (payload[:6], payload[:-2], payload[:-8], payload + b"\1\0\0\0", payload[:8] + b"\0\0\0\0"):
        with pytest.raises(FormatError):
            differences.load(wrong, base)
    with pytest.raises(ModelError, match="the archive needs model"):
        differences.find([payload], differences.ids(payload)[1], "thumb")
    assert differences.find([payload], b"none") is None
