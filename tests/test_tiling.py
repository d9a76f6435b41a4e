import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ardmzip import tiling
from ardmzip.tiling import Rectangle, default_tile, grid, tile_size

SIDES = st.integers(1, 400)
UNITS = st.integers(1, 5).map(lambda units: units * tiling.UNIT)


@st.composite
def rectangles(draw, height: int = 60, width: int = 60) -> Rectangle:
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return Rectangle(top, left, draw(st.integers(1, height - top)), draw(st.integers(1, width - left)))


@given(SIDES, SIDES, st.tuples(UNITS, UNITS))
def test_tiles_cover_an_image_once(height, width, tile):
    places = grid(height, width, tile)
    count = np.zeros((height, width), int)
    for place in places:
        count[place.slices] += 1
        assert count[place.slices].shape == (place.height, place.width)
        assert place.top % tiling.UNIT == place.left % tiling.UNIT == 0
    assert (count == 1).all()
    assert len(places) == -(-height // tile[0]) * -(-width // tile[1])
    assert places == sorted(places)


@given(rectangles(), rectangles())
def test_overlap(one, two):
    shared = np.zeros((2, 60, 60), bool)
    shared[0][one.slices] = True
    shared[1][two.slices] = True
    both = shared.all(0)
    overlap = one.overlap(two)
    assert overlap == two.overlap(one)
    if overlap is None:
        assert not both.any()
        return
    assert both[overlap.slices].all()
    assert both.sum() == overlap.height * overlap.width
    assert both[one.slices][overlap.within(one).slices].all()
    assert both[one.slices].sum() == overlap.height * overlap.width


@given(st.integers(1, 100_000), st.integers(1, 100_000), st.integers(1, 5000))
def test_sizes_are_even(height, width, side):
    for length, size in zip((height, width), tile_size(height, width, side), strict=True):
        number = max(1, round(length / side))
        assert size % tiling.UNIT == 0
        assert length / number <= size < length / number + tiling.UNIT
        assert -(-length // size) <= number


@given(st.integers(1, 2**15), st.integers(1, 2**15))
def test_default_tiles_have_enough_to_learn_from(height, width):
    tile = default_tile(height, width)
    assert (tile is None) == (height * width < tiling.WHOLE)
    if tile:
        pixels = min(tile[0], height) * min(tile[1], width)
        assert tiling.SIDE**2 / 2 < pixels < 3 * tiling.SIDE**2


@pytest.mark.parametrize("shape", [(1, 2**24), (2**24, 1), (3, 2**28), (2**15, 2**15)])
def test_default_tiles_of_extreme_images(shape):
    height, width = default_tile(*shape)
    assert tiling.SIDE**2 / 2 < min(height, shape[0]) * min(width, shape[1]) < 3 * tiling.SIDE**2
