from dataclasses import replace

import numpy as np
import pytest
from test_body import photo_like
from test_raster import coded

from ardmzip import codec, heatmap, stored, tiling
from ardmzip.container import Container, unpack
from ardmzip.errors import FormatError, OptionError
from ardmzip.image import to_planes
from ardmzip.order import LatticeOrder
from ardmzip.pixelformat import PixelFormat


def payload_bits(c: Container) -> int:
    """Bits of streams and stored samples."""
    return 8 * sum(sum(words.nbytes for words in part.segments) + len(part.stored or b"") for part in c.parts)


@pytest.mark.parametrize(("shape", "steps", "learn"), [((3, 40, 52), None, True), ((1, 33, 21), 5, False)])
def test_map_adds_up_to_the_file(photo, cpu, shape, steps, learn):
    rng = np.random.default_rng(4)
    planes = rng.integers(100, 140, shape).astype(np.uint8)
    planes[:, :, : shape[2] // 2] = 90  # nothing to code on the left
    container = codec.encode(planes, photo, cpu, steps, learn=learn)
    found = heatmap.code_lengths(container, planes, photo, cpu)
    coded = 8 * sum(words.nbytes for words in container.segments)
    assert found.bits.shape == shape[1:]
    assert found.bits.sum() == pytest.approx(found.level_bits.sum())
    assert coded - 72 <= found.bits.sum() <= coded + 8
    quarter = shape[2] // 4
    assert found.bits[:, :quarter].sum() < 0.5 * found.bits[:, -quarter:].sum()


def test_a_single_pixel(photo, cpu):
    planes = np.full((3, 1, 1), 7, np.uint8)
    found = heatmap.code_lengths(codec.encode(planes, photo, cpu), planes, photo, cpu)
    assert found.bits.tolist() == [[24.0]]
    assert found.level_bits.tolist() == [24.0]


def test_every_pixel_of_an_atom_is_drawn():
    planes = np.zeros((1, 11, 6), np.uint8)
    order = LatticeOrder(11, 6, 1, (1, 0))
    coder = heatmap.MappingCoder(planes, order)
    for atom in order.atoms:
        size = int(np.prod(order.lattice_shape(atom.level, atom.kind)))
        if size:
            before = coder.bits.sum()
            coder._spread(atom, np.arange(1.0, size + 1))
            assert coder.bits.sum() - before == pytest.approx(size * (size + 1) / 2)


def deep_with_alpha() -> np.ndarray:
    """16-bit RGB and alpha: the model codes the low bytes of the colours less the high ones, and the low bits of the
    alpha are noise."""
    high, low = (photo_like(60, 70, PixelFormat("RGB+alpha"), noise).astype(np.uint16) for noise in (12, 4))
    high[:, :, 3] = low[:, :, 3]
    low += high
    low[:, :, 3] = np.random.default_rng(5).integers(0, 16, (60, 70))
    return high << np.uint16(8) | low & np.uint16(255)


@pytest.mark.parametrize("learn", [True, False])
def test_map_of_tiles(photo, cpu, learn):
    samples = photo_like(100, 150, PixelFormat("RGB"))
    samples[:64, :64] = 9  # a tile that is stored
    c = unpack(coded(samples, PixelFormat("RGB"), photo, (64, 64), (1, 0), learn))
    tiles = list(c.tiles)
    tiles[0] = replace(
        tiles[0], stored=stored.quick(np.ascontiguousarray(samples[:64, :64]), 8), learning=False, side_info=b"",
        segments=(), level_crcs=(), calls=None, batch_ends=None,
    )  # fmt: skip
    c = replace(c, tiles=tuple(tiles))
    seen: list[float] = []
    found = heatmap.bits(c, lambda: (photo, cpu), seen.append)
    assert seen == sorted(seen)
    assert 0 <= seen[0] <= 0.5 <= seen[-1] == 1.0
    assert found.shape == (100, 150)
    for place, tile in zip(tiling.grid(100, 150, (64, 64)), c.tiles, strict=True):
        own = found[place.slices]
        if tile.stored is None:
            planes = to_planes(np.ascontiguousarray(samples[place.slices]))
            np.testing.assert_array_equal(own, heatmap.code_lengths(tile, planes, photo, cpu).bits)
        else:
            assert own.tolist() == np.full(own.shape, 8 * len(tile.stored) / own.size).tolist()
    assert sum(tile.stored is not None for tile in c.tiles) == 1


def test_map_of_all_parts(photo, cpu):
    samples, described = deep_with_alpha(), PixelFormat("RGB+alpha", 16)
    c = unpack(coded(samples, described, photo, None, (0, 1), learn=True))
    assert c.alpha.low.body is not None
    assert (c.low.relative, c.low.body.stored, c.alpha.stored) == (True, None, None)
    found = heatmap.bits(c, lambda: (photo, cpu))
    parts = [part for part in c.parts if part.stored is None]
    assert len(parts) >= 3
    # a map of the wrong samples would be far larger
    streams = sum(len(part.segments) for part in parts)
    assert -72 * streams <= found.sum() - payload_bits(c) <= 8 * streams


def test_files_without_a_map(photo, cpu):
    samples = photo_like(40, 30, PixelFormat("RGB"))

    def never():
        raise AssertionError("no model is needed")

    whole = unpack(coded(samples, PixelFormat("RGB"), photo))
    with pytest.raises(OptionError, match="stored by a general coder and has no map"):
        heatmap.bits(replace(whole, stored=stored.raw(samples, 8), segments=(), side_info=b""), never)
    with pytest.raises(FormatError, match="do not match"):
        heatmap.bits(replace(whole, pixel_crc=whole.pixel_crc ^ 1), lambda: (photo, cpu))
