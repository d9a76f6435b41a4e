"""Codes: side information that small images name by a number."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import plain_decoder
import pytest

import ardmzip
from ardmzip import choice, codec, codes, heatmap, lockstep, model, network, raster, sideinfo
from ardmzip.body import Encoder
from ardmzip.codes import NO_CODE, Keys
from ardmzip.container import is_short, pack, pack_body, unpack
from ardmzip.errors import FormatError, ModelError
from ardmzip.image import turned, turned_back
from ardmzip.model import Model


def images(count: int, channels: int, height: int, width: int) -> np.ndarray:
    """Waves, some of them with noise: uint8 [count, channels, height, width]."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:height, :width]
    found = np.empty((count, channels, height, width))
    for i in range(count):
        wave = 128 + 60 * np.sin(y / (2 + i)) * np.cos(x / (3 + i)) + np.arange(channels)[:, None, None] * 5 * i
        found[i] = wave + rng.normal(0, 3 * i, (channels, height, width))
    return found.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def coded(photo) -> Model:
    """The model with codes: the side information of some images."""
    own = [sideinfo.quantise(sideinfo.measure(p), photo.side_mean, photo.side_std) for p in images(4, 3, 24, 20)]
    made = np.stack(own)
    tensors = photo.tensors | {"side.codes": made}
    root = np.eye(22) / 32
    return replace(photo, tensors=tensors, id=model.model_id(tensors), keys=Keys(made @ root, root))


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 11, 9), (1, 8, 13)])
def test_it_is_as_if_the_file_had_the_side_information(coded, cpu, channels, height, width):
    planes = images(1, channels, height, width)[0]
    named = codec.encode(planes, coded, cpu, learn=False, code=2)
    assert named.code
    assert not named.side_info
    assert np.array_equal(codec.decode(named, coded, cpu), planes)
    assert np.array_equal(plain_decoder.decode(named, coded.tensors), planes)
    without = codec.encode(planes, coded, cpu, learn=False)
    with_side = replace(without, side_info=coded.codes[2].tobytes(), segments=named.segments)
    with pytest.raises(FormatError):  # the stream begins with the number
        codec.decode(with_side, coded, cpu)
    file = pack(named)
    assert pack(unpack(file)) == file
    assert unpack(file).code


def test_learning_heads_and_schedules(coded, cpu):
    planes = images(1, 3, 40, 33)[0]
    for options in ({"learn": True}, {"learn": False, "steps": 6}, {"learn": True, "batches": 5}):
        named = codec.encode(planes, coded, cpu, code=1, **options)
        assert np.array_equal(codec.decode(unpack(pack(named)), coded, cpu), planes)


@pytest.mark.parametrize("kind", ["int8", "float32", "torch"])
def test_together_as_one_by_one_on_every_back_end(coded, cpu, kind):
    backend = network.backend("cpu", "float64" if kind == "torch" else kind, numba=kind != "torch")
    planes, numbers = images(5, 3, 17, 20), np.array([3, 0, 1, 1, 2])
    together = lockstep.encode(planes, coded, backend, codes=numbers)
    for own, number, c in zip(planes, numbers.tolist(), together, strict=True):
        alone = codec.encode(own, coded, cpu, learn=False, code=number)
        assert pack(c) == pack(alone)
        assert np.array_equal(codec.decode(c, coded, backend), own)
    assert all(map(np.array_equal, lockstep.decode(together, coded, backend), planes))


@pytest.mark.parametrize("turn", range(1, 8))
def test_turned(coded, cpu, turn):
    planes = images(2, 3, 9, 9 if turn > 3 else 12)[1]
    file = codec.encode(planes, coded, cpu, learn=turn == 2, code=3, turn=turn)
    as_it_is = codec.encode(turned(planes, turn), coded, cpu, learn=turn == 2, code=3)
    assert len(pack(file)) <= len(pack(as_it_is)) + 4
    file = unpack(pack(file))
    assert (file.turned, file.height, file.width) == (True, *planes.shape[1:])
    assert np.array_equal(codec.decode(file, coded, cpu), planes)
    assert np.array_equal(turned_back(turned(planes, turn), turn), planes)
    assert np.array_equal(plain_decoder.decode(file, coded.tensors), planes)
    if turn != 2:
        assert np.array_equal(lockstep.decode([file] * 2, coded, cpu)[1], planes)


def test_turns_that_cannot_be(coded, cpu):
    planes = images(1, 3, 9, 12)[0]
    square = codec.encode(images(1, 3, 9, 9)[0], coded, cpu, learn=False, code=0, turn=4)
    with pytest.raises(FormatError, match="turned in way 4"):
        codec.decode(replace(square, width=12), coded, cpu)
    (problem,) = lockstep.decode([replace(square, width=12)], coded, cpu)
    assert isinstance(problem, FormatError)
    none = codec.encode(planes, coded, cpu, learn=False)
    with pytest.raises(ValueError, match="names a code"):
        pack(replace(none, turned=True))
    for file in (pack(none), pack(replace(none, metadata=b""))):
        forged = bytearray(file)
        forged[2 if is_short(file) else 5] |= 64
        if not is_short(file):
            forged[-4:] = zlib.crc32(forged[:-4]).to_bytes(4, "little")
        with pytest.raises(FormatError, match="names no code"):
            unpack(bytes(forged))


def test_codes_that_pay_are_chosen(coded, cpu):
    planes = images(4, 3, 24, 20)
    chosen = choice.best_codes(planes, coded, cpu)
    assert chosen.tolist() == [int(choice.best_codes(own[None], coded, cpu)[0]) for own in planes]
    assert (chosen != NO_CODE).any()
    for own, number in zip(planes, chosen.tolist(), strict=True):
        if number != NO_CODE:
            with_code = codec.encode(own, coded, cpu, learn=False, code=number)
            # a sample decides, so it may lose a little
            assert len(pack(with_code)) <= len(pack(codec.encode(own, coded, cpu, learn=False))) + 4
    absurd = replace(coded, tensors=coded.tensors | {"side.codes": np.full((4, 22), 127, np.int8)})
    assert choice.best_codes(planes, absurd, cpu).tolist() == [NO_CODE] * 4


def test_images_that_name_none(coded, photo, cpu):
    for shape in ((1, 3, 15, 16), (1, 3, 7, 60), (1, 3, 130, 130), (1, 3, 96, 96)):
        assert choice.best_codes(np.zeros(shape, np.uint8), coded, cpu).tolist() == [NO_CODE]
    assert choice.best_codes(images(2, 3, 24, 20), photo, cpu).tolist() == [NO_CODE] * 2


def test_files(coded, tmp_path):
    path = tmp_path / "coded.safetensors"
    save(coded, path)
    for samples in (images(2, 3, 24, 20)[1].transpose(1, 2, 0), images(2, 1, 24, 20)[1, 0]):
        samples = np.ascontiguousarray(samples)
        file = ardmzip.compress(samples, model=path, device="cpu")
        assert unpack(file).code
        assert np.array_equal(ardmzip.decompress(file, model=path, device="cpu"), samples)
        stack = np.stack([samples.reshape(24, 20, -1), 255 - samples.reshape(24, 20, -1)])
        encoder = Encoder(model=model.load(path), device="cpu", learn=False)
        alone = [pack_body(encoder.encode(own, 8)) for own in stack]
        assert [pack_body(body) for body in encoder.encode_stack(stack)] == alone


def test_higher_efforts_search_more(coded, tmp_path):
    path = tmp_path / "coded.safetensors"
    save(coded, path)
    views = set()
    for planes in images(4, 3, 24, 20):
        samples = np.ascontiguousarray(planes.transpose(1, 2, 0))
        quick, slow = (ardmzip.compress(samples, model=path, device="cpu", effort=effort) for effort in (0, 4))
        assert len(slow) <= len(quick)
        assert np.array_equal(ardmzip.decompress(slow, model=path, device="cpu"), samples)
        views.add((unpack(slow).phase, unpack(slow).turned))
    assert len(views) > 1


def test_views_of_tiles_and_of_images_with_side_information(coded, tmp_path):
    path = tmp_path / "coded.safetensors"
    save(coded, path)
    # the tile that is looked at is square, the others are not
    samples = np.ascontiguousarray(images(4, 3, 100, 100)[2].transpose(1, 2, 0))
    for tile in (64, None):
        file = ardmzip.compress(samples, model=path, device="cpu", effort=4, tile=tile)
        assert np.array_equal(ardmzip.decompress(file, model=path, device="cpu"), samples)


def test_parts_that_name_codes(coded, tmp_path):
    path = tmp_path / "coded.safetensors"
    save(coded, path)
    rgba = np.ascontiguousarray(images(2, 4, 24, 20)[1].transpose(1, 2, 0))
    for samples in (rgba, rgba.astype(np.uint16) * 256 + 17 * rgba, rgba[:, :, :1].astype(np.uint16) * 300):
        file = ardmzip.compress(samples, model=path, device="cpu", effort=4)
        assert any(part.code for part in unpack(file).parts)
        assert np.array_equal(ardmzip.decompress_array(file, model=path, device="cpu").reshape(samples.shape), samples)


def test_heatmap_and_previews_of_a_turned_picture(coded, cpu):
    planes = images(1, 3, 16, 16)[0]
    file = codec.encode(planes, coded, cpu, learn=False, code=1, turn=6)
    found = heatmap.bits(file, lambda: (coded, cpu))
    assert abs(found.sum() - 32 * len(file.segments[0])) < 64
    as_it_is = heatmap.bits(codec.encode(turned(planes, 6), coded, cpu, learn=False, code=1), lambda: (coded, cpu))
    assert np.allclose(turned(found, 6), as_it_is + 4 / 256)
    small = raster.decode(file, lambda: (coded, cpu), level=2)
    assert np.array_equal(small, np.moveaxis(planes[[1, 0, 2], ::4, ::4], 0, -1))


def test_unknown_numbers(coded, photo, cpu):
    planes = images(3, 3, 17, 20)
    fewer = replace(coded, tensors=coded.tensors | {"side.codes": coded.codes[:2]})
    files = lockstep.encode(planes, coded, cpu, codes=np.array([1, 3, 0]))
    with pytest.raises(FormatError, match="code 3 of model photo, which has 2"):
        codec.decode(files[1], fewer, cpu)
    with pytest.raises(FormatError, match="code 1 of model photo, which has 0"):
        codec.decode(files[0], photo, cpu)
    found = lockstep.decode(files, fewer, cpu)
    assert [isinstance(one, FormatError) for one in found] == [False, True, False]
    assert np.array_equal(found[2], planes[2])


def test_forged_flags(coded, photo, cpu):
    small = bytearray(pack(codec.encode(images(1, 3, 7, 20)[0], photo, cpu, learn=False)))
    flags = small.index(b"\x14\x07") - 1  # before width and height
    small[flags] |= 32
    with pytest.raises(FormatError, match="a code for 20 x 7 pixels"):
        unpack(bytes(small))
    named = codec.encode(images(1, 3, 12, 20)[0], coded, cpu, learn=False, code=0)
    for wrong in (replace(named, side_info=bytes(22)), replace(named, width=20, height=7)):
        with pytest.raises(ValueError, match="a code is for a small picture"):
            pack_body(wrong)


def save(made: Model, path) -> None:
    model.save(path, "coded", made.tensors, made.loss, made.side_mean, made.side_std, made.card, made.learning_gain,
               made.keys)  # fmt: skip


def test_model_files(coded, tmp_path):
    path = tmp_path / "coded.safetensors"
    save(coded, path)
    loaded = model.load(path)
    assert np.array_equal(loaded.codes, coded.codes)
    assert loaded.keys is not None
    assert np.array_equal(loaded.keys.keys, coded.keys.keys)
    assert codes.nearest(images(4, 3, 24, 20), loaded, 1)[:, 0].tolist() == [0, 1, 2, 3]
    wrong = [
        (replace(coded, keys=None), "do not match"),
        (replace(coded, keys=Keys(coded.keys.keys[:2], coded.keys.root)), "do not match"),
        (replace(coded, keys=Keys(coded.keys.keys * np.nan, coded.keys.root)), "keys are not valid"),
        (replace(coded, tensors=coded.tensors | {"side.codes": np.zeros((257, 22), np.int8)}), "more than 256"),
        (replace(coded, tensors=coded.tensors | {"side.codes": np.zeros((4, 21), np.int8)}), "side.codes is int8"),
    ]
    for made, message in wrong:
        save(made, path)
        with pytest.raises(ModelError, match=message):
            model.load(path)
