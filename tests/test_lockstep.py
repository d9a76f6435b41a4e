"""Small images that go through the network together: the same bytes as one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ardmzip import choice, codec, lockstep, model, network
from ardmzip.errors import FormatError


def images(count: int, channels: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth ones with some noise, and one of noise alone."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    slopes = rng.uniform(-6, 6, (count, channels, 2, 1, 1))
    found = 128 + slopes[:, :, 0] * y + slopes[:, :, 1] * x + rng.normal(0, 4, (count, channels, height, width))
    found[-1] = rng.integers(0, 256, (channels, height, width))
    return found.clip(0, 255).astype(np.uint8)


@settings(max_examples=6)
@given(
    st.integers(1, 4), st.sampled_from([1, 3]), st.integers(1, 20), st.integers(1, 20),
    st.sampled_from(["cpu-int8", "cpu-float32", "torch"]),
)  # fmt: skip
def test_the_same_as_one_by_one(count, channels, height, width, kind):
    thumb = model.load("thumb")
    backend = network.backend("cpu", "float64" if kind == "torch" else kind[4:], numba=kind != "torch")
    planes = images(count, channels, height, width)
    together = lockstep.encode(planes, thumb, backend)
    for own, c in zip(planes, together, strict=True):
        alone = codec.encode(own, thumb, network.backend("cpu"), learn=False)
        assert c.segments[0].tolist() == alone.segments[0].tolist()
        assert (c.pixel_crc, c.learning, c.calls, c.phase) == (alone.pixel_crc, False, None, (0, 0))
        assert np.array_equal(codec.decode(c, thumb, network.backend("cpu")), own)
    assert all(map(np.array_equal, lockstep.decode(together, thumb, backend), planes))


def test_schedules_and_chunks(photo, cpu):
    planes = images(5, 3, 16, 16)
    cut = [codec.encode(own, photo, cpu, steps=7, learn=False) for own in planes]
    assert all(lockstep.kind(c) is not None for c in cut)
    for chunk in (16, 100, 4096):
        assert all(map(np.array_equal, lockstep.decode(cut, photo, cpu, chunk), planes))
        words = [c.segments[0].tolist() for c in lockstep.encode(planes, photo, cpu, chunk)]
        assert words == [c.segments[0].tolist() for c in lockstep.encode(planes, photo, cpu)]


def test_damage_stays_in_its_image(photo, cpu):
    planes = images(6, 3, 12, 12)
    together = lockstep.encode(planes, photo, cpu)
    words = together[2].segments[0].copy()
    words[len(words) // 2] ^= 1 << 9
    object.__setattr__(together[2], "segments", (words,))
    object.__setattr__(together[4], "segments", (together[4].segments[0][:3],))
    found = lockstep.decode(together, photo, cpu)
    assert [isinstance(one, FormatError) for one in found] == [False, False, True, False, True, False]
    assert all(np.array_equal(found[i], planes[i]) for i in (0, 1, 3, 5))


def test_what_is_coded_alone(photo, cpu):
    small, large = images(1, 3, 16, 16)[0], images(1, 1, 96, 97)[0]
    assert not lockstep.suits(96, 97)
    assert lockstep.kind(codec.encode(large, photo, cpu, learn=False)) is None
    learning = codec.encode(images(1, 3, 20, 20)[0], photo, cpu, learn=True)
    assert learning.learning
    assert lockstep.kind(learning) is None
    with pytest.raises(ValueError, match="not small"):
        lockstep.encode(large[None], photo, cpu)
    other = codec.encode(images(1, 1, 16, 16)[0], photo, cpu, learn=False)
    with pytest.raises(ValueError, match="together"):
        lockstep.decode([codec.encode(small, photo, cpu, learn=False), other], photo, cpu)


def test_choices_are_those_of_single_images(cpu):
    models = [model.load("photo"), model.load("thumb")]
    planes = images(5, 3, 50, 47)  # atoms of more pixels than are looked at, and of fewer
    best = choice.best_models(planes, models, cpu)
    assert [m.name for m in best] == [choice.best_model(own, models, cpu).name for own in planes]
    _, estimates = lockstep.encode_estimated(planes, models[0], cpu)
    assert estimates.tolist() == [choice.estimated_bytes(own, models[0], cpu) for own in planes]
