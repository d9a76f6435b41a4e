"""Side information: finite for every image, quantised within a byte, the same for what should not matter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ardmzip import features, sideinfo

SHAPES = [(8, 8), (8, 64), (64, 8), (9, 200), (64, 64), (65, 130), (200, 300)]


def contents(shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(sum(shape))
    y, x = np.mgrid[: shape[1], : shape[2]]
    return {
        "black": np.zeros(shape, np.uint8),
        "white": np.full(shape, 255, np.uint8),
        "random": rng.integers(0, 256, shape, dtype=np.uint8),
        "black and white": (255 * rng.integers(0, 2, shape)).astype(np.uint8),
        "checkerboard": np.broadcast_to(255 * ((x + y) % 2), shape).astype(np.uint8),
        "ramp": np.broadcast_to((x + 2 * y) % 256, shape).astype(np.uint8),
    }


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SHAPES)
def test_finite(channels, size):
    for name, planes in contents((channels, *size)).items():
        stats = sideinfo.measure(planes)
        assert stats.shape == (features.SIDE,), name
        assert np.isfinite(stats).all(), name
        assert np.array_equal(stats, sideinfo.measure(planes)), name


def test_gray_has_no_chroma():
    planes = contents((3, 70, 90))["random"]
    gray, flat = sideinfo.measure(planes[:1]), sideinfo.measure(planes[[0, 0, 0]])
    np.testing.assert_array_equal(gray, flat)  # R - G and B - G are 0 in both
    assert not np.array_equal(gray, sideinfo.measure(planes))


def test_phases_show():
    """Chroma that was interpolated from every other column looks different by which columns those were."""
    rng = np.random.default_rng(0)
    half = rng.integers(0, 256, (64, 40)).astype(float)
    fine = np.repeat(half, 2, 1)
    fine[:, 1:-1:2] = (fine[:, :-2:2] + fine[:, 2::2]) / 2
    planes = np.stack([np.full(fine.shape, 128), fine, fine]).astype(np.uint8)
    even, odd = sideinfo.measure(planes[:, :, :-2]), sideinfo.measure(planes[:, :, 1:-1])
    assert even[6] * odd[6] < 0
    assert min(abs(even[6]), abs(odd[6])) > 1


def test_large_images_are_sampled():
    rng = np.random.default_rng(1)
    planes = rng.integers(0, 256, (1, 1000, 1600), dtype=np.uint8)
    assert sideinfo._blocks(planes).shape[1] <= sideinfo.MAX_BLOCKS
    assert np.isfinite(sideinfo.measure(planes)).all()


def test_quantise_steps():
    mean, std = np.linspace(-3, 3, features.SIDE), np.linspace(0.1, 4, features.SIDE)
    steps = np.arange(features.SIDE) - 11
    side = sideinfo.quantise(mean + std * (steps + 0.3) / sideinfo.STEP, mean, std)
    assert side.dtype == np.int8
    np.testing.assert_array_equal(side, steps)


@settings(max_examples=50)
@given(st.lists(st.floats(-1e6, 1e6), min_size=features.SIDE, max_size=features.SIDE))
def test_quantise_clips(stats):
    side = sideinfo.quantise(np.array(stats), np.zeros(features.SIDE), np.ones(features.SIDE))
    want = [min(max(round(32 * value), -127), 127) for value in stats]
    assert side.tolist() == want
    inputs = sideinfo.inputs(side)
    assert inputs.dtype == np.int8
    assert inputs.tolist() == [32, *want]


def test_without():
    assert sideinfo.inputs(None).tolist() == [0] * (features.SIDE + 1)
    zero = np.zeros(features.SIDE, np.int8)
    assert sideinfo.inputs(zero)[0] == 32  # that the image is average is something else than not to know


def test_from_a_file():
    """As the decoder reads it: a buffer that must not be written to."""
    side = np.frombuffer(bytes(range(250, 256)) + bytes(16), np.int8)
    assert sideinfo.inputs(side).tolist() == [32, -6, -5, -4, -3, -2, -1] + [0] * 16


@pytest.mark.parametrize("phase", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_lattice_phase_finds_the_sites_of_interpolated_chroma(phase):
    """Chroma known at every other pixel and interpolated between: those sites should be coded first."""
    rng = np.random.default_rng(3)
    luma = rng.integers(60, 190, (128, 128)).astype(np.float64)
    sites = rng.normal(0, 20, (66, 66))
    rows = np.stack([sites[:-1], (sites[:-1] + sites[1:]) / 2], 1).reshape(-1, 66)
    chroma = np.stack([rows[:, :-1], (rows[:, :-1] + rows[:, 1:]) / 2], 2).reshape(130, 130)
    chroma = chroma[phase[0] : phase[0] + 128, phase[1] : phase[1] + 128]
    planes = np.clip(np.stack([luma, luma + chroma, luma - chroma]), 0, 255).round().astype(np.uint8)
    assert sideinfo.lattice_phase(sideinfo.measure(planes)) == phase
    gray = sideinfo.measure(planes[:1])
    assert sideinfo.lattice_phase(gray) == (0, 0)
