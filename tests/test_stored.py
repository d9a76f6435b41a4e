"""General coders: exact, bounded, and FormatError for whatever else they are given."""

import itertools
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ardmzip import stored
from ardmzip.errors import FormatError

RNG = np.random.default_rng(0)


def picture(height: int, width: int, channels: int, depth: int, smooth: bool = True) -> np.ndarray:
    y, x, c = np.mgrid[:height, :width, :channels]
    values = (3 * x + 5 * y + 7 * c) if smooth else RNG.integers(0, 1 << depth, (height, width, channels))
    return (values % (1 << depth)).astype(np.uint16 if depth == 16 else np.uint8)


@st.composite
def samples(draw) -> tuple[np.ndarray, int]:
    depth = draw(st.sampled_from([1, 2, 3, 4, 5, 7, 8, 16]))
    shape = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 4))
    size = int(np.prod(shape))
    values = draw(st.lists(st.integers(0, (1 << depth) - 1), min_size=size, max_size=size))
    return np.array(values, np.uint16 if depth == 16 else np.uint8).reshape(shape), depth


@given(samples())
def test_round_trip(case):
    array, depth = case
    most = (array.size * depth + 7) // 8 + 1
    for payload in (stored.raw(array, depth), stored.quick(array, depth), stored.smallest(array, depth)):
        assert len(payload) <= most
        found = stored.decode(payload, *array.shape, depth)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("depth", [1, 3, 4, 8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_coder_and_filter(depth, channels):
    for smooth, (coder, kind) in itertools.product(
        (True, False), [(stored.RAW, 0), (stored.WEBP, 0), *itertools.product((stored.DEFLATE, stored.LZMA2), range(4))]
    ):
        array = picture(13, 21, channels, depth, smooth)
        if coder == stored.WEBP:
            if depth > 8:
                continue
            payload = bytes([coder]) + stored._encode_webp(array, 75, 4)
        else:
            data = stored._packed(stored._differences(array, depth, kind), depth)
            payload = bytes([coder | kind << 4]) + stored.press(coder, data, alignment=channels)
        np.testing.assert_array_equal(stored.decode(payload, 13, 21, channels, depth), array)
        assert stored.describe(payload).startswith(("raw", "Deflate", "LZMA2", "WebP"))


def test_large_samples():
    for array, depth in ((picture(200, 150, 3, 8), 8), (picture(200, 150, 1, 16), 16), (picture(2, 20000, 1, 8), 8)):
        payload = stored.smallest(array, depth)
        assert len(payload) < array.nbytes // 4
        np.testing.assert_array_equal(stored.decode(payload, *array.shape, depth), array)
    assert stored.quick(picture(1, 16384, 3, 8), 8)[0] & 15 != stored.WEBP  # WebP ends at 16383


def test_hidden_colours_survive_webp():
    array = RNG.integers(0, 256, (40, 40, 4), np.uint8)
    array[:, :, 3] = 0
    payload = bytes([stored.WEBP]) + stored._encode_webp(array, 100, 6)
    np.testing.assert_array_equal(stored.decode(payload, 40, 40, 4, 8), array)


def payloads() -> dict[str, tuple[bytes, np.ndarray, int]]:
    array = picture(13, 21, 3, 8)
    data = stored._packed(array, 8)
    return {
        "raw": (stored.raw(array, 8), array, 8),
        "deflate": (bytes([stored.DEFLATE]) + stored.press(stored.DEFLATE, data), array, 8),
        "lzma": (bytes([stored.LZMA2]) + stored.press(stored.LZMA2, data), array, 8),
        "webp": (bytes([stored.WEBP]) + stored._encode_webp(array, 75, 4), array, 8),
    }


@pytest.mark.parametrize("name", ["raw", "deflate", "lzma", "webp"])
def test_damage(name):
    """Each damaged payload is refused, or it decodes to samples of the right shape, which a checksum compares."""
    payload, array, depth = payloads()[name]
    for position in range(len(payload)):
        for bit in (0, 3, 7):
            broken = bytearray(payload)
            broken[position] ^= 1 << bit
            with suppress(FormatError):
                assert stored.decode(bytes(broken), *array.shape, depth).shape == array.shape
    for length in range(0, len(payload), 7):
        try:  # WebP may lack what comes after the last pixel
            np.testing.assert_array_equal(stored.decode(payload[:length], *array.shape, depth), array)
            assert name == "webp"
        except FormatError:
            pass
    if name != "webp":
        with pytest.raises(FormatError):
            stored.decode(payload + b"\0", *array.shape, depth)
    for height, width, channels in ((12, 21, 3), (13, 22, 3), (26, 21, 3)):
        with pytest.raises(FormatError):
            stored.decode(payload, height, width, channels, depth)


@pytest.mark.parametrize(
    ("payload", "depth", "message"),
    [
        (b"", 8, "empty"),
        (b"\x04abcd", 8, "newer"),
        (b"\x40abcd", 8, "newer"),
        (b"\x10abcd", 8, "newer"),
        (b"\x13abcd", 8, "newer"),
        (b"\x03abcdefgh", 8, "WebP"),
        (b"\x03abcdefgh", 16, "16 bits"),
        (b"\x00\xff", 1, "not zero"),
        (b"\x01\x03\x00\xff", 8, "others"),
    ],
)
def test_malformed_payloads(payload, depth, message):
    with pytest.raises(FormatError, match=message):
        stored.decode(payload, 2, 2, 1, depth)


def test_deflate_bombs_are_not_inflated():
    bomb = bytes([stored.DEFLATE]) + stored.press(stored.DEFLATE, bytes(50_000_000))
    with pytest.raises(FormatError):
        stored.decode(bomb, 2, 2, 1, 8)


def test_too_large_sample_in_webp():
    payload = bytes([stored.WEBP]) + stored._encode_webp(np.full((2, 2, 1), 16, np.uint8), 75, 4)
    with pytest.raises(FormatError, match="more than 4 bits"):
        stored.decode(payload, 2, 2, 1, 4)


def test_without_webp(monkeypatch):
    monkeypatch.setattr(stored, "_has_webp", lambda: False)
    assert stored.quick(picture(13, 21, 3, 8), 8)[0] & 15 != stored.WEBP


def test_the_pixel_limit_of_pillow_is_not_ours(monkeypatch):
    array = picture(13, 21, 3, 8)
    payload = bytes([stored.WEBP]) + stored._encode_webp(array, 75, 4)
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 10)
    np.testing.assert_array_equal(stored.decode(payload, *array.shape, 8), array)


def plainly_decoded(payload: bytes, height: int, width: int, channels: int, depth: int) -> np.ndarray:
    """Written from docs/FORMAT.md, sample by sample."""
    import lzma
    import zlib

    coder, kind, data = payload[0] % 16, payload[0] // 16, payload[1:]
    count = height * width * channels
    if coder == 1:
        data = zlib.decompress(data, -15)
    elif coder == 2:
        k = min(next(k for k in range(12, 60) if 1 << k >= -(-count * depth // 8)), 26)
        data = lzma.decompress(data, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << k}])
    if depth == 16:
        values = [data[i] + 256 * data[count + i] for i in range(count)]
    else:
        bits = "".join(f"{byte:08b}" for byte in data)
        values = [int(bits[i * depth : (i + 1) * depth], 2) for i in range(count)]
    out = {}
    for i, value in enumerate(values):
        y, x, c = i // channels // width, i // channels % width, i % channels
        left, up, corner = (out.get(place, 0) for place in ((y, x - 1, c), (y - 1, x, c), (y - 1, x - 1, c)))
        out[y, x, c] = (value + (0, left, up, left + up - corner)[kind]) % (1 << depth)
    return np.array([*out.values()]).reshape(height, width, channels)


@pytest.mark.parametrize("depth", [1, 3, 8, 16])
def test_a_decoder_from_the_specification(depth):
    array = picture(11, 9, 3, depth)
    array[4:6] = RNG.integers(0, 1 << depth, array[4:6].shape)
    for coder, kind in [(0, 0), *itertools.product((1, 2), range(4))]:
        packed = stored._packed(stored._differences(array, depth, kind), depth)
        payload = bytes([coder | kind << 4]) + stored.press(coder, packed)
        np.testing.assert_array_equal(plainly_decoded(payload, *array.shape, depth), array)
        np.testing.assert_array_equal(stored.decode(payload, *array.shape, depth), array)
