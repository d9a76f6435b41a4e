"""Files as a whole, in tiles, by level and by region: always the pixels that the image has there."""

import mmap
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_body import FORMATS, photo_like

import ardmzip
from ardmzip import api, network, order, raster, stored, tiling
from ardmzip.body import Encoder
from ardmzip.container import Container, pack, unpack
from ardmzip.errors import FormatError, OptionError
from ardmzip.formats import Picture
from ardmzip.pixelformat import PixelFormat
from ardmzip.tiling import Rectangle

RGB, RGBA = PixelFormat("RGB"), PixelFormat("RGB+alpha")
PHASES = [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.fixture(params=[1, 2])
def threads(request) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param, "the caller's setting was not restored"
    torch.set_num_threads(before)


def never():
    raise AssertionError("no model is needed")


def noise(height: int, width: int, described: PixelFormat) -> np.ndarray:
    """What no coder makes smaller."""
    top = len(described.palette) // 3 or 1 << described.depth
    samples = np.random.default_rng(7).integers(0, top, (height, width, described.channels))
    return samples.astype(np.uint16 if described.depth == 16 else np.uint8)


def coded(samples, described, photo, tile=None, phase=(0, 0), learn=False, **options) -> bytes:
    """A file of samples in a given phase, coded by the model where that is possible and smaller than raw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raster, "_phase", lambda *args: phase)
        forced = described.depth >= 8 and described.layout != "palette"
        c = raster.encode(samples, described, Encoder(photo, learn=learn, **options), tile, forced=forced)
    return pack(replace(c, format=None if described.is_plain else described))


def check_levels(file: bytes, samples: np.ndarray, levels: Iterator[int] | range) -> None:
    py, px = unpack(file).phase
    for level in levels:
        wanted = samples if level == 0 else samples[py :: 1 << level, px :: 1 << level]
        found = api.restore(file, level=level).samples
        assert found.dtype == samples.dtype
        np.testing.assert_array_equal(found, wanted)


def replaced(c: Container, index: int, **changes) -> Container:
    """With another tile of that number."""
    tiles = list(c.tiles)
    tiles[index] = replace(tiles[index], **changes)
    return replace(c, tiles=tuple(tiles))


@st.composite
def cases(draw) -> tuple[np.ndarray, PixelFormat, tuple[int, int] | None, tuple[int, int]]:
    """Samples, their format, tiles and phase."""
    described = draw(st.sampled_from(FORMATS))
    sides = st.integers(1, 30) | st.sampled_from([64, 65, 66, 127, 128, 129])
    height, width = draw(sides), draw(st.integers(1, 20) | st.sampled_from([64, 65, 66]))
    if draw(st.booleans()):
        height, width = width, height
    tile = draw(st.none() | st.sampled_from([(64, 64), (64, 128), (128, 64)]))
    least = [min(side % 64 or 2, 2) if tile else min(side, 2) for side in (height, width)]
    phase = draw(st.tuples(*(st.integers(0, side - 1) for side in least)))
    if tile and 1 in least:
        phase = (0, 0)
    make = draw(st.sampled_from([photo_like, noise]))
    return make(height, width, described), described, tile, phase


@settings(max_examples=60)
@given(cases(), st.sampled_from([30, order.CUT]), st.data())
def test_whole_levels_and_regions(check_codec, photo, case, cut, data):
    samples, described, tile, phase = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "CUT", cut)
        file = check_codec(
            lambda samples: coded(samples, described, photo, tile, phase),
            lambda file: api.restore(file).samples,
            samples,
        )
        c = unpack(file)
        assert c.phase == phase
        assert (c.tile is not None) == (tile is not None and (samples.shape[0] > tile[0] or samples.shape[1] > tile[1]))
        check_levels(file, samples, range(9))
        height, width = samples.shape[:2]
        for _ in range(3):
            top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
            place = Rectangle(
                top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
            )
            region = left, top, place.width, place.height
            np.testing.assert_array_equal(api.restore(file, region=region).samples, samples[place.slices])


@pytest.mark.parametrize("shape", [(1, 200), (200, 1), (65, 2), (129, 66), (2, 130)])
@pytest.mark.parametrize("tile", [None, (64, 64)])
@pytest.mark.parametrize("phase", PHASES)
def test_narrow_images(photo, monkeypatch, shape, tile, phase):
    monkeypatch.setattr(order, "CUT", 10)
    if min(shape) == 1 or (tile and any(side % 64 == 1 for side in shape)):
        phase = tuple(0 if side == 1 or tile else offset for side, offset in zip(shape, phase, strict=True))
    samples = photo_like(*shape, PixelFormat("gray"))
    file = coded(samples, PixelFormat("gray"), photo, tile, phase)
    assert unpack(file).uses_model
    check_levels(file, samples, range(12))
    check_levels(file, samples, iter([40, 10**9]))


def test_the_phase_of_tiles_with_a_single_row(photo, monkeypatch):
    """It must be that of all tiles, and one with a single row has none."""
    monkeypatch.setattr(raster, "_phase", lambda *args: (1, 1))
    for height, phase in ((65, (0, 0)), (66, (1, 1))):
        c = raster.encode(photo_like(height, 70, RGB), RGB, Encoder(photo, learn=False), (64, 64), forced=True)
        assert {c.phase, *(part.phase for part in c.parts)} == {phase}


@pytest.mark.parametrize("described", FORMATS, ids=lambda found: found.title)
def test_noise_in_tiles_is_not_much_larger_than_raw(described):
    samples = noise(130, 65, described)
    for model in ("auto", "photo"):
        gains: list = []
        data = ardmzip.compress(Picture(samples, described), model=model, tile=64, gains=gains)
        assert len(data) <= described.raw_bytes(65, 130) + 64 + len(described.palette)
        assert bool(gains) <= unpack(data).uses_model
        np.testing.assert_array_equal(api.restore(data).samples, samples)


def test_large_noise_is_not_much_larger_than_raw(monkeypatch):
    """Checksums of levels could make it so, if there are many."""
    monkeypatch.setattr(order, "CUT", 1)
    samples = noise(100, 90, PixelFormat("RGB+alpha", 16))
    samples[:, :, 3] = 0
    data = ardmzip.compress(samples, model="photo", tile=None)
    assert len(data) <= samples.nbytes + 64
    np.testing.assert_array_equal(ardmzip.decompress_array(data), samples)


def mixed(first: str) -> np.ndarray:
    """RGB and alpha, of which the model codes the first or the second, as the others are noise."""
    with Image.open(Path(ardmzip.__file__).parent.parent / "demo" / "sample.png") as image:
        photo = np.asarray(image.convert("RGB"))[100:200, 140:250]
    smooth, rough = photo[:, :, [0, 1, 2, 1]], noise(100, 110, RGBA)
    return np.where(np.arange(4) < 3, *((smooth, rough) if first == "colours" else (rough, smooth)))


@pytest.mark.parametrize("tile", [None, (64, 64)])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("by_model", ["colours", "alpha"])
def test_parts_that_are_stored_beside_others(photo, monkeypatch, tile, phase, by_model):
    monkeypatch.setattr(order, "CUT", 50)
    samples = mixed(by_model)
    file = coded(samples, RGBA, photo, tile, phase)
    for part in unpack(file).tiles or [unpack(file)]:
        assert (part.stored is None) == (by_model == "colours")
        assert (part.alpha.stored is None) == (by_model == "alpha")
        assert part.level_crcs
    check_levels(file, samples, range(9))


@pytest.mark.parametrize("described", [PixelFormat("RGB+alpha", 16), PixelFormat("gray", 16)], ids=lambda f: f.title)
@pytest.mark.parametrize("phase", [(0, 1), (1, 0)])
def test_levels_of_deep_images(photo, monkeypatch, described, phase):
    monkeypatch.setattr(order, "CUT", 50)
    for noisy in (0, 0x0FF0):
        samples = photo_like(40, 50, described) & np.uint16(0xFFFF ^ noisy)
        for tile in (None, (64, 64)):
            file = coded(np.tile(samples, (2, 2, 1)), described, photo, tile, phase)
            assert all(part.low for part in unpack(file).tiles or [unpack(file)])
            check_levels(file, np.tile(samples, (2, 2, 1)), range(8))


@pytest.fixture(scope="module")
def tiled(photo) -> tuple[np.ndarray, bytes]:
    """An image whose heads learn, in six tiles with levels of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "CUT", 500)
        samples = photo_like(100, 170, RGB)
        file = coded(samples, RGB, photo, (64, 64), (0, 1), learn=True)
        assert all(part.learning and part.level_crcs for part in unpack(file).tiles)
    return samples, file


def test_the_same_bytes_on_one_thread_and_two(tiled, photo, threads, monkeypatch):
    samples, file = tiled
    monkeypatch.setattr(order, "CUT", 500)
    assert coded(samples, RGB, photo, (64, 64), (0, 1), learn=True) == file
    for at_once in (1, 2):
        monkeypatch.setattr(raster, "MAX_AT_ONCE", at_once)
        assert coded(samples, RGB, photo, (64, 64), (0, 1), learn=True) == file
        np.testing.assert_array_equal(api.restore(file).samples, samples)
        check_levels(file, samples, iter([2]))


@pytest.mark.parametrize("product", network.PRODUCTS)
def test_the_same_bytes_by_all_back_ends(tiled, photo, product, monkeypatch):
    samples, file = tiled
    monkeypatch.setattr(order, "CUT", 500)
    options = {"device": "cpu", "backend": product}
    assert coded(samples, RGB, photo, (64, 64), (0, 1), learn=True, **options) == file
    np.testing.assert_array_equal(ardmzip.decompress_array(file, **options), samples)


def test_only_the_tiles_of_a_region_are_decoded(tiled, monkeypatch):
    samples, file = tiled
    monkeypatch.setattr(order, "CUT", 500)
    c = unpack(file)
    junk = np.array([1, 2, 3], np.uint32)
    for index in (0, 1, 2, 3, 5):
        c = replaced(c, index, segments=len(c.tiles[index].segments) * (junk,))
    data = pack(c)
    for x, y, width, height in [(64, 64, 64, 36), (64, 64, 1, 1), (127, 99, 1, 1), (80, 70, 20, 10)]:
        found = ardmzip.decompress_array(data, region=(x, y, width, height))
        np.testing.assert_array_equal(found, samples[y : y + height, x : x + width])
    for region in [(63, 64, 2, 36), (64, 63, 1, 2), (127, 99, 2, 1), (0, 0, 170, 100)]:
        with pytest.raises(FormatError):
            ardmzip.decompress_array(data, region=region)
    for options in ({}, {"level": 1}):
        with pytest.raises(FormatError):
            ardmzip.decompress_array(data, **options)


@pytest.mark.parametrize("tile", [None, (64, 64)])
def test_only_the_streams_of_a_level_are_decoded(photo, monkeypatch, tile):
    monkeypatch.setattr(order, "CUT", 500)
    samples = photo_like(100, 120, RGBA)
    c = unpack(coded(samples, RGBA, photo, tile, (1, 0), learn=True))
    junk = np.array([1, 2, 3], np.uint32)

    def spoilt(part: Container, streams: int) -> Container:
        alpha = None if part.alpha is None else spoilt(part.alpha, streams)
        return replace(part, segments=(*part.segments[:streams], *len(part.segments[streams:]) * (junk,)), alpha=alpha)

    for cut in {level for part in c.tiles or [c] for level in part.order.cuts}:
        parts = [spoilt(part, 1 + sum(level > cut for level in part.order.cuts)) for part in c.tiles or [c]]
        data = pack(replace(c, tiles=tuple(parts)) if tile else replace(parts[0], format=c.format))
        check_levels(data, samples, range(cut + 1, 9))
        with pytest.raises(FormatError):
            api.restore(data)
        if all(cut in part.order.cuts for part in c.tiles or [c]):
            with pytest.raises(FormatError):
                api.restore(data, level=cut)


def test_wrong_checksums_are_told(tiled, monkeypatch):
    samples, file = tiled
    monkeypatch.setattr(order, "CUT", 500)
    c = unpack(file)
    first = c.tiles[0]
    assert first.order.cuts == (1, 0)
    for index in (0, 1):
        crcs = list(first.level_crcs)
        crcs[index] ^= 1
        data = pack(replaced(c, 0, level_crcs=tuple(crcs)))
        np.testing.assert_array_equal(api.restore(data).samples, samples)  # needs no levels
        wrong = first.order.cuts[index] + 1
        check_levels(data, samples, iter([3 - wrong]))
        with pytest.raises(FormatError, match="do not match the file's checksum"):
            api.restore(data, level=wrong)
    data = pack(replaced(c, 0, pixel_crc=first.pixel_crc ^ 1))
    for options in ({}, {"region": (0, 0, 1, 1)}):
        with pytest.raises(FormatError, match="do not match the file's checksum"):
            api.restore(data, **options)
    np.testing.assert_array_equal(api.restore(data, region=(64, 0, 5, 5)).samples, samples[:5, 64:69])
    check_levels(data, samples, range(1, 3))
    data = pack(replace(c, pixel_crc=c.pixel_crc ^ 1))
    with pytest.raises(FormatError, match="do not match the file's checksum"):
        api.restore(data)
    check_levels(data, samples, range(1, 3))
    other = tuple(replace(part, pixel_crc=1) for part in c.tiles)
    with pytest.raises(FormatError, match="do not match the file's checksum"):
        api.restore(pack(replace(c, tiles=other)))


def test_levels_of_a_file_without_their_checksums(tiled, photo, monkeypatch):
    """They are those of the whole image, which is checked."""
    samples, _ = tiled
    monkeypatch.setattr(order, "CUT", 500)
    c = unpack(coded(samples, RGB, photo, None, (1, 1)))
    assert len(c.level_crcs) >= 2
    check_levels(pack(replace(c, level_crcs=())), samples, range(5))
    with pytest.raises(FormatError, match="do not match the file's checksum"):
        api.restore(pack(replace(c, level_crcs=(), pixel_crc=c.pixel_crc ^ 1)), level=3)


def test_what_is_not_needed_of_a_mapped_file_is_not_read(tiled, monkeypatch, tmp_path):
    samples, file = tiled
    monkeypatch.setattr(order, "CUT", 500)
    path = tmp_path / "mapped.ardm"
    path.write_bytes(file[:-200] + bytes(192) + file[-8:])  # the last tile is lost
    with open(path, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        found = ardmzip.decompress_array(view, region=(10, 20, 30, 40))
        with pytest.raises(FormatError, match="file checksum"):
            ardmzip.decompress_array(view)
        view.release()
    np.testing.assert_array_equal(found, samples[20:60, 10:40])


@pytest.mark.parametrize("described", [RGBA, PixelFormat("gray", 16), PixelFormat("gray", 1)], ids=lambda f: f.title)
@pytest.mark.parametrize("tile", [None, 64])
def test_progress(described, tile, threads):
    picture = Picture(photo_like(100, 130, described), described)
    fractions: list[float] = []
    data = ardmzip.compress(picture, tile=tile, progress=fractions.append)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert 0.5 in fractions
    for options in ({}, {"level": 1}, {"level": 9}, {"region": (60, 60, 10, 10)}):
        fractions.clear()
        api.restore(data, progress=fractions.append, **options)
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1.0


def test_who_interrupts_need_not_wait(tiled, photo, threads, monkeypatch):
    """An error in the caller's progress, or in a tile, ends the others too."""
    monkeypatch.setattr(order, "CUT", 500)
    samples, file = tiled

    def interrupt(share: float) -> None:
        if share > 0.1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.restore(file, progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        ardmzip.compress(Picture(samples, RGB), tile=64, progress=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ardmzip")]

    begun: list[int] = []

    def work(index: int, report) -> None:
        begun.append(index)
        if index == 1:
            raise ValueError("damaged")
        while True:
            report(0.5)

    with pytest.raises(ValueError, match="damaged"):
        raster._each(work, [5, 5, 5, 5], 2, None)
    assert sorted(begun)[:2] == [0, 1]
    assert 3 not in begun


def test_threads_are_shared_out(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 20)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    for tiles, expected in ((1, (1, 20)), (3, (3, 7)), (8, (8, 3)), (100, (8, 3))):
        with raster._threads(True, tiles) as found:
            assert found == expected
    with raster._threads(False, 100) as found:
        assert found == (1, 1)


def test_gains_of_tiles():
    gains: list = []
    samples = photo_like(100, 130, RGB)
    data = ardmzip.compress(samples, model="photo", tile=64, gains=gains)
    parts = unpack(data).tiles
    assert len(parts) == 4
    learned = sum(int(size) for part in parts if part.learning for size in part.order.sizes() if size >= 64)
    coded_so = sum(gain.pixels for gain in gains if gain.seen or gain.pixels >= 64)
    assert 0 < learned <= coded_so
    apart: list = []
    for place in tiling.grid(100, 130, unpack(data).tile):
        ardmzip.compress(np.ascontiguousarray(samples[place.slices]), model="photo", gains=apart)
    assert sum(gain.pixels for gain in gains) == sum(gain.pixels for gain in apart)


def test_large_images_are_cut_by_themselves(monkeypatch):
    monkeypatch.setattr(tiling, "WHOLE", 100 * 100)
    monkeypatch.setattr(tiling, "SIDE", 64)
    for height, width, tile in ((99, 100, None), (100, 101, (64, 64))):
        samples = photo_like(height, width, RGB)
        data = ardmzip.compress(samples)
        assert unpack(data).tile == tile
        assert data == ardmzip.compress(samples, tile=64 if tile else None)
        assert unpack(ardmzip.compress(samples, tile=None)).tile is None
        np.testing.assert_array_equal(ardmzip.decompress_array(data), samples)
        np.testing.assert_array_equal(np.asarray(ardmzip.decompress(data, level=1)), samples[::2, ::2])


def test_options_are_checked():
    samples = noise(5, 7, RGB)
    for tile in (0, -64, "large", 1.5):
        with pytest.raises(OptionError, match="tile must be a positive number of pixels, None or auto"):
            ardmzip.compress(samples, tile=tile)
    data = ardmzip.compress(samples)
    for region in ((-1, 0, 2, 2), (0, -1, 2, 2), (0, 0, 0, 1), (0, 0, 1, 0), (3, 0, 5, 1), (0, 3, 1, 3)):
        for restore in (ardmzip.decompress, ardmzip.decompress_array, api.restore):
            with pytest.raises(OptionError, match="is not within 7 x 5"):
                restore(data, region=region)
    with pytest.raises(OptionError, match="level must be at least 0, not -1"):
        ardmzip.decompress(data, level=-1)
    with pytest.raises(OptionError, match="a level or a region, not both"):
        ardmzip.decompress(data, level=1, region=(0, 0, 1, 1))
    np.testing.assert_array_equal(ardmzip.decompress_array(data, level=0, region=(6, 4, 1, 1)), samples[4:, 6:])


def test_verification_of_tiles_takes_no_second_image():
    """Nor does a region; a tile does not hold on to the whole image."""
    samples = np.zeros((2048, 2048, 1), np.uint8)
    part = raster.raw(samples[:128, :128], PixelFormat("gray"))
    part = replace(part, stored=stored.smallest(samples[:128, :128], 8))
    c = replace(raster.raw(samples, PixelFormat("gray")), stored=None, tile=(128, 128), tiles=256 * (part,))
    assert unpack(pack(c)).tile == (128, 128)

    def peak(work) -> int:
        tracemalloc.start()
        try:
            work()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(lambda: raster.decode(c, never)) >= samples.nbytes
    assert peak(lambda: raster.decode(c, never, region=Rectangle(60, 60, 10, 10))) < samples.nbytes / 4
    assert peak(lambda: raster.decode(c, never, level=5)) < samples.nbytes / 4
    assert peak(lambda: raster.holds(c, never, samples)) < samples.nbytes / 4
    assert raster.holds(c, never, samples)
    samples[1000, 1000] = 1
    assert not raster.holds(c, never, samples)
    damaged = replaced(c, 200, stored=b"\1junk")
    assert not raster.holds(damaged, never, np.zeros_like(samples))
    assert not raster.holds(replace(c, pixel_crc=c.pixel_crc ^ 1), never, np.zeros_like(samples))
    assert raster.checksum(np.zeros_like(samples)) == c.pixel_crc


def test_deep_images_choose_their_phase_by_the_bits_that_are_used():
    """10 of 16 bits: the upper byte alone says little of how smooth rows and columns are."""
    rng = np.random.default_rng(3)
    even = rng.integers(0, 1024, (128, 80, 3))
    even[:, :, 1] = 512 + rng.integers(-30, 30, (128, 80))
    samples = np.repeat(even, 2, axis=1)
    samples[:, 1:-1:2] = (even[:, :-1] + even[:, 1:]) // 2  # every second column is interpolated
    shallow = (samples >> 2).astype(np.uint8)
    assert raster._phase(shallow, RGB) == raster._phase(samples.astype(np.uint16), PixelFormat("RGB", 16))
    assert raster._phase(shallow[:, 1:], RGB) == raster._phase(samples[:, 1:].astype(np.uint16), PixelFormat("RGB", 16))
    assert raster._phase(shallow, RGB) != raster._phase(shallow[:, 1:], RGB)
