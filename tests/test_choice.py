"""The encoder's choice of a model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import ardmzip
from ardmzip import choice, codec, efforts, model
from ardmzip.body import Encoder
from ardmzip.container import unpack
from ardmzip.efforts import Effort
from ardmzip.errors import ModelError


def widened(photo, octaves: float):
    """A model that believes in wider distributions."""
    tensors = dict(photo.tensors)
    for name, array in photo.tensors.items():
        if name.endswith("head.bias"):
            k = len(array) // 3
            tensors[name] = array + np.repeat([0, 0, int(octaves * 2**15)], k).astype(np.int32)
    return replace(photo, name="worse", id=model.model_id(tensors), tensors=tensors)


@pytest.fixture(scope="module")
def worse(photo):
    return widened(photo, 2)


def picture(height: int, width: int, channels: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    planes = [120 + 50 * np.sin(y / 7 + c) + 40 * np.cos(x / 9 - c) for c in range(channels)]
    return np.stack(planes).astype(np.uint8)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 2, 3), (7, 1, 3), (2, 2, 1), (32, 32, 3), (130, 110, 3), (40, 300, 1)]
)
def test_the_model_with_fewer_bits(photo, worse, cpu, shape):
    planes = picture(*shape)
    assert choice.best_model(planes, [photo], cpu) is photo
    if planes[0].size > 1:
        sampled = [choice.sampled_bits(planes, each, cpu) for each in (photo, worse)]
        assert all(bits > 0 for bits in sampled)
        better = (photo, worse)[int(np.argmin(sampled))]
        assert choice.best_model(planes, [worse, photo], cpu) is better
        assert shape[0] * shape[1] < 100 or better is photo
    assert choice.best_model(planes, [replace(photo), photo], cpu) is not photo  # the first of equals


def test_samples_take_as_many_bits_as_the_file(photo, cpu):
    """Of all pixels of the first lattice of the finest level, as the coder codes them."""
    planes = picture(30, 34, 3)
    gains: list = []
    codec.encode(planes, replace(photo), cpu, gains=gains)
    spent = [gain.frozen for gain in gains if gain.level == 0]
    first = sum(spent[: len(spent) // 3])
    assert choice.sampled_bits(planes, photo, cpu) == pytest.approx(first, rel=1e-9)


def test_the_estimate_is_about_as_long_as_the_file(photo, cpu):
    planes = picture(130, 110, 3) + np.random.default_rng(0).integers(0, 9, (3, 130, 110), np.uint8)
    coded = codec.encode(planes, photo, cpu, learn=False)
    size = sum(words.nbytes for words in coded.segments)
    assert choice.estimated_bytes(planes, photo, cpu) == pytest.approx(size, rel=0.05)
    for shape in ((1, 1, 1), (1, 2, 3), (7, 1, 3), (40, 1, 1), (2, 2, 3)):
        assert 0 <= choice.estimated_bytes(picture(*shape), photo, cpu) < 40 * np.prod(shape)


def test_candidates(monkeypatch):
    assert [found.name for found in choice.candidates()] == [n for n in choice.CANDIDATES if n in model.available()]
    monkeypatch.setattr(model, "available", dict)
    with pytest.raises(ModelError, match="none of the models photo"):
        choice.candidates()
    with pytest.raises(ModelError, match="none of the models photo"):
        ardmzip.compress(np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8))


def test_the_library_takes_the_best(photo, worse, monkeypatch):
    pixels = picture(40, 30, 1)[0] + np.random.default_rng(0).integers(0, 9, (40, 30), np.uint8)
    monkeypatch.setattr(choice, "candidates", lambda *_: [worse, photo])
    assert photo.id.startswith(unpack(ardmzip.compress(pixels)).model_id)
    assert ardmzip.compress(pixels) == ardmzip.compress(pixels, model="photo")


def grained(height: int, width: int) -> np.ndarray:
    """A picture that a general coder makes nothing of."""
    return picture(height, width, 3) + np.random.default_rng(0).integers(0, 40, (3, height, width), np.uint8)


@pytest.fixture
def relative(photo, tmp_path, monkeypatch):
    """The shipped model as the relative of one that is installed as ``photo``, and a little worse."""
    for name, own in (("photo", widened(photo, 0.5)), ("photo-cd", photo)):
        model.save(
            tmp_path / f"{name}{model.SUFFIX}", name, own.tensors, own.loss, own.side_mean, own.side_std, own.card
        )
    monkeypatch.setattr(model, "FOLDERS", (tmp_path,))
    model.forget()
    yield photo
    model.forget()


def test_a_relative_that_is_clearly_better(relative, cpu, monkeypatch):
    planes, first = grained(130, 110), model.load("photo")
    assert choice.best_relative(planes, first, cpu, (0, 0), 256).id == relative.id
    assert choice.best_relative(planes, model.load("photo-cd"), cpu, (0, 0), 256).name == "photo-cd"  # has none
    monkeypatch.setattr(choice, "estimated_bytes", lambda planes, own, *_: 1000 - 0.9 * (own.name == "photo-cd"))
    assert choice.best_relative(planes, first, cpu, (0, 0), 256) is first


def test_efforts_try_relatives(relative, monkeypatch):
    """Where the user leaves the choice to the encoder; what is coded by one is verified and restored by it."""
    monkeypatch.setattr(efforts, "EFFORTS", (Effort(), Effort(128)))
    monkeypatch.setattr(efforts, "MOST", 1)
    worse, samples = model.load("photo"), np.ascontiguousarray(grained(200, 200).transpose(1, 2, 0))
    quick, tried, tiles = (ardmzip.compress(samples, **options) for options in (
        {"effort": 0}, {"effort": 1}, {"effort": 1, "tile": 128},
    ))  # fmt: skip
    assert worse.id.startswith(unpack(quick).model_id)
    assert len(tried) < len(quick)
    for data in (tried, tiles):
        assert relative.id.startswith(unpack(data).model_id)
        np.testing.assert_array_equal(ardmzip.decompress_array(data), samples)
    told = ardmzip.compress(samples, model="photo", effort=1)
    assert worse.id.startswith(unpack(told).model_id)
    # a better estimate that does not come true costs time, but no bytes
    monkeypatch.setattr(choice, "CANDIDATES", ("photo-cd",))
    monkeypatch.setattr(choice, "best_relative", lambda *_: model.load("photo"))
    assert relative.id.startswith(unpack(ardmzip.compress(samples, effort=1)).model_id)


def test_a_model_that_was_asked_for_has_no_relatives(photo):
    """Nor has one that an archive brings."""
    assert Encoder().may_change_model
    assert not Encoder(photo).may_change_model
    assert not Encoder(brought=(b"differences",)).may_change_model


def test_the_best_phase(photo, cpu, monkeypatch):
    """Of images whose odd or even rows are the means of their neighbours; it must be clearly better than the first."""
    rng = np.random.default_rng(3)
    even = 20 * rng.normal(0, 1, (49, 96)).cumsum(0) / 4 + 128
    rows = np.empty((96, 96))
    rows[::2], rows[1::2] = even[:48], (even[:48] + even[1:]) / 2
    planes = np.repeat(rows[None].clip(0, 255).astype(np.uint8), 3, 0)
    assert choice.best_phase(planes, photo, cpu, (1, 0), 512) in ((0, 0), (0, 1))
    shifted = np.ascontiguousarray(np.roll(planes, 1, 1)[:, 1:])
    assert choice.best_phase(np.pad(shifted, ((0, 0), (1, 0), (0, 0)), "edge"), photo, cpu, (0, 0), 512)[0] == 1
    sizes = {(0, 0): 1000.0, (0, 1): 999.5, (1, 0): 999.4, (1, 1): 1200.0}
    monkeypatch.setattr(choice, "estimated_bytes", lambda planes, model, backend, phase, sample: sizes[phase])
    assert choice.best_phase(planes, photo, cpu, (0, 0), 512) == (0, 0)
    assert choice.best_phase(planes, photo, cpu, (1, 1), 512) == (1, 0)
    assert choice.best_phase(planes[:, :50], photo, cpu, (1, 1), 512) == (1, 1)  # too small for side information
