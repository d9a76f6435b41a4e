"""Samples to planes in coding order and back."""

import numpy as np
import pytest
from PIL import Image

from ardmzip.errors import ImageError
from ardmzip.image import interleaved, to_planes

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GRAY = RGB[:, :, 0].copy()


def test_planes():
    planes = to_planes(RGB)
    assert planes.flags.c_contiguous
    np.testing.assert_array_equal(planes, RGB.transpose(2, 0, 1)[[1, 0, 2]])  # G, R, B
    np.testing.assert_array_equal(interleaved(planes), RGB)
    np.testing.assert_array_equal(to_planes(Image.fromarray(RGB)), planes)
    with pytest.raises(ImageError, match="not of mode RGBA"):
        to_planes(Image.new("RGBA", (3, 2)))
    for gray in (GRAY, GRAY[:, :, None], Image.fromarray(GRAY), np.asfortranarray(GRAY)):
        np.testing.assert_array_equal(to_planes(gray), GRAY[None])
    np.testing.assert_array_equal(interleaved(GRAY[None]), GRAY)
    np.testing.assert_array_equal(to_planes(RGB[::-1, ::2]), planes[:, ::-1, ::2])
    assert to_planes(RGB[:1, :1]).shape == (3, 1, 1)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (RGB.astype(np.uint16), "8-bit images"),
        (RGB.astype(float), "8-bit images"),
        (GRAY > 3, "8-bit images"),
        (RGB[:, :, :2], "RGB and gray"),
        (np.dstack([RGB, GRAY]), "RGB and gray"),
        (RGB[None], "RGB and gray"),
        (RGB[0, 0], "RGB and gray"),
        (np.uint8(3), "RGB and gray"),
        (RGB[:0], "no pixels"),
        (GRAY[:, :0], "no pixels"),
    ],
)
def test_refused_arrays(array, message):
    with pytest.raises(ImageError, match=message) as caught:
        to_planes(array)
    assert "\n" not in str(caught.value)
