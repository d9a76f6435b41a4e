"""Codecs on pixels of all kinds, and comparing what comes back."""

from __future__ import annotations

import numpy as np
import pytest

from ardmzip.benchmark import codecs


@pytest.mark.parametrize("name", ["png", "webp", "jxl-e7"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [0, 2, 3, 4])
def test_pixels_of_all_kinds(name, dtype, channels):
    shape = (11, 13, channels) if channels else (11, 13)
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype)
    if channels in (2, 4):
        pixels[:5, :, -1] = 0  # colours under full transparency count too
    try:
        codec = codecs.make(name)
    except codecs.MissingCodec as error:
        pytest.skip(str(error))
    assert codec.holds(pixels) == (dtype == np.uint8 or name != "webp")
    if codec.holds(pixels):
        assert codecs.same_pixels(codec.decode(codec.encode(pixels)), pixels)


def test_alpha_is_compared():
    rgb = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    opaque = np.dstack([rgb, np.full((4, 5), 255, np.uint8)])
    assert codecs.same_pixels(rgb, opaque)
    opaque[2, 3, 3] = 254
    assert not codecs.same_pixels(rgb, opaque)
    assert not codecs.same_pixels(rgb, rgb.astype(np.uint16))


def test_warming_up_runs_the_network():
    from ardmzip.container import unpack

    codec, calls = codecs.ardmzip_codec(), []

    def encode(pixels: np.ndarray) -> bytes:
        data = codec.encode(pixels)
        calls.append(unpack(data).network_calls)
        return data

    assert codecs.warm_up(codecs.Codec("ardmzip", "ardmzip", "1", encode, codec.decode)) > 0
    assert len(calls) == 2
    assert all(calls)
