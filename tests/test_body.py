"""Bodies: every layout and depth comes back, nothing is larger than raw, and damage is told."""

import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ardmzip
from ardmzip import api, body, stored
from ardmzip.container import NO_MODEL, Container, LowBits, pack, pack_body, unpack, unpack_body
from ardmzip.errors import FormatError
from ardmzip.formats import Picture
from ardmzip.pixelformat import DEPTHS, LAYOUTS, PixelFormat
from ardmzip.reading import read

RNG = np.random.default_rng(0)


def formats() -> list[PixelFormat]:
    found = []
    for layout in LAYOUTS:
        for depth in DEPTHS:
            palette = bytes(range(3 * min(1 << depth, 85))) if layout == "palette" else b""
            try:
                found.append(PixelFormat(layout, depth, palette))
            except ValueError:
                assert (layout in ("gray", "palette")) == (depth == 16)
    return found


FORMATS = formats()


def photo_like(height: int, width: int, described: PixelFormat, noise: float = 4) -> np.ndarray:
    """Smooth with some noise, which the model likes."""
    y, x, c = np.mgrid[:height, :width, : described.channels]
    waves = 0.5 + 0.25 * np.sin(y / 9 + c) + 0.2 * np.cos(x / 13 - c) + RNG.normal(0, noise / 256, y.shape)
    top = len(described.palette) // 3 - 1 if described.palette else (1 << described.depth) - 1
    return (waves * top).clip(0, top).astype(np.uint16 if described.depth == 16 else np.uint8)


def same(one: Picture, two: Picture) -> bool:
    return one.format == two.format and one.samples.dtype == two.samples.dtype and np.array_equal(
        one.samples, two.samples
    )  # fmt: skip


@pytest.mark.parametrize("described", FORMATS, ids=lambda found: found.title)
@pytest.mark.parametrize("model", ["auto", "photo"])
def test_every_format(described, model):
    for size in ((48, 40), (1, 1), (3, 1)):
        picture = Picture(photo_like(*size, described), described)
        data = ardmzip.compress(picture, model=model)
        assert same(api.restore(data), picture)
        c = unpack(data)
        assert c.format == (None if described.is_plain else described)
        assert c.uses_model == (c.model_id != NO_MODEL)
        if size == (48, 40) and described.depth >= 8 and described.layout != "palette":
            assert c.uses_model
            assert (c.alpha is not None) == described.extra
            assert (c.low is not None) == (described.depth == 16)
        # a body alone, as a part of a file would hold it
        again = unpack_body(
            pack_body(c), c.width, c.height, described.colours, described.extra, described.depth, c.model_id, c.phase
        )
        assert pack_body(again) == pack_body(c)


@st.composite
def small_pictures(draw) -> Picture:
    described = draw(st.sampled_from(FORMATS))
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    top = len(described.palette) // 3 if described.palette else 1 << described.depth
    kind = draw(st.sampled_from(["noise", "constant", "few", "smooth"]))
    shape = (height, width, described.channels)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if kind == "noise":
        samples = rng.integers(0, top, shape)
    elif kind == "constant":
        samples = np.full(shape, draw(st.integers(0, top - 1)))
    elif kind == "few":
        samples = rng.choice(rng.integers(0, top, 3), shape)
    else:
        return Picture(photo_like(height, width, described), described)
    return Picture(samples.astype(np.uint16 if described.depth == 16 else np.uint8), described)


@settings(max_examples=60)
@given(small_pictures(), st.sampled_from(["auto", "photo"]))
def test_never_much_larger_than_raw(picture, model):
    data = ardmzip.compress(picture, model=model, verify=False)
    most = picture.format.raw_bytes(picture.width, picture.height) + 64 + len(picture.format.palette)
    assert len(data) <= most
    assert same(api.restore(data), picture)


@pytest.mark.parametrize("described", FORMATS, ids=lambda found: found.title)
def test_noise_is_not_much_larger_than_raw(described):
    top = len(described.palette) // 3 if described.palette else 1 << described.depth
    samples = RNG.integers(0, top, (150, 140, described.channels)).astype(
        np.uint16 if described.depth == 16 else np.uint8
    )
    for model in ("auto", "photo"):
        data = ardmzip.compress(Picture(samples, described), model=model, verify=False)
        assert len(data) <= described.raw_bytes(140, 150) + 64 + len(described.palette)
        np.testing.assert_array_equal(api.restore(data).samples, samples)


def test_graphics_need_no_network(monkeypatch):
    samples = np.zeros((200, 200, 3), np.uint8)
    samples[50:100, 30:180] = (200, 30, 20)
    samples[::17] = 255

    def never(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("ardmzip.codec.encode", never)
    for array in (samples, np.dstack([samples, samples[:, :, :1]])):
        c = unpack(ardmzip.compress(array))
        assert not c.uses_model
        assert c.model_id == NO_MODEL


def test_photographs_need_no_slow_coder(monkeypatch):
    described = PixelFormat("RGB")
    monkeypatch.setattr(stored, "smallest", lambda *args: pytest.fail("a hopeless coder was tried"))
    picture = Picture(photo_like(96, 96, described), described)
    assert unpack(ardmzip.compress(picture)).stored is None


@pytest.mark.parametrize(
    ("samples", "count", "shift", "relative"),
    [
        (RNG.integers(0, 256, (40, 40, 1)) * 257, 8, 0, True),
        (RNG.integers(0, 4096, (40, 40, 1)) << 4, 4, 4, False),
        (RNG.integers(0, 1024, (40, 40, 3)), 2, 0, False),
        (RNG.integers(0, 256, (40, 40, 3)) << 8, 0, 8, False),
        (RNG.integers(0, 100, (40, 40, 1)), 0, 0, False),
        (RNG.integers(0, 65536, (40, 40, 1)), 8, 0, False),
        (np.full((40, 40, 1), 0x8000), 0, 8, False),
        (np.zeros((40, 40, 1)), 0, 0, False),
    ],
)
def test_bits_that_are_used(samples, count, shift, relative):
    samples = samples.astype(np.uint16)
    assert body._significant_bits(samples) == (count, shift)
    data = ardmzip.compress(samples, model="photo")
    np.testing.assert_array_equal(ardmzip.decompress_array(data).reshape(samples.shape), samples)
    low = unpack(data).low
    assert low is None or (low.count, low.shift, low.relative) == (count, shift, relative)


def test_gains_are_those_of_what_is_in_the_file():
    gains: list = []
    described = PixelFormat("RGB+alpha")
    samples = photo_like(64, 64, described)
    samples[:, :, 3] = 255
    c = unpack(ardmzip.compress(Picture(samples, described), gains=gains))
    assert c.stored is None
    assert c.alpha.stored is not None
    alone: list = []
    ardmzip.compress(np.ascontiguousarray(samples[:, :, :3]), gains=alone)
    assert [(gain.level, gain.pixels) for gain in gains] == [(gain.level, gain.pixels) for gain in alone]


def with_checksum(data: bytes) -> bytes:
    return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")


@pytest.mark.parametrize("layout", ["RGB+alpha", "gray+alpha"])
def test_damage_is_told_even_where_the_checksum_is_right(layout):
    described = PixelFormat(layout, 16)
    picture = Picture(photo_like(24, 20, described), described)
    data = ardmzip.compress(picture, model="photo")
    c = unpack(data)
    assert c.low is not None
    assert c.alpha is not None
    start = len(data) - len(pack_body(c)) - 8
    for position in [*range(start, start + 40), *range(start + 40, len(data) - 4, 97)]:
        broken = bytearray(data)
        broken[position] ^= 1 << position % 8
        with suppress(FormatError):  # but for a bit that says nothing, as there are in WebP
            assert same(api.restore(with_checksum(bytes(broken))), picture)
    for length in range(start, len(data) - 4, 41):
        with pytest.raises(FormatError):
            api.restore(with_checksum(data[:length] + bytes(4)))


def stored_body(samples: np.ndarray, depth: int) -> Container:
    return body.Encoder()._stored(samples, stored.raw(samples, depth))


def test_samples_of_too_many_bits_are_refused(photo, cpu):
    from ardmzip import codec

    samples = photo_like(12, 12, PixelFormat("gray"))
    coded = codec.encode(samples.transpose(2, 0, 1), photo, cpu)
    palette = PixelFormat("palette", 4, bytes(30))
    with pytest.raises(FormatError, match="more than 4 bits"):
        api.restore(pack(replace(coded, format=palette)))


def test_low_bits_by_hand():
    high, low = RNG.integers(0, 256, (2, 5, 4, 1), np.uint8)
    low &= 7
    c = replace(
        stored_body(high, 8),
        low=LowBits(3, 5, False, stored_body(low, 3)),
        format=PixelFormat("gray", 16),
        pixel_crc=zlib.crc32((((high.astype("<u2") << 3) | low) << 5).astype("<u2").tobytes()),
    )
    expected = (high.astype(np.uint16) * 8 + low) * 32
    np.testing.assert_array_equal(ardmzip.decompress_array(pack(c)), expected[:, :, 0])


ODD = sorted((Path(__file__).parent / "odd").glob("*.ardm"))


@pytest.mark.parametrize("path", ODD, ids=lambda path: path.stem)
def test_files_that_must_decode_for_ever(path):
    original, restored = read(path.with_suffix(".png").read_bytes()), api.restore(path.read_bytes())
    assert same(restored, original)
    assert sorted(restored.metadata) == sorted(original.metadata)
    assert unpack(path.read_bytes()).uses_model == path.stem.startswith("model")


def test_there_are_such_files_of_every_chunk():
    found = [part for path in ODD for part in unpack(path.read_bytes()).parts]
    assert {part.stored[0] & 15 for part in found if part.stored is not None} == set(range(4))
    assert any(part.low and part.low.relative for part in found)
    assert any(part.low and part.low.count == 4 and part.stored is None for part in found)
    assert any(part.alpha and part.stored is None for part in found)
    assert any(part.metadata for part in found)
