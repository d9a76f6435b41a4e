"""Tests of training/augment.py."""

from __future__ import annotations

import time

import numpy as np
import pytest

from ardmzip.training import augment as aug


def picture(height: int = 128, width: int = 160, seed: int = 0) -> np.ndarray:
    """A smooth colourful picture with some noise, away from the ends of the range."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [np.sin(y / (7 + 3 * c) + c) + np.cos(x / (11 + 2 * c) - c) for c in range(3)]
    return np.rint(128 + 25 * np.stack(waves, -1) + rng.normal(0, 3, (height, width, 3))).astype(np.uint8)


@pytest.mark.parametrize("size", [(128, 160), (65, 97), (64, 64), (20, 31), (1, 1)])
def test_augment_shape_dtype_and_determinism(size):
    crop = picture(*size)
    before = crop.copy()
    for seed in range(60):
        one = aug.augment(crop, np.random.default_rng(seed))
        two = aug.augment(crop, np.random.default_rng(seed))
        assert one.dtype == np.uint8
        assert one.ndim == 3
        assert one.shape[2] == 3
        assert one.flags.c_contiguous
        assert min(one.shape[:2]) >= min(64, *size)
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(crop, before)


def test_augment_leaves_some_crops_alone():
    crop = picture(64, 64)
    views = {view.tobytes() for k in range(4) for view in (np.rot90(crop, k), np.rot90(crop[:, ::-1], k))}
    rng = np.random.default_rng(1)
    share = np.mean([aug.augment(crop, rng).tobytes() in views for _ in range(600)])
    assert 0.24 < share < 0.42
    assert len({np.ascontiguousarray(aug.random_geometry(crop, rng)).tobytes() for _ in range(100)} & views) == 8


@pytest.mark.parametrize("name", list(aug.OPS))
@pytest.mark.parametrize("size", [(128, 160), (65, 97)])
def test_every_op(name, size):
    planes = aug.to_float(picture(*size))
    before = planes.copy()
    op = aug.OPS[name]
    changed = 0
    for seed in range(10):
        result = op(planes, np.random.default_rng(seed), aug.DEFAULT)
        assert result.dtype == np.float32
        assert np.isfinite(result).all()
        if name != "down":
            assert result.shape == planes.shape
        np.testing.assert_array_equal(result, op(planes, np.random.default_rng(seed), aug.DEFAULT))
        image = aug.to_image(result)
        assert image.dtype == np.uint8
        changed += image.shape != (*size, 3) or bool((image != aug.to_image(planes)).any())
    np.testing.assert_array_equal(planes, before)
    assert changed >= 8 or (name == "down" and size == (65, 97))


@pytest.mark.parametrize("matrix", [aug.BT601, aug.PHOTO_CD])
@pytest.mark.parametrize("phase", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("kind", ["linear", "cubic"])
def test_cosited_chroma_keeps_its_sites(kind, phase, matrix):
    image = picture(65, 96)
    result = aug.to_image(aug.subsample_chroma(aug.to_float(image), phase=phase, kind=kind, matrix=matrix))
    kept = slice(phase[0], None, 2), slice(phase[1], None, 2)
    np.testing.assert_array_equal(result[kept], image[kept])
    assert (result != image).any()


@pytest.mark.parametrize("axes", [(-2, -1), (-1,), (-2,)])
def test_linear_chroma_lies_between_kept_sites_and_luma_stays(axes):
    planes = aug.to_float(picture())
    result = aug.subsample_chroma(planes, axes=axes)
    to_ycc = np.linalg.inv(aug.BT601)
    old, new = (np.tensordot(to_ycc, p.astype(np.float64), 1) for p in (planes, result))
    np.testing.assert_allclose(new[0], old[0], atol=1e-3)
    for axis in axes:
        c = np.moveaxis(new[1:], axis, -1)
        np.testing.assert_allclose(c[..., 1:-1:2], (c[..., :-2:2] + c[..., 2::2]) / 2, atol=1e-3)


def test_rounded_chroma_is_integer_in_ycc():
    result = aug.subsample_chroma(aug.to_float(picture()), rounding=0.5, matrix=aug.PHOTO_CD)
    ycc = np.tensordot(np.linalg.inv(aug.PHOTO_CD), result.astype(np.float64), 1)
    np.testing.assert_allclose(ycc, np.rint(ycc), atol=1e-3)


@pytest.mark.parametrize("phase", [0, 1])
@pytest.mark.parametrize("length", [2, 7, 8])
@pytest.mark.parametrize("kind", ["linear", "cubic", "triangle", "nearest", "centred-cubic"])
def test_resample_axis_keeps_constants_and_slopes(kind, length, phase):
    flat = np.full((2, 5, length), 7, np.float32)
    np.testing.assert_allclose(aug.resample_axis(flat, -1, phase, kind), flat, rtol=1e-6)
    if kind != "nearest":
        slope = np.broadcast_to(np.arange(32, dtype=np.float32), (2, 5, 32))
        inner = aug.resample_axis(slope, -1, phase, kind)[..., 6:-6]
        np.testing.assert_allclose(inner, slope[..., 6:-6], atol=1e-5)
    square = np.random.default_rng(0).normal(size=(2, length, length)).astype(np.float32)
    turned = aug.resample_axis(square.swapaxes(1, 2), -2, phase, kind).swapaxes(1, 2)
    np.testing.assert_array_equal(turned, aug.resample_axis(square, -1, phase, kind))
    with pytest.raises(ValueError, match="unknown kind"):
        aug.resample_axis(flat, -1, phase, "none")


def test_noise_has_the_right_strength():
    planes = np.full((3, 128, 128), 128, np.float32)
    for filtered in (0.0, 1.0):
        config = aug.AugmentConfig(luma_grain=(3, 3.001), chroma_noise=(2, 2.001), filtered_noise=filtered)
        grain = aug.luma_grain(planes, np.random.default_rng(0), config) - planes
        assert 1.9 < grain.std() < 4.2
        np.testing.assert_allclose(np.corrcoef(grain.reshape(3, -1)), 1, atol=1e-4)
        colour = aug.chroma_noise(planes, np.random.default_rng(0), config) - planes
        assert np.abs(np.tensordot(aug.LUMA, colour, 1)).max() < 1e-3
        assert 1.772 * 1.6 < colour[2].std() < 1.772 * 2.4


def test_tone_leaves_gaps_and_gray_is_gray():
    ramp = np.broadcast_to(np.arange(256, dtype=np.float32), (3, 64, 256))
    for seed in range(10):
        result = aug.tone(ramp, np.random.default_rng(seed))
        assert len(np.unique(result)) < 256
        np.testing.assert_array_equal(result, np.rint(result))
    image = aug.to_image(aug.gray(aug.to_float(picture()), np.random.default_rng(0)))
    assert (image == image[:, :, :1]).all()


def test_down_respects_the_smallest_side():
    for size in [(256, 256), (70, 300), (64, 64), (90, 90)]:
        for seed in range(20):
            assert min(aug.down(np.zeros((3, *size), np.float32), np.random.default_rng(seed)).shape[1:]) >= 64


def test_random_crop_is_a_view():
    image, rng = picture(), np.random.default_rng(0)
    crop = aug.random_crop(image, 64, rng)
    assert crop.shape == (64, 64, 3)
    assert np.shares_memory(crop, image)
    assert aug.random_crop(image, 500, rng).shape == image.shape


def test_speed():
    crop, rng = picture(256, 256), np.random.default_rng(0)
    aug.augment(crop, rng)
    start = time.perf_counter()
    for _ in range(100):
        aug.augment(crop, rng)
    per_crop = (time.perf_counter() - start) * 10
    print(f"augment: {per_crop:.1f} ms per 256x256 crop")
    assert per_crop < 200  # far above the usual 2-5 ms, for slow test machines
